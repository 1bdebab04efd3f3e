"""The decision tables as tables, and what a re-offer may not change. The SDP of each row is in golden/."""

from __future__ import annotations

import itertools

import msgspec
import pytest

from imsalg.errors import BadSdp
from imsalg.policy.decide import MAX_DTLS, Access, Decision, Direction, Rules, decide, select, status
from imsalg.policy.rules import E2dce
from imsalg.policy.treatment import TABLE, Carriage, Carried, Mechanism, Treatment
from imsalg.sdp.document import Document

UE, CORE = Direction.ORIGINATING, Direction.TERMINATING
RULES = Rules()
SDES = frozenset({Mechanism.SDES_SRTP})
DTLS = frozenset({Mechanism.DTLS_SRTP, Mechanism.UDPTL_DTLS})
DCMTSI = frozenset({Mechanism.DATA_CHANNEL})
DTLS_SRTP = ["UDP/TLS/RTP/SAVP", "UDP/TLS/RTP/SAVPF"]
CHANNEL = ["UDP/DTLS/SCTP", "DTLS/SCTP"]
NONE: frozenset[Mechanism] = frozenset()
KEY = "inline:d0RmdmcmVCspeEc3QGZiNWpVLFJhQX1cfHAwJSoj"
CRYPTO = f"crypto:1 AES_CM_128_HMAC_SHA1_80 {KEY}"
MIKEY = "key-mgmt:mikey AQAFgM0XflABAAAAAAAAAAAAAAsAyO"
REQUESTED = "3ge2ae:requested"
FINGERPRINT = "fingerprint:sha-256 " + ":".join(["AB"] * 32)
SHA1 = "fingerprint:sha-1 " + ":".join(["AB"] * 20)
BOOTSTRAP = 'dcmap:110 subprotocol="http"'
HEAD = "v=0\no=alice 1 1 IN IP4 192.0.2.10\ns=-\nc=IN IP4 192.0.2.10\nt=0 0\n"


def sdp(*lines: str) -> Document:
    return Document((HEAD + "".join(f"{line}\n" for line in lines)).encode())


def one(
    direction: Direction,
    proto: str,
    *attributes: str,
    registered: frozenset[Mechanism] = SDES,
    access: Access = Access.SIP,
    rules: Rules = RULES,
    running: Treatment | None = None,
    port: int = 4000,
) -> Decision:
    document = sdp(f"m=audio {port} {proto} 0", *(f"a={a}" for a in attributes))
    previous = [Decision(running, "", proto, True)] if running else []
    [decision] = decide(document, direction, registered, access, rules, previous)
    return decision


ROWS = [
    # direction, protos, attributes, registered, treatment, anchored
    (UE, ["RTP/SAVP", "RTP/SAVPF"], [CRYPTO, REQUESTED], SDES, "e2ae-sdes", True),
    (UE, ["RTP/SAVP", "RTP/SAVPF"], [CRYPTO, REQUESTED], NONE, "refused", False),
    (UE, ["RTP/SAVP", "RTP/SAVPF"], [REQUESTED], SDES, "refused", False),
    (UE, ["RTP/SAVP", "RTP/SAVPF"], [CRYPTO], SDES, "e2e", True),
    (UE, ["RTP/SAVP", "RTP/SAVPF"], [MIKEY], NONE, "e2e", True),
    (UE, ["RTP/AVP", "RTP/AVPF"], [], SDES, "plain", True),
    (UE, ["RTP/AVP", "RTP/AVPF"], [CRYPTO, REQUESTED], SDES, "plain", True),
    (UE, ["TCP/TLS/MSRP"], [MIKEY], NONE, "e2e", False),
    (UE, DTLS_SRTP, [FINGERPRINT, REQUESTED], DTLS, "e2ae-dtls-srtp", True),
    (UE, DTLS_SRTP, [FINGERPRINT, REQUESTED], SDES, "refused", False),
    (UE, DTLS_SRTP, [REQUESTED], DTLS, "refused", False),
    (UE, DTLS_SRTP, [FINGERPRINT, REQUESTED, "setup:holdconn"], DTLS, "refused", False),
    (UE, DTLS_SRTP, [FINGERPRINT], DTLS, "e2e", True),
    (UE, ["UDP/TLS/UDPTL"], [FINGERPRINT, REQUESTED], DTLS, "e2ae-udptl", True),
    (UE, ["UDP/TLS/UDPTL"], [FINGERPRINT, REQUESTED], SDES, "refused", False),
    (UE, ["UDP/TLS/UDPTL"], [FINGERPRINT], DTLS, "e2e", True),
    (UE, ["udptl"], [REQUESTED], DTLS, "plain", True),
    (UE, CHANNEL, [BOOTSTRAP], NONE, "e2e", True),
    (UE, CHANNEL, [BOOTSTRAP], DCMTSI, "e2dce", True),
    (UE, CHANNEL, [BOOTSTRAP, "dcmap:1000"], DCMTSI, "e2e", True),
    (UE, CHANNEL, [], DCMTSI, "e2e", True),
    (UE, CHANNEL, [BOOTSTRAP, REQUESTED], DCMTSI, "refused", False),
    (UE, ["TCP/TLS/MSRP", "TCP/DTLS/SCTP", "UDP/TLS/BFCP"], [], SDES, "e2e", False),
    (UE, ["TCP/MSRP", "TCP/BFCP", "x-new"], [REQUESTED], SDES, "plain", False),
    (UE, ["TCP/TLS/MSRP", "TCP/TLS/BFCP", "TCP/DTLS/SCTP"], [REQUESTED], SDES, "refused", False),
    (UE, ["UDP/TLS/BFCP", "TCP/DTLS/RTP/SAVPF"], [REQUESTED], SDES, "refused", False),
    (CORE, ["RTP/AVP", "RTP/AVPF"], [], SDES, "e2ae-sdes", True),
    (CORE, ["RTP/AVP", "RTP/AVPF"], [], SDES | DTLS, "e2ae-sdes", True),
    (CORE, ["RTP/AVP", "RTP/AVPF"], [], DTLS, "e2ae-dtls-srtp", True),
    (CORE, DTLS_SRTP, [FINGERPRINT], DTLS, "e2e", True),
    (CORE, ["udptl"], [], DTLS, "e2ae-udptl", True),
    (CORE, ["udptl"], [], SDES, "plain", True),
    (CORE, ["UDP/TLS/UDPTL"], [FINGERPRINT], DTLS, "e2e", True),
    (CORE, CHANNEL, [BOOTSTRAP], NONE, "e2e", True),
    (CORE, CHANNEL, [BOOTSTRAP], DCMTSI, "e2dce", True),
    (CORE, CHANNEL, ["dcmap:1000"], DCMTSI, "e2e", True),
    (CORE, CHANNEL, ["dcmap:1000", REQUESTED], frozenset({Mechanism.E2DCE}), "e2dce", True),
    (CORE, ["RTP/AVP", "RTP/AVPF"], [CRYPTO], NONE, "plain", True),
    (CORE, ["RTP/AVP", "RTP/AVPF"], [REQUESTED], NONE, "plain", True),
    (CORE, ["RTP/SAVP", "RTP/SAVPF"], [CRYPTO], SDES, "e2e", True),
    (CORE, ["RTP/SAVP", "RTP/SAVPF"], [CRYPTO, REQUESTED], SDES, "e2e", True),
    (CORE, ["RTP/SAVP", "RTP/SAVPF"], [MIKEY], SDES, "e2e", True),
    (CORE, ["TCP/TLS/MSRP"], [MIKEY], SDES, "e2e", False),
    (CORE, ["TCP/TLS/MSRP", "TCP/DTLS/SCTP"], [REQUESTED], SDES, "e2e", False),
    (CORE, ["TCP/MSRP", "TCP/BFCP", "x-new"], [], SDES, "plain", False),
]


@pytest.mark.parametrize(
    ("direction", "proto", "attributes", "registered", "treatment", "anchored"),
    [(d, proto, *rest) for d, protos, *rest in ROWS for proto in protos],
)
def test_the_tables_say_what_becomes_of_an_m_line(
    direction: Direction,
    proto: str,
    attributes: list[str],
    registered: frozenset[Mechanism],
    treatment: str,
    anchored: bool,
) -> None:
    for written in (proto, proto.lower()):
        decision = one(direction, written, *attributes, registered=registered)
        assert (decision.treatment, decision.anchored) == (treatment, anchored)
        assert decision.active
        assert "clause" in decision.reason or "section" in decision.reason
        assert "\n" not in decision.reason


@pytest.mark.parametrize(
    ("direction", "came", "goes"),
    [
        (UE, "RTP/SAVP", "RTP/AVP"),
        (UE, "RTP/SAVPF", "RTP/AVPF"),
        (UE, "UDP/TLS/RTP/SAVP", "RTP/AVP"),
        (UE, "UDP/TLS/RTP/SAVPF", "RTP/AVPF"),
        (UE, "UDP/TLS/UDPTL", "udptl"),
        (CORE, "udptl", "UDP/TLS/UDPTL"),
        (CORE, "RTP/AVP", "RTP/SAVP"),
        (CORE, "RTP/AVPF", "RTP/SAVPF"),
    ],
)
def test_e2ae_keeps_feedback_and_changes_the_rest_of_the_profile(
    direction: Direction, came: str, goes: str
) -> None:
    registered = SDES | DTLS if "TLS" not in goes else DTLS
    assert one(direction, came, CRYPTO, FINGERPRINT, REQUESTED, registered=registered).proto_out == goes


def test_a_requested_e2ae_without_registration_is_granted_by_switch() -> None:
    rules = Rules(e2ae_unregistered="grant")
    assert one(UE, "RTP/SAVP", CRYPTO, REQUESTED, registered=NONE, rules=rules).treatment == "e2ae-sdes"
    assert one(UE, "TCP/TLS/MSRP", REQUESTED, registered=NONE, rules=rules).treatment == "refused"
    assert one(CORE, "RTP/AVP", registered=NONE, rules=rules).treatment == "plain"


def test_refusals_name_what_was_asked_for() -> None:
    assert "e2ae-msrp" in one(UE, "TCP/TLS/MSRP", REQUESTED).reason
    for proto in (*CHANNEL, "TCP/DTLS/SCTP"):
        assert "e2ae-datachannel" in one(UE, proto, REQUESTED).reason
    assert "dtls-srtp is not registered" in one(UE, DTLS_SRTP[0], FINGERPRINT, REQUESTED).reason
    assert "sdes-srtp is not registered" in one(UE, "RTP/SAVP", CRYPTO, REQUESTED, registered=NONE).reason


def test_applied_and_unknown_tokens_are_no_request_p19() -> None:
    assert one(UE, "RTP/SAVP", CRYPTO, "3ge2ae:applied").treatment == "e2e"
    assert one(UE, "RTP/SAVP", CRYPTO, "3ge2ae:offered").treatment == "e2e"
    assert one(UE, "RTP/SAVP", CRYPTO, "3ge2ae: requested ").treatment == "e2ae-sdes"


def test_best_effort_srtp_is_honoured_from_the_ue_and_by_switch_only_p20() -> None:
    rules = Rules(best_effort_srtp=True)
    decision = one(UE, "RTP/AVP", CRYPTO, registered=NONE, rules=rules)
    assert decision.treatment == "e2ae-sdes"
    assert decision.proto_out == "RTP/AVP"
    assert decision.crypto is not None
    assert one(UE, "RTP/AVP", rules=rules).treatment == "plain"
    assert one(UE, "RTP/AVP", "crypto:1 UNKNOWN inline:AAAA", rules=rules).treatment == "plain"
    assert one(CORE, "RTP/AVP", CRYPTO, registered=NONE, rules=rules).treatment == "plain"


def test_unknown_media_are_refused_by_switch_but_not_msrp_with_mikey() -> None:
    rules = Rules(unknown_media="refuse")
    for direction in Direction:
        assert one(direction, "TCP/MSRP", rules=rules).treatment == "refused"
        assert one(direction, "TCP/TLS/MSRP", rules=rules).treatment == "refused"
        assert one(direction, "TCP/TLS/MSRP", MIKEY, rules=rules).treatment == "e2e"
        assert one(direction, "RTP/SAVP", CRYPTO, rules=rules).treatment == "e2e"


def test_mikey_at_session_level_holds_for_each_secured_m_line() -> None:
    document = sdp(f"a={MIKEY}", "m=audio 4000 RTP/SAVP 0", "m=message 4002 TCP/TLS/MSRP *")
    decisions = decide(document, UE, NONE, Access.SIP, Rules(unknown_media="refuse"))
    assert [(d.treatment, d.anchored) for d in decisions] == [("e2e", True), ("e2e", False)]
    assert all("KMS" in d.reason for d in decisions)


def test_a_key_mgmt_that_cannot_be_read_is_bad_sdp() -> None:
    with pytest.raises(BadSdp):
        one(UE, "RTP/SAVP", "key-mgmt:")


def test_a_webrtc_client_wants_e2ae_without_saying_so() -> None:
    def webrtc(direction: Direction, proto: str, *attributes: str) -> Decision:
        return one(direction, proto, *attributes, registered=NONE, access=Access.WEBRTC)

    decision = webrtc(UE, "UDP/TLS/RTP/SAVPF", FINGERPRINT)
    assert (decision.treatment, decision.proto_out) == ("e2ae-dtls-srtp", "RTP/AVPF")
    assert webrtc(UE, "UDP/TLS/RTP/SAVPF").treatment == "refused"
    assert webrtc(UE, "UDP/DTLS/SCTP").treatment == "refused"
    assert webrtc(CORE, "RTP/AVP").treatment == "e2ae-dtls-srtp"
    assert webrtc(CORE, "UDP/TLS/RTP/SAVPF", FINGERPRINT).treatment == "e2e"
    assert webrtc(CORE, "udptl").treatment == "plain"


def test_old_webrtc_clients_write_dtls_srtp_as_if_it_were_sdes() -> None:
    old = one(UE, "RTP/SAVPF", FINGERPRINT, registered=NONE, access=Access.WEBRTC)
    assert (old.treatment, old.proto_out) == ("e2ae-dtls-srtp", "RTP/AVPF")
    assert one(UE, "RTP/SAVPF", FINGERPRINT, registered=DTLS).treatment == "e2e"
    assert one(UE, "RTP/SAVPF", CRYPTO, access=Access.WEBRTC).treatment == "e2e"


def test_a_data_channel_of_a_webrtc_client_is_known_by_the_feature_tag() -> None:
    tagged = one(UE, "UDP/DTLS/SCTP", BOOTSTRAP, registered=DCMTSI, access=Access.WEBRTC)
    assert tagged.treatment == "e2dce"


# -- fingerprints of the UE's offer ---------------------------------------------------------------------


def test_hash_functions_are_served_by_the_rules_and_no_other_p08() -> None:
    for lines in ([SHA1], ["fingerprint:md5 00"], ["fingerprint:rubbish"], []):
        assert one(UE, DTLS_SRTP[0], *lines, REQUESTED, registered=DTLS).treatment == "refused"
    rules = Rules(hashes=("sha-256", "sha-1"))
    assert one(UE, DTLS_SRTP[0], SHA1, REQUESTED, registered=DTLS, rules=rules).treatment.by_dtls
    best = one(UE, DTLS_SRTP[0], SHA1, FINGERPRINT, REQUESTED, registered=DTLS, rules=rules)
    assert "sha-256" in best.reason
    assert best.dtls is not None
    assert len(best.dtls.fingerprints) == 2


def test_feedback_is_dropped_towards_a_core_without_it_by_switch() -> None:
    rules = Rules(feedback="drop")
    for proto in ("RTP/SAVPF", "UDP/TLS/RTP/SAVPF"):
        decision = one(UE, proto, CRYPTO, FINGERPRINT, REQUESTED, registered=SDES | DTLS, rules=rules)
        assert decision.proto_out == "RTP/AVP"
    assert one(UE, "RTP/AVPF", rules=rules).proto_out == "RTP/AVPF"


# -- e2DCe ----------------------------------------------------------------------------------------------

E2DCE = Rules(e2dce=E2dce(mechanism="e2dce-dtls", attribute="3ge2dce"))
ASKED = "3ge2dce:requested"


def test_e2dce_that_is_asked_for_has_to_be_registered() -> None:
    for registered in (frozenset({Mechanism.E2DCE}), DCMTSI):
        decision = one(UE, "UDP/DTLS/SCTP", ASKED, "dcmap:1000", registered=registered, rules=E2DCE)
        assert decision.treatment == "e2dce"
    refused = one(UE, "UDP/DTLS/SCTP", ASKED, registered=DTLS, rules=E2DCE)
    assert (refused.treatment, refused.anchored) == ("refused", False)
    assert "NOTE 2" in refused.reason
    granted = Rules(e2ae_unregistered="grant", e2dce=E2DCE.e2dce)
    assert one(UE, "UDP/DTLS/SCTP", ASKED, registered=NONE, rules=granted).treatment == "e2dce"
    running = one(UE, "UDP/DTLS/SCTP", ASKED, registered=NONE, rules=E2DCE, running=Treatment.E2DCE)
    assert running.treatment == "e2dce"


def test_without_an_attribute_of_its_own_e2dce_is_not_asked_for() -> None:
    assert one(UE, "UDP/DTLS/SCTP", ASKED, registered=NONE).treatment == "e2e"


# -- the crypto line taken of the UE's offer ------------------------------------------------------------


@pytest.mark.parametrize(
    "skipped",
    [
        f"1 AES_CM_128_NULL {KEY}",
        "1 AES_CM_128_HMAC_SHA1_80 inline:c2hvcnQ=",
        f"1 AES_CM_128_HMAC_SHA1_32 {KEY}",
        f"1 AES_CM_128_HMAC_SHA1_80 {KEY} UNENCRYPTED_SRTP",
        f"1 AES_CM_128_HMAC_SHA1_80 {KEY} UNENCRYPTED_SRTCP",
        f"1 AES_CM_128_HMAC_SHA1_80 {KEY} UNAUTHENTICATED_SRTP",
        f"1 AES_CM_128_HMAC_SHA1_80 {KEY} KDR=5",
        f"1 AES_CM_128_HMAC_SHA1_80 {KEY} SOMETHING=1",
        f"1 AES_CM_128_HMAC_SHA1_80 {KEY}|2^99",
        f"1 AES_CM_128_HMAC_SHA1_80 {KEY};{KEY}",
        "",
        "rubbish",
    ],
)
def test_lines_that_cannot_be_accepted_are_skipped_p11(skipped: str) -> None:
    good = f"2 AES_CM_128_HMAC_SHA1_80 {KEY}|2^20|1:4 -OPTIONAL WSH=128"
    suites = Rules().suites
    assert select([skipped], suites) is None
    chosen = select([skipped, good], suites)
    assert chosen is not None
    assert chosen.tag == 2
    assert one(UE, "RTP/SAVP", f"crypto:{skipped}", REQUESTED).treatment == "refused"
    assert one(UE, "RTP/SAVP", f"crypto:{skipped}", f"crypto:{good}", REQUESTED).crypto == chosen


def test_the_order_of_the_ue_decides_among_the_suites_served() -> None:
    long = "inline:" + "A" * 59 + "="
    lines = [f"5 AEAD_AES_256_GCM {long}", f"6 AES_CM_128_HMAC_SHA1_80 {KEY}"]
    assert [c.tag for c in (select(lines, Rules().suites), select(lines[::-1], Rules().suites)) if c] == [
        5,
        6,
    ]
    only = Rules(suites=("AES_CM_128_HMAC_SHA1_80",))
    decision = one(UE, "RTP/SAVP", *(f"crypto:{line}" for line in lines), REQUESTED, rules=only)
    assert decision.crypto is not None
    assert decision.crypto.tag == 6


def test_a_decision_does_not_show_keys_p18() -> None:
    decision = one(UE, "RTP/SAVP", CRYPTO, REQUESTED)
    assert decision.crypto is not None
    assert KEY.removeprefix("inline:")[:12] not in repr(decision)
    assert str(decision.crypto.keys[0].material) not in repr(decision)


# -- re-offers and port 0 -------------------------------------------------------------------------------


def test_a_running_e2ae_stream_is_not_downgraded_by_a_reoffer_p27() -> None:
    e2ae = Treatment.E2AE_SDES
    for registered in (SDES, NONE):
        assert one(CORE, "RTP/AVP", registered=registered, running=e2ae).treatment == "e2ae-sdes"
        assert one(UE, "RTP/SAVP", CRYPTO, registered=registered, running=e2ae).treatment == "e2ae-sdes"
        assert one(UE, "RTP/SAVP", registered=registered, running=e2ae).treatment == "refused"


def test_a_running_e2ae_stream_may_become_e2e_where_an_end_says_so() -> None:
    assert one(CORE, "RTP/SAVP", CRYPTO, running=Treatment.E2AE_SDES).treatment == "e2e"
    assert one(UE, "RTP/SAVP", MIKEY, running=Treatment.E2AE_SDES).treatment == "e2e"


def test_other_running_treatments_decide_nothing() -> None:
    assert one(UE, "RTP/SAVP", CRYPTO, running=Treatment.E2E).treatment == "e2e"
    assert one(CORE, "RTP/AVP", registered=NONE, running=Treatment.E2E).treatment == "plain"
    assert one(CORE, "RTP/AVP", running=Treatment.PLAIN).treatment == "e2ae-sdes"


def test_new_m_lines_of_a_reoffer_are_decided_afresh() -> None:
    document = sdp("m=audio 4000 RTP/AVP 0", "m=video 4002 RTP/AVP 96")
    running = [Decision(Treatment.E2AE_SDES, "", "RTP/SAVP", True)]
    decisions = decide(document, CORE, NONE, Access.SIP, Rules(), running)
    assert [d.treatment for d in decisions] == ["e2ae-sdes", "plain"]


@pytest.mark.parametrize("direction", Direction)
def test_so_many_associations_and_no_more_end_in_the_gateway(direction: Direction) -> None:
    ours = "UDP/TLS/RTP/SAVPF" if direction is Direction.ORIGINATING else "RTP/AVPF"
    lines = [line for n in range(MAX_DTLS + 3) for line in (f"m=audio {n} {ours} 0", f"a={FINGERPRINT}")]
    decisions = decide(sdp(*lines), direction, frozenset(), Access.WEBRTC, Rules())
    dead, *found = [decision.treatment for decision in decisions]
    assert dead is not Treatment.REFUSED
    assert found == [Treatment.E2AE_DTLS_SRTP] * MAX_DTLS + [Treatment.REFUSED] * 2
    assert status(decisions) == 200


def test_port_0_disables_whatever_else_the_line_says_p32() -> None:
    for direction, proto in itertools.product(Direction, ["RTP/SAVP", "RTP/AVP", "TCP/TLS/MSRP", "udptl"]):
        decision = one(direction, proto, CRYPTO, REQUESTED, port=0)
        assert not decision.active
        assert not decision.anchored
        assert decision.crypto is None
        assert decision.proto_out == proto


def test_a_disabled_e2ae_line_keeps_its_profile_on_the_other_side_and_is_then_decided_afresh() -> None:
    disabled = one(UE, "RTP/SAVP", port=0, running=Treatment.E2AE_SDES)
    assert (disabled.treatment, disabled.proto_out, disabled.active) == ("e2ae-sdes", "RTP/AVP", False)
    document = sdp("m=audio 4000 RTP/SAVP 0", f"a={CRYPTO}")
    [again] = decide(document, UE, SDES, Access.SIP, Rules(), [disabled])
    assert again.treatment == "e2e"


# -- the offer as a whole -------------------------------------------------------------------------------


def test_an_offer_is_refused_when_nothing_active_is_left_of_it() -> None:
    refused = one(UE, "RTP/SAVP", REQUESTED)
    plain = one(UE, "RTP/AVP")
    disabled = one(UE, "RTP/AVP", port=0)
    assert status([refused]) == status([refused, disabled]) == status([refused, refused]) == 488
    assert status([refused, plain]) == status([plain]) == status([disabled]) == status([]) == 200


def test_every_treatment_that_is_given_has_its_row() -> None:
    later = {Treatment.E2AE_MSRP, Treatment.E2AE_BFCP, Treatment.E2AE_DATACHANNEL}
    assert set(TABLE) == set(Treatment) - later
    assert Treatment.E2AE_SDES.carried("RTP/AVP").access is Carriage.SRTP
    assert Treatment.E2AE_UDPTL.carried("udptl") == Carried(Carriage.DTLS, Carriage.UDP)
    assert all(row.core in (Carriage.RTP, Carriage.UDP, Carriage.NONE) for row in TABLE.values())


def test_only_rtp_is_carried_as_such_p33() -> None:
    assert Treatment.PLAIN.carried("RTP/AVPF") == Carried(Carriage.RTP, Carriage.RTP)
    assert Treatment.PLAIN.carried("udptl") == Carried(Carriage.UDP, Carriage.UDP)
    assert one(CORE, "udptl", running=Treatment.E2AE_SDES).treatment == "plain"


def test_rules_refuse_what_they_do_not_know() -> None:
    for wrong in ('{"suites": []}', '{"suites": ["NULL"]}', '{"unknown_media": "drop"}', '{"colour": 1}'):
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(wrong, type=Rules)
