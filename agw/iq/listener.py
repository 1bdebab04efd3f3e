"""Where controllers connect with TLS.

A stranger can leave a handshake half done for all of its time, and the TLS servers of asyncio count none that
is. Here few are under way at once: one more takes the place of the oldest, so that a controller, whose own is
done in a moment, gets through however many come and say nothing.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable

MAX_HANDSHAKES = 16
HANDSHAKE_TIMEOUT = 10.0  # seconds
BACKLOG = 64
PAUSE = 1.0  # seconds without accepting when that fails: no descriptor is left

log = logging.getLogger(__name__)


class TlsListener:
    """make: the protocol of a connection, which it is handed when the handshake is done."""

    def __init__(self, make: Callable[[], asyncio.Protocol], context: ssl.SSLContext) -> None:
        self._make = make
        self._context = context
        self._listening: list[asyncio.Task[None]] = []
        self._handshakes: dict[asyncio.Task[None], None] = {}  # the oldest first

    async def start(self, host: str, port: int) -> None:
        """Listens on all addresses of a name. Raises OSError."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        for family, address in dict.fromkeys((each[0], each[4]) for each in found):
            try:
                listener = socket.create_server(address, family=family, backlog=BACKLOG)
            except OSError:
                await self.close()
                raise
            listener.setblocking(False)
            self._listening.append(loop.create_task(self._listen(listener)))

    async def close(self) -> None:
        """Frees the addresses and ends the handshakes; connections stay."""
        tasks = [*self._listening, *self._handshakes]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _listen(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with listener:
            while True:
                try:
                    accepted, _ = await loop.sock_accept(listener)
                except ConnectionError:  # this one has gone again
                    await asyncio.sleep(0)
                    continue
                except OSError as error:
                    log.warning("nobody can connect: %s", error)
                    await asyncio.sleep(PAUSE)
                    continue
                if len(self._handshakes) >= MAX_HANDSHAKES:
                    oldest = next(iter(self._handshakes))
                    del self._handshakes[oldest]
                    oldest.cancel()
                task = loop.create_task(self._shake_hands(accepted))
                self._handshakes[task] = None
                task.add_done_callback(lambda task: self._handshakes.pop(task, None))
                await asyncio.sleep(0)  # it begins now, and whatever else waits has its turn

    async def _shake_hands(self, accepted: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._make, accepted, ssl=self._context, ssl_handshake_timeout=HANDSHAKE_TIMEOUT
            )
        except OSError as error:
            log.debug("a handshake failed: %s", error)
