"""What one peer on the access side may cost: messages per second, and how much it may hold at a time.

A peer is a *source*: a UE that has registered by its flow, so that the many behind one NAT do not answer for
each other; everybody else by host, an IPv6 one by its /64, which is what a subscriber is given; emergency
calls apart from the rest of their host. Trusted peers and the core side are no sources and not limited.

The rate is a token bucket kept as one number, the time at which it will be full again (RFC 7415 section
3.5.1): who has said nothing for a while is as good as unknown, and is forgotten. A source that has used its
burst is refused; one that then goes on for as much again is not heard at all for the penalty.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import lru_cache
from ipaddress import IPv6Network
from itertools import islice

from imsalg.config import ProxyConfig
from imsalg.crossing import Note
from imsalg.intake import Standing
from imsalg.registration import Registrations
from imsalg.sip.glance import Kind
from imsalg.sip.hop import Flow

MAX_SOURCES = 20_000  # with a bucket that is not full

Source = Hashable


class Sources:
    """note: told of every penalty."""

    def __init__(
        self, config: ProxyConfig, registrations: Registrations, note: Callable[[Note], None]
    ) -> None:
        limits = config.sources
        self._access = {access.listen: access for access in config.access}
        self._registrations = registrations
        self._note = note
        self._penalty = limits.penalty
        self._rates = Rates(limits.rate, limits.burst, limits.penalty)

    def of(self, flow: Flow) -> Source | None:
        """The source of what comes on a flow; None: it is not limited."""
        access = self._access.get(flow.local)
        if access is None or flow.remote.host in access.trusted:
            return None
        return flow if self._registrations.at(flow) is not None else source_of(flow.remote.host)

    def is_stranger(self, flow: Flow) -> bool:
        """On the access side, neither registered nor trusted."""
        return isinstance(self.of(flow), str)

    def standing(self, flow: Flow, kind: Kind, now: float) -> Standing:
        """A message has come."""
        source = self.of(flow)
        if source is None:
            return Standing.KNOWN
        match self._rates.heard((source, kind) if kind is Kind.EMERGENCY else source, now):
            case Verdict.HEARD:
                return Standing.STRANGER if isinstance(source, str) else Standing.KNOWN
            case Verdict.REFUSED:
                return Standing.REFUSED
            case Verdict.PENALISED:
                text = f"{flow.remote} sends too much and is not heard for {self._penalty:g} s"
                self._note(Note(logging.WARNING, text))
        return Standing.IGNORED


class Verdict(Enum):
    HEARD = auto()
    REFUSED = auto()  # over the rate
    PENALISED = auto()  # the message that begins a penalty
    IGNORED = auto()


@lru_cache(maxsize=4096)
def source_of(host: str) -> str:
    """The source that a numeric host belongs to."""
    return str(IPv6Network((host, 64), strict=False)) if ":" in host else host


@dataclass(slots=True)
class _Bucket:
    """full: when it is full again. ignored: until when its source is not heard."""

    full: float
    ignored: float = 0.0


class Rates:
    """rate: messages per second. burst: messages at once. penalty: seconds."""

    def __init__(self, rate: float, burst: int, penalty: float) -> None:
        self._interval = 1 / rate
        self._burst = (burst + 0.25) / rate  # seconds it takes to fill; a quarter against rounding
        self._penalty = penalty
        self._buckets: dict[Source, _Bucket] = {}

    def __len__(self) -> int:
        return len(self._buckets)

    def heard(self, source: Source, now: float) -> Verdict:
        """A message has come."""
        bucket = self._buckets.get(source) or self._new(source, now)
        if bucket is None:
            return Verdict.REFUSED
        if now < bucket.ignored:
            return Verdict.IGNORED
        bucket.full = max(bucket.full, now) + self._interval
        owed = bucket.full - now
        if owed <= self._burst:
            return Verdict.HEARD
        if owed <= 2 * self._burst:
            return Verdict.REFUSED
        bucket.ignored = now + self._penalty
        bucket.full = bucket.ignored + self._burst  # empty when it is heard again
        return Verdict.PENALISED

    def _new(self, source: Source, now: float) -> _Bucket | None:
        """None while too many are in debt. For each that comes two are looked at, all in turn: those that
        are full again go."""
        for other in list(islice(self._buckets, 2)):
            bucket = self._buckets.pop(other)
            if bucket.full > now:
                self._buckets[other] = bucket
        if len(self._buckets) >= MAX_SOURCES:
            return None
        bucket = self._buckets[source] = _Bucket(now)
        return bucket


@dataclass(slots=True)
class Shares:
    """How much of something each source holds at a time; nobody more than `limit`."""

    limit: int
    _held: Counter[Source] = field(default_factory=Counter)

    def full(self, source: Source) -> bool:
        return self._held[source] >= self.limit

    def take(self, source: Source) -> None:
        self._held[source] += 1

    def give_back(self, source: Source) -> None:
        self._held[source] -= 1
        if self._held[source] <= 0:
            del self._held[source]
