"""The calls that live: how they begin and are found, for how long they are kept, and when each has its time.

A call is made by an INVITE or by what was stored of it, and is the caller's to keep. Requests find it by its
token, which stands in our Record-Route URIs; those of peers that keep no route sets by their Call-ID, of
which there are several calls where both parties are behind us.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from random import Random

from imsalg import mediasec
from imsalg.anchor import Side
from imsalg.call import Call
from imsalg.config import AccessConfig, ProxyConfig
from imsalg.crossing import Crossing
from imsalg.negotiation import Terms
from imsalg.passage import Limits
from imsalg.policy.treatment import Mechanism
from imsalg.records import CallRecord
from imsalg.registration import Binding
from imsalg.routes import Routes
from imsalg.sip.headers import Headers
from imsalg.sip.message import Request
from imsalg.sip.timers import Running, Timers
from imsalg.sip.values import Address
from imsalg.sources import Sources


class Calls(Mapping[str, Call]):
    """By token. followers: called with the token of each that came, changed or went."""

    def __init__(self, config: ProxyConfig, routes: Routes, sources: Sources, rng: Random) -> None:
        self.followers: list[Callable[[str], None]] = []
        self._config = config
        self._limits = Limits(
            config.call.ringing_limit,
            config.gateway.timeout,
            config.call.session_expires,
            config.call.session_limit,
        )
        self._routes = routes
        self._sources = sources
        self._rng = rng
        # the same for all calls of an access whose UEs have registered the same
        self._terms: dict[tuple[Address, frozenset[Mechanism]], Terms] = {}
        self._by_token: dict[str, Call] = {}
        self._by_call_id: dict[str, dict[str, Call]] = {}
        self._timers: Timers[Call] = Timers()
        self._running: dict[str, Running[Call]] = {}

    def __getitem__(self, token: str) -> Call:
        return self._by_token[token]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_token)

    def __len__(self) -> int:
        return len(self._by_token)

    def of_call_id(self, call_id: str) -> Collection[Call]:
        return self._by_call_id.get(call_id, {}).values()

    def of(self, binding: Binding) -> list[Call]:
        """Those of a UE where that binding has it."""
        return [
            call
            for call in self._by_token.values()
            if call.aor == binding.aor and call.flows[Side.ACCESS] == binding.flow
        ]

    # -- how they begin

    def begin(
        self, token: str, invite: Crossing, access: AccessConfig, binding: Binding | None, now: float
    ) -> Call:
        """The call of an INVITE. binding: of its UE, where that is registered."""
        if binding is None:
            return self._call(token, invite, access, frozenset(), "", now)
        return self._call(token, invite, access, binding.mechanisms, binding.aor, now)

    def resume(self, record: CallRecord, access: AccessConfig, now: float, epoch: float) -> Call:
        """The call that a record tells of, after a restart."""
        invite = Request("INVITE", record.uri, Headers(record.invite))
        outgoing = invite.copy()
        outgoing.headers.set("Record-Route", *record.recorded)
        crossing = Crossing(record.caller, invite, outgoing, record.flows[record.caller.other], answered=200)
        call = self._call(record.token, crossing, access, record.mechanisms, record.aor, now)
        call.resume(record, epoch)
        return call

    def _call(
        self,
        token: str,
        invite: Crossing,
        access: AccessConfig,
        registered: frozenset[Mechanism],
        aor: str,
        now: float,
    ) -> Call:
        under = access.listen, registered
        if (terms := self._terms.get(under)) is None:
            terms = self._terms[under] = self._terms_of(access, registered)
        return Call(token, invite, terms, self._limits, self._routes.to_core_or_back, self._rng, now, aor)

    def _terms_of(self, access: AccessConfig, registered: frozenset[Mechanism]) -> Terms:
        config = self._config
        return Terms(
            registered & mediasec.allowed(access.mechanisms, config.policy.e2dce),
            access.type,
            config.policy,
            {Side.ACCESS: access.realm, Side.CORE: config.core.realm},
            {Side.ACCESS: access.listen.host, Side.CORE: config.core.listen.host},
            {Side.ACCESS: access.denied, Side.CORE: config.core.denied},
            config.call.inactivity,
            access.latch_anywhere,
        )

    # -- what becomes of them

    def keep(self, call: Call) -> None:
        """Something has become of a call: it is kept for as long as it is not finished. A late 2xx may bring
        one back."""
        finished = call.finished
        if finished == (call.token in self._by_token):
            self._forget(call) if finished else self._add(call)
        self._arm(call, None if finished else call.timeout())
        self._changed(call)

    def _add(self, call: Call) -> None:
        if call.caller is Side.ACCESS:
            self._sources.call_begins(call.token, call.flows[Side.ACCESS])
        self._by_token[call.token] = call
        self._by_call_id.setdefault(call.invite.request.call_id, {})[call.token] = call

    def _forget(self, call: Call) -> None:
        self._sources.call_ends(call.token)
        del self._by_token[call.token]
        passes = self._by_call_id[call.invite.request.call_id]
        del passes[call.token]
        if not passes:
            del self._by_call_id[call.invite.request.call_id]

    def follow(self, before: Binding, after: Binding) -> None:
        """A UE has registered from somewhere else: its calls are reached there as well."""
        for call in self.of(before):
            call.flows[Side.ACCESS] = after.flow
            self._changed(call)

    def _changed(self, call: Call) -> None:
        for follower in self.followers:
            follower(call.token)

    # -- when each has its time

    def timeout(self) -> float | None:
        return self._timers.next()

    def expired(self, now: float) -> Call | None:
        """The next whose time has come; it wants its `expire` called."""
        call = self._timers.expired(now)
        if call is not None:
            del self._running[call.token]
        return call

    @property
    def timers(self) -> int:
        """How many run."""
        return len(self._timers)

    def _arm(self, call: Call, when: float | None) -> None:
        running = self._running.get(call.token)
        if running is not None:
            if running.when == when:
                return
            self._timers.cancel(running)
            del self._running[call.token]
        if when is not None:
            self._running[call.token] = self._timers.start(when, call)
