"""What takes the messages of a SipUser to its proxy: a UDP socket, or a WebSocket as a browser opens it."""

from __future__ import annotations

import asyncio
import secrets
import ssl
from collections.abc import Callable
from typing import Protocol, cast

from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

Receive = Callable[[bytes], None]


class Wire(Protocol):
    """transport: as Via names it. address: host:port as it stands in Via and Contact."""

    transport: str
    address: str

    def send(self, data: bytes) -> None: ...
    async def close(self) -> None: ...


async def open_wire(uri: str, context: ssl.SSLContext | None, receive: Receive) -> Wire:
    """uri: udp://HOST:PORT, ws://… or wss://…. Raises OSError, or what the websockets library does."""
    if uri.startswith("udp://"):
        host, _, port = uri.removeprefix("udp://").rpartition(":")
        loop = asyncio.get_running_loop()
        _, udp = await loop.create_datagram_endpoint(lambda: _Udp(receive), remote_addr=(host, int(port)))
        return udp
    connection = await connect(uri, ssl=context, subprotocols=[Subprotocol("sip")], proxy=None)
    return _WebSocket("WSS" if uri.startswith("wss:") else "WS", connection, receive)


class _Udp(asyncio.DatagramProtocol):
    transport = "UDP"

    def __init__(self, receive: Receive) -> None:
        self.address = ""
        self._receive = receive

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._socket = cast(asyncio.DatagramTransport, transport)
        host, port = transport.get_extra_info("sockname")[:2]
        self.address = f"{host}:{port}"

    def datagram_received(self, data: bytes, _: object) -> None:
        self._receive(data)

    def send(self, data: bytes) -> None:
        self._socket.sendto(data)

    async def close(self) -> None:
        self._socket.close()


class _WebSocket:
    """Its address is a name that nobody can look up (RFC 7118 section 5)."""

    def __init__(self, transport: str, connection: ClientConnection, receive: Receive) -> None:
        self.transport = transport
        self.address = f"{secrets.token_hex(6)}.invalid"
        self._connection = connection
        self._receive = receive
        self._out: asyncio.Queue[bytes] = asyncio.Queue()
        self._tasks = asyncio.gather(self._read(), self._write())

    def send(self, data: bytes) -> None:
        self._out.put_nowait(data)

    async def close(self) -> None:
        self._tasks.cancel()
        await asyncio.gather(self._tasks, return_exceptions=True)
        await self._connection.close()

    async def _read(self) -> None:
        async for message in self._connection:
            self._receive(message.encode() if isinstance(message, str) else message)

    async def _write(self) -> None:
        while True:
            await self._connection.send((await self._out.get()).decode())
