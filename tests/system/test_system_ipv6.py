"""UEs with IPv6 in front of a home network with IPv4: each side is told addresses of its own family only."""

from __future__ import annotations

from pathlib import Path

from imsalg.sip.message import Request, Response
from tests.system.calls import BOB, MEDIASEC, Ue, audio, keys, originate, register, registered, terminate
from tests.system.sipp import HOST, HOST6, Sipp, Traced, port, requests, responses, sdp
from tests.system.world import World

KEY = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEB"
E2AE = ("a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:" + KEY, "a=3ge2ae:requested")
SRTP = audio(*E2AE, proto="RTP/SAVP", host=HOST6)
RTP = audio(port=6100)


def assert_family(message: Request | Response, family: str) -> None:
    """Of an SDP that comes from the gateway, and of what the header fields say that is for this peer."""
    host = {"IP4": HOST, "IP6": HOST6}[family]
    lines = bytes(sdp(message)).decode().split("\r\n")
    assert [line for line in lines if line.startswith("c=")] == [f"c=IN {family} {host}"]
    assert all(f" {family} " in line for line in lines if line.startswith(("o=", "a=rtcp:")))


def offered_and_answered(caller: list[Traced], callee: list[Traced]) -> tuple[Request, Response]:
    (invite,) = requests(callee, "INVITE", sent=False)
    (ok,) = responses(caller, 200, "INVITE", sent=False)
    return invite, ok


def test_calls_over_udp_in_both_directions(world: World, tmp_path: Path) -> None:
    with registered(world, tmp_path, host=HOST6) as ue:
        (registration,) = world.status()["registrations"]
        assert registration["flow"] == f"UDP [{HOST6}]:{ue.port}"
        assert HOST6 not in ue.path
        out = originate(world, tmp_path, ue=ue, offer=SRTP, answer=RTP)
        back = terminate(
            world, tmp_path, ue=ue, offer=RTP, answer=audio(E2AE[0], proto="RTP/SAVP", host=HOST6)
        )
    invite, ok = offered_and_answered(out.caller, out.callee)
    assert_family(invite, "IP4")
    assert_family(ok, "IP6")
    assert (keys(invite), len(keys(ok))) == ([], 1)
    assert [f"[{HOST6}]" in value for value in invite.headers.values("Record-Route")] == [False, True]
    invite, ok = offered_and_answered(back.caller, back.callee)
    assert_family(invite, "IP6")
    assert_family(ok, "IP4")
    assert (len(keys(invite)) > 0, keys(ok)) == (True, [])
    assert invite.via.host == HOST6


def test_a_ue_registers_and_calls_over_tcp(world: World, tmp_path: Path) -> None:
    home = port()
    user = f"ue{home}"
    with (
        Sipp(tmp_path, "call_uas", port=home, answer=RTP) as core,
        Sipp(
            tmp_path,
            "tcp_ue_uac",
            remote=world.access_port,
            host=HOST6,
            tcp=True,
            user=user,
            headers=MEDIASEC,
            ruri=BOB,
            route=f"<sip:{HOST}:9;lr>",
            offer=SRTP,
        ) as access,
    ):
        invite, ok = offered_and_answered(access.finish(), core.finish())
    assert_family(invite, "IP4")
    assert_family(ok, "IP6")
    register(world, tmp_path, ue=Ue(user, access.port, home, "", HOST6), expires=0, host=HOST6)
    assert world.status()["registrations"] == []
