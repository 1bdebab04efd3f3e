"""What becomes of each m-line of an offer: the decision tables of TS 33.328 clauses 7.2 and 7.3.

    offered by the UE           3ge2ae:requested   else
    RTP/SAVP(F)                 e2ae SDES          e2e (SDES or KMS), anchored transparently
    UDP/TLS/RTP/SAVP(F)         e2ae DTLS-SRTP     e2e, anchored transparently; of a WebRTC client e2ae
    UDP/TLS/UDPTL               e2ae UDPTL         e2e, anchored transparently
    RTP/AVP(F), udptl           no matter: plain (e2ae SDES if it has a=crypto and `best_effort_srtp` is on)
    UDP/DTLS/SCTP               refused by name    e2DCe or e2e, both anchored transparently
    other, with TLS or DTLS     refused by name    untouched (`unknown_media`)
    other                       no matter: untouched (`unknown_media`)

    offered by the core         its mechanism registered   else
    RTP/AVP(F)                  e2ae SDES or DTLS-SRTP     plain; to a WebRTC client e2ae DTLS-SRTP
    udptl                       e2ae UDPTL                 plain
    RTP/SAVP(F), UDP/TLS/...    no matter: e2e, anchored transparently, never e2ae on top
    UDP/DTLS/SCTP               e2DCe                      e2e, anchored transparently
    other                       no matter: untouched (`unknown_media`)

An m-line with port 0 is disabled, whatever else it says. A running e2ae stream stays one in a re-offer: the
core cannot see that it is one, and a UE may leave out what it has said before (trap P27).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum

from msgspec import Struct

from imsalg.errors import BadSdp
from imsalg.policy.rules import Rules as Rules
from imsalg.policy.treatment import PROFILES, Carried, Mechanism, Profile, Treatment
from imsalg.sdp import datachannel
from imsalg.sdp.attributes import Crypto, E2aeIndication, e2ae_indication
from imsalg.sdp.document import Document, Media
from imsalg.sdp.dtls import DtlsAttributes, Setup

MAX_DTLS = 8  # m-lines whose DTLS ends in the gateway: two associations each, which cost it memory


class Direction(StrEnum):
    """Who sent the offer, whatever SIP message it came in."""

    ORIGINATING = "originating"  # the UE
    TERMINATING = "terminating"  # the core


class Access(StrEnum):
    """A WebRTC client wants e2ae without saying so (TS 33.328 clause N.2.2)."""

    SIP = "sip"
    WEBRTC = "webrtc"


class Decision(Struct, frozen=True):
    """What becomes of one m-line.

    reason: one line with its clause, for logs and people.
    proto_out: the m-line's protocol on the other side.
    anchored: its media pass through the gateway; if not, the m-line passes untouched.
    crypto: the line taken of a UE's offer under e2ae SDES: the key the UE sends with.
    dtls: what a UE's offer says of DTLS that ends in the gateway.
    active: its port is not 0.
    """

    treatment: Treatment
    reason: str
    proto_out: str
    anchored: bool
    crypto: Crypto | None = None
    dtls: DtlsAttributes | None = None
    active: bool = True

    @property
    def carried(self) -> Carried:
        return self.treatment.carried(self.proto_out)


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
    Raises BadSdp for an a=key-mgmt or an a=setup that cannot be read.
    """
    choose = _originating if direction is Direction.ORIGINATING else _terminating
    known: Iterator[Decision | None] = itertools.chain(previous, itertools.repeat(None))
    decisions: list[Decision] = []
    for media, before in zip(document.media, known, strict=False):
        if not media.port:
            decisions.append(_disabled(media, direction, before))
            continue
        line = _Line(document, media, registered, access, rules, _running(before))
        decision = choose(line)
        before_it = sum(each.active and each.treatment.by_dtls for each in decisions)
        if decision.treatment.by_dtls and before_it == MAX_DTLS:
            decision = _unusable(line, f"more than {MAX_DTLS} m-lines with DTLS that ends in the gateway")
        decisions.append(decision)
    return tuple(decisions)


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


class _Line(Struct, frozen=True):
    """An active m-line, and what its fate depends on. running: its treatment so far, in a re-offer."""

    document: Document
    media: Media
    registered: frozenset[Mechanism]
    access: Access
    rules: Rules
    running: Treatment | None

    @property
    def proto(self) -> str:
        return self.media.proto.upper()

    @property
    def requested(self) -> bool:
        return e2ae_indication(self.media.attributes("3ge2ae")) is E2aeIndication.REQUESTED

    @property
    def e2dce_requested(self) -> bool:
        name = self.rules.e2dce.attribute
        return bool(name) and e2ae_indication(self.media.attributes(name)) is E2aeIndication.REQUESTED

    @property
    def kms(self) -> bool:
        return "mikey" in self.document.key_mgmt_of(self.media)

    def wants(self, profile: Profile) -> bool:
        """Whether the UE wants e2ae without saying so in this offer."""
        due = self.access is Access.WEBRTC and profile.treatment is Treatment.E2AE_DTLS_SRTP
        return due or self.running is profile.treatment


# -- offered by the UE ----------------------------------------------------------------------------------


def _originating(line: _Line) -> Decision:
    if datachannel.over_udp(line.proto):
        return _data_channel_from_ue(line)
    if line.proto in _CLEAR:
        return _plain_from_ue(line)
    profile = _profile_from_ue(line)
    if profile is not None:
        kms = profile.treatment is Treatment.E2AE_SDES and line.kms
        if line.requested or (line.wants(profile) and not kms):
            return _e2ae_from_ue(line, profile)
        if kms:
            return _e2e(line, "e2e KMS: a=key-mgmt without 3ge2ae:requested", "7.2.3")
        what = "SDES" if profile.treatment is Treatment.E2AE_SDES else "DTLS"
        return _e2e(line, f"e2e {what}: 3ge2ae:requested is absent", "7.2.2")
    if _has_own_protection(line.proto) and (line.requested or line.access is Access.WEBRTC):
        # The far end would take for its own what the UE means for the access edge (TS 33.328 clause 7.2.1).
        name = _LATER.get(line.proto, "e2ae")
        who = "requested" if line.requested else "due to a WebRTC client"
        return _refused(line, f"{name} {who}, which is not served here for {line.proto}", "7.2.1 step 2")
    return _other(line, "7.2.3", "7.2.1 step 2")


def _profile_from_ue(line: _Line) -> Profile | None:
    proto = line.proto
    if line.access is Access.WEBRTC and proto.startswith("RTP/SAVP") and not line.media.has("crypto"):
        proto = f"UDP/TLS/{proto}"  # as browsers wrote it before RFC 8834
    return next((profile for profile in PROFILES if profile.secured == proto), None)


def _e2ae_from_ue(line: _Line, profile: Profile) -> Decision:
    mechanism, rules = profile.mechanism, line.rules
    if line.requested:
        why = "3ge2ae:requested"
    elif line.running is profile.treatment:
        why = "the stream is under e2ae already"
    else:
        why = "a WebRTC client"
    if mechanism in line.registered:
        why += f" and {mechanism} registered"
    elif not line.wants(profile) and rules.e2ae_unregistered == "reject":
        return _refused(line, f"{why}, but {mechanism} is not registered", "7.2.1 NOTE 2a")
    elif not line.wants(profile):
        why += ", granted without registration"
    clear = profile.clear
    if clear == "RTP/AVPF" and rules.feedback == "drop":
        clear = "RTP/AVP"
    if profile.treatment is Treatment.E2AE_SDES:
        crypto = select(line.media.attributes("crypto"), rules.suites)
        if crypto is None:
            return _unusable(line, f"{why}, but no a=crypto can be accepted (RFC 4568 section 5.1.2)")
        reason = f"e2ae SDES, {crypto.suite}: {why} (TS 33.328 clause 7.2.1)"
        return Decision(profile.treatment, reason, clear, anchored=True, crypto=crypto)
    said = DtlsAttributes.of(line.document, line.media)
    usable = said.usable(rules.hashes)
    if not usable:
        return _unusable(line, f"{why}, but no a=fingerprint can be accepted (RFC 8122 section 5)")
    if said.setup is Setup.HOLDCONN:
        return _unusable(line, f"{why}, but a=setup:holdconn (RFC 8842 section 5.1)")
    reason = (
        f"{_NAMES[profile.treatment]}, {usable[0].hash}: {why} (TS 33.328 clause {_clause(line, '7.2.1')})"
    )
    return Decision(profile.treatment, reason, clear, anchored=True, dtls=said)


def _plain_from_ue(line: _Line) -> Decision:
    media, clause = line.media, "7.2.1 step 2"
    if not media.has("crypto") or line.proto == "UDPTL":
        return _plain(line, "plain: offered without protection", clause)
    if not line.rules.best_effort_srtp:
        return _plain(line, f"plain: a=crypto counts for nothing under {media.proto}", clause)
    crypto = select(media.attributes("crypto"), line.rules.suites)
    if crypto is None:
        return _plain(line, "plain: best-effort SRTP, but no a=crypto can be accepted", clause)
    reason = f"e2ae SDES, {crypto.suite}: best-effort SRTP, by policy (TS 33.328 clause 7.2.1)"
    return Decision(Treatment.E2AE_SDES, reason, media.proto, anchored=True, crypto=crypto)


def _data_channel_from_ue(line: _Line) -> Decision:
    """TS 33.328 clauses 7.2.4 and 7.2.5. What is asked for without being registered is the error case of
    clause 7.2.4 NOTE 2."""
    dcmtsi = Mechanism.DATA_CHANNEL in line.registered
    if line.e2dce_requested:
        why = f"{line.rules.e2dce.attribute}:requested"
        if Mechanism.E2DCE in line.registered or dcmtsi:
            return _e2dce(line, f"{why} and registered", "7.2.4")
        if line.running is Treatment.E2DCE:
            return _e2dce(line, f"{why}, and the stream is under e2DCe already", "7.2.4")
        if line.rules.e2ae_unregistered == "grant":
            return _e2dce(line, f"{why}, granted without registration", "7.2.4")
        return _refused(line, f"{why}, but e2DCe is not registered", "7.2.4 NOTE 2")
    if line.requested or (line.access is Access.WEBRTC and not dcmtsi):
        who = "requested" if line.requested else "due to a WebRTC client"
        name = Treatment.E2AE_DATACHANNEL
        return _refused(line, f"{name} {who}, which is not served here for {line.proto}", "7.2.1 step 2")
    if dcmtsi and datachannel.only_bootstrap(line.media):
        return _e2dce(line, "bootstrap channels of a DCMTSI client", "N.3.Y")
    return _e2e(line, "e2e DTLS: a data channel without a request", "7.2.5")


# -- offered by the core --------------------------------------------------------------------------------


def _terminating(line: _Line) -> Decision:
    if datachannel.over_udp(line.proto):
        return _data_channel_from_core(line)
    if offered := [profile for profile in PROFILES if profile.secured == line.proto]:
        if offered[0].treatment is not Treatment.E2AE_SDES:
            return _e2e(line, "e2e DTLS: offered with DTLS", "7.3.2")
        if line.kms:
            return _e2e(line, "e2e KMS: offered with a=key-mgmt", "7.3.3")
        return _e2e(line, "e2e SDES: offered as SRTP", "7.3.2")
    served = [profile for profile in PROFILES if profile.clear.upper() == line.proto]
    if not served:
        return _other(line, "7.3.3", "7.3.1 step 3")
    wanted = [profile for profile in served if line.running is profile.treatment]
    wanted += [profile for profile in served if line.wants(profile) or profile.mechanism in line.registered]
    if not wanted:
        return _plain(line, f"plain: {served[0].mechanism} is not registered", "7.3.1 step 3")
    profile = wanted[0]
    if profile.mechanism in line.registered:
        why = f"{profile.mechanism} registered"
    elif line.running is profile.treatment:
        why = "the stream is under e2ae already"
    else:
        why = "a WebRTC client"
    reason = f"{_NAMES[profile.treatment]}: {why} (TS 33.328 clause {_clause(line, '7.3.1')})"
    return Decision(profile.treatment, reason, profile.secured, anchored=True)


def _data_channel_from_core(line: _Line) -> Decision:
    """TS 33.328 clauses 7.3.X and 7.3.Y: on the wire both are the same."""
    if Mechanism.E2DCE in line.registered:
        return _e2dce(line, "registered", "7.3.X")
    if Mechanism.DATA_CHANNEL in line.registered and datachannel.only_bootstrap(line.media):
        return _e2dce(line, "bootstrap channels for a DCMTSI client", "7.3.X")
    if line.running is Treatment.E2DCE:
        return _e2dce(line, "the stream is under e2DCe already", "7.3.X")
    return _e2e(line, "e2e DTLS: e2DCe is not registered", "7.3.Y")


# -- what both have -------------------------------------------------------------------------------------


def _other(line: _Line, kms_clause: str, clause: str) -> Decision:
    """Protocols without a treatment of ours; the ends protect them or nobody does."""
    proto, media = line.proto, line.media
    if proto == "TCP/TLS/MSRP" and line.kms:
        reason = f"e2e KMS: offered with a=key-mgmt, untouched (TS 33.328 clause {kms_clause})"
        return Decision(Treatment.E2E, reason, media.proto, anchored=False)
    what = "a data channel over TCP" if proto == "TCP/DTLS/SCTP" else media.proto
    if line.rules.unknown_media == "refuse":
        return _refused(line, f"{what} has no treatment here, refused by policy", clause)
    reason = f"{what} has no treatment here, untouched by policy (TS 33.328 clause {clause})"
    return Decision(_bystander(media), reason, media.proto, anchored=False)


def _disabled(media: Media, direction: Direction, before: Decision | None) -> Decision:
    """Port 0. Under e2ae the other side goes on knowing the line by its own profile; but if the line is used
    again, that is a new stream and decided afresh (RFC 3264 section 8.1)."""
    reason = "disabled by port 0 (RFC 3264 section 8.2)"
    proto = media.proto.upper()
    if before is not None and before.treatment.e2ae:
        for profile in PROFILES:
            ours, theirs = profile.secured, profile.clear
            if direction is Direction.TERMINATING:
                ours, theirs = theirs, ours
            if profile.treatment is before.treatment and proto == ours.upper():
                return Decision(before.treatment, reason, theirs, anchored=False, active=False)
    return Decision(_bystander(media), reason, media.proto, anchored=False, active=False)


def _running(before: Decision | None) -> Treatment | None:
    return before.treatment if before is not None and before.active else None


def _clause(line: _Line, clause: str) -> str:
    return "N.2.2" if line.access is Access.WEBRTC else clause


def _plain(line: _Line, reason: str, clause: str) -> Decision:
    reason = f"{reason} (TS 33.328 clause {clause})"
    return Decision(Treatment.PLAIN, reason, line.media.proto, anchored=True)


def _e2e(line: _Line, reason: str, clause: str) -> Decision:
    reason = f"{reason} (TS 33.328 clause {clause})"
    return Decision(Treatment.E2E, reason, line.media.proto, anchored=True)


def _e2dce(line: _Line, why: str, clause: str) -> Decision:
    reason = f"e2DCe: {why} (TS 33.328 clause {clause})"
    return Decision(Treatment.E2DCE, reason, line.media.proto, anchored=True)


def _refused(line: _Line, reason: str, clause: str) -> Decision:
    return _unusable(line, f"{reason} (TS 33.328 clause {clause})")


def _unusable(line: _Line, reason: str) -> Decision:
    return Decision(Treatment.REFUSED, reason, line.media.proto, anchored=False)


def _bystander(media: Media) -> Treatment:
    return Treatment.E2E if _has_own_protection(media.proto.upper()) else Treatment.PLAIN


def _has_own_protection(proto: str) -> bool:
    return not _PROTECTIONS.isdisjoint(proto.split("/"))


_CLEAR = frozenset(profile.clear.upper() for profile in PROFILES)
_PROTECTIONS = frozenset({"TLS", "DTLS", "SAVP", "SAVPF"})

_NAMES = {
    Treatment.E2AE_SDES: "e2ae SDES",
    Treatment.E2AE_DTLS_SRTP: "e2ae DTLS-SRTP",
    Treatment.E2AE_UDPTL: "e2ae UDPTL",
}

# The e2ae treatments that have a name already, and nothing else yet.
_LATER = {
    "TCP/TLS/MSRP": Treatment.E2AE_MSRP,
    "TCP/TLS/BFCP": Treatment.E2AE_BFCP,
    "TCP/DTLS/SCTP": Treatment.E2AE_DATACHANNEL,
}
