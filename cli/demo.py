"""`imsalg demo`: calls between real softphones, each with another treatment, and what became of them.

Each row is one call between two processes of `imsalg ue` or `imsalg rtcue` that play a tone each, or say
their names over data channels; no tone is used twice. While the call is up the proxy is asked what it does
to the media, on the caller's side and on the callee's (a call between two phones behind the same proxy passes
it twice). Afterwards the recordings tell what was heard. The rows run side by side, so each has users of its
own.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from cli.phone import Phone, PhoneError
from cli.stack import BASE_PORT, DOMAIN, HOST, PORTS, Stack, StackError
from cli.tone import tone_seconds

SIDE_BY_SIDE = 3  # rows at once: each is two softphones, and the machine may be small
TALK = 2.2  # seconds
HEARD = 1.0  # seconds of a tone that must arrive
LEFT = 8.0  # seconds in which everything must be gone
PHONES = 1800  # from the base port to the first port for the softphones' media

# Beside the access side for all: one where the proxy announces no media security, so that e2ae is requested
# unregistered there, and one for browsers.
UNANNOUNCED_PORT, WEB_PORT, LAB_PORT = 1, 6, 4  # from the base port
TABLES = """
[[access]]
name = "unannounced"
listen = "{host}:{unannounced}"
mechanisms = []

[[access]]
name = "web"
listen = "{host}:{web}"
transports = ["WS"]
type = "webrtc"
"""


@dataclass(frozen=True, slots=True)
class Kind:
    """What a phone is. port: where it registers, from the base port. treatment: what the proxy does on its
    side, "-" where there is no proxy. srtp: whether its own media shall be SRTP. rtc: it is `imsalg rtcue`.
    data: it has data channels and no audio."""

    words: str
    port: int = 0
    options: tuple[str, ...] = ()
    treatment: str = "-"
    srtp: bool = False
    rtc: bool = False
    data: bool = False


E2AE = Kind("e2ae", options=("--e2ae",), treatment="e2ae-sdes", srtp=True)
SDES = Kind("SDES", options=("--srtp", "mandatory"), treatment="e2e", srtp=True)
PLAIN = Kind("plain", treatment="plain")
PEER = Kind("no proxy", port=LAB_PORT)
UNANNOUNCED = Kind("e2ae unregistered", port=UNANNOUNCED_PORT, options=("--e2ae",))
DTLS = Kind("DTLS e2ae", options=("--e2ae",), treatment="e2ae-dtls-srtp", srtp=True, rtc=True)
WEB = Kind("browser", port=WEB_PORT, options=("--ice",), treatment="e2ae-dtls-srtp", srtp=True, rtc=True)
DATA = Kind("data", options=("--channel", "1000:chat"), treatment="e2e", rtc=True, data=True)
BOOTSTRAP = ("--channel", "0:http")
DCMTSI = Kind("DCMTSI", options=("--dcmtsi", *BOOTSTRAP), treatment="e2dce", rtc=True, data=True)
DCMF = Kind("media function", port=LAB_PORT, options=BOOTSTRAP, rtc=True, data=True)


@dataclass(frozen=True, slots=True)
class Row:
    """refused: the status that the call shall end with; 0 for one that shall succeed."""

    caller: tuple[str, Kind]
    callee: tuple[str, Kind]
    refused: int = 0


ROWS = (
    Row(("alice", E2AE), ("peer", PEER)),
    Row(("peer", PEER), ("alice", E2AE)),
    Row(("alice", E2AE), ("bob", E2AE)),
    Row(("alice", SDES), ("bob", SDES)),
    Row(("alice", PLAIN), ("bob", PLAIN)),
    Row(("alice", UNANNOUNCED), ("peer", PEER), refused=488),
    Row(("alice", DTLS), ("peer", PEER)),
    Row(("alice", WEB), ("peer", PEER)),
    Row(("alice", DATA), ("bob", DATA)),
    Row(("alice", DCMTSI), ("dcmf", DCMF)),
)


@dataclass(slots=True)
class Side:
    """One end of one call: what is expected and what was seen. heard: of its peer."""

    user: str
    kind: Kind
    tone: int
    recording: Path
    rtp_port: int
    seen: str = "-"
    srtp: bool = False
    heard: str = "nothing"

    @property
    def says(self) -> str:
        return self.user if self.kind.data else f"{self.tone} Hz"


@dataclass(slots=True)
class Outcome:
    """why: what is wrong; nothing means ok. code: of the INVITE's final response, as the caller saw it."""

    row: Row
    caller: Side
    callee: Side
    code: int = 0
    seconds: float = 0.0
    why: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        def side(side: Side) -> dict[str, Any]:
            expected = {"treatment": side.kind.treatment, "srtp": side.kind.srtp}
            seen = {"treatment": side.seen, "srtp": side.srtp}
            ends = {"user": side.user, "kind": side.kind.words, "plays": side.says, "hears": side.heard}
            return {**ends, "expected": expected, "seen": seen}

        return {
            "caller": side(self.caller),
            "callee": side(self.callee),
            "expected_code": self.row.refused or 200,
            "code": self.code,
            "seconds": round(self.seconds, 1),
            "ok": not self.why,
            "why": self.why,
        }


@click.command(name="demo")
@click.option("--base-port", type=PORTS, default=BASE_PORT, show_default=True, metavar="N",
              help="Moves all ports; see imsalg lab.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON document at the end instead of the table.")
def command(base_port: int, as_json: bool) -> None:
    """Run protected calls between softphones on loopback, and say what became of each.

    Exits with 0 only if every call was as expected and nothing is left of them.
    """
    if importlib.util.find_spec("pjsua2") is None:
        raise click.ClickException("the softphones need the package pjsua2-python")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    tables = TABLES.format(host=HOST, unannounced=base_port + UNANNOUNCED_PORT, web=base_port + WEB_PORT)
    try:
        with (
            Stack(base_port, mechanisms=("sdes-srtp", "dtls-srtp"), tables=tables) as stack,
            TemporaryDirectory(prefix="imsalg-demo-") as directory,
        ):
            demo = Demo(stack, Path(directory), quiet=as_json)
            asyncio.run(demo.run())
    except StackError as error:
        raise click.ClickException(str(error)) from None
    except (KeyboardInterrupt, asyncio.CancelledError):  # SIGTERM as well
        sys.exit(130)
    if as_json:
        click.echo(json.dumps(demo.as_json(), indent=2))
    else:
        click.echo(f"demo: {demo.good} of {len(ROWS)} calls ok")
    sys.exit(0 if demo.ok else 1)


class Demo:
    """All rows, and what is left after them."""

    def __init__(self, stack: Stack, directory: Path, *, quiet: bool) -> None:
        self._stack = stack
        self._quiet = quiet
        self._free = asyncio.Semaphore(SIDE_BY_SIDE)
        self.left: dict[str, int] = {}
        self.outcomes = []
        for number, row in enumerate(ROWS, 1):
            caller = self._side(2 * number, *row.caller, directory)
            callee = self._side(2 * number + 1, *row.callee, directory)
            self.outcomes.append(Outcome(row, caller, callee))

    @property
    def good(self) -> int:
        return sum(not outcome.why for outcome in self.outcomes)

    @property
    def ok(self) -> bool:
        return self.good == len(self.outcomes) and not any(self.left.values())

    def as_json(self) -> dict[str, Any]:
        rows = [outcome.as_json() for outcome in self.outcomes]
        return {"rows": rows, "left": self.left, "calls": len(rows), "calls_ok": self.good, "ok": self.ok}

    def _side(self, index: int, name: str, kind: Kind, directory: Path) -> Side:
        rtp_port = self._stack.access_port + PHONES + 10 * index
        return Side(f"{name}{index // 2}", kind, 400 + 40 * index, directory / f"{index}.wav", rtp_port)

    async def run(self) -> None:
        """Prints each row as it ends. SIGTERM ends it as Ctrl-C does: the phones leave first."""
        if (task := asyncio.current_task()) is not None:
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        self._print(LINE.format("caller", "callee", "expected", "seen", "hears", "time", "").rstrip())
        async with asyncio.TaskGroup() as group:
            for outcome in self.outcomes:
                group.create_task(self._row(outcome))
        self._stack.check()
        self.left = await self._wait_until_nothing_is_left()
        told = ", ".join(f"{count} {what}" for what, count in self.left.items())
        self._print(f"left afterwards: {told}  {'FAILED' if any(self.left.values()) else 'ok'}")

    def _print(self, line: str) -> None:
        if not self._quiet:
            click.echo(line)

    # -- one call --------------------------------------------------------------------------------------------

    async def _row(self, outcome: Outcome) -> None:
        async with self._free:
            began = time.monotonic()
            try:
                await self._call(outcome)
            except (PhoneError, StackError) as error:
                outcome.why.append(str(error))
            outcome.seconds = time.monotonic() - began
        self._judge(outcome)
        self._print(_line(outcome))

    async def _call(self, outcome: Outcome) -> None:
        caller, callee = outcome.caller, outcome.callee
        async with self._phone(callee) as answering:
            await answering.wait_for("registered")
            call = ("--call", f"sip:{callee.user}@{DOMAIN}", "--duration", TALK)
            async with self._phone(caller, *call) as calling:
                await calling.wait_for("media", "ended", seconds=15)
                while calling.runs:
                    self._look(outcome)
                    await asyncio.sleep(0.1)
                outcome.code = (await calling.wait_for("ended"))["code"]
            if any(event["event"] == "incoming" for event in answering.events):
                await answering.wait_for("ended")
                if outcome.row.refused:
                    outcome.why.append(f"{callee.user} was called")
            for side, phone in ((caller, calling), (callee, answering)):
                side.srtp = any(event["event"] == "media" and event["srtp"] for event in phone.events)
                side.heard = await asyncio.to_thread(self._heard, side, phone)

    def _phone(self, side: Side, *options: object) -> Phone:
        kind = side.kind
        place = f"{HOST}:{self._stack.access_port + kind.port}"
        registrar = f"ws://{place}/" if kind.port == WEB_PORT else f"sip:{place}"
        media = ("--say", side.says) if kind.data else ("--tone", side.tone, "--record", side.recording)
        ports = () if kind.rtc else ("--rtp-port", side.rtp_port)
        return Phone(
            side.user,
            self._stack.password,
            *("--registrar", registrar, *media, *ports, *kind.options, *options),
            command="rtcue" if kind.rtc else "ue",
        )

    def _look(self, outcome: Outcome) -> None:
        """Note what the proxy says of this call, for each time it passes."""
        for call in self._stack.status()["calls"]:
            if f"sip:{outcome.caller.user}@" in call["caller"]:
                side = outcome.caller if call["direction"] == "originating" else outcome.callee
                side.seen = ",".join(call["treatments"]) or side.seen

    def _heard(self, side: Side, phone: Phone) -> str:
        """What came over the data channel; or which of all tones of the demo is in the recording, if any is
        there for long enough."""
        if side.kind.data:
            return next((event["text"] for event in phone.events if event["event"] == "message"), "nothing")
        if not side.recording.exists():
            return "nothing"
        tones = [each.tone for outcome in self.outcomes for each in (outcome.caller, outcome.callee)]
        seconds = {tone: tone_seconds(side.recording, tone) for tone in tones}
        loudest = max(tones, key=lambda tone: seconds[tone])
        return f"{loudest} Hz" if seconds[loudest] >= HEARD else "nothing"

    def _judge(self, outcome: Outcome) -> None:
        code = outcome.row.refused or 200
        if outcome.code != code:
            outcome.why.append(f"ended with {outcome.code}, not {code}")
        if outcome.row.refused:
            return
        for side, other in ((outcome.caller, outcome.callee), (outcome.callee, outcome.caller)):
            if side.seen != side.kind.treatment:
                outcome.why.append(f"{side.user}: {side.seen} instead of {side.kind.treatment}")
            if side.srtp != side.kind.srtp:
                outcome.why.append(f"{side.user} has {'SRTP' if side.srtp else 'RTP'}")
            if side.heard != other.says:
                outcome.why.append(f"{side.user} hears {side.heard} instead of {other.says}")

    # -- afterwards ------------------------------------------------------------------------------------------

    async def _wait_until_nothing_is_left(self) -> dict[str, int]:
        """What proxy and gateway still hold, as soon as that is nothing, or at the end of patience."""
        deadline = time.monotonic() + LEFT
        while True:
            status, audit = self._stack.status(), await asyncio.to_thread(self._stack.audit)
            left = {
                "calls": len(status["calls"]),
                "registrations": len(status["registrations"]),
                "contexts": len(audit.contexts),
                "ports": sum(in_use for in_use, _, _ in audit.ports.values()),
            }
            if not any(left.values()) or time.monotonic() > deadline:
                return left
            await asyncio.sleep(0.1)


LINE = "{:<27}  {:<24}  {:<21}  {:<21}  {:<17}  {:>5}  {}"


def _line(outcome: Outcome) -> str:
    caller, callee = outcome.caller, outcome.callee
    if outcome.row.refused:
        expected, seen = str(outcome.row.refused), str(outcome.code)
    else:
        expected = f"{caller.kind.treatment} | {callee.kind.treatment}"
        seen = f"{caller.seen} | {callee.seen}"
    return LINE.format(
        f"{caller.user} ({caller.kind.words})",
        f"{callee.user} ({callee.kind.words})",
        expected,
        seen,
        f"{caller.heard} | {callee.heard}",
        f"{outcome.seconds:.1f} s",
        f"FAILED: {'; '.join(outcome.why)}" if outcome.why else "ok",
    )
