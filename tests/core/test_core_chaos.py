"""Seeded chaos: peers that behave well, badly, and at random, over links that lose, and a gateway likewise.
Whatever happens: no exception, nothing secret where it does not belong, bounded state, and everything
ends (see World)."""

from __future__ import annotations

import base64
import random

import pytest
from msgspec.structs import replace

from agw.iq.messages import ErrorCode, Event
from imsalg.config import CallConfig, LimitsConfig, RegistrationConfig
from imsalg.policy.treatment import Mechanism
from imsalg.sip.dialog import contact_uri
from imsalg.sip.message import Request, Response
from tests.sim.peer import Peer, Talk
from tests.sim.sdp import media, session
from tests.sim.world import BASE, World

MECHANISMS = (Mechanism.SDES_SRTP, Mechanism.DTLS_SRTP, Mechanism.UDPTL_DTLS)

SEEDS = 120
STEPS = 250
SDP = b"\r\nContent-Type: application/sdp\r\n"
CALLS = 20
METHODS = ("BYE", "UPDATE", "INVITE", "INVITE", "PRACK", "INFO", "REFER", "MESSAGE", "OPTIONS", "FOO")
STATUSES = (
    100,
    180,
    183,
    183,
    183,
    199,
    200,
    200,
    200,
    200,
    202,
    302,
    401,
    407,
    404,
    481,
    486,
    487,
    488,
    491,
    503,
    603,
)


class Chaos:
    """What may happen next, drawn at random; each method is one thing. kill: how often the proxy is killed
    between two of them, by chance."""

    def __init__(self, seed: int, world: type[World] = World, kill: float = 0.0) -> None:
        self.kill = kill
        self.rng = random.Random(seed)
        self.world = world(
            seed=seed,
            loss=self.rng.choice((0.0, 0.0, 0.1, 0.3)),
            call=CallConfig(ringing_limit=60.0, inactivity=30.0),
            limits=LimitsConfig(calls=CALLS),
            access=(replace(BASE["access"][0], mechanisms=MECHANISMS),),
            registration=RegistrationConfig(min_expires=1),
        )
        self.phones = [self.world.ue(number) for number in (10, 11, 12)]
        for phone, user in zip(self.phones, ("alice", "bob", "carol"), strict=True):
            phone.user = user
        self.network = self.world.network
        self.peers = [*self.phones, self.network]
        self.invites: list[tuple[Peer, Request]] = []  # (peer, INVITE as sent)
        self.arrived: list[tuple[Peer, Request]] = []  # (peer, request as received)
        self.talks: list[Talk] = []
        self.sent: list[tuple[Peer, bytes]] = []  # (peer, bytes)

    def run(self) -> None:
        things = (
            *[self.call, self.speak, self.wait] * 2,
            *[self.reply] * 4,
            *(self.register, self.acknowledge, self.cancel, self.repeat, self.mangle, self.trouble),
        )
        for _ in range(STEPS):
            self.rng.choice(things)()
            self.collect()
            self.check()
            if self.rng.random() < self.kill:
                self.restart()
                self.check()
        if not self.world.connected:
            self.world.connect()
        self.world.finish()

    def check(self) -> None:
        status = self.world.status()
        assert len(status["calls"]) <= CALLS + 20  # with those that only wait for the last replies
        assert status["asked"] <= 200
        assert len(self.world.audit().contexts) <= CALLS + 20

    def restart(self) -> None:
        """What stood when it was last saved stands again, or is over for a reason that is told."""
        world = self.world
        if self.rng.random() < 0.8:
            world.save()
        before = {state["token"]: state for state in world.status()["calls"]}
        stored = {key.partition(" ")[2] for key in world.stored if key.startswith("call ")}
        since = len(world.notes)
        world.held = False
        world.restart(self.rng.choice((0.0, 0.5, 20.0, 40.0)), connected=self.rng.random() < 0.8)
        after = {state["token"] for state in world.status()["calls"]}
        assert after <= stored
        told = "\n".join(note.text for note in world.notes[since:])
        assert all(token in after or f"{token}: ended: " in told for token in stored)
        assert not [token for token in after if before.get(token, {}).get("state") == "setup"]

    def collect(self) -> None:
        for peer in self.peers:
            for message in peer.inbox:
                if isinstance(message, Request):
                    self.arrived = [*self.arrived[-30:], (peer, message)]
                    if message.method == "REGISTER" and self.rng.random() < 0.8:
                        peer.accept(message, self.rng.choice((0, 5, 3600)))
                elif message.cseq.method == "INVITE" and 100 < message.status < 300:
                    self.join(peer, message)
            peer.inbox.clear()

    def join(self, peer: Peer, response: Response) -> None:
        """A dialog of the caller's."""
        for owner, invite in self.invites:
            same = invite.call_id == response.call_id and invite.cseq == response.cseq
            if owner is peer and same and response.to.tag and contact_uri(response.headers):
                self.talks = [*self.talks[-20:], peer.dialog(invite, response)]
                if response.status >= 200 and self.rng.random() < 0.8:
                    self.talks[-1].ack(sdp=self.body(peer) if not invite.body else "")
                return

    # -- what peers do

    def register(self) -> None:
        phone = self.rng.choice(self.phones)
        spoken = [f"{mechanism};mediasec" for mechanism in MECHANISMS if self.rng.random() < 0.5]
        headers = [("Security-Client", ", ".join(spoken))] if spoken else []
        phone.register(phone.user, *headers, expires=self.rng.choice((0, 1, 60, 3600)))
        for message in self.network.inbox:
            if isinstance(message, Request) and message.method == "REGISTER":
                phone.path = message.headers.get("Path") or ""

    def call(self) -> None:
        phone = self.rng.choice(self.phones)
        if self.rng.random() < 0.5:
            invite = phone.invite("sip:bob@home.example", sdp=self.body(phone))
            self.invites.append((phone, invite))
        elif phone.path:
            invite = self.network.call(phone, sdp=self.body(self.network))
            self.invites.append((self.network, invite))
        self.invites = self.invites[-20:]

    def reply(self) -> None:
        if not self.arrived:
            return
        peer, request = self.rng.choice(self.arrived)
        if request.method == "ACK":
            return
        status = self.rng.choice(STATUSES)
        reliable = (("Require", "100rel"), ("RSeq", str(self.rng.randrange(4))))
        headers = reliable if status < 200 and self.rng.random() < 0.5 else ()
        tag = self.rng.choice(("one", "one", "one", "two", "three"))
        response = peer.reply(request, status, *headers, sdp=self.body(peer), tag=tag)
        self.sent = [*self.sent[-20:], (peer, bytes(response))]
        if request.method == "INVITE" and 100 < status < 300 and request.to.tag is None:
            talks = [peer.dialog(request, response)] if contact_uri(request.headers) else []
            self.talks = [*self.talks[-20:], *talks]

    def speak(self) -> None:
        if self.talks:
            talk = self.rng.choice(self.talks)
            method = self.rng.choice(METHODS)
            rack = (("RAck", f"{self.rng.randrange(4)} {talk.cseq} INVITE"),) if method == "PRACK" else ()
            body = self.body(talk.peer) if method in ("UPDATE", "INVITE", "PRACK") else ""
            request = talk.request(method, *rack, sdp=body)
            self.sent = [*self.sent[-20:], (talk.peer, bytes(request))]
            if method == "INVITE":
                self.invites.append((talk.peer, request))

    def acknowledge(self) -> None:
        if self.talks:
            talk = self.rng.choice(self.talks)
            talk.ack(sdp=self.body(talk.peer))

    def cancel(self) -> None:
        if self.invites:
            peer, invite = self.rng.choice(self.invites)
            peer.cancel(invite)

    def wait(self) -> None:
        self.world.advance(self.rng.choice((0.01, 0.3, 1.0, 5.0, 40.0)))

    def repeat(self) -> None:
        if self.sent:
            peer, data = self.rng.choice(self.sent)
            self.world.receive(data, peer.flow)

    def mangle(self) -> None:
        """A message with some octets changed, taken away, or doubled."""
        if not self.sent:
            return
        peer, data = self.rng.choice(self.sent)
        octets = bytearray(data)
        for _ in range(self.rng.randrange(1, 4)):
            at = self.rng.randrange(len(octets))
            match self.rng.randrange(3):
                case 0:
                    octets[at] = self.rng.randrange(256)
                case 1:
                    del octets[at : at + self.rng.randrange(1, 30)]
                case _:
                    octets[at:at] = octets[at : at + self.rng.randrange(1, 30)]
        if SDP in data and SDP not in octets:
            return  # no description any more, and then nobody's business
        self.world.receive(bytes(octets), peer.flow)

    # -- what they say

    def body(self, peer: Peer) -> str:
        """Mostly a description that fits, seldom one that does not; every key is said once."""
        if self.rng.random() < 0.2:
            return ""
        lines = [self.line(peer in self.phones)]
        if self.rng.random() < 0.2:
            strange = media(4000, "UDP/TLS/RTP/SAVP", "a=3ge2ae:requested"), "m=audio 1", "a=crypto:1 x"
            lines.append(self.rng.choice((self.line(peer in self.phones), *strange)))
        host = self.rng.choice((peer.address.host, peer.address.host, "0.0.0.0", "host.example"))
        return session(host, *lines)

    def line(self, phone: bool) -> str:
        key = base64.b64encode(self.rng.randbytes(30)).decode()
        crypto = f"a=crypto:{self.rng.choice((1, 1, 1, 2))} AES_CM_128_HMAC_SHA1_80 inline:{key}"
        direction = self.rng.choice(("a=sendrecv", "a=sendrecv", "a=sendonly", "a=inactive"))
        port = self.rng.choice((4000, 4000, 4002, 4004, 0))
        plain = media(port, "RTP/AVP", direction)
        secured = media(port, "RTP/SAVP", crypto, direction)
        asked = media(port, "RTP/SAVP", crypto, direction, "a=3ge2ae:requested")
        if self.rng.random() < 0.4:
            return self.other_line(port, direction, phone)
        return self.rng.choice((plain, secured, asked, asked) if phone else (plain, plain, plain, secured))

    def other_line(self, port: int, direction: str, phone: bool) -> str:
        """Under DTLS, or no RTP at all; certificates, roles and names change now and then."""
        choice = self.rng.choice
        lines = [
            direction,
            f"a=setup:{choice(('actpass', 'actpass', 'active', 'active', 'passive', 'holdconn'))}",
            f"a=fingerprint:sha-256 {':'.join([choice(('AA', 'AA', 'BB'))] * 32)}",
            *choice(((), ("a=rtcp-mux",))),
            *choice(((), (f"a=tls-id:{choice('ab') * 20}",))),
            *choice(((), (f"a=ice-ufrag:{choice('ab') * 4}", "a=ice-pwd:asd88fgpdd777uzjYhagZg"))),
            *choice(((), ("a=3ge2ae:requested",))) * phone,
        ]
        dtls = media(port, "UDP/TLS/RTP/SAVP", *lines)
        fax, channel = f"m=image {port} udptl t38", f"m=application {port} UDP/DTLS/SCTP webrtc-datachannel"
        secured_fax = "\r\n".join((f"m=image {port} UDP/TLS/UDPTL t38", *lines))
        return choice((dtls, dtls, dtls, fax, secured_fax, "\r\n".join((channel, *lines))))

    # -- what the gateway does

    def trouble(self) -> None:
        world = self.world
        match self.rng.randrange(9):
            case 0:
                world.held = True
            case 1 | 2:
                world.answer_gateway()
            case 3:
                world.fail.append(self.rng.choice(list(ErrorCode)))
            case 4 if world.connected:
                world.disconnect()
            case 5 if not world.connected:
                world.restart_gateway()
                world.connect()
            case 6 | 7 if not world.connected:
                world.connect()
            case 8 if world.plane.legs:
                leg = self.rng.choice(list(world.plane.legs))
                world.plane.silent = self.rng.choice((0.0, 100.0))
                world.gateway.event(leg, self.rng.choice(list(Event)), "", world.now)
                world.settle()


@pytest.mark.parametrize("seed", range(SEEDS))
def test_whatever_peers_and_gateway_do_everything_ends(seed: int) -> None:
    Chaos(seed).run()


@pytest.mark.parametrize("seed", range(1000, 1000 + SEEDS))
def test_whatever_peers_and_gateway_do_a_proxy_that_is_killed_again_and_again_leaves_nothing(
    seed: int,
) -> None:
    Chaos(seed, kill=0.06).run()


@pytest.mark.parametrize("seed", range(2000, 2010))
def test_a_proxy_that_is_killed_after_each_step_leaves_nothing(seed: int) -> None:
    Chaos(seed, kill=1.0).run()
