"""The torture messages of RFC 4475 and RFC 5118 in the parser: what is accepted is understood and kept byte
for byte, what is refused says so."""

from __future__ import annotations

import pytest

from imsalg.errors import BadMessage
from imsalg.sip.message import BadRequest, Request, Response, parse_message
from imsalg.sip.values import CSeq, NameAddr, Uri, Via
from tests.vectors.expected import FOLDER, VECTORS, Vector

NAMED = {vector.name: vector for vector in VECTORS}


def request(name: str) -> Request:
    message = parse_message(NAMED[name].data)
    assert isinstance(message, Request)
    return message


def response(name: str) -> Response:
    message = parse_message(NAMED[name].data)
    assert isinstance(message, Response)
    return message


def test_every_vector_is_expected_to_be_something() -> None:
    assert sorted(NAMED) == sorted(path.stem for path in FOLDER.glob("rfc*/*.sip"))
    assert len(VECTORS) == len(NAMED) == 49 + 12


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: f"{vector.section}-{vector.name}")
def test_a_vector_is_kept_byte_for_byte_or_refused(vector: Vector) -> None:
    if vector.refused:
        with pytest.raises(BadMessage) as caught:
            parse_message(vector.data)
        assert caught.value.status == vector.refused
        assert isinstance(caught.value, BadRequest) == isinstance(vector.datagram, int)
    else:
        message = parse_message(vector.data)
        data = vector.data[: len(bytes(message))] if vector.name == "dblreq" else vector.data
        assert bytes(message) == data


def test_a_short_tortuous_invite_is_understood() -> None:
    message = request("wsinv")
    assert message.uri == "sip:vivekg@chair-dnrc.example.com;unknownparam"
    assert message.to == NameAddr("", "sip:vivekg@chair-dnrc.example.com", (("tag", "1918181833n"),))
    assert message.from_ == NameAddr('J Rosenberg \\"', "sip:jdrosen@example.com", (("tag", "98asjd8"),))
    assert message.cseq == CSeq(9, "INVITE")
    assert message.via == Via("UDP", "192.0.2.2", None, (("branch", "390skdjuw"),))
    vias = [Via.parse(value) for value in message.headers.values("Via")]
    assert [via.branch for via in vias] == ["390skdjuw", "z9hG4bK9ikj8", "z9hG4bK30239"]
    assert message.headers.get("Subject") == ""
    assert message.headers.get("UnknownHeaderWithUnusualValue") == ";;,,;;,;"
    contact = NameAddr.parse(message.headers.values("Contact")[0])
    assert contact.display == 'Quoted string ""'
    assert (contact.param("newparam"), contact.param("secondparam"), contact.param("q")) == (
        "newvalue",
        "",
        "0.33",
    )


def test_without_its_nul_the_wide_range_of_valid_characters_is_kept() -> None:
    data = NAMED["intmeth"].data.replace(b" NUL:\\\0", b"")
    message = parse_message(data)
    assert isinstance(message, Request)
    assert bytes(message) == data
    assert message.method == "!interesting-Method0123456789_*+`.%indeed'~"
    assert Uri.parse(message.uri).host == "example.com"
    assert message.to.display == "BEL:\x07 DEL:\x7f"
    assert message.from_.display == "token1~` token2'+_ token3*%!.-"
    assert message.from_.param("fromParam''~+*_!.-%") == '"работающий"'
    assert message.from_.tag == "_token~1'+`*%!-."
    assert message.call_id == "intmeth.word%ZK-!.*_+'@word`~)(><:\\/\"][?}{"


def test_escapes_are_neither_undone_nor_taken_for_others() -> None:
    assert Uri.parse(request("esc01").uri).user == "sips%3Auser%40example.com"
    assert request("esc01").from_.parsed_uri.user == "I%20have%20spaces"
    assert [NameAddr.parse(value).parsed_uri.user for value in request("escnull").headers.values("m")] == [
        "%00",
        "%00%00",
    ]
    assert request("esc02").method == "RE%47IST%45R"
    assert len(request("esc02").headers.lines("Contact")) == 2
    assert request("esc02").to.display == "%Z%45"


def test_what_stands_close_or_long_or_between_semicolons_is_taken_apart_right() -> None:
    assert request("lwsdisp").from_.display == "caller"
    assert len(request("longreq").headers.values("Via")) == 34
    assert request("longreq").to.parsed_uri.port == 6000
    assert Uri.parse(request("semiuri").uri).user == "user;par=u%40example.net"
    assert [Via.parse(value).transport for value in request("transports").headers.values("Via")] == [
        "UDP",
        "SCTP",
        "TLS",
        "UNKNOWN",
        "TCP",
    ]


def test_parameters_in_and_behind_an_address_are_not_mixed_up() -> None:
    first, second = (NameAddr.parse(request(f"cparam0{n}").headers.first("Contact") or "") for n in (1, 2))
    assert (first.params, first.parsed_uri.params) == ((("unknownparam", None),), ())
    assert (second.params, second.parsed_uri.params) == ((), (("unknownparam", None),))
    assert Uri.parse(NameAddr.parse(request("regescrt").headers.first("m") or "").uri).headers


def test_a_body_is_binary_and_a_reason_phrase_any_text_or_none() -> None:
    assert b"\x30\x82\x01\x52" in request("mpart01").body
    assert len(request("mpart01").body) == 553
    assert response("unreason").reason == "= 2**3 * 5**2 но сто девяносто девять - простое"
    assert response("noreason").reason == ""


def test_ipv6_references_are_read_with_and_without_brackets_where_they_may_be() -> None:
    assert Uri.parse(request("port-ambiguous").uri).host == "2001:db8::10:5070"
    assert Uri.parse(request("port-unambiguous").uri).port == 5070
    for name in ("via-received-param-with-delim", "via-received-param-no-delim"):
        assert request(name).via.received == "2001:db8::9:255"
    assert request("ipv4-mapped-ipv6").via.host == "::ffff:192.0.2.10"
