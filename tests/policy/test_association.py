"""RFC 8842: when an offer and its answer are about a new DTLS association, as a matrix.

The expected outcome of each cell is written down from the RFC, by what it says in sections 3.1, 4, 5.2 to
5.4; the module is not asked for it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest
from msgspec.structs import replace

from imsalg.errors import BadSdp
from imsalg.policy.association import Association, answered, answering, offered
from imsalg.sdp.document import Document
from imsalg.sdp.dtls import DtlsAttributes, Setup

OLD, NEW = (":".join([octet] * 32) for octet in ("AA", "BB"))
THERE, ELSEWHERE = "192.0.2.10 4000", "192.0.2.10 4002"

SETUP = ["actpass", "active", "passive", None]
TLS_ID = {
    "same": "a=tls-id:abc3de65cddef001be82",
    "same after a blank": "a=tls-id: abc3de65cddef001be82",
    "changed": "a=tls-id:fff3de65cddef001be82",
    "absent": None,
}
WHERE = {"same port": THERE, "new port": ELSEWHERE, "ICE": ""}
FINGERPRINT = {"same": [OLD], "changed": [NEW], "added": [OLD, NEW]}


def fresh() -> Callable[[], str]:
    names: Iterator[int] = itertools.count(1)
    return lambda: f"fresh-{next(names)}"


def said(setup: str | None, tls_id: str | None, fingerprints: list[str]) -> DtlsAttributes:
    lines = ["v=0", "o=- 1 1 IN IP4 192.0.2.10", "s=-", "t=0 0", "m=audio 4000 UDP/TLS/RTP/SAVP 0"]
    lines += [f"a=setup:{setup}"] * (setup is not None) + [tls_id] * (tls_id is not None)
    lines += [f"a=fingerprint:SHA-256 {each}" for each in fingerprints]
    document = Document("".join(f"{line}\r\n" for line in lines if line).encode())
    return DtlsAttributes.of(document, document.media[0])


def standing(setup: Setup, tls_id: str | None = TLS_ID["same"]) -> Association:
    """Ours has been said, and so was theirs; ours is the role given."""
    theirs = "active" if setup is Setup.PASSIVE else "passive"
    return Association("standing", "ours", setup, said(theirs, tls_id, [OLD]), THERE)


def role(setup: str | None, ours: Setup, *, answer: bool) -> Setup | None:
    """The negotiated role of ours. RFC 8842 section 5.3: `actpass` has to be answered so that the roles stay;
    RFC 4145 section 4.1 says what an absent setup means in an offer and in an answer."""
    if setup == "actpass":
        return None if answer else ours
    active = setup == "active" or (setup is None and not answer)
    return Setup.PASSIVE if active else Setup.ACTIVE


def is_new(negotiated: Setup, ours: Setup, tls_id: str, where: str, fingerprint: str) -> bool:
    if negotiated is not ours:
        return True  # section 3.1: the roles change
    if fingerprint != "same":
        return True  # section 3.1: one or more fingerprints are modified, added or removed
    if tls_id == "absent":
        return where == "new port"  # section 4; section 6: with ICE candidates come and go
    return tls_id == "changed"  # section 3.1; and where the port alone is new, it is the same association


MATRIX = list(itertools.product(SETUP, TLS_ID, WHERE, FINGERPRINT, (Setup.ACTIVE, Setup.PASSIVE)))


@pytest.mark.parametrize(("setup", "tls_id", "where", "fingerprint", "ours"), MATRIX)
def test_offers_of_the_ue_as_the_rfc_has_it_p01_p04_p05(
    setup: str | None, tls_id: str, where: str, fingerprint: str, ours: Setup
) -> None:
    before = standing(ours)
    theirs = said(setup, TLS_ID[tls_id], FINGERPRINT[fingerprint])
    found = answering(before, theirs, WHERE[where], fresh())
    negotiated = role(setup, ours, answer=False)
    assert negotiated is not None
    assert found.setup is negotiated
    if is_new(negotiated, ours, tls_id, where, fingerprint):
        assert found.name == "fresh-1"
        assert found.tls_id == (None if tls_id == "absent" else "fresh-1")  # section 5.3
    else:
        assert (found.name, found.tls_id) == ("standing", "ours")


@pytest.mark.parametrize(("setup", "tls_id", "where", "fingerprint", "ours"), MATRIX)
def test_answers_of_the_ue_as_the_rfc_has_it_p01_p02_p04_p05(
    setup: str | None, tls_id: str, where: str, fingerprint: str, ours: Setup
) -> None:
    before = standing(ours)
    theirs = said(setup, TLS_ID[tls_id], FINGERPRINT[fingerprint])
    negotiated = role(setup, ours, answer=True)
    if negotiated is None:
        with pytest.raises(BadSdp):
            answered(before, theirs, WHERE[where], fresh())
        return
    found = answered(before, theirs, WHERE[where], fresh())
    assert found.setup is negotiated
    assert found.tls_id == "ours"  # as it was said in the offer
    new = is_new(negotiated, ours, tls_id, where, fingerprint)
    assert found.name == ("fresh-1" if new else "standing")


def test_the_first_association_is_the_one_that_was_offered_p06() -> None:
    ours = offered(fresh())
    assert (ours.name, ours.tls_id, ours.setup) == ("fresh-1", "fresh-1", None)
    found = answered(ours, said("active", TLS_ID["same"], [OLD]), THERE, fresh())
    assert (found.name, found.tls_id, found.setup) == ("fresh-1", "fresh-1", Setup.PASSIVE)


@pytest.mark.parametrize(
    ("setup", "ours"),
    [
        ("actpass", Setup.PASSIVE),
        ("active", Setup.PASSIVE),
        ("passive", Setup.ACTIVE),
        (None, Setup.PASSIVE),
    ],
)
def test_the_first_offer_of_a_ue_makes_us_the_server_where_it_may_p01(setup: str | None, ours: Setup) -> None:
    found = answering(None, said(setup, TLS_ID["same"], [OLD]), THERE, fresh())
    assert (found.name, found.tls_id, found.setup) == ("fresh-1", "fresh-1", ours)


def test_holdconn_is_nobodys_role() -> None:
    for make in (answering, answered):
        with pytest.raises(BadSdp):
            make(standing(Setup.ACTIVE), said("holdconn", None, [OLD]), THERE, fresh())


def test_a_peer_that_never_sends_a_tls_id_is_not_punished_for_it_p04() -> None:
    before = answering(None, said("actpass", None, [OLD]), THERE, fresh())
    assert before.tls_id is None
    assert answering(before, said("actpass", None, [OLD]), THERE, fresh()) == before
    assert answering(before, said("actpass", None, [OLD]), "", fresh()).where == THERE
    assert answered(before, said("active", None, [OLD]), THERE, fresh()).name == before.name


def test_a_tls_id_that_was_left_out_once_is_remembered_p04() -> None:
    before = standing(Setup.PASSIVE)
    without = answering(before, said("actpass", None, [OLD]), THERE, fresh())
    assert without.name == "standing"
    assert answering(without, said("actpass", TLS_ID["same"], [OLD]), THERE, fresh()).name == "standing"


def test_the_order_of_fingerprints_is_no_change_p08() -> None:
    before = replace(standing(Setup.PASSIVE), peer=said("active", TLS_ID["same"], [OLD, NEW]))
    again = answering(before, said("actpass", TLS_ID["same"], [NEW, OLD]), THERE, fresh())
    assert again.name == "standing"
    assert again.peer is not None
    assert before.peer is not None
    assert again.peer.fingerprints == before.peer.fingerprints  # the gateway is told the same


def test_a_tls_id_that_appears_names_another_association() -> None:
    before = standing(Setup.PASSIVE, tls_id=None)
    assert answering(before, said("actpass", TLS_ID["same"], [OLD]), THERE, fresh()).name == "fresh-1"
