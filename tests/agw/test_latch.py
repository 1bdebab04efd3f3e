"""Where a peer is: the four cases of latching and filtering, without a socket."""

from __future__ import annotations

import pytest

from agw.latch import Whereabouts

SIGNALLED, FIRST, SECOND = ("192.0.2.1", 5000), ("198.51.100.2", 6000), ("203.0.113.3", 7000)


def signalled(
    latch: bool, source_filter: bool, authentic: bool, latch_from: str | None = None
) -> Whereabouts:
    whereabouts = Whereabouts()
    whereabouts.signal(SIGNALLED, latch, latch_from, source_filter, authentic)
    return whereabouts


def hear(whereabouts: Whereabouts, *sources: tuple[str, int]) -> None:
    """As a leg does: the filter, then what is learnt."""
    for source in sources:
        if whereabouts.latching and (whereabouts.allowed is None or source[0] in whereabouts.allowed):
            whereabouts.learn(source)


@pytest.mark.parametrize(
    ("latch", "source_filter", "authentic", "target", "allowed"),
    [
        (False, False, False, SIGNALLED, None),
        (False, False, True, SIGNALLED, None),
        (False, True, False, SIGNALLED, (SIGNALLED[0],)),
        (False, True, True, SIGNALLED, (SIGNALLED[0],)),
        (True, False, False, FIRST, None),
        (True, False, True, SECOND, None),
        (True, True, False, FIRST, (FIRST[0],)),
        (True, True, True, SECOND, None),
    ],
)
def test_where_to_send_and_whom_to_hear_after_two_senders_p15(
    latch: bool,
    source_filter: bool,
    authentic: bool,
    target: tuple[str, int],
    allowed: tuple[str, ...] | None,
) -> None:
    whereabouts = signalled(latch, source_filter, authentic)
    hear(whereabouts, FIRST, SECOND)
    assert (whereabouts.target, whereabouts.allowed) == (target, allowed)


def test_the_same_signal_forgets_nothing_and_another_everything() -> None:
    whereabouts = signalled(latch=True, source_filter=True, authentic=False)
    hear(whereabouts, FIRST)
    whereabouts.signal(SIGNALLED, True, None, True, False)
    hear(whereabouts, SECOND)
    assert whereabouts.target == FIRST
    whereabouts.signal(SECOND, True, None, True, False)
    assert (whereabouts.target, whereabouts.allowed, whereabouts.latching) == (SECOND, None, True)


def test_a_filter_that_comes_later_goes_by_what_was_learnt() -> None:
    whereabouts = signalled(latch=True, source_filter=False, authentic=False)
    hear(whereabouts, FIRST)
    whereabouts.signal(SIGNALLED, True, None, True, False)
    assert (whereabouts.target, whereabouts.allowed) == (FIRST, (FIRST[0],))
    whereabouts.signal(SIGNALLED, True, None, False, False)
    assert (whereabouts.target, whereabouts.allowed) == (FIRST, None)


@pytest.mark.parametrize("first", [(SIGNALLED[0], 5002), (FIRST[0], 6001)])
def test_the_first_packet_is_the_peers_and_nobody_elses(first: tuple[str, int]) -> None:
    whereabouts = signalled(latch=True, source_filter=True, authentic=False, latch_from=FIRST[0])
    hear(whereabouts, SECOND, first, SECOND)
    assert (whereabouts.target, whereabouts.allowed) == (first, (first[0],))


def test_what_is_authentic_may_come_from_anywhere_p15() -> None:
    whereabouts = signalled(latch=True, source_filter=True, authentic=True, latch_from=FIRST[0])
    hear(whereabouts, SECOND)
    assert (whereabouts.target, whereabouts.allowed) == (SECOND, None)


def test_a_peer_whose_signalling_comes_from_elsewhere_is_learnt_anew() -> None:
    whereabouts = signalled(latch=True, source_filter=True, authentic=False, latch_from=FIRST[0])
    hear(whereabouts, FIRST)
    whereabouts.signal(SIGNALLED, True, SECOND[0], True, False)
    hear(whereabouts, FIRST, SECOND)
    assert whereabouts.target == SECOND


def test_nothing_signalled_is_nowhere_to_send() -> None:
    whereabouts = Whereabouts()
    assert (whereabouts.target, whereabouts.allowed, whereabouts.latching) == (None, None, False)
