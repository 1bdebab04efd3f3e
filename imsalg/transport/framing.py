"""How messages lie on a connection, without IO: one after the other (RFC 3261 section 18.3), or one in each
WebSocket message (RFC 7118)."""

from __future__ import annotations

from typing import Protocol

from imsalg.errors import BadMessage
from imsalg.sip.message import Request, Response
from imsalg.sip.stream import Stream

Received = Request | Response | BadMessage


class Framing(Protocol):
    """`receive` what came, `frame` what is to be sent; then `take` what the framing itself has to say.

    alive: something whole came since this was set to False last: a message or a keep-alive. idle: how many
    pieces that cost something and brought no message the last `receive` has found. ended: nothing more can be
    received; what is to be taken is the last that is sent. ping_every: seconds between calls of `ping`, 0 for
    none.
    """

    alive: bool
    idle: int
    ping_every: float

    @property
    def ended(self) -> bool: ...

    def receive(self, data: bytes) -> list[Received]: ...

    def frame(self, message: bytes) -> bytes: ...

    def ping(self) -> None:
        """Have a sign of life asked for."""

    def close(self) -> None:
        """Say good-bye."""

    def take(self) -> bytes: ...


class Plain:
    """A byte stream with Content-Length, and keep-alives of CRLFs (RFC 5626 section 3.5.1)."""

    idle = 0
    ping_every = 0.0  # the client keeps its connection alive, not we

    def __init__(self) -> None:
        self.alive = False
        self._stream = Stream()

    @property
    def ended(self) -> bool:
        return self._stream.broken is not None  # where the next message begins is not known

    def receive(self, data: bytes) -> list[Received]:
        self._stream.feed(data)
        received: list[Received] = []
        while not self.ended:
            try:
                message = self._stream.next_message()
            except BadMessage as error:
                received.append(error)
                continue
            if message is None:
                break
            received.append(message)
        self.alive = self.alive or bool(received or self._stream.pongs)
        return received

    def frame(self, message: bytes) -> bytes:
        return message

    def ping(self) -> None:
        pass

    def close(self) -> None:
        pass

    def take(self) -> bytes:
        pongs, self._stream.pongs = self._stream.pongs, 0
        return b"\r\n" * pongs
