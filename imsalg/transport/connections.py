"""TCP connections and what goes over them (TLS, WebSocket), accepted and opened, in one table by flow (RFC
3261 section 18).

A connection serves both directions however it came about: a response and a later request to the same flow go
over the connection that is there. What is sent to a flow without one opens it, and waits in it, within the
same limit as what a slow peer leaves unread; a connection that the peer had opened is not opened by us.

Where we would connect to with TLS, a peer that has connected to us may say by `alias` in its Via that it is
what listens there (RFC 5923). Then its connection is taken, if its certificate names whom we want; the host
is the one it came from, whatever it writes. What speaks no TLS can prove nothing, and is only the port it
came from.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable

from imsalg.intake import OF_ONE, Judge, Standing
from imsalg.sip.glance import Kind
from imsalg.sip.hop import Flow, Transport
from imsalg.sip.message import Request
from imsalg.sip.shares import Shares, source_of
from imsalg.sip.values import Address
from imsalg.transport.connection import Connection, ConnectionLimits
from imsalg.transport.framing import Framing, Plain, Received
from imsalg.transport.listener import Listener
from imsalg.transport.tls import Credentials, Tls
from imsalg.transport.udp import family_of
from imsalg.transport.websocket import WebSocket

CONNECT_LIMIT = 4.0  # seconds; timer B has patience for 32
BACKLOG = 512


class Connections:
    """on_received: called with the messages of one read and their flow. on_failed: with a flow to which
    something could not be delivered, and why. on_closed: with the flow of a connection that the peer had
    opened and that is gone. drops: counted into by named cause. judge: of who may connect and is read; None:
    everybody. What comes over a connection costs something before any message is found in it: each accepted
    one counts as a message, so does a read that brings none, and what is long counts by its length or by the
    frames of which nothing came."""

    def __init__(
        self,
        on_received: Callable[[list[Received], Flow], None],
        on_failed: Callable[[Flow, str], None],
        on_closed: Callable[[Flow], None],
        drops: Counter[str],
        limits: ConnectionLimits,
        judge: Judge | None = None,
    ) -> None:
        self.limits = limits
        self._judge = judge
        self._on_received, self._on_failed, self._on_closed = on_received, on_failed, on_closed
        self._drops = drops
        self._listeners: dict[Address, Listener] = {}
        self._credentials: dict[Address, Credentials] = {}
        self._servers: list[asyncio.Server] = []
        self._connections: set[Connection] = set()
        self._accepted = Shares(limits.per_source)
        self._by_flow: dict[Flow, Connection] = {}  # with the domain it was asked for, and without
        self._aliases: dict[Flow, Connection] = {}
        self._openings: dict[Flow, _Opening] = {}
        self._unsent = 0  # octets, as far as they are counted

    def __len__(self) -> int:
        return len(self._connections) + len(self._openings)

    async def listen(self, listener: Listener) -> None:
        """Raises OSError when the address cannot be had or a certificate cannot be used."""
        local, kind = listener.address, listener.stream
        self._listeners[local] = listener
        if listener.tls is not None:
            self._credentials[local] = Credentials(listener.tls)
        if kind is None:
            return
        server = await asyncio.get_running_loop().create_server(
            lambda: self._connection(kind, local), local.host, local.port, backlog=BACKLOG, reuse_address=True
        )
        self._servers.append(server)

    def reload(self) -> None:
        """Read the certificates again, for the connections to come."""
        for credentials in self._credentials.values():
            credentials.reload()

    def send(self, flow: Flow, data: bytes) -> None:
        connection = self._by_flow.get(flow)
        if connection is None and flow.transport is Transport.TCP:
            connection = self._opened_by_peer(flow)
        if connection is not None:
            connection.send(data)
            return
        opening = self._openings.get(flow)
        if opening is None:
            listener = self._listeners.get(flow.local)  # none: of an address we had before a restart
            if flow.accepted or listener is None or not listener.opens(flow.transport):
                self._drops["no_connection"] += 1
                self._on_failed(flow, f"no {flow.transport} connection is there, and none is opened")
                self._on_closed(flow)
                return
            if self._is_full(flow.local):
                self._drops["tcp_connections_full"] += 1
                self._on_failed(flow, "too many connections")
                return
            opening = self._openings[flow] = _Opening()
            opening.task = asyncio.create_task(self._open(flow, opening))
        full = opening.size + len(data) > self.limits.write_buffer or not self._has_room(len(data))
        if full and opening.waiting:
            self._drops["tcp_write_buffer_full"] += 1
            return  # what waits in front fails or succeeds for it
        opening.waiting.append(data)
        opening.size += len(data)
        self._unsent += len(data)

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

    def _opened_by_peer(self, flow: Flow) -> Connection | None:
        """Who is to be connected to may be there already, from that very port (RFC 3261 section 18)."""
        connection = self._aliases.get(flow)
        if connection is not None:
            self._by_flow[flow] = connection
            connection.flows.add(flow)
        return connection

    def _has_room(self, size: int) -> bool:
        """For so many octets more among all that wait. Who leaves most of them unread is cut off for it.
        Nobody tells when some have left; that is looked at here."""
        limit = self.limits.write_buffers
        if self._unsent + size <= limit:
            return True
        waiting = [connection for connection in self._connections if connection.counted]
        for connection in waiting:
            self._count(connection.unsent, connection)
        while self._unsent + size > limit and any(connection.counted for connection in waiting):
            max(waiting, key=lambda connection: connection.counted).cut_off("tcp_peers_too_slow")
        return self._unsent + size <= limit

    def _count(self, size: int, connection: Connection) -> None:
        self._unsent += size - connection.counted
        connection.counted = size

    def _is_full(self, local: Address) -> bool:
        """Who floods one address with connections, or has us open them, shall not cut off the others."""
        kept = 0 if self._listeners[local].reserve else self.limits.connections // 10
        return len(self) >= self.limits.connections - kept

    async def _open(self, flow: Flow, opening: _Opening) -> None:
        error = ""
        try:
            connection = await self._connect(flow)
        except (OSError, TimeoutError) as failure:
            error = str(failure) or "connection timed out"
        finally:
            del self._openings[flow]
            self._unsent -= opening.size
        if error:
            self._drops["tcp_connect_failed"] += 1
            self._on_failed(flow, error)
            return
        connection.flows |= {flow, connection.flow}
        if connection in self._connections:
            self._by_flow[flow] = connection
            self._by_flow.setdefault(connection.flow, connection)
        for data in opening.waiting:
            connection.send(data)

    async def _connect(self, flow: Flow) -> Connection:
        """With TLS, the peer shows that it is whom the flow names (RFC 5922 section 7.3)."""
        if family_of(flow.remote.host) != family_of(flow.local.host):
            raise OSError("another address family than ours")
        name = flow.domain or flow.remote.host
        place = flow._replace(domain="")
        for there in (self._by_flow.get(place), self._aliases.get(place)):
            if there is not None and (not flow.transport.secure or there.is_of(name)):
                return there
        async with asyncio.timeout(CONNECT_LIMIT):
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: self._connection(flow.transport, flow.local, flow.remote, name),
                flow.remote.host,
                flow.remote.port,
                local_addr=(flow.local.host, 0),
            )
            try:
                await connection.ready
            except TimeoutError:
                connection.abort()
                raise
        return connection

    def _connection(
        self, kind: Transport, local: Address, remote: Address | None = None, name: str | None = None
    ) -> Connection:
        credentials = self._credentials[local] if kind.secure else None
        framing: Framing = Plain()
        if kind in (Transport.WS, Transport.WSS):
            framing = WebSocket(self._listeners[local].path)

        def tls() -> Tls:
            assert credentials is not None
            return Tls(credentials.server() if name is None else credentials.client(), name)

        return Connection(self, kind, local, framing, tls if credentials else None, remote, name)

    # -- told by the connections -----------------------------------------------------------------------------

    def made(self, connection: Connection) -> bool:
        """One that we opened is counted among the openings already, and is in the table when it is ready."""
        if connection.accepted:
            if self._is_full(connection.flow.local):
                self._drops["tcp_connections_full"] += 1
                return False
            source = source_of(connection.flow.remote.host)
            if self._accepted.full(source):
                self._drops["tcp_connections_of_source_full"] += 1
                return False
            if self._counts(connection.flow, 1) in (Standing.REFUSED, Standing.IGNORED):
                self._drops["tcp_connections_too_fast"] += 1
                return False
            self._accepted.take(source)
            self._by_flow[connection.flow] = connection
            connection.flows.add(connection.flow)
            if connection.flow.transport is Transport.TCP:
                self._take_alias(connection, connection.flow.remote.port)
        self._connections.add(connection)
        return True

    def hears(self, connection: Connection) -> bool:
        if self._judge is None or not self._judge.is_ignored(connection.flow, time.monotonic()):
            return True
        self._drops["tcp_source_ignored"] += 1
        return False

    def read(self, size: int, messages: list[Received], idle: int, connection: Connection) -> None:
        if cost := max(size // OF_ONE + (not messages), idle):
            self._counts(connection.flow, cost)
        if messages:
            if connection.accepted and connection.alias is None:
                self._look_for_alias(messages[0], connection)
            self._on_received(messages, connection.flow)

    def failed(self, connection: Connection, error: str) -> None:
        for flow in connection.flows:
            self._on_failed(flow, error)

    def dropped(self, cause: str) -> None:
        self._drops[cause] += 1

    def waits(self, size: int, connection: Connection) -> None:
        self._count(size, connection)
        if size:
            self._has_room(0)

    def forget(self, connection: Connection) -> None:
        """What is sent from here on opens another."""
        for flow in connection.flows:
            if self._by_flow.get(flow) is connection:
                del self._by_flow[flow]
        if connection.alias is not None and self._aliases.get(connection.alias) is connection:
            del self._aliases[connection.alias]

    def lost(self, connection: Connection) -> None:
        if connection not in self._connections:
            return  # there were too many
        self._count(0, connection)
        self._connections.discard(connection)
        self.forget(connection)
        if connection.accepted:
            self._accepted.give_back(source_of(connection.flow.remote.host))
            self._on_closed(connection.flow)

    def _counts(self, flow: Flow, messages: int) -> Standing:
        """Of who sends what costs as much as so many messages."""
        if self._judge is None:
            return Standing.KNOWN
        return self._judge.standing(flow, Kind.OTHER, time.monotonic(), messages)

    def _look_for_alias(self, message: Received, connection: Connection) -> None:
        """RFC 5923 section 8.2. A peer listens at one port, and says so with the first that it sends."""
        flow = connection.flow
        if flow.transport is not Transport.TLS or not self._listeners[flow.local].opens(flow.transport):
            return
        if isinstance(message, Request) and message.via.param("alias") is not None:
            self._take_alias(connection, message.via.port or flow.transport.default_port)

    def _take_alias(self, connection: Connection, port: int) -> None:
        flow = connection.flow
        connection.alias = Flow(flow.transport, flow.local, Address(flow.remote.host, port))
        self._aliases[connection.alias] = connection  # the latest, as the others may be dead


class _Opening:
    """What waits for a connection."""

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.waiting: list[bytes] = []
        self.size = 0
