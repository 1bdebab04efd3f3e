"""Properties over generated and over hostile messages."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from imsalg.errors import BadMessage
from imsalg.sip.grammar import first_comma, split_commas
from imsalg.sip.headers import COMPACT, Headers
from imsalg.sip.message import REASONS, BadRequest, Request, Response, make_response, parse_message
from imsalg.sip.stream import Stream
from imsalg.sip.values import CSeq, NameAddr, RAck, Uri, Via

TOKENS = st.text("abcXYZ019-.!%*_+`'~", min_size=1, max_size=12)
FOLDS = st.sampled_from(["", " ", "\t ", "\r\n ", " \r\n\t"])
TEXTS = st.binary(max_size=40).map(
    lambda raw: raw.translate(None, b"\r\n\0").decode("utf-8", "surrogateescape")
)
SPECIAL = {"via", "from", "to", "call-id", "cseq", "content-length", "content-type", "max-forwards"}
NAMES = TOKENS.filter(lambda name: COMPACT.get(name.lower(), name.lower()) not in SPECIAL)
BODIES = st.one_of(st.binary(max_size=60), st.sampled_from([b"\r\n\r\n", b"\r\n", b"v=0\r\n"]))
WORDS = """INVITE sip: a@h SIP/2.0 : ; , " \\ < > = @ ? [::1] % 200 OK \xff é ſ ٣ Via v From f To t Call-ID
i CSeq Content-Length l tag branch /UDP 9999999999 -1 *"""
PIECES = st.lists(
    st.sampled_from([*WORDS.split(), " ", "\t", "\r\n", "\r\n ", "\r", "\n", "\0"]), max_size=30
).map("".join)


@st.composite
def messages(draw: Callable[[st.SearchStrategy[Any]], Any], body: st.SearchStrategy[bytes] = BODIES) -> bytes:
    """A valid message in any spelling: case, compact forms, white space, folds, order, any bytes."""
    method = draw(TOKENS)
    names = {"Via": "v", "From": "f", "To": "t", "Call-ID": "i", "CSeq": "cseq", "Content-Length": "l"}
    content = draw(body)
    values = {
        "Via": "SIP/2.0/UDP h;branch=z9hG4bK1" + draw(st.sampled_from(["", " , SIP / 2.0/TCP [::1]:1"])),
        "From": f'"{draw(TEXTS.map(lambda text: text.translate({34: None, 92: None})))}" <sip:a@h>;tag=1',
        "To": "sip:b@h",
        "Call-ID": draw(TOKENS),
        "CSeq": f"{draw(st.integers(0, 2**31 - 1))} {method}",
        "Content-Length": str(len(content)),
    }
    fields = [
        (draw(st.sampled_from([name, name.lower(), name.upper(), names[name]])), value)
        for name, value in values.items()
    ]
    fields += draw(st.lists(st.tuples(NAMES, TEXTS), max_size=5))
    lines = [
        f"{name}{draw(st.sampled_from(['', ' ', chr(9)]))}:{draw(FOLDS)}{value}{draw(FOLDS)}\r\n"
        for name, value in draw(st.permutations(fields))
    ]
    start = draw(st.sampled_from([f"{method} sip:b@h SIP/2.0", "SIP/2.0 486 ", "SIP/2.0 200 Ünï"]))
    return f"{start}\r\n{''.join(lines)}\r\n".encode("utf-8", "surrogateescape") + bytes(content)


@given(messages())
def test_what_is_parsed_is_written_back_byte_for_byte(data: bytes) -> None:
    message = parse_message(data)
    assert bytes(message) == data
    assert bytes(message.copy()) == data


@given(messages())
def test_every_value_of_a_message_may_be_put_into_another(data: bytes) -> None:
    message = parse_message(data)
    fields = list(message.headers)
    written = Headers(fields)
    assert list(written) == fields
    assert list(Headers.parse(str(written).removesuffix("\r\n"))) == fields


@given(messages(), st.data())
def test_an_edit_touches_no_other_line(data: bytes, draws: st.DataObject) -> None:
    message = parse_message(data)
    before = str(message.headers)
    name = draws.draw(st.sampled_from([name for name, _ in message.headers]))
    values = message.headers.values(name)
    message.headers.prepend(name, "x, y")
    assert message.headers.values(name) == ["x", "y", *values]
    assert [message.headers.pop_value(name) for _ in range(2)] == ["x", "y"]
    assert str(message.headers) == before


@given(messages())
def test_a_request_can_be_answered_and_the_answer_parsed(data: bytes) -> None:
    message = parse_message(data)
    if isinstance(message, Request):
        response = parse_message(bytes(make_response(message, 200, to_tag="mine")))
        assert isinstance(response, Response)
        assert (response.via, response.cseq, response.call_id) == (message.via, message.cseq, message.call_id)
        assert response.headers.values("Via") == message.headers.values("Via")
        assert (response.from_, response.to.uri, response.to.tag) == (message.from_, message.to.uri, "mine")


Outcome = list[tuple[str, bytes]]


def run(chunks: list[bytes]) -> tuple[Outcome, int, bool]:
    """Everything a stream says of these reads: messages and errors in order, pongs, broken."""
    stream, said = Stream(), []
    for chunk in chunks:
        stream.feed(chunk)
        while stream.broken is None:
            try:
                message = stream.next_message()
            except BadMessage as error:
                said.append((error.reason, b""))
                continue
            if message is None:
                break
            said.append(("", bytes(message)))
    return said, stream.pongs, stream.broken is not None


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = [*sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]


PLACES = st.lists(st.integers(0, 10_000), max_size=12)


@given(st.lists(st.one_of(messages(), st.sampled_from([b"\r\n", b"\r\n\r\n"])), max_size=4), PLACES)
def test_framing_does_not_depend_on_how_the_stream_was_read(parts: list[bytes], places: list[int]) -> None:
    data = b"".join(parts)
    whole = run([data])
    assert [wire for _, wire in whole[0]] == [part for part in parts if part.strip()]
    assert run(cut(data, places)) == whole
    assert run([data[at : at + 1] for at in range(len(data))]) == whole


@given(st.lists(st.one_of(messages(), PIECES.map(str.encode), st.binary(max_size=30)), max_size=4), PLACES)
def test_nor_does_it_in_a_stream_of_rubbish(parts: list[bytes], places: list[int]) -> None:
    data = b"".join(parts)
    whole = run([data])
    assert run(cut(data, places)) == whole
    assert run([data[at : at + 1] for at in range(len(data))]) == whole


def check_hostile(data: bytes) -> None:
    """Whatever is accepted is whole and stays the same; what is refused has a status to answer."""
    error: BadMessage
    try:
        message = parse_message(data)
    except BadRequest as bad:
        error = bad
        bytes(make_response(bad.request, bad.status, to_tag="x"))
    except BadMessage as bad:
        error = bad
    else:
        again = bytes(message)
        assert bytes(parse_message(again)) == again
        assert all((message.via, message.from_, message.to, message.cseq, message.call_id))
        return
    assert error.status in REASONS


@given(st.binary(max_size=300))
def test_any_bytes_are_a_message_or_bad_message(data: bytes) -> None:
    check_hostile(data)


@given(
    messages(),
    st.integers(0, 10_000),
    st.integers(0, 20),
    st.one_of(PIECES.map(str.encode), st.binary(max_size=5)),
)
def test_any_damage_leaves_a_message_or_bad_message(data: bytes, place: int, drop: int, put: bytes) -> None:
    place %= len(data)
    check_hostile(data[:place] + put + data[place + drop :])


@given(PIECES)
@example('"\\')
@example("<sip:a@h>;")
def test_values_raise_bad_message_only_and_are_read_back_as_they_were_written(text: str) -> None:
    for kind in (Uri, NameAddr, Via, CSeq, RAck):
        for prefix in (
            "",
            "sip:",
            "<sip:",
            '"',
            "SIP/2.0/UDP ",
            "SIP/2.0/UDP h;",
            "<sip:a@h>;",
            "1 ",
            "1 2 ",
        ):
            with suppress(BadMessage):
                value = kind.parse(prefix + text)
                assert kind.parse(str(value)) == value


@given(PIECES)
def test_any_address_of_a_peer_may_become_a_request_uri(text: str) -> None:
    for kind in (Uri, NameAddr):
        for prefix in ("", "sip:", "<sip:", '"" <tel:'):
            with suppress(BadMessage):
                value = kind.parse(prefix + text)
                uri = value.uri if isinstance(value, NameAddr) else str(value)
                assert bytes(Request("OPTIONS", uri))


@given(st.text('a, "\\<>;', max_size=30))
def test_the_two_ways_to_cut_a_list_agree(text: str) -> None:
    comma = first_comma(text)
    if comma < 0:
        assert split_commas(text) == [text.strip()] * bool(text.strip())
    else:
        head = text[:comma].strip()
        assert split_commas(text) == [head] * bool(head) + split_commas(text[comma + 1 :])
