"""One UDP address we listen on.

A plain non-blocking socket on the loop's reader instead of an asyncio transport: `sendto` then fails at the
datagram it is about, datagrams are read into one buffer, and the many that came at once are handed over
together.

ICMP errors are not asked for, though RFC 3261 section 18.4 would have them reported: libuv takes a socket
with a queued error (IP_RECVERR) for a dead one and stops polling it. A peer that is gone is noticed by timer
B or F.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Callable

from imsalg.sip.values import Address

MAX_DATAGRAM = 65535
BATCH = 1024  # datagrams read before others get their turn: all there are, but in a flood
SOCKET_BUFFER = 4 * 1024 * 1024  # asked for; the kernel gives what net.core.rmem_max allows

Datagram = tuple[bytes, Address]


def family_of(host: str) -> socket.AddressFamily:
    """Of a numeric host."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET


class UdpListener:
    """received: called with what one wake-up brought, in order. drops: counted into by named cause."""

    def __init__(
        self, local: Address, received: Callable[[list[Datagram]], None], drops: Counter[str]
    ) -> None:
        """Raises OSError when the address cannot be had."""
        self._received = received
        self._drops = drops
        self._buffer = bytearray(MAX_DATAGRAM)
        self._view = memoryview(self._buffer)
        self._socket = socket.socket(family_of(local.host), socket.SOCK_DGRAM)
        try:
            self._socket.setblocking(False)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER)
            if self._socket.family == socket.AF_INET6:
                self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            self._socket.bind(local)
        except OSError:
            self._socket.close()
            raise
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self._readable)

    def send(self, data: bytes, remote: Address) -> None:
        """Raises OSError when this datagram cannot be sent; a full socket buffer loses it as any router
        would."""
        try:
            self._socket.sendto(data, remote)
        except BlockingIOError:
            self._drops["udp_send_buffer_full"] += 1

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._socket.fileno())
        self._socket.close()

    def _readable(self) -> None:
        datagrams: list[Datagram] = []
        for _ in range(BATCH):
            try:
                size, source = self._socket.recvfrom_into(self._buffer)
            except OSError:  # BlockingIOError: that was all
                break
            datagrams.append((bytes(self._view[:size]), Address(source[0], source[1])))
        if datagrams:
            self._received(datagrams)
