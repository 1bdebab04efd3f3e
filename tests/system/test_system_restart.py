"""The proxy is killed in the middle of it all and comes back with what it has kept."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agw.iq.messages import AuditedContext
from tests.system.calls import (
    BOB,
    RTP,
    SRTP,
    Ue,
    call_up,
    keys,
    normal,
    originate,
    register,
    registered,
    terminate,
)
from tests.system.sipp import GAP, HOST, Sipp, requests, responses
from tests.system.world import TABLES, World, registrar, wait_until

QUICK = "[registration]\nmin_expires = 1\n"


@pytest.fixture(scope="module")
def _world(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[World]:
    """Its gateway waits for longer than any restart takes, if the test has no other parameter."""
    grace, tables = getattr(request, "param", 60.0), TABLES + QUICK
    with (
        registrar(tmp_path_factory.mktemp("registrar")),
        World(store=True, grace=grace, tables=tables, log_level="debug") as world,
    ):
        yield world
        world.check()
        world.assert_nothing_left()


@pytest.fixture
def world(_world: World) -> Iterator[World]:
    yield _world
    _world.print_logs()
    _world.assert_no_call_left()


def test_a_registered_ue_is_called_and_calls_without_registering_again(world: World, tmp_path: Path) -> None:
    with registered(world, tmp_path) as ue:
        before = world.status()["registrations"]
        world.wait_until_kept()
        world.crash("proxy")
        (after,) = world.status()["registrations"]
        assert after == {**before[0], "expires_in": after["expires_in"]}
        called = terminate(world, tmp_path, ue=ue, offer=RTP, answer=SRTP)
        assert len(keys(requests(called.callee, "INVITE", sent=False)[0])) == 4  # e2ae, as registered
        originate(world, tmp_path, ue=ue, offer=SRTP, answer=RTP)


def test_registrations_outlive_an_orderly_restart_too(world: World, tmp_path: Path) -> None:
    with registered(world, tmp_path) as ue:
        world.leave("proxy")
        world.restart("proxy")
        originate(world, tmp_path, ue=ue, offer=SRTP, answer=RTP)


def test_what_expires_while_the_proxy_is_away_is_not_registered_any_more(
    world: World, tmp_path: Path
) -> None:
    register(world, tmp_path, expires=4)
    world.wait_until_kept()
    assert world.status()["registrations"]
    world.kill("proxy")
    time.sleep(4.1)
    world.restart("proxy")
    assert not world.status()["registrations"]


@pytest.mark.parametrize(("caller", "callee"), [("call_uac", "call_uas"), ("ended_uac", "hangup_uas")])
def test_either_end_may_hang_up_a_call_from_before_p43(
    world: World, tmp_path: Path, caller: str, callee: str
) -> None:
    with (
        registered(world, tmp_path) as ue,
        Sipp(tmp_path, callee, port=ue.home, answer=RTP, gap=GAP) as core,
        _called(world, tmp_path, ue, caller, gap=GAP) as access,
    ):
        core.wait_for("ACK")
        contexts = _settled(world)
        world.crash("proxy")
        assert world.audit().contexts[0].terminations == contexts[0].terminations
        assert world.status()["calls"][0]["treatments"] == ["e2ae-sdes"]
        (access if caller == "call_uac" else core).go_on()
        access.finish()
        core.finish()


def test_hold_and_refresh_of_a_call_from_before_keep_its_ports_and_keys_p14_p30(
    world: World, tmp_path: Path
) -> None:
    held, answered = SRTP + "\na=sendonly", RTP + "\na=recvonly"
    blanks = {"answer": RTP, "hold_answer": answered, "resume_answer": RTP}
    with (
        registered(world, tmp_path) as ue,
        Sipp(tmp_path, "reinvite_uas", port=ue.home, **blanks) as core,
        _called(world, tmp_path, ue, "reinvite_uac", hold=held, resume=SRTP, gap=GAP) as access,
    ):
        core.wait_for("ACK")
        _settled(world)
        world.crash("proxy")
        for exchange in (2, 3):
            access.go_on()
            core.wait_for("ACK", nth=exchange)
        access.go_on()
        told_ue = responses(access.finish(), 200, "INVITE", sent=False)
        told_core = requests(core.finish(), "INVITE", sent=False)
    assert len(told_ue) == len(told_core) == 3
    assert len({keys(message)[0] for message in told_ue}) == 1
    assert len({_port(message.body) for message in told_ue}) == 1
    assert len({_port(message.body) for message in told_core}) == 1
    assert [_version(message.body) for message in told_core] == [1, 2, 3]
    assert "a=sendonly" in normal(told_core[1])


@pytest.mark.parametrize("_world", [2.0], indirect=True)
def test_a_proxy_that_comes_back_too_late_ends_its_calls_on_both_sides_p43(
    world: World, tmp_path: Path
) -> None:
    with call_up(world, tmp_path, RTP) as (access, core):
        _settled(world)
        world.kill("proxy")
        wait_until(lambda: world.audit().contexts == ())
        world.restart("proxy")
        for end in (access, core):
            assert len(requests(end.finish(), "BYE", sent=False)) == 1


def test_a_gateway_that_died_as_well_costs_the_call_and_keeps_nothing_p43(
    world: World, tmp_path: Path
) -> None:
    with call_up(world, tmp_path, RTP) as (access, core):
        _settled(world)
        world.kill("proxy")
        world.kill("gateway")
        world.restart("gateway", "proxy")
        for end in (access, core):
            assert len(requests(end.finish(), "BYE", sent=False)) == 1


def test_a_call_that_rings_is_over_and_the_next_one_works(world: World, tmp_path: Path) -> None:
    with (
        Sipp(tmp_path, "call_uas", answer=RTP, ring=60_000) as core,
        Sipp(
            tmp_path,
            "call_uac",
            remote=world.peers_port,
            ruri=BOB,
            route=f"<sip:{HOST}:{core.port};lr>",
            offer=RTP,
        ) as access,
    ):
        access.wait_for(180)
        world.crash("proxy")
        world.assert_no_call_left()
    originate(world, tmp_path, offer=RTP, answer=RTP)


def test_two_proxies_do_not_share_what_is_kept(world: World) -> None:
    second = world.second("proxy")
    assert second.wait(30.0) == 1
    assert second.stderr is not None
    assert b"another process has it open" in second.stderr.read()


def _called(world: World, directory: Path, ue: Ue, scenario: str, **blanks: object) -> Sipp:
    """A registered UE calls, under e2ae."""
    return Sipp(
        directory,
        scenario,
        remote=world.access_port,
        port=ue.port,
        user=ue.user,
        ruri=BOB,
        route=f"<sip:{HOST}:9;lr>",
        offer=SRTP,
        **blanks,
    )


def _settled(world: World) -> tuple[AuditedContext, ...]:
    """What the gateway has of the only call, once the proxy has had the time to keep it."""
    world.wait_until_kept()
    contexts = world.audit().contexts
    assert len(contexts) == 1
    return contexts


def _port(body: bytes) -> int:
    return next(int(line.split()[1]) for line in body.decode().splitlines() if line.startswith("m="))


def _version(body: bytes) -> int:
    return next(int(line.split()[2]) for line in body.decode().splitlines() if line.startswith("o="))
