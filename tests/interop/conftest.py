"""Kamailio as S-CSCF with imsalg in front of it, for the tests that want them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.interop.kamailio import Kamailio
from tests.system.world import World

EDGE, OTHER_EDGE = 26000, 26400  # base ports of a proxy and its gateway
EDGE_MEDIA = 100  # ports of each side of a gateway
SCSCF = 27000

# Short enough for a transaction to end within a test.
TABLES = """
[sip]
t1 = 0.08
"""


def edge(base_port: int, scscf: Kamailio, tables: str = TABLES, core: str = "") -> World:
    """A proxy and its gateway whose home network is Kamailio. core: further lines of its [core] table."""
    return World(
        base_port,
        sipp_registrar=False,
        tables=tables,
        media_ports=EDGE_MEDIA,
        next_hop=scscf.next_hop,
        core=core,
    )


@pytest.fixture(scope="module")
def scscf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kamailio]:
    with Kamailio(tmp_path_factory.mktemp("kamailio"), SCSCF) as running:
        yield running
        assert "ERROR" not in running.log(), running.log()


@pytest.fixture(scope="module")
def _pcscf(scscf: Kamailio) -> Iterator[World]:
    with edge(EDGE, scscf) as world:
        yield world
        world.check()
        world.assert_nothing_left()


@pytest.fixture(scope="module")
def _other_pcscf(scscf: Kamailio) -> Iterator[World]:
    with edge(OTHER_EDGE, scscf) as world:
        yield world
        world.check()
        world.assert_nothing_left()


@pytest.fixture
def pcscf(_pcscf: World) -> Iterator[World]:
    """The edge. Its logs are printed, for a test that fails."""
    yield _pcscf
    _pcscf.print_logs()
    _pcscf.assert_no_call_left()


@pytest.fixture
def other_pcscf(_other_pcscf: World) -> Iterator[World]:
    """Another edge of the same home network, with a gateway of its own."""
    yield _other_pcscf
    _other_pcscf.print_logs()
    _other_pcscf.assert_no_call_left()
