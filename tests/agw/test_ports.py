"""Port pairs: even and odd, per address, resting after use."""

import random

import pytest

from agw.errors import CommandError
from agw.ports import Realm


def realm(addresses=("192.0.2.1",), ports=(31000, 31009), rest=5.0, seed=1):
    return Realm("access", addresses, ports, rest, random.Random(seed))


@pytest.mark.parametrize(
    ("ports", "pairs"),
    [
        ((31000, 31009), [31000, 31002, 31004, 31006, 31008]),
        ((31001, 31008), [31002, 31004, 31006]),
        ((31000, 31001), [31000]),
        ((31001, 31003), [31002]),
    ],
)
def test_pairs_are_even_and_their_odd_port_is_in_the_range(ports, pairs):
    one = realm(ports=ports)
    assert sorted(one.reserve("192.0.2.1", 0.0) for _ in pairs) == pairs
    with pytest.raises(CommandError) as caught:
        one.reserve("192.0.2.1", 0.0)
    assert caught.value.code == "no_ports"


def test_a_released_pair_rests_and_then_is_free_again():
    one = realm(ports=(31000, 31001))
    port = one.reserve("192.0.2.1", 0.0)
    assert one.counts(0.0) == (1, 0, 0)
    one.release("192.0.2.1", port, 10.0)
    assert one.counts(14.9) == (0, 1, 0)
    with pytest.raises(CommandError):
        one.reserve("192.0.2.1", 14.9)
    assert one.counts(15.0) == (0, 0, 1)
    assert one.reserve("192.0.2.1", 15.0) == port


def test_a_pair_that_was_never_opened_does_not_rest():
    one = realm(ports=(31000, 31001))
    one.unreserve("192.0.2.1", one.reserve("192.0.2.1", 0.0))
    assert one.counts(0.0) == (0, 0, 1)


def test_families_and_addresses_have_their_own_pairs():
    one = realm(("192.0.2.1", "192.0.2.2", "2001:db8::1"), ports=(31000, 31003))
    assert one.choose(True, 0.0) == "2001:db8::1"
    chosen = []
    for _ in range(4):
        host = one.choose(False, 0.0)
        one.reserve(host, 0.0)
        chosen.append(host)
    assert sorted(chosen) == ["192.0.2.1"] * 2 + ["192.0.2.2"] * 2
    assert one.counts(0.0) == (4, 0, 2)


def test_a_family_that_is_not_there_is_unsupported():
    with pytest.raises(CommandError) as caught:
        realm().choose(True, 0.0)
    assert caught.value.code == "unsupported"


def test_a_thousand_steps_never_give_a_pair_twice_and_the_sums_hold():
    one, rng = realm(ports=(31000, 31039)), random.Random(3)
    held, resting, now = [], {}, 0.0
    for _ in range(1000):
        now += rng.random()
        if rng.random() < 0.5:
            try:
                port = one.reserve("192.0.2.1", now)
            except CommandError:
                continue
            assert port not in held
            assert resting.get(port, 0.0) <= now
            held.append(port)
        elif held:
            port = held.pop(rng.randrange(len(held)))
            one.release("192.0.2.1", port, now)
            resting[port] = now + 5.0
        used, rest, free = one.counts(now)
        assert (used, used + rest + free) == (len(held), 20)
