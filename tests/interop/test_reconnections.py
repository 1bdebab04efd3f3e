"""Phones whose connection to the proxy breaks in the middle of a call: they register again over another one
by themselves, and what the core then says in their call reaches them there (RFC 5626)."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from cli.page import Page
from cli.stack import DOMAIN, HOST, Stack
from cli.tone import tone_seconds
from tests.interop.cable import Cable
from tests.interop.ue_process import Ue
from tests.interop.webphone import WebPhone
from tests.interop.wire import tone_in
from tests.system.calls import audio
from tests.system.sipp import GAP, Sipp, requests
from tests.transport.certificates import Authority

BASE_PORT = 28400
TLS, WEB, PAGE, DRIVER, CORE, MOVED = (BASE_PORT + offset for offset in (6, 8, 10, 12, 14, 30))
ONWARD = {"tcp": BASE_PORT, "tls": TLS, "wss": WEB}
CABLES = {transport: port + 20 for transport, port in ONWARD.items()}
SOFTPHONE = BASE_PORT + 40
TONE, PEER_TONE = 1000, 440
REGISTERED = 30.0  # seconds in which a phone must have found back; JsSIP waits for two or four first
HEARD = 1.0  # seconds of a tone
PATIENCE = 90  # seconds that SIPp waits in all
TABLES = """
[[access]]
name = "tls"
listen = "{host}:{tls}"
transports = ["TLS"]
cert = "{files.cert}"
key = "{files.key}"
mechanisms = ["sdes-srtp"]

[[access]]
name = "web"
listen = "{host}:{web}"
transports = ["WSS"]
cert = "{files.cert}"
key = "{files.key}"
type = "webrtc"
"""
BOTH, PHONE = "both ends see it", "only the phone sees it"
CALLS, IS_CALLED = "calls", "is called"


class Echo:
    """A context manager: what comes to a UDP port goes back to where it came from."""

    def __init__(self, port: int) -> None:
        self.heard: list[bytes] = []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((HOST, port))
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Echo:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()

    def wait_for_tone(self, hz: int, seconds: float = 10.0) -> None:
        deadline = time.monotonic() + seconds
        while tone_in(list(self.heard), hz) < HEARD:
            assert time.monotonic() < deadline, f"{len(self.heard)} packets, and no {hz} Hz in them"
            time.sleep(0.1)

    def _serve(self) -> None:
        while True:
            data, peer = self._socket.recvfrom(2048)
            if not data:
                return
            self.heard.append(data)
            self._socket.sendto(data, peer)


@pytest.fixture(scope="module")
def _stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stack, str]]:
    files = Authority(tmp_path_factory.mktemp("certificates")).sign("edge", HOST)
    tables = TABLES.format(host=HOST, tls=TLS, web=WEB, files=files)
    routes = {"core": f"sip:{HOST}:{CORE}"}
    with Stack(BASE_PORT, tables=tables, routes=routes, media_ports=40, log_level="debug") as stack:
        yield stack, files.cert
        stack.check()


@pytest.fixture
def stack(_stack: tuple[Stack, str]) -> Iterator[Stack]:
    """When a test is over nobody is registered, and nothing is left of its call."""
    stack, _ = _stack
    yield stack
    for name in ("proxy", "gateway"):
        print(f"-- {name}", *stack.log(name)[-60:], sep="\n")
    deadline = time.monotonic() + 5.0
    while left := [*stack.status()["registrations"], *stack.status()["calls"], *stack.audit().contexts]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


@pytest.fixture(scope="module")
def _browser(_stack: tuple[Stack, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebPhone]:
    _, certificate = _stack
    server, sounds = f"wss://{HOST}:{CABLES['wss']}/", tmp_path_factory.mktemp("sounds")
    with WebPhone(DRIVER, sounds, user="alice", tone=TONE, server=server, trusted=certificate) as browser:
        yield browser


@pytest.fixture
def cable() -> Iterator[Cable]:
    """To where browsers go."""
    with Cable(CABLES["wss"], ONWARD["wss"]) as cable:
        yield cable


@pytest.fixture
def browser(
    stack: Stack, cable: Cable, _browser: WebPhone, request: pytest.FixtureRequest
) -> Iterator[WebPhone]:
    """Registered as alice, over the cable."""
    with Page(HOST, PAGE, {}) as page:
        _browser.register(page.url, stack.password)
        yield _browser
        _browser.keep_picture(request.node.name)
        print("-- browser", *_browser.run("phone.log.slice(-20)"), *_browser.console(), sep="\n")
        _browser.run("phone.unregister()")
        _browser.wait_until("phone.registration === 'not registered'")


@contextmanager
def core(stack: Stack, directory: Path, who: str) -> Iterator[Sipp]:
    """SIPp in the core, for a phone that calls or is called. Told to go on, it wants the media at MOVED."""
    first, moved, last = (
        audio(port=port, version=version) for port, version in ((CORE + 2, 1), (MOVED, 2), (MOVED, 3))
    )
    if who == CALLS:
        run = Sipp(directory, "moved_uas", port=CORE, answer=first, moved=moved, gap=GAP, seconds=PATIENCE)
    else:
        run = Sipp(
            directory,
            "reinvite_uac",
            remote=stack.lab_port,
            ruri=f"sip:alice@{DOMAIN}",
            route=f"<sip:{HOST}:{stack.lab_port};lr>",
            offer=first,
            hold=moved,
            resume=last,
            gap=GAP,
            seconds=PATIENCE,
        )
    with run:
        yield run


def hang_up(peer: Sipp, who: str) -> None:
    """Whom it has called it offers the same once more before."""
    peer.go_on()
    if who == IS_CALLED:
        deadline = time.monotonic() + 10.0
        while len(requests(peer.traced(), "ACK", sent=True)) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        peer.go_on()
    peer.finish()


def break_off(stack: Stack, cable: Cable, seen_by: str) -> None:
    """The phone's connection breaks; returns when it has registered over another one."""
    before = len(cable.ports)
    cable.cut(here_only=seen_by == PHONE)
    deadline = time.monotonic() + REGISTERED
    while not any(flow_of(stack).endswith(f" {HOST}:{port}") for port in cable.ports[before:]):
        assert time.monotonic() < deadline, stack.status()["registrations"]
        time.sleep(0.05)


def flow_of(stack: Stack) -> str:
    """Of the one phone that is registered."""
    (registration,) = stack.status()["registrations"]
    return str(registration["flow"])


@pytest.mark.parametrize(
    ("transport", "who", "seen_by"),
    [
        ("tcp", CALLS, BOTH),
        ("tcp", IS_CALLED, PHONE),
        ("tls", CALLS, PHONE),
        ("tls", IS_CALLED, BOTH),
    ],
)
def test_a_softphone_is_reached_over_its_new_connection(
    stack: Stack, tmp_path: Path, transport: str, who: str, seen_by: str
) -> None:
    """PJSIP gives up its Contact for one with another port, and has no instance where the registrar does not
    know RFC 5626."""
    account = ("--user", "alice", "--password", stack.password, "--e2ae")
    way = ("--registrar", f"sip:{HOST}:{CABLES[transport]}", "--transport", transport)
    sound = ("--tone", TONE, "--record", tmp_path / "alice.wav", "--rtp-port", SOFTPHONE)
    with ExitStack() as running:
        cable = running.enter_context(Cable(CABLES[transport], ONWARD[transport]))
        echo = running.enter_context(Echo(MOVED))
        if who == CALLS:
            peer = running.enter_context(core(stack, tmp_path, who))
            phone = running.enter_context(Ue(*account, *way, *sound, "--call", f"sip:core@{DOMAIN}"))
        else:
            phone = running.enter_context(Ue(*account, *way, *sound))
            phone.wait_for("registered")
            peer = running.enter_context(core(stack, tmp_path, who))
        phone.wait_for("call", state="CONFIRMED")
        if who == CALLS:
            peer.wait_for("ACK")
        break_off(stack, cable, seen_by)
        peer.go_on()
        echo.wait_for_tone(TONE)
        hang_up(peer, who)
        phone.wait_for("ended", code=200, confirmed=True)
    assert tone_seconds(tmp_path / "alice.wav", TONE) >= 0.4  # from the echo


@pytest.mark.parametrize(("who", "seen_by"), [(CALLS, PHONE), (IS_CALLED, BOTH)])
def test_a_browser_is_reached_over_its_new_connection(
    stack: Stack, cable: Cable, browser: WebPhone, tmp_path: Path, who: str, seen_by: str
) -> None:
    """JsSIP keeps its Contact, its instance and its reg-id."""
    with Echo(MOVED) as echo, core(stack, tmp_path, who) as peer:
        if who == CALLS:
            browser.do("dial", "core")
            peer.wait_for("ACK")
        else:
            browser.wait_for_call("ringing")
            browser.do("answer")
        break_off(stack, cable, seen_by)
        peer.go_on()
        echo.wait_for_tone(TONE)
        browser.wait_for_tone(TONE)
        hang_up(peer, who)
        browser.wait_for_call("ended")


def test_a_browser_restarts_ice_when_it_is_back_and_is_hung_up(
    stack: Stack, cable: Cable, browser: WebPhone, tmp_path: Path
) -> None:
    """As a phone does that has changed its network; all of it takes the new connection."""
    account = ("--user", "bob", "--password", stack.password, "--no-register", "--registrar", stack.lab_uri)
    sound = ("--tone", PEER_TONE, "--rtp-port", SOFTPHONE)
    with Ue(*account, *sound, "--call", f"sip:alice@{DOMAIN}") as caller:
        browser.wait_for_call("ringing")
        browser.do("answer")
        browser.wait_for_tone(PEER_TONE)
        break_off(stack, cable, BOTH)
        before = browser.stats()["ufrag"]
        browser.do("restartIce")
        browser.wait_until("phone.stats().then((stats) => stats.ufrag !== args[0])", before)
        browser.wait_for_tone(PEER_TONE)
        caller.stop()
        browser.wait_for_call("ended")
