"""One connection: TCP, then TLS where the transport says so, then the framing of messages.

It is closed when it is silent for too long, when something that was begun (a handshake, a message) is not
whole in time, and when the peer does not read. What counts against silence is whole: a message, a keep-alive;
not octets.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast

from imsalg.sip.hop import Flow, Transport
from imsalg.sip.values import Address
from imsalg.transport.framing import Framing, Received
from imsalg.transport.tls import Tls, TlsError

PINGS = 3  # without an answer: the peer is gone
LINGER = 5.0  # seconds in which what was sent last may still leave

_numbers = itertools.count(time.time_ns())  # of what is accepted; no process has one of those before it


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """connections: accepted and opened together, a tenth of them kept for listeners with a `reserve`.
    per_source: accepted from one address. idle: seconds of silence in both directions after which one is
    closed. first: seconds in which one that was accepted brings something whole, and a message that was begun
    its end. write_buffer: octets that may wait for a slow peer, or for a connection that is being opened;
    write_buffers: for all of them together."""

    connections: int = 1000
    per_source: int = 1000
    idle: float = 600.0
    first: float = 30.0
    write_buffer: int = 1024 * 1024
    write_buffers: int = 64 * 1024 * 1024


class Table(Protocol):
    """Whom a connection tells what becomes of it."""

    limits: ConnectionLimits

    def made(self, connection: Connection) -> bool:
        """False when there are too many."""

    def hears(self, connection: Connection) -> bool:
        """Whether what comes on it is looked at; else it is closed."""

    def read(self, size: int, messages: list[Received], idle: int, connection: Connection) -> None:
        """So many octets came, and these messages in them. idle: see `Framing`."""

    def failed(self, connection: Connection, error: str) -> None:
        """Something that was sent may not have arrived."""

    def dropped(self, cause: str) -> None:
        """Counted under this name."""

    def waits(self, size: int, connection: Connection) -> None:
        """So many octets wait to be sent on it, or fewer by now."""

    def forget(self, connection: Connection) -> None:
        """Nothing is sent on it from here on."""

    def lost(self, connection: Connection) -> None: ...


class Connection(asyncio.Protocol):
    """flow: from connection_made on. flows: all the names it is sent to by. accepted: the peer opened it.
    alias: the flow by which we would connect to what the peer is (RFC 3261 section 18, RFC 5923). ready: done
    when it may be sent on; raises OSError when that is not to be. counted: octets that wait to be sent on it,
    as the table has them."""

    flow: Flow

    def __init__(
        self,
        table: Table,
        transport: Transport,
        local: Address,
        framing: Framing,
        make_tls: Callable[[], Tls] | None,
        remote: Address | None = None,
        name: str | None = None,
    ) -> None:
        """remote: whom we connect to; None: we were connected to."""
        self.accepted = remote is None
        self.flows: set[Flow] = set()
        self.alias: Flow | None = None
        self.counted = 0
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._table = table
        self._kind, self._local, self._remote = transport, local, remote
        self._name = name
        self._framing = framing
        self._make_tls = make_tls
        self._tls: Tls | None = None
        self._transport: asyncio.Transport
        self._used = time.monotonic()
        self._begun: float | None = self._used  # since when something whole is waited for
        self._ping_at = self._used + framing.ping_every
        self._timer: asyncio.TimerHandle | None = None
        self._error = ""  # why we end it, if it fails what was sent

    def is_of(self, name: str) -> bool:
        """Whether the peer has shown with TLS that it is this domain or address."""
        if self._name is not None:  # else there would be no connection
            return name == self._name
        return self._tls is not None and self._tls.shows(name)

    def send(self, message: bytes) -> None:
        if self._transport.is_closing():
            self._table.failed(self, "connection closed")
            return
        self._used = time.monotonic()
        self._write(self._framing.frame(message))

    def close(self) -> None:
        """When what waits is sent; the flow has no connection from here on."""
        self._table.forget(self)
        if self._transport.is_closing():
            return
        self._framing.close()
        self._write(self._framing.take())
        if self._tls is not None:
            self._tls.close()
            self._flush_tls(self._tls)
        self._transport.close()
        self._linger()

    def abort(self) -> None:
        """At once; what waits to be sent is lost."""
        self._table.forget(self)
        self._transport.abort()
        self._table.waits(0, self)

    @property
    def unsent(self) -> int:
        """Octets that wait to be sent."""
        return self._transport.get_write_buffer_size() if self.counted else 0

    def cut_off(self, cause: str) -> None:
        """Its peer leaves too much unread."""
        self._table.dropped(cause)
        self._error = "peer does not read"
        self.abort()

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        remote = self._remote or (Address(peer[0], peer[1]) if peer else Address("0.0.0.0", 0))
        number = next(_numbers) if self.accepted else 0
        self.flow = Flow(self._kind, self._local, remote, accepted=number)
        if not self._table.made(self):
            self._transport.abort()
            return
        self._tend()
        try:
            if self._make_tls is not None:
                self._tls = self._make_tls()
                self._flush_tls(self._tls)
        except (TlsError, ValueError) as error:  # ValueError: a name that can be no server's
            self._fail(str(error))
            return
        if self._tls is None:
            self._begin()

    def data_received(self, data: bytes) -> None:
        if self._transport.is_closing():
            return
        if not self._table.hears(self):
            self.abort()
            return
        size = len(data)
        if self._tls is not None:
            try:
                data = self._tls.receive(data)
            except TlsError as error:
                self._flush_tls(self._tls)  # an alert
                self._fail(str(error))
                return
            self._flush_tls(self._tls)
            if self._tls.up and not self.ready.done():
                self._begin()
        messages = self._plain_received(data) if data else []
        self._table.read(size, messages, self._framing.idle, self)
        if (self._tls is not None and self._tls.ended) or self._framing.ended:
            self.close()

    def connection_lost(self, error: Exception | None) -> None:
        if self._timer:
            self._timer.cancel()
        why = self._error or (str(error) if error else "")
        if not self.ready.done():
            self.ready.set_exception(OSError(why or "connection closed"))
            self.ready.exception()  # nobody need ask
        self._table.lost(self)
        if why:
            self._table.failed(self, why)

    # -- inside

    def _begin(self) -> None:
        """It may be sent on."""
        self.ready.set_result(None)
        if not self.accepted:
            self._begun = None

    def _plain_received(self, data: bytes) -> list[Received]:
        received = self._framing.receive(data)
        if self._framing.alive:
            self._framing.alive = False
            self._used, self._begun = time.monotonic(), None
        elif self._begun is None:
            self._begun = time.monotonic()
            self._tend()
        self._write(self._framing.take())
        return received

    def _write(self, data: bytes) -> None:
        if not data or self._transport.is_closing():
            return
        if self._tls is None:
            self._put(data)
            return
        try:
            self._tls.send(data)
        except TlsError as error:
            self._fail(str(error))
        else:
            self._flush_tls(self._tls)

    def _flush_tls(self, tls: Tls) -> None:
        self._put(tls.take())

    def _put(self, data: bytes) -> None:
        """On the wire, or where it waits for that."""
        if not data or self._transport.is_closing():
            return
        waiting = self._transport.get_write_buffer_size() + len(data)
        if waiting > self._table.limits.write_buffer:
            self.cut_off("tcp_peer_too_slow")
        else:
            self._transport.write(data)
            self._table.waits(waiting, self)

    def _fail(self, why: str) -> None:
        self._table.dropped("tls_failed")
        self._error = f"TLS: {why}"
        self._table.forget(self)
        self._transport.close()  # when the alert is sent
        self._linger()

    def _linger(self) -> None:
        """A peer that does not read shall not hold what is closed."""
        if self._timer:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(LINGER, self._transport.abort)

    def _tend(self) -> None:
        """Close it if it is time to, else look again when it may be."""
        if self._timer:
            self._timer.cancel()
        limits, now, ping_every = self._table.limits, time.monotonic(), self._framing.ping_every
        until = self._used + (min(limits.idle, PINGS * ping_every) if ping_every else limits.idle)
        if self._begun is not None:
            until = min(until, self._begun + limits.first)
        if until <= now:
            self._table.dropped("tcp_idle_closed")
            self.close()
            return
        if ping_every:
            if now >= self._ping_at:
                self._ping_at = now + ping_every
                self._framing.ping()
                self._write(self._framing.take())
            until = min(until, self._ping_at)
        self._timer = asyncio.get_running_loop().call_later(until - now, self._tend)
