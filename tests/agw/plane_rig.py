"""A Plane between real sockets on loopback, and the peers at its legs.

A packet on loopback is in the receiver's socket when sendto returns. So `Rig.settle` turns the loop until
every packet that was sent has had its outcome, and only the inactivity timer's tests wait for time to pass.
Packets keep their order on one socket; where it matters between two, `settle` stands between them.
Every test ends with the sums: one outcome for each packet, as many sent as received, no socket left open.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import os
import random
import socket
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import wraps
from typing import Any

import pytest
import uvloop
from msgspec.structs import replace

from agw.flows import Leg, LegId, difference
from agw.iq.messages import Address, Event, Key, Mode, StreamStatistics, Suite, Transport
from agw.pyrelay import PythonPlane
from agw.relay import NativePlane
from agw.srtp import Protector, Unprotector

LOOPBACK, ELSEWHERE = "127.0.0.1", "127.0.0.2"
PORTS = 31200
RNG = random.Random(3550)
RTP, SRTP, UDP = Transport.RTP, Transport.SRTP, Transport.UDP


class Peer:
    """A UE or its peer: two sockets, and SRTP if its leg has it."""

    def __init__(self, rig: Rig, leg: Leg, host: str = LOOPBACK) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.rig, self.leg = rig, leg
        self.sockets = [socket.socket(family, socket.SOCK_DGRAM) for _ in range(2)]
        for sock in self.sockets:
            sock.bind((host, 0))
            sock.setblocking(False)
        self.addresses = [Address(*sock.getsockname()[:2]) for sock in self.sockets]
        self.key_to(leg)
        rig.peers.append(self)

    def key_to(self, leg: Leg) -> None:
        self.protector = Protector(leg.remote_keys[0]) if leg.remote_keys else None
        self.unprotector = Unprotector([leg.local_key]) if leg.local_key else None

    def send(self, packet: bytes, rtcp: bool = False, channel: int | None = None) -> bytes:
        """Protected if the leg is. channel: the port, if not the usual one. Gives what went over the wire."""
        if self.protector:
            packet = self.protector.protect(packet, rtcp)
        self.send_raw(packet, rtcp and not self.leg.rtcp_mux if channel is None else channel)
        return packet

    def send_raw(self, packet: bytes, channel: int = 0) -> None:
        there = (self.leg.local_rtp, self.leg.local_rtcp)[channel]
        self.sockets[channel].sendto(packet, (there.host, there.port))
        self.rig.sent += 1

    def take_raw(self, channel: int = 0) -> list[bytes]:
        packets = []
        while True:
            try:
                packets.append(self.sockets[channel].recv(4096))
            except BlockingIOError:
                return packets

    def take(self, rtcp: bool = False) -> list[bytes]:
        """What has come, unprotected if the leg is protected."""
        packets = self.take_raw(1 if rtcp and not self.leg.rtcp_mux else 0)
        return [self.unprotector.unprotect(p, rtcp) for p in packets] if self.unprotector else packets


class Rig:
    """A Plane with two connected legs, `a` and `b`, and a peer at each."""

    def __init__(self, plane: Callable[..., Any]) -> None:
        self.plane = plane(srtp_failures=5)
        self.told: list[tuple[str, Event]] = []
        self.handed: list[tuple[str, int, Address, bytes]] = []  # packets of the slow path
        self.applying = False
        self.plane.events, self.plane.packets = self.hear, self.hand
        self.peers: list[Peer] = []
        self.sent = 0
        self.standing: dict[LegId, Leg] = {}
        self.gone: list[StreamStatistics] = []
        self.ports = itertools.count(PORTS, 2)

    def hear(self, id: LegId, event: Event, detail: str) -> None:
        assert not self.applying
        self.told.append((id.termination, event))

    def hand(self, id: LegId, channel: int, source: Address, packet: bytes) -> None:
        assert not self.applying
        self.handed.append((id.termination, channel, source, packet))

    def leg(self, name: str, transport: Transport = RTP, host: str = LOOPBACK, **fields: Any) -> Leg:
        port = next(self.ports)
        if transport is SRTP:
            fields = {"local_key": key_of(), "remote_keys": (key_of(),), **fields}
        return Leg(
            LegId("c", name, 1),
            Address(host, port),
            Address(host, port + 1),
            transport,
            mode=Mode.SENDRECV,
            **fields,
        )

    def connect(self, a: Leg, b: Leg, host: str = LOOPBACK) -> tuple[Peer, Peer]:
        """Two legs joined, that know where their peers are."""
        first, second = Peer(self, a, host), Peer(self, b, host)
        for peer, other in ((first, b), (second, a)):
            remote, remote_rtcp = peer.addresses
            if peer.leg.rtcp_mux:
                remote_rtcp = remote
            peer.leg = replace(peer.leg, remote=remote, remote_rtcp=remote_rtcp, peer=other.id)
        self.want(first.leg, second.leg)
        return first, second

    def change(self, peer: Peer, /, **fields: Any) -> None:
        peer.leg = replace(peer.leg, **fields)
        self.want(*(peer.leg if leg.id == peer.leg.id else leg for leg in self.standing.values()))

    def want(self, *legs: Leg) -> dict[LegId, StreamStatistics]:
        self.applying = True
        try:
            gone = self.plane.apply(difference(self.standing, legs))
        finally:
            self.applying = False
        self.standing = {leg.id: leg for leg in legs}
        self.gone += gone.values()
        return gone

    def counts(self) -> list[StreamStatistics]:
        return self.gone + [self.plane.statistics(id) for id in self.standing]

    def outcomes(self) -> int:
        return sum(
            counts.received + counts.slow_path + sum(counts.dropped.values()) for counts in self.counts()
        )

    def dropped(self, peer: Peer) -> dict[str, int]:
        return self.plane.statistics(peer.leg.id).dropped

    async def settle(self) -> None:
        async with asyncio.timeout(5):
            while self.outcomes() < self.sent:
                await asyncio.sleep(0)
        for _ in range(3):  # what the native Plane has to tell waits in a descriptor that is readable now
            await asyncio.sleep(0)

    async def hears(self, name: str, event: Event) -> None:
        async with asyncio.timeout(5):
            while (name, event) not in self.told:
                await asyncio.sleep(0.005)


def open_files() -> Counter[str]:
    """What this process has open. Files of other tests may be closed meanwhile, with their garbage."""
    found: Counter[str] = Counter()
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # that of the listing
            found[os.readlink(f"/proc/self/fd/{number}")] += 1
    return found


PLANES = [pytest.param(PythonPlane, id="python"), pytest.param(NativePlane, id="native")]


def played(scenario: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Make a test of a coroutine whose first argument is a Rig, once with each Plane."""

    async def play(plane: Callable[..., Any], params: dict[str, Any]) -> None:
        before = open_files()
        rig = Rig(plane)
        try:
            await scenario(rig, **params)
            await rig.settle()
            assert rig.outcomes() == rig.sent
            assert sum(counts.sent for counts in rig.counts()) == sum(
                counts.received for counts in rig.counts()
            )
        finally:
            rig.plane.close()
            for peer in rig.peers:
                for sock in peer.sockets:
                    sock.close()
        assert not open_files() - before

    @wraps(scenario)
    def test(plane: Callable[..., Any], **params: Any) -> None:
        uvloop.run(play(plane, params))

    parameters = list(inspect.signature(scenario).parameters.values())[1:]
    plane = inspect.Parameter("plane", inspect.Parameter.KEYWORD_ONLY)
    test.__signature__ = inspect.Signature([*parameters, plane])  # type: ignore[attr-defined]
    return pytest.mark.parametrize("plane", PLANES)(test)


def key_of(suite: Suite = Suite.AES_CM_128_HMAC_SHA1_80, mki: bytes = b"") -> Key:
    return Key(suite, RNG.randbytes(suite.material_length), mki)


def rtp(sequence: int, ssrc: int = 7, payload: bytes = b"\xab" * 160) -> bytes:
    return b"\x80\x00" + sequence.to_bytes(2, "big") + bytes(4) + ssrc.to_bytes(4, "big") + payload


def rtcp(ssrc: int = 7, kind: int = 200) -> bytes:
    return bytes([0x80, kind, 0, 6]) + ssrc.to_bytes(4, "big") + b"\xab" * 20
