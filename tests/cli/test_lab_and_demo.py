"""`imsalg lab` and `imsalg demo` as a newcomer runs them: what they say, and how they end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cli.stack import Stack, StackError

BASE = 17000
COMMAND = (sys.executable, "-m", "cli.main")


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [*COMMAND, *map(str, arguments), "--base-port", str(BASE)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def children(process: subprocess.Popen[str]) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def wait_for_ports_free() -> None:
    """All three are gone when their addresses can be had again."""
    for port in (BASE, BASE + 2, BASE + 4):
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            with socket.socket(socket.AF_INET, kind) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", port))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_lab_says_what_to_type_and_ends_at_once(number: int) -> None:
    process = start("lab", "--password", "secret word")
    assert process.stdout is not None
    told = ""
    while "nobody is registered" not in told:
        line = process.stdout.readline()
        assert line, told
        told += line
    assert f"outbound proxy    127.0.0.1:{BASE}" in told
    assert "--password 'secret word'" in told
    began = time.monotonic()
    process.send_signal(number)
    rest, errors = process.communicate(timeout=30)
    assert (process.returncode, rest, errors) == (0, "lab: ended\n", "")
    assert time.monotonic() - began < 10
    wait_for_ports_free()


def test_the_lab_as_json() -> None:
    process = start("lab", "--json")
    assert process.stdout is not None
    ready, change = (json.loads(process.stdout.readline()) for _ in range(2))
    assert (ready["event"], ready["access"], ready["lab"]) == ("ready", "127.0.0.1:17000", "127.0.0.1:17004")
    assert change == {"event": "change", "registrations": [], "calls": []}
    directory = Path(ready["directory"])
    assert directory.stat().st_mode & 0o077 == 0
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=30) == ("", "")
    assert not directory.exists()


def test_a_child_that_dies_ends_the_lab_with_its_last_words() -> None:
    process = start("lab", "--json")
    assert process.stdout is not None
    process.stdout.readline()
    victim = next(p for p in children(process) if "proxy" in Path(f"/proc/{p}/cmdline").read_text())
    os.kill(victim, signal.SIGKILL)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "the proxy was killed by signal 9; its last words:" in errors
    assert "ready" in errors
    wait_for_ports_free()


@pytest.mark.parametrize("port", [BASE, BASE + 4])
def test_a_port_in_use_names_the_option(port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", port))
        process = start("lab")
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert f"UDP port {port} of 127.0.0.1 cannot be had" in errors
    assert "--base-port" in errors


def test_a_process_that_cannot_start_is_named_with_its_reason() -> None:
    with pytest.raises(StackError, match=r"(?s)the proxy ended with exit code 2.*unknown key"):
        Stack(BASE, access="colour = 'red'").start()
    wait_for_ports_free()


@pytest.mark.parametrize("route", ["nonsense", "=sip:127.0.0.1", "uas=127.0.0.1"])
def test_a_wrong_route_is_refused(route: str) -> None:
    process = start("lab", "--route", route)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 2
    assert "USER=sip:HOST:PORT" in errors


def test_the_demo() -> None:
    process = start("demo", "--json")
    said, errors = process.communicate(timeout=100)
    assert errors == ""
    document = json.loads(said)
    assert [row["why"] for row in document["rows"]] == [[]] * 10
    treatments = [
        (row["caller"]["seen"]["treatment"], row["callee"]["seen"]["treatment"]) for row in document["rows"]
    ]
    assert treatments == [
        ("e2ae-sdes", "-"),
        ("-", "e2ae-sdes"),
        ("e2ae-sdes", "e2ae-sdes"),
        ("e2e", "e2e"),
        ("plain", "plain"),
        ("-", "-"),
        ("e2ae-dtls-srtp", "-"),
        ("e2ae-dtls-srtp", "-"),
        ("e2e", "e2e"),
        ("e2dce", "-"),
    ]
    refused = document["rows"].pop(5)
    assert refused["code"] == 488
    assert all(row["caller"]["hears"] == row["callee"]["plays"] for row in document["rows"])
    assert not any(document["left"].values())
    assert (document["ok"], process.returncode) == (True, 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_demo_leaves_nothing(number: int) -> None:
    process = start("demo")
    assert process.stdout is not None
    assert process.stdout.readline().startswith("caller")
    deadline = time.monotonic() + 30
    while len(started := children(process)) < 5 and time.monotonic() < deadline:
        time.sleep(0.05)  # two phones at least
    assert len(started) >= 5
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (130, "")
    assert not [pid for pid in started if Path(f"/proc/{pid}").exists()]
    wait_for_ports_free()


def test_a_demo_whose_gateway_dies_fails_and_says_so() -> None:
    process = start("demo")
    assert process.stdout is not None
    process.stdout.readline()
    victim = next(p for p in children(process) if "gateway" in Path(f"/proc/{p}/cmdline").read_text())
    os.kill(victim, signal.SIGKILL)
    said, errors = process.communicate(timeout=100)
    assert process.returncode == 1
    assert "FAILED" in said
    assert "the gateway was killed by signal 9" in errors
