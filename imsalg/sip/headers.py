"""Header fields that leave as they came: an ordered list of raw lines, each with the key it is looked up by.

A line is kept as the text between two line ends, folds inside, and is only cut up when somebody asks for it.
What is changed is written anew; every other line keeps its bytes: case, compact form, white space, folding.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache

from imsalg.errors import BadMessage, UsageError
from imsalg.sip.grammar import LWS, first_comma, is_token, split_commas, unfold

MAX_HEADERS = 256  # lines in one message
MAX_LINE = 16384  # characters in one line, its folds included
PLACE = 64  # octets that a line takes in memory beside its text

COMPACT = {
    "a": "accept-contact",
    "b": "referred-by",
    "c": "content-type",
    "d": "request-disposition",
    "e": "content-encoding",
    "f": "from",
    "i": "call-id",
    "j": "reject-contact",
    "k": "supported",
    "l": "content-length",
    "m": "contact",
    "n": "identity-info",
    "o": "event",
    "r": "refer-to",
    "s": "subject",
    "t": "to",
    "u": "allow-events",
    "v": "via",
    "x": "session-expires",
    "y": "identity",
}
"""RFC 3261 section 7.3.3, and what the IANA registry has added."""

_LINE_END = re.compile(r"\r\n(?![ \t])")


class Headers:
    """An ordered multimap. Names are compared without case, and compact forms are their long ones.

    Values given to the constructor, set(), prepend() and append() must be one line: CR, LF or NUL raise
    UsageError, so that nothing can be injected. Any value out of a received message may be put into another.
    """

    __slots__ = ("_lines",)

    def __init__(self, fields: Iterable[tuple[str, str]] = ()) -> None:
        self._lines: list[tuple[str, str]] = [(_key(name), _line(name, value)) for name, value in fields]

    @classmethod
    def parse(cls, text: str) -> Headers:
        """Header lines, separated but not ended by CRLF; raises BadMessage (400, or 513 for too much)."""
        headers = cls()
        lines = _LINE_END.split(text) if text else []
        if len(lines) > MAX_HEADERS:
            raise BadMessage("too many header fields", 513)
        for line in lines:
            name, colon, _ = line.partition(":")
            if not colon:
                raise BadMessage("header line without a colon")
            if len(line) > MAX_LINE:
                raise BadMessage("header line too long", 513)
            headers._lines.append((_received_key(name), line))
        return headers

    def get(self, name: str) -> str | None:
        """The value of the first line of that name, unfolded and stripped."""
        key = _key(name)
        for other, line in self._lines:
            if other == key:
                return _value(line)
        return None

    def lines(self, name: str) -> list[str]:
        """The value of each line of that name, unfolded and stripped."""
        key = _key(name)
        return [_value(line) for other, line in self._lines if other == key]

    def values(self, name: str) -> list[str]:
        """The comma separated elements over all lines of that name; empty ones are left out."""
        key = _key(name)
        return [element for other, line in self._lines if other == key for element in _elements(line)]

    def first(self, name: str) -> str | None:
        """values(name)[0], or None."""
        key = _key(name)
        for other, line in self._lines:
            if other == key and (elements := _elements(line)):
                return elements[0]
        return None

    def set(self, name: str, *values: str) -> None:
        """One line for each value, in place of all lines of that name: where the first stood, else last."""
        key = _key(name)
        new = [(key, _line(name, value)) for value in values]
        at = self._index(key)
        kept = [line for line in self._lines if line[0] != key]
        if at is None:
            at = len(kept)
        self._lines = kept[:at] + new + kept[at:]

    def prepend(self, name: str, value: str) -> None:
        """A new line above the first one of that name, else above all."""
        key = _key(name)
        self._lines.insert(self._index(key) or 0, (key, _line(name, value)))

    def append(self, name: str, value: str) -> None:
        """A new line below all others."""
        self._lines.append((_key(name), _line(name, value)))

    def remove(self, *names: str) -> None:
        """Takes away every line of these names; none is fine."""
        keys = _keys(names)
        self._lines = [line for line in self._lines if line[0] not in keys]

    def repeated(self, *names: str) -> str | None:
        """The first of `names` that has more than one line."""
        keys = _keys(names)
        found = [key for key, _ in self._lines if key in keys]
        if len(found) == len(set(found)):
            return None
        return next(name for name in names if found.count(_key(name)) > 1)

    def keep_first(self, names: Iterable[str]) -> None:
        """Takes away every line of these names but the first of each."""
        keys, seen, kept = _keys(tuple(names)), set[str](), []
        for line in self._lines:
            if line[0] not in seen:
                kept.append(line)
            if line[0] in keys:
                seen.add(line[0])
        self._lines = kept

    def pop_value(self, name: str) -> str | None:
        """Takes the first comma separated element of that name away; the others stay as written."""
        key = _key(name)
        while (at := self._index(key)) is not None:
            written, _, text = self._lines[at][1].partition(":")
            text = text.lstrip(LWS + ",")
            comma = first_comma(text)
            if comma < 0:
                del self._lines[at]
                element = unfold(text)
            else:
                self._lines[at] = (key, f"{written}: {text[comma + 1 :].lstrip(LWS)}")
                element = unfold(text[:comma])
            if element:
                return element
        return None

    def discard_token(self, name: str, token: str) -> bool:
        """Takes an element (an option tag, in any case) out of every line of that name, and empty lines too.

        Returns whether it was there. Lines without it keep their bytes.
        """
        key, token, found = _key(name), token.lower(), False
        if self._index(key) is None:
            return False
        lines: list[tuple[str, str]] = []
        for other, line in self._lines:
            if other == key:
                elements = split_commas(_value(line))
                kept = [element for element in elements if element.lower() != token]
                if len(kept) < len(elements):
                    found = True
                    if not kept:
                        continue
                    line = f"{line.partition(':')[0]}: {', '.join(kept)}"
            lines.append((other, line))
        self._lines = lines
        return found

    def copy_lines(self, source: Headers, *names: str) -> None:
        """Appends every line of `source` with one of these names, byte for byte and in its order."""
        keys = _keys(names)
        self._lines += [line for line in source._lines if line[0] in keys]

    def copy(self) -> Headers:
        other = Headers()
        other._lines = self._lines.copy()
        return other

    @property
    def octets(self) -> int:
        """What the lines take in memory."""
        return sum([PLACE + line.__sizeof__() for _, line in self._lines])

    def __contains__(self, name: str) -> bool:
        return self._index(_key(name)) is not None

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """(name as written, value unfolded and stripped), one for each line."""
        for _, line in self._lines:
            yield line.partition(":")[0].rstrip(" \t"), _value(line)

    def __len__(self) -> int:
        return len(self._lines)

    def __str__(self) -> str:
        """The lines as they are sent, each with its CRLF."""
        return "".join([f"{line}\r\n" for _, line in self._lines])

    def _index(self, key: str) -> int | None:
        for at, (other, _) in enumerate(self._lines):
            if other == key:
                return at
        return None


@lru_cache(maxsize=512)
def _key(name: str) -> str:
    if not is_token(name):
        raise UsageError(f"no header field name: {name[:40]!r}")
    name = name.lower()
    return COMPACT.get(name, name)


@lru_cache(maxsize=512)
def _keys(names: tuple[str, ...]) -> frozenset[str]:
    return frozenset(_key(name) for name in names)


@lru_cache(maxsize=512)
def _received_key(name: str) -> str:
    name = name.rstrip(" \t")  # RFC 3261 section 7.3.1: white space may stand before the colon
    if not is_token(name):
        raise BadMessage("malformed header field name")
    return _key(name)


@lru_cache(maxsize=512)
def _value(line: str) -> str:
    return unfold(line.partition(":")[2])


@lru_cache(maxsize=512)
def _elements(line: str) -> tuple[str, ...]:
    return tuple(split_commas(_value(line)))


def _line(name: str, value: str) -> str:
    if "\r" in value or "\n" in value or "\0" in value:
        raise UsageError(f"{name}: a header field value is one line")
    try:
        value.isascii() or value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise UsageError(f"{name}: a header field value that has no UTF-8 form") from None
    return f"{name}: {value}"
