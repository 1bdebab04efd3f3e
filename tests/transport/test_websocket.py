"""SIP over WebSocket (RFC 7118) over real loopback sockets; the peers are clients of the websockets library,
and raw sockets for what that would never send."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.typing import Subprotocol

from imsalg.sip.hop import Transport
from imsalg.sip.message import MAX_MESSAGE
from imsalg.transport import connection, websocket
from imsalg.transport.connection import ConnectionLimits
from tests.transport.certificates import Authority
from tests.transport.test_shell import Site, Strict, connected, looped, options, until
from tests.transport.test_tls import LOOPBACK, trusting

SIP = [Subprotocol("sip")]
UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Protocol: sip\r\n\r\n"
)


def web(limits: ConnectionLimits | None = None, host: str = "127.0.0.1", **served: Any) -> Site:
    return Site(host, limits, transports=(Transport.WS,), **served)


def client(site: Site, path: str = "/", **options: Any) -> connect:
    settings: dict[str, Any] = {"subprotocols": SIP, "proxy": None, "ping_interval": None}
    scheme = "wss" if "ssl" in options else "ws"
    return connect(f"{scheme}://{site.address}{path}", **(settings | options))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("secure", [False, True])
def test_a_request_is_answered_and_another_goes_back(host: str, secure: bool, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    kind = Transport.WSS if secure else Transport.WS
    tls = authority.sign("edge", *LOOPBACK)
    more = {"ssl": trusting(authority)} if secure else {}

    @looped
    async def run() -> None:
        async with Site(host, transports=(kind,), tls=tls) as site, client(site, **more) as peer:
            assert peer.subprotocol == "sip"
            await peer.send(options(via=f"{kind} df7jal23ls0d.invalid").decode())
            answer = await peer.recv()
            assert isinstance(answer, str)
            assert answer.startswith("SIP/2.0 200 OK")
            assert f"SIP/2.0/{kind} df7jal23ls0d.invalid" in answer
            flow = site.machine.requests[0].flow
            assert flow.transport is kind
            site.request(flow, b"\xff\x00 no text")
            asked = await peer.recv()
            assert isinstance(asked, bytes)
            assert f"Via: SIP/2.0/{kind} {site.address};branch=".encode() in asked
        assert site.shell.drops["machine_error"] == 0

    run()


@looped
async def test_text_binary_fragments_and_a_length_that_is_not_said() -> None:
    async with web() as site, client(site) as peer:
        whole = options(via="WS x.invalid")
        for message in (
            whole.decode(),
            options(via="WS x.invalid"),
            [part.encode() for part in options(via="WS x.invalid").decode().partition("Call-ID")],
            options(via="WS x.invalid").replace(b"Content-Length: 0\r\n", b""),
        ):
            await peer.send(message)
            assert str(await peer.recv()).startswith("SIP/2.0 200")
        assert len(site.machine.requests) == 4


@looped
async def test_a_bad_request_is_answered_and_the_connection_goes_on() -> None:
    async with web() as site, client(site) as peer:
        await peer.send(b"what is this?")
        await peer.send(b"")
        await peer.send(options(via="WS x.invalid").replace(b"1 OPTIONS", b"1 INFO"))
        assert str(await peer.recv()).startswith("SIP/2.0 400")
        await peer.send(options(via="WS x.invalid"))
        assert str(await peer.recv()).startswith("SIP/2.0 200")


@looped
async def test_keep_alives_of_both_kinds_are_answered() -> None:
    async with web() as site, client(site) as peer:
        await asyncio.wait_for(await peer.ping(b"well?"), 5)
        await peer.send("\r\n\r\n")
        assert await peer.recv() == "\r\n"


def test_a_peer_that_answers_pings_stays_and_one_that_does_not_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket.WebSocket, "ping_every", 0.5)

    @looped
    async def run() -> None:
        async with web() as site, client(site) as peer, connected(site.address) as (dead, writer):
            await peer.send(options(via="WS x.invalid"))
            await peer.recv()
            await say(dead, writer, UPGRADE + masked(options(via="WS y.invalid")))
            await asyncio.wait_for(dead.read(), 5)  # it sees the pings, and then its end
            assert site.shell.connections == 1
            await peer.send(options(via="WS x.invalid"))
            assert str(await peer.recv()).startswith("SIP/2.0 200")

    run()
    assert connection.PINGS >= 2


def masked(data: bytes, opcode: Opcode = Opcode.TEXT, *, fin: bool = True) -> bytes:
    return Frame(opcode, data, fin).serialize(mask=True)


@pytest.mark.parametrize(
    ("served", "asked", "more", "status"),
    [
        ("/", "/", {"subprotocols": None}, 400),
        ("/", "/", {"subprotocols": [Subprotocol("xmpp")]}, 400),
        ("/", "/sip", {}, 404),
        ("/ws", "/", {}, 404),
        ("/ws", "/ws/", {}, 404),
    ],
)
def test_a_handshake_without_the_subprotocol_or_for_another_path_is_refused(
    served: str, asked: str, more: dict[str, Any], status: int
) -> None:
    @looped
    async def run() -> None:
        async with web(path=served) as site:
            with pytest.raises(InvalidStatus) as refused:
                await client(site, asked, **more)
            assert refused.value.response.status_code == status
            await until(lambda: not site.shell.connections)
            async with client(site, f"{served}?token=1"):
                pass

    run()


async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sent: bytes) -> None:
    """What follows a handshake waits for its answer, as it must."""
    if sent.startswith(UPGRADE):
        writer.write(UPGRADE)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
        sent = sent[len(UPGRADE) :]
    writer.write(sent)


HOSTILE = {
    "sip on the socket": options(),
    "a request that is no upgrade": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "a line without an end": b"GET /" + b"x" * 20_000,
    "headers without an end": b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 2_000,
    "a frame that is not masked": UPGRADE + Frame(Opcode.TEXT, options(), True).serialize(mask=False),
    "an opcode nobody knows": UPGRADE + b"\x83\x80\0\0\0\0",
    "reserved bits": UPGRADE + b"\xf1\x80\0\0\0\0",
    "a continuation of nothing": UPGRADE + masked(b"x", Opcode.CONT),
    "a length of 2^62": UPGRADE + b"\x82\xff\x40" + bytes(7) + bytes(4),
    "a frame too large": UPGRADE + masked(bytes(MAX_MESSAGE + 1)),
    "fragments too large": UPGRADE
    + masked(bytes(MAX_MESSAGE), fin=False)
    + masked(b"x" * 9, Opcode.CONT, fin=False),
    "a ping too large": UPGRADE + b"\x89\xfe\x01\x00" + bytes(4 + 256),
    "a fragmented ping": UPGRADE + b"\x09\x80" + bytes(4),
}


@pytest.mark.parametrize("sent", HOSTILE.values(), ids=list(HOSTILE))
def test_what_breaks_the_protocol_is_closed(sent: bytes) -> None:
    @looped
    async def run() -> None:
        async with web() as site, connected(site.address) as (reader, writer):
            await say(reader, writer, sent)
            with contextlib.suppress(ConnectionError):
                await asyncio.wait_for(reader.read(), 5)  # to its end
            await until(lambda: not site.shell.connections)
            assert not site.machine.requests
            assert site.shell.drops["machine_error"] == 0

    run()


@pytest.mark.parametrize(
    "sent",
    [b"", UPGRADE[:40], UPGRADE, UPGRADE + masked(b"x", Opcode.PING), UPGRADE + masked(b"OPT", fin=False)],
    ids=["nothing", "half a handshake", "a handshake only", "pings only", "half a message"],
)
def test_who_brings_no_message_in_time_is_closed(sent: bytes) -> None:
    @looped
    async def run() -> None:
        limits = ConnectionLimits(first=1.0)
        async with web(limits) as site, connected(site.address) as (reader, writer):
            await say(reader, writer, sent)
            end = asyncio.ensure_future(reader.read())
            while not end.done():
                if sent.startswith(UPGRADE + b"\x89"):
                    writer.write(masked(b"x", Opcode.PING))
                elif len(sent) > len(UPGRADE):
                    writer.write(masked(b"", Opcode.CONT, fin=False))
                await asyncio.sleep(0.02)
            assert site.shell.drops["tcp_idle_closed"] == 1
            assert site.shell.connections == 0

    run()


@looped
async def test_a_message_that_comes_an_octet_a_minute_is_not_waited_for() -> None:
    async with web(ConnectionLimits(first=1.0)) as site, connected(site.address) as (reader, writer):
        await say(reader, writer, UPGRADE + masked(options(via="WS x.invalid")))
        end = asyncio.ensure_future(reader.read())
        for octet in masked(options(via="WS x.invalid")):
            writer.write(bytes([octet]))
            await asyncio.sleep(0.02)
            if end.done():
                break
        assert end.done()
        assert len(site.machine.requests) == 1


@looped
async def test_a_client_that_says_good_bye_hears_it_back() -> None:
    async with web() as site:
        async with client(site) as peer:
            await peer.send(options(via="WS x.invalid"))
            await peer.recv()
        assert peer.close_code == 1000
        await until(lambda: not site.shell.connections)
        async with client(site) as peer:
            await site.shell.close()
            with pytest.raises(ConnectionClosed):
                await peer.recv()
            assert peer.close_code == 1001  # going away


def test_what_ends_a_connection_before_the_handshake_is_answered_raises_nothing() -> None:
    """Found by tests/fuzz: the library asserts that it has not ended already what it is asked to answer."""
    close = Frame(Opcode.CLOSE, b"\x03\xe8").serialize(mask=True)
    for upgrade in (UPGRADE, UPGRADE.replace(b"Upgrade: websocket", b"Upgrade: x")):
        for more in (close, b"\xff" * 40, Frame(Opcode.TEXT, b"x").serialize(mask=False)):
            framing = websocket.WebSocket("/")
            assert framing.receive(upgrade + more) == []
            assert framing.ended
            framing.close()


def test_a_keep_alive_before_a_close_in_one_read_raises_nothing() -> None:
    framing = websocket.WebSocket("/")
    framing.receive(UPGRADE)
    frames = Frame(Opcode.TEXT, b"\r\n\r\n"), Frame(Opcode.CLOSE, b"\x03\xe8")
    assert framing.receive(b"".join(frame.serialize(mask=True) for frame in frames)) == []
    assert framing.ended


@pytest.mark.parametrize(
    "frame",
    [
        masked(b"", Opcode.PING),
        masked(b"", Opcode.PONG),
        masked(b""),
        masked(b"\r\n\r\n"),
        masked(b"", Opcode.CONT, fin=False),
        masked(b"x"),
    ],
    ids=["pings", "pongs", "empty messages", "keep-alives", "fragments", "no SIP"],
)
def test_frames_that_say_nothing_are_few_and_count_for_whoever_sends_them(frame: bytes) -> None:
    """What is read at once may hold 40,000 of them, which took the library a second."""
    begun = masked(b"", fin=False) if frame[0] == Opcode.CONT else b""

    @looped
    async def run() -> None:
        judge = Strict(10**6)
        async with web(judge=judge) as site, connected(site.address) as (reader, writer):
            await say(reader, writer, UPGRADE + begun + frame * (websocket.MAX_IDLE // 2))
            await until(lambda: judge.counted > websocket.MAX_IDLE // 2)
            assert site.shell.connections == 1
            writer.write(frame * 40_000)
            with contextlib.suppress(ConnectionError):
                await asyncio.wait_for(reader.read(), 5)
            await until(lambda: not site.shell.connections)
            # each counts as a frame, and what is no SIP as a message, too
            most = 2 * (websocket.MAX_IDLE + websocket.PIECE // len(frame)) + 10
            assert websocket.MAX_IDLE < judge.counted < most
            assert site.shell.drops["machine_error"] == 0

    run()
