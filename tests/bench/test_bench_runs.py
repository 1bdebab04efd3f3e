"""The benchmark works: a few calls through both systems, nothing said about their speed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parent

pytestmark = pytest.mark.calm


def run(name, *arguments):
    """(what it prints as JSON, what it says besides)"""
    command = [sys.executable, BENCH / name, *arguments, "--json", "--base-port=21100"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def test_a_call_costs_something_in_both_systems_and_none_fails():
    arguments = ("--rates=5", "--seconds=2", "--trials=1", "--settle=1", "--profile")
    result, said = run("signalling.py", *arguments)
    assert [trial["system"] for trial in result["trials"]] == ["imsalg", "kamailio"]
    for trial in result["trials"]:
        assert (trial["calls"], trial["failed"]) == (10, 0), said
        assert trial["proxy"] > 0.0
    assert [row["part"] for row in result["summary"]] == ["proxy", "gateway", "both"]
    assert "gateway, per call" in result["profile"]


def test_a_proxy_is_started_with_and_without_what_it_had_stored():
    result, _ = run("restart.py", "--registrations=50", "--trials=1")
    cold, warm = result
    assert (cold["registrations"], warm["registrations"]) == (0, 50)
    assert 0.0 < warm["answer"] <= warm["reached"]


@pytest.mark.parametrize(
    ("load", "transports"),
    [("call", ("TLS", "WSS")), ("registration", ("TCP", "WSS"))],
    ids=("calls", "registrations"),
)
def test_load_goes_over_other_transports_through_both_systems(load, transports):
    arguments = ("--what=costs", f"--load={load}", f"--transports={','.join(transports)}", "--rate=5")
    result, said = run("signalling_limits.py", *arguments, "--seconds=1", "--t1=0.02", "--idle=0.2")
    ran = [(row["transport"], row["system"], row["failed"]) for row in result["costs"]]
    each = [(transport, system, 0) for transport in transports for system in ("imsalg", "kamailio")]
    assert ran == each, said


def test_rates_and_memory_are_measured():
    arguments = ("--what=knee,memory", "--transports=UDP", "--seconds=1", "--t1=0.03", "--first=5")
    result, said = run("signalling_limits.py", *arguments, "--last=5", "--registrations=50", "--calls=10")
    assert [(row["load"], row["system"], row["failed"]) for row in result["knee"]] == [
        ("call", "imsalg", 0),
        ("call", "kamailio", 0),
        ("registration", "imsalg", 0),
        ("registration", "kamailio", 0),
    ]
    assert {row["outcome"] for row in result["knee"]} <= {"holds", "over"}  # the machine's business
    assert [(row["load"], row["failed"]) for row in result["memory"]] == [("call", 0), ("registration", 0)]
    assert all(isinstance(row["proxy_kib"], float) for row in result["memory"]), said


def test_a_flood_is_offered_and_what_is_completed_is_counted():
    arguments = ("--warm-up=1", "--from=10", "--to=20", "--step=10", "--times=2", "--after=2")
    result, said = run("overload.py", *arguments, "--seconds=3")  # SIPp counts by the second, the first not
    assert result["peak"] > 0, said
    assert result["completed"] > 0, said
    assert result["failed"] == 0, said
