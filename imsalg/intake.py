"""What waits between the sockets and a machine, and in which order it is served.

In an overload all that arrives is read at once, and what begins nothing goes first: responses, ACK, CANCEL,
BYE and everything else within dialogs, with emergency calls. So what was taken on is brought to its end. New
requests get what time is left, in their order, those of strangers last, and no CANCEL overtakes its INVITE.
Who has said very much at once takes turns with them, within dialogs or not, so that the others do not wait.

Once the first new request has waited for long, no more wait than were served lately, until none waits. Any
other is answered 503 with Retry-After, without state and unparsed, for a few microseconds; and so is one that
has waited for longer than its sender's first retransmission may take. The measure of the overload is this
waiting itself: nothing is estimated, the machine is busy with whole calls all the time, and when the flood
ends, so does the refusing. (The feedback of RFC 7339 is left out: it tells the next proxy a rate to keep to,
and there is none here; the phones on the access side do not know it.)

`put` what the sockets bring, `take` what is to be served, `to_send` the refusals.
"""

from __future__ import annotations

from collections import Counter, deque
from enum import Enum, auto
from random import Random
from typing import NamedTuple, Protocol
from zlib import crc32

from imsalg.errors import BadMessage
from imsalg.sip.glance import Kind, glance, key_of, kind_of, refusal
from imsalg.sip.hop import Flow, Key, server_key
from imsalg.sip.message import BadRequest, Request, Response

PATIENCE = 0.25  # seconds a new request may wait: less than T1, after which it would be sent again
LONG = 0.1  # seconds the first one has waited when the line begins to be limited
LATELY = 0.2  # seconds; as many as were served meanwhile may wait then
MAX_WAITING = 16 * 1024 * 1024  # octets; half of it for strangers
MAX_PUT_OFF = 100  # before the sockets are read again
OF_ONE = 4096  # octets that count as a message more
OVERHEAD = 512  # octets that each costs beside its own, and a quarter of what a parsed one does
RETRY_AFTER = 5  # seconds, and up to seven more, so that not all come back together

Payload = bytes | Request | Response | BadMessage
"""A datagram, or what a stream brought."""


class Standing(Enum):
    KNOWN = auto()  # or who makes an emergency call where everybody may
    HASTY = auto()  # known, and has said much at once
    STRANGER = auto()
    REFUSED = auto()  # sends more than it may
    IGNORED = auto()  # and has gone on with it


class Judge(Protocol):
    """What the machine says to this."""

    def standing(self, flow: Flow, kind: Kind, now: float, messages: int = 1) -> Standing:
        """Of the sender of a message; called once for each, and for what costs as much as so many."""

    def is_ignored(self, flow: Flow, now: float) -> bool:
        """Whether what comes on a flow is not even looked at."""

    def is_full(self, now: float) -> bool:
        """Whether no further call can be taken on."""

    def is_open(self, key: Key) -> bool:
        """Whether a request has a transaction already: this is a retransmission."""


class Waiting(NamedTuple):
    payload: Payload
    flow: Flow
    kind: Kind
    since: float
    size: int


class Line(deque[Waiting]):
    """Who waits, in order. behind: for long, and there was always somebody since. new: how many requests that
    begin something."""

    behind = False
    new = 0

    def append(self, waiting: Waiting) -> None:
        super().append(waiting)
        self.new += waiting.kind is not Kind.ONGOING

    def popleft(self) -> Waiting:
        waiting = super().popleft()
        self.new -= waiting.kind is not Kind.ONGOING
        return waiting


class Intake:
    """See above. judge: None: all are known, and there is always room. drops: counted into by named cause."""

    def __init__(self, judge: Judge | None, rng: Random, drops: Counter[str]) -> None:
        self._judge = judge
        self._drops = drops
        self._tag = rng.randbytes(6).hex().encode()  # the To tags of our refusals begin with it
        self._urgent, self._new, self._hasty, self._strangers = Line(), Line(), Line(), Line()
        self._hasty_is_next = False
        self._served: deque[float] = deque()  # when new requests were, lately
        self._size = 0
        self._out: list[tuple[Flow, bytes]] = []

    def __len__(self) -> int:
        return len(self._urgent) + len(self._new) + len(self._hasty) + len(self._strangers)

    def put(self, payload: Payload, flow: Flow, now: float) -> None:
        """Something has come. A long datagram counts as several messages; what is long on a stream was
        counted when it was read."""
        messages = 1
        if isinstance(payload, bytes):
            messages += len(payload) // OF_ONE
            if payload.startswith(b"ACK ") and self._tag in payload:
                self._drops["overload-acked"] += 1
                return
            kind, size = glance(payload), len(payload) + OVERHEAD
        elif isinstance(payload, BadMessage):
            kind = Kind.ONGOING
            payload.__traceback__ = payload.__context__ = None  # they hold all that it was read from
            size = _size(payload.request) if isinstance(payload, BadRequest) else OVERHEAD
        else:
            kind, size = kind_of(payload), _size(payload)
        waiting = Waiting(payload, flow, kind, now, size)
        standing = Standing.KNOWN if self._judge is None else self._judge.standing(flow, kind, now, messages)
        if known := standing is Standing.KNOWN:
            urgent = kind is Kind.EMERGENCY or (kind is Kind.ONGOING and not self._is_early(payload))
            line = self._urgent if urgent else self._new
        else:
            line = self._hasty if standing is Standing.HASTY else self._strangers
        if standing is Standing.IGNORED:
            self._drops["source-ignored"] += 1
        elif standing is Standing.REFUSED:
            self._refuse(waiting, "source-refused")
        elif self._size + size > (MAX_WAITING if known else MAX_WAITING // 2):
            self._refuse(waiting, "overload-full")
        elif (
            line is self._urgent
            or kind is Kind.ONGOING
            or self._lets_in(line, now)
            or not self._puts_off(waiting, "overload-waited")
        ):
            self._size += size
            line.append(waiting)

    def take(self, now: float) -> Waiting | None:
        """What is to be served next. None: nothing, or nothing yet, for all that was put off."""
        if self._urgent:
            waiting = self._urgent.popleft()
            self._size -= waiting.size
            return waiting
        put_off = 0
        in_turn = (self._hasty, self._new) if self._hasty_is_next else (self._new, self._hasty)
        for line in (*in_turn, self._strangers):
            while line and put_off < MAX_PUT_OFF:
                waiting = line.popleft()
                self._size -= waiting.size
                cause = self._overload(waiting, line, now)
                if not cause or not self._puts_off(waiting, cause):
                    self._hasty_is_next = line is self._new
                    if waiting.kind is not Kind.ONGOING:
                        self._served.append(now)
                    return waiting
                put_off += 1
        return None

    def to_send(self) -> list[tuple[Flow, bytes]]:
        """Refusals; takes them away."""
        out, self._out = self._out, []
        return out

    def _lets_in(self, line: Line, now: float) -> bool:
        """Whether another new request may begin to wait in it."""
        while self._served and now - self._served[0] > LATELY:
            self._served.popleft()
        line.behind = bool(line) and (line.behind or now - line[0].since > LONG)
        return not line.behind or line.new < len(self._served)

    def _overload(self, waiting: Waiting, line: Line, now: float) -> str:
        """Why it is not to be served now; "" if it is."""
        if line is not self._strangers and waiting.kind is Kind.ONGOING:
            return ""
        if now - waiting.since > PATIENCE:
            return "overload-waited"
        if waiting.kind is Kind.CALL and self._judge is not None and self._judge.is_full(now):
            return "overload-no-room"
        return ""

    def _puts_off(self, waiting: Waiting, cause: str) -> bool:
        """Answers it, but for a retransmission."""
        if self._is_retransmission(waiting.payload):
            return False
        self._drops[cause] += 1
        self._answer(waiting)
        return True

    def _is_early(self, payload: Payload) -> bool:
        """A CANCEL of an INVITE that has no transaction yet: it may wait here. Served before it, it would be
        answered 481, and the INVITE would ring."""
        if isinstance(payload, bytes):
            early = payload.startswith(b"CANCEL ")
        else:
            early = isinstance(payload, Request) and payload.method == "CANCEL"
        return early and not self._is_retransmission(payload)

    def _is_retransmission(self, payload: Payload) -> bool:
        """It has a transaction, which goes its own way and is not to be crossed by a refusal; ACK and CANCEL
        that of their INVITE."""
        if self._judge is None or isinstance(payload, BadMessage | Response):
            return False
        key = server_key(payload) if isinstance(payload, Request) else key_of(payload)
        return key is not None and self._judge.is_open(key)

    def _refuse(self, waiting: Waiting, cause: str) -> None:
        """It does not even wait."""
        self._drops[cause] += 1
        if not self._is_retransmission(waiting.payload):
            self._answer(waiting)

    def _answer(self, waiting: Waiting) -> None:
        payload, flow = waiting.payload, waiting.flow
        if waiting.kind is Kind.ONGOING or isinstance(payload, BadMessage):
            return
        data = bytes(payload)
        mark = crc32(data)
        tag = self._tag + b"%08x" % mark
        retry = b"Retry-After: %d\r\n" % (RETRY_AFTER + mark % 8)
        if (answer := refusal(data, flow.remote, 503, tag, retry)) is not None:
            response, to = answer
            back = flow if flow.transport.reliable else Flow(flow.transport, flow.local, to)
            self._out.append((back, response))


def _size(message: Request | Response) -> int:
    """What a parsed message takes: much more than it took on the wire, if it has many short lines."""
    start = message.uri if isinstance(message, Request) else message.reason
    return 4 * OVERHEAD + start.__sizeof__() + message.headers.octets + len(message.body)
