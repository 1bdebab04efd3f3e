"""How a request leaves: with our Via on top; a long one to servers over TCP (RFC 3261 section 18.1.1)."""

from __future__ import annotations

from imsalg.sip.hop import Flow, Transport, own_via
from imsalg.sip.message import Request, Response
from imsalg.sip.values import Address

MAX_UDP_REQUEST = 1300  # bytes; a longer request goes over TCP
UDP_INSTEAD = 60.0  # seconds in which a peer whose TCP failed is sent long requests over UDP at once
MAX_MOVED = 1024  # peers remembered for that


class Sending:
    """servers_at: our address that servers talk to, None: there is none. What goes from there may go over TCP
    instead of UDP, and requests may come back on TLS connections from there (RFC 5923). A UE is sent to over
    its own flow only (RFC 5626 section 3.1): at its address and port, over TCP, may be somebody else."""

    def __init__(self, servers_at: Address | None) -> None:
        self._servers_at = servers_at
        self._moved: dict[Flow, float] = {}  # TCP flow that long requests were moved to: when to try it again

    def push_via(
        self, request: Request, flow: Flow, branch: str, now: float
    ) -> tuple[bytes, Flow, Flow | None]:
        """The request with our Via as bytes, the flow it goes on, and the one to fall back to."""
        request.headers.prepend("Via", self._via(flow, branch))
        wire = framed(request)
        udp_server = flow.transport is Transport.UDP and flow.local == self._servers_at
        if udp_server and len(wire) > MAX_UDP_REQUEST:
            tcp = Flow(Transport.TCP, flow.local, flow.remote)
            if self._moved.setdefault(tcp, 0.0) <= now:
                if len(self._moved) > MAX_MOVED:
                    del self._moved[next(iter(self._moved))]
                return self.change_via(request, tcp, branch), tcp, flow
        return wire, flow, None

    def change_via(self, request: Request, flow: Flow, branch: str) -> bytes:
        """The same request as it goes on another flow."""
        request.headers.pop_value("Via")
        request.headers.prepend("Via", self._via(flow, branch))
        return bytes(request)

    def failed(self, flow: Flow, now: float) -> None:
        """Nothing can be sent on a flow."""
        if flow in self._moved:
            self._moved[flow] = now + UDP_INSTEAD

    def _via(self, flow: Flow, branch: str) -> str:
        alias = flow.transport is Transport.TLS and flow.local == self._servers_at
        return own_via(flow, branch, alias=alias)


def framed(message: Request | Response) -> bytes:
    """A message as it is sent: with a Content-Length, which a datagram may come without and a stream needs
    (RFC 3261 section 20.14)."""
    if "Content-Length" not in message.headers:
        message.headers.append("Content-Length", str(len(message.body)))
    return bytes(message)
