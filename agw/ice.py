"""ICE lite (RFC 8445 section 2.5) on one port, without IO: answers connectivity checks, and so learns where
the peer is.

A lite agent sends no checks and is always controlled; the peer nominates. Where nominated a check came from
is *selected*; a later one moves that, as browsers do when they change networks. Every source of an authentic
check is *verified*: whoever is there knows our password, which only signalling has.

A check does not say where it was sent from, so one that was seen on its way could be sent again from
elsewhere. What repeats a transaction is answered, for the first answer may be lost (RFC 8489 section 6.3),
and nothing is learnt from it; the transactions of some minutes are remembered.

Others' credentials are a restart (RFC 8445 section 9). Until the peer nominates under the new ones the old
ones are good too, and what was selected stays. The peer's consent to receive is seen in its own checks, which
it repeats every few seconds (RFC 7675): where none comes for CONSENT seconds that is told once.
"""

from __future__ import annotations

import hmac
import ipaddress
import struct
from binascii import crc32
from collections import deque
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

CONSENT = 30.0  # seconds; RFC 7675 section 5.1
MAX_VERIFIED = 16  # sources of checks that are remembered
MAX_TRANSACTIONS = 128  # of checks that are remembered; a peer begins one every few seconds
MAX_ATTRIBUTES = 32

Source = tuple[str, int]


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
        self._transactions: deque[bytes] = deque(maxlen=MAX_TRANSACTIONS)
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
        if (request := _parse(datagram)) is None:
            return None
        username = request.attributes.get(_USERNAME)
        if username is None or _MESSAGE_INTEGRITY not in request.attributes:
            return _error(request, 400)
        if (credentials := self._find(username)) is None:
            return _error(request, 401)
        key = credentials.pwd.encode()
        integrity = _integrity(_BINDING_REQUEST, request.transaction, request.signed, key)
        if not hmac.compare_digest(request.attributes[_MESSAGE_INTEGRITY], integrity):
            return _error(request, 401)
        if unknown := [each for each in request.attributes if each < 0x8000 and each not in _UNDERSTOOD]:
            return _error(request, 420, key, unknown)
        if _ICE_CONTROLLED in request.attributes:  # two controlled: the peer has to give way
            return _error(request, 487, key)
        if request.transaction not in self._transactions:
            self._transactions.append(request.transaction)
            self._verify(source, credentials, _USE_CANDIDATE in request.attributes, now)
        mapped = _attribute(_XOR_MAPPED_ADDRESS, _xored(source, request.transaction))
        return _message(_BINDING_SUCCESS, request.transaction, mapped, key)

    def timeout(self) -> float | None:
        return None if self.selected is None or self._lost else self._heard + CONSENT

    def expire(self, now: float) -> bool:
        at = self.timeout()
        self._lost = self._lost or (at is not None and now >= at)
        return at is not None and self._lost

    # -- inside --

    def _find(self, username: bytes) -> Credentials | None:
        """RFC 8445 section 7.3: it has our ufrag first. The peer's comes behind."""
        ours, _, theirs = username.partition(b":")
        for each in (self._current, self._previous):
            if (
                each is not None
                and ours == each.ufrag.encode()
                and each.remote_ufrag.encode() in (b"", theirs)
            ):
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


# -- STUN (RFC 8489): the one request and its answers --------------------------------------------------------

_HEADER = struct.Struct("!HHI12s")  # type, length, cookie, transaction
_ATTRIBUTE = struct.Struct("!HH")  # type, length
_LAST = struct.Struct("!HHI")  # FINGERPRINT
_COOKIE = 0x2112A442
_COOKIE_OCTETS = _COOKIE.to_bytes(4, "big")

_BINDING_REQUEST, _BINDING_SUCCESS, _BINDING_ERROR = 0x0001, 0x0101, 0x0111

_USERNAME = 0x0006
_MESSAGE_INTEGRITY = 0x0008
_ERROR_CODE = 0x0009
_UNKNOWN_ATTRIBUTES = 0x000A
_XOR_MAPPED_ADDRESS = 0x0020
_PRIORITY, _USE_CANDIDATE = 0x0024, 0x0025  # RFC 8445 section 16.1
_FINGERPRINT = 0x8028
_ICE_CONTROLLED = 0x8029
_UNDERSTOOD = frozenset(
    {
        *(_USERNAME, _MESSAGE_INTEGRITY, _PRIORITY, _USE_CANDIDATE),
        # MAPPED-ADDRESS, REALM, NONCE: not expected here, and so ignored (RFC 8489 section 6.3)
        *(0x0001, _ERROR_CODE, _UNKNOWN_ATTRIBUTES, 0x0014, 0x0015, _XOR_MAPPED_ADDRESS),
    }
)


class _Request(NamedTuple):
    """attributes: the first of each type. What follows MESSAGE-INTEGRITY is not among them; what comes before
    it is `signed`."""

    transaction: bytes
    attributes: dict[int, bytes]
    signed: bytes


def _parse(datagram: bytes) -> _Request | None:
    """None: it is no well-formed binding request that ends with a right FINGERPRINT."""
    end = len(datagram) - _LAST.size
    if end < _HEADER.size:
        return None
    kind, length, cookie, transaction = _HEADER.unpack_from(datagram)
    if (kind, cookie) != (_BINDING_REQUEST, _COOKIE) or length != len(datagram) - _HEADER.size or length % 4:
        return None
    if datagram[end:] != _fingerprint(datagram[:end]):
        return None
    attributes: dict[int, bytes] = {}
    signed = b""
    at = _HEADER.size
    for _ in range(MAX_ATTRIBUTES):
        if at == end:
            return _Request(transaction, attributes, signed)
        type_, size = _ATTRIBUTE.unpack_from(datagram, at)
        value = at + _ATTRIBUTE.size
        if _MESSAGE_INTEGRITY not in attributes:
            attributes.setdefault(type_, datagram[value : value + size])
            if type_ == _MESSAGE_INTEGRITY:
                signed = datagram[_HEADER.size : at]
        at = value + size + -size % 4
        if at > end:
            return None
    return None


def _error(request: _Request, code: int, key: bytes = b"", unknown: list[int] | None = None) -> bytes:
    body = _attribute(_ERROR_CODE, bytes([0, 0, code // 100, code % 100]))
    if unknown:
        body += _attribute(_UNKNOWN_ATTRIBUTES, struct.pack(f"!{len(unknown)}H", *unknown))
    return _message(_BINDING_ERROR, request.transaction, body, key)


def _message(kind: int, transaction: bytes, body: bytes, key: bytes) -> bytes:
    """With MESSAGE-INTEGRITY, where there is a key, and FINGERPRINT. Each is made of a message whose length
    ends with it (RFC 8489 sections 14.5 and 14.7)."""
    if key:
        body += _attribute(_MESSAGE_INTEGRITY, _integrity(kind, transaction, body, key))
    message = _HEADER.pack(kind, len(body) + _LAST.size, _COOKIE, transaction) + body
    return message + _fingerprint(message)


def _integrity(kind: int, transaction: bytes, body: bytes, key: bytes) -> bytes:
    """body: all that comes before it."""
    header = _HEADER.pack(kind, len(body) + _ATTRIBUTE.size + 20, _COOKIE, transaction)
    return hmac.digest(key, header + body, "sha1")


def _fingerprint(message: bytes) -> bytes:
    """The attribute; message: all that comes before it, with a length that ends with it."""
    return _LAST.pack(_FINGERPRINT, 4, crc32(message) ^ 0x5354554E)


def _attribute(type_: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(type_, len(value)) + value + bytes(-len(value) % 4)


def _xored(source: Source, transaction: bytes) -> bytes:
    """RFC 8489 section 14.2."""
    family, host = _packed(source[0])
    pad = int.from_bytes((_COOKIE_OCTETS + transaction)[: len(host)], "big")
    octets = (int.from_bytes(host, "big") ^ pad).to_bytes(len(host), "big")
    return struct.pack("!BBH", 0, family, source[1] ^ _COOKIE >> 16) + octets


@lru_cache(maxsize=1024)
def _packed(host: str) -> tuple[int, bytes]:
    """The family, as STUN has it, and the octets."""
    address = ipaddress.ip_address(host)
    return 1 if address.version == 4 else 2, address.packed
