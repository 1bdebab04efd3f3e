"""The requests of a call that wait for their final responses, our own included."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from imsalg.anchor import Side
from imsalg.callstate import CallState
from imsalg.crossing import Cancel, Crossing, Respond
from imsalg.sip.grammar import quote
from imsalg.sip.message import REASONS, make_response
from imsalg.sip.timers import earliest

RETRY_AFTER = "2"  # seconds, in a 500 or 503


class Underway:
    """Those of one call, whose token is the To tag of what is answered here."""

    def __init__(self, call: CallState) -> None:
        self._call = call
        self._crossings: list[Crossing] = []

    def __iter__(self) -> Iterator[Crossing]:
        return iter(list(self._crossings))

    def __bool__(self) -> bool:
        return bool(self._crossings)

    @property
    def deadline(self) -> float | None:
        """When the first of them is given up."""
        return earliest(*[crossing.deadline for crossing in self._crossings])

    def add(self, crossing: Crossing) -> None:
        self._crossings.append(crossing)

    def refuse(
        self, crossing: Crossing, status: int, reason: str = "", reasons: tuple[str, ...] | None = None
    ) -> None:
        """A final response of our own; what went on to the other side is cancelled if it can be, with these
        Reason values; None: ours."""
        response = make_response(crossing.request, status, to_tag=self._call.token)
        if reason:
            if crossing.side is Side.ACCESS:  # the core is not told what the UE and we have agreed on
                response.headers.append("Warning", f"399 imsalg {quote(reason)}")
            self._call.note(logging.INFO, f"{crossing.request.method} {status}: {reason}")
        if status in (500, 503):
            response.headers.append("Retry-After", RETRY_AFTER)
        crossing.answered, crossing.deadline = status, None
        self._call.effects.append(Respond(crossing, response))
        if not crossing.sent:
            self.settle(crossing)
        elif crossing in self._crossings and crossing.request.method == "INVITE":
            self._call.effects.append(Cancel(crossing, (because(status),) if reasons is None else reasons))

    def finish(self, crossing: Crossing, status: int) -> None:
        """The sender of a request gets the other side's final answer."""
        crossing.answered = status
        self.settle(crossing)

    def settle(self, crossing: Crossing) -> None:
        """Nothing more is expected of a request."""
        crossing.deadline = crossing.final = None
        if crossing in self._crossings:
            self._crossings.remove(crossing)

    def overdue(self, now: float) -> Iterator[Crossing]:
        """Those whose deadline has come; refusing one may be the end of the next."""
        for crossing in self:
            if crossing.deadline is not None and crossing.deadline <= now:
                yield crossing


def because(status: int) -> str:
    """A Reason value (RFC 3326 section 2): why we cancel or release (TS 24.229 clause 5.2.8.1)."""
    return f"SIP;cause={status};text={quote(REASONS.get(status, ''))}"
