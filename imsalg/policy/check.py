"""Whether an answer keeps to what was offered: its m-lines, and what protects them."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct
from msgspec.structs import replace

from imsalg.errors import BadSdp
from imsalg.policy.association import Association
from imsalg.policy.decide import Decision, select
from imsalg.policy.rules import Rules
from imsalg.policy.treatment import PROFILES, Treatment
from imsalg.sdp.attributes import Crypto
from imsalg.sdp.document import Document, Media
from imsalg.sdp.dtls import DtlsAttributes, Setup

Own = tuple[Crypto, ...] | Association
"""What of ours protects an m-line in an offer to the UE."""

_DEFAULTS = Rules()


class AnswerLine(Struct, frozen=True):
    """What one m-line of an answer means.

    accepted: False where it breaks the protection that was offered; `reason` says how. Declining is accepted.
    decision: what is in force from now on.
    crypto: the UE's line, with the key it sends with; own: ours that it took. None unless e2ae SDES was
    offered. dtls: what the UE says of DTLS that was offered to it.
    """

    accepted: bool
    reason: str
    decision: Decision
    crypto: Crypto | None = None
    own: Crypto | None = None
    dtls: DtlsAttributes | None = None


def check_answer(
    sent: Document,
    answer: Document,
    decisions: tuple[Decision, ...],
    own: Mapping[int, Own],
    rules: Rules = _DEFAULTS,
) -> tuple[AnswerLine, ...]:
    """Whether an answer as it came fits the offer as we sent it. own: m-line index -> what e2ae was offered
    to the UE with.

    Raises BadSdp if its m-lines are not the offer's, one for one (RFC 3264 section 6).
    """
    if len(answer.media) != len(sent.media):
        raise BadSdp(f"an answer with {len(answer.media)} m-lines to an offer with {len(sent.media)}")
    lines = []
    for index, (asked, media, decision) in enumerate(zip(sent.media, answer.media, decisions, strict=True)):
        if media.port and media.kind.lower() != asked.kind.lower():
            raise BadSdp(f"an answer with m={media.kind} in the place of m={asked.kind}")
        ours = own.get(index)
        if not (media.port and asked.port):
            declined = replace(decision, active=False)
            lines.append(AnswerLine(True, "declined by port 0 (RFC 3264 section 6)", declined))
        elif ours is None:
            lines.append(AnswerLine(True, decision.reason, decision))
        elif refusal := _other_profile(media, decision, rules):
            lines.append(refusal)
        elif isinstance(ours, Association):
            lines.append(_check_dtls(answer, media, decision, rules))
        else:
            lines.append(_check_crypto(media, decision, ours))
    return tuple(lines)


def _other_profile(media: Media, decision: Decision, rules: Rules) -> AnswerLine | None:
    """The profile matches or nothing does (trap P17)."""
    proto = media.proto.upper()
    profiles = [profile for profile in PROFILES if profile.treatment is decision.treatment]
    if any(profile.secured == proto for profile in profiles):
        return None
    clear = any(profile.clear.upper() == proto for profile in profiles)
    if clear and rules.answer_without_crypto == "plain":
        reason = f"plain: e2ae offered, {media.proto} answered, which policy grants"
        return AnswerLine(True, reason, replace(decision, treatment=Treatment.PLAIN, reason=reason))
    return AnswerLine(False, f"e2ae offered, {media.proto} answered (TS 33.328 clause 7.3.1)", decision)


def _check_crypto(media: Media, decision: Decision, own: tuple[Crypto, ...]) -> AnswerLine:
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


def _check_dtls(answer: Document, media: Media, decision: Decision, rules: Rules) -> AnswerLine:
    said = DtlsAttributes.of(answer, media)
    if not said.usable(rules.hashes):
        reason = "e2ae offered, no a=fingerprint can be accepted (RFC 8122 section 5)"
    elif said.setup in (Setup.ACTPASS, Setup.HOLDCONN):
        reason = f"e2ae offered, a=setup:{said.setup} answered (RFC 8842 section 5.3)"
    else:
        return AnswerLine(True, decision.reason, decision, dtls=said)
    return AnswerLine(False, reason, decision)
