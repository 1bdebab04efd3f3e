"""What a call can run into, between two SIPps: who is told what, and that both ends agree it is over."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from imsalg.sip.message import Response
from tests.system.calls import (
    BOB,
    CRYPTO,
    E2AE,
    KEY,
    RTP,
    SRTP,
    Call,
    audio,
    call_on_a_connection,
    keys,
    normal,
    originate,
    originated,
    refused,
    register,
    registered,
    terminate,
)
from tests.system.sipp import GAP, HOST, Sipp, Traced, port, requests, responses, sdp
from tests.system.world import World

TRYING = '<recv response="100" optional="true"/>'  # before a GAP in which it may come


def final(traced: list[Traced]) -> Response:
    """The one final response to the caller's INVITE."""
    (found,) = [
        t.message
        for t in traced
        if isinstance(t.message, Response)
        and not (t.sent or t.again)
        and t.message.status >= 200
        and t.message.cseq.method == "INVITE"
    ]
    return found


def direction(message: object) -> str:
    document = sdp(message)  # type: ignore[arg-type]
    return str(document.direction_of(document.media[0]).value)


# -- registration --------------------------------------------------------------------------------------------


def test_a_challenged_ue_is_told_the_mechanisms_twice_and_the_core_never(
    world: World, tmp_path: Path
) -> None:
    ue, traced = register(world, tmp_path, challenged=True)
    for status in (401, 200):
        (response,) = responses(traced, status, "REGISTER", sent=False)
        assert response.headers.lines("Security-Server") == ["sdes-srtp;mediasec"]
    (registration,) = world.status()["registrations"]
    assert registration["aor"] == f"sip:{ue.user}@ims.test"
    assert registration["mechanisms"] == ["sdes-srtp"]
    register(world, tmp_path, ue=ue, expires=0)
    assert world.status()["registrations"] == []


def test_security_verify_with_what_nobody_announced_is_494(world: World, tmp_path: Path) -> None:
    with Sipp(
        tmp_path,
        "refused_register",
        remote=world.access_port,
        headers="Security-Verify: sdes-srtp;mediasec, msrp-tls;mediasec",
    ) as phone:
        (response,) = responses(phone.finish(), 494, "REGISTER", sent=False)
    assert response.headers.lines("Security-Server") == ["sdes-srtp;mediasec"]


def test_an_unregistered_ue_is_refused(world: World, tmp_path: Path) -> None:
    response, core = refused(world, tmp_path, 403, offer=RTP)
    assert core == []
    assert "not registered" in (response.headers.get("Warning") or "")


def test_who_is_not_of_the_home_network_is_refused_where_that_is_named(world: World, tmp_path: Path) -> None:
    with registered(world, tmp_path) as ue:
        where = {"remote": world.core_port, "ruri": ue.contact, "route": ue.path}
        with Sipp(tmp_path, "refused_uac", host="127.0.0.77", **where, offer=RTP) as stranger:
            assert final(stranger.finish()).status == 403


def test_what_a_ue_may_not_say_is_not_believed(world: World, tmp_path: Path) -> None:
    said = "P-Asserted-Identity: <sip:mallory@ims.test>\nP-Charging-Vector: icid-value=1"
    with registered(world, tmp_path) as ue:
        call = originate(world, tmp_path, ue=ue, headers=said, offer=RTP, answer=RTP)
    (invite,) = requests(call.callee, "INVITE", sent=False)
    assert invite.headers.values("P-Asserted-Identity") == [f"<sip:{ue.user}@ims.test>"]
    assert invite.headers.values("Route") == [f"<sip:orig@{HOST}:{ue.home};lr>"]
    assert "icid-value=1;" not in (invite.headers.get("P-Charging-Vector") or "")
    assert len(invite.headers.values("Record-Route")) == 2


# -- transports ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tcp", [(True, False), (False, True), (True, True)], ids=["caller", "callee", "both"]
)
def test_a_call_over_tcp(world: World, tmp_path: Path, tcp: tuple[bool, bool]) -> None:
    call = originate(world, tmp_path, tcp=tcp, offer=RTP, answer=RTP)
    (invite,) = requests(call.callee, "INVITE", sent=False)
    assert [via.split()[0][8:] for via in invite.headers.values("Via")] == [
        "TCP" if each else "UDP" for each in reversed(tcp)
    ]


def test_a_ue_registers_and_calls_on_one_connection(world: World, tmp_path: Path) -> None:
    ue, call = call_on_a_connection(world, tmp_path)
    (ok,) = responses(call.caller, 200, "INVITE", sent=False)
    (invite,) = requests(call.callee, "INVITE", sent=False)
    assert (len(keys(ok)), keys(invite)) == (1, [])
    register(world, tmp_path, ue=ue, expires=0)
    assert world.status()["registrations"] == []


def test_a_ue_with_two_flows_is_reached_over_the_one_that_a_path_names(world: World, tmp_path: Path) -> None:
    """RFC 5626: a binding for each reg-id of an instance; either may end, or move, without the other."""
    first, second = (f';+sip.instance="<urn:uuid:1>";reg-id={number}' for number in (1, 2))
    with registered(world, tmp_path, params=first) as one:
        two, _ = register(world, tmp_path, ue=replace(one, port=port()), params=second)
        assert {each["contact"] for each in world.status()["registrations"]} == {one.contact, two.contact}
        assert one.path != two.path
        assert one.path.endswith(";lr;ob>")
        moved, _ = register(world, tmp_path, ue=replace(two, port=port()), params=second)
        assert moved.path == two.path
        for ue in (one, moved):
            call = terminate(world, tmp_path, ue=ue, offer=RTP, answer=audio(CRYPTO, proto="RTP/SAVP"))
            assert requests(call.callee, "INVITE", sent=False)[0].uri == ue.contact
        register(world, tmp_path, ue=moved, params=second, expires=0)
        (left,) = world.status()["registrations"]
        assert left["contact"] == one.contact
        gone = {"remote": world.core_port, "ruri": moved.contact, "route": moved.path, "offer": RTP}
        with Sipp(tmp_path, "refused_uac", **gone) as core:
            assert responses(core.finish(), 430, "INVITE", sent=False)


def test_an_invite_over_1300_octets_goes_on_over_tcp(world: World, tmp_path: Path) -> None:
    offer = audio(*(f"a=rtpmap:{number} a-long-codec-name-{number}/8000" for number in range(96, 127)))
    with (
        Sipp(tmp_path, "call_uas", tcp=True, answer=RTP) as core,
        Sipp(
            tmp_path,
            "call_uac",
            remote=world.peers_port,
            ruri=BOB,
            route=f"<sip:{HOST}:{core.port};lr>",  # says nothing of TCP
            offer=offer,
        ) as access,
    ):
        access.finish()
        (invite,) = requests(core.finish(), "INVITE", sent=False)
    assert len(bytes(invite)) > 1300
    assert invite.via.transport == "TCP"


# -- failures ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [302, 404, 486, 500, 503, 603])
def test_a_refusal_is_passed_on(world: World, tmp_path: Path, status: int) -> None:
    contact = "Contact: <sip:elsewhere@192.0.2.1>"
    call = originate(world, tmp_path, "refused_uac", "refused_uas", status=status, headers=contact, offer=RTP)
    assert final(call.caller).status == status
    assert final(call.caller).headers.get("Contact") == "<sip:elsewhere@192.0.2.1>"
    assert len(requests(call.callee, "ACK", sent=False)) == 1


def test_nobody_there_is_408(world: World, tmp_path: Path) -> None:
    with Sipp(
        tmp_path,
        "refused_uac",
        remote=world.peers_port,
        ruri=BOB,
        route=f"<sip:{HOST}:19998;lr>",
        offer=RTP,
    ) as access:
        assert final(access.finish()).status == 408


@pytest.mark.parametrize(
    ("caller", "callee", "silent"),
    [
        ("cancel_at_once_uac", "cancelled_uas", 2000),  # the CANCEL waits for the first provisional
        ("cancel_trying_uac", "cancelled_uas", 2000),
        ("cancel_uac", "cancelled_uas", 0),
        ("cancel_uac", "crossing_uas", 0),  # the 200 is acknowledged, and BYE said
    ],
    ids=["before anything came", "before it rings", "while it rings", "crossing the 200"],
)
def test_a_cancelled_call_ends_on_both_sides(
    world: World, tmp_path: Path, caller: str, callee: str, silent: int
) -> None:
    with registered(world, tmp_path) as ue:
        blanks = {"wait": silent, "gap": TRYING + GAP, "offer": SRTP, "answer": RTP}
        with originated(world, tmp_path, caller, callee, ue=ue, **blanks) as (access, core):
            core.wait_for("INVITE")
            if caller == "cancel_trying_uac":
                access.wait_for(100)
            if silent:
                access.go_on()
            call = Call(access.finish(), core.finish())
    assert final(call.caller).status == 487
    assert len(requests(call.callee, "CANCEL", sent=False)) == 1
    assert len(requests(call.callee, "ACK", sent=False)) == 1


def test_a_call_whose_caller_dies_with_its_connection_is_cancelled(world: World, tmp_path: Path) -> None:
    ends = originated(world, tmp_path, "refused_uac", "cancelled_uas", tcp=(True, False), offer=RTP)
    with ends as (caller, callee):
        caller.wait_for(180)
        caller.__exit__()  # killed
        (cancel,) = requests(callee.finish(), "CANCEL", sent=False)
    assert cancel.headers.get("Reason") == 'SIP;cause=503;text="Service Unavailable"'


def test_a_callee_that_overlooks_the_first_invite_gets_it_again(world: World, tmp_path: Path) -> None:
    call = originate(world, tmp_path, wait=2000, offer=RTP, answer=RTP)
    assert any(t.again for t in call.callee if getattr(t.message, "method", "") == "INVITE")
    assert len(requests(call.callee, "INVITE", sent=False)) == 1


def test_a_caller_that_loses_the_200_gets_it_again_with_the_same_answer(world: World, tmp_path: Path) -> None:
    with registered(world, tmp_path) as ue:
        ends = originated(world, tmp_path, "slow_ack_uac", ue=ue, gap=GAP, offer=SRTP, answer=RTP)
        with ends as (caller, callee):
            caller.wait_for(200, again=True)
            caller.go_on()
            seen = caller.finish()
            callee.finish()
    oks = [t.message for t in seen if getattr(t.message, "status", 0) == 200 and not t.sent]
    oks = [ok for ok in oks if ok.cseq.method == "INVITE"]
    assert len(oks) > 1
    assert len({ok.body for ok in oks}) == 1


def test_a_callee_hangs_up(world: World, tmp_path: Path) -> None:
    with registered(world, tmp_path) as ue:
        call = originate(world, tmp_path, "ended_uac", "hangup_uas", ue=ue, offer=SRTP, answer=RTP)
        assert len(requests(call.caller, "BYE", sent=False)) == 1
        call = terminate(
            world,
            tmp_path,
            "ended_uac",
            "hangup_uas",
            ue=ue,
            offer=RTP,
            answer=audio(CRYPTO, proto="RTP/SAVP"),
        )
        assert len(requests(call.caller, "BYE", sent=False)) == 1


def test_other_requests_in_a_call_pass(world: World, tmp_path: Path) -> None:
    with registered(world, tmp_path) as ue:
        call = originate(world, tmp_path, "inside_uac", "inside_uas", ue=ue, offer=SRTP, answer=RTP)
    for method, name in (("INFO", "Info-Package"), ("REFER", "Refer-To"), ("NEWS", "X-News")):
        (sent,), (came,) = (
            requests(end, method, sent=end is call.caller) for end in (call.caller, call.callee)
        )
        assert came.headers.get(name) == sent.headers.get(name)
        assert came.cseq == sent.cseq


# -- early dialogs -------------------------------------------------------------------------------------------


def test_each_early_dialog_has_a_key_and_a_port_of_its_own_p26(world: World, tmp_path: Path) -> None:
    with registered(world, tmp_path) as ue:
        call = originate(
            world,
            tmp_path,
            "call_uac",
            "fork_uas",
            ue=ue,
            wait=100,
            offer=SRTP,
            first=RTP,
            second=audio(port=6200),
        )
    (ringing,), (progress,), (ok,) = (
        responses(call.caller, status, "INVITE", sent=False) for status in (180, 183, 200)
    )
    assert len({ringing.to.tag, progress.to.tag}) == 2
    assert ok.to.tag == progress.to.tag
    assert keys(ringing) != keys(progress)
    assert sdp(ringing).media[0].port != sdp(progress).media[0].port
    assert ok.body == progress.body


def test_an_early_answer_that_cannot_be_served_costs_no_other_callee_the_call_p26(
    world: World, tmp_path: Path
) -> None:
    """It has a second m-line; its early dialog is ended by a BYE, and the other callee answers."""
    with registered(world, tmp_path) as ue:
        call = originate(
            world,
            tmp_path,
            "call_uac",
            "ended_fork_uas",
            ue=ue,
            offer=SRTP,
            first=audio("m=audio 6102 RTP/AVP 8", port=6100),
            second=audio(port=6200),
        )
    (progress,), (ok,) = (responses(call.caller, status, "INVITE", sent=False) for status in (183, 200))
    assert progress.to.tag == ok.to.tag
    assert ok.body == progress.body


def test_the_early_dialogs_of_a_call_to_a_ue_share_its_port_p26(world: World, tmp_path: Path) -> None:
    answers = [
        audio(f"a=crypto:{tag} {suite} inline:{KEY}", port=port, proto="RTP/SAVP")
        for tag, suite, port in ((1, "AES_CM_128_HMAC_SHA1_80", 6100), (1, "AES_CM_128_HMAC_SHA1_80", 6200))
    ]
    with registered(world, tmp_path) as ue:
        call = terminate(
            world, tmp_path, "call_uac", "fork_uas", ue=ue, offer=RTP, first=answers[0], second=answers[1]
        )
    (ringing,), (ok,) = (responses(call.caller, status, "INVITE", sent=False) for status in (180, 200))
    assert sdp(ringing).media[0].port != sdp(ok).media[0].port
    assert KEY not in ok.body.decode()


# -- offers and answers, wherever they ride ------------------------------------------------------------------


def test_prack_and_update_before_the_answer_p28(world: World, tmp_path: Path) -> None:
    with registered(world, tmp_path) as ue:
        call = originate(
            world,
            tmp_path,
            "prack_uac",
            "prack_uas",
            ue=ue,
            offer=SRTP,
            answer=RTP,
            update=audio(*E2AE, "a=sendonly", proto="RTP/SAVP", version=2),
            update_answer=audio("a=recvonly", port=6100, version=2),
        )
    (reliable,) = responses(call.caller, 183, "INVITE", sent=False)
    (prack,), (update,) = (requests(call.callee, name, sent=False) for name in ("PRACK", "UPDATE"))
    (updated,) = responses(call.caller, 200, "UPDATE", sent=False)
    assert (reliable.headers.get("RSeq"), prack.headers.get("RAck")) == ("1", "1 1 INVITE")
    assert direction(update) == "sendonly"
    assert "RTP/AVP" in normal(update)
    assert (direction(updated), keys(updated)) == ("recvonly", keys(reliable))


@pytest.mark.parametrize("originating", [True, False])
def test_hold_and_resume_keep_ports_and_keys_p14(world: World, tmp_path: Path, originating: bool) -> None:
    secured, plain = [
        [
            audio(*lines, *wish, port=port, proto=proto, version=version)
            for version, wish in ((2, ("a=sendonly",)), (3, ()), (2, ("a=recvonly",)))
        ]
        for lines, port, proto in ((E2AE, 6000, "RTP/SAVP"), ((), 6100, "RTP/AVP"))
    ]
    offers, answers = (secured, plain) if originating else (plain, secured)
    with registered(world, tmp_path) as ue:
        call = (originate if originating else terminate)(
            world,
            tmp_path,
            "reinvite_uac",
            "reinvite_uas",
            ue=ue,
            offer=offers[1],
            hold=offers[0],
            resume=offers[1],
            answer=answers[1],
            hold_answer=answers[2],
            resume_answer=answers[1],
        )
    invites, oks = _exchanges(call)
    assert [direction(invite) for invite in invites] == ["sendrecv", "sendonly", "sendrecv"]
    assert [direction(ok) for ok in oks] == ["sendrecv", "recvonly", "sendrecv"]
    for messages in (invites, oks):
        assert len({sdp(message).media[0].port for message in messages}) == 1
        assert [sdp(message).origin.version for message in messages] == [1, 2, 3]
    ours = [keys(message) for message in (oks if originating else invites)]
    assert ours[1] == ours[2] == ours[0][:1]
    assert not any(keys(message) for message in (invites if originating else oks))


def test_a_refused_reinvite_changes_nothing_p29(world: World, tmp_path: Path) -> None:
    with registered(world, tmp_path) as ue:
        call = originate(
            world,
            tmp_path,
            "reinvite_refused_uac",
            "reinvite_refused_uas",
            ue=ue,
            offer=SRTP,
            hold=audio(*E2AE, "a=inactive", port=6002, proto="RTP/SAVP", version=2),
            resume=SRTP,
            answer=RTP,
            resume_answer=RTP,
        )
    (refusal,) = responses(call.caller, 488, "INVITE", sent=False)
    first, again = responses(call.caller, 200, "INVITE", sent=False)
    assert refusal.cseq.number == 2
    assert first.body == again.body
    invites = requests(call.callee, "INVITE", sent=False)
    assert [sdp(invite).origin.version for invite in invites] == [1, 2, 3]


def _exchanges(call: Call) -> tuple[list[object], list[object]]:
    invites = requests(call.callee, "INVITE", sent=False)
    oks = responses(call.caller, 200, "INVITE", sent=False)
    return list(invites), list(oks)


def test_a_late_offer_of_the_core_is_protected_towards_the_ue_p27(world: World, tmp_path: Path) -> None:
    with registered(world, tmp_path) as ue:
        call = originate(
            world,
            tmp_path,
            "late_uac",
            "late_uas",
            ue=ue,
            offer=RTP,
            answer=audio(CRYPTO, proto="RTP/SAVP"),
        )
    (ok,) = responses(call.caller, 200, "INVITE", sent=False)
    (ack,) = requests(call.callee, "ACK", sent=False)
    assert len(keys(ok)) == 4
    assert "a=3ge2ae:applied" in ok.body.decode()
    assert (sdp(ack).media[0].proto, keys(ack)) == ("RTP/AVP", [])


def test_a_late_offer_of_a_ue_p27(world: World, tmp_path: Path) -> None:
    with registered(world, tmp_path) as ue:
        call = terminate(world, tmp_path, "late_uac", "late_uas", ue=ue, offer=SRTP, answer=RTP)
    (ok,) = responses(call.caller, 200, "INVITE", sent=False)
    (ack,) = requests(call.callee, "ACK", sent=False)
    assert (sdp(ok).media[0].proto, keys(ok)) == ("RTP/AVP", [])
    assert (sdp(ack).media[0].proto, len(keys(ack))) == ("RTP/SAVP", 1)
    assert KEY not in keys(ack)
