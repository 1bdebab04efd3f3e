"""A small SIP core for first runs and tests: registrar and router on one address, as a machine without IO.

It stands where I-CSCF and S-CSCF stand: it challenges REGISTER, says its Service-Route, and takes each
request to the bindings of whom it names, by the Path they registered with; to all of them at once (RFC 3261
section 16). Phones may also register here directly, which makes them peers outside of the proxy's network.
Session descriptions are never looked at.

The user part "orig" of the Service-Route says what a real S-CSCF would make of it; here a request is served
the same way whoever sent it. Strict routers (RFC 2543) are not served, sips and tel URIs are refused.
"""

from __future__ import annotations

from itertools import dropwhile
from random import Random
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from imsalg.config import parse_address
from imsalg.errors import BadMessage, PeerError
from imsalg.lab.fork import Fork
from imsalg.lab.registrar import Refused, Registrar
from imsalg.sip.endpoint import Endpoint
from imsalg.sip.events import (
    AckReceived,
    CancelReceived,
    Cause,
    ClientTransaction,
    Event,
    RequestReceived,
    ResponseReceived,
    TransactionEnded,
    TransactionFailed,
)
from imsalg.sip.grammar import number, quote
from imsalg.sip.hop import Flow, Transport
from imsalg.sip.locate import is_numeric
from imsalg.sip.message import Request, Response, make_response
from imsalg.sip.timers import Timers, earliest
from imsalg.sip.values import Address, NameAddr, Uri, Via

MAX_FORWARDS = 70  # given to a request that has none (RFC 3261 section 16.6 step 3)
MAX_VISITS = 2  # how often one request may have been here already: what forks must not loop (RFC 5393)
TIMER_C = 200.0  # seconds an INVITE may go without news, then it is cancelled (RFC 3261 section 16.6 step 11)
DIALOG_FORMING = ("INVITE", "SUBSCRIBE", "REFER")


class LabConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """listen: host:port, UDP and TCP. password: every user's. routes: user -> the SIP URI that stands for him
    without registration. aliases: addresses that phones may take for the domain, such as the proxy's, which
    many are told as their "server". status: path of a Unix socket as the proxy's; empty: there is none."""

    listen: str = "127.0.0.1:5064"
    domain: str = "ims.test"
    password: str = "lab"
    routes: dict[str, str] = {}
    aliases: tuple[str, ...] = ()
    status: str = ""


class LabCore:
    """Driven by the Shell. `now` is absolute seconds of one monotonic clock."""

    def __init__(self, config: LabConfig, rng: Random) -> None:
        """Raises ValueError for an address, BadMessage for a route that is none."""
        self._here = parse_address(config.listen, "listen: ")
        self._domain = config.domain
        self._home = {self._here, *(parse_address(alias, "aliases: ") for alias in config.aliases)}
        self._routes = {user: Uri.parse(uri) for user, uri in config.routes.items()}
        self._rng = rng
        self._endpoint = Endpoint(rng, servers_at=self._here)
        self._registrar = Registrar(
            config.domain, config.password, f"sip:orig@{self._here};lr", self._is_home, rng
        )
        self._forks: Timers[Fork] = Timers()  # timer C of those that are INVITEs

    # -- what the shell drives -------------------------------------------------------------------------------

    def receive(self, data: bytes, flow: Flow, now: float) -> None:
        self._endpoint.receive(data, flow, now)
        self._work(now)

    def receive_message(self, message: Request | Response, flow: Flow, now: float) -> None:
        self._endpoint.receive_message(message, flow, now)
        self._work(now)

    def refuse(self, error: BadMessage, flow: Flow) -> None:
        self._endpoint.refuse(error, flow)

    def transport_failed(self, flow: Flow, now: float, error: str) -> None:
        self._endpoint.transport_failed(flow, now, error)
        self._work(now)

    def closed(self, flow: Flow, now: float) -> None:
        self._endpoint.closed(flow, now)
        self._work(now)

    def expire(self, now: float) -> None:
        self._registrar.expire(now)
        while (fork := self._forks.expired(now)) is not None:
            self._cancel(fork, now)
        self._endpoint.expire(now)
        self._work(now)

    def timeout(self) -> float | None:
        return earliest(self._registrar.timeout(), self._forks.next(), self._endpoint.timeout())

    def to_send(self) -> list[tuple[Flow, bytes]]:
        return self._endpoint.to_send()

    def status(self, now: float) -> dict[str, Any]:
        """What is alive, as a JSON document."""
        counts = self._endpoint.counts()
        return {
            "registrations": self._registrar.status(now),
            "transactions": sum(count for name, count in counts.items() if name != "timers"),
            "drops": dict(self._endpoint.drops),
        }

    # -- events ----------------------------------------------------------------------------------------------

    def _work(self, now: float) -> None:
        while (event := self._endpoint.next_event()) is not None:
            self._serve(event, now)

    def _serve(self, event: Event, now: float) -> None:
        match event:
            case RequestReceived(transaction, request):
                try:
                    self._request(event, now)
                except PeerError as error:
                    response = make_response(request, error.status, to_tag=self._tag())
                    response.headers.append("Warning", f"399 lab {quote(error.reason)}")
                    for name, value in error.headers if isinstance(error, Refused) else ():
                        response.headers.append(name, value)
                    self._endpoint.respond(transaction, response, now)
            case AckReceived(request):
                self._acknowledge(request, now)
            case CancelReceived(transaction):
                if isinstance(transaction.owner, Fork):
                    self._cancel(transaction.owner, now)
            case ResponseReceived(branch, response):
                self._response(branch, response, now)
            case TransactionFailed(ClientTransaction() as branch, cause) if isinstance(branch.owner, Fork):
                # RFC 3261 sections 16.8 and 16.9; a 503 of our own making would go back as a 500
                status = 408 if cause is Cause.TIMEOUT else 500
                request = branch.owner.server.request
                self._response(branch, make_response(request, status, to_tag=self._tag()), now)
            case TransactionEnded(transaction):
                transaction.owner = None

    def _request(self, event: RequestReceived, now: float) -> None:
        request = event.request.copy()
        self._count_hop(request)
        self._drop_own_routes(request)
        if "Route" not in request.headers and self._is_home(uri := self._sip_uri(request.uri)):
            if request.method == "REGISTER":
                response = self._registrar.register(request, now)
                return self._endpoint.respond(event.transaction, self._tagged(response), now)
            if request.method == "OPTIONS" and uri.user is None:  # who asks whether we are there
                response = make_response(request, 200, to_tag=self._tag())
                return self._endpoint.respond(event.transaction, response, now)
            targets = self._targets(uri)
        else:
            targets = [(request.uri, ())]
        self._fork(event, request, targets, now)
        return None

    def _acknowledge(self, request: Request, now: float) -> None:
        request = request.copy()
        try:
            self._count_hop(request)
            self._drop_own_routes(request)
            flow = self._next_hop(request)
        except PeerError:
            return  # an ACK is never answered
        self._endpoint.send(request, flow, now)

    def _response(self, branch: ClientTransaction, response: Response, now: float) -> None:
        fork = branch.owner
        assert isinstance(fork, Fork)
        if response.status < 200:
            if response.status > 100 and not fork.done:
                self._start_timer_c(fork, now)
                self._endpoint.respond(fork.server, response, now)
            return
        back = fork.final(branch, response)
        if response.status < 300 or response.status >= 600:
            self._cancel(fork, now)
        if not fork.pending and fork.timer:
            self._forks.cancel(fork.timer)
        if back is not None:
            self._endpoint.respond(fork.server, back, now)

    # -- routing ---------------------------------------------------------------------------------------------

    def _count_hop(self, request: Request) -> None:
        """RFC 3261 section 16.3 steps 3 and 4."""
        said = request.headers.get("Max-Forwards")
        left = MAX_FORWARDS + 1 if said is None else number(said, 255)
        if left is None:
            raise Refused("malformed Max-Forwards", 400)
        if left == 0:
            raise Refused("Max-Forwards is used up", 483)
        request.headers.set("Max-Forwards", str(left - 1))
        vias = [Via.parse(value) for value in request.headers.values("Via")]
        if sum((via.host, via.port) == self._here for via in vias) > MAX_VISITS:
            raise Refused("this request goes in circles", 482)
        if tags := request.headers.values("Proxy-Require"):
            raise Refused("extension required", 420, ("Unsupported", ", ".join(tags)))

    def _drop_own_routes(self, request: Request) -> None:
        """RFC 3261 section 16.4; there are two in a row where we have changed the transport."""
        routes = request.headers.values("Route")
        left = list(dropwhile(lambda route: self._is_here(NameAddr.parse(route).parsed_uri), routes))
        if len(left) < len(routes):
            request.headers.set("Route", *left)

    def _is_here(self, uri: Uri) -> bool:
        return uri.host.lower() == self._domain or (uri.host, uri.port or 5060) == self._here

    def _is_home(self, uri: Uri) -> bool:
        """An address without port is an alias too: phones write no port in To (RFC 3261 section 19.1.1)."""
        if uri.host.lower() == self._domain:
            return True
        return any(uri.host == host and uri.port in (None, port) for host, port in self._home)

    def _sip_uri(self, text: str) -> Uri:
        uri = Uri.parse(text)
        if uri.scheme != "sip":
            raise Refused(f"only sip URIs are served, not {uri.scheme}", 416)
        return uri

    def _targets(self, uri: Uri) -> list[tuple[str, tuple[str, ...]]]:
        """Request-URI and Route values for each place where a user of ours is."""
        if uri.user in self._routes:
            static = self._routes[uri.user]
            return [(str(static if static.user else replace(static, user=uri.user)), ())]
        bindings = self._registrar.bindings(uri.user or "")
        if bindings is None:
            raise Refused("nobody of this name has been here", 404)
        if not bindings:
            raise Refused("not registered any more", 480)
        return [(binding.uri, binding.path) for binding in bindings]

    def _fork(
        self, event: RequestReceived, request: Request, targets: list[tuple[str, tuple[str, ...]]], now: float
    ) -> None:
        """Send the request to all targets, or raise PeerError before the first."""
        branches = []
        for uri, path in targets:
            branch = request.copy()
            branch.uri = uri
            for route in reversed(path):
                branch.headers.prepend("Route", route)
            flow = self._next_hop(branch)
            if request.method in DIALOG_FORMING and request.to.tag is None:
                self._record_route(branch, event.flow.transport, flow.transport)
            branches.append((branch, flow))
        fork = Fork(event.transaction)
        event.transaction.owner = fork
        if request.method == "INVITE":
            fork.timer = self._forks.start(now + TIMER_C, fork)
        for branch, flow in branches:
            fork.pending.add(self._endpoint.request(branch, flow, now, owner=fork))

    def _next_hop(self, request: Request) -> Flow:
        route = request.headers.first("Route")
        uri = self._sip_uri(NameAddr.parse(route).uri if route else request.uri)
        transport = Transport.of(uri)
        if transport not in (Transport.UDP, Transport.TCP):
            raise Refused("a transport that is not served", 416)
        if not is_numeric(uri.host):
            raise Refused(f"{uri.host} is not looked up here: numeric addresses only", 503)
        remote = Address(uri.host, uri.port or transport.default_port)
        if remote == self._here:
            raise Refused("this request would come back", 482)
        return Flow(transport, self._here, remote)

    def _record_route(self, request: Request, came: Transport, goes: Transport) -> None:
        """One line, or one for each side where the transports differ (RFC 5658 section 4.1)."""
        for transport in dict.fromkeys((came, goes)):
            request.headers.prepend("Record-Route", f"<sip:{self._here}{transport.uri_param};lr>")

    # -- small steps -----------------------------------------------------------------------------------------

    def _cancel(self, fork: Fork, now: float) -> None:
        if fork.server.request.method == "INVITE":
            for branch in fork.pending:
                self._endpoint.cancel(branch, now)

    def _start_timer_c(self, fork: Fork, now: float) -> None:
        if fork.timer is not None:
            self._forks.cancel(fork.timer)
            fork.timer = self._forks.start(now + TIMER_C, fork)

    def _tagged(self, response: Response) -> Response:
        if response.to.tag is None:
            response.headers.set("To", f"{response.headers.get('To')};tag={self._tag()}")
        return response

    def _tag(self) -> str:
        return f"{self._rng.getrandbits(48):012x}"
