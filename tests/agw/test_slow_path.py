"""STUN and DTLS past both Planes: what is handed to the gateway, what it sends, and what a flood may cost."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import pytest
import uvloop
from agw.native._relay import lib
from aioice import stun
from aioice.ice import StunProtocol
from msgspec.structs import replace

from agw.errors import UsageError
from agw.flows import Keys, LegId, SlowPath
from agw.iq.messages import Address, Event, Mode, Transport
from agw.relay import NativePlane
from agw.srtp import MAX_PACKET, Protector, Unprotector
from tests.agw.plane_rig import ELSEWHERE, PORTS, RTP, SRTP, UDP, Peer, Rig, key_of, played, rtcp, rtp


def stun_of(length: int) -> bytes:
    return b"\x00\x01" + length.to_bytes(2, "big") + b"\x21\x12\xa4\x42" + bytes(12 + length)


def record(length: int, kind: int = 22) -> bytes:
    return bytes([kind]) + b"\xfe\xfd" + bytes(8) + length.to_bytes(2, "big") + bytes(length)


STUN, DTLS, DATA = stun_of(0), record(0), record(1, kind=23)
JUNK = {
    "nothing": b"",
    "an octet": b"\x00",
    "the same octet": b"\x00" * 20,
    "the octet of a record": b"\x16" * 20,
    "STUN cut short": STUN[:19],
    "STUN with more behind it": STUN + bytes(4),
    "STUN that says too much": STUN[:3] + b"\x04" + STUN[4:],
    "STUN that is not aligned": stun_of(6),
    "STUN without the cookie": STUN[:7] + b"\x43" + STUN[8:],
    "STUN of another kind of packet": b"\x04" + STUN[1:],
    "a record cut short": DTLS[:12],
    "a record that says too much": DTLS[:12] + b"\x01",
    "a record of TLS": b"\x16\x03\x03" + DTLS[3:],
    "a record of DTLS 1.1, which there is not": b"\x16\xfe\xfe" + DTLS[3:],
    "a record of another kind of packet": b"\x40" + DTLS[1:],
}
CERTIFICATE = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=gateway"
SLOW = [*range(4), *range(20, 64)]  # RFC 7983 section 7


# -- what is handed up -----------------------------------------------------------------------------


@pytest.mark.parametrize("mux", [False, True])
@pytest.mark.parametrize("transport", [RTP, SRTP])
@played
async def test_the_first_octet_says_what_goes_to_the_gateway(
    rig: Rig, transport: Transport, mux: bool
) -> None:
    a, b = rig.connect(rig.leg("a", transport, rtcp_mux=mux, slow_path=SlowPath.CONTROL), rig.leg("b"))
    for channel in (0, 1):
        packets = [bytes([first]) + (STUN if first < 20 else DTLS)[1:] for first in range(256)]
        for first, packet in enumerate(packets):
            a.send_raw(packet, channel)
            if first % 8 == 7:  # no more than a leg may have waiting
                await rig.settle()
        assert rig.handed == [("a", channel, a.addresses[channel], packets[first]) for first in SLOW]
        rig.handed.clear()
    assert rig.plane.statistics(a.leg.id).slow_path == 2 * len(SLOW)
    assert not [packet for packet in b.take() + b.take(rtcp=True) if packet[0] in SLOW]


@played
async def test_a_packet_of_any_length_is_handed_up_whole(rig: Rig) -> None:
    a, _ = rig.connect(rig.leg("a", slow_path=SlowPath.CONTROL), rig.leg("b"))
    packets = [DTLS, STUN, record(1), record(MAX_PACKET - 13), stun_of(4), stun_of(MAX_PACKET - 20)]
    packets.append(record(60) + record(100))
    for packet in (*packets, stun_of(MAX_PACKET - 16)):
        a.send_raw(packet)
    await rig.settle()
    assert [packet for *_, packet in rig.handed] == packets
    assert rig.dropped(a) == {"too_long": 1}


@played
async def test_what_only_begins_like_stun_or_dtls_is_dropped_at_once(rig: Rig) -> None:
    a, b = rig.connect(rig.leg("a", slow_path=SlowPath.CONTROL), rig.leg("b"))
    for channel in (0, 1):
        for junk in JUNK.values():
            a.send_raw(junk, channel)
    await rig.settle()
    assert rig.dropped(a) == {"not_rtp": 2 * len(JUNK)}
    assert rig.handed == b.take() == b.take(rtcp=True) == []


@played
async def test_only_a_leg_that_is_asked_to_hands_up(rig: Rig) -> None:
    a, b = rig.connect(rig.leg("a"), rig.leg("b", slow_path=SlowPath.CONTROL))
    for slow_path in (SlowPath.NONE, SlowPath.CONTROL, SlowPath.NONE):
        rig.change(a, slow_path=slow_path)
        for peer in (a, b):
            peer.send_raw(STUN)
        await rig.settle()
    assert [name for name, *_ in rig.handed].count("a") == 1
    assert rig.dropped(a) == {"not_rtp": 2}
    assert rig.dropped(b) == {}


@played
async def test_a_transparent_leg_passes_all(rig: Rig) -> None:
    a, b = rig.connect(
        rig.leg("a", UDP, slow_path=SlowPath.CONTROL), rig.leg("b", UDP, slow_path=SlowPath.CONTROL)
    )
    for packet in (STUN, DTLS):
        a.send_raw(packet)
    await rig.settle()
    assert b.take_raw() == [STUN, DTLS]
    assert rig.handed == []


@pytest.mark.parametrize("mode", Mode)
@played
async def test_a_leg_that_is_not_ready_for_media_hands_up_all_the_same(rig: Rig, mode: Mode) -> None:
    leg = rig.leg("a", SRTP, local_key=None, remote_keys=(), slow_path=SlowPath.CONTROL)
    a = Peer(rig, replace(leg, mode=mode))
    rig.want(a.leg)
    a.send_raw(DTLS)
    await rig.settle()
    assert rig.handed == [("a", 0, a.addresses[0], DTLS)]


@played
async def test_nothing_is_learnt_from_it_and_it_is_no_media(rig: Rig) -> None:
    a, b = rig.connect(rig.leg("a", latch=True, inactivity=0.05, slow_path=SlowPath.CONTROL), rig.leg("b"))
    stranger = Peer(rig, a.leg, ELSEWHERE)
    stranger.send_raw(STUN)
    await rig.settle()
    b.send(rtp(1))
    await rig.settle()
    assert a.take() == [rtp(1)]
    assert rig.handed == [("a", 0, stranger.addresses[0], STUN)]
    async with asyncio.timeout(5):
        while ("a", Event.MEDIA_INACTIVE) not in rig.told:
            a.send_raw(STUN)
            await asyncio.sleep(0.005)
    assert ("a", Event.MEDIA_FIRST) not in rig.told


@played
async def test_all_of_a_leg_may_be_handed_up_and_its_media_are_known(rig: Rig) -> None:
    records, datagrams = rig.leg("a", Transport.DTLS), rig.leg("b", UDP)
    a, b = rig.connect(replace(records, slow_path=SlowPath.ALL), replace(datagrams, slow_path=SlowPath.ALL))
    for packet in (*JUNK.values(), rtp(1), STUN, DTLS, DATA):
        a.send_raw(packet)
        await rig.settle()
    assert rig.dropped(a) == {"not_dtls": len(JUNK) + 1}
    b.send_raw(rtp(1), 1)
    await rig.settle()
    assert rig.told == []
    b.send_raw(b"")
    await rig.settle()
    assert rig.told == [("b", Event.MEDIA_FIRST)]
    assert [packet for _, _, _, packet in rig.handed] == [STUN, DTLS, DATA, rtp(1), b""]
    assert (a.take_raw(), b.take_raw()) == ([], [])


@played
async def test_media_in_what_was_handed_up_are_the_gateways_to_find(rig: Rig) -> None:
    leg = replace(rig.leg("a", Transport.DTLS, inactivity=0.05), slow_path=SlowPath.ALL)
    a, _ = rig.connect(leg, replace(rig.leg("b", UDP), slow_path=SlowPath.ALL))
    for _ in range(2):
        async with asyncio.timeout(5):
            while ("a", Event.MEDIA_INACTIVE) not in rig.told:
                a.send_raw(b"\x17\xfe\xfd")
                await asyncio.sleep(0.005)
        silent = rig.plane.idle(a.leg.id)
        rig.told.clear()
        rig.plane.hear(a.leg.id)
        await asyncio.sleep(0)
        assert rig.plane.idle(a.leg.id) < silent
    rig.plane.hear(a.leg.id)
    rig.want()
    await rig.settle()


@played
async def test_the_first_media_are_told_once_however_they_were_found(rig: Rig) -> None:
    a, _ = rig.connect(
        replace(rig.leg("a", Transport.DTLS), slow_path=SlowPath.ALL),
        replace(rig.leg("b", UDP), slow_path=SlowPath.ALL),
    )
    for _ in range(3):
        rig.plane.hear(a.leg.id)
        await rig.hears("a", Event.MEDIA_FIRST)
    assert rig.told == [("a", Event.MEDIA_FIRST)]


@pytest.mark.parametrize("rtcp_keys", [Keys(), Keys(key_of(), (key_of(),))])
@played
async def test_rtcp_may_have_keys_of_its_own_or_none_yet(rig: Rig, rtcp_keys: Keys) -> None:
    a, b = rig.connect(rig.leg("a", SRTP, rtcp_keys=rtcp_keys), rig.leg("b"))
    a.send(rtp(1))
    b.send(rtp(2))
    b.send(rtcp(), rtcp=True)
    a.send(rtcp(), rtcp=True)  # under the keys of RTP
    await rig.settle()
    assert (b.take(), a.take()) == ([rtp(1)], [rtp(2)])
    if rtcp_keys.local is None:
        assert rig.dropped(a) == rig.dropped(b) == {"no_key": 1}
        return
    assert rig.dropped(a) == {"auth_failed": 1}
    (packet,) = a.take_raw(1)
    assert Unprotector([rtcp_keys.local]).unprotect(packet, True) == rtcp()
    a.send_raw(Protector(rtcp_keys.remote[0]).protect(rtcp(), True), 1)
    await rig.settle()
    assert b.take(rtcp=True) == [rtcp()]


@played
async def test_keys_of_rtcp_change_alone_and_lose_nothing_p14(rig: Rig) -> None:
    first, second = (Keys(key_of(), (key_of(),)) for _ in range(2))
    a, b = rig.connect(rig.leg("a", SRTP, rtcp_keys=first), rig.leg("b"))
    old, new = (Protector(keys.remote[0]) for keys in (first, second))
    a.send(rtp(1))
    a.send_raw(old.protect(rtcp(), True), 1)
    await rig.settle()
    rig.change(a, rtcp_keys=second)
    for sender in (old, new):
        a.send_raw(sender.protect(rtcp(), True), 1)
        await rig.settle()
        a.send(rtp(2 + (sender is new)))
    a.send_raw(old.protect(rtcp(), True), 1)
    await rig.settle()
    assert b.take(rtcp=True) == [rtcp()] * 3
    assert b.take() == [rtp(1), rtp(2), rtp(3)]
    assert rig.dropped(a) == {"auth_failed": 1}


@played
async def test_a_wrong_source_and_a_loop_are_not_handed_up(rig: Rig) -> None:
    leg = rig.leg("a", source_filter=True, slow_path=SlowPath.CONTROL)
    a, b = rig.connect(leg, rig.leg("b", latch=True, slow_path=SlowPath.CONTROL))
    Peer(rig, a.leg, ELSEWHERE).send_raw(STUN)
    assert rig.plane.send(a.leg.id, 0, b.leg.local_rtp, STUN)
    rig.sent += 1
    await rig.settle()
    assert (rig.dropped(a), rig.dropped(b)) == ({"wrong_source": 1}, {"loop": 1})
    assert rig.handed == []


@played
async def test_what_a_leg_that_is_gone_left_is_not_handed_up(rig: Rig) -> None:
    a, b = rig.connect(rig.leg("a", slow_path=SlowPath.CONTROL), rig.leg("b"))
    a.send_raw(STUN)
    if isinstance(rig.plane, NativePlane):
        wait_for_outcomes(rig)
    rig.want(b.leg)
    rig.sent = rig.outcomes()  # the Python Plane has not read it
    await rig.settle()
    assert rig.handed == []


# -- what is sent ----------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@played
async def test_an_answer_leaves_from_the_port_that_was_asked(rig: Rig, host: str) -> None:
    a = Peer(rig, rig.leg("a", SRTP, host=host, slow_path=SlowPath.CONTROL), host)
    rig.want(a.leg)
    rig.plane.packets = lambda id, channel, source, data: rig.plane.send(id, channel, source, data[::-1])
    for channel, sock in enumerate(a.sockets):
        a.send_raw(STUN, channel)
        await rig.settle()
        answer, source = sock.recvfrom(4096)
        assert answer == STUN[::-1]
        assert Address(*source[:2]) == (a.leg.local_rtp, a.leg.local_rtcp)[channel]
    assert rig.plane.statistics(a.leg.id).sent == 0


@played
async def test_what_cannot_be_sent(rig: Rig) -> None:
    a, _ = rig.connect(rig.leg("a", slow_path=SlowPath.CONTROL), rig.leg("b"))
    assert not rig.plane.send(a.leg.id, 0, a.addresses[0], bytes(70000))
    assert not rig.plane.send(a.leg.id, 0, Address("255.255.255.255", 9), STUN)
    for host in ("::1", "peer.example"):
        with pytest.raises(UsageError):
            rig.plane.send(a.leg.id, 0, Address(host, 9), STUN)
    with pytest.raises(KeyError):
        rig.plane.send(LegId("c", "gone", 1), 0, a.addresses[0], STUN)


# -- a flood ---------------------------------------------------------------------------------------


@played
async def test_a_flood_has_one_outcome_each_and_media_pass_through_it(rig: Rig) -> None:
    a, b = rig.connect(rig.leg("a", slow_path=SlowPath.CONTROL), rig.leg("b"))
    for sequence in range(100):
        for _ in range(3):
            a.send_raw(STUN)
        a.send(rtp(sequence))
    await rig.settle()
    assert b.take() == [rtp(sequence) for sequence in range(100)]
    counts = rig.plane.statistics(a.leg.id)
    assert counts.slow_path + counts.dropped.get("slow_path_full", 0) == 300
    assert len(rig.handed) == counts.slow_path


def wait_for_outcomes(rig: Rig) -> None:
    """Without a turn of the loop, so that nobody takes what the thread has handed up."""
    until = time.monotonic() + 5
    while rig.outcomes() < rig.sent:
        assert time.monotonic() < until
        time.sleep(0.0005)


def test_however_many_legs_are_flooded_one_that_says_little_is_heard() -> None:
    """Native only: with the Python Plane nothing waits but in the kernel."""

    async def scenario() -> None:
        rig = Rig(partial(NativePlane, cores=(0, 0)))
        try:
            names = [*map(str, range(32)), "quiet"]
            peers = [Peer(rig, rig.leg(name, slow_path=SlowPath.CONTROL)) for name in names]
            other = rig.leg("other", slow_path=SlowPath.CONTROL)  # will be on the other thread
            peers.append(Peer(rig, replace(other, id=other.id._replace(context="other"))))
            rig.want(*(peer.leg for peer in peers))
            for _ in range(3):
                *taken, quiet, elsewhere = flooded(rig, peers)
                assert taken[0] == lib.RELAY_PACKETS // lib.RELAY_SHARE
                assert taken == sorted(taken, reverse=True)
                assert taken[-1] >= quiet == elsewhere == 1
                assert sum(taken) < lib.RELAY_PACKETS
                assert len(rig.handed) == 0
                async with asyncio.timeout(5):
                    while len(rig.handed) < sum(taken) + 2:
                        await asyncio.sleep(0)
                heard = [name for name, *_ in rig.handed]
                assert heard.index("other") <= 1  # the threads in turn
                assert [heard.count(name) for name in names] == [*taken, 1]
                rig.handed.clear()
        finally:
            rig.plane.close()
            for peer in rig.peers:
                for sock in peer.sockets:
                    sock.close()

    def flooded(rig: Rig, peers: list[Peer]) -> list[int]:
        """50 packets to each leg, one to the last two: how many of each were taken."""
        before = [rig.plane.statistics(peer.leg.id) for peer in peers]
        for peer in peers:
            for _ in range(1 if peer in peers[-2:] else 50):
                peer.send_raw(STUN)
            wait_for_outcomes(rig)
        after = [rig.plane.statistics(peer.leg.id) for peer in peers]
        return [now.slow_path - then.slow_path for now, then in zip(after, before, strict=True)]

    uvloop.run(scenario())


# -- peers from elsewhere --------------------------------------------------------------------------


@played
async def test_aioice_is_told_its_address_by_an_answer_from_the_gateway(rig: Rig) -> None:
    a, _ = rig.connect(rig.leg("a", SRTP, slow_path=SlowPath.CONTROL), rig.leg("b"))

    def answer(id: LegId, channel: int, source: Address, data: bytes) -> None:
        asked = stun.parse_message(data)
        reply = stun.Message(asked.message_method, stun.Class.RESPONSE, asked.transaction_id)
        reply.attributes["XOR-MAPPED-ADDRESS"] = (source.host, source.port)
        assert rig.plane.send(id, channel, source, bytes(reply))

    rig.plane.packets = answer
    loop = asyncio.get_running_loop()
    transport, agent = await loop.create_datagram_endpoint(
        lambda: StunProtocol(Mock()), local_addr=("127.0.0.1", 0)
    )
    request = stun.Message(stun.Method.BINDING, stun.Class.REQUEST)
    local = a.leg.local_rtp
    found, source = await agent.request(request, (local.host, local.port))
    assert found.attributes["XOR-MAPPED-ADDRESS"] == transport.get_extra_info("sockname")
    assert source == (local.host, local.port)
    await agent.close()
    rig.want()
    rig.sent = rig.outcomes()


@played
async def test_openssl_shakes_hands_with_openssl_through_the_gateway(rig: Rig, tmp_path: Path) -> None:
    """Both sides sign what they have sent and got: the packets of a handshake that succeeds are unchanged."""
    a, _ = rig.connect(
        rig.leg("a", SRTP, local_key=None, remote_keys=(), slow_path=SlowPath.CONTROL), rig.leg("b")
    )
    local, behind = a.leg.local_rtp, f"127.0.0.1:{PORTS + 98}"
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    made = [*CERTIFICATE.split(), "-keyout", key, "-out", certificate]
    subprocess.run(made, check=True, capture_output=True)
    common = ["-dtls1_2", "-use_srtp", "SRTP_AEAD_AES_128_GCM", "-cert", certificate, "-key", key]
    server = ["s_server", *common, "-accept", behind, "-listen"]
    client = ["s_client", *common, "-connect", f"{local.host}:{local.port}"]

    async def says(output: Path, what: bytes) -> None:
        async with asyncio.timeout(20):
            while what not in output.read_bytes():
                await asyncio.sleep(0.01)

    loop = asyncio.get_running_loop()
    programs: list[subprocess.Popen[bytes]] = []
    sources: list[Address] = []
    heard: list[bytes] = []

    def start(command: list[object], output: Path) -> None:
        with output.open("wb") as file:
            arguments = ["openssl", *map(str, command)]
            programs.append(subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=file, stderr=file))

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as inside:
        inside.setblocking(False)

        def hand(id: LegId, channel: int, source: Address, data: bytes) -> None:
            sources.append(source)
            heard.append(data)
            inside.send(data)

        def back() -> None:
            with suppress(BlockingIOError):
                assert rig.plane.send(a.leg.id, 0, sources[-1], inside.recv(4096))

        rig.plane.packets = hand
        try:
            start(server, tmp_path / "server")
            await says(tmp_path / "server", b"ACCEPT")
            host, port = behind.split(":")
            inside.connect((host, int(port)))
            loop.add_reader(inside, back)
            start(client, tmp_path / "client")
            await says(tmp_path / "client", b"SRTP Extension negotiated, profile=SRTP_AEAD_AES_128_GCM")
            assert programs[1].stdin
            programs[1].stdin.write(b"said under DTLS\n")
            programs[1].stdin.flush()
            await says(tmp_path / "server", b"said under DTLS")
        finally:
            loop.remove_reader(inside)
            for program in programs:
                program.kill()
                program.communicate()
    assert heard[0][0] == 22  # a handshake record
    assert heard[0][13] == 1  # a ClientHello
    rig.want()
    rig.sent = rig.outcomes()
