"""What really went over the wire: loopback packets caught in memory, and what can be proved about them.

The capture is a raw AF_PACKET socket on `lo` (root only). Nothing here uses the code under test: SDP lines
are read with a regular expression, PCMU is decoded from its formula, SRTP is authenticated by pylibsrtp.
"""

from __future__ import annotations

import base64
import re
import socket
import struct
import threading
import time
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from types import TracebackType

import pylibsrtp
from pylibsrtp import ffi

from cli.tone import energy_share, tone_seconds_in

ETH_P_ALL = 0x0003
ETH_P_IP, ETH_P_IPV6 = 0x0800, 0x86DD
PACKET_OUTGOING = 4
PCMU = 0


class Kind(Enum):
    """What a UDP payload looks like by its first bytes (RFC 7983 section 7, RFC 5761 section 4)."""

    STUN = "stun"
    DTLS = "dtls"
    RTP = "rtp"  # or SRTP: the header does not tell
    RTCP = "rtcp"  # or SRTCP
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Packet:
    """A UDP datagram as it was seen."""

    source: tuple[str, int]
    destination: tuple[str, int]
    payload: bytes = field(repr=False)


class Capture:
    """All UDP datagrams on loopback from or to the given ports; a context manager.

    `packets` may be read at any time; `drain` waits until the wire has been silent for a moment.
    """

    def __init__(self, ports: Iterable[int]) -> None:
        self.packets: list[Packet] = []
        self._ports = frozenset(ports)
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        self._socket.bind(("lo", ETH_P_ALL))
        self._socket.settimeout(0.1)
        self._running = True
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Capture:
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._running = False
        self._thread.join()
        self._socket.close()

    def drain(self, silence: float = 0.2, limit: float = 5.0) -> list[Packet]:
        """The packets, once none has come for `silence` seconds."""
        deadline = time.monotonic() + limit
        seen = -1
        while seen != len(self.packets) and time.monotonic() < deadline:
            seen = len(self.packets)
            time.sleep(silence)
        return list(self.packets)

    def _read(self) -> None:
        while self._running:
            try:
                data, (_, protocol, kind, *_) = self._socket.recvfrom(65535)
            except TimeoutError:
                continue
            if kind == PACKET_OUTGOING:  # loopback shows each packet twice: leaving and arriving
                continue
            packet = udp_packet(data, protocol)
            if packet and self._ports & {packet.source[1], packet.destination[1]}:
                self.packets.append(packet)


def udp_packet(data: bytes, protocol: int = ETH_P_IP) -> Packet | None:
    """The UDP datagram in an IP packet; None for everything else, fragments among it."""
    if protocol == ETH_P_IP and len(data) >= 20 and data[9] == socket.IPPROTO_UDP:
        start = (data[0] & 15) * 4
        if struct.unpack_from("!H", data, 6)[0] & 0x3FFF:
            return None
        family, addresses = socket.AF_INET, (data[12:16], data[16:20])
    elif protocol == ETH_P_IPV6 and len(data) >= 40 and data[6] == socket.IPPROTO_UDP:
        start = 40
        family, addresses = socket.AF_INET6, (data[8:24], data[24:40])
    else:
        return None
    if len(data) < start + 8:
        return None
    source, destination, length, _ = struct.unpack_from("!HHHH", data, start)
    hosts = [socket.inet_ntop(family, address) for address in addresses]
    return Packet((hosts[0], source), (hosts[1], destination), data[start + 8 : start + length])


def classify(payload: bytes) -> Kind:
    """What the first bytes say."""
    match payload[0] if payload else 255:
        case first if first <= 3:
            return Kind.STUN
        case first if 20 <= first <= 63:
            return Kind.DTLS
        case first if 128 <= first <= 191 and len(payload) >= 8:
            if 64 <= payload[1] & 127 <= 95:
                return Kind.RTCP
            return Kind.RTP if len(payload) >= 12 else Kind.OTHER
        case _:
            return Kind.OTHER


def between(
    packets: Iterable[Packet], source: int | None, destination: int | None, kind: Kind
) -> list[Packet]:
    """The packets of this kind from one port to another; None is any port."""
    return [
        packet
        for packet in packets
        if source in (None, packet.source[1])
        and destination in (None, packet.destination[1])
        and classify(packet.payload) is kind
    ]


def audio(payloads: Iterable[bytes]) -> array[int]:
    """Linear samples of RTP payloads taken for PCMU, by sequence number, of the first SSRC only.

    Of SRTP this gives what an eavesdropper would hear: noise.
    """
    chunks: dict[int, bytes] = {}
    ssrc: bytes | None = None
    last = 0
    for payload in payloads:
        ssrc = ssrc or payload[8:12]
        if payload[8:12] != ssrc or payload[1] & 127 != PCMU:
            continue
        sequence = struct.unpack_from("!H", payload, 2)[0]
        last = sequence if not chunks else last + ((sequence - last + 0x8000) & 0xFFFF) - 0x8000
        chunks.setdefault(last, payload[_header_length(payload) :])
    return array("h", (_MU_LAW[byte] for _, chunk in sorted(chunks.items()) for byte in chunk))


def tone_in(payloads: Iterable[bytes], hz: float) -> float:
    """Seconds of these RTP payloads, taken for PCMU, in which the tone is clearly heard."""
    return tone_seconds_in(audio(payloads), hz)


def tone_share(payloads: Iterable[bytes], hz: float) -> float:
    """The share of these payloads' energy, taken for PCMU, at the tone: near 1.0 for RTP, 0.0 for SRTP."""
    return energy_share(audio(payloads), hz)


def unprotect(packets: Sequence[Packet], suite: str, key: bytes) -> tuple[list[bytes], int]:
    """(the RTP packets that authenticate under this master key and salt, how many do not).

    suite: an SDES name (RFC 4568 section 6.2, RFC 6188, RFC 7714); KeyError for another.
    """
    session = pylibsrtp.Session(policy(suite, key))
    plain: list[bytes] = []
    for packet in packets:
        try:
            plain.append(session.unprotect(packet.payload))
        except pylibsrtp.Error:
            continue
    return plain, len(packets) - len(plain)


def policy(suite: str, key: bytes) -> pylibsrtp.Policy:
    """A libsrtp policy for whatever comes in. AES_256_CM has no name in pylibsrtp; its struct is written."""
    profile, key_length = _SUITES[suite]
    made = pylibsrtp.Policy(key=key, ssrc_type=pylibsrtp.Policy.SSRC_ANY_INBOUND, srtp_profile=profile)
    made.window_size = 1024
    if key_length == 46:
        # srtp_crypto_policy_t: AES_ICM_256, key and salt, HMAC_SHA1, its key, tag, encrypt and authenticate
        for half, tag in ((made._policy.rtp, int(suite[-2:]) // 8), (made._policy.rtcp, 10)):
            ffi.buffer(ffi.addressof(half))[:24] = struct.pack("=6i", 5, 46, 3, 20, tag, 3)
    return made


def sdes_keys(packets: Iterable[Packet]) -> list[tuple[tuple[str, int], str, bytes]]:
    """All `a=crypto` lines seen in SIP over UDP: (sender, suite, key and salt), each once, in order."""
    seen: dict[tuple[tuple[str, int], str, bytes], None] = {}
    for packet in packets:
        for suite, key in re.findall(rb"(?m)^a=crypto:\d+ (\w+) inline:([A-Za-z0-9+/=]+)", packet.payload):
            seen[packet.source, suite.decode(), base64.b64decode(key + b"=" * (-len(key) % 4))] = None
    return list(seen)


def _header_length(payload: bytes) -> int:
    length = 12 + 4 * (payload[0] & 15)
    if payload[0] & 0x10 and len(payload) >= length + 4:
        length += 4 + 4 * struct.unpack_from("!H", payload, length + 2)[0]
    return length


def _mu_law(byte: int) -> int:
    # ITU-T G.711 table 2a: sign, 3 bits of exponent, 4 of mantissa, all inverted; scaled to 16 bits
    byte ^= 0xFF
    magnitude = (((byte & 15) << 3) + 0x84 << (byte >> 4 & 7)) - 0x84
    return -magnitude if byte & 0x80 else magnitude


_MU_LAW = tuple(map(_mu_law, range(256)))
_SUITES = {
    "AES_CM_128_HMAC_SHA1_80": (pylibsrtp.Policy.SRTP_PROFILE_AES128_CM_SHA1_80, 30),
    "AES_CM_128_HMAC_SHA1_32": (pylibsrtp.Policy.SRTP_PROFILE_AES128_CM_SHA1_32, 30),
    "AES_256_CM_HMAC_SHA1_80": (pylibsrtp.Policy.SRTP_PROFILE_AES128_CM_SHA1_80, 46),
    "AES_256_CM_HMAC_SHA1_32": (pylibsrtp.Policy.SRTP_PROFILE_AES128_CM_SHA1_32, 46),
    "AEAD_AES_128_GCM": (pylibsrtp.Policy.SRTP_PROFILE_AEAD_AES_128_GCM, 28),
    "AEAD_AES_256_GCM": (pylibsrtp.Policy.SRTP_PROFILE_AEAD_AES_256_GCM, 44),
}
