"""What a call costs: CPU milliseconds of proxy and gateway, beside Kamailio with rtpengine doing the same.

Run as `python tests/bench/signalling.py [--rates 50,100] [--seconds 10] [--trials 3] [--json] [--profile]`.
SIPp calls with SDES e2ae (INVITE, 100, 180, 200, ACK, half a second, BYE, 200; no media). Both its ends check
each call: protected towards the caller; plain, without key or indication, towards the callee. The systems
take turns, and each trial has fresh processes. Both log warnings only; Kamailio has one worker, rtpengine one
thread.

A number is all CPU time (user and system, of all threads and child processes) from the first call until
--settle seconds after the last, less what the same processes used while idle, by the number of calls.
Settling takes 32 seconds and more because transactions live as long (RFC 3261 timer J): their end costs, too.
It does not judge: it exits 0 unless it could not run. Calls that failed are counted and printed.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import pstats
import re
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench.peers.systems import (
    HOST,
    PEERS,
    ROOT,
    SYSTEMS,
    CannotRun,
    Place,
    Running,
    bridge,
    imsalg,
    process,
    sipp,
    udp_in_use,
    wait_for,
)

IDLE = 3.0  # seconds over which the idle processes are measured


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


# -- one trial -----------------------------------------------------------------------------------------------


CALLING = ("uac.xml", "uas.xml")


def measure(
    system: str,
    rate: int,
    place: Place,
    seconds: float,
    settle: float,
    scenarios: tuple[str, str] = CALLING,
    idle_for: float = IDLE,
) -> Trial:
    with SYSTEMS[system](place) as running:
        begin, idle_from = time.monotonic(), cpu(running)
        time.sleep(idle_for)
        before, now = cpu(running), time.monotonic()
        idle = [(used - was) / (now - begin) for used, was in zip(before, idle_from, strict=True)]
        calls = round(rate * seconds)
        failed, retransmissions = load(place, rate, calls, scenarios)
        time.sleep(settle)
        lasted = time.monotonic() - now
        costs = [
            (used - was - share * lasted) * 1000 / calls
            for used, was, share in zip(cpu(running), before, idle, strict=True)
        ]
    return Trial(system, rate, calls, failed, retransmissions, *costs, idle=sum(idle))


def load(
    place: Place, rate: int, calls: int, scenarios: tuple[str, str] = CALLING, hold: float = 0.5
) -> tuple[int, int]:
    """SIPp at both ends: (calls that failed, retransmissions of both). hold: seconds from ACK to BYE."""
    callee = place.path / "callee.csv"
    caller = place.path / "caller.csv"
    scenario = place.path / scenarios[0]
    # what a bridge carries names itself as it arrives
    scenario.write_text((PEERS / scenarios[0]).read_text().replace("[transport]", place.transport))
    with ExitStack() as stack:
        stack.enter_context(
            process("callee", sipp(place, PEERS / scenarios[1], place.callee_port, callee), place)
        )
        wait_for("callee", place, lambda: udp_in_use(place.callee_port))
        port = stack.enter_context(bridge(place))
        target = ["-t", "u1" if place.transport == "UDP" else "t1"]
        target += ["-r", str(rate), "-m", str(calls), "-l", str(calls), f"{HOST}:{port}"]
        command = sipp(place, scenario, place.caller_port, caller, hold) + target
        pid = stack.enter_context(process("caller", command, place))
        until = time.monotonic() + calls / rate + hold + 40  # one without an answer is given up by timer B
        while time.monotonic() < until and os.waitid(os.P_PID, pid, WAIT) is None:
            time.sleep(0.05)
    made, served = last_row(caller), last_row(callee)
    succeeded = min(int(made.get("SuccessfulCall(C)", 0)), int(served.get("SuccessfulCall(C)", 0)))
    if succeeded < calls:
        for said in sorted((*place.path.glob("*.errors"), *place.path.glob("*.log"))):
            if text := said.read_text(errors="replace")[:1000]:
                say(f"{said.name}: {text}")
    return calls - succeeded, sum(int(row.get("Retransmissions(C)", 0)) for row in (made, served))


WAIT = os.WEXITED | os.WNOHANG | os.WNOWAIT


def last_row(path: Path) -> dict[str, str]:
    """The last line of SIPp's statistics; none if it did not come that far."""
    try:
        with path.open(newline="") as file:
            return list(csv.DictReader(file, delimiter=";"))[-1]
    except (OSError, IndexError):
        return {}


def cpu(running: Running) -> list[float]:
    """Seconds that the proxy and the gateway have used, each with its children.

    /proc/PID/stat has them in ticks of 10 ms; the clock of a process (clock_getcpuclockid(3)) is exact.
    """
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


def summary(trials: list[Trial]) -> list[dict[str, Any]]:
    """One row for each rate and part: minimum, median and maximum of both systems, and the medians' ratio."""
    rows: list[dict[str, Any]] = []
    for rate in sorted({trial.rate for trial in trials}):
        for part in ("proxy", "gateway", "both"):
            row: dict[str, Any] = {"rate": rate, "part": part}
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


def table(result: dict[str, Any]) -> str:
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
        outcome = f"{failed} of {total} calls FAILED" if failed else f"{total} calls, none failed"
        lines.append(f"{system:<10} {outcome}; {again} retransmissions")
    return "\n".join(lines)


def head() -> dict[str, str]:
    """Machine and versions."""
    model = re.search(r"^model name\s*: (.*)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    commit = output("git", "-C", str(ROOT), "describe", "--always", "--dirty")
    return {
        "machine": f"{model[1] if model else platform.machine()}, {len(os.sched_getaffinity(0))} cores, "
        f"Linux {platform.release()}, load {os.getloadavg()[0]:.1f} at the start",
        "imsalg": f"{commit}, Python {platform.python_version()}",
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
    text: list[str] = []
    for name in ("proxy", "gateway"):
        stats = pstats.Stats(str(place.path / f"{name}.prof")).stats
        # cProfile counts the time that passes, starting included: in the loop itself that is waiting.
        busy = [item for item in stats.items() if not item[0][0].endswith("asyncio/runners.py")]
        text += [
            "",
            f"{name}, per call: microseconds of the function itself, with all it calls; times called",
        ]
        for (file, line, function), (_, count, itself, whole, _) in sorted(busy, key=lambda x: -x[1][2])[:10]:
            where = f"{Path(file).parent.name}/{Path(file).name}:{line} " if line else ""
            spent = f"{itself / calls * 1e6:8.1f} {whole / calls * 1e6:9.1f} {count / calls:8.1f}"
            text.append(f"{spent}  {where}{function}")
    return "\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(description="What a call costs, beside Kamailio with rtpengine.")
    parser.add_argument("--rates", default="50,100", help="calls per second, several with commas")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long calls are begun")
    parser.add_argument("--trials", type=int, default=3, help="of each system and rate")
    parser.add_argument("--settle", type=float, default=34.0, help="seconds after the last call")
    parser.add_argument("--base-port", type=int, default=21000, help="of the hundred used for SIP")
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
        print(table(result))
        if profiled:
            print(profiled)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
