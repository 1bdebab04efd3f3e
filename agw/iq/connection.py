"""The asyncio shell around a `Link`, the same at both ends; and how an Iq address is written and reached.

An address is "unix:PATH" or "tls:HOST:PORT" ("tls:[2001:db8::1]:2944"). TLS is always mutual: each side shows
a certificate and checks the other's against one CA, since keys and fingerprints cross Iq.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar, cast

from agw.errors import BadFrame
from agw.iq.messages import MAX_FRAME, FromController, FromGateway, Hello
from agw.iq.wire import SILENCE, Link

MAX_UNSENT = 4 * MAX_FRAME  # bytes that may wait for a peer that reads slowly

Received = TypeVar("Received")


@dataclass(frozen=True, slots=True)
class UnixAddress:
    path: Path


@dataclass(frozen=True, slots=True)
class TlsAddress:
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Certificates:
    """Paths of a gateway's PEM files: its certificate chain, its private key, and the CA that signs the
    controllers' certificates."""

    cert: str = ""
    key: str = ""
    ca: str = ""

    def context(self) -> ssl.SSLContext:
        """Raises OSError or ssl.SSLError where a file cannot be used."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(self.cert, self.key)
        context.load_verify_locations(self.ca)
        return context


def parse_address(text: str) -> UnixAddress | TlsAddress:
    """Raises ValueError, with what is wrong."""
    scheme, _, rest = text.partition(":")
    if scheme == "unix" and rest:
        return UnixAddress(Path(rest))
    host, _, port = rest.rpartition(":")
    if scheme == "tls" and host and port.isascii() and port.isdigit() and 0 < int(port) < 65536:
        return TlsAddress(host.removeprefix("[").removesuffix("]"), int(port))
    raise ValueError(f'{text!r} is neither "unix:PATH" nor "tls:HOST:PORT"')


class Connection(asyncio.Protocol, Generic[Received]):
    """Reads, writes and times one Link. Ends itself for every fault of the peer and says why, once.

    on_hello(hello) when the peer has greeted, then on_message(message) for each; on_end(reason) exactly once.
    """

    def __init__(
        self,
        make_link: Callable[[float], Link[Received]],
        on_hello: Callable[[Hello], None],
        on_message: Callable[[Received], None],
        on_end: Callable[[str], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._make_link = make_link
        self._on_hello = on_hello
        self._on_message = on_message
        self._on_end = on_end
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._ended = False
        self._unsent = False  # something waits for the end of this round of the loop
        self._link: Link[Received]  # from connection_made on
        self.peer: Hello | None = None  # once it has greeted

    def send(self, message: FromController | FromGateway) -> None:
        """Sends, or does nothing when the connection has ended. Raises UsageError as `encode`.

        What is sent in one round of the loop leaves together, so that it wakes the other side once.
        """
        if not self._ended:
            self._link.send(message, self._loop.time())
            if not self._unsent:
                self._unsent = True
                self._loop.call_soon(self._flush)

    def end(self, reason: str) -> None:
        """Close when what was sent has left; at once if that takes too long."""
        if self._ended:
            return
        if self._unsent and self._transport is not None:
            self._transport.write(self._link.to_send())
        self._ended = True
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._transport.close()
            self._timer = self._loop.call_later(SILENCE, self._transport.abort)
        self._on_end(reason)

    @property
    def heard(self) -> float:
        """The loop's time at which the last bytes came."""
        return self._link.heard

    # -- asyncio.Protocol --

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._link = self._make_link(self._loop.time())
        if self._ended:
            self._transport.close()
        else:
            self._tick()

    def data_received(self, data: bytes) -> None:
        if self._ended:
            return
        try:
            messages = self._link.receive(data, self._loop.time())
        except BadFrame as error:
            self.end(str(error))
            return
        if self.peer is None and self._link.peer is not None:
            self.peer = self._link.peer
            self._on_hello(self.peer)
        for message in messages:
            if not self._ended:
                self._on_message(message)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Exception | None) -> None:
        if self._ended:
            if self._timer is not None:
                self._timer.cancel()
            return
        self._transport = None
        self.end(f"connection lost: {error}" if error else "closed by the other side")

    # -- inside --

    def _flush(self) -> None:
        self._unsent = False
        if self._ended:
            return
        assert self._transport is not None
        self._transport.write(self._link.to_send())
        if self._transport.get_write_buffer_size() > MAX_UNSENT:
            self._transport.abort()
            self.end(f"more than {MAX_UNSENT} bytes unread by the other side")

    def _tick(self) -> None:
        now = self._loop.time()
        if self._link.dead(now):
            self.end(f"nothing heard for {SILENCE:.0f} s")
            return
        self._link.expire(now)
        self._flush()
        if not self._ended:
            self._timer = self._loop.call_at(self._link.timeout(), self._tick)
