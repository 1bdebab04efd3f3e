"""The DNS asked over real sockets: NSD answers, a socket that never does, and nobody."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator, Sequence

import pytest
import uvloop

from imsalg.names import Answer
from imsalg.sip.locate import Kind, Naptr, Question, Srv
from imsalg.sip.values import Address
from imsalg.transport import nameservers
from imsalg.transport.nameservers import Nameservers
from tests.sim.nsd import HOST, Nsd

PORT = 16850
SILENT = 16851  # somebody who never answers
NOBODY = 16852
RECORDS = (
    'sip NAPTR 10 20 "s" "SIP+D2U" "" _sip._udp.sip',
    'sip NAPTR 10 10 "S" "SIPS+D2T" "" _SIPS._tcp.Sip',
    'sip NAPTR 10 10 "u" "E2U+sip" "!^.*$!sip:x@example.org!" .',
    "_sip._udp.sip 30 SRV 1 2 5070 One",
    "_sip._udp.sip 30 SRV 0 0 0 .",
    "one 9 A 192.0.2.1",
    "one 9 A 192.0.2.2",
    "one 8 AAAA 2001:db8::1",
    "alias 5 CNAME one",
    "loop1 CNAME loop2",
    "loop2 CNAME loop1",
    *(f"many A 10.{number // 250}.1.{number % 250}" for number in range(1000)),
)


@pytest.fixture(scope="module")
def nsd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Address]:
    with Nsd(tmp_path_factory.mktemp("nsd"), PORT, *RECORDS):
        yield Address(HOST, PORT)


def ask(servers: Sequence[Address], *questions: Question) -> dict[Question, Answer]:
    """All at once."""

    async def run() -> dict[Question, Answer]:
        answers: dict[Question, Answer] = {}
        done = asyncio.Event()

        def take(question: Question, answer: Answer) -> None:
            assert question not in answers
            answers[question] = answer
            if len(answers) == len(questions):
                done.set()

        asking = Nameservers(servers, take)
        for question in questions:
            asking.ask(question)
        await asyncio.wait_for(done.wait(), 10)
        await asking.close()
        return answers

    return uvloop.run(run())


def one(server: Address, name: str, kind: Kind) -> Answer:
    (answer,) = ask([server], Question(name, kind)).values()
    return answer


def test_each_type_is_read(nsd):
    naptr = one(nsd, "sip.home.test", Kind.NAPTR)
    assert sorted(naptr.records, key=lambda each: each.preference) == [
        Naptr(10, 10, "s", "sips+d2t", "_sips._tcp.sip.home.test"),
        Naptr(10, 20, "s", "sip+d2u", "_sip._udp.sip.home.test"),
    ]  # and none with a regexp
    srv = one(nsd, "_sip._udp.sip.home.test", Kind.SRV)
    assert set(srv.records) == {Srv(0, 0, 0, ""), Srv(1, 2, 5070, "one.home.test")}
    assert srv.ttl == 30.0
    assert sorted(one(nsd, "one.home.test", Kind.A).records) == ["192.0.2.1", "192.0.2.2"]
    assert one(nsd, "one.home.test", Kind.AAAA) == Answer(["2001:db8::1"], 8.0)


def test_an_alias_holds_for_as_long_as_each_of_its_parts(nsd):
    answer = one(nsd, "alias.home.test", Kind.A)
    assert sorted(answer.records) == ["192.0.2.1", "192.0.2.2"]
    assert answer.ttl == 5.0


@pytest.mark.parametrize("name", ["nowhere.home.test", "one.home.test"])
def test_what_does_not_exist_is_known_for_the_time_the_zone_says(nsd, name):
    """A name that is not there, and one that has no such record (RFC 2308)."""
    answer = one(nsd, name, Kind.SRV)
    assert not answer.records
    assert answer.ttl == 7.0


def test_an_answer_too_long_for_a_datagram_comes_over_tcp(nsd):
    assert len(one(nsd, "many.home.test", Kind.A).records) == 1000


@pytest.mark.parametrize(
    "name",
    [
        "loop1.home.test",
        "refused.example",
        "a..b",
        "x" * 64 + ".test",
        "ü\udc80.test",
        "\\300.test",
        ".",
        "a\\",
    ],
)
def test_what_leads_nowhere_is_no_answer(nsd, name):
    answer = one(nsd, name, Kind.A)
    assert not answer.records
    assert answer.ttl is None


def test_the_second_server_answers_for_the_first(nsd):
    (answer,) = ask([Address(HOST, NOBODY), nsd], Question("one.home.test", Kind.A)).values()
    assert len(answer.records) == 2


def test_a_server_that_never_answers_is_given_up(monkeypatch):
    monkeypatch.setattr(nameservers, "LIMIT", 0.3)
    monkeypatch.setattr(nameservers, "ATTEMPT", 0.1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind((HOST, SILENT))
        questions = [Question(f"{number}.home.test", Kind.A) for number in range(20)]
        answers = ask([Address(HOST, SILENT)], *questions)
    assert list(answers.values()) == [Answer()] * 20


def test_the_system_has_name_servers_or_has_none():
    async def run() -> None:
        await Nameservers((), lambda question, answer: None).close()

    uvloop.run(run())


def test_whatever_an_answer_makes_the_library_do_the_question_is_answered(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(self: Nameservers, question: Question) -> Answer:
        raise AssertionError("a fault of the library")

    monkeypatch.setattr(Nameservers, "_look_up", fail)
    question = Question("x\x1b.example", Kind.A)
    assert ask([Address(HOST, NOBODY)], question) == {question: Answer()}
    assert "A of x\\x1b.example" in caplog.text
