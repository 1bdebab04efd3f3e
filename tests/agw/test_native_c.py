"""The C sources by themselves, under AddressSanitizer and UndefinedBehaviorSanitizer; every warning an error.
The fuzzer of the packet entry runs with the others: tests/fuzz."""

from __future__ import annotations

import random
import re
import sys
import sysconfig
from pathlib import Path

import pytest

from agw.native import HERE, SOURCES, _relay
from agw.native.build import LANGUAGE, ffi
from tests.agw.native_programs import ROOT, SANITIZERS, WHAT, built, run


def test_the_vectors_of_the_rfcs(tmp_path: Path) -> None:
    done = run(built("gcc", "vectors", tmp_path / "vectors", f"-fsanitize={WHAT}"))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("what", ["thread", WHAT])
def test_threads_and_what_they_are_lent_while_everything_changes(what: str, tmp_path: Path) -> None:
    program = built("gcc", "threads", tmp_path / "threads", f"-fsanitize={what}")
    done = run(program, 1000, random.getrandbits(31))
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_built_is_hardened() -> None:
    """Relocations are done and read-only before the first packet comes, and stacks are guarded."""
    said = run("readelf", "--wide", "--dynamic", "--program-headers", "--dyn-syms", _relay.__file__).stdout
    assert re.search(r"FLAGS.*\bNOW\b", said)
    assert re.search(r"GNU_RELRO", said)
    assert re.search(r"GNU_STACK .* RW ", said)
    assert "__stack_chk_fail" in said
    assert re.search(r"__\w+_chk@", said.replace("__stack_chk_fail", ""))


@pytest.mark.timeout(300)
def test_the_planes_tests_pass_with_a_loop_under_the_sanitizers(tmp_path: Path) -> None:
    """The same extension module, put before the one that is installed."""
    glue = tmp_path / "_relay.c"
    ffi.emit_c_code(str(glue))
    module = tmp_path / f"_relay{sysconfig.get_config_var('EXT_SUFFIX')}"
    include = sysconfig.get_paths()["include"]
    sources = [glue, *(HERE / source for source in SOURCES)]
    options = [*SANITIZERS, f"-fsanitize={WHAT}", f"-I{include}", f"-I{HERE}", "-fPIC", "-shared"]
    done = run("gcc", *LANGUAGE, *options, *sources, "-o", module, "-lcrypto")
    assert done.returncode == 0, done.stderr
    (tmp_path / "sitecustomize.py").write_text(INSTEAD.format(module=str(module)))
    done = run(
        sys.executable, "-m", "pytest", "-q", "--noconftest", "-p", "no:cacheprovider", "-k", "native",
        "tests/agw/test_planes.py", "tests/agw/test_slow_path.py", "tests/agw/test_srtp.py",
        timeout=280,
        LD_PRELOAD=run("gcc", "-print-file-name=libasan.so").stdout.strip(),
        ASAN_OPTIONS="detect_leaks=0",  # the interpreter's own are many
        PYTHONPATH=f"{tmp_path}:{ROOT}",
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
