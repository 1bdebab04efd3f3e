"""The media benchmark's load: senders and sink (media/load.c), the calls they are in, the ports they have."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from agw.iq.messages import Key, Suite
from tests.bench.peers.systems import CannotRun

SOURCES = Path(__file__).resolve().parent / "media"


@dataclass(frozen=True)
class Place:
    """Where a trial runs. path: a directory of its own. programs: one that several trials share, for what is
    compiled. base: the first of 10,000 ports. load_core, relay_core: the CPUs. settings: lines of the
    gateway's configuration."""

    path: Path
    programs: Path
    base: int
    load_core: int
    relay_core: int
    settings: str = ""

    @property
    def relay_ports(self) -> range:  # even: two for each side of a call
        return range(self.base, self.base + 5800)

    @property
    def control_port(self) -> int:
        return self.base + 5900

    def pinned(self, *command: str) -> list[str]:
        return ["taskset", "--cpu-list", str(self.relay_core), *command]

    def peer_port(self, side: int, number: int) -> int:
        """The load's own. side: 0 for UEs, 1 for their peers."""
        return self.base + 6000 + 2000 * side + 2 * number


@dataclass(frozen=True)
class Call:
    """ue_port, peer_port: where the two are. ue_key: of what the UE sends."""

    ue_port: int
    peer_port: int
    ue_key: Key


@dataclass(frozen=True)
class Joined:
    """A call as the relay has it. access_port, core_port: where UE and peer send to. own_key: of what it
    sends to the UE."""

    access_port: int
    core_port: int
    own_key: Key


class Way(Enum):
    """What the relay does to a stream."""

    PROTECT = "RTP to SRTP"
    UNPROTECT = "SRTP to RTP"


@dataclass(frozen=True)
class Load:
    """What became of the packets. late: of the received, those that were longer than 100 ms on the way. bad:
    not authentic, or not as sent. overrun: dropped by the sink's own sockets. seconds: that sending took.
    cpu: seconds of the relay. p50, p99, max: one-way microseconds."""

    sent: int
    received: int
    late: int
    bad: int
    overrun: int
    seconds: float
    cpu: float
    p50: float
    p99: float
    max: float


def load(place: Place, pid: int, streams: list[str], rate: float, warm_up: float, seconds: float) -> Load:
    """Send and receive. pid: the relay's, 0 if there is none. streams: of `stream`. Raises CannotRun."""
    command = ["taskset", "--cpu-list", str(place.load_core), build(place.programs, "load")]
    done = subprocess.run(
        [*command, str(pid), str(rate), str(warm_up), str(seconds)],
        input="".join(streams),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise CannotRun(done.stderr.strip())
    return Load(**json.loads(done.stdout))


def stream(way: Way, call: Call, joined: Joined, relayed: bool = True) -> str:
    """A line for load.c."""
    if way is Way.PROTECT:
        ports = (call.peer_port, joined.core_port, call.ue_port)
        keys = (None, joined.own_key)
    else:
        ports = (call.ue_port, joined.access_port, call.peer_port)
        keys = (call.ue_key, None)
    return " ".join([*map(str, ports), *map(key_word, keys if relayed else (None, None))]) + "\n"


def calls(place: Place, count: int, sockets: int, suite: Suite) -> list[Call]:
    """The first calls share the first of `sockets` sockets on each side, and so on."""
    return [
        Call(
            place.peer_port(0, number * sockets // count),
            place.peer_port(1, number * sockets // count),
            new_key(suite),
        )
        for number in range(count)
    ]


def new_key(suite: Suite) -> Key:
    return Key(suite, os.urandom(suite.material_length))


def build(path: Path, program: str) -> str:
    """Compile one of the C programs into a directory, once. Raises CannotRun."""
    target = path / program
    if not target.exists():
        command = ["gcc", "-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(target)]
        try:
            subprocess.run(
                [*command, str(SOURCES / f"{program}.c"), "-lssl", "-lcrypto"],
                check=True,
                capture_output=True,
                text=True,
            )
        except OSError as error:
            raise CannotRun(f"gcc: {error.strerror}") from None
        except subprocess.CalledProcessError as error:
            raise CannotRun(f"gcc {program}.c:\n{error.stderr}") from None
    return str(target)


def key_word(key: Key | None) -> str:
    """As the C programs read it."""
    if key is None:
        return "-"
    return {Suite.AES_CM_128_HMAC_SHA1_80: "C", Suite.AEAD_AES_128_GCM: "G"}[key.suite] + key.material.hex()
