"""Fuzzes one target: python -m tests.fuzz TARGET [--seconds N] [--first CASE] [--once]

A case is a number, which is printed with what it raised; `--first CASE --once` runs it again. For hours:

    for target in message stream sdp core iq peer; do
        nice -n 19 python -m tests.fuzz $target --seconds 14400 --first $(date +%s)000000 > $target.log 2>&1 &
    done

SIGINT ends it early, with its count.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import random
import signal
import sys
import time
import traceback

from tests.fuzz.targets import TARGETS

LONGEST = 20.0  # seconds of CPU for one case, many times what the slowest has taken: else it never ends


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=float, default=60.0, help="of CPU")
    parser.add_argument("--first", type=int, default=0, help="the first case")
    parser.add_argument("--once", action="store_true")
    options = parser.parse_args()
    run, case, failed, slowest = TARGETS[options.target], options.first, 0, 0.0
    end = time.process_time() + options.seconds
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell has ignored in the background
    with contextlib.suppress(KeyboardInterrupt):
        while time.process_time() < end and failed < 10:
            begin, printed = time.process_time(), io.StringIO()
            try:
                with contextlib.redirect_stdout(printed):
                    run(random.Random(f"{options.target} {case}"))
                spent = time.process_time() - begin
                assert spent < LONGEST, f"{spent:.1f} seconds"
                slowest = max(slowest, spent)
            except Exception:
                failed += 1
                print(f"case {case} of {options.target}:\n{traceback.format_exc()}", flush=True)
                if options.once:
                    print(printed.getvalue()[-4000:])
            case += 1
            if options.once:
                break
    count = case - options.first
    print(f"{options.target}: {count} cases from {options.first}, {failed} failed, slowest {slowest:.3f} s")
    return 1 if failed or not count else 0


if __name__ == "__main__":
    sys.exit(main())
