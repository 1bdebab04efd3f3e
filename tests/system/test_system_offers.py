"""Offers and answers that cross, come again or come late, between two SIPps."""

from __future__ import annotations

from pathlib import Path

import pytest

from imsalg.sip.message import Request
from tests.system.calls import (
    CRYPTO,
    E2AE,
    RTP,
    SRTP,
    Call,
    audio,
    keys,
    originate,
    originated,
    registered,
    terminate,
)
from tests.system.sipp import GAP, Traced, requests, responses, sdp
from tests.system.world import World


@pytest.mark.parametrize("status", [407, 422])
def test_an_invite_again_offers_the_same_ports_and_keys_p37(
    world: World, tmp_path: Path, status: int
) -> None:
    with registered(world, tmp_path) as ue:
        told = "Min-SE: 1800" if status == 422 else 'Proxy-Authenticate: Digest realm="x", nonce="y"'
        more = {"status": status, "headers": told}
        out = originate(world, tmp_path, "again_uac", "again_uas", ue=ue, offer=SRTP, answer=RTP, **more)
        answer = audio(CRYPTO, proto="RTP/SAVP")
        back = terminate(world, tmp_path, "again_uac", "again_uas", ue=ue, offer=RTP, answer=answer, **more)
    for call in (out, back):
        first, second = requests(call.callee, "INVITE", sent=False)
        assert first.body == second.body
        assert [each.cseq.number for each in (first, second)] == [1, 2]
        assert len(responses(call.caller, status, "INVITE", sent=False)) == 1
    assert len(keys(first)) == 4


def test_two_callees_that_answer_are_two_dialogs_p26(world: World, tmp_path: Path) -> None:
    with registered(world, tmp_path) as ue:
        call = originate(
            world,
            tmp_path,
            "two_answers_uac",
            "two_answers_uas",
            ue=ue,
            offer=SRTP,
            first=RTP,
            second=audio(port=6200),
        )
    one, two = responses(call.caller, 200, "INVITE", sent=False)
    assert one.to.tag != two.to.tag
    assert keys(one) != keys(two)
    assert sdp(one).media[0].port != sdp(two).media[0].port
    byes = requests(call.callee, "BYE", sent=False)
    assert [bye.to.tag for bye in byes] == [two.to.tag, one.to.tag]


def test_invites_that_cross_are_491_and_a_second_one_500_p29(world: World, tmp_path: Path) -> None:
    with registered(world, tmp_path) as ue:
        ends = originated(
            world,
            tmp_path,
            "glare_uac",
            "glare_uas",
            ue=ue,
            gap=GAP,
            offer=SRTP,
            hold=audio(*E2AE, "a=inactive", proto="RTP/SAVP", version=2),
            answer=RTP,
        )
        with ends as (caller, callee):
            caller.wait_for(500)
            callee.go_on()
            call = Call(caller.finish(), callee.finish())
    (soon,) = responses(call.caller, 500, "INVITE", sent=False)
    assert soon.headers.get("Retry-After")
    assert len(responses(call.callee, 491, "INVITE", sent=False)) == 1
    first, again = responses(call.caller, 200, "INVITE", sent=False)
    assert first.body == again.body


def arrived(traced: list[Traced]) -> list[str]:
    """The methods of what came, in order."""
    return [t.message.method for t in traced if isinstance(t.message, Request) and not (t.sent or t.again)]


@pytest.mark.parametrize("originating", [True, False])
def test_a_bye_at_once_follows_the_ack_with_the_answer_p27(
    world: World, tmp_path: Path, originating: bool
) -> None:
    with registered(world, tmp_path) as ue:
        if originating:
            answer = audio(CRYPTO, proto="RTP/SAVP")
            call = originate(world, tmp_path, "late_uac", "late_uas", ue=ue, offer=RTP, answer=answer)
        else:
            call = terminate(world, tmp_path, "late_uac", "late_uas", ue=ue, offer=SRTP, answer=RTP)
    assert arrived(call.callee) == ["INVITE", "ACK", "BYE"]
    (ack,) = requests(call.callee, "ACK", sent=False)
    assert ack.body


def test_preconditions_pass_in_prack_and_update_p28(world: World, tmp_path: Path) -> None:
    """RFC 3312: nobody rings before both ends have their resources; the proxy has no say in it."""
    wanted = "a=des:qos mandatory local sendrecv", "a=des:qos mandatory remote sendrecv"
    unmet = "a=curr:qos local none", "a=curr:qos remote none", *wanted
    met = "a=curr:qos local sendrecv", "a=curr:qos remote sendrecv", *wanted
    confirm = (*unmet, "a=conf:qos remote sendrecv")
    with registered(world, tmp_path) as ue:
        call = originate(
            world,
            tmp_path,
            "prack_uac",
            "prack_uas",
            ue=ue,
            offer=audio(*E2AE, *unmet, proto="RTP/SAVP"),
            answer=audio(*confirm, port=6100),
            update=audio(*E2AE, *met, proto="RTP/SAVP", version=2),
            update_answer=audio(*met, port=6100, version=2),
        )
    (invite,), (update,) = (requests(call.callee, name, sent=False) for name in ("INVITE", "UPDATE"))
    (reliable,) = responses(call.caller, 183, "INVITE", sent=False)
    (updated,) = responses(call.caller, 200, "UPDATE", sent=False)
    for message, lines in ((invite, unmet), (reliable, confirm), (update, met), (updated, met)):
        said = message.body.decode().splitlines()
        assert [line for line in said if line[2:].startswith(("curr", "des", "conf"))] == list(lines)
    assert keys(updated) == keys(reliable)
