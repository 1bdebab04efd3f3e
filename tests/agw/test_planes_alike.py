"""One seeded packet soup through both Planes: the same outcomes, the same bytes, at every step."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import uvloop

from agw.flows import Keys, Leg, SlowPath
from agw.iq.messages import Key, Mode, Suite, Transport
from agw.pyrelay import PythonPlane
from agw.relay import NativePlane
from agw.srtp import MAX_PACKET, Protector
from tests.agw.plane_rig import ELSEWHERE, RTP, SRTP, UDP, Peer, Rig, rtcp, rtp

STEPS = 1500


class Side:
    """A Plane with legs `a` and `b`, their peers, and a stranger at each from another host."""

    def __init__(
        self, plane: Callable[..., Any], first_port: int, a: dict[str, Any], b: dict[str, Any]
    ) -> None:
        self.rig = Rig(plane)
        self.rig.ports = iter(range(first_port, first_port + 100, 2))
        self.peers = self.rig.connect(self.rig.leg("a", **a), self.rig.leg("b", **b))
        self.strangers = [Peer(self.rig, peer.leg, ELSEWHERE) for peer in self.peers]

    def send(self, leg: int, stranger: bool, packet: bytes, channel: int) -> None:
        (self.strangers if stranger else self.peers)[leg].send_raw(packet, channel)

    async def outcome(self) -> object:
        """Everything that can be seen from outside."""
        await self.rig.settle()
        counts = [self.rig.plane.statistics(peer.leg.id) for peer in self.peers]
        came = [[peer.take_raw(0), peer.take_raw(1)] for peer in (*self.peers, *self.strangers)]
        handed = [(name, channel, source.host, data) for name, channel, source, data in self.rig.handed]
        self.rig.handed.clear()
        return counts, came, handed, sorted(self.rig.told)

    def close(self) -> None:
        self.rig.plane.close()
        for peer in self.rig.peers:
            for sock in peer.sockets:
                sock.close()


class Cook:
    """Makes packets as the two peers would, and everything that nobody would make."""

    def __init__(self, rng: random.Random, legs: tuple[Leg, ...]) -> None:
        self.rng = rng
        self.protectors: dict[tuple[int, bool], Protector | None] = {}  # leg, whether for RTCP
        self.keys: dict[tuple[int, bool], Key | None] = {}
        self.sequence = [rng.choice((0, 5, 0xFFF0, 0x7FF0)) for _ in legs]
        self.kept: list[list[tuple[bytes, int]]] = [[], []]
        for n, leg in enumerate(legs):
            self.key_to(n, leg)

    def key_to(self, n: int, leg: Leg) -> None:
        for is_rtcp in (False, True):
            keys = leg.rtcp_keys.remote if is_rtcp and leg.rtcp_keys else leg.remote_keys
            key = keys[-1] if keys else None
            if key != self.keys.get((n, is_rtcp)):
                self.keys[n, is_rtcp], self.protectors[n, is_rtcp] = key, Protector(key) if key else None

    def packet(self, n: int, leg: Leg) -> tuple[bytes, int]:
        """A packet for leg n, and the channel it is for."""
        rng = self.rng
        if self.kept[n] and rng.random() < 0.15:
            return rng.choice(self.kept[n])  # again, or late
        is_rtcp = rng.random() < 0.2
        if is_rtcp:
            plain = rtcp(rng.choice((7, 8, 9)), rng.choice((192, 200, 201, 205, 223)))
        else:
            self.sequence[n] += rng.choice((1, 1, 1, 1, 1, 2, 5, 600, -3, -600, 20000))
            ssrc = rng.choice((7, 7, 7, 7, 8, 9, rng.getrandbits(32)))
            plain = rtp(self.sequence[n] & 0xFFFF, ssrc, rng.randbytes(rng.choice((0, 1, 20, 160, 1200))))
            if rng.random() < 0.1:  # CSRCs or an extension, which may reach beyond the packet
                first = 0x80 | rng.choice((0x01, 0x0F, 0x10, 0x1F, 0x20))
                plain = bytes([first]) + plain[1:12] + bytes([0, 0, 0, rng.choice((0, 1, 40))]) + plain[12:]
        packet = plain
        key, protector = self.keys.get((n, is_rtcp)), self.protectors.get((n, is_rtcp))
        if key and protector:
            try:
                packet = protector.protect(plain, is_rtcp)
            except Exception:  # a malformed one goes as it is
                packet = plain
            else:
                packet = with_mki(packet, key, is_rtcp)
        channel = int(is_rtcp and not leg.rtcp_mux)
        self.kept[n] = [*self.kept[n][-30:], (packet, channel)]
        match rng.randrange(12):
            case 0:  # damaged
                place = rng.randrange(len(packet))
                packet = packet[:place] + bytes([packet[place] ^ 1 << rng.randrange(8)]) + packet[place + 1 :]
            case 1:  # truncated
                packet = packet[: rng.randrange(len(packet))]
            case 2 if key:  # a wrong key
                packet = with_mki(Protector(replace_material(key, rng)).protect(rtp(1), False), key, False)
            case 3:
                packet = plain
            case 4:
                packet = rng.choice((b"", rng.randbytes(rng.randrange(60)), b"\x80" * (MAX_PACKET + 1)))
            case 5:
                channel ^= 1
            case 6:
                packet = control(rng)
        return packet, channel


def control(rng: random.Random) -> bytes:
    """STUN or DTLS, or nearly."""
    body = rng.randbytes(rng.choice((0, 1, 4, 200, 1200, MAX_PACKET - 20)))
    length = len(body).to_bytes(2, "big")
    if rng.random() < 0.5:
        packet = bytes([rng.randrange(4), 1]) + length + b"\x21\x12\xa4\x42" + rng.randbytes(12) + body
    else:
        version = bytes([0xFE, rng.choice((0xFD, 0xFD, 0xFF, 0xFE))])
        packet = bytes([rng.randrange(20, 64)]) + version + rng.randbytes(8) + length + body
    match rng.randrange(6):
        case 0:
            place = rng.randrange(13)
            return packet[:place] + bytes([packet[place] ^ 1 << rng.randrange(8)]) + packet[place + 1 :]
        case 1:
            return packet[: rng.randrange(40)]
        case 2:
            return packet[:1] * rng.randrange(40)
        case _:
            return packet


def replace_material(key: Key, rng: random.Random) -> Key:
    return Key(key.suite, rng.randbytes(key.suite.material_length))


def with_mki(packet: bytes, key: Key, is_rtcp: bool) -> bytes:
    aead = key.suite.value.startswith("AEAD")
    tag = 0 if aead else 4 if key.suite.value.endswith("_32") and not is_rtcp else 10
    return packet[: len(packet) - tag] + key.mki + packet[len(packet) - tag :]


def a_change(rng: random.Random, cook: Cook, sides: list[Side]) -> None:
    """The same change to both: a gate, a key, latching, the filter, the slow path."""
    n = rng.randrange(2)
    leg = sides[0].peers[n].leg
    fields: dict[str, Any]
    match rng.randrange(11):
        case 10 if leg.transport is SRTP:
            fields = {"rtcp_keys": rng.choice((None, Keys(), own_rtcp_keys(rng), own_rtcp_keys(rng)))}
        case 0:
            fields = {"mode": rng.choice(list(Mode))}
        case 1 | 2 if leg.transport is SRTP:
            suite = rng.choice(list(Suite))
            keys = [Key(suite, rng.randbytes(suite.material_length), k.mki) for k in leg.remote_keys]
            if rng.random() < 0.3 and len(keys) > 1:
                keys = [leg.remote_keys[0], replace_key(keys[1], leg.remote_keys[0].suite, rng)]
            fields = {"remote_keys": tuple(keys)}
        case 3 if leg.transport is SRTP:
            suite = rng.choice(list(Suite))
            fields = {"local_key": Key(suite, rng.randbytes(suite.material_length))}
        case 4:
            fields = {"latch": not leg.latch}
        case 5:
            fields = {"source_filter": not leg.source_filter}
        case 6:
            fields = {"slow_path": rng.choice(list(SlowPath))}
        case 7:
            fields = {"latch_from": rng.choice((None, "127.0.0.1", ELSEWHERE, "127.0.0.3"))}
        case 8:
            fields = {"rtcp_mux": not leg.rtcp_mux}
        case _:
            fields = {"mode": Mode.SENDRECV}
    for side in sides:
        side.rig.change(side.peers[n], **fields)
    # What the peer is told it learns a little later, or never.
    if rng.random() < 0.8:
        cook.key_to(n, sides[0].peers[n].leg)


def own_rtcp_keys(rng: random.Random) -> Keys:
    suite = rng.choice(list(Suite))
    local, remote = (Key(suite, rng.randbytes(suite.material_length)) for _ in range(2))
    return Keys(local, (remote,))


def replace_key(key: Key, suite: Suite, rng: random.Random) -> Key:
    return Key(suite, rng.randbytes(suite.material_length), key.mki)


def keyed(rng: random.Random, suite: Suite, mkis: tuple[bytes, ...] = (b"",)) -> dict[str, Any]:
    def key(mki: bytes = b"") -> Key:
        return Key(suite, rng.randbytes(suite.material_length), mki)

    return {"transport": SRTP, "local_key": key(), "remote_keys": tuple(map(key, mkis))}


def plain(transport: Transport = RTP) -> dict[str, Any]:
    return {"transport": transport}


CASES: dict[str, Callable[[random.Random], tuple[dict[str, Any], dict[str, Any]]]] = {
    **{suite.value: lambda rng, suite=suite: (keyed(rng, suite), plain()) for suite in Suite},
    "mki": lambda rng: (keyed(rng, Suite.AES_CM_128_HMAC_SHA1_32, (b"\1\1", b"\2\2")), plain()),
    "mki aead": lambda rng: (keyed(rng, Suite.AEAD_AES_256_GCM, (b"\1", b"\2", b"\3")), plain()),
    "both": lambda rng: (keyed(rng, Suite.AEAD_AES_128_GCM), keyed(rng, Suite.AES_256_CM_HMAC_SHA1_80)),
    "rtcp": lambda rng: (
        {**keyed(rng, Suite.AEAD_AES_128_GCM), "rtcp_keys": own_rtcp_keys(rng)},
        {**keyed(rng, Suite.AES_CM_128_HMAC_SHA1_80), "rtcp_keys": own_rtcp_keys(rng)},
    ),
    "dtls": lambda rng: (plain(Transport.DTLS), plain(UDP)),
    "plain": lambda rng: (plain(), plain()),
    "transparent": lambda rng: (plain(UDP), plain(UDP)),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("case", CASES)
def test_both_planes_do_the_same_with_the_same_soup(case: str, seed: int) -> None:
    rng = random.Random(f"{case} {seed}")
    a, b = CASES[case](rng)
    for fields in (a, b):
        for name in ("latch", "source_filter"):
            fields[name] = rng.random() < 0.5
        fields["slow_path"] = rng.choice((SlowPath.NONE, SlowPath.CONTROL, SlowPath.CONTROL, SlowPath.ALL))
        fields["latch_from"] = rng.choice((None, ELSEWHERE))
        fields["rtcp_mux"] = rng.random() < 0.5
    uvloop.run(feed(rng, a, b))


async def feed(rng: random.Random, a: dict[str, Any], b: dict[str, Any]) -> None:
    sides = [Side(plane, port, a, b) for plane, port in ((PythonPlane, 31300), (NativePlane, 31400))]
    try:
        legs = tuple(peer.leg for peer in sides[0].peers)
        cook = Cook(rng, legs)
        for _ in range(STEPS):
            if rng.random() < 0.01:
                a_change(rng, cook, sides)
            for _ in range(rng.choice((1, 1, 1, 4))):
                n, stranger = rng.randrange(2), rng.random() < 0.1
                packet, channel = cook.packet(n, sides[0].peers[n].leg)
                for side in sides:
                    side.send(n, stranger, packet, channel)
                expected, found = [await side.outcome() for side in sides]
                assert found == expected
    finally:
        for side in sides:
            side.close()
