"""A browser behind the proxy, over secure WebSocket: its calls with phones that know RTP only or SDES, in
both directions; what is heard at both ends; hold, resume, mute, an ICE restart."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.page import Page
from cli.stack import DOMAIN, HOST, Stack
from cli.tone import tone_seconds
from tests.interop.ue_process import Ue
from tests.interop.webphone import WebPhone
from tests.interop.wire import Capture, Kind, classify, tone_in, tone_share
from tests.system.calls import audio
from tests.system.sipp import Sipp
from tests.transport.certificates import Authority

BASE_PORT = 28100
WEB, PAGE, DRIVER, ECHO = (BASE_PORT + offset for offset in (6, 8, 10, 12))
SOFTPHONE = BASE_PORT + 40
MEDIA_PORTS = 100  # of each side of the gateway
TONE, SOFTPHONE_TONE = 1000, 440
TABLES = """
[[access]]
name = "web"
listen = "{host}:{port}"
transports = ["WSS"]
path = "/sip"
cert = "{files.cert}"
key = "{files.key}"
type = "webrtc"
"""


@pytest.fixture(scope="module")
def _stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stack, str]]:
    files = Authority(tmp_path_factory.mktemp("certificates")).sign("edge", HOST)
    tables = TABLES.format(host=HOST, port=WEB, files=files)
    routes = {"echo": f"sip:{HOST}:{ECHO}"}
    with Stack(BASE_PORT, tables=tables, routes=routes, media_ports=MEDIA_PORTS, log_level="debug") as stack:
        yield stack, files.cert
        stack.check()


@pytest.fixture(scope="module")
def _browser(_stack: tuple[Stack, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebPhone]:
    stack, certificate = _stack
    server, sounds = f"wss://{HOST}:{WEB}/sip", tmp_path_factory.mktemp("sounds")
    with (
        Page(HOST, PAGE, {}) as page,
        WebPhone(DRIVER, sounds, user="alice", tone=TONE, server=server, trusted=certificate) as browser,
    ):
        browser.register(page.url, stack.password)
        yield browser


@pytest.fixture
def stack(_stack: tuple[Stack, str]) -> Iterator[Stack]:
    """Nothing of a call is left in the gateway; the proxy's log is printed, for a test that fails."""
    stack, _ = _stack
    yield stack
    print("-- proxy", *stack.log("proxy")[-60:], sep="\n")
    print("-- gateway", *stack.log("gateway")[-60:], sep="\n")


@pytest.fixture
def browser(_browser: WebPhone, request: pytest.FixtureRequest) -> Iterator[WebPhone]:
    """Registered as alice. How it looks at the end of a test is kept."""
    yield _browser
    _browser.keep_picture(request.node.name)
    print("-- browser", *_browser.run("phone.log.slice(-20)"), *_browser.console(), sep="\n")


@pytest.fixture(params=["balanced", "max-bundle"])
def bundling(browser: WebPhone, request: pytest.FixtureRequest) -> Iterator[None]:
    """What the browser asks of transports: under max-bundle it takes nothing without a BUNDLE group."""
    browser.run("void(phone.bundlePolicy = args[0])", request.param)
    yield
    browser.run("void(phone.bundlePolicy = 'balanced')")


def softphone(stack: Stack, registrar: str, directory: Path, *options: object) -> Ue:
    sound = ("--tone", SOFTPHONE_TONE, "--record", directory / "bob.wav")
    ports = ("--port", SOFTPHONE, "--rtp-port", SOFTPHONE + 2)
    account = ("--user", "bob", "--password", stack.password, "--registrar", registrar)
    return Ue(*account, *ports, *sound, *options)


def treatments(stack: Stack) -> list[str]:
    """Of all calls there are."""
    return sorted(" ".join(call["treatments"]) for call in stack.status()["calls"])


def assert_nothing_left(stack: Stack, browser: WebPhone) -> None:
    """JsSIP says that a call has ended when its BYE leaves, so the rest is waited for."""
    browser.wait_for_call("ended")
    deadline = time.monotonic() + 3.0
    while left := [*stack.status()["calls"], *stack.audit().contexts]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)
    assert not any(used for used, _, _ in stack.audit().ports.values())


@pytest.mark.usefixtures("bundling")
def test_a_browser_calls_a_plain_softphone(stack: Stack, browser: WebPhone, tmp_path: Path) -> None:
    with softphone(stack, stack.lab_uri, tmp_path) as callee:
        callee.wait_for("registered")
        browser.do("dial", "bob")
        browser.wait_for_tone(SOFTPHONE_TONE)
        assert treatments(stack) == ["e2ae-dtls-srtp"]
        before = browser.stats()
        assert (before["dtls"], before["tls"], before["srtp"]) == (
            "connected",
            "FEFD",
            "SRTP_AEAD_AES_256_GCM",
        )
        assert "GCM" in before["cipher"]

        browser.do("hold")
        callee.wait_for("media", direction="recvonly")
        browser.wait_for_silence()
        browser.do("resume")
        browser.wait_for_tone(SOFTPHONE_TONE)

        browser.do("restartIce")
        browser.wait_until("phone.stats().then((stats) => stats.ufrag !== args[0])", before["ufrag"])
        browser.wait_until("phone.session.connection.iceConnectionState === 'connected'")
        browser.wait_for_tone(SOFTPHONE_TONE)
        browser.keep_picture("a-browser-talks-after-an-ICE-restart")
        browser.wait_for_packets(20)
        assert browser.stats()["dtls"] == "connected"

        browser.do("mute")
        browser.do("unmute")
        browser.do("hangUp")
        callee.wait_for("ended", code=200, confirmed=True)
        assert_nothing_left(stack, browser)
    assert tone_seconds(tmp_path / "bob.wav", TONE) >= 0.5


@pytest.mark.skipif(os.geteuid() != 0, reason="a capture needs root")
def test_what_a_browser_says_is_noise_on_its_own_side(
    stack: Stack, browser: WebPhone, tmp_path: Path
) -> None:
    with softphone(stack, stack.lab_uri, tmp_path) as callee:
        callee.wait_for("registered")
        with Capture(range(stack.access_media.start, stack.access_media.stop + MEDIA_PORTS)) as capture:
            browser.do("dial", "bob")
            browser.wait_for_tone(SOFTPHONE_TONE)
            time.sleep(1.0)
            browser.do("hangUp")
            seen = capture.drain()
    assert_nothing_left(stack, browser)
    rtp = [packet for packet in seen if classify(packet.payload) is Kind.RTP]
    access = [packet.payload for packet in rtp if packet.destination[1] in stack.access_media]
    core = [packet.payload for packet in rtp if packet.destination[1] == SOFTPHONE + 2]
    assert tone_in(core, TONE) > 0.3
    assert len(access) > 20
    assert tone_share(access, TONE) < 0.1


@pytest.mark.parametrize(
    ("through", "options", "treated"),
    [
        ("lab_uri", (), ["e2ae-dtls-srtp"]),
        ("access_uri", (), ["e2ae-dtls-srtp", "plain"]),
        ("access_uri", ("--e2ae",), ["e2ae-dtls-srtp", "e2ae-sdes"]),
    ],
    ids=["from the core", "from behind the proxy", "under SDES"],
)
def test_a_softphone_calls_a_browser(
    stack: Stack,
    browser: WebPhone,
    tmp_path: Path,
    through: str,
    options: tuple[str, ...],
    treated: list[str],
) -> None:
    calling = ("--call", f"sip:alice@{DOMAIN}", "--duration", 3, *options)
    with softphone(stack, getattr(stack, through), tmp_path, *calling) as caller:
        browser.wait_for_call("ringing")
        browser.do("answer")
        browser.wait_for_tone(SOFTPHONE_TONE)
        assert treatments(stack) == treated
        assert caller.ended() == 0
    assert_nothing_left(stack, browser)
    assert tone_seconds(tmp_path / "bob.wav", TONE) >= 0.8


@pytest.mark.usefixtures("bundling")
@pytest.mark.parametrize("called", [False, True], ids=["calls", "is called"])
def test_a_softphone_holds_a_browser_and_comes_back(
    stack: Stack, browser: WebPhone, tmp_path: Path, called: bool
) -> None:
    calling = () if called else ("--call", f"sip:alice@{DOMAIN}")
    with softphone(stack, stack.lab_uri, tmp_path, *calling, "--duration", 5, "--hold-after", 1.6) as peer:
        if called:
            peer.wait_for("registered")
            browser.do("dial", "bob")
        else:
            browser.wait_for_call("ringing")
            browser.do("answer")
        browser.wait_for_tone(SOFTPHONE_TONE)
        browser.wait_for_call("held by the peer")
        browser.wait_for_silence()
        browser.wait_for_call("talking")
        browser.wait_for_tone(SOFTPHONE_TONE)
        peer.wait_for("ended", confirmed=True)
    assert_nothing_left(stack, browser)


def test_a_sipp_peer_echoes_what_the_browser_says(stack: Stack, browser: WebPhone, tmp_path: Path) -> None:
    answer = audio(port=ECHO + 2)
    with Sipp(tmp_path, "call_uas", port=ECHO, echo=True, answer=answer) as peer:
        browser.do("dial", "echo")
        browser.wait_for_tone(TONE)
        assert treatments(stack) == ["e2ae-dtls-srtp"]
        browser.do("hangUp")
        peer.finish()
    assert_nothing_left(stack, browser)


def test_a_call_that_is_refused_or_given_up_leaves_nothing(
    stack: Stack, browser: WebPhone, tmp_path: Path
) -> None:
    with softphone(stack, stack.lab_uri, tmp_path, "--no-answer") as callee:
        callee.wait_for("registered")
        browser.begin("dial", "bob")
        callee.wait_for("incoming")
        browser.wait_for_call("ringing")
        browser.do("hangUp")
        callee.wait_for("ended", confirmed=False)
        assert_nothing_left(stack, browser)
    with softphone(stack, stack.lab_uri, tmp_path, "--call", f"sip:alice@{DOMAIN}") as caller:
        browser.wait_for_call("ringing")
        browser.do("hangUp")
        assert caller.ended() == 1
    assert caller.wait_for("ended")["code"] == 480
    assert_nothing_left(stack, browser)
