"""Session descriptions on their way through a call: decide, ask the gateway, rewrite, pass on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from imsalg.anchor import Side, Wanted
from imsalg.body import Found
from imsalg.branches import Branch, Branches
from imsalg.crossing import Note
from imsalg.errors import BadSdp
from imsalg.negotiation import Negotiation
from imsalg.sip.message import Request, Response
from imsalg.steps import Steps

MAX_AGAIN = 16  # different descriptions in responses to one INVITE that are known again

Proceed = Callable[[], None]
Refuse = Callable[[int, str], None]
"""The status and the reason to refuse a description with."""


class Descriptions:
    """One call's. Each method ends in `proceed` once the message carries what the other side shall read, or
    in `refuse`; both possibly later, when the gateway has answered.

    passed: where to note what was passed on, for when the message comes again; None: it does not.
    """

    def __init__(
        self,
        token: str,
        branches: Branches,
        steps: Steps,
        note: Callable[[Note], None],
        lost: Callable[[str], None],
    ) -> None:
        self._token = token
        self._branches = branches
        self._steps = steps
        self._note = note
        self._lost = lost

    def offer(
        self,
        side: Side,
        media: Negotiation,
        message: Request | Response,
        found: Found,
        passed: dict[bytes, bytes] | None,
        proceed: Proceed,
        refuse: Refuse,
    ) -> None:
        """An offer from `side`."""
        try:
            wanted = media.offer(side, found.sdp)
        except BadSdp as error:
            refuse(error.status, error.reason)
            return
        self._tell_decisions(media)

        def refused(status: int, reason: str) -> None:
            media.rollback()
            refuse(status, reason)

        then = partial(self._translate, side, media.offered, message, found, passed, proceed)
        self._steps.want(wanted, then, refused)

    def answer(
        self,
        side: Side,
        media: Negotiation,
        message: Request | Response,
        found: Found,
        passed: dict[bytes, bytes] | None,
        proceed: Proceed,
        refuse: Refuse,
    ) -> None:
        """The answer from `side`; this dialog's media are heard from now on."""
        try:
            media.answer(side, found.sdp)
        except BadSdp as error:
            refuse(error.status, error.reason)
            return
        preview = isinstance(message, Response) and message.status < 200 and "RSeq" not in message.headers
        rewritten = partial(media.answered, preview)
        then = partial(self._translate, side, rewritten, message, found, passed, proceed)
        self._steps.want(self._branches.hear(media), then, refuse)

    def confirm(self, branch: Branch, proceed: Proceed) -> None:
        """A 2xx to an INVITE: this dialog's media are heard, and the other early dialogs end."""
        if branch.dialog.confirmed:
            proceed()
            return

        def confirmed() -> None:
            branch.dialog.confirmed = True
            proceed()

        self._steps.want(self._branches.confirm(branch), confirmed, self._misled)

    def settle(self, wanted: Callable[[], Wanted]) -> None:
        """Have the gateway follow what holds already, in its turn; by then it may be something else."""
        self._steps.run(lambda: self._steps.want(wanted(), lambda: None, self._misled))

    def _translate(
        self,
        side: Side,
        rewritten: Callable[[], bytes],
        message: Request | Response,
        found: Found,
        passed: dict[bytes, bytes] | None,
        proceed: Proceed,
    ) -> None:
        body = rewritten()
        found.replace(message, body)
        if passed is not None:
            if len(passed) >= MAX_AGAIN:
                passed.clear()
            passed[found.sdp] = body
        proceed()

    def _misled(self, _: int, reason: str) -> None:
        """The gateway refuses what the two sides have agreed on already."""
        self._lost(reason)

    def _tell_decisions(self, media: Negotiation) -> None:
        if media.pending is None:
            return
        lines = zip(media.pending.offer.media, media.pending.decisions, strict=True)
        for index, (line, decision) in enumerate(lines):
            self._note(Note(logging.INFO, f"{self._token}: m={index} {line.kind}: {decision.reason}"))
