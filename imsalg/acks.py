"""ACKs to a 2xx on their way: they have no transaction and may bring an answer, and the BYE of their sender
waits for them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from imsalg.anchor import Side
from imsalg.branches import Branches
from imsalg.crossing import Effect, Note, SendAck
from imsalg.descriptions import Descriptions
from imsalg.sip.message import Request
from imsalg.steps import Steps


class Acks:
    """left: told whose ACK has left, or never will. end: called with reason and status where one has a bad
    answer."""

    def __init__(
        self,
        token: str,
        branches: Branches,
        descriptions: Descriptions,
        steps: Steps,
        effects: list[Effect],
        left: Callable[[Side], None],
        end: Callable[[str, int], None],
    ) -> None:
        self._token = token
        self._branches = branches
        self._descriptions = descriptions
        self._steps = steps
        self._effects = effects
        self._left = left
        self._end = end
        self._waiting: list[Side] = []  # for a step; who sent them

    def wait(self, side: Side) -> bool:
        """Whether one of this side's does."""
        return side in self._waiting

    def take(self, request: Request, ack: SendAck, side: Side) -> None:
        """An ACK, as it came and as it is to leave."""
        self._waiting.append(side)
        if not self._steps.run(partial(self._pass, request, ack, side)):
            self._effects.append(Note(logging.WARNING, f"{self._token}: an ACK dropped, too much at once"))
            self._done(side)

    def _pass(self, request: Request, ack: SendAck, side: Side) -> None:
        branch = self._branches.of(request, side)
        if branch is None:
            self._done(side)
            return
        branch.dialog.number(ack.request, side is self._branches.caller)
        send = partial(self._send, ack, side)
        self._descriptions.in_ack(request, ack.request, side, branch, send, partial(self._bad, ack, side))

    def _send(self, ack: SendAck, side: Side) -> None:
        self._effects.append(ack)
        self._done(side)

    def _bad(self, ack: SendAck, side: Side, status: int, reason: str) -> None:
        """An ACK cannot be refused: it passes without its answer, and the call ends."""
        ack.request.set_body(b"")
        self._send(ack, side)
        self._end(f"a bad answer in the ACK: {reason}", status)

    def _done(self, side: Side) -> None:
        self._waiting.remove(side)
        self._left(side)
