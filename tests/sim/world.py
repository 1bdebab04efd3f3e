"""The whole proxy without sockets: a Core, a real Gateway whose Plane only remembers, and scripted SIP peers.

    world = World()
    alice = world.register(world.ue(10), "alice")
    invite = alice.invite("sip:bob@home.example", sdp=offer)
    there = world.network.expect("INVITE")               # everything else went the way in between
    answered = world.network.reply(there, 200, sdp=answer)
    talk = alice.dialog(invite, alice.expect(200)); talk.ack()
    world.finish()                                       # asserts that nothing is left

A peer is no transaction machine: what it is sent lies in its inbox until the test expects it, and it says
what the test tells it to. It only absorbs what a test does not want to see: 100, retransmissions, the 200 to
a CANCEL, and the ACK for a failure; and it acknowledges failures. Time stands still until `advance`.

What must hold whatever happens is checked here, on each message and note, and in `finish`.
"""

from __future__ import annotations

import base64
import random
from collections import deque
from typing import Any

import msgspec

from agw.config import GatewayConfig as AgwConfig
from agw.config import Realm
from agw.flows import Difference, Leg, LegId
from agw.gateway import Gateway
from agw.iq.messages import (
    VERSION,
    Audited,
    AuditValue,
    ErrorCode,
    ErrorReply,
    Event,
    FromGateway,
    Hello,
    Key,
    ReleaseTermination,
    Reply,
    StreamStatistics,
)
from agw.iq.messages import Request as IqRequest
from imsalg.config import AccessConfig, CoreConfig, GatewayConfig, ProxyConfig
from imsalg.core import Core
from imsalg.crossing import Note
from imsalg.errors import BadMessage
from imsalg.policy.treatment import Mechanism
from imsalg.sip.endpoint import Address, Flow, Transport
from imsalg.sip.headers import Headers
from imsalg.sip.message import Request, Response, make_response, parse_message
from imsalg.sip.values import NameAddr

ACCESS = Address("192.0.2.1", 5060)  # where the proxy listens for UEs
CORE = Address("198.51.100.1", 5060)  # and for the home network
NETWORK = Address("198.51.100.9", 5060)
REALMS = ("access", "core")

BASE: dict[str, Any] = {
    "visited_network": "visited.example",
    "access": (AccessConfig(name="access", listen=ACCESS, mechanisms=(Mechanism.SDES_SRTP,)),),
    "core": CoreConfig(listen=CORE, next_hop=f"sip:{NETWORK}"),
    "gateway": GatewayConfig(iq="unix:/none"),
}
AGW = AgwConfig(
    realms=(
        Realm(name="access", addresses=("192.0.2.2", "2001:db8::2"), ports=(30000, 30999)),
        Realm(name="core", addresses=("198.51.100.2", "2001:db8:1::2"), ports=(40000, 40999)),
    )
)


class Memory:
    """A Plane that remembers its legs. silent: seconds without media, of every leg."""

    def __init__(self) -> None:
        self.events = lambda id, event, detail: None
        self.legs: dict[LegId, Leg] = {}
        self.silent = 0.0

    def apply(self, difference: Difference) -> dict[LegId, StreamStatistics]:
        counts = {id: self.statistics(id) for id in difference.removed}
        for id in difference.removed:
            del self.legs[id]
        self.legs |= {leg.id: leg for leg in difference.wanted}
        return counts

    def statistics(self, id: LegId) -> StreamStatistics:
        return StreamStatistics(id.stream, 0, 0, 0, 0, {})

    def idle(self, id: LegId) -> float:
        return self.silent

    def close(self) -> None:
        self.legs.clear()


class World:
    """sections: those of ProxyConfig that differ from BASE. loss: of datagrams, each way.

    held: while True, the gateway's replies wait (`answer_gateway` lets them go). fail: error codes that the
    next requests are answered with, if they release nothing. asked: all requests on Iq.
    """

    def __init__(
        self,
        *,
        agw: AgwConfig = AGW,
        seed: int = 1,
        loss: float = 0.0,
        connected: bool = True,
        **sections: Any,
    ) -> None:
        self.now = 1000.0
        self.rng = random.Random(seed)
        self.core = Core(ProxyConfig(**{**BASE, **sections}), self.rng)
        self.asked: list[IqRequest] = []
        self.notes: list[Note] = []
        self.held = False
        self.fail: deque[ErrorCode] = deque()
        self.peers: dict[Address, Peer] = {}
        self._agw, self._loss = agw, loss
        self._replies: list[FromGateway] = []
        self._secrets: set[str] = set()  # every key the gateway was told, as it might be printed
        self.connected = False
        self._incarnation = 0
        self.restart_gateway()
        self.network = Peer(self, NETWORK, CORE)
        if connected:
            self.connect()

    # -- peers

    def ue(self, number: int = 10, port: int = 5060, **more: Any) -> Peer:
        """A phone at 192.0.2.`number`."""
        return Peer(self, Address(f"192.0.2.{number}", port), ACCESS, **more)

    def register(self, peer: Peer, user: str, *headers: tuple[str, str], expires: int = 3600) -> Peer:
        """Register a user from a peer that can do e2ae SDES; `peer.path` is how it is reached."""
        peer.register(user, ("Security-Client", "sdes-srtp;mediasec"), *headers, expires=expires)
        request = self.network.expect("REGISTER")
        peer.path = request.headers.get("Path") or ""
        self.network.accept(request, expires)
        peer.expect(200)
        return peer

    def plain(self, number: int = 20, user: str = "carol") -> Peer:
        """A registered phone that knows nothing of media security."""
        peer = self.ue(number)
        peer.register(user)
        request = self.network.expect("REGISTER")
        peer.path = request.headers.get("Path") or ""
        self.network.accept(request)
        peer.expect(200)
        return peer

    def originate(self, ue: Peer, offer: str = "", answer: str = "") -> tuple[Talk, Talk]:
        """A call from a phone that stands, as its two ends: the phone's and the network's."""
        invite = ue.invite("sip:bob@home.example", sdp=offer or protected(ue.address.host))
        there = self.network.expect("INVITE")
        self.network.reply(there, 200, sdp=answer or session("203.0.113.5"))
        got = ue.expect(200)
        here, far = ue.dialog(invite, got), self.network.dialog(there, got)
        here.ack()
        self.network.expect("ACK")
        return here, far

    def terminate(self, ue: Peer, offer: str = "", answer: str = "") -> tuple[Talk, Talk]:
        """A call to a phone that stands, as its two ends: the phone's and the network's."""
        invite = self.network.call(ue, sdp=offer or session("203.0.113.5"))
        there = ue.expect("INVITE")
        ue.reply(there, 200, sdp=answer or session(ue.address.host, media(4000, "RTP/SAVP", crypto())))
        got = self.network.expect(200)
        here, far = ue.dialog(there, got), self.network.dialog(invite, got)
        far.ack()
        ue.expect("ACK")
        return here, far

    # -- the gateway

    def restart_gateway(self) -> None:
        """A new process: it has nothing, and another incarnation."""
        self.plane = Memory()
        self.gateway = Gateway(self._agw, self.plane, random.Random(self.rng.getrandbits(32)))
        self._incarnation += 1

    def connect(self) -> None:
        self.connected = True
        hello = Hello(VERSION, "agw", str(self._incarnation), REALMS)
        self.gateway.greeted("pcscf", self.core.claims(), self.now)
        self.core.gateway_up(hello, self.now)
        self.settle()

    def disconnect(self) -> None:
        self.connected = False
        self._replies.clear()
        self.gateway.gone("pcscf", self.now)
        self.core.gateway_down(self.now)
        self.settle()

    def answer_gateway(self) -> None:
        """Let the replies that were held arrive."""
        self.held = False
        self.settle()

    def media(self, event: Event, termination: str = "access", stream: int = 1) -> None:
        """The Plane tells something of a leg of the only call."""
        self.gateway.event(self.leg(termination, stream).id, event, "", self.now)
        self.settle()

    def leg(self, side: str, stream: int = 1) -> Leg:
        """The only leg of a side ("access", "core"; with a number that of one early dialog)."""
        legs = self.legs()
        (found,) = [leg for name, leg in legs.items() if name == f"{side}:{stream}"] or [
            leg for name, leg in legs.items() if name.startswith(f"{side}.") and name.endswith(f":{stream}")
        ]
        return found

    def legs(self) -> dict[str, Leg]:
        """The legs that stand, by "termination:stream", of the only context."""
        assert len({id.context for id in self.plane.legs}) <= 1
        return {f"{id.termination}:{id.stream}": leg for id, leg in self.plane.legs.items()}

    def audit(self) -> Audited:
        """What the gateway says it has, of everyone's."""
        reply = self.gateway.execute("test", IqRequest(1, "", (AuditValue(),)), self.now)
        assert isinstance(reply, Reply)
        assert isinstance(reply.results[0], Audited)
        return reply.results[0]

    def status(self) -> dict[str, Any]:
        return self.core.status(self.now)

    # -- time and messages

    def advance(self, seconds: float) -> None:
        """Let time pass, timer by timer."""
        end = self.now + seconds
        while True:
            times = [time for time in (self.core.timeout(), self.gateway.timeout()) if time is not None]
            when = min(times, default=end)
            if when > end:
                break
            self.now = max(self.now, when)
            self.core.expire(self.now)
            self.gateway.expire(self.now)
            self.settle()
            if when == end:
                break
        self.now = end

    def receive(self, data: bytes, flow: Flow) -> None:
        """A datagram, or message on a connection, for the core."""
        if flow.transport is Transport.UDP:
            if self.rng.random() < self._loss:
                return
            self.core.receive(data, flow, self.now)
        else:
            self.core.receive_message(parse_message(data), flow, self.now)
        self.settle()

    def settle(self) -> None:
        """Carry everything to where it goes, until all is quiet."""
        moved = True
        while moved:
            moved = False
            for request in self.core.iq_to_send():
                moved = True
                self._execute(msgspec.msgpack.decode(msgspec.msgpack.encode(request), type=IqRequest))
            while (notice := self.gateway.next_notice()) is not None:
                moved = True
                self._replies.append(notice[1])
            while self._replies and self.connected and not self.held:
                moved = True
                self.core.gateway_message(self._replies.pop(0), self.now)
            for flow, data in self.core.to_send():
                moved = True
                self._deliver(flow, data)
            while (note := self.core.next_note()) is not None:
                self.print(note.text)
                self.notes.append(note)

    def print(self, text: str, data: bytes = b"") -> None:
        """For whoever reads why a test failed."""
        if not self._loss:
            first = data.split(b"\r\n", 1)[0].decode("utf-8", "replace")
            print(f"{self.now:.3f} {text} {first}")

    def _execute(self, request: IqRequest) -> None:
        assert self.connected
        self.asked.append(request)
        for command in request.commands:
            for stream in getattr(command, "streams", ()):
                for key in filter(None, (stream.local_key, *stream.remote_keys)):
                    self._secrets |= _printed(key)
        if self.fail and not any(isinstance(command, ReleaseTermination) for command in request.commands):
            self._replies.append(ErrorReply(request.id, self.fail.popleft(), "the test says so"))
        else:
            self._replies.append(self.gateway.execute("pcscf", request, self.now))

    def _deliver(self, flow: Flow, data: bytes) -> None:
        if flow.local == CORE:
            text = data.decode("utf-8", "surrogateescape")
            assert "a=3ge2ae" not in text, "an indication of e2ae went to the core"
            assert not any(secret in text for secret in self._secrets), "a key of e2ae went to the core"
        if flow.transport is Transport.UDP and self.rng.random() < self._loss:
            return
        if flow.remote == CORE:  # the core talks to itself
            self.print(f"  {CORE.host} > {CORE.host}", data)
            self.receive(data, Flow(flow.transport, CORE, flow.local))
        elif (peer := self.peers.get(flow.remote)) is not None:
            peer.receive(data, flow)
        elif flow.transport is Transport.TCP:
            self.core.transport_failed(flow, self.now, "refused")

    # -- the end

    def finish(self) -> None:
        """End what is left, let time pass, and assert that nothing remains of anything."""
        for peer in self.peers.values():
            peer.answers_bye = True
        self.held = False
        self.settle()
        self.core.shutdown(self.now)
        self.settle()
        self.advance(700_000.0)
        status = self.core.status(self.now)
        left = {name: status[name] for name in ("registrations", "calls", "transactions", "timers", "asked")}
        assert not any(left.values()), left
        assert self.core.timeout() is None
        assert not self.core.claims()
        assert not self.plane.legs
        audited = self.audit()
        assert not audited.contexts
        assert all(used == 0 for used, _, _ in audited.ports.values())
        for note in self.notes:
            assert not any(secret in note.text for secret in self._secrets), "a key in the log"
            assert "inline:" not in note.text


def _printed(key: Key) -> set[str]:
    material = key.material
    return {base64.b64encode(material).decode().rstrip("="), material.hex(), repr(material)}


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
        self.flow = Flow(transport, proxy, address)
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

    def cancel(self, invite: Request) -> None:
        headers = Headers((("Via", invite.headers.first("Via") or ""), ("Max-Forwards", "70")))
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
        usual = (("Service-Route", f"<sip:orig@{NETWORK};lr>"), ("P-Associated-URI", f"<{user}>"))
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


# -- session descriptions


def key(letter: str = "k", length: int = 30) -> str:
    """SDES material: `length` times the same letter, in base64."""
    return base64.b64encode(letter.encode() * length).decode()


def crypto(letter: str = "k", tag: int = 1, suite: str = "AES_CM_128_HMAC_SHA1_80", length: int = 30) -> str:
    """An a=crypto line."""
    return f"a=crypto:{tag} {suite} inline:{key(letter, length)}"


def media(port: int = 4000, proto: str = "RTP/AVP", *lines: str, kind: str = "audio") -> str:
    """An m-line with its attribute lines."""
    return "\r\n".join((f"m={kind} {port} {proto} 0", "a=rtpmap:0 PCMU/8000", *lines))


def session(host: str, *lines: str, version: int = 1) -> str:
    """A session description; with no line of its own, one of plain audio."""
    family = "IP6" if ":" in host else "IP4"
    head = ("v=0", f"o=- 7 {version} IN {family} {host}", "s=-", f"c=IN {family} {host}", "t=0 0")
    return "\r\n".join((*head, *(lines or (media(),)), ""))


def protected(host: str, letter: str = "k", *lines: str, port: int = 4000) -> str:
    """What a UE offers under e2ae SDES."""
    return session(host, media(port, "RTP/SAVP", crypto(letter), "a=3ge2ae:requested", *lines))


def lines_of(message: Request | Response, start: str) -> list[str]:
    """The lines of a body that begin so, without that beginning."""
    text = message.body.decode()
    return [line.removeprefix(start) for line in text.splitlines() if line.startswith(start)]
