"""Headers: lookups in any spelling, edits that touch one line only, no way to inject another."""

from __future__ import annotations

import pytest

from imsalg.errors import BadMessage, UsageError
from imsalg.sip.grammar import first_comma
from imsalg.sip.headers import COMPACT, MAX_HEADERS, MAX_LINE, Headers

TEXT = (
    "v:  SIP/2.0/UDP a , SIP/2.0/UDP b\r\n"
    "ROUTE : <sip:x,y;lr>,\r\n\t<sip:z;lr>\r\n"
    "Via: SIP/2.0/UDP c\r\n"
    "Subject:\r\n  folded \r\n\ttwice  \r\n"
    "Supported:\r\n"
    "Require: path , MediaSec,100rel"
)


def parsed() -> Headers:
    return Headers.parse(TEXT)


def test_lines_leave_as_they_came() -> None:
    assert str(parsed()) == TEXT + "\r\n"
    assert str(Headers.parse("")) == ""


def test_names_have_no_case_and_compact_forms_are_their_long_ones() -> None:
    headers = parsed()
    assert headers.get("VIA") == headers.get("v") == "SIP/2.0/UDP a , SIP/2.0/UDP b"
    assert headers.lines("via") == ["SIP/2.0/UDP a , SIP/2.0/UDP b", "SIP/2.0/UDP c"]
    assert headers.values("Via") == ["SIP/2.0/UDP a", "SIP/2.0/UDP b", "SIP/2.0/UDP c"]
    assert headers.values("route") == ["<sip:x,y;lr>", "<sip:z;lr>"]
    assert headers.first("Via") == "SIP/2.0/UDP a"
    assert headers.get("s") == "folded twice"
    assert "k" in headers
    assert "To" not in headers
    assert headers.get("To") is None
    assert (headers.get("Supported"), headers.values("Supported"), headers.first("Supported")) == (
        "",
        [],
        None,
    )
    for short, long in COMPACT.items():
        assert Headers([(short, "x")]).get(long) == "x"


def test_iteration_gives_names_as_written_and_values_unfolded() -> None:
    assert list(parsed()) == [
        ("v", "SIP/2.0/UDP a , SIP/2.0/UDP b"),
        ("ROUTE", "<sip:x,y;lr>, <sip:z;lr>"),
        ("Via", "SIP/2.0/UDP c"),
        ("Subject", "folded twice"),
        ("Supported", ""),
        ("Require", "path , MediaSec,100rel"),
    ]
    assert len(parsed()) == 6


def test_set_replaces_all_lines_where_the_first_stood() -> None:
    headers = Headers([("A", "1"), ("B", "2"), ("C", "3"), ("b", "4")])
    headers.set("B", "5", "6")
    assert list(headers) == [("A", "1"), ("B", "5"), ("B", "6"), ("C", "3")]
    headers.set("D", "7")
    assert list(headers)[-1] == ("D", "7")
    headers.set("b")
    assert "B" not in headers


def test_prepend_stands_above_the_first_of_its_name_and_append_last() -> None:
    headers = Headers([("A", "1"), ("B", "2"), ("B", "3")])
    headers.prepend("b", "0")
    headers.prepend("Z", "9")
    headers.append("A", "4")
    assert str(headers) == "Z: 9\r\nA: 1\r\nb: 0\r\nB: 2\r\nB: 3\r\nA: 4\r\n"


def test_the_first_value_is_taken_and_the_rest_keeps_its_bytes() -> None:
    headers = Headers.parse('m : "a,\\"b" <sip:x,y>;q=1 ,\r\n  <sip:z>  ,\t<sip:w>\r\nContact:<sip:last>')
    assert headers.pop_value("Contact") == '"a,\\"b" <sip:x,y>;q=1'
    assert str(headers) == "m : <sip:z>  ,\t<sip:w>\r\nContact:<sip:last>\r\n"
    assert [headers.pop_value("Contact") for _ in range(4)] == ["<sip:z>", "<sip:w>", "<sip:last>", None]
    assert len(headers) == 0


def test_empty_elements_are_no_values() -> None:
    headers = Headers.parse("Via: , ,a\r\nVia:\r\nVia: b")
    assert [headers.pop_value("Via") for _ in range(3)] == ["a", "b", None]


def test_empty_elements_before_a_value_are_passed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []

    def look(text: str) -> int:
        looks.append(text)
        return first_comma(text)

    monkeypatch.setattr("imsalg.sip.headers.first_comma", look)
    headers = Headers.parse("Via:" + " ,\t" * 1000 + "a, ,b\r\nVia:" + "," * 1000)
    assert [headers.pop_value("Via") for _ in range(3)] == ["a", "b", None]
    assert len(looks) == 3


def test_an_option_tag_is_discarded_alone() -> None:
    headers = parsed()
    assert headers.discard_token("Require", "mediasec")
    assert headers.get("Require") == "path , MediaSec,100rel".replace(" , MediaSec,", ", ")
    assert not headers.discard_token("Require", "mediasec")
    assert headers.discard_token("require", "PATH")
    assert headers.discard_token("require", "100rel")
    assert "Require" not in headers
    assert str(headers).startswith(TEXT[: TEXT.index("Require")])


def test_a_line_without_the_option_tag_keeps_its_bytes() -> None:
    headers = Headers.parse("Require:a ,  b\r\nRequire: c")
    headers.discard_token("Require", "c")
    assert str(headers) == "Require:a ,  b\r\n"


def test_a_copy_changes_alone() -> None:
    headers = parsed()
    other = headers.copy()
    other.set("Via", "x")
    other.remove("Route")
    assert str(headers) == TEXT + "\r\n"


@pytest.mark.parametrize("value", ["a\r\nEvil: b", "a\nEvil: b", "a\rb", "a\0b", "\r\n", "lone \ud800"])
def test_nothing_can_be_injected_through_a_value(value: str) -> None:
    headers = parsed()
    for change in (headers.set, headers.prepend, headers.append):
        with pytest.raises(UsageError):
            change("Subject", value)
    with pytest.raises(UsageError):
        Headers([("Subject", value)])
    assert str(headers) == TEXT + "\r\n"


@pytest.mark.parametrize("name", ["", "a b", "a:b", "a\r\nb", " a", "ä"])
def test_nothing_can_be_injected_through_a_name(name: str) -> None:
    for change in (Headers().set, Headers().prepend, Headers().append):
        with pytest.raises(UsageError):
            change(name, "x")


@pytest.mark.parametrize(
    "text", ["no colon", ": no name", "a b: c", " folded first: x", "ä: b", "a: b\r\n\r\nc: d"]
)
def test_what_is_no_header_line_is_refused(text: str) -> None:
    with pytest.raises(BadMessage) as caught:
        Headers.parse(text)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "text",
    ["\r\n".join(["a: b"] * (MAX_HEADERS + 1)), "a: " + "x" * MAX_LINE, "a: " + "x\r\n " * (MAX_LINE // 4)],
)
def test_too_much_is_refused_as_too_large(text: str) -> None:
    with pytest.raises(BadMessage) as caught:
        Headers.parse(text)
    assert caught.value.status == 513
