"""The gateway is slow, full, silent, away, or new; and what it tells (trap P43)."""

import pytest
from msgspec.structs import replace

from agw.config import GatewayConfig as AgwConfig
from agw.config import Realm
from agw.iq.messages import Address, ErrorCode, Event, LocalStream, Reply, Reserved
from imsalg.gatelink import GIVEN_UP
from tests.sim.sdp import media, protected, session
from tests.sim.world import AGW, BASE

OFFER = protected("192.0.2.10")
FAR = session("203.0.113.5", media(7000))


@pytest.fixture
def alice(world):
    return world.register(world.ue(10), "alice")


def clean(world):
    return not world.plane.legs and not world.status()["calls"] and not world.status()["asked"]


def misled(world, change):
    """The next replies are changed on their way."""
    arrive = world.told
    world.told = lambda message: arrive(change(message) if isinstance(message, Reply) else message)


# -- it makes no sense


@pytest.mark.parametrize(
    "locals",
    [
        (),
        (LocalStream(2, Address("198.51.100.2", 40000), Address("198.51.100.2", 40001)),),
        (LocalStream(1, Address("198.51.100.2\r\na=x", 40000), Address("198.51.100.2", 40001)),),
        (LocalStream(1, Address("gateway.example", 40000), Address("gateway.example", 40001)),),
        (LocalStream(1, Address("2001:db8::2", 40000), Address("2001:db8::2", 40001)),),
        (LocalStream(1, Address("198.51.100.2", 0), Address("198.51.100.2", 40001)),),
        (LocalStream(1, Address("198.51.100.2", 65536), Address("198.51.100.2", 40001)),),
    ],
)
def test_a_reply_that_names_no_address_we_could_offer_is_a_call_less(world, alice, locals):
    misled(world, lambda reply: replace(reply, results=(Reserved("core", locals),)))
    alice.invite("sip:bob@home.example", sdp=OFFER)
    alice.expect(500)
    assert world.network.quiet()
    assert clean(world)


def test_replies_to_nothing_that_was_asked_are_ignored_and_nothing_waits_for_others(world, alice):
    misled(world, lambda reply: replace(reply, id=reply.id + 1000))
    alice.invite("sip:bob@home.example", sdp=OFFER)
    world.advance(2.0)
    alice.expect(503)
    assert world.status()["asked"] == 2
    world.advance(GIVEN_UP)
    assert clean(world)


# -- it refuses


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (ErrorCode.NO_PORTS, 503),
        (ErrorCode.OVERLOAD, 503),
        (ErrorCode.UNSUPPORTED, 488),
        (ErrorCode.INVALID, 500),
        (ErrorCode.UNKNOWN_REALM, 500),
        (ErrorCode.UNKNOWN_CONTEXT, 500),
    ],
)
def test_an_offer_the_gateway_refuses_is_refused(world, alice, code, status):
    world.fail.append(code)
    alice.invite("sip:bob@home.example", sdp=OFFER)
    refusal = alice.expect(status)
    assert ("Retry-After" in refusal.headers) is (status in (500, 503))
    assert world.network.quiet()
    assert clean(world)


REFUSALS = [(ErrorCode.NO_PORTS, 503), (ErrorCode.UNSUPPORTED, 488), (ErrorCode.UNKNOWN_CONTEXT, 500)]


@pytest.mark.parametrize(("code", "status"), REFUSALS)
def test_an_answer_the_gateway_refuses_ends_the_call(world, alice, code, status):
    alice.invite("sip:bob@home.example", sdp=OFFER)
    there = world.network.expect("INVITE")
    world.fail.append(code)
    world.network.reply(there, 200, sdp=FAR)
    alice.expect(status)
    world.network.expect("ACK")
    world.network.reply(world.network.expect("BYE"), 200)
    assert clean(world)


@pytest.mark.parametrize(("code", "status"), REFUSALS)
def test_an_early_answer_the_gateway_refuses_ends_its_dialog(world, alice, code, status):
    """And where the gateway has lost the context, the call as well."""
    lost = code is ErrorCode.UNKNOWN_CONTEXT
    alice.invite("sip:bob@home.example", sdp=OFFER)
    there = world.network.expect("INVITE")
    world.fail.append(code)
    world.network.reply(there, 183, sdp=FAR)
    if lost:
        alice.expect(503)
        world.network.reply(world.network.expect("CANCEL"), 200)
    world.network.reply(world.network.expect("BYE"), 200)
    world.network.reply(there, 487)
    if not lost:
        alice.expect(status)
    assert alice.quiet()
    assert world.network.quiet()
    assert clean(world)


def test_a_reinvite_the_gateway_refuses_leaves_the_call(world, alice):
    here, far = world.originate(alice)
    before = world.legs()
    world.fail.append(ErrorCode.NO_PORTS)
    here.request("INVITE", sdp=OFFER + media(4446, kind="video") + "\r\n")
    alice.expect(503)
    assert world.network.quiet()
    assert world.legs() == before
    here.hang_up(far)


def test_really_no_ports_left(worlds):
    few = AgwConfig(
        realms=(
            replace(AGW.realms[0], ports=(30000, 30003)),
            Realm(name="core", addresses=("198.51.100.2",), ports=(40000, 40001), rest=5.0),
        )
    )
    world = worlds(agw=few)
    alice = world.register(world.ue(10), "alice")
    here, far = world.originate(alice)
    alice.invite("sip:bob@home.example", sdp=OFFER)
    assert "no free ports" in alice.expect(503).headers.get("Warning")
    here.hang_up(far)
    alice.invite("sip:bob@home.example", sdp=OFFER)
    alice.expect(503)  # they rest
    world.advance(6)
    world.originate(alice)


# -- it does not answer


def test_a_gateway_that_does_not_answer_is_503_after_its_time_limit(world, alice):
    world.held = True
    alice.invite("sip:bob@home.example", sdp=OFFER)
    world.advance(1.9)
    assert alice.quiet()
    world.advance(0.2)
    alice.expect(503)
    assert world.network.quiet()
    assert any("did not answer" in note.text for note in world.notes)


def test_the_gateway_stops_answering_in_a_call(world, alice):
    here, _ = world.originate(alice)
    world.held = True
    here.request("INVITE", sdp=OFFER + media(4446, kind="video") + "\r\n")
    world.advance(3)
    alice.expect(503)
    alice.reply(alice.expect("BYE"), 200)
    world.network.reply(world.network.expect("BYE"), 200)


def test_a_late_reply_of_the_gateway_is_ignored(world, alice):
    world.held = True
    alice.invite("sip:bob@home.example", sdp=OFFER)
    world.advance(3)
    alice.expect(503)
    world.answer_gateway()
    assert world.network.quiet()
    assert clean(world)


def test_a_release_the_gateway_never_answers_does_not_keep_the_call(world, alice):
    here, far = world.originate(alice)
    world.held = True
    here.hang_up(far)
    world.advance(60)
    assert not world.status()["calls"]


def test_responses_keep_their_order_while_the_gateway_is_slow(world, alice):
    """A 200 cannot overtake the 183 before it."""
    alice.invite("sip:bob@home.example", sdp=OFFER)
    there = world.network.expect("INVITE")
    world.held = True
    world.network.reply(there, 183, sdp=FAR)
    world.network.reply(there, 180)
    world.network.reply(there, 200, sdp=FAR)
    assert alice.quiet()
    world.answer_gateway()
    assert [each.status for each in alice.inbox] == [183, 180, 200]


def test_too_much_at_once_in_one_call_is_503_and_nothing_breaks(world, alice):
    here, far = world.originate(alice)
    world.held = True
    here.request("INVITE", sdp=OFFER + media(4446, kind="video") + "\r\n")
    for _ in range(100):
        far.request("INFO")
    assert world.network.expect(503).headers.get("Retry-After")
    world.answer_gateway()
    here.hang_up(far)


# -- it is away


def test_without_a_gateway_there_are_no_calls_but_everything_else(worlds):
    world = worlds(connected=False)
    alice = world.register(world.ue(10), "alice")
    alice.invite("sip:bob@home.example", sdp=OFFER)
    assert alice.expect(503).headers.get("Retry-After")
    alice.request("MESSAGE", "sip:bob@home.example")
    world.network.expect("MESSAGE")
    world.connect()
    world.originate(alice)


def test_a_gateway_that_is_back_within_the_grace_time_has_its_calls(world, alice):
    here, far = world.originate(alice)
    before = world.legs()
    world.disconnect()
    world.advance(4)
    world.connect()
    world.advance(10)
    assert world.legs() == before
    assert world.status()["asked"] == 0
    here.hang_up(far)
    assert clean(world)


def test_a_call_that_ends_while_the_gateway_is_away_is_given_back_by_the_claims(world, alice):
    here, far = world.originate(alice)
    world.disconnect()
    here.hang_up(far)
    assert not world.status()["calls"]
    assert world.plane.legs
    world.connect()
    assert clean(world)


def test_a_call_that_ends_while_the_greeting_is_on_its_way_is_given_back(world, alice):
    here, far = world.originate(alice)
    world.disconnect()
    claims = world.core.claims()
    here.hang_up(far)
    world.connect(claims)
    assert clean(world)


def test_a_call_that_falls_silent_while_the_gateway_is_away_ends_when_it_is_back(world, alice):
    world.originate(alice)
    world.disconnect()
    world.plane.silent = 60.0
    world.media(Event.MEDIA_INACTIVE)
    world.connect()
    alice.reply(alice.expect("BYE"), 200)
    world.network.reply(world.network.expect("BYE"), 200)
    assert clean(world)


def test_a_reinvite_while_the_gateway_is_away_is_503_and_the_call_goes_on(world, alice):
    here, far = world.originate(alice)
    world.disconnect()
    here.request("INVITE", sdp=OFFER + media(4446, kind="video") + "\r\n")
    alice.expect(503)
    world.connect()
    here.hang_up(far)
    assert clean(world)


def test_a_gateway_that_stays_away_ends_the_calls(world, alice):
    world.originate(alice)
    world.disconnect()
    world.advance(4.9)
    assert alice.quiet()
    world.advance(0.2)
    alice.reply(alice.expect("BYE"), 200)
    world.network.reply(world.network.expect("BYE"), 200)
    assert not world.status()["calls"]
    world.advance(60)  # and the gateway's grace time
    assert clean(world)


def test_a_gateway_that_goes_in_the_middle_of_a_command_ends_that_call(world, alice):
    world.held = True
    alice.invite("sip:bob@home.example", sdp=OFFER)
    world.disconnect()
    alice.expect(503)
    world.held = False
    world.connect()
    assert clean(world)


def test_a_restarted_gateway_has_no_calls(world, alice):
    world.originate(alice)
    world.disconnect()
    world.restart_gateway()
    world.connect()
    alice.reply(alice.expect("BYE"), 200)
    world.network.reply(world.network.expect("BYE"), 200)
    assert clean(world)
    world.originate(alice)


def test_a_call_that_is_not_anchored_survives_a_restart(world, alice):
    line = "m=message 7394 TCP/MSRP *"
    here, far = world.originate(alice, session("192.0.2.10", line), session("203.0.113.5", line))
    world.disconnect()
    world.restart_gateway()
    world.connect()
    here.hang_up(far)


def test_a_call_whose_lines_were_all_declined_survives_a_short_absence(world, alice):
    here, far = world.originate(alice, answer=session("203.0.113.5", media(0)))
    world.disconnect()
    world.connect()
    here.hang_up(far)


def test_calls_survive_a_short_absence_however_many_contexts_the_gateway_has(world, alice):
    """Nobody asks for all of them, which may be more than one message can tell."""
    here, far = world.originate(alice)
    world.disconnect()
    asked = len(world.asked)
    world.fail.append(ErrorCode.OVERLOAD)
    world.connect()
    assert len(world.asked) == asked
    world.fail.clear()
    here.hang_up(far)
    assert clean(world)


def test_a_gateway_that_lost_one_context_while_away_ends_that_call_alone_p43(world, alice):
    world.originate(alice)
    lost = world.audit().contexts[0].context
    here, far = world.originate(alice)
    world.disconnect()
    leg = next(id for id in world.plane.legs if id.context == lost)
    world.gateway.event(leg, Event.CONTEXT_LOST, "", world.now)
    while world.gateway.next_notice() is not None:
        pass  # nobody hears it
    world.connect()
    world.network.reply(world.network.expect("BYE"), 200)
    alice.reply(alice.expect("BYE"), 200)
    assert len(world.status()["calls"]) == 1
    here.hang_up(far)
    assert clean(world)


# -- what arrives while the call ends


@pytest.mark.parametrize("ending", ["cancel", "shutdown"])
def test_a_200_that_waits_while_the_call_ends_is_acknowledged_and_hung_up(world, alice, ending):
    invite = alice.invite("sip:bob@home.example", sdp=OFFER)
    there = world.network.expect("INVITE")
    world.network.reply(there, 180)
    alice.expect(180)
    world.held = True
    world.network.reply(there, 200, sdp=FAR)
    if ending == "cancel":
        alice.cancel(invite)
    else:
        world.core.shutdown(world.now)
        world.settle()
    assert [each.status for each in alice.inbox] == [487 if ending == "cancel" else 503]
    assert world.network.expect("ACK").to.tag == "there"
    world.network.reply(world.network.expect("BYE"), 200)
    assert world.network.quiet()  # one BYE, and no CANCEL of what is answered
    world.answer_gateway()
    assert clean(world)


def test_a_prack_answered_while_the_call_ends_leaves_nothing(world, alice):
    invite = alice.invite("sip:bob@home.example", sdp=OFFER)
    there = world.network.expect("INVITE")
    world.network.reply(there, 183, ("Require", "100rel"), ("RSeq", "1"), sdp=FAR)
    talk = alice.dialog(invite, alice.expect(183))
    moved = protected("192.0.2.10", port=4444)
    talk.request("PRACK", ("RAck", f"1 {invite.cseq.number} INVITE"), sdp=moved)
    prack = world.network.expect("PRACK")
    world.held = True
    world.network.reply(prack, 200, sdp=FAR)
    alice.cancel(invite)
    world.network.reply(world.network.expect("CANCEL"), 200)
    world.network.reply(there, 487)
    world.answer_gateway()
    assert clean(world)


# -- it tells


def test_a_lost_context_ends_the_call(world, alice):
    world.originate(alice)
    world.media(Event.CONTEXT_LOST)
    alice.reply(alice.expect("BYE"), 200)
    world.network.reply(world.network.expect("BYE"), 200)
    assert clean(world)


@pytest.mark.parametrize("event", [Event.MEDIA_FIRST, Event.SRTP_FAILURES])
def test_other_news_are_noted(world, alice, event):
    here, far = world.originate(alice)
    world.media(event)
    assert any(event.value in note.text for note in world.notes)
    here.hang_up(far)


def test_silence_on_both_sides_ends_the_call(world, alice):
    world.originate(alice)
    world.plane.silent = 60.0
    world.media(Event.MEDIA_INACTIVE)
    alice.reply(alice.expect("BYE"), 200)
    world.network.reply(world.network.expect("BYE"), 200)
    assert clean(world)
    assert any("no media" in note.text for note in world.notes)


def test_silence_counts_only_once_the_call_is_answered(world, alice):
    """With preconditions the answer comes in the first 183, and then it rings."""
    invite = alice.invite("sip:bob@home.example", sdp=OFFER)
    there = world.network.expect("INVITE")
    world.network.reply(there, 183, sdp=FAR)
    alice.expect(183)
    assert {leg.inactivity for leg in world.legs().values()} == {0.0}
    world.network.reply(there, 200)
    here = alice.dialog(invite, alice.expect(200))
    here.ack()
    assert {leg.inactivity for leg in world.legs().values()} == {60.0}


def test_silence_on_one_side_does_not(world, alice):
    here, far = world.originate(alice)
    world.plane.silent = 1.0
    world.media(Event.MEDIA_INACTIVE)
    assert alice.quiet()
    here.hang_up(far)


def test_news_of_a_call_that_is_gone_are_nothing(world, alice):
    here, far = world.originate(alice)
    world.held = True
    world.media(Event.MEDIA_INACTIVE)
    here.hang_up(far)
    world.answer_gateway()
    assert clean(world)


def test_a_gateway_without_one_of_our_realms_is_noted(worlds):
    world = worlds(access=(replace(BASE["access"][0], realm="elsewhere"),))
    assert any("no realm elsewhere" in note.text for note in world.notes)
