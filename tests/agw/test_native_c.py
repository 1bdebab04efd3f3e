"""The C sources by themselves, under AddressSanitizer and UndefinedBehaviorSanitizer; every warning an error.

The fuzz target runs for FUZZ_SECONDS (60): with libFuzzer where clang has it, else with random inputs.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from agw.native import HERE, SOURCES
from agw.native.build import FLAGS, ffi

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = Path(__file__).resolve().parent / "native"
SANITIZERS = ["-g", "-O1", "-fno-omit-frame-pointer", "-fno-sanitize-recover=all"]
SECONDS = int(os.environ.get("FUZZ_SECONDS", "60"))
WHAT = "address,undefined"


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


def test_the_vectors_of_the_rfcs(tmp_path: Path) -> None:
    done = run(built("gcc", "vectors", tmp_path / "vectors", f"-fsanitize={WHAT}"))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(SECONDS + 120)
def test_the_packet_entry_stands_a_fuzzer(tmp_path: Path) -> None:
    seed = random.getrandbits(31)
    if has_libfuzzer(tmp_path):
        target = built("clang", "entry", tmp_path / "entry", "-DWITH_LIBFUZZER", f"-fsanitize=fuzzer,{WHAT}")
        command = [target, f"-max_total_time={SECONDS}", "-max_len=4096", f"-seed={seed}"]
    else:
        command = [built("gcc", "entry", tmp_path / "entry", f"-fsanitize={WHAT}"), SECONDS, seed]
    done = run(*command, timeout=SECONDS + 60)
    assert done.returncode == 0, f"seed {seed}\n{done.stderr[-4000:]}"


def has_libfuzzer(path: Path) -> bool:
    if not shutil.which("clang"):
        return False
    empty = path / "empty.c"
    empty.write_text(
        "int LLVMFuzzerTestOneInput(const char *d, unsigned long n) { return d && n ? 0 : 0; }\n"
    )
    return run("clang", "-fsanitize=fuzzer", empty, "-o", path / "empty").returncode == 0


@pytest.mark.timeout(300)
def test_the_planes_tests_pass_with_a_loop_under_the_sanitizers(tmp_path: Path) -> None:
    """The same extension module, put before the one that is installed."""
    glue = tmp_path / "_relay.c"
    ffi.emit_c_code(str(glue))
    module = tmp_path / f"_relay{sysconfig.get_config_var('EXT_SUFFIX')}"
    include = sysconfig.get_paths()["include"]
    sources = [glue, *(HERE / source for source in SOURCES)]
    options = [*SANITIZERS, f"-fsanitize={WHAT}", f"-I{include}", f"-I{HERE}", "-fPIC", "-shared"]
    done = run("gcc", *(f for f in FLAGS if f != "-O3"), *options, *sources, "-o", module, "-lcrypto")
    assert done.returncode == 0, done.stderr
    (tmp_path / "sitecustomize.py").write_text(INSTEAD.format(module=str(module)))
    done = run(
        sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "native",
        "tests/agw/test_planes.py", "tests/agw/test_slow_path.py", "tests/agw/test_srtp.py",
        timeout=280,
        LD_PRELOAD=run("gcc", "-print-file-name=libasan.so").stdout.strip(),
        ASAN_OPTIONS="detect_leaks=0",  # the interpreter's own are many
        PYTHONPATH=f"{tmp_path}:{ROOT}",
        PYTEST_XDIST_WORKER="gw3",  # other ports
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert "instead" in done.stderr
    assert "AddressSanitizer" not in done.stderr


INSTEAD = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("agw.native._relay", {module!r})
sys.modules["agw.native._relay"] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
print("instead", file=sys.stderr)
"""
