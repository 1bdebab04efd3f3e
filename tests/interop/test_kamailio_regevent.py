"""Kamailio tells imsalg of the registrations it has taken away (RFC 3680), by its modules presence_reginfo
and pua_reginfo; and a home network that tells nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.conftest import EDGE, OTHER_EDGE, TABLES, edge
from tests.interop.kamailio import Kamailio
from tests.interop.phones import ALICE, direct, protected
from tests.system.world import World, wait_until

AGAIN = {"retransmission", "response-absorbed"}  # what comes twice when somebody is slow, and is dropped
REG_EVENT = "[registration]\nreg_event = true\n"


@pytest.fixture(scope="module")
def _world(scscf: Kamailio) -> Iterator[World]:
    with edge(EDGE, scscf, TABLES + REG_EVENT) as world:
        yield world
        world.check()
        world.assert_nothing_left()


@pytest.fixture
def world(_world: World) -> Iterator[World]:
    yield _world
    _world.print_logs()
    _world.assert_no_call_left()
    wait_until(lambda: not _world.status()["subscriptions"])


def contacts(world: World) -> set[str]:
    return {each["contact"] for each in world.status()["registrations"]}


def test_a_registration_is_subscribed_to_and_the_subscription_ends_with_it(
    world: World, scscf: Kamailio, tmp_path: Path
) -> None:
    before = scscf.notified(ALICE)
    with protected(world, tmp_path):
        wait_until(lambda: scscf.notified(ALICE) > before)
        wait_until(lambda: world.status()["subscriptions"] == 1)
    wait_until(lambda: not world.status()["subscriptions"])
    assert world.status()["drops"].keys() <= AGAIN


def test_whom_the_operator_deregisters_loses_his_registration_and_his_call(
    world: World, scscf: Kamailio, tmp_path: Path
) -> None:
    with (
        direct(scscf, tmp_path) as bob,
        protected(world, tmp_path, "--call", "sip:bob@ims.test") as alice,
    ):
        alice.wait_for("media", status="active")
        bob.wait_for("call", state="CONFIRMED")
        scscf.deregister(ALICE)
        assert alice.wait_for("ended", confirmed=True)
        assert bob.wait_for("ended", confirmed=True)
        assert contacts(world) == set()
        world.assert_no_call_left()
        assert any("deregistered by the home network" in line for line in world.log("proxy"))


def test_one_device_of_two_is_deregistered(world: World, scscf: Kamailio, tmp_path: Path) -> None:
    with protected(world, tmp_path), protected(world, tmp_path):
        first, second = (contact["Address"] for contact in scscf.contacts(ALICE))
        assert contacts(world) == {first, second}
        scscf.deregister(ALICE, first)
        wait_until(lambda: contacts(world) == {second})


def test_a_home_network_without_the_event_package_is_no_harm(tmp_path: Path) -> None:
    """The lab core sends the SUBSCRIBE on to the phone, which refuses it."""
    with World(OTHER_EDGE, sipp_registrar=False, tables=TABLES + REG_EVENT, media_ports=100) as world:
        with protected(world, tmp_path):
            wait_until(lambda: any("SUBSCRIBE 4" in line for line in world.log("proxy")))
            assert len(contacts(world)) == 1
        world.assert_nothing_left()
