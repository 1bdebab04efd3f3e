"""Session timers, as a proxy takes part in them (RFC 4028 section 8; TS 24.229 clauses 5.2.7.2 and 5.2.7.3).

The proxy asks for one in each INVITE and UPDATE that does not yet, and for a shorter one where what is asked
for is beyond its own limit. One of the two ends has to know what that is, and refreshes the session then. A
session that is not refreshed is over, and so is one that is beyond the limit, whatever its ends have agreed
on or know: nothing is kept for ever for ends that have died on hold.
"""

from __future__ import annotations

from imsalg.sip.grammar import number
from imsalg.sip.headers import Headers
from imsalg.sip.message import Request

_FOREVER = 2**32 - 1  # seconds; the longest interval that can be written (RFC 4028 section 4)


def is_refresh(request: Request, confirmed: bool) -> bool:
    """Whether a session may begin or go on with a request (section 3). confirmed: its dialog is."""
    return request.method == "INVITE" or (request.method == "UPDATE" and confirmed)


def ask(request: Headers, interval: int, limit: int) -> None:
    """Ask for a session interval, in seconds, where nobody has (0: do not), and for the limit where somebody
    has for a longer one; but never for less than Min-SE says (section 8.1)."""
    least = _seconds(request, "Min-SE") or 0
    if "Session-Expires" not in request:
        if interval:
            request.append("Session-Expires", str(max(interval, least)))
        return
    asked = _seconds(request, "Session-Expires")
    if asked is not None and asked != (right := max(min(asked, limit), least)):
        _, *params = (request.get("Session-Expires") or "").partition(";")  # who refreshes is theirs to say
        request.set("Session-Expires", "".join((str(right), *params)))


def agree(request: Headers, response: Headers, limit: int) -> float:
    """In how many seconds a session is over unless it is refreshed, by a request as it left and the 2xx that
    it got. Where the one who answered knows of no session timers but the other end does, that end is made the
    one that refreshes (section 8.2)."""
    asked = _seconds(request, "Session-Expires")
    if asked is not None and "Session-Expires" not in response and _knows(request, "Supported"):
        response.append("Session-Expires", f"{asked};refresher=uac")
        if not _knows(response, "Require"):
            response.append("Require", "timer")
    return lasts(min(_seconds(response, "Session-Expires") or limit, limit))


def lasts(interval: float) -> float:
    """In how many seconds a session of that interval is over: an end hangs up as long before its end (section
    10) as we do after it, and comes first."""
    return interval + min(32.0, interval / 3)


def _seconds(headers: Headers, name: str) -> int | None:
    """The delta-seconds of Session-Expires or Min-SE; None where it says none."""
    return number((headers.get(name) or "").partition(";")[0].strip(), _FOREVER)


def _knows(headers: Headers, name: str) -> bool:
    return "timer" in (tag.lower() for tag in headers.values(name))
