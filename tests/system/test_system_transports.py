"""The whole proxy over TLS and secure WebSocket: a softphone over TLS, a browser's stand-in over WSS, calls
in both directions, a certificate that changes, and a UE that has gone."""

from __future__ import annotations

import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator

import pytest

from cli.stack import DOMAIN, HOST, Stack
from imsalg.sip.message import make_response
from tests.interop.ue_process import Ue
from tests.system.calls import audio
from tests.system.webphone import WebPhone
from tests.system.world import wait_until
from tests.transport.certificates import Authority

BASE_PORT = 24900
TLS_PORT, WSS_PORT = BASE_PORT + 6, BASE_PORT + 8

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
listen = "{host}:{wss}"
transports = ["WSS"]
path = "/sip"
cert = "{files.cert}"
key = "{files.key}"

[limits]
connections_per_source = 20
"""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def _stack(authority: Authority) -> Iterator[Stack]:
    files = authority.sign("edge", HOST)
    tables = TABLES.format(host=HOST, tls=TLS_PORT, wss=WSS_PORT, files=files)
    with Stack(BASE_PORT, tables=tables, media_ports=100, log_level="debug") as stack:
        yield stack
        stack.check()


@pytest.fixture
def stack(_stack: Stack) -> Iterator[Stack]:
    yield _stack
    for name in ("proxy", "lab"):
        print(f"-- {name}", *_stack.log(name)[-60:], sep="\n")


@pytest.fixture
def web(stack: Stack, authority: Authority) -> Iterator[WebPhone]:
    context = ssl.create_default_context(cafile=str(authority.ca))
    phone = WebPhone(f"wss://{HOST}:{WSS_PORT}/sip", context, "bob", DOMAIN, stack.password)
    phone.register()
    yield phone
    phone.close()


def softphone(stack: Stack, *options: object) -> Ue:
    secure = ("--registrar", f"sip:{HOST}:{TLS_PORT}", "--transport", "tls", "--e2ae")
    return Ue("--user", "alice", "--password", stack.password, *secure, *options)


def flows(stack: Stack) -> list[str]:
    return sorted(each["flow"].split()[0] for each in stack.status()["registrations"])


def test_a_browser_calls_a_softphone_over_tls(stack: Stack, web: WebPhone) -> None:
    with softphone(stack) as alice:
        alice.wait_for("registered")
        assert flows(stack) == ["TLS", "WSS"]
        invite, answered = web.call(f"sip:alice@{DOMAIN}", audio())
        assert b"RTP/AVP 0" in answered.body  # SRTP ends in the gateway, towards alice
        media = alice.wait_for("media")
        assert "AES_CM_128_HMAC_SHA1_80" in str(media)
        web.hang_up(invite, answered)
        alice.wait_for("ended")


def test_a_softphone_over_tls_calls_a_browser(stack: Stack, web: WebPhone) -> None:
    with softphone(stack, "--call", f"sip:bob@{DOMAIN}", "--duration", 0.3) as alice:
        invite = web.answer(audio())
        assert f"SIP/2.0/WSS {HOST}:{WSS_PORT}" in invite.headers.get("Via")
        assert invite.uri == "sip:bob@df7jal23ls0d.invalid;transport=ws"
        web.send(make_response(web.receive("BYE"), 200))
        assert alice.ended() == 0


def test_a_call_to_a_browser_that_has_gone_is_refused_at_once(stack: Stack, authority: Authority) -> None:
    context = ssl.create_default_context(cafile=str(authority.ca))
    gone = WebPhone(f"wss://{HOST}:{WSS_PORT}/sip", context, "carol", DOMAIN, stack.password)
    gone.register()
    gone.close()
    with softphone(stack, "--call", f"sip:carol@{DOMAIN}") as alice:
        ended = alice.wait_for("ended")
        assert ended["code"] in (430, 480), ended
        alice.ended()
    assert any("430 the connection of this UE has gone" in line for line in stack.log("proxy"))


def test_a_softphone_that_rings_for_a_browser_is_told_when_that_has_gone(
    stack: Stack, authority: Authority
) -> None:
    context = ssl.create_default_context(cafile=str(authority.ca))
    gone = WebPhone(f"wss://{HOST}:{WSS_PORT}/sip", context, "erin", DOMAIN, stack.password)
    gone.register()
    with softphone(stack, "--no-answer") as alice:
        alice.wait_for("registered")
        gone.request("INVITE", f"sip:alice@{DOMAIN}", f"<sip:alice@{DOMAIN}>", sdp=audio())
        gone.receive(180)
        gone.close()
        alice.wait_for("ended")
        wait_until(lambda: not stack.status()["calls"])


def test_a_browser_with_two_connections_is_reached_over_the_one_that_is_left(
    stack: Stack, authority: Authority
) -> None:
    context = ssl.create_default_context(cafile=str(authority.ca))
    url = f"wss://{HOST}:{WSS_PORT}/sip"
    first, second = (WebPhone(url, context, "dora", DOMAIN, stack.password, flow) for flow in (1, 2))
    for phone in (first, second):
        assert phone.register().headers.values("Path")[0].endswith(";lr;ob>")
    assert [each["aor"] for each in stack.status()["registrations"]].count(f"sip:dora@{DOMAIN}") == 2
    first.close()
    with softphone(stack, "--call", f"sip:dora@{DOMAIN}", "--duration", 0.3) as alice:
        assert second.answer(audio()).uri == "sip:dora2@df7jal23ls0d.invalid;transport=ws"
        second.send(make_response(second.receive("BYE"), 200))
        assert alice.ended() == 0
    second.close()


def test_a_new_certificate_is_shown_after_sighup_and_registrations_stay(
    stack: Stack, authority: Authority, web: WebPhone
) -> None:
    before = _shown()
    authority.sign("edge", HOST)
    stack.processes["proxy"].send_signal(signal.SIGHUP)
    while not any("was read again" in line for line in stack.log("proxy")):
        stack.check()
    assert _shown() != before
    assert "WSS" in flows(stack)
    web.register()  # over the connection that was there before


def test_ten_thousand_connections_of_one_host_leave_room_for_others(stack: Stack, web: WebPhone) -> None:
    held = []
    refused = 0
    for _ in range(10_000):
        peer = socket.create_connection((HOST, TLS_PORT))
        if len(held) < 100:
            held.append(peer)
        else:
            peer.close()
            refused += 1
    web.register()
    other = socket.create_connection((HOST, TLS_PORT), source_address=("127.0.0.9", 0))
    with ssl._create_unverified_context().wrap_socket(other) as secure:
        secure.sendall(b"\r\n\r\n")
        assert secure.recv(2) == b"\r\n"
    assert stack.status()["transport"]["connections"] <= 30
    assert refused == 9_900
    for peer in held:
        peer.close()


def _shown() -> str:
    command = ("openssl", "s_client", "-connect", f"{HOST}:{TLS_PORT}")
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=10)
    return done.stdout.partition("-----BEGIN")[2].partition("-----END")[0]
