"""Kamailio as S-CSCF over mutual TLS: registration, calls in both directions, and over whose connection the
requests of the core come: one that it opens, or ours (RFC 5923)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.conftest import EDGE, SCSCF, TABLES, edge
from tests.interop.kamailio import HOST, Kamailio
from tests.interop.phones import ALICE, assert_both_heard, direct, protected
from tests.system.world import World
from tests.transport.certificates import Authority, tls_core

TALK = ("--duration", 3.0)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module", params=[False, True], ids=["each-its-own", "ours"])
def tls_scscf(
    tmp_path_factory: pytest.TempPathFactory, authority: Authority, request: pytest.FixtureRequest
) -> Iterator[Kamailio]:
    directory, files = tmp_path_factory.mktemp("kamailio"), authority.sign("scscf", HOST, mutual=True)
    with Kamailio(directory, SCSCF, tls=files, aliases=request.param) as running:
        yield running
        assert "ERROR" not in running.log(), running.log()


@pytest.fixture(scope="module")
def _world(tls_scscf: Kamailio, authority: Authority) -> Iterator[World]:
    core = tls_core(authority.sign("pcscf", HOST, mutual=True))
    with edge(EDGE, tls_scscf, TABLES, core) as world:
        yield world
        world.check()
        world.assert_nothing_left()


@pytest.fixture
def world(_world: World) -> Iterator[World]:
    yield _world
    _world.print_logs()
    _world.assert_no_call_left()


def test_a_registration_and_its_end(world: World, tls_scscf: Kamailio, tmp_path: Path) -> None:
    with protected(world, tmp_path) as alice:
        (contact,) = tls_scscf.contacts(ALICE)
        assert contact["Path"].endswith(f"@{HOST}:{world.core_port};transport=tls;lr>")
    assert alice.wait_for("unregistered", code=200)
    assert tls_scscf.contacts(ALICE) == []
    assert len(tls_scscf.tls_peers()) == 1


def test_a_protected_phone_calls_a_plain_one(world: World, tls_scscf: Kamailio, tmp_path: Path) -> None:
    with (
        direct(tls_scscf, tmp_path) as bob,
        protected(world, tmp_path, "--call", "sip:bob@ims.test", *TALK) as alice,
    ):
        assert alice.ended() == 0
        bob.wait_for("ended", confirmed=True)
    assert alice.wait_for("media")["srtp"] is True
    assert bob.wait_for("media")["srtp"] is False
    assert_both_heard(tmp_path)


def test_a_plain_phone_calls_a_protected_one(world: World, tls_scscf: Kamailio, tmp_path: Path) -> None:
    with (
        protected(world, tmp_path) as alice,
        direct(tls_scscf, tmp_path, "--call", "sip:alice@ims.test", *TALK) as bob,
    ):
        assert bob.ended() == 0
        alice.wait_for("ended", confirmed=True)
    assert alice.wait_for("media")["srtp"] is True
    assert bob.wait_for("media")["srtp"] is False
    assert_both_heard(tmp_path)
    peers = tls_scscf.tls_peers()
    assert (len(peers), world.core_port in peers) == ((1, False) if tls_scscf.aliases else (2, True))
