"""What a P-CSCF does with each request before it leaves (TS 24.229 clause 5.2): who sent it, whether it may,
where it goes, and what changes in its header fields on the way.

`admit` makes a crossing ready to leave, or raises PeerError with the status to refuse it with. The token in
our Path and Record-Route URIs is how a later request is recognised: it names a call, or else a binding. A
call that passes twice because both its parties are behind us is two calls with two tokens.
"""

from __future__ import annotations

from collections.abc import Collection
from random import Random

from imsalg import mediasec, trust
from imsalg.anchor import Side
from imsalg.body import NEGOTIATING, drop_sdp
from imsalg.call import Call
from imsalg.calls import Calls
from imsalg.config import AccessConfig, ProxyConfig
from imsalg.crossing import Crossing
from imsalg.errors import PeerError
from imsalg.gatelink import GatewayLink
from imsalg.regevent import RegEvent
from imsalg.registration import Binding, Registrations
from imsalg.routes import Routes, to
from imsalg.sip.events import ServerTransaction
from imsalg.sip.grammar import number, quote
from imsalg.sip.headers import Headers
from imsalg.sip.hop import Flow
from imsalg.sip.message import Request
from imsalg.sip.values import NameAddr, Uri
from imsalg.sources import Sources

_EXTENSIONS = frozenset((mediasec.OPTION_TAG, mediasec.AGREEMENT, "path"))  # what Proxy-Require may ask of us
_OF_CALLS = frozenset(("INVITE", "BYE", "UPDATE", "PRACK", "INFO"))  # never belong to another dialog
_RECORDED = frozenset(("INVITE", "SUBSCRIBE", "REFER"))  # make dialogs that have to come back this way


class Answered(PeerError):
    """The proxy answers the request itself, with these header fields."""

    def __init__(self, status: int, *headers: tuple[str, str]) -> None:
        super().__init__("", status)
        self.headers = headers


class Dropped(PeerError):
    """An ACK that goes nowhere; the reason is what `drops` calls it."""


class Admission:
    """closing: no new calls and registrations."""

    def __init__(
        self,
        config: ProxyConfig,
        routes: Routes,
        registrations: Registrations,
        sources: Sources,
        gateway: GatewayLink,
        calls: Calls,
        reg_event: RegEvent,
        rng: Random,
    ) -> None:
        self.closing = False
        self._config = config
        self._registrations = registrations
        self._sources = sources
        self._gateway = gateway
        self._calls = calls
        self._reg_event = reg_event
        self._rng = rng
        self._access = {access.listen: access for access in config.access}
        self._routes = routes

    def crossing(
        self, request: Request, flow: Flow, transaction: ServerTransaction | None = None
    ) -> Crossing:
        """A request that came on `flow` sets out to the other side."""
        side = Side.ACCESS if flow.local in self._access else Side.CORE
        return Crossing(side, request, request.copy(), flow, server=transaction)

    def admit(self, crossing: Crossing, now: float) -> Call | None:
        """A request of a server transaction: the call that is to take it; None: it leaves as `outgoing` by
        `flow` or `hops`. Raises PeerError (RFC 3261 section 16.3)."""
        request, headers, flow = crossing.request, crossing.outgoing.headers, crossing.flow
        access = self._access.get(flow.local)
        if access is None and not self._is_home(flow):
            raise PeerError("not a trusted peer of the core side", 403)
        uri = Uri.parse(request.uri)
        if uri.scheme not in ("sip", "sips", "tel", "urn"):
            raise PeerError("a URI scheme that is not routed here", 416)
        if uri.headers:  # they must not be passed on (RFC 3261 section 19.1.1, RFC 4475 section 3.1.2.11)
            raise PeerError("header fields in the Request-URI")
        hops = _hops(headers)
        if request.method == "OPTIONS" and self._routes.is_ours(uri) and uri.user is None:
            raise Answered(200)
        if request.method == "NOTIFY" and self._routes.is_ours(uri):
            if access is not None:
                raise PeerError("only the home network notifies us", 403)
            self._reg_event.notified(request, now)
            raise Answered(200)
        if hops == 0:
            raise PeerError("too many hops", 483)
        headers.set("Max-Forwards", str(min(hops - 1, 70)))
        if self._routes.has_looped(request):
            raise PeerError("a loop", 482)
        unknown = [tag for tag in headers.values("Proxy-Require") if tag.lower() not in _EXTENSIONS]
        if unknown:
            raise Answered(420, ("Unsupported", ", ".join(unknown)))
        if access is not None:
            tokens = mediasec.served(access.mechanisms, self._config.policy.e2dce).values()
            if not mediasec.verified(headers, tokens) or _wants_agreement(headers):
                raise _disagreement(tokens)
            mediasec.strip(headers)
            trust.from_ue(headers)
        if request.method not in NEGOTIATING:
            drop_sdp(crossing.outgoing)
        token = self._routes.pop(crossing.outgoing)
        if request.method == "REGISTER":
            self._register(crossing, access)
            return None
        if request.to.tag is not None:
            return self._within(crossing, token)
        if access is not None:
            return self._from_ue(crossing, access, now)
        return self._from_core(crossing, token, now)

    def admit_ack(self, crossing: Crossing) -> Call:
        """The ACK to a 2xx: its call; it leaves as `outgoing` by `flow` or `hops`. Raises Dropped."""
        request, outgoing, flow = crossing.request, crossing.outgoing, crossing.flow
        if crossing.side is Side.CORE and not self._is_home(flow):
            raise Dropped("ack-of-a-stranger")
        try:
            hops = _hops(outgoing.headers)
            token = self._routes.pop(outgoing)
            call = self._call_of(crossing, token)
            if call is None or hops == 0:
                raise Dropped("ack-of-no-call")
            outgoing.headers.set("Max-Forwards", str(min(hops - 1, 70)))
            if crossing.side is Side.ACCESS:
                mediasec.strip(outgoing.headers)
                trust.from_ue(outgoing.headers)
                outgoing.headers.remove("P-Preferred-Identity")
                if not self._is_its_ue(call, flow):
                    raise Dropped("ack-of-a-stranger")
                crossing.hops = self._routes.in_dialog(outgoing, call.far_end(request, Side.ACCESS))
            else:
                trust.to_ue(outgoing.headers)
                crossing.flow = call.flows[Side.ACCESS]
        except Dropped:
            raise
        except PeerError:
            raise Dropped("malformed") from None
        return call

    def is_peer(self, flow: Flow, came: Flow) -> bool:
        """Whether a response or a CANCEL that came on the second flow may be of the peer that a transaction
        has the first one to. To know the branch is not enough: Via shows it to all who are further on, and
        the last of these may be a UE of ours."""
        if flow.local != came.local:
            return False
        access = self._access.get(flow.local)
        if access is None:
            return self._is_home(came)
        return flow.remote.host == came.remote.host or came.remote.host in access.trusted

    def _is_home(self, flow: Flow) -> bool:
        """Who may speak on the core side."""
        trusted = self._config.core.trusted
        return not len(trusted) or flow.remote.host in trusted

    # -- outside of dialogs

    def _register(self, crossing: Crossing, access: AccessConfig | None) -> None:
        """TS 24.229 clause 5.2.2.1: Path, what the UE may not say, and where it goes."""
        if access is None:
            raise PeerError("REGISTER from the core", 403)
        if self.closing:
            raise PeerError("leaving", 503)
        registering = self._registrations.begin(crossing.request, crossing.flow, access, self._rng)
        crossing.registering = registering
        headers = crossing.outgoing.headers
        headers.remove("Route")
        if "path" not in (tag.lower() for tag in headers.values("Require")):
            headers.append("Require", "path")
        headers.set("P-Visited-Network-ID", quote(self._config.visited_network))
        self._charge(headers)
        crossing.hops = self._routes.to_home(crossing.outgoing)
        outbound = _is_outbound(crossing.request)
        headers.prepend("Path", self._routes.path(registering.token, crossing.hops, outbound=outbound))

    def _from_ue(self, crossing: Crossing, access: AccessConfig, now: float) -> Call | None:
        """An initial request from a UE (TS 24.229 clause 5.2.6.3)."""
        request, headers = crossing.request, crossing.outgoing.headers
        flow = crossing.flow
        preferred = headers.first("P-Preferred-Identity")
        identity = NameAddr.parse(preferred).uri if preferred else request.from_.uri
        binding = self._registrations.at(flow, identity)
        if binding is not None:
            trust.assert_identity(headers, binding.associated)
            headers.set("Route", *binding.service_route)  # forced, whatever the UE preloaded
        elif flow.remote.host in access.trusted:
            headers.remove("P-Preferred-Identity")
        elif access.emergency and _is_emergency(request):
            headers.remove("P-Preferred-Identity", "Route")  # who is not known does not say where it goes
        else:
            raise PeerError("not registered", 403)
        if request.method == "INVITE" and not self._sources.may_call(flow):
            raise PeerError("too many calls of this peer", 503)
        self._charge(headers)
        crossing.hops = self._routes.to_home(crossing.outgoing)
        return self._initial(crossing, access, binding, now)

    def _from_core(self, crossing: Crossing, token: str | None, now: float) -> Call | None:
        """An initial request for a UE (TS 24.229 clause 5.2.6.4)."""
        binding = self._registrations.find(token) if token else None
        if binding is None and token and self._registrations.tokens.is_ours(token):
            raise PeerError("nobody is registered there any more", 430)  # RFC 5626 section 5.3
        crossing.flow, access, binding = self._to_ue(crossing.outgoing, binding)
        trust.to_ue(crossing.outgoing.headers)
        return self._initial(crossing, access, binding, now)

    def _to_ue(self, outgoing: Request, binding: Binding | None) -> tuple[Flow, AccessConfig, Binding | None]:
        """The flow of the UE a request is for: that of its binding, or a trusted peer's address."""
        if binding is None:
            said = outgoing.headers.values("P-Called-Party-ID") or outgoing.headers.values("To")
            binding = self._registrations.by_contact(outgoing.uri, said)
        if binding is not None:
            if binding.lost:
                raise PeerError("the connection of this UE has gone", 430)
            return binding.flow, binding.access, binding
        uri = Uri.parse(outgoing.uri)
        for access in self._config.access:
            if uri.host in access.trusted and not self._routes.is_ours(uri):
                return to(uri, access.listen, access.transports), access, None
        raise PeerError("not registered here", 404)

    def _initial(
        self, crossing: Crossing, access: AccessConfig, binding: Binding | None, now: float
    ) -> Call | None:
        """A request outside of dialogs leaves: recorded if it makes one, as a call if it is an INVITE."""
        method = crossing.request.method
        if method != "INVITE":
            if method in _OF_CALLS:
                raise PeerError("no such call", 481)
            if method in _RECORDED:
                self._routes.record(crossing, access, binding.token if binding else None)
            return None
        for call in self._calls.of_call_id(crossing.request.call_id):
            if call.waits_for(crossing):
                self._routes.record(crossing, access, call.token)
                return call
        emergency = _is_emergency(crossing.request)
        calls = self._config.limits.calls
        if self.closing or len(self._calls) >= calls + (-(-calls // 10) if emergency else 0):
            raise PeerError("no new calls", 503)
        if self._gateway.hello is None:
            raise PeerError("no gateway", 503)
        token = self._rng.randbytes(12).hex()
        self._routes.record(crossing, access, token)
        return self._calls.begin(token, crossing, access, binding, now)

    def _charge(self, headers: Headers) -> None:
        trust.charge(headers, self._rng.randbytes(12).hex(), self._config.core.listen.host)

    # -- within dialogs

    def _within(self, crossing: Crossing, token: str | None) -> Call | None:
        """A request within a dialog: of a call, or of another dialog that was recorded with a binding's
        token."""
        outgoing = crossing.outgoing
        call = self._call_of(crossing, token)
        binding = self._registrations.find(token) if token else None
        if crossing.side is Side.CORE:
            if call is not None:
                crossing.flow = call.flows[Side.ACCESS]
            elif crossing.request.method not in _OF_CALLS:
                crossing.flow = self._to_ue(outgoing, binding)[0]
            else:
                raise PeerError("no such call", 481)
            trust.to_ue(outgoing.headers)
        else:
            here = self._registrations.at(crossing.flow, crossing.request.from_.uri)
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
                crossing.hops = self._routes.in_dialog(outgoing, call.far_end(crossing.request, Side.ACCESS))
            elif here is not None:
                crossing.hops = self._routes.by_home(outgoing, here.service_route)
            else:
                crossing.hops = self._routes.to_core(outgoing)
        return call

    def _call_of(self, crossing: Crossing, token: str | None) -> Call | None:
        """The call a request within a dialog belongs to: by the token in its Route. A peer that does not
        keep route sets, as many test tools, is told by Call-ID, tags and flow; its request is routed as it
        should have been."""
        if token is not None:
            return self._calls.get(token)
        request, outgoing = crossing.request, crossing.outgoing
        for call in self._calls.of_call_id(request.call_id):
            party = call.addressee(request, crossing.side, crossing.flow)
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
        owners = self._registrations.aors(flow)
        return call.aor in owners if owners else flow.remote.host == before.host


def _hops(headers: Headers) -> int:
    """How far a request may still go: Max-Forwards (RFC 3261 section 20.22), 71 where it does not say."""
    text = headers.get("Max-Forwards")
    hops = 71 if text is None else number(text, 255)
    if hops is None:
        raise PeerError("malformed Max-Forwards")
    return hops


def _wants_agreement(headers: Headers) -> bool:
    """RFC 3329 section 2.3.1: sec-agree is demanded and nothing was verified. We have no mechanism for
    signalling to agree on, so all such a UE can mirror are the media mechanisms."""
    demanded = [tag.lower() for name in ("Require", "Proxy-Require") for tag in headers.values(name)]
    return mediasec.AGREEMENT in demanded and not mediasec.entries(headers, "Security-Verify")


def _disagreement(tokens: Collection[str]) -> Answered:
    """What we have to agree on (RFC 3329 section 2.3.1); where there is nothing, the UE has to do without."""
    if not tokens:
        return Answered(420, ("Unsupported", mediasec.AGREEMENT))
    return Answered(494, *(("Security-Server", f"{token};mediasec") for token in tokens))


def _is_emergency(request: Request) -> bool:
    """RFC 5031: urn:service:sos and what is below it."""
    uri = Uri.parse(request.uri)
    return uri.scheme == "urn" and (uri.opaque + ".").lower().startswith("service:sos.")


def _is_outbound(register: Request) -> bool:
    """A UE that registers each of its flows by itself, and we are its first hop (RFC 5626 section 5.1)."""
    contacts = [NameAddr.parse(value) for value in register.headers.values("Contact") if value != "*"]
    return len(register.headers.values("Via")) == 1 and any(
        contact.param("reg-id") and contact.param("+sip.instance") for contact in contacts
    )
