"""Uri, NameAddr, Via, CSeq, RAck: what is read, what is written back, what is refused."""

from __future__ import annotations

import pytest

from imsalg.errors import BadMessage
from imsalg.sip.grammar import MAX_PARAMS
from imsalg.sip.values import Address, CSeq, NameAddr, RAck, Uri, Via


@pytest.mark.parametrize(
    ("text", "uri"),
    [
        ("sip:example.org", Uri("sip", None, "example.org")),
        ("sips:bob@example.org:5061", Uri("sips", "bob", "example.org", 5061)),
        (
            "sip:+1-212:secret@[2001:db8::1]:5060;transport=ws;lr",
            Uri("sip", "+1-212:secret", "2001:db8::1", 5060, (("transport", "ws"), ("lr", None))),
        ),
        (
            "sip:user;par=u%40example.net@example.com",  # RFC 4475 section 3.1.1.4: the user has a semicolon
            Uri("sip", "user;par=u%40example.net", "example.com"),
        ),
        ("sip:a?b@h?Subject=x%20y&To=z", Uri("sip", "a?b", "h", headers="Subject=x%20y&To=z")),
        (
            "sip:1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*:&it+has=1,weird!*pas$wo~d_too.(doesn't-it)@example.com",
            Uri(
                "sip",
                "1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*:&it+has=1,weird!*pas$wo~d_too.(doesn't-it)",
                "example.com",
            ),
        ),  # RFC 4475 section 3.1.1.1
        ("sip:*21#@h;x=", Uri("sip", "*21#", "h", params=(("x", ""),))),
        ("tel:+1-212-555;phone-context=x", Uri("tel", opaque="+1-212-555;phone-context=x")),
        ("urn:service:sos", Uri("urn", opaque="service:sos")),
        ("soap.beep://192.0.2.103:3002", Uri("soap.beep", opaque="//192.0.2.103:3002")),
    ],
)
def test_uris_are_read_and_written_back(text: str, uri: Uri) -> None:
    assert Uri.parse(text) == uri
    assert str(uri) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sip:",
        "sip:@h",
        "bob@example.org",
        "sip:a@b@c",
        "sip:h:port",
        "sip:h:99999",
        "sip:h;",
        "sip:h;;lr",
        "sip:h;=x",
        "sip:h?",
        "sip: h",
        "sip:<h>",
        "sip:2001:db8::1",
        "sip:[::1",
        "sip:a b@h",
        "1sip:h",
        "sip:h\r\nVia: x",
        "sip:h\0",
    ],
)  # fmt: skip
def test_broken_uris_are_refused(text: str) -> None:
    with pytest.raises(BadMessage):
        Uri.parse(text)


def test_the_scheme_has_no_case_and_parameters_are_found_in_any() -> None:
    uri = Uri.parse("SIP:a@h;Transport=TCP;lr")
    assert uri.scheme == "sip"
    assert (uri.param("transport"), uri.param("LR"), uri.param("x")) == ("TCP", "", None)


def test_the_number_of_parameters_is_bounded() -> None:
    for kind, text in ((Uri, "sip:h"), (NameAddr, "<sip:h>"), (NameAddr, "sip:h"), (Via, "SIP/2.0/UDP h")):
        assert len(kind.parse(text + ";p" * MAX_PARAMS).params) == MAX_PARAMS
        with pytest.raises(BadMessage):
            kind.parse(text + ";p" * (MAX_PARAMS + 1))


@pytest.mark.parametrize(
    ("text", "name_addr", "written"),
    [
        ("<sip:a@h>", NameAddr("", "sip:a@h"), "<sip:a@h>"),
        ("sip:a@h;tag=x", NameAddr("", "sip:a@h", (("tag", "x"),)), "<sip:a@h>;tag=x"),
        ("sip:a@h ; tag = x", NameAddr("", "sip:a@h", (("tag", "x"),)), "<sip:a@h>;tag=x"),
        ("<sip:a@h;lr>;tag=x", NameAddr("", "sip:a@h;lr", (("tag", "x"),)), "<sip:a@h;lr>;tag=x"),
        ("caller<sip:h>;tag=3", NameAddr("caller", "sip:h", (("tag", "3"),)), '"caller" <sip:h>;tag=3'),
        ("Mr. Watson <tel:1>", NameAddr("Mr. Watson", "tel:1"), '"Mr. Watson" <tel:1>'),
        ('"a \\\\\\"b\\", <c>" <sip:h>;x', NameAddr('a \\"b", <c>', "sip:h", (("x", None),)),
         '"a \\\\\\"b\\", <c>" <sip:h>;x'),
        ('""<sip:h>', NameAddr("", "sip:h"), "<sip:h>"),
        ('"Quoted"\t<sip:h>', NameAddr("Quoted", "sip:h"), '"Quoted" <sip:h>'),
        ('"I have \udce4" <sip:h>', NameAddr("I have \udce4", "sip:h"), '"I have \udce4" <sip:h>'),
        ('<sip:h>;+sip.instance="<urn:uuid:1>"',
         NameAddr("", "sip:h", (("+sip.instance", '"<urn:uuid:1>"'),)),
         '<sip:h>;+sip.instance="<urn:uuid:1>"'),
    ],
)  # fmt: skip
def test_addresses_are_read_and_written_back(text: str, name_addr: NameAddr, written: str) -> None:
    assert NameAddr.parse(text) == name_addr
    assert str(name_addr) == written
    assert NameAddr.parse(written) == name_addr


@pytest.mark.parametrize(
    "text",
    [
        "",
        "*",
        "<>",
        "<sip:a@h",
        "sip:a@h>",
        '"open <sip:a@h>',
        '"a" b <sip:h>',
        "a, b <sip:h>",
        "<sip:a>, <sip:b>",
        "< sip:a>",
        "<sip:a >",
        "<sip:a>;tag=",
        "<sip:a>;;tag=1",
        "sip:a@h?Route=x",  # RFC 3261 section 20.10: such a URI stands in <>
        "no-scheme",
        "<sip:a>x",
    ],
)
def test_broken_addresses_are_refused(text: str) -> None:
    with pytest.raises(BadMessage):
        NameAddr.parse(text)


def test_tag_and_uri_of_an_address() -> None:
    address = NameAddr.parse("<sip:a@h;tag=no>;TAG=yes")
    assert address.tag == "yes"
    assert address.parsed_uri == Uri("sip", "a", "h", params=(("tag", "no"),))
    assert NameAddr.parse("<sip:a@h>").tag is None
    with pytest.raises(BadMessage):
        _ = NameAddr.parse("<sip:a:b:c>").parsed_uri


@pytest.mark.parametrize(
    ("text", "via"),
    [
        ("SIP/2.0/UDP 192.0.2.1", Via("UDP", "192.0.2.1", None)),
        ("SIP/2.0/TCP a.b:5060;branch=z9hG4bKx", Via("TCP", "a.b", 5060, (("branch", "z9hG4bKx"),))),
        ("sip / 2.0 / tls [2001:db8::1] : 5061 ; rport ; branch = x",
         Via("TLS", "2001:db8::1", 5061, (("rport", None), ("branch", "x")))),
    ],
)  # fmt: skip
def test_vias_are_read_in_any_white_space(text: str, via: Via) -> None:
    assert Via.parse(text) == via
    assert Via.parse(str(via)) == via


def test_where_a_via_was_seen() -> None:
    via = Via.parse("SIP/2.0/UDP h;branch=b;received=[2001:db8::9];rport=4000")
    assert (via.branch, via.received, via.rport) == ("b", "2001:db8::9", 4000)
    asking = Via.parse("SIP/2.0/UDP h;rport")
    assert (asking.branch, asking.received, asking.rport, asking.param("rport")) == (None, None, None, "")
    assert Via.parse("SIP/2.0/UDP h;rport=70000").rport is None
    assert str(via) == "SIP/2.0/UDP h;branch=b;received=[2001:db8::9];rport=4000"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "SIP/2.0/UDP",
        "SIP/2.0 h",
        "SIP/x/UDP h",
        "ſIP/2.0/UDP h",
        "SIP/2.0/UDP h:0",
        "SIP/2.0/UDP h i",
        "SIP/2.0/UDP ;branch=x",
        "SIP/2.0/UDP h;;branch=x",  # RFC 4475 section 3.1.2.1
        "SIP/2.0/UDP 2001:db8::1",
    ],
)
def test_broken_vias_are_refused(text: str) -> None:
    with pytest.raises(BadMessage):
        Via.parse(text)


def test_cseq_and_rack() -> None:
    assert CSeq.parse("0009  INVITE") == CSeq(9, "INVITE")
    assert str(CSeq(9, "INVITE")) == "9 INVITE"
    assert CSeq.parse(f"{2**31 - 1} INVITE").number == 2**31 - 1
    assert RAck.parse("776656 1 INVITE") == RAck(776656, 1, "INVITE")
    assert str(RAck(776656, 1, "INVITE")) == "776656 1 INVITE"


@pytest.mark.parametrize(
    "text", ["", "1", "INVITE", "-1 INVITE", f"{2**31} INVITE", "1 IN VITE", "9" * 5000 + " A"]
)
def test_broken_cseqs_are_refused(text: str) -> None:
    with pytest.raises(BadMessage):
        CSeq.parse(text)
    with pytest.raises(BadMessage):
        RAck.parse(f"1 {text}")


def test_an_address_is_written_with_brackets_where_it_must_be() -> None:
    assert str(Address("::1", 5060)) == "[::1]:5060"
    assert str(Address("192.0.2.1", 5060)) == "192.0.2.1:5060"
