"""Offers and answers wherever they ride, and what they may not disturb (RFC 3264, RFC 6337)."""

import pytest

from agw.iq.messages import Mode, Transport
from imsalg.anchor import Side
from imsalg.descriptions import MAX_AGAIN
from imsalg.sdp.document import MAX_SIZE
from tests.sim.sdp import crypto, lines_of, material, media, protected, session

FAR = session("203.0.113.5", media(7000))
NEAR = session("192.0.2.10", media(4000, "RTP/SAVP", crypto("k")))
REL = (("Require", "100rel"), ("RSeq", "1"))


@pytest.fixture
def alice(world):
    return world.register(world.ue(10), "alice")


# -- reliable provisional responses, PRACK, UPDATE


def test_prack_passes_both_ways_and_its_rack_is_untouched_p28(world, alice):
    invite = alice.invite("sip:bob@home.example", sdp=protected("192.0.2.10"))
    there = world.network.expect("INVITE")
    world.network.reply(there, 183, *REL, sdp=FAR)
    early = alice.expect(183)
    assert early.headers.get("RSeq") == "1"
    talk = alice.dialog(invite, early)
    talk.request("PRACK", ("RAck", f"1 {invite.cseq.number} INVITE"))
    prack = world.network.expect("PRACK")
    assert prack.headers.get("RAck") == f"1 {invite.cseq.number} INVITE"
    world.network.reply(prack, 200)
    alice.expect(200, "PRACK")
    talk.request("UPDATE", sdp=protected("192.0.2.10"))
    update = world.network.expect("UPDATE")
    world.network.reply(update, 200, sdp=FAR)
    assert material(alice.expect(200, "UPDATE")) == material(early)
    ok = world.network.reply(there, 200)
    alice.expect(200, "INVITE")
    talk.ack(invite)
    world.network.expect("ACK")
    talk.hang_up(world.network.dialog(there, ok))


def test_an_offer_in_18x_is_answered_in_prack_p27(world, alice):
    """No SDP in the INVITE; the callee's phone is the UE."""
    invite = world.network.call(alice)
    there = alice.expect("INVITE")
    alice.reply(there, 183, *REL, sdp=protected("192.0.2.10"))
    early = world.network.expect(183)
    assert lines_of(early, "m=")[0].split()[2] == "RTP/AVP"
    talk = world.network.dialog(invite, early)
    talk.request("PRACK", ("RAck", f"1 {invite.cseq.number} INVITE"), sdp=FAR)
    prack = alice.expect("PRACK")
    assert material(prack) != b"k" * 30
    assert world.leg("access").mode is Mode.SENDRECV
    assert world.leg("access").local_key.material == material(prack)
    alice.reply(prack, 200)
    world.network.expect(200, "PRACK")
    alice.reply(there, 200)
    world.network.expect(200, "INVITE")
    talk.ack(invite)
    alice.expect("ACK")
    talk.hang_up(alice.dialog(there, early))


def test_an_offer_of_the_core_in_18x_is_answered_in_prack_by_the_ue_p27(world, alice):
    """No SDP in the INVITE; the caller is the UE."""
    invite = alice.invite("sip:bob@home.example")
    there = world.network.expect("INVITE")
    world.network.reply(there, 183, *REL, sdp=FAR)
    early = alice.expect(183)
    assert lines_of(early, "m=")[0].split()[2] == "RTP/SAVP"
    assert lines_of(early, "a=3ge2ae:") == ["applied"]
    talk = alice.dialog(invite, early)
    talk.request("PRACK", ("RAck", f"1 {invite.cseq.number} INVITE"), sdp=NEAR)
    prack = world.network.expect("PRACK")
    assert lines_of(prack, "m=")[0].split()[2] == "RTP/AVP"
    assert not lines_of(prack, "a=crypto")
    assert [each.material for each in world.leg("access").remote_keys] == [b"k" * 30]
    assert world.leg("core").remote.port == 7000
    world.network.reply(prack, 200)
    alice.expect(200, "PRACK")
    ok = world.network.reply(there, 200)
    alice.expect(200, "INVITE")
    talk.ack(invite)
    world.network.expect("ACK")
    talk.hang_up(world.network.dialog(there, ok))


def test_each_fork_that_offers_is_answered_in_its_own_prack_p26_p27(world, alice):
    invite = alice.invite("sip:bob@home.example")
    there = world.network.expect("INVITE")
    for number in (1, 2):
        offer = session(f"203.0.113.{number}", media(7000 + number))
        world.network.reply(there, 183, *REL, sdp=offer, tag=f"fork{number}")
        talk = alice.dialog(invite, alice.expect(183))
        answer = session("192.0.2.10", media(4000 + number, "RTP/SAVP", crypto("ab"[number - 1])))
        talk.request("PRACK", ("RAck", f"1 {invite.cseq.number} INVITE"), sdp=answer)
        world.network.reply(world.network.expect("PRACK"), 200)
        alice.expect(200, "PRACK")
        heard = [leg for leg in world.legs().values() if leg.mode is Mode.SENDRECV]
        assert {leg.remote.port for leg in heard} == {4000 + number, 7000 + number}


def test_forks_that_offer_different_kinds_of_media_do_not_disturb_each_other_p26_p27(world, alice):
    invite = alice.invite("sip:bob@home.example")
    there = world.network.expect("INVITE")
    kinds = (
        (media(7001), media(4001, "RTP/SAVP", crypto())),
        ("m=image 7002 udptl t38", "m=image 4002 udptl t38"),
    )
    talks = []
    for offer, _ in kinds:
        world.network.reply(there, 183, *REL, sdp=session("203.0.113.5", offer), tag=f"fork{len(talks)}")
        talks.append(alice.dialog(invite, alice.expect(183)))
    for number, ((_, answer), talk) in enumerate(zip(kinds, talks, strict=True), 1):
        sdp = session("192.0.2.10", answer)
        talk.request("PRACK", ("RAck", f"1 {invite.cseq.number} INVITE"), sdp=sdp)
        world.network.reply(world.network.expect("PRACK"), 200)
        alice.expect(200, "PRACK")
        heard = [leg for leg in world.legs().values() if leg.mode is Mode.SENDRECV]
        assert {leg.remote.port for leg in heard} == {4000 + number, 7000 + number}


def test_an_offer_in_an_unreliable_18x_does_not_pass_p27(world, alice):
    """RFC 3261 section 13.2.1: nobody could answer it."""
    alice.invite("sip:bob@home.example")
    world.network.reply(world.network.expect("INVITE"), 183, sdp=FAR)
    assert not alice.expect(183).body
    assert not world.plane.legs


def test_an_offer_in_prack_is_answered_in_its_200_p28(world, alice):
    invite = alice.invite("sip:bob@home.example", sdp=protected("192.0.2.10"))
    there = world.network.expect("INVITE")
    world.network.reply(there, 183, *REL, sdp=FAR)
    early = alice.expect(183)
    talk = alice.dialog(invite, early)
    rack = ("RAck", f"1 {invite.cseq.number} INVITE")
    talk.request("PRACK", rack, sdp=protected("192.0.2.10", port=4444))
    prack = world.network.expect("PRACK")
    assert lines_of(prack, "m=")[0].split()[2] == "RTP/AVP"
    world.network.reply(prack, 200, sdp=FAR)
    assert material(alice.expect(200, "PRACK")) == material(early)
    assert world.leg("access").remote.port == 4444


PRECONDITIONS = (
    "a=curr:qos local none",
    "a=curr:qos remote none",
    "a=des:qos mandatory local sendrecv",
    "a=des:qos optional remote sendrecv",
    "a=conf:qos remote sendrecv",
)
MET = tuple(line.replace(" none", " sendrecv") for line in PRECONDITIONS)
NEGOTIATED = ("Require", "precondition"), ("Supported", "100rel, precondition")


def test_preconditions_pass_as_they_are_in_every_message_p28(world, alice):
    """RFC 3312 in the order of RFC 4032: 183, PRACK, UPDATE and its 200, and only then it rings."""

    def of(message):
        of_qos = (line for line in lines_of(message, "a=") if line.split(":")[0] in ("curr", "des", "conf"))
        return tuple(f"a={line}" for line in of_qos)

    near = [protected("192.0.2.10", "k", *lines) for lines in (PRECONDITIONS, MET)]
    far = [session("203.0.113.5", media(7000, "RTP/AVP", *lines)) for lines in (PRECONDITIONS, MET)]
    invite = alice.invite("sip:bob@home.example", *NEGOTIATED, sdp=near[0])
    there = world.network.expect("INVITE")
    world.network.reply(there, 183, *REL, ("Require", "precondition"), sdp=far[0])
    early = alice.expect(183)
    talk = alice.dialog(invite, early)
    talk.request("PRACK", ("RAck", f"1 {invite.cseq.number} INVITE"))
    world.network.reply(world.network.expect("PRACK"), 200)
    alice.expect(200, "PRACK")
    standing = world.legs()
    talk.request("UPDATE", *NEGOTIATED, sdp=near[1])
    update = world.network.expect("UPDATE")
    world.network.reply(update, 200, sdp=far[1])
    met = alice.expect(200, "UPDATE")
    assert [of(message) for message in (there, early)] == [PRECONDITIONS] * 2
    assert [of(message) for message in (update, met)] == [MET] * 2
    for message in (there, update):
        assert message.headers.lines("Require") == ["precondition"]
        assert message.headers.lines("Supported") == ["100rel, precondition"]
    assert early.headers.lines("Require") == ["100rel", "precondition"]
    assert material(met) == material(early)
    assert world.legs() == standing
    world.network.reply(there, 180)
    alice.expect(180)
    world.network.reply(there, 200)
    alice.dialog(invite, alice.expect(200)).ack()


def test_preconditions_that_fail_leave_the_early_media_as_they_were_p28(world, alice):
    invite = alice.invite("sip:bob@home.example", sdp=protected("192.0.2.10", "k", *PRECONDITIONS))
    there = world.network.expect("INVITE")
    world.network.reply(there, 183, *REL, sdp=FAR)
    talk = alice.dialog(invite, alice.expect(183))
    before = world.legs()
    talk.request("UPDATE", sdp=protected("192.0.2.10", "n", port=4444))
    world.network.reply(world.network.expect("UPDATE"), 580)
    alice.expect(580)
    assert world.legs() == before


def test_update_from_the_callee_before_the_2xx_p28(world, alice):
    invite = alice.invite("sip:bob@home.example", sdp=protected("192.0.2.10"))
    there = world.network.expect("INVITE")
    sent = world.network.reply(there, 183, *REL, sdp=FAR)
    early = alice.expect(183)
    far = world.network.dialog(there, sent)
    far.request("UPDATE", sdp=session("203.0.113.5", media(7100)))
    update = alice.expect("UPDATE")
    assert lines_of(update, "m=")[0].split()[2] == "RTP/SAVP"
    assert lines_of(update, "a=3ge2ae:") == ["applied"]
    assert material(update) == material(early)  # P14
    alice.reply(update, 200, sdp=NEAR)
    got = world.network.expect(200, "UPDATE")
    assert lines_of(got, "m=")[0].split()[2] == "RTP/AVP"
    assert world.leg("core").remote.port == 7100
    world.network.reply(there, 200)
    alice.dialog(invite, alice.expect(200)).ack()


def test_an_answer_that_comes_again_is_no_answer_to_another_offer_p28(world, alice):
    """The callee repeats its answer in the 200 while an UPDATE of the caller is under way."""
    invite = world.network.call(alice, sdp=FAR)
    there = alice.expect("INVITE")
    alice.reply(there, 183, *REL, sdp=NEAR)
    early = world.network.expect(183)
    far = world.network.dialog(invite, early)
    far.request("UPDATE", sdp=session("203.0.113.5", media(7000, "RTP/SAVP", crypto("e"))))
    update = alice.expect("UPDATE")
    alice.reply(there, 200, sdp=NEAR)
    assert world.network.expect(200).body == early.body
    alice.reply(update, 488)
    world.network.expect(488)
    far.ack(invite)
    assert world.leg("access").transport is Transport.SRTP


def test_no_offer_of_ours_is_passed_for_the_answer_of_a_2xx_p28(world, alice):
    """The callee has changed the session before the 200, and describes in it what holds now."""
    invite = alice.invite("sip:bob@home.example", sdp=protected("192.0.2.10"))
    there = world.network.expect("INVITE")
    sent = world.network.reply(there, 183, *REL, sdp=FAR)
    alice.expect(183)
    changed = session("203.0.113.5", media(7100), version=2)
    world.network.dialog(there, sent).request("UPDATE", sdp=changed)
    alice.reply(alice.expect("UPDATE"), 200, sdp=NEAR)
    world.network.expect(200, "UPDATE")
    world.network.reply(there, 200, sdp=changed)
    got = alice.expect(200)
    assert not got.body
    alice.dialog(invite, got).ack()
    assert world.leg("core").remote.port == 7100


@pytest.mark.parametrize("method", ["UPDATE", "PRACK"])
def test_only_responses_to_invite_may_offer_p28(world, alice, method):
    """RFC 6337 section 2.2: nobody answers what another one offers, and it would be pending for good."""
    invite = alice.invite("sip:bob@home.example", sdp=protected("192.0.2.10"))
    there = world.network.expect("INVITE")
    world.network.reply(there, 183, *REL, sdp=FAR)
    here = alice.dialog(invite, alice.expect(183))
    here.request(method, ("RAck", f"1 {invite.cseq.number} INVITE"))
    world.network.reply(world.network.expect(method), 200, sdp=session("203.0.113.5", media(7700)))
    assert not alice.expect(200).body
    far = world.network.dialog(there, world.network.reply(there, 200))
    alice.expect(200)
    here.ack(invite)
    world.network.expect("ACK")
    here.exchange(far, "INVITE", protected("192.0.2.10"), FAR)
    assert world.leg("core").remote.port == 7000
    here.hang_up(far)


def test_what_is_known_again_of_long_descriptions_is_little(world, alice):
    alice.invite("sip:bob@home.example", sdp=protected("192.0.2.10"))
    there = world.network.expect("INVITE")
    for version in range(MAX_AGAIN):
        long = session("203.0.113.5", media(7000), *[f"a=x:{version}" + "y" * 8000] * 6)
        world.network.reply(there, 183, sdp=long)
        assert lines_of(alice.expect(183), "a=x:")
    (call,) = world.core.calls.values()
    (branch,) = call._branches
    kept = branch.passed(Side.CORE, there.cseq.number)
    assert 0 < sum(len(came) + len(left) for came, left in kept.items()) <= 2 * MAX_SIZE


def test_a_2xx_that_comes_again_while_its_sender_offers_something_new_is_the_same_p28(world, alice):
    """The caller has not had it yet, so what it gets is the answer, and not the offer of the UPDATE."""
    alice.invite("sip:bob@home.example", sdp=protected("192.0.2.10"))
    there = world.network.expect("INVITE")
    ok = world.network.reply(there, 200, sdp=FAR)
    first = alice.expect(200)
    world.network.dialog(there, ok).request("UPDATE", sdp=session("203.0.113.5", media(7700)))
    update = alice.expect("UPDATE")
    world.network.send(ok)
    assert alice.absorbed[-1].body == first.body != update.body


def test_info_refer_message_and_unknown_methods_pass_in_a_call(world, alice):
    here, far = world.originate(alice)
    for method in ("INFO", "REFER", "MESSAGE", "NOTIFY", "FOO", "OPTIONS"):
        for one, two in ((here, far), (far, here)):
            one.request(method, ("Content-Type", "text/plain"), sdp="v=0 is no SDP here")
            there = two.peer.expect(method)
            assert there.body == b"v=0 is no SDP here"
            two.peer.reply(there, 200)
            one.peer.expect(200, method)
    here.hang_up(far)


# -- late offers


@pytest.mark.parametrize("kind", ["application/sdp", "Application/Trickle-ICE-sdpfrag ; x=y"])
def test_addresses_and_passwords_of_a_ue_do_not_pass_in_other_requests(world, alice, kind):
    here, _ = world.originate(alice)
    fragment = "a=ice-ufrag:8hhY\r\na=ice-pwd:asd88fgpdd777uzjYhagZg\r\n"
    here.request("INFO", ("Content-Type", kind), ("Info-Package", "trickle-ice"), sdp=fragment)
    there = world.network.expect("INFO")
    assert not there.body
    world.network.reply(there, 200)
    alice.expect(200)


def test_a_late_offer_to_a_ue_that_asks_for_e2ae_p27(world, alice):
    """The UE offers in its 200, the core answers in the ACK."""
    invite = world.network.call(alice)
    there = alice.expect("INVITE")
    assert not there.body
    ok = alice.reply(there, 200, sdp=protected("192.0.2.10"))
    got = world.network.expect(200)
    assert lines_of(got, "m=")[0].split()[2] == "RTP/AVP"
    talk = world.network.dialog(invite, got)
    talk.ack(sdp=FAR)
    ack = alice.expect("ACK")
    assert world.leg("access").local_key.material == material(ack)
    assert lines_of(got, "m=")[0].split()[1] == str(world.leg("core").local_rtp.port)
    assert lines_of(ack, "m=")[0].split()[1] == str(world.leg("access").local_rtp.port)
    assert [each.material for each in world.leg("access").remote_keys] == [b"k" * 30]
    talk.ack(sdp=FAR)  # again, because the ACK was lost
    assert material(alice.expect("ACK")) == material(ack)
    talk.hang_up(alice.dialog(there, ok))


def test_a_late_offer_of_the_core_is_protected_for_the_ue_p27(world, alice):
    """The callee in the core offers in its 200, the UE answers in the ACK."""
    invite = alice.invite("sip:bob@home.example")
    there = world.network.expect("INVITE")
    ok = world.network.reply(there, 200, sdp=FAR)
    got = alice.expect(200)
    assert lines_of(got, "m=")[0].split()[2] == "RTP/SAVP"
    assert lines_of(got, "a=3ge2ae:") == ["applied"]
    talk = alice.dialog(invite, got)
    talk.ack(sdp=NEAR)
    ack = world.network.expect("ACK")
    assert lines_of(ack, "m=")[0].split()[2] == "RTP/AVP"
    assert not lines_of(ack, "a=crypto")
    assert world.leg("access").remote_keys[0].material == b"k" * 30
    assert lines_of(got, "m=")[0].split()[1] == str(world.leg("access").local_rtp.port)
    assert lines_of(ack, "m=")[0].split()[1] == str(world.leg("core").local_rtp.port)
    talk.hang_up(world.network.dialog(there, ok))


def test_a_late_offer_of_a_ue_that_may_not_have_e2ae_ends_the_call_p27(world):
    carol = world.plain()
    world.network.call(carol)
    carol.reply(carol.expect("INVITE"), 200, sdp=protected("192.0.2.20"))
    carol.expect("ACK")
    carol.expect("BYE")
    refusal = world.network.expect(488)
    assert "Warning" not in refusal.headers  # it would tell the core of e2ae


def test_an_ack_answers_nothing_but_the_offer_of_its_2xx_p27(world, alice):
    """An UPDATE of the callee is under way when an ACK with a description comes from the caller."""
    invite = alice.invite("sip:bob@home.example", sdp=NEAR)
    there = world.network.expect("INVITE")
    ok = world.network.reply(there, 200, sdp=FAR)
    talk, far = alice.dialog(invite, alice.expect(200)), world.network.dialog(there, ok)
    talk.ack()
    world.network.expect("ACK")
    far.request("UPDATE", sdp=FAR)
    update = alice.expect("UPDATE")
    talk.ack(sdp=NEAR)
    assert not world.network.expect("ACK").body
    alice.reply(update, 200, sdp=NEAR)
    world.network.expect(200)
    talk.hang_up(far)


def test_a_bad_answer_in_the_ack_ends_the_call_on_both_sides_p27(world, alice):
    invite = alice.invite("sip:bob@home.example")
    world.network.reply(world.network.expect("INVITE"), 200, sdp=FAR)
    alice.dialog(invite, alice.expect(200)).ack(sdp=session("192.0.2.10", media(), media()))
    assert not world.network.expect("ACK").body
    world.network.expect("BYE")
    alice.expect("BYE")


def test_an_ack_without_the_answer_leaves_a_call_without_media_p27(world, alice):
    invite = alice.invite("sip:bob@home.example")
    there = world.network.expect("INVITE")
    ok = world.network.reply(there, 200, sdp=FAR)
    talk = alice.dialog(invite, alice.expect(200))
    talk.ack()
    world.network.expect("ACK")
    talk.hang_up(world.network.dialog(there, ok))


def test_a_bye_does_not_overtake_the_ack_with_the_answer_p27(world, alice):
    """The ACK waits for the gateway, and the BYE of the same end for the ACK; nobody else's does."""
    invite = world.network.call(alice)
    ok = alice.reply(alice.expect("INVITE"), 200, sdp=protected("192.0.2.10"))
    talk = world.network.dialog(invite, world.network.expect(200))
    world.held = True
    talk.ack(sdp=FAR)
    talk.request("BYE")
    assert alice.quiet()
    world.answer_gateway()
    assert [message.method for message in alice.inbox] == ["ACK", "BYE"]
    assert material(alice.inbox[0]) == world.leg("access").local_key.material
    alice.reply(alice.expect("BYE"), 200)
    world.network.expect(200)
    assert not world.status()["calls"]
    assert ok.to.tag


def test_a_bye_of_the_other_end_does_not_wait_for_an_ack_p27(world, alice):
    invite = world.network.call(alice)
    there = alice.expect("INVITE")
    ok = alice.reply(there, 200, sdp=protected("192.0.2.10"))
    talk = world.network.dialog(invite, world.network.expect(200))
    world.held = True
    talk.ack(sdp=FAR)
    alice.dialog(there, ok).request("BYE")
    world.network.reply(world.network.expect("BYE"), 200)
    alice.expect(200)
    world.answer_gateway()
    assert not world.status()["calls"]


@pytest.mark.parametrize("lost", [True, False])
def test_a_bye_that_waits_for_an_ack_is_answered_if_the_gateway_is_lost_p27(world, alice, lost):
    invite = world.network.call(alice)
    alice.reply(alice.expect("INVITE"), 200, sdp=protected("192.0.2.10"))
    talk = world.network.dialog(invite, world.network.expect(200))
    alice.answers_bye = world.network.answers_bye = True
    world.held = True
    talk.ack(sdp=FAR)
    bye = talk.request("BYE")
    if lost:
        world.disconnect()
    else:
        world.advance(10)
    assert world.network.expect(200).cseq == bye.cseq
    assert not world.status()["calls"]


def test_an_offerless_reinvite_of_a_ue_is_offered_what_runs_p27(world, alice):
    """The core offers the very bytes it once answered with: that is not a repetition."""
    here, far = world.originate(alice, answer=FAR)
    running = world.legs()
    reinvite = here.request("INVITE")
    there = world.network.expect("INVITE")
    assert not there.body
    world.network.reply(there, 200, sdp=FAR)
    got = alice.expect(200)
    assert lines_of(got, "m=")[0].split()[2] == "RTP/SAVP"
    assert material(got) == material(here.response)
    here.ack(reinvite, sdp=NEAR)
    assert lines_of(world.network.expect("ACK"), "m=")[0].split()[2] == "RTP/AVP"
    assert world.legs() == running
    here.hang_up(far)


def test_an_offerless_reinvite_that_nobody_answers_leaves_the_media_as_they_were_p27_p29(world, alice):
    here, far = world.originate(alice)
    running = world.legs()
    reinvite = far.request("INVITE")
    alice.reply(alice.expect("INVITE"), 200, sdp=NEAR + media(4446, kind="video") + "\r\n")
    world.network.expect(200)
    assert world.legs() != running
    far.ack(reinvite)
    alice.expect("ACK")
    assert world.legs() == running
    here.hang_up(far)


def test_an_offerless_reinvite_never_downgrades_p27(world, alice):
    here, far = world.originate(alice)
    before = material(here.response)
    reinvite = far.request("INVITE")
    there = alice.expect("INVITE")
    alice.reply(there, 200, sdp=NEAR)  # e2ae is not said again
    got = world.network.expect(200)
    assert lines_of(got, "m=")[0].split()[2] == "RTP/AVP"
    far.ack(reinvite, sdp=FAR)
    ack = alice.expect("ACK")
    assert lines_of(ack, "m=")[0].split()[2] == "RTP/SAVP"
    assert material(ack) == before
    here.hang_up(far)
