"""The keep-alive of UDP flows (RFC 5626 section 4.4.2): STUN Binding requests among the SIP, answered with
where they came from (RFC 8489)."""

from __future__ import annotations

from ipaddress import ip_address
from struct import pack, unpack_from

from imsalg.sip.values import Address

HEADER = 20
MAX_REQUEST = 256  # octets; a keep-alive carries next to nothing, and answers shall not feed on it
COOKIE = 0x2112A442
REQUEST, SUCCESS = 0x0001, 0x0101
XOR_MAPPED_ADDRESS = 0x0020
OPTIONAL = 0x8000  # attributes from here on may be ignored


def is_stun(data: bytes) -> bool:
    """No SIP message begins with a zero (RFC 5626 section 8)."""
    return data[:1] == b"\0" and len(data) >= HEADER and unpack_from("!I", data, 4)[0] == COOKIE


def answer(data: bytes, source: Address) -> bytes | None:
    """The response to a Binding request from `source`; None to what is none, or asks for more than that."""
    kind, length = unpack_from("!HH", data)
    if kind != REQUEST or length != len(data) - HEADER or len(data) > MAX_REQUEST or length % 4:
        return None
    at = HEADER
    while at < len(data):
        attribute, size = unpack_from("!HH", data, at)
        if attribute < OPTIONAL:
            return None
        at += 4 + (size + 3) // 4 * 4
    if at != len(data):
        return None
    address = ip_address(source.host)
    mask = data[4:HEADER]
    host = bytes(a ^ b for a, b in zip(address.packed, mask, strict=False))
    family = 1 if address.version == 4 else 2
    value = pack("!BBH", 0, family, source.port ^ COOKIE >> 16) + host
    return (
        pack("!HHHH", SUCCESS, 4 + len(value), *unpack_from("!HH", mask))
        + mask[4:]
        + (pack("!HH", XOR_MAPPED_ADDRESS, len(value)) + value)
    )
