"""Requests on their way out of the proxy. Towards a UE there is its flow; towards the core each goes to one
server after another until one serves (RFC 3263 section 4.3).

The next server has its turn when one cannot be reached, answers 503, or stays silent for `patience`; not any
more once a response beyond 100 was passed on. Every try is a transaction with a branch of its own. A server
that was given up may still answer: a late 2xx to an INVITE is acknowledged and hung up by the call, and
everything else is ignored. Where no other server is left, a silent one has until Timer B or F.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from random import Random

from imsalg.config import CoreConfig
from imsalg.crossing import Crossing, Hops, Note
from imsalg.finding import Finding, Search
from imsalg.routes import Routes, loop_mark, usual
from imsalg.sip.endpoint import Endpoint
from imsalg.sip.events import Cause, ClientTransaction
from imsalg.sip.hop import Flow
from imsalg.sip.locate import is_numeric
from imsalg.sip.message import REASONS, Request, Response, make_response
from imsalg.sip.timers import Running, Timers

MAX_RETRY_AFTER = 300.0  # seconds a server may ask to be left alone


class Departure:
    """What is known of a request on its way to the core. search: None once it goes to no other server.
    failure: what the last server that did not serve said, or would have."""

    __slots__ = ("failure", "heard", "search", "silence", "tries")

    def __init__(self, search: Search) -> None:
        self.search: Search | None = search
        self.tries = 0
        self.heard = False  # a response came from the server it is at
        self.failure: Response | None = None
        self.silence: Running[Crossing] | None = None

    @property
    def settled(self) -> bool:
        return self.search is None


class Forwarding:
    """deliver: called with what became of a crossing, as responses; stray: with a 2xx from a server that was
    given up."""

    def __init__(
        self,
        endpoint: Endpoint,
        finding: Finding,
        routes: Routes,
        config: CoreConfig,
        rng: Random,
        deliver: Callable[[Crossing, Response], None],
        stray: Callable[[Crossing, Response], None],
        note: Callable[[Note], None],
    ) -> None:
        self._endpoint = endpoint
        self._finding = finding
        self._routes = routes
        self._config = config
        self._rng = rng
        self._deliver = deliver
        self._stray = stray
        self._note = note
        self._silences: Timers[Crossing] = Timers()

    def send(self, crossing: Crossing, now: float) -> None:
        if not crossing.hops:
            self._start(crossing, now)
            return
        crossing.departure = Departure(Search(self._finding.servers(crossing.hops)))
        self._next(crossing, crossing.departure, now)

    def acknowledge(self, request: Request, flow: Flow, hops: Hops, now: float) -> None:
        """The ACK to a 2xx: nobody answers it, so it goes to the first server there is."""
        if hops:
            search = Search(self._finding.servers(hops))
            self._finding.next(search, partial(self._acknowledge, request), now)
        else:
            self._endpoint.send(request, flow, now)

    def cancel(self, crossing: Crossing, reasons: tuple[str, ...], now: float) -> None:
        """An INVITE is to be cancelled: it goes to no other server."""
        if crossing.departure is not None:
            self._settle(crossing.departure)
        if crossing.client is not None:
            self._endpoint.cancel(crossing.client, now, [("Reason", reason) for reason in reasons])
        elif crossing.departure is not None:  # no server has it
            self._deliver(crossing, self._failure(crossing, 487))

    def response(self, transaction: ClientTransaction, response: Response, now: float) -> None:
        crossing = transaction.owner
        if not isinstance(crossing, Crossing):
            return
        departure, status = crossing.departure, response.status
        if transaction is not crossing.client:
            if 200 <= status < 300 and crossing.request.method == "INVITE":
                self._stray(crossing, response)
            return
        if departure is not None and not departure.settled:
            self._calm(departure)
            departure.heard = True
            if status == 503:
                if seconds := _retry_after(response):
                    self._finding.shun(crossing.flow, seconds, now)
                self._fail(crossing, departure, response.copy(), "503", now)
                return
            self._finding.trust(crossing.flow)
            if status > 100:
                self._settle(departure)
        if departure is None and status == 503:
            response = _for_itself(response)
        self._deliver(crossing, response)

    def failed(self, transaction: ClientTransaction, cause: Cause, detail: str, now: float) -> None:
        """No final response came, and none will."""
        crossing = transaction.owner
        if not isinstance(crossing, Crossing) or transaction is not crossing.client:
            return
        departure = crossing.departure
        status = 503 if cause is Cause.TRANSPORT else 408
        if status == 503 and departure is None and crossing.flow.transport.reliable:
            status = 430  # to a UE: the home network may have another flow to it (RFC 5626 section 5.3)
        failure = self._failure(crossing, status)
        why = f"{cause} {detail}".rstrip()
        if departure is None or departure.settled or (departure.heard and cause is Cause.TIMEOUT):
            self._say(crossing, why)
            self._deliver(crossing, failure)
            return
        self._calm(departure)
        self._finding.shun(crossing.flow, self._config.quarantine, now)
        self._fail(crossing, departure, failure, why, now)

    def expire(self, now: float) -> None:
        while (crossing := self._silences.expired(now)) is not None:
            departure = crossing.departure
            assert departure is not None
            departure.silence = None
            self._finding.shun(crossing.flow, self._config.quarantine, now)
            self._say(crossing, "silent")
            self._next(crossing, departure, now)

    def timeout(self) -> float | None:
        return self._silences.next()

    def __len__(self) -> int:
        """Timers that run."""
        return len(self._silences)

    # -- inside

    def _next(self, crossing: Crossing, departure: Departure, now: float) -> None:
        assert departure.search is not None
        self._finding.next(departure.search, partial(self._found, crossing), now)

    def _found(self, crossing: Crossing, flow: Flow | None, now: float) -> None:
        """A server, or no other than those that had their turn."""
        departure = crossing.departure
        assert departure is not None
        if flow is None:
            if crossing.client is None:
                self._settle(departure)
                if departure.failure is None:
                    self._note(Note(logging.WARNING, f"no server for {crossing.hops[0]}"))
                self._deliver(crossing, departure.failure or self._failure(crossing, 503))
            return  # else it is silent, and the only one
        if departure.tries:
            outgoing = crossing.outgoing.copy()
            outgoing.headers.pop_value("Via")
            if crossing.client is not None and crossing.request.method == "INVITE":
                self._endpoint.cancel(crossing.client, now)
            crossing.outgoing = outgoing
        departure.tries += 1
        departure.heard = False
        crossing.flow = flow
        if crossing.call is not None:
            crossing.call.flows[crossing.side.other] = flow
        if departure.tries > 1 or flow.transport is not usual(crossing.hops):
            self._routes.leave_by(crossing)
        self._start(crossing, now)
        if len(crossing.hops) > 1 or not is_numeric(crossing.hops[0].host):
            departure.silence = self._silences.start(now + self._config.patience, crossing)

    def _start(self, crossing: Crossing, now: float) -> None:
        suffix = loop_mark(crossing.request) if crossing.server is not None else ""
        crossing.client = self._endpoint.request(
            crossing.outgoing, crossing.flow, now, owner=crossing, branch_suffix=suffix
        )
        crossing.open += 1

    def _acknowledge(self, request: Request, flow: Flow | None, now: float) -> None:
        if flow is None:
            self._endpoint.drops["ack-without-a-server"] += 1
        else:
            self._endpoint.send(request, flow, now)

    def _fail(
        self, crossing: Crossing, departure: Departure, failure: Response, why: str, now: float
    ) -> None:
        """Its server does not serve: the next."""
        self._say(crossing, why)
        departure.failure, crossing.client = failure, None
        self._next(crossing, departure, now)

    def _settle(self, departure: Departure) -> None:
        self._calm(departure)
        departure.search = None

    def _calm(self, departure: Departure) -> None:
        """Nobody is waited for, and no other server looked for at present."""
        if departure.silence is not None:
            self._silences.cancel(departure.silence)
            departure.silence = None
        if departure.search is not None:
            self._finding.stop(departure.search)

    def _failure(self, crossing: Crossing, status: int) -> Response:
        return make_response(crossing.request, status, to_tag=f"{self._rng.getrandbits(64):016x}")

    def _say(self, crossing: Crossing, why: str) -> None:
        where = f"{crossing.flow.transport} {crossing.flow.remote}"
        self._note(Note(logging.INFO, f"{crossing.request.method} to {where}: {why}"))


def _for_itself(response: Response) -> Response:
    """A UE's 503 as 500 (RFC 3261 section 16.7 item 6): to the home network a 503 would say that nobody is to
    be reached through us, for as long as the UE likes."""
    out = response.copy()
    out.status, out.reason = 500, REASONS[500]
    out.headers.remove("Retry-After")
    return out


def _retry_after(response: Response) -> float:
    """Seconds; 0 where it says nothing: then a 503 is a failure of this request alone (RFC 3261 section
    21.5.4)."""
    digits = (response.headers.get("Retry-After") or "").strip().partition("(")[0].partition(";")[0].strip()
    known = digits.isascii() and digits.isdigit() and len(digits) < 10
    return min(float(digits), MAX_RETRY_AFTER) if known else 0.0
