"""Either process dies, hangs or leaves in the middle of a call (trap P43)."""

from __future__ import annotations

import time
from pathlib import Path

from tests.system.calls import BOB, RTP, SRTP, call_up, keys, originate, refused, registered
from tests.system.sipp import HOST, Sipp, requests, responses
from tests.system.world import GRACE, World


def test_a_call_ends_on_both_sides_when_the_gateway_dies_and_the_next_one_works_p43(
    world: World, tmp_path: Path
) -> None:
    with call_up(world, tmp_path, RTP) as (access, core):
        world.kill("gateway")
        world.restart("gateway")
        for end in (access, core):
            assert len(requests(end.finish(), "BYE", sent=False)) == 1
    originate(world, tmp_path, offer=RTP, answer=RTP)


def test_a_gateway_that_hangs_costs_the_call_and_keeps_nothing(world: World, tmp_path: Path) -> None:
    with world.frozen("gateway"):
        response, core = refused(world, tmp_path, 503, at=world.peers_port, offer=RTP)
    assert core == []
    assert "gateway" in (response.headers.get("Warning") or "")
    world.assert_no_call_left()
    originate(world, tmp_path, offer=RTP, answer=RTP)


def test_a_call_that_is_cancelled_while_the_gateway_is_asked_goes_nowhere(
    world: World, tmp_path: Path
) -> None:
    with Sipp(tmp_path, "call_uas", answer=RTP) as core, world.frozen("gateway"):
        route = f"<sip:{HOST}:{core.port};lr>"
        with Sipp(
            tmp_path, "cancel_at_once_uac", remote=world.peers_port, ruri=BOB, route=route, offer=RTP
        ) as access:
            assert responses(access.finish(), 487, "INVITE", sent=False)
        assert core.traced() == []


def test_without_a_gateway_calls_are_refused_and_registrations_served(world: World, tmp_path: Path) -> None:
    world.kill("gateway")
    with registered(world, tmp_path) as ue:
        with Sipp(
            tmp_path,
            "refused_uac",
            remote=world.access_port,
            port=ue.port,
            ruri=BOB,
            route=f"<sip:{HOST}:9;lr>",
            offer=SRTP,
        ) as access:
            (response,) = responses(access.finish(), 503, "INVITE", sent=False)
        assert response.headers.get("Retry-After")
        world.restart("gateway")
        call = originate(world, tmp_path, ue=ue, offer=SRTP, answer=RTP)
    assert keys(responses(call.caller, 200, "INVITE", sent=False)[0])


def test_the_gateway_drops_what_a_dead_proxy_left_after_its_grace_p43(world: World, tmp_path: Path) -> None:
    with call_up(world, tmp_path, RTP):
        world.kill("proxy")
        died = time.monotonic()
        assert len(world.audit().contexts) == 1
        while world.audit().contexts:
            assert time.monotonic() < died + GRACE + 3
            time.sleep(0.1)
        assert time.monotonic() - died >= GRACE - 0.5
    world.restart("proxy")
    originate(world, tmp_path, offer=RTP, answer=RTP)


def test_a_proxy_that_comes_back_gives_up_at_once_what_it_does_not_know_p43(
    world: World, tmp_path: Path
) -> None:
    with call_up(world, tmp_path, RTP):
        world.kill("proxy")
        world.restart("proxy")
        world.assert_no_call_left(GRACE / 2)


def test_a_proxy_that_is_told_to_leave_ends_its_calls(world: World, tmp_path: Path) -> None:
    with call_up(world, tmp_path, RTP) as (access, core):
        world.leave("proxy")
        for end in (access, core):
            assert len(requests(end.finish(), "BYE", sent=False)) == 1
        assert world.audit().contexts == ()
    world.restart("proxy")
