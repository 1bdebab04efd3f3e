"""The shell around an Endpoint over real loopback sockets."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import logging
import random
import socket
import struct
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from typing import Any, ParamSpec

import pytest
import uvloop

from imsalg.intake import Judge, Standing
from imsalg.sip.endpoint import Endpoint
from imsalg.sip.events import RequestReceived, ResponseReceived, TransactionFailed
from imsalg.sip.glance import Kind
from imsalg.sip.hop import Flow, Key, Transport
from imsalg.sip.message import Request, make_response, parse_message
from imsalg.sip.values import Address
from imsalg.transport.connection import ConnectionLimits
from imsalg.transport.listener import Listener
from imsalg.transport.shell import Shell
from imsalg.transport.udp import Datagram, UdpSockets

P = ParamSpec("P")

ports = itertools.count(16000)


class Echo(Endpoint):
    """Answers every request with 200 and keeps what else happens. An OPTIONS for sip:crash makes it raise."""

    def __init__(self, servers_at: Address | None = None) -> None:
        super().__init__(random.Random(1), servers_at=servers_at)
        self.responses: list[ResponseReceived] = []
        self.failures: list[TransactionFailed] = []
        self.requests: list[RequestReceived] = []
        self.answer = True

    def receive_message(self, message: Any, flow: Flow, now: float) -> None:
        super().receive_message(message, flow, now)
        self.act(now)

    def expire(self, now: float) -> None:
        super().expire(now)
        self.act(now)

    def transport_failed(self, flow: Flow, now: float, error: str) -> None:
        super().transport_failed(flow, now, error)
        self.act(now)

    def closed(self, flow: Flow, now: float) -> None:
        super().closed(flow, now)
        self.act(now)

    def act(self, now: float) -> None:
        while (event := self.next_event()) is not None:
            match event:
                case RequestReceived(transaction, request, _):
                    if request.uri == "sip:crash":
                        raise ZeroDivisionError("a bug")
                    self.requests.append(event)
                    if self.answer:
                        self.respond(transaction, make_response(request, 200, to_tag="t"), now)
                case ResponseReceived():
                    self.responses.append(event)
                case TransactionFailed():
                    self.failures.append(event)


class Site:
    """An Echo in its Shell. servers: it is talked to by servers, not by UEs."""

    def __init__(
        self,
        host: str = "127.0.0.1",
        limits: ConnectionLimits | None = None,
        judge: Judge | None = None,
        also: Sequence[Listener] = (),
        servers: bool = False,
        **served: Any,
    ) -> None:
        self.address = Address(host, next(ports))
        self.machine = Echo(self.address if servers else None)
        listeners = [Listener(self.address, **served), *also]
        self.shell = Shell(self.machine, listeners, limits=limits, judge=judge)

    async def __aenter__(self) -> Site:
        await self.shell.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.shell.close()

    def flow(self, remote: Address, transport: Transport = Transport.UDP) -> Flow:
        return Flow(transport, self.address, remote)

    def request(self, flow: Flow, body: bytes = b"") -> None:
        message = parse_message(options())
        assert isinstance(message, Request)
        message.headers.remove("Via")
        message.set_body(body, "text/plain" if body else None)
        self.shell.run(self.machine.request, message, flow, time.monotonic())


serial = itertools.count()


def options(uri: str = "sip:x@example", via: str = "TCP 127.0.0.1:9") -> bytes:
    n = next(serial)
    return (
        f"OPTIONS {uri} SIP/2.0\r\nVia: SIP/2.0/{via};branch=z9hG4bK{n};rport\r\nMax-Forwards: 70\r\n"
        f"From: <sip:a@example>;tag={n}\r\nTo: <sip:x@example>\r\nCall-ID: {n}@example\r\nCSeq: 1 OPTIONS\r\n"
        "Content-Length: 0\r\n\r\n"
    ).encode()


def looped(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        uvloop.run(asyncio.wait_for(test(*args, **kwargs), 20))

    return run


async def until(condition: Callable[[], object]) -> None:
    """A real peer is waited for."""
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def connected(address: Address) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(address.host, address.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def read_message(reader: asyncio.StreamReader) -> bytes:
    return await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)


# -- UDP


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_request_over_udp_is_answered_to_its_source(host: str) -> None:
    @looped
    async def run() -> None:
        async with Site(host) as one, Site(host) as two:
            one.request(one.flow(two.address))
            await until(lambda: one.machine.responses)
            assert two.machine.requests[0].flow == two.flow(one.address)
            assert one.machine.responses[0].response.status == 200

    run()


@looped
async def test_many_datagrams_at_once_are_all_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    for wait in ("LONG", "PATIENCE"):  # however long they wait, on a busy machine
        monkeypatch.setattr(f"imsalg.intake.{wait}", 20.0)
    async with Site() as site:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 1024 * 1024)
            peer.bind(("127.0.0.1", next(ports)))
            peer.setblocking(False)
            for _ in range(200):
                peer.sendto(options(via="UDP 127.0.0.1:9"), site.address)
            loop = asyncio.get_running_loop()
            answers = [await loop.sock_recv(peer, 65535) for _ in range(200)]
        assert all(answer.startswith(b"SIP/2.0 200 OK") for answer in answers)


@contextlib.contextmanager
def long_rest() -> Iterator[socket.socket]:
    """Sockets that were read are read again after a second; and a peer."""
    with pytest.MonkeyPatch.context() as patch, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        patch.setattr("imsalg.transport.udp.REST", 1.0)
        peer.bind(("127.0.0.1", next(ports)))
        yield peer


@looped
async def test_what_comes_while_the_sockets_rest_is_read_together() -> None:
    with long_rest() as peer:
        reads: list[list[Datagram]] = []
        sockets = UdpSockets(reads.append, Counter())
        here, there = (Address("127.0.0.1", next(ports)) for _ in range(2))
        sockets.listen(here)
        sockets.listen(there)
        peer.sendto(b"first", here)
        await until(lambda: reads)
        assert not sockets.resting
        peer.sendto(b"second", here)
        await until(lambda: len(reads) == 2)
        assert sockets.resting
        for address in (here, there, here):
            peer.sendto(b"later", address)
        await until(lambda: not sockets.resting)
        assert [[(one.data, one.local) for one in read] for read in reads] == [
            [(b"first", here)],
            [(b"second", here)],
            [(b"later", here), (b"later", here), (b"later", there)],
            [],
        ]
        peer.sendto(b"awake again", there)
        await until(lambda: len(reads) == 5)
        sockets.close()


@looped
async def test_what_can_wait_runs_at_once_or_with_what_the_sockets_bring() -> None:
    with long_rest() as peer:
        async with Site() as site:
            ran: list[str] = []
            site.shell.run_soon(lambda word, now: ran.append(word), "at once")
            assert ran == ["at once"]
            for number in (1, 2):
                peer.sendto(options(via="UDP 127.0.0.1:9"), site.address)
                await until(lambda number=number: len(site.machine.requests) == number)
            for word in ("waits", "with it"):
                site.shell.run_soon(lambda word, now: ran.append(word), word)
            assert ran == ["at once"]
            await until(lambda: len(ran) > 1)
            assert ran == ["at once", "waits", "with it"]


@looped
async def test_what_is_no_sip_harms_nobody() -> None:
    async with Site() as site, Site() as other:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            for junk in (b"", b"\0", b"\r\n\r\n", b"junk", random.Random(0).randbytes(60000)):
                peer.sendto(junk, site.address)
        other.request(other.flow(site.address))
        await until(lambda: other.machine.responses)
        assert site.shell.drops["machine_error"] == 0


@looped
async def test_a_datagram_that_cannot_be_sent_fails_its_transaction_at_once() -> None:
    async with Site() as site:
        site.request(site.flow(Address("::1", next(ports))))
        assert [failure.cause for failure in site.machine.failures] == ["transport"]
        assert site.machine.counts()["timers"] == 0


@looped
async def test_a_bug_in_the_machine_costs_one_message_and_no_more() -> None:
    async with Site() as site, Site() as other:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.sendto(options("sip:crash", "UDP 127.0.0.1:9"), site.address)
        other.request(other.flow(site.address))
        await until(lambda: other.machine.responses)
        assert site.shell.drops["machine_error"] == 1


@looped
async def test_what_cannot_be_sent_costs_nothing_else_that_is_sent_with_it() -> None:
    async with Site() as site, Site() as other:
        lost = Flow(Transport.TCP, Address("127.0.0.1", next(ports)), other.address)  # of no address of ours
        broken = Flow(Transport.TCP, site.address, Address("[", 5060))
        message = parse_message(options())

        def several() -> None:
            for flow in (lost, broken, site.flow(other.address)):
                request = message.copy()
                request.headers.remove("Via")
                site.machine.request(request, flow, time.monotonic())

        site.shell.run(several)
        await until(lambda: site.machine.responses and len(site.machine.failures) == 2)


def test_the_bug_is_logged_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    test_a_bug_in_the_machine_costs_one_message_and_no_more()
    records = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(records) == 1
    assert "ZeroDivisionError: a bug" in (records[0].exc_text or "")


@looped
async def test_the_timer_retransmits_and_stops() -> None:
    async with Site() as site:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.bind(("127.0.0.1", next(ports)))
            peer.setblocking(False)
            site.request(site.flow(Address(*peer.getsockname())))
            loop = asyncio.get_running_loop()
            first = await loop.sock_recv(peer, 65535)
            again = await asyncio.wait_for(loop.sock_recv(peer, 65535), 2)
        assert again == first


def test_a_timer_that_raises_is_asked_again_only_after_a_pause() -> None:
    class Broken(Echo):
        asked = 0

        def timeout(self) -> float | None:
            return 0.0

        def expire(self, now: float) -> None:
            self.asked += 1
            raise ZeroDivisionError

    @looped
    async def run() -> None:
        machine = Broken()
        site = Shell(machine, [Listener(Address("127.0.0.1", next(ports)))])
        await site.start()
        await asyncio.sleep(0.1)
        assert machine.asked == 1
        await site.close()

    run()


@looped
async def test_an_address_in_use_is_named_and_nothing_stays_open() -> None:
    async with Site() as site:
        free = Address("127.0.0.1", next(ports))
        with pytest.raises(OSError, match=f"cannot listen on {site.address}"):
            await Shell(Echo(), [Listener(free), Listener(site.address)]).start()
        again = Shell(Echo(), [Listener(free)])
        await again.start()
        await again.close()


# -- TCP


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_requests_over_tcp_share_one_connection_in_both_directions(host: str) -> None:
    @looped
    async def run() -> None:
        async with Site(host) as one, Site(host) as two:
            for _ in range(3):
                one.request(one.flow(two.address, Transport.TCP))
            await until(lambda: len(one.machine.responses) == 3)
            accepted = two.machine.requests[0].flow
            assert {received.flow for received in two.machine.requests} == {accepted}
            two.request(accepted)  # back over the connection that was accepted
            await until(lambda: two.machine.responses)
            assert one.machine.requests[0].flow == one.flow(two.address, Transport.TCP)
            assert one.shell.connections == two.shell.connections == 1

    run()


@looped
async def test_a_long_request_to_a_server_goes_over_tcp_by_itself() -> None:
    async with Site(servers=True) as one, Site() as two:
        one.request(one.flow(two.address), b"x" * 2000)
        await until(lambda: one.machine.responses)
        assert two.machine.requests[0].flow.transport is Transport.TCP


@looped
async def test_a_long_request_falls_back_to_udp_where_nobody_listens_on_tcp() -> None:
    async with Site(servers=True) as one:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.bind(("127.0.0.1", next(ports)))
            peer.setblocking(False)
            one.request(one.flow(Address(*peer.getsockname())), b"x" * 2000)
            data = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(peer, 65535), 5)
        assert b"Via: SIP/2.0/UDP" in data
        assert one.shell.drops["tcp_connect_failed"] == 1


@looped
async def test_messages_are_found_however_the_stream_was_cut() -> None:
    async with Site() as site, connected(site.address) as (reader, writer):
        for byte in options():
            writer.write(bytes([byte]))
            await asyncio.sleep(0)
        assert (await read_message(reader)).startswith(b"SIP/2.0 200")
        writer.write(options() + options() + options()[:50])
        assert (await read_message(reader)).startswith(b"SIP/2.0 200")
        assert (await read_message(reader)).startswith(b"SIP/2.0 200")


@looped
async def test_a_keep_alive_is_answered_with_one_crlf() -> None:
    async with Site() as site, connected(site.address) as (reader, writer):
        writer.write(b"\r\n\r\n")
        assert await asyncio.wait_for(reader.readexactly(2), 5) == b"\r\n"
        writer.write(options())
        assert (await read_message(reader)).startswith(b"SIP/2.0 200")


@looped
async def test_a_bad_request_is_answered_and_the_stream_goes_on() -> None:
    async with Site() as site, connected(site.address) as (reader, writer):
        writer.write(options().replace(b"1 OPTIONS", b"1 INFO") + options())
        assert (await read_message(reader)).startswith(b"SIP/2.0 400")
        assert (await read_message(reader)).startswith(b"SIP/2.0 200")


@looped
async def test_a_stream_that_cannot_be_framed_is_closed() -> None:
    async with Site() as site, connected(site.address) as (reader, writer):
        writer.write(options().replace(b"Content-Length: 0\r\n", b"") + options())
        await asyncio.wait_for(reader.read(), 5)  # to its end
        await until(lambda: site.shell.connections == 0)
        assert not site.machine.requests
        assert site.machine.drops["malformed"] == 1


@looped
async def test_a_connection_that_nobody_accepts_fails_the_transaction() -> None:
    async with Site() as site:
        for _ in range(3):  # they wait for one attempt
            site.request(site.flow(Address("127.0.0.1", next(ports)), Transport.TCP))
        await until(lambda: len(site.machine.failures) == 3)
        assert site.shell.connections == 0
        assert {failure.cause for failure in site.machine.failures} == {"transport"}


@looped
async def test_a_connection_that_the_peer_had_opened_is_not_opened_by_us() -> None:
    """RFC 5626 section 5.3: who listens at its source address now is somebody else."""
    source = Address("127.0.0.1", next(ports))
    async with Site() as site:
        with socket.socket() as peer:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            peer.bind(source)
            peer.connect(site.address)
            peer.sendall(options())
            await until(lambda: site.machine.requests)
        await until(lambda: site.shell.connections == 0)
        came: list[object] = []
        listening = asyncio.start_server(lambda *streams: came.append(streams), *source, reuse_address=True)
        async with await listening:
            flow = site.machine.requests[0].flow
            assert flow.remote == source
            site.request(flow)
            assert [failure.cause for failure in site.machine.failures] == ["transport"]
            assert site.shell.connections == 0
            site.request(site.flow(source, Transport.TCP))
            await until(lambda: came)


@pytest.mark.parametrize("servers", [True, False])
@looped
async def test_a_response_whose_connection_is_gone_opens_one_to_the_via_of_servers_only(
    servers: bool,
) -> None:
    """RFC 3261 section 18.2.2 there, RFC 5626 section 3.1 here: a UE is reached over its own connection, and
    who has its address and port next is somebody else."""
    async with Site(servers=servers) as site, Site() as client:
        site.machine.answer = False
        invite = options(via=f"TCP {client.address}").replace(b"OPTIONS", b"INVITE")
        async with connected(site.address) as (_, writer):
            writer.write(invite)
            await until(lambda: site.machine.requests)
        await until(lambda: site.shell.connections == 0)
        transaction = site.machine.requests[0].transaction
        response = make_response(transaction.request, 200, to_tag="t")
        site.shell.run(site.machine.respond, transaction, response, time.monotonic())
        if servers:
            await until(lambda: client.machine.drops["response-unmatched"])  # it arrived
        else:
            assert site.shell.drops["no_connection"] == 1
            assert site.shell.connections == 0


@looped
async def test_what_is_for_a_peer_does_not_reach_the_next_who_comes_from_its_port() -> None:
    """As behind a NAT that gives ports to others."""
    source = Address("127.0.0.1", next(ports))
    async with Site() as site:
        site.machine.answer = False
        for number in range(2):
            with socket.socket() as peer:
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # no TIME_WAIT
                peer.bind(source)
                peer.connect(site.address)
                peer.settimeout(0.0)
                peer.sendall(options())
                await until(lambda number=number: len(site.machine.requests) == number + 1)
                if number:
                    before, now = (event.transaction for event in site.machine.requests)
                    for transaction in (before, now):
                        response = make_response(transaction.request, 200, to_tag="t")
                        site.shell.run(site.machine.respond, transaction, response, time.monotonic())
                    site.request(before.flow)
                    assert before.flow.remote == now.flow.remote
                    assert site.shell.drops["no_connection"] == 2
                    await until(lambda peer=peer, now=now: _holds_one(peer, now.request.call_id))
            await until(lambda: site.shell.connections == 0)


def _holds_one(peer: socket.socket, call_id: str) -> bool:
    """Whether a message has come, and it is this one and no other."""
    try:
        data = peer.recv(65536)
    except BlockingIOError:
        return False
    assert data.count(b"SIP/2.0 200 OK") == data.count(f"Call-ID: {call_id}\r\n".encode()) == 1
    assert b"OPTIONS sip:" not in data
    return True


@looped
async def test_a_silent_connection_is_closed_and_a_busy_one_stays() -> None:
    async with (
        Site(limits=ConnectionLimits(idle=1.0)) as site,
        connected(site.address) as (silent, _),
        connected(site.address) as (reader, writer),
    ):
        closed = asyncio.ensure_future(silent.read())
        while not closed.done():
            writer.write(options())
            assert (await read_message(reader)).startswith(b"SIP/2.0 200")
            await asyncio.sleep(0.02)
        assert site.shell.drops["tcp_idle_closed"] == 1
        assert site.shell.connections == 1


@looped
async def test_a_peer_that_does_not_read_is_cut_off() -> None:
    async with Site(limits=ConnectionLimits(write_buffer=100_000)) as site:
        with socket.socket() as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            server.bind(("127.0.0.1", next(ports)))
            server.listen()
            flow = site.flow(Address(*server.getsockname()), Transport.TCP)
            while not site.shell.drops["tcp_peer_too_slow"]:
                site.request(flow, b"x" * 50_000)
                await asyncio.sleep(0.001)
        await until(lambda: site.machine.failures)
        await until(lambda: site.machine.counts()["timers"] == 0)
        assert site.shell.connections == 0


@contextlib.contextmanager
def unread(count: int) -> Iterator[list[Address]]:
    """Addresses where connections are taken and nothing is read from them."""
    with contextlib.ExitStack() as servers:
        addresses = []
        for _ in range(count):
            server = servers.enter_context(socket.socket())
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            server.bind(("127.0.0.1", next(ports)))
            server.listen()
            addresses.append(Address(*server.getsockname()))
        yield addresses


@looped
async def test_of_many_peers_that_do_not_read_the_slowest_is_cut_off() -> None:
    """And whoever reads is not, however much that was."""
    limits = ConnectionLimits(write_buffer=10_000_000, write_buffers=1_000_000)
    async with Site(limits=limits) as site, Site() as reads:
        with unread(4) as slow:
            flows = [site.flow(each, Transport.TCP) for each in slow]
            while not site.shell.drops["tcp_peers_too_slow"]:
                site.request(flows[0], b"x" * 50_000)
                for flow in (*flows[1:], site.flow(reads.address, Transport.TCP)):
                    site.request(flow, b"x" * 10_000)
                await asyncio.sleep(0.001)
            await until(lambda: site.machine.failures)
            assert {failure.transaction.to for failure in site.machine.failures} == {flows[0]}
            assert site.shell.connections == 4
            assert site.shell.drops["tcp_peers_too_slow"] == 1
            for _ in range(200):
                before = len(site.machine.responses)
                site.request(site.flow(reads.address, Transport.TCP), b"x" * 50_000)
                await until(lambda: len(site.machine.responses) > before)  # noqa: B023
            assert site.shell.drops["tcp_peers_too_slow"] == 1


@looped
async def test_what_waits_for_connections_that_are_opened_counts_among_the_unread() -> None:
    limits = ConnectionLimits(write_buffer=10_000_000, write_buffers=120_000)
    async with Site(limits=limits) as site, Site() as reads:
        with unread(1) as (slow,):
            flow = site.flow(slow, Transport.TCP)
            for _ in range(4):
                site.request(flow, b"x" * 50_000)
            assert site.shell.drops["tcp_write_buffer_full"] == 2
            site.request(site.flow(reads.address, Transport.TCP), b"x" * 50_000)
            await until(lambda: site.machine.responses)


class Strict:
    """Counts, and hears nobody from `limit` on."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.counted = 0

    def standing(self, flow: Flow, kind: Kind, now: float, messages: int = 1) -> Standing:
        self.counted += messages
        return Standing.IGNORED if self.is_ignored(flow, now) else Standing.STRANGER

    def is_ignored(self, flow: Flow, now: float) -> bool:
        return self.counted > self.limit

    def is_full(self, now: float) -> bool:
        return False

    def is_open(self, key: Key) -> bool:
        return False


@looped
async def test_a_connection_and_what_comes_over_it_count_for_whoever_sends_it() -> None:
    judge = Strict(1000)
    async with Site(judge=judge) as site, connected(site.address) as (reader, writer):
        writer.write(options())
        await read_message(reader)
        assert judge.counted == 2
        for _ in range(5):
            writer.write(b"\r\n\r\n")
            assert await reader.readexactly(2) == b"\r\n"
        assert judge.counted == 7
        writer.write(b"\r\n\r\n" * 8192)
        assert await reader.readexactly(16384)
        assert judge.counted >= 7 + 8
        site.shell.drops.clear()


@looped
async def test_who_is_not_heard_is_not_read_and_does_not_come_again() -> None:
    judge = Strict(10)
    async with Site(judge=judge) as site, connected(site.address) as (reader, writer):
        writer.write(b"\r\n\r\n" * 65536)
        await until(lambda: judge.is_ignored(site.flow(site.address), 0.0))
        with contextlib.suppress(OSError, RuntimeError):  # the latter is uvloop's, of a closed connection
            writer.write(options() * 10)
            await asyncio.wait_for(reader.read(), 5)
        await until(lambda: site.shell.connections == 0)
        async with connected(site.address) as (again, _):
            with contextlib.suppress(ConnectionResetError):
                assert await asyncio.wait_for(again.read(), 5) == b""
        assert site.shell.drops["tcp_source_ignored"] == 1
        assert site.shell.drops["tcp_connections_too_fast"] == 1
        assert not site.machine.requests


@looped
async def test_who_floods_one_address_with_connections_does_not_cut_off_another() -> None:
    core = Address("127.0.0.1", next(ports))
    limits = ConnectionLimits(connections=10)
    async with (
        Site(limits=limits, also=[Listener(core, reserve=True)]) as site,
        Site() as other,
        contextlib.AsyncExitStack() as phones,
    ):
        for _ in range(12):
            await phones.enter_async_context(connected(site.address))
        await until(lambda: site.shell.drops["tcp_connections_full"] == 3)
        assert site.shell.connections == 9
        site.request(Flow(Transport.TCP, core, other.address))
        await until(lambda: site.machine.responses)
        assert site.shell.connections == 10


@looped
async def test_connections_over_the_limit_are_refused_in_both_directions() -> None:
    async with Site(limits=ConnectionLimits(connections=2)) as site, Site() as other:
        async with connected(site.address) as (one, writer), connected(site.address):
            writer.write(options())
            await read_message(one)
            async with connected(site.address) as (third, _):
                with contextlib.suppress(ConnectionResetError):
                    assert await asyncio.wait_for(third.read(), 5) == b""
            site.request(site.flow(other.address, Transport.TCP))
            assert [failure.cause for failure in site.machine.failures] == ["transport"]
            assert site.shell.drops["tcp_connections_full"] == 2
        await until(lambda: site.shell.connections == 0)
        site.request(site.flow(other.address, Transport.TCP))
        await until(lambda: site.machine.responses)
