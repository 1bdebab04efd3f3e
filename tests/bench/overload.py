"""What the proxy still does when it is offered five times what it can, and how fast it is itself again.

Run as `python tests/bench/overload.py [--from 100] [--to 600] [--step 50] [--times 5] [--seconds 15]
[--warm-up 35] [--json]`. SIPp calls through the proxy and its gateway as in signalling.py, protected towards
the caller, checked at both ends. First the lowest rate for longer than a transaction lives (64*T1, 32 s): a
young proxy begins transactions and ends none, and its peak would be that of less work. Then the rate climbs
by a step every five seconds: the most calls completed in one of them, by second, is the peak. Then come five
times as many calls; and after them, at once, half of the peak: recovered is the proxy when it refuses no
more.

Completed is a call that the callee saw the end of. What it costs to offer five times the peak is another
machine's business and shall not be taken from the proxy: proxy, gateway and callee have one core together,
the caller another. It does not judge: it exits 0 unless it could not run.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench.peers.systems import (
    HOST,
    PEERS,
    CannotRun,
    Place,
    imsalg,
    process,
    sipp,
    udp_in_use,
    wait_for,
)
from tests.bench.signalling import cpu, head

STEP = 5  # seconds of each rate on the way up
SETTLE = 2.0  # seconds for the calls that are under way
LIMIT = "15000"  # calls at a time: SIPp is to offer what it was told to
CORES = sorted(os.sched_getaffinity(0))
BUFFER = "4000000"  # octets: a burst of refusals is no reason to lose any

REFUSED = """
  <label id="refused"/>
  <send>
    <![CDATA[
ACK sip:bob@home.example SIP/2.0
Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch-9]
Max-Forwards: 70
From: <sip:alice@home.example>;tag=[pid]uac[call_number]
To: <sip:bob@home.example>[peer_tag_param]
Call-ID: [call_id]
CSeq: 1 ACK
Content-Length: 0

]]>
  </send>
  <label id="end"/>
</scenario>
"""


@dataclass(frozen=True)
class Second:
    """What happened in one second of SIPp's clock: calls begun, refused with 503, and otherwise failed."""

    at: float
    begun: int
    done: int
    refused: int
    failed: int


def scenario(place: Place) -> None:
    """The caller of signalling.py, which also takes a 503 for an answer."""
    text = (PEERS / "uac.xml").read_text()
    provisional = '<recv response="100" optional="true"/>'
    refused = '<recv response="503" optional="true" next="refused" counter="1"/>'
    text = text.replace(provisional, f"{provisional}\n  {refused}")
    all_but_bye, _, _ = text.rpartition('<recv response="200"/>')
    (place.path / "uac.xml").write_text(all_but_bye + '<recv response="200" next="end"/>' + REFUSED)


def seconds(path: Path) -> list[Second]:
    """SIPp's statistics, second by second."""
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file, delimiter=";") if row.get("CurrentTime")]
    return [
        Second(
            float(row["CurrentTime"].split("\t")[-1]),
            int(row["OutgoingCall(P)"]) + int(row["IncomingCall(P)"]),
            int(row["SuccessfulCall(P)"]),
            int(row.get("GenericCounter1(P)") or 0),
            int(row["FailedCall(P)"]),
        )
        for row in rows
    ]


@contextmanager
def callee(place: Place) -> Iterator[Path]:
    trace = place.path / "callee.csv"
    with process("callee", sipp(place, PEERS / "uas.xml", place.callee_port, trace), place):
        wait_for("callee", place, lambda: udp_in_use(place.callee_port))
        yield trace


def call(place: Place, name: str, port: int, lasts: float, *options: str) -> tuple[float, float, Path]:
    """Calls for so many seconds: when they began and ended, and the statistics."""
    trace = place.path / f"{name}.csv"
    command = sipp(place, place.path / "uac.xml", port, trace)
    os.sched_setaffinity(0, CORES[-1:])  # and so its children
    began = time.time()
    with process(
        name,
        [*command, *options, "-l", LIMIT, "-buff_size", BUFFER, f"{HOST}:{place.port}"],
        place,
    ):
        time.sleep(lasts)
    return began, time.time(), trace


def completed(trace: Path, begin: float, end: float) -> float:
    """Calls per second that the callee saw the end of, in that time."""
    done = [second.done for second in seconds(trace) if begin < second.at - 0.5 < end]
    return sum(done) / max(len(done), 1)


def status(place: Place) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(10)
        peer.connect(str(place.path / "status"))
        return json.load(peer.makefile("rb"))  # type: ignore[no-any-return]


def measure(place: Place, options: argparse.Namespace) -> dict[str, Any]:
    scenario(place)
    os.sched_setaffinity(0, CORES[:1])
    with imsalg(place) as running, callee(place) as trace:
        rates = range(options.begin, options.to + 1, options.step)
        say(f"{rates[0]} calls/s for {options.warm_up:g} s")
        call(place, "young", place.caller_port + 2, options.warm_up, "-r", str(rates[0]))
        say(f"up from {rates[0]} to {rates[-1]} calls/s")
        climb = ["-r", str(rates[0]), "-rate_increase", str(options.step), "-rate_interval", str(STEP)]
        climb += ["-rate_max", str(rates[-1]), "-no_rate_quit"]
        began, _, _ = call(place, "climb", place.caller_port, STEP * len(rates), *climb)
        time.sleep(SETTLE)
        climbed = {
            rate: completed(trace, began + STEP * at + 0.5, began + STEP * (at + 1))
            for at, rate in enumerate(rates)
        }
        peak = max(climbed.values())
        flood = round(options.times * peak)
        say(f"peak {peak:.0f} calls/s; {flood} calls/s for {options.seconds:g} s")
        before, _ = cpu(running)
        begin, end, flooded = call(place, "flood", place.caller_port + 4, options.seconds, "-r", str(flood))
        share = (cpu(running)[0] - before) / (end - begin)
        under = completed(trace, begin + 1, end)
        half = round(peak / 2)
        say(f"{under:.0f} calls/s completed; now {half} calls/s")
        _, _, after = call(place, "after", place.caller_port + 8, options.after, "-r", str(half))
        offered = seconds(flooded)
        bad = [second.at for second in seconds(after) if second.refused or second.failed]
        drops = status(place)
    return {
        "climb": {str(rate): round(done) for rate, done in climbed.items()},
        "peak": round(peak),
        "offered": round(sum(second.begun for second in offered) / max(len(offered), 1)),
        "completed": round(under),
        "percent": round(100 * under / peak),
        "share": round(100 * share),
        "refused": sum(second.refused for second in offered),
        "failed": sum(second.failed for second in offered),
        "recovery": round(max(bad) - end + 1, 1) if bad else 0.0,
        "drops": {**drops["drops"], **drops["transport"]["drops"]},
    }


def table(result: dict[str, Any]) -> str:
    rows = [
        ("peak, calls/s", result["peak"]),
        ("then offered, calls/s", result["offered"]),
        ("completed, calls/s", result["completed"]),
        ("of the peak, percent", result["percent"]),
        ("the proxy's share of a core, percent", result["share"]),
        ("refused with 503, calls", result["refused"]),
        ("failed otherwise, calls", result["failed"]),
        ("recovery, seconds", result["recovery"]),
    ]
    lines = [f"{name:<10} {value}" for name, value in result["head"].items()]
    lines += ["", f"{'offered':>8}  {'completed':>9}   on the way up, calls/s"]
    lines += [f"{rate:>8}  {done:>9}" for rate, done in result["climb"].items()]
    lines += ["", *(f"{name:<36} {value:>8}" for name, value in rows), ""]
    lines += [f"{name:<36} {count:>8}" for name, count in sorted(result["drops"].items())]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="What is still done at five times what can be done.")
    parser.add_argument("--from", dest="begin", type=int, default=100, help="calls per second at first")
    parser.add_argument("--to", type=int, default=600)
    parser.add_argument("--step", type=int, default=50)
    parser.add_argument("--times", type=float, default=5.0, help="the flood, in peaks")
    parser.add_argument("--seconds", type=float, default=15.0, help="of the flood")
    parser.add_argument("--warm-up", type=float, default=35.0, help="seconds at the first rate")
    parser.add_argument("--after", type=float, default=10.0, help="seconds of half of the peak")
    parser.add_argument("--base-port", type=int, default=21000, help="of the hundred used for SIP")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    try:
        described = head()
        with tempfile.TemporaryDirectory(prefix="imsalg-bench-") as path:
            result = {"head": described, **measure(Place(Path(path), options.base_port), options)}
    except CannotRun as error:
        sys.exit(f"overload.py: {error}")
    print(json.dumps(result, indent=2) if options.json else table(result))


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
