"""Both Planes between real sockets on loopback: what is said here holds for either."""

from __future__ import annotations

import asyncio
import errno
import itertools
import socket
import time
from collections import Counter
from contextlib import suppress
from typing import Any

import pytest
from msgspec.structs import replace

from agw.errors import UsageError
from agw.flows import Difference, OpenError
from agw.iq.messages import Address, Event, Key, Mode, StreamStatistics, Suite, Transport
from agw.pyrelay import PythonPlane
from agw.srtp import MAX_PACKET, Protector, SrtpError, Unprotector
from tests.agw.plane_rig import ELSEWHERE, LOOPBACK, RNG, RTP, SRTP, UDP, Peer, Rig, key_of, played, rtcp, rtp

# -- what passes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("suite", Suite)
@played
async def test_every_suite_against_rtp_in_both_directions(rig: Rig, suite: Suite) -> None:
    a, b = rig.connect(
        rig.leg("a", SRTP, local_key=key_of(suite), remote_keys=(key_of(suite),)), rig.leg("b")
    )
    for sequence in range(20):
        for sender, receiver in ((a, b), (b, a)):
            sender.send(rtp(sequence))
            sender.send(rtcp(), rtcp=True)
            await rig.settle()
            assert receiver.take() == [rtp(sequence)]
            assert receiver.take(rtcp=True) == [rtcp()]


@played
async def test_two_protected_sides_have_nothing_in_common_p13(rig: Rig) -> None:
    gcm, short = Suite.AEAD_AES_256_GCM, Suite.AES_CM_128_HMAC_SHA1_32
    a, b = rig.connect(
        rig.leg("a", SRTP, local_key=key_of(gcm), remote_keys=(key_of(gcm),)),
        rig.leg("b", SRTP, local_key=key_of(short), remote_keys=(key_of(short),)),
    )
    a.send(rtp(1))
    b.send(rtp(2))
    await rig.settle()
    assert (a.take(), b.take()) == ([rtp(2)], [rtp(1)])


@pytest.mark.parametrize(("mux_a", "mux_b"), list(itertools.product((False, True), repeat=2)))
@played
async def test_rtcp_flows_whichever_side_muxes_p34(rig: Rig, mux_a: bool, mux_b: bool) -> None:
    a, b = rig.connect(rig.leg("a", SRTP, rtcp_mux=mux_a), rig.leg("b", rtcp_mux=mux_b))
    for kind in (192, 200, 205, 206, 223):
        for sender, receiver in ((a, b), (b, a)):
            sender.send(rtcp(kind=kind), rtcp=True)
            await rig.settle()
            assert receiver.take(rtcp=True) == [rtcp(kind=kind)]


@played
async def test_a_muxing_side_may_send_rtcp_to_the_rtcp_port_too(rig: Rig) -> None:
    a, b = rig.connect(rig.leg("a", SRTP, rtcp_mux=True), rig.leg("b"))
    a.send(rtcp(), rtcp=True, channel=1)
    await rig.settle()
    assert b.take(rtcp=True) == [rtcp()]


@played
async def test_ports_that_are_apart_are_not_demultiplexed(rig: Rig) -> None:
    a, b = rig.connect(rig.leg("a"), rig.leg("b"))
    marked = b"\x80\xc8" + rtp(1)[2:]  # payload type 72 with the marker
    a.send_raw(marked)
    a.send_raw(rtp(2), channel=1)
    await rig.settle()
    assert b.take() == [marked]
    assert rig.dropped(a) == {"not_rtp": 1}


@pytest.mark.parametrize("host", [LOOPBACK, "::1"])
@played
async def test_transparent_legs_forward_both_ports_as_they_are(rig: Rig, host: str) -> None:
    a, b = rig.connect(rig.leg("a", UDP, host), rig.leg("b", UDP, host, latch=True), host)
    rig.change(b, remote=None, remote_rtcp=None)
    for channel in (0, 1):
        b.send_raw(b"here", channel)
    await rig.settle()
    assert a.take_raw(0) == a.take_raw(1) == [b"here"]
    packets = [b"", b"\x00", b"\x16\xfe\xfd", rtp(1), rtcp(), b"\xff" * MAX_PACKET]
    for channel in (0, 1):
        for packet in packets:
            a.send_raw(packet, channel)
            b.send_raw(packet, channel)
        await rig.settle()
        assert a.take_raw(channel) == b.take_raw(channel) == packets


@played
async def test_packets_leave_from_the_port_of_their_leg(rig: Rig) -> None:
    a, b = rig.connect(rig.leg("a"), rig.leg("b"))
    a.send(rtp(1))
    a.send(rtcp(), rtcp=True)
    await rig.settle()
    for sock, local in zip(b.sockets, (b.leg.local_rtp, b.leg.local_rtcp), strict=True):
        assert sock.recvfrom(4096)[1] == (local.host, local.port)


@played
async def test_ipv6_on_one_side(rig: Rig) -> None:
    a = Peer(rig, rig.leg("a", SRTP, host="::1"), "::1")
    b = Peer(rig, rig.leg("b"))
    # The address written otherwise than the socket tells it is the same address.
    remote = Address("0:0:0:0:0:0:0:1", a.addresses[0].port)
    a.leg = replace(a.leg, remote=remote, remote_rtcp=a.addresses[1], source_filter=True, peer=b.leg.id)
    b.leg = replace(b.leg, remote=b.addresses[0], remote_rtcp=b.addresses[1], peer=a.leg.id)
    rig.want(a.leg, b.leg)
    a.send(rtp(1))
    b.send(rtp(2))
    await rig.settle()
    assert (a.take(), b.take()) == ([rtp(2)], [rtp(1)])


@played
async def test_several_sources_new_ones_and_jumps_are_carried_p15(rig: Rig) -> None:
    a, b = rig.connect(rig.leg("a", SRTP), rig.leg("b"))
    packets = [rtp(sequence, ssrc) for sequence in (1, 2, 20000, 20001, 50000) for ssrc in (1, 2, 3)]
    packets += [rtp(9, 4), rtp(49990, 1)]  # a new source; a late packet
    for sender, receiver in ((a, b), (b, a)):
        for packet in packets:
            sender.send(packet)
        await rig.settle()
        assert receiver.take() == packets


@played
async def test_the_mki_selects_the_key_p16(rig: Rig) -> None:
    keys = (key_of(mki=b"\x01"), key_of(mki=b"\x02"))
    a, b = rig.connect(rig.leg("a", SRTP, remote_keys=keys), rig.leg("b"))
    for key in keys:
        protected = Protector(key).protect(rtp(1), False)
        for mki in (key.mki, b"\x09"):
            a.send_raw(protected[:-10] + mki + protected[-10:])
    await rig.settle()
    assert b.take() == [rtp(1)] * 2
    assert rig.dropped(a) == {"wrong_mki": 2}


# -- what does not ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode_a", "mode_b"), list(itertools.product(Mode, repeat=2)))
@played
async def test_the_modes_are_gates_for_media_and_not_for_rtcp_p35(
    rig: Rig, mode_a: Mode, mode_b: Mode
) -> None:
    a, b = rig.connect(rig.leg("a", SRTP), rig.leg("b"))
    rig.change(a, mode=mode_a)
    rig.change(b, mode=mode_b)
    for sender, receiver in ((a, b), (b, a)):
        passes = sender.leg.mode.receives and receiver.leg.mode.sends
        sender.send(rtp(1))
        sender.send(rtcp(), rtcp=True)
        await rig.settle()
        assert receiver.take() == ([rtp(1)] if passes else [])
        assert receiver.take(rtcp=True) == [rtcp()]
        assert rig.dropped(sender) == ({} if passes else {"gated": 1})


STUN = b"\0\1\0\0\x21\x12\xa4\x42" + bytes(12)


@pytest.mark.parametrize("mux", [False, True])
@pytest.mark.parametrize(("mode_a", "mode_b"), list(itertools.product(Mode, repeat=2)))
@played
async def test_what_is_no_media_passes_the_gates_of_transparent_legs_too_p35(
    rig: Rig, mode_a: Mode, mode_b: Mode, mux: bool
) -> None:
    a, b = rig.connect(rig.leg("a", UDP, rtcp_mux=mux), rig.leg("b", UDP, rtcp_mux=mux))
    rig.change(a, mode=mode_a)
    rig.change(b, mode=mode_b)
    media = [b"", b"T.38", rtp(1), *([] if mux else [rtcp()]), STUN[:-1], b"\x16\xfe\xfd" + bytes(10)]
    for sender, receiver in ((a, b), (b, a)):
        passes = sender.leg.mode.receives and receiver.leg.mode.sends
        for packet in (*media, STUN, rtcp(kind=223)):
            sender.send_raw(packet, int(packet == rtcp(kind=223) and not mux))
            await rig.settle()
        control = [STUN, rtcp(kind=223)]
        assert receiver.take_raw(0) == [*(media if passes else ()), *control[: 1 + mux]]
        assert receiver.take_raw(1) == control[1 + mux :]
        assert rig.dropped(sender) == ({} if passes else {"gated": len(media)})


@played
async def test_where_there_is_one_port_the_other_is_no_way_around_the_gates(rig: Rig) -> None:
    a, b = rig.connect(rig.leg("a", UDP, rtcp_mux=True), rig.leg("b", UDP, rtcp_mux=True))
    rig.change(b, mode=Mode.RECVONLY)
    a.send_raw(b"media", channel=1)
    await rig.settle()
    assert rig.dropped(a) == {"gated": 1}
    rig.change(b, mode=Mode.SENDRECV)
    a.send_raw(b"media", channel=1)
    await rig.settle()
    assert (b.take_raw(0), b.take_raw(1)) == ([b"media"], [])


@pytest.mark.parametrize("transport", [RTP, SRTP])
@played
async def test_what_is_no_rtp_is_dropped(rig: Rig, transport: Transport) -> None:
    a, b = rig.connect(rig.leg("a", transport, rtcp_mux=True), rig.leg("b"))
    noise = [
        b"",
        b"\x80",
        rtp(1)[:11],
        rtcp()[:7],
        b"\x00\x01" + bytes(18),
        b"\x16\xfe\xfd" + bytes(40),
        b"\xc0" * 40,
    ]
    for packet in noise:
        a.send_raw(packet, 0)
        a.send_raw(packet, 1)
    await rig.settle()
    assert rig.dropped(a) == {"not_rtp": 2 * len(noise)}
    assert b.take() == b.take(rtcp=True) == []


@played
async def test_a_leg_that_is_not_ready_drops_for_a_reason(rig: Rig) -> None:
    a, b = Peer(rig, rig.leg("a", SRTP)), Peer(rig, rig.leg("b"))
    rig.want(a.leg, b.leg)
    a.send(rtp(1))
    await rig.settle()
    assert rig.dropped(a) == {"no_peer": 1}
    rig.change(a, peer=b.leg.id)
    rig.change(b, peer=a.leg.id)
    a.send(rtp(2))
    b.send(rtp(3))
    await rig.settle()
    assert rig.dropped(a) == {"no_peer": 1, "no_remote": 1}
    assert rig.dropped(b) == {"no_remote": 1}
    rig.change(a, remote=a.addresses[0], local_key=None, remote_keys=())
    rig.change(b, remote=b.addresses[0])
    a.send(rtp(4))
    b.send(rtp(5))
    await rig.settle()
    assert rig.dropped(a) == {"no_peer": 1, "no_remote": 1, "no_key": 1}
    assert rig.dropped(b) == {"no_remote": 1, "no_key": 1}


@played
async def test_forged_repeated_and_oversized_packets_are_told_apart(rig: Rig) -> None:
    a, b = rig.connect(rig.leg("a", SRTP), rig.leg("b"))
    protected = a.send(rtp(1))
    a.send_raw(protected)  # replayed
    assert a.protector
    fresh = a.protector.protect(rtp(2), False)
    a.send_raw(fresh[:-1] + bytes([fresh[-1] ^ 1]))  # changed
    a.send_raw(rtp(3))  # in the clear
    a.send_raw(fresh[:20])
    a.send_raw(bytes([0x80]) * (MAX_PACKET + 1))
    a.send_raw(bytes([0x80]) * 20000)
    b.send(rtp(1, payload=bytes(MAX_PACKET - 12)))  # fits, but not with its tag
    b.send(rtp(2))
    b.send(rtp(2))
    await rig.settle()
    assert b.take() == [rtp(1)]
    assert rig.dropped(a) == {"replayed": 1, "auth_failed": 2, "malformed": 1, "too_long": 2}
    assert rig.dropped(b) == {"replayed": 1}


@played
async def test_a_remote_that_cannot_be_reached_is_a_drop(rig: Rig) -> None:
    a, b = rig.connect(rig.leg("a"), rig.leg("b"))
    rig.change(b, remote=Address("255.255.255.255", 9))
    a.send(rtp(1))
    await rig.settle()
    assert rig.dropped(a) == {"send_failed": 1}


@played
async def test_a_packet_that_cannot_be_sent_stops_none_of_those_that_came_with_it(rig: Rig) -> None:
    a, b = rig.connect(rig.leg("a", rtcp_mux=True), rig.leg("b"))
    rig.change(b, remote_rtcp=Address("255.255.255.255", 9))
    order = [bool(n & n >> 2) for n in range(400)]  # runs of some length of either
    for n, is_rtcp in enumerate(order):
        a.send(rtcp(n) if is_rtcp else rtp(n), is_rtcp)
    await rig.settle()
    assert b.take() == [rtp(n) for n, is_rtcp in enumerate(order) if not is_rtcp]
    assert rig.dropped(a) == {"send_failed": sum(order)}


@played
async def test_a_peer_whose_port_is_closed_breaks_nothing(rig: Rig) -> None:
    a, b = rig.connect(rig.leg("a"), rig.leg("b"))
    there = b.addresses[0]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as closed:
        closed.bind((LOOPBACK, 0))
        rig.change(b, remote=Address(*closed.getsockname()))
    for n in range(5):  # each is answered by the kernel: nobody is there
        a.send(rtp(n))
        await rig.settle()
    b.send(rtp(9))
    rig.change(b, remote=there)
    a.send(rtp(10))
    await rig.settle()
    assert (a.take(), b.take()) == ([rtp(9)], [rtp(10)])
    assert (rig.dropped(a), {event for _, event in rig.told}) == ({}, {Event.MEDIA_FIRST})


@played
async def test_the_source_filter_goes_by_the_signalled_host(rig: Rig) -> None:
    a, b = rig.connect(rig.leg("a", source_filter=True), rig.leg("b"))
    same_host, other_host = Peer(rig, a.leg), Peer(rig, a.leg, ELSEWHERE)
    for number, peer in enumerate((a, same_host, other_host)):
        peer.send(rtp(number))
        peer.send(rtcp(number), rtcp=True)
    await rig.settle()
    assert b.take() == [rtp(0), rtp(1)]
    assert b.take(rtcp=True) == [rtcp(0), rtcp(1)]
    assert rig.dropped(a) == {"wrong_source": 2}


@pytest.mark.parametrize("transport", [RTP, SRTP, UDP])
@played
async def test_noise_has_one_outcome_each(rig: Rig, transport: Transport) -> None:
    other = UDP if transport is UDP else RTP
    a, b = rig.connect(rig.leg("a", transport, rtcp_mux=True, latch=True), rig.leg("b", other, latch=True))
    for _ in range(500):
        begin = bytes(
            [RNG.choice((0x80, 0x90, 0xBF, RNG.getrandbits(8))), RNG.choice((0, 200, RNG.getrandbits(8)))]
        )
        a.send_raw(begin + RNG.randbytes(RNG.randrange(60)), RNG.getrandbits(1))
        b.send_raw(begin + RNG.randbytes(RNG.randrange(60)), RNG.getrandbits(1))
        await rig.settle()
    if transport is SRTP:
        assert rig.plane.statistics(a.leg.id).received == 0


# -- where the peer is -----------------------------------------------------------------------------


@played
async def test_an_srtp_leg_follows_authentic_packets_only_p15(rig: Rig) -> None:
    a, b = rig.connect(rig.leg("a", SRTP, latch=True, source_filter=True), rig.leg("b"))
    moved, stranger = Peer(rig, a.leg, ELSEWHERE), Peer(rig, a.leg, ELSEWHERE)
    moved.protector, moved.unprotector = a.protector, a.unprotector
    stranger.send_raw(rtp(1))
    stranger.protector = Protector(key_of())
    stranger.send(rtp(2))
    stranger.send(rtcp(), rtcp=True)
    await rig.settle()
    b.send(rtp(10))
    await rig.settle()
    assert a.take() == [rtp(10)]  # as signalled: nothing authentic has come
    heard = moved.send(rtp(3))
    await rig.settle()
    b.send(rtp(11))
    b.send(rtcp(11), rtcp=True)
    await rig.settle()
    assert moved.take() == [rtp(11)]
    assert a.take(rtcp=True) == [rtcp(11)]  # RTCP is latched by RTCP
    moved.send(rtcp(12), rtcp=True)
    await rig.settle()
    b.send(rtcp(13), rtcp=True)
    await rig.settle()
    assert moved.take(rtcp=True) == [rtcp(13)]
    a.send(rtp(4))  # back again
    stranger.send_raw(heard)  # authentic once, and now a replay
    await rig.settle()
    b.send(rtp(12))
    await rig.settle()
    assert a.take() == [rtp(12)]
    assert stranger.take_raw() == []
    assert rig.dropped(a) == {"auth_failed": 3, "replayed": 1}


@pytest.mark.parametrize("is_rtcp", [False, True])
@played
async def test_a_late_packet_does_not_move_the_address_back_p15(rig: Rig, is_rtcp: bool) -> None:
    a, b = rig.connect(rig.leg("a", SRTP, latch=True), rig.leg("b"))
    moved = Peer(rig, a.leg, ELSEWHERE)
    moved.protector, moved.unprotector = a.protector, a.unprotector
    packets = [rtcp(kind=kind) if is_rtcp else rtp(kind) for kind in (200, 201, 202, 203)]
    assert a.protector
    first, late, *_ = wire = [a.protector.protect(packet, is_rtcp) for packet in packets]
    for sender, packet in ((a, first), (moved, wire[2]), (a, late)):
        sender.send_raw(packet, channel=int(is_rtcp))
        await rig.settle()
    b.send(packets[0], rtcp=is_rtcp)
    await rig.settle()
    assert (a.take_raw(int(is_rtcp)), moved.take(rtcp=is_rtcp)) == ([], packets[:1])
    a.send_raw(wire[3], channel=int(is_rtcp))  # now it has gone back
    await rig.settle()
    b.send(packets[1], rtcp=is_rtcp)
    await rig.settle()
    assert a.take(rtcp=is_rtcp) == packets[1:2]
    assert b.take(rtcp=is_rtcp) == [packets[n] for n in (0, 2, 1, 3)]  # what is late is not lost


@played
async def test_with_mux_one_authentic_packet_latches_both_p15(rig: Rig) -> None:
    a, b = rig.connect(rig.leg("a", SRTP, latch=True, rtcp_mux=True), rig.leg("b"))
    moved = Peer(rig, a.leg, ELSEWHERE)
    moved.protector, moved.unprotector = a.protector, a.unprotector
    moved.send(rtcp(1), rtcp=True)
    await rig.settle()
    b.send(rtp(1))
    await rig.settle()
    b.send(rtcp(2), rtcp=True)
    await rig.settle()
    media, control = moved.take_raw()
    assert moved.unprotector
    assert moved.unprotector.unprotect(media, False) == rtp(1)
    assert moved.unprotector.unprotect(control, True) == rtcp(2)


@pytest.mark.parametrize("source_filter", [False, True])
@played
async def test_an_rtp_leg_believes_the_first_packet_only_p15(rig: Rig, source_filter: bool) -> None:
    a, b = rig.connect(rig.leg("a", latch=True, source_filter=source_filter), rig.leg("b"))
    behind_nat, stranger = Peer(rig, a.leg), Peer(rig, a.leg, ELSEWHERE)
    behind_nat.send_raw(b"\x00\x01 no RTP")  # nothing is learnt from this
    behind_nat.send(rtp(1))
    stranger.send(rtp(2))
    await rig.settle()
    b.send(rtp(3))
    await rig.settle()
    assert behind_nat.take() == [rtp(3)]
    assert b.take() == ([rtp(1)] if source_filter else [rtp(1), rtp(2)])
    assert rig.dropped(a) == {"not_rtp": 1, **({"wrong_source": 1} if source_filter else {})}


@pytest.mark.parametrize("transport", [RTP, UDP])
@played
async def test_a_stranger_is_not_the_first_however_quick(rig: Rig, transport: Transport) -> None:
    a, b = rig.connect(
        rig.leg("a", transport, latch=True, latch_from=ELSEWHERE, source_filter=True), rig.leg("b", transport)
    )
    rig.change(a, remote=Address("127.0.0.4", 9), remote_rtcp=Address("127.0.0.4", 9))
    stranger, nat = Peer(rig, a.leg), Peer(rig, a.leg, ELSEWHERE)
    for is_rtcp, packet in ((False, rtp), (True, rtcp)):
        stranger.send(packet(1), rtcp=is_rtcp)
        await rig.settle()
        nat.send(packet(2), rtcp=is_rtcp)
        await rig.settle()
        stranger.send(packet(3), rtcp=is_rtcp)
        b.send(packet(4), rtcp=is_rtcp)
        await rig.settle()
        assert b.take(rtcp=is_rtcp) == [packet(2)]
        assert nat.take(rtcp=is_rtcp) == [packet(4)]
    assert stranger.take_raw() == []
    assert rig.dropped(a) == {"wrong_source": 4}


@pytest.mark.parametrize("itself", [True, False])
@played
async def test_peers_who_name_our_own_addresses_make_no_packet_go_round(rig: Rig, itself: bool) -> None:
    a, b = rig.connect(rig.leg("a", latch=True), rig.leg("b"))
    rig.change(a, remote=(a if itself else b).leg.local_rtp)
    rig.change(b, remote=b.leg.local_rtp)
    b.send(rtp(1))
    rig.sent += 1  # what leaves comes back once
    await rig.settle()
    assert rig.dropped(a if itself else b) == {"loop": 1}


@played
async def test_contexts_may_be_chained_where_they_do_not_latch(rig: Rig) -> None:
    a, b = rig.connect(rig.leg("a", latch=True), rig.leg("b"))
    c, d = rig.connect(rig.leg("c"), rig.leg("d", latch=True))
    rig.want(a.leg, b.leg, c.leg, d.leg)
    rig.change(b, remote=c.leg.local_rtp)
    rig.change(c, remote=b.leg.local_rtp)
    for sender, receiver in ((a, d), (d, a)):
        sender.send(rtp(1))
        rig.sent += 1  # between the two
        await rig.settle()
        assert receiver.take() == [rtp(1)]


@played
async def test_without_latch_packets_do_not_move_the_remote(rig: Rig) -> None:
    a, b = rig.connect(rig.leg("a", SRTP), rig.leg("b"))
    other = Peer(rig, a.leg)
    other.protector = a.protector
    other.send(rtp(1))
    await rig.settle()
    b.send(rtp(2))
    await rig.settle()
    assert b.take() == [rtp(1)]
    assert a.take() == [rtp(2)]


@played
async def test_a_latched_address_stays_until_another_is_signalled(rig: Rig) -> None:
    a, b = rig.connect(rig.leg("a", latch=True), rig.leg("b"))
    moved = Peer(rig, a.leg)

    async def reached() -> list[str]:
        await rig.settle()
        b.send(rtp(1))
        await rig.settle()
        return [name for name, peer in (("a", a), ("moved", moved)) if peer.take()]

    moved.send(rtp(1))
    assert await reached() == ["moved"]
    for fields in ({"mode": Mode.SENDONLY}, {"mode": Mode.SENDRECV, "inactivity": 60.0}, {"rtcp_mux": True}):
        rig.change(a, **fields)
        assert await reached() == ["moved"]
    rig.change(a, latch=False)
    assert await reached() == ["a"]
    rig.change(a, latch=True)
    assert await reached() == ["a"]
    moved.send(rtp(2))
    assert await reached() == ["moved"]
    rig.change(a, remote=None)
    assert await reached() == []
    rig.change(a, remote=a.addresses[0])
    assert await reached() == ["a"]


@played
async def test_a_leg_that_was_told_no_remote_learns_it(rig: Rig) -> None:
    a, b = rig.connect(rig.leg("a", SRTP, latch=True), rig.leg("b"))
    rig.change(a, remote=None, remote_rtcp=None)
    b.send(rtp(1))
    await rig.settle()
    a.send(rtp(2))
    await rig.settle()
    b.send(rtp(3))
    await rig.settle()
    assert a.take() == [rtp(3)]
    assert rig.dropped(b) == {"no_remote": 1}


# -- changes ---------------------------------------------------------------------------------------


@played
async def test_a_key_change_loses_nothing_p14(rig: Rig) -> None:
    a, b = rig.connect(rig.leg("a", SRTP), rig.leg("b"))
    a.send(rtp(1))
    await rig.settle()
    a.leg = replace(a.leg, remote_keys=(key_of(Suite.AEAD_AES_128_GCM),))
    rig.change(a)
    a.send(rtp(2))  # under way when the key changed
    old = a.protector
    a.key_to(a.leg)
    a.send(rtp(3))
    await rig.settle()
    assert b.take() == [rtp(1), rtp(2), rtp(3)]
    assert old
    a.send_raw(old.protect(rtp(4), False))
    await rig.settle()
    assert rig.dropped(a) == {"auth_failed": 1}


@played
async def test_a_key_change_that_is_taken_back_leaves_all_as_it_was_p29(rig: Rig) -> None:
    a, b = rig.connect(rig.leg("a", SRTP), rig.leg("b"))
    keys = a.leg.remote_keys
    wrapped = [a.send(rtp(sequence)) for sequence in (0xFFFF, 0)][1]
    await rig.settle()
    rig.change(a, remote_keys=(key_of(),))
    rig.change(a, remote_keys=keys)
    a.send_raw(wrapped)  # the window is there
    a.send(rtp(1))  # and the roll-over counter
    await rig.settle()
    assert b.take() == [rtp(0xFFFF), rtp(0), rtp(1)]
    assert rig.dropped(a) == {"replayed": 1}


@played
async def test_a_second_key_change_before_the_first_was_seen_p14(rig: Rig) -> None:
    a, b = rig.connect(rig.leg("a", SRTP), rig.leg("b"))
    a.send(rtp(1))
    await rig.settle()
    working, skipped = a.protector, key_of()
    rig.change(a, remote_keys=(skipped,))
    rig.change(a, remote_keys=(key_of(),))
    assert working
    a.send(rtp(2))
    a.send_raw(Protector(skipped).protect(rtp(3), False))
    await rig.settle()
    a.key_to(a.leg)
    a.send(rtp(4))
    await rig.settle()
    a.send_raw(working.protect(rtp(5), False))  # its time is over
    await rig.settle()
    assert b.take() == [rtp(1), rtp(2), rtp(4)]
    assert rig.dropped(a) == {"auth_failed": 2}


@played
async def test_contexts_survive_hold_and_refresh_p14_p35(rig: Rig) -> None:
    a, b = rig.connect(rig.leg("a", SRTP), rig.leg("b"))
    protected = a.send(rtp(0xFFFF))
    b.send(rtp(0xFFFF))
    for mode in (Mode.SENDONLY, Mode.INACTIVE, Mode.SENDRECV):
        rig.change(a, mode=mode)
        await rig.settle()
    a.send(rtp(0))  # the roll-over counters go on
    b.send(rtp(0))
    a.send_raw(protected)
    await rig.settle()
    assert a.take() == [rtp(0xFFFF), rtp(0)]
    assert b.take()[-1] == rtp(0)
    assert rig.dropped(a)["replayed"] == 1


@played
async def test_a_leg_moves_from_one_early_dialog_to_another_p26(rig: Rig) -> None:
    a, b = rig.connect(rig.leg("a", SRTP), rig.leg("b"))
    c = Peer(rig, rig.leg("c"))
    c.leg = replace(c.leg, remote=c.addresses[0], remote_rtcp=c.addresses[1])
    rig.want(a.leg, b.leg, c.leg)
    a.send(rtp(1))
    c.send(rtp(100))
    await rig.settle()
    a.leg, b.leg, c.leg = (
        replace(a.leg, peer=c.leg.id), replace(b.leg, peer=None), replace(c.leg, peer=a.leg.id),
    )  # fmt: skip
    rig.want(a.leg, b.leg, c.leg)
    a.send(rtp(2))
    b.send(rtp(3))
    c.send(rtp(4))
    await rig.settle()
    assert (a.take(), b.take(), c.take()) == ([rtp(4)], [rtp(1)], [rtp(2)])
    assert rig.dropped(b) == rig.dropped(c) == {"no_peer": 1}


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
@played
async def test_two_pairs_change_partners_in_one_step(rig: Rig, order: tuple[int, ...]) -> None:
    peers = [Peer(rig, rig.leg(name)) for name in "abcd"]

    def pair(*partners: int) -> None:
        for peer, partner in zip(peers, partners, strict=True):
            remote, remote_rtcp = peer.addresses
            other = peers[partner].leg.id
            peer.leg = replace(peer.leg, remote=remote, remote_rtcp=remote_rtcp, peer=other)
        rig.want(*(peers[n].leg for n in order))

    pair(1, 0, 3, 2)
    pair(2, 3, 0, 1)
    for n, peer in enumerate(peers):
        peer.send(rtp(n))
    await rig.settle()
    assert [peer.take() for peer in peers] == [[rtp(2)], [rtp(3)], [rtp(0)], [rtp(1)]]


@played
async def test_counts_are_given_when_a_leg_goes_and_its_peer_stays(rig: Rig) -> None:
    a, b = rig.connect(rig.leg("a", SRTP), rig.leg("b"))
    a.send(rtp(1))
    b.send(rtp(1))
    b.send(rtp(2))
    a.send_raw(rtp(2))
    await rig.settle()
    assert rig.want(replace(a.leg, peer=None)) == {
        b.leg.id: StreamStatistics(1, received=2, sent=1, received_octets=344, sent_octets=172, dropped={})
    }
    assert rig.plane.statistics(a.leg.id) == StreamStatistics(
        1, received=1, sent=2, received_octets=182, sent_octets=364, dropped={"auth_failed": 1}
    )
    a.send(rtp(3))
    await rig.settle()
    assert rig.dropped(a) == {"auth_failed": 1, "no_peer": 1}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
        again.bind((b.leg.local_rtp.host, b.leg.local_rtp.port))


@played
async def test_a_leg_gets_other_ports_and_keeps_its_counts(rig: Rig) -> None:
    a, b = rig.connect(rig.leg("a"), rig.leg("b"))
    a.send(rtp(1))
    await rig.settle()
    fresh = rig.leg("a")
    rig.change(a, local_rtp=fresh.local_rtp, local_rtcp=fresh.local_rtcp)
    a.send(rtp(2))
    await rig.settle()
    assert b.take() == [rtp(1), rtp(2)]
    assert rig.plane.statistics(a.leg.id).received == 2


@played
async def test_a_taken_port_is_named_and_nothing_has_happened(rig: Rig) -> None:
    a, b = rig.connect(rig.leg("a"), rig.leg("b"))
    good, bad = rig.leg("good"), rig.leg("bad")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind((bad.local_rtcp.host, bad.local_rtcp.port))
        with pytest.raises(OpenError) as failed:
            rig.plane.apply(Difference((b.leg.id,), (replace(a.leg, mode=Mode.INACTIVE), good, bad)))
    assert failed.value.legs == (bad.id,)
    a.send(rtp(1))
    await rig.settle()
    assert b.take() == [rtp(1)]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
        again.bind((good.local_rtp.host, good.local_rtp.port))


@pytest.mark.parametrize(
    "wrong",
    [
        {"remote": Address("peer.example", 5000)},
        {"remote": Address("::1", 5000)},
        {"latch_from": "peer.example"},
        {"latch_from": "::1"},
        {"transport": SRTP, "local_key": Key(Suite.AEAD_AES_128_GCM, b"short")},
        {"transport": SRTP, "remote_keys": (Key(Suite.AEAD_AES_128_GCM, b"short"),)},
    ],
)
@played
async def test_what_the_caller_gets_wrong_changes_nothing(rig: Rig, wrong: dict[str, Any]) -> None:
    a, b = rig.connect(rig.leg("a"), rig.leg("b"))
    with pytest.raises(UsageError):
        rig.plane.apply(Difference((b.leg.id,), (replace(a.leg, **wrong), rig.leg("c"))))
    with pytest.raises(UsageError):
        rig.plane.apply(Difference((), (replace(rig.leg("c"), **wrong),)))
    a.send(rtp(1))
    await rig.settle()
    assert b.take() == [rtp(1)]


@played
async def test_a_leg_whose_sockets_broke_is_told_and_can_be_opened_again(rig: Rig) -> None:
    class Broken:
        def recvfrom(self, size: int) -> None:
            raise OSError(errno.ENETDOWN, "the network is down")

    a, b = rig.connect(rig.leg("a"), rig.leg("b"))
    standing = rig.plane._legs[a.leg.id]
    if isinstance(rig.plane, PythonPlane):
        standing._read(Broken(), 0)
    else:
        with suppress(OSError):  # the socket hangs up all the same
            standing.sockets[0].shutdown(socket.SHUT_RDWR)
    await rig.hears("a", Event.CONTEXT_LOST)
    assert rig.told == [("a", Event.CONTEXT_LOST)]
    b.send(rtp(1))
    await rig.settle()
    assert rig.dropped(b) == {"no_remote": 1}
    rig.change(a, inactivity=60.0)
    a.send(rtp(2))
    await rig.settle()
    assert b.take() == [rtp(2)]


# -- what is told ----------------------------------------------------------------------------------


@played
async def test_the_first_authentic_media_are_told_once(rig: Rig) -> None:
    a, b = rig.connect(rig.leg("a", SRTP), rig.leg("b"))
    a.send_raw(rtp(1))
    a.send(rtcp(), rtcp=True)
    await rig.settle()
    assert rig.told == []
    for sequence in (2, 3):
        a.send(rtp(sequence))
    b.send(rtp(1))
    await rig.settle()
    assert Counter(rig.told) == {("a", Event.MEDIA_FIRST): 1, ("b", Event.MEDIA_FIRST): 1}


@played
async def test_failed_authentications_are_told_above_the_limit_and_once(rig: Rig) -> None:
    a, _ = rig.connect(rig.leg("a", SRTP), rig.leg("b"))
    replayed = a.send(rtp(0))
    for _ in range(20):
        a.send_raw(replayed)  # no sign of a wrong key
    for sequence in range(5):
        a.send_raw(rtp(sequence))
    await rig.settle()
    assert ("a", Event.SRTP_FAILURES) not in rig.told
    for sequence in range(50):
        a.send_raw(rtp(sequence))
    await rig.settle()
    assert rig.told.count(("a", Event.SRTP_FAILURES)) == 1


@played
async def test_silence_is_told_once_until_media_return(rig: Rig) -> None:
    a, b = rig.connect(rig.leg("a", SRTP, inactivity=0.03), rig.leg("b"))
    await rig.hears("a", Event.MEDIA_INACTIVE)  # also when none ever came
    await asyncio.sleep(0.1)
    assert rig.told == [("a", Event.MEDIA_INACTIVE)]
    a.send(rtcp(), rtcp=True)  # no media
    a.send_raw(rtp(1))  # not authentic
    await rig.settle()
    await asyncio.sleep(0.1)
    assert rig.told == [("a", Event.MEDIA_INACTIVE)]
    rig.told.clear()
    a.send(rtp(1))
    await rig.hears("a", Event.MEDIA_INACTIVE)
    assert rig.told == [("a", Event.MEDIA_FIRST), ("a", Event.MEDIA_INACTIVE)]
    assert b.take() == [rtp(1)]


@played
async def test_media_keep_the_timer_from_running_out(rig: Rig) -> None:
    """It runs for two seconds, and nothing holds the machine up for as long."""
    a, _ = rig.connect(rig.leg("a", inactivity=2.0), rig.leg("b"))
    for sequence in range(220):
        sent = time.monotonic()
        a.send(rtp(sequence))
        await rig.settle()
        assert rig.plane.idle(a.leg.id) <= time.monotonic() - sent + 0.001
        await asyncio.sleep(0.01)
    assert rig.told == [("a", Event.MEDIA_FIRST)]


@played
async def test_the_timer_is_parked_on_hold_and_starts_anew_p35(rig: Rig) -> None:
    a, _ = rig.connect(replace(rig.leg("a", inactivity=0.05), mode=Mode.INACTIVE), rig.leg("b"))
    for mode in (Mode.SENDONLY, Mode.INACTIVE):
        rig.change(a, mode=mode)
        await asyncio.sleep(0.15)
        assert rig.told == []
    rig.change(a, mode=Mode.SENDRECV)
    assert rig.told == []
    await rig.hears("a", Event.MEDIA_INACTIVE)


@played
async def test_a_leg_that_is_gone_tells_nothing(rig: Rig) -> None:
    rig.connect(rig.leg("a", inactivity=0.03), rig.leg("b", inactivity=0.03))
    rig.want()
    await asyncio.sleep(0.1)
    assert rig.told == []


@played
async def test_srtp_on_the_wire_is_not_the_media(rig: Rig) -> None:
    a, b = rig.connect(rig.leg("a", SRTP), rig.leg("b"))
    b.send(rtp(1))
    await rig.settle()
    (wire,) = a.take_raw()
    assert b"\xab\xab\xab" not in wire
    with pytest.raises(SrtpError):
        Unprotector([key_of()]).unprotect(wire, False)
