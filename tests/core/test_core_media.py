"""What the SDP says and what the gateway holds, for each treatment of a call (TS 33.328 clause 7)."""

import base64

import pytest
from msgspec.structs import replace

from agw.iq.messages import Address, Mode, Suite, Transport
from imsalg.policy.decide import Rules
from imsalg.sip import endpoint as sip
from tests.sim.peer import Peer
from tests.sim.sdp import crypto, key, lines_of, media, protected, session
from tests.sim.world import BASE

SUITE = "AES_CM_128_HMAC_SHA1_80"
FAR = session("203.0.113.5", media(7000))


@pytest.fixture
def alice(world):
    return world.register(world.ue(10), "alice")


def material(message):
    """The key of the only a=crypto line of a message."""
    (line,) = lines_of(message, "a=crypto:")
    return base64.b64decode(line.split("inline:")[1])


def test_e2ae_originating_is_srtp_at_the_ue_and_rtp_at_the_core_p13_p19(world, alice):
    invite = alice.invite("sip:bob@home.example", sdp=protected("192.0.2.10", "k", crypto("l", 2)))
    there = world.network.expect("INVITE")
    core = world.leg("core")
    assert lines_of(there, "m=") == [f"audio {core.local_rtp.port} RTP/AVP 0"]
    assert lines_of(there, "c=") == ["IN IP4 198.51.100.2"]
    assert lines_of(there, "o=")[0].endswith("IN IP4 198.51.100.1")
    assert not lines_of(there, "a=crypto")
    assert core.transport is Transport.RTP
    assert core.mode is Mode.INACTIVE
    world.network.reply(there, 200, sdp=FAR)
    got = alice.expect(200)
    access, core = world.leg("access"), world.leg("core")
    assert lines_of(got, "m=") == [f"audio {access.local_rtp.port} RTP/SAVP 0"]
    assert lines_of(got, "c=") == ["IN IP4 192.0.2.2"]
    assert lines_of(got, "a=crypto:")[0].startswith(f"1 {SUITE} inline:")
    assert "|" not in lines_of(got, "a=crypto:")[0]  # neither lifetime nor MKI
    assert not lines_of(got, "a=3ge2ae")
    assert access.transport is Transport.SRTP
    assert access.local_key.material == material(got) != b"k" * 30
    assert [each.material for each in access.remote_keys] == [b"k" * 30]
    assert (access.mode, core.mode) == (Mode.SENDRECV, Mode.SENDRECV)
    assert access.remote == Address("192.0.2.10", 4000)
    assert core.remote == Address("203.0.113.5", 7000)
    assert (access.latch, core.latch) == (True, False)
    assert access.peer == core.id
    alice.dialog(invite, got).ack()


def test_e2ae_terminating_is_offered_one_fresh_line_for_each_suite_p13(world, alice):
    invite = world.network.call(alice, sdp=FAR)
    there = alice.expect("INVITE")
    assert lines_of(there, "m=")[0].split()[2] == "RTP/SAVP"
    assert lines_of(there, "a=3ge2ae:") == ["applied"]
    offered = lines_of(there, "a=crypto:")
    assert [line.split()[:2] for line in offered] == [
        [str(tag), suite] for tag, suite in enumerate(Rules().suites, 1)
    ]
    keys = [base64.b64decode(line.split("inline:")[1]) for line in offered]
    assert [len(each) for each in keys] == [Suite(suite).material_length for suite in Rules().suites]
    assert len(set(keys)) == 4
    second = crypto("u", 2, "AES_256_CM_HMAC_SHA1_80", 46)
    alice.reply(there, 200, sdp=session("192.0.2.10", media(4000, "RTP/SAVP", second)))
    got = world.network.expect(200)
    access = world.leg("access")
    assert lines_of(got, "m=") == [f"audio {world.leg('core').local_rtp.port} RTP/AVP 0"]
    assert not lines_of(got, "a=crypto")
    assert access.local_key.suite is Suite.AES_256_CM_HMAC_SHA1_80
    assert access.local_key.material == keys[1]
    assert [each.material for each in access.remote_keys] == [b"u" * 46]
    world.network.dialog(invite, got).ack()
    alice.expect("ACK")


def test_a_wrong_tag_with_one_matching_suite_is_accepted_p12(world, alice):
    line = crypto("u", 7)
    world.terminate(alice, answer=session("192.0.2.10", media(4000, "RTP/SAVP", line)))
    assert world.leg("access").local_key.suite is Suite.AES_CM_128_HMAC_SHA1_80


def test_the_ues_first_line_of_a_suite_we_serve_is_taken_and_its_tag_echoed_p12(world, alice):
    lines = (
        crypto("a", 4, "F8_128_HMAC_SHA1_80"),
        f"a=crypto:5 {SUITE} inline:AAAA",
        crypto("c", 6) + " UNENCRYPTED_SRTP",
        crypto("d", 7, "AEAD_AES_128_GCM", 28),
        crypto("e", 8),
    )
    offer = session("192.0.2.10", media(4000, "RTP/SAVP", *lines, "a=3ge2ae:requested"))
    here, _ = world.originate(alice, offer)
    assert lines_of(here.response, "a=crypto:")[0].startswith("7 AEAD_AES_128_GCM inline:")
    assert world.leg("access").remote_keys[0].material == b"d" * 28


def test_lifetime_and_mki_of_the_ue_are_understood_p11_p16(world, alice):
    line = f"a=crypto:1 {SUITE} inline:{key('k')}|2^20|1:4"
    world.originate(alice, session("192.0.2.10", media(4000, "RTP/SAVP", line, "a=3ge2ae:requested")))
    access = world.leg("access")
    assert access.remote_keys[0].mki == b"\0\0\0\1"
    assert access.local_key.mki == b""


def test_every_call_has_keys_of_its_own_p13(world, alice):
    own = []
    for _ in range(2):
        here, far = world.originate(alice)
        own.append(material(here.response))
        here.hang_up(far)
    assert own[0] != own[1]


def test_e2e_sdes_passes_untouched_and_is_anchored_transparently_p13(world, alice):
    line = crypto("k") + " WSH=128"
    offer = session("192.0.2.10", media(4000, "RTP/SAVP", line, "a=x-unknown:1"))
    answer = session("203.0.113.5", media(7000, "RTP/SAVP", crypto("z")))
    invite = alice.invite("sip:bob@home.example", sdp=offer)
    there = world.network.expect("INVITE")
    assert lines_of(there, "a=crypto:") == [line.removeprefix("a=crypto:")]
    assert lines_of(there, "m=") == [f"audio {world.leg('core').local_rtp.port} RTP/SAVP 0"]
    world.network.reply(there, 200, sdp=answer)
    got = alice.expect(200)
    assert lines_of(got, "a=crypto:") == [crypto("z").removeprefix("a=crypto:")]
    for leg in world.legs().values():
        assert leg.transport is Transport.UDP
        assert leg.local_key is None
        assert leg.remote_keys == ()
    alice.dialog(invite, got).ack()


@pytest.mark.parametrize("level", ["session", "media"])
def test_e2e_kms_passes_untouched_and_is_anchored_transparently(world, alice, level):
    mikey = "a=key-mgmt:mikey AQAFgM0XflABAAAAAAAAAAAAAAsAyO"
    if level == "media":
        offer = session("192.0.2.10", media(4000, "RTP/SAVP", mikey))
    else:
        offer = session("192.0.2.10", mikey, media(4000, "RTP/SAVP"))
    alice.invite("sip:bob@home.example", sdp=offer)
    there = world.network.expect("INVITE")
    assert lines_of(there, "a=key-mgmt:") == [mikey.removeprefix("a=key-mgmt:")]
    assert world.leg("core").transport is Transport.UDP


def test_msrp_under_kms_is_not_anchored_and_asks_the_gateway_nothing(world, alice):
    mikey = "a=key-mgmt:mikey AQAFgM0XflABAAAAAAAAAAAAAAsAyO"
    line = "m=message 7394 TCP/TLS/MSRP *"
    offer = session("192.0.2.10", line, mikey, "a=path:msrps://192.0.2.10:7394/x;tcp")
    here, far = world.originate(alice, offer, session("203.0.113.5", line))
    assert here.invite.body.decode().split("m=")[1] == far.invite.body.decode().split("m=")[1]
    assert not world.asked
    here.hang_up(far)


def test_plain_is_anchored_as_rtp(world):
    carol = world.plain()
    world.originate(carol, session("192.0.2.20"))
    assert {leg.transport for leg in world.legs().values()} == {Transport.RTP}
    access, core = world.leg("access"), world.leg("core")
    assert (access.latch_from, access.source_filter) == (carol.flow.remote.host, True)  # no RTP bleed
    assert (core.latch, core.source_filter) == (False, False)


def test_plain_media_may_begin_anywhere_where_the_operator_says_so(worlds):
    (access,) = BASE["access"]
    world = worlds(access=(replace(access, latch_anywhere=True),))
    world.originate(world.plain(), session("192.0.2.20"))
    access = world.leg("access")
    assert (access.latch, access.latch_from, access.source_filter) == (True, None, False)


def test_a_plain_ue_is_offered_plain(world):
    carol = world.plain()
    there, _ = world.terminate(carol, answer=session("192.0.2.20"))
    assert lines_of(there.invite, "m=")[0].split()[2] == "RTP/AVP"
    assert not lines_of(there.invite, "a=crypto")
    assert not lines_of(there.invite, "a=3ge2ae")


def test_e2ae_without_registration_is_488_and_leaves_nothing(world):
    carol = world.plain()
    carol.invite("sip:bob@home.example", sdp=protected("192.0.2.20"))
    response = carol.expect(488)
    assert "sdes-srtp is not registered" in response.headers.get("Warning")
    assert not world.asked
    assert not world.status()["calls"]


def test_e2ae_without_registration_is_granted_where_policy_says_so(worlds):
    world = worlds(policy=Rules(e2ae_unregistered="grant"))
    world.originate(world.plain(), protected("192.0.2.20"))
    assert world.leg("access").transport is Transport.SRTP


def test_mixed_m_lines_each_have_their_own_treatment(world, alice):
    offer = session(
        "192.0.2.10",
        media(4000, "RTP/SAVP", crypto("a"), "a=3ge2ae:requested"),
        media(4002, "RTP/AVP", kind="video"),
        media(4004, "RTP/SAVP", crypto("e"), kind="video"),
        media(4006, "UDP/TLS/RTP/SAVP", "a=3ge2ae:requested", kind="video"),
        "m=message 4008 TCP/MSRP *",
        media(0, "RTP/AVP", kind="text"),
    )
    answer = session(
        "203.0.113.5",
        media(7000),
        media(7002, kind="video"),
        media(7004, "RTP/SAVP", crypto("f"), kind="video"),
        media(0, "UDP/TLS/RTP/SAVP", kind="video"),
        "m=message 7008 TCP/MSRP *",
        media(0, kind="text"),
    )
    here, far = world.originate(alice, offer, answer)
    legs = world.legs()
    kinds = {name.replace(".1", ""): leg.transport for name, leg in legs.items()}
    assert kinds == {
        "core:1": Transport.RTP, "access:1": Transport.SRTP,
        "core:2": Transport.RTP, "access:2": Transport.RTP,
        "core:3": Transport.UDP, "access:3": Transport.UDP,
    }  # fmt: skip
    there = [line.split() for line in lines_of(far.invite, "m=")]
    profiles = ["RTP/AVP", "RTP/AVP", "RTP/SAVP", "UDP/TLS/RTP/SAVP", "TCP/MSRP"]
    assert [line[2] for line in there[:5]] == profiles
    assert [line[1] == "0" for line in there] == [False, False, False, True, False, True]
    back = [line.split() for line in lines_of(here.response, "m=")]
    assert [line[2] for line in back[:4]] == ["RTP/SAVP", "RTP/AVP", "RTP/SAVP", "UDP/TLS/RTP/SAVP"]
    assert [line[1] == "0" for line in back] == [False, False, False, True, False, True]


def test_a_line_the_other_end_declines_is_given_back(world, alice):
    offer = session("192.0.2.10", media(4000), media(4002, kind="video"))
    world.originate(alice, offer, session("203.0.113.5", media(7000), media(0, kind="video")))
    assert {name.split(":")[1] for name in world.legs()} == {"1"}


def test_a_call_whose_only_line_is_declined_holds_no_context(world, alice):
    here, far = world.originate(alice, answer=session("203.0.113.5", media(0)))
    assert not world.plane.legs
    here.hang_up(far)


def test_an_answer_that_breaks_e2ae_ends_the_call_on_both_sides(world, alice):
    invite = world.network.call(alice, sdp=FAR)
    there = alice.expect("INVITE")
    alice.reply(there, 200, sdp=session("192.0.2.10", media(4000, "RTP/AVP")))
    alice.expect("ACK")
    alice.reply(alice.expect("BYE"), 200)
    assert world.network.expect(488).cseq == invite.cseq
    assert not world.plane.legs


def test_an_answer_with_other_m_lines_ends_the_call(world, alice):
    alice.invite("sip:bob@home.example", sdp=protected("192.0.2.10"))
    world.network.reply(world.network.expect("INVITE"), 200, sdp=session("203.0.113.5", media(), media()))
    world.network.expect("ACK")
    world.network.expect("BYE")
    alice.expect(488)


def test_a_2xx_without_an_answer_fails(world, alice):
    alice.invite("sip:bob@home.example", sdp=protected("192.0.2.10"))
    world.network.reply(world.network.expect("INVITE"), 200)
    world.network.expect("ACK")
    world.network.expect("BYE")
    alice.expect(500)


def test_a_ue_on_ipv6_is_offered_ipv6_and_the_core_keeps_ipv4(worlds):
    listen = sip.Address("2001:db8::1", 5060)
    world = worlds(access=(replace(BASE["access"][0], listen=listen),))
    alice = world.register(Peer(world, sip.Address("2001:db8::10", 5060), listen), "alice")
    here, _ = world.originate(alice)
    assert lines_of(here.response, "c=") == ["IN IP6 2001:db8::2"]
    assert world.leg("core").local_rtp.host == "198.51.100.2"


def test_rtcp_mux_is_decided_for_each_side_p34(world, alice):
    world.originate(alice, protected("192.0.2.10", "k", "a=rtcp-mux"))
    assert world.leg("access").rtcp_mux
    assert not world.leg("core").rtcp_mux


def test_where_rtcp_goes_is_told_the_gateway_p34(world, alice):
    world.originate(alice, protected("192.0.2.10", "k", "a=rtcp:4999"))
    assert world.leg("access").remote_rtcp == Address("192.0.2.10", 4999)
    assert world.leg("core").remote_rtcp == Address("203.0.113.5", 4001)


@pytest.mark.parametrize("rtcp", ["a=rtcp:9 IN IP4 0.0.0.0", "a=rtcp:0"])
def test_no_place_for_rtcp_is_as_if_none_were_said(world, alice, rtcp):
    world.originate(alice, protected("192.0.2.10", "k", rtcp))
    assert world.leg("access").remote_rtcp == Address("192.0.2.10", 4001)


@pytest.mark.parametrize(
    "line",
    [
        media(4002, "RTP/AVP", "c=IN IP6 2001:db8::9", kind="video"),
        media(4002, "RTP/AVP", "a=rtcp:4003 IN IP6 2001:db8::9", kind="video"),
        media(4002, "RTP/AVP", "c=IN IP4 255.255.255.255", kind="video"),
        media(4002, "RTP/AVP", "c=IN IP6 fe80::1%eth0", kind="video"),
    ],
)
def test_what_the_gateway_could_never_send_to_is_refused_before_anybody_is_called(world, alice, line):
    alice.invite("sip:bob@home.example", sdp=session("192.0.2.10", media(), line))
    alice.expect(488)
    assert world.network.quiet()


def test_a_side_that_changes_its_address_family_is_refused_and_the_call_goes_on(world, alice):
    here, far = world.originate(alice)
    here.request("INVITE", sdp=session("2001:db8::9", media(4000, "RTP/SAVP", crypto())))
    alice.expect(488)
    assert world.network.quiet()
    here.hang_up(far)


def test_a_disabled_line_does_not_say_which_address_family_is_wanted(world, alice):
    disabled = media(0, "RTP/AVP", "c=IN IP6 ::1")
    offer = session("192.0.2.10", disabled, media(4002, kind="video"))
    world.originate(alice, offer, session("203.0.113.5", media(0), media(7002, kind="video")))
    assert world.leg("access", 2).local_rtp.host == "192.0.2.2"


def test_the_core_is_never_told_of_e2ae_by_anyone_p19(world, alice):
    """The world looks at every message to the core; here the UE does its worst."""
    lines = ("a=3ge2ae:applied", "a=3ge2ae:requested", "a=tcap:1 RTP/SAVP", "a=pcfg:1 t=1")
    _, far = world.originate(alice, protected("192.0.2.10", "k", *lines))
    assert not [line for line in far.invite.body.decode().splitlines() if "cap" in line or "cfg" in line]


def test_an_indication_of_the_core_does_not_reach_a_ue_p19(world):
    carol = world.plain()
    offer = session("203.0.113.5", media(7000, "RTP/AVP", "a=3ge2ae:applied"))
    there, _ = world.terminate(carol, offer, session("192.0.2.20"))
    assert not lines_of(there.invite, "a=3ge2ae")
