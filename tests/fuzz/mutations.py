"""Messages that are nearly right: the torture vectors and what real clients send, changed where it matters.

Lines are doubled, taken out, exchanged with those of other messages, folded and made long; words are replaced
by ones that mean something, numbers by those at the edges, bytes by any. Everything comes out of one
random.Random, so that a case is its number. What is MessagePack is changed as the tree it is.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import msgspec

from tests.vectors.expected import FOLDER

CORPUS = tuple(path.read_bytes() for path in sorted(FOLDER.glob("*/*.sip")))
DESCRIPTIONS = tuple(body for data in CORPUS if (body := data.partition(b"\r\n\r\n")[2]).startswith(b"v=0"))
MAX = 70_000  # bytes; a little more than a message may have

WORDS = (
    *Path(__file__).with_name("words.txt").read_bytes().splitlines(),
    *(b" ", b"\t", b"\r\n", b"\r\n ", b"\r\n\r\n", b"\r", b"\n", b"\0", b"\x1b[2J", b"\x7f", b"\xff"),
    *(text.encode() for text in ("é", "ſ", "٣", "\ufeff", "\u2028", "\u0085", "𝟘")),
)  # fmt: skip
NUMBERS = (
    *(b"0", b"00", b"-1", b"1", b"+1", b"1.5", b"1e9", b"65535", b"65536", b"2147483647", b"2147483648"),
    *(b"4294967296", b"18446744073709551616", b"9" * 30, b"9" * 5000, b"0" * 300 + b"7"),
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 65536, 2**62, -(2**62), 0.5, -1.5, 1e300, float("nan"), float("inf")),
    *("", "x", "access", "::1", "198.51.100.1", "x" * 5000, b"", bytes(30), bytes(300), [], {}, [[]] * 99),
)  # fmt: skip
_WORD = re.compile(rb"[A-Za-z0-9_.!%*+`'~@-]+|[^\sA-Za-z0-9]")
_NUMBER = re.compile(rb"[0-9]+")
_LENGTH = re.compile(rb"(?im)^((?:content-length|l)[ \t]*:[ \t]*)[0-9]+[ \t]*\r$")


def mutate(rng: random.Random, data: bytes) -> bytes:
    """A few changes; more often than not Content-Length fits again afterwards."""
    for _ in range(rng.choice((1, 1, 2, 2, 3, 5, 9))):
        data = rng.choice(_CHANGES)(rng, data)[:MAX]
    return fitted(data) if rng.random() < 0.7 else data


def message(rng: random.Random) -> bytes:
    """A message of the corpus, seldom untouched."""
    data = rng.choice(CORPUS)
    return data if rng.random() < 0.05 else mutate(rng, data)


def description(rng: random.Random) -> bytes:
    """A session description of the corpus, changed."""
    data = rng.choice(DESCRIPTIONS)
    for _ in range(rng.choice((1, 1, 2, 2, 3, 5, 9))):
        data = rng.choice(_CHANGES)(rng, data)[:MAX]
    return data


def packed(rng: random.Random, data: bytes) -> bytes:
    """A MessagePack message with values exchanged, doubled, taken away, and of other kinds."""
    tree = [msgspec.msgpack.decode(data)]
    for _ in range(rng.choice((1, 1, 2, 3))):
        branch, key = rng.choice(list(_places(tree)))
        value = branch[key]
        match rng.randrange(5):
            case 0:
                branch[key] = deepcopy(rng.choice(VALUES))
            case 1 if branch is not tree:
                del branch[key]
            case 2:
                other, place = rng.choice(list(_places(tree)))
                branch[key] = deepcopy(other[place])
            case 3 if isinstance(branch, list):
                branch[key:key] = [value] * rng.choice((1, 1, 40))
            case _ if isinstance(value, str):
                at = rng.randrange(len(value) + 1)
                branch[key] = (
                    value[:at] + rng.choice(WORDS).decode("latin-1") + value[at + rng.randrange(3) :]
                )
            case _ if isinstance(value, int):
                branch[key] = rng.choice((value + 1, value - 1, -value))
            case _:
                branch[key] = deepcopy(rng.choice(VALUES))
    data = msgspec.msgpack.encode(tree[0])
    return change_bytes(rng, data) if rng.random() < 0.1 else data


def _places(branch: Any) -> Iterator[tuple[Any, Any]]:
    """All there is in a tree: what holds it, and where."""
    for key, value in branch.items() if isinstance(branch, dict) else enumerate(branch):
        yield branch, key
        if isinstance(value, dict | list):
            yield from _places(value)


def fitted(data: bytes) -> bytes:
    """With a Content-Length, where there is one, that fits the body."""
    head, blank, body = data.partition(b"\r\n\r\n")
    return _LENGTH.sub(rb"\g<1>%d\r" % len(body), head + b"\r\n")[:-2] + blank + body if blank else data


def _double_line(rng: random.Random, data: bytes) -> bytes:
    lines = data.split(b"\r\n")
    at = rng.randrange(len(lines))
    lines[at:at] = [lines[at]] * rng.choice((1, 1, 1, 2, 40, 300))
    return b"\r\n".join(lines)


def _drop_line(rng: random.Random, data: bytes) -> bytes:
    lines = data.split(b"\r\n")
    del lines[rng.randrange(len(lines))]
    return b"\r\n".join(lines)


def _move_line(rng: random.Random, data: bytes) -> bytes:
    lines = data.split(b"\r\n")
    line = lines.pop(rng.randrange(len(lines)))
    lines.insert(rng.randrange(len(lines) + 1), line)
    return b"\r\n".join(lines)


def _borrow_line(rng: random.Random, data: bytes) -> bytes:
    lines, others = data.split(b"\r\n"), rng.choice(CORPUS).split(b"\r\n")
    at = rng.randrange(len(lines))
    lines[at : at + rng.randrange(2)] = [rng.choice(others)]
    return b"\r\n".join(lines)


def _exchange_word(rng: random.Random, data: bytes) -> bytes:
    words = list(_WORD.finditer(data))
    if not words:
        return data
    word = rng.choice(words)
    return data[: word.start()] + rng.choice(WORDS) + data[word.end() :]


def _insert_word(rng: random.Random, data: bytes) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.choice(WORDS) * rng.choice((1, 1, 1, 1, 2, 130, 3000)) + data[at:]


def _exchange_number(rng: random.Random, data: bytes) -> bytes:
    numbers = list(_NUMBER.finditer(data))
    if not numbers:
        return data
    number = rng.choice(numbers)
    return data[: number.start()] + rng.choice(NUMBERS) + data[number.end() :]


def _respell(rng: random.Random, data: bytes) -> bytes:
    """Case, and white space where it may or may not be."""
    lines = data.split(b"\r\n")
    at = rng.randrange(len(lines))
    line = lines[at]
    match rng.randrange(4):
        case 0:
            line = line.swapcase()
        case 1:
            line = line.replace(b":", rng.choice((b" :", b": \r\n ", b":\t")), 1)
        case 2:
            line = line.replace(rng.choice((b";", b",", b"=")), rng.choice((b" ; ", b" , ", b" = ")))
        case _:
            line = line.replace(b" ", b"\r\n ")
    lines[at] = line
    return b"\r\n".join(lines)


def change_bytes(rng: random.Random, data: bytes) -> bytes:
    """Some octets of other values, taken away, or doubled."""
    octets = bytearray(data or b"x")
    for _ in range(rng.randrange(1, 6)):
        at = rng.randrange(len(octets))
        match rng.randrange(3):
            case 0:
                octets[at] = rng.randrange(256)
            case 1 if len(octets) > 60:
                del octets[at : at + rng.randrange(1, 50)]
            case _:
                octets[at:at] = octets[at : at + rng.randrange(1, 50)]
    return bytes(octets)


_CHANGES = (
    *(_double_line, _drop_line, _move_line, _borrow_line, _borrow_line, _respell, change_bytes),
    *(_exchange_word, _exchange_word, _exchange_word, _insert_word, _insert_word, _exchange_number),
)  # fmt: skip
