"""Changes to a call that stands: re-INVITE and UPDATE, hold, refresh, refusals, glare (RFC 3261 section 14,
RFC 3264 section 8, RFC 3311)."""

import pytest

from agw.iq.messages import ConfigureConnectionPoint, Mode, ReserveConnectionPoint, Transport
from imsalg.config import CallConfig
from tests.sim.sdp import crypto, lines_of, material, media, protected, session

FAR = session("203.0.113.5", media(7000))
NEAR = session("192.0.2.10", media(4000, "RTP/SAVP", crypto("k")))


@pytest.fixture
def alice(world):
    return world.register(world.ue(10), "alice")


@pytest.mark.parametrize("method", ["INVITE", "UPDATE"])
def test_hold_and_resume_keep_keys_and_contexts_p14_p35(world, alice, method):
    here, far = world.originate(alice)
    standing = world.leg("access")
    there, got = here.exchange(
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
    here.exchange(far, method, protected("192.0.2.10"), FAR)
    assert world.leg("access") == standing
    here.hang_up(far)


def test_hold_from_the_core_side_by_inactive_and_by_a_zero_address_p35(world, alice):
    here, far = world.originate(alice)
    own = material(here.response)
    there, _ = far.exchange(
        here,
        "INVITE",
        session("203.0.113.5", media(7000, "RTP/AVP", "a=inactive")),
        session("192.0.2.10", media(4000, "RTP/SAVP", crypto("k"), "a=inactive")),
    )
    assert material(there) == own
    assert lines_of(there, "m=")[0].split()[2] == "RTP/SAVP"
    assert {leg.mode for leg in world.legs().values()} == {Mode.INACTIVE}
    far.exchange(here, "INVITE", session("0.0.0.0", media(7000)), NEAR)
    assert world.leg("core").remote.host == "203.0.113.5"  # the address stays
    assert world.leg("core").mode is Mode.RECVONLY
    far.exchange(here, "INVITE", FAR, NEAR)
    assert world.leg("core").mode is Mode.SENDRECV
    here.hang_up(far)


@pytest.mark.parametrize(
    ("offered", "answered", "access", "core"),
    [
        ("sendonly", "recvonly", Mode.RECVONLY, Mode.SENDONLY),
        ("recvonly", "sendonly", Mode.SENDONLY, Mode.RECVONLY),
        ("inactive", "inactive", Mode.INACTIVE, Mode.INACTIVE),
        ("sendrecv", "inactive", Mode.INACTIVE, Mode.INACTIVE),
        ("sendrecv", "sendonly", Mode.SENDONLY, Mode.RECVONLY),
        ("inactive", "sendrecv", Mode.INACTIVE, Mode.INACTIVE),  # RFC 3264 section 6.1 has no such answers
        ("sendonly", "sendrecv", Mode.RECVONLY, Mode.SENDONLY),
        ("recvonly", "sendrecv", Mode.SENDONLY, Mode.RECVONLY),
        ("sendonly", "sendonly", Mode.INACTIVE, Mode.INACTIVE),
    ],
)
def test_media_flow_where_both_ends_said_they_do_p35(world, alice, offered, answered, access, core):
    """The modes are what the gateway receives from a side (RECVONLY) and sends to it (SENDONLY)."""
    here, far = world.originate(alice)
    here.exchange(
        far,
        "INVITE",
        protected("192.0.2.10", "k", f"a={offered}"),
        session("203.0.113.5", media(7000, "RTP/AVP", f"a={answered}")),
    )
    assert (world.leg("access").mode, world.leg("core").mode) == (access, core)
    assert {leg.inactivity for leg in world.legs().values()} == {0.0}
    here.hang_up(far)


def test_held_by_both_is_resumed_by_both_p35(world, alice):
    here, far = world.originate(alice)
    running = world.legs()
    held = media(7000, "RTP/AVP", "a=inactive")
    here.exchange(far, "INVITE", protected("192.0.2.10", "k", "a=sendonly"), session("203.0.113.5", held))
    far.exchange(
        here,
        "INVITE",
        session("203.0.113.5", held),
        session("192.0.2.10", media(4000, "RTP/SAVP", crypto("k"), "a=inactive")),
    )
    assert {leg.mode for leg in world.legs().values()} == {Mode.INACTIVE}
    here.exchange(far, "INVITE", protected("192.0.2.10"), FAR)
    assert world.leg("access") == running["access.1:1"]
    here.hang_up(far)


def test_hold_by_a_zero_address_of_the_ue_keeps_its_address_p35(world, alice):
    here, far = world.originate(alice, answer=FAR)
    running = world.legs()
    there, _ = here.exchange(far, "INVITE", protected("0.0.0.0"), FAR)
    assert lines_of(there, "a=sendonly")
    assert "0.0.0.0" not in there.body.decode()
    assert world.leg("access").mode is Mode.RECVONLY
    assert world.leg("access").remote == running["access.1:1"].remote
    here.exchange(far, "INVITE", protected("192.0.2.10"), FAR)
    assert world.legs() == running
    here.hang_up(far)


def test_a_call_on_hold_outlasts_the_inactivity_timer_p35(worlds):
    world = worlds(call=CallConfig(inactivity=30.0))
    alice = world.register(world.ue(10), "alice")
    here, far = world.originate(alice)
    here.exchange(
        far,
        "INVITE",
        protected("192.0.2.10", "k", "a=inactive"),
        session("203.0.113.5", media(7000, "RTP/AVP", "a=inactive")),
    )
    world.plane.silent = 100.0
    world.advance(1000)
    assert len(world.legs()) == 2
    here.hang_up(far)


def test_a_refresh_with_the_same_sdp_asks_the_gateway_nothing_p30(world, alice):
    here, far = world.originate(alice, answer=FAR)
    asked = len(world.asked)
    for method in ("INVITE", "UPDATE"):
        here.exchange(far, method, protected("192.0.2.10"), FAR)
        far.exchange(here, method, FAR, NEAR)
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
    same, _ = here.exchange(far, "INVITE", protected("192.0.2.10", port=4000), FAR)
    assert version(same) == [first, session_id]
    moved, _ = here.exchange(far, "INVITE", protected("192.0.2.10", port=4444), FAR)
    assert version(moved) == [first, session_id]  # its port is not seen on the other side
    held, back = here.exchange(far, "INVITE", protected("192.0.2.10", "k", "a=sendonly"), FAR)
    assert version(held) == [first + 1, session_id]
    assert version(back) == version(here.response)
    resumed, _ = here.exchange(far, "INVITE", protected("192.0.2.10"), FAR)
    assert version(resumed) == [first + 2, session_id]
    offered, _ = far.exchange(here, "INVITE", FAR, NEAR)
    base, own = version(here.response)
    assert version(offered) == [base + 1, own]  # it says applied, which an answer does not
    here.hang_up(far)


def test_our_origin_stays_where_the_far_end_s_does_not_p31(world, alice):
    """RFC 3264 section 8: but for the version it is the same for a session, even one that is handed on."""
    here, far = world.originate(alice)
    before = lines_of(here.response, "o=")[0].split()
    there, _ = far.exchange(here, "INVITE", FAR.replace("o=- 7", "o=carol 8"), NEAR)
    after = lines_of(there, "o=")[0].split()
    assert after == [*before[:2], str(int(before[2]) + 1), *before[3:]]
    here.hang_up(far)


def test_a_key_change_of_the_ue_is_a_new_key_of_its_side_alone_p14(world, alice):
    here, far = world.originate(alice)
    own = world.leg("access").local_key
    here.exchange(far, "INVITE", protected("192.0.2.10", "n"), FAR)
    assert world.leg("access").remote_keys[0].material == b"n" * 30
    assert world.leg("access").local_key == own
    here.hang_up(far)


def test_another_suite_of_the_ue_is_a_fresh_key_of_ours(world, alice):
    here, far = world.originate(alice)
    line = crypto("g", 1, "AEAD_AES_128_GCM", 28)
    offer = session("192.0.2.10", media(4000, "RTP/SAVP", line, "a=3ge2ae:requested"))
    _, got = here.exchange(far, "INVITE", offer, FAR)
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
    here.exchange(far, "INVITE", protected("192.0.2.10"), FAR)  # and it goes on
    here.hang_up(far)


@pytest.mark.parametrize("method", ["INVITE", "UPDATE"])
@pytest.mark.parametrize("status", [408, 481, 488, 491, 500, 503, 580])
def test_a_refused_change_of_the_core_leaves_the_media_as_they_were_p29(world, alice, method, status):
    here, far = world.originate(alice)
    before = world.legs()
    offer = session("203.0.113.77", media(7700, "RTP/AVP", "a=inactive"), media(7702, kind="video"))
    far.request(method, sdp=offer)
    alice.reply(alice.expect(method), status)
    world.network.expect(500 if status == 503 else status)  # a UE speaks for itself
    assert world.legs() == before
    here.exchange(far, "UPDATE", protected("192.0.2.10"), FAR)
    here.hang_up(far)


def test_an_early_answer_to_a_reinvite_counts_for_nothing_once_it_is_refused_p29(world, alice):
    """A provisional response that is not reliable may show the answer that is to come; it never came."""
    here, far = world.originate(alice, answer=FAR)
    before = world.legs()
    here.request("INVITE", sdp=protected("192.0.2.10", "n", port=4444))
    there = world.network.expect("INVITE")
    world.network.reply(there, 183, sdp=session("203.0.113.5", media(7500)))
    alice.expect(183)
    assert world.leg("core").remote.port == 7500
    world.network.reply(there, 488)
    alice.expect(488)
    assert world.legs() == before
    far.exchange(here, "INVITE", FAR, NEAR)
    assert world.legs() == before
    here.hang_up(far)


def test_a_reliable_early_answer_to_a_reinvite_is_agreed_on_p28_p29(world, alice):
    """RFC 6141 section 3.3: what was done stays done until another exchange changes it."""
    here, far = world.originate(alice, answer=FAR)
    here.request("INVITE", sdp=protected("192.0.2.10", port=4444))
    there = world.network.expect("INVITE")
    world.network.reply(there, 183, ("Require", "100rel"), ("RSeq", "1"), sdp=FAR)
    alice.expect(183)
    world.network.reply(there, 500)
    alice.expect(500)
    assert world.leg("access").remote.port == 4444
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


def test_fewer_m_lines_than_before_are_refused_p32(world, alice):
    video = media(4446, kind="video") + "\r\n"
    here, far = world.originate(alice, protected("192.0.2.10") + video, FAR + media(0, kind="video") + "\r\n")
    before = world.legs()
    for talk, offer in ((here, protected("192.0.2.10")), (far, FAR)):
        for method in ("INVITE", "UPDATE"):
            talk.request(method, sdp=offer)
            talk.peer.expect(488)
    assert world.network.quiet()
    assert alice.quiet()
    assert world.legs() == before
    here.hang_up(far)


def test_lines_keep_their_number_and_order_on_both_sides_p32(world, alice):
    """Whatever is refused, declined, disabled or used again."""

    def kinds(message):
        return [
            line.split()[0] + line.split()[1][:1].replace("0", " off") for line in lines_of(message, "m=")
        ]

    def near(*ports):
        lines = media(ports[0], "RTP/SAVP", crypto("k"), "a=3ge2ae:requested"), *map(video, ports[1:])
        return session("192.0.2.10", *lines)

    def video(port):
        return media(port, kind="video")

    def far(*ports):
        return session("203.0.113.5", media(ports[0]), *map(video, ports[1:]))

    here, there = world.originate(alice, near(4000, 4002), far(7000, 0))
    assert kinds(there.invite) == ["audio4", "video4"]
    assert kinds(here.response) == ["audio3", "video off"]
    for offer, answer, asked, told in (
        (near(4000, 0, 4004), far(7000, 0, 7004), ["4", " off", "4"], ["3", " off", "3"]),
        (near(4000, 4002, 0), far(7000, 7002, 0), ["4", "4", " off"], ["3", "3", " off"]),
        (near(0, 4002, 4004), far(0, 7002, 7004), [" off", "4", "4"], [" off", "3", "3"]),
        (near(4000, 0, 0), far(7000, 0, 0), ["4", " off", " off"], ["3", " off", " off"]),
    ):
        request, response = here.exchange(there, "INVITE", offer, answer)
        for message, ports in ((request, asked), (response, told)):
            names = ["audio", "video", "video"]
            assert kinds(message) == [name + port for name, port in zip(names, ports, strict=True)]
    here.hang_up(there)


ODD = ("m=audio 0 RTP/AVP *", "m=image 0 udptl t38", "m=audio 0/2 RTP/AVP 255", "m=application 0 TCP/MSRP *")


@pytest.mark.parametrize("line", ODD)
def test_odd_lines_with_port_0_pass_in_offers_and_answers_p32(world, alice, line):
    """As T.38 gateways and conference servers write them, without c= where nothing flows."""
    head = "v=0", "o=- 7 1 IN IP4 203.0.113.5", "s=-", "t=0 0"
    audio = "m=audio 7000 RTP/AVP 0", "c=IN IP4 203.0.113.5"
    offer = "\r\n".join((*head, *audio, line, ""))
    answer = session("192.0.2.10", media(4000, "RTP/SAVP", crypto("k")), line)
    here, far = world.terminate(alice, offer, answer)
    assert lines_of(here.invite, "m=")[1] == line.removeprefix("m=")
    assert lines_of(far.response, "m=")[1] == line.removeprefix("m=")
    assert len(world.legs()) == 2
    back = session("192.0.2.10", media(4000, "RTP/SAVP", crypto("k"), "a=3ge2ae:requested"), line)
    here.exchange(far, "INVITE", back, offer)
    here.hang_up(far)


T38 = session("203.0.113.5", "m=image 7500 udptl t38", "a=T38FaxVersion:0")


def test_a_fax_that_is_refused_leaves_the_audio_p33(world, alice):
    here, far = world.originate(alice, answer=FAR)
    before = world.legs()
    far.request("INVITE", sdp=T38)
    there = alice.expect("INVITE")
    assert lines_of(there, "m=")[0].endswith("udptl t38")
    assert not lines_of(there, "a=crypto") + lines_of(there, "a=3ge2ae")
    alice.reply(there, 488)
    world.network.expect(488)
    assert world.legs() == before
    far.exchange(here, "INVITE", FAR, NEAR)
    assert world.legs() == before
    here.hang_up(far)


def test_from_audio_to_fax_and_back_p33(world, alice):
    """Nothing of the fax is labelled RTP; the audio comes back under e2ae with its own context."""
    here, far = world.originate(alice, answer=FAR)
    there, got = far.exchange(here, "INVITE", T38, session("192.0.2.10", "m=image 4500 udptl t38"))
    for message in (there, got):
        assert lines_of(message, "m=")[0].endswith("udptl t38")
        assert "RTP" not in message.body.decode()
    assert {leg.transport for leg in world.legs().values()} == {Transport.UDP}
    assert len(world.status()["calls"]) == 1
    there, got = far.exchange(here, "INVITE", FAR, NEAR)
    assert lines_of(there, "m=")[0].split()[2] == "RTP/SAVP"
    assert world.leg("access").transport is Transport.SRTP
    assert {leg.mode for leg in world.legs().values()} == {Mode.SENDRECV}
    here.hang_up(far)


def test_a_reinvite_adds_and_takes_away_a_line_p32(world, alice):
    here, far = world.originate(alice)
    video = media(4446, kind="video") + "\r\n"
    here.exchange(far, "INVITE", protected("192.0.2.10") + video, FAR + media(7002, kind="video") + "\r\n")
    assert len(world.legs()) == 4
    gone = media(0, kind="video") + "\r\n"
    here.exchange(far, "INVITE", protected("192.0.2.10") + gone, FAR + gone)
    assert len(world.legs()) == 2
    (gone,) = [note.text for note in world.notes if ": gone;" in note.text]
    assert "access.1 m=1 in 0 out 0" in gone
    assert "core m=1 in 0 out 0" in gone
    here.hang_up(far)


def test_a_reinvite_from_plain_to_e2ae_p14(world, alice):
    here, far = world.originate(alice, session("192.0.2.10"))
    assert world.leg("access").transport is Transport.RTP
    here.exchange(far, "INVITE", protected("192.0.2.10"), FAR)
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


def test_an_update_with_an_offer_while_one_is_pending_is_refused_p29(world, alice):
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


@pytest.mark.parametrize("first", ["INVITE", "UPDATE"])
@pytest.mark.parametrize("second", ["INVITE", "UPDATE"])
def test_offers_that_cross_here_are_refused_by_whoever_got_the_later_p29(world, alice, first, second):
    """Both offers were sent before either came: the second meets a pending one (RFC 3311 section 5.2)."""
    here, far = world.originate(alice, answer=FAR)
    before = world.legs()
    sent = here.request(first, sdp=protected("192.0.2.10", port=4444))
    there = world.network.expect(first)
    far.request(second, sdp=session("203.0.113.5", media(7700)))
    world.network.expect(491)
    assert alice.quiet()
    world.network.reply(there, 491)  # as the far end has an offer out as well
    alice.expect(491)
    assert world.legs() == before
    sent = here.request("INVITE", sdp=protected("192.0.2.10", port=4444))
    world.network.reply(world.network.expect("INVITE"), 200, sdp=FAR)
    alice.expect(200)
    here.ack(sent)
    world.network.expect("ACK")
    assert world.leg("access").remote.port == 4444
    here.hang_up(far)


def test_commands_say_only_what_changed(world, alice):
    here, far = world.originate(alice)
    kinds = [[type(command) for command in request.commands] for request in world.asked]
    assert kinds[0] == [ReserveConnectionPoint]
    assert ConfigureConnectionPoint in kinds[1]
    assert len(kinds) == 2
    here.hang_up(far)
    assert len(world.asked) == 3
