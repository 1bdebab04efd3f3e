"""The endpoint: matching, routing of responses, CANCEL, transports, limits. Bytes in, bytes out, no sleep."""

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imsalg.errors import UsageError
from imsalg.sip.endpoint import Endpoint
from imsalg.sip.events import (
    AckReceived,
    CancelReceived,
    Cause,
    RequestReceived,
    ResponseReceived,
    SenderGone,
    ServerTransaction,
    TransactionFailed,
)
from imsalg.sip.headers import Headers
from imsalg.sip.hop import Flow, Transport
from imsalg.sip.message import Request, Response, make_response, parse_head, parse_message
from imsalg.sip.timers import Running, Timers
from imsalg.sip.transaction import State
from imsalg.sip.values import Address
from tests.sim.link import Link

US = Address("192.0.2.1", 5060)
PEER = Address("198.51.100.7", 5070)
UDP = Flow(Transport.UDP, US, PEER)
TCP = Flow(Transport.TCP, US, PEER)
IDLE = {"client_invite": 0, "client_non_invite": 0, "server_invite": 0, "server_non_invite": 0, "timers": 0}


def endpoint(**settings: object) -> Endpoint:
    return Endpoint(random.Random(1), **settings)  # type: ignore[arg-type]


def outgoing(method: str = "INVITE", body: bytes = b"") -> Request:
    request = Request(
        method,
        "sip:bob@example.org",
        Headers(
            (
                ("Via", "SIP/2.0/UDP caller.example;branch=z9hG4bKbelow"),
                ("Route", "<sip:next.example;lr>"),
                ("From", "<sip:alice@example.org>;tag=a"),
                ("To", "<sip:bob@example.org>"),
                ("Call-ID", "c1"),
                ("CSeq", f"7 {method}"),
            )
        ),
    )
    request.set_body(body, "application/sdp" if body else None)
    return request


def incoming(
    method: str = "INVITE",
    via: str = "SIP/2.0/UDP 198.51.100.7:5070;branch=z9hG4bKx",
    cseq: str | None = None,
    more: str = "",
) -> bytes:
    return (
        f"{method} sip:alice@example.org SIP/2.0\r\nVia: {via}\r\nFrom: <sip:bob@example.org>;tag=b\r\n"
        f"To: <sip:alice@example.org>\r\nCall-ID: c2\r\nCSeq: {cseq or '1 ' + method}\r\n{more}"
        "Content-Length: 0\r\n\r\n"
    ).encode()


def sent(endpoint: Endpoint) -> list[tuple[Flow, Request | Response]]:
    return [(flow, parse_message(data)) for flow, data in endpoint.to_send()]


def statuses(endpoint: Endpoint) -> list[int]:
    return [message.status for _, message in sent(endpoint) if isinstance(message, Response)]


def methods(endpoint: Endpoint) -> list[str]:
    return [message.method for _, message in sent(endpoint) if isinstance(message, Request)]


def events(endpoint: Endpoint) -> list[object]:
    found: list[object] = []
    while (event := endpoint.next_event()) is not None:
        found.append(event)
    return found


def served(endpoint: Endpoint, data: bytes, flow: Flow = UDP, now: float = 0.0) -> ServerTransaction:
    endpoint.receive(data, flow, now)
    event = endpoint.next_event()
    assert isinstance(event, RequestReceived)
    return event.transaction


def reply(request: Request, status: int) -> bytes:
    return bytes(make_response(request, status, to_tag="b"))


# What goes out.


def test_a_request_carries_our_via_on_top_and_the_rest_stays() -> None:
    ours = endpoint()
    tx = ours.request(outgoing(), UDP, 0.0, branch_suffix=".loop1", owner="me")
    ((flow, request),) = sent(ours)
    assert flow == tx.flow == UDP
    assert tx.owner == "me"
    top, below = request.headers.lines("Via")
    assert re.fullmatch(r"SIP/2\.0/UDP 192\.0\.2\.1:5060;branch=z9hG4bK[0-9a-f]{16}\.loop1;rport", top)
    assert below == "SIP/2.0/UDP caller.example;branch=z9hG4bKbelow"


@pytest.mark.parametrize(
    ("transport", "at", "said"),
    [("TLS", US, True), ("TLS", PEER, False), ("TLS", None, False), ("TCP", US, False), ("UDP", US, False)],
)
def test_only_tls_at_the_address_that_is_named_is_said_to_be_an_alias(
    transport: str, at: Address | None, said: bool
) -> None:
    ours = Endpoint(random.Random(1), servers_at=at)
    ours.request(outgoing(), Flow(Transport(transport), US, PEER), 0.0)
    ((_, request),) = sent(ours)
    assert (request.via.param("alias") is not None) is said  # type: ignore[union-attr]


def test_an_ipv6_via_has_its_brackets() -> None:
    ours = endpoint()
    ours.request(outgoing(), Flow(Transport.TCP, Address("::1", 5060), Address("::2", 5060)), 0.0)
    ((_, request),) = sent(ours)
    assert request.headers.lines("Via")[0].startswith("SIP/2.0/TCP [::1]:5060;branch=z9hG4bK")


def test_an_invite_is_retransmitted_until_64_t1_and_then_fails() -> None:
    ours = endpoint()
    tx = ours.request(outgoing(), UDP, 100.0)
    first = ours.to_send()
    times = []
    while (when := ours.timeout()) is not None:
        ours.expire(when)
        for message in ours.to_send():
            assert message == first[0]
            times.append(when - 100.0)
    assert times == [0.5, 1.5, 3.5, 7.5, 15.5, 31.5]
    assert events(ours) == [TransactionFailed(tx, Cause.TIMEOUT)]
    assert ours.counts() == IDLE


def test_a_clock_that_jumps_over_everything_brings_one_failure_and_no_storm() -> None:
    ours = endpoint()
    tx = ours.request(outgoing("MESSAGE"), UDP, 0.0)
    ours.expire(1e6)
    assert events(ours) == [TransactionFailed(tx, Cause.TIMEOUT)]
    assert len(ours.to_send()) == 2
    assert ours.counts() == IDLE


def test_the_ack_for_a_failure_is_made_from_the_invite_and_the_response() -> None:
    ours = endpoint()
    tx = ours.request(outgoing(), UDP, 0.0)
    ours.to_send()
    ours.receive(reply(tx.request, 486), UDP, 0.1)
    ((flow, ack),) = sent(ours)
    assert isinstance(ack, Request)
    assert (flow, ack.method, ack.uri) == (UDP, "ACK", tx.request.uri)
    assert ack.headers.lines("Via") == tx.request.headers.lines("Via")[:1]
    assert ack.headers.get("Route") == "<sip:next.example;lr>"
    assert ack.to.tag == "b"
    assert (ack.cseq.number, ack.cseq.method) == (7, "ACK")
    assert len(events(ours)) == 1
    ours.receive(reply(tx.request, 486), UDP, 0.6)
    assert methods(ours) == ["ACK"]
    assert events(ours) == []
    ours.expire(33.0)
    assert ours.counts() == IDLE


def test_each_2xx_reaches_the_tu_and_no_final_of_another_kind_after_it() -> None:
    ours = endpoint()
    tx = ours.request(outgoing(), UDP, 0.0)
    for status in (180, 200, 200, 486, 183):
        ours.receive(reply(tx.request, status), UDP, 1.0)
    found = [event.response.status for event in events(ours) if isinstance(event, ResponseReceived)]
    assert found == [180, 200, 200]
    assert tx.state is State.ACCEPTED
    assert ours.drops["response-absorbed"] == 2


def test_the_ack_for_a_2xx_goes_out_without_a_transaction() -> None:
    ours = endpoint()
    ours.send(outgoing("ACK"), UDP, 0.0)
    ((_, ack),) = sent(ours)
    assert len(ack.headers.lines("Via")) == 2
    assert ours.counts() == IDLE


def test_an_ack_that_comes_again_leaves_as_it_did_and_another_one_does_not() -> None:
    """RFC 3261 section 16.11: else the callee would take it for another one."""
    ours = endpoint()
    fork, next_call, next_hop = outgoing("ACK"), outgoing("ACK"), outgoing("ACK")
    fork.headers.set("To", "<sip:bob@example.org>;tag=other")
    next_call.headers.set("CSeq", "8 ACK")
    next_hop.headers.set("Via", "SIP/2.0/UDP caller.example;branch=z9hG4bKother")
    for ack in (outgoing("ACK"), outgoing("ACK"), fork, next_call, next_hop):
        ours.send(ack, UDP, 0.0)
    first, again, *others = (data for _, data in ours.to_send())
    assert first == again
    branches = [message.via.branch for message in map(parse_message, (first, *others))]
    assert len(set(branches)) == 4


def test_an_ack_of_ours_has_a_branch_of_its_own() -> None:
    ours = endpoint()
    branches = set()
    for _ in range(2):
        ack = outgoing("ACK")
        ack.headers.pop_value("Via")
        ours.send(ack, UDP, 0.0)
        branches.add(ack.via.branch)
    assert len(branches) == 2


@pytest.mark.parametrize("method", ["ACK", "CANCEL"])
def test_requests_without_a_transaction_of_their_own_are_the_callers_error(method: str) -> None:
    with pytest.raises(UsageError):
        endpoint().request(outgoing(method), UDP, 0.0)


# Responses that are not for us (RFC 3261 sections 17.1.3 and 18.1.2).


@pytest.mark.parametrize(
    ("pattern", "instead", "cause"),
    [
        (r"branch=z9hG4bK[0-9a-f]+", "branch=z9hG4bKother", "response-unmatched"),
        (r";branch=z9hG4bK[0-9a-f]+", "", "response-unmatched"),
        (r"7 INVITE", "7 BYE", "response-unmatched"),
        (r"192\.0\.2\.1:5060", "192.0.2.9:5060", "response-of-foreign-via"),
        (r"192\.0\.2\.1:5060", "192.0.2.1:5061", "response-of-foreign-via"),
    ],
)
def test_a_response_that_is_not_ours_is_dropped_by_name(pattern: str, instead: str, cause: str) -> None:
    ours = endpoint()
    tx = ours.request(outgoing(), UDP, 0.0)
    ours.receive(re.sub(pattern, instead, reply(tx.request, 200).decode(), count=1).encode(), UDP, 0.1)
    assert events(ours) == []
    assert ours.drops == {cause: 1}


# Oversized requests (RFC 3261 section 18.1.1).


def test_a_long_udp_request_goes_over_tcp() -> None:
    ours = endpoint(servers_at=US)
    tx = ours.request(outgoing(body=b"v" * 1300), UDP, 0.0)
    ((flow, request),) = sent(ours)
    assert flow == tx.flow == TCP
    assert request.via.transport == "TCP"
    assert request.via.param("rport") is None
    ours.expire(10.0)
    assert ours.to_send() == []


def test_a_long_request_to_a_ue_stays_on_its_flow() -> None:
    """RFC 5626 section 3.1: over TCP there may be somebody else behind the same NAT, and it has keys."""
    ours = endpoint(servers_at=PEER)
    tx = ours.request(outgoing(body=b"v" * 1300), UDP, 0.0)
    ((flow, request),) = sent(ours)
    assert flow == tx.flow == UDP
    assert request.via.transport == "UDP"


def test_it_falls_back_to_udp_with_the_same_branch_when_tcp_fails() -> None:
    ours = endpoint(servers_at=US)
    tx = ours.request(outgoing(body=b"v" * 1300), UDP, 0.0)
    ((_, over_tcp),) = sent(ours)
    ours.transport_failed(TCP, 1.0, "connection refused")
    ((flow, over_udp),) = sent(ours)
    assert flow == tx.flow == UDP
    assert over_udp.via.transport == "UDP"
    assert over_udp.via.branch == over_tcp.via.branch
    assert over_udp.headers.lines("Via")[1:] == over_tcp.headers.lines("Via")[1:]
    ours.expire(1.5)
    assert methods(ours) == ["INVITE"]
    ours.receive(reply(tx.request, 200), UDP, 2.0)
    assert tx.state is State.ACCEPTED
    # The peer is known now: the ACK and the next request do not try TCP first, for a while.
    ours.send(outgoing("ACK", body=b"v" * 1300), UDP, 2.0)
    ours.request(outgoing(body=b"v" * 1300), UDP, 2.0)
    assert [flow for flow, _ in ours.to_send()] == [UDP, UDP]
    ours.request(outgoing(body=b"v" * 1300), UDP, 62.0)
    assert [flow for flow, _ in ours.to_send()] == [TCP]


def test_a_connection_that_fails_after_a_response_is_no_reason_to_send_again() -> None:
    ours = endpoint(servers_at=US)
    tx = ours.request(outgoing("MESSAGE", body=b"v" * 1300), UDP, 0.0)
    ours.receive(reply(tx.request, 100), TCP, 0.1)
    events(ours), ours.to_send()
    ours.transport_failed(TCP, 0.2, "reset")
    assert ours.to_send() == []
    assert events(ours) == [TransactionFailed(tx, Cause.TRANSPORT, "reset")]
    assert ours.counts() == IDLE


def test_a_failed_flow_ends_the_requests_on_it_and_no_others() -> None:
    ours = endpoint()
    other = Flow(Transport.TCP, US, Address("203.0.113.1", 5060))
    tx, rest = ours.request(outgoing(), TCP, 0.0), ours.request(outgoing(), other, 0.0)
    ours.transport_failed(TCP, 0.1, "refused")
    assert events(ours) == [TransactionFailed(tx, Cause.TRANSPORT, "refused")]
    assert rest.state is State.CALLING


# CANCEL (RFC 3261 section 9).


def test_a_cancel_is_held_until_the_first_provisional_response() -> None:
    ours = endpoint()
    tx = ours.request(outgoing(), UDP, 0.0)
    ours.to_send()
    ours.cancel(tx, 0.1, [("Reason", "SIP;cause=200")])
    assert ours.to_send() == []
    ours.receive(reply(tx.request, 100), UDP, 0.2)
    ((flow, cancel),) = sent(ours)
    assert isinstance(cancel, Request)
    assert flow == UDP
    assert cancel.headers.lines("Via") == tx.request.headers.lines("Via")[:1]
    assert (cancel.cseq.number, cancel.cseq.method) == (7, "CANCEL")
    assert cancel.to.tag is None
    assert cancel.headers.get("Route") == "<sip:next.example;lr>"
    assert cancel.headers.get("Reason") == "SIP;cause=200"
    events(ours)
    ours.receive(reply(cancel, 200), UDP, 0.3)
    assert events(ours) == []  # the CANCEL's own response is no event
    ours.receive(reply(tx.request, 487), UDP, 0.4)
    assert methods(ours) == ["ACK"]
    assert len(events(ours)) == 1
    ours.expire(50.0)
    assert ours.counts() == IDLE


def test_a_held_cancel_dies_with_a_final_response() -> None:
    ours = endpoint()
    tx = ours.request(outgoing(), UDP, 0.0)
    ours.to_send()
    ours.cancel(tx, 0.1)
    ours.receive(reply(tx.request, 200), UDP, 0.2)
    assert ours.to_send() == []


def test_a_cancel_in_proceeding_leaves_at_once_and_once() -> None:
    ours = endpoint()
    tx = ours.request(outgoing(), UDP, 0.0)
    ours.receive(reply(tx.request, 180), UDP, 0.1)
    ours.to_send()
    ours.cancel(tx, 0.2)
    ours.cancel(tx, 0.3)
    ours.receive(reply(tx.request, 180), UDP, 0.4)
    assert methods(ours) == ["CANCEL"]


@pytest.mark.parametrize("status", [200, 486])
def test_a_cancel_after_a_final_response_is_ignored(status: int) -> None:
    ours = endpoint()
    tx = ours.request(outgoing(), UDP, 0.0)
    ours.receive(reply(tx.request, status), UDP, 0.1)
    ours.to_send()
    ours.cancel(tx, 0.2)
    assert ours.to_send() == []


def test_a_cancelled_invite_without_a_final_response_ends_64_t1_later() -> None:
    ours = endpoint()
    tx = ours.request(outgoing(), UDP, 0.0)
    ours.receive(reply(tx.request, 180), UDP, 0.1)
    ours.cancel(tx, 1.0)
    ours.receive(reply(tx.request, 180), UDP, 20.0)
    events(ours)
    ours.expire(32.9)
    assert events(ours) == []
    ours.expire(33.0)
    assert events(ours) == [TransactionFailed(tx, Cause.TIMEOUT)]
    assert ours.counts() == IDLE


def test_only_an_invite_can_be_cancelled() -> None:
    ours = endpoint()
    with pytest.raises(UsageError):
        ours.cancel(ours.request(outgoing("BYE"), UDP, 0.0), 0.1)


def test_a_received_cancel_is_answered_and_told_once() -> None:
    ours = endpoint()
    tx = served(ours, incoming())
    for now in (0.1, 0.6):
        ours.receive(incoming("CANCEL"), UDP, now)
    answers = [message for _, message in sent(ours) if isinstance(message, Response)]
    assert [(answer.status, answer.cseq.method) for answer in answers] == [(200, "CANCEL")] * 2
    assert answers[0].to.tag == answers[1].to.tag is not None
    (event,) = events(ours)
    assert isinstance(event, CancelReceived)
    assert event.transaction is tx
    ours.respond(tx, make_response(tx.request, 487, to_tag="u"), 0.7)
    assert statuses(ours) == [487]


@pytest.mark.parametrize("status", [200, 486])
def test_a_received_cancel_after_a_final_response_is_answered_but_not_told(status: int) -> None:
    ours = endpoint()
    tx = served(ours, incoming())
    ours.respond(tx, make_response(tx.request, status, to_tag="u"), 0.1)
    ours.to_send()
    ours.receive(incoming("CANCEL"), UDP, 0.2)
    assert statuses(ours) == [200]
    assert events(ours) == []


def test_a_cancel_of_nothing_is_481() -> None:
    ours = endpoint()
    served(ours, incoming("MESSAGE"))
    ours.receive(incoming("CANCEL"), UDP, 0.0)
    assert statuses(ours) == [481]
    assert events(ours) == []


# Server transactions.


def test_100_is_sent_after_200_ms_of_silence_and_carries_the_timestamp() -> None:
    ours = endpoint()
    served(ours, incoming(more="Timestamp: 54\r\n"))
    assert ours.timeout() == pytest.approx(0.2)
    ours.receive(incoming(more="Timestamp: 54\r\n"), UDP, 0.1)
    assert ours.to_send() == []  # nothing to repeat yet
    ours.expire(0.2)
    ((_, trying),) = sent(ours)
    assert isinstance(trying, Response)
    assert (trying.status, trying.headers.get("Timestamp"), trying.to.tag) == (100, "54", None)
    ours.receive(incoming(), UDP, 0.5)
    assert statuses(ours) == [100]


def test_a_tu_that_answers_in_time_sends_no_100() -> None:
    ours = endpoint()
    tx = served(ours, incoming())
    ours.respond(tx, make_response(tx.request, 180, to_tag="u"), 0.1)
    ours.expire(10.0)
    assert statuses(ours) == [180]


def test_a_failure_is_retransmitted_until_the_ack_and_the_ack_is_not_told() -> None:
    ours = endpoint()
    tx = served(ours, incoming())
    ours.respond(tx, make_response(tx.request, 486, to_tag="u"), 0.0)
    ours.expire(0.5)
    ours.expire(1.5)
    assert statuses(ours) == [486] * 3
    ours.receive(incoming("ACK"), UDP, 1.6)
    ours.expire(4.0)
    assert ours.to_send() == []
    assert events(ours) == []
    ours.expire(6.6)
    assert ours.counts() == IDLE


def test_a_failure_that_is_never_acknowledged_fails() -> None:
    ours = endpoint()
    tx = served(ours, incoming())
    ours.respond(tx, make_response(tx.request, 486, to_tag="u"), 0.0)
    ours.expire(32.0)
    assert events(ours) == [TransactionFailed(tx, Cause.TIMEOUT)]
    assert ours.counts() == IDLE


def test_after_a_2xx_the_invite_is_absorbed_and_the_tu_retransmits() -> None:
    ours = endpoint()
    tx = served(ours, incoming())
    ours.respond(tx, make_response(tx.request, 200, to_tag="u"), 0.0)
    ours.receive(incoming(), UDP, 0.5)
    ours.respond(tx, make_response(tx.request, 200, to_tag="u"), 0.5)
    assert statuses(ours) == [200, 200]
    ours.respond(tx, make_response(tx.request, 487), 0.6)
    ours.respond(tx, make_response(tx.request, 180), 0.6)
    assert ours.to_send() == []
    assert ours.drops["response-too-late"] == 2
    # RFC 6026 section 7.1: an ACK goes to the TU, with the INVITE's branch or (RFC 3261) one of its own
    ours.receive(incoming("ACK"), UDP, 0.7)
    ours.receive(incoming("ACK", via="SIP/2.0/UDP 198.51.100.7:5070;branch=z9hG4bKy"), UDP, 0.7)
    assert [type(event) for event in events(ours)] == [AckReceived, AckReceived]
    ours.expire(32.0)
    assert ours.counts() == IDLE


def test_a_request_nobody_answers_ends_by_itself() -> None:
    ours = endpoint()
    tx = served(ours, incoming("MESSAGE"))
    ours.expire(32.0)
    assert ours.counts() == IDLE
    assert events(ours) == []
    ours.respond(tx, make_response(tx.request, 200), 33.0)
    ours.refuse_stateless(tx, 503, (), 33.0)
    assert ours.to_send() == []
    assert ours.drops["response-too-late"] == 2


def test_the_responses_via_lines_are_those_of_the_request_whatever_the_tu_did() -> None:
    ours = endpoint()
    tx = served(
        ours, incoming(more="v: SIP/2.0/UDP below.example;branch=z9hG4bKb, SIP/2.0/TCP c.example\r\n")
    )
    response = make_response(tx.request, 200, to_tag="u")
    response.headers.prepend("Via", "SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKours")
    ours.respond(tx, response, 0.1)
    ((_, got),) = sent(ours)
    assert got.headers.values("Via") == [
        "SIP/2.0/UDP 198.51.100.7:5070;branch=z9hG4bKx",
        "SIP/2.0/UDP below.example;branch=z9hG4bKb",
        "SIP/2.0/TCP c.example",
    ]


# Matching of requests (RFC 3261 section 17.2.3).


@pytest.mark.parametrize(
    ("method", "via"),
    [
        ("INVITE", "SIP/2.0/UDP 198.51.100.7:5070;branch=z9hG4bKother"),
        ("INVITE", "SIP/2.0/UDP 198.51.100.7:5071;branch=z9hG4bKx"),
        ("INVITE", "SIP/2.0/UDP 198.51.100.8:5070;branch=z9hG4bKx"),
        ("MESSAGE", "SIP/2.0/UDP 198.51.100.7:5070;branch=z9hG4bKx"),
    ],
)
def test_another_branch_sent_by_or_method_is_another_transaction(method: str, via: str) -> None:
    ours = endpoint()
    assert served(ours, incoming()) is not served(ours, incoming(method, via))


def test_the_same_host_in_capitals_is_a_retransmission() -> None:
    ours = endpoint()
    served(ours, incoming(via="SIP/2.0/UDP Host.Example;branch=z9hG4bKx"))
    ours.receive(incoming(via="SIP/2.0/UDP host.EXAMPLE;branch=z9hG4bKx"), UDP, 0.1)
    assert events(ours) == []
    assert ours.drops == {"retransmission": 1}


@pytest.mark.parametrize("branch", ["", ";branch=1"])
def test_rfc_2543_requests_are_matched_by_what_makes_them_unique(branch: str) -> None:
    ours = endpoint()
    via = f"SIP/2.0/UDP 198.51.100.7:5070{branch}"
    tx = served(ours, incoming(via=via))
    ours.receive(incoming(via=via), UDP, 0.1)
    assert events(ours) == []
    assert served(ours, incoming(via=via, cseq="2 INVITE")) is not tx
    ours.respond(tx, make_response(tx.request, 486, to_tag="u"), 0.2)
    ours.receive(incoming("ACK", via=via), UDP, 0.3)
    assert tx.state is State.CONFIRMED
    assert events(ours) == []


# Where responses go (RFC 3261 section 18.2.2, RFC 3581).


@pytest.mark.parametrize(
    ("sent_by", "stamped", "to"),
    [
        ("198.51.100.7:9", "198.51.100.7:9;branch=z9hG4bKx", ("198.51.100.7", 9)),
        ("198.51.100.7", "198.51.100.7;branch=z9hG4bKx", ("198.51.100.7", 5060)),
        ("pc.example:9", "pc.example:9;branch=z9hG4bKx;received=198.51.100.7", ("198.51.100.7", 9)),
        ("10.0.0.1:9", "10.0.0.1:9;branch=z9hG4bKx;received=198.51.100.7", ("198.51.100.7", 9)),
        (
            "10.0.0.1:9;rport",
            "10.0.0.1:9;branch=z9hG4bKx;rport=5070;received=198.51.100.7",
            ("198.51.100.7", 5070),
        ),
        (
            "198.51.100.7:9;rport=1;received=203.0.113.66",
            "198.51.100.7:9;branch=z9hG4bKx;rport=5070;received=198.51.100.7",
            ("198.51.100.7", 5070),
        ),
        (
            "198.51.100.7:9;maddr=203.0.113.66;received=203.0.113.66",
            "198.51.100.7:9;maddr=203.0.113.66;branch=z9hG4bKx;received=198.51.100.7",
            ("198.51.100.7", 9),
        ),
    ],
)
def test_udp_responses_go_back_to_the_source(sent_by: str, stamped: str, to: tuple[str, int]) -> None:
    ours = endpoint()
    host, _, params = sent_by.partition(";")
    params = f";{params}" if params else ""
    first = f"SIP/2.0/UDP {host}{params};branch=z9hG4bKx"
    tx = served(ours, incoming(via=first))
    ours.respond(tx, make_response(tx.request, 180), 0.1)
    ((flow, response),) = sent(ours)
    assert flow == Flow(Transport.UDP, US, Address(*to))
    via = response.via
    assert (via.received, via.rport) == (
        stamped.partition("received=")[2] or None,
        int(match[1]) if (match := re.search(r"rport=(\d+)", stamped)) else None,
    )
    assert sorted(response.headers.lines("Via")[0].split(";")) == sorted(f"SIP/2.0/UDP {stamped}".split(";"))


def test_responses_to_a_server_go_back_on_their_connection_and_to_sent_by_when_it_is_gone() -> None:
    ours = endpoint(servers_at=US)
    flow = Flow(Transport.TCP, US, Address("198.51.100.7", 49999))
    tx = served(ours, incoming(via="SIP/2.0/TCP pc.example:5070;branch=z9hG4bKx"), flow)
    ours.respond(tx, make_response(tx.request, 180), 0.1)
    assert [to for to, _ in ours.to_send()] == [flow]
    ours.transport_failed(flow, 0.2, "reset")
    assert [(to, data[:11]) for to, data in ours.to_send()] == [(TCP, b"SIP/2.0 180")]
    ours.respond(tx, make_response(tx.request, 200), 0.3)
    assert [to for to, _ in ours.to_send()] == [TCP]
    assert events(ours) == []
    ours.transport_failed(TCP, 0.4, "refused")
    assert events(ours) == [TransactionFailed(tx, Cause.TRANSPORT, "refused")]
    ours.expire(32.3)
    assert ours.counts() == IDLE


@pytest.mark.parametrize("transport", ["TCP", "TLS", "WS", "WSS"])
@pytest.mark.parametrize("method", ["INVITE", "OPTIONS"])
def test_responses_to_a_ue_go_nowhere_when_its_connection_is_gone(transport: str, method: str) -> None:
    """RFC 5626 section 3.1, against RFC 3261 section 18.2.2: behind a NAT its address and port, and where its
    Via says that it listens, may be somebody else's by now."""
    ours = endpoint(servers_at=PEER)
    flow = Flow(Transport(transport), US, Address("198.51.100.7", 49999), accepted=7)
    tx = served(ours, incoming(method, via=f"SIP/2.0/{transport} pc.example:5070;branch=z9hG4bKx"), flow)
    for at, status in ((0.1, 180), (0.3, 200)):
        ours.respond(tx, make_response(tx.request, status), at)
        assert [to for to, _ in ours.to_send()] == [flow]
        ours.transport_failed(flow, at, "no connection is there, and none is opened")
        ours.closed(flow, at)
        ours.expire(at + 0.1)
        assert ours.to_send() == []
        if tx.state is State.TERMINATED:
            break
    ours.expire(32.3)
    assert ours.counts() == IDLE


def test_who_has_lost_the_connection_of_an_invite_may_still_cancel_it() -> None:
    ours = endpoint(is_peer=lambda flow, came: flow.remote.host == came.remote.host)
    before, after = (Flow(Transport.TCP, US, Address("198.51.100.7", 49999), accepted=n) for n in (1, 2))
    via = "SIP/2.0/TCP pc.example:5070;branch=z9hG4bKx"
    tx = served(ours, incoming(via=via), before)
    ours.closed(before, 0.1)
    assert events(ours) == [SenderGone(tx)]
    ours.receive(incoming("CANCEL", via=via), after, 0.2)
    assert [to for to, _ in ours.to_send()] == [after]
    assert [type(event) for event in events(ours)] == [CancelReceived]
    ours.respond(tx, make_response(tx.request, 487), 0.2)
    assert [to for to, _ in ours.to_send()] == [before]
    ours.expire(32.3)
    assert ours.counts() == IDLE


# Hostile and broken input.


def test_strangers_together_leave_most_transactions_to_others() -> None:
    """A network of them has more than one host, and an IPv6 one has a /64 for each request."""
    ours = endpoint(max_transactions=8, source_of=lambda flow: flow if flow == TCP else flow.remote.host)
    hosts = (f"203.0.113.{number}" for number in range(10))
    for number, host in enumerate(hosts):
        flow = Flow(Transport.UDP, US, Address(host, 5060))
        ours.receive(incoming("OPTIONS", via=f"SIP/2.0/UDP {host};branch=z9hG4bK{number}"), flow, 0.0)
    assert len(events(ours)) == 2
    assert statuses(ours) == [503] * 8
    assert ours.drops["too-many-transactions-of-strangers"] == 8
    for number in range(6):
        via = f"SIP/2.0/TCP 198.51.100.7:5070;branch=z9hG4bKk{number}"
        ours.receive(incoming("OPTIONS", via=via), TCP, 1.0)
    assert len(events(ours)) == 6
    ours.expire(100.0)
    assert ours.counts() == IDLE
    ours.receive(incoming("OPTIONS"), UDP, 101.0)
    assert len(events(ours)) == 1


def test_a_large_request_counts_for_as_many_as_take_its_memory() -> None:
    ours = endpoint(max_transactions=20)
    for number in range(9):
        via = f"SIP/2.0/UDP 198.51.100.7:5070;branch=z9hG4bK{number}"
        ours.receive(
            incoming("MESSAGE", via=via, more="X: " + "x" * 16300 + "\r\n" + "X:\r\n" * 245), UDP, 0.0
        )
    assert len(events(ours)) == 7
    assert statuses(ours) == [503, 503]
    ours.expire(100.0)
    ours.receive(incoming("MESSAGE"), UDP, 101.0)
    assert len(events(ours)) == 1


def test_over_the_limit_new_requests_get_503_without_state() -> None:
    ours = endpoint(max_transactions=1)
    tx = served(ours, incoming())
    other = incoming(via="SIP/2.0/UDP 10.0.0.9;rport;branch=z9hG4bKz")
    ours.receive(other, UDP, 0.1)
    ours.receive(other, UDP, 0.6)
    first, second = ours.to_send()
    assert first == second
    response = parse_message(first[1])
    assert isinstance(response, Response)
    assert (response.status, response.headers.get("Retry-After"), response.via.rport) == (503, "5", 5070)
    assert first[0] == UDP
    assert events(ours) == []
    assert ours.drops["too-many-transactions"] == 2
    ours.receive(incoming("CANCEL"), UDP, 0.7)  # what is there is still served
    assert [type(event) for event in events(ours)] == [CancelReceived]
    ours.respond(tx, make_response(tx.request, 487), 0.8)
    ours.receive(incoming("ACK"), UDP, 0.9)
    ours.expire(10.0)
    served(ours, other, now=10.0)


def test_a_bad_request_is_answered_and_a_bad_ack_or_response_is_not() -> None:
    ours = endpoint()
    ours.receive(incoming("OPTIONS", cseq="1 INFO"), UDP, 0.0)
    ours.receive(incoming("OPTIONS").replace(b"SIP/2.0\r\nVia", b"SIP/7.0\r\nVia"), UDP, 0.0)
    assert statuses(ours) == [400, 505]
    ours.receive(incoming("ACK", cseq="1 INFO"), UDP, 0.0)
    ours.receive(b"SIP/2.0 200 OK\r\nVia: x\r\n\r\n", UDP, 0.0)
    assert ours.to_send() == []
    assert events(ours) == []
    assert ours.drops == {"malformed": 4}


@pytest.mark.parametrize("data", [b"", b"\r\n\r\n", b"\0\0\0\0"])
def test_keep_alives_are_dropped_by_name(data: bytes) -> None:
    ours = endpoint()
    ours.receive(data, UDP, 0.0)
    assert ours.drops == {"keep-alive": 1}
    assert ours.to_send() == []


TOKENS = [b"\r\n", b":", b";", b",", b"<", b'"', b"branch=", b"Via", b"ACK", b"SIP/2.0", b"\0", b"\xff", b" "]


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 20), st.sampled_from(TOKENS)), max_size=6))
def test_no_datagram_makes_the_endpoint_raise(edits: list[tuple[int, int, bytes]]) -> None:
    ours = endpoint()
    tx = ours.request(outgoing(), UDP, 0.0)
    served(ours, incoming(via="SIP/2.0/UDP 198.51.100.7;rport;branch=z9hG4bKx"))
    for data in (
        incoming(),
        incoming("CANCEL"),
        incoming("ACK"),
        reply(tx.request, 180),
        reply(tx.request, 404),
    ):
        for at, length, token in edits:
            data = data[:at] + token + data[at + length :]
        ours.receive(data, UDP, 0.1)
    events(ours)
    for _, data in ours.to_send():  # a From that cannot be read is in the 400 as it came
        assert parse_head(data.partition(b"\r\n\r\n")[0]).via
    ours.expire(1e6)


def test_thousands_of_cancelled_timers_leave_no_heap_behind() -> None:
    timers: Timers[int] = Timers()
    keep = timers.start(50.0, -1)
    for number in range(10_000):
        timers.cancel(timers.start(100.0 + number, number))
    assert len(timers) == 1
    assert len(timers._line) + len(timers._heap) < 200
    assert timers.expired(49.9) is None
    assert timers.expired(50.0) == -1
    timers.cancel(keep)
    assert len(timers) == 0
    assert timers.next() is None


def test_timers_expire_in_the_order_of_their_times_and_equal_ones_in_that_of_their_start() -> None:
    rng = random.Random(7)
    timers: Timers[int] = Timers()
    running: dict[int, Running[int]] = {}
    started = 0
    for now in range(3000):
        for _ in range(rng.randrange(4)):
            running[started] = timers.start(now + rng.choice((0, 1, 8, 8, 64, 64, 64)), started)
            started += 1
        while running and rng.random() < 0.5:
            timers.cancel(running.pop(rng.choice(list(running))))
        assert len(timers) == len(running)
        assert timers.next() == min((each.when for each in running.values()), default=None)
        due = [number for number, each in running.items() if each.when <= now]
        due.sort(key=lambda number: (running[number].when, number))
        assert [timers.expired(now) for _ in range(len(due) + 1)] == [*due, None]
        for number in due:
            del running[number]
    assert started > 3000


# Two endpoints on the simulated link.


def test_a_long_invite_reaches_a_peer_without_tcp() -> None:
    link = Link(random.Random(3))
    alice, bob = Endpoint(link.rng, servers_at=US), Endpoint(link.rng)
    answers: list[int] = []

    def bobs_user(event: object) -> None:
        if isinstance(event, RequestReceived):
            bob.respond(event.transaction, make_response(event.request, 486, to_tag="b"), link.now)

    def alices_user(event: object) -> None:
        assert isinstance(event, ResponseReceived)
        answers.append(event.response.status)

    link.attach(alice, US, on_event=alices_user)
    link.attach(bob, PEER, on_event=bobs_user)
    link.refused.add(PEER)
    alice.request(outgoing(body=b"v" * 2000), UDP, link.now)
    link.run()
    assert answers == [486]
    assert [flow.transport for _, flow, _ in link.log] == ["TCP", "UDP", "UDP", "UDP"]
    assert alice.counts() == bob.counts() == IDLE


def test_a_response_finds_its_way_when_the_connection_breaks_meanwhile() -> None:
    link = Link(random.Random(3))
    alice, bob = Endpoint(link.rng), Endpoint(link.rng, servers_at=PEER)
    waiting: list[ServerTransaction] = []
    answers: list[int] = []

    def bobs_user(event: object) -> None:
        assert isinstance(event, RequestReceived)
        waiting.append(event.transaction)

    def alices_user(event: object) -> None:
        if isinstance(event, ResponseReceived):
            answers.append(event.response.status)

    link.attach(alice, US, on_event=alices_user)
    link.attach(bob, PEER, on_event=bobs_user)
    alice.request(outgoing(), TCP, link.now)
    link.run(until=link.now + 1.0)  # the 100 has come: Proceeding survives the connection
    link.close(PEER)
    bob.respond(waiting[0], make_response(waiting[0].request, 200, to_tag="b"), link.now)
    link.run()
    assert answers == [
        100,
        100,
        200,
    ]  # the 100 is repeated on the new connection, as nobody knows if it arrived
    assert alice.counts() == bob.counts() == IDLE
