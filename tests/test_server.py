"""The status socket, and who has not the best intentions with it."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path

import pytest

from imsalg import server
from imsalg.config import ProxyConfig
from imsalg.server import MAX_READERS, Proxy
from tests.sim.world import BASE


def connected(path: str) -> socket.socket:
    peer = socket.socket(socket.AF_UNIX)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    peer.connect(path)
    peer.setblocking(False)
    return peer


def test_who_does_not_read_the_status_is_not_waited_for_and_others_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "READING", 1.0)
    path = str(tmp_path / "status.sock")

    async def scenario() -> None:
        proxy = Proxy(ProxyConfig(**BASE))
        monkeypatch.setattr(proxy.core, "status", lambda now: {"big": "x" * 500_000})
        listening = await asyncio.start_unix_server(proxy._tell_status, path)
        idle = [connected(path) for _ in range(MAX_READERS + 4)]
        while proxy._readers < MAX_READERS:
            await asyncio.sleep(0.01)
        reader, writer = await asyncio.open_unix_connection(path)
        assert await reader.read() == b""  # there are too many
        writer.close()
        while proxy._readers:
            await asyncio.sleep(0.01)
        reader, writer = await asyncio.open_unix_connection(path)
        assert len(json.loads(await reader.read())["big"]) == 500_000
        writer.close()
        listening.close()
        for peer in idle:
            peer.close()

    asyncio.run(asyncio.wait_for(scenario(), 20))
