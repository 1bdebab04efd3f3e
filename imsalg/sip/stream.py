"""Messages out of a TCP or TLS byte stream (RFC 3261 section 18.3), however it was cut into reads."""

from __future__ import annotations

import re

from imsalg.errors import BadMessage
from imsalg.sip.message import MAX_MESSAGE, Request, Response, check, content_length, parse_head, refusal

_CRLFS = re.compile(rb"(?:\r\n)++")


class Stream:
    """The receiving side of one connection: feed() what was read, then next_message() until it is None.

    next_message() raises BadMessage (a BadRequest, if it can be answered) in place of a message that is
    wrong. If `broken` is then set, the end of that message is unknown: the connection must be closed, and
    every later call raises the same again. Otherwise the stream goes on behind the message.

    pongs: single CRLFs owed to the peer for its keep-alives (RFC 5626 section 3.5.1); reset when sent.
    """

    def __init__(self) -> None:
        self.pongs = 0
        self.broken: BadMessage | None = None
        self._buffer = bytearray()
        self._searched = 0  # bytes of the buffer known to hold no end of a head
        self._crlfs = 0  # CRLFs seen since the last message
        self._head: Request | Response | None = None  # a message that waits for its body …
        self._length = 0  # … of this many bytes

    def feed(self, data: bytes) -> None:
        """Bytes as they were read; the buffer is bounded if next_message() is asked after each read."""
        if self.broken is None:
            self._buffer += data

    def next_message(self) -> Request | Response | None:
        """The next whole message, None if more bytes are needed; raises as the class says."""
        if self.broken is not None:
            raise self.broken
        if self._head is None:
            try:
                self._next_head()
            except BadMessage as error:
                self.broken = error
                self._buffer.clear()
                raise
        if self._head is None or len(self._buffer) < self._length:
            return None
        message, self._head = self._head, None
        message.body = bytes(self._buffer[: self._length])
        del self._buffer[: self._length]
        check(message)
        return message

    def _next_head(self) -> None:
        self._skip_keepalives()
        end = self._buffer.find(b"\r\n\r\n", self._searched)
        if end > MAX_MESSAGE or (end < 0 and len(self._buffer) > MAX_MESSAGE + 3):
            raise BadMessage("header fields too large", 513)
        if end < 0:
            self._searched = max(0, len(self._buffer) - 3)
            return
        message = parse_head(bytes(self._buffer[:end]))
        length = content_length(message)
        if length is None:
            raise refusal(message, "no Content-Length on a stream")
        if end + 4 + length > MAX_MESSAGE:
            raise refusal(message, "message too large", 513)
        del self._buffer[: end + 4]
        self._head, self._length, self._searched, self._crlfs = message, length, 0, 0

    def _skip_keepalives(self) -> None:
        if self._searched:
            return
        found = _CRLFS.match(self._buffer)
        start = found.end() if found else 0
        del self._buffer[:start]
        crlfs = self._crlfs + start // 2
        self.pongs += crlfs // 2 - self._crlfs // 2
        self._crlfs = crlfs
