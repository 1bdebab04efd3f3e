"""Who gets a request: routes, hops, loops and spirals (RFC 3261 section 16, RFC 5658)."""

import pytest

from imsalg.sip.hop import Transport
from imsalg.sip.values import Via
from tests.sim.sdp import crypto, lines_of, media, protected, session
from tests.sim.world import ACCESS, CORE, NETWORK

AUDIO = session("192.0.2.10")
ANSWER = session("203.0.113.5")
SCSCF = f"<sip:scscf@{NETWORK};lr>"


@pytest.fixture
def alice(world):
    return world.register(world.ue(10), "alice")


@pytest.fixture
def bob(world):
    return world.register(world.ue(11), "bob")


def test_both_sides_are_recorded_with_one_token_and_the_next_hops_is_on_top(world, alice):
    alice.invite("sip:bob@home.example", sdp=AUDIO)
    first, second = world.network.expect("INVITE").headers.values("Record-Route")
    token = first.partition(":")[2].partition("@")[0]
    assert first == f"<sip:{token}@{CORE};lr>"
    assert second == f"<sip:{token}@{ACCESS};lr>"
    world.network.call(alice, sdp=AUDIO)
    first, second = alice.expect("INVITE").headers.values("Record-Route")
    assert first.endswith(f"@{ACCESS};lr>")
    assert second.endswith(f"@{CORE};lr>")
    assert token not in first


def test_a_side_on_tcp_is_recorded_as_such(world):
    alice = world.register(world.ue(10, 40123, transport=Transport.TCP), "alice")
    alice.invite("sip:bob@home.example", sdp=AUDIO)
    first, second = world.network.expect("INVITE").headers.values("Record-Route")
    assert first.endswith(f"@{CORE};lr>")
    assert second.endswith(f"@{ACCESS};transport=tcp;lr>")


def test_our_own_routes_are_taken_off_and_others_stay(world, alice):
    other = f"<sip:other@{NETWORK};lr>"
    world.network.invite(alice.contact, ("Route", f"{alice.path}, {other}"), sdp=AUDIO)
    assert alice.expect("INVITE").headers.values("Route") == [other]


def test_of_many_routes_with_one_token_two_are_ours(world, alice):
    """A doubled Record-Route. What follows is of another pass, or of somebody who keeps us busy with it."""
    world.network.request("MESSAGE", alice.contact, ("Route", ", ".join([alice.path] * 150)))
    assert len(alice.expect("MESSAGE").headers.values("Route")) == 148


def test_requests_in_a_dialog_follow_the_route_set(world, alice):
    invite = alice.invite("sip:bob@home.example", sdp=AUDIO)
    there = world.network.expect("INVITE")
    beyond = ("Record-Route", "<sip:scscf@198.51.100.9:5060;lr>")
    there.headers.prepend(*beyond)  # a proxy there records itself
    world.network.reply(there, 200, sdp=ANSWER)
    talk = alice.dialog(invite, alice.expect(200))
    talk.ack()
    ack = world.network.expect("ACK")
    assert ack.headers.values("Route") == [beyond[1]]
    assert ack.uri == f"sip:there@{NETWORK}"
    talk.request("BYE")
    assert world.network.expect("BYE").headers.values("Route") == [beyond[1]]


@pytest.mark.parametrize(("hops", "left"), [("70", "69"), ("1", "0"), ("255", "70"), ("71", "70")])
def test_hops_are_counted(world, alice, hops, left):
    alice.request("MESSAGE", "sip:bob@home.example", ("Max-Forwards", hops))
    assert world.network.expect("MESSAGE").headers.get("Max-Forwards") == left


def test_without_hops_it_is_70(world, alice):
    request = alice.compose("MESSAGE", "sip:bob@home.example")
    request.headers.remove("Max-Forwards")
    alice.send(request)
    assert world.network.expect("MESSAGE").headers.get("Max-Forwards") == "70"


@pytest.mark.parametrize(("hops", "status"), [("0", 483), ("x", 400), ("-1", 400), ("1" * 5000, 400)])
def test_no_hops_left_is_483_and_no_number_400(world, alice, hops, status):
    alice.invite("sip:bob@home.example", ("Max-Forwards", hops), sdp=AUDIO)
    alice.expect(status)
    assert world.network.quiet()


def test_what_is_unknown_in_proxy_require_is_420(world, alice):
    alice.invite("sip:bob@home.example", ("Proxy-Require", "foo, sec-agree, bar"), sdp=AUDIO)
    assert alice.expect(420).headers.values("Unsupported") == ["foo", "bar"]
    assert world.network.quiet()


def test_what_is_unknown_in_require_is_for_the_other_end(world, alice):
    alice.invite("sip:bob@home.example", ("Require", "foo"), sdp=AUDIO)
    assert world.network.expect("INVITE").headers.get("Require") == "foo"


def test_options_to_us_is_answered_here_even_to_strangers_and_without_hops(world, alice):
    for peer, address in ((world.ue(66), ACCESS), (alice, ACCESS), (world.network, CORE)):
        peer.request("OPTIONS", f"sip:{address}", ("Max-Forwards", "0"))
        peer.expect(200)
    assert world.network.quiet()


def test_a_request_that_comes_back_unchanged_is_a_loop(world, alice):
    loop = world.network.compose("MESSAGE", alice.contact, ("Route", alice.path))
    world.network.send(loop)
    there = alice.expect("MESSAGE")
    back = loop.copy()
    back.headers.set("Via", *there.headers.values("Via"))
    back.headers.prepend("Via", world.network.via())
    world.network.send(back)
    world.network.expect(482)
    assert alice.quiet()


@pytest.mark.parametrize("recorded", [True, False])
def test_a_spiral_is_two_calls_told_apart_by_token(world, alice, bob, recorded):
    """Alice and Bob are both behind us: one INVITE passes twice, with the same Call-ID and tags. If the
    S-CSCF in between does not record itself, later requests go from us to us."""
    invite = alice.invite("sip:bob@home.example", sdp=protected("192.0.2.10"))
    once = world.network.expect("INVITE")
    if recorded:
        once.headers.prepend("Record-Route", SCSCF)
    forward(world, once, bob.contact, bob.path)
    twice = bob.expect("INVITE")
    assert twice.call_id == invite.call_id
    assert len(world.status()["calls"]) == 2
    assert lines_of(twice, "m=audio")[0].split()[1] == "RTP/SAVP"
    bob.reply(twice, 200, sdp=session("192.0.2.11", "m=audio 5000 RTP/SAVP 0", crypto("b")))
    ok = world.network.expect(200)
    backward(world, ok)
    got = alice.expect(200)
    assert len({id.context for id in world.plane.legs}) == 2
    at_alice, at_bob = alice.dialog(invite, got), bob.dialog(twice, got)
    assert len(at_alice.routes) == len(at_bob.routes) == 4 + recorded
    at_alice.ack()
    if recorded:
        forward(world, ack := world.network.expect("ACK"), ack.uri)
    assert not bob.expect("ACK").headers.values("Route")
    at_bob.request("BYE")
    states = {call["direction"]: call["state"] for call in world.status()["calls"]}
    assert states == {"originating": "established", "terminating": "established"}
    if recorded:
        forward(world, bye := world.network.expect("BYE"), bye.uri)
    alice.reply(alice.expect("BYE"), 200)
    if recorded:
        backward(world, world.network.expect(200))
    bob.expect(200)
    world.settle()
    assert not world.status()["calls"]


def forward(world, request, uri, *routes):
    """As a proxy in the core does: to `uri`, by `routes`."""
    again = request.copy()
    again.uri = uri
    again.headers.prepend("Via", world.network.via())
    if routes:
        again.headers.set("Route", *routes)
    elif again.headers.first("Route"):
        again.headers.pop_value("Route")
    world.network.send(again)


def backward(world, response):
    back = response.copy()
    back.headers.pop_value("Via")
    world.network.send(back, world.network._flows[Via.parse(back.headers.first("Via")).branch])


@pytest.mark.parametrize("method", ["MESSAGE", "SUBSCRIBE", "REFER", "PUBLISH", "NOTIFY", "FOO", "OPTIONS"])
def test_requests_outside_of_calls_pass_both_ways(world, alice, method):
    alice.request(method, "sip:bob@home.example", sdp="")
    there = world.network.expect(method)
    world.network.reply(there, 202, ("X-Test", "1"))
    assert alice.expect(202).headers.get("X-Test") == "1"
    world.network.request(method, alice.contact, ("Route", alice.path))
    alice.reply(alice.expect(method), 200)
    world.network.expect(200)


@pytest.mark.parametrize("method", ["BYE", "UPDATE", "PRACK", "INFO"])
def test_what_is_of_calls_alone_is_481_without_a_dialog(world, alice, method):
    alice.request(method, "sip:bob@home.example", sdp=protected("192.0.2.10"))
    alice.expect(481)
    world.network.request(method, alice.contact, ("Route", alice.path))
    world.network.expect(481)


@pytest.mark.parametrize("method", ["OPTIONS", "MESSAGE", "FOO"])
def test_a_description_outside_of_negotiation_does_not_pass_with_its_keys(world, alice, method):
    alice.request(method, "sip:bob@home.example", sdp=protected("192.0.2.10"))
    assert not world.network.expect(method).body
    world.network.request(method, alice.contact, ("Route", alice.path))
    alice.reply(alice.expect(method), 200, sdp=protected("192.0.2.10"))
    assert not world.network.expect(200).body


def test_a_subscription_is_recorded_and_its_notify_finds_the_ue(world, alice):
    subscribe = alice.request("SUBSCRIBE", "sip:bob@home.example", ("Event", "presence"))
    there = world.network.expect("SUBSCRIBE")
    ok = world.network.reply(there, 200)
    alice.expect(200)
    talk = world.network.dialog(there, ok)
    talk.request("NOTIFY", ("Event", "presence"), ("Subscription-State", "active"))
    notify = alice.expect("NOTIFY")
    alice.reply(notify, 200)
    world.network.expect(200)
    alice.dialog(subscribe, ok).request("SUBSCRIBE", ("Expires", "0"))
    world.network.expect("SUBSCRIBE")


def test_what_belongs_to_no_call_is_481(world, alice):
    for method in ("BYE", "UPDATE", "PRACK", "INFO", "INVITE"):
        gone = ("To", "<sip:bob@home.example>;tag=gone")
        alice.request(method, "sip:bob@203.0.113.5", gone, ("Route", f"<sip:0123@{ACCESS};lr>"))
        alice.expect(481)
        world.network.request(method, alice.contact, gone, ("Route", f"<sip:0123@{CORE};lr>"))
        world.network.expect(481)
    assert world.network.quiet()


def test_a_stray_ack_is_dropped(world, alice):
    alice.request("ACK", "sip:bob@203.0.113.5", ("Route", f"<sip:0123@{ACCESS};lr>"))
    assert world.network.quiet()
    assert world.status()["drops"] == {"ack-of-no-call": 1}


@pytest.mark.parametrize("uri", ["http://x", "mailto:bob@x"])
def test_other_schemes_are_416(world, alice, uri):
    alice.invite(uri, sdp=AUDIO)
    alice.expect(416)


@pytest.mark.parametrize(
    "target", ["<sips:bob@203.0.113.5>", "<sip:bob@203.0.113.5;transport=ws>", "<tel:+49301>"]
)
def test_a_service_route_that_cannot_be_followed_is_refused(world, target):
    alice = world.ue(10)
    alice.register("alice")
    world.network.accept(world.network.expect("REGISTER"), 3600, ("Service-Route", target))
    alice.expect(200)
    alice.invite("sip:bob@home.example", sdp=AUDIO)
    assert [each.status for each in alice.inbox] in ([503], [404])


def test_a_long_request_goes_to_the_core_over_tcp(world, alice):
    alice.invite("sip:bob@home.example", ("Subject", "x" * 1300), sdp=AUDIO)
    there = world.network.expect("INVITE")
    assert there.via.transport == "TCP"
    world.network.reply(there, 486)
    alice.expect(486)


def test_another_ue_that_knows_the_token_gets_nothing_of_a_call(world, alice, bob):
    """The token stands in the Record-Route that the other end sees, and so do the tags."""
    here, far = world.originate(alice)
    for tag in (here.there, "<sip:bob@home.example>;tag=wrong"):
        for method in ("INFO", "BYE"):
            theft = here.compose(method, ("Via", bob.via()))
            theft.headers.set("To", tag)
            bob.send(theft)
            bob.expect(403)
    bob.send(here.compose("ACK", ("Via", bob.via()), cseq=here.invite.cseq.number))
    assert world.network.quiet()
    far.hang_up(here)


def test_a_request_of_no_dialog_does_not_move_a_call(world, alice):
    here, far = world.originate(alice)
    moved = world.ue(10, 9999)
    wrong = here.compose("INFO", ("Via", moved.via()))
    wrong.headers.set("To", "<sip:bob@home.example>;tag=wrong")
    moved.send(wrong)
    moved.expect(481)
    far.hang_up(here)


@pytest.mark.parametrize("method", ["INFO", "BYE", "ACK"])
def test_a_ue_cannot_say_where_a_request_of_its_call_goes(world, alice, method):
    here, _ = world.originate(alice)
    sink = world.ue(66)
    cseq = here.invite.cseq.number if method == "ACK" else None
    here.routes = [*here.routes, f"<sip:{sink.address};lr>"]
    here.target = f"sip:bob@{sink.address}"
    alice.send(here.compose(method, cseq=cseq))
    assert sink.quiet()
    assert not world.network.expect(method).headers.values("Route")


@pytest.mark.parametrize("method", ["MESSAGE", "SUBSCRIBE", "REFER", "NOTIFY"])
@pytest.mark.parametrize("by", ["route", "uri"])
def test_an_invented_dialog_does_not_get_around_the_home_network(world, alice, method, by):
    sink = world.ue(66)
    route = [("Route", f"<sip:{sink.address};lr>")] if by == "route" else []
    alice.request(method, f"sip:bob@{sink.address}", ("To", "<sip:bob@home.example>;tag=x"), *route)
    assert sink.quiet()
    assert world.network.expect(method).headers.values("Route") == [
        f"<sip:orig@{NETWORK};lr>",
        *(value for _, value in route),
    ]


@pytest.mark.parametrize("method", ["INVITE", "MESSAGE"])
def test_a_ue_that_says_503_speaks_for_itself(world, bob, method):
    """RFC 3261 section 16.7 item 6: the home network would leave everybody behind us alone."""
    world.network.request(method, bob.contact, ("Route", bob.path), sdp=ANSWER if method == "INVITE" else b"")
    bob.reply(bob.expect(method), 503, ("Retry-After", "86400"))
    refusal = world.network.expect(500)
    assert refusal.reason == "Server Internal Error"
    assert "Retry-After" not in refusal.headers


@pytest.mark.parametrize("method", ["INVITE", "SUBSCRIBE"])
@pytest.mark.parametrize(
    ("above", "below"),
    [
        ([], None),
        ([], []),
        ([], ["<sip:elsewhere.example;lr>"]),
        (["<sip:near.example;lr>"], None),  # a proxy between us and the UE
        (["<sip:near.example;lr>"], ["<sip:elsewhere.example;lr>"] * 3),
    ],
)
def test_a_called_ue_does_not_say_which_way_requests_come_back(world, bob, method, above, below):
    """TS 24.229 clause 5.2.6.4.4: else the far end's requests would get around us and the home network."""
    beyond = ("Record-Route", SCSCF)
    world.network.request(
        method, bob.contact, ("Route", bob.path), beyond, sdp=ANSWER if method == "INVITE" else b""
    )
    there = bob.expect(method)
    sent = there.headers.values("Record-Route")
    assert len(sent) == 3
    said = [*above, *(sent if below is None else below)]
    there.headers.set("Record-Route", *said)
    answer = session("192.0.2.11", media(4000, "RTP/SAVP", crypto())) if method == "INVITE" else b""
    bob.reply(there, 200, sdp=answer)
    got = world.network.expect(200).headers.values("Record-Route")
    assert got == [*said[: max(0, len(said) - 3)], *sent]


def test_a_called_ue_s_many_routes_leave_in_one_line(world, bob):
    """A line for each of them made eight times as much, and no message that anybody reads."""
    world.network.request("MESSAGE", bob.contact, ("Route", bob.path), ("Record-Route", f"{SCSCF}, {SCSCF}"))
    there = bob.expect("MESSAGE")
    sent = there.headers.lines("Record-Route")
    there.headers.set("Record-Route", ",".join("a" * 5000))
    bob.reply(there, 200)
    got = world.network.expect(200).headers
    assert got.lines("Record-Route") == [", ".join("a" * (5000 - len(sent) - 1)), *sent]
