"""The web phone with another one: JsSIP over WebSocket through the proxy, what the two browsers agree on end
to end, and what each agrees on with the gateway."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from cli.page import Page
from cli.stack import DOMAIN, HOST, Stack
from tests.interop.browser import BrowserError
from tests.interop.webphone import WebPhone

BASE_PORT, LAB = 28000, 29000
WEB, PAGE, DRIVERS, PASSING = BASE_PORT + 6, BASE_PORT + 8, BASE_PORT + 10, BASE_PORT + 14
SERVER, PASSING_SERVER = f"ws://{HOST}:{WEB}/", f"ws://{HOST}:{PASSING}/"
TABLES = f"""
[[access]]
name = "web"
listen = "{HOST}:{WEB}"
transports = ["WS"]
type = "webrtc"

[[access]]
name = "passing"
listen = "{HOST}:{PASSING}"
transports = ["WS"]
"""


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with Stack(BASE_PORT, tables=TABLES, media_ports=100) as stack:
        yield stack
        stack.check()


@pytest.fixture(scope="module")
def page(stack: Stack) -> Iterator[Page]:
    account = {"server": SERVER, "user": "carol", "domain": DOMAIN, "password": stack.password}
    with Page(HOST, PAGE, account) as page:
        yield page


@pytest.fixture(scope="module")
def phones(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[WebPhone, WebPhone]]:
    sounds = tmp_path_factory.mktemp("sounds")
    with (
        WebPhone(DRIVERS, sounds, user="alice", tone=1000, server=SERVER) as alice,
        WebPhone(DRIVERS + 1, sounds, user="bob", tone=620, server=SERVER) as bob,
    ):
        yield alice, bob


@pytest.mark.parametrize("bundling", ["balanced", "max-bundle"])
@pytest.mark.parametrize(
    ("server", "treated", "hurried"),
    [
        (PASSING_SERVER, ["e2e", "e2e"], False),
        (PASSING_SERVER, ["e2e", "e2e"], True),
        (SERVER, ["e2ae-dtls-srtp", "e2ae-dtls-srtp"], False),
    ],
    ids=["end to end", "end to end, without candidates of their own", "as far as the gateway"],
)
def test_two_pages_call_each_other(
    stack: Stack,
    page: Page,
    phones: tuple[WebPhone, WebPhone],
    server: str,
    treated: list[str],
    hurried: bool,
    bundling: str,
) -> None:
    alice, bob = phones
    for phone in phones:
        phone.server = server
        phone.register(page.url, stack.password)
        phone.run("void(phone.bundlePolicy = args[0])", bundling)
        if hurried:
            phone.hurry()
    alice.begin("dial", "bob")
    bob.wait_for_call("ringing")
    bob.do("answer")
    alice.finish()
    alice.wait_for_tone(bob.tone)
    bob.wait_for_tone(alice.tone)
    assert [call["treatments"] for call in stack.status()["calls"]] == [[each] for each in treated]
    assert alice.stats()["codec"] == "audio/opus"
    if hurried:
        assert not any("a=candidate" in phone.run("window.said[0]") for phone in phones)
    alice.do("hold")
    bob.wait_for_call("held by the peer")
    bob.wait_for_silence()
    alice.do("resume")
    bob.wait_for_tone(alice.tone)
    bob.do("mute")
    alice.wait_for_silence()
    bob.do("unmute")
    before = alice.stats()
    alice.do("restartIce")
    alice.wait_until("phone.stats().then((stats) => stats.ufrag !== args[0])", before["ufrag"])
    alice.wait_for_tone(bob.tone)
    assert alice.stats()["dtls"] == "connected"
    bob.do("hangUp")
    alice.wait_for_call("ended")
    assert not [line for line in alice.console() + bob.console() if line.startswith("SEVERE")]


def test_a_wrong_password_is_told(page: Page, phones: tuple[WebPhone, WebPhone]) -> None:
    with pytest.raises(BrowserError, match="refused: Rejected"):
        phones[0].register(page.url, "wrong")


def test_the_lab_serves_the_page_and_its_form_needs_nothing_typed_in(
    phones: tuple[WebPhone, WebPhone],
) -> None:
    phone, _ = phones
    command = (sys.executable, "-m", "cli.main", "lab", "--json", "--base-port", str(LAB))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as lab:
        assert lab.stdout is not None
        phone.open(json.loads(lab.stdout.readline())["page"])
        phone.wait_until("element('password').value")
        phone.run("element('account').requestSubmit()")
        phone.wait_until("element('registration').value === 'registered as carol@ims.test'")
        lab.terminate()
        assert lab.wait(30) == 0


def test_who_calls_before_registering_is_told_and_buttons_without_a_call_do_nothing(
    page: Page, phones: tuple[WebPhone, WebPhone]
) -> None:
    phone, _ = phones
    phone.open(page.url)
    phone.run("document.querySelectorAll('.buttons button').forEach((button) => button.click())")
    assert phone.run("element('call').value") == "no call"
    phone.run("element('target').value = 'bob'")
    phone.run("element('dial').requestSubmit()")
    phone.wait_until("element('call').value === 'register first'")
    assert not [line for line in phone.console() if line.startswith("SEVERE")]
