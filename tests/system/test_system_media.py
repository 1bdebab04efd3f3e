"""Real softphones with real audio: each hears the other's tone, and the wire shows SRTP on the access side
and RTP on the core side. The capture, the keys read off the SIP in it, and pylibsrtp's check are not ours."""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Self

import pytest

from cli.stack import DOMAIN
from cli.tone import tone_seconds
from tests.interop.ue_process import Ue
from tests.interop.wire import Capture, Kind, Packet, between, sdes_keys, tone_in, tone_share, unprotect
from tests.system.sipp import port
from tests.system.world import TABLES, World

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a capture needs root")

ALICE_TONE, BOB_TONE = 1000, 440
ALICE_RTP, BOB_RTP = 23000, 24000
SUITES = ("AES_CM_128_HMAC_SHA1_80", "AES_256_CM_HMAC_SHA1_80")

POLICY = (
    f"[policy]\nsuites = {json.dumps(SUITES)}\n"  # no more, so that SIP stays on UDP, where it is captured
)


@pytest.fixture(scope="module")
def _media_world() -> Iterator[World]:
    with World(sipp_registrar=False, tables=TABLES + POLICY) as world:
        yield world
        world.check()
        world.assert_nothing_left()


@pytest.fixture
def world(_media_world: World) -> Iterator[World]:
    """A running stack with its lab core."""
    yield _media_world
    _media_world.print_logs()
    _media_world.assert_no_call_left()


class Stranger:
    """Sends RTP to all of some ports, from another host than the UEs', again and again; a context manager."""

    MARK = b"from a stranger"

    def __init__(self, ports: range) -> None:
        self.sent = self.received = 0
        self._ports = ports
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.2", 0))
        self._socket.setblocking(False)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()
        self._socket.close()

    def _run(self) -> None:
        while not self._stopped.wait(0.02):
            packet = struct.pack("!BBHII", 0x80, 0, self.sent & 0xFFFF, self.sent, 7) + self.MARK
            for number in self._ports:
                with suppress(OSError):  # that nobody was there is told at the next one
                    self._socket.sendto(packet, ("127.0.0.1", number))
                self.sent += 1
            with suppress(OSError):
                self.received += bool(self._socket.recv(2048))


class Phones:
    """alice behind the proxy with e2ae, and bob, who knows nothing of it, on the core side."""

    def __init__(self, world: World, directory: Path, suite: str) -> None:
        self.world = world
        self.suite = suite
        self.alice_port, self.bob_port = port(), port()
        self.recorded = {name: directory / f"{name}.wav" for name in ("alice", "bob")}

    @property
    def ports(self) -> set[int]:
        return {self.alice_port, self.bob_port, ALICE_RTP, BOB_RTP}

    def alice(self, *options: object) -> Ue:
        e2ae = ("--e2ae", "--suite", self.suite, "--rtp-port", ALICE_RTP, "--tone", ALICE_TONE)
        return self._phone("alice", self.world.access_uri, self.alice_port, *e2ae, *options)

    def plain_alice(self, *options: object) -> Ue:
        sound = ("--rtp-port", ALICE_RTP, "--tone", ALICE_TONE)
        return self._phone("alice", self.world.access_uri, self.alice_port, *sound, *options)

    def bob(self, *options: object, behind_the_proxy: bool = False) -> Ue:
        sound = ("--rtp-port", BOB_RTP, "--tone", BOB_TONE)
        if behind_the_proxy:
            e2ae = ("--e2ae", "--suite", self.suite)
            return self._phone("bob", self.world.access_uri, self.bob_port, *e2ae, *sound, *options)
        return self._phone("bob", self.world.lab_uri, self.bob_port, *sound, *options)

    def _phone(self, user: str, registrar: str, port: int, *options: object) -> Ue:
        who = ("--user", user, "--password", self.world.password, "--registrar", registrar, "--port", port)
        return Ue(*who, "--record", self.recorded[user], *options)

    def assert_heard(self, seconds: float) -> None:
        """Each has heard the other, and not itself."""
        assert tone_seconds(self.recorded["bob"], ALICE_TONE) >= seconds
        assert tone_seconds(self.recorded["alice"], BOB_TONE) >= seconds
        assert tone_seconds(self.recorded["bob"], BOB_TONE) == 0.0

    def assert_protected(self, seen: list[Packet], seconds: float) -> None:
        """Access: authentic under the keys in its SIP, noise without them. Core: the tone in the clear."""
        keys = {source[1]: key for source, suite, key in sdes_keys(seen) if suite == self.suite}
        assert keys.keys() == {self.alice_port, self.world.access_port}
        assert len(set(keys.values())) == 2
        for way, sender, hz in (
            ((ALICE_RTP, None), self.alice_port, ALICE_TONE),
            ((None, ALICE_RTP), self.world.access_port, BOB_TONE),
        ):
            srtp = between(seen, *way, Kind.RTP)
            plain, refused = unprotect(srtp, self.suite, keys[sender])
            assert refused == 0
            assert tone_in(plain, hz) >= seconds
            assert tone_share((packet.payload for packet in srtp), hz) < 0.1
            wrong = next(key for port, key in keys.items() if port != sender)
            assert unprotect(srtp, self.suite, wrong)[0] == []
        for way, hz in (((None, BOB_RTP), ALICE_TONE), ((BOB_RTP, None), BOB_TONE)):
            assert tone_in((packet.payload for packet in between(seen, *way, Kind.RTP)), hz) >= seconds
        for packet in seen:
            if self.bob_port in (packet.source[1], packet.destination[1]):
                assert not any(
                    word in packet.payload for word in (b"a=crypto", b"3ge2ae", b"SAVP", b"mediasec")
                )


@pytest.mark.parametrize("suite", SUITES)
def test_alice_with_e2ae_calls_a_plain_peer(world: World, tmp_path: Path, suite: str) -> None:
    phones = Phones(world, tmp_path, suite)
    with Capture(phones.ports) as capture, phones.bob() as bob:
        bob.wait_for("registered")
        with phones.alice("--call", f"sip:bob@{DOMAIN}", "--duration", 2) as alice:
            assert alice.ended() == 0
        seen = capture.drain()
    assert alice.wait_for("media", srtp=True)["suite"] == suite
    assert bob.wait_for("media")["srtp"] is False
    phones.assert_heard(1.2)
    phones.assert_protected(seen, 1.2)


@pytest.mark.parametrize("suite", SUITES)
def test_a_plain_peer_calls_alice_who_has_e2ae(world: World, tmp_path: Path, suite: str) -> None:
    phones = Phones(world, tmp_path, suite)
    with Capture(phones.ports) as capture, phones.alice() as alice:
        alice.wait_for("registered")
        with phones.bob("--call", f"sip:alice@{DOMAIN}", "--duration", 2) as bob:
            assert bob.ended() == 0
        seen = capture.drain()
    assert alice.wait_for("media", srtp=True)["suite"] == suite
    phones.assert_heard(1.2)
    phones.assert_protected(seen, 1.2)


def test_hold_and_resume_keep_the_keys_and_the_tone_comes_back_p35(world: World, tmp_path: Path) -> None:
    phones = Phones(world, tmp_path, SUITES[0])
    with Capture(phones.ports) as capture, phones.bob() as bob:
        bob.wait_for("registered")
        # 1.5 s, held for as long, and 2.5 s again
        call = ("--call", f"sip:bob@{DOMAIN}", "--duration", 5.5, "--hold-after", 1.5)
        with phones.alice(*call) as alice:
            assert alice.ended() == 0
        seen = capture.drain()
    assert alice.wait_for("media", status="local hold")
    assert bob.wait_for("media", direction="recvonly")
    more_than_either_part = 2.6
    phones.assert_heard(more_than_either_part)
    phones.assert_protected(seen, more_than_either_part)


def test_a_stranger_neither_takes_nor_adds_plain_media_however_quick_p15(
    world: World, tmp_path: Path
) -> None:
    phones = Phones(world, tmp_path, SUITES[0])
    with Capture(phones.ports) as capture, phones.bob() as bob:
        bob.wait_for("registered")
        with Stranger(world.access_media) as stranger:
            call = ("--call", f"sip:bob@{DOMAIN}", "--duration", 2)
            with phones.plain_alice(*call) as alice:
                assert alice.ended() == 0
        seen = capture.drain()
    assert alice.wait_for("media")["srtp"] is False
    phones.assert_heard(1.2)
    assert stranger.sent > 10 * len(world.access_media)
    assert stranger.received == 0
    assert not any(Stranger.MARK in packet.payload for packet in seen)


def test_two_ues_behind_one_proxy_have_a_key_each_way(world: World, tmp_path: Path) -> None:
    phones = Phones(world, tmp_path, SUITES[0])
    with Capture(phones.ports) as capture, phones.bob(behind_the_proxy=True) as bob:
        bob.wait_for("registered")
        with phones.alice("--call", f"sip:bob@{DOMAIN}", "--duration", 2) as alice:
            assert alice.ended() == 0
        seen = capture.drain()
    phones.assert_heard(1.2)
    keys = {key for _, suite, key in sdes_keys(seen) if suite == phones.suite}
    assert len(keys) == 4
    for way, hz in (((None, BOB_RTP), ALICE_TONE), ((BOB_RTP, None), BOB_TONE)):
        srtp = between(seen, *way, Kind.RTP)
        assert tone_share((packet.payload for packet in srtp), hz) < 0.1
        heard = [unprotect(srtp, phones.suite, key) for key in keys]
        assert [tone_in(plain, hz) > 1.2 for plain, _ in heard].count(True) == 1
        assert [refused for _, refused in heard].count(0) == 1
