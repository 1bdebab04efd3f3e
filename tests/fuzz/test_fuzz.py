"""All fuzzers, side by side in processes of their own. Each has the same CPU time (FUZZ_SECONDS), however
busy the machine is, and takes other cases than the last time; one that failed is run again by its number (see
__main__)."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agw.native_programs import fuzzer
from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).resolve().parents[2]
SECONDS = float(os.environ.get("FUZZ_SECONDS", "60"))
PATIENCE = 600 + 10 * SECONDS  # seconds on the clock: ./run test gives them what the others leave
PACKETS = "packets"  # the entry of the packet loop, in C

pytestmark = pytest.mark.timeout(PATIENCE + 60)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, subprocess.Popen[str]]]:
    first = time.time_ns() // 1_000_000_000 * 1_000_000
    options = ["--seconds", str(SECONDS), "--first", str(first)]
    commands = {target: [sys.executable, "-m", "tests.fuzz", target, *options] for target in TARGETS}
    commands[PACKETS] = fuzzer(tmp_path_factory.mktemp("packets"), SECONDS)
    processes = {
        name: subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )
        for name, command in commands.items()
    }
    yield processes
    for process in processes.values():
        process.kill()
        process.communicate()


@pytest.mark.parametrize("target", [*TARGETS, PACKETS])
def test_no_message_makes_it_raise_leak_or_hang(
    running: dict[str, subprocess.Popen[str]], target: str
) -> None:
    said, _ = running[target].communicate(timeout=PATIENCE)
    print(said[-4000:])
    assert running[target].returncode == 0, said[-4000:]
