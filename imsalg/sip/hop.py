"""One hop: where messages go, what Via says about it, and the two requests that never cross a hop, ACK and
CANCEL.

All pure functions over messages; `endpoint` gives them time, randomness and transactions.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple

from msgspec.structs import replace

from imsalg.sip.headers import Headers
from imsalg.sip.message import Request, Response
from imsalg.sip.values import Address, Uri, Via

MAGIC = "z9hG4bK"  # RFC 3261 section 8.1.1.7: such a branch is unique
Key = tuple[str, str, int | None, str]
"""What a server transaction is found by: branch, sent-by host and port, method."""


class Transport(StrEnum):
    """As Via names it (RFC 3261 section 20.42, RFC 7118 section 5.2.1)."""

    __hash__ = str.__hash__  # part of each flow's; Enum's own is a Python function

    UDP = "UDP"
    TCP = "TCP"
    TLS = "TLS"
    WS = "WS"
    WSS = "WSS"

    @classmethod
    def of(cls, uri: Uri) -> Transport | None:
        """What a SIP URI asks for: TLS where it says sips, UDP where it says nothing; None if it is unknown
        here."""
        name = (uri.param("transport") or "").lower()
        return (_OF_SIPS if uri.scheme == "sips" else _OF_SIP).get(name)

    @property
    def reliable(self) -> bool:
        return self is not Transport.UDP

    @property
    def secure(self) -> bool:
        return self in (Transport.TLS, Transport.WSS)

    @property
    def default_port(self) -> int:
        """RFC 3261 section 19.1.2, RFC 7118."""
        return _DEFAULT_PORTS.get(self, 5060)

    @property
    def uri_param(self) -> str:
        """What says so in a sip URI. `tls` is deprecated and what all peers write; WSS has no word of its own
        (RFC 7118 section 5.2.2)."""
        match self:
            case Transport.UDP:
                return ""
            case Transport.WSS:
                return ";transport=ws"
        return f";transport={self.lower()}"


_OF_SIP = {
    "": Transport.UDP,
    "udp": Transport.UDP,
    "tcp": Transport.TCP,
    "tls": Transport.TLS,
    "ws": Transport.WS,
}
_OF_SIPS = {"": Transport.TLS, "tcp": Transport.TLS, "tls": Transport.TLS, "ws": Transport.WSS}
_DEFAULT_PORTS = {Transport.TLS: 5061, Transport.WS: 80, Transport.WSS: 443}


class Flow(NamedTuple):
    """A pair of addresses that messages go between.

    local: the address we listen on, also for connections that we open. remote: the peer, of an accepted
    connection its source address. domain: what the certificate of a peer we connect to must name (RFC 5922
    section 7.1), "" for its address. accepted: the number of a connection that the peer opened, 0 for none:
    there is no other way, as nobody listens at its source address (RFC 5626 section 3.1), and the next who
    comes from there may be somebody else.
    """

    transport: Transport
    local: Address
    remote: Address
    domain: str = ""
    accepted: int = 0


def own_via(flow: Flow, branch: str, *, alias: bool = False) -> str:
    """The Via value of a request that leaves on `flow` (RFC 3261 section 18.1.1, RFC 3581 section 3).

    alias: requests to us may come back over its connection (RFC 5923 section 7).
    """
    param = ";alias" if alias else "" if flow.transport.reliable else ";rport"
    return f"SIP/2.0/{flow.transport} {flow.local};branch={branch}{param}"


def server_key(request: Request) -> Key:
    """RFC 3261 section 17.2.3; ACK and CANCEL have the key of the INVITE they belong to.

    A branch without the magic cookie is one of RFC 2543 and not unique: what makes such a request unique
    stands in for it. The To tag is left out, as only the ACK would have it.
    """
    via = request.via
    branch = via.branch or ""
    if not branch.startswith(MAGIC):
        tag = request.from_.tag or ""
        branch = f"{branch} {request.call_id} {request.cseq.number} {tag} {request.uri}"
    method = "INVITE" if request.method in ("ACK", "CANCEL") else request.method
    return branch, via.host.lower(), via.port, method


def stamp_source(request: Request, flow: Flow) -> None:
    """Write where the request came from into its top Via (RFC 3261 section 18.2.1, RFC 3581 section 4).

    The Via keeps its bytes if there is nothing to say; what the sender wrote there about itself never stays.
    """
    via = request.via
    asked = via.param("rport") is not None
    if not asked and via.param("received") is None and via.host.lower() == flow.remote.host.lower():
        return
    params = tuple(param for param in via.params if param[0].lower() not in ("received", "rport"))
    if asked:
        params += (("rport", str(flow.remote.port)),)
    params += (("received", flow.remote.host),)
    request.headers.pop_value("Via")
    request.headers.prepend("Via", str(replace(via, params=params)))


def reply_flow(via: Via, flow: Flow) -> Flow:
    """Where responses to a request with this top Via go that came on `flow` (RFC 3261 section 18.2.2).

    Always to the host it came from: `maddr` is not followed, so that nobody can aim our responses at others.
    """
    if flow.transport.reliable or via.param("rport") is not None:  # RFC 3581 section 4
        return flow
    return _at_sent_by(via, flow)


def second_reply_flow(via: Via, flow: Flow) -> Flow | None:
    """Where responses go when the connection they belong to is gone (RFC 3261 section 18.2.2)."""
    return _at_sent_by(via, flow) if flow.transport in (Transport.TCP, Transport.TLS) else None


def _at_sent_by(via: Via, flow: Flow) -> Flow:
    port = via.port or flow.transport.default_port
    return Flow(flow.transport, flow.local, Address(flow.remote.host, port))


def ack_of(request: Request, response: Response) -> Request:
    """The ACK for a 300-699 to the INVITE `request` as it was sent (RFC 3261 section 17.1.1.3)."""
    return _hop_request("ACK", request, response.headers.get("To") or "", ())


def cancel_of(request: Request, headers: Iterable[tuple[str, str]]) -> Request:
    """The CANCEL of `request` as it was sent (RFC 3261 section 9.1), with these header fields besides."""
    return _hop_request("CANCEL", request, request.headers.get("To") or "", headers)


def _hop_request(method: str, request: Request, to: str, more: Iterable[tuple[str, str]]) -> Request:
    source = request.headers
    headers = Headers((("Via", source.first("Via") or ""),))
    headers.copy_lines(source, "Route", "From", "Call-ID")
    headers.append("To", to)
    headers.append("CSeq", f"{request.cseq.number} {method}")
    headers.append("Max-Forwards", "70")
    for name, value in more:
        headers.append(name, value)
    headers.append("Content-Length", "0")
    return Request(method, request.uri, headers)
