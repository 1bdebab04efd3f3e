"""What all tests share: the project's root is importable, and ports that one run has at a time.

`./run test` has two parts at once: what only computes, the fuzzers, and at their end what asks little of its
peers go on beside all others, on what the cores have to spare. What is marked `calm` comes last and alone.
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import hypothesis
import pytest

TESTS = Path(__file__).resolve().parent
ROOT = str(TESTS.parent)
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)

FIXED = ("agw", "bench", "cli", "interop", "lab", "system", "transport")  # folders whose ports are fixed
GUARDS = 15900  # a TCP port for each of them, from here on

# How long an example takes is the machine's business.
hypothesis.settings.register_profile("imsalg", deadline=None)
hypothesis.settings.load_profile("imsalg")


def folder(nodeid: str) -> str:
    """`system` of tests/system/test_x.py::test_y; empty for a file of tests/ itself."""
    first, _, rest = nodeid.partition("::")[0].removeprefix("tests/").partition("/")
    return first if rest else ""


_guards: dict[str, socket.socket] = {}


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A process has the guard of a folder from its first test there; who cannot have it ends and says why."""
    name = folder(item.nodeid)
    if name not in FIXED or name in _guards:
        return
    guard, port = socket.socket(), GUARDS + FIXED.index(name)
    try:
        guard.bind(("127.0.0.1", port))
        _guards[name] = guard
    except OSError:
        guard.close()
        message = f"another run has the ports of tests/{name} (TCP port {port} is taken): wait for its end"
        item.session.shouldstop = message
        raise pytest.fail.Exception(message, pytrace=False) from None


def pytest_unconfigure() -> None:
    for guard in _guards.values():
        guard.close()
