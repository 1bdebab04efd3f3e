"""Values that are copied into another message: none of them can end a line there, begin a header field, close
a quote or add an address."""

from __future__ import annotations

import re

import pytest

from imsalg.sip.hop import Flow
from imsalg.sip.message import Request, Response, parse_message
from tests.sim.peer import Peer
from tests.sim.sdp import crypto, media, protected, session
from tests.sim.world import NETWORK, World

NAMES = {
    *("Via", "From", "To", "Call-ID", "CSeq", "Contact", "Route", "Record-Route", "Path", "Max-Forwards"),
    *("Content-Type", "Content-Length", "Expires", "Require", "Reason", "Warning", "Security-Server"),
    *("P-Asserted-Identity", "P-Charging-Vector", "P-Visited-Network-ID", "P-Associated-URI"),
    *("Service-Route", "P-Preferred-Identity", "Security-Client", "Retry-After", "Session-Expires"),
}  # fmt: skip
FOLDED = "\r\n Evil: 1\r\n\tEvil: 2"  # one value of several lines (RFC 3261 section 7.3.1)
COPIED = ("From", "To", "Call-ID", "Contact", "Record-Route", "Route", "Reason", "P-Preferred-Identity")


class Recording(World):
    """sent: everything that left."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[bytes] = []

    def _deliver(self, flow: Flow, data: bytes) -> None:
        self.sent.append(data)
        super()._deliver(flow, data)

    def check(self) -> None:
        """Everything that left is what it seems to be, line by line."""
        for data in self.sent:
            message = parse_message(data)
            assert {name for name, _ in message.headers} <= NAMES
            head = data.partition(b"\r\n\r\n")[0]
            assert not re.search(rb"[\0\n\r]", head.replace(b"\r\n", b""))
            assert head.count(b"Content-Length:") == 1


@pytest.fixture
def world() -> Recording:
    return Recording()


def rewritten(message: Request | Response, name: str, value: str) -> bytes:
    """The message with another value in that line, as octets: nothing is checked."""
    old = f"\r\n{name}: {message.headers.lines(name)[0]}\r\n"
    data = bytes(message)
    assert old.encode() in data
    return data.replace(old.encode(), f"\r\n{name}: {value}\r\n".encode("utf-8", "surrogateescape"), 1)


def offered(alice: Peer, *more: tuple[str, str]) -> Request:
    route = ("Route", f"<sip:orig@{NETWORK};lr>")
    return alice.compose("INVITE", "sip:bob@home.example", route, *more, sdp=protected("192.0.2.10"))


@pytest.mark.parametrize("octet", ["\r", "\n", "\0"])
@pytest.mark.parametrize("name", COPIED)
def test_what_may_end_a_line_elsewhere_lets_nothing_leave(world: Recording, name: str, octet: str) -> None:
    """Some elements take a CR or LF alone for the end of a line, or NUL for the end of everything."""
    alice = world.register(world.ue(), "alice")
    more = [(each, "x") for each in ("Reason", "P-Preferred-Identity", "Record-Route") if each == name]
    invite = offered(alice, *more)
    before = len(world.sent)
    world.receive(rewritten(invite, name, f"{invite.headers.get(name)}{octet}Evil: 1"), alice.flow)
    assert world.sent[before:] == []
    assert world.core.endpoint.drops["malformed"] == 1
    world.finish()


@pytest.mark.parametrize("name", ["From", "To", "Contact", "Reason", "P-Preferred-Identity", "Record-Route"])
def test_a_folded_value_stays_one_value_wherever_it_is_copied(world: Recording, name: str) -> None:
    """Into a CANCEL, into the proxy's own BYEs, into P-Asserted-Identity."""
    alice = world.register(world.ue(), "alice")
    values = {
        "From": f'"x{FOLDED}" <sip:alice@home.example>;tag=a1',
        "To": f'"x{FOLDED}" <sip:bob@home.example>',
        "Contact": f'"x{FOLDED}" <sip:alice@192.0.2.10:5060>',
        "Reason": f'SIP;cause=200;text="x{FOLDED}"',
        "P-Preferred-Identity": f'"x{FOLDED}" <sip:alice@home.example>',
        "Record-Route": f'"x{FOLDED}" <sip:192.0.2.9;lr>',
    }
    more = [(each, "x") for each in ("Reason", "P-Preferred-Identity", "Record-Route") if each == name]
    cancelled, answered = offered(alice, *more), offered(alice, *more)
    for invite, status in ((cancelled, 180), (answered, 200)):
        world.receive(rewritten(invite, name, values[name]), alice.flow)
        description = session("203.0.113.5") if status == 200 else ""
        world.network.reply(world.network.expect("INVITE"), status, sdp=description)
        alice.expect(status)
    alice.cancel(cancelled, ("Reason", "x"))
    world.network.expect("CANCEL")
    world.core.shutdown(world.now)
    world.settle()
    alice.expect("BYE")
    world.network.expect("BYE")
    world.check()
    world.finish()


@pytest.mark.parametrize(
    "name", ["Contact", "Service-Route", "P-Associated-URI", "Record-Route", "Security-Server"]
)
def test_the_home_networks_values_are_as_little_believed(world: Recording, name: str) -> None:
    alice = world.ue()
    alice.register("alice", ("Security-Client", "sdes-srtp;mediasec"))
    request = world.network.expect("REGISTER")
    world.network.accept(request, 3600, (name, '"x Evil: 1" <sip:alice@192.0.2.10:5060>;evil="x, Evil: 2"'))
    alice.inbox.clear()
    alice.send(offered(alice))
    for there in list(world.network.inbox):
        world.network.reply(there, 200, sdp=session("203.0.113.5"))
    world.core.shutdown(world.now)
    world.settle()
    world.check()
    world.finish()


@pytest.mark.parametrize(
    "tag", ['a"b', "a;b", "a,b", "<a>", "a b", "a=b", "\x1b[2J", "x" * 4000, "%0d%0aEvil", "é", "\udcff"]
)
def test_a_strange_tag_is_refused_or_copied_as_it_is(world: Recording, tag: str) -> None:
    alice = world.register(world.ue(), "alice")
    invite = offered(alice)
    world.receive(rewritten(invite, "From", f"<sip:alice@home.example>;tag={tag}"), alice.flow)
    for there in list(world.network.inbox):
        if isinstance(there, Request) and there.method == "INVITE":
            world.network.reply(there, 200, sdp=session("203.0.113.5"))
    world.core.shutdown(world.now)
    world.settle()
    for data in world.sent:
        if not data.startswith(b"SIP/2.0 400 "):  # which has the From as it came
            parse_message(data)
    alice.answers_bye = world.network.answers_bye = True
    world.finish()


@pytest.mark.parametrize("reason", ["", "OK\t", "= \x1b[2J", "\udcff", '"; <sip:x>', "x" * 10_000])
def test_a_reason_phrase_crosses_as_it_is(world: Recording, reason: str) -> None:
    alice = world.register(world.ue(), "alice")
    message = alice.request("MESSAGE", "sip:bob@home.example")
    trying = world.network.reply(world.network.expect("MESSAGE"), 100)
    response = Response(486, reason, trying.headers)
    world.receive(bytes(response), world.network.flow)
    (left,) = [data for data in world.sent if data.startswith(b"SIP/2.0 486")]
    assert left.partition(b"\r\n")[0] == f"SIP/2.0 486 {reason}".encode("utf-8", "surrogateescape")
    assert parse_message(left).call_id == message.call_id
    world.finish()


@pytest.mark.parametrize(
    "username", ["x y", "\x1b[2J", "\udcff", "x" * 4000, "a=crypto:1", "-\tx"], ids=ascii
)
def test_what_is_copied_from_one_description_into_another_stays_in_its_line(
    world: Recording, username: str
) -> None:
    alice = world.register(world.ue(), "alice")
    offer = protected("192.0.2.10").replace("o=-", f"o={username}")
    alice.invite("sip:bob@home.example", sdp=offer.encode("utf-8", "surrogateescape"))
    there = world.network.expect("INVITE")
    lines = there.body.split(b"\r\n")
    assert [line[:2] for line in lines if line][:3] == [b"v=", b"o=", b"s="]
    assert sum(line.startswith(b"o=") for line in lines) == 1
    assert not [line for line in lines if line.startswith(b"a=crypto")]
    world.network.reply(there, 486)
    world.finish()


@pytest.mark.parametrize(
    "line",
    [
        "a=rtcp:4001 IN IP4 192.0.2.10\ra=crypto:1 x",
        "a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:x\r\n a=y",
        "a= crypto:1 x",
        "a=CRYPTO :1 x",
        "a=cry\0pto:1 x",
    ],
)
def test_no_way_to_write_a_line_hides_a_key(world: Recording, line: str) -> None:
    alice = world.register(world.ue(), "alice")
    alice.invite("sip:bob@home.example", sdp=session("192.0.2.10", media(4000, "RTP/AVP", line, crypto("z"))))
    for there in world.network.inbox:
        assert b"crypto" not in there.body.lower().replace(b"\0", b"")
    for there in list(world.network.inbox):
        world.network.reply(there, 486)
    world.finish()
