"""The values of SDP fields and attributes this element understands; pure parsing, no document needed.

Every `parse` takes the text after `c=` or after the attribute's colon, tolerates blanks around it, and
raises BadSdp for what it cannot take. No exception text and no repr shows what was parsed, so that no key
comes out that way (trap P18); only `str` writes keys.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from collections.abc import Iterable
from enum import StrEnum
from functools import lru_cache
from typing import Self

from msgspec import Struct

from imsalg.errors import BadSdp

MAX_KEYS = 16  # inline keys in one a=crypto line
MAX_LIFETIME = 2**48  # packets; SRTCP ends at 2^31 whatever is written (RFC 3711 section 9.2)

# Bytes of master key and master salt: RFC 4568 section 6.2, RFC 6188 section 4, RFC 7714 section 14.2.
# RFC 4568's grammar prints F8_128_HMAC_SHA1_32; its text and the IANA registry have _80.
MATERIAL_LENGTH = {
    "AES_CM_128_HMAC_SHA1_80": 30,
    "AES_CM_128_HMAC_SHA1_32": 30,
    "F8_128_HMAC_SHA1_80": 30,
    "AES_192_CM_HMAC_SHA1_80": 38,
    "AES_192_CM_HMAC_SHA1_32": 38,
    "AES_256_CM_HMAC_SHA1_80": 46,
    "AES_256_CM_HMAC_SHA1_32": 46,
    "AEAD_AES_128_GCM": 28,
    "AEAD_AES_256_GCM": 44,
}


class Direction(StrEnum):
    """RFC 8866 section 6.7, seen from the side that wrote the SDP."""

    SENDRECV = "sendrecv"
    SENDONLY = "sendonly"
    RECVONLY = "recvonly"
    INACTIVE = "inactive"


class E2aeIndication(StrEnum):
    """`a=3ge2ae` (TS 24.229 clause 7.5.2)."""

    REQUESTED = "requested"  # the sender wishes e2ae
    APPLIED = "applied"  # the sender has applied e2ae


def e2ae_indication(values: Iterable[str]) -> E2aeIndication | None:
    """What the `3ge2ae` attributes of a media section say; the first known token counts.
    Other tokens "shall be ignored" (TS 24.229 clause 7.5.2)."""
    for value in values:
        for known in E2aeIndication:
            if value.strip(" \t").lower() == known:
                return known
    return None


def key_mgmt_protocol(value: str) -> str:
    """The protocol identifier of a `key-mgmt` attribute, in lower case (RFC 4567 section 3: `mikey`)."""
    match fields(value):
        case [protocol, _]:
            return protocol.lower()
    raise BadSdp("a=key-mgmt is not a protocol and its data", 400)


class Connection(Struct, frozen=True):
    """The address of `c=` and `a=rtcp`. addrtype: "IP4" or "IP6". address: as written: an IP address, with a
    multicast suffix perhaps, or a domain name (RFC 8866 section 5.7)."""

    addrtype: str
    address: str

    @classmethod
    def parse(cls, value: str) -> Connection:
        return _connection(value)

    @property
    def host(self) -> str:
        """The address without its multicast suffix."""
        return self.address.partition("/")[0]

    @property
    def unspecified(self) -> bool:
        """0.0.0.0 or ::, the hold of RFC 2543 and the placeholder of ICE."""
        return _is_unspecified(self.host)

    def __str__(self) -> str:
        return f"IN {self.addrtype} {self.address}"


class RtcpAttribute(Struct, frozen=True):
    """`a=rtcp` (RFC 3605 section 2.1). connection None: the address of the media's `c=`."""

    port: int
    connection: Connection | None = None

    @classmethod
    def parse(cls, value: str) -> Self:
        port, _, rest = value.strip(" \t").partition(" ")
        if not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:
            raise BadSdp("a=rtcp without a port", 400)
        return cls(int(port), Connection.parse(rest) if rest else None)

    def __str__(self) -> str:
        return f"{self.port} {self.connection}" if self.connection else str(self.port)


class InlineKey(Struct, frozen=True):
    """One SRTP master key of an `a=crypto` line (RFC 4568 section 6.1).

    material: master key and master salt in one.
    lifetime: packets; None where the line has none: 2^48 of SRTP, 2^31 of SRTCP.
    mki: the identifier as it stands in the packets, 1 to 128 bytes; None where the line has none.
    """

    material: bytes
    lifetime: int | None = None
    mki: bytes | None = None

    @classmethod
    def parse(cls, value: str) -> Self:
        """value: a key-param, `inline:` included."""
        method, _, info = value.partition(":")
        if method.lower() != "inline":
            raise BadSdp("a=crypto with a key method other than inline")
        lifetime, mki = None, None
        match info.split("|"):
            case [material]:
                pass
            case [material, last] if ":" in last:
                mki = _mki(last)
            case [material, last]:
                lifetime = _lifetime(last)
            case [material, middle, last]:
                lifetime, mki = _lifetime(middle), _mki(last)
            case _:
                raise BadSdp("a=crypto whose key has too many parts")
        return cls(_base64(material), lifetime, mki)

    def __repr__(self) -> str:
        return f"InlineKey({len(self.material)} bytes)"

    def __str__(self) -> str:
        """The key-param; this does show the key."""
        parts = ["inline:" + base64.b64encode(self.material).decode()]
        if self.lifetime is not None:
            parts.append(str(self.lifetime))
        if self.mki is not None:
            parts.append(f"{int.from_bytes(self.mki)}:{len(self.mki)}")
        return "|".join(parts)


class Crypto(Struct, frozen=True):
    """`a=crypto` (RFC 4568 section 9.1). The keys protect what the writer of the SDP sends.

    suite: as IANA writes it where known (MATERIAL_LENGTH); else as it came, with keys of any length.
    keys: one, or several that are told apart by MKIs of one length.
    session_params: in order, without those that may be ignored (a leading "-").
    """

    tag: int
    suite: str
    keys: tuple[InlineKey, ...]
    session_params: tuple[str, ...] = ()

    @classmethod
    def parse(cls, value: str) -> Self:
        """Raises BadSdp where RFC 4568 section 5.1.2 has the line invalid; another line may still serve."""
        match fields(_KEY_SEPARATOR.sub(";", value)):
            case [tag, suite, key_params, *session_params] if _TAG_AND_SUITE.fullmatch(f"{tag} {suite}"):
                suite = suite.upper() if suite.upper() in MATERIAL_LENGTH else suite
                return cls(int(tag), suite, _keys(suite, key_params), tuple(_session_params(session_params)))
        raise BadSdp("a=crypto is not a tag, a suite and a key")

    @property
    def known(self) -> bool:
        """The suite is in MATERIAL_LENGTH, and so the keys have its length."""
        return self.suite in MATERIAL_LENGTH

    @property
    def plain_srtp(self) -> bool:
        """No session parameter changes what SRTP does by default; the window size hint does not."""
        return all(_name(param) == "WSH" for param in self.session_params)

    def __repr__(self) -> str:
        params = "".join(f", {_name(param)}" for param in self.session_params)  # FEC_KEY's value is a key
        return f"Crypto({self.tag}, {self.suite}, {len(self.keys)} key(s){params})"

    def __str__(self) -> str:
        """The value of the attribute; this does show the keys."""
        keys = ";".join(str(key) for key in self.keys)
        return " ".join((str(self.tag), self.suite, keys, *self.session_params))


@lru_cache(maxsize=512)  # that of one description is asked for many times
def _connection(value: str) -> Connection:
    match fields(value):
        case [nettype, addrtype, address] if (nettype.upper(), addrtype.upper()) in _ADDRESS_TYPES:
            return Connection(addrtype.upper(), address)
    raise BadSdp("an address that is neither IN IP4 nor IN IP6", 400)


@lru_cache(maxsize=1024)
def _is_unspecified(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


_ADDRESS_TYPES = {("IN", "IP4"), ("IN", "IP6")}

_TAG_AND_SUITE = re.compile("[0-9]{1,9} [A-Za-z0-9_]{1,64}")

# Key-params are joined by ";" alone; blanks beside it are tolerated.
_KEY_SEPARATOR = re.compile(r"(?<![ \t])[ \t]*;[ \t]*(?=inline:)", re.IGNORECASE)

# RFC 4568 sections 6.3.1 to 6.3.6. WSH is a hint, so its minimum of 64 is not insisted on.
_SESSION_PARAM = re.compile(
    r"KDR=(?:1?[0-9]|2[0-4])"
    r"|UNENCRYPTED_SRTC?P|UNAUTHENTICATED_SRTP"
    r"|FEC_ORDER=(?:FEC_SRTP|SRTP_FEC)"
    r"|FEC_KEY=inline:.+"
    r"|WSH=[0-9]{1,9}",
    re.IGNORECASE,
)


def _keys(suite: str, key_params: str) -> tuple[InlineKey, ...]:
    params = key_params.split(";", MAX_KEYS)
    if len(params) > MAX_KEYS:
        raise BadSdp("a=crypto with too many keys")
    keys = tuple(InlineKey.parse(param) for param in params)
    expected = MATERIAL_LENGTH.get(suite)
    if expected and any(len(key.material) != expected for key in keys):
        raise BadSdp("a=crypto whose key does not have its suite's length")
    if len(keys) > 1:
        # RFC 4568 section 6.1: each has an MKI, all of one length. The same one twice tells nothing apart.
        mkis = {key.mki for key in keys}
        if None in mkis or len(mkis) < len(keys) or len({len(mki or b"") for mki in mkis}) > 1:
            raise BadSdp("a=crypto with several keys that MKIs do not tell apart")
    return keys


def _session_params(params: Iterable[str]) -> Iterable[str]:
    for param in params:
        if _SESSION_PARAM.fullmatch(param):
            yield param
        elif not param.startswith("-"):  # RFC 4568 section 6.3.7
            raise BadSdp("a=crypto with an unknown session parameter")


def _lifetime(text: str) -> int:
    if match := re.fullmatch(r"2\^([0-9]{1,2})", text):
        lifetime = 1 << int(match[1])
    elif re.fullmatch("[0-9]{1,15}", text):
        lifetime = int(text)
    else:
        raise BadSdp("a=crypto with a bad lifetime")
    if not 0 < lifetime <= MAX_LIFETIME:
        raise BadSdp("a=crypto with a lifetime out of bounds")
    return lifetime


def _mki(text: str) -> bytes:
    match = re.fullmatch("([0-9]{1,309}):([0-9]{1,3})", text)  # 309 digits: 2^1024
    if not match or not 1 <= int(match[2]) <= 128:
        raise BadSdp("a=crypto with a bad MKI")
    try:
        return int(match[1]).to_bytes(int(match[2]))
    except OverflowError:
        raise BadSdp("a=crypto with an MKI over its length") from None


def _base64(text: str) -> bytes:
    """Padding may be missing or too long (trap P11)."""
    text = text.rstrip("=")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise BadSdp("a=crypto whose key is not base64") from None


def _name(param: str) -> str:
    return param.partition("=")[0].upper()


def fields(value: str) -> list[str]:
    """Split at blanks, and at no other white space."""
    return [field for field in value.replace("\t", " ").split(" ") if field]
