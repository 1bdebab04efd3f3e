"""What one peer may cost: messages per second, lines of the log, and how much it may hold
at a time.

A peer is a *source*: a user who has registered, however many flows that was over, so that the many behind one
NAT do not answer for each other; everybody else by host, an IPv6 one by its /64, which is what a subscriber
is given; emergency calls apart from the rest of their host (but a connection of who is not heard is closed,
whatever comes over it). Trusted peers are no sources and not limited, nor is the core side, but for who is
not trusted there.

The rate is a token bucket kept as one number, the time at which it will be full again (RFC 7415 section
3.5.1): who has said nothing for a while is as good as unknown, and is forgotten. A source that has used its
burst is refused; one that then goes on for as much again is not heard at all for the penalty. And one that
has said MUCH at once may go on, but lets others go first.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from enum import Enum, auto
from itertools import islice

from msgspec import Struct

from imsalg.config import ProxyConfig
from imsalg.crossing import Note
from imsalg.intake import Standing
from imsalg.registration import Registrations
from imsalg.sip.glance import Kind
from imsalg.sip.hop import Flow
from imsalg.sip.shares import Shares, Source, is_stranger, source_of

MAX_SOURCES = 20_000  # with a bucket that is not full
MUCH = 64  # messages at once, less what the rate has let in since
SPAN = 10.0  # seconds


class Sources:
    """note: told of every penalty."""

    def __init__(
        self, config: ProxyConfig, registrations: Registrations, note: Callable[[Note], None]
    ) -> None:
        limits = config.sources
        self._access = {access.listen: access for access in config.access}
        self._home = config.core.trusted
        self._registrations = registrations
        self._note = note
        self._penalty = limits.penalty
        self._rates = Rates(limits.rate, limits.burst, limits.penalty)
        self._calls = Shares(limits.calls)
        self._callers: dict[str, Source] = {}  # by the token of the call

    def of(self, flow: Flow) -> Source | None:
        """The source of what comes on a flow; None: it is not limited."""
        access = self._access.get(flow.local)
        trusted = self._home if access is None else access.trusted
        if flow.remote.host in trusted or (access is None and not len(trusted)):
            return None
        binding = self._registrations.at(flow)
        return (binding.aor,) if binding is not None else source_of(flow.remote.host)

    def is_stranger(self, flow: Flow) -> bool:
        """Neither registered nor trusted."""
        return is_stranger(self.of(flow))

    def standing(self, flow: Flow, kind: Kind, now: float, messages: int = 1) -> Standing:
        """A message has come, or what costs as much as so many."""
        source = self.of(flow)
        if source is None:
            return Standing.KNOWN
        match self._rates.heard((source, kind) if kind is Kind.EMERGENCY else source, now, messages):
            case Verdict.HEARD if kind is Kind.EMERGENCY:
                # that of a stranger goes first only where it may be made
                access = self._access.get(flow.local)
                let_in = access is not None and access.emergency
                return Standing.KNOWN if let_in or not is_stranger(source) else Standing.STRANGER
            case Verdict.HEARD if is_stranger(source):
                return Standing.STRANGER
            case Verdict.HEARD:
                much = self._rates.owed(source, now) > MUCH + 0.25  # a quarter against rounding
                return Standing.HASTY if much else Standing.KNOWN
            case Verdict.REFUSED:
                return Standing.REFUSED
            case Verdict.PENALISED:
                text = f"{flow.remote} sends too much and is not heard for {self._penalty:g} s"
                self._note(Note(logging.WARNING, text))
        return Standing.IGNORED

    def is_ignored(self, flow: Flow, now: float) -> bool:
        """Whether nothing of what comes on a flow is heard."""
        source = self.of(flow)
        return source is not None and self._rates.ignores(source, now)

    def may_call(self, flow: Flow) -> bool:
        """Whether who sends on a flow may begin another call."""
        source = self.of(flow)
        return source is None or not self._calls.full(source)

    def call_begins(self, token: str, flow: Flow) -> None:
        """One by a peer on the access side."""
        if (source := self.of(flow)) is not None:
            self._callers[token] = source
            self._calls.take(source)

    def call_ends(self, token: str) -> None:
        if (source := self._callers.pop(token, None)) is not None:
            self._calls.give_back(source)


class Lines:
    """What peers have the log say: of each source `each` lines in a SPAN, and of `sources` sources; the rest
    is counted, and that is told with the first one after it. Who is refused shall not write the log."""

    def __init__(self, note: Callable[[Note], None], each: int, sources: int) -> None:
        self._note = note
        self._each, self._sources = each, sources
        self._told: Counter[Source] = Counter()
        self._untold = 0
        self._until = 0.0

    def tell(self, source: Source, note: Note, now: float) -> None:
        if now >= self._until:
            if self._untold:
                self._note(Note(logging.INFO, f"{self._untold} lines like the next were left out before it"))
            self._told.clear()
            self._untold, self._until = 0, now + SPAN
        told = self._told[source] if source in self._told or len(self._told) < self._sources else self._each
        if told < self._each:
            self._told[source] = told + 1
            self._note(note)
        else:
            self._untold += 1


class Verdict(Enum):
    HEARD = auto()
    REFUSED = auto()  # over the rate
    PENALISED = auto()  # the message that begins a penalty
    IGNORED = auto()


class _Bucket(Struct):
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

    def ignores(self, source: Source, now: float) -> bool:
        bucket = self._buckets.get(source)
        return bucket is not None and now < bucket.ignored

    def owed(self, source: Source, now: float) -> float:
        """How many messages it has said that the rate has not let in yet."""
        bucket = self._buckets.get(source)
        return (bucket.full - now) / self._interval if bucket is not None else 0.0

    def heard(self, source: Source, now: float, messages: int = 1) -> Verdict:
        """So many messages have come at once."""
        bucket = self._buckets.get(source) or self._new(source, now)
        if bucket is None:
            return Verdict.REFUSED
        if now < bucket.ignored:
            return Verdict.IGNORED
        bucket.full = max(bucket.full, now) + messages * self._interval
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
