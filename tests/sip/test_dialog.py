"""A dialog seen from the middle: the numbers and names of requests that we make, and of those that cross."""

import pytest

from imsalg.sip.dialog import Dialog, Party
from imsalg.sip.headers import Headers
from imsalg.sip.message import Request, Response


@pytest.fixture
def dialog():
    caller = Party("<sip:a@x>;tag=a", "sip:a@192.0.2.1")
    callee = Party("<sip:b@y>;tag=b", "sip:b@192.0.2.2", ("<sip:p1;lr>", "<sip:p2;lr>"), cseq=7)
    return Dialog("id", caller, callee)


def crossing(method, number, *headers):
    return Request(method, "sip:b@192.0.2.2", Headers((("CSeq", f"{number} {method}"), *headers)))


def numbered(dialog, method, number, *headers, callee=True):
    request = crossing(method, number, *headers)
    dialog.number(request, callee)
    return request.headers


def test_numbers_pass_as_they_are_while_we_have_said_nothing(dialog):
    assert numbered(dialog, "INFO", 8).get("CSeq") == "8 INFO"
    assert dialog.callee.cseq == 8


def test_our_own_request_takes_the_next_number(dialog):
    request = dialog.request("UPDATE", callee=True)
    assert request.headers.get("CSeq") == "8 UPDATE"
    assert request.uri == "sip:b@192.0.2.2"
    assert request.headers.values("Route") == ["<sip:p1;lr>", "<sip:p2;lr>"]
    assert request.headers.get("From") == "<sip:a@x>;tag=a"
    assert request.headers.get("To") == "<sip:b@y>;tag=b"
    assert request.headers.get("Call-ID") == "id"


def test_our_first_request_to_the_caller_has_number_one(dialog):
    request = dialog.request("BYE", callee=False)
    assert request.headers.get("CSeq") == "1 BYE"
    assert request.headers.get("From") == "<sip:b@y>;tag=b"


def test_what_crosses_after_ours_is_mapped_on_that_side_alone(dialog):
    dialog.request("UPDATE", callee=True)
    assert numbered(dialog, "INFO", 8).get("CSeq") == "9 INFO"
    assert numbered(dialog, "INFO", 1, callee=False).get("CSeq") == "1 INFO"
    dialog.request("UPDATE", callee=True)
    assert numbered(dialog, "INVITE", 9).get("CSeq") == "11 INVITE"
    assert numbered(dialog, "ACK", 9).get("CSeq") == "11 ACK"


def test_rack_is_mapped_with_the_invite_it_names(dialog):
    dialog.request("UPDATE", callee=True)
    assert numbered(dialog, "PRACK", 9, ("RAck", "3 8 INVITE")).get("RAck") == "3 9 INVITE"


def test_an_ack_of_ours_has_the_number_of_its_invite(dialog):
    response = Response(200, "OK", Headers((("CSeq", "7 INVITE"),)))
    ack = dialog.ack(response, callee=True)
    assert ack.headers.get("CSeq") == "7 ACK"
    assert dialog.request("BYE", callee=True).headers.get("CSeq") == "8 BYE"


@pytest.mark.parametrize("contact", ["<sip:new@192.0.2.9>;x=y", "sip:new@192.0.2.9;x=y"])
def test_a_target_refresh_moves_the_target(dialog, contact):
    dialog.callee.refresh(Headers((("Contact", contact),)))
    assert dialog.request("BYE", callee=True).uri == "sip:new@192.0.2.9"


@pytest.mark.parametrize("headers", [(), (("Contact", "*"),)])
def test_without_a_contact_the_target_stays(dialog, headers):
    dialog.callee.refresh(Headers(headers))
    assert dialog.callee.target == "sip:b@192.0.2.2"
