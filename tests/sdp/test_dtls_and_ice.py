"""What m-lines say of DTLS, ICE and data channels, as real peers write it."""

from __future__ import annotations

import pytest

from imsalg.errors import BadSdp
from imsalg.sdp.datachannel import only_bootstrap, over_udp, stream_ids
from imsalg.sdp.document import Document
from imsalg.sdp.dtls import MAX_FINGERPRINTS, DtlsAttributes, Fingerprint, Setup
from imsalg.sdp.ice import Candidate, IceCredentials, components, is_lite

SHA1 = "4A:AD:B9:B1:3F:82:18:3B:54:02:12:DF:3E:5D:49:6B:19:E5:7C:AB"
SHA256 = ":".join(f"{octet:02X}" for octet in range(32))
OTHER256 = ":".join(f"{octet:02X}" for octet in range(32, 64))
TLS_ID = "abc3de65cddef001be82"
PWD = "asd88fgpdd777uzjYhagZg"
HEAD = ["v=0", "o=- 1 1 IN IP4 192.0.2.10", "s=-"]


def sdp(*lines: str) -> Document:
    return Document("".join(f"{line}\r\n" for line in (*HEAD, *lines)).encode())


def dtls(*lines: str, session: tuple[str, ...] = ()) -> DtlsAttributes:
    document = sdp("t=0 0", *session, "m=audio 4000 UDP/TLS/RTP/SAVP 0", *lines)
    return DtlsAttributes.of(document, document.media[0])


# -- fingerprints ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "written",
    [f"sha-256 {SHA256}", f"SHA-256 {SHA256}", f" Sha-256  {SHA256.lower()} ", f"\tSHA-256\t{SHA256}"],
)
def test_hash_names_and_digits_have_any_case_and_blanks_around_them_p08(written: str) -> None:
    fingerprint = Fingerprint.parse(written)
    assert fingerprint == Fingerprint("sha-256", bytes(range(32)))
    assert str(fingerprint) == f"sha-256 {SHA256}"


@pytest.mark.parametrize(
    "written",
    [
        "",
        "sha-256",
        f"sha-256 {SHA1}",
        f"sha-1 {SHA256}",
        "sha-256 4A:B",
        "sha-256 4AAD",
        f"sha-256 {SHA256} x",
    ],
)
def test_what_is_no_fingerprint_is_bad_sdp(written: str) -> None:
    with pytest.raises(BadSdp):
        Fingerprint.parse(written)


def test_the_media_level_replaces_the_session_level_p08() -> None:
    session = (f"a=fingerprint:sha-1 {SHA1}", "a=setup:passive")
    assert [f.hash for f in dtls(session=session).fingerprints] == ["sha-1"]
    assert dtls(session=session).setup is Setup.PASSIVE
    said = dtls(f"a=fingerprint: SHA-256 {SHA256}", "a=setup:active", session=session)
    assert [f.hash for f in said.fingerprints] == ["sha-256"]
    assert said.setup is Setup.ACTIVE


def test_the_hash_we_like_best_counts_and_no_other_p08() -> None:
    said = dtls(
        f"a=fingerprint:sha-1 {SHA1}",
        "a=fingerprint:unreadable",
        "a=fingerprint:x-new 00",
        f"a=fingerprint:sha-256 {SHA256}",
        f"a=fingerprint:SHA-256 {OTHER256}",
    )
    assert len(said.fingerprints) == 4
    assert [f.digest[0] for f in said.usable(("sha-512", "sha-256", "sha-1"))] == [0, 32]
    assert [f.hash for f in said.usable(("sha-1", "sha-256"))] == ["sha-1"]
    assert said.usable(("sha-512",)) == ()


def test_no_more_fingerprints_are_looked_at_than_anybody_needs() -> None:
    assert len(dtls(*[f"a=fingerprint:sha-1 {SHA1}"] * 100).fingerprints) == MAX_FINGERPRINTS


# -- setup and tls-id -----------------------------------------------------------------------------------


def test_setup_has_four_roles_in_any_case() -> None:
    assert [Setup.parse(f" {role.upper()} ") for role in Setup] == list(Setup)
    assert dtls().setup is None
    with pytest.raises(BadSdp):
        dtls("a=setup:both")


def test_blanks_around_a_tls_id_are_not_part_of_it_p04() -> None:
    assert dtls(f"a=tls-id: {TLS_ID}").tls_id == dtls(f"a=tls-id:{TLS_ID} ").tls_id == TLS_ID
    assert dtls("a=tls-id:" + "x" * 255).tls_id == "x" * 255


@pytest.mark.parametrize(
    "lines", [[], ["a=tls-id:"], ["a=tls-id: "], ["a=tls-id:a b"], ["a=tls-id:" + "x" * 256]]
)
def test_what_names_nothing_is_as_if_it_were_not_there(lines: list[str]) -> None:
    assert dtls(*lines).tls_id is None


def test_a_tls_id_is_of_one_m_line() -> None:
    assert dtls(session=(f"a=tls-id:{TLS_ID}",)).tls_id is None


# -- ICE ------------------------------------------------------------------------------------------------


def test_credentials_are_of_the_m_line_or_of_the_session() -> None:
    document = sdp(
        "a=ice-lite",
        "a=ice-ufrag:sess",
        f"a=ice-pwd:{PWD}",
        *("m=audio 4000 RTP/AVP 0", "m=video 4002 RTP/AVP 96", "a=ice-ufrag:8hhY", f"a=ice-pwd: {PWD}x"),
    )
    assert IceCredentials.of(document, document.media[0]) == IceCredentials("sess", PWD)
    assert IceCredentials.of(document, document.media[1]) == IceCredentials("8hhY", PWD + "x")
    assert is_lite(document)
    assert PWD not in repr(IceCredentials("sess", PWD))


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["a=ice-ufrag:abcd"],
        [f"a=ice-pwd:{PWD}"],
        ["a=ice-ufrag:abc", f"a=ice-pwd:{PWD}"],
        ["a=ice-ufrag:abcd", f"a=ice-pwd:{PWD[:-1]}"],
        ["a=ice-ufrag:ab:d", f"a=ice-pwd:{PWD}"],
    ],
)
def test_half_or_broken_credentials_are_none(lines: list[str]) -> None:
    document = sdp("m=audio 4000 RTP/AVP 0", *lines)
    assert IceCredentials.of(document, document.media[0]) is None
    assert not is_lite(document)


def test_candidates_are_read_and_written() -> None:
    value = "1 1 UDP 2130706431 10.0.1.1 8998 typ host"
    assert Candidate.parse(value) == Candidate.host(1, "10.0.1.1", 8998)
    assert str(Candidate.parse(value)) == value
    assert Candidate.host(2, "2001:db8::1", 9).priority == 2130706430
    chrome = "842163049 1 udp 1677729535 192.0.2.3 45664 typ srflx raddr 10.0.1.1 rport 8998 generation 0"
    assert Candidate.parse(chrome).type == "srflx"
    assert Candidate.parse("1 1 udp 1 8f5c8c6c-1d0f.local 4000 typ host").address == "8f5c8c6c-1d0f.local"


@pytest.mark.parametrize(
    "value",
    ["", "1 1 UDP 1 10.0.1.1 8998", "1 x UDP 1 10.0.1.1 8998 typ host", "1 1 UDP 1 10.0.1.1 65536 typ host"],
)
def test_what_is_no_candidate_is_bad_sdp(value: str) -> None:
    with pytest.raises(BadSdp):
        Candidate.parse(value)


def test_components_are_those_over_udp() -> None:
    document = sdp(
        "m=audio 4000 RTP/AVP 0",
        "a=candidate:1 1 UDP 2130706431 10.0.1.1 8998 typ host",
        "a=candidate:1 2 udp 2130706430 10.0.1.1 8999 typ host",
        "a=candidate:2 3 TCP 2130706430 10.0.1.1 9 typ host tcptype active",
        "a=candidate:rubbish",
    )
    assert components(document.media[0]) == {1, 2}


# -- data channels --------------------------------------------------------------------------------------


def test_the_old_and_the_new_protocol_are_known_p41() -> None:
    assert over_udp("UDP/DTLS/SCTP")
    assert over_udp("dtls/sctp")
    assert not over_udp("TCP/DTLS/SCTP")


def test_bootstrap_channels_are_told_from_those_of_applications_p41() -> None:
    def media(*ids: str) -> Document:
        return sdp("m=application 9 UDP/DTLS/SCTP webrtc-datachannel", *(f"a=dcmap:{id}" for id in ids))

    document = media('0 subprotocol="http"', "10", ' 110 label="x";subprotocol="http"')
    assert stream_ids(document.media[0]) == {0, 10, 110}
    assert only_bootstrap(document.media[0])
    assert not only_bootstrap(media("0", "1000").media[0])
    assert not only_bootstrap(media().media[0])
    assert stream_ids(media("x", "123456", "1;2").media[0]) == frozenset()
