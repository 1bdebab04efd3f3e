"""A session description that is edited without loss (RFC 8866): bytes(Document(b)) == b.

The document is its lines, each with the ending it came with; sections are stretches of lines; whatever is
asked is read from the lines; an edit replaces, removes or inserts lines and touches no other. Bytes that are
not UTF-8 survive as surrogates. A line that is not `x=...` is refused rather than kept, so that nothing the
policy must remove can hide in one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from operator import attrgetter
from typing import NamedTuple, Self

from imsalg.errors import BadSdp, UsageError
from imsalg.sdp.attributes import Connection as Connection
from imsalg.sdp.attributes import Direction, fields, key_mgmt_protocol

MAX_SIZE = 64 * 1024  # bytes
MAX_LINES = 2048
MAX_LINE = 8 * 1024  # characters, its ending included
MAX_MEDIA = 32  # m-lines, rejected ones included

SHARED = ("fingerprint", "setup", "connection", "ice-ufrag", "ice-pwd", "ice-options")
"""Attributes of session or media level: those of the session are for all m-lines (RFC 8122 section 5, RFC
4145 section 10, RFC 8839 sections 5.4 and 5.6)."""
_FOR_ALL = frozenset((*SHARED, "key-mgmt"))


class Line(NamedTuple):
    """`type=value` and its ending: CRLF, LF, CR, or "" on the last line. A blank line has the type "".

    name: the attribute's, in lower case; "" if this is no `a=` line.
    """

    type: str
    value: str
    ending: str
    name: str

    @classmethod
    def of(cls, type_: str, value: str, ending: str) -> Line:
        name = value.partition(":")[0].strip().lower() if type_ == "a" else ""
        return cls(type_, value, ending, name)

    def saying(self, value: str) -> Line:
        """The same with another value."""
        return Line.of(self.type, value, self.ending)

    @property
    def argument(self) -> str:
        """What follows the attribute's colon, as it came; "" for a flag."""
        return self.value.partition(":")[2]

    def __str__(self) -> str:
        return f"{self.type}={self.value}" if self.type else self.value

    def __repr__(self) -> str:
        return f"Line({self.type}={self.name})"  # the value may be a key


@dataclass(frozen=True, slots=True)
class Origin:
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

    __slots__ = ("_ending", "lines")

    def __init__(self, lines: list[Line], ending: str) -> None:
        """ending: that of lines to come."""
        self.lines = lines
        self._ending = ending

    def copy(self) -> Self:
        return type(self)(self.lines.copy(), self._ending)

    # -- attributes

    @property
    def names(self) -> set[str]:
        """Of all attributes, in lower case; "" stands for other lines."""
        return set(map(_NAME, self.lines))

    def attributes(self, name: str) -> list[str]:
        """The values of all `a=name` lines, as they came; "" for a flag."""
        name = name.lower()
        return [line.argument for line in self.lines if line.name == name]

    def attribute(self, name: str) -> str | None:
        """The first of `attributes(name)`."""
        name = name.lower()
        for line in self.lines:
            if line.name == name:
                return line.argument
        return None

    def has(self, name: str) -> bool:
        return self.attribute(name) is not None

    def add_attribute(self, name: str, value: str | None = None) -> None:
        """At the end of the section. value None: a flag."""
        self._insert("a", _attribute(name, value))

    def set_attribute(self, name: str, value: str | None = None) -> None:
        """In the place of the first of that name, any other removed; added if there is none."""
        self._set("a", _attribute(name, value))

    def remove_attributes(self, *names: str) -> None:
        gone = _lower(names)
        if gone & self.names:  # most often nothing is to be removed
            self.lines[:] = [line for line in self.lines if line.name not in gone]

    def remove_attributes_where(self, name: str, gone: Callable[[str], bool]) -> None:
        """Those of a name whose value, as it came ("" for a flag), is such."""
        if name in self.names:
            self.lines[:] = [line for line in self.lines if line.name != name or not gone(line.argument)]

    # -- other lines

    @property
    def connection(self) -> Connection | None:
        """The first `c=` of this section; None if there is none. Raises BadSdp."""
        value = self._value("c")
        return None if value is None else Connection.parse(value)

    def set_connection(self, connection: Connection) -> None:
        """In the place of the first `c=`, any other removed; inserted if there is none."""
        self._set("c", str(connection))

    def remove_lines(self, *types: str) -> None:
        """For types that may be missing: not `v`, `o`, `s`, `m`. Attributes have their own."""
        if not set(types) <= _REMOVABLE:
            raise UsageError(f"lines of type {types} cannot be removed")
        self.lines[:] = [line for line in self.lines if line.type not in types]

    # -- the means

    def _values(self, type_: str) -> list[str]:
        return [line.value for line in self.lines if line.type == type_]

    def _value(self, type_: str) -> str | None:
        for line in self.lines:
            if line.type == type_:
                return line.value
        return None

    def _set(self, type_: str, value: str) -> None:
        """In the place of the first line of the same type and name, any other removed; or as `_insert`."""
        said = Line.of(type_, _checked(value), self._ending)
        same = [i for i, line in enumerate(self.lines) if line.type == type_ and line.name == said.name]
        if not same:
            self._insert(type_, value)
            return
        self.lines[same[0]] = said._replace(ending=self.lines[same[0]].ending)
        if len(same) > 1:
            others = set(same[1:])
            self.lines[:] = [line for i, line in enumerate(self.lines) if i not in others]

    def _insert(self, type_: str, value: str) -> None:
        """After the last line that is of its own type or stands before it in RFC 8866's order; an attribute
        after the last line that is not blank."""
        index, before = len(self.lines), _ORDER[: _ORDER.index(type_) + 1]
        while index and not ((last := self.lines[index - 1].type) and (type_ == "a" or last in before)):
            index -= 1
        self.lines.insert(index, Line.of(type_, _checked(value), self._ending))


class Media(Section):
    """A media section, its `m=` line first (RFC 8866 section 5.14).

    Assigning `port` or `proto` leaves the rest of that line as it came, but for a `/count` after the port: it
    goes, as it spoke of the ports that follow the old one.
    """

    __slots__ = ()

    @property
    def kind(self) -> str:
        """audio, video, text, application, message, image …"""
        return self._m["kind"]

    @property
    def port(self) -> int:
        """0: rejected, or to be so."""
        return int(self._m["port"])

    @port.setter
    def port(self, port: int) -> None:
        if not 0 <= port <= 65535:
            raise UsageError(f"no port: {port}")
        self._replace(self._m.start("port"), self._m.end("count"), str(port))

    @property
    def proto(self) -> str:
        """RTP/AVP, RTP/SAVPF, TCP/TLS/MSRP …, as it came."""
        return self._m["proto"]

    @proto.setter
    def proto(self, proto: str) -> None:
        self._replace(*self._m.span("proto"), proto)

    @property
    def formats(self) -> tuple[str, ...]:
        """Empty on port 0 only."""
        return tuple(fields(self._m["formats"]))

    @property
    def _m(self) -> re.Match[str]:
        return _media(self.lines[0].value)

    def _replace(self, start: int, end: int, text: str) -> None:
        line = self.lines[0]
        self.lines[0] = line.saying(_checked(line.value[:start] + text + line.value[end:]))


class Document:
    """A session description. session: the lines before the first `m=`; media: one section for each `m=`."""

    __slots__ = ("_ending", "media", "session")

    def __init__(self, data: bytes, *, max_media: int = MAX_MEDIA) -> None:
        """Raises BadSdp: 400 for what breaks RFC 8866, 413 for what is too large, 488 for too many m-lines.

        Once parsed, `origin` and the fields of m-lines can be read without error, and `connection` too, but
        for an m-line with port 0: what else stands there is not looked at (trap P32).
        """
        lines = _lines(data)
        self._ending = max(_ENDINGS, key=[line.ending for line in lines].count)
        starts = [i for i, line in enumerate(lines) if line.type == "m"]
        if len(starts) > max_media:
            raise BadSdp(f"more than {max_media} media descriptions", 488)
        bounds = [*starts, len(lines)]
        self.session = Section(lines[: bounds[0]], self._ending)
        self.media = [Media(lines[start:end], self._ending) for start, end in pairwise(bounds)]
        self._check()

    def __bytes__(self) -> bytes:
        lines = [line for section in (self.session, *self.media) for line in section.lines]
        text = [f"{line}{line.ending or self._ending}" for line in lines[:-1]]
        text += [f"{line}{line.ending}" for line in lines[-1:]]
        return "".join(text).encode("utf-8", "surrogateescape")

    def copy(self) -> Document:
        twin = object.__new__(Document)
        twin._ending = self._ending
        twin.session = self.session.copy()
        twin.media = [media.copy() for media in self.media]
        return twin

    @property
    def origin(self) -> Origin:
        return Origin.parse(self.session._value("o") or "")

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
            for line in section.lines:
                if line.name in _DIRECTIONS:
                    return Direction(line.name)
        return Direction.SENDRECV

    def key_mgmt_of(self, media: Media) -> tuple[str, ...]:
        """The key management protocols in force for a media section, such as "mikey"; media level replaces
        session level (RFC 4567 section 3.1). Raises BadSdp."""
        values = media.attributes("key-mgmt") or self.session.attributes("key-mgmt")
        return tuple(key_mgmt_protocol(value) for value in values)

    def _check(self) -> None:
        session = self.session
        if not session.lines or str(session.lines[0]).rstrip(" \t") != "v=0":
            raise BadSdp("no session description of version 0", 400)
        types = [line.type for line in session.lines]
        for type_ in "vos":
            if types.count(type_) != 1:
                raise BadSdp(f"a session section without exactly one {type_}= line", 400)
        Origin.parse(session._values("o")[0])
        addressed = [session, *(media for media in self.media if media.port)]
        for value in (value for section in addressed for value in section._values("c")):
            Connection.parse(value)
        # It may have to be said in each of them, and what leaves shall not be much longer than what came.
        for_all = sum(len(line.value) for line in session.lines if line.name in _FOR_ALL)
        if for_all * len(self.media) > MAX_SIZE:
            raise BadSdp("too much said at session level for so many m-lines", 413)


_NAME = attrgetter("name")
_ORDER = "mvosiuepcbtrzka"  # RFC 8866 section 5; m stands first in its section
_REMOVABLE = frozenset("iuepcbtrzk")
_DIRECTIONS = frozenset(Direction)
_ENDINGS = ("\r\n", "\n", "\r")
_SPLIT = re.compile(r"([^\r\n]*)(\r\n|\n|\r|\Z)")
_TOKEN = r"[!#$%&'*+\-.0-9A-Z^_`a-z{|}~]"
_VERSION = re.compile("[0-9]{1,20}")
# Kind and protocol come into logs and Warnings: they are as RFC 8866 section 9 has them, and short.
_MEDIA = re.compile(
    rf"[ \t]*(?P<kind>{_TOKEN}{{1,64}})[ \t]+(?P<port>[0-9]{{1,5}})(?P<count>(?:/[0-9]{{1,5}})?)"
    rf"[ \t]+(?P<proto>(?:{_TOKEN}|/){{1,64}})(?P<formats>(?:[ \t].*)?)"
)


@lru_cache(maxsize=512)
def _origin(value: str) -> Origin:
    match fields(value):
        case [*username, session_id, version, nettype, addrtype, address] if username and _VERSION.fullmatch(
            version
        ):
            return Origin(" ".join(username), session_id, int(version), nettype, addrtype, address)
    raise BadSdp("a malformed o= line", 400)


@lru_cache(maxsize=512)  # the fields of one line are asked for many times
def _media(value: str) -> re.Match[str]:
    match = _MEDIA.fullmatch(value)
    if not match or int(match["port"]) > 65535 or int(match["count"][1:] or 1) == 0:
        raise BadSdp("a malformed m= line", 400)
    if not match["formats"].strip(" \t") and int(match["port"]):
        raise BadSdp("an m= line without a format", 400)
    return match


@lru_cache(maxsize=64)
def _lower(names: tuple[str, ...]) -> frozenset[str]:
    return frozenset(name.lower() for name in names)


def _lines(data: bytes) -> list[Line]:
    if len(data) > MAX_SIZE:
        raise BadSdp(f"a session description over {MAX_SIZE} bytes", 413)
    if b"\0" in data:  # RFC 8866 section 9 has none, and some elements cut strings there
        raise BadSdp("NUL in a session description", 400)
    lines: list[Line] = []
    for text, ending in _SPLIT.findall(data.decode("utf-8", "surrogateescape")):
        if not text and not ending:
            break
        if len(lines) == MAX_LINES or len(text) + len(ending) > MAX_LINE:
            raise BadSdp("a session description with too many lines, or too long ones", 413)
        if text[1:2] == "=" and text[0] not in " \t=":
            lines.append(Line.of(text[0], text[2:], ending))
        elif not text.strip(" \t"):
            lines.append(Line("", text, ending, ""))
        else:
            raise BadSdp("a line that is not type=value", 400)
    return lines


def _attribute(name: str, value: str | None) -> str:
    return name if value is None else f"{name}:{value}"


def _checked(value: str) -> str:
    if "\r" in value or "\n" in value:
        raise UsageError("a line cannot contain a line")
    return value
