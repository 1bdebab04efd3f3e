"""Floods of strangers: calls go on meanwhile, and what they make it hold stays within the limits."""

from __future__ import annotations

import contextlib
import itertools
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.system.calls import audio, originate
from tests.system.sipp import HOST
from tests.system.world import TABLES, World

RTP = audio(port=6100)
SHARE = 100  # transactions of one source
LIMITS = f"""
[sources]
rate = 50.0
burst = 200
penalty = 2.0
transactions = {SHARE}
[limits]
connections = 300
connections_per_source = 100
"""
serial = itertools.count()

pytestmark = pytest.mark.calm


@pytest.fixture(scope="module")
def _world() -> Iterator[World]:
    """Its home network is silent: every REGISTER stays open for as long as it may."""
    with World(tables=TABLES + LIMITS) as world:
        yield world
        world.check()
        world.assert_nothing_left()


def request(method: str, host: str) -> bytes:
    n = next(serial)
    return (
        f"{method} sip:ims.test SIP/2.0\r\nVia: SIP/2.0/UDP {host};branch=z9hG4bK{n};rport\r\n"
        f"Max-Forwards: 70\r\nFrom: <sip:u{n}@ims.test>;tag={n}\r\nTo: <sip:u{n}@ims.test>\r\n"
        f"Call-ID: {n}\r\nCSeq: 1 {method}\r\nContact: <sip:u{n}@{host}>\r\nContent-Length: 0\r\n\r\n"
    ).encode()


@contextmanager
def flood(world: World, method: str, source: Callable[[], str]) -> Iterator[None]:
    """Datagrams, as fast as Python sends them, from a source of their own each."""
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            host = source()
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
                peer.bind((host, 0))
                for _ in range(20):
                    peer.sendto(request(method, host), (HOST, world.access_port))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def dropped(world: World) -> dict[str, int]:
    status = world.status()
    counts: dict[str, int] = {**status["drops"], **status["transport"]["drops"]}
    return counts


def test_one_that_registers_without_end_is_refused_then_ignored(world: World, tmp_path: Path) -> None:
    host = "127.0.0.66"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind((host, 0))
        while "too-many-transactions-of-source" not in dropped(world):  # slowly, so that all is looked at
            for _ in range(10):
                peer.sendto(request("REGISTER", host), (HOST, world.access_port))
            time.sleep(0.01)
    with flood(world, "REGISTER", lambda: host):
        for _ in range(3):
            originate(world, tmp_path, offer=RTP, answer=RTP)
        assert world.status()["transactions"] < 2 * SHARE + 50
    drops = dropped(world)
    assert drops["source-refused"] > 0
    assert drops["source-ignored"] > drops["source-refused"]


def test_strangers_who_call_from_everywhere_leave_no_state(world: World, tmp_path: Path) -> None:
    rng = random.Random(1)
    with flood(world, "INVITE", lambda: f"127.{rng.randrange(1, 255)}.{rng.randrange(256)}.7"):
        for _ in range(3):
            originate(world, tmp_path, offer=RTP, answer=RTP)
        assert world.status()["transactions"] < 2 * SHARE + 50


def test_half_messages_of_one_host_leave_connections_for_others(world: World, tmp_path: Path) -> None:
    half = request("REGISTER", "127.0.0.67")[:-30]
    peers = []
    for _ in range(150):
        peer = socket.create_connection((HOST, world.access_port), source_address=("127.0.0.67", 0))
        peer.sendall(half)
        peers.append(peer)
    with socket.create_connection((HOST, world.access_port), source_address=("127.0.0.68", 0)) as other:
        other.settimeout(5)
        other.sendall(request("OPTIONS", "127.0.0.68").replace(b"sip:ims.test SIP", b"sip:ims.test;x SIP"))
        assert other.recv(4096).startswith(b"SIP/2.0 403")
    assert world.status()["transport"]["connections"] <= 101
    assert dropped(world)["tcp_connections_of_source_full"] == 50
    originate(world, tmp_path, offer=RTP, answer=RTP)
    for peer in peers:
        peer.close()


def test_keep_alives_and_garbage_without_end_on_many_connections_are_not_even_read(
    world: World, tmp_path: Path
) -> None:
    before = dropped(world)
    stop = threading.Event()

    def run() -> None:
        peers: list[socket.socket] = []
        while not stop.is_set():
            if len(peers) < 50:
                with contextlib.suppress(OSError):
                    peer = socket.create_connection(
                        (HOST, world.access_port), 0.2, source_address=("127.0.0.69", 0)
                    )
                    peer.setblocking(False)
                    peers.append(peer)
            for peer in list(peers):
                try:
                    peer.send(b"\r\n\r\n" * 30_000)
                except BlockingIOError:
                    pass
                except OSError:
                    peers.remove(peer)
        for peer in peers:
            peer.close()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        for _ in range(3):
            originate(world, tmp_path, offer=RTP, answer=RTP)
    finally:
        stop.set()
        thread.join()
    drops = dropped(world)
    assert drops["tcp_source_ignored"] > before.get("tcp_source_ignored", 0)
    assert drops["tcp_connections_too_fast"] > before.get("tcp_connections_too_fast", 0)
