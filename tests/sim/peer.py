"""Scripted SIP peers in a World: they have no transactions, and say what a test tells them to.

What a peer is sent lies in its inbox until the test expects it. It only absorbs what a test does not want to
see: 100, retransmissions, the 200 to a CANCEL, and the ACK for a failure; and it acknowledges failures.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from imsalg.errors import BadMessage
from imsalg.sip.headers import Headers
from imsalg.sip.hop import Flow, Transport
from imsalg.sip.message import Request, Response, make_response, parse_message
from imsalg.sip.values import Address, NameAddr

if TYPE_CHECKING:
    from tests.sim.world import World


_connections = itertools.count(1)


class Peer:
    """A SIP element at an address, which talks to one of the proxy's.

    inbox: what came and was not expected yet. absorbed: what came and needs no looking at. flow: of what it
    sends of itself. answers_bye: BYEs are answered 200 without being asked.
    """

    def __init__(
        self, world: World, address: Address, proxy: Address, transport: Transport = Transport.UDP
    ) -> None:
        self.world = world
        self.address = address
        self.user = "nobody"
        self.path = ""
        self.inbox: list[Request | Response] = []
        self.absorbed: list[Request | Response] = []
        self.answers_bye = False
        number = next(_connections) if transport.reliable else 0
        self.flow = Flow(transport, proxy, address, accepted=number)
        self._flows: dict[str, Flow] = {}  # branch of a received request -> the flow it came on
        self._seen: set[bytes] = set()
        self._refused: set[str] = set()  # branches of the INVITEs it refused
        self._sent: dict[str, Request] = {}  # branch -> INVITE
        self._count = 0
        world.peers[address] = self

    @property
    def contact(self) -> str:
        return f"sip:{self.user}@{self.address}"

    # -- what comes

    def receive(self, data: bytes, flow: Flow) -> None:
        try:
            message = parse_message(data)
        except BadMessage:
            return  # a 400 to a message of its own that was as broken
        self.world.print(f"  {flow.local.host} > {self.address.host}", data)
        branch = message.via.branch or ""
        if data in self._seen:
            self.absorbed.append(message)
            return
        self._seen.add(data)
        if isinstance(message, Request):
            self._flows[branch] = flow
            if message.method == "ACK" and branch in self._refused:
                self.absorbed.append(message)
                return
            if message.method == "BYE" and self.answers_bye:
                self.reply(message, 200)
                return
        elif message.status == 100 or message.cseq.method == "CANCEL":
            self.absorbed.append(message)
            return
        elif message.status >= 300 and branch in self._sent:
            self._ack_failure(self._sent[branch], message)
        self.inbox.append(message)

    def expect(self, what: str | int, cseq: str | None = None) -> Any:
        """The first message in the inbox that is this: a request by method, a response by status."""
        for message in self.inbox:
            kind = message.method if isinstance(message, Request) else message.status
            if kind == what and cseq in (None, message.cseq.method):
                self.inbox.remove(message)
                return message
        raise AssertionError(f"expected {what}, there is {self.inbox}")

    def quiet(self) -> bool:
        """Nothing more came."""
        assert not self.inbox, f"expected nothing, there is {self.inbox}"
        return True

    # -- what goes

    def send(self, message: Request | Response, flow: Flow | None = None) -> None:
        flow = flow or self.flow
        if isinstance(message, Request) and message.method == "INVITE":
            self._sent[message.via.branch or ""] = message
        self.world.print(f"  {self.address.host} > {flow.local.host}", bytes(message))
        self.world.receive(bytes(message), flow)

    def compose(self, method: str, uri: str, *headers: tuple[str, str], sdp: str | bytes = b"") -> Request:
        """A request outside of dialogs; a header given takes the place of the usual one of its name."""
        self._count += 1
        usual = {
            "Via": self.via(),
            "Max-Forwards": "70",
            "From": f"<sip:{self.user}@home.example>;tag={self.user}-{self._count}",
            "To": f"<{uri}>",
            "Call-ID": f"{self.user}-{self._count}@{self.address.host}",
            "CSeq": f"{self._count} {method}",
            "Contact": f"<{self.contact}>",
        }
        fields = Headers()
        for name, value in usual.items():
            if name not in [given for given, _ in headers]:
                fields.append(name, value)
        for name, value in headers:
            fields.append(name, value)
        request = Request(method, uri, fields)
        _describe(request, sdp)
        return request

    def via(self) -> str:
        branch = f"z9hG4bK{self.world.rng.getrandbits(60)}"
        return f"SIP/2.0/{self.flow.transport} {self.address};branch={branch};rport"

    def request(self, method: str, uri: str, *headers: tuple[str, str], sdp: str | bytes = b"") -> Request:
        request = self.compose(method, uri, *headers, sdp=sdp)
        self.send(request)
        return request

    def invite(self, uri: str, *headers: tuple[str, str], sdp: str | bytes = b"") -> Request:
        return self.request("INVITE", uri, *headers, sdp=sdp)

    def call(self, callee: Peer, *headers: tuple[str, str], sdp: str | bytes = b"") -> Request:
        """An INVITE to a registered phone, as the S-CSCF sends it: by its Path."""
        return self.invite(callee.contact, ("Route", callee.path), *headers, sdp=sdp)

    def cancel(self, invite: Request, *more: tuple[str, str]) -> None:
        headers = Headers((("Via", invite.headers.first("Via") or ""), ("Max-Forwards", "70"), *more))
        headers.copy_lines(invite.headers, "Route", "From", "To", "Call-ID")
        headers.append("CSeq", f"{invite.cseq.number} CANCEL")
        self.send(Request("CANCEL", invite.uri, headers))

    def reply(
        self,
        request: Request,
        status: int,
        *headers: tuple[str, str],
        sdp: str | bytes = b"",
        tag: str = "there",
    ) -> Response:
        """Answer a request that was received."""
        branch = request.via.branch or ""
        response = make_response(request, status, to_tag=None if status == 100 else tag)
        if request.method in ("INVITE", "UPDATE", "SUBSCRIBE") and 100 < status < 300:
            response.headers.append("Contact", f"<sip:{tag}@{self.address}>")
        for name, value in headers:
            if name in response.headers and name == "Contact":
                response.headers.remove(name)
            response.headers.append(name, value)
        _describe(response, sdp)
        if status >= 300 and request.method == "INVITE":
            self._refused.add(branch)
        self.send(response, self._flows[branch])
        return response

    def _ack_failure(self, invite: Request, response: Response) -> None:
        headers = Headers((("Via", invite.headers.first("Via") or ""), ("Max-Forwards", "70")))
        headers.copy_lines(invite.headers, "Route", "From", "Call-ID")
        headers.append("To", response.headers.get("To") or "")
        headers.append("CSeq", f"{invite.cseq.number} ACK")
        self.world.receive(bytes(Request("ACK", invite.uri, headers)), self.flow)

    def dialog(self, invite: Request, response: Response) -> Talk:
        """This peer's end of the dialog that a request and a response to it made; it may be either end."""
        return Talk(self, invite, response)

    # -- registering

    def register(
        self, user: str, *headers: tuple[str, str], expires: int | None = 3600, contact: str = ""
    ) -> Request:
        self.user = user
        aor = f"<sip:{user}@home.example>"
        limits = () if expires is None else (("Expires", str(expires)),)
        return self.request(
            "REGISTER",
            "sip:home.example",
            ("From", f"{aor};tag=reg"),
            ("To", aor),
            ("Contact", contact or f"<{self.contact}>"),
            *limits,
            *headers,
        )

    def accept(self, request: Request, expires: int = 3600, *headers: tuple[str, str]) -> Response:
        """As a registrar."""
        user = request.to.uri
        given = [
            ("Contact", f"<{NameAddr.parse(value).uri}>;expires={expires}")
            for value in request.headers.values("Contact")
            if value != "*"
        ]
        usual = (("Service-Route", f"<sip:orig@{self.address};lr>"), ("P-Associated-URI", f"<{user}>"))
        names = {name for name, _ in headers}
        return self.reply(request, 200, *given, *(pair for pair in usual if pair[0] not in names), *headers)


class Talk:
    """One end of a dialog."""

    def __init__(self, peer: Peer, invite: Request, response: Response) -> None:
        self.peer, self.invite, self.response = peer, invite, response
        self.called = invite.via.branch in peer._flows  # it came here, so this is the callee
        routes = (invite if self.called else response).headers.values("Record-Route")
        self.routes = routes if self.called else routes[::-1]
        target = (invite if self.called else response).headers.first("Contact") or ""
        self.target = NameAddr.parse(target).uri
        ends = response.headers.get("From") or "", response.headers.get("To") or ""
        self.there, self.here = ends if self.called else ends[::-1]
        self.cseq = 100 if self.called else invite.cseq.number

    def compose(
        self, method: str, *headers: tuple[str, str], sdp: str | bytes = b"", cseq: int | None = None
    ) -> Request:
        if cseq is None:
            self.cseq += 1
            cseq = self.cseq
        usual = (("From", self.here), ("To", self.there), ("Call-ID", self.invite.call_id))
        routes = [("Route", route) for route in self.routes]
        return self.peer.compose(
            method, self.target, *usual, *routes, ("CSeq", f"{cseq} {method}"), *headers, sdp=sdp
        )

    def request(self, method: str, *headers: tuple[str, str], sdp: str | bytes = b"") -> Request:
        request = self.compose(method, *headers, sdp=sdp)
        self.peer.send(request)
        return request

    def exchange(
        self, other: Talk, method: str, offer: str | bytes, answer: str | bytes
    ) -> tuple[Request, Response]:
        """A re-INVITE or UPDATE of this end that is accepted: the request as it came there, and the 200 as it
        came back."""
        sent = self.request(method, sdp=offer)
        there = other.peer.expect(method)
        other.peer.reply(there, 200, sdp=answer)
        got = self.peer.expect(200, method)
        if method == "INVITE":
            self.ack(sent)
            other.peer.expect("ACK")
        return there, got

    def hang_up(self, other: Talk) -> None:
        """BYE from this end; the call is over."""
        self.request("BYE")
        other.peer.reply(other.peer.expect("BYE"), 200)
        self.peer.expect(200)

    def ack(self, invite: Request | None = None, sdp: str | bytes = b"") -> Request:
        request = self.compose("ACK", sdp=sdp, cseq=(invite or self.invite).cseq.number)
        self.peer.send(request)
        return request


def _describe(message: Request | Response, sdp: str | bytes) -> None:
    if sdp and "Content-Type" not in message.headers:
        message.set_body(sdp.encode() if isinstance(sdp, str) else sdp, "application/sdp")
    elif sdp:
        message.set_body(sdp.encode() if isinstance(sdp, str) else sdp, message.headers.get("Content-Type"))
