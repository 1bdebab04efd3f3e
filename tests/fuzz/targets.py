"""What is fuzzed, and what must hold: each takes a random.Random and asserts one case.

Nothing but BadMessage, BadSdp and PeerError may be raised; what is accepted is kept byte for byte; what is
answered can be sent; how a stream was cut changes nothing; and after whatever came to a Core, nothing is left
(see World.finish).
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from websockets.frames import Frame, Opcode

from imsalg import mediasec, trust
from imsalg.body import drop_sdp, find_sdp
from imsalg.errors import BadMessage, BadSdp, PeerError
from imsalg.policy.decide import Access, Direction, Rules, decide, status
from imsalg.policy.rewrite import Local, offer
from imsalg.policy.treatment import Mechanism, Treatment
from imsalg.records import decode
from imsalg.sdp.attributes import MATERIAL_LENGTH, Crypto, InlineKey
from imsalg.sdp.document import MAX_SIZE, Document, Origin
from imsalg.sip.dialog import contact_uri
from imsalg.sip.endpoint import Address, Flow, Transport
from imsalg.sip.glance import glance, key_of, refusal
from imsalg.sip.message import (
    MAX_MESSAGE,
    BadRequest,
    Request,
    Response,
    make_response,
    parse_head,
    parse_message,
)
from imsalg.sip.stream import Stream
from imsalg.sip.values import CSeq, NameAddr, RAck, Uri, Via
from imsalg.transport.websocket import WebSocket
from tests.core.test_core_chaos import Chaos
from tests.fuzz import mutations
from tests.sim.world import World

ORIGIN = Origin("-", "1", 1, "IN", "IP4", "198.51.100.1")
UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Protocol: sip\r\n\r\n"
)
PARSERS: tuple[Callable[[str], object], ...] = (
    NameAddr.parse,
    Uri.parse,
    Via.parse,
    CSeq.parse,
    RAck.parse,
)


def message(rng: random.Random) -> None:
    """The parser, and everything that reads or writes header fields or looks into a body."""
    data = mutations.message(rng)
    glance(data)
    key_of(data)
    refusal(data, Address("192.0.2.1", 5060), 503, b"tag", b"Retry-After: 5\r\n")
    try:
        came = parse_message(data)
    except BadRequest as error:
        parse_head(bytes(make_response(error.request, error.status, to_tag="t")).partition(b"\r\n\r\n")[0])
        return
    except BadMessage:
        return
    kept = bytes(came)
    assert bytes(parse_message(kept)) == kept
    assert bytes(came.copy()) == kept
    for name, value in came.headers:
        for element in came.headers.values(name):
            for parse in PARSERS:
                with contextlib.suppress(BadMessage):
                    parsed = parse(element)
                    assert parse(str(parsed)) == parsed
        edited = came.copy()
        edited.headers.prepend(name, value)
        edited.headers.pop_value(name)
        edited.headers.discard_token(name, "path")
        edited.headers.set(name, value)
        parse_head(bytes(edited).partition(b"\r\n\r\n")[0])
    contact_uri(came.headers)
    mediasec.supported(came.headers)
    mediasec.verified(came.headers, Mechanism)
    mediasec.speaks(came.headers)
    mediasec.strip(came.headers)
    trust.assert_identity(came.headers, came.headers.values("P-Associated-URI") or ["<sip:a@b>"])
    trust.from_ue(came.headers)
    trust.to_ue(came.headers)
    with contextlib.suppress(PeerError):
        if (found := find_sdp(came)) is not None:
            assert found.before + found.sdp in came.body
    drop_sdp(came)
    assert parse_message(bytes(came)).call_id == came.call_id
    if isinstance(came, Request):
        assert parse_message(bytes(make_response(came, 200, to_tag="t"))).cseq == came.cseq


def stream(rng: random.Random) -> None:
    """The framers, that of TCP and that of WebSocket."""
    if rng.random() < 0.3:
        _websocket(rng)
    else:
        _stream(rng)


def _websocket(rng: random.Random) -> None:
    """Frames in any order, cut anywhere, some broken: messages or BadMessage come out, until it ends."""
    framing = WebSocket("/")
    data = b""
    if rng.random() < 0.8:
        framing.receive(UPGRADE)
    elif rng.random() < 0.8:
        data = mutations.mutate(rng, UPGRADE) if rng.random() < 0.5 else UPGRADE
    for _ in range(rng.randrange(1, 6)):
        payload = rng.choice((mutations.message(rng), b"\r\n\r\n", b"", b"\r\n", b"\x03\xe8", b"\xff"))
        opcode = rng.choice((Opcode.TEXT, Opcode.TEXT, Opcode.BINARY, *Opcode))
        control = opcode in (Opcode.PING, Opcode.PONG, Opcode.CLOSE)
        whole = Frame(opcode, payload[:125] if control else payload, fin=control or rng.random() < 0.8)
        frame = whole.serialize(mask=rng.random() < 0.95)
        data += frame if rng.random() < 0.9 else mutations.mutate(rng, frame)
    at = 0
    while at < len(data) and not framing.ended:
        size = rng.choice((1, 10, 1000, 100_000))
        for received in framing.receive(data[at : at + size]):
            assert isinstance(received, Request | Response | BadMessage)
        at += size
        framing.take()
        framing.ping()
    framing.frame(rng.choice(mutations.CORPUS))
    framing.close()
    framing.take()


def _stream(rng: random.Random) -> None:
    """However the bytes were cut into reads, the same comes out, and the buffer is bounded."""
    parts = [
        rng.choice((mutations.message(rng), rng.choice(mutations.CORPUS), b"\r\n", b"\r\n\r\n"))
        for _ in range(rng.randrange(1, 7))
    ]
    data = b"".join(parts)
    cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.choice((1, 3, 30))))
    if len(data) < 2000 and rng.random() < 0.2:
        cuts = list(range(len(data)))
    pieces = [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    assert _framed([data]) == _framed(pieces)


def _framed(reads: list[bytes]) -> tuple[list[object], int]:
    said: list[object] = []
    framer = Stream()
    for read in reads:
        framer.feed(read)
        while framer.broken is None:
            try:
                message = framer.next_message()
            except BadMessage as error:
                said.append((error.status, error.reason, isinstance(error, BadRequest)))
                continue
            if message is None:
                break
            said.append(bytes(message))
        assert len(framer._buffer) <= MAX_MESSAGE + 3
    return said, framer.pongs


def sdp(rng: random.Random) -> None:
    """The document, the decisions on it, and the offer that leaves: complete, and without anybody's keys."""
    data = mutations.description(rng)
    direction = rng.choice(list(Direction))
    rules = Rules()
    mechanisms = frozenset(Mechanism) if rng.random() < 0.7 else frozenset[Mechanism]()
    try:
        document = Document(data)
        assert bytes(document) == data
        decisions = decide(document, direction, mechanisms, Access.SIP, rules)
        if status(decisions) != 200:
            return
        keys = {
            index: tuple(
                Crypto(tag, suite, (InlineKey(bytes(MATERIAL_LENGTH[suite])),))
                for tag, suite in enumerate(rules.suites, 1)
            )
            for index, decision in enumerate(decisions)
            if decision.treatment is Treatment.E2AE_SDES and direction is Direction.TERMINATING
        }
        local = {n: Local("IP4", "198.51.100.1", 4000 + 2 * n, 4001 + 2 * n) for n in range(len(decisions))}
        left = offer(document, decisions, direction, local, keys, ORIGIN)
    except BadSdp:
        return
    assert len(left.media) == len(document.media)  # trap P32
    if len(bytes(left)) <= MAX_SIZE:  # what comes is bounded; what goes may be a little longer
        assert bytes(Document(bytes(left))) == bytes(left)
    for media, decision in zip(left.media, decisions, strict=True):
        if decision.treatment is Treatment.E2AE_SDES and direction is Direction.ORIGINATING:
            assert not media.has("crypto")
            assert not media.has("3ge2ae")


class Mangled(World):
    """A world whose messages are changed on their way to the proxy, with others between them, at random."""

    def __init__(self, *, seed: int, **more: Any) -> None:
        super().__init__(seed=seed, **more)
        self.mangling = random.Random(f"mangled {seed}")

    def receive(self, data: bytes, flow: Flow) -> None:
        if self.mangling.random() < 0.05:
            self._receive_datagram(mutations.message(self.mangling), flow)
        if self.mangling.random() < 0.15:
            self._receive_datagram(mutations.mutate(self.mangling, data), flow)
        else:
            super().receive(data, flow)
        for record in self.core.to_store(0.0).records.values():
            assert record is None or decode(record) is not None

    def _receive_datagram(self, data: bytes, flow: Flow) -> None:
        super().receive(data, replace(flow, transport=Transport.UDP))

    def _check_core_side(self, data: bytes) -> None:
        """A mangled description may be none any more, and what is none passes."""

    def _check_note(self, text: str) -> None:
        """A user may be named like a key."""


def core(rng: random.Random) -> None:
    """Peers and a gateway that do anything at any time (see Chaos), in messages that are wrong in any way."""
    Chaos(rng.getrandbits(32), Mangled).run()


TARGETS: dict[str, Callable[[random.Random], None]] = {
    "message": message,
    "stream": stream,
    "sdp": sdp,
    "core": core,
}
