"""What a packet costs: the gateway's media path beside rtpengine and a bare forwarding loop.

Run as `python tests/bench/media.py [--runs 5] [--streams 100,1000] [--plane native|python] [--json FILE]`;
with `--soak 10` for ten minutes of media with calls coming and going around them. It does not judge: it exits
0 unless it could not run.

RTP of 172 bytes, protected or unprotected on the way. The relay has one core and the load, senders and sink
in one thread, another; packets leave one by one, evenly spaced. Each trial has fresh processes and fresh
calls. Every packet that arrives has been checked: authentic, and with the payload that was sent.

CPU is user and system time of all the relay's threads over the seconds that count, by packets received: the
process's clock (clock_getcpuclockid(3)), which is the sum of what /proc/PID/task/*/stat has, in nanoseconds
instead of ticks. The highest rate is the fastest that lost less than 0.1 %, found by bisection to 4 percent;
a rate that fails once is tried once more. Packets that took more than 100 ms are lost ones: a thousand
sockets can hold seconds of what a relay cannot do. Added latency is one-way through the relay, less the same
percentile without one. Memory is the whole process's, after the trial, less before the first call; what the
kernel holds for sockets is not in it, and media_memory.py has the Plane alone. A trial in which other
processes had more than two percent of the two processors is repeated when they have calmed down, as long as
--patience lasts; "others' CPU" says what remained.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import json
import math
import os
import platform
import re
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from agw.iq.messages import Suite
from tests.bench import media_soak
from tests.bench.media_relays import RELAYS, resident
from tests.bench.media_rig import Load, Place, Way, calls, load, stream
from tests.bench.peers.systems import ROOT, CannotRun
from tests.bench.signalling import output, say

SUITES = (Suite.AES_CM_128_HMAC_SHA1_80, Suite.AEAD_AES_128_GCM)
LOSS = 0.001
BEHIND = 1.02  # times the seconds asked for: the load did not keep up
GUESS = 100_000.0  # packets/s, where a first search begins
WIDE, NARROW = 1.5, 1.1  # steps of a search that has one end: of a first, of a later
CLOSE = 1.04  # between the two ends, when it is over
PROBES = 12
CALM = 0.02  # of the two processors' time: what other processes may have of it in a trial
SOAK_RATE = 50.0  # packets/s of one stream


@dataclass(frozen=True)
class Cell:
    """One block of the table."""

    way: Way
    suite: Suite
    streams: int

    def __str__(self) -> str:
        return f"{self.way.value}, {self.suite.value}, {self.streams} streams"


@dataclass(frozen=True)
class Trial:
    """cpu: microseconds per packet. memory: KiB per stream. others: the share of the two processors' time
    that other processes had."""

    load: Load
    cpu: float
    memory: float
    others: float

    @property
    def lost(self) -> float:
        """Of all; what was late is as good as lost."""
        return 1 - (self.load.received - self.load.late) / self.load.sent

    @property
    def rate(self) -> float:
        """Packets/s that were really sent."""
        return self.load.sent / self.load.seconds


@dataclass
class Bench:
    """How trials are run. sockets: the load's, on each side. seconds: that count, after those of warm_up.
    patience: seconds that may still be spent on waiting for a calm machine and on repeating trials."""

    place: Place
    sockets: int
    seconds: float
    warm_up: float
    patience: float = 0.0

    def trial(self, system: str, cell: Cell, rate: float) -> Trial:
        """The least disturbed of as many as patience allows until one is not disturbed."""
        best = self.attempt(system, cell, rate)
        while best.others > CALM and self.patience > 0:
            begun = time.monotonic()
            while self.disturbed() and time.monotonic() < begun + self.patience:
                pass
            again = self.attempt(system, cell, rate)
            best = min(best, again, key=lambda trial: trial.others)
            self.patience -= time.monotonic() - begun
        return best

    def disturbed(self) -> bool:
        """Within a second from now."""
        busy, _ = used(self.place, 0)
        time.sleep(1.0)
        return (used(self.place, 0)[0] - busy) / 2 > CALM

    def attempt(self, system: str, cell: Cell, rate: float) -> Trial:
        with turn(), self.fresh_place() as place:
            wanted = calls(place, cell.streams, self.sockets, cell.suite)
            with RELAYS[system](place, wanted) as running:
                streams = [
                    stream(cell.way, call, joined, relayed=running.pid != 0)
                    for call, joined in zip(wanted, running.joined, strict=True)
                ]
                begun, busy, own = time.monotonic(), *used(place, running.pid)
                became = load(place, running.pid, streams, rate, self.warm_up, self.seconds)
                lasted, (busy_then, own_then) = time.monotonic() - begun, used(place, running.pid)
                others = max(0.0, busy_then - busy - (own_then - own)) / (2 * lasted)
                memory = resident(running.pid) - running.empty if running.pid else 0
        return Trial(became, became.cpu * 1e6 / max(became.received, 1), memory / cell.streams, others)

    def highest(self, system: str, cell: Cell, guess: float | None) -> tuple[Trial | None, bool]:
        """The fastest trial that lost next to nothing, and whether it was the load that set the limit.
        guess: a former result."""

        def behind(trial: Trial) -> bool:
            return trial.load.seconds > BEHIND * self.seconds

        def carried(rate: float) -> Trial | None:
            trials = []
            for _ in range(2):
                trials.append(self.trial(system, cell, rate))
                if trials[-1].lost < LOSS and not behind(trials[-1]):
                    return trials[-1]
            return max((t for t in trials if t.lost < LOSS), key=lambda t: t.rate, default=None)

        rate, step = guess or GUESS, NARROW if guess else WIDE
        best: Trial | None = None
        good, bad = 0.0, math.inf
        for _ in range(PROBES):
            trial = carried(rate)
            if trial is None:
                bad = rate
            else:
                best, good = trial, rate
                if behind(trial):
                    return best, True
            if bad / max(good, 1.0) < CLOSE:
                break
            rate = math.sqrt(good * bad) if good and bad < math.inf else good * step or bad / step
        return best, False

    @contextmanager
    def fresh_place(self) -> Iterator[Place]:
        with tempfile.TemporaryDirectory(prefix="imsalg-bench-") as path:
            yield replace(self.place, path=Path(path))


@contextmanager
def turn() -> Iterator[None]:
    """Benchmarks on one machine take turns."""
    with Path(tempfile.gettempdir(), "imsalg-media-bench").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def used(place: Place, pid: int) -> tuple[float, float]:
    """Seconds that the two processors have been busy, and those that relay and load have had of them."""
    lines = Path("/proc/stat").read_text().splitlines()[1:]
    busy = 0
    for core in {place.load_core, place.relay_core}:
        user, nice, system, _, _, irq, softirq, steal, *_ = map(int, lines[core].split()[1:])
        busy += user + nice + system + irq + softirq + steal
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    relay = time.clock_gettime(~pid << 3 | 2) if pid else 0.0  # clock_getcpuclockid(3)
    own = relay + children.ru_utime + children.ru_stime + time.process_time()
    return busy / os.sysconf("SC_CLK_TCK"), own


# -- all trials ----------------------------------------------------------------------------------------------

Row = dict[str, float]  # what is measured -> its value, for one system in one run


def measure(
    bench: Bench, cell: Cell, systems: list[str], rates: list[int], former: dict[str, Row] | None
) -> dict[str, Row]:
    """One run of one cell, the systems in turn. former: what the run before found; None: no search."""
    rows: dict[str, Row] = {system: {} for system in systems}
    memory: dict[str, float] = {}
    for rate in rates:
        path = bench.trial("direct", cell, rate).load
        for system in systems:
            say(f"{cell}: {system} at {rate}/s")
            trial = bench.trial(system, cell, rate)
            row = rows[system]
            row[f"CPU µs/packet at {rate}/s"] = trial.cpu
            row[f"added p50 µs at {rate}/s"] = trial.load.p50 - path.p50
            row[f"added p99 µs at {rate}/s"] = trial.load.p99 - path.p99
            row[f"lost % at {rate}/s"] = 100 * trial.lost
            row[f"bad packets at {rate}/s"] = trial.load.bad
            row[f"others' CPU % at {rate}/s"] = 100 * trial.others
            memory[system] = trial.memory
    if former is not None:
        for system in systems:
            say(f"{cell}: {system}, highest rate")
            best, by_load = bench.highest(system, cell, former.get(system, {}).get(HIGHEST))
            rows[system] |= {
                HIGHEST: best.rate if best else 0.0,
                "CPU µs/packet there": best.cpu if best else 0.0,
                BY_LOAD: by_load,
                "others' CPU % there": 100 * best.others if best else 0.0,
            }
    for system in systems:
        rows[system]["memory KiB/stream"] = memory[system]
    return rows


HIGHEST = "highest packets/s"
BY_LOAD = "limited by the load"  # 1: there might be more
FAULTS = ("lost", "bad", BY_LOAD)  # not printed where all are 0
UNRATED = (*FAULTS, "others")


def summary(runs: list[dict[str, Row]], systems: list[str]) -> list[dict[str, object]]:
    """A line for each thing measured in a cell: minimum, median and maximum for each system, and the ratios
    of the first one's median to the others'."""
    lines: list[dict[str, object]] = []
    for name in runs[0][systems[0]]:
        line: dict[str, object] = {"what": name}
        medians = []
        for system in systems:
            values = [run[system][name] for run in runs]
            medians.append(statistics.median(values))
            line[system] = (min(values), medians[-1], max(values))
        rated = not name.startswith(UNRATED)
        line["ratios"] = [medians[0] / other if rated and other > 0 else None for other in medians[1:]]
        lines.append(line)
    return lines


# -- what is printed -----------------------------------------------------------------------------------------


def table(cells: dict[str, list[dict[str, object]]], systems: list[str]) -> str:
    first, *others = systems
    lines: list[str] = []
    titles = [f"{system:^29}" for system in systems] + [f"{first}/{other}".rjust(14) for other in others]
    columns = [f"{'minimum':>9} {'median':>9} {'maximum':>9}"] * len(systems)
    for cell, rows in cells.items():
        lines += ["", cell, " " * 26 + "  ".join(titles).rstrip(), " " * 26 + "  ".join(columns)]
        for row in rows:
            if row["what"].startswith(FAULTS) and not any(map(any, (row[system] for system in systems))):
                continue
            text = [figures(row[system]) for system in systems]
            text += ["-".rjust(14) if ratio is None else f"{ratio:14.2f}" for ratio in row["ratios"]]
            lines.append(f"{row['what']:<26}" + "  ".join(text).rstrip())
    return "\n".join(lines)


def figures(value: tuple[float, ...]) -> str:
    digits = 0 if max(map(abs, value)) >= 1000 else 2
    return " ".join(f"{each:9.{digits}f}" for each in value)


def describe(cores: int, settings: str) -> dict[str, str]:
    """Machine and versions."""
    cpu = re.search(r"^model name\s*: (.*)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "machine": f"{cpu[1] if cpu else platform.machine()}, {cores} cores, "
        f"Linux {platform.release()}, load {os.getloadavg()[0]:.1f} at the start",
        "agw": output("git", "-C", str(ROOT), "describe", "--always", "--dirty")
        + f", Python {platform.python_version()}",
        "settings": settings.replace("\n", "; ").removesuffix("; "),
        "rtpengine": output("rtpengine", "--version").removeprefix("Version: "),
        "OpenSSL": output("openssl", "version"),
        "gcc": output("gcc", "--version"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="What a packet costs, beside rtpengine and a bare loop.")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--streams", default="100,1000", help="several with commas")
    parser.add_argument("--rates", default="20000,50000", help="packets/s, several with commas")
    parser.add_argument("--suites", default=",".join(SUITES), help="several with commas")
    parser.add_argument("--ways", default="protect,unprotect", help="protect: RTP to SRTP")
    parser.add_argument(
        "--systems", default="agw,rtpengine,bare", help="the first is compared with the others"
    )
    parser.add_argument("--plane", choices=("native", "python"), default="native", help="of our gateway")
    parser.add_argument("--settings", default="", metavar="TOML", help="more of our gateway's configuration")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each trial")
    parser.add_argument("--warm-up", type=float, default=0.5, help="seconds, at 20,000/s at most")
    parser.add_argument("--sockets", type=int, default=8, help="of the load on each side")
    parser.add_argument("--patience", type=float, default=60.0, help="seconds for trials that were disturbed")
    parser.add_argument("--no-search", action="store_true", help="leave the highest rate out")
    parser.add_argument("--base-port", type=int, default=10000, help="the first of 10,000")
    parser.add_argument(
        "--soak", type=float, metavar="MINUTES", help="instead: media in 1,000 calls, others passing"
    )
    parser.add_argument("--soak-calls", type=int, default=1000)
    parser.add_argument("--soak-passing", type=float, default=20.0, help="calls/s that come and go")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all figures, beside what is printed")
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[0]})
    plane = options.plane if find_spec("agw.native._relay") else "python"
    settings = f'plane = "{plane}"\n{options.settings}'
    with tempfile.TemporaryDirectory(prefix="imsalg-bench-") as programs:
        place = Place(Path(programs), Path(programs), options.base_port, cores[0], cores[-1], settings)
        bench = Bench(place, options.sockets, options.seconds, options.warm_up, options.patience)
        try:
            head = describe(len(cores), settings)
            result, text = (soak if options.soak else compare)(bench, options)
        except CannotRun as error:
            sys.exit(f"media.py: {error}")
    if options.json:
        options.json.write_text(json.dumps({"head": head, **result}, indent=2) + "\n")
    print("\n".join([*(f"{name:<10} {line}" for name, line in head.items()), text]))


def compare(bench: Bench, options: argparse.Namespace) -> tuple[dict[str, object], str]:
    systems = options.systems.split(",")
    rates = [int(rate) for rate in options.rates.split(",")]
    cells = [
        Cell(Way[way.upper()], Suite(suite), int(streams))
        for suite in options.suites.split(",")
        for way in options.ways.split(",")
        for streams in options.streams.split(",")
    ]
    runs: dict[Cell, list[dict[str, Row]]] = {cell: [] for cell in cells}
    for _ in range(options.runs):
        for cell, done in runs.items():
            former = None if options.no_search else done[-1] if done else {}
            done.append(measure(bench, cell, systems, rates, former))
    summaries = {str(cell): summary(done, systems) for cell, done in runs.items()}
    return {"runs": {str(cell): done for cell, done in runs.items()}, "summary": summaries}, table(
        summaries, systems
    )


def soak(bench: Bench, options: argparse.Namespace) -> tuple[dict[str, object], str]:
    with turn(), bench.fresh_place() as place:
        suite = Suite(options.suites.split(",")[0])
        done = asyncio.run(
            media_soak.soak(
                place,
                options.soak_calls,
                options.sockets,
                suite,
                60 * options.soak,
                SOAK_RATE,
                options.soak_passing,
            )
        )
    return {"soak": asdict(done)}, "\n" + media_soak.table(done)


if __name__ == "__main__":
    main()
