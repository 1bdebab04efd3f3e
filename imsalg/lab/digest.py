"""Digest authentication of REGISTER as a registrar does it: MD5 with qop=auth (RFC 2617 section 3, RFC 3261
section 22.4).

Nonces are kept here, each with its latest count, so that a response cannot be played again; the table is
bounded and forgets the oldest.
"""

from __future__ import annotations

import hmac
import re
from dataclasses import dataclass
from enum import Enum
from hashlib import md5
from random import Random

from imsalg.sip.grammar import split_commas, unquote
from imsalg.sip.message import Request

NONCE_LIFETIME = 600.0  # seconds
MAX_NONCES = 10_000


class Verdict(Enum):
    GOOD = "good"
    NOTHING = "nothing"  # no credentials for this realm, or the empty ones of an IMS client's first REGISTER
    STALE = "stale"  # the password may be right, but the nonce is unknown, too old or was used before
    WRONG = "wrong"


@dataclass(slots=True)
class _Nonce:
    until: float
    count: int = 0


class Digest:
    """One realm in which every user has the same password."""

    def __init__(self, realm: str, password: str, rng: Random) -> None:
        self.realm = realm
        self._password = password
        self._rng = rng
        self._nonces: dict[str, _Nonce] = {}  # the oldest first

    def challenge(self, now: float, *, stale: bool = False) -> str:
        """A WWW-Authenticate value with a fresh nonce."""
        nonce = self._rng.randbytes(16).hex()
        if len(self._nonces) >= MAX_NONCES:
            del self._nonces[next(iter(self._nonces))]
        self._nonces[nonce] = _Nonce(now + NONCE_LIFETIME)
        said = ", stale=true" if stale else ""
        return f'Digest realm="{self.realm}", nonce="{nonce}", algorithm=MD5, qop="auth"{said}'

    def check(self, request: Request, now: float) -> Verdict:
        """Whether the request's Authorization proves the password."""
        given = self._credentials(request)
        if given is None or not given.get("nonce"):
            return Verdict.NOTHING
        if given.get("qop") != "auth" or not re.fullmatch("[0-9a-fA-F]{8}", given.get("nc", "")):
            return Verdict.WRONG
        expected = self._response(given, request.method)
        if not hmac.compare_digest(
            expected.encode(), given.get("response", "").lower().encode("utf-8", "replace")
        ):
            return Verdict.WRONG
        nonce, count = self._nonces.get(given["nonce"]), int(given["nc"], 16)
        if nonce is None or nonce.until <= now or count <= nonce.count:
            return Verdict.STALE
        nonce.count = count
        return Verdict.GOOD

    def _credentials(self, request: Request) -> dict[str, str] | None:
        """The parameters of the Digest credentials for our realm, unquoted, names in lower case."""
        for line in request.headers.lines("Authorization"):
            scheme, _, rest = line.partition(" ")
            if scheme.lower() == "digest":
                pairs = (part.partition("=") for part in split_commas(rest))
                given = {name.strip().lower(): unquote(value.strip()) for name, _, value in pairs}
                if given.get("realm") == self.realm:
                    return given
        return None

    def _response(self, given: dict[str, str], method: str) -> str:
        """RFC 2617 section 3.2.2.1. The digest-uri is taken as the client says it: what it names besides the
        Request-URI makes no difference to a registrar."""
        one = _hash(f"{given.get('username', '')}:{self.realm}:{self._password}")
        two = _hash(f"{method}:{given.get('uri', '')}")
        return _hash(f"{one}:{given['nonce']}:{given['nc']}:{given.get('cnonce', '')}:auth:{two}")


def _hash(text: str) -> str:
    return md5(text.encode("utf-8", "surrogateescape"), usedforsecurity=False).hexdigest()
