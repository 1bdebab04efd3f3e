"""The P-CSCF as a subscriber to registration state (TS 24.229 clauses 5.2.3 and 5.2.5.2, RFC 3680): the home
network tells here that it has taken a registration away.

There is one subscription for each user with a binding, whichever of the user's devices made it. A binding
that came, changed or went is told by `changed` and looked at in `settle`, which is called after each input;
what is to be done lies in `effects` then.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from random import Random

from msgspec import Struct, field

from imsalg import trust
from imsalg.anchor import Side
from imsalg.config import ProxyConfig
from imsalg.crossing import Crossing, Hops, Note, Send
from imsalg.errors import BadMessage, PeerError
from imsalg.reginfo import RegInfo, Registration, Standing
from imsalg.registration import Binding, Registrations
from imsalg.routes import Routes, usual
from imsalg.sip.hop import Flow
from imsalg.sip.message import Request, Response, make_response
from imsalg.sip.timers import Timers, earliest
from imsalg.subscription import State, Subscription

PATIENCE = 64  # times T1
PACE = 0.01  # seconds from one user to the next after a restart


class Deregistered(Struct, frozen=True):
    """The home network has taken a UE's registration away; its binding is gone."""

    binding: Binding


class _User(Struct, eq=False):
    """What is subscribed to, for these bindings, by token."""

    subscription: Subscription
    bindings: dict[str, Binding] = field(default_factory=dict)


class RegEvent:
    """effects: to be taken away by who carries them out. `len()` is the number of subscriptions."""

    def __init__(
        self, config: ProxyConfig, routes: Routes, registrations: Registrations, rng: Random
    ) -> None:
        self.effects: list[Send | Deregistered | Note] = []
        self._here = config.core.listen
        self._patience = PATIENCE * config.sip.t1
        self._limit = 2 * config.limits.registrations  # some may be ending
        self._routes = routes
        self._registrations = registrations
        self._rng = rng
        self._changed: dict[str, None] = {}  # tokens
        self._users: dict[str, _User] = {}  # by default public identity
        self._subjects: dict[str, str] = {}  # token of a binding -> its user's
        self._by_call_id: dict[str, Subscription] = {}
        self._timers: Timers[Subscription] = Timers()
        self._later: Timers[str] = Timers()  # tokens

    def __len__(self) -> int:
        return len(self._by_call_id)

    def changed(self, token: str) -> None:
        """A binding came, changed or went."""
        self._changed[token] = None

    def resume(self, now: float) -> None:
        """We have restarted. The dialogs of the subscriptions are forgotten, and their NOTIFYs answered 481;
        the users are subscribed to anew, at a pace that the home network can bear."""
        for number, binding in enumerate(self._registrations):
            self._later.start(now + number * PACE, binding.token)

    def settle(self, now: float) -> None:
        """Follow what has changed in the registrations."""
        changed, self._changed = self._changed, {}
        for token in changed:
            binding = self._registrations.find(token)
            subject = self._subjects.get(token)
            wanted = _subject(binding) if binding is not None else None
            if subject is not None and subject != wanted:
                self._forget(subject, token, now)
            if binding is not None and wanted is not None:
                self._follow(wanted, binding, now)

    def responded(self, subscription: Subscription, request: Request, response: Response, now: float) -> None:
        """A response to one of our requests; a time-out counts as 408."""
        subscription.responded(request, response, now)
        self._after(subscription, now)

    def notified(self, request: Request, now: float) -> None:
        """A NOTIFY to our own address, from the home network. Raises PeerError with the status to answer."""
        subscription = self._by_call_id.get(request.call_id)
        if subscription is None:
            raise PeerError("no such subscription", 481)
        document = subscription.notified(request, now)
        self._after(subscription, now)
        user = self._users.get(subscription.subject)
        if document is not None and user is not None and user.subscription is subscription:
            for binding in list(user.bindings.values()):
                self._apply(document, binding)

    def expire(self, now: float) -> None:
        while (token := self._later.expired(now)) is not None:
            self.changed(token)
        self.settle(now)
        while (subscription := self._timers.expired(now)) is not None:
            subscription.running = None
            subscription.expire(now)
            self._after(subscription, now)

    def timeout(self) -> float | None:
        return earliest(self._timers.next(), self._later.next())

    # -- bindings

    def _follow(self, subject: str, binding: Binding, now: float) -> None:
        user = self._users.get(subject)
        if user is None:
            if len(self) >= self._limit:
                self._note(logging.WARNING, f"no subscription for {subject}: too many are ending")
                return
            user = self._users[subject] = _User(
                Subscription(
                    subject, binding.token, binding.expires, self._here, self._patience, self._rng, now
                )
            )
        user.bindings[binding.token] = binding
        self._subjects[binding.token] = subject
        user.subscription.until = max(each.expires for each in user.bindings.values())
        self._after(user.subscription, now)

    def _forget(self, subject: str, token: str, now: float) -> None:
        user = self._users[subject]
        del self._subjects[token], user.bindings[token]
        if not user.bindings:
            del self._users[subject]
            user.subscription.end(now)
            self._after(user.subscription, now)

    def _apply(self, document: RegInfo, binding: Binding) -> None:
        """TS 24.229 clause 5.2.5.2. What a document leaves out is not taken for gone."""
        for registration in document.registrations:
            if registration.standing is Standing.INIT:
                continue
            with suppress(BadMessage):
                aor = trust.same_user(registration.aor)
                if aor == binding.aor:
                    self._apply_to(binding, registration)
                elif registration.standing is Standing.TERMINATED:
                    left = tuple(value for value in binding.associated if trust.user_of(value) != aor)
                    if left and left != binding.associated:
                        binding.associated = left
                        self._registrations.changed(binding.token)

    def _apply_to(self, binding: Binding, registration: Registration) -> None:
        if self._registrations.find(binding.token) is not binding:
            return
        if registration.standing is Standing.TERMINATED:
            self._registrations.remove(binding)
            why = ", ".join(sorted(set(registration.ended.values()))) or "terminated"
        elif self._registrations.deregistered(binding, registration.ended):
            why = ", ".join(sorted(set(registration.ended.values())))
        else:
            return
        self._note(logging.INFO, f"{binding.aor} was deregistered by the home network: {why}")
        self.effects.append(Deregistered(binding))

    # -- subscriptions

    def _after(self, subscription: Subscription, now: float) -> None:
        """Take what it wants sent, and keep its place in the table and its timer."""
        while subscription.to_send:
            request = subscription.to_send.pop(0)
            try:
                hops = (self._routes.to_core if request.to.tag else self._routes.to_home)(request)
            except PeerError:
                subscription.responded(request, make_response(request, 503), now)
            else:
                self._address(request, hops, subscription.token)
                here = Flow(usual(hops), self._here, self._here)
                crossing = Crossing(Side.ACCESS, request, request.copy(), here, hops)
                crossing.subscription = subscription
                self.effects.append(Send(crossing))
        if subscription.failure:
            self._note(logging.INFO, f"subscription for {subscription.subject}: {subscription.failure}")
            subscription.failure = ""
        over = subscription.state is State.OVER
        if subscription.filed != subscription.call_id or over:
            self._by_call_id.pop(subscription.filed, None)
            subscription.filed = subscription.call_id
        if not over:
            self._by_call_id[subscription.call_id] = subscription
        when = None if over else subscription.deadline
        running = subscription.running
        if running is not None and running.when != when:
            self._timers.cancel(running)
            running = None
        if running is None and when is not None:
            running = self._timers.start(when, subscription)
        subscription.running = running

    def _address(self, request: Request, hops: Hops, token: str) -> None:
        """Who we are (TS 24.229 clause 5.2.3): the Path URI of the registration says it to the S-CSCF."""
        request.headers.append("Contact", self._routes.contact(usual(hops)))
        request.headers.append("P-Asserted-Identity", self._routes.path(token, hops, outbound=False))
        trust.charge(request.headers, self._rng.randbytes(12).hex(), self._here.host)

    def _note(self, level: int, text: str) -> None:
        self.effects.append(Note(level, text))


def _subject(binding: Binding) -> str | None:
    """The user's default public identity as a SIP URI; None where there is none."""
    identities = (trust.user_of(value) for value in (*binding.associated, f"<{binding.aor}>"))
    return next((each for each in identities if each and each.startswith(("sip:", "sips:"))), None)
