"""Our place in route sets, and where a request goes next (RFC 3261 section 16, RFC 5658, TS 24.229 clause
5.2).

The user part of our Path and Record-Route URIs is a token: it names a call, or else a binding.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from hashlib import blake2b

from imsalg.anchor import Side
from imsalg.config import AccessConfig, ProxyConfig
from imsalg.crossing import Crossing, Hops
from imsalg.errors import BadMessage, PeerError
from imsalg.sip.dialog import Party
from imsalg.sip.hop import Flow, Transport
from imsalg.sip.locate import leaves_by
from imsalg.sip.message import Request
from imsalg.sip.values import Address, NameAddr, Uri, Via


class Routes:
    """What the addresses in the configuration mean for routing; no state."""

    def __init__(self, config: ProxyConfig) -> None:
        self._core = config.core.listen
        self._served = config.core.transports
        self._next_hops = tuple(Uri.parse(text) for text in config.core.next_hops)
        self._ours = {
            (address.host.lower(), address.port)
            for address in (*(access.listen for access in config.access), self._core)
        }

    def is_ours(self, uri: Uri) -> bool:
        """Whether a URI is one of our own addresses."""
        return _place(uri) in self._ours

    def path(self, token: str, hops: Hops, *, outbound: bool) -> str:
        """The Path value of a REGISTER (RFC 3327); `ob` says that its token is good for one flow of a UE that
        may have several (RFC 5626 section 5.1)."""
        return self._own(token, usual(hops), ob=outbound)

    def contact(self, leaves: Transport) -> str:
        """The Contact of a request of our own to the core."""
        return f"<sip:{self._core}{leaves.uri_param}>"

    def pop(self, outgoing: Request) -> str | None:
        """Take our own Route values off the top: both of a doubled Record-Route, which have one token, but
        not those of another pass. Gives the token."""
        token: str | None = None
        for popped in (False, True):
            value = outgoing.headers.first("Route")
            uri = NameAddr.parse(value).parsed_uri if value is not None else None
            if uri is None or not self.is_ours(uri) or (popped and uri.user != token):
                break
            outgoing.headers.pop_value("Route")
            token = uri.user
        return token

    def record(self, crossing: Crossing, access: AccessConfig, token: str | None) -> None:
        """Record-Route on both sides (RFC 5658): the one the next hop sees goes on top."""
        user = f"{token}@" if token else ""
        came = crossing.server.flow if crossing.server is not None else crossing.flow
        leaves = usual(crossing.hops) if crossing.hops else crossing.flow.transport
        on_access, on_core = came.transport, leaves
        if crossing.side is Side.CORE:
            on_access, on_core = on_core, on_access
        to_access = f"<sip:{user}{access.listen}{on_access.uri_param};lr>"
        to_core = self._own(token, on_core)
        for value in (to_access, to_core) if crossing.side is Side.ACCESS else (to_core, to_access):
            crossing.outgoing.headers.prepend("Record-Route", value)

    def leave_by(self, crossing: Crossing) -> None:
        """A server was found: our own URIs in the request name the transport it goes over, as that is how
        the core comes back to us."""
        leaves, headers = crossing.flow.transport, crossing.outgoing.headers
        passing = crossing.server is not None  # then its Contact is a peer's, and `*` perhaps
        for name in ("Record-Route", "Path") if passing else ("P-Asserted-Identity", "Contact"):
            try:
                uri = NameAddr.parse(headers.first(name) or "").parsed_uri
            except BadMessage:  # none, or not ours
                continue
            if (uri.host.lower(), uri.port) == (self._core.host.lower(), self._core.port):
                headers.pop_value(name)
                ob = uri.param("ob") is not None
                own = self.contact(leaves) if name == "Contact" else self._own(uri.user, leaves, ob=ob)
                headers.prepend(name, own)

    def _own(self, token: str | None, transport: Transport, *, ob: bool = False) -> str:
        """How the core reaches us."""
        user = f"{token}@" if token else ""
        return f"<sip:{user}{self._core}{transport.uri_param};lr{';ob' if ob else ''}>"

    def to_core(self, request: Request) -> Hops:
        """Where a request to the core goes: its first Route, else its URI, else the next hop. Raises
        PeerError."""
        first = request.headers.first("Route")
        if first:
            return self._hop(NameAddr.parse(first).parsed_uri)
        uri = Uri.parse(request.uri)
        return self._hop(uri) if uri.host else self._next_hops

    def to_home(self, request: Request) -> Hops:
        """The same for one outside of dialogs, whose URI says only who is meant, not where."""
        return self.to_core(request) if "Route" in request.headers else self._next_hops

    def in_dialog(self, outgoing: Request, party: Party | None) -> Hops:
        """A UE's request in a call goes by the route set of its dialog, whatever the UE says that this is
        (TS 24.229 clause 5.2.6.3). party: for whom it is; None: nobody, it will be refused."""
        if party is not None:
            outgoing.headers.set("Route", *party.routes)
            if not party.routes and (target := Uri.parse(party.target)).host:
                return self._hop(target)
        return self.to_core(outgoing)

    def by_home(self, outgoing: Request, service_route: Sequence[str]) -> Hops:
        """A UE's request in a dialog that is not remembered. The To tag may be invented, so a next hop that
        is not the home network's is not followed: the routes of the registration go in front of it."""
        first = outgoing.headers.first("Route")
        uri = NameAddr.parse(first).parsed_uri if first else Uri.parse(outgoing.uri)
        home = [NameAddr.parse(value).parsed_uri for value in service_route]
        if self.is_ours(uri) or _place(uri) in {_place(each) for each in (*home, *self._next_hops)}:
            return self._hop(uri)
        for value in reversed(service_route):
            outgoing.headers.prepend("Route", value)
        return self._hop(home[0]) if home else self._next_hops

    def _hop(self, uri: Uri) -> Hops:
        """Raises PeerError where it cannot lead anywhere."""
        if not uri.host:
            raise PeerError("a URI that cannot be routed", 404)
        if not leaves_by(uri, self._served):
            raise PeerError("a transport that is not served", 503)
        return (uri,)

    def to_core_or_back(self, request: Request) -> Hops:
        """`to_core`; () where that cannot be followed: back to where the peer was."""
        with contextlib.suppress(PeerError):
            return self.to_core(request)
        return ()

    def has_looped(self, request: Request) -> bool:
        """RFC 3261 section 16.3 item 4: it passed here before, and nothing that routes it has changed."""
        suffix = ""
        for value in request.headers.values("Via"):
            via = Via.parse(value)
            if (via.host.lower(), via.port) in self._ours:
                suffix = suffix or loop_mark(request)
                if (via.branch or "").endswith(suffix):
                    return True
        return False


def loop_mark(request: Request) -> str:
    """The end of our branch: what routes a request, in eight digits. The same again means a loop, another one
    a spiral."""
    parts = (
        request.uri,
        request.from_.tag or "",
        request.to.tag or "",
        request.call_id,
        str(request.cseq),
        *request.headers.values("Route"),
        *request.headers.lines("Proxy-Authorization"),
    )
    return "." + blake2b("\n".join(parts).encode("utf-8", "surrogateescape"), digest_size=4).hexdigest()


def to(uri: Uri, local: Address, served: Sequence[Transport]) -> Flow:
    """RFC 3263 for a numeric host: the transport the URI names, else UDP. served: those of `local`. Raises
    PeerError."""
    transport = Transport.of(uri)
    if transport is None or transport not in served:
        raise PeerError("a transport that is not served", 503)
    return Flow(transport, local, Address(uri.host, uri.port or transport.default_port))


def usual(hops: Hops) -> Transport:
    """What the first of them goes over, if the DNS does not say otherwise."""
    return Transport.of(hops[0]) or Transport.UDP


def _place(uri: Uri) -> tuple[str, int]:
    transport = Transport.of(uri) or Transport.UDP
    return uri.host.lower(), uri.port or transport.default_port
