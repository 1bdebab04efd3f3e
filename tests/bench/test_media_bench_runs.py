"""The media benchmark works: every relay carries every packet, both ways, with both suites."""

from __future__ import annotations

import asyncio
import os

import pytest

from agw.iq.messages import Suite
from tests.bench.media import SUITES, Bench, Cell
from tests.bench.media_rig import Place, Way
from tests.bench.media_soak import soak

STREAMS = 20
RATE = 2000.0  # packets/s: an interpreter can do it

pytestmark = pytest.mark.calm


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    path = tmp_path_factory.mktemp("media")
    cores = sorted(os.sched_getaffinity(0))
    return Bench(Place(path, path, 20000, cores[0], cores[-1]), sockets=4, seconds=0.5, warm_up=0.1)


@pytest.mark.parametrize("way", Way)
@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("system", ["agw", "rtpengine", "bare", "direct"])
def test_a_relay_carries_what_the_load_sends(bench: Bench, system: str, suite: Suite, way: Way) -> None:
    trial = bench.trial(system, Cell(way, suite, STREAMS), RATE)
    load = trial.load
    assert (load.sent, load.received, load.bad, load.overrun) == (1000, 1000, 0, 0)
    assert load.p50 <= load.p99 <= load.max
    assert (load.cpu > 0) == (system != "direct")


def test_calls_come_and_go_around_the_soak(bench: Bench) -> None:
    with bench.fresh_place() as place:
        soaking = soak(place, STREAMS, bench.sockets, SUITES[0], seconds=1.0, per_call=50.0, passing=20.0)
        done = asyncio.run(soaking)
    assert (done.load.sent, done.load.received, done.load.bad) == (2000, 2000, 0)
    assert done.passed > 0
    assert done.descriptors[0] == done.descriptors[1]
    assert done.left == 0
