"""What one peer may send and hold, and what is refused when there is no more room."""

import pytest

from imsalg.config import AccessConfig, LimitsConfig, Networks, SourcesConfig
from imsalg.intake import Standing
from imsalg.sip.endpoint import Flow, Transport
from imsalg.sip.glance import Kind
from imsalg.sip.values import Address
from tests.sim.sdp import protected
from tests.sim.world import ACCESS, CORE, NETWORK

OFFER = protected("192.0.2.10")


def flow(host, port=5060, local=ACCESS):
    return Flow(Transport.UDP, local, Address(host, port))


def standings(world, flow, count, kind=Kind.OTHER):
    return [world.core.standing(flow, kind, world.now) for _ in range(count)]


@pytest.fixture
def few(worlds):
    """Ten messages at once, one a second."""
    return worlds(sources=SourcesConfig(rate=1, burst=10, penalty=30))


def test_a_stranger_over_its_rate_is_refused_then_ignored_then_heard_again(few):
    assert standings(few, flow("203.0.113.1"), 25) == [
        *[Standing.STRANGER] * 10,
        *[Standing.REFUSED] * 10,
        *[Standing.IGNORED] * 5,
    ]
    few.settle()
    few.advance(32)
    assert [note.text for note in few.notes] == ["203.0.113.1:5060 sends too much and is not heard for 30 s"]
    assert standings(few, flow("203.0.113.1"), 1) == [Standing.STRANGER]


def test_ports_do_not_make_a_stranger_another_one(few):
    assert [standings(few, flow("203.0.113.1", port), 1)[0] for port in range(1, 12)].count(
        Standing.STRANGER
    ) == 10


def test_ues_behind_one_nat_do_not_answer_for_each_other_or_for_strangers(few):
    good = few.register(few.ue(10, port=4001), "alice")
    bad = few.register(few.ue(10, port=4002), "mallory")
    assert Standing.IGNORED in standings(few, bad.flow, 30)
    assert Standing.IGNORED in standings(few, flow("192.0.2.10", 4003), 30)
    assert standings(few, good.flow, 5) == [Standing.KNOWN] * 5


def test_emergency_calls_of_a_host_are_counted_apart(few):
    standings(few, flow("203.0.113.1"), 30)
    assert standings(few, flow("203.0.113.1"), 3, Kind.EMERGENCY) == [Standing.STRANGER] * 3
    assert Standing.IGNORED in standings(few, flow("203.0.113.1"), 30, Kind.EMERGENCY)


def test_trusted_peers_and_the_core_side_are_not_limited(worlds):
    access = AccessConfig(name="access", listen=ACCESS, trusted=Networks(["192.0.2.64/28"]))
    world = worlds(access=(access,), sources=SourcesConfig(rate=1, burst=1))
    assert set(standings(world, flow("192.0.2.65"), 50)) == {Standing.KNOWN}
    assert set(standings(world, Flow(Transport.UDP, CORE, NETWORK), 50)) == {Standing.KNOWN}


def test_there_is_no_room_for_a_call_at_the_limit_or_while_the_gateway_is_behind(worlds):
    world = worlds(limits=LimitsConfig(calls=1))
    alice = world.register(world.ue(10), "alice")
    assert not world.core.is_full(world.now)
    world.held = True
    alice.invite("sip:bob@home.example", sdp=OFFER)
    assert world.core.is_full(world.now)
    world = worlds()
    alice = world.register(world.ue(10), "alice")
    world.held = True
    alice.invite("sip:bob@home.example", sdp=OFFER)
    assert not world.core.is_full(world.now)
    world.advance(0.3)
    assert world.core.is_full(world.now)
    world.answer_gateway()
    assert not world.core.is_full(world.now)
