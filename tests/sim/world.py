"""The whole proxy without sockets: a Core, a real Gateway whose Plane only remembers, and scripted SIP peers.

    world = World()
    alice = world.register(world.ue(10), "alice")
    invite = alice.invite("sip:bob@home.example", sdp=offer)
    there = world.network.expect("INVITE")               # everything else went the way in between
    answered = world.network.reply(there, 200, sdp=answer)
    talk = alice.dialog(invite, alice.expect(200)); talk.ack()
    world.finish()                                       # asserts that nothing is left

Time stands still until `advance`. What must hold whatever happens is checked here, on each message and note,
and in `finish`. The peers are in `peer`, what they describe in `sdp`.
"""

from __future__ import annotations

import base64
import random
from collections import deque
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from agw.config import GatewayConfig as AgwConfig
from agw.config import Realm
from agw.flows import Difference, Leg, LegId
from agw.gateway import Gateway
from agw.iq.messages import (
    VERSION,
    Audited,
    AuditValue,
    ChangeThroughConnection,
    ConfigureConnectionPoint,
    ErrorCode,
    ErrorReply,
    Event,
    FromGateway,
    Hello,
    Key,
    Notice,
    ReleaseTermination,
    Reply,
    Stream,
    StreamStatistics,
)
from agw.iq.messages import Request as IqRequest
from imsalg.config import AccessConfig, CoreConfig, GatewayConfig, ProxyConfig, StoreConfig
from imsalg.core import Core
from imsalg.crossing import Note
from imsalg.names import Answer
from imsalg.policy.treatment import Mechanism
from imsalg.sip.hop import Flow, Transport
from imsalg.sip.locate import Question, Record
from imsalg.sip.message import parse_message
from imsalg.sip.values import Address
from tests.sim.peer import Peer, Talk
from tests.sim.sdp import crypto, media, protected, session

ACCESS = Address("192.0.2.1", 5060)  # where the proxy listens for UEs
CORE = Address("198.51.100.1", 5060)  # and for the home network
NETWORK = Address("198.51.100.9", 5060)
REALMS = ("access", "core")
EPOCH = 1_790_000_000.0  # what the wall clock shows at zero of the world's

BASE: dict[str, Any] = {
    "visited_network": "visited.example",
    "access": (AccessConfig(name="access", listen=ACCESS, mechanisms=(Mechanism.SDES_SRTP,)),),
    "core": CoreConfig(listen=CORE, next_hop=f"sip:{NETWORK}"),
    "gateway": GatewayConfig(iq="unix:/none"),
    "store": StoreConfig(path="none"),  # the world's `stored`
}
AGW = AgwConfig(
    realms=(
        Realm(name="access", addresses=("192.0.2.2", "2001:db8::2"), ports=(30000, 30999)),
        Realm(name="core", addresses=("198.51.100.2", "2001:db8:1::2"), ports=(40000, 40999)),
    )
)


class Memory:
    """A Plane that remembers its legs. silent: seconds without media, of every leg. sent: the last of what
    the gateway itself has sent: leg, channel, target, datagram."""

    def __init__(self) -> None:
        self.sent: deque[tuple[LegId, int, object, bytes]] = deque(maxlen=100)
        self.events = lambda id, event, detail: None
        self.packets = lambda id, channel, source, data: None
        self.legs: dict[LegId, Leg] = {}
        self.silent = 0.0

    def send(self, id: LegId, channel: int, target: object, data: bytes) -> bool:
        self.sent.append((id, channel, target, data))
        return True

    def apply(self, difference: Difference) -> dict[LegId, StreamStatistics]:
        counts = {id: self.statistics(id) for id in difference.removed}
        for id in difference.removed:
            del self.legs[id]
        self.legs |= {leg.id: leg for leg in difference.wanted}
        return counts

    def hear(self, id: LegId) -> None:
        assert id in self.legs

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

    dns: what it knows, by name and type; None: no server answers. looked_up: what it was asked.
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
        self.config = ProxyConfig(**{**BASE, **sections})
        self.core = Core(self.config, self.rng)
        self.stored: dict[str, bytes] = {}
        self.asked: list[IqRequest] = []
        self.notes: list[Note] = []
        self.held = False
        self.fail: deque[ErrorCode] = deque()
        self.dns: dict[tuple[str, str], Sequence[Record]] | None = {}
        self.ttl: float | None = 60.0
        self.looked_up: list[Question] = []
        self.peers: dict[Address, Peer] = {}
        self._agw, self._loss = agw, loss
        self._replies: list[FromGateway] = []
        self._told: dict[tuple[str, str, int], Stream] = {}  # context, termination, stream
        self.secrets: set[str] = set()  # every key the gateway was told, as it might be printed
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

    def connect(self, claims: tuple[str, ...] | None = None) -> None:
        """claims: those of a greeting that was said before; None: as they are now."""
        self.connected = True
        hello = Hello(VERSION, "agw", str(self._incarnation), REALMS)
        self.gateway.greeted("pcscf", self.core.claims() if claims is None else claims, self.now)
        self.core.gateway_up(hello, self.now)
        self.settle()

    def disconnect(self) -> None:
        self.connected = False
        self._replies.clear()
        self.gateway.gone("pcscf", (), self.now)
        self.core.gateway_down(self.now)
        self.settle()

    # -- a restart of the proxy

    def save(self) -> None:
        """As the store does now and then."""
        changes = self.core.to_store(EPOCH)
        if changes.whole:
            self.stored.clear()
        for key, record in changes.records.items():
            if record is None:
                self.stored.pop(key, None)
            else:
                self.stored[key] = record

    def kill(self) -> None:
        """The proxy is no more; what was not saved is lost. It comes back by `restart`."""
        self.core = Core(self.config, self.rng)
        if self.connected:
            self.connected = False
            self._replies.clear()
            self.gateway.gone("pcscf", (), self.now)

    def restart(self, away: float = 1.0, *, connected: bool = True) -> None:
        """The proxy is killed and comes back."""
        self.kill()
        self.now += away
        self.gateway.expire(self.now)
        self.core.restore(list(self.stored.values()), self.now, EPOCH)
        self.settle()
        if connected:
            self.connect()

    def told(self, message: FromGateway) -> None:
        """Something of the gateway's arrives."""
        if isinstance(message, Reply | ErrorReply | Notice):
            self.core.gateway_message(message, self.now)

    def answer_gateway(self) -> None:
        """Let the replies that were held arrive."""
        self.held = False
        self.settle()

    def media(self, event: Event, termination: str = "access", stream: int = 1) -> None:
        """The Plane tells something of a leg of the only call."""
        self.gateway.event(self.leg(termination, stream).id, event, "", self.now)
        self.settle()

    def notice(self, event: Event, side: str = "access", id: int = 1, detail: str = "") -> None:
        """The gateway tells something of a stream of the only call; see `leg`."""
        named = [name for _, name, number in self._told if number == id]
        names = [side] if side in named else [name for name in named if name.split(".")[0] == side]
        (context,), (name,) = self.core.claims(), names
        self.told(Notice(context, event, name, id, detail))
        self.settle()

    def leg(self, side: str, stream: int = 1) -> Leg:
        """The only leg of a side ("access", "core"; with a number that of one early dialog)."""
        legs = self.legs()
        (found,) = [leg for name, leg in legs.items() if name == f"{side}:{stream}"] or [
            leg for name, leg in legs.items() if name.startswith(f"{side}.") and name.endswith(f":{stream}")
        ]
        return found

    def stream(self, side: str, id: int = 1) -> Stream:
        """What the gateway has been told of a stream of the only call; see `leg`."""
        told = {name: stream for (_, name, number), stream in self._told.items() if number == id}
        (found,) = [told[side]] if side in told else [s for n, s in told.items() if n.startswith(f"{side}.")]
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
                if self.connected:  # nobody keeps it
                    self._replies.append(notice[1])
            while self._replies and self.connected and not self.held:
                moved = True
                self.told(self._replies.pop(0))
            for question in self.core.to_ask():
                moved = True
                self.looked_up.append(question)
                if self.dns is not None:
                    records = self.dns.get((question.name, question.kind.value), ())
                    self.core.answered(question, Answer(records, self.ttl), self.now)
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
                    self.secrets |= _printed(key)
                if stream.ice is not None:
                    self.secrets.add(stream.ice.pwd)
        if self.fail and not any(isinstance(command, ReleaseTermination) for command in request.commands):
            self._replies.append(ErrorReply(request.id, self.fail.popleft(), "the test says so"))
        else:
            reply = self.gateway.execute("pcscf", request, self.now)
            self._replies.append(reply)
            if isinstance(reply, Reply):
                self._note(request)

    def _note(self, request: IqRequest) -> None:
        for command in request.commands:
            name = getattr(command, "termination", None)
            here = request.context, str(name)
            match command:
                case ReleaseTermination():
                    gone = [k for k in self._told if k[0] == request.context and name in (None, k[1])]
                case ConfigureConnectionPoint(remove=remove):
                    gone = [(*here, id) for id in remove]
                case ChangeThroughConnection(modes=modes):
                    gone = []
                    for id, mode in modes.items():
                        self._told[*here, id] = replace(self._told[*here, id], mode=mode)
                case _:
                    gone = []
            for key in gone:
                self._told.pop(key, None)
            for stream in getattr(command, "streams", ()):
                self._told[*here, stream.id] = stream

    def _deliver(self, flow: Flow, data: bytes) -> None:
        if flow.local == CORE:
            self._check_core_side(data)
        if flow.transport is Transport.UDP and self.rng.random() < self._loss:
            return
        if flow.remote == CORE:  # the core talks to itself
            self.print(f"  {CORE.host} > {CORE.host}", data)
            self.receive(data, Flow(flow.transport, CORE, flow.local))
        elif (peer := self.peers.get(flow.remote)) is not None and flow.accepted in (0, peer.flow.accepted):
            peer.receive(data, flow)
        elif flow.transport is not Transport.UDP:
            self.core.transport_failed(flow, self.now, "refused")

    def _check_core_side(self, data: bytes) -> None:
        text = data.decode("utf-8", "surrogateescape")
        assert "a=3ge2ae" not in text, "an indication of e2ae went to the core"
        assert not any(secret in text for secret in self.secrets), "a key of e2ae went to the core"

    def _check_note(self, text: str) -> None:
        assert not any(secret in text for secret in self.secrets), "a key in the log"
        assert "inline:" not in text

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
        names = ("registrations", "subscriptions", "calls", "transactions", "timers", "asked")
        left = {name: status[name] for name in names}
        assert not any(left.values()), left
        assert self.core.timeout() is None
        assert not self.core.claims()
        assert not self.plane.legs
        audited = self.audit()
        assert not audited.contexts
        assert all(used == 0 for used, _, _ in audited.ports.values())
        self.save()
        assert not {key.partition(" ")[0] for key in self.stored} & {"binding", "call"}
        for note in self.notes:
            self._check_note(note.text)


def _printed(key: Key) -> set[str]:
    material = key.material
    return {base64.b64encode(material).decode().rstrip("="), material.hex(), repr(material)}
