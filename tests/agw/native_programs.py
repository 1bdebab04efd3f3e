"""The C programs of the tests, built with sanitizers; every warning is an error."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from pathlib import Path

from agw.native import HERE

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = Path(__file__).resolve().parent / "native"
SANITIZERS = ["-g", "-O1", "-fno-omit-frame-pointer", "-fno-sanitize-recover=all"]
WHAT = "address,undefined"
INPUTS = 2400  # of libFuzzer, which knows no CPU time, in about a second of it


def run(*command: object, timeout: float = 100, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=ROOT,
        env={**os.environ, **environment},
    )


def built(compiler: str, program: str, target: Path, *options: str) -> Path:
    source = PROGRAMS / f"{program}.c"
    warnings = ("-std=c11", "-Wall", "-Wextra", "-Werror")
    done = run(compiler, *warnings, *SANITIZERS, *options, f"-I{HERE}", source, "-o", target, "-lcrypto")
    assert done.returncode == 0, done.stderr
    return target


def fuzzer(directory: Path, seconds: float) -> list[str]:
    """What feeds the packet entry for so many seconds of CPU: libFuzzer where clang has it, else random
    inputs."""
    seed = random.getrandbits(31)
    if has_libfuzzer(directory):
        options = ("-DWITH_LIBFUZZER", f"-fsanitize=fuzzer,{WHAT}")
        program = built("clang", "entry", directory / "entry", *options)
        return [str(program), f"-runs={round(seconds * INPUTS)}", "-max_len=4096", f"-seed={seed}"]
    program = built("gcc", "entry", directory / "entry", f"-fsanitize={WHAT}")
    return [str(program), str(round(seconds)), str(seed)]


def has_libfuzzer(path: Path) -> bool:
    if not shutil.which("clang"):
        return False
    empty = path / "empty.c"
    empty.write_text(
        "int LLVMFuzzerTestOneInput(const char *d, unsigned long n) { return d && n ? 0 : 0; }\n"
    )
    return run("clang", "-fsanitize=fuzzer", empty, "-o", path / "empty").returncode == 0
