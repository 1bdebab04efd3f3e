"""What begins nothing is served first, what waited too long is put off, and nothing waits without limit."""

from __future__ import annotations

import random
import sys
from collections import Counter

import pytest

from imsalg.errors import BadMessage
from imsalg.intake import LONG, MAX_WAITING, PATIENCE, Intake, Standing
from imsalg.sip.glance import Kind
from imsalg.sip.hop import Flow, Key, Transport, server_key
from imsalg.sip.message import BadRequest, Request, Response, parse_message
from imsalg.sip.values import Address

HERE = Address("192.0.2.1", 5060)
FRIEND = Flow(Transport.UDP, HERE, Address("192.0.2.10", 5060))
STRANGER = Flow(Transport.UDP, HERE, Address("203.0.113.66", 5060))
STREAM = Flow(Transport.TCP, HERE, Address("192.0.2.11", 40000))


HASTY = Flow(Transport.UDP, HERE, Address("192.0.2.12", 5060))


class Judge:
    """Knows all but strangers; one has said much at once. counted: how many messages all was worth."""

    def __init__(self) -> None:
        self.full = False
        self.counted = 0
        self.open: set[Key] = set()
        self.standings = {STRANGER: Standing.STRANGER, HASTY: Standing.HASTY}

    def standing(self, flow: Flow, kind: Kind, now: float, messages: int = 1) -> Standing:
        self.counted += messages
        return self.standings.get(flow, Standing.KNOWN)

    def is_full(self, now: float) -> bool:
        return self.full

    def is_open(self, key: Key) -> bool:
        return key in self.open


class Bench:
    """An intake at a time that stands still."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.judge = Judge()
        self.drops: Counter[str] = Counter()
        self.intake = Intake(self.judge, random.Random(1), self.drops)

    def put(self, data: bytes | Request | Response | BadMessage, flow: Flow = FRIEND) -> None:
        self.intake.put(data, flow, self.now)

    def open(self, data: bytes) -> None:
        """This request has a transaction."""
        first = parse_message(data)
        assert isinstance(first, Request)
        self.judge.open.add(server_key(first))

    def served(self) -> list[object]:
        """Everything that is to be served, in order."""
        found = []
        while len(self.intake):
            if (waiting := self.intake.take(self.now)) is not None:
                found.append(waiting.payload)
        return found

    def refusal(self) -> tuple[Flow, Response]:
        ((flow, data),) = self.intake.to_send()
        response = parse_message(data)
        assert isinstance(response, Response)
        return flow, response


@pytest.fixture
def bench() -> Bench:
    return Bench()


def request(method: str, name: str = "1", uri: str = "sip:bob@x", to: str = "") -> bytes:
    return (
        f"{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.10;branch=z9hG4bK{name};rport"
        f"\r\nFrom: <sip:a@x>;tag=1\r\nTo: <sip:bob@x>{to}\r\nCall-ID: {name}\r\nCSeq: 1 {method}\r\n"
        "Content-Length: 0\r\n\r\n"
    ).encode()


INVITE, REGISTER = request("INVITE"), request("REGISTER")
BYE, ACK, CANCEL = request("BYE", to=";tag=2"), request("ACK", to=";tag=2"), request("CANCEL")
OK = INVITE.replace(b"INVITE sip:bob@x SIP/2.0", b"SIP/2.0 200 OK")
SOS = request("INVITE", uri="urn:service:sos")


def test_what_begins_nothing_and_emergency_calls_go_first_and_strangers_last(bench: Bench) -> None:
    theirs, their_bye = request("REGISTER", "s"), request("BYE", "s", to=";tag=7")
    bench.put(theirs, STRANGER)
    bench.put(their_bye, STRANGER)
    bench.open(request("INVITE", "rings"))
    cancel = request("CANCEL", "rings")
    for data in (INVITE, REGISTER, BYE, ACK, cancel, OK, SOS):
        bench.put(data)
    assert bench.served() == [BYE, ACK, cancel, OK, SOS, INVITE, REGISTER, theirs, their_bye]
    assert not len(bench.intake)


@pytest.mark.parametrize("parsed", [False, True], ids=["datagram", "stream"])
@pytest.mark.parametrize("flow", [FRIEND, HASTY, STRANGER], ids=["known", "hasty", "stranger"])
def test_a_cancel_does_not_overtake_its_invite_however_long_that_waits(
    bench: Bench, flow: Flow, parsed: bool
) -> None:
    """It would be answered 481, and the INVITE would ring."""
    invite, cancel = (parse_message(data) if parsed else data for data in (INVITE, CANCEL))
    bench.put(request("INVITE", "first"), flow)
    bench.put(invite, flow)
    bench.put(cancel, flow)
    assert bench.served()[1:] == [invite, cancel]
    bench.put(invite, flow)
    bench.put(cancel, flow)
    bench.now += 2 * PATIENCE
    assert bench.served() == ([] if flow is STRANGER else [cancel])  # 481, as its INVITE was refused
    assert bench.refusal()[1].cseq.method == "INVITE"


def test_a_flood_of_emergency_calls_of_strangers_does_not_come_first(bench: Bench) -> None:
    sos = request("INVITE", "s", uri="urn:service:sos")
    bench.put(sos, STRANGER)
    bench.put(INVITE)
    assert bench.served() == [INVITE, sos]


def test_a_new_request_that_has_waited_too_long_is_answered_503_and_the_rest_is_served(bench: Bench) -> None:
    for data in (INVITE, BYE, SOS):
        bench.put(data)
    bench.now += LONG - 0.01
    late = request("INVITE", "2")
    bench.put(late)
    bench.now += PATIENCE - LONG + 0.02
    assert bench.served() == [BYE, SOS, late]
    flow, response = bench.refusal()
    assert flow == FRIEND
    assert response.status == 503
    assert 5 <= int(response.headers.get("Retry-After") or "") <= 12
    assert bench.drops["overload-waited"] == 1


def test_while_the_first_has_waited_for_long_no_other_begins_to_wait(bench: Bench) -> None:
    bench.put(INVITE)
    bench.now += LONG + 0.01
    for data in (request("REGISTER", "2"), BYE, SOS):
        bench.put(data)
    _, response = bench.refusal()
    assert (response.status, response.call_id) == (503, "2")
    assert bench.served() == [BYE, SOS, INVITE]
    bench.put(REGISTER)
    assert bench.served() == [REGISTER]


def test_cancels_that_wait_keep_no_new_request_out(bench: Bench) -> None:
    """Nobody can be kept from calling by CANCELs of what never was."""
    bench.put(INVITE)
    assert bench.intake.take(bench.now)
    bench.put(REGISTER)
    cancels = [request("CANCEL", f"never{number}") for number in range(10)]
    for cancel in cancels:
        bench.put(cancel)
    bench.now += LONG + 0.01
    assert bench.intake.take(bench.now)
    late = request("INVITE", "late")
    bench.put(late)
    assert not bench.intake.to_send()
    assert bench.served() == [*cancels, late]


def test_strangers_wait_for_themselves(bench: Bench) -> None:
    theirs, their_bye = request("REGISTER", "s"), request("BYE", "s", to=";tag=7")
    bench.put(theirs, STRANGER)
    bench.now += LONG + 0.01
    bench.put(INVITE)
    bench.put(their_bye, STRANGER)
    assert bench.intake.to_send() == []
    bench.put(request("REGISTER", "t"), STRANGER)
    assert bench.refusal()[1].call_id == "t"
    assert bench.served() == [INVITE, theirs, their_bye]


def test_who_has_said_much_takes_turns_with_those_who_have_not(bench: Bench) -> None:
    """2,000 messages within a dialog, of 2 ms each, and calls of others, one every 20 ms."""
    for number in range(2000):
        bench.put(request("INFO", f"i{number}", to=";tag=2"), HASTY)
    calls = [request("INVITE", str(number)) for number in range(200)]
    waiting, infos = calls[:], 0
    waits: list[float] = []
    begun = bench.now
    while waiting or len(bench.intake):
        while waiting and bench.now >= begun + 0.02 * (len(calls) - len(waiting)):
            bench.put(waiting.pop(0))
        served = bench.intake.take(bench.now)
        assert served is not None
        if served.flow == HASTY:
            infos += 1
        else:
            waits.append(bench.now - served.since)
        bench.now += 2e-3
    assert infos == 2000
    assert len(waits) == len(calls)
    assert max(waits) < 5e-3
    assert bench.intake.to_send() == []


def test_in_a_flood_of_calls_of_others_it_still_has_its_turn(bench: Bench) -> None:
    for number in range(100):
        bench.put(request("BYE", f"b{number}", to=";tag=2"), HASTY)
    bench.put(request("MESSAGE", "m"), HASTY)
    byes = 0
    for number in range(400):
        bench.put(request("INVITE", str(number)))
        served = bench.intake.take(bench.now)
        byes += served is not None and served.flow == HASTY
        bench.now += 5e-3
    assert byes == 100
    assert {parse_message(data).call_id for flow, data in bench.intake.to_send() if flow == HASTY} == {"m"}


def test_the_ack_to_such_a_refusal_is_not_looked_at(bench: Bench) -> None:
    bench.put(INVITE)
    bench.now += 1
    assert bench.served() == []
    _, response = bench.refusal()
    bench.put(request("ACK", to=f";tag={response.to.tag}"))
    assert bench.served() == []
    assert bench.drops["overload-acked"] == 1


def test_the_same_request_again_is_refused_with_the_same_tag(bench: Bench) -> None:
    responses = []
    for data in (INVITE, INVITE, request("INVITE", "2")):
        bench.put(data)
        bench.now += 1
        bench.served()
        responses.append(bench.refusal()[1])
    first, again, other = responses
    assert bytes(first) == bytes(again)
    assert first.to.tag != other.to.tag


def test_a_retransmission_is_never_refused_as_its_transaction_goes_on(bench: Bench) -> None:
    bench.open(INVITE)
    for _ in range(2):  # the second finds the first waiting
        bench.put(INVITE)
        bench.now += 1
    assert bench.served() == [INVITE, INVITE]
    bench.judge.standings[FRIEND] = Standing.REFUSED
    bench.put(INVITE)
    assert bench.served() == bench.intake.to_send() == []


def test_where_no_call_can_be_taken_on_only_calls_are_refused(bench: Bench) -> None:
    bench.judge.full = True
    for data in (INVITE, REGISTER, SOS, BYE):
        bench.put(data)
    assert bench.served() == [SOS, BYE, REGISTER]
    assert bench.refusal()[1].cseq.method == "INVITE"


def test_who_sends_too_much_is_refused_and_then_ignored(bench: Bench) -> None:
    bench.judge.standings[FRIEND] = Standing.REFUSED
    for data in (REGISTER, BYE, ACK, OK):
        bench.put(data)
    assert bench.served() == []
    assert bench.refusal()[1].status == 503
    bench.judge.standings[FRIEND] = Standing.IGNORED
    bench.put(REGISTER)
    assert bench.served() == bench.intake.to_send() == []
    assert bench.drops == {"source-refused": 4, "source-ignored": 1}


def test_messages_of_a_stream_are_ordered_and_refused_alike(bench: Bench) -> None:
    invite, bye, bad = parse_message(INVITE), parse_message(BYE), BadMessage("no message")
    for payload in (invite, bad, bye):
        bench.put(payload, STREAM)
    assert bench.served() == [bad, bye, invite]
    bench.put(invite, STREAM)
    bench.now += 1
    assert bench.served() == []
    flow, response = bench.refusal()
    assert flow == STREAM
    assert response.status == 503


@pytest.mark.parametrize("data", [INVITE + b"x" * 60000, b"\r\n\r\n"])
def test_what_waits_is_limited_and_strangers_leave_room(bench: Bench, data: bytes) -> None:
    for _ in range(40_000):
        bench.put(data, STRANGER)
    waiting = len(bench.intake)
    assert 100 < waiting * (len(data) + 100) < MAX_WAITING
    assert bench.drops["overload-full"] == 40_000 - waiting
    bench.put(BYE)
    assert bench.intake.take(bench.now).payload == BYE  # type: ignore[union-attr]
    bench.now += 1
    bench.served()
    bench.put(data, STRANGER)
    assert len(bench.intake) == 1


@pytest.mark.parametrize(
    "data",
    [
        INVITE.replace(b"\r\n\r\n", b"\r\n" + b"a:\r\n" * 240 + b"\r\n"),
        INVITE.replace(b"\r\n\r\n", b"\r\n" + (b"a:" + b"x" * 16000 + b"\r\n") * 3 + b"\r\n"),
        INVITE.replace(b"sip:bob@x SIP", b"sip:" + b"b" * 60000 + b" SIP"),  # 414
        OK.replace(b"200 OK", b"200 " + "\U0001f4de".encode() * 15000),
    ],
    ids=["many lines", "long lines", "a long URI", "a long reason"],
)
def test_what_waits_parsed_is_counted_as_what_it_takes_in_memory(bench: Bench, data: bytes) -> None:
    payload: Request | Response | BadMessage
    try:
        payload = message = parse_message(data)
    except BadRequest as error:
        payload, message = error, error.request
    start = message.uri if isinstance(message, Request) else message.reason
    lines = message.headers._lines
    takes = sys.getsizeof(start) + sum(16 + sys.getsizeof(each) for each in lines)
    while not bench.drops:
        bench.put(payload, STREAM)
    assert 0.7 * MAX_WAITING < len(bench.intake) * takes < MAX_WAITING
    if isinstance(payload, BadMessage):  # whose frames hold the text that was parsed
        assert payload.__traceback__ is None


def test_in_a_flood_who_begins_to_wait_is_served_and_somebody_always_waits(bench: Bench) -> None:
    """A machine that takes 2 ms for a request; ten come meanwhile."""
    for number in range(5000):
        bench.put(request("INVITE", str(number)))
        if number % 10 == 9:
            at_once = len(bench.intake.to_send())
            assert bench.intake.take(bench.now) is not None
            out_of_the_queue = len(bench.intake.to_send())
            bench.now += 2e-3
            if number > 2000:  # more had come while nobody had waited for long
                assert 8 <= at_once <= 10
                assert out_of_the_queue == 0


def test_in_a_flood_of_five_times_what_can_be_served_nearly_all_of_the_time_goes_to_whole_calls(
    bench: Bench,
) -> None:
    """A machine that takes 4 ms for a call, half of it after the INVITE, and 10 us for a refusal."""
    served, began, number = 0, bench.now, 0
    follow_ups: list[float] = []
    idle = 0
    while bench.now < began + 20:
        while number < (bench.now - began) * 1250:  # five times 250 calls a second
            bench.put(request("INVITE", str(number)))
            number += 1
        while follow_ups and follow_ups[0] <= bench.now:
            follow_ups.pop(0)
            bench.put(BYE)
        waiting = bench.intake.take(bench.now)
        bench.now += 10e-6 * len(bench.intake.to_send())
        if waiting is None:
            bench.now += 1e-3
            idle += 1
        elif waiting.payload == BYE:
            bench.now += 2e-3
            served += 1
        else:
            bench.now += 2e-3
            follow_ups.append(bench.now + 0.5)
    assert served > 0.9 * 250 * 19
    assert idle < 100
    bench.now += 1
    bench.served()
    bench.intake.to_send()
    bench.put(INVITE)  # the flood is over
    bench.now += 0.01
    assert bench.served() == [INVITE]


def test_a_long_datagram_counts_as_several_messages_and_what_a_stream_brought_as_one(bench: Bench) -> None:
    """It takes as long to be read; a stream was counted by its octets."""
    long = request("MESSAGE", "m").replace(b"\r\n\r\n", b"\r\nX: " + b"x" * 12_000 + b"\r\n\r\n")
    bench.put(long)
    assert bench.judge.counted == 3
    bench.put(parse_message(long), STREAM)
    assert bench.judge.counted == 4
