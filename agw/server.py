"""The gateway's process: the Gateway, a Plane and the Iq server on one loop, until a signal ends it.

Here is the only place where the gateway meets the clock and the log. The log has one line for each event:
what, who, on which context, and what of it; never a key.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import random
import secrets
import signal
from collections.abc import Callable

from agw.config import GatewayConfig
from agw.flows import LegId, Plane
from agw.gateway import Gateway
from agw.iq.messages import (
    Address,
    AuditValue,
    Command,
    ErrorReply,
    Event,
    Hello,
    Notice,
    ReleaseTermination,
    Reply,
    Request,
)
from agw.iq.server import Server

OBJECTS = 50_000  # that came and stayed until young garbage is looked for, of which there is next to none

log = logging.getLogger("agw")


async def serve(config: GatewayConfig, ready: Callable[[], None] = lambda: None) -> None:
    """Runs until SIGTERM or SIGINT; ready() is called when controllers can connect.

    Raises OSError or ssl.SSLError if it cannot listen, and StaleBuild, an OSError, if the native Plane is not
    what its sources say.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    signals = (signal.SIGTERM, signal.SIGINT)
    plane = _plane(config)
    process = _Process(config, Gateway(config, plane, random.SystemRandom()))
    plane.events = process.event
    plane.packets = process.packet
    for each in signals:
        loop.add_signal_handler(each, stop.set)
    try:
        await process.server.start(config.iq.listen, config.iq.certificates)
        _line("listen", config.name, config.iq.listen, "realms " + ", ".join(r.name for r in config.realms))
        gc.freeze()
        gc.set_threshold(OBJECTS)
        ready()
        await stop.wait()
        _line("end", config.name)
    finally:
        for each in signals:
            loop.remove_signal_handler(each)
        await process.server.close()
        plane.close()


def _plane(config: GatewayConfig) -> Plane:
    """The one that is configured; the native one is there only where a compiler was. Raises StaleBuild.

    Only that one is imported: libsrtp brings an OpenSSL of its own, 4.6 MiB.
    """
    why = ""
    if config.plane == "native":
        try:
            from agw.relay import NativePlane
        except ImportError as error:
            why = f"the native one is not built: {error}"
        else:
            _line("plane", "native", "", f"threads {len(config.cores) or 1}, coalesce {config.coalesce:g} s")
            return NativePlane(config.limits.srtp_failures, config.cores, config.coalesce)
    from agw.pyrelay import PythonPlane

    _line("plane", "python", "", why)
    return PythonPlane(config.limits.srtp_failures)


class _Process:
    """Brings to the gateway what Iq, the Plane and the clock tell, and its notices to controllers."""

    def __init__(self, config: GatewayConfig, gateway: Gateway) -> None:
        self._loop = asyncio.get_running_loop()
        self._gateway = gateway
        self._timer: asyncio.TimerHandle | None = None
        self._due = math.inf  # when it ends
        self.server = Server(
            name=config.name,
            incarnation=secrets.token_hex(8),
            realms=tuple(realm.name for realm in config.realms),
            on_up=self._up,
            on_request=self._request,
            on_down=self._down,
        )

    def event(self, leg: LegId, event: Event, detail: str) -> None:
        self._gateway.event(leg, event, detail, self._loop.time())
        self._drain()

    def packet(self, leg: LegId, channel: int, source: Address, data: bytes) -> None:
        self._gateway.packet(leg, channel, source, data, self._loop.time())
        self._drain()

    def _up(self, hello: Hello) -> None:
        text = f"incarnation {hello.incarnation[:16]}, claims {len(hello.claims)}"
        _line("up", hello.name, "", text)
        self._gateway.greeted(hello.name, hello.claims, self._loop.time())
        self._drain()

    def _request(self, controller: str, request: Request) -> Reply | ErrorReply:
        answer = self._gateway.execute(controller, request, self._loop.time())
        self._drain()
        if not log.isEnabledFor(logging.INFO):
            return answer
        said = ", ".join(_brief(command) for command in request.commands)
        if isinstance(answer, ErrorReply):
            _line("refused", controller, request.context, f"{said}: {answer.code.value}: {answer.text}")
        elif any(not isinstance(command, AuditValue) for command in request.commands):
            _line("done", controller, request.context, said)
        return answer

    def _down(self, controller: str, reason: str, unread: list[Notice]) -> None:
        self._gateway.gone(controller, unread, self._loop.time())
        self._drain()

    def _drain(self) -> None:
        while told := self._gateway.next_notice():
            controller, notice = told
            text = f"{notice.event.value} {notice.termination} {notice.stream} {notice.detail}"
            _line("notice", controller, notice.context, text)
            self.server.notify(controller, notice)
        at = self._gateway.timeout()
        # Checks move it to a later time, again and again: then it ends early, and nothing is due.
        if at is not None and at < self._due:
            if self._timer is not None:
                self._timer.cancel()
            self._due, self._timer = at, self._loop.call_at(at, self._expire)

    def _expire(self) -> None:
        self._due = math.inf
        for owner in self._gateway.expire(self._loop.time()):
            _line("expired", owner, "", "it has not come back: its contexts are dropped")
        self._drain()


def _brief(command: Command) -> str:
    match command:
        case AuditValue():
            return "audit"
        case ReleaseTermination(None):
            return "release all"
        case _:
            name = type(command).__struct_config__.tag
            return f"{name} {command.termination}"


def _line(what: str, who: str, context: str = "", text: str = "") -> None:
    if not log.isEnabledFor(logging.INFO):
        return
    # A context's name may be anything until it has been accepted; the log stays one line.
    log.info("%-8s %-12s %-20s %s", what, who, ascii(context)[1:-1][:64], ascii(text)[1:-1][:400])
