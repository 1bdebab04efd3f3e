"""What is fuzzed, and what must hold: each takes a random.Random and asserts one case.

Nothing but BadMessage, BadSdp and PeerError may be raised; what is accepted is kept byte for byte; what is
answered can be sent; how a stream was cut changes nothing; and after whatever came to a Core or a Gateway,
nothing is left. The Core has a file of its own, `worlds`.
"""

from __future__ import annotations

import contextlib
import random
import ssl
from collections.abc import Callable
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from struct import pack
from tempfile import TemporaryDirectory

import msgspec
from msgspec.structs import replace as with_fields
from websockets.frames import Frame, Opcode

from agw.errors import BadFrame
from agw.gateway import Gateway
from agw.iq.messages import (
    VERSION,
    Audited,
    AuditValue,
    ErrorReply,
    Event,
    FromGateway,
    Heartbeat,
    Hello,
    Notice,
    Reply,
)
from agw.iq.messages import Request as IqRequest
from agw.iq.wire import controller_link, encode, gateway_link
from imsalg import mediasec, trust
from imsalg.body import drop_sdp, find_sdp
from imsalg.errors import BadMessage, BadSdp, PeerError
from imsalg.policy.decide import Access, Direction, Rules, decide, status
from imsalg.policy.mline import DtlsLines, Local
from imsalg.policy.rewrite import offer
from imsalg.policy.rules import E2dce
from imsalg.policy.treatment import Mechanism
from imsalg.sdp.attributes import MATERIAL_LENGTH, Crypto, InlineKey
from imsalg.sdp.document import MAX_SIZE, Document, Origin
from imsalg.sdp.dtls import Fingerprint, Setup
from imsalg.sip.dialog import contact_uri
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
from imsalg.sip.values import Address, CSeq, NameAddr, RAck, Uri, Via
from imsalg.transport.stun import COOKIE, answer, is_stun
from imsalg.transport.tls import Credentials, Tls, TlsError
from imsalg.transport.websocket import WebSocket
from tests.fuzz import mutations
from tests.fuzz.peers import peer
from tests.fuzz.worlds import core
from tests.sim.sdp import protected, session
from tests.sim.world import AGW, Memory, World
from tests.transport.certificates import Authority

DTLS = DtlsLines(Fingerprint("sha-256", bytes(32)), Setup.ACTPASS, "0" * 20)
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
    tokens = mediasec.served(Mechanism, E2dce())
    mediasec.supported(came.headers, tokens)
    mediasec.verified(came.headers, tokens.values())
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
    """What lies under the messages: the framers of TCP and WebSocket, TLS, and STUN between datagrams."""
    rng.choice((_stream, _stream, _websocket, _websocket, _tls, _stun))(rng)


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


def _tls(rng: random.Random) -> None:
    """A handshake and what is said then, with records changed, cut and left out: TlsError or plaintext."""
    server, client = Tls(_contexts()[0]), Tls(_contexts()[1], "localhost")
    wrong = rng.choice((0.0, 0.05, 0.2))
    said, heard = b"", b""
    for turn in range(8):
        if client.up and turn < 6:
            said += (words := mutations.message(rng)[:1000])
            client.send(words)
        for here, there in ((client, server), (server, client)):
            data = here.take()
            cut = rng.randrange(len(data) + 1) if rng.random() < 0.3 else len(data)
            if rng.random() < wrong:
                data = rng.choice((mutations.change_bytes(rng, data), data[cut:], data + data))
            try:
                got = there.receive(data[:cut]) + there.receive(data[cut:])
            except TlsError:
                there.take()  # an alert
                there.close()
                return
            if there is server:
                heard += got
    assert said.startswith(heard)
    assert wrong or heard == said != b""
    server.close()


@cache
def _contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's, and that of a client which takes any."""
    with TemporaryDirectory() as directory:
        server = Credentials(Authority(Path(directory)).sign("fuzz", "localhost")).server()
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    return server, client


def _stun(rng: random.Random) -> None:
    """Answered, no longer than it may be, or not."""
    attributes = b"".join(
        pack("!HH", rng.choice((0x8022, 0x8028, 6)), rng.choice((0, 3, 4, 65535))) + rng.randbytes(4)
        for _ in range(rng.choice((0, 0, 1, 3, 60)))
    )
    data = pack("!HHI", 1, len(attributes), COOKIE) + rng.randbytes(12) + attributes
    if rng.random() < 0.5:
        data = mutations.change_bytes(rng, data)
    if is_stun(data):
        response = answer(data, Address(rng.choice(("192.0.2.1", "2001:db8::1")), 5060))
        assert response is None or len(response) <= 44


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
    rules = Rules(e2dce=E2dce(attribute="3ge2dce"))
    mechanisms = frozenset(mechanism for mechanism in Mechanism if rng.random() < 0.7)
    access = rng.choice(list(Access))
    try:
        document = Document(data)
        assert bytes(document) == data
        decisions = decide(document, direction, mechanisms, access, rules)
        if status(decisions) != 200:
            return
        crypto = tuple(
            Crypto(tag, suite, (InlineKey(bytes(MATERIAL_LENGTH[suite])),))
            for tag, suite in enumerate(rules.suites, 1)
        )
        ours = {
            index: DTLS if decision.treatment.by_dtls else crypto
            for index, decision in enumerate(decisions)
            if decision.treatment.e2ae and direction is Direction.TERMINATING
        }
        local = {n: Local("IP4", "198.51.100.1", 4000 + 2 * n, 4001 + 2 * n) for n in range(len(decisions))}
        left = offer(document, decisions, direction, local, ours, ORIGIN, rules)
    except BadSdp:
        return
    assert len(left.media) == len(document.media)  # trap P32
    if len(bytes(left)) <= MAX_SIZE:  # what comes is bounded; what goes may be a little longer
        assert bytes(Document(bytes(left))) == bytes(left)
    for media, decision in zip(left.media, decisions, strict=True):
        if decision.treatment.e2ae and direction is Direction.ORIGINATING:
            assert not media.has("crypto")
            assert not media.has("fingerprint")
            assert not media.has("3ge2ae")


def iq(rng: random.Random) -> None:
    """Both ends of Iq: messages or BadFrame come out of a stream; and a gateway whose controllers ask for
    anything does it or refuses it, and then nothing has changed."""
    if rng.random() < 0.3:
        _link(rng)
    else:
        _controllers(rng)


def _link(rng: random.Random) -> None:
    """A gateway's end is told what a controller would say, or the other way round."""
    own = Hello(VERSION, "own", "1")
    link, said = (
        (gateway_link(own, 0.0), asked()) if rng.random() < 0.5 else (controller_link(own, 0.0), told())
    )
    data = encode(Hello(VERSION, "other", "2", claims=("c",)))
    for _ in range(rng.randrange(1, 6)):
        frame = mutations.packed(rng, msgspec.msgpack.encode(rng.choice((own, *said))))
        data += len(frame).to_bytes(4, "big") + frame
    data = data if rng.random() < 0.9 else mutations.change_bytes(rng, data)
    size = rng.choice((1, 100, len(data)))
    with contextlib.suppress(BadFrame):
        for at in range(0, len(data), size):
            for message in link.receive(data[at : at + size], 0.0):
                assert not isinstance(message, Hello | Heartbeat)
            link.expire(rng.random() * 10)
            link.to_send()


def _controllers(rng: random.Random) -> None:
    plane = Memory()
    gateway = Gateway(AGW, plane, rng)
    whole = IqRequest(1, "", (AuditValue(),))
    for now in range(rng.randrange(1, 20)):
        data = mutations.packed(rng, msgspec.msgpack.encode(rng.choice(asked())))
        try:
            request = msgspec.msgpack.decode(data, type=IqRequest)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
        if rng.random() < 0.9:
            request = with_fields(request, context=rng.choice("ab"))
        before = dict(plane.legs), gateway.execute("audit", whole, now)
        answer = gateway.execute(rng.choice(("one", "two")), request, now)
        encode(answer)
        if isinstance(answer, ErrorReply):
            assert before == (plane.legs, gateway.execute("audit", whole, now))
        for leg in plane.legs.values():
            for address in filter(None, (leg.remote, leg.remote_rtcp)):
                assert ip_address(address.host).is_multicast is False
                assert 0 < address.port < 65536
    for owner in ("one", "two"):
        gateway.greeted(owner, (), 20)
    assert not plane.legs
    audited = gateway.execute("audit", whole, 20)
    assert isinstance(audited, Reply)
    assert isinstance(audited.results[0], Audited)
    assert not any(used for used, _, _ in audited.results[0].ports.values())


@cache
def asked() -> tuple[IqRequest, ...]:
    """What a proxy asks for in two calls."""
    with contextlib.redirect_stdout(None):
        world = World()
        alice = world.register(world.ue(), "alice")
        here, far = world.originate(alice)
        world.terminate(alice)
        here.exchange(far, "INVITE", protected(alice.address.host, port=4002), session("203.0.113.5"))
        here.hang_up(far)
    return tuple(world.asked)


@cache
def told() -> tuple[FromGateway, ...]:
    """What it is answered."""
    gateway = Gateway(AGW, Memory(), random.Random(1))
    replies = [gateway.execute("pcscf", request, 0.0) for request in (*asked(), IqRequest(9, "x", ()))]
    return (*replies, *(Notice("c", event, "access", 1, "why") for event in Event))


TARGETS: dict[str, Callable[[random.Random], None]] = {
    "message": message,
    "stream": stream,
    "sdp": sdp,
    "core": core,
    "iq": iq,
    "peer": peer,
}
