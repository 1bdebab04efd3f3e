"""What a call costs: CPU milliseconds of proxy and gateway, beside Kamailio with rtpengine doing the same.

Run as `python tests/bench/signalling.py [--rates 50,100] [--seconds 10] [--trials 3] [--json] [--profile]`. SIPp
calls with SDES e2ae (INVITE, 100, 180, 200, ACK, half a second, BYE, 200; no media), each call checked for being
protected towards the caller and plain, without key or indication, towards the callee. Both systems take turns; each
trial has fresh processes. Both log warnings only; Kamailio has one worker, rtpengine one thread.

A number is all CPU time (user and system, of all threads and child processes) from the first call until --settle
seconds after the last, less what the same processes used while idle, by the number of calls. Settling takes 32
seconds and more because transactions live as long (RFC 3261 timer J): their end costs, too. It does not judge: it
exits 0 unless it could not run. Calls that failed are counted and printed.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import pstats
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PEERS = Path(__file__).resolve().parent / "peers"
HOST = "127.0.0.1"
START = 10.0  # seconds in which a process must answer
IDLE = 3.0  # seconds over which the idle processes are measured

PROXY = """
[[access]]
name = "access"
listen = "{host}:{port}"
mechanisms = ["sdes-srtp"]
trusted = ["{host}/32"]
[core]
listen = "{host}:{core_port}"
next_hop = "sip:{host}:{callee_port}"
[gateway]
iq = "unix:{place}/iq"
[policy]
e2ae_unregistered = "grant"
[status]
socket = "{place}/status"
"""
GATEWAY = """
[iq]
listen = "unix:{place}/iq"
[[realm]]
name = "access"
addresses = ["{host}"]
ports = [47100, 50999]
[[realm]]
name = "core"
addresses = ["{host}"]
ports = [51000, 54999]
"""
RTPENGINE_PORTS = (55000, 59999)


class CannotRun(Exception):
    """A process did not start, or is not installed."""


@dataclass(frozen=True)
class Place:
    """Where one trial runs: a directory of its own and the SIP ports, from `base` on."""

    path: Path
    base: int

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

    def text(self, template: str) -> str:
        return template.format(
            host=HOST, place=self.path, port=self.port, core_port=self.base + 1, callee_port=self.callee_port
        )


@dataclass(frozen=True)
class Running:
    """The two processes that are measured, by their ids."""

    proxy: int
    gateway: int


@dataclass(frozen=True)
class Trial:
    """proxy, gateway: CPU milliseconds per call. idle: CPU share of both without calls."""

    system: str
    rate: int
    calls: int
    failed: int
    retransmissions: int
    proxy: float
    gateway: float
    idle: float


# -- the two systems -----------------------------------------------------------------------------------------


@contextmanager
def imsalg(place: Place, profile: bool = False) -> Iterator[Running]:
    """With profile, each process leaves NAME.prof in the place when it ends."""
    with ExitStack() as stack:
        pids = []
        for name, template in (("gateway", GATEWAY), ("proxy", PROXY)):
            config = place.path / f"{name}.toml"
            config.write_text(place.text(template))
            profiler = ["-m", "cProfile", "-o", str(place.path / f"{name}.prof")] if profile else []
            command = [sys.executable, *profiler, "-m", "cli.main", name, "-c", str(config), "--log", "warning"]
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
        except OSError:
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


def options(place: Place) -> bytes:
    return (
        f"OPTIONS sip:{HOST}:{place.port} SIP/2.0\r\nVia: SIP/2.0/UDP {HOST};rport;branch=z9hG4bK{time.monotonic_ns()}\r\n"
        "From: <sip:bench@invalid>;tag=1\r\nTo: <sip:bench@invalid>\r\nCall-ID: bench\r\nCSeq: 1 OPTIONS\r\n"
        "Max-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
    ).encode()


# -- one trial -----------------------------------------------------------------------------------------------


def measure(system: str, rate: int, place: Place, seconds: float, settle: float) -> Trial:
    with SYSTEMS[system](place) as running:
        begin, idle_from = time.monotonic(), cpu(running)
        time.sleep(IDLE)
        before, now = cpu(running), time.monotonic()
        idle = [(used - was) / (now - begin) for used, was in zip(before, idle_from, strict=True)]
        calls = round(rate * seconds)
        failed, retransmissions = load(place, rate, calls)
        time.sleep(settle)
        lasted = time.monotonic() - now
        costs = [
            (used - was - share * lasted) * 1000 / calls
            for used, was, share in zip(cpu(running), before, idle, strict=True)
        ]
    return Trial(system, rate, calls, failed, retransmissions, *costs, idle=sum(idle))


def load(place: Place, rate: int, calls: int) -> tuple[int, int]:
    """SIPp at both ends: (calls that failed, retransmissions of both)."""
    callee = place.path / "callee.csv"
    caller = place.path / "caller.csv"
    with process("callee", sipp(place, "uas.xml", place.callee_port, callee), place):
        wait_for("callee", place, lambda: udp_in_use(place.callee_port))
        target = ["-r", str(rate), "-m", str(calls), "-l", str(calls), f"{HOST}:{place.port}"]
        limit = calls / rate + 40  # a call that is not answered is given up by timer B
        with process("caller", sipp(place, "uac.xml", place.caller_port, caller) + target, place) as pid:
            until = time.monotonic() + limit
            while time.monotonic() < until and os.waitid(os.P_PID, pid, WAIT) is None:
                time.sleep(0.05)
    made, served = last_row(caller), last_row(callee)
    succeeded = min(int(made.get("SuccessfulCall(C)", 0)), int(served.get("SuccessfulCall(C)", 0)))
    return calls - succeeded, sum(int(row.get("Retransmissions(C)", 0)) for row in (made, served))


WAIT = os.WEXITED | os.WNOHANG | os.WNOWAIT


def sipp(place: Place, scenario: str, port: int, trace: Path) -> list[str]:
    return [
        *("sipp", "-sf", str(PEERS / scenario), "-i", HOST, "-p", str(port), "-nostdin", "-fd", "1"),
        *("-cp", str(port + 1), "-mp", str(port + 40)),
        *("-trace_stat", "-stf", str(trace), "-trace_err", "-error_file", f"{trace}.errors"),
    ]


def last_row(path: Path) -> dict[str, str]:
    """The last line of SIPp's statistics; none if it did not come that far."""
    try:
        with path.open(newline="") as file:
            return list(csv.DictReader(file, delimiter=";"))[-1]
    except (OSError, IndexError):
        return {}


def udp_in_use(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((HOST, port))
        except OSError:
            return True
    return False


def cpu(running: Running) -> list[float]:
    """Seconds that the proxy and the gateway have used, each with its children. /proc/PID/stat has the same in
    ticks of 10 ms; the clock of a process (clock_getcpuclockid(3)) tells it to the nanosecond."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it has just ended
        children.setdefault(parent, []).append(int(stat.parent.name))

    def of_tree(pid: int) -> float:
        return time.clock_gettime(~pid << 3 | 2) + sum(map(of_tree, children.get(pid, ())))

    return [of_tree(running.proxy), of_tree(running.gateway)]


# -- what is printed -----------------------------------------------------------------------------------------


def summary(trials: list[Trial]) -> list[dict[str, object]]:
    """One row for each rate and part: minimum, median and maximum of both systems, and the medians' ratio."""
    rows: list[dict[str, object]] = []
    for rate in sorted({trial.rate for trial in trials}):
        for part in ("proxy", "gateway", "both"):
            row: dict[str, object] = {"rate": rate, "part": part}
            medians = []
            for system in SYSTEMS:
                values = [
                    trial.proxy * (part != "gateway") + trial.gateway * (part != "proxy")
                    for trial in trials
                    if (trial.system, trial.rate) == (system, rate)
                ]
                medians.append(statistics.median(values))
                row[system] = [round(value, 3) for value in (min(values), medians[-1], max(values))]
            row["ratio"] = round(medians[0] / medians[1], 2) if medians[1] > 0 else None
            rows.append(row)
    return rows


def table(result: dict[str, object]) -> str:
    lines = [f"{name:<10} {value}" for name, value in result["head"].items()]
    columns = f"{'minimum':>9} {'median':>8} {'maximum':>8}"
    lines += [
        "",
        "CPU milliseconds per call",
        f"{'':>18} {'imsalg + agw':^27}   {'Kamailio + rtpengine':^27}",
        f"{'calls/s':>7}  {'part':<8} {columns}   {columns}  {'ratio':>7}",
    ]
    for row in result["summary"]:
        ours, theirs = ("{:9.3f} {:8.3f} {:8.3f}".format(*row[system]) for system in SYSTEMS)
        ratio = "-" if row["ratio"] is None else f"{row['ratio']:.2f}"
        lines.append(f"{row['rate']:>7}  {row['part']:<8} {ours}   {theirs}  {ratio:>7}")
    lines.append("")
    for system in SYSTEMS:
        mine = [trial for trial in result["trials"] if trial["system"] == system]
        total, failed, again = (
            sum(trial[name] for trial in mine) for name in ("calls", "failed", "retransmissions")
        )
        lines.append(f"{system:<10} {failed} of {total} calls FAILED" if failed else f"{system:<10} {total} calls, none failed")
        lines[-1] += f"; {again} retransmissions"
    return "\n".join(lines)


def head() -> dict[str, str]:
    """Machine and versions."""
    cpu_name = re.search(r"^model name\s*: (.*)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "machine": f"{cpu_name[1] if cpu_name else platform.machine()}, {len(os.sched_getaffinity(0))} cores, "
        f"Linux {platform.release()}, load {os.getloadavg()[0]:.1f} at the start",
        "imsalg": f"{output('git', '-C', str(ROOT), 'describe', '--always', '--dirty')}, Python {platform.python_version()}",
        "kamailio": output("kamailio", "-v").removeprefix("version: "),
        "rtpengine": output("rtpengine", "--version").removeprefix("Version: "),
        "sipp": output("sipp", "-v"),
    }


def output(*command: str) -> str:
    """The first line a command prints. Raises CannotRun."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotRun(f"{command[0]}: {error}") from None
    return (done.stdout or done.stderr).strip().partition("\n")[0]


def profile(place: Place, rate: int, calls: int) -> str:
    """The ten functions that cost most in each process; the profiler itself makes all of them dearer."""
    with imsalg(place, profile=True):
        load(place, rate, calls)
    text = []
    for name in ("proxy", "gateway"):
        stats = pstats.Stats(str(place.path / f"{name}.prof")).stats
        own = sorted(stats.items(), key=lambda item: -item[1][2])[:10]
        text.append(f"\n{name}: microseconds per call of the function itself and with what it calls; times called per call")
        for (file, line, function), (_, count, itself, whole, _) in own:
            where = f"{Path(file).parent.name}/{Path(file).name}:{line} " if line else ""
            text.append(
                f"{itself / calls * 1e6:8.1f} {whole / calls * 1e6:9.1f} {count / calls:8.1f}  {where}{function}"
            )
    return "\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(description="What a call costs, beside Kamailio with rtpengine.")
    parser.add_argument("--rates", default="50,100", help="calls per second, several with commas")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long calls are begun")
    parser.add_argument("--trials", type=int, default=3, help="of each system and rate")
    parser.add_argument("--settle", type=float, default=34.0, help="seconds after the last call")
    parser.add_argument("--base-port", type=int, default=45000, help="of the hundred used for SIP")
    parser.add_argument("--profile", action="store_true", help="the top ten functions, from a run of its own")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rates = [int(rate) for rate in options.rates.split(",")]
    trials: list[Trial] = []
    profiled = ""
    try:
        described = head()
        for number in range(options.trials):
            for rate in rates:
                for system in SYSTEMS:
                    say(f"trial {number + 1} of {options.trials}: {system}, {rate} calls/s")
                    with tempfile.TemporaryDirectory(prefix="imsalg-bench-") as path:
                        place = Place(Path(path), options.base_port)
                        trials.append(measure(system, rate, place, options.seconds, options.settle))
        if options.profile:
            say(f"profile, {rates[-1]} calls/s")
            with tempfile.TemporaryDirectory(prefix="imsalg-bench-") as path:
                place = Place(Path(path), options.base_port)
                profiled = profile(place, rates[-1], round(rates[-1] * options.seconds))
    except CannotRun as error:
        sys.exit(f"signalling.py: {error}")
    result = {"head": described, "summary": summary(trials), "trials": [asdict(trial) for trial in trials]}
    if options.json:
        print(json.dumps({**result, "profile": profiled}, indent=2))
    else:
        print(table(result) + profiled)


def say(text: str) -> None:
    if sys.stderr.isatty():
        print(text, file=sys.stderr)


if __name__ == "__main__":
    main()
