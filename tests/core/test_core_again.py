"""Requests that come again with what a refusal has asked for (trap P37)."""

import pytest

from imsalg.config import LimitsConfig
from imsalg.passage import AGAIN
from tests.sim.sdp import crypto, lines_of, material, media, protected, session

OFFER = protected("192.0.2.10")
FAR = session("203.0.113.5", media(7000))
NEAR = session("192.0.2.10", media(4000, "RTP/SAVP", crypto("k")))
CREDENTIALS = ("Proxy-Authorization", 'Digest username="alice", response="0"')


@pytest.fixture
def alice(world):
    return world.register(world.ue(10), "alice")


def again(peer, first, *headers, sdp=OFFER, **changed):
    """The same INVITE with the next CSeq (RFC 3261 section 22.2)."""
    same = {
        "From": first.headers.get("From"),
        "Call-ID": first.call_id,
        "CSeq": f"{first.cseq.number + 1} INVITE",
        "To": f"<{first.to.uri}>",
        **changed,
    }
    routes = [("Route", value) for value in first.headers.values("Route")]
    return peer.invite(first.uri, *same.items(), *routes, *headers, sdp=sdp)


def refuse(world, alice, status, *headers):
    """Alice's INVITE, refused: as she sent it and as it came."""
    first = alice.invite("sip:bob@home.example", sdp=OFFER)
    there = world.network.expect("INVITE")
    world.network.reply(there, status, *headers)
    alice.expect(status)
    return first, there


@pytest.mark.parametrize("status", [401, 407, 422])
def test_an_invite_again_has_the_same_context_ports_and_session_p37(world, alice, status):
    first, one = refuse(world, alice, status)
    standing, asked = world.legs(), len(world.asked)
    second = again(alice, first, CREDENTIALS)
    two = world.network.expect("INVITE")
    assert two.body == one.body
    assert two.headers.values("Record-Route") == one.headers.values("Record-Route")
    assert (world.legs(), len(world.asked)) == (standing, asked)
    assert len(world.status()["calls"]) == 1
    ok = world.network.reply(two, 200, sdp=FAR)
    here = alice.dialog(second, alice.expect(200))
    here.ack()
    assert world.network.expect("ACK").cseq.number == second.cseq.number
    here.hang_up(world.network.dialog(two, ok))
    assert not world.status()["calls"]
    assert not world.plane.legs


def test_a_ue_that_wants_a_longer_session_is_offered_the_same_keys_again_p30_p37(world, alice):
    """422 of the UE itself: its caller comes again with the Min-SE it was told."""
    first = world.network.call(alice, ("Session-Expires", "90"), ("Supported", "timer"), sdp=FAR)
    one = alice.expect("INVITE")
    alice.reply(one, 422, ("Min-SE", "1800"))
    assert world.network.expect(422).headers.get("Min-SE") == "1800"
    again(world.network, first, ("Session-Expires", "1800"), ("Min-SE", "1800"), sdp=FAR)
    two = alice.expect("INVITE")
    assert lines_of(two, "a=crypto") == lines_of(one, "a=crypto") != []
    assert two.body == one.body
    assert two.headers.get("Session-Expires") == two.headers.get("Min-SE") == "1800"
    alice.reply(two, 200, sdp=NEAR)
    world.network.expect(200)
    assert len(world.status()["calls"]) == 1


def test_challenged_twice_it_is_still_the_same_p37(world, alice):
    """By the home network's proxy and then by the callee."""
    first, one = refuse(world, alice, 407)
    second = again(alice, first)
    world.network.reply(world.network.expect("INVITE"), 401)
    alice.expect(401)
    again(alice, second)
    assert world.network.expect("INVITE").body == one.body


def test_why_an_early_dialog_was_ended_says_nothing_of_the_invite_that_comes_again_p26_p37(world, alice):
    first = alice.invite("sip:bob@home.example", sdp=OFFER)
    there = world.network.expect("INVITE")
    world.network.reply(there, 183, sdp=session("203.0.113.5", media(7000), media(7002)), tag="unusable")
    world.network.reply(world.network.expect("BYE"), 200)
    world.network.reply(there, 407)
    alice.expect(407)
    again(alice, first)
    world.network.reply(world.network.expect("INVITE"), 487)
    alice.expect(487)


def test_another_offer_when_it_comes_again_is_another_offer_p37(world, alice):
    first, one = refuse(world, alice, 407)
    again(alice, first, sdp=session("192.0.2.10", media(0), media(4002, kind="video")))
    two = world.network.expect("INVITE")
    assert [line.split()[0] for line in lines_of(two, "m=")] == ["audio", "video"]
    assert set(world.legs()) == {"core:2"}
    version, again_version = (int(lines_of(each, "o=")[0].split()[2]) for each in (one, two))
    assert again_version == version + 1


def test_an_invite_that_does_not_come_again_leaves_nothing_p37(world, alice):
    refuse(world, alice, 407)
    assert world.plane.legs
    world.advance(AGAIN)
    assert not world.plane.legs
    assert not world.status()["calls"]


@pytest.mark.parametrize(
    "changed",
    [
        {"Call-ID": "another@192.0.2.10"},
        {"From": "<sip:alice@home.example>;tag=another"},
        {"CSeq": "1 INVITE"},
    ],
    ids=["call-id", "tag", "cseq"],
)
def test_an_invite_that_is_another_is_another_call_p37(world, alice, changed):
    first, one = refuse(world, alice, 407)
    again(alice, first, **changed)
    assert lines_of(world.network.expect("INVITE"), "m=") != lines_of(one, "m=")
    assert len(world.status()["calls"]) == 2


def test_what_another_ue_sends_is_another_call_p37(world, alice):
    first, _ = refuse(world, alice, 407)
    bob = world.register(world.ue(11), "bob")
    again(bob, first, From=first.headers.get("From"))
    assert len(world.status()["calls"]) == 2


def test_an_invite_that_comes_again_is_no_new_call_to_the_limit_p37(worlds):
    world = worlds(limits=LimitsConfig(calls=1))
    alice = world.register(world.ue(10), "alice")
    first, _ = refuse(world, alice, 407)
    again(alice, first)
    world.network.expect("INVITE")


def test_cancelled_when_it_came_again_it_is_over_p37(world, alice):
    first, _ = refuse(world, alice, 407)
    second = again(alice, first)
    there = world.network.expect("INVITE")
    world.network.reply(there, 180)
    alice.cancel(second)
    alice.expect(487)
    world.network.reply(world.network.expect("CANCEL"), 200)
    world.network.reply(there, 487)
    assert not world.status()["calls"]
    assert not world.plane.legs


def test_a_gateway_that_restarts_in_between_ends_it_p37(world, alice):
    first, _ = refuse(world, alice, 407)
    world.disconnect()
    world.restart_gateway()
    world.connect()
    assert not world.status()["calls"]
    again(alice, first)
    world.network.expect("INVITE")


@pytest.mark.parametrize("status", [401, 407, 422, 491])
@pytest.mark.parametrize("method", ["INVITE", "UPDATE"])
def test_a_change_that_is_asked_for_again_has_the_same_keys_p37(world, alice, status, method):
    here, far = world.originate(alice, answer=FAR)
    running = world.legs()
    far.request(method, sdp=FAR)
    one = alice.expect(method)
    alice.reply(one, status)
    world.network.expect(status)
    two, _ = far.exchange(here, method, FAR, NEAR)
    assert two.body == one.body
    assert material(two) == material(here.response)
    assert world.legs() == running
    here.hang_up(far)
