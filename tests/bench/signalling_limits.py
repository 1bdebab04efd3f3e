"""How far signalling goes: CPU by transport, the knee, and memory.

Run as `python tests/bench/signalling_limits.py [--what costs,knee,memory] [--load call,registration]
[--transports UDP,TCP,TLS,WSS] [--systems imsalg,kamailio] [--json]`. The rig is that of `signalling.py`,
which says what a number means. imsalg and Kamailio with rtpengine do the same, except that imsalg remembers
registrations and Kamailio only passes them on.

transports: the caller's; the core side is UDP. SIPp of Debian has neither TLS nor WebSocket: a bridge
    (peers/bridge.py) is between it and the system. Its CPU is not counted, but it runs on the same cores.
costs: CPU at one rate.
knee: the rate rises by a quarter from step to step until more than one call in a hundred fails, or more
    messages than one per call are sent again, or the calls take a tenth longer than they would at that rate.
    The last rate before that is the knee. SIPp needs its share of the machine, too.
memory: what imsalg's two processes have grown by (PSS, /proc/PID/smaps_rollup), by the number of
    registrations or calls over UDP. All rest: their transactions are over, which --t1 brings about sooner
    than RFC 3261 has it.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench.peers.systems import SYSTEMS, CannotRun, Place, Running, imsalg
from tests.bench.signalling import CALLING, IDLE, head, load, measure, say

LOADS = {"call": CALLING, "registration": ("register.xml", "registrar.xml")}
Row = dict[str, Any]
SLACK = 1.5  # seconds that a load of any rate takes besides


def costs(options: argparse.Namespace, what: str, transport: str) -> Iterator[Row]:
    for system in options.systems:
        say(f"{system}, {what}s over {transport}, {options.rate}/s")
        with place_at(options, transport) as place:
            trial = measure(
                system, options.rate, place, options.seconds, settle(options.t1), LOADS[what], options.idle
            )
        yield {
            "load": what,
            "transport": transport,
            "system": system,
            "rate": options.rate,
            "count": trial.calls,
            "failed": trial.failed,
            "again": trial.retransmissions,
            "proxy_ms": round(trial.proxy, 3),
            "gateway_ms": round(trial.gateway, 3),
        }


def knee(options: argparse.Namespace, what: str, transport: str) -> Iterator[Row]:
    for system in options.systems:
        rate, holds = options.first, 0
        while rate <= options.last:
            say(f"{system}, {what}s over {transport}, {rate}/s")
            with place_at(options, transport) as place, SYSTEMS[system](place):
                count = round(rate * options.seconds)
                begin = time.monotonic()
                failed, again = load(place, rate, count, LOADS[what])
                lasted = time.monotonic() - begin
            over = failed > count / 100 or again > count or lasted > options.seconds * 1.1 + SLACK
            yield {
                "load": what,
                "transport": transport,
                "system": system,
                "rate": rate,
                "count": count,
                "failed": failed,
                "again": again,
                "seconds": round(lasted, 1),
                "outcome": "over" if over else "holds",
            }
            if over:
                break
            holds, rate = rate, round(rate * 1.25)
        say(f"{system}: {f'knee at {holds}/s' if holds else f'knee below {options.first}/s'}")


def memory(options: argparse.Namespace, what: str) -> Iterator[Row]:
    """A small load before the first look, so that what is loaded and kept once is not counted."""
    t1, scenarios, per_second = options.t1, LOADS[what], options.rate
    count = options.calls if what == "call" else options.registrations
    say(f"memory of {count} {what}s")
    with place_at(options) as place, imsalg(place) as running:
        load(place, per_second, per_second, scenarios)
        time.sleep(settle(t1))
        before = resident(running)
        rest = count / per_second + settle(t1)
        with ThreadPoolExecutor(1) as pool:
            begin = time.monotonic()
            # calls end some seconds after they were looked at
            loaded = pool.submit(load, place, per_second, count, scenarios, hold=rest + 4.0)
            if what == "registration":
                loaded.result()
            time.sleep(max(0.0, begin + rest - time.monotonic()))
            grown = [now - was for now, was in zip(resident(running), before, strict=True)]
            failed, _ = loaded.result()
    yield {
        "load": what,
        "count": count,
        "failed": failed,
        "proxy_kib": round(grown[0] / count, 1),
        "gateway_kib": round(grown[1] / count, 1),
    }


def settle(t1: float) -> float:
    """Seconds until transactions are over and their memory is given back."""
    return 64 * t1 + 1.0


def resident(running: Running) -> list[int]:
    """KiB of proxy and gateway, shared pages by halves."""
    said = (Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in (running.proxy, running.gateway))
    return [int(match[1]) for text in said if (match := re.search(r"^Pss: +(\d+) kB", text, re.MULTILINE))]


@contextmanager
def place_at(options: argparse.Namespace, transport: str = "UDP") -> Iterator[Place]:
    with tempfile.TemporaryDirectory(prefix="imsalg-bench-") as path:
        yield Place(Path(path), options.base_port, transport, options.t1)


def table(rows: list[Row]) -> str:
    """Aligned under the names of the first row; texts to the left, numbers to the right."""
    cells = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    left = [isinstance(value, str) for value in rows[0].values()]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if to_left else cell.rjust(width)
            for cell, width, to_left in zip(line, widths, left, strict=True)
        ).rstrip()
        for line in cells
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="How far signalling goes.")
    parser.add_argument("--what", default="costs,knee,memory", help="several with commas")
    parser.add_argument("--load", default="call,registration", help="several with commas")
    parser.add_argument("--transports", default="UDP,TCP,TLS,WSS", help="the caller's, several with commas")
    parser.add_argument("--systems", default=",".join(SYSTEMS), help="several with commas")
    parser.add_argument("--rate", type=int, default=200, help="per second, where it does not rise")
    parser.add_argument("--seconds", type=float, default=8.0, help="how long calls are begun")
    parser.add_argument("--first", type=int, default=200, help="per second, for the knee")
    parser.add_argument("--last", type=int, default=3000, help="per second, for the knee")
    parser.add_argument("--registrations", type=int, default=10_000, help="whose memory is measured")
    parser.add_argument("--calls", type=int, default=1000, help="whose memory is measured")
    parser.add_argument("--t1", type=float, default=0.5, help="seconds; imsalg's")
    parser.add_argument("--idle", type=float, default=IDLE, help="seconds that idle processes are watched")
    parser.add_argument("--base-port", type=int, default=21000, help="of the hundred used for SIP")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    chosen: dict[str, list[str]] = {}
    for name, known in (
        ("what", ("costs", "knee", "memory")),
        ("load", tuple(LOADS)),
        ("transports", ("UDP", "TCP", "TLS", "WSS")),
        ("systems", tuple(SYSTEMS)),
    ):
        chosen[name] = getattr(options, name).split(",")
        if unknown := set(chosen[name]) - set(known):
            parser.error(f"--{name}: {', '.join(sorted(unknown))} is none of {', '.join(known)}")
    options.systems = chosen["systems"]
    try:
        described = head()
        results: dict[str, list[Row]] = {}
        for name in chosen["what"]:
            rows = results[name] = []
            for what in chosen["load"]:
                if name == "memory":
                    rows += memory(options, what)
                    continue
                for transport in chosen["transports"]:
                    rows += (costs if name == "costs" else knee)(options, what, transport)
    except CannotRun as error:
        sys.exit(f"signalling_limits.py: {error}")
    if options.json:
        print(json.dumps({"head": described, **results}, indent=2))
        return
    print("\n".join(f"{name:<10} {value}" for name, value in described.items()))
    for name, rows in results.items():
        print(f"\n{name}\n{table(rows)}")


if __name__ == "__main__":
    main()
