"""Early dialogs: each has media and keys of its own until one is chosen (traps P13, P26)."""

import pytest

from agw.iq.messages import MAX_TERMINATIONS, ErrorCode, Mode
from imsalg.branches import MAX_BRANCHES
from tests.sim.sdp import crypto, lines_of, material, media, protected, session


@pytest.fixture
def alice(world):
    return world.register(world.ue(10), "alice")


@pytest.fixture
def forked(world, alice):
    """An INVITE with e2ae, and it as the network got it."""
    invite = alice.invite("sip:bob@home.example", sdp=protected("192.0.2.10"))
    return invite, world.network.expect("INVITE")


def answer(number):
    return session(f"203.0.113.{number}", media(7000 + number))


def modes(world):
    return {name.split(":")[0]: leg.mode for name, leg in world.legs().items()}


def ring(world, alice, there, number, status=183):
    """A provisional answer of one fork, as Alice gets it."""
    world.network.reply(there, status, sdp=answer(number), tag=f"fork{number}")
    return alice.expect(status)


def test_two_forks_have_ports_and_keys_of_their_own_towards_the_caller_p26(world, alice, forked):
    _, there = forked
    one, two = (ring(world, alice, there, number) for number in (1, 2))
    assert one.to.tag != two.to.tag
    assert lines_of(one, "m=") != lines_of(two, "m=")
    assert material(one) != material(two)
    assert {name.split(":")[0] for name in world.legs()} == {"core", "access.1", "access.2"}


def test_the_latest_answer_is_heard_p26(world, alice, forked):
    _, there = forked
    ring(world, alice, there, 1)
    assert modes(world) == {"core": Mode.SENDRECV, "access.1": Mode.SENDRECV}
    assert world.leg("core").remote.host == "203.0.113.1"
    ring(world, alice, there, 2)
    assert modes(world) == {"core": Mode.SENDRECV, "access.1": Mode.INACTIVE, "access.2": Mode.SENDRECV}
    assert world.leg("core").remote.host == "203.0.113.2"
    assert world.leg("core").peer.termination == "access.2"
    ring(world, alice, there, 1, 180)  # the first again
    assert world.leg("core").remote.host == "203.0.113.2"


VIDEO = media(4002, "RTP/SAVP", crypto("v"), "a=3ge2ae:requested", kind="video") + "\r\n"


@pytest.mark.parametrize("tags", [("one", "two"), ("one", "one")], ids=["another", "the same"])
def test_what_an_announcement_declines_the_callee_may_accept_p26(world, alice, tags):
    """All callees have been told of the port, so it is the same until one has answered."""
    invite = alice.invite("sip:bob@home.example", sdp=protected("192.0.2.10") + VIDEO)
    there = world.network.expect("INVITE")
    port = world.leg("core", 2).local_rtp.port
    declined, accepted = (
        session("203.0.113.1", media(7000), media(number, kind="video")) for number in (0, 7002)
    )
    world.network.reply(there, 183, sdp=declined, tag=tags[0])
    assert lines_of(alice.expect(183), "m=video ")[0].startswith("0 ")
    leg = world.leg("core", 2)
    assert (leg.local_rtp.port, leg.mode, leg.peer) == (port, Mode.INACTIVE, None)
    world.network.reply(there, 200, sdp=accepted, tag=tags[1])
    got = alice.expect(200)
    assert lines_of(got, "m=video ")[0].startswith(f"{world.leg('access', 2).local_rtp.port} ")
    leg = world.leg("core", 2)
    assert (leg.local_rtp.port, leg.mode, leg.remote.port) == (port, Mode.SENDRECV, 7002)
    alice.dialog(invite, got).ack()


def test_a_callee_may_answer_as_it_did_before_an_announcement_p26(world, alice):
    invite = alice.invite("sip:bob@home.example", sdp=protected("192.0.2.10"))
    there = world.network.expect("INVITE")
    for status, number in ((183, 1), (183, 2), (200, 1)):
        world.network.reply(there, status, ("Subject", f"{status} {number}"), sdp=answer(number))
        got = alice.expect(status)
        assert world.leg("core").remote.host == f"203.0.113.{number}"
    alice.dialog(invite, got).ack()


def test_what_all_have_declined_is_over_with_the_2xx_p26(world, alice):
    invite = alice.invite("sip:bob@home.example", sdp=protected("192.0.2.10") + VIDEO)
    there = world.network.expect("INVITE")
    declined = session("203.0.113.1", media(7000), media(0, kind="video"))
    for number in (1, 2):
        world.network.reply(there, 183, sdp=declined, tag=f"fork{number}")
        alice.expect(183)
    assert "core:2" in world.legs()
    world.network.reply(there, 200, sdp=declined, tag="fork1")
    alice.dialog(invite, alice.expect(200)).ack()
    assert set(world.legs()) == {"core:1", "access.1:1"}


def test_a_2xx_chooses_its_dialog_and_releases_the_others_p26(world, alice, forked):
    invite, there = forked
    one = ring(world, alice, there, 1)
    ring(world, alice, there, 2)
    ok = world.network.reply(there, 200, sdp=answer(1), tag="fork1")
    got = alice.expect(200)
    assert set(modes(world)) == {"core", "access.1"}
    assert world.leg("core").remote.host == "203.0.113.1"
    assert material(got) == material(one)  # the same answer again is the same answer
    here = alice.dialog(invite, got)
    here.ack()
    world.network.expect("ACK")
    here.hang_up(world.network.dialog(there, ok))
    assert not world.status()["calls"]


def test_a_2xx_without_sdp_after_an_answer_in_18x_is_complete_p26(world, alice, forked):
    invite, there = forked
    world.network.reply(there, 183, ("Require", "100rel"), ("RSeq", "1"), sdp=answer(1), tag="fork1")
    alice.expect(183)
    world.network.reply(there, 200, tag="fork1")
    alice.dialog(invite, alice.expect(200)).ack()
    world.network.expect("ACK")
    assert modes(world)["access.1"] is Mode.SENDRECV


def test_199_releases_its_dialog_and_the_other_is_heard_again_p26(world, alice, forked):
    _, there = forked
    ring(world, alice, there, 1)
    ring(world, alice, there, 2)
    world.network.reply(there, 199, ("Reason", "SIP;cause=486"), tag="fork2")
    ended = alice.expect(199)
    assert (ended.to.tag, ended.headers.get("Reason")) == ("fork2", "SIP;cause=486")
    assert modes(world) == {"core": Mode.SENDRECV, "access.1": Mode.SENDRECV}
    assert world.leg("core").remote.host == "203.0.113.1"
    assert world.leg("core").peer.termination == "access.1"


def test_199_of_a_dialog_that_is_not_heard_changes_nothing_of_the_other_p26(world, alice, forked):
    _, there = forked
    ring(world, alice, there, 1)
    ring(world, alice, there, 2)
    heard = world.leg("access.2"), world.leg("core")
    world.network.reply(there, 199, tag="fork1")
    assert alice.expect(199).to.tag == "fork1"
    assert set(modes(world)) == {"core", "access.2"}
    assert (world.leg("access.2"), world.leg("core")) == heard


def test_199_with_a_description_passes_without_it_p26(world, alice, forked):
    """RFC 6228 section 4: it has none; and nothing is left that it could describe."""
    _, there = forked
    ring(world, alice, there, 1)
    world.network.reply(there, 199, sdp=answer(1), tag="fork1")
    assert not alice.expect(199).body


def test_a_bye_in_an_early_dialog_ends_that_one_alone_p26(world, alice, forked):
    invite, there = forked
    one = ring(world, alice, there, 1)
    ring(world, alice, there, 2)
    alice.dialog(invite, one).request("BYE")
    bye = world.network.expect("BYE")
    assert bye.to.tag == "fork1"
    world.network.reply(bye, 200)
    alice.expect(200)
    assert set(modes(world)) == {"core", "access.2"}
    world.network.reply(there, 200, sdp=answer(2), tag="fork2")
    alice.dialog(invite, alice.expect(200)).ack()


@pytest.mark.parametrize("status", [302, 404, 486, 503, 603])
def test_a_final_refusal_releases_everything_p26(world, alice, forked, status):
    _, there = forked
    ring(world, alice, there, 1)
    ring(world, alice, there, 2)
    world.network.reply(there, status, tag="fork1")
    alice.expect(status)
    assert not world.plane.legs
    assert not world.status()["calls"]


def test_cancel_releases_everything_p26(world, alice, forked):
    invite, there = forked
    ring(world, alice, there, 1)
    ring(world, alice, there, 2)
    alice.cancel(invite)
    alice.expect(487)
    assert not world.plane.legs
    cancel = world.network.expect("CANCEL")
    world.network.reply(cancel, 200)
    world.network.reply(there, 487)
    assert not world.status()["calls"]


def test_a_second_2xx_of_another_fork_is_a_dialog_too_and_the_caller_ends_it_p26(world, alice, forked):
    invite, there = forked
    talks = []
    for number in (1, 2):
        ok = world.network.reply(there, 200, sdp=answer(number), tag=f"fork{number}")
        here = alice.dialog(invite, alice.expect(200))
        here.ack()
        assert world.network.expect("ACK").to.tag == f"fork{number}"
        talks.append((here, world.network.dialog(there, ok)))
    assert set(modes(world)) == {"core", "access.1", "access.2"}
    assert world.leg("core").remote.host == "203.0.113.2"
    talks[1][0].hang_up(talks[1][1])
    assert world.leg("core").remote.host == "203.0.113.1"
    assert modes(world) == {"core": Mode.SENDRECV, "access.1": Mode.SENDRECV}
    talks[0][0].hang_up(talks[0][1])
    assert not world.status()["calls"]


def test_a_second_2xx_whose_early_dialog_is_over_is_hung_up_and_the_first_goes_on_p26(world, alice, forked):
    """Its answer came in a reliable 183, so this 2xx has none, and the media it was for are released."""
    invite, there = forked
    for number in (1, 2):
        reliable = ("Require", "100rel"), ("RSeq", "1")
        world.network.reply(there, 183, *reliable, sdp=answer(number), tag=f"fork{number}")
        alice.expect(183)
    ok = world.network.reply(there, 200, tag="fork1")
    here = alice.dialog(invite, alice.expect(200))
    here.ack()
    world.network.expect("ACK")
    standing = world.legs()
    second = world.network.reply(there, 200, tag="fork2")
    assert world.network.expect("ACK").to.tag == "fork2"
    bye = world.network.expect("BYE")
    assert bye.to.tag == "fork2"
    assert bye.headers.get("Reason") == 'SIP;cause=200;text="OK"'
    world.network.reply(bye, 200)
    world.network.send(second)  # the ACK was lost
    assert world.network.expect("ACK").to.tag == "fork2"
    assert alice.quiet()
    assert world.network.quiet()
    assert world.legs() == standing
    here.hang_up(world.network.dialog(there, ok))
    assert not world.status()["calls"]


def test_our_bye_to_a_late_2xx_follows_what_its_dialog_has_seen_p26_p28(world, alice, forked):
    """A BYE with the number of the PRACK would be refused, and the callee would wait forever."""
    invite, there = forked
    world.network.reply(there, 183, ("Require", "100rel"), ("RSeq", "1"), sdp=answer(1), tag="fork1")
    talk = alice.dialog(invite, alice.expect(183))
    talk.request("PRACK", ("RAck", f"1 {invite.cseq.number} INVITE"))
    prack = world.network.expect("PRACK")
    world.network.reply(prack, 200)
    alice.cancel(invite)
    world.network.reply(there, 200, tag="fork1")
    world.network.expect("ACK")
    assert world.network.expect("BYE").cseq.number == prack.cseq.number + 1


def test_a_request_that_waited_until_its_early_dialog_was_over_is_481_p26(world, alice):
    """The PRACK of one fork brings an answer, while the 2xx of another is with the gateway."""
    invite = alice.invite("sip:bob@home.example")
    there = world.network.expect("INVITE")
    world.network.reply(there, 183, ("Require", "100rel"), ("RSeq", "1"), sdp=answer(1), tag="fork1")
    talk = alice.dialog(invite, alice.expect(183))
    world.held = True
    world.network.reply(there, 200, sdp=answer(2), tag="fork2")
    near = session("192.0.2.10", media(4000, "RTP/SAVP", crypto("k")))
    talk.request("PRACK", ("RAck", f"1 {invite.cseq.number} INVITE"), sdp=near)
    world.answer_gateway()
    alice.expect(481)
    here = alice.dialog(invite, alice.expect(200))
    here.ack(sdp=near)
    assert set(modes(world)) == {"access.2", "core.2"}
    assert world.network.expect("ACK").body


def test_a_response_that_waited_until_its_early_dialog_was_over_is_481_p26(world, alice, forked):
    """The 200 to an UPDATE in one early dialog comes while the 2xx of another is with the gateway."""
    invite, there = forked
    early = world.network.reply(there, 183, ("Require", "100rel"), ("RSeq", "1"), sdp=answer(1), tag="fork1")
    alice.expect(183)
    world.network.dialog(there, early).request("UPDATE", sdp=answer(3))
    update = alice.expect("UPDATE")
    world.held = True
    world.network.reply(there, 200, sdp=answer(2), tag="fork2")
    alice.reply(update, 200, sdp=session("192.0.2.10", media(4000, "RTP/SAVP", crypto("k"))))
    world.answer_gateway()
    world.network.expect(481)
    alice.dialog(invite, alice.expect(200)).ack()
    assert set(modes(world)) == {"core", "access.2"}


def test_a_refused_update_does_not_let_its_dialog_be_heard_p26_p29(world, alice, forked):
    invite, there = forked
    one = ring(world, alice, there, 1)
    ring(world, alice, there, 2)
    before = world.legs()
    alice.dialog(invite, one).request("UPDATE", sdp=protected("192.0.2.10", "n", port=4444))
    world.network.reply(world.network.expect("UPDATE"), 488)
    alice.expect(488)
    assert world.legs() == before


def test_an_answer_that_waits_while_another_dialog_ends_is_not_taken_back_p26_p27(world, alice):
    """Late offers of two forks that both answer; the ACK of one is with the gateway as the other hangs up."""
    invite = alice.invite("sip:bob@home.example")
    there = world.network.expect("INVITE")
    near = session("192.0.2.10", media(4000, "RTP/SAVP", crypto("k")))
    talks = []
    for number in (1, 2):
        ok = world.network.reply(there, 200, sdp=answer(number), tag=f"fork{number}")
        talks.append((alice.dialog(invite, alice.expect(200)), world.network.dialog(there, ok)))
    talks[1][0].ack(sdp=near)
    world.network.expect("ACK")
    world.held = True
    talks[0][0].ack(sdp=near)
    talks[1][1].request("BYE")
    alice.reply(alice.expect("BYE"), 200)
    world.answer_gateway()
    assert modes(world) == {"core.1": Mode.SENDRECV, "access.1": Mode.SENDRECV}
    assert world.leg("core").remote.host == "203.0.113.1"


def test_a_2xx_of_a_dialog_that_199_has_ended_is_hung_up_p26(world, alice, forked):
    _, there = forked
    ring(world, alice, there, 1)
    world.network.reply(there, 199, tag="fork1")
    alice.expect(199)
    world.network.reply(there, 200, sdp=answer(1), tag="fork1")
    alice.expect(487)
    world.network.expect("ACK")
    world.network.reply(world.network.expect("BYE"), 200)
    assert not world.status()["calls"]


def test_a_second_2xx_with_a_bad_answer_is_hung_up_and_the_first_goes_on_p26(world, alice, forked):
    invite, there = forked
    ok = world.network.reply(there, 200, sdp=answer(1), tag="fork1")
    here = alice.dialog(invite, alice.expect(200))
    here.ack()
    world.network.expect("ACK")
    standing = world.legs()
    world.network.reply(there, 200, sdp=answer(2) + media(9) + "\r\n", tag="fork2")
    world.network.expect("ACK")
    world.network.reply(world.network.expect("BYE"), 200)
    assert alice.quiet()
    assert world.legs() == standing
    here.hang_up(world.network.dialog(there, ok))


RELIABLE = ("Require", "100rel"), ("RSeq", "1")
UNUSABLE = session("203.0.113.9", media(7009), media(7011))  # two m-lines where one was offered


@pytest.mark.parametrize("headers", [(), RELIABLE], ids=["unreliable", "reliable"])
@pytest.mark.parametrize("before", [False, True], ids=["the first", "the second"])
def test_an_early_answer_that_cannot_be_served_ends_its_dialog_alone_p26(
    world, alice, forked, headers, before
):
    """RFC 3261 section 15: of the early dialogs of an INVITE one can end, by a BYE."""
    invite, there = forked
    if before:
        ring(world, alice, there, 1)
    standing = world.legs()
    bad = world.network.reply(there, 183, *headers, sdp=UNUSABLE, tag="fork9")
    bye = world.network.expect("BYE")
    assert (bye.to.tag, bye.cseq.number) == ("fork9", there.cseq.number + 1)
    assert (bye.headers.get("Reason") or "").startswith("SIP;cause=488")
    world.network.reply(bye, 200)
    world.network.send(bad)  # it was on its way again
    world.network.reply(there, 180, tag="fork9")
    assert alice.quiet()
    assert world.network.quiet()
    assert world.legs() == standing
    ring(world, alice, there, 2)
    world.network.reply(there, 200, sdp=answer(2), tag="fork2")
    alice.dialog(invite, alice.expect(200)).ack()
    assert set(modes(world)) == {"core", "access.3" if before else "access.2"}


def test_the_bye_in_an_early_dialog_follows_what_it_has_seen_p26_p28(world, alice, forked):
    invite, there = forked
    world.network.reply(there, 183, *RELIABLE, sdp=answer(1), tag="fork1")
    talk = alice.dialog(invite, alice.expect(183))
    talk.request("PRACK", ("RAck", f"1 {invite.cseq.number} INVITE"))
    prack = world.network.expect("PRACK")
    world.network.reply(prack, 200)
    world.network.reply(there, 183, ("Require", "100rel"), ("RSeq", "2"), sdp=UNUSABLE, tag="fork1")
    assert world.network.expect("BYE").cseq.number == prack.cseq.number + 1


def test_an_early_answer_the_gateway_has_no_room_for_ends_its_dialog_alone_p26(world, alice, forked):
    invite, there = forked
    ring(world, alice, there, 1)
    standing = world.legs()
    world.fail.append(ErrorCode.NO_PORTS)
    world.network.reply(there, 183, sdp=answer(2), tag="fork2")
    assert world.network.expect("BYE").to.tag == "fork2"
    assert alice.quiet()
    assert world.legs() == standing
    world.network.reply(there, 200, sdp=answer(1), tag="fork1")
    alice.dialog(invite, alice.expect(200)).ack()


def test_the_caller_hears_why_where_no_other_callee_is_there_p26(world, alice, forked):
    """Whose early dialog gets a BYE answers the INVITE with 487 (RFC 3261 section 15.1.2)."""
    _, there = forked
    world.network.reply(there, 183, sdp=UNUSABLE, tag="fork9")
    world.network.reply(world.network.expect("BYE"), 200)
    world.network.reply(there, 487, tag="fork9")
    refused = alice.expect(488)
    assert "m-lines" in (refused.headers.get("Warning") or "")
    assert world.network.quiet()
    assert not world.status()["calls"]


def test_who_answers_after_its_early_dialog_was_ended_is_hung_up_on_p26(world, alice, forked):
    _, there = forked
    world.network.reply(there, 183, sdp=UNUSABLE, tag="fork9")
    world.network.reply(world.network.expect("BYE"), 481)  # it knows no BYE in an early dialog
    world.network.reply(there, 200, sdp=answer(1), tag="fork9")
    assert "m-lines" in (alice.expect(488).headers.get("Warning") or "")
    world.network.expect("ACK")
    world.network.reply(world.network.expect("BYE"), 200)
    assert not world.status()["calls"]


def test_with_too_many_unusable_early_dialogs_the_invite_is_refused_p26(world, alice, forked):
    _, there = forked
    for number in range(MAX_BRANCHES):
        world.network.reply(there, 183, sdp=UNUSABLE, tag=f"bad{number}")
        world.network.expect("BYE")
        assert alice.quiet()
    world.network.reply(there, 183, sdp=UNUSABLE, tag="last")
    alice.expect(488)
    world.network.expect("CANCEL")


def test_a_2xx_over_the_limit_of_dialogs_is_hung_up_p26(world, alice, forked):
    invite, there = forked
    for number in range(1, MAX_BRANCHES + 1):
        world.network.reply(there, 200, sdp=answer(number), tag=f"fork{number}")
        alice.dialog(invite, alice.expect(200)).ack()
        world.network.expect("ACK")
    world.network.reply(there, 200, sdp=answer(99), tag="fork99")
    assert alice.quiet()
    assert world.network.expect("ACK").to.tag == "fork99"
    assert world.network.expect("BYE").to.tag == "fork99"


def test_a_provisional_after_the_2xx_is_nobodys_p26(world, alice, forked):
    invite, there = forked
    world.network.reply(there, 200, sdp=answer(1), tag="fork1")
    alice.dialog(invite, alice.expect(200)).ack()
    world.network.reply(there, 183, sdp=answer(2), tag="fork2")
    assert alice.quiet()
    assert set(modes(world)) == {"core", "access.1"}


def test_a_2xx_that_a_bye_of_its_sender_overtakes_leaves_nothing_p26(world, alice, forked):
    _, there = forked
    world.held = True
    ok = world.network.reply(there, 200, sdp=answer(1), tag="fork1")
    world.network.dialog(there, ok).request("BYE")
    world.answer_gateway()
    alice.reply(alice.expect("BYE"), 200)
    assert not world.status()["calls"]
    assert not world.plane.legs


def test_183_then_200_with_other_sdp_is_a_new_answer_p26(world, alice, forked):
    """An announcement, then the callee (RFC 3261 does not allow it, networks do it)."""
    invite, there = forked
    early = ring(world, alice, there, 1)
    world.network.reply(there, 200, sdp=session("203.0.113.99", media(9000)), tag="fork1")
    got = alice.expect(200)
    assert world.leg("core").remote.host == "203.0.113.99"
    assert material(got) == material(early)
    alice.dialog(invite, got).ack()


def test_a_fork_with_a_tag_only_is_a_dialog_and_gets_its_answer_later_p26(world, alice, forked):
    invite, there = forked
    world.network.reply(there, 180, tag="fork1")
    world.network.reply(there, 180, tag="fork2")
    world.network.reply(there, 200, sdp=answer(2), tag="fork2")
    alice.dialog(invite, alice.expect(200)).ack()
    assert set(modes(world)) == {"core", "access.2"}


def test_more_dialogs_than_there_may_be_are_not_passed_on_p26(world, alice, forked):
    _, there = forked
    for number in range(1, MAX_BRANCHES + 4):
        world.network.reply(there, 183, sdp=answer(number), tag=f"fork{number}")
    assert sum(message.status == 183 for message in alice.inbox) == MAX_BRANCHES
    assert len(world.plane.legs) == MAX_BRANCHES + 1 <= MAX_TERMINATIONS


def test_forks_of_a_terminating_call_share_the_ues_side_p26(world, alice):
    """The UE is the answerer: its termination is one, the caller's are several."""
    world.network.call(alice, sdp=session("203.0.113.5"))
    there = alice.expect("INVITE")
    lines = [session("192.0.2.10", media(4000 + n, "RTP/SAVP", crypto("ab"[n]))) for n in (0, 1)]
    for number in (0, 1):
        alice.reply(there, 183, sdp=lines[number], tag=f"fork{number}")
    one, two = world.network.expect(183), world.network.expect(183)
    assert lines_of(one, "m=") != lines_of(two, "m=")
    assert {name.split(":")[0] for name in world.legs()} == {"access", "core.1", "core.2"}
    assert world.leg("access").remote_keys[0].material == b"b" * 30


def test_update_in_an_early_dialog_is_that_dialogs_alone_p26_p28(world, alice, forked):
    invite, there = forked
    one = ring(world, alice, there, 1)
    ring(world, alice, there, 2)
    talk = alice.dialog(invite, one)
    talk.request("UPDATE", sdp=protected("192.0.2.10", port=4444))
    update = world.network.expect("UPDATE")
    assert update.to.tag == "fork1"
    world.network.reply(update, 200, sdp=answer(1))
    got = alice.expect(200, "UPDATE")
    assert material(got) == material(one)
    assert world.leg("access.1").remote.port == 4444
    assert world.leg("access.2").remote.port == 4000
