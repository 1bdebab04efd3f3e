"""The search for servers by itself: what is remembered, what waits, and that all of it is limited."""

from __future__ import annotations

import random

import pytest

from imsalg import finding as module
from imsalg import names
from imsalg.finding import (
    LOOKUP_LIMIT,
    MAX_QUARANTINE,
    MAX_QUESTIONS,
    MAX_TRIES,
    MAX_WAITING,
    Finding,
    Search,
)
from imsalg.names import MAX_ASKED, MAX_KEPT, MAX_NAMES, UNANSWERED_FOR, Answer, Names
from imsalg.sip.hop import Flow, Transport
from imsalg.sip.locate import MAX_RECORDS, Kind, Naptr, Question, Srv
from imsalg.sip.values import Address, Uri

HERE = Address("198.51.100.1", 5060)
HOST = Question("h.example", Kind.A)
FOUND = Answer(("192.0.2.7",), 60.0)


class Looking:
    """A Finding and what its searches were told."""

    def __init__(self) -> None:
        self.finding = Finding({Transport.UDP: HERE}, random.Random(1))
        self.told: list[str | None] = []

    def search(self, *uris: str, now: float = 0.0) -> Search:
        parsed = [Uri.parse(uri) for uri in uris]
        search = Search(self.finding.servers(parsed))
        self.finding.next(search, self.tell, now)
        return search

    def tell(self, flow: Flow | None, now: float) -> None:
        self.told.append(str(flow.remote) if flow else None)


@pytest.fixture
def looking() -> Looking:
    return Looking()


def flow(host: str, port: int = 5060) -> Flow:
    return Flow(Transport.UDP, HERE, Address(host, port))


def test_an_answer_is_known_until_its_time_is_over():
    cache = Names()
    assert cache.known(HOST, 0.0) is None
    cache.answered(HOST, FOUND, 0.0)
    assert cache.known(HOST, 59.9) == ("192.0.2.7",)
    assert cache.known(HOST, 60.0) is None


def test_a_name_that_does_not_exist_is_known_as_well():
    cache = Names()
    cache.answered(HOST, Answer((), 30.0), 0.0)
    assert cache.known(HOST, 29.9) == ()
    assert cache.known(HOST, 30.0) is None


def test_without_an_answer_the_old_one_holds_and_is_asked_for_again():
    cache = Names()
    cache.answered(HOST, FOUND, 0.0)
    assert cache.answered(HOST, Answer(), 3600.0) == ("192.0.2.7",)
    assert cache.known(HOST, 3600.0 + UNANSWERED_FOR) is None
    assert cache.answered(HOST, Answer(), 7200.0) == ("192.0.2.7",)
    assert cache.answered(HOST, Answer((), 5.0), 7300.0) == ()


def test_the_cache_is_limited_in_number_size_and_time(monkeypatch):
    monkeypatch.setattr(names, "MAX_NAMES", 3)
    cache = Names()
    for number in range(5):
        cache.answered(Question(f"{number}.example", Kind.A), FOUND, 0.0)
    known = [cache.known(Question(f"{number}.example", Kind.A), 0.0) for number in range(5)]
    assert known == [None, None, *[("192.0.2.7",)] * 3]
    many = tuple(f"192.0.2.{number}" for number in range(250))
    assert len(cache.answered(HOST, Answer(many, 2.0**31), 0.0)) == MAX_RECORDS
    assert cache.known(HOST, MAX_KEPT) is None
    assert MAX_NAMES < 100_000


def test_how_much_is_asked_at_once_is_limited(looking):
    for number in range(MAX_ASKED + 2):
        looking.search(f"sip:{number}.example:5060")
    assert len(looking.finding.to_ask()) == MAX_ASKED
    assert looking.told == [None, None]
    looking.finding.answered(Question("0.example", Kind.A), FOUND, 0.0)
    looking.search("sip:other.example:5060")
    assert len(looking.finding.to_ask()) == 1


def test_how_much_waits_is_limited(looking):
    for _ in range(MAX_WAITING + 1):
        looking.search("sip:h.example:5060")
    assert len(looking.finding.to_ask()) == 1
    assert looking.told == [None]
    looking.finding.answered(HOST, FOUND, 0.0)
    assert looking.told[1:] == ["192.0.2.7:5060"] * MAX_WAITING
    assert len(looking.finding) == 0
    assert looking.finding.timeout() is None


def test_a_search_goes_on_with_what_is_left_when_the_dns_is_silent(looking):
    looking.finding.shun(flow("192.0.2.1"), 60.0, 0.0)
    search = looking.search("sip:192.0.2.1", "sip:h.example:5060")
    assert looking.finding.timeout() == LOOKUP_LIMIT
    looking.finding.expire(LOOKUP_LIMIT)
    assert looking.told == ["192.0.2.1:5060"]
    looking.finding.next(search, looking.tell, LOOKUP_LIMIT)
    assert looking.told == ["192.0.2.1:5060", None]


def test_a_search_that_was_stopped_goes_on_where_it_was(looking):
    search = looking.search("sip:192.0.2.1", "sip:h.example:5060")
    looking.finding.next(search, looking.tell, 0.0)
    looking.finding.stop(search)
    assert looking.finding.timeout() is None
    looking.finding.answered(HOST, FOUND, 1.0)
    assert looking.told == ["192.0.2.1:5060"]
    looking.finding.next(search, looking.tell, 2.0)
    assert looking.told == ["192.0.2.1:5060", "192.0.2.7:5060"]


def test_a_search_that_the_answer_to_another_stops_finds_nothing(looking):
    """Its request was cancelled by what became of the first: it would be sent after all."""
    found: list[str] = []
    searches: list[Search] = []

    def tell(flow, now):
        found.append(str(flow))
        for search in searches:
            looking.finding.stop(search)

    for _ in range(2):
        servers = looking.finding.servers([Uri.parse("sip:h.example:5060")])
        searches.append(Search(servers))
        looking.finding.next(searches[-1], tell, 0.0)
    looking.finding.answered(HOST, FOUND, 0.0)
    assert len(found) == 1


def test_no_server_is_tried_twice(looking):
    search = looking.search("sip:192.0.2.1", "sip:192.0.2.1:5060", "sip:192.0.2.2")
    for _ in range(3):
        looking.finding.next(search, looking.tell, 0.0)
    assert looking.told == ["192.0.2.1:5060", "192.0.2.2:5060", None, None]


def test_a_zone_that_never_ends_costs_no_more_than_the_limit(looking):
    """Each name of a huge answer leads to as many servers, all of them in quarantine."""
    search = looking.search("sip:example.org;transport=udp")
    records = [Srv(0, 0, 1 + number, f"{number}.example.org") for number in range(1000)]
    hosts = [f"192.0.2.{number}" for number in range(200)]
    for host in hosts[:MAX_RECORDS]:
        for port in range(1, MAX_RECORDS + 1):
            looking.finding.shun(flow(host, port), 60.0, 0.0)
    asked = 0
    while (questions := looking.finding.to_ask()) and asked < 1000:
        (question,) = questions
        asked += 1
        found = records if question.kind is Kind.SRV else hosts
        looking.finding.answered(question, Answer(found, 60.0), 0.0)
    assert asked == 1 + MAX_RECORDS
    for _ in range(MAX_TRIES):
        looking.finding.next(search, looking.tell, 0.0)
    assert len(looking.told) == MAX_TRIES + 1
    assert looking.told[-1] is None


def test_services_without_end_that_lead_to_no_server_cost_no_more_than_the_limit(looking):
    """Each of the many NAPTR records has as many servers, and none of these has an address."""
    looking.search("sip:example.org")
    zone = {
        Kind.NAPTR: [Naptr(0, n, "s", "sip+d2u", f"_{n}.example.org") for n in range(MAX_RECORDS)],
        Kind.SRV: [Srv(0, 0, 5060, f"{n}.example.org") for n in range(MAX_RECORDS)],
    }
    asked = 0
    while questions := looking.finding.to_ask():
        asked += len(questions)
        for question in questions:
            found = zone.get(question.kind, ())
            looking.finding.answered(question, Answer(found, 0.0), 0.0)
    assert asked == MAX_QUESTIONS
    assert looking.told == [None]
    assert not len(looking.finding)


def test_the_quarantine_is_limited(looking):
    for number in range(MAX_QUARANTINE + 5):
        looking.finding.shun(flow("192.0.2.1", number), 60.0, 0.0)
    assert len(looking.finding.quarantined(0.0)) == MAX_QUARANTINE
    looking.finding.trust(flow("192.0.2.1", MAX_QUARANTINE))
    assert len(looking.finding.quarantined(0.0)) == MAX_QUARANTINE - 1
    assert not looking.finding.quarantined(60.0)
    assert module.MAX_QUARANTINE < 100_000
