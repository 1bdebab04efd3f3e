"""Command to reply. Owns contexts and ports, drives a Plane, knows no socket and no clock.

A request is executed in three steps. *Draft*: its commands turn the context, a frozen value, into another
one. *Make it so*: the difference of their legs goes to the Plane; where a port turns out to be someone
else's, another is drawn. *Commit*: the draft becomes the context, and the results are read off it. Until then
nothing but the drawing of ports has happened, so an error leaves nothing behind.

Commands say what shall be, so a repeated request changes nothing. A context belongs to the controller, by
name, that first reserved in it; for others it does not exist, but for audit.

A stream with ICE or DTLS has a `Peer`, which hears the slow path. What it learns (addresses, keys) changes
the legs that the context wants, and the difference goes to the Plane as it does after a command.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from random import Random

from agw.certificate import Certificate
from agw.config import GatewayConfig
from agw.context import Context
from agw.draft import Draft
from agw.errors import CommandError
from agw.flows import Learnt, Leg, LegId, OpenError, Plane, difference, legs
from agw.iq.messages import (
    Address,
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
    Transport,
)
from agw.peer import Data, Packet, Peer, Told
from agw.ports import Realm
from agw.timers import Timers

MAX_OPEN_ATTEMPTS = 8  # draws of ports for one request before it is refused

Counts = dict[LegId, StreamStatistics]


class Gateway:
    """execute(owner, request, now) gives the answer; owner: the controller's name.

    greeted(owner, claims, now), gone(owner, unread, now): a controller came, went. event(...), packet(...):
    what the Plane tells and hands up. expire(now) at timeout(); next_notice() -> (controller, notice), to be
    drained after each of all these.
    """

    def __init__(self, config: GatewayConfig, plane: Plane, rng: Random) -> None:
        self._plane = plane
        self._grace = config.grace
        self._max_contexts = config.limits.contexts
        self._realms = {
            realm.name: Realm(realm.name, realm.addresses, realm.ports, realm.rest, rng)
            for realm in config.realms
        }
        self._secret = rng.randbytes(32)
        self._certificate = Certificate()
        self._certificate_life = config.dtls.certificate_life
        self._renew_at = math.inf  # until the first request, which says what time it is
        self._contexts: dict[str, Context] = {}
        self._legs: dict[str, dict[LegId, Leg]] = {}  # of each context, as the Plane has them
        self._peers: dict[LegId, Peer] = {}
        self._learnt: dict[LegId, Learnt] = {}  # from them, as the legs have it
        self._timers: Timers[LegId] = Timers()
        self._vanished: dict[str, float] = {}  # controller -> when its contexts are dropped
        self._missed: dict[str, dict[tuple[LegId, Event], Notice]] = {}  # by those, the last of each kind
        self._notices: deque[tuple[str, Notice]] = deque()

    def execute(self, owner: str, request: Request, now: float) -> Reply | ErrorReply:
        self._rotate(now)
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
        if draft.context is None and draft.before is not None:
            del self._contexts[request.context], self._legs[request.context]
        elif draft.context is not None and draft.context is not draft.before:
            self._contexts[request.context] = draft.context
            self._signal(draft.context, now)
        results = [self._result(command, request.context, counts, now) for command in request.commands]
        return Reply(request.id, tuple(results))

    def greeted(self, owner: str, claims: tuple[str, ...], now: float) -> None:
        """Drops what the controller made and no longer claims; tells it what it claims and is not there, and
        of the rest what has happened while it was away."""
        self._vanished.pop(owner, None)
        mine = {context.name for context in self._contexts.values() if context.owner == owner}
        for name in mine.difference(claims):
            self._drop(self._contexts[name], now)
        for name in dict.fromkeys(claims):
            if name not in mine:
                self._notices.append((owner, Notice(name, Event.CONTEXT_LOST, detail="unknown here")))
        for (leg, _), notice in self._missed.pop(owner, {}).items():
            if leg in self._legs.get(leg.context, {}):
                self._notices.append((owner, notice))

    def gone(self, owner: str, unread: Iterable[Notice], now: float) -> None:
        """Its contexts stay for the grace time, in which it may come back and claim them. unread: what it may
        not have heard, which is then told again."""
        self._vanished[owner] = now + self._grace
        missed = self._missed.setdefault(owner, {})
        for notice in unread:
            missed[LegId(notice.context, notice.termination, notice.stream), notice.event] = notice

    def event(self, leg: LegId, event: Event, detail: str, now: float) -> None:
        """What the Plane tells of a leg, told to the context's owner. A lost leg ends its context."""
        if (context := self._contexts.get(leg.context)) is None:
            return
        if event is Event.CONTEXT_LOST:
            self._drop(context, now)
            self._notices.append((context.owner, Notice(context.name, event, detail=detail)))
        else:
            self._tell(leg, event, detail)

    def packet(self, leg: LegId, channel: int, source: Address, data: bytes, now: float) -> None:
        """What the Plane hands up: for the leg's own peer, or a datagram for DTLS on the other side."""
        if (peer := self._peers.get(leg)) is not None:
            peer.receive(channel, source, data, now)
            self._settle([leg])
        elif channel == 0:  # no datagram protocol here has RTCP
            self._pass_on(leg, data)

    def expire(self, now: float) -> list[str]:
        """Gives the controllers that have been away for too long; their contexts are dropped."""
        due = [leg for leg in self._timers.due(now) if leg in self._peers]
        for leg in due:
            self._peers[leg].expire(now)
        self._settle(due)
        gone = [owner for owner, at in self._vanished.items() if at <= now]
        for owner in gone:
            del self._vanished[owner]
            self._missed.pop(owner, None)
            for context in [each for each in self._contexts.values() if each.owner == owner]:
                self._drop(context, now)
        return gone

    def timeout(self) -> float | None:
        times = [*self._vanished.values()]
        if (at := self._timers.timeout()) is not None:
            times.append(at)
        return min(times, default=None)

    def next_notice(self) -> tuple[str, Notice] | None:
        return self._notices.popleft() if self._notices else None

    # -- inside --

    def _make_so(self, draft: Draft) -> Counts:
        standing = self._legs.get(draft.name, {}) if draft.before else {}
        for _ in range(MAX_OPEN_ATTEMPTS):
            try:
                return self._apply(draft.name, standing, draft.context)
            except OpenError as error:
                why = error.text
                draft.draw_again(error.legs)
        raise CommandError(ErrorCode.NO_PORTS, f"no port could be opened: {why}")

    def _apply(self, name: str, standing: Mapping[LegId, Leg], context: Context | None) -> Counts:
        """Raises OpenError; the Plane, and what is remembered of it, are then as they were."""
        wanted = {leg.id: leg for leg in (legs(context, self._learnt) if context else ())}
        if not (change := difference(standing, wanted.values())):
            return {}
        if all(leg.id in standing for leg in change.wanted):  # nothing is opened, so nothing can fail
            for leg in change.removed:
                self._close(leg)
        counts = self._plane.apply(change)
        self._legs[name] = wanted
        for leg in change.removed:
            self._forget(leg)
        return counts

    def _drop(self, context: Context, now: float) -> None:
        self._apply(context.name, self._legs[context.name], None)
        for realm, host, port in context.ports():
            self._realms[realm].release(host, port, now)
        del self._contexts[context.name], self._legs[context.name]

    def _rotate(self, now: float) -> None:
        """Make a new certificate when the last one is old; terminations keep theirs."""
        if now >= self._renew_at:
            self._certificate = Certificate()
        if now >= self._renew_at or self._renew_at == math.inf:
            self._renew_at = now + self._certificate_life

    def _tell(self, leg: LegId, event: Event, detail: str) -> None:
        owner = self._contexts[leg.context].owner
        notice = Notice(leg.context, event, leg.termination, leg.stream, detail)
        if owner in self._vanished:
            self._missed[owner][leg, event] = notice
        else:
            self._notices.append((owner, notice))

    # -- peers --

    def _signal(self, context: Context, now: float) -> None:
        """Tell the peers of a context what it has become."""
        signalled = []
        for termination in context.terminations.values():
            for stream in termination.streams.values():
                leg = LegId(context.name, termination.name, stream.id)
                if stream.dtls is None and stream.ice is None:
                    self._forget(leg)
                    continue
                if leg not in self._peers:
                    self._peers[leg] = Peer(termination.certificate, self._secret)
                self._peers[leg].signal(stream, now)
                signalled.append(leg)
        self._settle(signalled)

    def _close(self, leg: LegId) -> None:
        """Its peer hears that this is the end, as long as there are sockets to say it from."""
        if (peer := self._peers.get(leg)) is not None:
            peer.close()
            while (said := peer.next()) is not None:
                if isinstance(said, Packet):
                    self._plane.send(leg, said.channel, said.target, said.data)

    def _forget(self, leg: LegId) -> None:
        if self._peers.pop(leg, None) is not None:
            self._learnt.pop(leg, None)
            self._timers.set(leg, None)

    def _settle(self, peers: Iterable[LegId]) -> None:
        """Bring what these peers have learnt and have to say to where it belongs, in this order: a peer that
        gets our last flight may send media at once."""
        changed: set[str] = set()
        for leg in peers:
            self._timers.set(leg, self._peers[leg].timeout())
            if (learnt := self._peers[leg].learnt) != self._learnt.get(leg):
                self._learnt[leg] = learnt
                changed.add(leg.context)
        for name in changed:
            with suppress(OpenError):  # its sockets broke, which the Plane is about to tell
                self._apply(name, self._legs[name], self._contexts[name])
        for leg in peers:
            while (said := self._peers[leg].next()) is not None:
                match said:
                    case Packet(channel, target, data):
                        self._plane.send(leg, channel, target, data)
                    case Told(event, detail):
                        self._tell(leg, event, detail)
                    case Data(data):
                        self._pass_on(leg, data)

    def _pass_on(self, leg: LegId, data: bytes) -> None:
        """A datagram that goes through DTLS on one side, to the leg that this one is connected with, as their
        modes allow. What was handed up before they became something else is nothing now."""
        standing = self._legs.get(leg.context, {})
        if (here := standing.get(leg)) is None:
            return
        if here.transport is Transport.DTLS:  # what came in a record is media, and nothing else is
            self._plane.hear(leg)
        there = standing.get(here.peer) if here.peer else None
        if there is None or Transport.DTLS not in (here.transport, there.transport):
            return
        if not (here.mode.receives and there.mode.sends):
            return
        if there.id in self._peers:
            self._peers[there.id].send(data)
            self._settle([there.id])
        elif there.remote is not None:
            self._plane.send(there.id, 0, there.remote, data)

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
            min(map(self._plane.idle, self._legs[context.name])),
        )
