"""The phones of the tests with Kamailio."""

from __future__ import annotations

import itertools
from pathlib import Path

from cli.tone import tone_seconds
from tests.interop.kamailio import OUTSIDE, PASSWORD, Kamailio
from tests.interop.ue_process import Ue
from tests.system.world import World

ALICE, BOB = "alice", "bob"
TONES = {ALICE: 1000, BOB: 440}
_ports = itertools.cycle(range(27100, 27900, 20))


def next_port() -> int:
    """A SIP port; that of RTP is 10 above."""
    return next(_ports)


def phone(user: str, registrar: str, directory: Path, *options: object) -> Ue:
    """A registered softphone that plays its tone and records to USER.wav."""
    port = next_port()
    running = Ue(
        *("--user", user, "--registrar", registrar, "--port", port, "--rtp-port", port + 10),
        *("--password", PASSWORD, "--tone", TONES[user], "--record", directory / f"{user}.wav"),
        *options,
    )
    running.wait_for("registered", code=200)
    return running


def protected(world: World, directory: Path, *options: object, user: str = ALICE) -> Ue:
    """One behind a proxy that wants e2ae."""
    return phone(user, world.access_uri, directory, "--e2ae", *options)


def direct(scscf: Kamailio, directory: Path, *options: object) -> Ue:
    """One that Kamailio serves without a proxy."""
    return phone(BOB, scscf.uri, directory, "--address", OUTSIDE, *options)


def assert_both_heard(directory: Path, seconds: float = 1.0) -> None:
    """In the recordings of alice and bob."""
    assert tone_seconds(directory / "bob.wav", TONES[ALICE]) >= seconds
    assert tone_seconds(directory / "alice.wav", TONES[BOB]) >= seconds
