"""What becomes of each m-line of an offer: the decision tables of TS 33.328 clauses 7.2.1 and 7.3.1.

    offered by the UE           3ge2ae:requested   else
    RTP/SAVP, RTP/SAVPF         e2ae SDES          e2e (SDES or KMS), anchored transparently
    RTP/AVP, RTP/AVPF           no matter: plain (e2ae SDES if it has a=crypto and `best_effort_srtp` is on)
    other, with TLS or DTLS     refused by name    untouched (`unknown_media`)
    other                       no matter: untouched (`unknown_media`)

    offered by the core         sdes-srtp registered   else
    RTP/AVP, RTP/AVPF           e2ae SDES              plain
    RTP/SAVP, RTP/SAVPF         no matter: e2e, anchored transparently, never e2ae on top
    other                       no matter: untouched (`unknown_media`)

An m-line with port 0 is disabled, whatever else it says. A running e2ae stream stays one in a re-offer: the
core cannot see that it is one, and a UE may leave out what it has said before (trap P27).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Literal

from msgspec import Meta, Struct

from imsalg.errors import BadSdp
from imsalg.policy.treatment import Mechanism, Treatment
from imsalg.sdp.attributes import Crypto, E2aeIndication, e2ae_indication
from imsalg.sdp.document import Document, Media


class Direction(StrEnum):
    """Who sent the offer, whatever SIP message it came in."""

    ORIGINATING = "originating"  # the UE
    TERMINATING = "terminating"  # the core


class Access(StrEnum):
    """A WebRTC client wants e2ae without saying so (TS 33.328 clause N.2.2)."""

    SIP = "sip"
    WEBRTC = "webrtc"


SuiteName = Literal[
    "AES_CM_128_HMAC_SHA1_80",
    "AES_CM_128_HMAC_SHA1_32",
    "AES_256_CM_HMAC_SHA1_80",
    "AEAD_AES_128_GCM",
    "AEAD_AES_256_GCM",
]


class Rules(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The network's policy; the [policy] section of the configuration.

    suites: SDES suites served, in the order in which UEs are offered them. In a UE's offer the UE's order
        counts: the first line with one of these is taken.
    e2ae_unregistered: e2ae requested by a UE that has not registered it (TS 33.328 clause 7.2.1 NOTE 2a).
    unknown_media: m-lines that have no treatment here.
    best_effort_srtp: RTP/AVP with a=crypto from a UE is e2ae (trap P20); else its a=crypto is dropped.
    echo_applied: a=3ge2ae:applied in answers to the UE, too; TS 33.328 clause 7.2.1 NOTE 3 does without.
    answer_without_crypto: a UE answers RTP/AVP to e2ae: the answer is not accepted, or the stream is plain.
    """

    suites: Annotated[tuple[SuiteName, ...], Meta(min_length=1)] = (
        "AES_CM_128_HMAC_SHA1_80",
        "AES_256_CM_HMAC_SHA1_80",
        "AEAD_AES_128_GCM",
        "AEAD_AES_256_GCM",
    )
    e2ae_unregistered: Literal["reject", "grant"] = "reject"
    unknown_media: Literal["pass", "refuse"] = "pass"
    best_effort_srtp: bool = False
    echo_applied: bool = False
    answer_without_crypto: Literal["reject", "plain"] = "reject"


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of one m-line.

    reason: one line with its clause, for logs and people.
    proto_out: the m-line's protocol on the other side.
    anchored: its media pass through the gateway; if not, the m-line passes untouched.
    crypto: the line taken of a UE's offer under e2ae SDES: the key the UE sends with.
    active: its port is not 0.
    """

    treatment: Treatment
    reason: str
    proto_out: str
    anchored: bool
    crypto: Crypto | None = field(default=None, repr=False)
    active: bool = True


def decide(
    document: Document,
    direction: Direction,
    registered: frozenset[Mechanism],
    access: Access,
    rules: Rules,
    previous: Sequence[Decision] = (),
) -> tuple[Decision, ...]:
    """One decision for each m-line of an offer, in their order.

    registered: what the UE and the network announced to each other, for the binding and the access in use.
    previous: the decisions in force for the session's m-lines, if this is a re-offer.
    Raises BadSdp for an a=key-mgmt that cannot be read.
    """
    line = _originating if direction is Direction.ORIGINATING else _terminating
    known: Iterator[Decision | None] = itertools.chain(previous, itertools.repeat(None))
    return tuple(
        line(document, media, registered, access, rules, _runs_e2ae(before))
        if media.port
        else _disabled(media, direction, before)
        for media, before in zip(document.media, known, strict=False)
    )


def status(decisions: Iterable[Decision]) -> int:
    """The SIP status the offer is worth: 488 if nothing is left of it, else 200."""
    active = [decision.treatment for decision in decisions if decision.active]
    return 488 if active and set(active) == {Treatment.REFUSED} else 200


def select(lines: Iterable[str], suites: Iterable[str]) -> Crypto | None:
    """The first a=crypto value, in its writer's order of preference (RFC 4568 section 5.1.1), that is valid,
    of one of the suites, and without session parameters that weaken or change SRTP (TS 33.328 clause 5.3: no
    null encryption, SRTCP integrity always)."""
    known = set(suites)
    for line in lines:
        try:
            crypto = Crypto.parse(line)
        except BadSdp:
            continue  # RFC 4568 section 5.1.2: try the next
        if crypto.suite in known and crypto.plain_srtp:
            return crypto
    return None


_SECURED = {"RTP/AVP": "RTP/SAVP", "RTP/AVPF": "RTP/SAVPF"}
_CLEAR = {secured: clear for clear, secured in _SECURED.items()}


def _originating(
    document: Document,
    media: Media,
    registered: frozenset[Mechanism],
    access: Access,
    rules: Rules,
    runs_e2ae: bool,
) -> Decision:
    proto = media.proto.upper()
    requested = e2ae_indication(media.attributes("3ge2ae")) is E2aeIndication.REQUESTED
    if proto in _SECURED:
        return _plain_from_ue(media, rules)
    if proto in _CLEAR:
        kms = "mikey" in document.key_mgmt_of(media)
        if requested or (runs_e2ae and not kms):
            return _sdes_from_ue(media, registered, rules, requested, runs_e2ae)
        if kms:
            return _e2e(media, "e2e KMS: a=key-mgmt without 3ge2ae:requested", "7.2.3")
        return _e2e(media, "e2e SDES: 3ge2ae:requested is absent", "7.2.2")
    if _has_own_protection(proto) and (requested or access is Access.WEBRTC):
        # The far end would take for its own what the UE means for the access edge (TS 33.328 clause 7.2.1).
        name = _LATER.get(proto, "e2ae")
        who = "requested" if requested else "due to a WebRTC client"
        return _refused(media, f"{name} {who}, which is not served here for {proto}", "7.2.1 step 2")
    return _other(document, media, rules, "7.2.3", "7.2.1 step 2")


def _terminating(
    document: Document,
    media: Media,
    registered: frozenset[Mechanism],
    access: Access,
    rules: Rules,
    runs_e2ae: bool,
) -> Decision:
    proto = media.proto.upper()
    if proto in _CLEAR:
        if "mikey" in document.key_mgmt_of(media):
            return _e2e(media, "e2e KMS: offered with a=key-mgmt", "7.3.3")
        return _e2e(media, "e2e SDES: offered as SRTP", "7.3.2")
    if proto not in _SECURED:
        return _other(document, media, rules, "7.3.3", "7.3.1 step 3")
    if access is Access.WEBRTC:
        return _refused(media, "e2ae-dtls-srtp due to a WebRTC client, which is not served here", "N.2.2")
    if Mechanism.SDES_SRTP in registered:
        why = "sdes-srtp registered"
    elif runs_e2ae:
        why = "the stream is under e2ae already"
    else:
        return _plain(media, "plain: sdes-srtp is not registered", "7.3.1 step 3")
    reason = f"e2ae SDES: {why} (TS 33.328 clause 7.3.1)"
    return Decision(Treatment.E2AE_SDES, reason, _SECURED[proto], anchored=True)


def _sdes_from_ue(
    media: Media, registered: frozenset[Mechanism], rules: Rules, requested: bool, runs_e2ae: bool
) -> Decision:
    why = "3ge2ae:requested" if requested else "the stream is under e2ae already"
    if Mechanism.SDES_SRTP in registered:
        why += " and sdes-srtp registered"
    elif not runs_e2ae and rules.e2ae_unregistered == "reject":
        return _refused(media, f"{why}, but sdes-srtp is not registered", "7.2.1 NOTE 2a")
    elif not runs_e2ae:
        why += ", granted without registration"
    crypto = select(media.attributes("crypto"), rules.suites)
    if crypto is None:
        reason = f"{why}, but no a=crypto can be accepted (RFC 4568 section 5.1.2)"
        return Decision(Treatment.REFUSED, reason, media.proto, anchored=False)
    reason = f"e2ae SDES, {crypto.suite}: {why} (TS 33.328 clause 7.2.1)"
    return Decision(Treatment.E2AE_SDES, reason, _CLEAR[media.proto.upper()], anchored=True, crypto=crypto)


def _plain_from_ue(media: Media, rules: Rules) -> Decision:
    if not media.has("crypto"):
        return _plain(media, "plain: offered without protection", "7.2.1 step 2")
    if not rules.best_effort_srtp:
        return _plain(media, f"plain: a=crypto counts for nothing under {media.proto}", "7.2.1 step 2")
    crypto = select(media.attributes("crypto"), rules.suites)
    if crypto is None:
        return _plain(media, "plain: best-effort SRTP, but no a=crypto can be accepted", "7.2.1 step 2")
    reason = f"e2ae SDES, {crypto.suite}: best-effort SRTP, by policy (TS 33.328 clause 7.2.1)"
    return Decision(Treatment.E2AE_SDES, reason, media.proto, anchored=True, crypto=crypto)


def _other(document: Document, media: Media, rules: Rules, kms_clause: str, clause: str) -> Decision:
    """Protocols without a treatment of ours; the ends protect them or nobody does."""
    proto = media.proto.upper()
    if proto == "TCP/TLS/MSRP" and "mikey" in document.key_mgmt_of(media):
        reason = f"e2e KMS: offered with a=key-mgmt, untouched (TS 33.328 clause {kms_clause})"
        return Decision(Treatment.E2E, reason, media.proto, anchored=False)
    if rules.unknown_media == "refuse":
        return _refused(media, f"{media.proto} has no treatment here, refused by policy", clause)
    reason = f"{media.proto} has no treatment here, untouched by policy (TS 33.328 clause {clause})"
    return Decision(_bystander(media), reason, media.proto, anchored=False)


def _disabled(media: Media, direction: Direction, before: Decision | None) -> Decision:
    """Port 0. Under e2ae the other side goes on knowing the line by its own profile; but if the line is used
    again, that is a new stream and decided afresh (RFC 3264 section 8.1)."""
    reason = "disabled by port 0 (RFC 3264 section 8.2)"
    profiles = _CLEAR if direction is Direction.ORIGINATING else _SECURED
    proto = media.proto.upper()
    if before is not None and before.treatment is Treatment.E2AE_SDES and proto in profiles:
        return Decision(Treatment.E2AE_SDES, reason, profiles[proto], anchored=False, active=False)
    return Decision(_bystander(media), reason, media.proto, anchored=False, active=False)


def _runs_e2ae(before: Decision | None) -> bool:
    return before is not None and before.active and before.treatment is Treatment.E2AE_SDES


def _plain(media: Media, reason: str, clause: str) -> Decision:
    return Decision(Treatment.PLAIN, f"{reason} (TS 33.328 clause {clause})", media.proto, anchored=True)


def _e2e(media: Media, reason: str, clause: str) -> Decision:
    return Decision(Treatment.E2E, f"{reason} (TS 33.328 clause {clause})", media.proto, anchored=True)


def _refused(media: Media, reason: str, clause: str) -> Decision:
    return Decision(Treatment.REFUSED, f"{reason} (TS 33.328 clause {clause})", media.proto, anchored=False)


def _bystander(media: Media) -> Treatment:
    return Treatment.E2E if _has_own_protection(media.proto.upper()) else Treatment.PLAIN


def _has_own_protection(proto: str) -> bool:
    return not _PROTECTIONS.isdisjoint(proto.split("/"))


_PROTECTIONS = frozenset({"TLS", "DTLS", "SAVP", "SAVPF"})

# The e2ae treatments that have a name already, and nothing else yet.
_LATER = {
    "UDP/TLS/RTP/SAVP": Treatment.E2AE_DTLS_SRTP,
    "UDP/TLS/RTP/SAVPF": Treatment.E2AE_DTLS_SRTP,
    "TCP/TLS/MSRP": Treatment.E2AE_MSRP,
    "TCP/TLS/BFCP": Treatment.E2AE_BFCP,
    "UDP/TLS/UDPTL": Treatment.E2AE_UDPTL,
    "UDP/DTLS/SCTP": Treatment.E2AE_DATACHANNEL,
}
