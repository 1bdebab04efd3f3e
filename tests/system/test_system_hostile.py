"""Hostile bytes for the running proxy, over UDP and TCP: the expected answer or silence, and it goes on as if
nothing had been. In its log is no traceback and nothing that a terminal would obey."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sim.sdp import media, session
from tests.system.calls import audio, originate
from tests.system.hostile import Connection, Datagrams, branch, call_id, home, keys, ping
from tests.system.sipp import HOST
from tests.system.world import REGISTRAR_PORT, T1, TABLES, World
from tests.vectors.expected import VECTORS, WAITS, Dropped, Vector

QUICK = 0.02  # seconds: T1, so that what is remembered is soon forgotten; T4 is not needed towards a TCP peer


class Quick(World):
    """A World whose home network is reached over TCP."""

    def _write_configurations(self) -> None:
        super()._write_configurations()
        proxy = self.directory / "proxy.toml"
        proxy.write_text(
            proxy.read_text().replace(f':{REGISTRAR_PORT}"', f':{REGISTRAR_PORT};transport=tcp"')
        )


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with Quick(tables=TABLES.replace(f"t1 = {T1}", f"t1 = {QUICK}"), log_level="debug") as running:
        yield running
        running.print_logs()
        running.check()
        assert not [line for line in running.log("proxy") if "Traceback" in line or not line.isprintable()]
        assert "machine_error" not in running.status()["transport"]["drops"]


@pytest.fixture(scope="module")
def reached() -> Iterator[list[object]]:
    with home() as requests:
        yield list(requests)


@pytest.fixture
def peer(world: World, reached: list[object]) -> Iterator[Datagrams]:
    datagrams = Datagrams(world)
    yield datagrams
    datagrams.alive()
    datagrams.close()


@pytest.fixture(scope="module")
def _used() -> set[tuple[bytes, ...]]:
    return set()


@pytest.fixture
def fresh(world: World, _used: set[tuple[bytes, ...]], vector: Vector) -> None:
    """Some of the messages have the transaction of another one, and would be taken for retransmissions; or
    its Call-ID and branch, so that a late answer to the other would be taken for the one to this."""
    if _used & keys(vector.data):
        deadline = time.monotonic() + 20
        while world.status()["transactions"]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        _used.clear()
    _used |= keys(vector.data)


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: f"{vector.section}-{vector.name}")
def test_a_torture_message_over_udp(world: World, peer: Datagrams, vector: Vector) -> None:
    before = world.status()["drops"]
    peer.send(vector.data)
    if isinstance(vector.datagram, int):
        assert peer.final(call_id(vector.data), branch(vector.data)) == vector.datagram
    else:
        peer.silence(call_id(vector.data))
    if isinstance(vector.datagram, Dropped):
        name = vector.datagram.value
        assert world.status()["drops"][name] == before.get(name, 0) + 1


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: f"{vector.section}-{vector.name}")
def test_a_torture_message_over_tcp(world: World, peer: Datagrams, vector: Vector) -> None:
    before = world.status()["drops"]
    connection = Connection(world)
    connection.send(vector.data)
    answers = [each for each in vector.on_stream if isinstance(each, int)]
    if answers:
        assert sorted(connection.finals(len(answers))) == sorted(answers)
    else:
        assert connection.rest() == []
    if isinstance(dropped := vector.on_stream[0], Dropped):
        assert world.status()["drops"][dropped.value] == before.get(dropped.value, 0) + 1
    elif vector.on_stream[0] is WAITS.FOREVER:
        assert world.status()["drops"] == before
    connection.close()


# -- framing


def test_a_message_in_single_bytes_is_one_message(world: World, peer: Datagrams) -> None:
    connection = Connection(world)
    for octet in ping(world.peers_port, 1000, "TCP"):
        connection.send(bytes((octet,)))
    assert connection.finals(1) == [200]
    connection.close()


def test_many_messages_in_one_segment_are_all_answered(world: World, peer: Datagrams) -> None:
    connection = Connection(world)
    connection.send(b"\r\n\r\n".join(ping(world.peers_port, number, "TCP") for number in range(2000, 2100)))
    assert connection.finals(100) == [200] * 100
    connection.close()


def test_behind_a_content_length_that_is_too_small_nothing_is_believed(world: World, peer: Datagrams) -> None:
    data = ping(world.peers_port, 3000, "TCP") + b"X" * 40 + b"\r\n\r\n" + ping(world.peers_port, 3001, "TCP")
    connection = Connection(world)
    connection.send(data)
    assert connection.rest() == [200]
    connection.close()
    data = ping(world.peers_port, 3002) + b"X" * 40
    peer.send(data)
    assert peer.final(b"ping-3002") == 200


@pytest.mark.parametrize(
    ("length", "status"), [(b"1", 400), (b"65536", 413), (b"1048576", 413), (b"9" * 60, 400), (b"-1", 400)]
)
def test_a_content_length_beyond_the_datagram_is_refused(
    world: World, peer: Datagrams, length: bytes, status: int
) -> None:
    name = b"length-" + length[:8]
    data = ping(world.peers_port, 4000).replace(b"Length: 0", b"Length: " + length)
    peer.send(data.replace(b"ping-4000", name))
    assert peer.final(name) == status


@pytest.mark.parametrize("length", [b"65536", b"1048576", b"4294967296", b"9" * 60, b"+5", b"0x5"])
def test_a_content_length_that_no_stream_can_keep_ends_the_connection(
    world: World, peer: Datagrams, length: bytes
) -> None:
    connection = Connection(world)
    connection.send(ping(world.peers_port, 5000, "TCP").replace(b"Length: 0", b"Length: " + length))
    assert connection.finals(1)[0] in (400, 413)
    assert len(connection.rest()) == 1
    connection.close()


def test_a_head_without_end_ends_the_connection(world: World, peer: Datagrams) -> None:
    connection = Connection(world)
    connection.send(b"OPTIONS sip:x SIP/2.0\r\n" + b"X: y\r\n" * 11000)
    assert connection.rest() == []
    connection.close()


# -- descriptions


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (session("192.0.2.10", *[media(4000)] * 1000), 488),
        (session("192.0.2.10", media(4000, "RTP/AVP", *["a=x"] * 10_000)), 413),
        (session("192.0.2.10", media(4000, "RTP/AVP", "a=" + "x" * 40_000)), 413),
        (session("192.0.2.10", media(4000, "RTP/AVP", "a=x\0y")), 400),
        (session("192.0.2.10", media(4000, "RTP/AVP", "a=\udcff\udcfe")), 404),
        (session("192.0.2.10", media(4000, "\x1b[2J/AVP")), 400),
    ],
    ids=["1000 m-lines", "10000 a-lines", "a long line", "NUL", "no UTF-8", "escapes"],
)
def test_a_hostile_description_is_refused_or_passes(
    world: World, peer: Datagrams, body: str, status: int
) -> None:
    octets = body.encode("utf-8", "surrogateescape")
    number = abs(hash(body)) % 10**9
    head = ping(world.peers_port, number, "TCP").replace(b"OPTIONS", b"INVITE")
    head = head.replace(b"Length: 0", b"Type: application/sdp\r\nContent-Length: %d" % len(octets))
    connection = Connection(world)
    connection.send(head.replace(f"sip:{HOST}:{world.peers_port}".encode(), b"sip:bob@ims.test") + octets)
    assert connection.finals(1) == [status]
    connection.close()


# -- what is printed


def test_a_user_whose_name_no_terminal_should_print_is_in_log_and_status_all_the_same(
    world: World, peer: Datagrams
) -> None:
    name = b"hostile\xff\xc2\x9b2J\xe2\x80\xae"
    head = ping(world.peers_port, 6000).replace(b"OPTIONS", b"REGISTER")
    head = head.replace(b"To: <sip:%s:%d>" % (HOST.encode(), world.peers_port), b"To: <sip:%s@x>" % name)
    peer.send(head.replace(b"CSeq", b"Contact: <sip:%s@%s:5060>\r\nCSeq" % (name, HOST.encode())))
    assert peer.final(b"ping-6000") == 200
    (registration,) = world.status()["registrations"]
    assert registration["aor"] == r"sip:hostile\udcff\x9b2J\u202e@x"
    assert any(r"hostile\udcff\x9b2J\u202e@x is registered" in line for line in world.log("proxy"))


def test_after_all_that_a_call_is_a_call(world: World, tmp_path: Path) -> None:
    offer = audio(port=6100)
    originate(world, tmp_path, offer=offer, answer=offer)
    world.assert_no_call_left()
