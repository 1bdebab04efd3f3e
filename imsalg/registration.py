"""Who is registered, and over which flow each UE is reached (TS 24.229 clause 5.2.2, RFC 3327, RFC 3608).

The registrar knows who the user is; the P-CSCF knows where the UE is. A binding is made by the 200 to a
REGISTER and named by the token in the Path URI that the REGISTER left with, so a request that comes back by
that Path says itself which UE it is for. The token stays the same for as long as the UE refreshes the
binding."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from random import Random
from typing import TypeVar

from msgspec import Struct, field

from imsalg import mediasec, trust
from imsalg.config import AccessConfig
from imsalg.contact import MAX_EXPIRES, Place, expires_of, instance_of, is_at, place_of
from imsalg.errors import BadMessage, PeerError
from imsalg.flowtoken import FlowTokens
from imsalg.policy.rules import E2dce
from imsalg.policy.treatment import Mechanism
from imsalg.records import BindingRecord
from imsalg.sip.grammar import number
from imsalg.sip.hop import Flow
from imsalg.sip.message import Request, Response
from imsalg.sip.shares import Shares, source_of
from imsalg.sip.timers import Running, Timers
from imsalg.sip.values import NameAddr, Uri

MAX_CONTACTS = 8  # in one REGISTER

T = TypeVar("T")


class Binding(Struct, eq=False):
    """One UE: its identities, where it is, and what it and the network have announced to each other (trap
    P25).

    contacts: Contact URI -> when it expires. associated: P-Associated-URI values, the default identity first.
    lost: the connection that is its flow has gone; the UE is not reached before it registers over another.
    """

    token: str
    aor: str
    access: AccessConfig
    flow: Flow
    contacts: dict[str, float]
    service_route: tuple[str, ...]
    associated: tuple[str, ...]
    mechanisms: frozenset[Mechanism]
    key: tuple[str, str] = ("", "")
    timer: Running[Binding] | None = None
    lost: bool = False

    @property
    def expires(self) -> float:
        return max(self.contacts.values(), default=0.0)

    def record(self, epoch: float) -> BindingRecord:
        """epoch: what the wall clock shows at zero of the clock of `contacts`."""
        return BindingRecord(
            self.token,
            self.aor,
            self.flow,
            {uri: expires + epoch for uri, expires in self.contacts.items()},
            self.service_route,
            self.associated,
            self.mechanisms,
            self.key,
        )

    def status(self, now: float) -> dict[str, object]:
        """For the status document."""
        return {
            "aor": self.aor,
            "contact": next(iter(self.contacts), ""),
            "mechanisms": sorted(self.mechanisms),
            "flow": f"{self.flow.transport} {self.flow.remote}",
            "expires_in": round(self.expires - now),
        }


class Registering(Struct, frozen=True):
    """A REGISTER on its way: what its 200 will make a binding of. wildcard: `Contact: *`."""

    token: str
    key: tuple[str, str]
    aor: str
    access: AccessConfig
    flow: Flow
    contacts: tuple[str, ...]
    wildcard: bool
    mechanisms: frozenset[Mechanism]
    speaks_mediasec: bool


class Registrations(Struct):
    """All bindings, by token, by user, by the UE's flow, and by what a refresh is recognised by. shares: how
    many each host may have. of_user: how many each user. e2dce: how UEs tell of data channels. followers:
    called with the token of each that came, changed or went."""

    limit: int
    min_expires: int
    max_expires: int
    shares: Shares
    of_user: int
    tokens: FlowTokens
    e2dce: E2dce
    followers: list[Callable[[str], None]] = field(default_factory=list)
    _by_token: dict[str, Binding] = field(default_factory=dict)
    _by_key: dict[tuple[str, str], Binding] = field(default_factory=dict)
    _by_aor: dict[str, dict[str, Binding]] = field(default_factory=dict)
    _by_flow: dict[Flow, dict[str, Binding]] = field(default_factory=dict)
    _by_contact: dict[str, dict[str, Binding]] = field(default_factory=dict)
    _timers: Timers[Binding] = field(default_factory=Timers)

    def __len__(self) -> int:
        return len(self._by_token)

    def __iter__(self) -> Iterator[Binding]:
        return iter(self._by_token.values())

    def changed(self, token: str) -> None:
        """A binding came, changed or went."""
        for follower in self.followers:
            follower(token)

    def find(self, token: str) -> Binding | None:
        return self._by_token.get(token)

    def at(self, flow: Flow, identity: str = "") -> Binding | None:
        """The binding of the UE that sent something on a flow; where several users share one, the one whose
        identity it is."""
        bindings = self._by_flow.get(flow)
        if not bindings:
            return None
        if len(bindings) > 1 and identity:
            wanted = trust.user_of(identity)
            for binding in bindings.values():  # of hundreds it is almost always found so, and quickly
                if binding.aor == wanted:
                    return binding
            for binding in bindings.values():
                if any(trust.user_of(value) == wanted for value in binding.associated):
                    return binding
        return next(iter(bindings.values()))

    def aors(self, flow: Flow) -> frozenset[str]:
        """The users who have registered on a flow."""
        return frozenset(binding.aor for binding in self._by_flow.get(flow, {}).values())

    def by_contact(self, uri: str, called: Sequence[str]) -> Binding | None:
        """The binding with that Contact URI, for a core that keeps no Path. called: who the request says that
        it is for.

        Anybody may write anything into its Contact. Where two users have written the same, it is the one
        whose UE is seen at that address, else the one who is called; none where that does not tell either."""
        bindings = list(self._by_contact.get(uri, {}).values())
        if len({binding.aor for binding in bindings}) > 1:
            parsed = Uri.parse(uri)
            bindings = [binding for binding in bindings if is_at(binding.flow, parsed)] or bindings
        if len({binding.aor for binding in bindings}) > 1:
            users = {trust.user_of(value) for value in called}
            bindings = [
                binding for binding in bindings if users & {trust.user_of(own) for own in binding.associated}
            ]
        return bindings[-1] if len({binding.aor for binding in bindings}) == 1 else None

    def begin(self, request: Request, flow: Flow, access: AccessConfig, rng: Random) -> Registering:
        """A REGISTER has come. Raises PeerError with the status to refuse it with."""
        if request.to.parsed_uri.scheme not in ("sip", "sips"):  # RFC 3261 section 10.2
            raise PeerError("only who has a SIP URI can be registered", 400)
        aor = trust.same_user(request.to.uri)
        values = request.headers.values("Contact")
        if len(values) > MAX_CONTACTS:
            raise PeerError("too many contacts", 400)
        wildcard = values == ["*"]
        if wildcard and number(request.headers.get("Expires") or "", MAX_EXPIRES) != 0:
            raise PeerError("Contact: * without Expires: 0", 400)  # RFC 3261 section 10.2.2
        contacts = [] if wildcard else [NameAddr.parse(value) for value in values]
        for contact in contacts:
            place_of(contact.uri)  # a broken one is refused now
            wish = expires_of(contact, request)
            if 0 < wish < self.min_expires:
                raise PeerError("too short", 423)
        ended = [contact.uri for contact in contacts if not expires_of(contact, request)]
        stay = [contact for contact in contacts if contact.uri not in ended]
        named = next(iter(stay or contacts), None)
        key = (aor, instance_of(named) if named else "")
        known = self._by_key.get(key) or self._of_contact(aor, named, ended)
        if known is None and contacts:
            self._check_limits(flow, access)
        if known is not None and known.key[1] not in ended:  # else another UE may come with it
            key = known.key
        return Registering(
            known.token if known else self.tokens.mint(rng),
            key,
            aor,
            access,
            flow,
            tuple(contact.uri for contact in contacts),
            wildcard,
            self._mechanisms(request, contacts, access),
            mediasec.speaks(request.headers),
        )

    def _of_contact(self, aor: str, named: NameAddr | None, ended: Iterable[str]) -> Binding | None:
        """The binding of a UE that says no instance, by its Contact or one that it gives up: so PJSIP moves
        to another connection where the registrar does not know RFC 5626."""
        if named is None or named.param("+sip.instance"):
            return None
        for uri in (named.uri, *ended):
            for binding in self._by_aor.get(aor, {}).values():
                if uri in binding.contacts:
                    return binding
        return None

    def _mechanisms(
        self, request: Request, contacts: Iterable[NameAddr], access: AccessConfig
    ) -> frozenset[Mechanism]:
        """What the UE supports of what is served there. Each REGISTER says all of it."""
        found = mediasec.supported(request.headers, mediasec.served(access.mechanisms, self.e2dce))
        tagged = self.e2dce.implicit and any(mediasec.has_data_channels(contact) for contact in contacts)
        return found | {Mechanism.DATA_CHANNEL} if tagged else found

    def registered(self, registering: Registering, response: Response, now: float) -> Binding | None:
        """The registrar's 200 says what holds now; None where nothing is left of the binding. Raises
        PeerError where there is no room for it."""
        if registering.wildcard:
            for binding in list(self._by_aor.get(registering.aor, {}).values()):
                self.remove(binding)
            return None
        given: dict[Place, int] = {}
        for value in response.headers.values("Contact"):
            with contextlib.suppress(BadMessage):
                contact = NameAddr.parse(value)
                given[place_of(contact.uri)] = expires_of(contact, response)
        if not registering.contacts:  # a query
            return self._by_token.get(registering.token)
        found = self._by_key.get(registering.key), self._by_token.get(registering.token)
        old = {binding.token: binding for binding in found if binding is not None}.values()
        before = [uri for binding in old for uri in binding.contacts if uri not in registering.contacts]
        alive = {  # one that is not listed any more was replaced, as by a UE that moved (RFC 5626 section 6)
            uri: now + min(given[same], self.max_expires)
            for uri in (*before, *registering.contacts)
            if given.get(same := place_of(uri), 0) > 0
        }
        for binding in old:
            self.remove(binding)
        if not alive:
            return None
        if not old:  # others may have come in the meantime
            self._check_limits(registering.flow, registering.access)
            self._make_room(registering.aor)
        alive = dict(list(alive.items())[-MAX_CONTACTS:])
        identities = [value for value in response.headers.values("P-Associated-URI") if trust.user_of(value)]
        binding = Binding(
            registering.token,
            registering.aor,
            registering.access,
            registering.flow,
            alive,
            tuple(response.headers.values("Service-Route")),
            tuple(identities) or (f"<{registering.aor}>",),
            registering.mechanisms,
            registering.key,
        )
        self._add(binding)
        self.changed(binding.token)
        return binding

    def restore(
        self, record: BindingRecord, access: AccessConfig, now: float, epoch: float
    ) -> Binding | None:
        """The binding of a record, where it has not expired meanwhile. epoch: what the wall clock shows at
        zero of `now`."""
        latest = now + self.max_expires  # whatever was done to the clock
        contacts = {
            uri: min(expires - epoch, latest)
            for uri, expires in record.contacts.items()
            if expires - epoch > now
        }
        if not contacts or len(self) >= self.limit or self._has_all(record.aor):
            return None
        binding = Binding(
            record.token,
            record.aor,
            access,
            record.flow,
            contacts,
            record.service_route,
            record.associated,
            record.mechanisms & mediasec.allowed(access.mechanisms, self.e2dce),
            record.key,
            lost=record.flow.transport.reliable,  # its connection was to the process before us
        )
        self._add(binding)
        return binding

    def _add(self, binding: Binding) -> None:
        self._by_token[binding.token] = self._by_key[binding.key] = binding
        _file(self._by_aor, binding.aor, binding)
        if not binding.lost:
            _file(self._by_flow, binding.flow, binding)
        self.shares.take(source_of(binding.flow.remote.host))
        for uri in binding.contacts:
            _file(self._by_contact, uri, binding)
        binding.timer = self._timers.start(binding.expires, binding)

    def lose(self, flow: Flow) -> None:
        """A connection has gone. Whoever comes from the same address and port later on is somebody else."""
        for binding in self._by_flow.pop(flow, {}).values():
            binding.lost = True

    def deregistered(self, binding: Binding, contacts: Iterable[str]) -> bool:
        """The registrar has taken Contact URIs away, in its own spelling: whether nothing is left of the
        binding, which is gone then."""
        ended = set()
        for uri in contacts:
            with contextlib.suppress(BadMessage):
                ended.add(place_of(uri))
        left = {uri: when for uri, when in binding.contacts.items() if place_of(uri) not in ended}
        if len(left) == len(binding.contacts):
            return False
        self.remove(binding)
        binding.contacts = left
        if left:
            self._add(binding)
            self.changed(binding.token)
        return not left

    def _check_limits(self, flow: Flow, access: AccessConfig) -> None:
        """Of one more binding. Raises PeerError."""
        if len(self._by_token) >= self.limit:
            raise PeerError("too many registrations", 503)
        if self.shares.full(source_of(flow.remote.host)) and flow.remote.host not in access.trusted:
            raise PeerError("too many registrations of one host", 503)

    def _has_all(self, aor: str) -> bool:
        """Whether a user has as many bindings as he may."""
        return len(self._by_aor.get(aor, ())) >= self.of_user

    def _make_room(self, aor: str) -> None:
        """For one more binding of a user. To refuse some is the registrar's (403, TS 24.229 clause
        5.4.1.2.2), and it has taken this one. The first to go are those that cannot be reached, then the one
        that was refreshed longest ago: a UE that comes each time as another one, as without an instance over
        TCP, shall not lock its user out. What is for the one that went is answered 430, by which the
        registrar learns it (RFC 5626 section 5.3)."""
        while self._has_all(aor):
            bindings = self._by_aor[aor].values()
            self.remove(next((binding for binding in bindings if binding.lost), next(iter(bindings))))

    def remove(self, binding: Binding) -> None:
        if self._by_token.pop(binding.token, None) is None:
            return
        self.changed(binding.token)
        self._by_key.pop(binding.key, None)
        self.shares.give_back(source_of(binding.flow.remote.host))
        _unfile(self._by_aor, binding.aor, binding)
        for uri in binding.contacts:
            _unfile(self._by_contact, uri, binding)
        if not binding.lost:
            _unfile(self._by_flow, binding.flow, binding)
        if binding.timer is not None:
            self._timers.cancel(binding.timer)

    def timeout(self) -> float | None:
        return self._timers.next()

    def expire(self, now: float) -> list[Binding]:
        """Take away what has expired, and tell it."""
        gone = []
        while (binding := self._timers.expired(now)) is not None:
            self.remove(binding)
            gone.append(binding)
        return gone


def _file(index: dict[T, dict[str, Binding]], key: T, binding: Binding) -> None:
    index.setdefault(key, {})[binding.token] = binding


def _unfile(index: dict[T, dict[str, Binding]], key: T, binding: Binding) -> None:
    others = index[key]
    del others[binding.token]
    if not others:
        del index[key]
