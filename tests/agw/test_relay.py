"""What the native Plane has beyond the other one: threads, lent keys and sockets, coalescing, its absence."""

from __future__ import annotations

import asyncio
import gc
import logging
import select
import shutil
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import uvloop
from agw.native._relay import ffi, lib
from msgspec.structs import replace

import agw.native
import agw.relay
from agw.config import GatewayConfig, Iq, Realm
from agw.errors import StaleBuild, UsageError
from agw.flows import Difference, Leg, LegId
from agw.pyrelay import PythonPlane
from agw.relay import NativePlane
from agw.server import _plane, serve
from tests.agw.plane_rig import SRTP, Peer, Rig, rtp

CALLS = 12


def in_context(leg: Leg, context: str) -> Leg:
    """The same leg in a context of its own."""
    peer = leg.peer and leg.peer._replace(context=context)
    return replace(leg, id=leg.id._replace(context=context), peer=peer)


def close(rig: Rig) -> None:
    rig.plane.close()
    for peer in rig.peers:
        for sock in peer.sockets:
            sock.close()


def test_contexts_are_spread_over_the_threads_and_come_and_go() -> None:
    async def scenario() -> None:
        rig = Rig(partial(NativePlane, cores=(0, 0)))  # two threads, also where there is one processor
        try:
            pairs: list[tuple[Peer, Peer]] = []
            legs: list[Leg] = []
            for number in range(CALLS):
                a = in_context(rig.leg("a", SRTP), str(number))
                b = in_context(rig.leg("b"), str(number))
                pair = Peer(rig, a), Peer(rig, b)
                for peer, other in (pair, pair[::-1]):
                    rtp_address, rtcp_address = peer.addresses
                    peer.leg = replace(
                        peer.leg, remote=rtp_address, remote_rtcp=rtcp_address, peer=other.leg.id
                    )
                pairs.append(pair)
                legs += [peer.leg for peer in pair]
                rig.want(*legs)  # while the others talk
                for first, second in pairs:
                    first.send(rtp(number))
                    second.send(rtp(number))
            await rig.settle()
            assert rig.plane._load == [CALLS, CALLS]
            for number, (first, second) in enumerate(pairs):
                expected = [rtp(n) for n in range(number, CALLS)]
                assert first.take() == second.take() == expected
            rig.want(*legs[:4])
            assert sum(rig.plane._load) == 4
            rig.want(*legs)
            assert rig.plane._load == [CALLS, CALLS]
        finally:
            close(rig)

    uvloop.run(scenario())


def test_legs_of_two_contexts_cannot_be_connected() -> None:
    async def scenario() -> None:
        rig = Rig(NativePlane)
        try:
            leg = replace(rig.leg("a"), peer=LegId("another", "b", 1))
            with pytest.raises(UsageError):
                rig.plane.apply(Difference(wanted=(leg,)))
        finally:
            close(rig)

    uvloop.run(scenario())


def test_every_key_and_leg_that_was_made_is_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[int] = []

    class Counting:
        """The library, with an eye on what is made."""

        def __getattr__(self, name: str) -> Any:
            function = getattr(lib, name)
            if name in ("srtp_key_new", "relay_leg_new"):
                return lambda *given: (alive.append(1), function(*given))[1]
            if name in ("srtp_key_free", "relay_leg_free"):
                return lambda handle: (alive.pop(), function(handle))[1]
            return function

    monkeypatch.setattr(agw.relay, "lib", Counting())

    async def scenario() -> None:
        rig = Rig(NativePlane)
        try:
            a, _ = rig.connect(rig.leg("a", SRTP), rig.leg("b", SRTP))
            assert len(alive) == 6
            for _ in range(3):
                rig.change(a, remote_keys=rig.leg("other", SRTP).remote_keys)
                a.key_to(a.leg)
                assert len(alive) == 7  # that before is kept until the new one has come
                a.send(rtp(1))
                await rig.settle()
                gc.collect()
                assert len(alive) == 6
            rig.want(a.leg)
            gc.collect()
            assert len(alive) == 3
        finally:
            close(rig)

    uvloop.run(scenario())
    gc.collect()
    assert not alive


def test_packets_that_come_fast_wait_for_each_other_and_none_is_lost() -> None:
    async def scenario() -> None:
        rig = Rig(partial(NativePlane, coalesce=0.0009))
        try:
            a, b = rig.connect(rig.leg("a"), rig.leg("b"))
            came = []
            for number in range(2000):
                a.send(rtp(number))
                came += b.take()
                while number - len(came) > 100:  # more would not fit into the peer's socket
                    await asyncio.sleep(0)
                    came += b.take()
            rig.change(a, source_filter=True)
            await rig.settle()
            assert came + b.take() == [rtp(number) for number in range(2000)]
        finally:
            close(rig)

    uvloop.run(scenario())


def test_what_finds_no_room_to_be_told_is_told_later() -> None:
    """Straight at the library, where nobody reads at first."""
    settings = ffi.new("struct relay_settings *", {"workers": 1, "cores": [-1]})
    relay = lib.relay_open(settings)
    *silent, heard, broken = range(1502)
    legs = [lib.relay_leg_new(relay, 0, name) for name in (*silent, heard, broken)]
    counts = ffi.new("struct relay_counts *")
    notice = ffi.new("struct relay_notice *")
    until = time.monotonic() + 10.0

    def change(changes: list[dict[str, Any]]) -> None:
        assert lib.relay_apply(relay, ffi.new("struct relay_change[]", changes), len(changes)) == -1

    def becomes(true: Callable[[Any], bool], name: int) -> None:
        while not true(counts):
            assert time.monotonic() < until
            lib.relay_count(legs[name], counts)

    def told(count: int) -> list[tuple[int, int]]:
        notices = []
        while len(notices) < count:
            assert time.monotonic() < until
            if lib.relay_read(relay, notice, ffi.NULL):  # there are no packets
                notices.append((notice.kind, notice.leg))
        return notices

    change([{"leg": legs[n], "inactivity": 1, "receives": True, "sockets": [-1, -1]} for n in silent])
    assert select.select([lib.relay_descriptor(relay)], [], [], 10.0)[0]  # in this round they are seen
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as hears,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as breaks,
    ):
        for name, sock in ((heard, hears), (broken, breaks)):
            sock.setblocking(False)
            change([{"leg": legs[name], "sockets": [sock.fileno(), -1]}])  # taken when that round is over
        hears.bind(("127.0.0.1", 0))
        hears.sendto(rtp(1), hears.getsockname())
        with suppress(OSError):
            breaks.shutdown(socket.SHUT_RDWR)  # it is not connected, and yet this breaks it
        becomes(lambda counts: counts.broken, broken)
        becomes(lambda counts: counts.outcomes[lib.RELAY_NO_PEER] == 1, heard)
        assert sorted(told(len(silent) + 1)) == sorted(
            [*((lib.RELAY_MEDIA_INACTIVE, n) for n in silent), (lib.RELAY_BROKEN, broken)]
        )
        hears.sendto(rtp(2), hears.getsockname())
        assert told(1) == [(lib.RELAY_MEDIA_FIRST, heard)]
        hears.sendto(rtp(3), hears.getsockname())
        becomes(lambda counts: counts.outcomes[lib.RELAY_NO_PEER] == 3, heard)
        assert not lib.relay_read(relay, notice, ffi.NULL)
        change([{"leg": leg, "removed": True} for leg in legs])
    for leg in legs:
        lib.relay_leg_free(leg)
    lib.relay_close(relay)


@pytest.mark.parametrize("built", [True, False])
def test_the_python_plane_stands_in_where_the_loop_is_not_built_and_the_log_says_so(
    built: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if not built:
        monkeypatch.setitem(sys.modules, "agw.relay", None)
    caplog.set_level(logging.INFO, "agw")
    config = GatewayConfig(iq=Iq(), realms=(Realm(name="access"),))

    async def scenario() -> None:
        plane = _plane(config)
        assert isinstance(plane, NativePlane if built else PythonPlane)
        plane.close()

    asyncio.run(scenario())
    said = caplog.records[0].getMessage().split()
    assert said[:2] == ["plane", "native" if built else "python"]
    assert ("not built" in caplog.text) is not built


@pytest.mark.parametrize("name", ["relay.c", "relay.h", "build.py"])
def test_a_loop_that_is_not_what_its_sources_say_is_noticed_at_the_start_and_what_to_do_is_said(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else each call would fail, with a 503."""
    shutil.copytree(agw.native.HERE, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr(agw.native, "HERE", tmp_path)
    monkeypatch.delitem(sys.modules, "agw.relay")
    config = GatewayConfig(iq=Iq(listen=f"unix:{tmp_path}/iq.sock"), realms=(Realm(name="access"),))
    with (tmp_path / name).open("a") as source:
        source.write("\n")
    with pytest.raises(StaleBuild, match=r"run python -m agw\.native\.build"):
        asyncio.run(serve(config))


def test_where_only_the_loop_is_installed_there_is_nothing_to_compare_it_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agw.native, "HERE", tmp_path)
    agw.native.check("anything")
