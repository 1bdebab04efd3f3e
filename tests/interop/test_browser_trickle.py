"""A browser whose descriptions leave before it has candidates, and that sends none later (RFC 8840): its data
channel with aiortc in the core is end to end, by the one candidate that is the gateway's."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest

from cli.page import Page
from cli.stack import DOMAIN, HOST, Stack
from tests.interop.ue_process import Ue
from tests.interop.webphone import WebPhone

BASE_PORT = 28500
WEB, PAGE, DRIVER = BASE_PORT + 6, BASE_PORT + 8, BASE_PORT + 10
MEDIA_PORTS = 40  # of each side of the gateway
TABLES = f"""
[[access]]
name = "web"
listen = "{HOST}:{WEB}"
transports = ["WS"]
"""
HERS, HIS = "what alice says to nobody else", "what bob answers to her"
# A channel that both ends know of (RFC 8864), in whatever session comes next.
CHANNEL = """void(phone.ua.once('newRTCSession', ({session}) => {
    window.heard = [];
    const open = (connection) => {
        const channel = connection.createDataChannel('', {negotiated: true, id: 1000, protocol: 'mychat'});
        channel.onmessage = ({data}) => window.heard.push(data);
        channel.onopen = () => channel.send(args[0]);
    };
    if (session.connection) open(session.connection);
    else session.once('peerconnection', ({peerconnection}) => open(peerconnection));
}))"""
NO_MEDIA = "{mediaConstraints: {audio: false, video: false}, pcConfig: {iceServers: []}}"


@pytest.fixture(scope="module")
def _stack() -> Iterator[Stack]:
    with Stack(BASE_PORT, tables=TABLES, media_ports=MEDIA_PORTS, log_level="debug") as stack:
        yield stack
        stack.check()


@pytest.fixture
def stack(_stack: Stack) -> Iterator[Stack]:
    yield _stack
    for name in ("proxy", "gateway"):
        print(f"-- {name}", *_stack.log(name)[-60:], sep="\n")
    deadline = time.monotonic() + 5.0
    while left := [*_stack.status()["calls"], *_stack.audit().contexts]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


@pytest.fixture(scope="module")
def _browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebPhone]:
    sounds = tmp_path_factory.mktemp("sounds")
    with WebPhone(DRIVER, sounds, user="alice", tone=1000, server=f"ws://{HOST}:{WEB}/") as browser:
        yield browser


@pytest.fixture
def browser(stack: Stack, _browser: WebPhone) -> Iterator[WebPhone]:
    """Registered as alice; of a description that it sends, all candidates are to come."""
    with Page(HOST, PAGE, {}) as page:
        _browser.register(page.url, stack.password)
        _browser.hurry()
        _browser.run(CHANNEL, HERS)
        yield _browser
        print("-- browser", *_browser.run("phone.log.slice(-20)"), *_browser.console(), sep="\n")


@pytest.mark.parametrize("called", [False, True], ids=["calls", "is called"])
def test_a_data_channel_connects_through_our_candidate(stack: Stack, browser: WebPhone, called: bool) -> None:
    account = ("--user", "bob", "--password", stack.password, "--registrar", stack.lab_uri)
    talk = ("--ice", "--channel", "1000:mychat", "--say", HIS)
    calling = ("--call", f"sip:alice@{DOMAIN}") if called else ()
    with Ue(*account, *talk, *calling, command="rtcue") as peer:
        peer.wait_for("registered")
        if called:
            browser.wait_for_call("ringing")
            browser.run(f"void(phone.session.answer({NO_MEDIA}))")
        else:
            browser.run(f"void(phone.ua.call(args[0], {NO_MEDIA}))", f"sip:bob@{DOMAIN}")
        peer.wait_for("message", channel=1000, text=HERS, seconds=20.0)
        browser.wait_until("window.heard.includes(args[0])", HIS)
        (call,) = stack.status()["calls"]
        assert call["treatments"] == ["e2e"]
        (said,) = browser.run("window.said")
        assert "m=application 9 " in said
        assert "c=IN IP4 0.0.0.0" in said
        assert "a=ice-options:trickle" in said
        assert "a=candidate" not in said
        browser.do("hangUp")
        peer.wait_for("ended")
    if not called:
        offer = peer.wait_for("incoming")["sdp"]
        assert "trickle" not in offer
        (ours,) = re.findall(rf"a=candidate:1 1 UDP [0-9]+ {HOST} ([0-9]+) typ host", offer)
        core_media = stack.access_media.stop
        assert int(ours) in range(core_media, core_media + MEDIA_PORTS)
