"""Transactions over a link that loses 30 %, duplicates 10 % and reorders: 1,000 seeds for each kind of call.

Whatever is lost, every transaction ends, the TU sees each request once and one outcome, and nothing is left.
"""

import random
from collections import Counter

import pytest

from imsalg.sip.endpoint import Endpoint
from imsalg.sip.events import (
    AckReceived,
    CancelReceived,
    ClientTransaction,
    Event,
    RequestReceived,
    ResponseReceived,
    ServerTransaction,
    TransactionFailed,
)
from imsalg.sip.headers import Headers
from imsalg.sip.hop import Flow, Transport
from imsalg.sip.message import Request, make_response
from imsalg.sip.transaction import T1, T2
from imsalg.sip.values import Address
from tests.sim.link import Link

SEEDS = 1000
ALICE = Address("192.0.2.1", 5060)
BOB = Address("2001:db8::2", 5062)


def make_request(method: str, number: int) -> Request:
    return Request(
        method,
        "sip:bob@example.org",
        Headers(
            (
                ("Max-Forwards", "70"),
                ("From", "<sip:alice@example.org>;tag=a"),
                ("To", "<sip:bob@example.org>"),
                ("Call-ID", f"call-{number}"),
                ("CSeq", f"1 {method}"),
                ("Content-Length", "0"),
            )
        ),
    )


class Caller:
    """Sends requests and keeps how each ended; acknowledges every 2xx to an INVITE."""

    def __init__(self, link: Link, transport: Transport) -> None:
        self.link, self.flow = link, Flow(transport, ALICE, BOB)
        self.endpoint = Endpoint(link.rng)
        self.outcomes: dict[ClientTransaction, list[int | str]] = {}
        link.attach(self.endpoint, ALICE, on_event=self.on_event)

    def call(self, method: str, number: int, cancel_after: float | None = None) -> None:
        tx = self.endpoint.request(make_request(method, number), self.flow, self.link.now)
        self.outcomes[tx] = []
        if cancel_after is not None:
            self.link.call_at(self.link.now + cancel_after, lambda: self.endpoint.cancel(tx, self.link.now))

    def on_event(self, event: Event) -> None:
        match event:
            case ResponseReceived(tx, response) if response.status >= 200:
                if tx.request.method == "INVITE" and response.status < 300:
                    ack = make_request("ACK", 0)
                    ack.headers.set("Call-ID", response.call_id)
                    ack.headers.set("To", response.headers.get("To") or "")
                    self.endpoint.send(ack, self.flow, self.link.now)
                    if self.outcomes[tx]:
                        return  # the same 2xx again
                self.outcomes[tx].append(response.status)
            case TransactionFailed(tx, cause):
                assert isinstance(tx, ClientTransaction)
                self.outcomes[tx].append(cause)
            case ResponseReceived():
                pass
            case _:
                raise AssertionError(event)


class Callee:
    """Answers after a while with `final`, retransmits a 2xx until the ACK as a UAS does, and obeys CANCEL."""

    def __init__(self, link: Link, rng: random.Random, final: int, ringing: bool) -> None:
        self.link, self.rng, self.final, self.ringing = link, rng, final, ringing
        self.endpoint = Endpoint(link.rng)
        self.seen: Counter[tuple[str, str]] = Counter()
        self.answered: set[ServerTransaction] = set()
        self.acknowledged: set[str] = set()
        link.attach(self.endpoint, BOB, on_event=self.on_event)

    def on_event(self, event: Event) -> None:
        match event:
            case RequestReceived(tx, request):
                self.seen[request.call_id, request.method] += 1
                after = self.rng.choice((0.0, 0.1, 1.0, 5.0))
                if self.ringing and self.rng.random() < 0.5:
                    self.endpoint.respond(tx, make_response(request, 180, to_tag="b"), self.link.now)
                self.link.call_at(self.link.now + after, lambda: self.answer(tx, self.final))
            case CancelReceived(tx, request):
                self.seen[request.call_id, "CANCEL"] += 1
                self.answer(tx, 487)
            case AckReceived(request):
                self.acknowledged.add(request.call_id)
            case TransactionFailed(ServerTransaction()):
                pass  # no ACK came
            case _:
                raise AssertionError(event)

    def answer(self, tx: ServerTransaction, status: int) -> None:
        if tx not in self.answered:
            self.answered.add(tx)
            self.respond(tx, status, T1, self.link.now + 64 * T1)

    def respond(self, tx: ServerTransaction, status: int, again: float, end: float) -> None:
        """RFC 3261 section 13.3.1.4."""
        if tx.request.call_id in self.acknowledged or self.link.now > end:
            return
        self.endpoint.respond(tx, make_response(tx.request, status, to_tag="b"), self.link.now)
        if tx.request.method == "INVITE" and status < 300:
            interval = min(2 * again, T2)
            self.link.call_at(self.link.now + again, lambda: self.respond(tx, status, interval, end))


def run(
    seed: int, method: str, final: int, cancel: bool, transport: Transport
) -> tuple[Caller, Callee, Link]:
    rng = random.Random(seed)
    link = Link(rng, loss=0.3, duplicate=0.1)
    caller = Caller(link, transport)
    callee = Callee(link, rng, final, ringing=method == "INVITE")
    for number in range(2):
        caller.call(method, number, rng.choice((0.0, 0.05, 0.4, 1.2, 6.0)) if cancel else None)
    link.run()
    return caller, callee, link


KINDS = {
    "invite-2xx-ack": ("INVITE", 200, False),
    "invite-486-ack": ("INVITE", 486, False),
    "non-invite": ("MESSAGE", 200, False),
    "cancel": ("INVITE", 200, True),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_transaction_ends_once_and_leaves_nothing_under_loss(kind: str) -> None:
    method, final, cancel = KINDS[kind]
    outcomes: Counter[int | str] = Counter()
    for seed in range(SEEDS):
        caller, callee, link = run(seed, method, final, cancel, Transport.UDP)
        where = f"seed {seed}"
        assert all(len(ends) == 1 for ends in caller.outcomes.values()), where
        assert max(callee.seen.values()) == 1, where
        for endpoint in (caller.endpoint, callee.endpoint):
            assert set(endpoint.counts().values()) == {0}, where
            assert endpoint.timeout() is None, where
            assert endpoint.next_event() is None, where
            assert not endpoint.to_send(), where
        assert link.now < 1000.0 + 120.0, where
        outcomes.update(end for ends in caller.outcomes.values() for end in ends)
    expected = {final, "timeout", *((487,) if cancel else ())}
    assert set(outcomes) <= expected
    assert outcomes["timeout"] < 0.02 * SEEDS * 2  # seven transmissions against 30 % loss
    assert not cancel or outcomes[487] > SEEDS / 2


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_retransmitted_over_tcp(kind: str) -> None:
    method, final, cancel = KINDS[kind]
    for seed in range(50):
        caller, callee, _ = run(seed, method, final, cancel, Transport.TCP)
        assert max(callee.seen.values()) == 1
        assert all(ends in ([final], [487]) for ends in caller.outcomes.values())
        assert not caller.endpoint.drops["response-absorbed"]
        assert not callee.endpoint.drops["retransmission"]
        assert set(caller.endpoint.counts().values()) == set(callee.endpoint.counts().values()) == {0}
