"""TCP connections, accepted and opened, in one table by flow (RFC 3261 section 18).

A connection serves both directions however it came about: a response and a later request to the same flow go
over the connection that is there. What is sent to a flow without one opens it, and waits in it, within the
same limit as what a slow peer leaves unread.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from imsalg.errors import BadMessage
from imsalg.sip.endpoint import Flow, Transport
from imsalg.sip.message import Request, Response
from imsalg.sip.stream import Stream
from imsalg.sip.values import Address
from imsalg.transport.resolver import ResolveError, Resolver, family_of, is_numeric

CONNECT_LIMIT = 4.0  # seconds until the next address is tried; timer B has patience for 32
BACKLOG = 512

Received = Request | Response | BadMessage


@dataclass(frozen=True, slots=True)
class TcpLimits:
    """connections: accepted and opened together. idle: seconds of silence in both directions after which one
    is closed. write_buffer: octets that may wait for a slow peer, or for a connection that is being
    opened. first: seconds in which one that was accepted brings something whole; a message or keep-alive,
    as all that counts against silence."""

    connections: int = 1000
    idle: float = 600.0
    write_buffer: int = 1024 * 1024
    first: float = 30.0


class TcpConnections:
    """received: called with the messages of one read and their flow. failed: with a flow to which something
    could not be delivered, and why. drops: counted into by named cause."""

    def __init__(
        self,
        received: Callable[[list[Received], Flow], None],
        failed: Callable[[Flow, str], None],
        drops: Counter[str],
        limits: TcpLimits,
        resolver: Resolver,
    ) -> None:
        self.received = received
        self.failed = failed
        self.drops = drops
        self.limits = limits
        self._resolver = resolver
        self._servers: list[asyncio.Server] = []
        self._connections: set[_Connection] = set()
        self._by_flow: dict[
            Flow, _Connection
        ] = {}  # under the name it was asked for, and the numeric address
        self._openings: dict[Flow, _Opening] = {}

    def __len__(self) -> int:
        return len(self._connections) + len(self._openings)

    async def listen(self, local: Address) -> None:
        """Raises OSError when the address cannot be had."""
        server = await asyncio.get_running_loop().create_server(
            lambda: _Connection(self, local), local.host, local.port, backlog=BACKLOG, reuse_address=True
        )
        self._servers.append(server)

    def send(self, flow: Flow, data: bytes) -> None:
        connection = self._by_flow.get(flow)
        if connection is not None:
            connection.send(data)
            return
        opening = self._openings.get(flow)
        if opening is None:
            if len(self) >= self.limits.connections:
                self.drops["tcp_connections_full"] += 1
                self.failed(flow, "too many connections")
                return
            opening = self._openings[flow] = _Opening()
            opening.task = asyncio.create_task(self._open(flow, opening))
        if opening.size + len(data) > self.limits.write_buffer:
            self.drops["tcp_write_buffer_full"] += 1
            return  # what waits in front fails or succeeds for it
        opening.waiting.append(data)
        opening.size += len(data)

    async def close(self) -> None:
        """Stops listening, gives what was sent a moment to leave, and closes every connection."""
        for server in self._servers:
            server.close()
        openings = [opening.task for opening in self._openings.values() if opening.task]
        for task in openings:
            task.cancel()
        await asyncio.gather(*openings, return_exceptions=True)
        for connection in list(self._connections):
            connection.close()
        for _ in range(20):
            if not self._connections:
                return
            await asyncio.sleep(0.01)
        for connection in list(self._connections):
            connection.abort()

    async def _open(self, flow: Flow, opening: _Opening) -> None:
        error = ""
        try:
            connection = await self._connect(flow)
        except (OSError, ResolveError, TimeoutError) as failure:
            error = str(failure) or "connection timed out"
        finally:
            del self._openings[flow]
        if error:
            self.drops["tcp_connect_failed"] += 1
            self.failed(flow, error)
            return
        if connection in self._connections:
            self._by_flow[flow] = connection
        for data in opening.waiting:
            connection.send(data)

    async def _connect(self, flow: Flow) -> _Connection:
        """Each address of the name in turn (RFC 3263 section 4.3)."""
        family = family_of(flow.local.host)
        hosts: tuple[str, ...] = (flow.remote.host,)
        if not is_numeric(flow.remote.host):
            hosts = await self._resolver.addresses(flow.remote.host, family)
        elif family_of(flow.remote.host) != family:
            raise OSError("another address family than ours")
        error: OSError | TimeoutError = OSError("no address")
        for host in hosts:
            there = self._by_flow.get(Flow(Transport.TCP, flow.local, Address(host, flow.remote.port)))
            if there is not None:
                return there
            try:
                return await self._connect_to(flow.local, Address(host, flow.remote.port))
            except (OSError, TimeoutError) as failure:
                error = failure
        raise error

    async def _connect_to(self, local: Address, remote: Address) -> _Connection:
        async with asyncio.timeout(CONNECT_LIMIT):
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: _Connection(self, local, remote), remote.host, remote.port, local_addr=(local.host, 0)
            )
        return connection

    # -- told by the connections -----------------------------------------------------------------------------

    def made(self, connection: _Connection, *, accepted: bool) -> bool:
        """False when there are too many; one that we opened is counted among the openings already."""
        if accepted and len(self) >= self.limits.connections:
            self.drops["tcp_connections_full"] += 1
            return False
        self._connections.add(connection)
        self._by_flow[connection.flow] = connection
        return True

    def lost(self, connection: _Connection) -> None:
        self._connections.discard(connection)
        self.forget(connection)

    def forget(self, connection: _Connection) -> None:
        """What is sent from here on opens another."""
        for flow in [flow for flow, other in self._by_flow.items() if other is connection]:
            del self._by_flow[flow]


class _Opening:
    """What waits for a connection."""

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.waiting: list[bytes] = []
        self.size = 0


class _Connection(asyncio.Protocol):
    flow: Flow

    def __init__(self, table: TcpConnections, local: Address, remote: Address | None = None) -> None:
        self._table = table
        self._local = local
        self._remote = remote
        self._stream = Stream()
        self._transport: asyncio.Transport
        self._used = time.monotonic()
        self._heard = remote is not None
        self._idle_timer: asyncio.TimerHandle | None = None

    def send(self, data: bytes) -> None:
        if self._transport.is_closing():
            self._table.failed(self.flow, "connection closed")
            return
        if self._transport.get_write_buffer_size() + len(data) > self._table.limits.write_buffer:
            self._table.drops["tcp_peer_too_slow"] += 1
            self.abort()
            self._table.failed(self.flow, "peer does not read")
            return
        self._used = time.monotonic()
        self._transport.write(data)

    def close(self) -> None:
        """When what waits is sent; the flow has no connection from here on."""
        self._table.forget(self)
        self._transport.close()

    def abort(self) -> None:
        """At once; what waits to be sent is lost."""
        self._table.forget(self)
        self._transport.abort()

    # -- asyncio.Protocol ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        remote = self._remote or (Address(peer[0], peer[1]) if peer else Address("0.0.0.0", 0))
        self.flow = Flow(Transport.TCP, self._local, remote)
        if not self._table.made(self, accepted=self._remote is None):
            self._transport.abort()
            return
        self._check_idle()

    def data_received(self, data: bytes) -> None:
        self._stream.feed(data)
        received: list[Received] = []
        while not self._stream.broken:
            try:
                message = self._stream.next_message()
            except BadMessage as error:
                received.append(error)
                continue
            if message is None:
                break
            received.append(message)
        if received or self._stream.pongs:
            self._used, self._heard = time.monotonic(), True
        if self._stream.pongs:
            pongs, self._stream.pongs = self._stream.pongs, 0
            self.send(b"\r\n" * pongs)  # RFC 5626 section 3.5.1
        if received:
            self._table.received(received, self.flow)

        if self._stream.broken:
            self.close()  # where the next message would begin is not known (RFC 3261 section 18.3)

    def connection_lost(self, error: Exception | None) -> None:
        if self._idle_timer:
            self._idle_timer.cancel()
        self._table.lost(self)
        if error is not None:
            self._table.failed(self.flow, str(error))

    def _check_idle(self) -> None:
        limits = self._table.limits
        patience = limits.idle if self._heard else min(limits.first, limits.idle)
        left = self._used + patience - time.monotonic()
        if left <= 0:
            self._table.drops["tcp_idle_closed"] += 1
            self.close()
            return
        self._idle_timer = asyncio.get_running_loop().call_later(left, self._check_idle)
