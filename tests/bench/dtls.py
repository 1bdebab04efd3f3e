"""What a DTLS-SRTP call costs to set up: the gateway beside rtpengine, and a bare OpenSSL loop as the floor.

Run as `python tests/bench/dtls.py [--runs 3] [--calls 300] [--plane native|python] [--json FILE]`. It does
not judge: it exits 0 unless it could not run.

Each trial has a fresh relay on one core and the UEs, all in this process, on another. A UE does as a browser:
a connectivity check with USE-CANDIDATE, a DTLS 1.2 handshake as its client (P-256 certificates on both
sides), then RTP protected with AEAD_AES_256_GCM or what the relay prefers.

Handshakes/s are one core's: handshakes by the relay's own CPU time, user and system, from the first check to
the end of all handshakes, sixteen at a time. So the load need not be faster than the relay. Memory is the
relay's growth over these handshakes; the calls are there already. Time to media is with one call at a time,
from the UE's first check until its first RTP has come to the plain peer: the UE's own work, some milliseconds
of Python, is in it for both. Checks/s are one core's too: further checks that were answered, by CPU time, one
at a time: each wakes the relay up, which is most of what it costs. The bare loop (media/dtls.c) has no
network, no ICE and no relay: it is what the server's half of a handshake costs in OpenSSL.

What all of them cost moves together, by a half and more, with what else is done on the machine's real cores.
So the relays take turns, and the last column compares them within each run: the median of these ratios stays
when the rates do not.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import select
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from aioice import stun

from agw.certificate import Certificate
from agw.dtls import Association, Established, State
from agw.iq.messages import (
    Address,
    Command,
    Dtls,
    DtlsRole,
    Fingerprint,
    Ice,
    Key,
    Mode,
    ReserveAndConfigureConnectionPoint,
    ReserveConnectionPoint,
    Reserved,
    Stream,
    Suite,
    Transport,
)
from agw.srtp import Protector
from tests.bench.media import describe, turn
from tests.bench.media_ng import Ng, Secured
from tests.bench.media_relays import controller, gateway, resident, rtpengine
from tests.bench.media_rig import Place, build
from tests.bench.peers.systems import HOST, CannotRun
from tests.bench.signalling import say

AT_ONCE = 16  # handshakes
CHECKS = 20  # of each call, when their rate is measured
PATIENCE = 20.0
PASSWORD = "their+password+of+22+chars"  # the UEs'
SUITES = {
    "SRTP_AEAD_AES_256_GCM": Suite.AEAD_AES_256_GCM,
    "SRTP_AEAD_AES_128_GCM": Suite.AEAD_AES_128_GCM,
    "SRTP_AES128_CM_SHA1_80": Suite.AES_CM_128_HMAC_SHA1_80,
}


class Ue:
    """One call's: a socket towards the relay, and the one of the plain peer."""

    def __init__(self, certificate: Certificate, port: int, peer_port: int) -> None:
        self.certificate = certificate
        self.socket, self.peer = udp(port), udp(peer_port)
        self.association: Association | None = None
        self.established: Established | None = None
        self.answered = 0

    def begin(self, call: Secured) -> None:
        self.call = call
        self.there = (HOST, call.access_port)
        self.check()

    def check(self) -> None:
        attributes = {"USERNAME": f"{self.call.ufrag}:them", "PRIORITY": 1, "ICE-CONTROLLING": 7}
        attributes["USE-CANDIDATE"] = None
        request = stun.Message(stun.Method.BINDING, stun.Class.REQUEST, attributes=attributes)
        request.add_message_integrity(self.call.pwd.encode())
        self.socket.sendto(bytes(request), self.there)

    def hear(self, now: float) -> None:
        data, source = self.socket.recvfrom(4096)
        if data[0] <= 3:
            self.hear_stun(stun.parse_message(data), source, now)
        elif 20 <= data[0] <= 63 and self.association is not None:
            self.association.receive(data, None, now)
            self.flush()

    def hear_stun(self, message: stun.Message, source: tuple[str, int], now: float) -> None:
        if message.message_class == stun.Class.REQUEST:  # a full agent checks, too
            attributes = {"XOR-MAPPED-ADDRESS": source}
            answer = stun.Message(
                stun.Method.BINDING, stun.Class.RESPONSE, message.transaction_id, attributes
            )
            answer.add_message_integrity(PASSWORD.encode())
            self.socket.sendto(bytes(answer), source)
            return
        if message.message_class != stun.Class.RESPONSE:
            raise CannotRun(f"a check was refused: {message}")
        self.answered += 1
        if self.association is None:
            prints = [("sha-256", self.call.sha256)]
            self.association = Association(self.certificate, True, prints, True, bytes(32))
            self.association.start(now)
            self.flush()

    def flush(self) -> None:
        assert self.association is not None
        for datagram in self.association.to_send():
            self.socket.sendto(datagram, self.there)
        while (event := self.association.next_event()) is not None:
            if not isinstance(event, Established):
                raise CannotRun(f"the handshake failed: {event}")
            self.established = event

    def expire(self, now: float) -> None:
        association = self.association
        if association is not None and (at := association.timeout()) is not None and at <= now:
            association.expire(now)
            self.flush()

    def protector(self) -> Protector:
        assert self.established is not None
        return Protector(Key(SUITES[self.established.profile], self.established.local))

    def close(self) -> None:
        self.socket.close()
        self.peer.close()


def udp(port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((HOST, port))
    sock.setblocking(False)
    return sock


class Crowd:
    """UEs that are waited for together."""

    def __init__(self) -> None:
        self.poll = select.epoll()
        self.ues: dict[int, Ue] = {}

    def add(self, ue: Ue) -> None:
        self.ues[ue.socket.fileno()] = ue
        self.poll.register(ue.socket, select.EPOLLIN)

    def until(self, done: Callable[[], bool]) -> None:
        """Raises CannotRun when it takes too long."""
        end = time.monotonic() + PATIENCE
        while not done():
            ready = self.poll.poll(0.01)
            now = time.monotonic()
            for descriptor, _ in ready:
                self.ues[descriptor].hear(now)
            if not ready:
                for ue in self.ues.values():
                    ue.expire(now)
            if now > end:
                raise CannotRun("handshakes or checks are not answered")


# -- the relays ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Running:
    """join(number, ue port, peer port) makes a call."""

    pid: int
    join: Callable[[int, int, int], Secured]


@contextmanager
def agw(place: Place, sha256: bytes) -> Iterator[Running]:
    with gateway(place) as pid, asyncio.Runner() as runner:
        connected = controller(place)
        asking = runner.run(connected.__aenter__())

        def join(number: int, ue_port: int, peer_port: int) -> Secured:
            results = runner.run(asking.ask(f"call{number}", *reservations(peer_port, sha256)))
            access, core = (each.streams[0] for each in results if isinstance(each, Reserved))
            assert access.fingerprint is not None
            return Secured(access.rtp.port, core.rtp.port, access.fingerprint.digest, ICE.ufrag, ICE.pwd)

        yield Running(pid, join)
        runner.run(connected.__aexit__(None, None, None))


ICE = Ice("ours", "our+password+of+22+characters", "them")


def reservations(peer_port: int, sha256: bytes) -> tuple[Command, Command]:
    access = Stream(
        id=0,
        transport=Transport.DTLS_SRTP,
        rtcp_mux=True,
        mode=Mode.SENDRECV,
        dtls=Dtls("1", DtlsRole.SERVER, (Fingerprint("sha-256", sha256),)),
        ice=ICE,
    )
    core = Stream(id=0, transport=Transport.RTP, remote=Address(HOST, peer_port), mode=Mode.SENDRECV)
    return (
        ReserveConnectionPoint("access", "access", (access,)),
        ReserveAndConfigureConnectionPoint("core", "core", (core,)),
    )


@contextmanager
def other(place: Place, sha256: bytes) -> Iterator[Running]:
    with rtpengine(place, []) as running:
        ng = Ng(HOST, place.control_port)
        try:
            yield Running(
                running.pid,
                lambda number, ue, peer: ng.secured_call(f"call{number}", ue, peer, sha256),
            )
        finally:
            ng.close()


RELAYS: dict[str, Callable[[Place, bytes], AbstractContextManager[Running]]] = {
    "agw": agw,
    "rtpengine": other,
}


# -- what is measured ----------------------------------------------------------------------------------------

Row = dict[str, float]


def measure(name: str, place: Place, calls: int) -> Row:
    """One relay, `calls` handshakes at once and as many one by one."""
    certificate = Certificate()
    ues: list[Ue] = []
    with turn(), tempfile.TemporaryDirectory(prefix="imsalg-bench-") as path:
        place = replace(place, path=Path(path))
        with RELAYS[name](place, certificate.sha256) as running:
            try:
                for number in range(2 * calls):
                    ports = place.peer_port(0, number), place.peer_port(1, number)
                    ues.append(Ue(certificate, *ports))
                    ues[-1].call = running.join(number, *ports)
                return {
                    **crowd(ues[:calls], running.pid),
                    **one_by_one(ues[calls:]),
                }
            finally:
                for ue in ues:
                    ue.close()


def crowd(ues: list[Ue], pid: int) -> Row:
    together, waiting = Crowd(), list(ues)
    before, begun, empty = cpu(pid), time.monotonic(), resident(pid)
    for ue in ues:
        together.add(ue)

    def done() -> bool:
        pending = sum(ue.established is None for ue in ues) - len(waiting)
        for _ in range(min(AT_ONCE - pending, len(waiting))):
            ue = waiting.pop()
            ue.begin(ue.call)
        return not waiting and all(ue.established for ue in ues)

    together.until(done)
    spent, lasted = cpu(pid) - before, time.monotonic() - begun
    row = {"handshakes/s of a core": len(ues) / spent, "CPU ms/handshake": 1000 * spent / len(ues)}
    row["handshakes/s in this run"] = len(ues) / lasted
    row["memory KiB/handshake"] = (resident(pid) - empty) / len(ues)
    before, answered = cpu(pid), sum(ue.answered for ue in ues)
    for _ in range(CHECKS):
        for ue in ues:
            ue.check()
            wanted = answered = answered + 1
            together.until(lambda wanted=wanted: sum(ue.answered for ue in ues) >= wanted)
    spent, count = cpu(pid) - before, CHECKS * len(ues)
    return {**row, "checks/s of a core": count / spent, "CPU us/check": 1e6 * spent / count}


def one_by_one(ues: list[Ue]) -> Row:
    times = []
    for ue in ues:
        alone = Crowd()
        alone.add(ue)
        begun = time.perf_counter()
        ue.begin(ue.call)
        alone.until(lambda ue=ue: ue.established is not None)
        protector, sequence = ue.protector(), 0
        arrived = select.poll()
        arrived.register(ue.peer, select.POLLIN)
        while not arrived.poll(2 if sequence else 0):  # ms
            sequence += 1
            packet = bytes([0x80, 0]) + sequence.to_bytes(2, "big") + bytes(8) + bytes(160)
            ue.socket.sendto(protector.protect(packet, False), ue.there)
            if sequence > PATIENCE / 0.002:
                raise CannotRun("no media come through")
        times.append(1000 * (time.perf_counter() - begun))
        assert ue.association is not None
        assert ue.association.state is State.ESTABLISHED
    times.sort()
    return {
        "time to media p50 ms": times[len(times) // 2],
        "time to media p99 ms": times[min(len(times) - 1, len(times) * 99 // 100)],
    }


def floor(place: Place, calls: int) -> Row:
    """The bare loop."""
    key = place.programs / "floor.pem"
    request = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=floor"
    certificate = subprocess.run([*request.split(), "-keyout", str(key)], capture_output=True, check=True)
    with key.open("ab") as file:
        file.write(certificate.stdout)
    command = place.pinned(build(place.programs, "dtls"), str(key), str(calls))
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise CannotRun(done.stderr)
    said = json.loads(done.stdout)
    each = said["cpu"] / said["count"]
    return {"handshakes/s of a core": 1 / each, "CPU ms/handshake": 1000 * each}


def cpu(pid: int) -> float:
    return time.clock_gettime(~pid << 3 | 2)  # clock_getcpuclockid(3)


def table(runs: list[dict[str, Row]]) -> str:
    systems = list(runs[0])
    heads = [f"{system + ' min, median, max':>29}" for system in systems]
    lines = [" " * 26 + "  ".join([*heads, "/".join(RELAYS)])]
    for what in runs[0][systems[0]]:
        cells = []
        for system in systems:
            values = [run[system][what] for run in runs if what in run[system]]
            cells.append(
                " ".join(f"{each:9.2f}" for each in (min(values), statistics.median(values), max(values)))
                if values
                else "-".rjust(29)
            )
        if {*RELAYS} <= {*systems}:
            ours, theirs = RELAYS
            cells.append(f"{statistics.median(run[ours][what] / run[theirs][what] for run in runs):13.2f}")
        lines.append(f"{what:<26}" + "  ".join(cells))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="What a DTLS-SRTP call costs to set up.")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--calls", type=int, default=300, help="handshakes at once, and as many one by one")
    parser.add_argument("--systems", default="agw,rtpengine,floor")
    parser.add_argument("--plane", choices=("native", "python"), default="native", help="of our gateway")
    parser.add_argument("--base-port", type=int, default=10000, help="the first of 10,000")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all figures, beside what is printed")
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[0]})
    settings = f'plane = "{options.plane if find_spec("agw.native._relay") else "python"}"'
    with tempfile.TemporaryDirectory(prefix="imsalg-bench-") as programs:
        place = Place(Path(programs), Path(programs), options.base_port, cores[0], cores[-1], settings)
        runs: list[dict[str, Row]] = []
        try:
            for number in range(options.runs):
                runs.append({})
                for system in options.systems.split(","):
                    say(f"run {number + 1}: {system}")
                    run = floor if system == "floor" else None
                    runs[-1][system] = run(place, 2000) if run else measure(system, place, options.calls)
        except CannotRun as error:
            sys.exit(str(error))
    for name, value in describe(len(cores), settings).items():
        print(f"{name}: {value}")
    print(table(runs))
    if options.json:
        options.json.write_text(json.dumps(runs, indent=1) + "\n")


if __name__ == "__main__":
    main()
