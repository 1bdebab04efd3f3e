"""Both ends of Iq over real sockets: several controllers, none able to harm another."""

import asyncio
import logging
import socket
import stat
from contextlib import asynccontextmanager, suppress
from dataclasses import astuple, replace

import pytest
import uvloop

from agw.iq import connection as connection_module
from agw.iq import listener
from agw.iq.client import Client
from agw.iq.connection import Certificates
from agw.iq.listener import MAX_HANDSHAKES
from agw.iq.messages import (
    VERSION,
    AuditValue,
    ErrorCode,
    ErrorReply,
    Event,
    Hello,
    Notice,
    Reply,
    Request,
)
from agw.iq.server import Server
from agw.iq.wire import HEARTBEAT, SILENCE, controller_link, encode
from imsalg.transport.tls import Credentials
from tests.transport.certificates import Authority

PATIENCE = 10.0


class Gateway:
    """A server that writes down what it is told; `answer` says what to reply."""

    def __init__(self, name="agw"):
        self.told = asyncio.Queue()
        self.answer = lambda name, request: Reply(request.id, ())
        self.server = Server(
            name=name,
            incarnation="1",
            realms=("access", "core"),
            on_up=lambda hello: self.told.put_nowait(("up", hello.name, hello.claims)),
            on_request=self._request,
            on_down=self._down,
        )

    def _request(self, name, request):
        return self.answer(name, request)

    def _down(self, name, reason, unread):
        self.unread = unread
        self.told.put_nowait(("down", name, reason))

    async def next(self):
        return await asyncio.wait_for(self.told.get(), PATIENCE)


class Controller:
    """A client that writes down what it is told."""

    def __init__(self, address, name="pcscf", files=None):
        self.told = asyncio.Queue()
        self.claims = ()
        self.client = Client(
            address,
            name=name,
            incarnation="x",
            claims=lambda: self.claims,
            on_up=lambda hello: self.told.put_nowait(("up", hello)),
            on_down=lambda reason: self.told.put_nowait(("down", reason)),
            on_message=lambda message: self.told.put_nowait(("message", message)),
            tls=Credentials(files).client if files else None,
        )

    async def next(self):
        return await asyncio.wait_for(self.told.get(), PATIENCE)

    @asynccontextmanager
    async def running(self):
        task = asyncio.create_task(self.client.run())
        try:
            yield self
        finally:
            await self.client.close()
            await asyncio.wait_for(task, PATIENCE)


@asynccontextmanager
async def started(address, files=None, name="agw"):
    gateway = Gateway(name)
    await gateway.server.start(address, Certificates(*astuple(files)) if files else None)
    try:
        yield gateway
    finally:
        await gateway.server.close()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "iq.sock"


@pytest.fixture
def address(path):
    return f"unix:{path}"


async def raw(path, *messages):
    """A connection that says just these messages or bytes."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    for message in messages:
        writer.write(message if isinstance(message, bytes) else encode(message))
    return reader, writer


async def until_sent(reader, last):
    """What came until this."""
    data = b""
    while not data.endswith(last):
        data += await asyncio.wait_for(reader.read(65536), PATIENCE)
    return data


async def until_closed(reader):
    """What came until the other side closed."""
    data = b""
    with suppress(ConnectionError):
        while chunk := await asyncio.wait_for(reader.read(65536), PATIENCE):
            data += chunk
    return data


def test_greeting_request_reply_and_notice(address):
    async def scenario():
        async with started(address) as gateway, Controller(address).running() as controller:
            controller.claims = ("c1",)
            assert await gateway.next() == ("up", "pcscf", ("c1",))
            up, hello = await controller.next()
            assert (up, hello.name, hello.realms) == ("up", "agw", ("access", "core"))
            assert controller.client.send(Request(5, "c", (AuditValue(),)))
            assert await controller.next() == ("message", Reply(5, ()))
            notice = Notice("c", Event.MEDIA_FIRST, "a", 1)
            assert gateway.server.notify("pcscf", notice)
            assert not gateway.server.notify("nobody", notice)
            assert await controller.next() == ("message", notice)
        assert controller.told.empty()  # an own close is no loss

    asyncio.run(scenario())


def test_the_socket_is_ours_alone_and_is_gone_at_the_end(address, path):
    async def scenario():
        async with started(address):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert not path.exists()

    asyncio.run(scenario())


def test_a_stale_socket_is_replaced_a_live_one_and_a_file_are_not(address, path):
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))

    async def scenario():
        async with started(address):
            with pytest.raises(FileExistsError, match="somebody listens"):
                await Gateway().server.start(address)
            assert path.exists()
        path.write_text("precious")
        with pytest.raises(FileExistsError, match="no socket"):
            await Gateway().server.start(address)
        assert path.read_text() == "precious"

    asyncio.run(scenario())


def test_a_socket_in_a_directory_that_is_not_there_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="its directory is not there; make it first"):
        asyncio.run(Gateway().server.start(f"unix:{tmp_path}/none/iq.sock"))


GREETING = Hello(VERSION, "mallory", "1")


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ([b"GET / HTTP/1.1\r\n\r\n"], "a frame of"),
        ([Hello(VERSION + 1, "mallory", "1")], f"version {VERSION + 1}"),
        ([Request(1, "", ())], "Request before Hello"),
        ([GREETING, GREETING], "a second Hello"),
        ([GREETING, b"\0\0\0\1\xc1"], "no message"),
        ([GREETING, Reply(1, ())], "no message"),
        ([GREETING, b"\xff\xff\xff\xff"], "a frame of"),
    ],
)
def test_what_is_malformed_ends_its_own_connection_only_and_is_logged(address, path, said, why, caplog):
    caplog.set_level(logging.INFO, "agw")

    async def scenario():
        async with started(address) as gateway, Controller(address).running() as controller:
            await controller.next()
            reader, writer = await raw(path, *said)
            data = await until_closed(reader)
            writer.close()
            link = controller_link(GREETING, 0.0)
            assert link.receive(data, 0.0) == []
            assert link.peer.version == VERSION  # our own Hello has been said
            assert controller.client.send(Request(1, "c", ()))
            assert await controller.next() == ("message", Reply(1, ()))
            assert gateway.server.notify("pcscf", Notice("c", Event.MEDIA_FIRST))

    asyncio.run(scenario())
    (line,) = [record.message for record in caplog.records if why in record.message]
    assert "\n" not in line


def test_a_request_that_fails_ends_its_own_connection_only(address, path):
    def answer(name, request):
        if name == "mallory":
            raise RuntimeError("a bug")
        return Reply(request.id, ())

    async def scenario():
        async with started(address) as gateway, Controller(address).running() as controller:
            gateway.answer = answer
            await controller.next()
            reader, writer = await raw(path, GREETING, Request(1, "", ()))
            await until_closed(reader)
            writer.close()
            controller.client.send(Request(1, "c", ()))
            assert await controller.next() == ("message", Reply(1, ()))

    asyncio.run(scenario())


def test_a_reply_that_fills_more_than_a_frame_is_an_error_reply(address):
    huge = "x" * (2 << 20)

    async def scenario():
        async with started(address) as gateway, Controller(address).running() as controller:
            gateway.answer = lambda name, request: ErrorReply(request.id, ErrorCode.INVALID, huge)
            await controller.next()
            controller.client.send(Request(1, "", ()))
            _, answer = await controller.next()
            assert answer.code is ErrorCode.OVERLOAD

    asyncio.run(scenario())


def test_a_newer_connection_takes_the_name_over(address, path):
    async def scenario():
        async with started(address) as gateway:
            old, old_writer = await raw(path, Hello(VERSION, "pcscf", "1"))
            assert await gateway.next() == ("up", "pcscf", ())
            _, new_writer = await raw(path, Hello(VERSION, "pcscf", "2", claims=("c",)))
            assert await gateway.next() == ("down", "pcscf", "a newer connection has its name")
            assert await gateway.next() == ("up", "pcscf", ("c",))
            await until_closed(old)
            new_writer.close()
            assert await gateway.next() == ("down", "pcscf", "closed by the other side")
            assert gateway.told.empty()
            old_writer.close()

    asyncio.run(scenario())


def test_who_does_not_read_is_closed(address, path, monkeypatch, caplog):
    monkeypatch.setattr(connection_module, "MAX_UNSENT", 1 << 16)
    caplog.set_level(logging.INFO, "agw")

    async def scenario():
        async with started(address) as gateway:
            _, writer = await raw(path, GREETING)
            await gateway.next()
            notice = Notice("c", Event.MEDIA_FIRST, detail="x" * 10_000)
            for _ in range(200):
                if not gateway.server.notify("mallory", notice):
                    break
                await asyncio.sleep(0)  # what was sent in one round of the loop leaves together
            assert not gateway.server.notify("mallory", notice)
            assert (await gateway.next())[:2] == ("down", "mallory")
            writer.close()

    asyncio.run(scenario())
    assert "unread by the other side" in caplog.text


def test_what_was_told_since_the_last_sign_of_life_may_not_have_been_read(address, path):
    async def scenario():
        skip = jumping()
        notices = [Notice("c", event) for event in Event]
        async with started(address) as gateway:
            reader, writer = await raw(path, GREETING)
            await gateway.next()
            gateway.server.notify("mallory", notices[0])
            skip(HEARTBEAT + 1.0)
            gateway.answer = lambda name, request: ErrorReply(request.id, ErrorCode.INVALID, "")
            writer.write(encode(Request(1, "c", ())))  # a sign of life
            await until_sent(reader, encode(ErrorReply(1, ErrorCode.INVALID, "")))
            gateway.server.notify("mallory", notices[1])
            skip(SILENCE - 1.0)
            gateway.server.notify("mallory", notices[2])
            skip(1.0)
            down, _, reason = await gateway.next()
            assert (down, gateway.unread) == ("down", notices[1:3])
            assert "nothing heard" in reason
            writer.close()

    asyncio.run(scenario())


def jumping():
    """Lets the loop's clock jump, by so many seconds at each call."""
    loop = asyncio.get_running_loop()
    clock, skipped = loop.time, [0.0]
    loop.time = lambda: clock() + sum(skipped)
    return skipped.append


def test_who_says_nothing_is_closed_and_who_says_heartbeats_is_not(address, path):
    async def scenario():
        skip = jumping()
        async with started(address) as gateway, Controller(address).running() as controller:
            await controller.next()
            await gateway.next()
            reader, writer = await raw(path, GREETING)
            assert await gateway.next() == ("up", "mallory", ())
            while gateway.told.empty():
                skip(HEARTBEAT / 5)
                await asyncio.sleep(0.01)  # what is due is said and heard
            down, name, reason = await gateway.next()
            assert (down, name) == ("down", "mallory")
            assert "nothing heard" in reason
            assert len(await until_closed(reader)) > len(encode(Hello(VERSION, "agw", "1")))
            writer.close()
            assert gateway.told.empty()
            assert controller.told.empty()

    asyncio.run(scenario())


def test_connections_have_a_limit(address, path, monkeypatch):
    monkeypatch.setattr("agw.iq.server.MAX_CONNECTIONS", 2)

    async def scenario():
        async with started(address) as gateway:
            first = [await raw(path, Hello(VERSION, name, "1")) for name in ("a", "b")]
            await gateway.next()
            await gateway.next()
            reader, writer = await raw(path, Hello(VERSION, "c", "1"))
            assert await until_closed(reader) == b""
            for _, each in [*first, (reader, writer)]:
                each.close()
            assert {(await gateway.next())[1], (await gateway.next())[1]} == {"a", "b"}

    asyncio.run(scenario())


def test_the_client_comes_back_and_claims_anew_p43(address):
    async def scenario():
        async with Controller(address).running() as controller:
            assert (await controller.next())[0] == "down"  # nobody is there yet
            assert not controller.client.send(Request(1, "", ()))
            for turn in range(3):
                controller.claims = (f"c{turn}",)
                async with started(address, name=f"agw{turn}") as gateway:
                    up, hello = await controller.next()
                    assert (up, hello.name) == ("up", f"agw{turn}")
                    assert await gateway.next() == ("up", "pcscf", (f"c{turn}",))
                assert (await controller.next())[0] == "down"
            assert controller.told.empty()

    asyncio.run(scenario())


def test_the_client_survives_gateways_that_make_no_sense(address, path):
    answers = [b"", b"\xff" * 100, encode(Hello(VERSION + 1, "agw", "1")), encode(Reply(1, ()))]

    async def nonsense(reader, writer):
        writer.write(answers.pop() if answers else b"")
        writer.close()

    async def scenario():
        async with Controller(address).running() as controller:
            server = await asyncio.start_unix_server(nonsense, str(path))
            assert (await controller.next())[0] == "down"
            while answers:
                await asyncio.sleep(0.01)
            server.close()
            path.unlink()
            async with started(address):
                assert (await controller.next())[0] == "up"

    asyncio.run(scenario())


def test_a_callback_that_fails_does_not_lose_the_client(address):
    async def scenario():
        async with started(address) as gateway, Controller(address).running() as controller:
            await controller.next()
            controller.client._on_message = lambda message: 1 / 0
            await gateway.next()
            gateway.server.notify("pcscf", Notice("c", Event.MEDIA_FIRST))
            controller.client.send(Request(1, "c", ()))
            controller.client._on_message = lambda message: controller.told.put_nowait(message)
            while not isinstance(await controller.next(), Reply):
                pass
            controller.client._claims = lambda: 1 / 0
            await gateway.server.close()
            assert (await controller.next())[0] == "down"
            controller.client._claims = lambda: ("again",)
            async with started(address) as other:
                assert await other.next() == ("up", "pcscf", ("again",))

    asyncio.run(scenario())


# -- TLS --


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


@pytest.fixture
def certificates(authority, tmp_path):
    """name -> files that trust `ca`; "stranger" has its own CA, and trusts `ca` too."""
    other = Authority(tmp_path, "other")
    signed = {name: authority.sign(name, "127.0.0.1", mutual=True) for name in ("gateway", "controller")}
    return {**signed, "stranger": replace(other.sign("stranger", "127.0.0.1"), ca=str(authority.ca))}


@pytest.fixture
def tls_address():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tls:127.0.0.1:{probe.getsockname()[1]}"


def test_tls_with_certificates_on_both_sides(certificates, tls_address):
    async def scenario():
        async with (
            started(tls_address, certificates["gateway"]),
            Controller(tls_address, files=certificates["controller"]).running() as controller,
        ):
            assert (await controller.next())[0] == "up"
            controller.client.send(Request(1, "c", ()))
            assert await controller.next() == ("message", Reply(1, ()))

    asyncio.run(scenario())


def test_tls_lets_no_stranger_in_at_either_end(certificates, tls_address):
    async def scenario():
        async with (
            started(tls_address, certificates["gateway"]) as gateway,
            Controller(tls_address, "s", certificates["stranger"]).running() as stranger,
        ):
            assert (await stranger.next())[0] == "down"
            host, port = tls_address.split(":")[1:]
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(encode(GREETING))
            await until_closed(reader)
            writer.close()
            assert gateway.told.empty()
        async with (
            started(tls_address, certificates["stranger"]) as gateway,
            Controller(tls_address, files=certificates["controller"]).running() as controller,
        ):
            down, reason = await controller.next()
            assert down == "down"
            assert "certificate verify failed" in reason
            assert gateway.told.empty()

    asyncio.run(scenario())


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize(
    ("names", "right"),
    [(("localhost",), True), ((), False), (("*.localhost", "*", "127.0.0.1"), False)],
    ids=["its name", "its subject's name", "wildcards"],
)
def test_a_gateway_is_greeted_only_if_its_certificate_names_it(authority, tls_address, names, right, run):
    address = tls_address.replace("127.0.0.1", "localhost")
    gateway_s, ours = (authority.sign(*each, mutual=True) for each in (("localhost", *names), ("pcscf", "x")))

    async def scenario():
        async with (
            started(address, gateway_s) as gateway,
            Controller(address, files=ours).running() as controller,
        ):
            what, told = await controller.next()
            assert what == ("up" if right else "down")
            assert right or told == "certificate refused: it does not name localhost"
            assert right or gateway.told.empty()

    run(scenario())


def test_an_address_of_tls_needs_certificates():
    with pytest.raises(ValueError, match="without certificates"):
        Controller("tls:127.0.0.1:1")


async def silent(address, first=b""):
    """A stranger's connection that begins a handshake at most."""
    host, port = address.split(":")[1:]
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(first)
    return reader, writer


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("first", [b"", b"\x16\x03\x01"], ids=["nothing", "half a ClientHello"])
def test_strangers_who_leave_handshakes_half_done_are_few_and_keep_nobody_out(
    certificates, tls_address, run, first
):
    async def scenario():
        async with started(tls_address, certificates["gateway"]) as gateway:
            strangers = [await silent(tls_address, first) for _ in range(5 * MAX_HANDSHAKES)]
            async with Controller(tls_address, files=certificates["controller"]).running() as controller:
                assert (await controller.next())[0] == "up"
                assert (await gateway.next())[0] == "up"
                waiting = {asyncio.create_task(until_closed(reader)) for reader, _ in strangers}
                left = MAX_HANDSHAKES - 1  # the controller made room for itself
                while len(waiting) > left:
                    _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                assert len(waiting) == left
                for task in waiting:
                    task.cancel()
            for _, writer in strangers:
                writer.close()

    run(scenario())


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_a_handshake_has_its_time(certificates, tls_address, run, monkeypatch):
    monkeypatch.setattr(listener, "HANDSHAKE_TIMEOUT", 0.1)

    async def scenario():
        async with started(tls_address, certificates["gateway"]):
            reader, writer = await silent(tls_address)
            assert await until_closed(reader) == b""
            writer.close()

    run(scenario())


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_a_gateway_that_ends_leaves_its_address_and_no_handshake(certificates, tls_address, run):
    async def scenario():
        for _ in range(2):
            async with started(tls_address, certificates["gateway"]):
                reader, writer = await silent(tls_address)
            assert await until_closed(reader) == b""
            writer.close()

    run(scenario())


def test_an_address_that_is_none_is_a_value_error():
    for text in ("", "unix:", "tls:", "tls:host", "tls:host:0", "tls:host:65536", "tls::5", "tcp:h:1"):
        with pytest.raises(ValueError, match="neither"):
            Controller(text)
