"""The two systems that signalling.py compares, and the SIPp at both ends.

Each is a child process in the foreground, on loopback ports of its own, with its configuration and what it
says in a directory of its own.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from imsalg.transport.tls import TlsFiles
from tests.transport.certificates import Authority

PEERS = Path(__file__).resolve().parent
ROOT = PEERS.parents[2]
HOST = "127.0.0.1"
START = 10.0  # seconds in which a process must answer

PROXY = """
[[access]]
name = "access"
listen = "{host}:{port}"
transports = {transports}
{files}
mechanisms = ["sdes-srtp"]
trusted = ["{host}/32"]
[core]
listen = "{host}:{core_port}"
next_hop = "sip:{host}:{callee_port}"
[gateway]
iq = "unix:{place}/iq"
[policy]
e2ae_unregistered = "grant"
[limits]
registrations = 20000
[sip]
t1 = {t1}
[status]
socket = "{place}/status"
"""
GATEWAY = """
[iq]
listen = "unix:{place}/iq"
[[realm]]
name = "access"
addresses = ["{host}"]
ports = [6000, 18999]
[[realm]]
name = "core"
addresses = ["{host}"]
ports = [22000, 31999]
"""
RTPENGINE_PORTS = (29000, 31999)


class CannotRun(Exception):
    """A process did not start, or is not installed."""


@dataclass(frozen=True)
class Place:
    """Where one trial runs: a directory of its own and the SIP ports, from `base` on.

    transport: the caller's. t1: imsalg's; how long it remembers transactions is 64 times that."""

    path: Path
    base: int
    transport: str = "UDP"
    t1: float = 0.5

    @property
    def port(self) -> int:  # where the caller sends to
        return self.base

    @property
    def caller_port(self) -> int:
        return self.base + 10

    @property
    def callee_port(self) -> int:
        return self.base + 20

    @property
    def control_port(self) -> int:
        return self.base + 30

    @property
    def bridge_port(self) -> int:
        return self.base + 35

    @property
    def secure(self) -> bool:
        return self.transport in ("TLS", "WSS")

    @property
    def certificate(self) -> TlsFiles:
        """Made when it is asked for."""
        return Authority(self.path).sign("edge", HOST)

    def text(self, template: str) -> str:
        files = self.certificate if self.secure else None
        return template.format(
            host=HOST,
            transports=json.dumps(list(dict.fromkeys(("UDP", self.transport)))),
            files=f'cert = "{files.cert}"\nkey = "{files.key}"' if files else "",
            place=self.path,
            port=self.port,
            core_port=self.base + 1,
            callee_port=self.callee_port,
            t1=self.t1,
        )


@dataclass(frozen=True)
class Running:
    """The two processes that are measured, by their ids."""

    proxy: int
    gateway: int


@contextmanager
def imsalg(place: Place, profile: bool = False) -> Iterator[Running]:
    """With profile, each process leaves NAME.prof in the place when it ends."""
    with ExitStack() as stack:
        pids = []
        for name, template in (("gateway", GATEWAY), ("proxy", PROXY)):
            config = place.path / f"{name}.toml"
            config.write_text(place.text(template))
            profiler = ["-m", "cProfile", "-o", str(place.path / f"{name}.prof")] if profile else []
            command = [sys.executable, *profiler, "-m", "cli.main", name, "-c", str(config)]
            command += ["--log", "warning"]
            pids.append(stack.enter_context(process(name, command, place)))
        wait_for("proxy", place, lambda: has_gateway(place.path / "status"))
        yield Running(pids[1], pids[0])


@contextmanager
def kamailio(place: Place) -> Iterator[Running]:
    control = f"{HOST}:{place.control_port}"
    first, last = RTPENGINE_PORTS
    rtpengine = [
        *("rtpengine", "--foreground", "--log-stderr", "--log-level=4", "--table=-1", "--no-fallback"),
        *("--num-threads=1", "--media-num-threads=1", "--delete-delay=0", f"--interface={HOST}"),
        *(f"--listen-ng={control}", f"--port-min={first}", f"--port-max={last}", "--config-file=none"),
    ]
    command = [
        *("kamailio", "-DD", "-E", "-f", str(PEERS / "kamailio.cfg"), "-Y", str(place.path)),
        *("-P", str(place.path / "kamailio.pid"), "-w", str(place.path)),
        *("-A", f"LISTEN=udp:{HOST}:{place.port}", "-A", f'NEXT_HOP="sip:{HOST}:{place.callee_port}"'),
        *("-A", f'RTPENGINE="udp:{control}"'),
    ]
    if place.transport != "UDP":
        command += ["-A", f"LISTEN_STREAM={'tls' if place.secure else 'tcp'}:{HOST}:{place.port}"]
    if place.secure:
        files = place.certificate
        command += ["-A", f'CERT="{files.cert}"', "-A", f'KEY="{files.key}"']
    with ExitStack() as stack:
        gateway = stack.enter_context(process("rtpengine", rtpengine, place))
        wait_for("rtpengine", place, lambda: answers(place.control_port, b"1 d7:command4:pinge"))
        proxy = stack.enter_context(process("kamailio", command, place))
        wait_for("kamailio", place, lambda: answers(place.port, options(place)))
        yield Running(proxy, gateway)


SYSTEMS: dict[str, Callable[[Place], object]] = {"imsalg": imsalg, "kamailio": kamailio}


@contextmanager
def process(name: str, command: list[str], place: Place) -> Iterator[int]:
    """A child in the foreground; what it says goes to NAME.log in the place. Raises CannotRun."""
    with (place.path / f"{name}.log").open("wb") as log:
        try:
            child = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        except OSError as error:
            raise CannotRun(f"{command[0]}: {error.strerror}") from None
        try:
            yield child.pid
        finally:
            child.terminate()
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def wait_for(name: str, place: Place, ready: Callable[[], bool]) -> None:
    until = time.monotonic() + START
    while not ready():
        if time.monotonic() > until:
            said = (place.path / f"{name}.log").read_text(errors="replace")[-2000:]
            raise CannotRun(f"{name} does not answer; it says:\n{said}")
        time.sleep(0.05)


def has_gateway(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as peer:
        try:
            peer.connect(str(path))
            return json.load(peer.makefile("rb"))["gateway"] is not None
        except (OSError, ValueError):
            return False


def answers(port: int, question: bytes) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.settimeout(0.2)
        try:
            peer.connect((HOST, port))
            peer.send(question)
            return bool(peer.recv(65535))
        except OSError:
            return False


def accepts(port: int) -> bool:
    with socket.socket() as peer:
        return peer.connect_ex((HOST, port)) == 0


def options(place: Place) -> bytes:
    return (
        f"OPTIONS sip:{HOST}:{place.port} SIP/2.0\r\n"
        f"Via: SIP/2.0/UDP {HOST};rport;branch=z9hG4bK{time.monotonic_ns()}\r\n"
        "From: <sip:bench@invalid>;tag=1\r\nTo: <sip:bench@invalid>\r\nCall-ID: bench\r\nCSeq: 1 OPTIONS\r\n"
        "Max-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
    ).encode()


@contextmanager
def bridge(place: Place) -> Iterator[int]:
    """The port that the caller sends to; between it and the system is a bridge where SIPp needs one."""
    if not place.secure:
        yield place.port
        return
    script = PEERS / "bridge.py"
    ports = str(place.bridge_port), place.transport, str(place.port)
    with process("bridge", [sys.executable, str(script), *ports], place):
        wait_for("bridge", place, lambda: accepts(place.bridge_port))
        yield place.bridge_port


def sipp(place: Place, scenario: Path, port: int, trace: Path, hold: float = 0.5) -> list[str]:
    """hold: seconds that a call of uac.xml stands."""
    return [
        *("sipp", "-sf", str(scenario), "-i", HOST, "-p", str(port), "-nostdin", "-fd", "1"),
        *("-cp", str(port + 1), "-mp", str(port + 40), "-d", str(round(hold * 1000))),
        *("-trace_stat", "-stf", str(trace), "-trace_err", "-error_file", f"{trace}.errors"),
    ]


def udp_in_use(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((HOST, port))
        except OSError:
            return True
    return False
