"""The UDP addresses we listen on.

Plain non-blocking sockets on the loop's readers instead of asyncio's transports: `sendto` then fails at the
datagram it is about, datagrams are read into one buffer, and all that have come are handed over together.

Who is woken for the second time within 2 * REST reads from then on every REST, until that brings nothing: a
process that has slept finds the processor's caches filled by others, and for one datagram spends more on that
than on the datagram. A datagram that comes alone is read at once, and so is what comes after many.

ICMP errors are not asked for, though RFC 3261 section 18.4 would have them reported: libuv takes a socket
with a queued error (IP_RECVERR) for a dead one and stops polling it. A peer that is gone is noticed by timer
B or F.
"""

from __future__ import annotations

import asyncio
import math
import socket
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from imsalg.sip.values import Address

REST = 0.02  # seconds
MANY = 64  # datagrams that are worth a look without a rest
MAX_DATAGRAM = 65535
BATCH = 1024  # datagrams of a socket before others get their turn: all there are, but in a flood
SOCKET_BUFFER = 4 * 1024 * 1024  # asked for; the kernel gives what net.core.rmem_max allows


class Datagram(NamedTuple):
    data: bytes
    local: Address
    remote: Address


def family_of(host: str) -> socket.AddressFamily:
    """Of a numeric host."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET


class UdpSockets:
    """received: called with all that has come, what came to one address in order; at the end of each REST,
    too, when it may be nothing. drops: counted into by named cause.

    resting: `received` will be called within REST.
    """

    def __init__(self, received: Callable[[list[Datagram]], None], drops: Counter[str]) -> None:
        self._received = received
        self._drops = drops
        self._sockets: dict[Address, socket.socket] = {}
        self._buffer = bytearray(MAX_DATAGRAM)
        self._view = memoryview(self._buffer)
        self._resting: asyncio.TimerHandle | None = None
        self._read_at = -math.inf  # when a read brought something last

    @property
    def resting(self) -> bool:
        return self._resting is not None

    def listen(self, local: Address) -> None:
        """Raises OSError when the address cannot be had."""
        made = socket.socket(family_of(local.host), socket.SOCK_DGRAM)
        try:
            made.setblocking(False)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER)
            if made.family == socket.AF_INET6:
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            made.bind(local)
        except OSError:
            made.close()
            raise
        self._sockets[local] = made
        asyncio.get_running_loop().add_reader(made.fileno(), self._woken)

    def send(self, data: bytes, local: Address, remote: Address) -> None:
        """Raises OSError when this datagram cannot be sent, KeyError when we do not listen there; a full
        socket buffer loses it as any router would."""
        try:
            self._sockets[local].sendto(data, remote)
        except BlockingIOError:
            self._drops["udp_send_buffer_full"] += 1

    def close(self) -> None:
        if self._resting:
            self._resting.cancel()
        for each in self._sockets.values():
            asyncio.get_running_loop().remove_reader(each.fileno())
            each.close()
        self._sockets.clear()

    def look(self) -> None:
        """Read now what is there, for somebody who is awake anyway."""
        if datagrams := self._read():
            self._received(datagrams)

    def _woken(self) -> None:
        before, datagrams = self._read_at, self._read()
        if self._read_at - before < 2 * REST:
            for each in self._sockets.values():
                asyncio.get_running_loop().remove_reader(each.fileno())
            self._rest(datagrams)
        self._received(datagrams)

    def _rest(self, datagrams: list[Datagram]) -> None:
        after = REST if len(datagrams) < MANY else 0.0
        self._resting = asyncio.get_running_loop().call_later(after, self._rested)

    def _rested(self) -> None:
        if datagrams := self._read():
            self._rest(datagrams)
        else:
            self._resting = None
            for each in self._sockets.values():
                asyncio.get_running_loop().add_reader(each.fileno(), self._woken)
        self._received(datagrams)

    def _read(self) -> list[Datagram]:
        datagrams: list[Datagram] = []
        for local, each in self._sockets.items():
            self._read_one(each, local, datagrams)
        if datagrams:
            self._read_at = asyncio.get_running_loop().time()
        return datagrams

    def _read_one(self, sock: socket.socket, local: Address, datagrams: list[Datagram]) -> None:
        for _ in range(BATCH):
            try:
                size, source = sock.recvfrom_into(self._buffer)
            except OSError:  # BlockingIOError: that was all
                break
            datagrams.append(Datagram(bytes(self._view[:size]), local, Address(source[0], source[1])))
