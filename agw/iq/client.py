"""The controller's end of Iq: one connection to one gateway, made again whenever it is lost."""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from agw.iq.connection import Connection, TlsAddress, parse_address
from agw.iq.messages import VERSION, ErrorReply, FromGateway, Hello, Notice, Reply, Request
from agw.iq.wire import controller_link

FIRST_DELAY = 0.1  # seconds before the first new attempt; doubled with each, up to
MAX_DELAY = 5.0
CONNECT_TIMEOUT = 5.0  # for the connection with its TLS handshake, and again for the gateway's Hello

log = logging.getLogger(__name__)
Argument = TypeVar("Argument")


class Client:
    """Run `run()` in a task. All callbacks come from that task's loop and may call `send`.

    address: "unix:PATH" or "tls:HOST:PORT". tls: for the latter, asked for the context of each connection,
    which also sees whom the gateway's certificate names.
    claims: asked at each greeting for the contexts the controller still owns.
    on_up(hello): the gateway's Hello has come. on_down(reason): the connection is lost, or the first attempt
    failed; called once, then not again before the next on_up.
    Raises ValueError for a wrong address, or one of TLS without that.
    """

    def __init__(
        self,
        address: str,
        *,
        name: str,
        incarnation: str,
        claims: Callable[[], tuple[str, ...]],
        on_up: Callable[[Hello], None],
        on_down: Callable[[str], None],
        on_message: Callable[[Reply | ErrorReply | Notice], None],
        tls: Callable[[], ssl.SSLContext] | None = None,
    ) -> None:
        self._address = parse_address(address)
        if isinstance(self._address, TlsAddress) and tls is None:
            raise ValueError(f"{address} without certificates")
        self._tls = tls
        self._name = name
        self._incarnation = incarnation
        self._claims = claims
        self._on_up = on_up
        self._on_down = on_down
        self._on_message = on_message
        self._connection: Connection[FromGateway] | None = None
        self._up = False
        self._told_down = False
        self._closed = asyncio.Event()

    def send(self, request: Request) -> bool:
        """False if there is no connection; the request is not kept. Raises UsageError if it is too large."""
        if not self._up or self._connection is None:
            return False
        self._connection.send(request)
        return True

    async def run(self) -> None:
        """Until close(), or cancelled. No fault of the gateway or of a callback ends it."""
        loop = asyncio.get_running_loop()
        delay = FIRST_DELAY
        while not self._closed.is_set():
            began = loop.time()
            try:
                reason = await self._connection_from_begin_to_end()
            except OSError as error:  # also of TLS, of time-outs and of names that do not resolve
                reason = str(error) or type(error).__name__
            except Exception as error:
                log.exception("iq: unexpected")
                reason = type(error).__name__
            self._down(reason)
            if loop.time() - began > 2 * MAX_DELAY:
                delay = FIRST_DELAY  # it had stood for a while
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closed.wait(), delay * random.uniform(0.5, 1.0))
            delay = min(2 * delay, MAX_DELAY)

    async def close(self) -> None:
        """Ends the connection and run(), without a further callback."""
        self._closed.set()
        if self._connection is not None:
            self._connection.end("closed here")

    # -- inside --

    async def _connection_from_begin_to_end(self) -> str:
        """Gives why it ended. Raises OSError if it could not be made."""
        loop = asyncio.get_running_loop()
        greeted: asyncio.Future[str] = loop.create_future()
        ended: asyncio.Future[str] = loop.create_future()

        def on_hello(hello: Hello) -> None:
            greeted.set_result(hello.name)
            self._up, self._told_down = True, False
            self._call(self._on_up, hello)

        def on_end(reason: str) -> None:
            self._connection = None
            if not ended.done():
                ended.set_result(reason)

        own = Hello(VERSION, self._name, self._incarnation, claims=self._claims())
        connection: Connection[FromGateway] = Connection(
            lambda now: controller_link(own, now), on_hello, self._receive, on_end
        )
        self._connection = connection
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                if isinstance(self._address, TlsAddress):
                    assert self._tls is not None
                    host, port = self._address.host, self._address.port
                    await loop.create_connection(lambda: connection, host, port, ssl=self._tls())
                else:
                    await loop.create_unix_connection(lambda: connection, str(self._address.path))
            await asyncio.wait((greeted, ended), timeout=CONNECT_TIMEOUT, return_when="FIRST_COMPLETED")
            if not greeted.done():
                connection.end("no greeting in time")
            return await ended
        finally:
            connection.end("given up")

    def _receive(self, message: FromGateway) -> None:
        if isinstance(message, Reply | ErrorReply | Notice):
            self._call(self._on_message, message)

    def _down(self, reason: str) -> None:
        self._up = False
        if not self._told_down:
            self._told_down = True
            self._call(self._on_down, reason)

    def _call(self, callback: Callable[[Argument], None], argument: Argument) -> None:
        """A callback that fails costs one message, not the connection."""
        if self._closed.is_set():
            return
        try:
            callback(argument)
        except Exception:
            log.exception("iq: a callback failed")
