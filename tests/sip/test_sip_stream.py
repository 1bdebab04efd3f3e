"""Framing: keep-alives, bodies, bounds, and which errors end the connection."""

from __future__ import annotations

import pytest

from imsalg.errors import BadMessage
from imsalg.sip.message import MAX_MESSAGE, BadRequest, Request
from imsalg.sip.stream import Stream

HEAD = (
    "OPTIONS sip:b@h SIP/2.0\r\nVia: SIP/2.0/TCP a;branch=z9hG4bK1\r\n"
    "From: <sip:a@h>;tag=1\r\nTo: <sip:b@h>\r\n"
    "Call-ID: c\r\nCSeq: 1 OPTIONS\r\n"
)


def wire(body: bytes = b"", head: str = HEAD) -> bytes:
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def stream_of(data: bytes) -> Stream:
    stream = Stream()
    stream.feed(data)
    return stream


def test_messages_come_out_whole_and_in_order() -> None:
    first, second = wire(b"one\r\n\r\n"), wire(b"two")
    stream = stream_of(first + second + first[:-1])
    assert [bytes(stream.next_message() or b"") for _ in range(2)] == [first, second]
    assert stream.next_message() is None
    stream.feed(first[-1:])
    assert bytes(stream.next_message() or b"") == first
    assert stream.next_message() is None


def test_a_double_line_end_is_a_ping_and_a_single_one_is_not() -> None:
    """RFC 5626 section 3.5.1."""
    stream = Stream()
    for data, pongs in (
        (b"\r\n", 0),
        (b"\r", 0),
        (b"\n", 1),
        (b"\r\n\r\n\r\n\r\n", 3),
        (b"\r\n" + wire(), 3),
    ):
        stream.feed(data)
        message = stream.next_message()
        assert stream.pongs == pongs
    assert isinstance(message, Request)
    stream.feed(b"\r\n")
    assert stream.next_message() is None
    assert stream.pongs == 3


@pytest.mark.parametrize(
    ("data", "status", "answerable"),
    [
        (f"{HEAD}\r\n".encode(), 400, True),  # no Content-Length: RFC 3261 section 18.3
        (f"{HEAD}Content-Length: -1\r\n\r\n".encode(), 400, True),
        (f"{HEAD}Content-Length: 0\r\nl: 5\r\n\r\n".encode(), 400, True),
        (f"{HEAD}Content-Length: {MAX_MESSAGE + 1}\r\n\r\n".encode(), 413, True),
        (f"{HEAD}Content-Length: {MAX_MESSAGE}\r\n\r\n".encode(), 513, True),
        (wire(head=HEAD.replace("SIP/2.0\r\n", "SIP/3.0\r\n")), 505, True),
        (b"GET / HTTP/1.1\r\n\r\n", 400, False),
        (wire(head=HEAD + "no colon\r\n"), 400, False),
        (b"x" * (MAX_MESSAGE + 4), 513, False),
        (wire(head=HEAD + "X: y\r\n" * 300), 513, False),
    ],
)
def test_what_cannot_be_framed_breaks_the_stream_for_good(data: bytes, status: int, answerable: bool) -> None:
    stream = stream_of(data + wire())
    for _ in range(3):
        with pytest.raises(BadMessage) as caught:
            stream.next_message()
        assert caught.value.status == status
        assert isinstance(caught.value, BadRequest) == answerable
        assert stream.broken is caught.value
        stream.feed(wire())


@pytest.mark.parametrize(
    ("head", "answerable"),
    [(HEAD + "CSeq: 2 OPTIONS\r\n", True), (HEAD.replace("1 OPTIONS", "1 BYE"), True), (HEAD[:100], False)],
)
def test_the_stream_goes_on_behind_a_bad_message_whose_end_is_known(head: str, answerable: bool) -> None:
    head = head[: head.rindex("\r\n") + 2]
    stream = stream_of(wire(b"bad\r\n\r\n", head) + wire(b"good"))
    with pytest.raises(BadMessage) as caught:
        stream.next_message()
    assert isinstance(caught.value, BadRequest) == answerable
    assert stream.broken is None
    message = stream.next_message()
    assert message is not None
    assert message.body == b"good"


def test_a_head_without_end_is_refused_in_small_reads_too() -> None:
    stream = Stream()
    for _ in range(MAX_MESSAGE // 100):
        stream.feed(b"X" * 100)
        assert stream.next_message() is None
    stream.feed(b"X" * 100)
    with pytest.raises(BadMessage) as caught:
        stream.next_message()
    assert caught.value.status == 513


def test_the_largest_message_passes() -> None:
    head = len(wire()) + 4
    data = wire(b"x" * (MAX_MESSAGE - head))
    assert len(data) == MAX_MESSAGE
    assert bytes(stream_of(data).next_message() or b"") == data
