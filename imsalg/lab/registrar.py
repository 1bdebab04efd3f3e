"""The registrar of the lab: REGISTER to bindings (RFC 3261 section 10.3) with Path (RFC 3327) and
Service-Route (RFC 3608).

Every user of the domain exists and has the same password. A binding is one contact address of a user; it is
found again by user part, host and port of its URI, and dies at its time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from imsalg.errors import PeerError
from imsalg.lab.digest import Digest, Verdict
from imsalg.sip.grammar import number
from imsalg.sip.message import Request, Response, make_response
from imsalg.sip.timers import Running, Timers
from imsalg.sip.values import NameAddr, Uri

DEFAULT_EXPIRES = 600  # seconds, where the client names none
MAX_EXPIRES = 3600
MAX_USERS = 10_000
MAX_BINDINGS = 8  # of one user; a further one takes the place of the oldest
MAX_PATH = 8  # proxies between us and the client

log = logging.getLogger(__name__)
Key = tuple[str | None, str, int | None]


class Refused(PeerError):
    """A request that is answered with `status` and these header fields."""

    def __init__(self, reason: str, status: int, *headers: tuple[str, str]) -> None:
        super().__init__(reason, status)
        self.headers = headers


@dataclass(frozen=True, slots=True)
class Binding:
    """uri: of the contact, as it came. path: the Route values to reach it, nearest to us first. until:
    absolute seconds. call_id and cseq: of the REGISTER that made it."""

    uri: str
    path: tuple[str, ...]
    until: float
    call_id: str
    cseq: int
    timer: Running[tuple[str, Key]]


class Registrar:
    """domain: host part of the users' addresses and realm. service_route: the URI clients shall route by.
    is_home: whether a URI is of the domain."""

    def __init__(
        self, domain: str, password: str, service_route: str, is_home: Callable[[Uri], bool], rng: Random
    ) -> None:
        self._domain = domain
        self._is_home = is_home
        self._service_route = service_route
        self._digest = Digest(domain, password, rng)
        self._users: dict[str, dict[Key, Binding]] = {}  # also those that have been here once
        self._timers: Timers[tuple[str, Key]] = Timers()

    def register(self, request: Request, now: float) -> Response:
        """What to answer to a REGISTER; raises PeerError for what is to be refused."""
        if unknown := [tag for tag in request.headers.values("Require") if tag.lower() != "path"]:
            raise Refused("extension required", 420, ("Unsupported", ", ".join(unknown)))
        user = self._user(request)
        match self._digest.check(request, now):
            case Verdict.NOTHING:
                return self._challenge(request, now, stale=False)
            case Verdict.STALE:
                return self._challenge(request, now, stale=True)
            case Verdict.WRONG:  # TS 24.229 clause 5.4.1.2.3A
                log.info("%s: wrong password", user)
                raise Refused("wrong password", 403)
        self._bind(user, request, now)
        return self._accept(user, request, now)

    def bindings(self, user: str) -> list[Binding] | None:
        """The living ones of a user; None for one who has never been here."""
        found = self._users.get(user)
        return None if found is None else list(found.values())

    def expire(self, now: float) -> None:
        while (due := self._timers.expired(now)) is not None:
            user, key = due
            log.info("%s: %s has expired", user, self._users[user].pop(key).uri)

    def timeout(self) -> float | None:
        return self._timers.next()

    def status(self, now: float) -> list[dict[str, Any]]:
        """One JSON-able dict for each binding. direct: there is no proxy between us and the client."""
        return [
            {
                "aor": f"sip:{user}@{self._domain}",
                "contact": binding.uri,
                "direct": not binding.path,
                "expires_in": round(binding.until - now),
            }
            for user, bindings in self._users.items()
            for binding in bindings.values()
        ]

    # -- REGISTER --------------------------------------------------------------------------------------------

    def _user(self, request: Request) -> str:
        uri = request.to.parsed_uri
        if uri.scheme != "sip" or not uri.user or not self._is_home(uri):
            raise Refused(f"no user of {self._domain}", 404)
        return uri.user

    def _challenge(self, request: Request, now: float, *, stale: bool) -> Response:
        response = make_response(request, 401)
        response.headers.append("WWW-Authenticate", self._digest.challenge(now, stale=stale))
        return response

    def _bind(self, user: str, request: Request, now: float) -> None:
        """RFC 3261 section 10.3 steps 6 and 7; all of it or nothing."""
        contacts = request.headers.values("Contact")
        default = _expires(request.headers.get("Expires"), DEFAULT_EXPIRES)
        path = tuple(request.headers.values("Path"))
        if len(path) > MAX_PATH or len(contacts) > MAX_BINDINGS:
            raise Refused("too many Path or Contact values", 403)
        for value in path:
            _key(NameAddr.parse(value).parsed_uri)
        bindings = self._users.get(user, {})
        if contacts == ["*"]:
            if default:
                raise Refused("Contact: * without Expires: 0", 400)
            wanted = [(key, binding.uri, 0) for key, binding in bindings.items()]
        else:
            parsed = [NameAddr.parse(contact) for contact in contacts]
            wanted = [(_key(c.parsed_uri), c.uri, _expires(c.param("expires"), default)) for c in parsed]
        call_id, cseq = request.call_id, request.cseq.number
        for key, _, _ in wanted:
            old = bindings.get(key)
            if old and old.call_id == call_id and old.cseq >= cseq:
                raise Refused("a REGISTER out of order", 500)
        if user not in self._users:
            self._make_room()
        bindings = self._users.setdefault(user, {})
        for key, uri, seconds in wanted:
            self._unbind(bindings, key)
            if seconds:
                if len(bindings) >= MAX_BINDINGS:
                    self._unbind(bindings, next(iter(bindings)))
                until = now + seconds
                timer = self._timers.start(until, (user, key))
                bindings[key] = Binding(uri, path, until, call_id, cseq, timer)
            log.info("%s: %s %s", user, uri, f"registered for {seconds} s" if seconds else "unregistered")

    def _unbind(self, bindings: dict[Key, Binding], key: Key) -> None:
        if (old := bindings.pop(key, None)) is not None:
            self._timers.cancel(old.timer)

    def _make_room(self) -> None:
        if len(self._users) >= MAX_USERS:
            gone = next((user for user, bindings in self._users.items() if not bindings), None)
            if gone is None:
                raise Refused("too many users", 503, ("Retry-After", "60"))
            del self._users[gone]

    def _accept(self, user: str, request: Request, now: float) -> Response:
        response = make_response(request, 200)
        response.headers.copy_lines(request.headers, "Path")  # RFC 3327 section 5.3
        for binding in self._users[user].values():
            response.headers.append("Contact", f"<{binding.uri}>;expires={round(binding.until - now)}")
        response.headers.append("Service-Route", f"<{self._service_route}>")
        response.headers.append("P-Associated-URI", f"<sip:{user}@{self._domain}>")  # RFC 7315 section 4.1
        return response


def _key(uri: Uri) -> Key:
    if uri.scheme != "sip" or not uri.host:
        raise Refused("a Contact or Path that is no SIP URI", 400)
    return uri.user, uri.host.lower(), uri.port


def _expires(text: str | None, default: int) -> int:
    """Seconds, at most MAX_EXPIRES; what is no number counts as absent (RFC 3261 section 10.2.1.1)."""
    seconds = None if text is None else number(text, 2**32)
    return default if seconds is None else min(seconds, MAX_EXPIRES)
