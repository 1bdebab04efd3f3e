"""Registration information, `application/reginfo+xml` (RFC 3680 section 5), as far as a P-CSCF reads it.

XML from the network: read by expat in one pass, without a document type (so without entities of its own),
with limits on its size, depth and number of elements. Elements of other namespaces are extensions: skipped.
"""

from __future__ import annotations

from enum import StrEnum
from xml.parsers import expat

from msgspec import Struct

from imsalg.errors import PeerError
from imsalg.sip.grammar import number

CONTENT_TYPE = "application/reginfo+xml"
MAX_SIZE = 65_536  # octets
MAX_ELEMENTS = 2_000
MAX_DEPTH = 16
MAX_VERSION = 2**31 - 1

_SPACE = "urn:ietf:params:xml:ns:reginfo"
_REGINFO, _REGISTRATION, _CONTACT, _URI = (
    f"{_SPACE} {name}" for name in ("reginfo", "registration", "contact", "uri")
)


class Standing(StrEnum):
    """The states of a registration."""

    INIT = "init"
    ACTIVE = "active"
    TERMINATED = "terminated"


class Registration(Struct, frozen=True):
    """What became of one public user identity. ended: the Contact URIs that are not registered any more, each
    with the event that ended it, such as "deactivated"."""

    aor: str
    standing: Standing
    ended: dict[str, str]


class RegInfo(Struct, frozen=True):
    """One document. full: it tells of all registrations, not of those only that have changed."""

    version: int
    full: bool
    registrations: tuple[Registration, ...]


def parse_reginfo(body: bytes) -> RegInfo:
    """Raises PeerError with the status to answer with."""
    if len(body) > MAX_SIZE:
        raise PeerError("too long a document", 413)
    return _Reader().read(body)


class _Reader:
    def __init__(self) -> None:
        self._path: list[str] = []
        self._elements = 0
        self._version = 0
        self._full = False
        self._registrations: list[Registration] = []
        self._event: str | None = None  # of the contact that is open, if that is terminated
        self._uri = ""

    def read(self, body: bytes) -> RegInfo:
        parser = expat.ParserCreate("utf-8", " ")
        parser.StartDoctypeDeclHandler = self._doctype
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text
        try:
            parser.Parse(body, True)
        except expat.ExpatError as error:
            raise PeerError(f"no XML: {error}") from None
        return RegInfo(self._version, self._full, tuple(self._registrations))

    def _doctype(self, *_: object) -> None:
        raise PeerError("a document type in XML")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._elements += 1
        if self._elements > MAX_ELEMENTS or len(self._path) >= MAX_DEPTH:
            raise PeerError("too large a document", 413)
        self._path.append(name)
        match self._path:
            case [_] if name != _REGINFO:
                raise PeerError("no reginfo document")
            case [_]:
                version = number(attributes.get("version", ""), MAX_VERSION)
                if version is None:
                    raise PeerError("a reginfo document without a version")
                self._version, self._full = version, attributes.get("state") == "full"
            case [_, second] if second == _REGISTRATION:
                try:
                    standing = Standing(attributes.get("state", ""))
                except ValueError:
                    raise PeerError("a registration without a state") from None
                self._registrations.append(Registration(attributes.get("aor", ""), standing, {}))
            case [_, second, third] if (second, third) == (_REGISTRATION, _CONTACT):
                ended = attributes.get("state") == "terminated"
                self._event = attributes.get("event", "") if ended else None
                self._uri = ""

    def _text(self, text: str) -> None:
        if self._path[1:] == [_REGISTRATION, _CONTACT, _URI]:
            self._uri += text

    def _end(self, name: str) -> None:
        if self._path[1:] == [_REGISTRATION, _CONTACT] and self._event is not None:
            self._registrations[-1].ended[self._uri.strip()] = self._event
        self._path.pop()
