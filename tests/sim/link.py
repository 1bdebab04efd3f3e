"""A simulated network between SIP machines without IO: seeded loss and disorder, and a jumping clock.

    link = Link(random.Random(7), loss=0.3, duplicate=0.1)
    link.attach(alice, ALICE, on_event=alice_tu)      # a machine and the addresses it listens on
    link.attach(bob, BOB, on_event=bob_tu)
    alice.request(invite, Flow(Transport.UDP, ALICE, BOB), link.now)
    link.run()                                        # until no message and no timer is left

A machine is an Endpoint or anything driven alike. After each step the link drains it: first `next_event()`
into `on_event(event)`, if it was given, then `to_send()`. UDP loses, duplicates and, by its delays,
reorders. TCP keeps order and loses nothing: the first message to an address opens a connection, which the
other side sees coming from an ephemeral port. What cannot be delivered comes back as `transport_failed`, as
does TCP to a `refused` address.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable
from typing import Any, Protocol

from imsalg.sip.hop import Flow, Transport
from imsalg.sip.values import Address


class Machine(Protocol):
    def receive(self, data: bytes, flow: Flow, now: float) -> None: ...
    def transport_failed(self, flow: Flow, now: float, error: str) -> None: ...
    def expire(self, now: float) -> None: ...
    def timeout(self) -> float | None: ...
    def to_send(self) -> list[tuple[Flow, bytes]]: ...


class Link:
    """now: the clock, which jumps to whatever comes next. rng: where all that is random here comes from.

    sent: how many messages by transport, and of these "lost" and "duplicated". log: each one's time, flow as
    sent, and bytes. refused: addresses that accept no TCP connection; a test may change it at any time.
    """

    def __init__(
        self,
        rng: random.Random,
        *,
        loss: float = 0.0,
        duplicate: float = 0.0,
        delay: tuple[float, float] = (0.001, 0.05),
        now: float = 1000.0,
    ) -> None:
        self.now = now
        self.sent: Counter[str] = Counter()
        self.refused: set[Address] = set()
        self.log: list[tuple[float, Flow, bytes]] = []
        self.rng, self._loss, self._duplicate, self._delay = rng, loss, duplicate, delay
        self._machines: dict[Address, Machine] = {}
        self._events: dict[int, tuple[Callable[[], Any], Callable[[Any], None]]] = {}
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0
        self._far_end: dict[Flow, Flow] = {}  # a TCP connection as one side sees it: as the other does
        self._clear_at: dict[Flow, float] = {}  # when the last message on it arrives

    def attach(
        self, machine: Any, *addresses: Address, on_event: Callable[[Any], None] | None = None
    ) -> None:
        """`machine` is a Machine that listens on `addresses`; with `on_event` it has next_event() as well."""
        self._machines.update(dict.fromkeys(addresses, machine))
        if on_event is not None:
            self._events[id(machine)] = machine.next_event, on_event

    def call_at(self, when: float, function: Callable[[], None]) -> None:
        """Run `function` when the clock comes to `when`, as a test's own timer."""
        self._order += 1
        heapq.heappush(self._due, (when, self._order, function))

    def close(self, address: Address) -> None:
        """Break every TCP connection that has an end at `address`: both sides hear of it."""
        for flow in [flow for flow in self._far_end if address in (flow.local, flow.remote)]:
            del self._far_end[flow]
            self._machines[flow.local].transport_failed(flow, self.now, "connection closed")
        self.drain()

    def run(self, until: float = float("inf"), max_steps: int = 1_000_000) -> None:
        """Step until nothing is left to happen up to `until`; the clock ends there if it is finite."""
        self.drain()
        for _ in range(max_steps):
            when = self._next()
            if when is None or when > until:
                self.now = max(self.now, until) if until < float("inf") else self.now
                return
            self.now = max(self.now, when)
            while self._due and self._due[0][0] <= self.now:
                heapq.heappop(self._due)[2]()
            for machine in self._each():
                timeout = machine.timeout()
                if timeout is not None and timeout <= self.now:
                    machine.expire(self.now)
            self.drain()
        raise AssertionError("the simulation does not come to rest")

    def drain(self) -> None:
        """Take events and messages out of every machine until all are quiet."""
        quiet = False
        while not quiet:
            quiet = True
            for machine in self._each():
                next_event, on_event = self._events.get(id(machine), (lambda: None, print))
                while (event := next_event()) is not None:
                    quiet = False
                    on_event(event)
                for flow, data in machine.to_send():
                    quiet = False
                    self._send(machine, flow, data)

    def _each(self) -> list[Machine]:
        return list({id(machine): machine for machine in self._machines.values()}.values())

    def _next(self) -> float | None:
        times = [self._due[0][0]] if self._due else []
        times += [timeout for machine in self._each() if (timeout := machine.timeout()) is not None]
        return min(times, default=None)

    def _send(self, sender: Machine, flow: Flow, data: bytes) -> None:
        assert self._machines.get(flow.local) is sender, f"{flow.local} is not the sender's"
        self.log.append((self.now, flow, data))
        self.sent[flow.transport] += 1
        if flow.transport is Transport.UDP:
            self._send_datagram(flow, data)
        else:
            self._send_on_connection(sender, flow, data)

    def _send_datagram(self, flow: Flow, data: bytes) -> None:
        receiver = self._machines.get(flow.remote)
        arrives = Flow(Transport.UDP, flow.remote, flow.local)
        copies = 1
        if self.rng.random() < self._duplicate:
            self.sent["duplicated"] += 1
            copies = 2
        for _ in range(copies):
            when = self.now + self.rng.uniform(*self._delay)
            if receiver is None or self.rng.random() < self._loss:
                self.sent["lost"] += 1
            else:
                self._deliver(when, receiver, data, arrives)

    def _send_on_connection(self, sender: Machine, flow: Flow, data: bytes) -> None:
        if flow not in self._far_end:
            if flow.remote not in self._machines or flow.remote in self.refused:
                when = self.now + self._delay[0]
                self.call_at(when, lambda: sender.transport_failed(flow, self.now, "connection refused"))
                return
            self._order += 1
            far = Flow(flow.transport, flow.remote, Address(flow.local.host, 50000 + self._order % 15000))
            self._far_end[flow], self._far_end[far] = far, flow
        arrives = self._far_end[flow]
        when = max(self.now + self.rng.uniform(*self._delay), self._clear_at.get(flow, 0.0))
        self._clear_at[flow] = when
        self._deliver(when, self._machines[arrives.local], data, arrives)

    def _deliver(self, when: float, receiver: Machine, data: bytes, flow: Flow) -> None:
        self.call_at(when, lambda: receiver.receive(data, flow, self.now))
