"""What an m-line says of ICE (RFC 8839): credentials and candidates. Here every agent of ours is a lite
one."""

from __future__ import annotations

import re
from typing import Self

from msgspec import Struct

from imsalg.errors import BadSdp
from imsalg.sdp.attributes import fields
from imsalg.sdp.document import Document, Media

MAX_CANDIDATES = 64  # looked at in one section


class IceCredentials(Struct, frozen=True):
    """`a=ice-ufrag` and `a=ice-pwd` (RFC 8839 section 5.4). No repr has the password."""

    ufrag: str
    pwd: str

    @classmethod
    def of(cls, document: Document, media: Media) -> Self | None:
        """Media level before session level; None where there are none that could be used."""
        ufrag = media.attribute("ice-ufrag") or document.session.attribute("ice-ufrag") or ""
        pwd = media.attribute("ice-pwd") or document.session.attribute("ice-pwd") or ""
        found = cls(ufrag.strip(" \t"), pwd.strip(" \t"))
        return found if _UFRAG.fullmatch(found.ufrag) and _PWD.fullmatch(found.pwd) else None

    def __repr__(self) -> str:
        return f"IceCredentials({self.ufrag!r})"


class Candidate(Struct, frozen=True):
    """`a=candidate` (RFC 8839 section 5.1), but for what follows its type. address: an IP address or a
    name."""

    foundation: str
    component: int
    transport: str
    priority: int
    address: str
    port: int
    type: str

    @classmethod
    def parse(cls, value: str) -> Self:
        match fields(value):
            case [foundation, component, transport, priority, address, port, typ, type_, *_] if (
                typ.lower() == "typ"
                and _COMPONENT.fullmatch(component)
                and _NUMBER.fullmatch(priority)
                and _NUMBER.fullmatch(port)
                and int(port) < 65536
            ):
                return cls(
                    foundation,
                    int(component),
                    transport.upper(),
                    int(priority),
                    address,
                    int(port),
                    type_.lower(),
                )
        raise BadSdp("a=candidate cannot be read")

    @classmethod
    def host(cls, component: int, address: str, port: int) -> Self:
        """The one of a lite agent with one address (RFC 8445 sections 5.1.2.1 and 5.2)."""
        return cls("1", component, "UDP", (126 << 24) + (65535 << 8) + 256 - component, address, port, "host")

    def __str__(self) -> str:
        where = f"{self.transport} {self.priority} {self.address} {self.port}"
        return f"{self.foundation} {self.component} {where} typ {self.type}"


def components(media: Media) -> frozenset[int]:
    """Which components there are candidates of over UDP."""
    found = set()
    for value in media.attributes("candidate")[:MAX_CANDIDATES]:
        try:
            candidate = Candidate.parse(value)
        except BadSdp:
            continue
        if candidate.transport == "UDP":
            found.add(candidate.component)
    return frozenset(found)


def is_lite(document: Document) -> bool:
    """Whether its writer only answers checks (RFC 8839 section 5.3)."""
    return document.session.has("ice-lite")


_UFRAG = re.compile("[A-Za-z0-9+/]{4,256}")
_PWD = re.compile("[A-Za-z0-9+/]{22,256}")
_COMPONENT = re.compile("[0-9]{1,3}")
_NUMBER = re.compile("[0-9]{1,10}")
