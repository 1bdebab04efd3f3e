"""The core's end of Iq: which call asked what, and what holds when the gateway goes and comes back (trap
P43).

The greeting is the audit: our Hello claims the contexts that calls still need, the gateway drops all others
of ours, and tells of each that it does not have. So it does not matter how many there are.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping

from msgspec import Struct

from agw.iq.messages import ErrorCode, ErrorReply, Hello, Notice, ReleaseTermination, Reply, Request
from imsalg.call import Call
from imsalg.crossing import Ask, Note
from imsalg.sip.timers import earliest

LATE = 0.25  # seconds after which an answer is overdue
GIVEN_UP = 5.0  # seconds, at least, after which it will not come any more
FULL = 1.0  # seconds in which a gateway that had no ports is asked for no further call


class _Asked(Struct, frozen=True):
    """A request without a reply. number: the call's, of the command."""

    since: float
    call: Call
    number: int


class GatewayLink:
    """calls: by token, which names their contexts as well. carry_out: does what a call wants done after it
    was told something. grace: seconds the connection may be away before the calls it carries are ended.
    timeout: seconds a call waits for a reply.

    incarnation: of the gateway that was connected last.
    """

    def __init__(
        self,
        realms: frozenset[str],
        grace: float,
        timeout: float,
        calls: Mapping[str, Call],
        carry_out: Callable[[Call], None],
        note: Callable[[Note], None],
    ) -> None:
        self.hello: Hello | None = None
        self._deadline: float | None = None
        self._realms = realms
        self._grace = grace
        self._patience = max(timeout, GIVEN_UP)
        self._calls = calls
        self._carry_out = carry_out
        self._note = note
        self.incarnation = ""
        self._id = 0
        self._out: list[Request] = []
        self._asked: dict[int, _Asked] = {}  # by request id, the oldest first
        self._full_until = 0.0
        self._claimed: tuple[str, ...] = ()  # in the last greeting

    @property
    def outstanding(self) -> int:
        """Requests without a reply."""
        return len(self._asked)

    def is_full(self, now: float) -> bool:
        """Whether a further call is too much for it: an answer is overdue and not given up yet, or it has
        just had no ports."""
        return now < self._full_until or (bool(self._asked) and now - self._oldest.since > LATE)

    @property
    def _oldest(self) -> _Asked:
        return next(iter(self._asked.values()))

    def claims(self) -> tuple[str, ...]:
        """The contexts that calls still need; the gateway drops the others."""
        self._claimed = self._anchored()
        return self._claimed

    def to_send(self) -> list[Request]:
        out, self._out = self._out, []
        return out

    def ask(self, call: Call, ask: Ask, now: float) -> None:
        if self.hello is None:
            call.replied(ask.number, ErrorReply(0, ErrorCode.OVERLOAD, "out of reach"), now)
            return
        self._id += 1
        self._asked[self._id] = _Asked(now, call, ask.number)
        self._out.append(Request(self._id, ask.context, ask.commands))

    def up(self, hello: Hello, now: float) -> None:
        """Connected. A restarted gateway has nothing of ours; one that only was out of reach goes on."""
        self.hello, self._deadline = hello, None
        if missing := sorted(self._realms - set(hello.realms)):
            self._note(Note(logging.ERROR, f"the gateway has no realm {', '.join(missing)}"))
        restarted = self.incarnation not in ("", hello.incarnation)
        self.incarnation = hello.incarnation
        if restarted:
            self._lost(self._anchored(), "the gateway has restarted", now)
        else:
            for token in sorted({*self._claimed} - {*self._anchored()}):
                self._id += 1  # it ended while the greeting was on its way
                self._out.append(Request(self._id, token, (ReleaseTermination(),)))
            for call in list(self._calls.values()):
                call.reclaim(now)
                self._carry_out(call)

    def resume(self, incarnation: str, now: float) -> None:
        """We have restarted: the calls are carried by the gateway of that incarnation ("": not known),
        and that may be away for as long as ever."""
        self.incarnation, self._deadline = incarnation, now + self._grace

    def down(self, now: float) -> None:
        """The connection is lost. Media go on; calls are ended if it does not come back in time."""
        self.hello = None
        self._deadline = now + self._grace
        self._out.clear()
        asked, self._asked = self._asked, {}
        for each in asked.values():
            each.call.gateway_lost("the gateway went away in the middle of a command", now)
            self._carry_out(each.call)

    def message(self, message: Reply | ErrorReply | Notice, now: float) -> None:
        if isinstance(message, Notice):
            if (call := self._calls.get(message.context)) is not None:
                call.notice(message, now)
                self._carry_out(call)
        elif message.id in self._asked:
            if isinstance(message, ErrorReply) and message.code is ErrorCode.NO_PORTS:
                self._full_until = now + FULL
            asked = self._asked.pop(message.id)
            asked.call.replied(asked.number, message, now)
            self._carry_out(asked.call)

    def expire(self, now: float) -> None:
        if self._deadline is not None and self._deadline <= now:
            self._deadline = None
            self._lost(self._anchored(), "the gateway is gone", now)
        while self._asked and self._oldest.since + self._patience <= now:
            del self._asked[next(iter(self._asked))]

    def timeout(self) -> float | None:
        late = self._oldest.since + self._patience if self._asked else None
        return earliest(self._deadline, late)

    def _anchored(self) -> tuple[str, ...]:
        return tuple(token for token, call in self._calls.items() if call.anchored)

    def _lost(self, tokens: Iterable[str], reason: str, now: float) -> None:
        for token in tokens:
            call = self._calls.get(token)
            if call is not None and call.anchored:
                call.gateway_lost(reason, now)
                self._carry_out(call)
