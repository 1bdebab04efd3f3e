"""The torture messages of RFC 4475 and RFC 5118 through the whole proxy, on a datagram and on a stream."""

from __future__ import annotations

import pytest

from imsalg.config import AccessConfig
from imsalg.errors import BadMessage
from imsalg.policy.treatment import Mechanism
from imsalg.sip.hop import Flow, Transport
from imsalg.sip.message import Request, make_response, parse_head, parse_message
from imsalg.sip.stream import Stream
from imsalg.sip.values import Address
from tests.sim.world import ACCESS, CORE, World
from tests.vectors.expected import PASSES, VECTORS, WAITS, Dropped, Vector

TOUCHED = (b"via", b"v", b"route", b"max-forwards", b"content-type", b"c", b"content-length", b"l")
PEER = Address("192.0.2.99", 5060)
TRUSTED = AccessConfig(name="access", listen=ACCESS, mechanisms=(Mechanism.SDES_SRTP,), trusted=(PEER.host,))


class Home(World):
    """A home network that answers 404 to everything. reached: what it got. answers: the final statuses that
    left on the access side."""

    def __init__(self) -> None:
        super().__init__(access=(TRUSTED,))
        self.answers: list[int] = []
        self.reached: list[bytes] = []

    def stream(self, data: bytes) -> None:
        """What a connection brings, as the shell hands it over."""
        stream, flow = Stream(), Flow(Transport.TCP, ACCESS, PEER)
        stream.feed(data)
        while stream.broken is None:
            try:
                message = stream.next_message()
            except BadMessage as error:
                self.core.refuse(error, flow)
                continue
            if message is None:
                break
            self.core.receive_message(message, flow, self.now)
        self.settle()

    def _deliver(self, flow: Flow, data: bytes) -> None:
        message = parse_head(data.partition(b"\r\n\r\n")[0])
        if isinstance(message, Request):
            assert flow.local == CORE
            if message.method != "ACK":
                self.reached.append(data)
                answer = parse_message(bytes(make_response(message, PASSES, to_tag="home")))
                self.core.receive_message(answer, flow, self.now)
        else:
            assert flow.local == ACCESS
            assert flow.remote.host == PEER.host
            if message.status > 100:
                self.answers.append(message.status)


@pytest.fixture
def home() -> Home:
    return Home()


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: f"{vector.section}-{vector.name}")
def test_a_torture_message_is_answered_or_dropped_by_name(home: Home, vector: Vector) -> None:
    home.core.receive(vector.data, Flow(Transport.UDP, ACCESS, PEER), home.now)
    home.settle()
    if isinstance(vector.datagram, Dropped):
        assert home.core.endpoint.drops == {vector.datagram.value: 1}
    assert home.answers == ([vector.datagram] if isinstance(vector.datagram, int) else [])
    home.finish()


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: f"{vector.section}-{vector.name}")
def test_on_a_stream_as_well(home: Home, vector: Vector) -> None:
    home.stream(vector.data)
    (first, *_) = vector.on_stream
    if first is WAITS.FOREVER:
        assert home.core.endpoint.drops == {}
    elif isinstance(first, Dropped):
        assert home.core.endpoint.drops == {first.value: 1}
    assert sorted(home.answers) == sorted(each for each in vector.on_stream if isinstance(each, int))
    home.finish()


@pytest.mark.parametrize(
    "vector", [vector for vector in VECTORS if vector.datagram == PASSES], ids=lambda vector: vector.name
)
def test_what_passes_leaves_as_it_came_where_nobody_has_to_touch_it(home: Home, vector: Vector) -> None:
    home.core.receive(vector.data, Flow(Transport.UDP, ACCESS, PEER), home.now)
    home.settle()
    (left,) = home.reached
    head = vector.data.partition(b"\r\n\r\n")[0]
    for line in head.replace(b"\r\n ", b"\0 ").split(b"\r\n")[1:]:
        if line.partition(b":")[0].strip().lower() not in TOUCHED:
            assert line.replace(b"\0 ", b"\r\n ") in left
    home.finish()
