"""How calls end: CANCEL at each stage, refusals, limits, failures, BYE from either side and from us."""

import pytest
from msgspec.structs import replace

from imsalg.config import CallConfig, LimitsConfig
from imsalg.passage import AGAIN
from imsalg.sip.hop import Transport
from tests.sim.sdp import media, protected, session
from tests.sim.world import BASE, CORE, NETWORK

OFFER = protected("192.0.2.10")
FAR = session("203.0.113.5", media(7000))


@pytest.fixture
def alice(world):
    return world.register(world.ue(10), "alice")


def clean(world):
    return not world.plane.legs and not world.status()["calls"] and not world.status()["asked"]


# -- CANCEL


def test_cancel_before_the_gateway_replied(world, alice):
    world.held = True
    invite = alice.invite("sip:bob@home.example", sdp=OFFER)
    assert world.network.quiet()
    alice.cancel(invite)
    alice.expect(487)
    world.answer_gateway()
    assert world.network.quiet()
    assert clean(world)


def test_cancel_before_a_provisional_waits_for_one(world, alice):
    invite = alice.invite("sip:bob@home.example", sdp=OFFER)
    there = world.network.expect("INVITE")
    alice.cancel(invite)
    alice.expect(487)
    assert not world.plane.legs
    assert world.network.quiet()
    world.network.reply(there, 180)
    world.network.reply(world.network.expect("CANCEL"), 200)
    world.network.reply(there, 487)
    assert alice.quiet()
    assert clean(world)


def test_cancel_before_a_provisional_that_never_comes(world, alice):
    invite = alice.invite("sip:bob@home.example", sdp=OFFER)
    alice.cancel(invite)
    alice.expect(487)
    world.advance(40)
    assert clean(world)


@pytest.mark.parametrize("status", [100, 180, 183])
def test_cancel_after_a_provisional(world, alice, status):
    invite = alice.invite("sip:bob@home.example", sdp=OFFER)
    there = world.network.expect("INVITE")
    world.network.reply(there, status)
    alice.cancel(invite)
    cancel = world.network.expect("CANCEL")
    assert cancel.via.branch == there.via.branch
    world.network.reply(cancel, 200)
    world.network.reply(there, 487)
    alice.expect(487)
    assert clean(world)


def test_why_it_is_cancelled_is_told_the_callee(world, alice):
    reason = 'SIP;cause=200;text="Call completed elsewhere"'
    invite = world.network.call(alice, sdp=session("203.0.113.5"))
    there = alice.expect("INVITE")
    alice.reply(there, 180)
    world.network.cancel(invite, ("Reason", reason))
    cancel = alice.expect("CANCEL")
    assert cancel.headers.lines("Reason") == [reason]
    alice.reply(cancel, 200)
    alice.reply(there, 487)
    assert clean(world)


def test_cancel_that_crosses_the_200_is_acknowledged_and_hung_up(world, alice):
    invite = alice.invite("sip:bob@home.example", sdp=OFFER)
    there = world.network.expect("INVITE")
    world.network.reply(there, 180)
    alice.cancel(invite)
    alice.expect(180)
    alice.expect(487)
    world.network.expect("CANCEL")
    ok = world.network.reply(there, 200, sdp=FAR)
    ack, bye = world.network.expect("ACK"), world.network.expect("BYE")
    assert ack.cseq.number == there.cseq.number
    assert bye.cseq.number == there.cseq.number + 1
    assert (ack.uri, bye.uri) == (f"sip:there@{NETWORK}",) * 2
    assert bye.headers.get("To") == ok.headers.get("To")
    assert bye.headers.get("From") == there.headers.get("From")
    assert bye.call_id == there.call_id
    assert bye.headers.get("Reason") == 'SIP;cause=487;text="Request Terminated"'
    world.network.send(ok)  # again: the ACK was lost
    assert world.network.expect("ACK").to.tag == "there"
    world.network.reply(bye, 200)
    assert alice.quiet()
    assert clean(world)


def test_a_cancelled_call_that_answers_twice_is_acknowledged_twice_and_hung_up_once(world, alice):
    invite = alice.invite("sip:bob@home.example", sdp=OFFER)
    there = world.network.expect("INVITE")
    world.network.reply(there, 180)
    alice.cancel(invite)
    world.network.reply(world.network.expect("CANCEL"), 200)
    for _ in range(2):
        world.network.reply(there, 200, sdp=FAR)
        world.network.expect("ACK")
    world.network.reply(world.network.expect("BYE"), 200)
    assert world.network.quiet()
    assert clean(world)


def test_cancel_of_a_reinvite_leaves_the_call(world, alice):
    here, far = world.originate(alice)
    before = world.legs()
    reinvite = here.request("INVITE", sdp=protected("192.0.2.10", "n", port=4444))
    there = world.network.expect("INVITE")
    world.network.reply(there, 180)
    alice.cancel(reinvite)
    world.network.reply(world.network.expect("CANCEL"), 200)
    assert not [message for message in alice.inbox if message.status == 487]  # it may have been accepted
    world.network.reply(there, 487)
    alice.expect(487)
    assert world.legs() == before
    here.hang_up(far)


def test_a_cancelled_reinvite_that_was_accepted_changes_the_media_on_both_sides(world, alice):
    here, far = world.originate(alice)
    reinvite = here.request("INVITE", sdp=protected("192.0.2.10", port=4444))
    there = world.network.expect("INVITE")
    world.network.reply(there, 180)
    alice.cancel(reinvite)
    world.network.reply(world.network.expect("CANCEL"), 200)
    world.network.reply(there, 200, sdp=FAR)
    alice.expect(200)
    here.ack(reinvite)
    assert world.network.expect("ACK").cseq.number == there.cseq.number
    assert (world.leg("access").remote.port, world.leg("core").remote.port) == (4444, 7000)
    here.hang_up(far)


def test_a_reinvite_cancelled_before_the_gateway_replied_goes_nowhere(world, alice):
    here, far = world.originate(alice)
    before = world.legs()
    world.held = True
    reinvite = here.request("INVITE", sdp=OFFER + media(4, kind="video") + "\r\n")
    alice.cancel(reinvite)
    alice.expect(487)
    world.answer_gateway()
    assert world.network.quiet()
    assert world.legs() == before
    here.hang_up(far)


# -- refusals


@pytest.mark.parametrize("status", [300, 302, 305, 400, 401, 407, 404, 422, 480, 486, 500, 503, 600, 603])
def test_a_refusal_passes_as_it_is(world, alice, status):
    alice.invite("sip:bob@home.example", sdp=OFFER)
    there = world.network.expect("INVITE")
    world.network.reply(there, status, ("Contact", "<sip:x@y>"), ("X-Why", "because"))
    got = alice.expect(status)
    assert got.headers.get("X-Why") == "because"
    assert got.headers.get("Contact") == "<sip:x@y>"
    assert world.network.quiet()  # its ACK went hop by hop
    assert bool(world.status()["calls"]) is (status in (401, 407, 422))  # these may come again
    world.advance(AGAIN)
    assert clean(world)


def test_a_refusal_carries_no_description_across(world, alice):
    """What a UE says it could take instead may have keys in it."""
    world.network.call(alice, sdp=FAR)
    alice.reply(alice.expect("INVITE"), 488, sdp=OFFER)
    assert not world.network.expect(488).body


# -- time


def test_the_ringing_limit_ends_a_call(worlds):
    world = worlds(call=CallConfig(ringing_limit=30.0))
    alice = world.register(world.ue(10), "alice")
    alice.invite("sip:bob@home.example", sdp=OFFER)
    there = world.network.expect("INVITE")
    world.network.reply(there, 180)
    alice.expect(180)
    world.advance(29)
    assert alice.quiet()
    world.advance(2)
    alice.expect(408)
    cancel = world.network.expect("CANCEL")
    assert cancel.headers.get("Reason") == 'SIP;cause=408;text="Request Timeout"'
    world.network.reply(cancel, 200)
    world.network.reply(there, 487)
    assert clean(world)


def test_nobody_answers(world, alice):
    alice.invite("sip:bob@home.example", sdp=OFFER)
    world.advance(33)
    alice.expect(408)
    assert clean(world)


def test_the_next_hop_cannot_be_reached(worlds):
    world = worlds(core=replace(BASE["core"], next_hop="sip:198.51.100.77;transport=tcp"))
    alice = world.ue(10)
    alice.register("alice")
    alice.expect(503)


def test_a_ue_that_cannot_be_reached_over_its_connection_is_430(world):
    alice = world.register(world.ue(10, 40123, transport=Transport.TCP), "alice")
    del world.peers[alice.address]
    world.network.call(alice, sdp=FAR)
    world.network.expect(430)
    assert clean(world)


@pytest.mark.parametrize("method", ["UPDATE", "INFO", "BYE"])
def test_a_request_that_times_out_in_a_call_leaves_no_trace(world, alice, method):
    here, far = world.originate(alice)
    here.request(method, sdp=OFFER if method == "UPDATE" else "")
    world.advance(40)
    if method == "BYE":
        assert clean(world)
    else:
        world.network.inbox.clear()
        here.hang_up(far)


def test_a_reinvite_that_times_out_leaves_the_call(world, alice):
    here, far = world.originate(alice)
    before = world.legs()
    here.request("INVITE", sdp=protected("192.0.2.10", "n", port=4444))
    world.advance(33)
    alice.expect(408)
    assert world.legs() == before
    world.network.inbox.clear()
    here.hang_up(far)


# -- retransmissions


def test_retransmissions_are_absorbed_or_passed_and_change_nothing(world, alice):
    invite = alice.invite("sip:bob@home.example", sdp=OFFER)
    alice.send(invite)
    there = world.network.expect("INVITE")
    assert world.network.quiet()
    ok = world.network.reply(there, 200, sdp=FAR)
    first = alice.expect(200)
    asked = len(world.asked)
    world.network.send(ok)
    assert bytes(alice.absorbed[-1]) == bytes(first)
    talk = alice.dialog(invite, first)
    for _ in range(2):
        talk.ack()
        world.network.expect("ACK")
    assert len(world.asked) == asked
    talk.hang_up(world.network.dialog(there, ok))


# -- BYE


@pytest.mark.parametrize("who", [0, 1])
@pytest.mark.parametrize("way", ["originate", "terminate"])
def test_either_end_hangs_up(world, alice, who, way):
    ends = getattr(world, way)(alice)
    ends[who].hang_up(ends[1 - who])
    assert clean(world)
    ends[1 - who].request("BYE")
    ends[1 - who].peer.expect(481)


def test_a_bye_that_is_challenged_leaves_the_call(world, alice):
    here, far = world.originate(alice)
    here.request("BYE")
    world.network.reply(world.network.expect("BYE"), 401)
    alice.expect(401)
    assert len(world.status()["calls"]) == 1
    here.hang_up(far)
    assert clean(world)


def test_byes_that_cross_are_both_answered(world, alice):
    here, far = world.originate(alice)
    here.request("BYE")
    far.request("BYE")
    world.network.reply(world.network.expect("BYE"), 200)
    alice.reply(alice.expect("BYE"), 200)
    alice.expect(200)
    world.network.expect(200)
    assert clean(world)


def test_a_bye_that_crosses_a_reinvite_ends_it(world, alice):
    here, far = world.originate(alice)
    here.request("INVITE", sdp=OFFER)
    there = world.network.expect("INVITE")
    far.request("BYE")
    alice.reply(alice.expect("BYE"), 200)
    world.network.expect(200)
    assert alice.expect(481).cseq.method == "INVITE"
    world.network.reply(there, 481)
    assert clean(world)


def test_a_bye_does_not_wait_for_the_gateway(world, alice):
    here, _ = world.originate(alice)
    world.held = True
    here.request("INVITE", sdp=OFFER + media(4, kind="video") + "\r\n")
    assert world.network.quiet()
    here.request("BYE")
    world.network.reply(world.network.expect("BYE"), 200)
    alice.expect(200)
    world.answer_gateway()
    assert clean(world)


def test_bye_in_an_early_dialog(world, alice):
    invite = alice.invite("sip:bob@home.example", sdp=OFFER)
    there = world.network.expect("INVITE")
    world.network.reply(there, 183, sdp=FAR)
    alice.dialog(invite, alice.expect(183)).request("BYE")
    world.network.reply(world.network.expect("BYE"), 200)
    alice.expect(200)
    world.network.reply(there, 487)
    alice.expect(487)
    assert clean(world)


# -- ended from the middle


def test_a_call_ended_from_the_middle_says_bye_to_both_in_each_others_name(world, alice):
    here, far = world.originate(alice)
    far.request("INFO")
    alice.reply(alice.expect("INFO"), 200)
    world.network.expect(200)
    world.core.shutdown(world.now)
    world.settle()
    bye = alice.expect("BYE")
    assert bye.uri == alice.contact
    assert (bye.headers.get("From"), bye.headers.get("To")) == (here.there, here.here)
    assert bye.cseq.number == far.cseq + 1
    assert bye.call_id == here.invite.call_id
    other = world.network.expect("BYE")
    assert other.uri == f"sip:there@{NETWORK}"
    assert (other.headers.get("From"), other.headers.get("To")) == (far.there, far.here)
    assert other.cseq.number == here.cseq + 1
    assert not world.plane.legs
    assert world.status()["ended"] == {"503": 1}
    for peer, request in ((alice, bye), (world.network, other)):
        assert request.headers.get("Reason") == 'SIP;cause=503;text="Service Unavailable"'
        peer.reply(request, 200)
    assert clean(world)


def test_its_bye_follows_the_route_set_of_each_side(world, alice):
    beyond = f"<sip:scscf@{NETWORK};lr>"
    invite = alice.invite("sip:bob@home.example", sdp=OFFER)
    there = world.network.expect("INVITE")
    there.headers.prepend("Record-Route", beyond)
    world.network.reply(there, 200, sdp=FAR)
    alice.dialog(invite, alice.expect(200)).ack()
    world.core.shutdown(world.now)
    world.settle()
    assert world.network.expect("BYE").headers.values("Route") == [beyond]
    assert not alice.expect("BYE").headers.values("Route")


def test_after_our_bye_what_still_comes_is_answered(world, alice):
    here, far = world.originate(alice)
    world.core.shutdown(world.now)
    world.settle()
    here.request("BYE")
    alice.expect(200)
    far.request("INVITE", sdp=FAR)
    world.network.expect(481)
    far.request("INFO")
    world.network.expect(481)


def test_our_bye_that_is_challenged_or_never_answered_ends_the_call_all_the_same(world, alice):
    world.originate(alice)
    world.core.shutdown(world.now)
    world.settle()
    alice.reply(alice.expect("BYE"), 401)
    world.advance(40)
    assert clean(world)


def test_a_shutdown_ends_what_rings_and_refuses_what_comes(world, alice):
    alice.invite("sip:bob@home.example", sdp=OFFER)
    there = world.network.expect("INVITE")
    world.network.reply(there, 180)
    alice.expect(180)
    world.core.shutdown(world.now)
    world.settle()
    alice.expect(503)
    world.network.reply(world.network.expect("CANCEL"), 200)
    world.network.reply(there, 487)
    assert clean(world)
    alice.invite("sip:bob@home.example", sdp=OFFER)
    alice.expect(503)
    world.network.call(alice, sdp=FAR)
    world.network.expect(503)


def test_over_the_limit_of_calls_is_503(worlds):
    world = worlds(limits=LimitsConfig(calls=1))
    alice = world.register(world.ue(10), "alice")
    here, far = world.originate(alice)
    alice.invite("sip:bob@home.example", sdp=OFFER)
    assert alice.expect(503).headers.get("Retry-After")
    here.hang_up(far)
    alice.invite("sip:bob@home.example", sdp=OFFER)
    world.network.expect("INVITE")


def test_over_the_limit_of_transactions_is_503(worlds):
    world = worlds(limits=LimitsConfig(transactions=4))
    alice = world.register(world.ue(10), "alice")
    world.advance(40)
    for _ in range(5):
        alice.request("MESSAGE", "sip:bob@home.example")
    alice.expect(503)


def test_a_call_outlives_the_registration_it_was_made_under(world):
    alice = world.register(world.ue(10), "alice", expires=100)
    here, far = world.originate(alice)
    world.advance(200)
    assert not world.status()["registrations"]
    far.request("INFO")
    alice.reply(alice.expect("INFO"), 200)
    here.hang_up(far)
    assert clean(world)


def test_the_proxys_own_addresses_stand_nowhere_in_the_other_sides_contact(world, alice):
    here, far = world.originate(alice)
    assert far.target == alice.contact
    assert here.target == f"sip:there@{NETWORK}"
    assert str(CORE) not in here.target
