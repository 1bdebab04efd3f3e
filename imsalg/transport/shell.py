"""The asyncio shell around a machine without IO: the only place that reads its clock, sends its output, arms
its timer.

What the sockets bring goes into the `Intake`, from which the machine is served in slices: everything that has
arrived is looked at, while some of it waits. Whatever else happens (the timer, word from the gateway) goes
through `run`, which calls the machine and then drains it. A machine that raises costs what it was called
with: it is logged with its traceback, counted in `drops["machine_error"]`, and everything else goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ParamSpec, Protocol, TypeVar

from imsalg.errors import BadMessage
from imsalg.intake import Intake, Judge, Standing
from imsalg.sip.glance import Kind
from imsalg.sip.hop import Flow, Transport
from imsalg.sip.message import Request, Response
from imsalg.transport.connection import ConnectionLimits
from imsalg.transport.connections import Connections
from imsalg.transport.framing import Received
from imsalg.transport.listener import Listener
from imsalg.transport.stun import answer, is_stun
from imsalg.transport.udp import Datagram, UdpSockets

ROUNDS = 16  # of output that causes output (a send that fails at once), before the loop gets its turn
GRAIN = 0.02  # seconds a timer may fire late, so that many fire together
ERROR_PAUSE = 1.0  # seconds until a machine whose timer raised is asked again
SLICE = 0.01  # seconds of serving what waits before the sockets are read again
REPORT = 10.0  # seconds between two lines about an overload

log = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")


class Machine(Protocol):
    """What is driven. `now` is seconds of a clock that never jumps."""

    def receive(self, data: bytes, flow: Flow, now: float) -> None:
        """A datagram."""

    def receive_message(self, message: Request | Response, flow: Flow, now: float) -> None:
        """A message of a stream."""

    def refuse(self, error: BadMessage, flow: Flow) -> None:
        """Something on a stream that is no message."""

    def transport_failed(self, flow: Flow, now: float, error: str) -> None:
        """Something sent to `flow` was not delivered."""

    def closed(self, flow: Flow, now: float) -> None:
        """The connection of a peer that had opened it is gone: nothing can be sent to `flow` any more."""

    def expire(self, now: float) -> None: ...

    def timeout(self) -> float | None:
        """When `expire` is wanted."""

    def to_send(self) -> Iterable[tuple[Flow, bytes]]: ...


class Shell:
    """Listens on each address with the transports that are served there.

    also_drain: called after the machine's SIP output was sent; for output that is no SIP. judge: of who may
    send what, and when there is no more room; None: all may, and there is.
    """

    def __init__(
        self,
        machine: Machine,
        listen: Sequence[Listener],
        *,
        limits: ConnectionLimits | None = None,
        also_drain: Callable[[], None] = lambda: None,
        judge: Judge | None = None,
    ) -> None:
        self.drops: Counter[str] = Counter()
        self._judge = judge
        self._intake = Intake(judge, random.SystemRandom(), self.drops)
        self._serving = False  # in the next round of the loop
        self._reported = (0, -math.inf)  # requests that an overload has put off, and when that was said
        self._machine = machine
        self._listen = listen
        self._also_drain = also_drain
        self._udp = UdpSockets(self._receive_datagrams, self.drops)
        self._waiting: list[tuple[Callable[[Any, float], object], Any]] = []
        self._connections = Connections(
            self._receive_messages,
            self._failed,
            self._peer_closed,
            self.drops,
            limits or ConnectionLimits(),
            judge,
        )
        self._timer: asyncio.TimerHandle | None = None
        self._armed = 0.0  # when the timer fires
        self._draining = False
        self._closed = False

    async def start(self) -> None:
        """Raises OSError that names the address which cannot be had; nothing is left open then."""
        for listener in self._listen:
            address = listener.address
            try:
                if Transport.UDP in listener.transports:
                    self._udp.listen(address)
                await self._connections.listen(listener)
            except OSError as error:
                await self.close()
                raise OSError(error.errno, f"cannot listen on {address}: {error.strerror or error}") from None
        self._drain()

    async def close(self) -> None:
        """Sends what the machine still has, then closes everything. The machine is not called any more."""
        self._drain()
        self._closed = True
        if self._timer:
            self._timer.cancel()
        await self._connections.close()
        self._udp.close()

    def run(self, method: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Calls one of the machine's methods, guarded, and drains."""
        self._guarded(method, *args, **kwargs)
        self._drain()

    def run_soon(self, method: Callable[[T, float], object], argument: T) -> None:
        """The same with `argument` and the time: at once or, where the UDP sockets rest, when they are read
        next."""
        self._waiting.append((method, argument))
        if not self._udp.resting:
            self._run_waiting()
            self._drain()

    @property
    def connections(self) -> int:
        """Of all transports but UDP, both directions."""
        return len(self._connections)

    def reload(self) -> None:
        """Read the certificates again, for the connections to come."""
        self._connections.reload()

    # -- in --------------------------------------------------------------------------------------------------

    def _run_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        for method, argument in waiting:
            self._guarded(method, argument, time.monotonic())

    def _receive_datagrams(self, datagrams: list[Datagram]) -> None:
        self._run_waiting()
        now = time.monotonic()
        for datagram in datagrams:
            flow = Flow(Transport.UDP, datagram.local, datagram.remote)
            if is_stun(datagram.data):
                self._keep_alive(datagram, flow, now)
                continue
            self._guarded(self._intake.put, datagram.data, flow, now)
        self._serve()

    def _keep_alive(self, datagram: Datagram, flow: Flow, now: float) -> None:
        """It counts as a message: we send to where it seems to come from."""
        standing = Standing.KNOWN if self._judge is None else self._judge.standing(flow, Kind.OTHER, now)
        if standing in (Standing.REFUSED, Standing.IGNORED):
            self.drops["stun_too_many"] += 1
            return
        response = answer(datagram.data, datagram.remote)
        self.drops["stun" if response else "stun_malformed"] += 1
        if response:
            with contextlib.suppress(OSError):
                self._udp.send(response, datagram.local, datagram.remote)

    def _receive_messages(self, received: list[Received], flow: Flow) -> None:
        now = time.monotonic()
        for message in received:
            self._guarded(self._intake.put, message, flow, now)
        self._serve()

    def _serve(self, again: bool = False) -> None:
        """Serve what waits for one slice; the rest in the next round of the loop, which reads first."""
        if self._serving and not again:
            return
        if again:
            self._udp.look()
        self._serving = False
        now = time.monotonic()
        until = now + SLICE
        while now < until and (waiting := self._intake.take(now)) is not None:
            match waiting.payload:
                case bytes() as data:
                    self._guarded(self._machine.receive, data, waiting.flow, now)
                case BadMessage() as error:
                    self._guarded(self._machine.refuse, error, waiting.flow)
                case message:
                    self._guarded(self._machine.receive_message, message, waiting.flow, now)
            now = time.monotonic()
        for flow, data in self._intake.to_send():
            self._guarded(self._send, flow, data)
        self._drain()
        self._report(now)
        if len(self._intake) and not self._closed:
            self._serving = True
            asyncio.get_running_loop().call_soon(self._serve, True)

    def _report(self, now: float) -> None:
        put_off = self.drops["overload-waited"] + self.drops["overload-no-room"]
        before, when = self._reported
        if put_off > before and now >= when + REPORT:
            log.warning("overload: %d new requests were answered 503", put_off - before)
            self._reported = put_off, now

    def _failed(self, flow: Flow, error: str) -> None:
        self.run(self._machine.transport_failed, flow, time.monotonic(), error)

    def _peer_closed(self, flow: Flow) -> None:
        self.run(self._machine.closed, flow, time.monotonic())

    def _expire(self) -> None:
        self._timer = None
        well = self._guarded(self._machine.expire, time.monotonic())
        self._drain(pause=0.0 if well else ERROR_PAUSE)

    def _guarded(self, method: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> bool:
        if self._closed:
            return True
        try:
            method(*args, **kwargs)
        except Exception:
            self.drops["machine_error"] += 1
            log.exception("dropped what made %s fail", getattr(method, "__qualname__", method))
            return False
        return True

    # -- out -------------------------------------------------------------------------------------------------

    def _drain(self, pause: float = 0.0) -> None:
        if self._draining or self._closed:
            return  # a send failed at once and told the machine: the loop below is still running
        self._draining = True
        try:
            for _ in range(ROUNDS):
                output = list(self._machine.to_send())
                for flow, data in output:
                    self._guarded(self._send, flow, data)
                self._also_drain()
                if not output:
                    break
            else:
                asyncio.get_running_loop().call_soon(self._drain)
        except Exception:
            self.drops["machine_error"] += 1
            log.exception("dropped output")
        finally:
            self._draining = False
        self._arm(pause)

    def _arm(self, pause: float) -> None:
        """A timer that is armed for too early stays: it finds nothing due and is armed anew."""
        if self._timer and self._armed <= time.monotonic() + GRAIN:
            return
        when = self._machine.timeout()
        if when is None:
            return
        when = math.ceil(when / GRAIN) * GRAIN
        if self._timer:
            if self._armed <= when:
                return
            self._timer.cancel()
        now = time.monotonic()
        self._armed = max(when, now + pause)
        self._timer = asyncio.get_running_loop().call_later(self._armed - now, self._expire)

    def _send(self, flow: Flow, data: bytes) -> None:
        if flow.transport is not Transport.UDP:
            self._connections.send(flow, data)
            return
        try:
            self._udp.send(data, flow.local, flow.remote)
        except (OSError, KeyError) as error:
            self.drops["udp_send_failed"] += 1
            self._failed(flow, f"{type(error).__name__}: {error}")
