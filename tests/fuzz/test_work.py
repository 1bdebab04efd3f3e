"""The work for a message is linear in its length: twice as much of anything costs about twice as many calls,
and what regular expressions do inside one call is bounded by CPU seconds that a quadratic one would exceed by
far."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from types import FrameType

import pytest

from imsalg.errors import BadMessage, PeerError
from imsalg.policy.decide import Access, Direction, Rules, decide
from imsalg.sdp.document import Document
from imsalg.sip.glance import glance, key_of, refusal
from imsalg.sip.hop import Flow, Transport
from imsalg.sip.stream import Stream
from tests.sim.sdp import crypto, media, session
from tests.sim.world import ACCESS, World

LIMIT = 1.0  # CPU seconds, where milliseconds are usual and 64 KiB squared would be minutes
HEAD = (
    "INVITE sip:bob@home.example SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bK%s\r\n"
    "From: <sip:alice@home.example>;tag=a\r\nTo: <sip:bob@home.example>\r\nCall-ID: %s\r\nCSeq: 1 INVITE\r\n"
    "Max-Forwards: 70\r\nContact: <sip:alice@192.0.2.10:5060>\r\n"
)
# What is repeated in a header field, with what stands before and behind it; 15,000 octets fit into one line.
REPEATED = [
    ("Via: SIP/2.0/UDP h", ", SIP/2.0/UDP h;branch=z9hG4bKx", ""),
    ("Via: SIP/2.0/UDP h", ";x=y", ""),
    ("Via: SIP/2.0/UDP h", ";", ""),
    ("Route: <sip:h;lr>", ",<sip:h;lr>", ""),
    ("Route: ", "<", ""),
    ("Record-Route: <sip:h;lr>", ",<sip:h;lr>", ""),
    ("P-Preferred-Identity: ", "<sip:a@b>,", "<sip:alice@home.example>"),
    ("P-Preferred-Identity: ", '"', ""),
    ("P-Preferred-Identity: ", '"\\', ""),
    ("P-Preferred-Identity: ", " ", "x"),
    ("P-Preferred-Identity: ", "a ", "<sip:a@b>"),
    ("P-Preferred-Identity: <sip:a@b>", ";x", ""),
    ("P-Preferred-Identity: <sip:a@b>", ';x="', ""),
    ("P-Preferred-Identity: <sip:a", ";a", "@b>"),
    ("Security-Verify: ", "sdes-srtp;mediasec,", "x"),
    ("Proxy-Require: ", "mediasec,", "x"),
    ("Require: ", ",", ""),
    ("Privacy: ", "id;", ""),
    ("Authorization: Digest ", 'x="y",', ""),
    ("Authorization: Digest ", '"', ""),
    ("Content-Type: multipart/mixed", "; boundary", ""),
    ("Content-Type: multipart/mixed;", " ", "boundary=x"),
    ("Content-Type: application/sdp", " ", "x"),
    ("Subject: ", "\r\n x", ""),
    ("Subject:", "\r\n ", ""),
    ("To: x", ";", ""),
    ("To: ", "<", "tag="),
    ("P-Access-Network-Info: ", "network-provided,", ""),
]
LINES = ["Via: SIP/2.0/UDP h;branch=z9hG4bK1", "Route: <sip:h;lr>", "Record-Route: <sip:h;lr>", "X: y"]
LINES += [
    "Contact: <sip:a@b>",
    "Security-Client: sdes-srtp;mediasec",
    "To: <sip:b>",
    "Proxy-Require: mediasec",
]
DTLS, CHANNEL, REQUESTED = "UDP/TLS/RTP/SAVP", "UDP/DTLS/SCTP", "a=3ge2ae:requested"
DESCRIPTIONS: list[Callable[[int], str]] = [
    lambda n: session("192.0.2.10", media(4000, "RTP/SAVP", *[crypto(tag=7)] * n, "a=3ge2ae:requested")),
    lambda n: session("192.0.2.10", media(4000, "RTP/AVP", *["a=crypto:x"] * n)),
    lambda n: session("192.0.2.10", *[media(4000)] * (n // 64)),
    lambda n: session("192.0.2.10", *["a=group:BUNDLE 0"] * n, media()),
    lambda n: session("192.0.2.10", *["a=group:LS 1 0"] * n, media(4000, "RTP/AVP", "a=mid:0")),
    lambda n: session("192.0.2.10", media(4000, "RTP/AVP", *["c=IN IP4 192.0.2.1"] * n)),
    lambda n: session("192.0.2.10", media(4000, "RTP/AVP", "a=" + "x:" * n)),
    lambda n: session("192.0.2.10", media(4000, "RTP/AVP", "a=crypto:1 " + "x " * n)),
    lambda n: session("192.0.2.10", media(4000, "RTP/AVP", f"a=crypto:1 {'inline:x;' * n}")),
    lambda n: session("192.0.2.10", "m=audio 4000 RTP/AVP" + " 0" * n),
    lambda n: session("192.0.2.10", "m=audio" + " " * n + "4000 RTP/AVP 0"),
    lambda n: session("192.0.2.10").replace("o=-", "o=" + "- " * n),
    lambda n: session("192.0.2.10", media(4000, DTLS, *["a=fingerprint:sha-256 AB"] * n, REQUESTED)),
    lambda n: session("192.0.2.10", media(4000, DTLS, f"a=fingerprint:sha-256 {'AB:' * n}", REQUESTED)),
    lambda n: session(
        "192.0.2.10", media(4000, DTLS, "a=tls-id:" + " x" * n, "a=setup:" + " " * n, REQUESTED)
    ),
    lambda n: session("192.0.2.10", media(4000, CHANNEL, *["a=dcmap:0"] * n)),
    lambda n: session("192.0.2.10", media(4000, CHANNEL, *["a=candidate:1 1 UDP 1 h 1 typ host"] * n)),
    lambda n: session("192.0.2.10", media(4000, CHANNEL, "a=ice-options:" + "trickle " * n)),
]


def calls(run: Callable[[], object]) -> int:
    """How many functions are called, those written in C as well."""
    count = 0

    def see(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(see)
    try:
        run()
    finally:
        sys.setprofile(before)
    return count


def assert_linear(run: Callable[[int], object], size: int) -> None:
    """run: does the work for so many of something; three sizes, each twice the last. None comes
    twice, as what was parsed before is in caches."""
    one, two, four = (calls(partial(run, part)) for part in (size // 4, size // 2, size))
    assert four - two <= 2.5 * max(two - one, 400)
    begin = time.process_time()
    run(size + 1)
    assert time.process_time() - begin < LIMIT


def received(lines: str, body: str = "", number: int = 0) -> None:
    """One message through everything, as a UE of an own would send it."""
    world = World()
    alice = world.register(world.ue(), "alice")
    data = (HEAD % (number, number) + lines + f"Content-Length: {len(body)}\r\n\r\n{body}").encode()
    glance(data)
    key_of(data)
    refusal(data, alice.address, 503, b"tag", b"")
    world.core.receive(data, alice.flow, world.now)
    world.settle()
    stream = Stream()
    stream.feed(data)
    try:
        while (message := stream.next_message()) is not None:
            world.core.receive_message(message, Flow(Transport.TCP, ACCESS, alice.address), world.now)
    except BadMessage as error:
        world.core.refuse(error, Flow(Transport.TCP, ACCESS, alice.address))
    world.settle()


@pytest.mark.parametrize(("start", "what", "end"), REPEATED, ids=ascii)
def test_a_long_value_costs_its_length(start: str, what: str, end: str) -> None:
    assert_linear(lambda n: received(f"{start}{what * n}{end}\r\n"), 15_000 // len(what))


@pytest.mark.parametrize("line", LINES)
def test_many_lines_cost_their_number(line: str) -> None:
    assert_linear(lambda n: received(f"{line}\r\n" * n), 240)


@pytest.mark.parametrize("describe", DESCRIPTIONS, ids=range(len(DESCRIPTIONS)))
def test_a_description_costs_its_length(describe: Callable[[int], str]) -> None:
    def decided(n: int) -> None:
        try:
            document = Document(describe(n).encode())
            decide(document, Direction.ORIGINATING, frozenset(), Access.SIP, Rules())
        except PeerError:
            pass
        received("Content-Type: application/sdp\r\n", describe(n))

    assert_linear(decided, 1800)


@pytest.mark.parametrize("part", ["--b\r\n\r\nx\r\n", "--b\r\n", "--b ", "\r\n--b\r\nc:\r\n x\r\n", "\r\n-"])
def test_a_body_in_parts_costs_its_length(part: str) -> None:
    assert_linear(
        lambda n: received("Content-Type: multipart/mixed;boundary=b\r\n", part * n), 40_000 // len(part)
    )


def test_keep_alives_are_not_looked_at_one_by_one() -> None:
    stream = Stream()
    stream.feed(b"\r\n" * 100_000)
    assert calls(stream.next_message) < 50
    assert stream.pongs == 50_000


@pytest.mark.parametrize("read", [1, 7, 4096])
def test_a_stream_costs_its_length_however_it_is_cut(read: int) -> None:
    def framed(n: int) -> None:
        stream = Stream()
        data = b"INVITE sip:x SIP/2.0\r\n" + b"X: y\r\n" * n
        for at in range(0, len(data), read):
            stream.feed(data[at : at + read])
            assert stream.next_message() is None

    assert_linear(framed, 10_000)
