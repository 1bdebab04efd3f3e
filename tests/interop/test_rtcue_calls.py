"""aiortc as UE of every kind through the proxy and its gateway: DTLS-SRTP that ends there, of an IMS UE over
UDP and as a browser over WSS, with every setup; DTLS-SRTP and data channels that only pass."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.stack import DOMAIN, HOST, Stack
from cli.tone import tone_seconds
from tests.interop.ue_process import Ue
from tests.interop.wire import Capture, Kind, classify
from tests.system.world import wait_until
from tests.transport.certificates import Authority

BASE_PORT = 28700
WEB, SOFTPHONE = BASE_PORT + 6, BASE_PORT + 40
TONES = {"alice": 1000, "bob": 440}
TABLES = """
[[access]]
name = "web"
listen = "{host}:{port}"
transports = ["WSS"]
cert = "{files.cert}"
key = "{files.key}"
type = "webrtc"
"""
IMS, BROWSER = "IMS UE", "browser"
BOTH = pytest.mark.parametrize("kind", [IMS, BROWSER])


@pytest.fixture(scope="module")
def _stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stack, Authority]]:
    authority = Authority(tmp_path_factory.mktemp("certificates"))
    tables = TABLES.format(host=HOST, port=WEB, files=authority.sign("edge", HOST))
    mechanisms = ("sdes-srtp", "dtls-srtp")
    with Stack(BASE_PORT, mechanisms=mechanisms, tables=tables, media_ports=100, log_level="debug") as stack:
        yield stack, authority
        stack.check()


@pytest.fixture
def stack(_stack: tuple[Stack, Authority]) -> Iterator[Stack]:
    stack, _ = _stack
    yield stack
    print("-- proxy", *stack.log("proxy")[-60:], sep="\n")
    print("-- gateway", *stack.log("gateway")[-60:], sep="\n")
    wait_until(lambda: not stack.status()["calls"] and not stack.audit().contexts)


@pytest.fixture
def ca(_stack: tuple[Stack, Authority]) -> Path:
    return _stack[1].ca


def ue(user: str, stack: Stack, directory: Path, *options: object, registrar: str | None = None) -> Ue:
    """One of the access side, if no other registrar is named."""
    account = ("--user", user, "--password", stack.password, "--registrar", registrar or stack.access_uri)
    sound = ("--tone", TONES[user], "--record", directory / f"{user}.wav")
    running = Ue(*account, *sound, *options, command="rtcue")
    running.wait_for("registered")
    return running


def alice(kind: str, stack: Stack, directory: Path, ca: Path, *options: object) -> Ue:
    """Her media are protected as far as the gateway."""
    if kind == IMS:
        return ue("alice", stack, directory, "--e2ae", *options)
    return ue("alice", stack, directory, "--ice", "--ca", ca, *options, registrar=f"wss://{HOST}:{WEB}/")


def softphone(stack: Stack, directory: Path, *options: object) -> Ue:
    """bob, who knows RTP only and no proxy."""
    account = ("--user", "bob", "--password", stack.password, "--registrar", stack.lab_uri)
    sound = ("--tone", TONES["bob"], "--record", directory / "bob.wav")
    running = Ue(*account, *sound, "--port", SOFTPHONE, "--rtp-port", SOFTPHONE + 2, *options)
    running.wait_for("registered")
    return running


def assert_both_heard(directory: Path, seconds: float = 0.4) -> None:
    assert tone_seconds(directory / "bob.wav", TONES["alice"]) >= seconds
    assert tone_seconds(directory / "alice.wav", TONES["bob"]) >= seconds


def treatments(stack: Stack) -> list[str]:
    return sorted(" ".join(call["treatments"]) for call in stack.status()["calls"])


@BOTH
@pytest.mark.parametrize("setup", ["actpass", "active", "passive"])
def test_a_call_to_a_plain_phone_whoever_opens_dtls(
    stack: Stack, ca: Path, tmp_path: Path, kind: str, setup: str
) -> None:
    call = ("--setup", setup, "--call", f"sip:bob@{DOMAIN}", "--duration", 1.6, "--reoffer-after", 0.4)
    with softphone(stack, tmp_path) as callee:
        with alice(kind, stack, tmp_path, ca, *call) as caller:
            caller.wait_for("established")
            assert treatments(stack) == ["e2ae-dtls-srtp"]
            assert caller.ended() == 0
        callee.wait_for("ended", confirmed=True)
    caller.wait_for("reoffered")
    assert_both_heard(tmp_path)


@BOTH
@pytest.mark.parametrize("setup", ["active", "passive"])
def test_a_call_of_a_plain_phone_whoever_opens_dtls(
    stack: Stack, ca: Path, tmp_path: Path, kind: str, setup: str
) -> None:
    with alice(kind, stack, tmp_path, ca, "--setup", setup) as callee:
        with softphone(stack, tmp_path, "--call", f"sip:alice@{DOMAIN}", "--duration", 2.2) as caller:
            callee.wait_for("established")
            assert treatments(stack) == ["e2ae-dtls-srtp"]
            assert caller.ended() == 0
        offer = callee.wait_for("incoming")["sdp"]
        callee.wait_for("ended", confirmed=True)
    assert "a=setup:actpass" in offer
    assert "a=ice-lite" in offer or kind == IMS
    assert_both_heard(tmp_path)


def test_two_kinds_of_dtls_on_the_two_sides_of_one_call(stack: Stack, ca: Path, tmp_path: Path) -> None:
    """Each ends in the gateway, in two calls behind one proxy."""
    with ue("bob", stack, tmp_path, "--e2ae") as callee:
        with alice(BROWSER, stack, tmp_path, ca, "--call", f"sip:bob@{DOMAIN}", "--duration", 1.9) as caller:
            callee.wait_for("established")
            assert treatments(stack) == ["e2ae-dtls-srtp", "e2ae-dtls-srtp"]
            assert caller.ended() == 0
        callee.wait_for("ended", confirmed=True)
    assert_both_heard(tmp_path)


def test_dtls_srtp_end_to_end_passes_untouched(stack: Stack, tmp_path: Path) -> None:
    with ue("bob", stack, tmp_path) as callee:
        call = ("--call", f"sip:bob@{DOMAIN}", "--duration", 1.9)
        with ue("alice", stack, tmp_path, *call) as caller:
            callee.wait_for("established")
            assert treatments(stack) == ["e2e", "e2e"]
            assert caller.ended() == 0
        callee.wait_for("ended", confirmed=True)
    assert_both_heard(tmp_path)


CHANNELS = ("--channel", "1000:mychat")
BOOTSTRAP = ("--channel", "0:http", "--channel", "10:http")
SECRETS = {"alice": "what alice says to nobody else", "bob": "what bob answers to her"}


@pytest.mark.skipif(os.geteuid() != 0, reason="a capture needs root")
def test_data_channels_end_to_end_are_ciphertext_to_the_gateway(stack: Stack, tmp_path: Path) -> None:
    with (
        Capture(stack.access_media) as capture,
        ue("bob", stack, tmp_path, *CHANNELS, "--say", SECRETS["bob"]) as callee,
    ):
        call = ("--call", f"sip:bob@{DOMAIN}", "--say", SECRETS["alice"])
        with ue("alice", stack, tmp_path, *CHANNELS, *call) as caller:
            caller.wait_for("message", channel=1000, text=SECRETS["bob"])
            callee.wait_for("message", channel=1000, text=SECRETS["alice"])
            assert treatments(stack) == ["e2e", "e2e"]
            assert caller.stop() == 0
        offer = callee.wait_for("incoming")["sdp"]
        callee.wait_for("ended", confirmed=True)
    assert 'a=dcmap:1000 subprotocol="mychat"\r\n' in offer
    assert_only_ciphertext(capture)


@pytest.mark.skipif(os.geteuid() != 0, reason="a capture needs root")
@pytest.mark.parametrize("called", [False, True], ids=["calls", "is called"])
def test_bootstrap_channels_of_a_dcmtsi_client_end_in_the_media_function(
    stack: Stack, tmp_path: Path, called: bool
) -> None:
    """bob plays the DCMF, in the core. What he is offered, and what he answers, is the UE's own DTLS."""
    first = ("alice", stack.access_uri, "--dcmtsi"), ("bob", stack.lab_uri)
    (callee_is, callee_at, *its), (caller_is, caller_at, *theirs) = first if called else first[::-1]
    with (
        Capture(stack.access_media) as capture,
        ue(
            callee_is, stack, tmp_path, *BOOTSTRAP, *its, "--say", SECRETS[callee_is], registrar=callee_at
        ) as callee,
    ):
        call = ("--call", f"sip:{callee_is}@{DOMAIN}", "--say", SECRETS[caller_is])
        with ue(caller_is, stack, tmp_path, *BOOTSTRAP, *theirs, *call, registrar=caller_at) as caller:
            for channel in (0, 10):
                caller.wait_for("message", channel=channel, text=SECRETS[callee_is])
                callee.wait_for("message", channel=channel, text=SECRETS[caller_is])
            assert treatments(stack) == ["e2dce"]
            assert caller.stop() == 0
        offer = callee.wait_for("incoming")["sdp"]
        callee.wait_for("ended", confirmed=True)
    assert re.findall(r"a=dcmap:(\d+)", offer) == ["0", "10"]
    assert_only_ciphertext(capture)


def assert_only_ciphertext(capture: Capture) -> None:
    """Of the two ends' handshake something is seen, of what they say nothing."""
    seen = capture.drain()
    assert len(seen) > 10
    assert {classify(packet.payload) for packet in seen} == {Kind.DTLS}
    for text in SECRETS.values():
        assert not any(text.encode() in packet.payload for packet in seen)
