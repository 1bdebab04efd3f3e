"""The world of the SIPp tests. After every test no call, context or port is left; and at the end of each
file, once they have had the time that RFC 3261 gives them, no registration, transaction or timer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.system.world import World, registrar


@pytest.fixture(scope="module")
def _world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with registrar(tmp_path_factory.mktemp("registrar")), World(log_level="debug") as world:
        yield world
        world.check()
        world.assert_nothing_left()


@pytest.fixture
def world(_world: World) -> Iterator[World]:
    """A running stack, its home network played by SIPp. Its logs are printed, for a test that fails."""
    yield _world
    _world.print_logs()
    _world.assert_no_call_left()
