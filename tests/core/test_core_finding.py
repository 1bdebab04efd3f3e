"""Requests find a server of the core: names, several servers, dead ones, and what comes too late."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from imsalg.finding import LOOKUP_LIMIT, MAX_TRIES, MAX_WAITING
from imsalg.names import Answer
from imsalg.sip.hop import Flow, Transport
from imsalg.sip.locate import Naptr, Srv
from imsalg.sip.values import Address
from tests.sim.peer import Peer
from tests.sim.sdp import crypto, media, protected, session
from tests.sim.world import BASE, CORE, World

OFFER = protected("192.0.2.10")
ANSWER = session("203.0.113.5")
FIRST, SECOND, THIRD = (Address(f"198.51.100.{number}", 5060) for number in (21, 22, 23))
SCSCF = "<sip:scscf.home.example:5060;lr>"
ZONE = {
    ("_sip._udp.home.example", "SRV"): [
        Srv(1, 0, 5060, "one.home.example"),
        Srv(2, 0, 5060, "two.home.example"),
    ],
    ("one.home.example", "A"): [FIRST.host],
    ("two.home.example", "A"): [SECOND.host],
}


def named(worlds, next_hop="sip:home.example", **core) -> World:
    world = worlds(core=replace(BASE["core"], next_hop=next_hop, **core))
    world.dns = dict(ZONE)
    return world


def server(world: World, address: Address) -> Peer:
    return Peer(world, address, CORE)


def ask(peer: Peer) -> None:
    """A request that leaves nothing behind but what is learnt of the core."""
    peer.request("REGISTER", "sip:home.example", ("Expires", "600"), ("Contact", f"<{peer.contact}>"))


@pytest.fixture
def world(worlds) -> World:
    return named(worlds)


@pytest.fixture
def one(world) -> Peer:
    return server(world, FIRST)


@pytest.fixture
def two(world) -> Peer:
    return server(world, SECOND)


@pytest.fixture
def alice(world) -> Peer:
    """A registered phone without a Service-Route. Nobody is the first server any more."""
    ue = at_home(world, server(world, FIRST))
    del world.peers[FIRST]
    return ue


def at_home(world: World, registrar: Peer) -> Peer:
    """The same, where this is the server that has the request."""
    ue = world.ue(10)
    ue.register("alice", ("Security-Client", "sdes-srtp;mediasec"))
    request = registrar.expect("REGISTER")
    ue.path = request.headers.get("Path") or ""
    identity = ("P-Associated-URI", "<sip:alice@home.example>")
    registrar.reply(request, 200, ("Contact", f"<{ue.contact}>;expires=3600"), identity)
    ue.expect(200)
    return ue


# -- one after another


def test_a_server_that_is_silent_is_followed_by_the_next(world, alice, two):
    alice.invite("sip:bob@home.example", sdp=OFFER)
    world.advance(3.9)
    assert two.quiet()
    world.advance(0.2)
    there = two.expect("INVITE")
    two.reply(there, 200, sdp=ANSWER)
    assert alice.expect(200)


def test_each_try_is_a_transaction_with_a_branch_of_its_own(world, one, two):
    """RFC 3263 section 4.3."""
    alice = world.ue(10)
    alice.register("alice")
    first = one.expect("REGISTER")
    world.advance(4.1)
    second = two.expect("REGISTER")
    assert first.via.branch != second.via.branch
    assert len(second.headers.values("Via")) == len(first.headers.values("Via")) == 2
    assert first.headers.get("CSeq") == second.headers.get("CSeq")
    assert first.headers.get("Path") == second.headers.get("Path")
    one.reply(first, 200)  # too late
    assert alice.quiet()
    two.reply(second, 403)
    assert alice.expect(403)
    assert alice.quiet()


def test_a_server_that_is_overloaded_is_followed_by_the_next_at_once(world, alice, one, two):
    alice.invite("sip:bob@home.example", sdp=OFFER)
    one.reply(one.expect("INVITE"), 503)
    two.reply(two.expect("INVITE"), 486)
    assert alice.expect(486)
    assert "INVITE to UDP 198.51.100.21:5060: 503" in [note.text for note in world.notes]


def test_a_server_that_cannot_be_reached_is_followed_by_the_next_at_once(worlds):
    world = named(worlds, "sip:home.example;transport=tcp")
    world.dns[("_sip._tcp.home.example", "SRV")] = ZONE[("_sip._udp.home.example", "SRV")]
    two = server(world, SECOND)
    alice = world.ue(10)
    alice.register("alice")
    two.reply(two.expect("REGISTER"), 403)
    assert alice.expect(403)


def test_where_no_connection_can_be_made_an_invite_is_503_at_once(worlds):
    """RFC 3261 section 16.9: as if all had answered 503; no timer is waited for."""
    world = named(worlds, (f"sip:{FIRST}", f"sip:{SECOND};transport=tcp"))
    one = server(world, FIRST)
    alice = at_home(world, one)
    alice.invite("sip:bob@home.example", sdp=OFFER)
    one.reply(one.expect("INVITE"), 503)
    alice.expect(503)
    assert not world.status()["calls"]


def test_a_caller_in_the_core_who_cannot_be_reached_for_now_keeps_its_call(worlds):
    """RFC 3261 section 16.9: a response is dropped, and nothing is cancelled for it."""
    world = worlds()
    caller = Peer(world, FIRST, CORE, Transport.TCP)
    alice = world.register(world.ue(10), "alice")
    caller.call(alice, sdp=ANSWER)
    there = alice.expect("INVITE")
    del world.peers[FIRST]
    world.core.closed(caller.flow, world.now)
    alice.reply(there, 180)
    assert alice.quiet()
    world.peers[FIRST] = caller
    alice.reply(there, 200, sdp=session("192.0.2.10", media(4000, "RTP/SAVP", crypto())))
    assert caller.expect(200)


def test_the_next_hop_may_be_several(worlds):
    world = named(worlds, (f"sip:{FIRST}", f"sip:{SECOND}"))
    one, two = server(world, FIRST), server(world, SECOND)
    alice = world.ue(10)
    alice.register("alice")
    one.reply(one.expect("REGISTER"), 503)
    two.reply(two.expect("REGISTER"), 403)
    assert alice.expect(403)
    assert not world.looked_up


def test_where_all_answer_503_so_do_we(world, alice, one, two):
    alice.invite("sip:bob@home.example", sdp=OFFER)
    for peer in (one, two):
        peer.reply(peer.expect("INVITE"), 503)
    assert alice.expect(503)
    assert not world.status()["calls"]


def test_where_nobody_is_the_last_has_until_timer_b(world, alice):
    alice.invite("sip:bob@home.example", sdp=OFFER)
    world.advance(35.5)
    assert alice.quiet()
    world.advance(1)
    assert alice.expect(408)


def test_a_server_that_said_trying_is_waited_for(world, alice, one, two):
    alice.invite("sip:bob@home.example", sdp=OFFER)
    there = one.expect("INVITE")
    one.reply(there, 100)
    world.advance(60)
    assert two.quiet()
    one.reply(there, 503)
    assert two.expect("INVITE")


def test_what_the_caller_has_heard_of_stays_where_it_is(world, alice, one, two):
    alice.invite("sip:bob@home.example", sdp=OFFER)
    there = one.expect("INVITE")
    one.reply(there, 180)
    alice.expect(180)
    one.reply(there, 503)
    assert alice.expect(503)
    assert two.quiet()


def test_only_so_many_servers_are_tried(worlds):
    world = named(worlds)
    hosts = [f"198.51.100.{number}" for number in range(30, 30 + 2 * MAX_TRIES)]
    world.dns[("one.home.example", "A")] = hosts
    peers = [server(world, Address(host, 5060)) for host in hosts]
    alice = world.ue(10)
    alice.register("alice")
    for _ in hosts:
        for peer in peers:
            if peer.inbox:
                peer.reply(peer.expect("REGISTER"), 503)
    assert alice.expect(503)
    assert sum(bool(peer._flows) for peer in peers) == MAX_TRIES


# -- too late


def test_a_late_2xx_is_acknowledged_and_hung_up(world, alice, one, two):
    alice.invite("sip:bob@home.example", sdp=OFFER)
    late = one.expect("INVITE")
    world.advance(4.1)
    there = two.expect("INVITE")
    one.reply(late, 200, sdp=ANSWER, tag="late")
    assert one.expect("ACK").to.tag == "late"
    one.reply(one.expect("BYE"), 200)
    two.reply(there, 200, sdp=ANSWER, tag="mine")
    assert alice.expect(200).to.tag == "mine"
    one.reply(late, 200, ("X-Again", "1"), sdp=ANSWER, tag="late")
    assert one.expect("ACK")
    assert one.quiet()
    assert alice.quiet()


def test_a_late_2xx_when_the_call_is_over(world, alice, one, two):
    alice.invite("sip:bob@home.example", sdp=OFFER)
    late = one.expect("INVITE")
    world.advance(4.1)
    two.reply(two.expect("INVITE"), 486)
    assert alice.expect(486)
    one.reply(late, 200, sdp=ANSWER, tag="late")
    assert one.expect("ACK")
    one.reply(one.expect("BYE"), 200)
    assert alice.quiet()


def test_who_wakes_up_late_is_cancelled_and_not_heard(world, alice, one, two):
    alice.invite("sip:bob@home.example", sdp=OFFER)
    late = one.expect("INVITE")
    world.advance(4.1)
    there = two.expect("INVITE")
    one.reply(late, 180, tag="late")
    one.reply(one.expect("CANCEL"), 200)
    one.reply(late, 487, tag="late")
    assert alice.quiet()
    two.reply(there, 200, sdp=ANSWER)
    assert alice.expect(200)
    assert one.quiet()


def test_a_late_503_moves_nothing(world, alice, one, two):
    alice.invite("sip:bob@home.example", sdp=OFFER)
    late = one.expect("INVITE")
    world.advance(4.1)
    there = two.expect("INVITE")
    one.reply(late, 503)
    assert two.quiet()
    two.reply(there, 486)
    assert alice.expect(486)


# -- quarantine


def test_a_dead_server_is_left_alone_for_a_while(world, two):
    alice = world.ue(10)
    ask(alice)
    world.advance(4.1)
    two.reply(two.expect("REGISTER"), 403)
    assert world.status()["quarantined"] == [f"UDP {FIRST}"]
    one = server(world, FIRST)
    ask(alice)
    two.reply(two.expect("REGISTER"), 403)
    assert one.quiet()
    world.advance(30)
    assert not world.status()["quarantined"]
    ask(alice)
    assert one.expect("REGISTER")


def test_a_dead_server_is_tried_where_no_other_is_left(world, two):
    alice = world.ue(10)
    ask(alice)
    world.advance(4.1)
    two.reply(two.expect("REGISTER"), 403)
    one = server(world, FIRST)
    ask(alice)
    two.reply(two.expect("REGISTER"), 503)
    one.reply(one.expect("REGISTER"), 403)
    assert not world.status()["quarantined"]  # it has answered
    ask(alice)
    assert one.expect("REGISTER")


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ((("Retry-After", "60"),), 60),
        ((("Retry-After", "20 (maintenance);duration=3600"),), 20),
        ((("Retry-After", "99999"),), 300),
        ((), 0),
        ((("Retry-After", "soon"),), 0),
    ],
)
def test_a_503_says_for_how_long(world, one, two, headers, seconds):
    """RFC 3261 section 21.5.4: without Retry-After it is about this request."""
    alice = world.ue(10)
    ask(alice)
    one.reply(one.expect("REGISTER"), 503, *headers)
    two.reply(two.expect("REGISTER"), 403)
    world.advance(max(seconds - 1, 0))
    assert bool(world.status()["quarantined"]) is bool(seconds)
    world.advance(1)
    assert not world.status()["quarantined"]


# -- the DNS


def test_naptr_decides_the_transport_and_our_uris_say_so(worlds):
    world = named(worlds)
    world.dns[("home.example", "NAPTR")] = [Naptr(1, 1, "s", "sip+d2t", "tcp.home.example")]
    world.dns[("tcp.home.example", "SRV")] = [Srv(0, 0, 5070, "one.home.example")]
    one = Peer(world, Address(FIRST.host, 5070), CORE, Transport.TCP)
    alice = world.ue(10)
    alice.register("alice", ("Security-Client", "sdes-srtp;mediasec"))
    request = one.expect("REGISTER")
    assert request.via.transport == "TCP"
    assert (request.headers.get("Path") or "").endswith(f"@{CORE};transport=tcp;lr>")
    one.accept(request, 3600, ("Service-Route", "<sip:orig@home.example;lr>"))
    alice.expect(200)
    alice.invite("sip:bob@home.example", sdp=OFFER)
    there = one.expect("INVITE")
    ours, gm = there.headers.values("Record-Route")
    assert f"@{CORE};transport=tcp;lr>" in ours
    assert "transport" not in gm
    one.reply(there, 486)


def test_when_the_next_server_has_another_transport_our_uris_follow(worlds):
    world = named(worlds, (f"sip:{FIRST};transport=tcp", f"sip:{SECOND}"))
    two = server(world, SECOND)
    alice = at_home(world, two)
    assert alice.path.endswith(f"@{CORE};lr>")
    alice.invite("sip:bob@home.example", sdp=OFFER)
    there = two.expect("INVITE")
    assert "transport" not in there.headers.values("Record-Route")[0]
    two.reply(there, 486)


@pytest.mark.parametrize("contact", ["*", f"<sip:x@{CORE}>", "<sip:[>"])
def test_the_contact_of_a_peer_is_never_ours_when_the_next_server_has_another_transport(worlds, contact):
    """`Contact: *` is no address, and could not be read as one."""
    world = named(worlds, (f"sip:{FIRST};transport=tcp", f"sip:{SECOND}"))
    two = server(world, SECOND)
    alice = at_home(world, two)
    uri, routes = "sip:home.example", ("Contact", contact)
    if contact == "*":
        alice.request("REGISTER", uri, ("Expires", "0"), routes)
    else:
        alice.request("MESSAGE", uri, routes)
    assert two.inbox[-1].headers.values("Contact") == [contact]
    two.reply(two.inbox.pop(), 200)
    assert alice.expect(200)


def test_answers_hold_for_their_ttl(world, one):
    alice = world.ue(10)
    for _ in range(3):
        ask(alice)
        one.reply(one.expect("REGISTER"), 403)
    asked = len(world.looked_up)
    assert [question.kind for question in world.looked_up] == ["NAPTR", "SRV", "A"]
    world.advance(60)
    ask(alice)
    one.reply(one.expect("REGISTER"), 403)
    assert len(world.looked_up) == 2 * asked


def test_a_ttl_of_zero_is_good_for_those_who_wait(world, one):
    world.ttl = 0.0
    alice = world.ue(10)
    for _ in range(2):
        ask(alice)
        one.reply(one.expect("REGISTER"), 403)
    assert len(world.looked_up) == 6


def test_what_does_not_exist_is_remembered_not_to(worlds):
    world = named(worlds, "sip:nowhere.example")
    alice = world.ue(10)
    for _ in range(2):
        alice.register("alice")
        assert alice.expect(503)
    assert len(world.looked_up) == 4
    assert [note.text for note in world.notes].count("no server for sip:nowhere.example") == 2


def test_a_dns_that_is_gone_leaves_what_was_known(world, one):
    """RFC 8767: old data is better than no call."""
    alice = world.ue(10)
    ask(alice)
    one.reply(one.expect("REGISTER"), 403)
    world.advance(3600)
    world.dns, world.ttl = {}, None
    ask(alice)
    one.reply(one.expect("REGISTER"), 403)


def test_a_dns_that_never_answers_costs_a_few_seconds(worlds):
    world = named(worlds)
    world.dns = None
    alice = world.ue(10)
    alice.register("alice")
    world.advance(LOOKUP_LIMIT - 0.1)
    assert alice.quiet()
    world.advance(0.2)
    assert alice.expect(503)
    alice.register("alice")
    assert len(world.looked_up) == 1  # and is not asked the same again while it thinks


def test_many_who_want_the_same_ask_once(world, one):
    zone, world.dns = world.dns, None
    peers = [world.ue(number) for number in range(100, 120)]
    for peer in peers:
        ask(peer)
    assert len(world.looked_up) == 1
    world.dns = zone
    world.core.answered(world.looked_up[0], Answer(), world.now)
    world.settle()
    assert len(one.inbox) == len(peers)
    assert len(world.looked_up) == 3
    for _ in peers:
        one.reply(one.expect("REGISTER"), 403)


def test_what_waits_for_the_dns_is_limited(worlds):
    world = named(worlds)
    world.dns = None
    alice = world.ue(10)
    for _ in range(MAX_WAITING + 1):
        ask(alice)
    assert len(alice.inbox) == 1
    assert alice.expect(503)


# -- calls


def test_a_call_is_cancelled_while_its_server_is_looked_up(world, alice, one, two):
    world.dns = None
    world.advance(61)
    invite = alice.invite("sip:bob@home.example", sdp=OFFER)
    assert one.quiet()
    alice.cancel(invite)
    assert alice.expect(487)
    assert not world.status()["calls"]
    world.advance(60)
    assert one.quiet()
    assert two.quiet()


def test_a_call_is_cancelled_while_a_server_is_silent(world, alice, two):
    invite = alice.invite("sip:bob@home.example", sdp=OFFER)
    world.advance(2)
    alice.cancel(invite)
    assert alice.expect(487)
    world.advance(60)
    assert two.quiet()
    assert not world.status()["calls"]


def test_requests_in_a_dialog_follow_names_in_its_route_set(world, alice, one):
    world.advance(61)
    invite = alice.invite("sip:bob@home.example", sdp=OFFER)
    there = one.expect("INVITE")
    there.headers.prepend("Record-Route", SCSCF)
    world.dns[("scscf.home.example", "A")] = [THIRD.host]
    far = server(world, THIRD)
    one.reply(there, 200, sdp=ANSWER)
    here = alice.dialog(invite, alice.expect(200))
    here.ack()
    assert far.expect("ACK").headers.values("Route") == [SCSCF]
    here.request("INFO")
    far.reply(far.expect("INFO"), 200)
    alice.expect(200)
    world.core.shutdown(world.now)
    world.settle()
    far.reply(far.expect("BYE"), 200)
    alice.reply(alice.expect("BYE"), 200)


def test_a_request_to_a_ue_asks_nobody(worlds):
    world = named(worlds)
    one = server(world, FIRST)
    alice = at_home(world, one)
    asked = len(world.looked_up)
    invite = one.invite("sip:alice@ue.nowhere.example", ("Route", alice.path), sdp=ANSWER)
    assert invite
    alice.reply(alice.expect("INVITE"), 486)
    assert one.expect(486)
    assert len(world.looked_up) == asked


def test_a_bye_of_our_own_finds_another_server(world, alice, one, two):
    invite = alice.invite("sip:bob@home.example", sdp=OFFER)
    there = one.expect("INVITE")
    there.headers.prepend("Record-Route", "<sip:home.example;lr>")
    one.reply(there, 200, sdp=ANSWER)
    alice.dialog(invite, alice.expect(200)).ack()
    one.expect("ACK")
    del world.peers[FIRST]
    world.core.shutdown(world.now)
    world.settle()
    alice.reply(alice.expect("BYE"), 200)
    world.advance(4.1)
    two.reply(two.expect("BYE"), 200)


def test_the_connection_to_a_silent_server_breaks_when_the_next_was_found(worlds):
    world = named(worlds, (f"sip:{FIRST};transport=tcp", f"sip:{SECOND}"))
    one, two = server(world, FIRST), server(world, SECOND)
    alice = world.ue(10)
    alice.register("alice")
    one.expect("REGISTER")
    world.advance(4.1)
    world.core.transport_failed(Flow(Transport.TCP, CORE, FIRST), world.now, "reset")
    world.settle()
    two.reply(two.expect("REGISTER"), 403)
    assert alice.expect(403)
    assert alice.quiet()
