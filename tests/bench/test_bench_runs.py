"""The benchmark works: a few calls through both systems, nothing said about their speed."""

import json
import os
import subprocess
import sys
from pathlib import Path

SIGNALLING = Path(__file__).resolve().parent / "signalling.py"


def test_a_call_costs_something_in_both_systems_and_none_fails():
    port = 21100 + os.getpid() % 8 * 100  # so that two runs on one machine seldom meet
    arguments = ["--rates=5", "--seconds=2", "--trials=1", "--settle=1", f"--base-port={port}"]
    arguments += ["--json", "--profile"]
    done = subprocess.run(
        [sys.executable, SIGNALLING, *arguments], capture_output=True, text=True, timeout=90
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert [trial["system"] for trial in result["trials"]] == ["imsalg", "kamailio"]
    for trial in result["trials"]:
        assert (trial["calls"], trial["failed"]) == (10, 0), done.stderr
        assert trial["proxy"] > 0.0
    assert [row["part"] for row in result["summary"]] == ["proxy", "gateway", "both"]
    assert "gateway, per call" in result["profile"]


def test_a_proxy_is_started_with_and_without_what_it_had_stored():
    port = 21900 + os.getpid() % 8 * 8
    arguments = ["--registrations=50", "--trials=1", f"--base-port={port}", "--json"]
    done = subprocess.run(
        [sys.executable, SIGNALLING.with_name("restart.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    cold, warm = json.loads(done.stdout)
    assert (cold["registrations"], warm["registrations"]) == (0, 50)
    assert 0.0 < warm["answer"] <= warm["reached"]
