"""What a P-CSCF does with each response before it leaves (TS 24.229 clause 5.2, RFC 3261 section 16.7): what
the side it goes to may read in it, and what the registrar's makes of a registration."""

from __future__ import annotations

import logging
from collections.abc import Callable

from imsalg import mediasec, trust
from imsalg.anchor import Side
from imsalg.body import NEGOTIATING, drop_sdp
from imsalg.calls import Calls
from imsalg.crossing import Crossing, Note
from imsalg.registration import Registering, Registrations
from imsalg.sip.headers import Headers
from imsalg.sip.message import Response


class Responses:
    """tell: called with a user, a line for the log about him, and the time."""

    def __init__(
        self, registrations: Registrations, calls: Calls, tell: Callable[[str, Note, float], None]
    ) -> None:
        self._registrations = registrations
        self._calls = calls
        self._tell = tell

    def prepare(self, crossing: Crossing, response: Response, now: float) -> None:
        """One that is to leave for where its request came from. Raises PeerError with the status to answer
        with instead."""
        headers = response.headers
        if crossing.request.method not in NEGOTIATING:
            drop_sdp(response)
        if crossing.side is Side.ACCESS:
            headers.remove("Security-Server")
            if crossing.registering is not None:
                self._registered(crossing.registering, response, now)
            trust.to_ue(headers)
        else:
            trust.from_ue(headers)
            if 100 < response.status < 300 and crossing.request.to.tag is None:
                _keep_route_set(crossing.outgoing.headers, headers)
            binding = self._registrations.at(crossing.flow, crossing.request.to.uri)
            if binding is not None and response.status > 100:
                trust.assert_identity(headers, binding.associated)
            else:
                headers.remove("P-Preferred-Identity")

    def _registered(self, registering: Registering, response: Response, now: float) -> None:
        """What the registrar's makes of the binding, and what is announced to the UE in it."""
        if response.status in (200, 401, 407) and registering.speaks_mediasec:
            tokens = mediasec.served(registering.access.mechanisms, self._registrations.e2dce)
            mediasec.announce(response.headers, tokens.values())
        if response.status != 200:
            return
        before = self._registrations.find(registering.token)
        binding = self._registrations.registered(registering, response, now)
        if binding is not None:
            if before is not None and before.flow != binding.flow:
                self._calls.follow(before, binding)
            what = ", ".join(sorted(binding.mechanisms)) or "no media security"
            where = f"{binding.flow.transport} {binding.flow.remote}"
            text = f"{binding.aor} is registered from {where}: {what}"
        elif before is not None:
            text = f"{registering.aor} is not registered any more"
        else:
            return
        self._tell(registering.aor, Note(logging.INFO, text), now)


def _keep_route_set(request: Headers, response: Headers) -> None:
    """A UE returns the Record-Route that it was sent, below what others have put there between it and us; it
    does not say that the far end shall come another way than by us and the home network (TS 24.229 clause
    5.2.6.4.4)."""
    sent, returned = request.values("Record-Route"), response.values("Record-Route")
    if sent and returned[-len(sent) :] != sent:
        response.remove("Record-Route")
        if above := returned[: -len(sent)]:
            response.append("Record-Route", ", ".join(above))
        response.copy_lines(request, "Record-Route")
