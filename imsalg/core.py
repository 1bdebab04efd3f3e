"""The P-CSCF (IMS-ALG) as one machine without IO: the SIP endpoint, the registrations and the calls, joined.

What becomes of a request is in `admission`, of a response in `responses`, of a call in `call`. This file
hands them what the endpoint brings and carries out what they want.

After every input, drain `to_send`, `to_ask`, `iq_to_send` and `next_note`, and call `expire` at `timeout`.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Iterable
from random import Random

from agw.iq.messages import ErrorReply, Hello, Notice, Reply
from agw.iq.messages import Request as IqRequest
from imsalg.admission import Admission, Answered, Dropped
from imsalg.call import Call
from imsalg.calls import Calls
from imsalg.config import ProxyConfig
from imsalg.crossing import Ask, Cancel, Crossing, Ended, Note, Respond, Send, SendAck
from imsalg.errors import BadMessage, PeerError
from imsalg.finding import Finding
from imsalg.flowtoken import KEY, FlowTokens
from imsalg.forwarding import Forwarding
from imsalg.gatelink import GatewayLink
from imsalg.intake import Standing
from imsalg.kept import Changes, Kept
from imsalg.names import Answer
from imsalg.regevent import Deregistered, RegEvent
from imsalg.registration import Registrations
from imsalg.responses import Responses
from imsalg.routes import Routes
from imsalg.sip.endpoint import Endpoint
from imsalg.sip.events import (
    AckReceived,
    CancelReceived,
    ClientTransaction,
    RequestReceived,
    ResponseReceived,
    SenderGone,
    ServerTransaction,
    TransactionEnded,
    TransactionFailed,
)
from imsalg.sip.glance import Kind
from imsalg.sip.grammar import quote
from imsalg.sip.hop import Flow, Key
from imsalg.sip.locate import Question
from imsalg.sip.message import Request, Response, make_response
from imsalg.sip.shares import Shares
from imsalg.sip.timers import earliest
from imsalg.sources import Lines, Sources
from imsalg.underway import because

MAX_NOTES = 10_000  # not yet fetched; more are dropped


class Core:
    """See above. Every `now` is seconds of one monotonic clock."""

    def __init__(self, config: ProxyConfig, rng: Random) -> None:
        self._notes: deque[Note] = deque(maxlen=MAX_NOTES)
        self.registrations = Registrations(
            config.limits.registrations,
            config.registration.min_expires,
            config.registration.max_expires,
            Shares(config.sources.registrations),
            config.sources.bindings,
            FlowTokens(rng.randbytes(KEY)),
            config.policy.e2dce,
        )
        self._sources = Sources(config, self.registrations, self._notes.append)
        self._refusals = Lines(self._notes.append, each=10, sources=100)
        self._lines = Lines(self._notes.append, each=100, sources=10_000)
        self.endpoint = Endpoint(
            rng,
            t1=config.sip.t1,
            max_transactions=config.limits.transactions,
            max_of_source=config.sources.transactions,
            source_of=self._sources.of,
            is_peer=lambda flow, came: self._admission.is_peer(flow, came),
            servers_at=config.core.listen,  # TLS is mutual there
        )
        routes = Routes(config)
        self.calls = Calls(config, routes, self._sources, rng)
        self._ended: Counter[int] = Counter()  # calls that the proxy has ended, by the status that says why
        self._config = config
        self._rng = rng
        self._now = 0.0
        self._gateway = GatewayLink(
            frozenset((*(access.realm for access in config.access), config.core.realm)),
            config.gateway.grace,
            config.gateway.timeout,
            self.calls,
            self._carry_out,
            self._notes.append,
        )
        self._finding = Finding(dict.fromkeys(config.core.transports, config.core.listen), rng)
        self._forwarding = Forwarding(
            self.endpoint,
            self._finding,
            routes,
            config.core,
            rng,
            self._delivered,
            self._stray,
            lambda note: self._lines.tell("forwarding", note, self._now),
        )
        self._reg_event = RegEvent(config, routes, self.registrations, rng)
        if config.registration.reg_event:
            self.registrations.followers.append(self._reg_event.changed)
        self._admission = Admission(
            config, routes, self.registrations, self._sources, self._gateway, self.calls, self._reg_event, rng
        )
        self._responses = Responses(self.registrations, self.calls, self._lines.tell)
        self._kept = Kept(config, self.registrations, self.calls, self._gateway, self._notes.append)

    # -- the shell's face

    def receive(self, data: bytes, flow: Flow, now: float) -> None:
        """A datagram."""
        self._now = now
        self.endpoint.receive(data, flow, now)
        self._events()

    def receive_message(self, message: Request | Response, flow: Flow, now: float) -> None:
        """A message of a stream."""
        self._now = now
        self.endpoint.receive_message(message, flow, now)
        self._events()

    def refuse(self, error: BadMessage, flow: Flow) -> None:
        """Something on a stream that is no message."""
        self.endpoint.refuse(error, flow)

    def transport_failed(self, flow: Flow, now: float, error: str) -> None:
        self._now = now
        self.endpoint.transport_failed(flow, now, error)
        self._events()

    def closed(self, flow: Flow, now: float) -> None:
        """The connection of a peer that had opened it is gone."""
        self._now = now
        self.registrations.lose(flow)
        self.endpoint.closed(flow, now)
        self._events()

    def expire(self, now: float) -> None:
        self._now = now
        self.endpoint.expire(now)
        self._events()
        self._finding.expire(now)
        self._forwarding.expire(now)
        while (call := self.calls.expired(now)) is not None:
            call.expire(now)
            self._carry_out(call)
        for binding in self.registrations.expire(now):
            self._notes.append(Note(logging.INFO, f"registration of {binding.aor} expired"))
        self._reg_event.expire(now)
        self._follow_registrations()
        self._gateway.expire(now)

    def timeout(self) -> float | None:
        return earliest(
            self.endpoint.timeout(),
            self.calls.timeout(),
            self._finding.timeout(),
            self._forwarding.timeout(),
            self.registrations.timeout(),
            self._reg_event.timeout(),
            self._gateway.timeout(),
        )

    def to_send(self) -> list[tuple[Flow, bytes]]:
        return self.endpoint.to_send()

    def next_note(self) -> Note | None:
        return self._notes.popleft() if self._notes else None

    def shutdown(self, now: float) -> None:
        """End every call; what comes new is refused."""
        self._now = now
        self._admission.closing = True
        for call in list(self.calls.values()):
            call.end("the proxy is leaving", 503, now)
            self._carry_out(call)

    # -- what the intake asks

    def standing(self, flow: Flow, kind: Kind, now: float, messages: int = 1) -> Standing:
        return self._sources.standing(flow, kind, now, messages)

    def is_ignored(self, flow: Flow, now: float) -> bool:
        return self._sources.is_ignored(flow, now)

    def is_full(self, now: float) -> bool:
        return len(self.calls) >= self._config.limits.calls or self._gateway.is_full(now)

    def is_open(self, key: Key) -> bool:
        return self.endpoint.is_open(key)

    def status(self, now: float) -> dict[str, object]:
        """What is alive, as a JSON document; no key material."""
        counts = self.endpoint.counts()
        return {
            "name": self._config.name,
            "gateway": self._gateway.hello.name if self._gateway.hello else None,
            "registrations": [binding.status(now) for binding in self.registrations],
            "subscriptions": len(self._reg_event),
            "calls": [call.status(now) for call in self.calls.values()],
            "transactions": sum(count for name, count in counts.items() if name != "timers"),
            "timers": counts["timers"] + self.calls.timers + len(self._finding) + len(self._forwarding),
            "asked": self._gateway.outstanding,
            "quarantined": [f"{flow.transport} {flow.remote}" for flow in self._finding.quarantined(now)],
            "ended": {str(status): count for status, count in self._ended.items()},
            "drops": dict(self.endpoint.drops),
        }

    # -- events

    def _events(self) -> None:
        while (event := self.endpoint.next_event()) is not None:
            match event:
                case RequestReceived(transaction, request, flow):
                    self._request(transaction, request, flow)
                case ResponseReceived(transaction, response):
                    self._forwarding.response(transaction, response, self._now)
                case AckReceived(request, flow):
                    self._ack(request, flow)
                case CancelReceived(transaction, request):
                    self._cancel(transaction.owner, tuple(request.headers.lines("Reason")))
                case SenderGone(transaction):
                    # TS 24.229 clause 5.2.8.1.1
                    self._cancel(transaction.owner, (because(503),), "its connection has gone")
                case TransactionFailed(transaction, cause, detail):
                    # A response that did not get through is dropped, and nothing cancelled (RFC 3261 section
                    # 16.9): the next may get through, and a Via can name whoever does not answer.
                    if isinstance(transaction, ClientTransaction):
                        self._forwarding.failed(transaction, cause, detail, self._now)
                case TransactionEnded(transaction):
                    crossing, transaction.owner = transaction.owner, None
                    if isinstance(crossing, Crossing):
                        crossing.transaction_ended()
            self._follow_registrations()

    def _cancel(self, crossing: object, reasons: tuple[str, ...], why: str = "") -> None:
        """The sender of an INVITE does not want it any more, or cannot have it."""
        if isinstance(crossing, Crossing) and (call := crossing.call) is not None:
            if why and not crossing.answered:
                text = f"{call.token}: {crossing.request.method} cancelled for its sender: {why}"
                self._lines.tell(call.token, Note(logging.INFO, text), self._now)
            call.cancel(crossing, reasons, self._now)
            self._carry_out(call)

    def _delivered(self, crossing: Crossing, response: Response) -> None:
        """A response to what went out, or what stands for one that never came."""
        if crossing.subscription is not None:
            self._reg_event.responded(crossing.subscription, crossing.request, response, self._now)
        elif crossing.call is not None:
            crossing.call.response(crossing, response, self._now)
            self._carry_out(crossing.call)
        elif response.status != 100:
            self._respond(crossing, response.copy())

    def _stray(self, crossing: Crossing, response: Response) -> None:
        if crossing.call is not None:
            crossing.call.stray(crossing, response, self._now)
            self._carry_out(crossing.call)

    def _respond(self, crossing: Crossing, response: Response) -> None:
        """A response leaves towards the side its request came from."""
        if crossing.server is None:
            return
        if response.status >= 200:
            crossing.answered = response.status
        try:
            self._responses.prepare(crossing, response, self._now)
        except PeerError as error:
            self._refuse(crossing.server, error.status, error.reason)
        else:
            self.endpoint.respond(crossing.server, response, self._now)

    def _carry_out(self, call: Call) -> None:
        """Do what a call wants done, until it wants nothing more."""
        effects, now = call.effects, self._now
        while effects:
            todo = effects[:]
            effects.clear()
            for effect in todo:
                match effect:
                    case Send(crossing):
                        crossing.call = call
                        self._forwarding.send(crossing, now)
                    case Respond(crossing, response):
                        self._respond(crossing, response)
                    case Cancel(crossing, reasons):
                        self._forwarding.cancel(crossing, reasons, now)
                    case SendAck(request, flow, hops):
                        self._forwarding.acknowledge(request, flow, hops, now)
                    case Ask():
                        self._gateway.ask(call, effect, now)
                    case Ended(status):
                        self._ended[status] += 1
                    case Note():
                        self._lines.tell(call.token, effect, now)
        self.calls.keep(call)

    # -- requests

    def _request(self, transaction: ServerTransaction, request: Request, flow: Flow) -> None:
        crossing = self._admission.crossing(request, flow, transaction)
        try:
            call = self._admission.admit(crossing, self._now)
        except Answered as answer:
            self._refuse(transaction, answer.status, answer.reason, *answer.headers)
        except PeerError as error:
            self._refuse(transaction, error.status, error.reason)
        else:
            transaction.owner = crossing
            crossing.open += 1
            if call is not None:
                call.request(crossing, self._now)
                self._carry_out(call)
            else:
                self._forwarding.send(crossing, self._now)

    def _ack(self, request: Request, flow: Flow) -> None:
        """The ACK to a 2xx."""
        crossing = self._admission.crossing(request, flow)
        try:
            call = self._admission.admit_ack(crossing)
        except Dropped as dropped:
            self.endpoint.drops[dropped.reason] += 1
            return
        ack = SendAck(crossing.outgoing, crossing.flow, crossing.hops)
        call.acknowledge(request, ack, crossing.side, self._now)
        self._carry_out(call)

    def _refuse(
        self, transaction: ServerTransaction, status: int, reason: str, *headers: tuple[str, str]
    ) -> None:
        request = transaction.request
        if reason:
            headers += (("Warning", f"399 imsalg {quote(reason)}"),)
        if status == 423:
            headers += (("Min-Expires", str(self._config.registration.min_expires)),)
        if status == 503:
            headers += (("Retry-After", "5"),)
        if status != 200:
            text = f"{request.method} from {transaction.flow.remote}: {status} {reason}".rstrip()
            self._refusals.tell(self._sources.of(transaction.flow), Note(logging.INFO, text), self._now)
        if self._sources.is_stranger(transaction.flow):
            self.endpoint.refuse_stateless(transaction, status, headers, self._now)
            return
        response = make_response(request, status, to_tag=self._rng.randbytes(12).hex())
        for name, value in headers:
            response.headers.append(name, value)
        self.endpoint.respond(transaction, response, self._now)

    # -- what outlives a restart

    @property
    def has_to_store(self) -> bool:
        return self._kept.changed

    def to_store(self, epoch: float) -> Changes:
        """What has changed since this was asked last. epoch: what the wall clock shows at zero of `now`."""
        return self._kept.to_store(epoch)

    def store_failed(self) -> None:
        """What was given to be stored was not: the next changes are everything."""
        self._kept.everything()

    def restore(self, records: Iterable[bytes], now: float, epoch: float) -> None:
        """Before anything else: go on from the records of another life."""
        self._now = now
        self._kept.restore(records, now, epoch)
        if self._config.registration.reg_event:
            self._reg_event.resume(now)

    def _follow_registrations(self) -> None:
        """What the registrations have become is subscribed to; whom the home network has deregistered loses
        his calls (TS 24.229 clause 5.2.8)."""
        self._reg_event.settle(self._now)
        effects = self._reg_event.effects
        while effects:
            match effects.pop(0):
                case Send(crossing):
                    self._forwarding.send(crossing, self._now)
                case Deregistered(binding):
                    for call in self.calls.of(binding):
                        call.end("its UE was deregistered", 480, self._now)
                        self._carry_out(call)
                case Note() as note:
                    self._notes.append(note)

    # -- the DNS

    def to_ask(self) -> list[Question]:
        """Each wants one `answered`."""
        return self._finding.to_ask()

    def answered(self, question: Question, answer: Answer, now: float) -> None:
        self._now = now
        self._finding.answered(question, answer, now)
        self._follow_registrations()

    # -- the gateway

    def claims(self) -> tuple[str, ...]:
        """The contexts that calls still need; the gateway drops the others."""
        return self._gateway.claims()

    def iq_to_send(self) -> list[IqRequest]:
        return self._gateway.to_send()

    def gateway_up(self, hello: Hello, now: float) -> None:
        self._now = now
        self._gateway.up(hello, now)

    def gateway_down(self, now: float) -> None:
        self._now = now
        self._gateway.down(now)

    def gateway_message(self, message: Reply | ErrorReply | Notice, now: float) -> None:
        self._now = now
        self._gateway.message(message, now)
