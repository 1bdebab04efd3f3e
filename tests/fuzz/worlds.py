"""The whole Core with everything around it gone wrong: peers and names that are hostile, a gateway that makes
no sense, connections that end, a store whose records a disk has damaged.

Whatever comes, nothing but the named errors is raised, and in the end nothing is left (see World.finish).
"""

from __future__ import annotations

import random
import re
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from msgspec.structs import replace

from agw.iq.messages import FromGateway
from imsalg.config import AccessConfig, SourcesConfig
from imsalg.errors import BadMessage
from imsalg.intake import Intake, Payload
from imsalg.names import Answer
from imsalg.records import decode
from imsalg.reginfo import CONTENT_TYPE
from imsalg.sip.dialog import contact_uri
from imsalg.sip.hop import Flow, Transport
from imsalg.sip.locate import Naptr, Record, Srv
from imsalg.sip.message import Request, make_response
from imsalg.sip.stream import Stream
from tests.core.test_core_chaos import Chaos
from tests.fuzz import mutations
from tests.sim.sdp import crypto, media, protected, session
from tests.sim.world import BASE, NETWORK, World

NAMES = (
    *("home.example", "_sip._udp.home.example", "_sip._tcp.home.example", "one.example", "two.example"),
    *(
        "",
        ".",
        "..",
        "a" * 63 + ".example",
        "x." * 126 + "x",
        "x" * 300,
        "ß.example",
        "\0",
        NETWORK.host,
        "::1",
    ),
)
TOKEN = re.compile(rb"\b[0-9a-f]{24,44}\b")  # of a call or a binding, in Path and Record-Route
REGINFO = (
    b'<?xml version="1.0"?>\r\n<reginfo xmlns="urn:ietf:params:xml:ns:reginfo" version="%d" state="%s">\r\n'
    b'<registration aor="sip:%s@home.example" id="r" state="%s">\r\n'
    b'<contact id="c" state="%s" event="%s"><uri>\r\nsip:%s@192.0.2.10:5060</uri></contact>\r\n'
    b"</registration>\r\n</reginfo>\r\n"
)


class Zone(dict[tuple[str, str], Any]):
    """A DNS that says anything, and other things each time."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self._rng = rng

    quiet = False

    def get(self, key: tuple[str, str], default: object = None) -> list[Record]:
        if self.quiet:
            return [NETWORK.host] if key[1] == "A" else []
        fits = self._rng.random() < 0.9
        kinds = (key[1],) if fits else ("A", "SRV", "NAPTR")
        count = self._rng.choice((0, 1, 1, 2, 3, 40))
        return [self._record(self._rng.choice(kinds)) for _ in range(count)]

    def _record(self, kind: str) -> Record:
        rng = self._rng
        match kind:
            case "SRV":
                number = rng.choice((0, 0, 1, 65535))
                return Srv(number, rng.choice((0, 1, 65535)), rng.choice((0, 5060, 65535)), rng.choice(NAMES))
            case "NAPTR":
                service = rng.choice(("sip+d2u", "sip+d2t", "sips+d2t", "e2u+sip", ""))
                return Naptr(
                    rng.randrange(3), 1, rng.choice(("s", "s", "a", "u", "")), service, rng.choice(NAMES)
                )
            case _:
                return rng.choice(
                    (NETWORK.host, NETWORK.host, "198.51.100.77", "0.0.0.0", "::1", "255.255.255.255")
                )


class Mangled(World):
    """A world whose messages are changed on their way to the proxy, with others between them, at random."""

    def __init__(self, *, seed: int, **more: Any) -> None:
        rng = self.mangling = random.Random(f"mangled {seed}")
        self.tokens = [b"0" * 44]
        names = ("sip:home.example", f"sip:{NETWORK}") if rng.random() < 0.3 else f"sip:{NETWORK}"
        access: AccessConfig = replace(BASE["access"][0], emergency=rng.random() < 0.5)
        registration = replace(more.pop("registration"), reg_event=rng.random() < 0.5)
        core = replace(BASE["core"], next_hop=names)
        sources = SourcesConfig(rate=rng.choice((5.0, 200.0, 200.0)), burst=rng.choice((50, 2000)))
        more |= {"access": (access,), "core": core, "registration": registration, "sources": sources}
        super().__init__(seed=seed, **more)
        self.zone = self.dns = Zone(rng)

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Nothing is wrong meanwhile."""
        loss, self._loss, self.fail, self.held = self._loss, 0.0, deque(), False
        self.dns, self.ttl, self.zone.quiet = self.zone, 0.0, True
        if not self.connected:
            self.connect()
        yield
        self._loss, self.zone.quiet = loss, False

    def receive(self, data: bytes, flow: Flow) -> None:
        rng = self.mangling
        if self.zone.quiet:
            self._arrive(data, flow)
            return
        self.tokens = [*self.tokens, *TOKEN.findall(data)][-30:]
        if rng.random() < 0.05:
            self._arrive(mutations.message(rng), flow)
        if rng.random() < 0.15:
            data = mutations.mutate(rng, data)
        elif rng.random() < 0.05:
            data = TOKEN.sub(self._token, data)
        self._arrive(data, flow)
        if rng.random() < 0.3:
            self.save()
            assert all(decode(record) is not None for record in self.stored.values())

    def told(self, message: FromGateway) -> None:
        """What is no message ends the connection, as at the wire."""
        if self.mangling.random() < 0.02 and not self.zone.quiet:
            data = mutations.packed(self.mangling, msgspec.msgpack.encode(message))
            try:
                message = msgspec.msgpack.decode(data, type=FromGateway)
            except (msgspec.DecodeError, UnicodeDecodeError):
                self.disconnect()
                return
        super().told(message)

    def damage(self) -> None:
        """What a disk may do to what is stored."""
        for key, record in list(self.stored.items()):
            match self.mangling.randrange(10):
                case 0:
                    del self.stored[key]
                case 1:
                    self.stored[key] = mutations.change_bytes(self.mangling, record)
                case 2:
                    self.stored[key] = record[: self.mangling.randrange(len(record))]

    def _arrive(self, data: bytes, flow: Flow) -> None:
        """As through the shell, and at once."""
        if flow.transport is Transport.UDP:
            if self.rng.random() >= self._loss:
                self._take(data, flow)
            return
        stream = Stream()
        stream.feed(data)
        while stream.broken is None:
            try:
                if (message := stream.next_message()) is None:
                    return
                self._take(message, flow)
            except BadMessage as error:
                self._take(error, flow)
        self.core.closed(flow, self.now)
        self.settle()

    def _take(self, payload: Payload, flow: Flow) -> None:
        intake = Intake(self.core, self.mangling, Counter())
        intake.put(payload, flow, self.now)
        while (waiting := intake.take(self.now + self.mangling.choice((0.0, 0.0, 1.0)))) is not None:
            match waiting.payload:
                case bytes():
                    self.core.receive(waiting.payload, flow, self.now)
                case BadMessage():
                    self.core.refuse(waiting.payload, flow)
                case _:
                    self.core.receive_message(waiting.payload, flow, self.now)
        self.settle()

    def _token(self, found: re.Match[bytes]) -> bytes:
        """Another one, or one that was none: cut, changed, made up."""
        token = self.mangling.choice((*self.tokens, found[0]))
        at = self.mangling.randrange(len(token))
        return self.mangling.choice(
            (token, token[:at], token[:at] + b"0" + token[at + 1 :], b"f" * 24, b"f" * 44)
        )

    def _check_core_side(self, data: bytes) -> None:
        """A mangled description may be none any more, and what is none passes."""

    def _check_note(self, text: str) -> None:
        """A user may be named like a key."""


class Hostile(Chaos):
    """Chaos among these, with phones on TCP as well, and a home network that tells of registrations."""

    world: Mangled

    def __init__(self, rng: random.Random) -> None:
        super().__init__(rng.getrandbits(32), Mangled, kill=rng.choice((0.0, 0.02)))
        for phone in self.phones:
            transport = self.rng.choice((Transport.UDP, Transport.UDP, Transport.TCP))
            phone.flow = phone.flow._replace(transport=transport)

    def register(self) -> None:
        if self.rng.random() < 0.3:
            super().register()
            return
        phone = self.rng.choice(self.phones)
        with self.world.quiet():
            phone.register(phone.user, ("Security-Client", "sdes-srtp;mediasec"))
            for message in self.network.inbox:
                if isinstance(message, Request) and message.method == "REGISTER":
                    phone.path = message.headers.get("Path") or ""
                    self.network.accept(message)
            self.network.inbox.clear()

    def call(self) -> None:
        """Half of the calls stand before anything is done to them."""
        phone = self.rng.choice(self.phones)
        if self.rng.random() < 0.5:
            super().call()
            return
        with self.world.quiet():
            if self.rng.random() < 0.5:
                invite = phone.invite("sip:bob@home.example", sdp=protected(phone.address.host))
                self.invites.append((phone, invite))
            elif phone.path:
                invite = self.network.call(phone, sdp=session("203.0.113.5"))
                self.invites.append((self.network, invite))
            for callee in self.peers:
                for there in [each for each in callee.inbox if isinstance(each, Request)]:
                    if there.method == "INVITE" and contact_uri(there.headers):
                        lines = [media(4000, "RTP/SAVP", crypto())] if b"RTP/SAVP" in there.body else []
                        response = callee.reply(there, 200, sdp=session(callee.address.host, *lines))
                        self.talks.append(callee.dialog(there, response))
            self.collect()

    def trouble(self) -> None:
        world, rng = self.world, self.rng
        match rng.randrange(8):
            case 0:
                world.dns = rng.choice((None, world.zone))
                world.ttl = rng.choice((None, 0.0, 5.0, 1e9))
            case 1:
                for question in world.looked_up[-5:]:  # late, or again
                    records = world.zone.get((question.name, question.kind.value))
                    world.core.answered(question, Answer(records, world.ttl), world.now)
                world.settle()
            case 2:
                world.core.closed(rng.choice(self.phones).flow, world.now)
                world.settle()
            case 3 | 4:
                self.notify()
            case _:
                super().trouble()

    def notify(self) -> None:
        """The home network tells something of registrations, to one of its subscribers."""
        rng = self.rng
        for peer, request in self.arrived:
            if peer is self.network and isinstance(request, Request) and request.method == "SUBSCRIBE":
                if rng.random() < 0.5:
                    peer.reply(request, 200, ("Expires", rng.choice(("0", "60", "9999999"))), tag="scscf")
                talk = peer.dialog(request, make_response(request, 200, to_tag="scscf"))
                talk.cseq = int(self.world.now)
                user = rng.choice((b"alice", b"bob", b"carol"))
                state = rng.choice((b"init", b"active", b"terminated"))
                event = rng.choice((b"deactivated", b"rejected", b"registered"))
                full = rng.choice((b"full", b"partial"))
                body = REGINFO % (
                    rng.randrange(4),
                    full,
                    user,
                    state,
                    rng.choice((b"active", state)),
                    event,
                    user,
                )
                if rng.random() < 0.7:
                    body = mutations.mutate(rng, body)
                standing = rng.choice(
                    ("active;expires=600", "terminated;reason=timeout", "pending", "active")
                )
                headers = ("Event", "reg"), ("Subscription-State", standing), ("Content-Type", CONTENT_TYPE)
                talk.request("NOTIFY", *headers, sdp=body)
                return

    def restart(self) -> None:
        """What was damaged is lost, and nothing else is wrong."""
        world = self.world
        world.save()
        world.damage()
        world.held = False
        since = len(world.notes)
        world.restart(self.rng.choice((0.0, 0.5, 40.0)), connected=self.rng.random() < 0.8)
        assert not [note.text for note in world.notes[since:] if "is not restored" in note.text]


def core(rng: random.Random) -> None:
    """Peers, a gateway, names and a disk that do anything at any time, in messages that are wrong in any
    way."""
    Hostile(rng).run()
