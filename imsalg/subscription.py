"""One subscription to the registration state of a user, seen by the subscriber, a P-CSCF (RFC 6665, RFC 3680,
TS 24.229 clause 5.2.3): a machine without IO.

What happens comes in as method calls; the requests that it wants sent lie in `to_send`, and `deadline` is
when `expire` wants to be called. A NOTIFY may come before the 2xx of its SUBSCRIBE, and makes the dialog as
well. What fails is tried again after a rest, or, where the home network does not want it, not at all.
"""

from __future__ import annotations

import contextlib
import math
from enum import Enum, auto
from random import Random

from imsalg.errors import BadMessage, PeerError
from imsalg.reginfo import CONTENT_TYPE, RegInfo, parse_reginfo
from imsalg.sip.dialog import MAX_ROUTES, contact_uri
from imsalg.sip.grammar import LWS, number
from imsalg.sip.headers import Headers
from imsalg.sip.message import Request, Response
from imsalg.sip.timers import Running
from imsalg.sip.values import Address, CSeq, NameAddr

MARGIN = 600.0  # seconds: how much longer than the registration; how long before its end it is refreshed
LEAST = 10.0  # seconds between two refreshes, whatever the notifier grants
REST = 60.0  # seconds before what failed is tried again; doubled each time, up to
LONGEST_REST = 3600.0
MAX_EXPIRES = 2**31 - 1

# Not now; any other failure means not at all.
_TRY_AGAIN = frozenset((408, 480, 481, 500, 502, 503, 504, 600))
# Reasons of a terminated subscription that ask for no other (RFC 6665 section 4.1.3).
_FOR_GOOD = frozenset(("rejected", "noresource", "invariant"))


class State(Enum):
    """TRYING: no dialog yet. ENDING: nobody needs it any more, and the last NOTIFY may come. RESTING: there
    is no dialog; it is tried again at `deadline`, if there is one. OVER: to be forgotten."""

    TRYING = auto()
    ACTIVE = auto()
    ENDING = auto()
    RESTING = auto()
    OVER = auto()


class Subscription:
    """subject: the user's default public identity, a SIP URI. token: of the binding it was begun for. here:
    our address on the core side. patience: seconds a peer may take to send what is due, 64 * T1.

    to_send: SUBSCRIBEs that lack what depends on their way: Contact and what the home network is told of us.
    until: when the registration expires. failure: why it rests, for the log. These two, `filed` (the Call-ID
    it is kept under) and `running` (its timer) are the owner's to set.
    """

    __slots__ = (
        "_cseq",
        "_expires",
        "_heard",
        "_here",
        "_patience",
        "_pause",
        "_remote",
        "_rng",
        "_routes",
        "_target",
        "_version",
        "_wish",
        "call_id",
        "deadline",
        "failure",
        "filed",
        "running",
        "state",
        "subject",
        "tag",
        "to_send",
        "token",
        "until",
    )

    def __init__(
        self, subject: str, token: str, until: float, here: Address, patience: float, rng: Random, now: float
    ) -> None:
        self.subject = subject
        self.token = token
        self.until = until
        self.to_send: list[Request] = []
        self.running: Running[Subscription] | None = None
        self.filed = ""
        self._here = here
        self._patience = patience
        self._pause = REST
        self._rng = rng
        self._start(now)

    def _start(self, now: float) -> None:
        self.state = State.TRYING
        self.deadline: float | None = None  # the transaction's own timer comes first
        self.failure = ""
        self.call_id = f"{self._rng.randbytes(12).hex()}@{self._here.host}"
        self.tag = self._rng.randbytes(8).hex()
        self._remote = self._target = ""  # the To of our requests, with its tag; where they go
        self._routes: tuple[str, ...] = ()
        self._cseq = self._heard = 0  # the latest number of ours, of the notifier's
        self._version = -1  # of the latest document
        self._subscribe(now)

    # -- what the owner tells

    def end(self, now: float) -> None:
        """Nobody needs it any more."""
        if self.state is State.RESTING:
            self.state = State.OVER
        elif self.state is not State.ENDING:
            self.state, self.deadline = State.ENDING, now + 2 * self._patience
            self._leave()

    def expire(self, now: float) -> None:
        """Time has come to `deadline`."""
        match self.state:
            case State.RESTING:
                self._start(now)
            case State.ACTIVE if not self._heard:
                self._rest("no NOTIFY came", now)  # timer N (RFC 6665 section 4.1.2.4)
            case State.ACTIVE if now >= self._expires:
                self._start(now)
            case State.ACTIVE:
                self._subscribe(now)
                self.deadline = self._expires
            case State.ENDING:
                self.state = State.OVER

    # -- what the notifier tells

    def responded(self, request: Request, response: Response, now: float) -> None:
        """A response to one of our requests; a time-out counts as 408."""
        late = request.call_id != self.call_id or request.cseq.number != self._cseq
        if late or response.status < 200 or self.state in (State.RESTING, State.OVER):
            return
        if response.status < 300:
            self._accepted(response, now)
        elif self.state is State.ENDING:
            self.state = State.OVER
        elif self.state is State.TRYING:
            again = response.status in _TRY_AGAIN
            self._rest(f"SUBSCRIBE {response.status}", now, _retry_after(response.headers) if again else None)
        elif self.state is State.ACTIVE and response.status == 481:
            self._start(now)
        elif self.state is State.ACTIVE:  # what was agreed on holds to its end
            self.deadline = max(now + LEAST, self._expires)

    def notified(self, request: Request, now: float) -> RegInfo | None:
        """A NOTIFY for this Call-ID: the document it brings, if that is news. Raises PeerError."""
        headers = request.headers
        sender = headers.get("From") or ""
        if request.to.tag != self.tag or self.state in (State.RESTING, State.OVER):
            raise PeerError("no such subscription", 481)
        if self._remote and request.from_.tag != _tag(self._remote):
            raise PeerError("another notifier", 481)  # RFC 3680 section 4.9: there is one only
        if _split(headers.get("Event"))[0] != "reg":
            raise PeerError("no such event package", 489)
        if request.cseq.number <= self._heard:
            raise PeerError("out of order", 500)  # RFC 3261 section 12.2.2
        state, parameters = _split(headers.get("Subscription-State"))
        if not state:
            raise PeerError("a NOTIFY without Subscription-State")
        document = _document(request)
        self._heard, self._pause = request.cseq.number, REST
        if not self._remote:
            self._remote, self._routes = sender, tuple(headers.values("Record-Route")[:MAX_ROUTES])
        self._target = contact_uri(headers) or self._target
        leaving = self.state is State.ENDING
        if state == "terminated":
            self._terminated(parameters, now)
        elif leaving:
            self._leave()
        else:
            said = number(parameters.get("expires", ""), MAX_EXPIRES)
            known = self._expires if self.state is State.ACTIVE else now + self._wish
            self._granted(known if said is None else now + said, now)
        return None if document is None or leaving else self._news(document, now)

    # -- inside

    def _accepted(self, response: Response, now: float) -> None:
        headers = response.headers
        if not self._remote and response.to.tag:
            self._remote = headers.get("To") or ""
            self._routes = tuple(reversed(headers.values("Record-Route")[-MAX_ROUTES:]))
        self._target = contact_uri(headers) or self._target
        if self.state is State.ENDING:
            self._leave()
            return
        said = number(headers.get("Expires") or "", MAX_EXPIRES)
        self._granted(now + (self._wish if said is None else said), now)
        if not self._heard:
            self.deadline = now + self._patience

    def _granted(self, until: float, now: float) -> None:
        """It holds until then, but not longer than we have asked for."""
        self.state = State.ACTIVE
        self._expires = min(until, now + self._wish)
        left = self._expires - now
        refresh = left - MARGIN if left > 2 * MARGIN else left / 2  # TS 24.229 clause 5.2.3
        self.deadline = now + max(LEAST, refresh)

    def _terminated(self, parameters: dict[str, str], now: float) -> None:
        """RFC 6665 section 4.1.3."""
        reason = parameters.get("reason", "")
        if self.state is State.ENDING:
            self.state = State.OVER
        elif reason in _FOR_GOOD:
            self._rest(f"terminated, {reason}", now, None)
        else:
            wait = number(parameters.get("retry-after", ""), MAX_EXPIRES) or 0
            self._rest(f"terminated {reason}".rstrip(), now, wait)

    def _news(self, document: RegInfo, now: float) -> RegInfo | None:
        """RFC 3680 section 5.2: what is older is left alone; where a partial document is missing, all is
        asked for. A full one with the number of the last is taken: it does no harm, and there are notifiers
        (Kamailio's pua_reginfo) who never count."""
        expected = self._version + 1
        if document.version < (self._version if document.full else expected):
            return None
        self._version = document.version
        if not document.full and document.version > expected and self.state is State.ACTIVE:
            self._subscribe(now)
        return document

    def _rest(self, why: str, now: float, seconds: float | None = 0.0) -> None:
        """seconds: the least, None for good."""
        self.state, self.failure = State.RESTING, why
        self.deadline = None if seconds is None else now + min(max(seconds, self._pause), LONGEST_REST)
        self._pause = min(2 * self._pause, LONGEST_REST)

    def _subscribe(self, now: float) -> None:
        self._wish = math.ceil(max(self.until - now, 0.0) + MARGIN)
        self._send()

    def _leave(self) -> None:
        """Ask for no more, once there is a dialog to say it in."""
        if self._wish and self._remote:
            self._wish = 0
            self._send()

    def _send(self) -> None:
        """A SUBSCRIBE, the first or one of its dialog."""
        self._cseq += 1
        headers = Headers(("Route", route) for route in self._routes)
        headers.append("Max-Forwards", "70")
        headers.append("From", f"<sip:{self._here}>;tag={self.tag}")
        headers.append("To", self._remote or f"<{self.subject}>")
        headers.append("Call-ID", self.call_id)
        headers.append("CSeq", str(CSeq(self._cseq, "SUBSCRIBE")))
        headers.append("Event", "reg")
        headers.append("Accept", CONTENT_TYPE)
        headers.append("Expires", str(self._wish))
        self.to_send.append(Request("SUBSCRIBE", self._target or self.subject, headers))


def _document(request: Request) -> RegInfo | None:
    if not request.body:
        return None
    kind = _split(request.headers.get("Content-Type"))[0]
    if kind != CONTENT_TYPE:
        raise PeerError("no registration information", 415)
    return parse_reginfo(request.body)


def _split(value: str | None) -> tuple[str, dict[str, str]]:
    """A token and its parameters, in lower case; "" where there is none."""
    token, *rest = (value or "").lower().split(";")
    pairs = (each.partition("=") for each in rest)
    return token.strip(LWS), {name.strip(LWS): said.strip(LWS) for name, _, said in pairs}


def _tag(address: str) -> str | None:
    with contextlib.suppress(BadMessage):
        return NameAddr.parse(address).tag
    return None


def _retry_after(headers: Headers) -> float:
    """Seconds (RFC 3261 section 20.33); the comment and parameters that may follow say nothing here."""
    return number((headers.get("Retry-After") or "").split(";")[0].split("(")[0].strip(LWS), MAX_EXPIRES) or 0
