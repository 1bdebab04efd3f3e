"""The DTLS benchmark works: every relay answers every check and every handshake, and lets media through."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.bench.dtls import RELAYS, floor, measure, table
from tests.bench.media_rig import Place

pytestmark = pytest.mark.calm


@pytest.fixture
def place(tmp_path: Path) -> Place:
    cores = sorted(os.sched_getaffinity(0))
    return Place(tmp_path, tmp_path, 20000, cores[0], cores[-1], 'plane = "native"')


@pytest.mark.parametrize("system", RELAYS)
def test_calls_are_set_up_and_their_cost_is_told(place: Place, system: str) -> None:
    row = measure(system, place, calls=5)
    assert 0 < row["time to media p50 ms"] <= row["time to media p99 ms"]
    assert min(row["handshakes/s of a core"], row["checks/s of a core"]) > 10
    assert "time to media p99 ms" in table([{system: row}])


def test_the_floor_has_its_cost(place: Place) -> None:
    assert floor(place, 20)["handshakes/s of a core"] > 10
