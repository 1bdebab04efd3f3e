"""Two `imsalg rtcue`, a registrar between them and no gateway: proved before they prove anything."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.stack import DOMAIN, Stack
from cli.tone import tone_seconds
from tests.interop.ue_process import Ue

BASE_PORT = 28600
TONES = {"alice": 1000, "bob": 440}


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with Stack(BASE_PORT, media_ports=100) as stack:
        yield stack
        stack.check()


def ue(user: str, stack: Stack, directory: Path, *options: object) -> Ue:
    """One that the lab core serves without the proxy."""
    account = ("--user", user, "--password", stack.password, "--registrar", stack.lab_uri)
    sound = ("--tone", TONES[user], "--record", directory / f"{user}.wav")
    return Ue(*account, *sound, *options, command="rtcue")


@pytest.mark.parametrize(("setup", "answers"), [("actpass", "passive"), ("passive", "active")])
def test_tones_in_both_directions(stack: Stack, tmp_path: Path, setup: str, answers: str) -> None:
    with ue("bob", stack, tmp_path, "--setup", answers) as callee:
        callee.wait_for("registered")
        call = ("--call", f"sip:bob@{DOMAIN}", "--duration", 1.6, "--reoffer-after", 0.4)
        with ue("alice", stack, tmp_path, *call, "--setup", setup) as caller:
            assert caller.ended() == 0
        callee.wait_for("ended", confirmed=True)
    caller.wait_for("established")
    assert tone_seconds(tmp_path / "alice.wav", TONES["bob"]) >= 0.4
    assert tone_seconds(tmp_path / "bob.wav", TONES["alice"]) >= 0.4


def test_messages_over_data_channels(stack: Stack, tmp_path: Path) -> None:
    channels = ("--channel", "0:http", "--channel", "1000:mychat")
    with ue("bob", stack, tmp_path, *channels, "--say", "I am bob") as callee:
        callee.wait_for("registered")
        call = ("--call", f"sip:bob@{DOMAIN}", "--say", "I am alice")
        with ue("alice", stack, tmp_path, *channels, *call) as caller:
            for channel in (0, 1000):
                caller.wait_for("message", channel=channel, text="I am bob")
                callee.wait_for("message", channel=channel, text="I am alice")
            assert caller.stop() == 0
        callee.wait_for("ended", confirmed=True)


def test_a_phone_that_knows_no_dtls_refuses_and_the_caller_says_so(stack: Stack, tmp_path: Path) -> None:
    account = ("--user", "carol", "--password", stack.password, "--registrar", stack.lab_uri)
    with Ue(*account, "--port", BASE_PORT + 40, "--rtp-port", BASE_PORT + 42) as callee:
        callee.wait_for("registered")
        with ue("alice", stack, tmp_path, "--call", f"sip:carol@{DOMAIN}") as caller:
            assert caller.ended() == 1
    ended = [event for event in caller.events if event["event"] in ("ended", "refused")]
    assert [event["code"] in (406, 488) for event in ended] == [True]


def test_events_are_lines_for_people_too(stack: Stack, tmp_path: Path) -> None:
    command = (sys.executable, "-m", "cli.main", "rtcue", "--user", "bob", "--password", stack.password)
    with subprocess.Popen(
        [*command, "--registrar", stack.lab_uri], stdout=subprocess.PIPE, text=True
    ) as callee:
        assert callee.stdout is not None
        said = [callee.stdout.readline(), callee.stdout.readline()]
        with ue("alice", stack, tmp_path, "--call", f"sip:bob@{DOMAIN}", "--duration", 0.1) as caller:
            assert caller.ended() == 0
        callee.terminate()
        said += callee.stdout.readlines()
    assert [line.split()[1] for line in said] == [
        "ready",
        "registered",
        "incoming",
        "media",
        "established",
        "ended",
    ]
