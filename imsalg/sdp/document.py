"""A session description that is edited without loss (RFC 8866): bytes(Document(b)) == b.

The document is its lines, each with the ending it came with, and beside them the keys that they are looked up
by; sections are stretches of lines; whatever is asked is read from the lines; an edit replaces, removes or
inserts lines and touches no other. Bytes that are not UTF-8 survive as surrogates. A line that is not `x=...`
is refused rather than kept, so that nothing the policy must remove can hide in one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Set
from functools import lru_cache
from itertools import compress, pairwise
from typing import Self

from msgspec import Struct

from imsalg.errors import BadSdp, UsageError
from imsalg.sdp.attributes import Connection as Connection
from imsalg.sdp.attributes import Direction, fields, key_mgmt_protocol
from imsalg.sdp.medialine import MediaLine

MAX_SIZE = 64 * 1024  # bytes
MAX_LINES = 2048
MAX_LINE = 8 * 1024  # characters, its ending included
MAX_MEDIA = 32  # m-lines, rejected ones included

SHARED = ("fingerprint", "setup", "connection", "ice-ufrag", "ice-pwd", "ice-options")
"""Attributes of session or media level: those of the session are for all m-lines (RFC 8122 section 5, RFC
4145 section 10, RFC 8839 sections 5.4 and 5.6)."""
_FOR_ALL = frozenset((*SHARED, "key-mgmt"))


class Origin(Struct, frozen=True):
    """`o=` (RFC 8866 section 5.2). addrtype and address are only names, and opaque."""

    username: str
    session_id: str
    version: int
    nettype: str
    addrtype: str
    address: str

    @classmethod
    def parse(cls, value: str) -> Origin:
        """Blanks in the user name are tolerated. Raises BadSdp."""
        return _origin(value)

    def __str__(self) -> str:
        return (
            f"{self.username} {self.session_id} {self.version} {self.nettype} {self.addrtype} {self.address}"
        )


class Section:
    """The session section, or one media section: its lines, and what may be asked and changed.

    Attribute names are compared without regard to case and to blanks around them.
    """

    __slots__ = ("_ending", "_keys", "_lines")

    def __init__(self, lines: list[str], keys: list[str], ending: str) -> None:
        """lines: with their endings. keys: of each, see `_key`. ending: that of lines to come."""
        self._lines = lines
        self._keys = keys
        self._ending = ending

    def copy(self) -> Self:
        twin = object.__new__(type(self))
        twin._lines, twin._keys, twin._ending = self._lines.copy(), self._keys.copy(), self._ending
        return twin

    @property
    def text(self) -> str:
        """The lines as they are sent; they may hold keys."""
        return "".join(self._lines)

    # -- attributes

    @property
    def names(self) -> set[str]:
        """Of all attributes, in lower case; those of other lines begin with a colon."""
        return set(self._keys)

    def attributes(self, name: str) -> list[str]:
        """The values of all `a=name` lines, as they came; "" for a flag."""
        return [_argument(line) for line in self._of(name.lower())]

    def attribute(self, name: str) -> str | None:
        """The first of `attributes(name)`."""
        at = self._index(name.lower())
        return None if at is None else _argument(self._lines[at])

    def has(self, name: str) -> bool:
        return name.lower() in self._keys

    def add_attribute(self, name: str, value: str | None = None) -> None:
        """At the end of the section. value None: a flag."""
        self._insert("a", _attribute(name, value))

    def set_attribute(self, name: str, value: str | None = None) -> None:
        """In the place of the first of that name, any other removed; added if there is none."""
        self._set("a", _attribute(name, value))

    def remove_attributes(self, names: Set[str]) -> None:
        """Of these names, in lower case."""
        if not names.isdisjoint(self._keys):  # most often nothing is to be removed
            self._keep([key not in names for key in self._keys])

    def remove_attributes_where(self, name: str, gone: Callable[[str], bool]) -> None:
        """Those of a name whose value, as it came ("" for a flag), is such."""
        if name in self._keys:
            pairs = zip(self._keys, self._lines, strict=True)
            self._keep([key != name or not gone(_argument(line)) for key, line in pairs])

    # -- other lines

    @property
    def connection(self) -> Connection | None:
        """The first `c=` of this section; None if there is none. Raises BadSdp."""
        at = self._index(":c")
        return None if at is None else Connection.parse(_value(self._lines[at]))

    @property
    def has_connection(self) -> bool:
        """Whether there is a `c=`, readable or not."""
        return ":c" in self._keys

    def set_connection(self, connection: Connection) -> None:
        """In the place of the first `c=`, any other removed; inserted if there is none."""
        self._set("c", str(connection))

    def remove_lines(self, type_: str) -> None:
        """For types that may be missing: not `v`, `o`, `s`, `m`. Attributes have their own."""
        if type_ not in _REMOVABLE:
            raise UsageError(f"lines of type {type_} cannot be removed")
        key = f":{type_}"
        if key in self._keys:
            self._keep([other != key for other in self._keys])

    # -- the means

    def _index(self, key: str) -> int | None:
        return self._keys.index(key) if key in self._keys else None

    def _of(self, key: str) -> list[str]:
        if key not in self._keys:
            return []
        return [line for other, line in zip(self._keys, self._lines, strict=True) if other == key]

    def _values(self, type_: str) -> list[str]:
        return [_value(line) for line in self._of(f":{type_}")]

    def _keep(self, stay: list[bool]) -> None:
        """The other lines go."""
        self._keys = list(compress(self._keys, stay))
        self._lines = list(compress(self._lines, stay))

    def _set(self, type_: str, value: str) -> None:
        """In the place of the first line of the same type and name, any other removed; or as `_insert`."""
        text = f"{type_}={_checked(value)}"
        key = _key(text)
        if (at := self._index(key)) is None:
            self._insert(type_, value)
            return
        self._lines[at] = text + _ending(self._lines[at])
        if self._keys.count(key) > 1:
            self._keep([other != key or index == at for index, other in enumerate(self._keys)])

    def _insert(self, type_: str, value: str) -> None:
        """After the last line that is of its own type or stands before it in RFC 8866's order; an attribute
        after the last line that is not blank."""
        text = f"{type_}={_checked(value)}{self._ending}"
        index, before = len(self._keys), _ORDER[: _ORDER.index(type_) + 1]
        while index and not ((last := _type(self._keys[index - 1])) and (type_ == "a" or last in before)):
            index -= 1
        if index and not self._lines[index - 1].endswith(_ENDINGS):  # the last line may come without one
            self._lines[index - 1] += self._ending
        self._lines.insert(index, text)
        self._keys.insert(index, _key(text))


class Media(Section):
    """A media section, its `m=` line first (RFC 8866 section 5.14).

    Assigning `port` or `proto` leaves the rest of that line as it came, but for a `/count` after the port: it
    goes, as it spoke of the ports that follow the old one.
    """

    __slots__ = ("_m",)

    def __init__(self, lines: list[str], keys: list[str], ending: str) -> None:
        """Raises BadSdp."""
        super().__init__(lines, keys, ending)
        self._m = MediaLine.parse(lines[0])

    def copy(self) -> Self:
        twin = super().copy()
        twin._m = self._m
        return twin

    @property
    def kind(self) -> str:
        """audio, video, text, application, message, image …"""
        return self._m.kind

    @property
    def port(self) -> int:
        """0: rejected, or to be so."""
        return int(self._m.port)

    @port.setter
    def port(self, port: int) -> None:
        if not 0 <= port <= 65535:
            raise UsageError(f"no port: {port}")
        self._change(self._m._replace(port=str(port), ports=""))

    @property
    def proto(self) -> str:
        """RTP/AVP, RTP/SAVPF, TCP/TLS/MSRP …, as it came."""
        return self._m.proto

    @proto.setter
    def proto(self, proto: str) -> None:
        if proto != self._m.proto:
            self._change(self._m._replace(proto=_checked(proto)))

    @property
    def formats(self) -> tuple[str, ...]:
        """Empty on port 0 only."""
        return tuple(fields(self._m.formats))

    def strip(self, *names: str) -> None:
        """Only the `m=` line stays, and the attributes of these names."""
        self._keep([True, *(key in names for key in self._keys[1:])])

    def _change(self, m: MediaLine) -> None:
        self._m = m
        self._lines[0] = "".join(m) + _ending(self._lines[0])


class Document:
    """A session description. session: the lines before the first `m=`; media: one section for each `m=`."""

    __slots__ = ("_ending", "media", "session")

    def __init__(self, data: bytes, *, max_media: int = MAX_MEDIA) -> None:
        """Raises BadSdp: 400 for what breaks RFC 8866, 413 for what is too large, 488 for too many m-lines.

        Once parsed, `origin` and the fields of m-lines can be read without error, and `connection` too, but
        for an m-line with port 0: what else stands there is not looked at (trap P32).
        """
        lines, keys = _lines(data)
        crlf = data.count(b"\r\n")
        counts = (crlf, data.count(b"\n") - crlf, data.count(b"\r") - crlf)
        self._ending = _ENDINGS[counts.index(max(counts))]
        starts = [i for i, key in enumerate(keys) if key == ":m"]
        if len(starts) > max_media:
            raise BadSdp(f"more than {max_media} media descriptions", 488)
        bounds = [*starts, len(lines)]
        self.session = Section(lines[: bounds[0]], keys[: bounds[0]], self._ending)
        self.media = [Media(lines[i:j], keys[i:j], self._ending) for i, j in pairwise(bounds)]
        self._check()

    def __bytes__(self) -> bytes:
        text = "".join([section.text for section in (self.session, *self.media)])
        return text.encode("utf-8", "surrogateescape")

    def copy(self) -> Document:
        twin = object.__new__(Document)
        twin._ending = self._ending
        twin.session = self.session.copy()
        twin.media = [media.copy() for media in self.media]
        return twin

    @property
    def origin(self) -> Origin:
        return Origin.parse(self.session._values("o")[0])

    @origin.setter
    def origin(self, origin: Origin) -> None:
        self.session._set("o", str(origin))

    def connection_of(self, media: Media) -> Connection | None:
        """The address of a media section, its own or else the session's; None if neither has one. Raises
        BadSdp on port 0 only."""
        return media.connection or self.session.connection

    def direction_of(self, media: Media) -> Direction:
        """Media level before session level; sendrecv if neither says (RFC 8866 section 6.7)."""
        for section in (media, self.session):
            for key in section._keys:
                if key in _DIRECTIONS:
                    return _DIRECTIONS[key]
        return Direction.SENDRECV

    def key_mgmt_of(self, media: Media) -> tuple[str, ...]:
        """The key management protocols in force for a media section, such as "mikey"; media level replaces
        session level (RFC 4567 section 3.1). Raises BadSdp."""
        values = media.attributes("key-mgmt") or self.session.attributes("key-mgmt")
        return tuple(key_mgmt_protocol(value) for value in values)

    def _check(self) -> None:
        session = self.session
        if not session._lines or session._lines[0].rstrip(" \t\r\n") != "v=0":
            raise BadSdp("no session description of version 0", 400)
        for type_ in "vos":
            if session._keys.count(f":{type_}") != 1:
                raise BadSdp(f"a session section without exactly one {type_}= line", 400)
        _ = self.origin
        for section in (session, *(media for media in self.media if media.port)):
            for value in section._values("c"):
                Connection.parse(value)
        # It may have to be said in each of them, and what leaves shall not be much longer than what came.
        for_all = sum(len(_value(line)) for name in _FOR_ALL for line in session._of(name))
        if for_all * len(self.media) > MAX_SIZE:
            raise BadSdp("too much said at session level for so many m-lines", 413)


_ORDER = "mvosiuepcbtrzka"  # RFC 8866 section 5; m stands first in its section
_REMOVABLE = frozenset("iuepcbtrzk")
_DIRECTIONS = {direction.value: direction for direction in Direction}
_ENDINGS = ("\r\n", "\n", "\r")
_VERSION = re.compile("[0-9]{1,20}")


@lru_cache(maxsize=512)
def _origin(value: str) -> Origin:
    match fields(value):
        case [*username, session_id, version, nettype, addrtype, address] if username and _VERSION.fullmatch(
            version
        ):
            return Origin(" ".join(username), session_id, int(version), nettype, addrtype, address)
    raise BadSdp("a malformed o= line", 400)


def _lines(data: bytes) -> tuple[list[str], list[str]]:
    """The lines, and the keys that they are looked up by."""
    if len(data) > MAX_SIZE:
        raise BadSdp(f"a session description over {MAX_SIZE} bytes", 413)
    if b"\0" in data:  # RFC 8866 section 9 has none, and some elements cut strings there
        raise BadSdp("NUL in a session description", 400)
    lines = [line.decode("utf-8", "surrogateescape") for line in data.splitlines(keepends=True)]
    if len(lines) > MAX_LINES or max(map(len, lines), default=0) > MAX_LINE:
        raise BadSdp("a session description with too many lines, or too long ones", 413)
    return lines, [_key(line) for line in lines]


def _key(line: str) -> str:
    """The name of an attribute, in lower case; of another line ":" and its type, which no name can be."""
    if line.startswith("a="):
        return line[2:].partition(":")[0].strip().lower()
    if line[1:2] == "=" and line[0] not in " \t=":
        return f":{line[0]}"
    if line.strip(" \t\r\n"):
        raise BadSdp("a line that is not type=value", 400)
    return ":"


def _type(key: str) -> str:
    """Of the line; "" of a blank one."""
    return key[1:] if key.startswith(":") else "a"


def _value(line: str) -> str:
    return line[2:].rstrip("\r\n")


def _ending(line: str) -> str:
    return line[len(line.rstrip("\r\n")) :]


def _argument(line: str) -> str:
    """What follows an attribute's colon, as it came; "" for a flag."""
    return _value(line).partition(":")[2]


def _attribute(name: str, value: str | None) -> str:
    return name if value is None else f"{name}:{value}"


def _checked(value: str) -> str:
    if "\r" in value or "\n" in value:
        raise UsageError("a line cannot contain a line")
    return value
