"""Finding the core: each search goes from server to server until one serves, those that lately did not last
(RFC 3263 section 4.3).

    search = Search(finding.servers(uris))
    finding.next(search, told, now)     # calls told(flow, now), at once or when the DNS has answered
    finding.next(search, told, now)     # the server did not serve: the next one; told(None, now): no more

A server in quarantine is tried when no other is left. Drain `to_ask` after every call, put what the DNS says
into `answered`, and call `expire` at `timeout`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random

from imsalg.names import Answer, Names
from imsalg.sip.hop import Flow, Transport
from imsalg.sip.locate import Question, Record, Servers, locate
from imsalg.sip.timers import Running, Timers
from imsalg.sip.values import Address, Uri

MAX_TRIES = 5  # servers for one request
MAX_QUESTIONS = 40  # to the DNS for it: a NAPTR, 32 times SRV, and 32 times addresses would be a thousand
LOOKUP_LIMIT = 8.0  # seconds a search waits for the DNS, then it goes no further
MAX_WAITING = 1024  # searches that wait for the DNS
MAX_QUARANTINE = 1024  # servers; the oldest go first


Told = Callable[[Flow | None, float], None]
"""Called with the next server and the time, or with None: there is none."""


class Search:
    """One request's way from server to server."""

    __slots__ = ("question", "questions", "running", "servers", "skipped", "tried")

    def __init__(self, servers: Servers) -> None:
        self.servers = servers
        self.question: Question | None = None  # whose answer `servers` wants before it goes on
        self.questions = 0  # so far
        self.running: Running[Search] | None = None  # while it waits for that answer
        self.tried: set[Flow] = set()
        self.skipped: list[Flow] = []  # as they are in quarantine


class Finding:
    """sources: the transports towards the core, the preferred one first, and our address for each."""

    def __init__(self, sources: Mapping[Transport, Address], rng: Random) -> None:
        self._sources = sources
        self._rng = rng
        self._names = Names()
        self._waiting: dict[Question, dict[Search, Told]] = {}
        self._timers: Timers[Search] = Timers()
        self._quarantine: dict[Flow, float] = {}  # until when

    def servers(self, uris: Sequence[Uri]) -> Servers:
        """Those of the first URI, then those of the second …"""
        for uri in uris:
            yield from locate(uri, self._sources, self._rng)

    def next(self, search: Search, told: Told, now: float) -> None:
        """Look for the server to try next; one search is one request, and looks once at a time."""
        if search.running is None:
            self._go_on(search, None, told, now)

    def stop(self, search: Search) -> None:
        """Its request needs no other server for now; `next` would go on from here."""
        if search.running is not None and search.question is not None:
            self._timers.cancel(search.running)
            search.running = None
            others = self._waiting[search.question]
            del others[search]
            if not others:
                del self._waiting[search.question]

    def shun(self, flow: Flow, seconds: float, now: float) -> None:
        """A server does not serve: quarantine."""
        self._quarantine.pop(flow, None)
        while len(self._quarantine) >= MAX_QUARANTINE:
            del self._quarantine[next(iter(self._quarantine))]
        self._quarantine[flow] = now + seconds

    def trust(self, flow: Flow) -> None:
        """A server has answered."""
        self._quarantine.pop(flow, None)

    def quarantined(self, now: float) -> list[Flow]:
        return [flow for flow, until in self._quarantine.items() if now < until]

    # -- the DNS

    def to_ask(self) -> list[Question]:
        """For the DNS; each wants one `answered`. Takes them away."""
        return self._names.to_ask()

    def answered(self, question: Question, answer: Answer, now: float) -> None:
        records = self._names.answered(question, answer, now)
        for search, told in list(self._waiting.get(question, {}).items()):
            if search.running is not None:  # else it was stopped by what became of another
                self.stop(search)
                self._go_on(search, records, told, now)

    def expire(self, now: float) -> None:
        while (search := self._timers.expired(now)) is not None:
            assert search.question is not None
            told = self._waiting[search.question][search]
            self.stop(search)
            self._give_up(search)
            self._go_on(search, None, told, now)

    def timeout(self) -> float | None:
        return self._timers.next()

    def __len__(self) -> int:
        """Searches that wait."""
        return len(self._timers)

    # -- inside

    def _go_on(self, search: Search, records: Sequence[Record] | None, told: Told, now: float) -> None:
        """records: the answer to the question of the search, if that has just come."""
        while len(search.tried) < MAX_TRIES:
            if search.question is not None and records is None:
                records = self._names.known(search.question, now)
                if records is None:
                    if self._wait(search, told, now):
                        return
                    self._give_up(search)
                    continue
            try:
                if search.question is None:
                    step = next(search.servers)
                else:
                    search.question, step = None, search.servers.send(records or ())
            except StopIteration:
                break
            records = None
            if isinstance(step, Question):
                search.question = step
                search.questions += 1
                if search.questions > MAX_QUESTIONS:
                    self._give_up(search)
            elif now < self._quarantine.get(step, 0.0):
                search.skipped.append(step)
            elif step not in search.tried:
                search.tried.add(step)
                told(step, now)
                return
        left = [flow for flow in search.skipped if flow not in search.tried]
        if not left or len(search.tried) >= MAX_TRIES:
            told(None, now)
            return
        search.tried.add(left[0])
        told(left[0], now)

    def _wait(self, search: Search, told: Told, now: float) -> bool:
        assert search.question is not None
        if len(self._timers) >= MAX_WAITING or not self._names.ask(search.question):
            return False
        self._waiting.setdefault(search.question, {})[search] = told
        search.running = self._timers.start(now + LOOKUP_LIMIT, search)
        return True

    def _give_up(self, search: Search) -> None:
        """What it has come past is all there is."""
        search.servers.close()
        search.question = None
