"""Whether the gateway has what a call has agreed on, and whether media flow."""

from __future__ import annotations

import logging
from functools import partial

from agw.iq.messages import Audited, AuditedContext, AuditValue, Event, Notice, Reply
from imsalg.anchor import m_line
from imsalg.callstate import CallState


class Supervision:
    """inactivity: seconds without media after which a call is over; 0: never."""

    def __init__(self, call: CallState, inactivity: float) -> None:
        self._call = call
        self._inactivity = inactivity

    def notice(self, notice: Notice) -> None:
        where = f"{notice.termination} m={m_line(notice.stream)}"
        text = f"{notice.event.value} {where} {notice.detail}".rstrip()
        match notice.event:
            case Event.MEDIA_FIRST | Event.DTLS_ESTABLISHED:
                self._call.note(logging.INFO, text)
            case Event.DTLS_FAILED:
                self._call.note(logging.WARNING, text)
                if self._call.branches.hears(notice.termination):  # RFC 8842 section 8
                    self._call.steps.lost(f"DTLS: {notice.detail}")
            case Event.CONSENT_LOST:  # RFC 7675 section 5.1: nothing may be sent there any more
                self._call.note(logging.INFO, text)
                if self._call.branches.hears(notice.termination):  # it checks for one early dialog at a time
                    self._call.steps.lost("the UE does not answer for its address any more")
            case Event.SRTP_FAILURES | Event.DTLS_KEPT:
                self._call.note(logging.WARNING, text)
            case Event.CONTEXT_LOST:
                self._call.steps.gone()
                self._call.steps.lost("the gateway has lost the context")
            case Event.MEDIA_INACTIVE:
                self._call.note(logging.INFO, text)
                self._call.steps.run(self._audit)

    def _audit(self) -> None:
        """One stream is silent: the call ends if all are."""
        if self._call.steps.holds and self._call.branches:
            self._call.steps.ask((AuditValue(),), self._audited, self._misled)

    def _audited(self, reply: Reply) -> None:
        context = _context(reply)
        if context is None or self._silent(context):
            self._call.steps.lost("no media")

    def reclaim(self) -> None:
        """The gateway is there after our restart: what it has of this call becomes what had been agreed."""
        if self._call.steps.paused:
            self._call.steps.go_on(
                partial(self._call.steps.ask, (AuditValue(),), self._reclaimed, self._misled)
            )

    def _reclaimed(self, reply: Reply) -> None:
        context = _context(reply)
        *_, branch = self._call.branches  # the one answered last is heard
        wanted = self._call.branches.hear(branch.media)
        if context is None or not self._call.steps.restate(wanted, context.terminations, self._misled):
            self._call.steps.lost("the gateway has lost the context")
        elif branch.media.supervised and self._silent(context):  # the notice found nobody
            self._call.steps.lost("no media")

    def _silent(self, context: AuditedContext) -> bool:
        return context.idle >= self._inactivity * 0.9

    def _misled(self, _: int, reason: str) -> None:
        """The gateway refuses what must be."""
        self._call.steps.lost(reason)


def _context(reply: Reply) -> AuditedContext | None:
    """The context that was audited, if it is there."""
    audited = (result for result in reply.results if isinstance(result, Audited))
    return next((context for result in audited for context in result.contexts), None)
