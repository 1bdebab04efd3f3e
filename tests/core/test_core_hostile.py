"""Broken and hostile messages are refused or dropped; none raises, none leaves anything (World.finish)."""

import gzip

import pytest
from msgspec.structs import replace

from imsalg.networks import Networks
from imsalg.sip.hop import Transport
from imsalg.sip.message import Request, make_response
from imsalg.sip.values import Address
from tests.sim.peer import Peer
from tests.sim.sdp import crypto, lines_of, media, protected, session
from tests.sim.world import ACCESS, BASE, CORE, NETWORK

OFFER = protected("192.0.2.10")
HEAD = b"Via: SIP/2.0/UDP h;branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:c@d>\r\nCall-ID: 1\r\n"
FAR = session("203.0.113.5", media(7000))

BROKEN = [
    "",
    "x",
    "<>",
    "<sip:>",
    "<sip:a@b",
    '"unclosed <sip:a@b>',
    "sip:",
    "<sip:a@[::1>",
    "<sip:a@b:99999>",
    "*",
    ",,",
    ";",
    "\x80",
]
BODIES = [
    b"v=0",
    b"v=0\r\n",
    b"garbage",
    b"\x00\xff\xfe",
    b"v=0\r\no=- 1 1 IN IP4 1.2.3.4\r\ns=-\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n",  # without c=
    session("host.example").encode(),
    session("224.1.1.1").encode(),
    session("192.0.2.10", "m=audio 99999 RTP/AVP 0").encode(),
    session("192.0.2.10", "m=audio x RTP/AVP 0").encode(),
    session("192.0.2.10", *[media()] * 40).encode(),
    session("192.0.2.10", media(4000, "RTP/SAVP", "a=crypto:", "a=3ge2ae:requested")).encode(),
    session("192.0.2.10", media(4000, "RTP/AVP", "a=rtcp:")).encode(),
    session("192.0.2.10", media(4000, "RTP/AVP", "a=rtcp:0")).encode(),
    session("192.0.2.10", media(4000, "RTP/AVP", "a=rtcp:5000 IN IP6 ::1")).encode(),
    session("255.255.255.255").encode(),
    session("::1").encode(),
    session("0.0.0.0").encode(),
    session("192.0.2.10", media(65535)).encode(),
    session("192.0.2.10", media(4000, "RTP/SAVP", "a=key-mgmt:", "a=key-mgmt:mikey")).encode(),
]  # fmt: skip


@pytest.fixture
def alice(world):
    return world.register(world.ue(10), "alice")


@pytest.mark.parametrize("body", BODIES)
def test_a_broken_offer_is_refused_or_passes_and_nothing_is_left(world, alice, body):
    alice.invite("sip:bob@home.example", sdp=body)
    for message in world.network.inbox[:]:
        world.network.reply(message, 200, sdp=FAR)
    assert alice.inbox[-1].status in (200, 400, 488, 500)
    world.network.call(alice, sdp=body)


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("status", [183, 200])
def test_a_broken_answer_fails_the_call_and_nothing_is_left(world, alice, body, status):
    alice.invite("sip:bob@home.example", sdp=OFFER)
    world.network.reply(world.network.expect("INVITE"), status, sdp=body)
    world.network.call(alice, sdp=FAR)
    alice.reply(alice.expect("INVITE"), status, sdp=body)


@pytest.mark.parametrize("body", BODIES)
def test_a_broken_answer_in_an_ack_or_prack_ends_the_call_or_not_but_never_breaks(world, alice, body):
    for method in ("ACK", "PRACK"):
        invite = alice.invite("sip:bob@home.example")
        there = world.network.expect("INVITE")
        status, more = (200, ()) if method == "ACK" else (183, (("RSeq", "1"),))
        world.network.reply(there, status, *more, sdp=FAR)
        got = alice.expect(status)
        talk = alice.dialog(invite, got)
        if method == "ACK":
            talk.ack(sdp=body)
        else:
            talk.request("PRACK", ("RAck", "1 1 INVITE"), sdp=body)


@pytest.mark.parametrize("body", BODIES)
def test_a_broken_reinvite_leaves_the_call(world, alice, body):
    here, far = world.originate(alice)
    for talk, other in ((here, far), (far, here)):
        talk.request("INVITE", sdp=body)
        for message in other.peer.inbox[:]:
            other.peer.reply(message, 488)
        talk.peer.inbox.clear()
        other.peer.inbox.clear()
    here.hang_up(far)


# -- bodies in parts


def parts(*bodies, boundary="b1"):
    return "".join(f"--{boundary}\r\n{body}\r\n" for body in bodies) + f"--{boundary}--\r\n"


MIXED = ("Content-Type", 'multipart/mixed; boundary="b1"')
SDP = "Content-Type: application/sdp"
PIDF = "Content-Type: application/pidf+xml\r\nContent-ID: <x>\r\n\r\n<presence/>"


def test_a_description_in_a_multipart_body_is_treated_and_the_other_parts_stay(world, alice):
    body = parts(PIDF, f"Content-Type: application/sdp\r\nContent-Disposition: session\r\n\r\n{OFFER}")
    alice.invite("sip:bob@home.example", MIXED, sdp=body)
    there = world.network.expect("INVITE")
    assert lines_of(there, "m=")[0].split()[2] == "RTP/AVP"
    assert not lines_of(there, "a=crypto")
    assert PIDF.encode() in there.body
    assert there.headers.get("Content-Type") == MIXED[1]
    assert there.headers.get("Content-Length") == str(len(there.body))


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        (("Content-Type", "multipart/mixed"), parts(PIDF), 400),
        (MIXED, "nothing", 400),
        (MIXED, "--b1\r\n", 400),
        (MIXED, parts(*[f"Content-Type: application/sdp\r\n\r\n{OFFER}"] * 2), 400),
        (MIXED, parts("Content-Type: multipart/alternative; boundary=b2\r\n\r\n--b2--"), 415),
        (MIXED, parts(f"{SDP}\r\nContent-Transfer-Encoding: base64\r\n\r\n{OFFER}"), 415),
        (MIXED, parts(f"{SDP}\r\nContent-Encoding: gzip\r\n\r\n{OFFER}"), 415),
        (MIXED, parts(f"{SDP}\r\ne: gzip\r\n\r\n{OFFER}"), 415),
    ],
)  # fmt: skip
def test_a_body_in_parts_that_cannot_be_read_is_refused(world, alice, headers, body, status):
    alice.invite("sip:bob@home.example", headers, sdp=body)
    alice.expect(status)
    assert world.network.quiet()


@pytest.mark.parametrize(
    "part",
    [
        f"CONTENT-TYPE : Application/SDP;charset=utf-8\r\n\r\n{OFFER}",
        f"Content-Type:\r\n application/sdp\r\n\r\n{OFFER}",
        f"X: y\r\nc: application/sdp\r\n\r\n{OFFER}",
        f"Content-Type: application/sdp\n\n{OFFER}",
    ],
)
def test_no_way_to_write_a_part_hides_its_keys(world, alice, part):
    """What the other end might take for a description is treated as one, or nothing passes."""
    alice.invite("sip:bob@home.example", MIXED, sdp=parts(part))
    for message in world.network.inbox:
        assert not lines_of(message, "a=crypto")


def test_an_encoded_description_is_415(world, alice):
    body = gzip.compress(OFFER.encode())
    headers = (("Content-Type", "application/sdp"), ("Content-Encoding", "gzip"))
    alice.invite("sip:bob@home.example", *headers, sdp=body)
    alice.expect(415)


def test_an_encoded_answer_fails_the_call(world, alice):
    alice.invite("sip:bob@home.example", sdp=OFFER)
    there = world.network.expect("INVITE")
    headers = (("Content-Type", "application/sdp"), ("e", "gzip"))
    world.network.reply(there, 200, *headers, sdp=gzip.compress(FAR.encode()))
    alice.expect(415)
    world.network.expect("ACK")
    world.network.expect("BYE")


@pytest.mark.parametrize("kind", ["Application/SDP", "application/sdp;charset=x", " application/sdp "])
def test_a_description_is_known_by_its_type_however_it_is_written(world, alice, kind):
    alice.invite("sip:bob@home.example", ("c", kind), sdp=OFFER)
    assert not lines_of(world.network.expect("INVITE"), "a=crypto")


def test_a_body_without_a_type_never_carries_keys_across(world, alice):
    """RFC 3261 section 20.15: a body must have a type; what has none is not guessed at by the other end."""
    request = alice.compose("INVITE", "sip:bob@home.example", sdp=OFFER)
    request.headers.remove("Content-Type")
    alice.send(request)
    for message in world.network.inbox:
        assert b"a=crypto" not in message.body


# -- header fields


@pytest.mark.parametrize("value", BROKEN)
@pytest.mark.parametrize("name", ["Contact", "Route", "Record-Route", "P-Preferred-Identity", "RAck"])
def test_a_broken_header_in_a_request_never_raises(world, alice, name, value):
    bob = world.register(world.ue(11), "bob")
    field = (name, value.replace("\x80", "\udc80"))
    for method in ("INVITE", "MESSAGE", "SUBSCRIBE", "REGISTER"):
        alice.request(method, "sip:bob@home.example", field, sdp=OFFER if method == "INVITE" else "")
        world.network.request(method, bob.contact, ("Route", bob.path), field)
    world.network.inbox.clear()
    here, far = world.originate(world.register(world.ue(12), "dora"), protected("192.0.2.12"))
    for talk in (here, far):
        for method in ("INVITE", "UPDATE", "PRACK", "INFO", "BYE"):
            talk.request(method, field)
        request = talk.compose("ACK", field, cseq=1)
        talk.peer.send(request)


@pytest.mark.parametrize("value", BROKEN)
@pytest.mark.parametrize(
    "name", ["Contact", "Record-Route", "Service-Route", "P-Associated-URI", "P-Preferred-Identity", "RSeq"]
)
def test_a_broken_header_in_a_response_never_raises(world, alice, name, value):
    field = (name, value.replace("\x80", "\udc80"))
    for status in (183, 200, 302, 401):
        fresh = world.ue(30)
        fresh.register("fresh")
        world.network.reply(world.network.expect("REGISTER"), status, field)
        alice.invite("sip:bob@home.example", sdp=OFFER)
        world.network.reply(world.network.expect("INVITE"), status, field, sdp=FAR)
        world.network.call(alice, sdp=FAR)
        there = alice.expect("INVITE")
        alice.reply(there, status, field, sdp=session("192.0.2.10", media(4000, "RTP/SAVP", crypto())))
        fresh.invite("sip:bob@home.example", sdp=session("192.0.2.30"))
        world.network.inbox.clear()
    world.core.shutdown(world.now)
    world.settle()


@pytest.mark.parametrize("value", BROKEN)
def test_a_broken_service_route_or_identity_does_not_make_later_requests_raise(world, value):
    value = value.replace("\x80", "\udc80")
    for name in ("Service-Route", "P-Associated-URI"):
        phone = world.ue(40)
        phone.register("eve")
        world.network.accept(world.network.expect("REGISTER"), 3600, (name, value))
        phone.request("MESSAGE", "sip:bob@home.example", ("P-Preferred-Identity", "<sip:eve@home.example>"))
        phone.invite("sip:bob@home.example", sdp=session("192.0.2.40"))
        world.network.invite(phone.contact, sdp=FAR)
        for there in [each for each in phone.inbox if getattr(each, "method", "") == "INVITE"]:
            phone.reply(there, 180, ("P-Preferred-Identity", "<sip:eve@home.example>"))
        world.network.inbox.clear()
        phone.inbox.clear()


@pytest.mark.parametrize(
    "target", ["sip:x@y;transport=ws", "sips:x@y", "tel:+49", "urn:x", "http://x", "sip:x@y:0"]
)
def test_a_dialog_whose_target_cannot_be_reached_ends_all_the_same(world, alice, target):
    """The proxy's own BYE has nowhere to go then."""
    invite = alice.invite("sip:bob@home.example", sdp=OFFER)
    there = world.network.expect("INVITE")
    world.network.reply(there, 200, ("Contact", f"<{target}>"), sdp=FAR)
    alice.dialog(invite, alice.expect(200)).ack()
    world.core.shutdown(world.now)
    world.settle()
    alice.expect("BYE")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\r\n\r\n",
        b"\x00" * 100,
        b"INVITE sip:x SIP/2.0\r\n\r\n",
        b"SIP/2.0 200 OK\r\n\r\n",
        b"INVITE x SIP/2.0\r\n" + HEAD + b"CSeq: 1 INVITE\r\n\r\n",
        b"OPTIONS sip:@ SIP/2.0\r\n" + HEAD + b"CSeq: 1 OPTIONS\r\n\r\n",
    ],
)
def test_garbage_never_raises(world, alice, data):
    for peer in (alice, world.network):
        world.receive(data, peer.flow)


def test_the_branch_of_a_via_that_is_ours_but_broken_never_raises(world, alice):
    for via in (
        f"SIP/2.0/UDP {CORE}",
        f"SIP/2.0/UDP {ACCESS};branch=",
        "x",
        f"SIP/2.0/UDP {CORE};branch=a;;",
    ):
        request = alice.compose("MESSAGE", "sip:bob@home.example")
        request.headers.append("Via", via)
        alice.send(request)


def test_a_request_uri_that_is_broken_is_400(world, alice):
    for uri in ("sip:", "sip:@", "sip:a@[::1", "x"):
        alice.request("MESSAGE", uri, ("To", "<sip:bob@home.example>"))
        alice.expect(400)
        world.network.request("MESSAGE", uri, ("To", "<sip:bob@home.example>"))
        world.network.expect(400)


@pytest.mark.parametrize("method", ["INVITE", "MESSAGE", "BYE"])
def test_a_refused_stranger_leaves_nothing_to_remember_or_retransmit(world, method):
    stranger = world.ue(66)
    request = stranger.request(method, "sip:bob@home.example")
    refusal = stranger.expect(403)
    assert refusal.to.tag
    assert world.status()["transactions"] == 0
    world.advance(40)
    assert stranger.quiet()
    stranger.send(request)
    assert bytes(refusal) in map(bytes, stranger.absorbed)  # the same again
    assert world.network.quiet()


FAR_WITH = "v=0\r\no=a 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN {}\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n"


@pytest.mark.parametrize(
    "body",
    [
        FAR_WITH.format("IP4 255.255.255.255"),
        FAR_WITH.format("IP6 ::ffff:192.0.2.1"),
        FAR_WITH.format("IP6 fe80::1%eth0"),
    ],
)
def test_an_offer_whose_address_the_gateway_never_sends_to_calls_nobody(world, body):
    alice = world.register(world.ue(), "alice")
    alice.invite("sip:bob@home.example", sdp=body)
    alice.expect(488)
    assert world.network.quiet()


def test_rtcp_at_port_zero_or_nowhere_is_rtcp_beside_rtp(world):
    alice = world.register(world.ue(), "alice")
    world.originate(alice, offer=FAR_WITH.format("IP4 192.0.2.10") + "a=rtcp:9 IN IP4 0.0.0.0\r\n")
    assert world.leg("access").remote_rtcp is None or world.leg("access").remote_rtcp.port == 4001


# -- numbers, lists, parts: too long, too many, too deep

NUMBERS = ["", "-1", "+1", "0x10", "1e9", "1.5", "٣", "65536", str(2**31), str(2**32), str(2**64), "9" * 5000]


@pytest.mark.parametrize("number", NUMBERS, ids=lambda text: ascii(text[:12]))
@pytest.mark.parametrize(
    "field", ["Expires", "Max-Forwards", "RSeq", "RAck", "Session-Expires", "Min-SE", "Retry-After"]
)
def test_a_number_that_is_none_or_too_large_is_refused_or_passes(world, alice, field, number):
    value = f"{number} 1 INVITE" if field == "RAck" else number
    for method in ("INVITE", "REGISTER", "MESSAGE", "PRACK"):
        before = len(alice.inbox)
        alice.request(method, "sip:bob@home.example", (field, value))
        for there in world.network.inbox:
            world.network.reply(there, 404, (field, value))
        world.network.inbox.clear()
        assert [message.status for message in alice.inbox[before:]][-1:] in ([400], [404], [423], [481])


@pytest.mark.parametrize("port", ["0", "-1", "65536", "99999999", "9" * 500, "x", "٣"])
def test_a_port_that_is_none_is_refused_wherever_it_stands(world, alice, port):
    address = f"192.0.2.10:{port}"
    alice.request("MESSAGE", f"sip:bob@{address}", ("To", "<sip:bob@home.example>"))
    alice.expect(400)
    alice.register("alice", contact=f"<sip:alice@{address}>")
    alice.expect(400)
    alice.request("MESSAGE", "sip:bob@home.example", ("Via", f"SIP/2.0/UDP {address};branch=z9hG4bKx"))
    assert alice.quiet()
    assert world.network.quiet()
    body = session("192.0.2.10", media(port, "RTP/AVP"))
    alice.invite("sip:bob@home.example", sdp=body)
    assert alice.inbox[-1:] == [] if port == "0" else alice.expect(400)
    for there in world.network.inbox:
        world.network.reply(there, 486)


@pytest.mark.parametrize("name", ["Via", "Route", "Record-Route", "Contact", "Path", "P-Preferred-Identity"])
@pytest.mark.parametrize("lines", [False, True])
def test_a_deep_list_is_refused_or_passes(world, alice, name, lines):
    """As far as a message may be long."""
    value = "SIP/2.0/UDP 192.0.2.66;branch=z9hG4bKdeep" if name == "Via" else "<sip:192.0.2.66;lr>"
    deep = [value] * 230 if lines else [", ".join([value] * 300)]
    for method in ("INVITE", "MESSAGE", "REGISTER"):
        request = alice.compose(method, "sip:bob@home.example", sdp=OFFER if method == "INVITE" else b"")
        for each in deep:
            request.headers.append(name, each)
        alice.send(request)
        for there in world.network.inbox:
            if isinstance(there, Request) and there.method != "ACK":
                world.network.reply(there, 404)
        world.network.inbox.clear()
        assert alice.inbox.pop().status in (400, 404, 513)


BOUNDARIES = ["", '"', '""', '"b', "b" * 70, "b" * 71, "-", "--", ".*", "(a+)+$", "\\", '"b\\"c"', "b\udcff"]


@pytest.mark.parametrize("boundary", BOUNDARIES, ids=ascii)
def test_no_boundary_hides_a_description(world, alice, boundary):
    bare = boundary.strip('"')
    body = parts(f"{SDP}\r\n\r\n{OFFER}", boundary=bare).encode("utf-8", "surrogateescape")
    alice.invite("sip:bob@home.example", ("Content-Type", f"multipart/mixed;boundary={boundary}"), sdp=body)
    for there in world.network.inbox[:]:
        assert b"a=crypto" not in there.body
        world.network.reply(there, 486)


@pytest.mark.parametrize(
    "tail",
    [
        "--b1--",
        "\r\n--b1--\r\n" * 3,
        "--b1-",
        "\r\n--b1 --\r\n",
        f"--b1--\r\n{OFFER}",
        "\0" * 50,
        "\r\n--b1\r\n",
    ],
    ids=range(7),
)
def test_what_follows_the_parts_hides_nothing(world, alice, tail):
    alice.invite("sip:bob@home.example", MIXED, sdp=parts(f"{SDP}\r\n\r\n{OFFER}") + tail)
    for there in world.network.inbox[:]:
        assert b"a=crypto" not in there.body
        world.network.reply(there, 486)


def test_a_called_ue_cannot_answer_around_the_home_network(world):
    """Via shows it the branch of what we sent to the home network for the caller."""
    alice = world.register(world.ue(), "alice")
    mallory = world.register(world.ue(66), "mallory")
    alice.invite("sip:mallory@home.example", sdp=OFFER)
    there = world.network.expect("INVITE")
    answer = make_response(there, 200, to_tag="free")
    answer.headers.append("Contact", f"<{mallory.contact}>")
    answer.headers.append("P-Asserted-Identity", "<sip:boss@home.example>")
    mallory.send(answer)
    assert alice.quiet()
    world.network.reply(there, 486)
    alice.expect(486)


def test_only_named_peers_may_answer_on_the_core_side(worlds):
    world = worlds(core=replace(BASE["core"], trusted=Networks([NETWORK.host])))
    alice = world.register(world.ue(), "alice")
    stranger = Peer(world, Address("203.0.113.66", 5060), CORE)
    here, far = world.originate(alice)
    stranger.send(here.compose("ACK"))
    assert alice.quiet()
    here.hang_up(far)
    alice.invite("sip:bob@home.example", sdp=OFFER)
    there = world.network.expect("INVITE")
    stranger.send(make_response(there, 486, to_tag="no"))
    assert alice.quiet()
    world.network.reply(there, 486)
    alice.expect(486)


@pytest.mark.parametrize("local", [ACCESS, CORE])
def test_only_who_sent_an_invite_can_cancel_it(world, local):
    alice = world.register(world.ue(), "alice")
    invite = alice.invite("sip:bob@home.example", sdp=OFFER)
    there = world.network.expect("INVITE")
    world.network.reply(there, 180)
    alice.expect(180)
    Peer(world, Address("192.0.2.66", 5060), local).cancel(invite)
    assert alice.quiet()
    assert world.network.quiet()
    alice.cancel(invite)
    alice.expect(487)
    world.network.reply(there, 487)


def test_a_cancel_may_come_over_another_connection_of_its_host(world):
    alice = world.register(world.ue(10, 40001, transport=Transport.TCP), "alice")
    invite = alice.invite("sip:bob@home.example", sdp=OFFER)
    there = world.network.expect("INVITE")
    world.network.reply(there, 180)
    world.ue(10, 40002, transport=Transport.TCP).cancel(invite)
    alice.expect(487)
    world.network.reply(there, 487)


def test_a_stranger_does_not_write_the_log(world):
    stranger = world.ue(66)
    for _ in range(300):
        stranger.request("MESSAGE", "sip:bob@home.example")
    assert len([note for note in world.notes if note.text.startswith("MESSAGE from 192.0.2.66")]) == 10


def test_a_ue_that_changes_its_call_again_and_again_does_not_write_the_log_either(world):
    alice = world.register(world.ue(), "alice")
    here, far = world.originate(alice)
    for number in range(300):
        here.exchange(
            far, "INVITE", protected(alice.address.host, port=4000 + number), session("203.0.113.5")
        )
    before = len(world.notes)
    assert before < 150
    world.advance(10.0)
    here.hang_up(far)
    assert any("left out before it" in note.text for note in world.notes[before:])
    assert any("released" in note.text for note in world.notes[before:])
