"""Calls whose media are protected by DTLS as far as the gateway: what it is told, and what the SDP says
(TS 23.334 clauses 6.2.10.4 and 6.2.10.5, RFC 8842), over everything that may become of a call."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from agw.iq.messages import Address, DtlsRole, ErrorCode, Event, Fingerprint, Mode, Transport
from imsalg.policy.decide import Access, Rules
from imsalg.policy.rules import E2dce
from imsalg.policy.treatment import Mechanism
from tests.sim.sdp import crypto, lines_of, media, session
from tests.sim.world import BASE

ALL = (Mechanism.SDES_SRTP, Mechanism.DTLS_SRTP, Mechanism.UDPTL_DTLS)
DIGESTS = {letter: ":".join([letter * 2] * 32) for letter in "ABCDEF"}
TLS_ID = "abc3de65cddef001be82"
FAR = session("203.0.113.5", media(7000))
FAX = "m=image 7000 udptl t38"
ICE = ("a=ice-ufrag:8hhY", "a=ice-pwd:asd88fgpdd777uzjYhagZg")


def dtls(setup="actpass", tls_id=TLS_ID, letter="A", *more, port=4000, host="192.0.2.10"):
    """What a UE says under DTLS-SRTP."""
    lines = [f"a=setup:{setup}", f"a=fingerprint:sha-256 {DIGESTS[letter]}", *more]
    lines += [f"a=tls-id:{tls_id}"] if tls_id else []
    return session(host, media(port, "UDP/TLS/RTP/SAVP", *lines, "a=3ge2ae:requested"))


def fax(setup="actpass", letter="A"):
    return session(
        "192.0.2.10",
        "m=image 4000 UDP/TLS/UDPTL t38",
        f"a=setup:{setup}",
        f"a=fingerprint:sha-256 {DIGESTS[letter]}",
        "a=3ge2ae:requested",
    )


def only(message, start):
    (line,) = lines_of(message, start)
    return line


def ours(message):
    """What we say of DTLS, which has to be the same where the association is."""
    return only(message, "a=fingerprint:"), only(message, "a=tls-id:")


@pytest.fixture
def world(worlds):
    return worlds(access=(replace(BASE["access"][0], mechanisms=ALL),))


def registered(world, *mechanisms, number=10, user="alice", contact=""):
    ue = world.ue(number)
    headers = [("Security-Client", f"{mechanism};mediasec") for mechanism in mechanisms]
    if contact:
        headers.append(("Contact", f"<{ue.contact}>;{contact}"))
    ue.register(user, *headers)
    request = world.network.expect("REGISTER")
    ue.path = request.headers.get("Path") or ""
    world.network.accept(request)
    ue.expect(200)
    return ue


@pytest.fixture
def alice(world):
    return registered(world, "dtls-srtp")


@pytest.fixture
def browser(worlds):
    """A WebRTC client, which has registered nothing."""
    world = worlds(access=(replace(BASE["access"][0], mechanisms=(), type=Access.WEBRTC),))
    return registered(world)


# -- one call -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setup", "role", "answered"),
    [
        ("actpass", DtlsRole.SERVER, "passive"),
        ("active", DtlsRole.SERVER, "passive"),
        ("passive", DtlsRole.CLIENT, "active"),
    ],
)
def test_a_ue_calls_and_the_gateway_has_the_role_that_is_left_p01(world, alice, setup, role, answered):
    invite = alice.invite("sip:bob@home.example", sdp=dtls(setup))
    there = world.network.expect("INVITE")
    assert only(there, "m=").split()[2] == "RTP/AVP"
    for name in ("a=setup", "a=fingerprint", "a=tls-id", "a=3ge2ae", "a=crypto"):
        assert not lines_of(there, name)
    world.network.reply(there, 200, sdp=FAR)
    got = alice.expect(200)
    assert only(got, "m=").split()[2] == "UDP/TLS/RTP/SAVP"
    assert only(got, "a=setup:") == answered
    fingerprint, tls_id = ours(got)
    assert fingerprint.startswith("sha-256 ")
    assert len(tls_id) == 20
    assert tls_id != TLS_ID
    assert not lines_of(got, "a=crypto")
    access, core = world.stream("access"), world.stream("core")
    assert (access.transport, core.transport) == (Transport.DTLS_SRTP, Transport.RTP)
    assert access.dtls.role is role
    assert access.dtls.fingerprints == (Fingerprint("sha-256", b"\xaa" * 32),)
    assert (access.mode, access.latch, access.source_filter, access.ice) == (Mode.SENDRECV, True, False, None)
    alice.dialog(invite, got).ack()


def test_a_ue_without_a_tls_id_is_answered_without_p04(world, alice):
    here, _ = world.originate(alice, dtls(tls_id=None))
    assert not lines_of(here.response, "a=tls-id")
    assert world.stream("access").dtls.role is DtlsRole.SERVER


def test_a_tls_id_is_left_out_where_policy_says_so_p04(worlds):
    access = replace(BASE["access"][0], mechanisms=ALL)
    world = worlds(access=(access,), policy=Rules(tls_id=False))
    ue = registered(world, "dtls-srtp")
    here, far = world.originate(ue, dtls())
    assert not lines_of(here.response, "a=tls-id")
    name = world.stream("access").dtls.association
    here.exchange(far, "INVITE", dtls(), FAR)
    assert world.stream("access").dtls.association == name
    here.hang_up(far)
    here, far = world.terminate(ue, answer=dtls("active"))
    assert not lines_of(here.invite, "a=tls-id")
    there, _ = far.exchange(here, "INVITE", FAR, dtls("active"))
    assert not lines_of(there, "a=tls-id")
    assert only(there, "a=fingerprint:") == only(here.invite, "a=fingerprint:")


def test_a_blank_before_a_tls_id_is_none_of_it_p04(world, alice):
    here, far = world.originate(alice, dtls(tls_id=f" {TLS_ID}"))
    name = world.stream("access").dtls.association
    here.exchange(far, "INVITE", dtls(), FAR)
    assert world.stream("access").dtls.association == name


@pytest.mark.parametrize(("setup", "role"), [("active", DtlsRole.SERVER), ("passive", DtlsRole.CLIENT)])
def test_a_ue_is_called_and_chooses_its_role_p01_p06(world, alice, setup, role):
    invite = world.network.call(alice, sdp=FAR)
    there = alice.expect("INVITE")
    assert only(there, "m=").split()[2] == "UDP/TLS/RTP/SAVP"
    assert only(there, "a=setup:") == "actpass"
    assert only(there, "a=3ge2ae:") == "applied"
    assert lines_of(there, "a=rtcp-mux") == [""]
    waiting = world.stream("access")  # for a ClientHello that is earlier than the answer
    assert (waiting.dtls.role, waiting.mode) == (None, Mode.INACTIVE)
    assert (only(there, "a=ice-ufrag:"), only(there, "a=ice-pwd:")) == (waiting.ice.ufrag, waiting.ice.pwd)
    alice.reply(there, 200, sdp=dtls(setup))
    got = world.network.expect(200)
    assert not lines_of(got, "a=fingerprint")
    access = world.stream("access")
    assert (access.dtls.association, access.dtls.role) == (waiting.dtls.association, role)
    assert (access.ice, access.latch, access.rtcp_mux, access.mode) == (None, True, False, Mode.SENDRECV)
    world.network.dialog(invite, got).ack()
    alice.expect("ACK")


@pytest.mark.parametrize(
    "answer",
    [
        dtls("actpass"),
        dtls("active").replace("sha-256", "sha-1024"),
        session("192.0.2.10", media(4000, "RTP/SAVP", crypto("k"))),
        session("192.0.2.10", media(4000)),
    ],
)
def test_an_answer_that_does_not_protect_ends_the_call_p17(world, alice, answer):
    world.network.call(alice, sdp=FAR)
    alice.reply(alice.expect("INVITE"), 200, sdp=answer)
    alice.expect("ACK")
    alice.expect("BYE")
    world.network.expect(488)


def test_an_answer_that_does_not_protect_is_plain_where_policy_says_so(worlds):
    access = replace(BASE["access"][0], mechanisms=ALL)
    world = worlds(access=(access,), policy=Rules(answer_without_crypto="plain"))
    ue = registered(world, "dtls-srtp", "udptl-dtls")
    here, far = world.terminate(ue, answer=session("192.0.2.10", media(4000)))
    assert (world.stream("access").transport, world.stream("access").dtls) == (Transport.RTP, None)
    there, _ = far.exchange(here, "INVITE", FAR, dtls("active"))  # and is asked again
    assert only(there, "m=").split()[2] == "UDP/TLS/RTP/SAVP"
    assert world.stream("access", 33).transport is Transport.DTLS_SRTP
    far.exchange(here, "INVITE", session("203.0.113.5", FAX), session("192.0.2.10", "m=image 4000 udptl t38"))
    assert {leg.transport for leg in world.legs().values()} == {Transport.UDP}
    here.hang_up(far)


def test_sdes_comes_first_where_both_are_registered(world):
    both = registered(world, "dtls-srtp", "sdes-srtp")
    world.network.call(both, sdp=FAR)
    there = both.expect("INVITE")
    assert lines_of(there, "a=crypto")
    assert not lines_of(there, "a=fingerprint")
    both.reply(there, 486)


def test_a_gateway_without_a_fingerprint_ends_the_call(world, alice, monkeypatch):
    local = world.gateway.execute

    def without(*args):
        reply = local(*args)
        results = [
            replace(r, streams=tuple(replace(s, fingerprint=None) for s in r.streams))
            if hasattr(r, "streams")
            else r
            for r in reply.results
        ]
        return replace(reply, results=tuple(results))

    monkeypatch.setattr(world.gateway, "execute", without)
    world.network.call(alice, sdp=FAR)
    assert world.network.expect(500)
    assert alice.quiet()


# -- over what becomes of a call ------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["INVITE", "UPDATE"])
def test_hold_and_refresh_of_the_ue_keep_the_association_p01_p03(world, alice, method):
    here, far = world.originate(alice, dtls())
    standing = world.stream("access")
    _, got = here.exchange(far, method, dtls("actpass", TLS_ID, "A", "a=sendonly"), FAR)
    assert ours(got) == ours(here.response)
    assert only(got, "a=setup:") == "passive"
    assert world.stream("access").dtls == standing.dtls
    here.exchange(far, method, dtls(), FAR)
    assert world.stream("access") == standing


def test_hold_and_refresh_of_the_core_keep_the_association_p01_p03(world, alice):
    here, far = world.terminate(alice, answer=dtls("active"))
    first, standing = here.invite, world.stream("access")
    held = session("203.0.113.5", media(7000, "RTP/AVP", "a=inactive"))
    for offer in (held, FAR):
        there, _ = far.exchange(here, "INVITE", offer, dtls("active"))
        assert ours(there) == ours(first)
        assert only(there, "a=setup:") == "actpass"
        assert world.stream("access").dtls == standing.dtls
    assert lines_of(there, "o=") == lines_of(first, "o=") or not lines_of(there, "a=inactive")


def test_a_new_tls_id_is_a_new_association_when_the_answer_completes_it_p02(world, alice):
    here, _ = world.originate(alice, dtls())
    standing = world.stream("access")
    invite = here.request("INVITE", sdp=dtls(tls_id="f" * 20, letter="B"))
    there = world.network.expect("INVITE")
    assert world.stream("access") == standing  # nothing on an offer
    world.network.reply(there, 200, sdp=FAR)
    got = alice.expect(200)
    here.ack(invite)
    now = world.stream("access")
    assert now.dtls.association != standing.dtls.association
    assert now.dtls.fingerprints == (Fingerprint("sha-256", b"\xbb" * 32),)
    assert only(got, "a=tls-id:") != only(here.response, "a=tls-id:")
    assert only(got, "a=fingerprint:") == only(here.response, "a=fingerprint:")


def test_a_refused_re_invite_leaves_the_association_p02_p29(world, alice):
    here, far = world.originate(alice, dtls())
    standing = world.stream("access")
    here.request("INVITE", sdp=dtls(tls_id="f" * 20, letter="B"))
    world.network.reply(world.network.expect("INVITE"), 488)
    alice.expect(488)
    assert world.stream("access") == standing
    _, got = here.exchange(far, "INVITE", dtls(), FAR)
    assert ours(got) == ours(here.response)
    assert world.stream("access") == standing


def test_a_withdrawn_preview_leaves_the_association_p02_p29(world, alice):
    here, far = world.originate(alice, dtls())
    standing = world.stream("access")
    here.request("INVITE", sdp=dtls(tls_id="f" * 20, letter="B"))
    there = world.network.expect("INVITE")
    world.network.reply(there, 183, sdp=FAR)
    alice.expect(183)
    assert world.stream("access").dtls != standing.dtls
    world.network.reply(there, 488)
    alice.expect(488)
    assert world.stream("access") == standing
    here.hang_up(far)


@pytest.mark.parametrize("end", [200, 488])
def test_fax_in_a_preview_leaves_speech_as_it_was_until_it_is_agreed_on_p29_p33(world, end):
    ue = registered(world, "dtls-srtp", "udptl-dtls")
    here, _ = world.originate(ue, dtls())
    legs, standing = dict(world.plane.legs), world.stream("access")
    sent = here.request("INVITE", sdp=fax())
    there = world.network.expect("INVITE")
    world.network.reply(there, 183, sdp=session("203.0.113.5", FAX))
    ue.expect(183)
    assert world.stream("access") == replace(standing, mode=Mode.INACTIVE)
    assert world.stream("access", 33).mode is Mode.SENDRECV
    world.network.reply(there, end, sdp=session("203.0.113.5", FAX) if end == 200 else "")
    ue.expect(end)
    if end == 200:
        here.ack(sent)
        assert {name.partition(":")[2] for name in world.legs()} == {"33"}
    else:
        assert world.plane.legs == legs


@pytest.mark.parametrize("status", [407, 422])
def test_an_invite_that_comes_again_offers_the_same_p03_p37(world, alice, status):
    invite = world.network.call(alice, sdp=FAR)
    there = alice.expect("INVITE")
    waiting = world.stream("access")
    alice.reply(there, status)
    world.network.expect(status)
    again = world.network.compose(
        "INVITE",
        alice.contact,
        *[(name, invite.headers.get(name) or "") for name in ("From", "To", "Call-ID")],
        ("CSeq", "900 INVITE"),
        ("Route", alice.path),
        sdp=FAR,
    )
    world.network.send(again)
    second = alice.expect("INVITE")
    for name in ("a=tls-id:", "a=fingerprint:", "a=ice-ufrag:", "a=ice-pwd:", "a=candidate:", "m=", "o="):
        assert lines_of(second, name) == lines_of(there, name)
    assert world.stream("access") == waiting
    alice.reply(second, 486)
    world.network.expect(486)


def test_a_re_invite_that_met_another_offers_the_same_p03(world, alice):
    here, far = world.terminate(alice, answer=dtls("active"))
    for _ in range(2):
        far.request("INVITE", sdp=FAR)
        there = alice.expect("INVITE")
        assert ours(there) == ours(here.invite)
        alice.reply(there, 491)
        world.network.expect(491)


def test_early_dialogs_have_associations_of_their_own_p13_p26(world, alice):
    invite = alice.invite("sip:bob@home.example", sdp=dtls(setup="actpass"))
    there = world.network.expect("INVITE")
    said = []
    for number in (1, 2):
        world.network.reply(there, 183, sdp=FAR, tag=f"fork{number}")
        said.append(alice.expect(183))
    first, second = world.stream("access.1"), world.stream("access.2")
    assert first.dtls.association != second.dtls.association
    assert first.dtls.fingerprints == second.dtls.fingerprints
    assert ours(said[0])[1] != ours(said[1])[1]
    world.network.reply(there, 200, sdp=FAR, tag="fork2")
    got = alice.expect(200)
    assert ours(got) == ours(said[1])
    assert world.stream("access") == replace(second, inactivity=60.0)
    alice.dialog(invite, got).ack()


def test_two_who_answer_one_offer_are_two_associations(world, alice):
    """The UE's end forks: both have our tls-id, so the names tell them apart."""
    world.network.call(alice, sdp=FAR)
    there = alice.expect("INVITE")
    names = []
    for number, letter in ((1, "A"), (2, "B")):
        alice.reply(there, 183, sdp=dtls("active", letter=letter), tag=f"fork{number}")
        world.network.expect(183)
        names.append(world.stream("access").dtls.association)
    assert names[0] != names[1]
    alice.reply(there, 486)
    world.network.expect(486)


def test_a_line_that_previews_accept_and_decline_may_be_answered_otherwise(world, alice):
    invite = world.network.call(alice, sdp=FAR)
    there = alice.expect("INVITE")
    port = world.leg("access").local_rtp.port
    for said in (dtls("active"), session("192.0.2.10", media(0, "UDP/TLS/RTP/SAVP"))):
        alice.reply(there, 183, sdp=said)
        world.network.expect(183)
    alice.reply(there, 200, sdp=dtls("passive", letter="B"))
    world.network.dialog(invite, world.network.expect(200)).ack()
    access = world.stream("access").dtls
    assert (access.role, access.fingerprints[0].digest) == (DtlsRole.CLIENT, b"\xbb" * 32)
    assert world.leg("access").local_rtp.port == port


def test_a_late_offer_of_the_ue_p27(world, alice):
    invite = world.network.call(alice)
    there = alice.expect("INVITE")
    alice.reply(there, 200, sdp=dtls())
    got = world.network.expect(200)
    assert not lines_of(got, "a=fingerprint")
    world.network.dialog(invite, got).ack(sdp=FAR)
    ack = alice.expect("ACK")
    assert only(ack, "a=setup:") == "passive"
    assert world.stream("access").dtls.role is DtlsRole.SERVER


def test_a_late_offer_of_the_core_p27(world, alice):
    invite = alice.invite("sip:bob@home.example")
    there = world.network.expect("INVITE")
    world.network.reply(there, 200, sdp=FAR)
    got = alice.expect(200)
    assert only(got, "a=setup:") == "actpass"
    alice.dialog(invite, got).ack(sdp=dtls("passive"))
    assert not lines_of(world.network.expect("ACK"), "a=fingerprint")
    assert world.stream("access").dtls.role is DtlsRole.CLIENT


def test_a_call_goes_on_over_a_restart_with_its_association_p42(world, alice):
    here, far = world.originate(alice, dtls(setup="active"))
    standing = world.stream("access")
    world.save()
    world.restart()
    assert world.stream("access") == standing
    there, _ = far.exchange(here, "INVITE", FAR, dtls("active"))
    assert ours(there) == ours(here.response)
    assert world.stream("access").dtls == standing.dtls
    world.notice(Event.DTLS_KEPT, detail="of another association")  # the one that stands does
    assert alice.quiet()
    here.hang_up(far)


# -- what the gateway tells -----------------------------------------------------------------------------


def test_a_handshake_that_fails_ends_the_call_p09(world, alice):
    world.originate(alice, dtls())
    world.notice(Event.DTLS_FAILED, detail="fingerprint mismatch")
    for peer in (alice, world.network):
        bye = peer.expect("BYE")
        reason = bye.headers.get("Reason") or ""  # and not that e2ae has failed
        assert reason.startswith("SIP;cause=503")
        assert "fingerprint" not in reason
        peer.reply(bye, 200)


def test_a_handshake_that_fails_beside_one_that_stands_is_only_told_p02(world, alice):
    here, far = world.originate(alice, dtls())
    world.notice(Event.DTLS_ESTABLISHED, detail="DTLSv1.2")
    here.exchange(far, "INVITE", dtls(tls_id="f" * 20), FAR)
    world.notice(Event.DTLS_KEPT, detail="timeout")
    assert alice.quiet()
    assert "dtls_kept" in world.notes[-1].text
    here.hang_up(far)


def test_a_handshake_that_fails_in_an_early_dialog_beside_is_only_told_p26(world, alice):
    invite = alice.invite("sip:bob@home.example", sdp=dtls(setup="passive"))
    there = world.network.expect("INVITE")
    for number in (1, 2):
        world.network.reply(there, 183, sdp=FAR, tag=f"fork{number}")
        alice.expect(183)
    world.notice(Event.DTLS_FAILED, "access.1", detail="timeout")
    assert alice.quiet()
    world.network.reply(there, 200, sdp=FAR, tag="fork2")
    alice.dialog(invite, alice.expect(200)).ack()
    world.network.expect("ACK")
    assert world.network.quiet()


def test_a_ue_that_does_not_consent_any_more_has_gone(browser):
    world = browser.world
    world.originate(browser, dtls("actpass", None, "A", *ICE, "a=rtcp-mux"))
    world.notice(Event.CONSENT_LOST)
    for peer in (browser, world.network):
        peer.reply(peer.expect("BYE"), 200)


def test_a_ue_that_checks_for_one_early_dialog_only_is_still_there_p26(browser):
    world = browser.world
    invite = browser.invite("sip:bob@home.example", sdp=dtls("actpass", None, "A", *ICE, "a=rtcp-mux"))
    there = world.network.expect("INVITE")
    for number in (1, 2):
        world.network.reply(there, 183, sdp=FAR, tag=f"fork{number}")
        browser.expect(183)
    world.notice(Event.CONSENT_LOST, "access.1")
    assert browser.quiet()
    world.network.reply(there, 200, sdp=FAR, tag="fork2")
    browser.dialog(invite, browser.expect(200)).ack()
    world.network.expect("ACK")
    world.notice(Event.CONSENT_LOST)
    for peer in (browser, world.network):
        peer.reply(peer.expect("BYE"), 200)


# -- ICE ------------------------------------------------------------------------------------------------


def test_a_browser_calls_and_checks_tell_where_it_is(browser):
    world = browser.world
    offer = dtls("actpass", None, "A", *ICE, "a=rtcp-mux", host="0.0.0.0", port=9)
    here, far = world.originate(browser, offer.replace("a=3ge2ae:requested\r\n", ""))
    access = world.stream("access")
    assert (access.ice.remote_ufrag, access.latch, access.remote) == ("8hhY", False, None)
    assert (access.mode, access.rtcp_mux, world.stream("core").rtcp_mux) == (Mode.SENDRECV, True, False)
    got = here.response
    assert only(got, "a=ice-ufrag:") == access.ice.ufrag
    assert only(got, "a=ice-pwd:") == access.ice.pwd
    assert lines_of(got, "a=ice-lite") == [""]
    port = only(got, "m=").split()[1]
    assert lines_of(got, "a=candidate:") == [f"1 1 UDP 2130706431 192.0.2.2 {port} typ host"]
    here.hang_up(far)


def test_an_ice_restart_is_no_dtls_restart_p05(browser):
    world = browser.world
    mux = "a=rtcp-mux"
    here, far = world.originate(browser, dtls("actpass", None, "A", *ICE, mux))
    standing = world.stream("access")
    _, got = here.exchange(far, "INVITE", dtls("actpass", None, "A", *ICE, mux, port=4444), FAR)
    assert world.stream("access") == standing
    fresh = ("a=ice-ufrag:9uB6", "a=ice-pwd:YH75Fviy6338Vbrhrlp8Yh")
    _, got = here.exchange(far, "INVITE", dtls("actpass", None, "A", *fresh, mux, port=4446), FAR)
    now = world.stream("access")
    assert now.ice.remote_ufrag == "9uB6"
    assert now.ice.ufrag != standing.ice.ufrag
    assert now.ice.pwd != standing.ice.pwd
    assert now.dtls == standing.dtls
    assert only(got, "a=ice-ufrag:") == now.ice.ufrag


def test_our_re_offer_restarts_nothing_p05(browser):
    world = browser.world
    answer = dtls("active", None, "A", *ICE, "a=rtcp-mux")
    here, far = world.terminate(browser, answer=answer)
    standing = world.stream("access")
    assert (standing.ice.remote_ufrag, standing.latch, standing.rtcp_mux) == ("8hhY", False, True)
    there, _ = far.exchange(here, "INVITE", FAR, answer)
    assert only(there, "a=ice-ufrag:") == standing.ice.ufrag
    assert world.stream("access") == standing


def test_two_lite_agents_do_not_check(world, alice):
    offer = dtls("actpass", TLS_ID, "A", *ICE).replace("t=0 0", "t=0 0\r\na=ice-lite")
    here, _ = world.originate(alice, offer)
    access = world.stream("access")
    assert (access.ice, access.latch) == (None, True)
    assert access.remote is not None
    assert not lines_of(here.response, "a=ice")


def test_where_somebody_has_changed_our_address_on_the_way_there_are_no_checks(browser):
    answer = dtls("active", None, "A", *ICE, "a=ice-mismatch", "a=rtcp-mux")
    browser.world.terminate(browser, answer=answer)
    access = browser.world.stream("access")
    assert (access.ice, access.latch) == (None, True)
    assert (access.remote.host, access.remote.port) == ("192.0.2.10", 4000)


# -- end to end, with ICE between the ends ----------------------------------------------------------------


TRICKLED = (*ICE, "a=ice-options:trickle")


def between(host, port, *more):
    lines = (f"m=application {port} UDP/DTLS/SCTP webrtc-datachannel", f"c=IN IP4 {host}")
    return session("192.0.2.10", *lines, f"a=fingerprint:sha-256 {DIGESTS['A']}", "a=setup:actpass", *more)


def test_a_ue_that_trickles_is_learned_from_its_checks_which_our_candidate_attracts(world, alice):
    """RFC 8840 section 4.1.1: it says no address, and what it says later leads around the gateway."""
    answer = between("203.0.113.5", 7000, *ICE, "a=candidate:1 1 UDP 1 203.0.113.5 7000 typ host")
    here, far = world.originate(alice, between("0.0.0.0", 9, *TRICKLED), answer)
    access, core = world.leg("access"), world.leg("core")
    for message, leg in ((far.invite, core), (here.response, access)):
        assert only(message, "a=candidate:").split()[4:6] == [leg.local_rtp.host, str(leg.local_rtp.port)]
        assert not lines_of(message, "a=ice-options")
    assert (access.remote, access.latch) == (None, True)
    assert core.remote == Address("203.0.113.5", 7000)


def test_an_address_of_the_core_that_is_still_to_come_is_refused(world, alice):
    """RFC 8840: nobody is learned there, and media would flow one way."""
    world.network.call(alice, sdp=between("0.0.0.0", 9, *TRICKLED))
    world.network.expect(488)
    assert alice.quiet()
    alice.invite("sip:bob@home.example", sdp=between("192.0.2.10", 4000, *TRICKLED))
    world.network.reply(world.network.expect("INVITE"), 200, sdp=between("0.0.0.0", 9, *TRICKLED))
    alice.expect(488)
    assert not world.plane.legs
    here, far = world.originate(alice, between("192.0.2.10", 4000, *ICE), between("203.0.113.5", 7000, *ICE))
    far.exchange(here, "INVITE", between("0.0.0.0", 9, *ICE), between("192.0.2.10", 4000, *ICE))
    assert world.leg("core").remote == Address("203.0.113.5", 7000)  # it is known


# -- BUNDLE -----------------------------------------------------------------------------------------------


def bundled(setup, *mids, group=None, dead=()):
    """What a WebRTC client says under max-bundle: a line for each name."""
    lines = [f"a=group:BUNDLE {group or ' '.join(mids)}"] if group != "" else []
    own = (f"a=setup:{setup}", f"a=fingerprint:sha-256 {DIGESTS['A']}", *ICE, "a=rtcp-mux")
    for index, mid in enumerate(mids):
        port = 0 if mid in dead else 4000 + 2 * index
        lines.append(media(port, "UDP/TLS/RTP/SAVP", *own, f"a=mid:{mid}"))
    return session("192.0.2.10", *lines)


def core(*ports):
    return session("203.0.113.5", *[media(port) for port in ports])


def names(message):
    """Of the group and of all m-lines."""
    return lines_of(message, "a=group:"), lines_of(message, "a=mid:")


def test_our_re_offer_repeats_the_names_and_the_group_that_the_browser_gave(browser):
    world = browser.world
    here, far = world.originate(browser, bundled("actpass", "x"), FAR)
    assert names(far.invite) == ([], ["x"])
    assert names(here.response) == (["BUNDLE x"], ["x"])
    for mid in ((), ("a=mid:theirs",)):
        offer = session("203.0.113.5", media(7000, "RTP/AVP", *mid))
        there, got = far.exchange(here, "INVITE", offer, bundled("active", "x"))
        assert names(there) == (["BUNDLE x"], ["x"])
        assert names(got) == ([], [line.removeprefix("a=mid:") for line in mid])
    _, got = here.exchange(far, "INVITE", bundled("actpass", "x"), FAR)
    assert names(got) == (["BUNDLE x"], ["x"])
    here.hang_up(far)


def test_names_in_our_offers_stay_and_are_the_cores_own_where_it_has_some(browser):
    world = browser.world
    offer = session("203.0.113.5", media(7000), media(7002, "RTP/AVP", "a=mid:m0"))
    here, far = world.terminate(browser, offer, bundled("active", "m0", "m1", group="m0"))
    assert names(here.invite) == (["BUNDLE m0"], ["m0", "m1"])
    there, _ = far.exchange(here, "INVITE", core(7000, 7002, 7004), bundled("active", "m0", "m1", "m2"))
    assert names(there) == (["BUNDLE m0"], ["m0", "m1", "m2"])
    offer = session("203.0.113.5", media(7000, "RTP/AVP", "a=mid:v"))
    here, _ = world.terminate(browser, offer, bundled("active", "v"))
    assert names(here.invite) == (["BUNDLE v"], ["v"])


def test_a_line_does_not_leave_its_group_for_one_before_it(browser):
    world = browser.world
    here, far = world.originate(browser, bundled("actpass", "a", "b"), core(0, 7002))
    assert names(here.response) == (["BUNDLE b"], ["a", "b"])
    there, _ = far.exchange(here, "INVITE", core(7000, 7002), bundled("active", "a", "b", group="b"))
    assert names(there) == (["BUNDLE b"], ["a", "b"])
    _, got = here.exchange(far, "INVITE", bundled("actpass", "a", "b"), core(7000, 7002))
    assert names(got) == (["BUNDLE b"], ["a", "b"])
    there, _ = far.exchange(here, "INVITE", core(7000, 0), bundled("active", "a", "b", group="a", dead="b"))
    assert names(there) == (["BUNDLE a"], ["a", "b"])


def test_the_tagged_line_is_the_first_that_is_accepted_and_has_a_transport(browser):
    """RFC 9143 section 7.3.1: what is refused here (a data channel) does not count, nor what is bundle-only,
    which has no transport without it."""
    world = browser.world
    first, mid, group = "m=application 3998 UDP/DTLS/SCTP webrtc-datachannel", "a=mid:d", "a=group:BUNDLE d x"
    fingerprint = f"a=fingerprint:sha-256 {DIGESTS['A']}"
    secured = (fingerprint, "a=setup:actpass", *ICE, "a=rtcp-mux", "a=mid:x")
    second = media(4000, "UDP/TLS/RTP/SAVP", *secured)
    offer = session("192.0.2.10", group, first, fingerprint, "a=setup:actpass", *ICE, mid, second)
    here, far = world.originate(browser, offer, core(0, 7000))
    assert names(here.response) == (["BUNDLE x"], ["d", "x"])
    here.hang_up(far)
    only_there = second.replace("4000", "0") + "\r\na=bundle-only"
    browser.invite("sip:bob@home.example", sdp=offer.replace(second, only_there))
    browser.expect(488)
    assert world.network.quiet()


def test_a_refused_re_offer_and_a_restart_leave_the_group(browser):
    world = browser.world
    here, far = world.originate(browser, bundled("actpass", "x"), FAR)
    here.request("INVITE", sdp=bundled("actpass", "y"))
    world.network.reply(world.network.expect("INVITE"), 488)
    browser.expect(488)
    there, _ = far.exchange(here, "INVITE", FAR, bundled("active", "x"))
    assert names(there) == (["BUNDLE x"], ["x"])
    world.save()
    world.restart()
    there, _ = far.exchange(here, "INVITE", FAR, bundled("active", "x"))
    assert names(there) == (["BUNDLE x"], ["x"])


def test_who_does_not_bundle_or_does_not_multiplex_rtcp_is_answered_without_a_group(browser):
    world = browser.world
    plain = bundled("actpass", "x", group="")
    for offer in (plain, plain.replace("t=0 0", "t=0 0\r\na=group:BUNDLE x").replace("\r\na=rtcp-mux", "")):
        here, far = world.originate(browser, offer, FAR)
        assert names(here.response) == ([], ["x"])
        here.hang_up(far)


def test_lines_that_are_over_are_in_no_group(browser):
    here, far = browser.world.originate(browser, bundled("actpass", "x"), FAR)
    there, got = here.exchange(far, "INVITE", bundled("actpass", "x", dead="x"), core(0))
    assert (names(there), names(got)) == (([], ["x"]), ([], ["x"]))


def test_an_ims_ue_is_offered_no_group(world, alice):
    here, _ = world.terminate(alice, answer=dtls("active"))
    assert names(here.invite) == ([], [])


# -- fax ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mechanisms", "speech", "image", "transport"),
    [
        (("sdes-srtp", "udptl-dtls"), "", fax(), Transport.DTLS),
        (("dtls-srtp", "udptl-dtls"), dtls(), fax(letter="B"), Transport.DTLS),
        (("dtls-srtp",), dtls(), session("192.0.2.10", "m=image 4000 udptl t38"), Transport.UDP),
    ],
)
def test_speech_becomes_fax_and_speech_again_p33(world, mechanisms, speech, image, transport):
    ue = registered(world, *mechanisms)
    far_fax = session("203.0.113.5", FAX)
    here, far = world.originate(ue, speech)
    before = world.stream("access")
    here.request("INVITE", sdp=image)
    there = world.network.expect("INVITE")
    assert only(there, "m=").split()[::2] == ["image", "udptl"]
    assert not lines_of(there, "a=rtcp")
    assert world.stream("access") == before  # speech goes on meanwhile
    world.network.reply(there, 488)
    ue.expect(488)
    assert world.stream("access") == before
    _, got = here.exchange(far, "INVITE", image, far_fax)
    assert only(got, "m=").startswith("image ")
    now, core = world.stream("access", 33), world.stream("core", 33)
    assert (now.transport, core.transport, now.mode) == (transport, Transport.UDP, Mode.SENDRECV)
    assert (now.rtcp_mux, core.rtcp_mux) == (True, True)
    assert {name.partition(":")[2] for name in world.legs()} == {"33"}
    here.exchange(far, "INVITE", speech or before_offer(), FAR)
    assert world.stream("access").transport is before.transport
    assert {name.partition(":")[2] for name in world.legs()} == {"1"}


def before_offer():
    return session("192.0.2.10", media(4000, "RTP/SAVP", crypto("k"), "a=3ge2ae:requested"))


def test_fax_from_the_core_is_offered_over_dtls_and_falls_back_p33(world):
    ue = registered(world, "dtls-srtp", "udptl-dtls")
    here, far = world.terminate(ue, answer=dtls("active"))
    standing = world.stream("access")
    far.request("INVITE", sdp=session("203.0.113.5", FAX))
    there = ue.expect("INVITE")
    assert only(there, "m=").split()[::2] == ["image", "UDP/TLS/UDPTL"]
    waiting = world.stream("access", 33)
    assert waiting.dtls.association == only(there, "a=tls-id:") != standing.dtls.association
    assert world.stream("access") == standing
    ue.reply(there, 488)
    world.network.expect(488)
    there, _ = far.exchange(here, "INVITE", FAR, dtls("active"))
    assert ours(there) == ours(here.invite)
    assert world.stream("access") == standing
    assert {name.partition(":")[2] for name in world.legs()} == {"1"}
    here.hang_up(far)


# -- data channels --------------------------------------------------------------------------------------

CHANNEL = ("m=application 5000 UDP/DTLS/SCTP webrtc-datachannel", "a=sctp-port:5000", 'a=dcmap:0 label="x"')


def test_a_data_channel_passes_transparently_whatever_its_direction_p40(world, alice):
    line = (*CHANNEL, f"a=fingerprint:SHA-1 {':'.join(['4A'] * 20)}", f"a=tls-id: {TLS_ID}", "a=sendonly")
    here, far = world.originate(alice, session("192.0.2.10", *line), session("203.0.113.5", *line))
    for message in (here.response, far.invite):
        for each in line[1:]:
            assert each in message.body.decode().split("\r\n")
    for side in ("access", "core"):
        stream = world.stream(side)
        assert (stream.transport, stream.mode, stream.rtcp_mux) == (Transport.UDP, Mode.SENDRECV, True)
        assert (stream.dtls, stream.ice) == (None, None)
    here.hang_up(far)


def mechanisms(world):
    return [each["mechanisms"] for each in world.status()["registrations"]]


TAG = '+sip.app-subtype="webrtc-datachannel"'


def test_dcmtsi_clients_are_known_by_their_feature_tag_per_binding_p25(world):
    ue = registered(world, "sdes-srtp", contact=TAG)
    registered(world, number=11, user="bob")
    assert sorted(mechanisms(world)) == [[], ["data-channel", "sdes-srtp"]]
    here, far = world.originate(ue, session("192.0.2.10", *CHANNEL), session("203.0.113.5", *CHANNEL))
    assert world.status()["calls"][0]["treatments"] == ["e2dce"]
    here.hang_up(far)
    world.save()
    world.restart()
    assert ["data-channel", "sdes-srtp"] in mechanisms(world)
    ue.register("alice", ("Contact", f"<{ue.contact}>"))
    world.network.accept(world.network.expect("REGISTER"))
    ue.expect(200)
    assert mechanisms(world) == [[], []]


@pytest.mark.parametrize(
    ("tag", "known"),
    [
        ('+sip.app-subtype="x,WEBRTC-DATACHANNEL"', True),
        ("+SIP.APP-SUBTYPE=webrtc-datachannel", True),
        ('+sip.app-subtype="webrtc-datachannel-x"', False),
        ("+sip.app-subtype", False),
    ],
)
def test_ways_to_write_the_feature_tag(world, tag, known):
    registered(world, contact=tag)
    assert mechanisms(world) == [["data-channel"] * known]


def test_e2dce_has_the_tokens_of_the_configuration(worlds):
    rules = Rules(e2dce=E2dce(mechanism="e2dce-dtls", attribute="3ge2dce", implicit=False))
    world = worlds(policy=rules)
    ue = world.ue(10)
    ue.register("alice", ("Security-Client", "e2dce-dtls;mediasec"), ("Contact", f"<{ue.contact}>;{TAG}"))
    request = world.network.expect("REGISTER")
    ue.path = request.headers.get("Path") or ""
    world.network.accept(request)
    assert ue.expect(200).headers.lines("Security-Server") == ["sdes-srtp;mediasec", "e2dce-dtls;mediasec"]
    assert mechanisms(world) == [["e2dce"]]
    invite = world.network.call(ue, sdp=session("203.0.113.5", *CHANNEL, "a=3ge2dce:requested"))
    there = ue.expect("INVITE")
    assert lines_of(there, "a=3ge2dce:") == ["applied"]
    ue.reply(there, 200, sdp=session("192.0.2.10", *CHANNEL))
    got = world.network.expect(200)
    assert not lines_of(got, "a=3ge2dce")
    world.network.dialog(invite, got).ack()


def test_no_room_for_a_protected_stream_is_told_and_leaves_nothing(world, alice):
    world.fail.append(ErrorCode.NO_PORTS)
    world.network.call(alice, sdp=FAR)
    world.network.expect(503)


@pytest.mark.parametrize("letter", ["A", "B"])
def test_an_invite_that_comes_again_after_an_early_answer_is_answered_anew_p03_p37(world, alice, letter):
    invite = world.network.call(alice, sdp=FAR)
    there = alice.expect("INVITE")
    alice.reply(there, 183, sdp=dtls("active"))
    world.network.expect(183)
    alice.reply(there, 407)
    world.network.expect(407)
    again = world.network.compose(
        "INVITE",
        alice.contact,
        *[(name, invite.headers.get(name) or "") for name in ("From", "To", "Call-ID")],
        ("CSeq", "900 INVITE"),
        ("Route", alice.path),
        sdp=FAR,
    )
    world.network.send(again)
    second = alice.expect("INVITE")
    assert ours(second)[0] == ours(there)[0]
    alice.reply(second, 200, sdp=dtls("passive", letter=letter))
    got = world.network.expect(200)
    access = world.stream("access")
    assert access.dtls.role is DtlsRole.CLIENT
    assert access.dtls.fingerprints == (Fingerprint("sha-256", bytes.fromhex(letter * 64)),)
    world.network.dialog(again, got).ack()
