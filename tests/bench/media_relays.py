"""What the media benchmark puts between its senders and its sink: the gateway, rtpengine, the bare loop.

Each is started anew, pinned to one core, with its calls set up, and gone when it is left.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from agw.iq.client import Client
from agw.iq.messages import (
    Address,
    Command,
    ErrorReply,
    Key,
    Mode,
    Notice,
    Reply,
    Request,
    ReserveAndConfigureConnectionPoint,
    Reserved,
    Result,
    Stream,
    Transport,
)
from tests.bench.media_ng import Ng
from tests.bench.media_rig import Call, Joined, Place, build, key_word, new_key
from tests.bench.peers.systems import HOST, CannotRun, answers, process, wait_for

AT_ONCE = 50  # Iq requests that wait for their replies
INACTIVITY = 60.0
GATEWAY = """
grace = 3600.0
{settings}
[iq]
listen = "unix:{path}/iq"
[[realm]]
name = "access"
addresses = ["{host}"]
ports = [{access}, {core_before}]
[[realm]]
name = "core"
addresses = ["{host}"]
ports = [{core}, {end}]
"""


@dataclass(frozen=True)
class Running:
    """empty: KiB of memory before the first call. pid 0: there is no relay; what is sent arrives as it is."""

    pid: int
    joined: list[Joined]
    empty: int


def resident(pid: int) -> int:
    """KiB."""
    found = re.search(r"^VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(found[1])


# -- the gateway ---------------------------------------------------------------------------------------------


class Controller:
    """Asks the gateway through Iq."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Reply | ErrorReply]] = {}
        self.notices: list[Notice] = []

    async def ask(self, context: str, *commands: Command) -> tuple[Result, ...]:
        """Raises CannotRun if it is refused."""
        id = next(self._ids)
        waiting = self._waiting[id] = asyncio.get_running_loop().create_future()
        if not self._client.send(Request(id, context, commands)):
            raise CannotRun("the gateway is gone")
        async with asyncio.timeout(10):
            answer = await waiting
        if isinstance(answer, ErrorReply):
            raise CannotRun(f"the gateway refuses: {answer.code.value}: {answer.text}")
        return answer.results

    async def join(self, name: str, call: Call) -> Joined:
        own_key = new_key(call.ue_key.suite)
        results = await self.ask(name, *reservations(call, own_key))
        access, core = (each.streams[0].rtp.port for each in results if isinstance(each, Reserved))
        return Joined(access, core, own_key)

    async def join_all(self, wanted: list[Call]) -> list[Joined]:
        slots = asyncio.Semaphore(AT_ONCE)

        async def join(number: int, call: Call) -> Joined:
            async with slots:
                return await self.join(f"call{number}", call)

        return await asyncio.gather(*(join(number, call) for number, call in enumerate(wanted)))

    def receive(self, message: Reply | ErrorReply | Notice) -> None:
        if isinstance(message, Notice):
            self.notices.append(message)
        elif waiting := self._waiting.pop(message.id, None):
            waiting.set_result(message)


@asynccontextmanager
async def controller(place: Place) -> AsyncIterator[Controller]:
    up = asyncio.Event()
    client = Client(
        f"unix:{place.path}/iq",
        name="bench",
        incarnation="1",
        claims=lambda: (),
        on_up=lambda hello: up.set(),
        on_down=lambda reason: None,
        on_message=lambda message: found.receive(message),
    )
    found = Controller(client)
    running = asyncio.create_task(client.run())
    try:
        async with asyncio.timeout(10):
            await up.wait()
        yield found
    finally:
        await client.close()
        await running


def reservations(call: Call, own_key: Key) -> tuple[Command, Command]:
    access = Stream(
        id=0,
        transport=Transport.SRTP,
        remote=Address(HOST, call.ue_port),
        local_key=own_key,
        remote_keys=(call.ue_key,),
        mode=Mode.SENDRECV,
        latch=True,
        inactivity=INACTIVITY,
    )
    core = Stream(
        id=0,
        transport=Transport.RTP,
        remote=Address(HOST, call.peer_port),
        mode=Mode.SENDRECV,
        source_filter=True,
        inactivity=INACTIVITY,
    )
    return (
        ReserveAndConfigureConnectionPoint("access", "access", (access,)),
        ReserveAndConfigureConnectionPoint("core", "core", (core,)),
    )


@contextmanager
def gateway(place: Place) -> Iterator[int]:
    """Its process, without a call."""
    ports = place.relay_ports
    half = ports.start + len(ports) // 2
    config = place.path / "gateway.toml"
    config.write_text(
        GATEWAY.format(
            settings=place.settings,
            path=place.path,
            host=HOST,
            access=ports.start,
            core_before=half - 1,
            core=half,
            end=ports.stop - 1,
        )
    )
    command = place.pinned(sys.executable, "-m", "cli.main", "gateway", "-c", str(config), "--log", "warning")
    with process("gateway", command, place) as pid:
        wait_for("gateway", place, (place.path / "iq").exists)
        yield pid


@contextmanager
def agw(place: Place, wanted: list[Call]) -> Iterator[Running]:
    """The connection ends before the media begin; the contexts outlive it."""

    async def join() -> tuple[int, list[Joined]]:
        async with controller(place) as asking:
            return resident(pid), await asking.join_all(wanted)

    with gateway(place) as pid:
        empty, joined = asyncio.run(join())
        yield Running(pid, joined, empty)


# -- the others ----------------------------------------------------------------------------------------------


@contextmanager
def rtpengine(place: Place, wanted: list[Call]) -> Iterator[Running]:
    """In user space, one thread."""
    command = [
        *("rtpengine", "--foreground", "--log-stderr", "--log-level=4", "--table=-1", "--config-file=none"),
        *("--num-threads=1", "--media-num-threads=1", f"--interface={HOST}"),
        *(f"--listen-ng={HOST}:{place.control_port}", f"--port-min={place.relay_ports.start}"),
        f"--port-max={place.relay_ports.stop - 1}",
    ]
    with process("rtpengine", place.pinned(*command), place) as pid:
        wait_for("rtpengine", place, lambda: answers(place.control_port, b"1 d7:command4:pinge"))
        empty = resident(pid)
        ng = Ng(HOST, place.control_port)
        try:
            joined = [
                Joined(*ng.call(f"call{number}", call.ue_port, call.peer_port, call.ue_key))
                for number, call in enumerate(wanted)
            ]
        finally:
            ng.close()
        yield Running(pid, joined, empty)


@contextmanager
def bare(place: Place, wanted: list[Call]) -> Iterator[Running]:
    first = place.relay_ports.start
    joined = [
        Joined(first + 2 * number, first + 2 * number + 1, new_key(call.ue_key.suite))
        for number, call in enumerate(wanted)
    ]
    lines = [
        f"{mine.access_port} {mine.core_port} {call.ue_port} {call.peer_port} "
        f"{key_word(call.ue_key)} {key_word(mine.own_key)}\n"
        for call, mine in zip(wanted, joined, strict=True)
    ]
    plans = {"one": lines[:1], "all": lines}
    for name, plan in plans.items():
        (place.path / name).write_text("".join(plan))
    program = build(place.programs, "bare")
    log = place.path / "bare.log"
    with process("bare", place.pinned(program, str(place.path / "one")), place) as pid:
        wait_for("bare", place, lambda: b"ready" in log.read_bytes())
        empty = resident(pid)
    with process("bare", place.pinned(program, str(place.path / "all")), place) as pid:
        wait_for("bare", place, lambda: b"ready" in log.read_bytes())
        yield Running(pid, joined, empty)


@contextmanager
def direct(place: Place, wanted: list[Call]) -> Iterator[Running]:
    """No relay: what is sent to one side's port arrives there."""
    yield Running(0, [Joined(call.peer_port, call.ue_port, call.ue_key) for call in wanted], 0)


RELAYS: dict[str, Callable[[Place, list[Call]], AbstractContextManager[Running]]] = {
    "agw": agw,
    "rtpengine": rtpengine,
    "bare": bare,
    "direct": direct,
}
