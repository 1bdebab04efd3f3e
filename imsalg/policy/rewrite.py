"""The SDP for the other side: what the decisions say, the gateway's addresses, our keys, and nothing else.

Anchored, plain or e2ae: address, ports and profile; what speaks of keys, ICE or capability negotiation goes,
    and what of it belongs on the other side is put in anew. RTCP may be multiplexed on one side alone.
Anchored, e2e: address and ports, and ICE goes as it would lead around the gateway; the rest is the ends' own.
Not anchored: untouched.
Refused or disabled: port 0, and nothing left that was meant for somebody (keys, fingerprints, addresses).
a=3ge2ae is taken away everywhere, whoever wrote it; it is ours alone to add (trap P19).

Session level lines stay for as long as an m-line lives that is not ours and may need them.
The hold of RFC 2543, c=0.0.0.0, cannot stay as the address is the gateway's; it is told as a direction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import TypeVar

from imsalg.errors import BadSdp, UsageError
from imsalg.policy.decide import Decision, Direction, Rules, select
from imsalg.policy.treatment import Treatment
from imsalg.sdp.attributes import Connection, Crypto, E2aeIndication, RtcpAttribute
from imsalg.sdp.attributes import Direction as MediaDirection
from imsalg.sdp.document import Document, Media, Origin, Section


@dataclass(frozen=True, slots=True)
class Local:
    """Where the gateway receives an m-line's media, on the side the SDP goes to. addrtype: "IP4" or "IP6"."""

    addrtype: str
    address: str
    rtp_port: int
    rtcp_port: int


_T = TypeVar("_T")
_DEFAULTS = Rules()


@dataclass(frozen=True, slots=True)
class AnswerLine:
    """What one m-line of an answer means.

    accepted: False where it breaks the protection that was offered; `reason` says how. Declining is accepted.
    decision: what is in force from now on.
    crypto: the UE's line, with the key it sends with; own: ours that it took. None unless e2ae was offered.
    """

    accepted: bool
    reason: str
    decision: Decision
    crypto: Crypto | None = None
    own: Crypto | None = None


def offer(
    document: Document,
    decisions: Sequence[Decision],
    direction: Direction,
    locals: Mapping[int, Local],
    cryptos: Mapping[int, tuple[Crypto, ...]],
    origin: Origin,
) -> Document:
    """The offer as it goes on. document: as it came, and stays.

    locals: m-line index -> the gateway's address on the side it goes to, for each active anchored m-line.
    cryptos: m-line index -> our lines, for each active m-line under e2ae SDES if it goes to the UE.
    """
    out, fates = _begin(document, decisions, locals, origin)
    for index, (media, decision, fate) in enumerate(zip(out.media, decisions, fates, strict=True)):
        match fate:
            case _Fate.GONE:
                _clear(media, decision.proto_out, origin)
            case _Fate.TRANSPARENT:
                _anchor(out, document, index, _given(locals, index))
            case _Fate.OURS:
                _anchor(out, document, index, _given(locals, index))
                _unprotect(media, decision.proto_out)
                if decision.treatment is Treatment.E2AE_SDES and direction is Direction.TERMINATING:
                    _protect(media, _given(cryptos, index), applied=True)  # TS 33.328 clause 7.3.1 step 4
    return out


def answer(
    document: Document,
    offered: Document,
    decisions: Sequence[Decision],
    direction: Direction,
    locals: Mapping[int, Local],
    cryptos: Mapping[int, tuple[Crypto, ...]],
    origin: Origin,
    rules: Rules = _DEFAULTS,
) -> Document:
    """The answer as it goes back to the offerer. document: as it came, and passed `check_answer`.

    offered: the offer as the offerer sent it; the answer has its profiles. direction: the offer's.
    cryptos: m-line index -> our one line, for e2ae SDES if it goes to the UE; with the tag of the UE's line.
    """
    out, fates = _begin(document, decisions, locals, origin)
    for index, (media, decision, fate) in enumerate(zip(out.media, decisions, fates, strict=True)):
        asked = offered.media[index]
        match fate:
            case _Fate.GONE:
                _clear(media, asked.proto, origin)
            case _Fate.TRANSPARENT:
                _anchor(out, document, index, _given(locals, index))
            case _Fate.OURS:
                _anchor(out, document, index, _given(locals, index))
                _unprotect(media, asked.proto)
                _mux(media, asked)
                if decision.treatment is Treatment.E2AE_SDES and direction is Direction.ORIGINATING:
                    own = _given(cryptos, index)  # TS 33.328 clause 7.2.1 step 8
                    _protect(media, own, applied=rules.echo_applied)
    return out


def check_answer(
    sent: Document,
    answer: Document,
    decisions: Sequence[Decision],
    cryptos: Mapping[int, tuple[Crypto, ...]],
    rules: Rules = _DEFAULTS,
) -> tuple[AnswerLine, ...]:
    """Whether an answer as it came fits the offer as we sent it; cryptos: as given to `offer`.

    Raises BadSdp if its m-lines are not the offer's, one for one (RFC 3264 section 6).
    """
    if len(answer.media) != len(sent.media):
        raise BadSdp(f"an answer with {len(answer.media)} m-lines to an offer with {len(sent.media)}")
    lines = []
    for index, (asked, media, decision) in enumerate(zip(sent.media, answer.media, decisions, strict=True)):
        if media.port and media.kind.lower() != asked.kind.lower():
            raise BadSdp(f"an answer with m={media.kind} in the place of m={asked.kind}")
        if not (media.port and asked.port):
            declined = replace(decision, active=False)
            lines.append(AnswerLine(True, "declined by port 0 (RFC 3264 section 6)", declined))
        elif own := cryptos.get(index):
            lines.append(_check_crypto(media, decision, own, rules))
        else:
            lines.append(AnswerLine(True, decision.reason, decision))
    return tuple(lines)


def _check_crypto(media: Media, decision: Decision, own: tuple[Crypto, ...], rules: Rules) -> AnswerLine:
    if not media.proto.upper().startswith("RTP/SAVP"):  # the profile matches or nothing does (trap P17)
        if media.proto.upper().startswith("RTP/AVP") and rules.answer_without_crypto == "plain":
            reason = f"plain: e2ae offered, {media.proto} answered, which policy grants"
            plain = replace(decision, treatment=Treatment.PLAIN, reason=reason)
            return AnswerLine(True, reason, plain)
        return AnswerLine(False, f"e2ae offered, {media.proto} answered (TS 33.328 clause 7.3.1)", decision)
    theirs = select(media.attributes("crypto"), (line.suite for line in own))
    if theirs is None:
        return AnswerLine(
            False, "e2ae offered, no a=crypto can be accepted (RFC 4568 section 5.1.3)", decision
        )
    same = [line for line in own if line.suite == theirs.suite]
    if right := [line for line in same if line.tag == theirs.tag]:
        return AnswerLine(True, decision.reason, decision, theirs, right[0])
    if len(same) > 1:
        return AnswerLine(False, "a=crypto with a tag not offered (RFC 4568 section 5.1.3)", decision)
    reason = f"{decision.reason}; tag {theirs.tag} answered for {same[0].tag}, the only one with its suite"
    return AnswerLine(True, reason, decision, theirs, same[0])  # trap P12


# -- the session level --------------------------------------------------------------------------------

_ICE = (
    *("candidate", "end-of-candidates", "ice-lite", "ice-mismatch", "ice-options", "ice-pacing", "ice-pwd"),
    *("ice-ufrag", "remote-candidates"),
    "altc",  # RFC 6947: other addresses, too
)
_KEYING = ("crypto", "key-mgmt", "fingerprint", "setup", "connection", "tls-id")
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
    TRANSPARENT = auto()  # anchored, e2e
    OURS = auto()  # anchored, plain or e2ae


def _fate(media: Media, decision: Decision) -> _Fate:
    if decision.treatment is Treatment.REFUSED or not decision.active:
        return _Fate.GONE
    if not decision.anchored:
        return _Fate.UNTOUCHED
    if not media.port:
        return _Fate.GONE
    return _Fate.TRANSPARENT if decision.treatment is Treatment.E2E else _Fate.OURS


def _begin(
    document: Document, decisions: Sequence[Decision], locals: Mapping[int, Local], origin: Origin
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
        section.remove_attributes("3ge2ae")
    if out.session.connection and not dependents and present != {_Fate.UNTOUCHED}:
        address = _connection(_given(locals, anchored[0])) if anchored else _placeholder(origin)
        out.session.set_connection(address)
    if _Fate.UNTOUCHED not in present:
        out.session.remove_attributes(*_ICE)
        if _Fate.TRANSPARENT not in present:
            _remove_keys(out.session)
    if anchored:  # the gateway's ports are one stream's each
        out.session.remove_attributes_where(lambda name, value: name == "group" and _is_bundle(value))
    if present & {_Fate.OURS, _Fate.GONE}:
        for section in (out.session, *out.media):  # all of it or none (trap P21)
            section.remove_attributes_where(lambda name, _: name in _CAPABILITIES or name.startswith("tra-"))
    return out, fates


def _is_bundle(value: str) -> bool:
    return value.split()[:1] == ["BUNDLE"]  # RFC 9143


# -- one m-line ---------------------------------------------------------------------------------------


def _anchor(out: Document, document: Document, index: int, local: Local) -> None:
    """Address and ports, for every m-line whose media pass the gateway."""
    media, was = out.media[index], document.media[index]
    media.port = local.rtp_port
    if _has_connection(media) or out.session.connection != _connection(local):
        media.set_connection(_connection(local))
    if media.has("rtcp") or local.rtcp_port != local.rtp_port + 1:  # RFC 3605
        media.set_attribute("rtcp", str(RtcpAttribute(local.rtcp_port)))
    media.remove_attributes(*_ICE)
    connection = document.connection_of(was)
    if connection is not None and connection.unspecified:
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
    media.proto = proto
    _remove_keys(media)
    media.remove_attributes("rtcp-mux-only")  # RFC 8858 asks for what this side may not do, and need not


def _protect(media: Media, lines: Sequence[Crypto], applied: bool) -> None:
    for line in lines:
        media.add_attribute("crypto", str(line))
    if applied:
        media.add_attribute("3ge2ae", E2aeIndication.APPLIED)


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
    media.remove_attributes("rtcp", *_ICE)
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
