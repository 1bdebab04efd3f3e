"""Each source has a rate; who goes on over it is not heard for a while; and who is remembered is limited."""

from __future__ import annotations

import logging

import pytest

from imsalg.crossing import Note
from imsalg.sip.shares import Shares, source_of
from imsalg.sources import MAX_SOURCES, SPAN, Lines, Rates, Verdict


def heard(rates: Rates, source: str, count: int, now: float) -> dict[Verdict, int]:
    verdicts = [rates.heard(source, now) for _ in range(count)]
    return {verdict: verdicts.count(verdict) for verdict in Verdict if verdict in verdicts}


def test_a_burst_is_heard_then_refused_and_who_goes_on_is_ignored() -> None:
    rates = Rates(10, 100, 30)
    assert heard(rates, "a", 100, 5.0) == {Verdict.HEARD: 100}
    assert heard(rates, "a", 100, 5.0) == {Verdict.REFUSED: 100}
    assert heard(rates, "a", 100, 5.0) == {Verdict.PENALISED: 1, Verdict.IGNORED: 99}
    assert heard(rates, "a", 9, 34.9) == {Verdict.IGNORED: 9}
    assert heard(rates, "b", 100, 5.0) == {Verdict.HEARD: 100}


def test_after_a_penalty_it_is_heard_at_its_rate() -> None:
    rates = Rates(10, 100, 30)
    heard(rates, "a", 201, 5.0)
    assert heard(rates, "a", 15, 36.05) == {Verdict.HEARD: 10, Verdict.REFUSED: 5}


def test_who_goes_on_through_its_penalty_is_penalised_again() -> None:
    rates, now, verdicts = Rates(10, 100, 30), 0.0, []
    while now < 300:
        verdicts.append(rates.heard("a", now))
        now += 0.01  # ten times the rate
    assert verdicts.count(Verdict.PENALISED) >= 5
    assert verdicts.count(Verdict.HEARD) < 0.4 * 10 * 300


def test_at_its_rate_it_is_heard_for_ever() -> None:
    rates = Rates(10, 100, 30)
    assert all(rates.heard("a", n / 10) is Verdict.HEARD for n in range(10_000))


def test_many_who_say_little_are_not_remembered() -> None:
    rates = Rates(200, 2000, 30)
    for n in range(100_000):
        assert rates.heard(n, n * 1e-4) is Verdict.HEARD
    assert len(rates) < 200


def test_who_is_in_debt_is_remembered_up_to_a_limit_and_forgotten_when_it_has_paid() -> None:
    rates = Rates(1, 10, 30)
    for n in range(MAX_SOURCES):
        assert heard(rates, str(n), 5, 0.0) == {Verdict.HEARD: 5}
    assert rates.heard("one more", 0.0) is Verdict.REFUSED
    assert len(rates) == MAX_SOURCES
    assert rates.heard("one more", 6.0) is Verdict.HEARD
    for n in range(MAX_SOURCES):
        rates.heard(f"other {n}", 6.0 + n)
    assert len(rates) < 10


def test_one_under_penalty_does_not_keep_the_others_in_memory() -> None:
    rates = Rates(10, 10, 1e9)
    heard(rates, "bad", 30, 0.0)
    for n in range(50_000):
        rates.heard(n, n * 1e-3)
    assert len(rates) < 300
    assert rates.heard("bad", 60.0) is Verdict.IGNORED


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
    ],
)
def test_a_subscriber_is_a_host_or_a_64(one: str, other: str, same: bool) -> None:
    assert (source_of(one) == source_of(other)) is same


def test_a_share_is_full_at_its_limit_and_leaves_nothing() -> None:
    shares = Shares(2)
    shares.take("a")
    assert not shares.full("a")
    shares.take("a")
    assert shares.full("a")
    assert not shares.full("b")
    shares.give_back("a")
    shares.give_back("a")
    assert not len(shares)


def said(text: str) -> Note:
    return Note(logging.INFO, text)


def test_of_many_lines_a_few_of_each_source_are_told_and_the_others_counted() -> None:
    notes: list[Note] = []
    lines = Lines(notes.append, each=10, sources=100)
    for number in range(1000):
        lines.tell("a", said(f"a {number}"), 5.0 + number / 1000)
    lines.tell("b", said("b"), 6.0)
    assert [note.text for note in notes] == [*(f"a {number}" for number in range(10)), "b"]
    lines.tell("a", said("again"), 5.0 + SPAN)
    assert [note.text for note in notes[-2:]] == ["990 lines like the next were left out before it", "again"]


def test_lines_of_sources_without_end_are_counted_as_well() -> None:
    notes: list[Note] = []
    lines = Lines(notes.append, each=10, sources=100)
    for number in range(10_000):
        lines.tell(number, said("x"), 5.0)
    assert len(notes) == len(lines._told) == 100
    lines.tell("new", said("y"), 5.0 + SPAN)
    assert [note.text for note in notes[-2:]] == ["9900 lines like the next were left out before it", "y"]
