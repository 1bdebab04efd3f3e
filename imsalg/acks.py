"""ACKs to a 2xx on their way: they have no transaction and may bring an answer, and the BYE of their sender
waits for them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from imsalg.anchor import Side
from imsalg.callstate import CallState
from imsalg.crossing import SendAck
from imsalg.descriptions import Descriptions
from imsalg.sip.message import Request


class Acks:
    """Those of one call."""

    def __init__(self, call: CallState, descriptions: Descriptions) -> None:
        self._call = call
        self._descriptions = descriptions
        self._waiting: list[Side] = []  # for a step; who sent them

    def wait(self, side: Side) -> bool:
        """Whether one of this side's does."""
        return side in self._waiting

    def take(self, request: Request, ack: SendAck, side: Side, left: Callable[[], None]) -> None:
        """An ACK, as it came and as it is to leave. left: called when it has, or never will."""

        def done() -> None:
            self._waiting.remove(side)
            left()

        self._waiting.append(side)
        if not self._call.steps.run(partial(self._pass, request, ack, side, done)):
            self._call.note(logging.WARNING, "an ACK dropped, too much at once")
            done()

    def _pass(self, request: Request, ack: SendAck, side: Side, done: Callable[[], None]) -> None:
        branch = self._call.branches.of(request, side)
        if branch is None:
            done()
            return
        branch.dialog.number(ack.request, side is self._call.branches.caller)
        send, bad = partial(self._send, ack, done), partial(self._bad, ack, done)
        self._descriptions.in_ack(request, ack.request, side, branch, send, bad)

    def _send(self, ack: SendAck, done: Callable[[], None]) -> None:
        self._call.effects.append(ack)
        done()

    def _bad(self, ack: SendAck, done: Callable[[], None], status: int, reason: str) -> None:
        """An ACK cannot be refused: it passes without its answer, and the call ends."""
        ack.request.set_body(b"")
        self._send(ack, done)
        self._call.steps.lost(f"a bad answer in the ACK: {reason}", status)
