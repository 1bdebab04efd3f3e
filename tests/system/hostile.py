"""A peer that sends bytes as they are, and a home network that answers 404 to everything, over real sockets.

The peer listens at the ports that the Via lines of the torture messages name, as responses without rport go
there."""

from __future__ import annotations

import re
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from imsalg.sip.message import Request, make_response, parse_message
from imsalg.sip.stream import Stream
from tests.system.sipp import HOST
from tests.system.world import REGISTRAR_PORT, World

PATIENCE = 8.0  # seconds for an answer
VIA_PORTS = (5060, 5050, 6050, 19823)
ROUTE_PORT = 5080  # RFC 4475's mpart01 is routed there
_CALL_ID = re.compile(rb"(?im)^(?:call-id|i)[ \t]*:[ \t]*(.*?)[ \t]*\r$")
_STATUS = re.compile(rb"SIP/2\.0 ([0-9]{3}) ")


def call_id(data: bytes) -> bytes:
    found = _CALL_ID.search(data)
    return found[1] if found else b""


def branch(data: bytes) -> bytes:
    found = re.search(rb"branch *= *[^\s;,]+", data)
    return found[0] if found else b""


def ping(to: int, number: int, transport: str = "UDP") -> bytes:
    """A request that the proxy answers itself."""
    return (
        f"OPTIONS sip:{HOST}:{to} SIP/2.0\r\n"
        f"Via: SIP/2.0/{transport} {HOST}:5060;branch=z9hG4bKping{number}\r\nMax-Forwards: 70\r\n"
        f"From: <sip:ping@{HOST}>;tag=1\r\nTo: <sip:{HOST}:{to}>\r\nCall-ID: ping-{number}\r\n"
        f"CSeq: {number} OPTIONS\r\nContent-Length: 0\r\n\r\n"
    ).encode()


class Datagrams:
    """The peer's UDP sockets. What goes leaves from the first."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._sockets = [_bound(port) for port in VIA_PORTS]
        self._pings = 0

    def close(self) -> None:
        for each in self._sockets:
            each.close()

    def send(self, data: bytes) -> None:
        self._sockets[0].sendto(data, (HOST, self._world.peers_port))

    def final(self, wanted: bytes, branch: bytes = b"") -> int:
        """The status of the first final response with that Call-ID, and that branch in a Via."""
        deadline = time.monotonic() + PATIENCE
        while (left := deadline - time.monotonic()) > 0:
            ready, _, _ = select.select(self._sockets, [], [], left)
            for each in ready:
                data = each.recv(65536)
                status = _STATUS.match(data)
                if status and int(status[1]) >= 200 and call_id(data) == wanted and branch in data:
                    return int(status[1])
        raise AssertionError(f"no final response to {wanted!r}")

    def silence(self, wanted: bytes) -> None:
        """Nothing was answered: the answer to a ping is the first to come with either Call-ID."""
        self._pings += 1
        mine = b"ping-%d" % self._pings
        self.send(ping(self._world.peers_port, self._pings))
        deadline = time.monotonic() + PATIENCE
        while (left := deadline - time.monotonic()) > 0:
            ready, _, _ = select.select(self._sockets, [], [], left)
            for each in ready:
                came = call_id(each.recv(65536))
                assert came != wanted or came == b""
                if came == mine:
                    return
        raise AssertionError("the proxy does not answer any more")

    def alive(self) -> None:
        self.silence(b"nobody's")


class Connection:
    """The peer's end of a TCP connection to the proxy."""

    def __init__(self, world: World) -> None:
        self._socket = socket.create_connection((HOST, world.peers_port), PATIENCE)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""

    def close(self) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def finals(self, count: int) -> list[int]:
        """The statuses of so many final responses, in their order."""
        found: list[int] = []
        while len(found) < count:
            read = self._socket.recv(65536)
            assert read, f"closed after {found}"
            self._buffer += read
            found = self._found()
        return found

    def rest(self) -> list[int]:
        """The same of all that comes until the proxy closes, once nothing more is sent."""
        self._socket.shutdown(socket.SHUT_WR)
        while read := self._socket.recv(65536):
            self._buffer += read
        return self._found()

    def _found(self) -> list[int]:
        return [int(status) for status in _STATUS.findall(self._buffer) if int(status) >= 200]


@contextmanager
def home() -> Iterator[list[Request]]:
    """Runs the home network; what it yields grows with the requests that reach it."""
    reached: list[Request] = []
    stopped = threading.Event()
    datagrams = [_bound(REGISTRAR_PORT), _bound(ROUTE_PORT)]
    listener = socket.create_server((HOST, REGISTRAR_PORT))
    thread = threading.Thread(target=_serve, args=(datagrams, listener, reached, stopped))
    thread.start()
    try:
        yield reached
    finally:
        stopped.set()
        thread.join()
        for each in (*datagrams, listener):
            each.close()


def _serve(
    datagrams: list[socket.socket],
    listener: socket.socket,
    reached: list[Request],
    stopped: threading.Event,
) -> None:
    streams: dict[socket.socket, Stream] = {}
    while not stopped.is_set():
        ready, _, _ = select.select([*datagrams, listener, *streams], [], [], 0.1)
        for each in ready:
            if each is listener:
                streams[listener.accept()[0]] = Stream()
            elif each in datagrams:
                data, source = each.recvfrom(65536)
                if (answer := _answer(parse_message(data), reached)) is not None:
                    each.sendto(answer, source)
            else:
                read = each.recv(65536)
                if not read:
                    streams.pop(each)
                    each.close()
                    continue
                streams[each].feed(read)
                while (message := streams[each].next_message()) is not None:
                    if (answer := _answer(message, reached)) is not None:
                        each.sendall(answer)
    for each in streams:
        each.close()


def _answer(message: object, reached: list[Request]) -> bytes | None:
    """404; but who registers as a user whose name begins with "hostile" is accepted."""
    if not isinstance(message, Request) or message.method == "ACK":
        return None
    reached.append(message)
    accepted = message.method == "REGISTER" and message.to.uri.startswith("sip:hostile")
    response = make_response(message, 200 if accepted else 404, to_tag="home")
    if accepted:
        response.headers.append("Contact", f"{message.headers.first('Contact')};expires=60")
    return bytes(response)


def _bound(port: int) -> socket.socket:
    bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        bound.bind((HOST, port))
    except OSError:
        bound.close()
        raise
    return bound


def keys(data: bytes) -> set[tuple[bytes, ...]]:
    """What tells the transactions in these bytes from others that are remembered: Via and method for the
    proxy, Call-ID and branch for `final`, where answers to an earlier message may be retransmitted still."""
    starts = re.findall(rb"(?m)^(\S+) \S.* SIP/[0-9.]+ *\r$", data)
    vias = re.findall(rb"(?im)^(?:via|v)[ \t]*:((?:.|\r\n[ \t])*)\r$", data)
    return {(start, *vias[:1]) for start in starts} | {(call_id(data), branch(data))}
