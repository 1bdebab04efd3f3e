"""The gateway as a process is: its server on the test's loop, controllers on Iq, and sockets of peers."""

import asyncio
import os
import signal
import socket
from contextlib import asynccontextmanager

from agw.iq.client import Client
from agw.iq.messages import Address, Notice, Request
from agw.server import serve

PATIENCE = 10.0


@asynccontextmanager
async def serving(config):
    ready = asyncio.Event()
    task = asyncio.create_task(serve(config, ready.set))
    waiting = asyncio.create_task(ready.wait())
    await asyncio.wait({task, waiting}, return_when="FIRST_COMPLETED", timeout=PATIENCE)
    waiting.cancel()
    try:
        if task.done():
            await task
        yield
    finally:
        if not task.done():
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.wait_for(task, PATIENCE)


@asynccontextmanager
async def controlling(config, name="pcscf", claims=()):
    """ask(context, *commands) -> the answer; notices: those that came."""
    inbox, notices, up = asyncio.Queue(), asyncio.Queue(), asyncio.Event()

    def message(said):
        (notices if isinstance(said, Notice) else inbox).put_nowait(said)

    client = Client(
        config.iq.listen,
        name=name,
        incarnation="1",
        claims=lambda: claims,
        on_up=lambda hello: up.set(),
        on_down=lambda reason: None,
        on_message=message,
    )

    async def ask(context, *commands):
        assert client.send(Request(1, context, commands))
        return await asyncio.wait_for(inbox.get(), PATIENCE)

    ask.notice = lambda: asyncio.wait_for(notices.get(), PATIENCE)
    task = asyncio.create_task(client.run())
    await asyncio.wait_for(up.wait(), PATIENCE)
    try:
        yield ask
    finally:
        await client.close()
        await asyncio.wait_for(task, PATIENCE)


def udp(host="127.0.0.1"):
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.bind((host, 0))
    return sock, Address(host, sock.getsockname()[1])
