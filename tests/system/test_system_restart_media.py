"""A call of real softphones runs through the death of its proxy: nobody hears it, and it can still be held,
resumed and hung up from either end."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.stack import DOMAIN
from tests.interop.wire import Capture, Kind, Packet, between
from tests.system.test_system_media import ALICE_RTP, BOB_RTP, POLICY, SUITES, Phones
from tests.system.world import TABLES, World

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a capture needs root")

KILLED = 0.8  # seconds after the answer
HOLD = 3.0  # seconds after the answer, when the proxy is back; resumed as long after
TALK = 8.5  # seconds from the answer to the BYE
HEARD = 3.5  # seconds of tone in that, at least: not while held, and not while a phone starts its sound


@pytest.fixture(scope="module")
def _kept_world() -> Iterator[World]:
    with World(sipp_registrar=False, store=True, grace=60.0, tables=TABLES + POLICY) as world:
        yield world
        world.check()
        world.assert_nothing_left()


@pytest.fixture
def world(_kept_world: World) -> Iterator[World]:
    yield _kept_world
    _kept_world.print_logs()
    _kept_world.assert_no_call_left()


@pytest.mark.parametrize(
    ("caller", "holder", "leaver"),
    [("alice", "alice", "bob"), ("bob", "alice", "alice"), ("alice", "bob", "alice")],
)
def test_a_protected_call_goes_on_while_its_proxy_dies_p14_p35_p43(
    world: World, tmp_path: Path, caller: str, holder: str, leaver: str
) -> None:
    phones = Phones(world, tmp_path, SUITES[0])
    callee = "bob" if caller == "alice" else "alice"
    start = {"alice": phones.alice, "bob": phones.bob}

    def options(user: str) -> tuple[object, ...]:
        held = ("--hold-after", HOLD) if user == holder else ()
        return (*held, "--duration", TALK) if user == leaver else held

    with Capture(phones.ports) as capture, start[callee](*options(callee)) as called:
        called.wait_for("registered")
        with start[caller]("--call", f"sip:{callee}@{DOMAIN}", *options(caller)) as calling:
            calling.wait_for("call", state="CONFIRMED")
            time.sleep(KILLED)
            world.wait_until_kept()
            world.crash("proxy")
            assert world.status()["calls"][0]["state"] == "established"
            assert calling.ended() == 0
        called.wait_for("ended", code=200)
        seen = capture.drain()
    held_by = calling if holder == caller else called
    assert held_by.wait_for("media", status="local hold")
    phones.assert_heard(HEARD)
    phones.assert_protected(seen, HEARD)
    before_hold = list(itertools.takewhile(lambda packet: b"a=sendonly" not in packet.payload, seen))
    for phone in (ALICE_RTP, BOB_RTP):
        assert missing(between(before_hold, None, phone, Kind.RTP)) == 0


def test_a_phone_is_called_and_calls_after_the_restart_without_registering_again(
    world: World, tmp_path: Path
) -> None:
    phones = Phones(world, tmp_path, SUITES[0])
    with Capture(phones.ports) as capture, phones.alice() as alice:
        alice.wait_for("registered")
        world.wait_until_kept()
        world.crash("proxy")
        with phones.bob("--call", f"sip:alice@{DOMAIN}", "--duration", 2) as bob:
            assert bob.ended() == 0
        seen = capture.drain()
    assert [event["event"] for event in alice.events].count("registered") == 1
    assert alice.wait_for("media", srtp=True)["suite"] == SUITES[0]
    phones.assert_heard(1.2)
    phones.assert_protected(seen, 1.2)


def missing(packets: list[Packet]) -> int:
    """How many RTP packets lack between the first and the last of each source."""
    lacking = 0
    last: dict[bytes, int] = {}
    for packet in packets:
        source, number = packet.payload[8:12], int.from_bytes(packet.payload[2:4])
        lacking += (number - last.get(source, number - 1) - 1) & 0xFFFF
        last[source] = number
    assert last
    return lacking
