"""Frames, greeting and signs of life, with a jumping clock."""

import random
from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from agw.errors import BadFrame, UsageError
from agw.iq.messages import (
    MAX_FRAME,
    VERSION,
    Address,
    AuditValue,
    ConfigureConnectionPoint,
    Dtls,
    DtlsRole,
    Fingerprint,
    Heartbeat,
    Hello,
    Ice,
    Key,
    Mode,
    Reply,
    Request,
    ReserveConnectionPoint,
    Stream,
    Suite,
    Transport,
)
from agw.iq.wire import HEARTBEAT, SILENCE, controller_link, encode, gateway_link, valid_name

CONTROLLER = Hello(VERSION, "pcscf", "1", claims=("a",))
GATEWAY = Hello(VERSION, "agw", "2", realms=("access", "core"))
KEY = Key(Suite.AEAD_AES_256_GCM, bytes(range(44)), b"\x01")
REMOTE = Address("192.0.2.1", 4000)
STREAM = Stream(
    3,
    Transport.SRTP,
    REMOTE,
    Address("192.0.2.1", 4001),
    True,
    KEY,
    (KEY,),
    Mode.SENDRECV,
    dtls=Dtls("one", DtlsRole.CLIENT, (Fingerprint("sha-256", bytes(range(32))),)),
    ice=Ice("ours", "a password of the peer", "theirs"),
)


def frame(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


def greeted_gateway(now=0.0):
    link = gateway_link(GATEWAY, now)
    link.to_send()
    assert link.receive(encode(CONTROLLER), now) == []
    return link


def test_both_ends_greet_at_once_and_learn_each_other():
    controller, gateway = controller_link(CONTROLLER, 0.0), gateway_link(GATEWAY, 0.0)
    gateway.receive(controller.to_send(), 0.0)
    controller.receive(gateway.to_send(), 0.0)
    assert (controller.peer, gateway.peer) == (GATEWAY, CONTROLLER)
    assert controller.to_send() == b""


@given(st.lists(st.integers(1, 40), max_size=60))
def test_messages_survive_any_cutting_of_the_stream(cuts):
    requests = [Request(n, f"c{n}", (ConfigureConnectionPoint("t", (STREAM,)),)) for n in range(5)]
    data = encode(CONTROLLER) + b"".join(map(encode, requests))
    link, got = gateway_link(GATEWAY, 0.0), []
    for cut in [*cuts, len(data)]:
        got += link.receive(data[:cut], 0.0)
        data = data[cut:]
    assert got == requests


@pytest.mark.parametrize(
    "first",
    [
        Hello(VERSION + 1, "pcscf", "1"),
        Hello(VERSION, "", "1"),
        Hello(VERSION, "a\nb", "1"),
        Heartbeat(),
        Request(1, "", (AuditValue(),)),
    ],
)
def test_what_is_no_good_greeting_is_refused_and_our_own_hello_has_been_said(first):
    link = gateway_link(GATEWAY, 0.0)
    with pytest.raises(BadFrame):
        link.receive(encode(first), 0.0)
    assert link.to_send() == encode(GATEWAY)


def test_a_second_hello_is_refused():
    with pytest.raises(BadFrame, match="second Hello"):
        greeted_gateway().receive(encode(CONTROLLER), 0.0)


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xff\xff\xff",
        (MAX_FRAME + 1).to_bytes(4, "big"),
        frame(b""),
        frame(b"\xc1"),
        frame(b"\x91" * 5000),
        frame(b"\xdd\xff\xff\xff\xff"),
        frame(b"\xc6\xff\xff\xff\xff"),
        frame(msgspec.msgpack.encode({"type": "open_the_door"})),
        frame(msgspec.msgpack.encode({"type": "reply", "id": 1, "results": ()})),
        frame(msgspec.msgpack.encode({"type": "request", "id": "1", "context": "", "commands": ()})),
        frame(msgspec.msgpack.encode({"type": "hello", "version": 1}) + b"\x00"),
        frame(b"\x82\xa4type\xa5hello\xa4name\xa2\xff\xfe"),
        frame(b"\x82\xa4type\xa9heartbeat\xa1x" + b"\x91" * 100_000 + b"\xc0"),
    ],
)
def test_what_is_no_message_is_a_bad_frame_and_nothing_else(data):
    with pytest.raises(BadFrame):
        greeted_gateway().receive(data, 0.0)


def test_random_bytes_are_only_ever_bad_frames():
    rng = random.Random(5)
    whole = encode(Request(7, "c", (ReserveConnectionPoint("t", "access", (STREAM,)),)))
    for _ in range(3000):
        data = bytearray(whole)
        for _ in range(rng.randrange(1, 6)):
            data[rng.randrange(4, len(data))] = rng.getrandbits(8)
        with suppress(BadFrame):
            greeted_gateway().receive(bytes(data), 0.0)


def test_a_bad_key_is_refused_without_being_repeated_p18():
    body = msgspec.msgpack.encode(Request(1, "c", (ConfigureConnectionPoint("t", (STREAM,)),)))
    secret = b"topsecretkeymaterial"
    body = body.replace(b"\xc4\x2c" + KEY.material, b"\xb4" + secret)  # a string where bytes should be
    with pytest.raises(BadFrame) as caught:
        greeted_gateway().receive(frame(body), 0.0)
    assert "topsecret" not in str(caught.value)
    assert "\\x01\\x02" not in repr(replace(STREAM, dtls=None))
    assert "password" not in repr(STREAM)


def test_own_messages_larger_than_a_frame_are_our_own_fault():
    with pytest.raises(UsageError):
        encode(Hello(VERSION, "pcscf", "1", claims=("x" * 100,) * 20_000))


def test_a_silent_end_says_heartbeats_and_a_silent_peer_is_dead():
    controller, gateway = controller_link(CONTROLLER, 0.0), gateway_link(GATEWAY, 0.0)
    gateway.receive(controller.to_send(), 0.0)
    controller.receive(gateway.to_send(), 0.0)
    now = 0.0
    for _ in range(3):
        now = controller.timeout()
        controller.expire(now)
        assert gateway.receive(controller.to_send(), now) == []
        assert not gateway.dead(now)
    assert now == pytest.approx(3 * HEARTBEAT)
    assert controller.dead(now)  # the gateway never said another word
    assert not gateway.dead(now + SILENCE - 0.01)
    assert gateway.dead(now + SILENCE)


def test_who_speaks_needs_no_heartbeat():
    link = controller_link(CONTROLLER, 0.0)
    link.receive(encode(GATEWAY), 0.0)
    link.send(Request(1, "", ()), 4.0)
    link.receive(encode(Reply(1, ())), 4.0)
    link.to_send()
    link.expire(HEARTBEAT)
    assert link.to_send() == b""
    assert link.timeout() == 4.0 + HEARTBEAT


@pytest.mark.parametrize(("name", "good"), [("a", True), ("", False), ("x" * 129, False), ("ä", False)])
def test_names_are_short_printable_ascii(name, good):
    assert valid_name(name) is good
