"""Steps that need the gateway: one at a time, in order, and each with an end.

A step says what the gateway shall have and goes on when the gateway has it. At most one command of a call is
outstanding; what else belongs to the call queues behind it, so that a 200 cannot overtake the 183 before it.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping

from msgspec import Struct

from agw.iq.messages import (
    Command,
    ErrorCode,
    ErrorReply,
    LocalStream,
    Released,
    ReleaseTermination,
    Reply,
    Reserved,
    StreamStatistics,
)
from imsalg.anchor import Anchor, Wanted, m_line
from imsalg.crossing import Ask, Effect, Note

MAX_QUEUE = 32  # steps waiting in one call

_MISFIT = "the gateway's reply does not fit what it was asked"
_STATUS = {  # what a refused command means to the SIP side
    ErrorCode.UNSUPPORTED: 488,
    ErrorCode.NO_PORTS: 503,
    ErrorCode.OVERLOAD: 503,
}


class Waiting(Struct):
    """A step between its two halves."""

    number: int
    wanted: Wanted
    then: Callable[[Reply], None]
    refused: Callable[[int, str], None]
    deadline: float


class Steps:
    """The gateway's side of one call. timeout: seconds for one command. end: called with the reason and its
    status when the call cannot go on."""

    def __init__(
        self, anchor: Anchor, effects: list[Effect], timeout: float, end: Callable[[str, int], None]
    ) -> None:
        self._anchor = anchor
        self._effects = effects
        self._timeout = timeout
        self._end = end
        self._queue: deque[Callable[[], None]] = deque()
        self._waiting: Waiting | None = None
        self._number = 0
        self._unknown = False  # what the gateway holds, after our restart
        self._release: int | None = None
        self._release_deadline: float | None = None
        self.now = 0.0
        """The call's time, which it sets before anything else happens."""
        self.holds = False
        """Whether the gateway may hold a context of this call."""
        self.paused = False
        """Steps wait until `go_on`: what is in the context that the gateway holds is not known yet."""

    @property
    def settled(self) -> bool:
        """No step is under way."""
        return not (self._waiting or self._queue)

    @property
    def idle(self) -> bool:
        return self.settled and not self.holds

    @property
    def deadline(self) -> float | None:
        return self._waiting.deadline if self._waiting else self._release_deadline

    def run(self, step: Callable[[], None]) -> bool:
        """Run a step, now or after those before it. False: there are too many, and it was not taken."""
        if len(self._queue) >= MAX_QUEUE:
            return False
        self._queue.append(step)
        self._go_on()
        return True

    def want(self, wanted: Wanted, then: Callable[[], None], refused: Callable[[int, str], None]) -> None:
        """The first half of a step ends here. then: the second half, once the gateway has what is wanted.
        refused(status, reason): instead, if it cannot; nothing has changed at the gateway then."""
        commands = self._anchor.plan(wanted)
        if commands:
            self.ask(commands, lambda reply: then(), refused, wanted)
        else:
            then()

    def ask(
        self,
        commands: tuple[Command, ...],
        then: Callable[[Reply], None],
        refused: Callable[[int, str], None],
        wanted: Wanted | None = None,
    ) -> None:
        self.holds = True
        self._number += 1
        self._waiting = Waiting(self._number, wanted or {}, then, refused, self.now + self._timeout)
        self._effects.append(Ask(self._anchor.context, commands, self._number))

    def pause(self) -> None:
        """We have restarted, and the gateway has not been asked yet."""
        self.holds = self.paused = self._unknown = True

    def go_on(self, first: Callable[[], None]) -> None:
        """This step now, then those that waited."""
        self.paused = False
        self._queue.appendleft(first)
        self._go_on()

    def restate(
        self,
        wanted: Wanted,
        there: Mapping[str, tuple[LocalStream, ...]],
        refused: Callable[[int, str], None],
    ) -> bool:
        """A step that has the gateway hold what is wanted, of which all that is known is what it is called
        there. False: something is missing there."""
        self.holds = True
        commands = self._anchor.restate(wanted, there)
        if commands:
            self.ask(commands, lambda reply: None, refused, wanted)
        return bool(commands)

    def release(self) -> None:
        """The call is over: give everything back, at once; steps that wait are dropped. A gateway that does
        not answer drops the context when it is greeted next, as nobody claims it then."""
        self._end = _over
        self._waiting, self.paused = None, False
        self._queue.clear()
        self._anchor.forget()
        if self.holds and self._release is None:
            self._number += 1
            self._release = self._number
            self._release_deadline = self.now + self._timeout
            self._effects.append(Ask(self._anchor.context, (ReleaseTermination(),), self._number))

    def lost(self, reason: str, status: int = 503) -> None:
        """The call cannot go on, as when the gateway does not answer or has given the context up: what it has
        is unknown then."""
        self._end(reason, status)

    def gone(self) -> None:
        """The gateway has nothing of this call any more, and steps that wait are dropped."""
        self._waiting, self.paused = None, False
        self._queue.clear()
        self._anchor.forget()
        self.holds, self._unknown, self._release_deadline = False, False, None

    def replied(self, number: int, reply: Reply | ErrorReply) -> None:
        """The reply to the command of that number; late ones are ignored."""
        if number == self._release:
            self.holds, self._release_deadline = False, None
            self._effects.append(Note(logging.INFO, f"{self._anchor.context}: released{_counts(reply)}"))
            return
        waiting = self._waiting
        if waiting is None or waiting.number != number:
            return
        self._waiting = None
        fits = isinstance(reply, Reply) and self._anchor.acknowledge(waiting.wanted, reply.results)
        self._unknown = self._unknown and not self._anchor
        self.holds = bool(self._anchor) or self._unknown
        match reply:
            case Reply():
                if counts := _counts(reply):
                    self._effects.append(Note(logging.INFO, f"{self._anchor.context}: gone{counts}"))
                if fits:
                    waiting.then(reply)
                else:
                    waiting.refused(500, _MISFIT)
                    self.lost(_MISFIT)
            case ErrorReply(code=code, text=text):
                waiting.refused(_STATUS.get(code, 500), f"the gateway: {text}")
                if code is ErrorCode.UNKNOWN_CONTEXT:
                    self.lost("the gateway does not know the context")
        self._go_on()

    def expire(self) -> None:
        if self._waiting is not None and self._waiting.deadline <= self.now:
            waiting, self._waiting = self._waiting, None
            waiting.refused(503, "the gateway did not answer")
            self.lost("the gateway did not answer")
            self._go_on()
        if self._release_deadline is not None and self._release_deadline <= self.now:
            self.holds, self._release_deadline = False, None
            text = f"{self._anchor.context}: the gateway did not answer the release"
            self._effects.append(Note(logging.WARNING, text))

    def _go_on(self) -> None:
        while self._queue and self._waiting is None and not self.paused:
            self._queue.popleft()()


def _over(reason: str, status: int) -> None:
    """A call that is over ends no more, and its steps need not know it."""


def _counts(reply: Reply | ErrorReply) -> str:
    """The statistics of what was released or taken away, in one line."""
    counts: list[tuple[str, StreamStatistics]] = []
    for result in reply.results if isinstance(reply, Reply) else ():
        match result:
            case Released(terminations):
                counts += ((name, stream) for name, streams in terminations.items() for stream in streams)
            case Reserved(name, removed=streams):
                counts += ((name, stream) for stream in streams)
    return "".join(
        f"; {name} m={m_line(stream.id)} in {stream.received} out {stream.sent}"
        + "".join(f" {cause} {count}" for cause, count in stream.dropped.items() if count)
        for name, stream in counts
    )
