"""Offers and answers wherever they ride, and what they may not disturb (RFC 3264, RFC 6337)."""

import base64

import pytest

from agw.iq.messages import ConfigureConnectionPoint, Mode, ReserveConnectionPoint, Transport
from tests.sim.sdp import crypto, lines_of, media, protected, session

FAR = session("203.0.113.5", media(7000))
NEAR = session("192.0.2.10", media(4000, "RTP/SAVP", crypto("k")))
REL = (("Require", "100rel"), ("RSeq", "1"))


@pytest.fixture
def alice(world):
    return world.register(world.ue(10), "alice")


def material(message):
    (line,) = lines_of(message, "a=crypto:")
    return base64.b64decode(line.split("inline:")[1])


def exchange(talk, other, method, offer, answer):
    """A re-INVITE or UPDATE: the request as it came there, the 200 as it came back."""
    sent = talk.request(method, sdp=offer)
    there = other.peer.expect(method)
    other.peer.reply(there, 200, sdp=answer)
    got = talk.peer.expect(200, method)
    if method == "INVITE":
        talk.ack(sent)
        other.peer.expect("ACK")
    return there, got


# -- reliable provisional responses, PRACK, UPDATE


def test_prack_passes_both_ways_and_its_rack_is_untouched(world, alice):
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


def test_update_from_the_callee_before_the_2xx(world, alice):
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


def test_an_answer_that_comes_again_is_no_answer_to_another_offer(world, alice):
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
    talk.hang_up(world.network.dialog(there, ok))


def test_a_late_offer_of_a_ue_that_may_not_have_e2ae_ends_the_call(world):
    carol = world.plain()
    world.network.call(carol)
    carol.reply(carol.expect("INVITE"), 200, sdp=protected("192.0.2.20"))
    carol.expect("ACK")
    carol.expect("BYE")
    refusal = world.network.expect(488)
    assert "Warning" not in refusal.headers  # it would tell the core of e2ae


def test_an_ack_answers_nothing_but_the_offer_of_its_2xx(world, alice):
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


def test_a_bad_answer_in_the_ack_ends_the_call_on_both_sides(world, alice):
    invite = alice.invite("sip:bob@home.example")
    world.network.reply(world.network.expect("INVITE"), 200, sdp=FAR)
    alice.dialog(invite, alice.expect(200)).ack(sdp=session("192.0.2.10", media(), media()))
    assert not world.network.expect("ACK").body
    world.network.expect("BYE")
    alice.expect("BYE")


def test_an_ack_without_the_answer_leaves_a_call_without_media(world, alice):
    invite = alice.invite("sip:bob@home.example")
    there = world.network.expect("INVITE")
    ok = world.network.reply(there, 200, sdp=FAR)
    talk = alice.dialog(invite, alice.expect(200))
    talk.ack()
    world.network.expect("ACK")
    talk.hang_up(world.network.dialog(there, ok))


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


# -- re-INVITE and UPDATE within the call


@pytest.mark.parametrize("method", ["INVITE", "UPDATE"])
def test_hold_and_resume_keep_keys_and_contexts_p14_p35(world, alice, method):
    here, far = world.originate(alice)
    standing = world.leg("access")
    there, got = exchange(
        here,
        far,
        method,
        protected("192.0.2.10", "k", "a=sendonly"),
        session("203.0.113.5", media(7000, "RTP/AVP", "a=recvonly")),
    )
    assert lines_of(there, "a=sendonly")
    held = world.leg("access")
    assert material(got) == material(here.response)
    assert held.local_key == standing.local_key
    assert held.remote_keys == standing.remote_keys
    assert held.local_rtp == standing.local_rtp
    assert (held.mode, world.leg("core").mode) == (Mode.RECVONLY, Mode.SENDONLY)
    assert (held.inactivity, world.leg("core").inactivity) == (0.0, 0.0)  # parked
    exchange(here, far, method, protected("192.0.2.10"), FAR)
    assert world.leg("access") == standing
    here.hang_up(far)


def test_hold_from_the_core_side_by_inactive_and_by_a_zero_address_p35(world, alice):
    here, far = world.originate(alice)
    own = material(here.response)
    there, _ = exchange(
        far,
        here,
        "INVITE",
        session("203.0.113.5", media(7000, "RTP/AVP", "a=inactive")),
        session("192.0.2.10", media(4000, "RTP/SAVP", crypto("k"), "a=inactive")),
    )
    assert material(there) == own
    assert lines_of(there, "m=")[0].split()[2] == "RTP/SAVP"
    assert {leg.mode for leg in world.legs().values()} == {Mode.INACTIVE}
    exchange(far, here, "INVITE", session("0.0.0.0", media(7000)), NEAR)
    assert world.leg("core").remote.host == "203.0.113.5"  # the address stays
    assert world.leg("core").mode is Mode.RECVONLY
    exchange(far, here, "INVITE", FAR, NEAR)
    assert world.leg("core").mode is Mode.SENDRECV
    here.hang_up(far)


def test_a_refresh_with_the_same_sdp_asks_the_gateway_nothing_p30(world, alice):
    here, far = world.originate(alice, answer=FAR)
    asked = len(world.asked)
    for method in ("INVITE", "UPDATE"):
        exchange(here, far, method, protected("192.0.2.10"), FAR)
        exchange(far, here, method, FAR, NEAR)
    here.request("UPDATE")
    world.network.reply(world.network.expect("UPDATE"), 200)
    alice.expect(200)
    assert len(world.asked) == asked
    here.hang_up(far)


def test_our_version_rises_by_one_and_only_when_our_sdp_changed_p31(world, alice):
    def version(message):
        return [int(lines_of(message, "o=")[0].split()[2]), lines_of(message, "o=")[0].split()[1]]

    here, far = world.originate(alice)
    first, session_id = version(far.invite)
    same, _ = exchange(here, far, "INVITE", protected("192.0.2.10", port=4000), FAR)
    assert version(same) == [first, session_id]
    moved, _ = exchange(here, far, "INVITE", protected("192.0.2.10", port=4444), FAR)
    assert version(moved) == [first, session_id]  # its port is not seen on the other side
    held, back = exchange(here, far, "INVITE", protected("192.0.2.10", "k", "a=sendonly"), FAR)
    assert version(held) == [first + 1, session_id]
    assert version(back) == version(here.response)
    resumed, _ = exchange(here, far, "INVITE", protected("192.0.2.10"), FAR)
    assert version(resumed) == [first + 2, session_id]
    offered, _ = exchange(far, here, "INVITE", FAR, NEAR)
    base, own = version(here.response)
    assert version(offered) == [base + 1, own]  # it says applied, which an answer does not
    here.hang_up(far)


def test_a_key_change_of_the_ue_is_a_new_key_of_its_side_alone_p14(world, alice):
    here, far = world.originate(alice)
    own = world.leg("access").local_key
    exchange(here, far, "INVITE", protected("192.0.2.10", "n"), FAR)
    assert world.leg("access").remote_keys[0].material == b"n" * 30
    assert world.leg("access").local_key == own
    here.hang_up(far)


def test_another_suite_of_the_ue_is_a_fresh_key_of_ours(world, alice):
    here, far = world.originate(alice)
    line = crypto("g", 1, "AEAD_AES_128_GCM", 28)
    offer = session("192.0.2.10", media(4000, "RTP/SAVP", line, "a=3ge2ae:requested"))
    _, got = exchange(here, far, "INVITE", offer, FAR)
    assert lines_of(got, "a=crypto:")[0].startswith("1 AEAD_AES_128_GCM")
    assert world.leg("access").local_key.material == material(got)
    here.hang_up(far)


def test_a_refused_reinvite_leaves_the_media_as_they_were_p29(world, alice):
    here, far = world.originate(alice)
    before = world.legs()
    second = protected("192.0.2.10", "n", port=4444) + media(4446, kind="video") + "\r\n"
    reinvite = here.request("INVITE", sdp=second)
    there = world.network.expect("INVITE")
    assert len(world.legs()) == 3  # the video line needs an address to be offered
    world.network.reply(there, 488)
    alice.expect(488)
    assert world.legs() == before
    assert reinvite.cseq.number == there.cseq.number
    exchange(here, far, "INVITE", protected("192.0.2.10"), FAR)  # and it goes on
    here.hang_up(far)


def test_a_reinvite_we_refuse_leaves_the_media_as_they_were_p29(world, alice):
    here, far = world.originate(alice)
    before = world.legs()
    dtls = session("192.0.2.10", media(4000, "UDP/TLS/RTP/SAVP", "a=3ge2ae:requested"))
    here.request("INVITE", sdp=dtls)
    alice.expect(488)
    assert world.network.quiet()
    assert world.legs() == before
    here.hang_up(far)


def test_a_reinvite_adds_and_takes_away_a_line(world, alice):
    here, far = world.originate(alice)
    video = media(4446, kind="video") + "\r\n"
    exchange(here, far, "INVITE", protected("192.0.2.10") + video, FAR + media(7002, kind="video") + "\r\n")
    assert len(world.legs()) == 4
    gone = media(0, kind="video") + "\r\n"
    exchange(here, far, "INVITE", protected("192.0.2.10") + gone, FAR + gone)
    assert len(world.legs()) == 2
    here.hang_up(far)


def test_a_reinvite_from_plain_to_e2ae(world, alice):
    here, far = world.originate(alice, session("192.0.2.10"))
    assert world.leg("access").transport is Transport.RTP
    exchange(here, far, "INVITE", protected("192.0.2.10"), FAR)
    assert world.leg("access").transport is Transport.SRTP
    here.hang_up(far)


# -- glare (P29)


def test_a_second_invite_of_the_same_side_is_500_with_retry_after_p29(world, alice):
    here, far = world.originate(alice)
    here.request("INVITE", sdp=protected("192.0.2.10"))
    there = world.network.expect("INVITE")
    here.request("INVITE", sdp=protected("192.0.2.10"))
    assert alice.expect(500).headers.get("Retry-After")
    world.network.reply(there, 200, sdp=FAR)
    alice.expect(200)
    here.hang_up(far)


def test_invites_that_cross_are_491_p29(world, alice):
    here, far = world.originate(alice)
    world.held = True
    here.request("INVITE", sdp=protected("192.0.2.10", "k", "a=sendonly") + media(4, kind="video") + "\r\n")
    far.request("INVITE", sdp=FAR)
    world.answer_gateway()
    world.network.expect(491)
    there = world.network.expect("INVITE")
    world.network.reply(there, 491)
    alice.expect(491)
    here.hang_up(far)


def test_an_update_with_an_offer_while_one_is_pending_is_refused(world, alice):
    here, far = world.originate(alice)
    here.request("UPDATE", sdp=protected("192.0.2.10", "k", "a=sendonly"))
    there = world.network.expect("UPDATE")
    far.request("UPDATE", sdp=FAR)
    world.network.expect(491)
    here.request("UPDATE", sdp=protected("192.0.2.10"))
    alice.expect(500)
    world.network.reply(there, 200, sdp=session("203.0.113.5", media(7000, "RTP/AVP", "a=recvonly")))
    alice.expect(200)
    here.hang_up(far)


def test_commands_say_only_what_changed(world, alice):
    here, far = world.originate(alice)
    kinds = [[type(command) for command in request.commands] for request in world.asked]
    assert kinds[0] == [ReserveConnectionPoint]
    assert ConfigureConnectionPoint in kinds[1]
    assert len(kinds) == 2
    here.hang_up(far)
    assert len(world.asked) == 3
