"""The SDP for the other side: what the decisions say, the gateway's addresses, our keys, and nothing else.

Anchored, plain or e2ae: address, ports and profile; what speaks of keys, ICE or capability negotiation goes,
    and what of it belongs on the other side is put in anew. RTCP may be multiplexed, and have feedback, on
    one side alone.
Anchored, e2e or e2DCe: address and ports, those of ICE candidates included; the rest is the ends' own.
Not anchored: untouched.
Refused or disabled: port 0, and nothing left but the name (keys, fingerprints, paths, addresses).
a=3ge2ae, and its like for e2DCe, is taken away everywhere, whoever wrote it; it is ours alone to add (trap
P19).

Session level lines stay for as long as an m-line lives that is not ours and may need them; but what speaks of
keys and ICE goes down to these where there is one of ours as well.
The hold of RFC 2543, c=0.0.0.0, cannot stay as the address is the gateway's; it is told as a direction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum, auto
from typing import TypeVar

from imsalg.errors import UsageError
from imsalg.policy import bundle, mline
from imsalg.policy.bundle import Names
from imsalg.policy.decide import Access, Decision, Direction
from imsalg.policy.mline import Local, Protection
from imsalg.policy.rules import Rules
from imsalg.policy.treatment import Treatment, is_rtp
from imsalg.sdp.document import SHARED, Document, Media, Origin

_T = TypeVar("_T")
_DEFAULTS = Rules()
_NAMELESS = Names()


def offer(
    document: Document,
    decisions: Sequence[Decision],
    direction: Direction,
    locals: Mapping[int, Local],
    protections: Mapping[int, Protection],
    origin: Origin,
    rules: Rules = _DEFAULTS,
    access: Access = Access.SIP,
    named: Names = _NAMELESS,
) -> Document:
    """The offer as it goes on. document: as it came, and stays.

    locals: m-line index -> the gateway's address on the side it goes to, for each active anchored m-line.
    protections: m-line index -> our lines, for each active m-line under e2ae if it goes to the UE.
    access: what the UE is. named: as in the answer in force.
    """
    out, fates = _begin(document, decisions, locals, origin, rules)
    to_ue = direction is Direction.TERMINATING
    for index, (media, decision, fate) in enumerate(zip(out.media, decisions, fates, strict=True)):
        match fate:
            case _Fate.GONE:
                mline.clear(media, decision.proto_out, origin)
            case _Fate.TRANSPARENT:
                mline.carry(out, document, index, _given(locals, index))
                if to_ue and decision.treatment is Treatment.E2DCE:
                    mline.tell_applied(media, rules.e2dce.attribute)  # TS 33.328 clause 7.3.X step 4
            case _Fate.OURS:
                local = _given(locals, index)
                mline.anchor(out, document, index, local)
                mline.unprotect(media, decision.proto_out)
                if to_ue and decision.treatment.e2ae:
                    mline.protect(media, _given(protections, index))
                    mline.tell_applied(media, "3ge2ae")  # TS 33.328 clause 7.3.1 step 4
                if to_ue and decision.treatment is Treatment.E2AE_DTLS_SRTP and not media.has("rtcp-mux"):
                    media.add_attribute("rtcp-mux")  # WebRTC clients insist on it (RFC 8829 section 5.1.1)
                mline.check_here(out, media, local, one_port=not is_rtp(media.proto))
    if to_ue and access is Access.WEBRTC:
        among = bundle.name(out, named)
    else:
        among = Names.of(document).grouped
    bundle.rename(out, document)
    bundle.group(out, _bundled(decisions, fates, to_ue), named, among)
    return out


def answer(
    document: Document,
    offered: Document,
    decisions: Sequence[Decision],
    direction: Direction,
    locals: Mapping[int, Local],
    protections: Mapping[int, Protection],
    origin: Origin,
    rules: Rules = _DEFAULTS,
    named: Names = _NAMELESS,
) -> Document:
    """The answer as it goes back to the offerer. document: as it came, and passed `check_answer`.

    offered: the offer as the offerer sent it; the answer has its profiles. direction: the offer's.
    protections: m-line index -> our lines, for e2ae if it goes to the UE; of SDES one, with the tag of the
    UE's line. named: as in the answer in force before.
    """
    out, fates = _begin(document, decisions, locals, origin, rules)
    to_ue = direction is Direction.ORIGINATING
    like_webrtc = to_ue and any(decision.treatment.by_dtls for decision in decisions)
    for index, (media, decision, fate) in enumerate(zip(out.media, decisions, fates, strict=True)):
        asked = offered.media[index]
        if fate is not _Fate.UNTOUCHED:
            mline.identify(media, asked, like_webrtc)
        match fate:
            case _Fate.GONE:
                mline.clear(media, asked.proto, origin)
            case _Fate.TRANSPARENT:
                mline.carry(out, document, index, _given(locals, index))
                if to_ue and decision.treatment is Treatment.E2DCE and rules.echo_applied:
                    mline.tell_applied(media, rules.e2dce.attribute)
            case _Fate.OURS:
                local = _given(locals, index)
                mline.anchor(out, document, index, local)
                mline.unprotect(media, asked.proto)
                mline.mux(media, asked)
                if to_ue and decision.treatment.e2ae:
                    mline.protect(media, _given(protections, index))  # TS 33.328 clause 7.2.1 step 8
                    if rules.echo_applied:
                        mline.tell_applied(media, "3ge2ae")
                mline.check_here(out, media, local, one_port=media.has("rtcp-mux") or not is_rtp(media.proto))
    bundle.rename(out, document)
    bundle.group(out, _bundled(decisions, fates, to_ue), named, Names.of(offered).grouped)
    return out


# -- the session level --------------------------------------------------------------------------------

_CAPABILITIES = frozenset(
    (
        *("csup", "creq", "acap", "tcap", "pcfg", "acfg"),  # RFC 5939
        *("rmcap", "omcap", "mfcap", "mscap", "lcfg", "sescap"),  # RFC 6871
        *("bcap", "ccap", "icap"),  # RFC 7006
    )
)


class _Fate(Enum):
    """What the rewriting sees in an m-line."""

    __hash__ = object.__hash__  # Enum's own is a Python function

    GONE = auto()  # refused, disabled or declined
    UNTOUCHED = auto()
    TRANSPARENT = auto()  # anchored, e2e or e2DCe
    OURS = auto()  # anchored, plain or e2ae


def _fate(media: Media, decision: Decision) -> _Fate:
    if decision.treatment is Treatment.REFUSED or not decision.active:
        return _Fate.GONE
    if not decision.anchored:
        return _Fate.UNTOUCHED
    if not media.port:
        return _Fate.GONE
    return _Fate.TRANSPARENT if decision.treatment.transparent else _Fate.OURS


def _begin(
    document: Document,
    decisions: Sequence[Decision],
    locals: Mapping[int, Local],
    origin: Origin,
    rules: Rules,
) -> tuple[Document, list[_Fate]]:
    """A copy whose session level is done, and what becomes of its m-lines."""
    if len(document.media) != len(decisions):
        raise UsageError("as many decisions as m-lines are needed")
    out = document.copy()
    out.origin = origin
    fates = [_fate(media, decision) for media, decision in zip(out.media, decisions, strict=True)]
    present = set(fates)
    anchored = [i for i, fate in enumerate(fates) if fate in (_Fate.OURS, _Fate.TRANSPARENT)]
    dependents = [
        media
        for media, fate in zip(out.media, fates, strict=True)
        if fate is _Fate.UNTOUCHED and not media.has_connection
    ]
    indications = {"3ge2ae", rules.e2dce.attribute.lower()} - {""}
    for section in (out.session, *out.media):
        section.remove_attributes(indications)
    if out.session.connection and not dependents and present != {_Fate.UNTOUCHED}:
        address = _given(locals, anchored[0]).connection if anchored else mline.placeholder(origin)
        out.session.set_connection(address)
    if not present & {_Fate.UNTOUCHED, _Fate.TRANSPARENT}:
        out.session.remove_attributes(mline.ICE)
        mline.remove_keys(out.session)
    elif len(present - {_Fate.GONE}) > 1:
        _push_down(out, fates)
    if anchored:
        mline.lead_here(out.session)
    if present != {_Fate.UNTOUCHED}:
        bundle.ungroup(out)
    if _Fate.OURS in present:
        _push_down_keys(out, decisions)
        # Of m-lines only (RFC 8842 section 4), or of all fingerprints, ours included (RFC 8827 section 5)
        out.session.remove_attributes({"tls-id", "identity"})
        mline.show_headers(out.session)
    if present & {_Fate.OURS, _Fate.GONE}:
        out.session.remove_attributes({"crypto"})  # of m-lines only (RFC 4568 section 4.1), and may be ours
        out.session.remove_lines("k")  # to be discarded anyway (RFC 8866 section 5.12)
        for section in (out.session, *out.media):  # all of it or none (trap P21)
            section.remove_attributes(
                {name for name in section.names if name in _CAPABILITIES or name.startswith("tra-")}
            )
    return out, fates


def _push_down(out: Document, fates: Sequence[_Fate]) -> None:
    """What an end has said for all its m-lines goes to those that stay its own, so that it does not speak for
    ours (trap P17), and what changes for one of them does not change for another."""
    said = {name: values for name in SHARED if (values := out.session.attributes(name))}
    for media, fate in zip(out.media, fates, strict=True):
        for name, values in said.items():
            if fate in (_Fate.TRANSPARENT, _Fate.UNTOUCHED) and not media.has(name):
                for value in values:
                    media.add_attribute(name, value)
    out.session.remove_attributes(set(SHARED))


def _push_down_keys(out: Document, decisions: Sequence[Decision]) -> None:
    """Key management for all m-lines (RFC 4567 section 3.1) becomes that of those which are end to end."""
    values = out.session.attributes("key-mgmt")
    for media, decision in zip(out.media, decisions, strict=True):
        if media.port and decision.treatment.transparent and not media.has("key-mgmt"):
            for value in values:
                media.add_attribute("key-mgmt", value)
    out.session.remove_attributes({"key-mgmt"})


def _bundled(decisions: Sequence[Decision], fates: Sequence[_Fate], to_ue: bool) -> list[int]:
    """The m-lines that may be the one in a BUNDLE group: DTLS passes there, or ends in the gateway."""
    return [
        index
        for index, (decision, fate) in enumerate(zip(decisions, fates, strict=True))
        if fate is _Fate.TRANSPARENT or (fate is _Fate.OURS and to_ue and decision.treatment.by_dtls)
    ]


def _given(mapping: Mapping[int, _T], index: int) -> _T:
    if index not in mapping:
        raise UsageError(f"nothing given for m={index}")
    return mapping[index]
