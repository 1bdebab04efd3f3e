"""Which of many is due next."""

import random

from agw.timers import SPARE, Timers


def test_a_time_may_be_moved_either_way_or_taken_away():
    timers = Timers()
    assert timers.timeout() is None
    timers.set("a", 5.0)
    timers.set("b", 3.0)
    assert timers.timeout() == 3.0
    timers.set("b", 9.0)
    assert timers.timeout() == 5.0
    timers.set("b", 1.0)
    timers.set("a", None)
    assert timers.due(0.5) == []
    assert timers.due(1.0) == ["b"]
    assert (timers.timeout(), timers.due(100.0)) == (None, [])


def test_it_does_what_a_dict_would_do_and_what_was_moved_is_forgotten():
    rng = random.Random(1)
    timers, model, now = Timers(), {}, 0.0
    for _ in range(20000):
        key, at = rng.randrange(20), now + rng.randrange(50)
        if rng.random() < 0.2:
            timers.set(key, None)
            model.pop(key, None)
        else:
            timers.set(key, at)
            model[key] = at
        now += rng.choice((0, 0, 1))
        assert timers.timeout() == min(model.values(), default=None)
        due = {key for key, at in model.items() if at <= now}
        assert set(timers.due(now)) == due
        for key in due:
            del model[key]
        assert len(timers._heap) < 1000


def test_who_moves_its_time_with_every_packet_takes_no_more_room():
    """A peer may send connectivity checks as fast as it likes, and each moves the end of its consent."""
    timers = Timers()
    timers.set("another", 1000.0)
    for number in range(20_000):
        timers.set("peer", 30.0 + number / 10_000)
    assert len(timers._heap) <= 2 * 2 + SPARE
    assert timers.timeout() == 30.0 + 19_999 / 10_000
    assert timers.due(1000.0) == ["peer", "another"]
