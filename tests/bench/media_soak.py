"""The media benchmark's soak: media in many calls while others come and go. Nothing may be lost, or grow."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from dataclasses import dataclass

from agw.iq.messages import AuditValue, ChangeThroughConnection, Mode, ReleaseTermination, Suite
from tests.bench.media_relays import Controller, controller, gateway, reservations, resident
from tests.bench.media_rig import Call, Load, Place, Way, calls, load, new_key, stream

HELD = 2.0  # seconds that a passing call lasts
SAMPLE = 1.0  # seconds
WARM_UP = 1.0


@dataclass
class Soak:
    """load: what became of the media. cpu: microseconds per packet. passed: calls that came and went.
    slowest: milliseconds that the setup of one of them took. memory: KiB resident, by the second.
    descriptors: before the first call and after the last. left: contexts the gateway still has.
    notices: by event."""

    calls: int
    rate: float
    load: Load
    cpu: float
    passed: int
    slowest: float
    memory: list[int]
    descriptors: tuple[int, int]
    left: int
    notices: dict[str, int]


async def soak(
    place: Place, count: int, sockets: int, suite: Suite, seconds: float, per_call: float, passing: float
) -> Soak:
    """count calls with `per_call` packets/s each way; `passing` others come and go each second."""
    with gateway(place) as pid:
        async with controller(place) as asking:
            before = descriptors(pid)
            wanted = calls(place, count, sockets, suite)
            joined = await asking.join_all(wanted)
            streams = [
                stream(way, call, has) for way in Way for call, has in zip(wanted, joined, strict=True)
            ]
            rate = 2 * count * per_call
            memory: list[int] = []
            passed: list[float] = []
            running = asyncio.create_task(
                asyncio.to_thread(load, place, pid, streams, rate, WARM_UP, seconds)
            )
            watching = asyncio.create_task(watch(pid, memory))
            try:
                await come_and_go(asking, wanted[0], passing, running, passed)
                became = await running
            finally:
                watching.cancel()
            for number in range(count):
                await asking.ask(f"call{number}", ReleaseTermination())
            (audited,) = await asking.ask("", AuditValue())
            return Soak(
                calls=count,
                rate=rate,
                load=became,
                cpu=became.cpu * 1e6 / max(became.received, 1),
                passed=len(passed),
                slowest=max(passed, default=0.0) * 1000,
                memory=memory,
                descriptors=(before, descriptors(pid)),
                left=len(audited.contexts),
                notices=dict(Counter(notice.event.value for notice in asking.notices)),
            )


async def come_and_go(
    asking: Controller, like: Call, rate: float, until: asyncio.Task[Load], passed: list[float]
) -> None:
    """New calls at an even rate until the load ends; then the last are waited for."""
    begun = time.monotonic()
    async with asyncio.TaskGroup() as group:
        number = 0
        while not until.done():
            group.create_task(pass_by(asking, f"passing{number}", like, passed))
            number += 1
            await asyncio.sleep(begun + number / rate - time.monotonic())


async def pass_by(asking: Controller, name: str, like: Call, passed: list[float]) -> None:
    """One call: set up, its gate closed and opened as for a hold, released. Nobody sends in it."""
    begun = time.monotonic()
    await asking.ask(name, *reservations(like, new_key(like.ue_key.suite)))
    slowest = time.monotonic() - begun
    for mode in (Mode.INACTIVE, Mode.SENDRECV):
        await asyncio.sleep(HELD / 3)
        await asking.ask(name, ChangeThroughConnection("access", {0: mode}))
    await asyncio.sleep(HELD / 3)
    await asking.ask(name, ReleaseTermination())
    passed.append(slowest)


async def watch(pid: int, memory: list[int]) -> None:
    while True:
        await asyncio.sleep(SAMPLE)
        memory.append(resident(pid))


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def table(result: Soak) -> str:
    load, memory = result.load, result.memory
    part = max(len(memory) // 10, 1)
    began, ended = memory[part : 2 * part] or memory, memory[-part:]
    rows = {
        "calls": f"{result.calls}, {result.rate:.0f} packets/s in all, {load.seconds:.1f} s",
        "packets": f"{load.sent} sent, {load.sent - load.received} lost, {load.bad} bad",
        "latency": f"p50 {load.p50:.0f}, p99 {load.p99:.0f}, max {load.max:.0f} µs",
        "CPU": f"{result.cpu:.2f} µs per packet, {load.cpu / load.seconds:.0%} of the core, Iq included",
        "passing calls": f"{result.passed}, set up in {result.slowest:.1f} ms at most",
        "memory": f"{sum(began) // len(began)} KiB in the second tenth, "
        f"{sum(ended) // len(ended)} KiB in the last, {max(memory)} KiB at most",
        "descriptors": f"{result.descriptors[0]} before, {result.descriptors[1]} after",
        "contexts left": str(result.left),
        "notices": ", ".join(f"{name} {count}" for name, count in result.notices.items()) or "none",
    }
    return "\n".join(f"{name:<14} {text}" for name, text in rows.items())
