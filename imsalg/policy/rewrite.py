"""The SDP for the other side: what the decisions say, the gateway's addresses, our keys, and nothing else.

Anchored, plain or e2ae: address, ports and profile; what speaks of keys, ICE or capability negotiation goes,
    and what of it belongs on the other side is put in anew. RTCP may be multiplexed, and have feedback, on
    one side alone.
Anchored, e2e or e2DCe: address and ports, those of ICE candidates included; the rest is the ends' own.
Not anchored: untouched.
Refused or disabled: port 0, and nothing left that was meant for somebody (keys, fingerprints, addresses).
a=3ge2ae, and its like for e2DCe, is taken away everywhere, whoever wrote it; it is ours alone to add (trap
P19).

Session level lines stay for as long as an m-line lives that is not ours and may need them; but keys never
stand above an m-line of ours.
The hold of RFC 2543, c=0.0.0.0, cannot stay as the address is the gateway's; it is told as a direction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import TypeVar

from imsalg.errors import UsageError
from imsalg.policy import bundle
from imsalg.policy.bundle import Names
from imsalg.policy.decide import Access, Decision, Direction
from imsalg.policy.rules import Rules
from imsalg.policy.treatment import Treatment, is_rtp
from imsalg.sdp.attributes import Connection, Crypto, E2aeIndication, RtcpAttribute, fields
from imsalg.sdp.attributes import Direction as MediaDirection
from imsalg.sdp.document import Document, Media, Origin, Section
from imsalg.sdp.dtls import Fingerprint, Setup
from imsalg.sdp.ice import Candidate, IceCredentials, components


@dataclass(frozen=True, slots=True)
class Local:
    """Where the gateway receives an m-line's media, on the side the SDP goes to. addrtype: "IP4" or "IP6".
    ice: ours, where connectivity checks are answered."""

    addrtype: str
    address: str
    rtp_port: int
    rtcp_port: int
    ice: IceCredentials | None = None


@dataclass(frozen=True, slots=True)
class DtlsLines:
    """What an m-line of ours says where DTLS ends in the gateway. tls_id: None: nothing."""

    fingerprint: Fingerprint
    setup: Setup
    tls_id: str | None


Protection = tuple[Crypto, ...] | DtlsLines
"""What protects an m-line of ours: never both (trap P17)."""

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
                _clear(media, decision.proto_out, origin)
            case _Fate.TRANSPARENT:
                _pass(out, document, index, _given(locals, index))
                if to_ue and decision.treatment is Treatment.E2DCE:
                    _tell_applied(media, rules.e2dce.attribute)  # TS 33.328 clause 7.3.X step 4
            case _Fate.OURS:
                local = _given(locals, index)
                _anchor(out, document, index, local)
                _unprotect(media, decision.proto_out)
                if to_ue and decision.treatment.e2ae:
                    _protect(media, _given(protections, index))
                    _tell_applied(media, "3ge2ae")  # TS 33.328 clause 7.3.1 step 4
                if to_ue and decision.treatment is Treatment.E2AE_DTLS_SRTP and not media.has("rtcp-mux"):
                    media.add_attribute("rtcp-mux")  # WebRTC clients insist on it (RFC 8829 section 5.1.1)
                _check_here(out, media, local, one_port=not is_rtp(media.proto))
    if to_ue and access is Access.WEBRTC:
        among = bundle.name(out, named)
    else:
        among = Names.of(document).grouped
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
            _identify(media, asked, like_webrtc)
        match fate:
            case _Fate.GONE:
                _clear(media, asked.proto, origin)
            case _Fate.TRANSPARENT:
                _pass(out, document, index, _given(locals, index))
                if to_ue and decision.treatment is Treatment.E2DCE and rules.echo_applied:
                    _tell_applied(media, rules.e2dce.attribute)
            case _Fate.OURS:
                local = _given(locals, index)
                _anchor(out, document, index, local)
                _unprotect(media, asked.proto)
                _mux(media, asked)
                if to_ue and decision.treatment.e2ae:
                    _protect(media, _given(protections, index))  # TS 33.328 clause 7.2.1 step 8
                    if rules.echo_applied:
                        _tell_applied(media, "3ge2ae")
                _check_here(out, media, local, one_port=media.has("rtcp-mux") or not is_rtp(media.proto))
    bundle.group(out, _bundled(decisions, fates, to_ue), named, Names.of(offered).grouped)
    return out


# -- the session level --------------------------------------------------------------------------------

_ICE = (
    *("candidate", "end-of-candidates", "ice-lite", "ice-mismatch", "ice-options", "ice-pacing", "ice-pwd"),
    *("ice-ufrag", "remote-candidates"),
    "altc",  # RFC 6947: other addresses, too
)
_SHARED = ("fingerprint", "setup", "ice-ufrag", "ice-pwd", "ice-options")  # of session or media level
_KEYING = (
    *("crypto", "key-mgmt", "fingerprint", "setup", "connection", "tls-id"),
    "identity",  # RFC 8827 section 5: it vouches for fingerprints that are taken away
)
_ENCRYPTED = "urn:ietf:params:rtp-hdrext:encrypt"
# In packets, the name of their m-line (RFC 9143 section 15), which may be another on the other side. WebRTC
# clients drop packets with a name that they do not know.
_MID = "urn:ietf:params:rtp-hdrext:sdes:mid"
_CAPABILITIES = frozenset(
    (
        *("csup", "creq", "acap", "tcap", "pcfg", "acfg"),  # RFC 5939
        *("rmcap", "omcap", "mfcap", "mscap", "lcfg", "sescap"),  # RFC 6871
        *("bcap", "ccap", "icap"),  # RFC 7006
    )
)


class _Fate(Enum):
    """What the rewriting sees in an m-line."""

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
        if fate is _Fate.UNTOUCHED and not _has_connection(media)
    ]
    for section in (out.session, *out.media):
        section.remove_attributes("3ge2ae", *([rules.e2dce.attribute] * bool(rules.e2dce.attribute)))
    if out.session.connection and not dependents and present != {_Fate.UNTOUCHED}:
        address = _connection(_given(locals, anchored[0])) if anchored else _placeholder(origin)
        out.session.set_connection(address)
    if not present & {_Fate.UNTOUCHED, _Fate.TRANSPARENT}:
        out.session.remove_attributes(*_ICE)
        _remove_keys(out.session)
    elif present >= {_Fate.OURS, _Fate.TRANSPARENT} and _Fate.UNTOUCHED not in present:
        _push_down(out, fates)
    if anchored:
        _decline_trickle(out.session)
    if present != {_Fate.UNTOUCHED}:
        bundle.ungroup(out)
    if _Fate.OURS in present:
        _push_down_keys(out, decisions)
    if present & {_Fate.OURS, _Fate.GONE}:
        out.session.remove_attributes("crypto")  # of m-lines only (RFC 4568 section 4.1), and may be ours
        out.session.remove_lines("k")  # to be discarded anyway (RFC 8866 section 5.12)
        _show_headers(out.session)
        for section in (out.session, *out.media):  # all of it or none (trap P21)
            section.remove_attributes_where(lambda name, _: name in _CAPABILITIES or name.startswith("tra-"))
    return out, fates


def _push_down(out: Document, fates: Sequence[_Fate]) -> None:
    """What an end has said for all its m-lines goes to those that stay its own, so that it does not speak for
    ours (trap P17)."""
    for media, fate in zip(out.media, fates, strict=True):
        for name in _SHARED:
            if fate is _Fate.TRANSPARENT and not media.has(name):
                for value in out.session.attributes(name):
                    media.add_attribute(name, value)
    out.session.remove_attributes(*_SHARED)


def _push_down_keys(out: Document, decisions: Sequence[Decision]) -> None:
    """Key management for all m-lines (RFC 4567 section 3.1) becomes that of those which are end to end."""
    values = out.session.attributes("key-mgmt")
    for media, decision in zip(out.media, decisions, strict=True):
        if media.port and decision.treatment.transparent and not media.has("key-mgmt"):
            for value in values:
                media.add_attribute("key-mgmt", value)
    out.session.remove_attributes("key-mgmt")


def _bundled(decisions: Sequence[Decision], fates: Sequence[_Fate], to_ue: bool) -> list[int]:
    """The m-lines that may be the one in a BUNDLE group: DTLS passes there, or ends in the gateway."""
    return [
        index
        for index, (decision, fate) in enumerate(zip(decisions, fates, strict=True))
        if fate is _Fate.TRANSPARENT or (fate is _Fate.OURS and to_ue and decision.treatment.by_dtls)
    ]


# -- one m-line ---------------------------------------------------------------------------------------


def _anchor(out: Document, document: Document, index: int, local: Local) -> None:
    """Address and ports of an m-line that is ours."""
    _place(out, document, index, local)
    out.media[index].remove_attributes(*_ICE, "bundle-only")


def _pass(out: Document, document: Document, index: int, local: Local) -> None:
    """Address and ports, and nothing else (trap P40). The ends' checks pass the gateway like all they send,
    so its address is their one candidate; what they say of their own would lead around it."""
    _place(out, document, index, local)
    media = out.media[index]
    ports = {1: local.rtp_port, 2: local.rtcp_port}
    found = [
        str(Candidate.host(component, local.address, ports[component]))
        for component in sorted(components(media) & ports.keys())
    ]
    if found:
        media.set_attribute("candidate", found[0])
        for value in found[1:]:
            media.add_attribute("candidate", value)
    else:
        media.remove_attributes("candidate")
    media.remove_attributes("remote-candidates", "altc")
    _decline_trickle(media)


def _decline_trickle(section: Section) -> None:
    """Candidates come in descriptions only (RFC 8840 section 4.1)."""
    options = [option for value in section.attributes("ice-options") for option in fields(value)]
    if "trickle" in options:
        options = [option for option in options if option != "trickle"]
        if options:
            section.set_attribute("ice-options", " ".join(options))
        else:
            section.remove_attributes("ice-options")


def _place(out: Document, document: Document, index: int, local: Local) -> None:
    media, was = out.media[index], document.media[index]
    media.port = local.rtp_port
    if _has_connection(media) or out.session.connection != _connection(local):
        media.set_connection(_connection(local))
    if media.has("rtcp") or (is_rtp(was.proto) and local.rtcp_port != local.rtp_port + 1):  # RFC 3605
        media.set_attribute("rtcp", str(RtcpAttribute(local.rtcp_port)))
    connection = document.connection_of(was)
    # with ICE, 0.0.0.0 is no hold but a placeholder (RFC 8840 section 4.1.1)
    if connection is not None and connection.unspecified and IceCredentials.of(document, was) is None:
        _hold(media, document.direction_of(was))


def _hold(media: Media, direction: MediaDirection) -> None:
    """c=0.0.0.0 says "do not send to me" (RFC 3264 section 8.4)."""
    held = {
        MediaDirection.SENDRECV: MediaDirection.SENDONLY,
        MediaDirection.RECVONLY: MediaDirection.INACTIVE,
    }
    if direction in held:
        media.remove_attributes(*MediaDirection)
        media.add_attribute(held[direction])


def _unprotect(media: Media, proto: str) -> None:
    """What protects the media ends in the gateway, and so does the multiplexing of RTCP."""
    if not proto.upper().endswith("F") and media.proto.upper().endswith("F"):
        media.remove_attributes("rtcp-fb")  # RFC 4585 section 4.2: of AVPF and SAVPF only
    media.proto = proto
    _remove_keys(media)
    _show_headers(media)
    media.remove_attributes_where(lambda name, value: name == "extmap" and _MID in fields(value))
    media.remove_attributes("rtcp-mux-only")  # RFC 8858 asks for what this side may not do, and need not


def _show_headers(section: Section) -> None:
    """RTP headers are not encrypted where SRTP ends in the gateway (RFC 6904 section 4, RFC 9335 section
    4)."""
    section.remove_attributes("cryptex")
    section.remove_attributes_where(lambda name, value: name == "extmap" and _ENCRYPTED in fields(value))


def _protect(media: Media, protection: Protection) -> None:
    if isinstance(protection, DtlsLines):
        media.add_attribute("setup", protection.setup)
        if protection.tls_id is not None:
            media.add_attribute("tls-id", protection.tls_id)
        media.add_attribute("fingerprint", str(protection.fingerprint))
        return
    for line in protection:
        media.add_attribute("crypto", str(line))


def _tell_applied(media: Media, attribute: str) -> None:
    if attribute:
        media.add_attribute(attribute, E2aeIndication.APPLIED)


def _check_here(out: Document, media: Media, local: Local, one_port: bool) -> None:
    """Our side of ICE: a lite agent with one host candidate for each component (RFC 8839 section 5.3)."""
    if local.ice is None:
        return
    if not out.session.has("ice-lite"):
        out.session.add_attribute("ice-lite")
    media.add_attribute("ice-options", "ice2")  # RFC 8445 section 10
    media.add_attribute("ice-ufrag", local.ice.ufrag)
    media.add_attribute("ice-pwd", local.ice.pwd)
    media.add_attribute("candidate", str(Candidate.host(1, local.address, local.rtp_port)))
    if not one_port:
        media.add_attribute("candidate", str(Candidate.host(2, local.address, local.rtcp_port)))


def _identify(media: Media, asked: Media, insists: bool) -> None:
    """An answer has the offer's names (RFC 5888 section 9.1), if any; WebRTC clients insist on them (RFC 9429
    section 5.3.1)."""
    mid = asked.attribute("mid")
    if mid is None:
        media.remove_attributes("mid")
    elif insists or media.has("mid"):
        media.set_attribute("mid", mid)


def _mux(media: Media, asked: Media) -> None:
    """RTCP is multiplexed if the offerer asked for it, whatever the other side does (trap P34)."""
    if not asked.has("rtcp-mux"):
        media.remove_attributes("rtcp-mux")
        return
    media.remove_attributes("rtcp")  # RFC 5761 section 5.1.3: the RTP port it is
    if not media.has("rtcp-mux"):
        media.add_attribute("rtcp-mux")


def _clear(media: Media, proto: str, origin: Origin) -> None:
    if media.port:
        media.port = 0
    media.proto = proto
    _remove_keys(media)
    media.remove_attributes("rtcp", "bundle-only", *_ICE)
    if _has_connection(media):
        media.set_connection(_placeholder(origin))


def _remove_keys(section: Section) -> None:
    section.remove_attributes(*_KEYING)
    section.remove_lines("k")  # RFC 4566 section 5.12, which may hold a key in the clear


def _has_connection(media: Media) -> bool:
    return any(line.type == "c" for line in media.lines)


def _connection(local: Local) -> Connection:
    return Connection(local.addrtype, local.address)


def _placeholder(origin: Origin) -> Connection:
    """Where nothing flows, our address takes the place of the peer's."""
    return Connection(origin.addrtype, origin.address)


def _given(mapping: Mapping[int, _T], index: int) -> _T:
    if index not in mapping:
        raise UsageError(f"nothing given for m={index}")
    return mapping[index]
