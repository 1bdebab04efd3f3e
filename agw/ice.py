"""ICE lite (RFC 8445 section 2.5) on one port, without IO: answers connectivity checks, and so learns where
the peer is.

A lite agent sends no checks and is always controlled; the peer nominates. Where nominated a check came from
is *selected*; a later one moves that, as browsers do when they change networks. Every source of an authentic
check is *verified*: whoever is there knows our password, which only signalling has.

Others' credentials are a restart (RFC 8445 section 9). Until the peer nominates under the new ones the old
ones are good too, and what was selected stays. The peer's consent to receive is seen in its own checks, which
it repeats every few seconds (RFC 7675): where none comes for CONSENT seconds that is told once.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from aioice import stun

CONSENT = 30.0  # seconds; RFC 7675 section 5.1
MAX_VERIFIED = 16  # sources of checks that are remembered
MAX_ATTRIBUTES = 32

Source = tuple[str, int]

_BINDING_REQUEST = 0x0001
_UNKNOWN_ATTRIBUTES = 0x000A
_MESSAGE_INTEGRITY = 0x0008
_FINGERPRINT = 0x8028


@dataclass(frozen=True, slots=True)
class Credentials:
    """remote_ufrag: the peer's; "" while it is not known."""

    ufrag: str
    pwd: str = field(repr=False)
    remote_ufrag: str = ""


class Agent:
    """receive() gives the answer to send back, if any; expire() at timeout() says whether consent was lost.

    selected: where the peer wants our packets; None until it has said so.
    """

    def __init__(self, credentials: Credentials) -> None:
        self.selected: Source | None = None
        self._current = credentials
        self._previous: Credentials | None = None
        self._verified: dict[Source, None] = {}  # the most recent last
        self._heard = 0.0  # the last check from `selected`
        self._lost = False

    def signal(self, credentials: Credentials) -> None:
        """Others of ours are a restart. In use are still those from before the first that is not done."""
        current = self._current
        if (credentials.ufrag, credentials.pwd) != (current.ufrag, current.pwd):
            self._previous = self._previous or current
        self._current = credentials

    def verified(self, source: Source) -> bool:
        return source in self._verified

    def receive(self, datagram: bytes, source: Source, now: float) -> bytes | None:
        """Only a binding request with a FINGERPRINT is answered, so an answer is hardly longer than what was
        asked; all else is dropped (RFC 8445 section 7.1.2, RFC 8489 section 6.3)."""
        try:
            unknown = _walk(datagram)
            request = stun.parse_message(datagram)
        except (ValueError, struct.error):
            return None
        if "FINGERPRINT" not in request.attributes:
            return None
        username: str | None = request.attributes.get("USERNAME")
        if username is None or "MESSAGE-INTEGRITY" not in request.attributes:
            return _error(request, 400)
        if (credentials := self._find(username)) is None:
            return _error(request, 401)
        key = credentials.pwd.encode()
        if not request.check_message_integrity(key):
            return _error(request, 401)
        if unknown:
            return _error(request, 420, key, unknown)
        if "ICE-CONTROLLED" in request.attributes:  # two controlled: the peer has to give way
            return _error(request, 487, key)
        self._verify(source, credentials, "USE-CANDIDATE" in request.attributes, now)
        return _signed(_message(request, stun.Class.RESPONSE, {"XOR-MAPPED-ADDRESS": source}), key)

    def timeout(self) -> float | None:
        return None if self.selected is None or self._lost else self._heard + CONSENT

    def expire(self, now: float) -> bool:
        at = self.timeout()
        self._lost = self._lost or (at is not None and now >= at)
        return at is not None and self._lost

    # -- inside --

    def _find(self, username: str) -> Credentials | None:
        """RFC 8445 section 7.3: it has our ufrag first. The peer's comes behind."""
        ours, _, theirs = username.partition(":")
        for each in (self._current, self._previous):
            if each is not None and ours == each.ufrag and each.remote_ufrag in ("", theirs):
                return each
        return None

    def _verify(self, source: Source, credentials: Credentials, nominated: bool, now: float) -> None:
        self._verified.pop(source, None)
        self._verified[source] = None
        if len(self._verified) > MAX_VERIFIED:
            del self._verified[next(each for each in self._verified if each != self.selected)]
        if nominated:
            if credentials is self._current and self._previous is not None:
                self._previous = None
                self._verified = {source: None}
            self.selected = source
        if source == self.selected:
            self._heard = now
            self._lost = False


def _walk(datagram: bytes) -> list[int]:
    """The attributes that have to be understood and are not (RFC 8489 section 6.3.1). Raises ValueError for
    what is no well-formed binding request; aioice's parser takes lengths as they are."""
    if len(datagram) < 20:
        raise ValueError("too short")
    kind, length, cookie = struct.unpack_from("!HHI", datagram)
    if kind != _BINDING_REQUEST or cookie != stun.COOKIE or length != len(datagram) - 20 or length % 4:
        raise ValueError("no binding request")
    unknown: list[int] = []
    authenticated = True
    at = 20
    for _ in range(MAX_ATTRIBUTES):
        if at == len(datagram):
            return unknown
        type_, size = struct.unpack_from("!HH", datagram, at)
        at += 4 + size + -size % 4
        if at > len(datagram):
            raise ValueError("an attribute is longer than the message")
        if type_ == _FINGERPRINT and at != len(datagram):
            raise ValueError("something follows FINGERPRINT")
        if authenticated and type_ < 0x8000 and type_ not in stun.ATTRIBUTES_BY_TYPE:
            unknown.append(type_)
        authenticated = authenticated and type_ != _MESSAGE_INTEGRITY  # what follows is ignored
    raise ValueError("too many attributes")


def _message(request: stun.Message, class_: stun.Class, attributes: dict[str, object]) -> bytes:
    return bytes(stun.Message(stun.Method.BINDING, class_, request.transaction_id, attributes))


def _error(request: stun.Message, code: int, key: bytes = b"", unknown: list[int] | None = None) -> bytes:
    message = _message(request, stun.Class.ERROR, {"ERROR-CODE": (code, "")})
    if unknown:
        message = _with(message, _UNKNOWN_ATTRIBUTES, struct.pack(f"!{len(unknown)}H", *unknown))
    return _signed(message, key)


def _signed(message: bytes, key: bytes) -> bytes:
    """With MESSAGE-INTEGRITY, where there is a key, and FINGERPRINT."""
    if key:
        message = _with(message, _MESSAGE_INTEGRITY, stun.message_integrity(message, key))
    return _with(message, _FINGERPRINT, struct.pack("!I", stun.message_fingerprint(message)))


def _with(message: bytes, type_: int, value: bytes) -> bytes:
    message += struct.pack("!HH", type_, len(value)) + value + bytes(-len(value) % 4)
    return stun.set_body_length(message, len(message) - stun.HEADER_LENGTH)
