"""SIP over WebSocket, the server's side, without IO (RFC 6455, RFC 7118): one SIP message in each WebSocket
message, text or binary."""

from __future__ import annotations

import logging

from websockets.exceptions import InvalidState
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request as Handshake
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from imsalg.errors import BadMessage
from imsalg.sip.message import MAX_MESSAGE, parse_message
from imsalg.transport.framing import Received

SUBPROTOCOL = Subprotocol("sip")
PIECE = 4096  # octets that are looked at before the frames in them are counted
MAX_IDLE = 64  # frames that bring no message, or a broken one, in what was read at once
PING_EVERY = 30.0  # seconds; keeps NATs open and tells who is gone (RFC 7118 section 6)

_silent = logging.getLogger(f"{__name__}.frames")  # at DEBUG the library would write down what is said
_silent.setLevel(logging.WARNING)


class WebSocket:
    """A `Framing`. path: the one that is served; a query is not looked at."""

    ping_every = PING_EVERY

    def __init__(self, path: str) -> None:
        self.alive = False
        self.idle = 0
        self._path = path
        self._protocol = ServerProtocol(subprotocols=[SUBPROTOCOL], max_size=MAX_MESSAGE, logger=_silent)
        self._message = bytearray()  # the fragments of one that is not whole
        self._spoken = False  # the peer has sent a message: before that, no ping keeps it
        self._refused = False

    @property
    def ended(self) -> bool:
        protocol = self._protocol
        broken = self._refused or protocol.handshake_exc or protocol.parser_exc or protocol.close_rcvd
        return bool(broken) or protocol.state in (State.CLOSING, State.CLOSED)

    def receive(self, data: bytes) -> list[Received]:
        """A frame takes ten microseconds, and six octets: who sends hundreds that say nothing, or nothing of
        SIP, is not read to the end, and is not read again."""
        received: list[Received] = []
        self.idle = 0
        for at in range(0, len(data), PIECE):
            if self.ended:
                break
            received += self._receive_piece(data[at : at + PIECE])
            if self.idle > MAX_IDLE:
                received.append(BadMessage("frames without messages"))
                self._refused = True
        return received

    def _receive_piece(self, data: bytes) -> list[Received]:
        received: list[Received] = []
        self._protocol.receive_data(data)
        for event in self._protocol.events_received():
            match event:
                case Handshake() if self.ended:
                    self._refused = True  # by what came with it, nothing can be answered any more
                    return []
                case Handshake():
                    self._shake_hands(event)
                case Frame(opcode=Opcode.TEXT | Opcode.BINARY | Opcode.CONT):
                    self._message += event.data
                    message = self._take_message() if event.fin else None
                    if message is not None:
                        received.append(message)
                    self.idle += message is None or isinstance(message, BadMessage)
                    if event.fin:
                        self.alive = self._spoken = True
                case Frame(opcode=Opcode.PING | Opcode.PONG):
                    self.idle += 1
                    self.alive = self.alive or self._spoken
        return received

    def frame(self, message: bytes) -> bytes:
        """Text where it is UTF-8, which browsers like better; else binary (RFC 7118 section 4.2)."""
        try:
            message.decode()
        except UnicodeDecodeError:
            send = self._protocol.send_binary
        else:
            send = self._protocol.send_text
        try:
            send(message)
        except InvalidState:  # it is being closed
            return b""
        return self.take()

    def ping(self) -> None:
        if self._protocol.state is State.OPEN:
            self._protocol.send_ping(b"")

    def close(self) -> None:
        if self._protocol.state is State.OPEN:
            self._protocol.send_close(CloseCode.GOING_AWAY)

    def take(self) -> bytes:
        return b"".join(self._protocol.data_to_send())

    def _shake_hands(self, request: Handshake) -> None:
        """RFC 7118 section 4.1: without the subprotocol there is no connection."""
        if request.path.partition("?")[0] == self._path:
            response = self._protocol.accept(request)
        else:
            response = self._protocol.reject(404, "there is no SIP at this path\n")
        self._refused = response.status_code != 101
        self._protocol.send_response(response)

    def _take_message(self) -> Received | None:
        data, self._message = bytes(self._message), bytearray()
        if not data.strip(b"\r\n"):
            # the keep-alive of a stream, which some clients send here as well
            if data == b"\r\n\r\n" and self._protocol.state is State.OPEN:
                self._protocol.send_text(b"\r\n")
            return None
        try:
            return parse_message(data)
        except BadMessage as error:
            return error
