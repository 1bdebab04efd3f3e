"""Command to reply. Owns contexts and ports, drives a Plane, knows no socket and no clock.

A request is executed in three steps. *Draft*: its commands turn the context, a frozen value, into another
one. *Make it so*: the difference of their legs goes to the Plane; where a port turns out to be someone
else's, another is drawn. *Commit*: the draft becomes the context, and the results are read off it. Until then
nothing but the drawing of ports has happened, so an error leaves nothing behind.

Commands say what shall be, so a repeated request changes nothing. A context belongs to the controller, by
name, that first reserved in it; for others it does not exist, but for audit.
"""

from __future__ import annotations

from collections import deque
from random import Random

from agw.config import GatewayConfig
from agw.context import Context
from agw.draft import Draft
from agw.dtls import Certificate
from agw.errors import CommandError
from agw.flows import Difference, LegId, OpenError, Plane, difference, legs
from agw.iq.messages import (
    Audited,
    AuditedContext,
    AuditValue,
    ChangeThroughConnection,
    Command,
    Done,
    ErrorCode,
    ErrorReply,
    Event,
    Notice,
    Released,
    ReleaseTermination,
    Reply,
    Request,
    Reserved,
    Result,
    StreamStatistics,
)
from agw.ports import Realm

MAX_OPEN_ATTEMPTS = 8  # draws of ports for one request before it is refused

Counts = dict[LegId, StreamStatistics]


class Gateway:
    """execute(owner, request, now) gives the answer; owner: the controller's name.

    greeted(owner, claims, now), gone(owner, now): a controller came, went. event(...): what the Plane tells.
    expire(now) at timeout(); next_notice() -> (controller, notice), to be drained after each of all these.
    """

    def __init__(self, config: GatewayConfig, plane: Plane, rng: Random) -> None:
        self._plane = plane
        self._grace = config.grace
        self._max_contexts = config.limits.contexts
        self._realms = {
            realm.name: Realm(realm.name, realm.addresses, realm.ports, realm.rest, rng)
            for realm in config.realms
        }
        self._certificate = Certificate()
        self._contexts: dict[str, Context] = {}
        self._vanished: dict[str, float] = {}  # controller -> when its contexts are dropped
        self._notices: deque[tuple[str, Notice]] = deque()

    def execute(self, owner: str, request: Request, now: float) -> Reply | ErrorReply:
        standing = self._contexts.get(request.context)
        draft = Draft(self._realms, self._certificate, standing, owner, request.context, now)
        try:
            draft.execute(request.commands)
            if draft.context and not draft.before and len(self._contexts) >= self._max_contexts:
                raise CommandError(ErrorCode.OVERLOAD, f"more than {self._max_contexts} contexts")
            counts = self._make_so(draft)
        except CommandError as error:
            draft.forget()
            return ErrorReply(request.id, ErrorCode(error.code), error.text, draft.command)
        except BaseException:
            draft.forget()
            raise
        draft.commit()
        if draft.context is not None:
            self._contexts[request.context] = draft.context
        elif draft.before is not None:
            del self._contexts[request.context]
        results = [self._result(command, request.context, counts, now) for command in request.commands]
        return Reply(request.id, tuple(results))

    def greeted(self, owner: str, claims: tuple[str, ...], now: float) -> None:
        """Drops what the controller made and no longer claims; tells it what it claims and is not there."""
        self._vanished.pop(owner, None)
        mine = {context.name for context in self._contexts.values() if context.owner == owner}
        for name in mine.difference(claims):
            self._drop(self._contexts[name], now)
        for name in dict.fromkeys(claims):
            if name not in mine:
                self._notices.append((owner, Notice(name, Event.CONTEXT_LOST, detail="unknown here")))

    def gone(self, owner: str, now: float) -> None:
        """Its contexts stay for the grace time, in which it may come back and claim them."""
        self._vanished[owner] = now + self._grace

    def event(self, leg: LegId, event: Event, detail: str, now: float) -> None:
        """What the Plane tells of a leg, told to the context's owner. A lost leg ends its context."""
        if (context := self._contexts.get(leg.context)) is None:
            return
        if event is Event.CONTEXT_LOST:
            self._drop(context, now)
            notice = Notice(context.name, event, detail=detail)
        else:
            notice = Notice(context.name, event, leg.termination, leg.stream, detail)
        self._notices.append((context.owner, notice))

    def expire(self, now: float) -> None:
        for owner in [owner for owner, at in self._vanished.items() if at <= now]:
            del self._vanished[owner]
            for context in [each for each in self._contexts.values() if each.owner == owner]:
                self._drop(context, now)

    def timeout(self) -> float | None:
        return min(self._vanished.values(), default=None)

    def next_notice(self) -> tuple[str, Notice] | None:
        return self._notices.popleft() if self._notices else None

    # -- inside --

    def _make_so(self, draft: Draft) -> Counts:
        standing = {leg.id: leg for leg in legs(draft.before)} if draft.before else {}
        for _ in range(MAX_OPEN_ATTEMPTS):
            wanted = legs(draft.context) if draft.context else []
            if not (change := difference(standing, wanted)):
                return {}
            try:
                return self._plane.apply(change)
            except OpenError as error:
                why = error.text
                draft.draw_again(error.legs)
        raise CommandError(ErrorCode.NO_PORTS, f"no port could be opened: {why}")

    def _drop(self, context: Context, now: float) -> None:
        self._plane.apply(Difference(removed=tuple(leg.id for leg in legs(context))))
        for realm, host, port in context.ports():
            self._realms[realm].release(host, port, now)
        del self._contexts[context.name]

    def _result(self, command: Command, name: str, counts: Counts, now: float) -> Result:
        """All results tell of the state after the whole request. name: the context's."""
        context = self._contexts.get(name)
        match command:
            case ChangeThroughConnection():
                return Done()
            case ReleaseTermination(termination=named):
                released: dict[str, tuple[StreamStatistics, ...]] = {}
                for id, count in counts.items():
                    if named in (None, id.termination):
                        released[id.termination] = (*released.get(id.termination, ()), count)
                return Released(released)
            case AuditValue():
                audited = [context] if context else [] if name else self._contexts.values()
                return Audited(
                    tuple(self._audit(each) for each in audited),
                    {realm.name: realm.counts(now) for realm in self._realms.values()},
                )
            case _:
                termination = context.terminations.get(command.termination) if context else None
                removed = tuple(
                    count for id, count in counts.items() if id.termination == command.termination
                )
                return Reserved(command.termination, termination.locals() if termination else (), removed)

    def _audit(self, context: Context) -> AuditedContext:
        return AuditedContext(
            context.name,
            context.owner,
            {name: termination.locals() for name, termination in context.terminations.items()},
            min(self._plane.idle(leg.id) for leg in legs(context)),
        )
