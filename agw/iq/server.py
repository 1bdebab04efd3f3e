"""The gateway's end of Iq: several controllers at once, each in one connection, none able to harm another."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import stat
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from agw.errors import UsageError
from agw.iq.connection import Certificates, Connection, UnixAddress, parse_address
from agw.iq.listener import TlsListener
from agw.iq.messages import (
    VERSION,
    ErrorCode,
    ErrorReply,
    FromController,
    Hello,
    Notice,
    Reply,
    Request,
)
from agw.iq.wire import HEARTBEAT, Link, gateway_link

MAX_CONNECTIONS = 64
MAX_UNREAD = 10_000  # notices of one controller

log = logging.getLogger(__name__)
_Connection = Connection[FromController]


class Server:
    """Tells its owner what controllers want; `name` is always the controller's.

    on_up(hello): it has greeted. on_request(name, request): gives what to answer. on_down(name, reason,
    unread): the notices that it may not have read, for a connection may be dead long before that shows.
    A controller that greets under the name of another connection takes its place: the older one is closed. A
    request that on_request fails on ends its connection, with a line in the log.
    """

    def __init__(
        self,
        *,
        name: str,
        incarnation: str,
        realms: tuple[str, ...],
        on_up: Callable[[Hello], None],
        on_request: Callable[[str, Request], Reply | ErrorReply],
        on_down: Callable[[str, str, list[Notice]], None],
    ) -> None:
        self._own = Hello(VERSION, name, incarnation, realms=realms)
        self._on_up = on_up
        self._on_request = on_request
        self._on_down = on_down
        self._connections: set[_Connection] = set()
        self._controllers: dict[str, _Controller] = {}
        self._server: asyncio.Server | None = None
        self._tls: TlsListener | None = None
        self._socket_file: Path | None = None

    async def start(self, address: str, certificates: Certificates | None = None) -> None:
        """Listens on "unix:PATH" or "tls:HOST:PORT". Raises ValueError, OSError, ssl.SSLError."""
        match parse_address(address):
            case UnixAddress(path):
                listener = _unix_listener(path)
                self._socket_file = path
                loop = asyncio.get_running_loop()
                self._server = await loop.create_unix_server(self._accept, sock=listener)
            case tls:
                context = (certificates or Certificates()).context()
                self._tls = TlsListener(self._accept, context)
                await self._tls.start(tls.host, tls.port)

    def notify(self, controller: str, notice: Notice) -> bool:
        """False if that controller is not connected; the notice is not kept."""
        if (there := self._controllers.get(controller)) is None:
            return False
        there.connection.send(notice)
        there.told.append((asyncio.get_running_loop().time(), notice))
        there.forget_read()
        return True

    async def close(self) -> None:
        """Ends every connection, without on_down, and leaves no socket file."""
        if self._server is not None:
            self._server.close()
        if self._tls is not None:
            await self._tls.close()
        self._controllers.clear()
        for connection in tuple(self._connections):
            connection.end("the gateway ends")
        if self._socket_file is not None:
            self._socket_file.unlink(missing_ok=True)

    # -- inside --

    def _accept(self) -> asyncio.Protocol:
        def opened(now: float) -> Link[FromController]:
            self._connections.add(connection)
            if len(self._connections) > MAX_CONNECTIONS:
                connection.end(f"more than {MAX_CONNECTIONS} connections")
            return gateway_link(self._own, now)

        connection: _Connection = Connection(
            opened,
            lambda hello: self._greeted(connection, hello),
            lambda message: self._received(connection, message),
            lambda reason: self._ended(connection, reason),
        )
        return connection

    def _greeted(self, connection: _Connection, hello: Hello) -> None:
        if (older := self._controllers.get(hello.name)) is not None:
            older.connection.end("a newer connection has its name")
        self._controllers[hello.name] = _Controller(connection)
        self._on_up(hello)

    def _received(self, connection: _Connection, message: FromController) -> None:
        assert connection.peer is not None
        if not isinstance(message, Request):
            return
        try:
            answer = self._on_request(connection.peer.name, message)
        except Exception:
            log.exception("iq: request %d of %s failed", message.id, connection.peer.name)
            connection.end("a fault of the gateway")
            return
        try:
            connection.send(answer)
        except UsageError:  # only an audit can be so large
            connection.send(ErrorReply(message.id, ErrorCode.OVERLOAD, "the reply fills more than a frame"))

    def _ended(self, connection: _Connection, reason: str) -> None:
        self._connections.discard(connection)
        peer = connection.peer
        log.info("%-8s %-12s %-20s %s", "down", peer.name if peer else "(no name)", "", reason)
        if peer is None or (there := self._controllers.get(peer.name)) is None:
            return
        if there.connection is connection:
            del self._controllers[peer.name]
            there.forget_read()
            self._on_down(peer.name, reason, [notice for _, notice in there.told])


@dataclass(slots=True)
class _Controller:
    """told: when, the last notices. What it was told well before it was last heard it has read: longer than
    between two signs of life nothing is under way."""

    connection: _Connection
    told: deque[tuple[float, Notice]] = field(default_factory=lambda: deque(maxlen=MAX_UNREAD))

    def forget_read(self) -> None:
        while self.told and self.told[0][0] < self.connection.heard - HEARTBEAT:
            self.told.popleft()


def _unix_listener(path: Path) -> socket.socket:
    """A listening socket that only our user may connect to. A file left by a dead process is replaced; raises
    OSError if somebody answers on it, or if it is no socket."""
    if path.exists():
        if not stat.S_ISSOCK(path.stat().st_mode):
            raise FileExistsError(f"{path} exists and is no socket")
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1.0)
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()
            else:
                raise FileExistsError(f"somebody listens on {path}")
    listener = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)  # the file is never wider than 0600, not even for a moment
    try:
        listener.bind(str(path))
    except OSError as error:
        listener.close()
        missing = isinstance(error, FileNotFoundError)
        why = "its directory is not there; make it first" if missing else error.strerror
        raise OSError(error.errno, f"cannot listen on {path}: {why}") from None
    finally:
        os.umask(before)
    return listener
