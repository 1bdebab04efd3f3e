"""UEs with IPv6 in front of a home network with IPv4: each side is told addresses of its own family only."""

from __future__ import annotations

from pathlib import Path

from imsalg.sip.message import Request, Response
from tests.system.calls import (
    CRYPTO,
    E2AE,
    RTP,
    Call,
    audio,
    call_on_a_connection,
    keys,
    originate,
    register,
    registered,
    terminate,
)
from tests.system.sipp import HOST, HOST6, requests, responses, sdp
from tests.system.world import World

SRTP = audio(*E2AE, proto="RTP/SAVP", host=HOST6)


def assert_family(message: Request | Response, family: str) -> None:
    """Of an SDP that comes from the gateway, and of what the header fields say that is for this peer."""
    host = {"IP4": HOST, "IP6": HOST6}[family]
    lines = bytes(sdp(message)).decode().split("\r\n")
    assert [line for line in lines if line.startswith("c=")] == [f"c=IN {family} {host}"]
    assert all(f" {family} " in line for line in lines if line.startswith(("o=", "a=rtcp:")))


def offered_and_answered(call: Call) -> tuple[Request, Response]:
    (invite,) = requests(call.callee, "INVITE", sent=False)
    (ok,) = responses(call.caller, 200, "INVITE", sent=False)
    return invite, ok


def test_calls_over_udp_in_both_directions(world: World, tmp_path: Path) -> None:
    with registered(world, tmp_path, host=HOST6) as ue:
        (registration,) = world.status()["registrations"]
        assert registration["flow"] == f"UDP [{HOST6}]:{ue.port}"
        assert HOST6 not in ue.path
        out = originate(world, tmp_path, ue=ue, offer=SRTP, answer=RTP)
        back = terminate(
            world, tmp_path, ue=ue, offer=RTP, answer=audio(CRYPTO, proto="RTP/SAVP", host=HOST6)
        )
    invite, ok = offered_and_answered(out)
    assert_family(invite, "IP4")
    assert_family(ok, "IP6")
    assert (keys(invite), len(keys(ok))) == ([], 1)
    assert [f"[{HOST6}]" in value for value in invite.headers.values("Record-Route")] == [False, True]
    invite, ok = offered_and_answered(back)
    assert_family(invite, "IP6")
    assert_family(ok, "IP4")
    assert (len(keys(invite)) > 0, keys(ok)) == (True, [])
    assert invite.via.host == HOST6


def test_a_ue_registers_and_calls_over_tcp(world: World, tmp_path: Path) -> None:
    ue, call = call_on_a_connection(world, tmp_path, HOST6)
    invite, ok = offered_and_answered(call)
    assert_family(invite, "IP4")
    assert_family(ok, "IP6")
    register(world, tmp_path, ue=ue, expires=0, host=HOST6)
    assert world.status()["registrations"] == []
