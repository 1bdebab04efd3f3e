"""What an m-line says of DTLS: `a=fingerprint` (RFC 8122), `a=setup` (RFC 4145) and `a=tls-id` (RFC 8842).

Parsing is as tolerant as the field needs (traps P04 and P08: blanks after the colon, any case); writing is
as the standards have it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from typing import Self

from msgspec import Struct

from imsalg.errors import BadSdp
from imsalg.sdp.attributes import fields
from imsalg.sdp.document import Document, Media

MAX_FINGERPRINTS = 16  # in one section

# Octets of a digest; RFC 8122 section 5 has MD5 and MD2, too, and that they are never used.
DIGEST_LENGTH = {"sha-1": 20, "sha-224": 28, "sha-256": 32, "sha-384": 48, "sha-512": 64}


class Setup(StrEnum):
    """`a=setup` (RFC 4145 section 4): who sends the ClientHello."""

    ACTIVE = "active"
    PASSIVE = "passive"
    ACTPASS = "actpass"
    HOLDCONN = "holdconn"

    @classmethod
    def parse(cls, value: str) -> Setup:
        try:
            return cls(value.strip(" \t").lower())
        except ValueError:
            raise BadSdp("a=setup with no known role") from None


class Fingerprint(Struct, frozen=True):
    """`a=fingerprint`. hash: as in DIGEST_LENGTH if it is known, and the digest has its length then."""

    hash: str
    digest: bytes

    @classmethod
    def parse(cls, value: str) -> Self:
        match fields(value):
            case [hash_, hex_] if _HASH.fullmatch(hash_) and _HEX.fullmatch(hex_):
                found = cls(hash_.lower(), bytes.fromhex(hex_.replace(":", "")))
                if len(found.digest) == DIGEST_LENGTH.get(found.hash, len(found.digest)):
                    return found
        raise BadSdp("a=fingerprint is not a hash function and its digest")

    def __str__(self) -> str:
        return f"{self.hash} {self.digest.hex(':').upper()}"


class DtlsAttributes(Struct, frozen=True):
    """What one side says of DTLS in an m-line.

    setup: None where it does not say. fingerprints: those that can be read, in their order; media level
    replaces session level (RFC 8122 section 5). tls_id: without the blanks around it; None if there is none.
    """

    setup: Setup | None
    fingerprints: tuple[Fingerprint, ...]
    tls_id: str | None

    @classmethod
    def of(cls, document: Document, media: Media) -> Self:
        """Raises BadSdp for an a=setup that cannot be read."""
        setup = media.attribute("setup") or document.session.attribute("setup")
        lines = media.attributes("fingerprint") or document.session.attributes("fingerprint")
        return cls(
            None if setup is None else Setup.parse(setup),
            _fingerprints(lines),
            _tls_id(media.attribute("tls-id")),
        )

    def usable(self, hashes: Sequence[str]) -> tuple[Fingerprint, ...]:
        """The fingerprints of one hash function, the first of `hashes` that there is one of. The certificate
        has to match one of these, and none of the others will do (RFC 8122 section 5.1)."""
        for hash_ in hashes:
            if found := tuple(each for each in self.fingerprints if each.hash == hash_):
                return found
        return ()


_HASH = re.compile("[A-Za-z0-9-]{1,16}")
_HEX = re.compile("[0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2}){0,127}")
_TLS_ID = re.compile("[!-~]{1,255}")  # RFC 8842 section 4 has 20 and more, of fewer characters; opaque here


def _fingerprints(lines: Sequence[str]) -> tuple[Fingerprint, ...]:
    found = []
    for line in lines[:MAX_FINGERPRINTS]:
        try:
            found.append(Fingerprint.parse(line))
        except BadSdp:
            continue  # another may serve
    return tuple(found)


def _tls_id(value: str | None) -> str | None:
    text = (value or "").strip(" \t")
    return text if _TLS_ID.fullmatch(text) else None
