"""Lists, quotes, parameters, numbers, hosts; and that no input makes them slow or raise something else."""

from __future__ import annotations

from contextlib import suppress

import pytest

from imsalg.errors import BadMessage
from imsalg.sip.grammar import (
    find_param,
    first_comma,
    format_host_port,
    format_params,
    is_token,
    number,
    parse_params,
    quote,
    split_commas,
    split_host_port,
    unfold,
    unquote,
)
from imsalg.sip.values import CSeq, NameAddr, Uri, Via


@pytest.mark.parametrize(
    ("text", "elements"),
    [
        ("", []),
        (" , ,", []),
        ("a", ["a"]),
        ("a ,b,\tc", ["a", "b", "c"]),
        ('"a,b" <sip:x>, <sip:y,z;p>', ['"a,b" <sip:x>', "<sip:y,z;p>"]),
        (r'"a\",b", c', [r'"a\",b"', "c"]),
        (r'"a\\", c', [r'"a\\"', "c"]),
        ('"open, c', ['"open, c']),
        ("<sip:open, c", ["<sip:open, c"]),
        ('a, "ends in \\', ["a", '"ends in \\']),
    ],
)
def test_a_list_is_cut_at_commas_outside_quotes_and_brackets(text: str, elements: list[str]) -> None:
    assert split_commas(text) == elements


def test_the_first_comma_is_the_one_the_list_is_cut_at() -> None:
    assert first_comma('"a,b" <c,d> , e') == 12
    assert first_comma('"a,b') == -1
    assert first_comma("") == -1


@pytest.mark.parametrize(
    ("folded", "value"),
    [
        (" a ", "a"),
        ("\r\n a", "a"),
        (" a \r\n \t b", "a b"),
        ("a\r\n \r\n b", "a  b"),
        (" ", ""),
        ("a\xa0\x85", "a\xa0\x85"),
    ],
)
def test_a_fold_becomes_one_space(folded: str, value: str) -> None:
    assert unfold(folded) == value


def test_parameters_keep_their_order_case_and_quotes() -> None:
    params = parse_params(' ; Tag =  a;lr ;x="a;b\\"," ; received=[2001:db8::1]')
    assert params == (("Tag", "a"), ("lr", None), ("x", '"a;b\\","'), ("received", "[2001:db8::1]"))
    assert format_params(params) == ';Tag=a;lr;x="a;b\\",";received=[2001:db8::1]'
    assert find_param(params, "tAG") == "a"
    assert find_param(params, "lr") == ""
    assert find_param(params, "none") is None


@pytest.mark.parametrize(
    "text", [";", ";;a", ";a=", ";a=b c", "a=b", ';a="b', ";a,b", ";a=<b>", ";ä=b", ";a\0"]
)
def test_malformed_parameters_are_refused(text: str) -> None:
    with pytest.raises(BadMessage):
        parse_params(text)


@pytest.mark.parametrize("text", ["", "plain", 'a "b" \\ c', "ünï", "\x07"])
def test_what_is_quoted_is_unquoted(text: str) -> None:
    assert unquote(quote(text)) == text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("0009", 9),
        ("255", 255),
        ("256", None),
        ("", None),
        ("-1", None),
        ("+1", None),
        ("1 ", None),
        ("1_0", None),
        ("٣", None),
        ("²", None),
        ("9" * 10_000, None),
        ("0" * 10_000 + "7", 7),
    ],
)
def test_a_number_is_ascii_digits_within_its_bound(text: str, value: int | None) -> None:
    assert number(text, 255) == value


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("example.org", ("example.org", None)),
        ("192.0.2.1:5060", ("192.0.2.1", 5060)),
        ("[2001:db8::1]", ("2001:db8::1", None)),
        ("[::ffff:192.0.2.1]:5061", ("::ffff:192.0.2.1", 5061)),
    ],
)
def test_hosts_and_ports(text: str, parts: tuple[str, int | None]) -> None:
    assert split_host_port(text) == parts
    assert format_host_port(*parts) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":5060",
        "a:",
        "a:0",
        "a:65536",
        "a:-1",
        "2001:db8::1",
        "[::1",
        "[:::1]",
        "[a.b]",
        "a b",
        "a/b",
        "ä",
    ],
)
def test_what_is_no_host_is_refused(text: str) -> None:
    with pytest.raises(BadMessage):
        split_host_port(text)


def test_tokens_are_ascii() -> None:
    assert is_token("x-UA_1.0!%*+`'~")
    assert not any(is_token(text) for text in ("", "a b", "a:b", "ä", "a\n", "\u212a"))


@pytest.mark.parametrize(
    "unit", ['"', '\\"', '"\\', "<", ",<", ' "', "; a", ";a=\t", "[", "=", '"a",', " \t", "\r\n ", ';a="']
)
def test_no_input_takes_quadratic_time(unit: str) -> None:
    text = unit * 500_000  # squared, these would outlive the time limit of any test run
    split_commas(text)
    first_comma(text)
    unfold(text)
    unquote(text)
    for parse in (parse_params, split_host_port, Uri.parse, NameAddr.parse, Via.parse, CSeq.parse):
        for prefix in ("", "sip:", "<sip:a>", "SIP/2.0/UDP a", '"', '"" <sip:', "1"):
            with suppress(BadMessage):
                parse(prefix + text)
