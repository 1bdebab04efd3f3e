"""Header fields that leave as they came: an ordered list of raw lines, and beside it the keys that they are
looked up by.

A line is kept as the text between two line ends, folds inside, and is only cut up when somebody asks for it.
What is changed is written anew; every other line keeps its bytes: case, compact form, white space, folding.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import compress
from typing import Any, TypeVar

from imsalg.errors import BadMessage, UsageError
from imsalg.sip.grammar import LWS, first_comma, is_token, split_commas, unfold

MAX_HEADERS = 256  # lines in one message
MAX_LINE = 16384  # characters in one line, its folds included
PLACE = 16  # octets that a line takes in memory beside its text

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

T = TypeVar("T")

_LINE_END = re.compile(r"\r\n(?![ \t])")


class Headers:
    """An ordered multimap. Names are compared without case, and compact forms are their long ones.

    Values given to the constructor, set(), prepend() and append() must be one line: CR, LF or NUL raise
    UsageError, so that nothing can be injected. Any value out of a received message may be put into another.
    """

    __slots__ = ("_keys", "_lines", "_views")

    def __init__(self, fields: Iterable[tuple[str, str]] = ()) -> None:
        self._keys: list[str] = []  # of each line
        self._lines: list[str] = []
        self._views: dict[Callable[[Headers], object], Any] = {}
        for name, value in fields:
            self.append(name, value)

    @classmethod
    def parse(cls, text: str) -> Headers:
        """Header lines, separated but not ended by CRLF; raises BadMessage (400, or 513 for too much)."""
        headers = cls()
        folded = "\r\n " in text or "\r\n\t" in text
        lines = _LINE_END.split(text) if folded else text.split("\r\n") if text else []
        if len(lines) > MAX_HEADERS:
            raise BadMessage("too many header fields", 513)
        if len(text) > MAX_LINE and max(map(len, lines)) > MAX_LINE:
            raise BadMessage("header line too long", 513)
        try:
            headers._keys = [_received_key(line[: line.index(":")]) for line in lines]
        except ValueError:
            raise BadMessage("header line without a colon") from None
        headers._lines = lines
        return headers

    def view(self, read: Callable[[Headers], T]) -> T:
        """What `read` makes of the lines, remembered until one is changed. An exception is not."""
        found: T | None = self._views.get(read)
        if found is None:
            found = self._views[read] = read(self)
        return found

    def get(self, name: str) -> str | None:
        """The value of the first line of that name, unfolded and stripped."""
        at = self._index(_key(name))
        return None if at is None else _value(self._lines[at])

    def lines(self, name: str) -> list[str]:
        """The value of each line of that name, unfolded and stripped."""
        return [_value(line) for line in self._of(_key(name))]

    def values(self, name: str) -> list[str]:
        """The comma separated elements over all lines of that name; empty ones are left out."""
        return [element for line in self._of(_key(name)) for element in _elements(line)]

    def first(self, name: str) -> str | None:
        """values(name)[0], or None."""
        at = self._index(_key(name))
        if at is None:
            return None
        if elements := _elements(self._lines[at]):
            return elements[0]
        return next(iter(self.values(name)), None)  # the first line is empty

    def set(self, name: str, *values: str) -> None:
        """One line for each value, in place of all lines of that name: where the first stood, else last."""
        key = _key(name)
        new = [_line(name, value) for value in values]
        self._views.clear()
        at = self._index(key)
        if at is None:
            at = len(self._keys)
        elif self._keys.count(key) > 1:
            self._keep([other != key or index == at for index, other in enumerate(self._keys)])
        self._keys[at : at + 1] = [key] * len(new)
        self._lines[at : at + 1] = new

    def prepend(self, name: str, value: str) -> None:
        """A new line above the first one of that name, else above all."""
        key = _key(name)
        at = self._index(key) or 0
        self._lines.insert(at, _line(name, value))
        self._keys.insert(at, key)
        self._views.clear()

    def append(self, name: str, value: str) -> None:
        """A new line below all others."""
        key = _key(name)
        self._lines.append(_line(name, value))
        self._keys.append(key)
        self._views.clear()

    def remove(self, *names: str) -> None:
        """Takes away every line of these names; none is fine."""
        gone = _key_set(names)
        if not gone.isdisjoint(self._keys):
            self._keep([key not in gone for key in self._keys])

    def repeated(self, *names: str) -> str | None:
        """The first of `names` that has more than one line."""
        keys = self._keys
        if len(set(keys)) == len(keys):
            return None
        return next((name for name in names if keys.count(_key(name)) > 1), None)

    def keep_first(self, names: Iterable[str]) -> None:
        """Takes away every line of these names but the first of each."""
        keys, seen, stay = _key_set(tuple(names)), set[str](), []
        for key in self._keys:
            stay.append(key not in seen)
            if key in keys:
                seen.add(key)
        self._keep(stay)

    def pop_value(self, name: str) -> str | None:
        """Takes the first comma separated element of that name away; the others stay as written."""
        key = _key(name)
        self._views.clear()
        while (at := self._index(key)) is not None:
            written, _, text = self._lines[at].partition(":")
            text = text.lstrip(LWS + ",")
            comma = first_comma(text)
            if comma < 0:
                del self._keys[at], self._lines[at]
                element = unfold(text)
            else:
                self._lines[at] = f"{written}: {text[comma + 1 :].lstrip(LWS)}"
                element = unfold(text[:comma])
            if element:
                return element
        return None

    def discard_token(self, name: str, token: str) -> bool:
        """Takes an element (an option tag, in any case) out of every line of that name, and empty lines too.

        Returns whether it was there. Lines without it keep their bytes.
        """
        token = token.lower()
        return self.discard(name, lambda element: element.lower() == token)

    def discard(self, name: str, gone: Callable[[str], bool]) -> bool:
        """The same for elements that are such."""
        key, found = _key(name), False
        if key not in self._keys:
            return False
        stay: list[bool] = []
        for at, (other, line) in enumerate(zip(self._keys, self._lines, strict=True)):
            elements = _elements(line) if other == key else ()
            kept = [element for element in elements if not gone(element)]
            if changed := len(kept) < len(elements):
                found = True
                self._lines[at] = f"{line.partition(':')[0]}: {', '.join(kept)}"
            stay.append(bool(kept) or not changed)
        if found:
            self._keep(stay)
        return found

    def copy_lines(self, source: Headers, *names: str) -> None:
        """Appends every line of `source` with one of these names, byte for byte and in its order."""
        wanted = _key_set(names)
        self._views.clear()
        for key, line in zip(source._keys, source._lines, strict=True):
            if key in wanted:
                self._keys.append(key)
                self._lines.append(line)

    def copy(self) -> Headers:
        other = Headers()
        other._keys, other._lines = self._keys.copy(), self._lines.copy()
        return other

    @property
    def octets(self) -> int:
        """What the lines take in memory."""
        return PLACE * len(self._lines) + sum(map(str.__sizeof__, self._lines))

    def __contains__(self, name: str) -> bool:
        return _key(name) in self._keys

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """(name as written, value unfolded and stripped), one for each line."""
        for line in self._lines:
            yield line.partition(":")[0].rstrip(" \t"), _value(line)

    def __len__(self) -> int:
        return len(self._lines)

    def __str__(self) -> str:
        """The lines as they are sent, each with its CRLF."""
        return "\r\n".join((*self._lines, ""))

    def _index(self, key: str) -> int | None:
        return self._keys.index(key) if key in self._keys else None

    def _of(self, key: str) -> list[str]:
        """The lines of a name."""
        if key not in self._keys:
            return []
        return [line for line, other in zip(self._lines, self._keys, strict=True) if other == key]

    def _keep(self, stay: list[bool]) -> None:
        """The others go."""
        self._keys = list(compress(self._keys, stay))
        self._lines = list(compress(self._lines, stay))
        self._views.clear()


@lru_cache(maxsize=512)
def _key(name: str) -> str:
    if not is_token(name):
        raise UsageError(f"no header field name: {name[:40]!r}")
    name = name.lower()
    return COMPACT.get(name, name)


@lru_cache(maxsize=512)
def _key_set(names: tuple[str, ...]) -> frozenset[str]:
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
def _short_elements(line: str) -> tuple[str, ...]:
    return tuple(split_commas(unfold(line.partition(":")[2])))


def _elements(line: str) -> tuple[str, ...]:
    """A long line can have ten thousand, and is not remembered: 512 of them would be 180 MB."""
    return _short_elements(line) if len(line) < 1024 else _short_elements.__wrapped__(line)


def _line(name: str, value: str) -> str:
    if "\r" in value or "\n" in value or "\0" in value:
        raise UsageError(f"{name}: a header field value is one line")
    try:
        value.isascii() or value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise UsageError(f"{name}: a header field value that has no UTF-8 form") from None
    return f"{name}: {value}"
