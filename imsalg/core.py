"""The P-CSCF (IMS-ALG) as one machine without IO: the SIP endpoint, the registrations and the calls, joined.

This file routes: it says for each request who sent it, whether it may, where it goes, and what has to change
in its headers on the way (TS 24.229 clause 5.2). What then becomes of a call is the call's own business (see
`call`).

The token in our Path and Record-Route URIs is how a later request is recognised: it names a call, or else a
binding. A call that passes twice because both its parties are behind us is two calls with two tokens.

After every input, drain `to_send`, `iq_to_send` and `next_note`, and call `expire` at `timeout`.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import Protocol

from agw.iq.messages import ErrorReply, Hello, Notice, Reply
from agw.iq.messages import Request as IqRequest
from imsalg import mediasec, trust
from imsalg.anchor import Side
from imsalg.body import NEGOTIATING, drop_sdp
from imsalg.call import Call, Limits
from imsalg.config import AccessConfig, ProxyConfig
from imsalg.crossing import Ask, Cancel, Crossing, Note, Respond, Send, SendAck
from imsalg.errors import BadMessage, PeerError
from imsalg.gatelink import GatewayLink
from imsalg.negotiation import Terms
from imsalg.policy.treatment import Mechanism
from imsalg.registration import Binding, Registrations
from imsalg.routes import Routes, loop_mark, to
from imsalg.sip.endpoint import (
    AckReceived,
    CancelReceived,
    Cause,
    ClientTransaction,
    Endpoint,
    Flow,
    RequestReceived,
    ResponseReceived,
    ServerTransaction,
    TransactionFailed,
)
from imsalg.sip.grammar import quote
from imsalg.sip.headers import Headers
from imsalg.sip.message import Request, Response, make_response
from imsalg.sip.timers import Running, Timers
from imsalg.sip.values import NameAddr, Uri

MAX_NOTES = 10_000  # not yet fetched; more are dropped
_EXTENSIONS = frozenset(("mediasec", "sec-agree", "path"))  # what Proxy-Require may ask of us
_OF_CALLS = frozenset(("INVITE", "BYE", "UPDATE", "PRACK", "INFO"))  # never belong to another dialog
_RECORDED = frozenset(("INVITE", "SUBSCRIBE", "REFER"))  # make dialogs that have to come back this way


class Random(Protocol):
    """What is used of random.Random."""

    def randbytes(self, n: int, /) -> bytes: ...
    def getrandbits(self, k: int, /) -> int: ...


class Core:
    """See above. Every `now` is seconds of one monotonic clock."""

    def __init__(self, config: ProxyConfig, rng: Random) -> None:
        self.endpoint = Endpoint(rng, t1=config.sip.t1, max_transactions=config.limits.transactions)
        self.registrations = Registrations(
            config.limits.registrations, config.registration.min_expires, config.registration.max_expires
        )
        self.calls: dict[str, Call] = {}
        self._by_call_id: dict[str, dict[str, Call]] = {}
        self._config = config
        self._rng = rng
        self._access = {access.listen: access for access in config.access}
        self._routes = Routes(config)
        self._limits = Limits(config.call.ringing_limit, config.gateway.timeout)
        self._timers: Timers[Call] = Timers()
        self._running: dict[str, Running[Call]] = {}
        self._notes: deque[Note] = deque(maxlen=MAX_NOTES)
        self._now = 0.0
        self._closing = False
        self._gateway = GatewayLink(
            frozenset((*(access.realm for access in config.access), config.core.realm)),
            config.gateway.grace,
            self.calls,
            self._carry_out,
            self._notes.append,
        )

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

    def expire(self, now: float) -> None:
        self._now = now
        self.endpoint.expire(now)
        self._events()
        while (call := self._timers.expired(now)) is not None:
            self._running.pop(call.token, None)
            call.expire(now)
            self._carry_out(call)
        for binding in self.registrations.expire(now):
            self._note(logging.INFO, f"registration of {binding.aor} expired")
        self._gateway.expire(now)

    def timeout(self) -> float | None:
        times = (
            self.endpoint.timeout(),
            self._timers.next(),
            self.registrations.timeout(),
            self._gateway.deadline,
        )
        return min((time for time in times if time is not None), default=None)

    def to_send(self) -> list[tuple[Flow, bytes]]:
        return self.endpoint.to_send()

    def next_note(self) -> Note | None:
        return self._notes.popleft() if self._notes else None

    def shutdown(self, now: float) -> None:
        """End every call; what comes new is refused."""
        self._now = now
        self._closing = True
        for call in list(self.calls.values()):
            call.end("the proxy is leaving", 503, now)
            self._carry_out(call)

    def status(self, now: float) -> dict[str, object]:
        """What is alive, as a JSON document; no key material."""
        counts = self.endpoint.counts()
        return {
            "name": self._config.name,
            "gateway": self._gateway.hello.name if self._gateway.hello else None,
            "registrations": [_registration_status(binding, now) for binding in self.registrations],
            "calls": [call.status(now) for call in self.calls.values()],
            "transactions": sum(count for name, count in counts.items() if name != "timers"),
            "timers": counts["timers"] + len(self._timers),
            "asked": self._gateway.outstanding,
            "drops": dict(self.endpoint.drops),
        }

    # -- events

    def _events(self) -> None:
        while (event := self.endpoint.next_event()) is not None:
            match event:
                case RequestReceived(transaction, request, flow):
                    self._request(transaction, request, flow)
                case ResponseReceived(transaction, response):
                    self._response(transaction, response)
                case AckReceived(request, flow):
                    self._ack(request, flow)
                case CancelReceived(transaction, request):
                    if isinstance(crossing := transaction.owner, Crossing) and crossing.call is not None:
                        crossing.call.cancel(crossing, tuple(request.headers.lines("Reason")), self._now)
                        self._carry_out(crossing.call)
                case TransactionFailed(transaction, cause, detail):
                    self._failed(transaction, cause, detail)

    def _failed(self, transaction: ClientTransaction | ServerTransaction, cause: Cause, detail: str) -> None:
        crossing = transaction.owner
        if isinstance(transaction, ServerTransaction) or not isinstance(crossing, Crossing):
            return  # a response that did not get through; whoever waits for it has timers of its own
        method = crossing.request.method
        status = 503 if cause is Cause.TRANSPORT else 408
        self._note(logging.INFO, f"{method} to {transaction.flow.remote}: {cause} {detail}".rstrip())
        if crossing.call is not None:
            crossing.call.failed(crossing, status, self._now)
            self._carry_out(crossing.call)
        else:
            self._respond(crossing, make_response(crossing.request, status, to_tag=self._token()))

    def _response(self, transaction: ClientTransaction, response: Response) -> None:
        crossing = transaction.owner
        if not isinstance(crossing, Crossing):
            return
        if crossing.call is not None:
            crossing.call.response(crossing, response, self._now)
            self._carry_out(crossing.call)
        elif response.status != 100:
            self._respond(crossing, response.copy())

    def _respond(self, crossing: Crossing, response: Response) -> None:
        """A response leaves towards the side its request came from."""
        if crossing.server is None:
            return
        if response.status >= 200:
            crossing.answered = response.status
        if crossing.request.method not in NEGOTIATING:
            drop_sdp(response)
        headers = response.headers
        if crossing.registering is not None:
            self._registered(crossing, response)
        elif crossing.side is Side.ACCESS:
            headers.remove("Security-Server")
        if crossing.side is Side.ACCESS:
            trust.to_ue(headers)
        else:
            trust.from_ue(headers)
            binding = self.registrations.at(crossing.flow, crossing.request.to.uri)
            if binding is not None and response.status > 100:
                trust.assert_identity(headers, binding.associated)
            else:
                headers.remove("P-Preferred-Identity")
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
                        self._send(crossing)
                    case Respond(crossing, response):
                        self._respond(crossing, response)
                    case Cancel(crossing, reasons):
                        if crossing.client is not None:
                            headers = [("Reason", reason) for reason in reasons]
                            self.endpoint.cancel(crossing.client, now, headers)
                    case SendAck(request, flow):
                        self.endpoint.send(request, flow, now)
                    case Ask():
                        self._gateway.ask(call, effect, now)
                    case Note():
                        self._notes.append(effect)
        self._keep(call)
        self._arm(call)

    def _keep(self, call: Call) -> None:
        """In the tables for as long as it is not finished; a late 2xx may bring one back."""
        call_id = call.invite.request.call_id
        if not call.finished:
            self.calls[call.token] = call
            self._by_call_id.setdefault(call_id, {})[call.token] = call
        elif self.calls.pop(call.token, None) is not None:
            passes = self._by_call_id[call_id]
            del passes[call.token]
            if not passes:
                del self._by_call_id[call_id]

    def _arm(self, call: Call) -> None:
        running = self._running.get(call.token)
        when = None if call.finished else call.timeout()
        if running is not None:
            if running.when == when:
                return
            self._timers.cancel(running)
            del self._running[call.token]
        if when is not None:
            self._running[call.token] = self._timers.start(when, call)

    def _send(self, crossing: Crossing) -> None:
        suffix = loop_mark(crossing.request) if crossing.server is not None else ""
        crossing.client = self.endpoint.request(
            crossing.outgoing, crossing.flow, self._now, owner=crossing, branch_suffix=suffix
        )

    # -- requests

    def _request(self, transaction: ServerTransaction, request: Request, flow: Flow) -> None:
        try:
            self._admit(transaction, request, flow)
        except PeerError as error:
            self._refuse(transaction, error.status, error.reason)

    def _admit(self, transaction: ServerTransaction, request: Request, flow: Flow) -> None:
        """What holds for every request (RFC 3261 section 16.3). Raises PeerError with the status to refuse it
        with."""
        access = self._access.get(flow.local)
        outgoing = request.copy()
        headers = outgoing.headers
        if (
            access is None
            and len(self._config.core.trusted)
            and flow.remote.host not in self._config.core.trusted
        ):
            raise PeerError("not a trusted peer of the core side", 403)
        uri = Uri.parse(request.uri)
        if uri.scheme not in ("sip", "sips", "tel", "urn"):
            raise PeerError("a URI scheme that is not routed here", 416)
        hops = headers.get("Max-Forwards")
        if hops is not None and not (hops.isascii() and hops.isdigit() and len(hops) <= 3):
            raise PeerError("malformed Max-Forwards")
        if request.method == "OPTIONS" and self._routes.is_ours(uri) and uri.user is None:
            self._refuse(transaction, 200, "")
            return
        if hops is not None and int(hops) == 0:
            raise PeerError("too many hops", 483)
        headers.set("Max-Forwards", str(min(int(hops) if hops is not None else 71, 71) - 1))
        if self._routes.has_looped(request):
            raise PeerError("a loop", 482)
        unknown = [tag for tag in headers.values("Proxy-Require") if tag.lower() not in _EXTENSIONS]
        if unknown:
            self._refuse(transaction, 420, "", ("Unsupported", ", ".join(unknown)))
            return
        if access is not None:
            if not mediasec.verified(headers, access.mechanisms) or _wants_agreement(headers):
                self._refuse(
                    transaction, 494, "", *(("Security-Server", f"{m};mediasec") for m in access.mechanisms)
                )
                return
            mediasec.strip(headers)
            trust.from_ue(headers)
        crossing = Crossing(
            Side.CORE if access is None else Side.ACCESS, request, outgoing, flow, transaction
        )
        transaction.owner = crossing
        if request.method not in NEGOTIATING:
            drop_sdp(outgoing)
        token = self._routes.pop(outgoing)
        if request.method == "REGISTER":
            self._register(crossing, access, flow)
        elif request.to.tag is not None:
            self._within(crossing, token)
        elif access is not None:
            self._from_ue(crossing, access)
        else:
            self._from_core(crossing, token)

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
            self._note(
                logging.INFO, f"{request.method} from {transaction.flow.remote}: {status} {reason}".rstrip()
            )
        if self._is_stranger(transaction.flow):
            self.endpoint.refuse_stateless(transaction, status, headers, self._now)
            return
        response = make_response(request, status, to_tag=self._token())
        for name, value in headers:
            response.headers.append(name, value)
        self.endpoint.respond(transaction, response, self._now)

    def _is_stranger(self, flow: Flow) -> bool:
        """On the access side, neither registered nor trusted."""
        access = self._access.get(flow.local)
        return (
            access is not None
            and flow.remote.host not in access.trusted
            and self.registrations.at(flow) is None
        )

    def _register(self, crossing: Crossing, access: AccessConfig | None, flow: Flow) -> None:
        """TS 24.229 clause 5.2.2.1: Path, what the UE may not say, and where it goes."""
        if access is None:
            raise PeerError("REGISTER from the core", 403)
        if self._closing:
            raise PeerError("leaving", 503)
        registering = self.registrations.begin(crossing.request, flow, access, self._rng)
        crossing.registering = registering
        headers = crossing.outgoing.headers
        headers.remove("Route")
        headers.prepend("Path", self._routes.path(registering.token))
        if "path" not in (tag.lower() for tag in headers.values("Require")):
            headers.append("Require", "path")
        headers.set("P-Visited-Network-ID", quote(self._config.visited_network))
        self._charge(headers)
        crossing.flow = self._routes.to_home(crossing.outgoing)
        self._send(crossing)

    def _registered(self, crossing: Crossing, response: Response) -> None:
        """The registrar's response: what it makes of the binding, and what is announced to the UE in it."""
        registering = crossing.registering
        if registering is None:
            return
        headers = response.headers
        headers.remove("Security-Server")
        if response.status in (200, 401, 407) and registering.speaks_mediasec:
            mediasec.announce(headers, registering.access.mechanisms)
        if response.status == 200:
            before = self.registrations.find(registering.token)
            binding = self.registrations.registered(registering, response, self._now)
            if binding is None and before is not None:
                self._note(logging.INFO, f"{registering.aor} is not registered any more")
            elif binding is not None:
                if before is not None and before.flow != binding.flow:
                    self._follow(before, binding)
                what = ", ".join(sorted(binding.mechanisms)) or "no media security"
                where = f"{binding.flow.transport} {binding.flow.remote}"
                self._note(logging.INFO, f"{binding.aor} is registered from {where}: {what}")

    def _follow(self, before: Binding, after: Binding) -> None:
        """A UE has registered from somewhere else: its calls are reached there as well."""
        for call in self.calls.values():
            if call.aor == after.aor and call.flows[Side.ACCESS] == before.flow:
                call.flows[Side.ACCESS] = after.flow

    def _from_ue(self, crossing: Crossing, access: AccessConfig) -> None:
        """An initial request from a UE (TS 24.229 clause 5.2.6.3)."""
        request, headers = crossing.request, crossing.outgoing.headers
        flow = crossing.flow
        preferred = headers.first("P-Preferred-Identity")
        identity = NameAddr.parse(preferred).uri if preferred else request.from_.uri
        binding = self.registrations.at(flow, identity)
        mechanisms: frozenset[Mechanism] = frozenset()
        if binding is not None:
            mechanisms = binding.mechanisms
            trust.assert_identity(headers, binding.associated)
            headers.set("Route", *binding.service_route)  # forced, whatever the UE preloaded
        elif flow.remote.host in access.trusted:
            headers.remove("P-Preferred-Identity")
        elif access.emergency and _is_emergency(request):
            headers.remove("P-Preferred-Identity", "Route")  # who is not known does not say where it goes
        else:
            raise PeerError("not registered", 403)
        self._charge(headers)
        crossing.flow = self._routes.to_home(crossing.outgoing)
        self._initial(crossing, access, binding, mechanisms)

    def _from_core(self, crossing: Crossing, token: str | None) -> None:
        """An initial request for a UE (TS 24.229 clause 5.2.6.4)."""
        binding = self.registrations.find(token) if token else None
        crossing.flow, access, binding = self._to_ue(crossing.outgoing, binding)
        trust.to_ue(crossing.outgoing.headers)
        self._initial(crossing, access, binding, binding.mechanisms if binding else frozenset())

    def _to_ue(self, outgoing: Request, binding: Binding | None) -> tuple[Flow, AccessConfig, Binding | None]:
        """The flow of the UE a request is for: that of its binding, or a trusted peer's address."""
        binding = binding or self.registrations.by_contact(outgoing.uri)
        if binding is not None:
            return binding.flow, binding.access, binding
        uri = Uri.parse(outgoing.uri)
        for access in self._config.access:
            if uri.host in access.trusted and not self._routes.is_ours(uri):
                return to(uri, access.listen), access, None
        raise PeerError("not registered here", 404)

    def _initial(
        self,
        crossing: Crossing,
        access: AccessConfig,
        binding: Binding | None,
        mechanisms: frozenset[Mechanism],
    ) -> None:
        """A request outside of dialogs leaves: recorded if it makes one, as a call if it is an INVITE."""
        method = crossing.request.method
        if method != "INVITE":
            if method in _OF_CALLS:
                raise PeerError("no such call", 481)
            if method in _RECORDED:
                self._routes.record(crossing, access, binding.token if binding else None)
            self._send(crossing)
            return
        if self._closing or len(self.calls) >= self._config.limits.calls:
            raise PeerError("no new calls", 503)
        if self._gateway.hello is None:
            raise PeerError("no gateway", 503)
        token = self._token()
        self._routes.record(crossing, access, token)
        terms = Terms(
            mechanisms & frozenset(access.mechanisms),
            access.type,
            self._config.policy,
            {Side.ACCESS: access.realm, Side.CORE: self._config.core.realm},
            {Side.ACCESS: access.listen.host, Side.CORE: self._config.core.listen.host},
            self._config.call.inactivity,
        )
        aor = binding.aor if binding else ""
        call = Call(token, crossing, terms, self._limits, self._routes.to_core_or, self._rng, self._now, aor)
        call.request(crossing, self._now)
        self._carry_out(call)

    def _within(self, crossing: Crossing, token: str | None) -> None:
        """A request within a dialog: of a call, or of another dialog that was recorded with a binding's
        token."""
        outgoing = crossing.outgoing
        call = self._call_of(crossing.request, outgoing, token, crossing.side, crossing.flow)
        binding = self.registrations.find(token) if token else None
        if crossing.side is Side.CORE:
            if call is not None:
                crossing.flow = call.flows[Side.ACCESS]
            elif crossing.request.method not in _OF_CALLS:
                crossing.flow = self._to_ue(outgoing, binding)[0]
            else:
                raise PeerError("no such call", 481)
            trust.to_ue(outgoing.headers)
        else:
            here = self.registrations.at(crossing.flow, crossing.request.from_.uri)
            trusted = crossing.flow.remote.host in self._access[crossing.flow.local].trusted
            if call is None and (crossing.request.method in _OF_CALLS or not (here or trusted)):
                raise PeerError("no such call", 481)
            if call is not None and not self._is_its_ue(call, crossing.flow):
                raise PeerError("not from where this call's UE is", 403)
            if here is not None:
                trust.assert_identity(outgoing.headers, here.associated)
            else:
                outgoing.headers.remove("P-Preferred-Identity")
            if call is not None:
                crossing.flow = self._routes.in_dialog(outgoing, call.far_end(crossing.request, Side.ACCESS))
            elif here is not None:
                crossing.flow = self._routes.by_home(outgoing, here.service_route)
            else:
                crossing.flow = self._routes.to_core(outgoing)
        if call is not None:
            call.request(crossing, self._now)
            self._carry_out(call)
        else:
            self._send(crossing)

    def _ack(self, request: Request, flow: Flow) -> None:
        """The ACK to a 2xx."""
        access = self._access.get(flow.local)
        outgoing = request.copy()
        try:
            hops = int(outgoing.headers.get("Max-Forwards") or "70") - 1
            token = self._routes.pop(outgoing)
            side = Side.CORE if access is None else Side.ACCESS
            call = self._call_of(request, outgoing, token, side, flow)
            if call is None or hops < 0:
                self.endpoint.drops["ack-of-no-call"] += 1
                return
            outgoing.headers.set("Max-Forwards", str(min(hops, 70)))
            if access is not None:
                mediasec.strip(outgoing.headers)
                trust.from_ue(outgoing.headers)
                outgoing.headers.remove("P-Preferred-Identity")
                if not self._is_its_ue(call, flow):
                    self.endpoint.drops["ack-of-a-stranger"] += 1
                    return
                to = self._routes.in_dialog(outgoing, call.far_end(request, Side.ACCESS))
            else:
                trust.to_ue(outgoing.headers)
                to = call.flows[Side.ACCESS]
        except (PeerError, ValueError):
            self.endpoint.drops["malformed"] += 1
            return
        call.acknowledge(request, outgoing, side, to, self._now)
        self._carry_out(call)

    def _call_of(
        self, request: Request, outgoing: Request, token: str | None, side: Side, flow: Flow
    ) -> Call | None:
        """The call a request within a dialog belongs to: by the token in its Route. A peer that does not
        keep route sets, as many test tools, is told by Call-ID, tags and flow; its request is routed as it
        should have been."""
        if token is not None:
            return self.calls.get(token)
        for call in self._by_call_id.get(request.call_id, {}).values():
            party = call.addressee(request, side, flow)
            if party is not None:
                outgoing.uri = party.target
                outgoing.headers.set("Route", *party.routes)
                return call
        return None

    def _is_its_ue(self, call: Call, flow: Flow) -> bool:
        """Whether a flow is that of a call's UE. The token alone does not say so: the other end knows it."""
        before = call.flows[Side.ACCESS].remote
        if flow.remote == before:
            return True
        owners = self.registrations.aors(flow)
        return call.aor in owners if owners else flow.remote.host == before.host

    def _charge(self, headers: Headers) -> None:
        """A charging identity for what goes to the core (RFC 7315 section 4.6)."""
        headers.set(
            "P-Charging-Vector",
            f'icid-value="{self._token()}";icid-generated-at={self._config.core.listen.host}',
        )

    def _token(self) -> str:
        return self._rng.randbytes(12).hex()

    def _note(self, level: int, text: str) -> None:
        self._notes.append(Note(level, text))

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


def _wants_agreement(headers: Headers) -> bool:
    """RFC 3329 section 2.3.1: sec-agree is demanded and nothing was verified. We have no mechanism for
    signalling to agree on, so all such a UE can mirror are the media mechanisms."""
    demanded = [tag.lower() for name in ("Require", "Proxy-Require") for tag in headers.values(name)]
    return "sec-agree" in demanded and not mediasec.entries(headers, "Security-Verify")


def _is_emergency(request: Request) -> bool:
    """RFC 5031: urn:service:sos and what is below it."""
    uri = Uri.parse(request.uri)
    return uri.scheme == "urn" and (uri.opaque + ".").lower().startswith("service:sos.")


def _registration_status(binding: Binding, now: float) -> dict[str, object]:
    return {
        "aor": binding.aor,
        "contact": next(iter(binding.contacts), ""),
        "mechanisms": sorted(binding.mechanisms),
        "flow": f"{binding.flow.transport} {binding.flow.remote}",
        "expires_in": round(binding.expires - now),
    }
