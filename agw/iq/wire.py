"""Iq on the wire, without IO: frames, the greeting, and signs of life.

A frame is four bytes of length, big endian, then one MessagePack message. `Link` is one end of one
connection: bytes and time in, messages out. Its own Hello leaves first; the peer's has to come first, in our
version.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import msgspec

from agw.errors import BadFrame, UsageError
from agw.iq.messages import (
    MAX_FRAME,
    VERSION,
    FromController,
    FromGateway,
    Heartbeat,
    Hello,
)

HEARTBEAT = 5.0  # seconds of own silence before a Heartbeat
SILENCE = 3 * HEARTBEAT  # seconds without a byte from the peer after which it is gone
MAX_NAME = 128

_LENGTH = 4
_encoder = msgspec.msgpack.Encoder()
_from_controller: msgspec.msgpack.Decoder[FromController] = msgspec.msgpack.Decoder(FromController)
_from_gateway: msgspec.msgpack.Decoder[FromGateway] = msgspec.msgpack.Decoder(FromGateway)

Received = TypeVar("Received")


def valid_name(name: str) -> bool:
    """1 to 128 printable ASCII characters: what may name a controller, gateway, context or termination."""
    return 0 < len(name) <= MAX_NAME and name.isascii() and name.isprintable()


def encode(message: FromController | FromGateway) -> bytes:
    """The frame of a message. Raises UsageError if it would be larger than MAX_FRAME."""
    body = _encoder.encode(message)
    if len(body) > MAX_FRAME:
        raise UsageError(f"{type(message).__name__} of {len(body)} bytes; a frame has at most {MAX_FRAME}")
    return len(body).to_bytes(_LENGTH, "big") + body


class Framer(Generic[Received]):
    """Cuts a byte stream into messages. Holds at most one frame and what was fed last."""

    def __init__(self, decoder: msgspec.msgpack.Decoder[Received]) -> None:
        self._decoder = decoder
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def next(self) -> Received | None:
        """The next whole message, None if it has not come yet. Raises BadFrame; nothing can follow that."""
        if len(self._buffer) < _LENGTH:
            return None
        length = int.from_bytes(self._buffer[:_LENGTH], "big")
        if length > MAX_FRAME:
            raise BadFrame(f"a frame of {length} bytes; at most {MAX_FRAME} are taken")
        end = _LENGTH + length
        if len(self._buffer) < end:
            return None
        body = bytes(self._buffer[_LENGTH:end])
        del self._buffer[:end]
        try:
            return self._decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            # The text names a place and types, never a value that could be key material (trap P18).
            raise BadFrame(f"no message: {str(error)[:200]}") from None


class Link(Generic[Received]):
    """One end of one connection; `gateway_link` and `controller_link` make one.

    receive(data, now) -> the messages that came, Hello and Heartbeat taken out; raises BadFrame
    send(message, now); to_send() -> bytes, drains
    expire(now) at timeout(); dead(now): the peer has been silent for too long; heard: since then
    After BadFrame: send what is left in to_send(), then close.
    """

    def __init__(self, own: Hello, decoder: msgspec.msgpack.Decoder[Received], now: float) -> None:
        self.peer: Hello | None = None  # once it has come
        self._framer = Framer(decoder)
        self.heard = now
        self._out = bytearray()
        self.send(own, now)

    def receive(self, data: bytes, now: float) -> list[Received]:
        self.heard = now
        self._framer.feed(data)
        messages: list[Received] = []
        while (message := self._framer.next()) is not None:
            if self.peer is None:
                self.peer = _greeting(message)
            elif isinstance(message, Hello):
                raise BadFrame("a second Hello")
            elif not isinstance(message, Heartbeat):
                messages.append(message)
        return messages

    def send(self, message: FromController | FromGateway, now: float) -> None:
        self._out += encode(message)
        self._said = now

    def to_send(self) -> bytes:
        data = bytes(self._out)
        self._out.clear()
        return data

    def timeout(self) -> float:
        """When expire(), and a look at dead(), is due."""
        return min(self._said + HEARTBEAT, self.heard + SILENCE)

    def expire(self, now: float) -> None:
        if now >= self._said + HEARTBEAT:
            self.send(Heartbeat(), now)

    def dead(self, now: float) -> bool:
        return now >= self.heard + SILENCE


def gateway_link(own: Hello, now: float) -> Link[FromController]:
    """The gateway's end."""
    return Link(own, _from_controller, now)


def controller_link(own: Hello, now: float) -> Link[FromGateway]:
    """The controller's end."""
    return Link(own, _from_gateway, now)


def _greeting(message: Any) -> Hello:
    if not isinstance(message, Hello):
        raise BadFrame(f"{type(message).__name__} before Hello")
    if message.version != VERSION:
        raise BadFrame(f"version {message.version}; this is version {VERSION}")
    if not valid_name(message.name):
        raise BadFrame("a name of no or more than 128 characters, or not printable")
    return message
