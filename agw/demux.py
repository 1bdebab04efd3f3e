"""What a packet is, by its first octets (RFC 7983, RFC 5761): the Python Plane's half of native/packet.c."""

from __future__ import annotations

import struct

_STUN = struct.Struct("!HHI")  # RFC 8489 section 5
_STUN_HEADER, _STUN_COOKIE = 20, 0x2112A442
_DTLS = struct.Struct("!BHxxxxxxxxH")  # a record's header (RFC 6347 section 4.1)
_DTLS_VERSIONS = (0xFEFD, 0xFEFF)  # 1.2, and 1.0, as which ClientHellos begin


def is_slow(packet: bytes) -> bool:
    """STUN or a whole record of DTLS, told apart by RFC 7983 section 7. What only begins like them is not
    worth the gateway's time."""
    length = len(packet)
    if is_stun(packet):
        return True
    if length >= _DTLS.size and 20 <= packet[0] <= 63:
        _, version, rest = _DTLS.unpack_from(packet)
        return version in _DTLS_VERSIONS and _DTLS.size + rest <= length
    return False


def is_stun(packet: bytes) -> bool:
    length = len(packet)
    if length < _STUN_HEADER or packet[0] > 3:
        return False
    _, rest, cookie = _STUN.unpack_from(packet)
    return bool(cookie == _STUN_COOKIE and _STUN_HEADER + rest == length and length % 4 == 0)


def is_rtcp(packet: bytes, channel: int, muxed: bool) -> bool | None:
    """None: neither RTP nor RTCP, or RTP on the RTCP port."""
    length = len(packet)
    if length < 8 or not 128 <= packet[0] <= 191:  # RFC 7983 section 7
        return None
    # RFC 5761 section 4: RTCP has types from 192 to 223. Where the ports are apart, such an octet on the RTP
    # port is a payload type with the marker bit.
    if 192 <= packet[1] <= 223 and (muxed or channel == 1):
        return True
    return False if length >= 12 and channel == 0 else None
