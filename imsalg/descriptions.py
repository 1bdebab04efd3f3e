"""Session descriptions on their way through a call: find, decide, ask the gateway, rewrite, pass on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from imsalg.anchor import Side, Wanted
from imsalg.body import NEGOTIATING, Found, find_sdp
from imsalg.branches import Branch
from imsalg.callstate import CallState
from imsalg.crossing import Crossing
from imsalg.errors import BadSdp, PeerError
from imsalg.negotiation import Negotiation
from imsalg.sip.message import Request, Response

MAX_AGAIN = 16  # different descriptions in responses to one INVITE that are known again
MAX_AGAIN_SIZE = 128 * 1024  # octets of these, and of what they became; or else the last alone

Proceed = Callable[[], None]
Refuse = Callable[[int, str], None]
"""The status and the reason to refuse a description with."""


class Descriptions:
    """One call's. Each `in_...` ends in `proceed` once the message that leaves carries what the other side
    shall read, or in `refuse`; both possibly later, when the gateway has answered."""

    def __init__(self, call: CallState) -> None:
        self._call = call

    # -- what it is: an offer, the answer, or one of these again

    def in_request(self, crossing: Crossing, branch: Branch | None, proceed: Proceed, refuse: Refuse) -> None:
        """Of a request within a dialog, or of the INVITE that makes the call. What it offers becomes the
        crossing's `offer`."""
        request, side, outgoing = crossing.request, crossing.side, crossing.outgoing
        try:
            found = find_sdp(request) if request.method in NEGOTIATING else None
        except PeerError as error:
            refuse(error.status, error.reason)
            return
        media = branch.media if branch else self._call.branches.root
        if found is None:
            proceed()
        elif media.pending is None:
            self._offer(
                side, media, outgoing, found, None, partial(_offered, crossing, media, proceed), refuse
            )
        elif branch and branch.awaits(side) and request.method == "PRACK":
            self._answer(side, media, outgoing, found, None, proceed, refuse)
        else:
            # RFC 3311 section 5.2: the other side's offer is out, or this side's own has no answer yet
            refuse(500 if media.pending.side is side else 491, "an offer is pending")

    def in_response(
        self,
        crossing: Crossing,
        branch: Branch,
        response: Response,
        outgoing: Response,
        proceed: Proceed,
        refuse: Refuse,
    ) -> None:
        """Of a provisional or successful response."""
        request, media, side = crossing.request, branch.media, crossing.side.other
        try:
            found = find_sdp(response) if request.method in NEGOTIATING else None
        except PeerError as error:
            refuse(error.status, error.reason)
            return
        if found is None:
            if response.status >= 200 and media.pending and media.pending.offer is crossing.offer:
                refuse(500, "a 2xx without the answer")
            else:
                proceed()
            return
        passed = branch.passed(side, request.cseq.number) if request.method == "INVITE" else None
        if passed and found.sdp in passed:
            found.replace(outgoing, passed[found.sdp])
            proceed()
            return
        if media.pending is None and crossing.offer is not None:
            media.reopen(crossing.offer)  # answered twice, as by an announcement and then the callee
            if media.pending is not None and passed is not None:
                passed.clear()  # what was said first may be said again, and then it is the answer
        if media.pending is not None and media.pending.offer is crossing.offer:
            self._answer(side, media, outgoing, found, passed, proceed, refuse)
        elif crossing.offer is not None or request.method != "INVITE":
            # answered, and something else agreed on since: it counts for nothing (RFC 3261 section 13.2.1);
            # or an offer that nobody would answer, as in no response to an INVITE (RFC 6337 section 2.2)
            outgoing.set_body(b"")
            proceed()
        elif media.pending is None and (response.status >= 200 or "RSeq" in response.headers):
            self._offer(side, media, outgoing, found, passed, proceed, refuse)
            branch.offered = media.pending.offer if media.pending else None
        elif response.status >= 200:
            refuse(488, "a session description out of turn")
        else:  # an unreliable response may not offer (RFC 3261 section 13.2.1): it passes without
            outgoing.set_body(b"")
            proceed()

    def in_ack(
        self,
        request: Request,
        outgoing: Request,
        side: Side,
        branch: Branch,
        proceed: Proceed,
        refuse: Refuse,
    ) -> None:
        """Of the ACK to a 2xx."""
        try:
            found = find_sdp(request)
        except PeerError as error:
            refuse(error.status, error.reason)
            return
        passed = branch.passed(side, request.cseq.number)
        if found is None:
            if branch.awaits(side):  # the offer of the 2xx stays without an answer
                self._rollback(branch.media)
            proceed()
        elif found.sdp in passed:
            found.replace(outgoing, passed[found.sdp])
            proceed()
        elif branch.awaits(side):
            self._answer(side, branch.media, outgoing, found, passed, proceed, refuse)
        else:  # a description nobody asked for: it does not pass
            outgoing.set_body(b"")
            proceed()

    # -- what becomes of it; passed: where to note that, for when the message comes again; None: it does not

    def _offer(
        self,
        side: Side,
        media: Negotiation,
        message: Request | Response,
        found: Found,
        passed: dict[bytes, bytes] | None,
        proceed: Proceed,
        refuse: Refuse,
    ) -> None:
        try:
            wanted = media.offer(side, found.sdp)
        except BadSdp as error:
            refuse(error.status, error.reason)
            return
        self._tell_decisions(media)

        def refused(status: int, reason: str) -> None:
            media.rollback()
            refuse(status, reason)

        then = partial(_translate, media.offered, message, found, passed, proceed)
        self._call.steps.want(wanted, then, refused)

    def _answer(
        self,
        side: Side,
        media: Negotiation,
        message: Request | Response,
        found: Found,
        passed: dict[bytes, bytes] | None,
        proceed: Proceed,
        refuse: Refuse,
    ) -> None:
        """This dialog's media are heard from now on."""
        preview = isinstance(message, Response) and message.status < 200 and "RSeq" not in message.headers
        try:
            media.answer(side, found.sdp, preview)
        except BadSdp as error:
            refuse(error.status, error.reason)
            return
        then = partial(_translate, media.answered, message, found, passed, proceed)
        self._call.steps.want(self._call.branches.hear(media), then, refuse)

    def confirm(self, branch: Branch, proceed: Proceed) -> None:
        """A 2xx to an INVITE: this dialog's media are heard, and the other early dialogs end, as does what a
        preview of its answer has left there."""
        if branch.dialog.confirmed:
            self._call.steps.want(self._call.branches.wanted(branch.media), proceed, self._misled)
            return

        def confirmed() -> None:
            branch.dialog.confirmed = True
            proceed()

        self._call.steps.want(self._call.branches.confirm(branch), confirmed, self._misled)

    def withdraw(self, crossing: Crossing) -> None:
        """An offer was refused: the media are as they were (trap P29)."""
        branch = self._call.branches.of(crossing.request, crossing.side)
        if branch is None or crossing.offer is None:
            return
        media = branch.media
        if media.pending is None:
            media.reopen(crossing.offer)  # a provisional response may have had an answer
        if media.pending is not None and media.pending.offer is crossing.offer:
            self._rollback(media)

    def settle(self, wanted: Callable[[], Wanted]) -> None:
        """Have the gateway follow what holds already, in its turn; by then it may be something else."""
        self._call.steps.run(lambda: self._call.steps.want(wanted(), lambda: None, self._misled))

    def _rollback(self, media: Negotiation) -> None:
        media.rollback()
        self.settle(partial(self._call.branches.wanted, media))

    def _misled(self, _: int, reason: str) -> None:
        """The gateway refuses what the two sides have agreed on already."""
        self._call.steps.lost(reason)

    def _tell_decisions(self, media: Negotiation) -> None:
        if media.pending is None:
            return
        lines = zip(media.pending.offer.media, media.pending.decisions, strict=True)
        for index, (line, decision) in enumerate(lines):
            self._call.note(logging.INFO, f"m={index} {line.kind}: {decision.reason}")


def _offered(crossing: Crossing, media: Negotiation, proceed: Proceed) -> None:
    if media.pending is not None:
        crossing.offer = media.pending.offer
    proceed()


def _translate(
    rewritten: Callable[[], bytes],
    message: Request | Response,
    found: Found,
    passed: dict[bytes, bytes] | None,
    proceed: Proceed,
) -> None:
    body = rewritten()
    found.replace(message, body)
    if passed is not None:
        size = sum(len(came) + len(left) for came, left in passed.items())
        if len(passed) == MAX_AGAIN or size + len(found.sdp) + len(body) > MAX_AGAIN_SIZE:
            passed.clear()
        passed[found.sdp] = body
    proceed()
