"""The lab core as a process, with real phones registered directly at it."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.tone import tone_seconds
from tests.interop.ue_process import Ue

PORT = 17904
LAB = ("--registrar", f"sip:127.0.0.1:{PORT}", "--password", "lab")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[bytes]]:
    directory = tmp_path_factory.mktemp("lab")
    (directory / "lab.toml").write_text(f'listen = "127.0.0.1:{PORT}"\nstatus = "{directory}/lab.sock"\n')
    process = subprocess.Popen([sys.executable, "-m", "imsalg.lab.server", directory / "lab.toml"])
    deadline = time.monotonic() + 30
    while not (directory / "lab.sock").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    yield process
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert not (directory / "lab.sock").exists()


@pytest.mark.parametrize(("transport", "other"), [("udp", "udp"), ("tcp", "tcp"), ("udp", "tcp")])
def test_two_phones_register_and_hear_each_other(
    lab: object, tmp_path: Path, transport: str, other: str
) -> None:
    bob = ("--user", "bob", "--rtp-port", 17920, "--tone", 440, "--record", tmp_path / "bob.wav")
    alice = ("--user", "alice", "--rtp-port", 17940, "--tone", 1000, "--record", tmp_path / "alice.wav")
    call = ("--call", "sip:bob@ims.test", "--duration", 2)
    with Ue(*bob, *LAB, "--transport", other) as callee:
        callee.wait_for("registered")
        with Ue(*alice, *LAB, "--transport", transport, *call) as caller:
            assert caller.ended() == 0
        assert callee.wait_for("ended", confirmed=True)
    assert tone_seconds(tmp_path / "bob.wav", 1000) >= 1.0
    assert tone_seconds(tmp_path / "alice.wav", 440) >= 1.0


def test_a_wrong_password_is_refused(lab: object) -> None:
    options = ("--registrar", f"sip:127.0.0.1:{PORT}", "--password", "guess")
    with Ue("--user", "eve", *options) as eve:
        assert eve.wait_for("refused")["code"] == 403
        assert eve.ended() == 1


def test_calls_to_nobody_and_hanging_up_while_it_rings(lab: object) -> None:
    with Ue("--user", "alice", *LAB, "--call", "sip:nobody@ims.test") as caller:
        assert caller.ended() == 1
        assert caller.wait_for("ended")["code"] == 404
    with Ue("--user", "carol", *LAB, "--no-answer") as callee:
        callee.wait_for("registered")
        with Ue("--user", "alice", *LAB, "--call", "sip:carol@ims.test", "--for", 1.5):
            callee.wait_for("incoming")
            assert callee.wait_for("ended")["confirmed"] is False


def test_a_taken_port_is_said(lab: object, tmp_path: Path) -> None:
    (tmp_path / "lab.toml").write_text(f'listen = "127.0.0.1:{PORT}"\n')
    command = [sys.executable, "-m", "imsalg.lab.server", tmp_path / "lab.toml"]
    second = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert second.returncode == 1
    assert f"127.0.0.1:{PORT}" in second.stderr


def test_garbage_is_survived(lab: subprocess.Popen[bytes]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        for data in (b"\0" * 100, b"INVITE\r\n\r\n", b"SIP/2.0 200 OK\r\n\r\n", b"x" * 60000):
            peer.sendto(data, ("127.0.0.1", PORT))
        options = (
            "OPTIONS sip:ims.test SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1;branch=z9hG4bK1;rport\r\n"
            "From: <sip:a@b>;tag=1\r\nTo: <sip:ims.test>\r\nCall-ID: x\r\nCSeq: 1 OPTIONS\r\n\r\n"
        )
        peer.settimeout(5)
        peer.sendto(options.encode(), ("127.0.0.1", PORT))
        while not (answer := peer.recv(65535)).startswith(b"SIP/2.0 200"):
            assert answer.startswith(b"SIP/2.0 4")
    assert lab.poll() is None
