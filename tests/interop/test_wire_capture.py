"""The instruments of the proof on the wire, proved with packets made here."""

from __future__ import annotations

import math
import socket
import struct
from collections.abc import Iterator

import pylibsrtp
import pytest

from tests.interop.wire import (
    ETH_P_IPV6,
    Capture,
    Kind,
    Packet,
    audio,
    between,
    classify,
    policy,
    sdes_keys,
    tone_in,
    tone_share,
    udp_packet,
    unprotect,
)

SUITES = {
    "AES_CM_128_HMAC_SHA1_80": (30, 10),
    "AES_CM_128_HMAC_SHA1_32": (30, 4),
    "AES_256_CM_HMAC_SHA1_80": (46, 10),
    "AES_256_CM_HMAC_SHA1_32": (46, 4),
    "AEAD_AES_128_GCM": (28, 16),
    "AEAD_AES_256_GCM": (44, 16),
}
A, B = ("127.0.0.1", 15400), ("127.0.0.1", 15402)


def mu_law(sample: int) -> int:
    """G.711's encoder, as the counterpart of the decoder under test."""
    magnitude = min(abs(sample) + 0x84, 0x7FFF)
    exponent = magnitude.bit_length() - 8
    return ~((0x80 if sample < 0 else 0) | exponent << 4 | magnitude >> exponent + 3 & 15) & 0xFF


def rtp(hz: float, seconds: float = 1.0, first: int = 65500, ssrc: int = 7) -> Iterator[bytes]:
    """A tone as PCMU in RTP, 20 ms a packet, over the wrap of the sequence number."""
    for number in range(round(seconds * 50)):
        header = struct.pack("!BBHII", 0x80, 0, (first + number) & 0xFFFF, number * 160, ssrc)
        times = range(number * 160, number * 160 + 160)
        yield header + bytes(mu_law(round(16000 * math.sin(2 * math.pi * hz * t / 8000))) for t in times)


def packets(payloads: Iterator[bytes] | list[bytes]) -> list[Packet]:
    return [Packet(A, B, payload) for payload in payloads]


def protect(payloads: Iterator[bytes], suite: str, key: bytes) -> list[bytes]:
    made = policy(suite, key)
    made.ssrc_type = pylibsrtp.Policy.SSRC_ANY_OUTBOUND
    session = pylibsrtp.Session(made)
    return [session.protect(payload) for payload in payloads]


def test_mu_law_of_every_byte_comes_back() -> None:
    samples = audio([struct.pack("!BBHII", 0x80, 0, 1, 0, 7) + bytes(range(256))])
    assert (samples[0], samples[0x80], samples[0x7F], samples[0xFF]) == (-32124, 32124, 0, 0)
    assert [mu_law(sample) for sample in samples[:127]] == list(range(127))
    assert [mu_law(sample) for sample in samples[128:]] == list(range(128, 256))


def test_a_tone_in_rtp_is_heard_over_the_wrap_of_the_sequence_number() -> None:
    assert tone_in(rtp(440), 440) == pytest.approx(1.0)
    assert tone_share(rtp(440), 440) > 0.99
    assert tone_in(rtp(440), 1000) == 0.0


def test_order_duplicates_and_other_streams_do_not_disturb() -> None:
    payloads = list(rtp(440))
    mixed = payloads[:10] + payloads[10:20][::-1] + payloads[15:] + list(rtp(1000, ssrc=8))
    assert audio(mixed) == audio(payloads)


def test_extension_and_csrc_are_no_audio() -> None:
    plain = struct.pack("!BBHII", 0x80, 0, 1, 0, 7) + b"\x55" * 160
    extended = struct.pack("!BBHIII", 0x91, 0, 1, 0, 7, 9) + struct.pack("!HHI", 0xBEDE, 1, 0) + b"\x55" * 160
    assert audio([plain]) == audio([extended])


@pytest.mark.parametrize("suite", SUITES)
def test_srtp_is_authenticated_and_not_decodable_as_the_tone(suite: str) -> None:
    key_length, tag = SUITES[suite]
    key = bytes(range(1, key_length + 1))
    plain = list(rtp(440))
    protected = protect(iter(plain), suite, key)
    assert {len(p) - len(q) for p, q in zip(protected, plain, strict=True)} == {tag}
    assert tone_in(protected, 440) == 0.0
    assert tone_share(protected, 440) < 0.1
    assert unprotect(packets(protected), suite, key) == (plain, 0)


@pytest.mark.parametrize("suite", SUITES)
def test_nothing_authenticates_under_another_key(suite: str) -> None:
    length = SUITES[suite][0]
    protected = protect(rtp(440), suite, bytes(length))
    assert unprotect(packets(protected), suite, b"\x01" * length) == ([], 50)


def test_plain_rtp_does_not_pass_for_srtp() -> None:
    assert unprotect(packets(rtp(440)), "AES_CM_128_HMAC_SHA1_80", bytes(30)) == ([], 50)


@pytest.mark.parametrize(
    ("payload", "kind"),
    [
        (b"\x00\x01" + bytes(18), Kind.STUN),
        (b"\x16\xfe\xfd" + bytes(20), Kind.DTLS),
        (b"\x80\x00" + bytes(10), Kind.RTP),
        (b"\x80\xe0" + bytes(10), Kind.RTP),
        (b"\x80\xc8" + bytes(26), Kind.RTCP),
        (b"\x80\x00" + bytes(6), Kind.OTHER),
        (b"INVITE sip:", Kind.OTHER),
        (b"", Kind.OTHER),
    ],
)
def test_the_first_bytes_tell_the_kind(payload: bytes, kind: Kind) -> None:
    assert classify(payload) is kind


def test_sdes_keys_are_read_from_sip() -> None:
    line = b"a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:" + b"A" * 40
    lines = b"SIP/2.0 200 OK\r\n\r\n" + line + b"|2^31|1:4\r\n" + line.replace(b"A" * 40, b"B" * 40) + b"\r\n"
    keys = sdes_keys([Packet(A, B, lines), Packet(A, B, lines)])
    assert [(source, suite, len(key)) for source, suite, key in keys] == [
        (A, "AES_CM_128_HMAC_SHA1_80", 30)
    ] * 2


def test_what_is_no_udp_is_none() -> None:
    header = bytes.fromhex("4500001d00000000401100007f0000017f000001")
    datagram = struct.pack("!HHHH", A[1], B[1], 9, 0) + b"x"
    assert udp_packet(header + datagram) == Packet(A, B, b"x")
    assert udp_packet(header[:9] + b"\x06" + header[10:] + datagram) is None  # TCP
    assert udp_packet(header[:6] + b"\x20\x00" + header[8:] + datagram) is None  # a fragment
    assert udp_packet((header + datagram)[:25]) is None
    assert udp_packet(b"", ETH_P_IPV6) is None


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_capture_sees_each_packet_of_its_ports_once(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with Capture({B[1]}) as capture, socket.socket(family, socket.SOCK_DGRAM) as sender:
        sender.bind((host, A[1]))
        for number in range(100):
            sender.sendto(b"n%d" % number, (host, B[1]))
            sender.sendto(b"elsewhere", (host, B[1] + 2))
        seen = capture.drain()
    assert [packet.payload for packet in seen] == [b"n%d" % number for number in range(100)]
    assert {(packet.source, packet.destination) for packet in seen} == {((host, A[1]), (host, B[1]))}
    assert between(seen, A[1], None, Kind.OTHER) == seen
