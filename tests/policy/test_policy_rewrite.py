"""What the golden files do not show: answers that cannot be accepted, addresses of two families, and that
nothing is lost, leaked or half rewritten of whatever is put together from parts of SDP."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from imsalg.errors import BadSdp, UsageError
from imsalg.policy.bundle import Names
from imsalg.policy.check import AnswerLine, check_answer
from imsalg.policy.decide import Access, Decision, Direction, Rules, decide
from imsalg.policy.mline import DtlsLines, Local
from imsalg.policy.rewrite import answer, offer
from imsalg.policy.treatment import Mechanism, Treatment
from imsalg.sdp.attributes import Crypto, InlineKey
from imsalg.sdp.document import MAX_SIZE, SHARED, Document, Media, Origin, Section
from imsalg.sdp.dtls import Fingerprint, Setup
from imsalg.sdp.ice import IceCredentials

UE, CORE = Direction.ORIGINATING, Direction.TERMINATING
RULES = Rules()
SDES = frozenset({Mechanism.SDES_SRTP})
DTLS = frozenset({Mechanism.DTLS_SRTP, Mechanism.UDPTL_DTLS, Mechanism.DATA_CHANNEL})
THEIR_FINGERPRINT = "a=fingerprint:sha-256 " + ":".join(["AB"] * 32)
OUR_LINES = DtlsLines(Fingerprint("sha-256", b"\xcd" * 32), Setup.ACTPASS, "ours")
OUR_ICE = IceCredentials("ours", "ours" * 6)
KEY, MIKEY, OTHER_MIKEY = "k=clear:secret", "key-mgmt:mikey AAAA", "key-mgmt:mikey BBBB"
THEIRS = "AES_CM_128_HMAC_SHA1_80 inline:d0RmdmcmVCspeEc3QGZiNWpVLFJhQX1cfHAwJSoj"
OURS = Origin("-", "1", 1, "IN", "IP4", "198.51.100.1")
FOR_ALL = (*SHARED, "key-mgmt")
HEAD = ["v=0", "o=alice 1 1 IN IP4 192.0.2.10", "s=-"]


def lines_of(section: Section, start: str = "") -> list[str]:
    """Those that begin so."""
    return [line for line in section.text.split("\r\n") if line and line.startswith(start)]


def sdp(*lines: str, ending: str = "\r\n") -> Document:
    return Document("".join(f"{line}{ending}" for line in lines).encode())


def locals_(count: int, addrtype: str = "IP4", ice: bool = False) -> dict[int, Local]:
    address = "2001:db8::2" if addrtype == "IP6" else "198.51.100.2"
    return {
        index: Local(addrtype, address, 30000 + 4 * index, 30001 + 4 * index, OUR_ICE if ice else None)
        for index in range(count)
    }


def own(*suites: str) -> tuple[Crypto, ...]:
    return tuple(Crypto(tag, suite, (InlineKey(bytes(30)),)) for tag, suite in enumerate(suites, 1))


def decided(document: Document, direction: Direction, rules: Rules = RULES) -> tuple[Decision, ...]:
    return decide(document, direction, SDES, Access.SIP, rules)


# -- answers of a UE that was offered e2ae SDES ---------------------------------------------------------

OFFERED = own("AES_CM_128_HMAC_SHA1_80", "AES_CM_128_HMAC_SHA1_32")


def answered(*media: str, rules: Rules = RULES, lines: tuple[Crypto, ...] = OFFERED) -> AnswerLine:
    came = sdp(*HEAD, "c=IN IP4 192.0.2.20", "t=0 0", "m=audio 4000 RTP/AVP 0")
    decisions = decided(came, CORE)
    sent = offer(came, decisions, CORE, locals_(1), {0: lines}, OURS)
    back = sdp(*HEAD, "c=IN IP4 192.0.2.10", "t=0 0", *media)
    [line] = check_answer(sent, back, decisions, {0: lines}, rules)
    return line


def test_the_line_the_ue_chose_is_found_by_tag_and_suite() -> None:
    line = answered("m=audio 4000 RTP/SAVP 0", f"a=crypto:2 {THEIRS.replace('_80', '_32')}")
    assert line.accepted
    assert line.own is OFFERED[1]
    assert line.crypto is not None
    assert line.crypto.tag == 2
    assert line.decision.active


def test_a_wrong_tag_with_one_line_of_its_suite_is_accepted_p12() -> None:
    line = answered("m=audio 4000 RTP/SAVP 0", f"a=crypto:2 {THEIRS}")
    assert line.accepted
    assert line.own is OFFERED[0]
    assert "tag 2 answered for 1" in line.reason


def test_a_wrong_tag_that_could_mean_two_lines_is_not_accepted_p12() -> None:
    twice = own("AES_CM_128_HMAC_SHA1_80", "AES_CM_128_HMAC_SHA1_80")
    assert not answered("m=audio 4000 RTP/SAVP 0", f"a=crypto:3 {THEIRS}", lines=twice).accepted


@pytest.mark.parametrize(
    "media",
    [
        ["m=audio 4000 RTP/SAVP 0"],
        ["m=audio 4000 RTP/SAVP 0", "a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:c2hvcnQ="],
        ["m=audio 4000 RTP/SAVP 0", f"a=crypto:1 {THEIRS} UNENCRYPTED_SRTCP"],
        ["m=audio 4000 RTP/SAVP 0", "a=crypto:1 AEAD_AES_128_GCM inline:" + "A" * 38 + "=="],
        ["m=audio 4000 RTP/AVP 0"],
        ["m=audio 4000 RTP/AVP 0", f"a=crypto:1 {THEIRS}"],
        ["m=audio 4000 UDP/TLS/RTP/SAVP 0", f"a=crypto:1 {THEIRS}"],
    ],
)
def test_an_answer_without_acceptable_crypto_is_not_accepted_p17(media: list[str]) -> None:
    line = answered(*media)
    assert not line.accepted
    assert line.crypto is None
    assert "e2ae offered" in line.reason


def test_a_plain_answer_is_plain_by_switch() -> None:
    line = answered("m=audio 4000 RTP/AVP 0", rules=Rules(answer_without_crypto="plain"))
    assert line.accepted
    assert line.decision.treatment is Treatment.PLAIN
    assert not answered("m=audio 4000 RTP/SAVP 0", rules=Rules(answer_without_crypto="plain")).accepted


def test_a_declined_line_is_accepted_and_inactive() -> None:
    line = answered("m=audio 0 RTP/SAVP 0")
    assert line.accepted
    assert not line.decision.active


@pytest.mark.parametrize(
    "media",
    [
        [],
        ["m=audio 4000 RTP/AVP 0", "m=video 4002 RTP/AVP 96"],
        ["m=video 4000 RTP/SAVP 0", f"a=crypto:1 {THEIRS}"],
    ],
)
def test_an_answer_with_other_m_lines_is_bad_sdp_p32(media: list[str]) -> None:
    with pytest.raises(BadSdp):
        answered(*media)


def test_a_line_that_was_refused_stays_so_whatever_is_answered() -> None:
    came = sdp(*HEAD, "c=IN IP4 192.0.2.10", "t=0 0", "m=audio 4000 RTP/SAVP 0", "a=3ge2ae:requested")
    decisions = decided(came, UE)
    sent = offer(came, decisions, UE, {}, {}, OURS)
    back = sdp(*HEAD, "c=IN IP4 192.0.2.20", "t=0 0", "m=audio 4000 RTP/SAVP 0", f"a=crypto:1 {THEIRS}")
    [line] = check_answer(sent, back, decisions, {})
    assert not line.decision.active
    returned = answer(back, came, decisions, UE, {}, {}, OURS)
    assert returned.media[0].port == 0
    assert not returned.media[0].has("crypto")


@pytest.mark.parametrize(
    "proto", ["TCP/MSRP", "TCP/TLS/MSRP", "RTP/AVP", "RTP/SAVP", "UDP/TLS/RTP/SAVP", "UDP/DTLS/SCTP", "x/new"]
)
@pytest.mark.parametrize("direction", Direction)
def test_of_a_refused_line_nothing_crosses_but_its_name(proto: str, direction: Direction) -> None:
    """RFC 3264 section 6: the rest counts for nothing, but addresses and keys would be told."""
    said = [
        *("i=Alice at home", "c=IN IP4 192.0.2.10", "b=AS:64", "k=clear:secret", "a=mid:1"),
        *("a=path:msrps://192.0.2.10:49180/iau39;tcp", "a=msrp-cema", "a=setup:active", "a=connection:new"),
        *(THEIR_FINGERPRINT, f"a=crypto:1 {THEIRS}", f"a={MIKEY}", "a=tls-id:abc", "a=dcmap:0", "a=x-new"),
        *("a=candidate:1 1 UDP 1 192.0.2.10 9 typ host", "a=rtcp:9 IN IP4 192.0.2.10", "a=sendonly"),
    ]
    first = ["m=audio 4000 RTP/AVP 0", "c=IN IP4 192.0.2.10"]
    came = sdp(*HEAD, "t=0 0", *first, f"m=message 0 {proto} *", *said)
    decisions = decided(came, direction)
    out = offer(came, decisions, direction, locals_(1), {0: OFFERED}, OURS)
    back = answer(came, came, decisions, direction, locals_(1), {0: OFFERED[:1]}, OURS)
    for each in (out, back):
        assert lines_of(each.media[1]) == [
            f"m=message 0 {each.media[1].proto} *",
            "c=IN IP4 198.51.100.1",
            "a=mid:1",
        ]


# -- addresses, RTCP, hold ------------------------------------------------------------------------------


def plain(*lines: str, addrtype: str = "IP4", local: Local | None = None) -> Document:
    came = sdp(*HEAD, *lines)
    mapping = {0: local} if local else locals_(len(came.media), addrtype)
    return offer(came, decided(came, UE), UE, mapping, {}, replace(OURS, addrtype=addrtype))


@pytest.mark.parametrize(
    "lines",
    [
        ["c=IN IP4 192.0.2.10", "t=0 0", "m=audio 4000 RTP/AVP 0"],
        ["t=0 0", "m=audio 4000 RTP/AVP 0", "c=IN IP4 192.0.2.10"],
        [
            "c=IN IP4 192.0.2.1",
            "t=0 0",
            "m=audio 4000 RTP/AVP 0",
            "c=IN IP4 192.0.2.10",
            "c=IN IP4 192.0.2.11",
        ],
    ],
)
def test_the_family_of_the_other_side_may_differ(lines: list[str]) -> None:
    out = plain(*lines, addrtype="IP6")
    assert str(out.connection_of(out.media[0])) == "IN IP6 2001:db8::2"
    assert b"192.0.2" not in bytes(out)


def test_rtcp_that_is_not_the_next_port_is_said_p34() -> None:
    out = plain(
        "c=IN IP4 192.0.2.10", "t=0 0", "m=audio 4000/2 RTP/AVP 0", local=Local("IP4", "1.2.3.4", 7000, 9000)
    )
    assert out.media[0].attributes("rtcp") == ["9000"]
    assert lines_of(out.media[0])[0] == "m=audio 7000 RTP/AVP 0"


def test_rtcp_mux_only_is_not_asked_of_the_other_side_p34() -> None:
    out = plain("c=IN IP4 192.0.2.10", "t=0 0", "m=audio 4000 RTP/AVP 0", "a=rtcp-mux", "a=rtcp-mux-only")
    assert out.media[0].has("rtcp-mux")
    assert not out.media[0].has("rtcp-mux-only")


@pytest.mark.parametrize(
    ("direction", "held"),
    [("sendrecv", "sendonly"), ("recvonly", "inactive"), ("sendonly", "sendonly"), ("inactive", "inactive")],
)
def test_hold_by_address_becomes_a_direction_p35(direction: str, held: str) -> None:
    at_media = plain("t=0 0", "m=audio 4000 RTP/AVP 0", "c=IN IP4 0.0.0.0", f"a={direction}")
    at_session = plain("c=IN IP6 ::", "t=0 0", f"a={direction}", "m=audio 4000 RTP/AVP 0")
    for out in (at_media, at_session):
        assert out.direction_of(out.media[0]) == held
        assert str(out.connection_of(out.media[0])) == "IN IP4 198.51.100.2"


SAID_FOR_ALL = [
    *("a=fingerprint:SHA-256 11", "a=setup:actpass", "a=connection:new"),
    *("a=ice-ufrag:abcd", "a=ice-pwd:asd88fgpdd777uzjYhagZg", "a=ice-options:trickle"),
]


def test_an_untouched_line_keeps_the_session_address_and_has_for_itself_what_was_said_for_all_p17() -> None:
    """RFC 8839 section 5.4, RFC 8122 section 5, RFC 4145 section 10: above our line it would speak for us."""
    untouched = "m=application 4002 TCP/DTLS/SCTP webrtc-datachannel"
    out = plain(
        *("c=IN IP4 192.0.2.10", "t=0 0", *SAID_FOR_ALL, "a=tls-id:abc"),
        *("m=audio 4000 RTP/AVP 0", untouched, untouched, "a=setup:passive", "m=audio 0 RTP/AVP 0"),
    )
    assert str(out.session.connection) == "IN IP4 192.0.2.10"
    assert not lines_of(out.session, "a=")
    assert lines_of(out.media[0])[1:] == ["c=IN IP4 198.51.100.2"]
    assert lines_of(out.media[1]) == [untouched, *SAID_FOR_ALL]
    own = [line for line in SAID_FOR_ALL if "setup" not in line]
    assert lines_of(out.media[2]) == [untouched, "a=setup:passive", *own]
    assert len(lines_of(out.media[3])) == 1


def test_trickling_is_declined_of_anchored_lines_alone() -> None:
    media = ["m=audio 4000 UDP/TLS/RTP/SAVP 0", "m=x 1 x/new 0"]
    out = plain("c=IN IP4 192.0.2.10", "t=0 0", *SAID_FOR_ALL, *media)
    assert [media.attributes("ice-options") for media in out.media] == [[], ["trickle"]]


def test_what_is_said_for_all_stays_where_it_is_if_all_is_end_to_end() -> None:
    lines = ["c=IN IP4 192.0.2.10", "t=0 0", *SAID_FOR_ALL[:-1], "m=audio 4000 UDP/TLS/RTP/SAVP 0"]
    out = plain(*lines, "m=audio 0 RTP/AVP 0")
    assert lines_of(out.session, "a=") == SAID_FOR_ALL[:-1]
    assert not out.media[0].has("setup")


@pytest.mark.parametrize("beside", ["m=message 5000 TCP/MSRP *", "m=audio 5000 RTP/SAVP 0"])
def test_a_key_out_of_place_at_session_level_does_not_reach_the_core(beside: str) -> None:
    head = [*HEAD, "c=IN IP4 192.0.2.10", "t=0 0", f"a=crypto:1 {THEIRS}"]
    ours = ["m=audio 4000 RTP/SAVP 0", "a=3ge2ae:requested", f"a=crypto:1 {THEIRS}"]
    document = sdp(*head, *ours, beside)
    text = bytes(offer(document, decided(document, UE), UE, locals_(2), {}, OURS))
    assert b"a=crypto" not in text
    assert b"m=audio 30000 RTP/AVP 0" in text


E2E_KMS = ["m=message 5000 TCP/TLS/MSRP *", "m=audio 5000 RTP/SAVP 0"]  # untouched; anchored


@pytest.mark.parametrize("beside", ["m=message 5000 TCP/MSRP *", *E2E_KMS])
@pytest.mark.parametrize("of_ours", ["m=audio 4000 RTP/AVP 0", "m=audio 4000 RTP/SAVP 0"])
@pytest.mark.parametrize("direction", Direction)
def test_a_key_line_of_the_session_does_not_pass_above_a_line_of_ours(
    beside: str, of_ours: str, direction: Direction
) -> None:
    """RFC 8866 section 5.12: it MUST be discarded; an m-line that is end to end keeps what it has itself."""
    if direction is CORE:
        of_ours = "m=audio 4000 RTP/AVP 0"
    ours = [of_ours, "a=3ge2ae:requested", f"a=crypto:1 {THEIRS}"]
    came = sdp(*HEAD, "c=IN IP4 192.0.2.10", "t=0 0", KEY, *ours, beside, "k=clear:own")
    out = offer(came, decided(came, direction), direction, locals_(2), {0: OFFERED}, OURS)
    back = answer(came, came, decided(came, direction), direction, locals_(2), {0: OFFERED[:1]}, OURS)
    for each in (out, back):
        assert b"secret" not in bytes(each)
        assert "k=clear:own" in lines_of(each.media[1])


@pytest.mark.parametrize("beside", E2E_KMS)
@pytest.mark.parametrize("of_ours", ["m=audio 4000 RTP/AVP 0", "m=audio 4000 UDP/TLS/RTP/SAVP 0"])
def test_key_management_of_the_session_goes_to_the_lines_it_is_still_for(beside: str, of_ours: str) -> None:
    """RFC 4567 section 3.1: at session level it is for every m-line without its own. TS 33.328 clauses 7.2.3
    and 7.3.3: it passes where it is end to end; over a line that ends in the gateway it would say to one end
    what the other never said."""
    requested = ["a=3ge2ae:requested", THEIR_FINGERPRINT] if "TLS" in of_ours else []
    own_one = [beside.replace("5000", "5004"), f"a={OTHER_MIKEY}"]
    head = [*HEAD, "c=IN IP4 192.0.2.10", "t=0 0", f"a={MIKEY}"]
    came = sdp(*head, of_ours, *requested, beside, *own_one)
    decisions = decide(came, UE, DTLS, Access.SIP, RULES)
    assert [decision.treatment for decision in decisions[1:]] == [Treatment.E2E, Treatment.E2E]
    for out in (
        offer(came, decisions, UE, locals_(3), {}, OURS),
        answer(came, came, decisions, UE, locals_(3), {0: OUR_LINES}, OURS),
    ):
        assert not out.session.has("key-mgmt")
        assert [media.attributes("key-mgmt") for media in out.media] == [
            [],
            [MIKEY.partition(":")[2]],
            [OTHER_MIKEY.partition(":")[2]],
        ]


def test_towards_the_ue_key_management_of_the_core_s_session_does_not_stand_beside_our_crypto() -> None:
    head = [*HEAD, "c=IN IP4 192.0.2.20", "t=0 0", f"a={MIKEY}"]
    came = sdp(*head, "m=audio 4000 RTP/AVP 0", "m=audio 4004 RTP/SAVP 0")
    out = offer(came, decided(came, CORE), CORE, locals_(2), {0: OFFERED}, OURS)
    assert not out.session.has("key-mgmt")
    assert [media.has("key-mgmt") for media in out.media] == [False, True]
    assert [media.has("crypto") for media in out.media] == [True, False]


@pytest.mark.parametrize("beside", ["m=message 5000 TCP/MSRP *", "m=x 5000 x/new 0"])
def test_key_management_that_no_line_is_left_for_goes_nowhere(beside: str) -> None:
    out = plain("c=IN IP4 192.0.2.10", "t=0 0", f"a={MIKEY}", "m=audio 4000 RTP/AVP 0", beside)
    assert b"key-mgmt" not in bytes(out)


def test_keys_of_a_session_that_is_end_to_end_stay_where_they_are() -> None:
    out = plain("c=IN IP4 192.0.2.10", "t=0 0", KEY, f"a={MIKEY}", *E2E_KMS)
    assert b"\r\nk=clear:secret\r\na=key-mgmt:mikey AAAA\r\nm=message 5000" in bytes(out)
    assert not any(media.has("key-mgmt") for media in out.media)


@pytest.mark.parametrize("said", ["a=ice-options:x", "a=key-mgmt:mikey A"])
def test_what_leaves_is_not_much_longer_however_much_is_said_for_all_m_lines(said: str) -> None:
    lines = ["c=IN IP4 192.0.2.10", *[said] * 200, "m=audio 4000 RTP/AVP 0"]
    document = sdp(*HEAD, *lines, *["m=audio 4002 RTP/SAVP 0", "a=crypto:1 " + THEIRS] * 16)
    out = offer(document, decided(document, UE), UE, locals_(17), {}, OURS)
    assert not out.session.has(said[2:].partition(":")[0])
    assert lines_of(out.media[16])[-200:] == [said] * 200
    assert len(bytes(out)) < 2 * MAX_SIZE
    with pytest.raises(BadSdp) as caught:
        sdp(*HEAD, *lines, *["m=audio 4002 RTP/SAVP 0", "a=crypto:1 " + THEIRS] * 31)
    assert caught.value.status == 413


def test_capability_negotiation_passes_whole_where_all_is_end_to_end_p21() -> None:
    lines = [
        "c=IN IP4 192.0.2.10",
        "t=0 0",
        "a=tcap:1 RTP/AVP",
        "m=audio 4000 RTP/SAVP 0",
        f"a=crypto:1 {THEIRS}",
    ]
    out = plain(*lines, "a=pcfg:1 t=1")
    assert out.session.has("tcap")
    assert out.media[0].has("pcfg")
    out = plain(*lines, "a=pcfg:1 t=1", "m=audio 4002 RTP/AVP 0")
    assert not out.session.has("tcap")
    assert not out.media[0].has("pcfg")


def test_what_the_caller_forgot_is_the_callers_error() -> None:
    came = sdp(*HEAD, "c=IN IP4 192.0.2.20", "t=0 0", "m=audio 4000 RTP/AVP 0")
    decisions = decided(came, CORE)
    with pytest.raises(UsageError):
        offer(came, (), CORE, locals_(1), {0: OFFERED}, OURS)
    with pytest.raises(UsageError):
        offer(came, decisions, CORE, {}, {0: OFFERED}, OURS)
    with pytest.raises(UsageError):
        offer(came, decisions, CORE, locals_(1), {}, OURS)


# -- names and groups -----------------------------------------------------------------------------------


def grouped(*groups: str, mids: Sequence[str] = "abc", ports: Sequence[int] = (1, 2, 3)) -> Document:
    lines = [f"a=group:{group}" for group in groups]
    for mid, port in zip(mids, ports, strict=True):
        lines += [f"m=audio {port} RTP/AVP 0", *[f"a=mid:{mid}"] * bool(mid)]
    return sdp(*HEAD, "c=IN IP4 192.0.2.20", "t=0 0", *lines)


def to_browser(came: Document, *mids: str) -> Document:
    """mids: those that the browser has given."""
    decisions = decide(came, CORE, DTLS, Access.WEBRTC, RULES)
    ours = dict.fromkeys(range(len(decisions)), OUR_LINES)
    return offer(came, decisions, CORE, locals_(9), ours, OURS, RULES, Access.WEBRTC, Names(mids))


def test_groups_have_the_names_that_the_lines_leave_with() -> None:
    """RFC 5888 section 9: there are others than BUNDLE."""
    out = to_browser(grouped("LS a  b", "FID c", "LS x", "DUP"), "0", "a", "2")
    assert [media.attribute("mid") for media in out.media] == ["0", "a", "2"]
    assert out.session.attributes("group") == ["LS 0 a", "FID 2", "BUNDLE 0"]


def test_an_answer_has_groups_in_the_names_of_the_offer() -> None:
    came, back = grouped("LS a c"), grouped("LS 0 2", mids=("0", "1", "2"))
    decisions = decide(came, CORE, DTLS, Access.WEBRTC, RULES)
    out = answer(back, came, decisions, CORE, locals_(3), {}, OURS)
    assert out.session.attributes("group") == ["LS a c"]
    nameless = grouped(mids=("", "", ""))
    assert not answer(back, nameless, decisions, CORE, locals_(3), {}, OURS).session.has("group")


def test_lines_that_are_over_are_in_no_group_of_any_kind() -> None:
    """RFC 5888 section 9.2: no names of m-lines with port 0."""
    came = grouped("LS a b", "FID b", "LS c a b", ports=(1, 0, 3))
    for direction in Direction:
        decisions = decide(came, direction, frozenset(), Access.SIP, RULES)
        out = offer(came, decisions, direction, locals_(3), {}, OURS)
        assert out.session.attributes("group") == ["LS a", "LS c a"]


def test_groups_that_stay_as_they_are_stay_in_their_place() -> None:
    out = to_browser(grouped("LS  a b", "DUP c"), "a", "b", "c")
    assert out.session.attributes("group")[:2] == ["LS  a b", "DUP c"]


def test_groups_do_not_grow_with_the_names_of_the_other_side() -> None:
    out = to_browser(grouped(*["LS" + " a" * 100] * 300), "A" * 64, "b", "c")
    assert out.session.attributes("group") == [*[f"LS {'A' * 64}"] * 32, f"BUNDLE {'A' * 64}"]


# -- DTLS and ICE ---------------------------------------------------------------------------------------


def to_ue(*lines: str, mux: bool, ice: bool = True) -> Media:
    """Our answer to a UE that has offered DTLS-SRTP."""
    asked = [
        "m=audio 4000 UDP/TLS/RTP/SAVPF 0",
        THEIR_FINGERPRINT,
        "a=3ge2ae:requested",
        *["a=rtcp-mux"] * mux,
    ]
    came = sdp(*HEAD, "c=IN IP4 192.0.2.10", "t=0 0", *asked)
    decisions = decide(came, UE, DTLS, Access.SIP, RULES)
    back = sdp(*HEAD, "c=IN IP4 192.0.2.20", "t=0 0", "m=audio 4000 RTP/AVPF 0", *lines)
    out = answer(back, came, decisions, UE, locals_(1, ice=ice), {0: OUR_LINES}, OURS)
    assert out.session.has("ice-lite") == ice
    return out.media[0]


def test_rtcp_has_a_candidate_where_it_has_a_port_p34() -> None:
    assert [value[:3] for value in to_ue(mux=True).attributes("candidate")] == ["1 1"]
    assert [value[:3] for value in to_ue("a=rtcp-mux", mux=False).attributes("candidate")] == ["1 1", "1 2"]
    assert not to_ue(mux=True, ice=False).has("candidate")


def test_a_line_under_dtls_has_no_crypto_and_one_fingerprint_p17() -> None:
    media = to_ue("a=crypto:1 " + THEIRS, THEIR_FINGERPRINT, "a=setup:holdconn", "a=tls-id:x", mux=True)
    assert not media.has("crypto")
    assert media.attributes("fingerprint") == [str(OUR_LINES.fingerprint)]
    assert media.attributes("setup") == ["actpass"]
    assert media.attributes("tls-id") == ["ours"]


def test_who_vouches_for_the_fingerprints_of_an_end_does_not_do_so_for_ours() -> None:
    identity = "a=identity:eyJpZHAiOnsiZG9tYWluIjoiYSJ9fQ=="
    lines = ["c=IN IP4 192.0.2.10", "t=0 0", identity]
    assert not plain(*lines, "m=audio 4000 RTP/AVP 0").session.has("identity")
    assert plain(*lines, "m=audio 4000 UDP/TLS/RTP/SAVP 0", THEIR_FINGERPRINT).session.has("identity")


def test_zero_addresses_are_no_hold_where_ice_stands_for_them() -> None:
    ice = ["a=ice-ufrag:abcd", "a=ice-pwd:asd88fgpdd777uzjYhagZg"]
    offered = ["t=0 0", "m=audio 9 UDP/TLS/RTP/SAVPF 0", "c=IN IP4 0.0.0.0", THEIR_FINGERPRINT]
    for lines, direction in ((ice, "sendrecv"), ([], "sendonly")):
        assert (out := plain(*offered, *lines)).direction_of(out.media[0]) == direction


def test_feedback_goes_with_its_profile() -> None:
    came = sdp(
        *HEAD,
        *("c=IN IP4 192.0.2.10", "t=0 0", "m=audio 4000 UDP/TLS/RTP/SAVPF 0", "a=rtcp-fb:* nack"),
        *(THEIR_FINGERPRINT, "a=3ge2ae:requested"),
    )
    for rules, kept in ((Rules(), True), (Rules(feedback="drop"), False)):
        decisions = decide(came, UE, DTLS, Access.SIP, rules)
        assert offer(came, decisions, UE, locals_(1), {}, OURS).media[0].has("rtcp-fb") is kept


EXTENSIONS = [
    "a=cryptex",
    "a=extmap:1 urn:ietf:params:rtp-hdrext:encrypt urn:ietf:params:rtp-hdrext:ssrc-audio-level",
    "a=extmap:2/sendonly urn:ietf:params:rtp-hdrext:encrypt urn:3gpp:video-orientation",
    "a=extmap:3 urn:ietf:params:rtp-hdrext:sdes:mid",
]


def test_rtp_headers_are_not_encrypted_for_the_other_side_and_do_not_have_its_names() -> None:
    clear = "a=extmap:4 urn:ietf:params:rtp-hdrext:ssrc-audio-level"
    assert to_ue(clear, *EXTENSIONS, mux=True).attributes("extmap") == [clear.removeprefix("a=extmap:")]
    secured = ["m=audio 4000 UDP/TLS/RTP/SAVPF 0", THEIR_FINGERPRINT, *EXTENSIONS]
    came = sdp(*HEAD, "c=IN IP4 192.0.2.10", "t=0 0", *EXTENSIONS[:2], *secured, "a=3ge2ae:requested")
    out = bytes(offer(came, decide(came, UE, DTLS, Access.SIP, RULES), UE, locals_(1), {}, OURS))
    assert b"a=extmap" not in out
    assert b"a=cryptex" not in out
    end_to_end = plain("c=IN IP4 192.0.2.10", "t=0 0", "a=cryptex", *secured)
    assert end_to_end.session.has("cryptex")
    beside = plain("c=IN IP4 192.0.2.10", "t=0 0", *EXTENSIONS, clear, *secured, "m=audio 4002 RTP/AVP 0")
    assert lines_of(beside.session, "a=") == [clear]
    refused = plain("c=IN IP4 192.0.2.10", "t=0 0", *EXTENSIONS, *secured, "m=audio 0 RTP/AVP 0")
    assert len(refused.session.attributes("extmap")) == 3
    assert len(end_to_end.media[0].attributes("extmap")) == 3


CREDENTIALS = ["a=ice-ufrag:abcd", "a=ice-pwd:asd88fgpdd777uzjYhagZg"]


@pytest.mark.parametrize("at_session", [False, True])
@pytest.mark.parametrize(
    ("line", "components"),
    [
        (["m=application 9 UDP/DTLS/SCTP webrtc-datachannel"], "1"),
        (["m=audio 9 UDP/TLS/RTP/SAVPF 0", "a=rtcp-mux"], "1"),
        (["m=audio 9 UDP/TLS/RTP/SAVPF 0"], "12"),
    ],
)
def test_our_candidates_stand_for_those_that_are_still_to_come(
    at_session: bool, line: list[str], components: str
) -> None:
    """RFC 8840 section 4.1.1. There would be nothing to check else, and its own do not pass later either."""
    said = [*CREDENTIALS, "a=ice-options:trickle ice2"]
    above, below = (said, []) if at_session else ([], said)
    out = plain("t=0 0", *above, *line, "c=IN IP4 0.0.0.0", *below)
    found = [value.split() for value in out.media[0].attributes("candidate")]
    assert "".join(candidate[1] for candidate in found) == components
    assert [candidate[4] for candidate in found] == ["198.51.100.2"] * len(components)
    assert [int(candidate[5]) for candidate in found] == [30000, 30001][: len(components)]
    assert b"trickle" not in bytes(out)
    assert str(out.connection_of(out.media[0])) == "IN IP4 198.51.100.2"


@pytest.mark.parametrize("of_ours", [[], ["m=audio 4002 RTP/AVP 0"]])
@pytest.mark.parametrize("elsewhere", ["source-filter: incl IN IP4 * 192.0.2.10", "altc:1 IP6 ::1 4000"])
def test_addresses_that_lead_around_the_gateway_do_not_pass(elsewhere: str, of_ours: list[str]) -> None:
    """RFC 4570, RFC 6947: and who only takes packets from the other end would take none of the gateway's."""
    above = ["c=IN IP4 192.0.2.10", "t=0 0", f"a={elsewhere}"]
    out = plain(*above, "m=audio 4000 RTP/SAVP 0", f"a={elsewhere}", *of_ours)
    assert elsewhere.encode() not in bytes(out)


def test_an_end_that_is_no_udp_candidate_is_not_named() -> None:
    lines = ["t=0 0", "m=application 4000 UDP/DTLS/SCTP webrtc-datachannel", "c=IN IP4 192.0.2.10"]
    tcp = "a=candidate:1 1 TCP 2128609279 192.0.2.10 9 typ host tcptype active"
    assert not plain(*lines, tcp).media[0].has("candidate")


# -- whatever is put together ---------------------------------------------------------------------------

PROTOS = ["RTP/AVP", "RTP/AVPF", "RTP/SAVP", "RTP/SAVPF", "UDP/TLS/RTP/SAVPF", "TCP/MSRP", "TCP/TLS/MSRP"]
PROTOS += ["UDP/DTLS/SCTP", "DTLS/SCTP", "TCP/DTLS/SCTP", "udptl", "UDP/TLS/UDPTL", "x/new"]
ATTRIBUTES = [
    *(
        "a=crypto:1 " + THEIRS,
        "a=crypto:2 rubbish",
        "a=3ge2ae:requested",
        "a=3ge2ae:applied",
        "a=fingerprint:SHA-256 1",
        THEIR_FINGERPRINT,
    ),
    *("a=setup:actpass", "a=tls-id:abc", "a=key-mgmt:mikey AAAA", "a=rtcp:9 IN IP4 192.0.2.10", "a=rtcp-mux"),
    *(
        "a=candidate:1 1 UDP 1 192.0.2.10 9 typ host",
        "a=ice-ufrag:abcd",
        "a=sendonly",
        "a=ptime:20",
        "k=clear:secret",
    ),
    *("a=acap:1 crypto:1 " + THEIRS, "a=pcfg:1 a=1", "a=x-unknown", "b=AS:64", "a=group:BUNDLE 0 1"),
]
CONNECTIONS = ["c=IN IP4 192.0.2.10", "c=IN IP4 0.0.0.0", "c=IN IP6 2001:db8::10"]
attributes = st.lists(st.sampled_from(ATTRIBUTES), max_size=6)
media = st.builds(
    lambda port, proto, connection, lines: [f"m=audio {port} {proto} 0", *connection, *lines],
    st.sampled_from([0, 4000]),
    st.sampled_from(PROTOS),
    st.lists(st.sampled_from(CONNECTIONS), max_size=1),
    attributes,
)
documents = st.builds(
    lambda connection, lines, sections: sdp(*HEAD, connection, "t=0 0", *lines, *itertools.chain(*sections)),
    st.sampled_from(CONNECTIONS),
    attributes,
    st.lists(media, max_size=4),
)
rules = st.builds(
    Rules,
    unknown_media=st.sampled_from(["pass", "refuse"]),
    e2ae_unregistered=st.sampled_from(["reject", "grant"]),
    best_effort_srtp=st.booleans(),
)
registered = st.sampled_from([SDES, DTLS, frozenset()])


@given(documents, documents, st.sampled_from(Direction), registered, rules)
def test_nothing_is_lost_leaked_or_half_rewritten(
    came: Document, other: Document, direction: Direction, registered: frozenset[Mechanism], rules: Rules
) -> None:
    before = bytes(came)
    decisions = decide(came, direction, registered, Access.SIP, rules)
    count = len(decisions)
    lines = own(*rules.suites)
    protections = {i: OUR_LINES if d.treatment.by_dtls else lines for i, d in enumerate(decisions)}
    out = offer(came, decisions, direction, locals_(count), protections, OURS, rules)
    assert bytes(came) == before
    _is_sound(came, out, decisions, to_ue=direction is CORE)

    other.media = [*other.media, *came.copy().media][:count]
    before = bytes(other)
    protections = {
        i: (replace(d.crypto, keys=lines[0].keys),) if d.crypto else OUR_LINES
        for i, d in enumerate(decisions)
    }
    back = answer(other, came, decisions, direction, locals_(count), protections, OURS)
    assert bytes(other) == before
    for here, there, decision in zip(came.media, back.media, decisions, strict=True):
        ours = decision.anchored and not decision.treatment.transparent
        if ours or decision.treatment is Treatment.REFUSED:
            assert there.proto == here.proto
        if decision.treatment is Treatment.REFUSED or not decision.active:
            assert there.port == 0
        if there.port and ours:
            assert there.has("rtcp-mux") == here.has("rtcp-mux")
            to_ue = direction is UE
            assert len(there.attributes("crypto")) == (decision.treatment is Treatment.E2AE_SDES and to_ue)
            fingerprints = [str(OUR_LINES.fingerprint)] * (decision.treatment.by_dtls and to_ue)
            assert there.attributes("fingerprint") == fingerprints
        assert not there.has("3ge2ae")


def _is_sound(came: Document, out: Document, decisions: tuple[Decision, ...], to_ue: bool) -> None:
    assert Document(bytes(out)).origin == OURS
    assert not out.session.has("3ge2ae")
    assert len(out.media) == len(came.media)
    for was, now, decision in zip(came.media, out.media, decisions, strict=True):
        assert now.kind == was.kind
        assert now.formats == was.formats
        assert now.proto == decision.proto_out
        applied = to_ue and decision.treatment.e2ae and decision.active
        assert now.attributes("3ge2ae") == (["applied"] if applied else [])
        if decision.treatment is Treatment.REFUSED or not decision.active:
            assert now.port == 0
            assert {line[:2] for line in lines_of(now)} <= {"m=", "c="}
            continue
        assert now.attributes("x-unknown") == was.attributes("x-unknown")
        assert _bandwidths(now) == _bandwidths(was)
        match decision:
            case Decision(anchored=False):
                mine = ("3ge2ae", "acap", "pcfg", *(name for name in FOR_ALL if not was.has(name)))
                assert _but(now, mine) == _but(was, mine)
                for name in SHARED:  # wherever they are said
                    here = now.attributes(name) or out.session.attributes(name)
                    assert here == (was.attributes(name) or came.session.attributes(name))
                if decision.treatment.transparent:
                    assert _keyed(now, out) == _keyed(was, came)
            case Decision(treatment=Treatment.E2E | Treatment.E2DCE):
                for name in ("crypto", "tls-id", "rtcp-mux"):
                    assert now.attributes(name) == was.attributes(name)
                for name in ("fingerprint", "setup", "ice-ufrag", "key-mgmt"):  # wherever they are said
                    here = now.attributes(name) or out.session.attributes(name)
                    assert here == (was.attributes(name) or came.session.attributes(name))
            case Decision(treatment=Treatment.PLAIN):
                _has_no_secret(now)
            case Decision(treatment=Treatment.E2AE_SDES):
                assert THEIRS not in str(now.attributes("crypto"))
                assert bool(now.attributes("crypto")) == to_ue
                assert not now.has("fingerprint")
            case _:
                assert now.attributes("fingerprint") == [str(OUR_LINES.fingerprint)] * to_ue
                assert not now.has("crypto")
        if decision.active and decision.anchored:
            assert now.port >= 30000
            assert str(out.connection_of(now)) == "IN IP4 198.51.100.2"
            assert "192.0.2.10" not in str([*now.attributes("candidate"), *now.attributes("rtcp")])
            assert decision.treatment.transparent or not now.has("ice-ufrag")

    if any(d.active and d.anchored and not d.treatment.transparent for d in decisions):
        assert not any(out.session.has(name) for name in ("crypto", *FOR_ALL))
        assert not lines_of(out.session, "k=")


def _keyed(media: Media, document: Document) -> list[str]:
    """The key management of an m-line, wherever it is said."""
    return media.attributes("key-mgmt") or document.session.attributes("key-mgmt")


def _has_no_secret(media: Media) -> None:
    for name in ("crypto", "key-mgmt", "fingerprint", "acap"):
        assert not media.has(name)
    assert not lines_of(media, "k=")


def _bandwidths(media: Media) -> list[str]:
    return lines_of(media, "b=")


def _but(media: Media, names: Sequence[str]) -> list[str]:
    """The lines that are no attributes of these names."""
    return [line for line in lines_of(media) if line[:2] != "a=" or line[2:].partition(":")[0] not in names]
