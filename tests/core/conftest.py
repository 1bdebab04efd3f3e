"""Worlds that are looked over when the test is done (see tests/sim/world.py)."""

from collections.abc import Callable, Iterator

import pytest

from tests.sim.world import World


@pytest.fixture
def worlds() -> Iterator[Callable[..., World]]:
    """Makes worlds with a configuration of their own."""
    made = []

    def make(**sections: object) -> World:
        made.append(World(**sections))
        return made[-1]

    yield make
    for world in made:
        world.finish()


@pytest.fixture
def world(worlds: Callable[..., World]) -> World:
    return worlds()
