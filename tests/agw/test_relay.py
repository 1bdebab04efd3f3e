"""What the native Plane has beyond the other one: threads, lent keys and sockets, coalescing, its absence."""

from __future__ import annotations

import asyncio
import gc
import logging
import shutil
import socket
import sys
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import uvloop
from agw.native._relay import ffi, lib

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


def test_silence_is_told_of_every_leg_and_other_notices_that_find_no_room_are_counted() -> None:
    """Straight at the library, where nobody reads at first."""
    settings = ffi.new("struct relay_settings *", {"workers": 1, "cores": [-1]})
    relay = lib.relay_open(settings)
    legs = [lib.relay_leg_new(relay, 0, name) for name in range(1501)]
    change = {"inactivity": 1, "receives": True, "sockets": [-1, -1]}
    changes = ffi.new("struct relay_change[]", [{"leg": leg, **change} for leg in legs[:-1]])
    assert lib.relay_apply(relay, changes, len(changes)) == -1
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as lost:
        lost.setblocking(False)
        last = ffi.new("struct relay_change[]", [{"leg": legs[-1], "sockets": [lost.fileno(), -1]}])
        assert lib.relay_apply(relay, last, 1) == -1  # from here on the first have been looked at
        with suppress(OSError):
            lost.shutdown(socket.SHUT_RDWR)  # it is not connected, and yet this breaks it
        until = time.monotonic() + 10.0
        while not lib.relay_unread(relay) and time.monotonic() < until:
            time.sleep(0.001)
        notice, silent = ffi.new("struct relay_notice *"), set()
        while len(silent) < 1500 and time.monotonic() < until:
            if lib.relay_read(relay, notice, ffi.NULL):  # there are no packets
                assert notice.kind == lib.RELAY_MEDIA_INACTIVE
                silent.add(notice.leg)
        assert silent == set(range(1500))
        assert lib.relay_unread(relay) == 1
        removed = ffi.new("struct relay_change[]", [{"leg": leg, "removed": True} for leg in legs])
        lib.relay_apply(relay, removed, len(removed))
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
