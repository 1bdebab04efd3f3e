"""Session timers (RFC 4028): what both ends say passes, who says nothing is asked, who asks for too much gets
less, who is silent is gone."""

import pytest

from imsalg.config import CallConfig
from tests.sim.sdp import media, protected, session

OFFER = protected("192.0.2.10")
FAR = session("203.0.113.5", media(7000))
HELD = ("a=sendrecv", "a=inactive")
SUPPORTED = ("Supported", "timer")
ASKED = 1800  # the default
LIMIT = 43_200  # the default
FOREVER = 2**32 - 1  # seconds: the longest interval that can be written
TIMER = (
    ("Supported", "timer"),
    ("Session-Expires", "1800 ;refresher = uac;x=1"),
    ("Min-SE", "90;lr=no"),
)
MARGIN = 30.0  # a third of the ninety seconds below
LONG_MARGIN = 32  # of intervals that are longer


@pytest.fixture
def alice(world):
    return world.register(world.ue(10), "alice")


def call(world, alice, *headers, told=()):
    """A call of Alice's, whose callee adds these header fields to his 200: both ends, the INVITE as it came
    and the 200 as it came back."""
    invite = alice.invite("sip:bob@home.example", *headers, sdp=OFFER)
    there = world.network.expect("INVITE")
    ok = world.network.reply(there, 200, *told, sdp=FAR)
    got = alice.expect(200)
    here, far = alice.dialog(invite, got), world.network.dialog(there, ok)
    here.ack()
    world.network.expect("ACK")
    return here, far, there, got


def timed(world, alice, seconds=90):
    """A call that has agreed on refreshes."""
    told = ("Require", "timer"), ("Session-Expires", f"{seconds};refresher=uac")
    here, far, _, _ = call(world, alice, SUPPORTED, told=told)
    return here, far


def refresh(here, far, *told):
    here.request("UPDATE", SUPPORTED)
    far.peer.reply(far.peer.expect("UPDATE"), 200, *told)
    here.peer.expect(200)


def ended(world, alice, cause):
    """Both ends are told that it is over, and why; nothing is left."""
    for peer in (alice, world.network):
        bye = peer.expect("BYE")
        assert bye.headers.get("Reason") == cause
        peer.reply(bye, 200)
    assert alice.quiet()
    assert world.network.quiet()
    return not world.status()["calls"] and not world.plane.legs


# -- what they say passes


def test_what_the_two_ends_say_of_their_session_passes_as_it_was_written_p30(world, alice):
    """Every header field of RFC 4028 passes as it was written, in requests and responses, both ways."""
    told = ("Require", "timer"), ("Session-Expires", "1800;refresher=uas")
    invite = alice.invite("sip:bob@home.example", *TIMER, sdp=OFFER)
    there = world.network.expect("INVITE")
    ok = world.network.reply(there, 200, *told, sdp=FAR)
    got = alice.expect(200)
    here, far = alice.dialog(invite, got), world.network.dialog(there, ok)
    here.ack()
    world.network.expect("ACK")
    passed = [(there, TIMER), (got, told)]
    for one, two in ((here, far), (far, here)):
        one.request("UPDATE", *TIMER)
        refresh = two.peer.expect("UPDATE")
        two.peer.reply(refresh, 200, *told)
        passed += [(refresh, TIMER), (one.peer.expect(200), told)]
    for message, headers in passed:
        for name, value in headers:
            assert message.headers.lines(name) == [value]
    here.hang_up(far)


def test_a_refresh_that_is_too_soon_passes_its_refusal_p30(world, alice):
    here, far = world.originate(alice)
    running = world.legs()
    here.request("INVITE", ("Session-Expires", "90"), sdp=protected("192.0.2.10", port=4444))
    world.network.reply(world.network.expect("INVITE"), 422, ("Min-SE", "3600"))
    assert alice.expect(422).headers.get("Min-SE") == "3600"
    assert world.legs() == running
    here.hang_up(far)


# -- who says nothing is asked


def test_an_invite_without_a_session_interval_is_given_one(world, alice):
    _, _, there, _ = call(world, alice)
    assert there.headers.lines("Session-Expires") == [str(ASKED)]
    assert "Supported" not in there.headers
    world.network.call(alice, sdp=FAR)
    assert alice.expect("INVITE").headers.lines("Session-Expires") == [str(ASKED)]


def test_it_is_no_shorter_than_the_caller_wants(world, alice):
    _, _, there, _ = call(world, alice, SUPPORTED, ("Min-SE", "3600;x=1"))
    assert there.headers.get("Session-Expires") == "3600"


def test_a_refresh_is_asked_for_its_interval_as_well(world, alice):
    here, far = timed(world, alice)
    for method in ("UPDATE", "INVITE"):
        here.request(method, sdp=OFFER)
        there = far.peer.expect(method)
        assert there.headers.lines("Session-Expires") == [str(ASKED)]
        far.peer.reply(there, 200, ("Session-Expires", "90;refresher=uas"), sdp=FAR)
        alice.expect(200)
    here.ack()


def test_an_update_before_the_200_has_no_session_to_refresh(world, alice):
    invite = alice.invite("sip:bob@home.example", SUPPORTED, sdp=OFFER)
    there = world.network.expect("INVITE")
    reliable = world.network.reply(there, 183, ("Require", "100rel"), ("RSeq", "1"), sdp=FAR)
    here = alice.dialog(invite, alice.expect(183))
    here.request("UPDATE", SUPPORTED)
    update = world.network.expect("UPDATE")
    world.network.reply(update, 200)
    ok = alice.expect(200)
    assert "Session-Expires" not in update.headers
    assert "Session-Expires" not in ok.headers
    world.network.reply(there, 200)
    assert alice.expect(200).headers.get("Session-Expires") == f"{ASKED};refresher=uac"
    here.ack()
    world.network.expect("ACK")
    here.hang_up(world.network.dialog(there, reliable))


def test_switched_off_nothing_is_asked(worlds):
    world = worlds(call=CallConfig(session_expires=0))
    alice = world.register(world.ue(10), "alice")
    _, _, there, got = call(world, alice, SUPPORTED)
    assert "Session-Expires" not in there.headers
    assert "Session-Expires" not in got.headers


def test_a_caller_that_can_is_made_the_one_that_refreshes(world, alice):
    """The callee has not understood what was asked of him."""
    _, _, _, got = call(world, alice, SUPPORTED)
    assert got.headers.get("Session-Expires") == f"{ASKED};refresher=uac"
    assert got.headers.values("Require") == ["timer"]
    world.advance(ASKED + LONG_MARGIN)
    assert ended(world, alice, 'SIP;cause=408;text="Request Timeout"')


def test_where_neither_end_can_nothing_is_agreed_on(world, alice):
    _, _, _, got = call(world, alice)
    assert "Session-Expires" not in got.headers
    world.advance(LIMIT)
    assert len(world.status()["calls"]) == 1


# -- who asks for too much


@pytest.mark.parametrize(
    ("said", "least", "sent"),
    [
        (str(FOREVER), (), str(LIMIT)),
        (f"{FOREVER} ;refresher = uas;x=1", (), f"{LIMIT};refresher = uas;x=1"),
        (str(LIMIT + 1), ("90",), str(LIMIT)),
        (f"{LIMIT} ;x=1", (), f"{LIMIT} ;x=1"),
        (str(FOREVER), (str(LIMIT + 7),), str(LIMIT + 7)),
        (str(LIMIT + 7), (str(LIMIT + 7),), str(LIMIT + 7)),
        ("50000;x=1", (str(FOREVER),), f"{FOREVER};x=1"),  # one that contradicts itself MUST be increased
    ],
)
def test_an_interval_beyond_the_limit_is_lowered_but_not_below_min_se_p30(world, alice, said, least, sent):
    """RFC 4028 section 8.1: a proxy may reduce it, not below Min-SE, and leaves the refresher alone."""
    told = ("Session-Expires", said), *(("Min-SE", value) for value in least)
    here, far, there, _ = call(world, alice, SUPPORTED, *told)
    assert there.headers.lines("Session-Expires") == [sent]
    assert there.headers.lines("Min-SE") == list(least)
    for one, two in ((here, far), (far, here)):
        one.request("UPDATE", *told)
        refresh = two.peer.expect("UPDATE")
        assert refresh.headers.lines("Session-Expires") == [sent]
        two.peer.reply(refresh, 200)
        one.peer.expect(200)


def test_what_asks_for_no_session_keeps_its_interval(world, alice):
    """RFC 4028 section 3: no session begins with a provisional response or an UPDATE before the 2xx."""
    invite = alice.invite("sip:bob@home.example", sdp=OFFER)
    there = world.network.expect("INVITE")
    world.network.reply(there, 183, ("Require", "100rel"), ("RSeq", "1"), sdp=FAR)
    here = alice.dialog(invite, alice.expect(183))
    here.request("UPDATE", ("Session-Expires", str(FOREVER)))
    assert world.network.expect("UPDATE").headers.get("Session-Expires") == str(FOREVER)


@pytest.mark.parametrize(
    ("asked", "least", "told"),
    [
        ((), (), ()),  # neither end knows what a session timer is
        ((), (), (str(FOREVER),)),
        ((), (), (f"{FOREVER};refresher=uac",)),
        ((str(FOREVER),), (str(FOREVER),), (str(FOREVER),)),  # and so it passes, but is not believed
    ],
)
def test_a_call_on_hold_whose_ends_have_died_is_ended_whatever_they_had_agreed_on(
    world, alice, asked, least, told
):
    asks = [("Session-Expires", value) for value in asked] + [("Min-SE", value) for value in least]
    here, far, _, _ = call(world, alice, *asks, told=[("Session-Expires", value) for value in told])
    here.exchange(far, "INVITE", OFFER.replace(*HELD), FAR.replace(*HELD))
    world.advance(LIMIT + LONG_MARGIN - 1)
    assert alice.quiet()
    assert len(world.status()["calls"]) == 1
    world.advance(1)
    assert ended(world, alice, 'SIP;cause=408;text="Request Timeout"')


def test_the_limit_is_the_operator_s_to_set(worlds):
    world = worlds(call=CallConfig(session_expires=0, session_limit=600))
    alice = world.register(world.ue(10), "alice")
    _, _, there, _ = call(world, alice, ("Session-Expires", "601;refresher=uac"))
    assert there.headers.get("Session-Expires") == "600;refresher=uac"
    world.advance(600 + LONG_MARGIN)
    assert ended(world, alice, 'SIP;cause=408;text="Request Timeout"')


# -- who is silent is gone


def test_a_call_on_hold_whose_ends_have_died_is_ended_in_its_time(world, alice):
    here, far = timed(world, alice)
    here.exchange(far, "UPDATE", OFFER.replace(*HELD), FAR.replace(*HELD))  # its 200 says nothing of a timer
    refresh(here, far, ("Require", "timer"), ("Session-Expires", "90;refresher=uac"))
    world.advance(90 + MARGIN - 1)
    assert alice.quiet()
    assert world.status()["ended"] == {}
    world.advance(1)
    assert ended(world, alice, 'SIP;cause=408;text="Request Timeout"')
    assert world.status()["ended"] == {"408": 1}


@pytest.mark.parametrize("end", [0, 1], ids=["caller", "callee"])
def test_a_refresh_of_either_end_begins_the_interval_anew(world, alice, end):
    ends = timed(world, alice)
    for _ in range(3):
        world.advance(80)
        refresh(ends[end], ends[1 - end], ("Require", "timer"), ("Session-Expires", "90;refresher=uac"))
    world.advance(90 + MARGIN - 1)
    assert len(world.status()["calls"]) == 1
    world.advance(1)
    assert ended(world, alice, 'SIP;cause=408;text="Request Timeout"')


def test_a_refresh_that_is_refused_is_none(world, alice):
    here, far = timed(world, alice)
    world.advance(80)
    here.request("UPDATE")
    far.peer.reply(far.peer.expect("UPDATE"), 500)
    alice.expect(500)
    world.advance(10 + MARGIN)
    assert ended(world, alice, 'SIP;cause=408;text="Request Timeout"')


def test_a_refresh_may_do_away_with_the_timer(world, alice):
    here, far = timed(world, alice)
    here.request("UPDATE")
    far.peer.reply(far.peer.expect("UPDATE"), 200)
    alice.expect(200)
    world.advance(LIMIT)
    assert len(world.status()["calls"]) == 1


@pytest.mark.parametrize("value", ["", "soon", "0", "-90", "9e1", "4294967296", "9" * 5000, ";90", "90 90"])
def test_an_interval_that_is_none_passes_and_ends_no_call(world, alice, value):
    _, _, _, got = call(world, alice, told=[("Session-Expires", value)])
    assert got.headers.lines("Session-Expires") == [value]
    world.advance(LIMIT)
    assert len(world.status()["calls"]) == 1


def test_of_two_dialogs_only_the_one_that_is_not_refreshed_ends(world, alice):
    invite = alice.invite("sip:bob@home.example", SUPPORTED, sdp=OFFER)
    there = world.network.expect("INVITE")
    for seconds in (90, 900):  # two forks that answer at once
        expires = "Session-Expires", f"{seconds};refresher=uac"
        world.network.reply(there, 200, expires, sdp=FAR, tag=f"fork{seconds}")
        alice.dialog(invite, alice.expect(200)).ack()
        world.network.expect("ACK")
    world.advance(90 + MARGIN)
    for peer in (alice, world.network):
        bye = peer.expect("BYE")
        assert "fork90" in (bye.to.tag, bye.from_.tag)
        peer.reply(bye, 200)
    assert len(world.status()["calls"]) == 1
    world.advance(900)
    assert ended(world, alice, 'SIP;cause=408;text="Request Timeout"')


# -- over a restart


def test_over_a_restart_the_interval_goes_on(world, alice):
    timed(world, alice)
    world.advance(60)
    world.save()
    world.restart(1.0)
    world.advance(29 + MARGIN - 1)
    assert alice.quiet()
    world.advance(1)
    assert ended(world, alice, 'SIP;cause=408;text="Request Timeout"')


def test_a_session_that_was_over_meanwhile_is_ended_at_once(world, alice):
    timed(world, alice, 3)
    world.save()
    world.restart(4.5)
    world.advance(0)
    assert ended(world, alice, 'SIP;cause=408;text="Request Timeout"')
