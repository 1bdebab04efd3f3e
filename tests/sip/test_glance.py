"""A glance at the bytes says what the parser would have said, and a refusal made of them is a response."""

import pytest

from imsalg.sip.glance import Kind, glance, key_of, kind_of, refusal
from imsalg.sip.hop import server_key
from imsalg.sip.message import Request, parse_message
from imsalg.sip.values import Address

HERE = Address("192.0.2.10", 40000)


def request(
    method: str = "INVITE",
    uri: str = "sip:bob@home.example",
    to: str = "To: <sip:bob@home.example>",
    via: str = "Via: SIP/2.0/UDP 10.0.0.7:5070;branch=z9hG4bK77;rport",
    more: str = "",
) -> bytes:
    return (
        f'{method} {uri} SIP/2.0\r\n{via}\r\nMax-Forwards: 70\r\nFrom: "A;tag=0" <sip:a@x>;tag=1\r\n'
        f"{to}\r\nCall-ID: 1@x\r\nCSeq: 1 {method}\r\n{more}Content-Length: 12\r\n\r\nTo: ;tag=5\r\n"
    ).encode()


CASES = [
    (request(), Kind.CALL),
    (request("REGISTER"), Kind.OTHER),
    (request("MESSAGE"), Kind.OTHER),
    (request("ACK"), Kind.ONGOING),
    (request("CANCEL"), Kind.ONGOING),
    (request("BYE", to="To: <sip:b@x>;tag=9"), Kind.ONGOING),
    (request(to="t:sip:b@x ; TAG = 9"), Kind.ONGOING),
    (request(to="To: \"Bob\" <sip:b@x;x=y>;x=z;tag=9"), Kind.ONGOING),
    (request(to="To: <sip:b@x;tag=9>"), Kind.CALL),
    (request(to="To: <sip:b@x>;tagged=9"), Kind.CALL),
    (request(uri="urn:service:sos"), Kind.EMERGENCY),
    (request(uri="urn:service:sos.fire"), Kind.EMERGENCY),
    (request(uri="URN:Service:SOS"), Kind.EMERGENCY),
    (request(uri="urn:service:sosies"), Kind.CALL),
    (request("REGISTER", uri="urn:service:sos"), Kind.OTHER),
    (b"\r\n\r\n" + request(), Kind.CALL),
    (request().replace(b"INVITE sip:bob@home.example SIP/2.0", b"SIP/2.0 200 OK"), Kind.ONGOING),
]  # fmt: skip


@pytest.mark.parametrize(("data", "kind"), CASES)
def test_a_glance_says_what_the_parser_says(data: bytes, kind: Kind) -> None:
    assert glance(data) is kind
    assert kind_of(parse_message(data)) is kind


@pytest.mark.parametrize(
    "data", [b"", b"\r\n\r\n", b"\0" * 40, b"x" * 65535, b"INVITE", b"\xff SIP/2.0\r\n\r\n"]
)
def test_what_is_no_message_is_left_to_the_parser(data: bytes) -> None:
    assert glance(data) is Kind.ONGOING
    assert key_of(data) is None


@pytest.mark.parametrize(
    "via",
    [
        "Via: SIP/2.0/UDP 10.0.0.7:5070;branch=z9hG4bK77;rport",
        "v:SIP/2.0/UDP Host.Example ;branch=z9hG4bK77",
        "VIA : SIP/2.0/TCP [2001:DB8::1]:5062;rport;branch=z9hG4bKx, SIP/2.0/UDP h2;branch=z9hG4bKy",
    ],
)
def test_the_key_is_the_endpoints(via: str) -> None:
    data = request(via=via)
    message = parse_message(data)
    assert isinstance(message, Request)
    assert key_of(data) == server_key(message)


@pytest.mark.parametrize(
    "data",
    [
        request(via="Via: SIP/2.0/UDP h;branch=1"),  # RFC 2543
        request(via="Via: SIP/2.0/UDP h"),
        request(via="Via: h;branch=z9hG4bK1"),
        request(via="Via: SIP/2.0/UDP h:123456;branch=z9hG4bK1"),
    ],
)
def test_a_key_that_cannot_be_told_at_a_glance_is_none(data: bytes) -> None:
    assert key_of(data) is None


def test_a_method_that_is_no_utf8_has_a_key_like_any_other() -> None:
    key = key_of(request().replace(b"INVITE", b"\xff"))
    assert key is not None
    assert key[3] == "\udcff"


def answer(data: bytes, source: Address = HERE) -> tuple[bytes, Address]:
    made = refusal(data, source, 503, b"mark7", b"Retry-After: 7\r\n")
    assert made is not None
    return made


def test_a_refusal_is_the_response_that_the_rules_ask_for() -> None:
    response, to = answer(request(more="v: SIP/2.0/UDP second;branch=z9hG4bK1;rport\r\n"))
    message = parse_message(response)
    assert response.startswith(b"SIP/2.0 503 Service Unavailable\r\n")
    assert message.headers.lines("Via") == [
        "SIP/2.0/UDP 10.0.0.7:5070;received=192.0.2.10;rport=40000;branch=z9hG4bK77",
        "SIP/2.0/UDP second;branch=z9hG4bK1;rport",
    ]
    assert message.to.tag == "mark7"
    assert message.call_id == "1@x"
    assert str(message.cseq) == "1 INVITE"
    assert message.headers.get("Retry-After") == "7"
    assert message.headers.get("Content-Length") == "0"
    assert to == HERE


def test_without_rport_a_refusal_goes_to_the_port_the_via_names() -> None:
    assert answer(request(via="v: SIP/2.0/UDP 10.0.0.7:5070;branch=z9hG4bK7"))[1] == Address(
        "192.0.2.10", 5070
    )
    assert answer(request(via="v: SIP/2.0/UDP 10.0.0.7;branch=z9hG4bK7"))[1] == Address("192.0.2.10", 5060)


def test_whatever_header_fields_are_called_they_are_copied() -> None:
    data = request().replace(b"Via", b"V").replace(b"From", b"FROM").replace(b"To:", b"t :")
    data = data.replace(b"Call-ID", b"I").replace(b"CSeq", b"cseq")
    message = parse_message(answer(data)[0])
    assert [name for name, _ in message.headers] == [
        "V", "FROM", "t", "I", "cseq", "Retry-After", "Content-Length",
    ]  # fmt: skip
    assert (message.call_id, message.to.tag, message.cseq.method) == ("1@x", "mark7", "INVITE")


@pytest.mark.parametrize(
    "data",
    [
        request(via="X: y"),
        request(via="Via: what"),
        request(via="Via: SIP/2.0/UDP h:0;branch=z9hG4bK1"),
        request(via="Via: SIP/2.0/UDP h:99999;branch=z9hG4bK1"),
        request(to="X: y"),
        request(to="To: <sip:b@x>\r\n ;x=y"),
        b"INVITE sip:x SIP/2.0\r\n\r\n",
        b"",
    ],
)
def test_what_cannot_be_answered_at_a_glance_is_not(data: bytes) -> None:
    assert refusal(data, HERE, 503, b"mark", b"") is None
