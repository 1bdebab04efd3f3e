"""A dialog seen from the middle: enough state to speak in it with either party's voice (RFC 3261 section 12).

Call-ID, tags, Contact and route sets belong to the two ends and pass through the proxy unchanged; so the
proxy can compose a request that each end takes for the other's. Where it has done so, the CSeq numbers on
that side run ahead of the sender's own, and everything that crosses later is mapped.
"""

from __future__ import annotations

import contextlib

from msgspec import Struct

from imsalg.errors import BadMessage
from imsalg.sip.headers import Headers
from imsalg.sip.message import Request, Response
from imsalg.sip.values import CSeq, NameAddr, RAck

MAX_ROUTES = 140  # between an end and us: Max-Forwards lets 70 proxies be there, each twice


class Party(Struct):
    """What the proxy knows of one end, to reach it and to number what it is sent.

    address: its From/To value with tag. target: its Contact URI. routes: the proxies between us and it,
    nearest first. cseq: highest number it has been sent, 0 for none. ahead: how many of these were the
    proxy's own."""

    address: str
    target: str
    routes: tuple[str, ...] = ()
    cseq: int = 0
    ahead: int = 0

    def refresh(self, headers: Headers) -> None:
        """Take a new remote target from a target refresh (RFC 3261 section 12.2)."""
        self.target = contact_uri(headers) or self.target


class Dialog(Struct):
    """One dialog, early or confirmed, between the caller (who sent the INVITE) and the callee."""

    call_id: str
    caller: Party
    callee: Party
    confirmed: bool = False

    def toward(self, callee: bool) -> Party:
        return self.callee if callee else self.caller

    def number(self, request: Request, callee: bool) -> None:
        """Give a request that crosses towards one end the number that end expects; a RAck as well (RFC 3262
        section 7.2: its CSeq is that of the INVITE as the end has seen it)."""
        party = self.toward(callee)
        cseq = request.cseq
        number = cseq.number + party.ahead
        if party.ahead:
            request.headers.set("CSeq", str(CSeq(number, cseq.method)))
            with contextlib.suppress(BadMessage):  # then it passes as it is, for the end to refuse
                rack = RAck.parse(request.headers.get("RAck") or "")
                request.headers.set("RAck", str(RAck(rack.rseq, rack.cseq + party.ahead, rack.method)))
        if cseq.method not in ("ACK", "CANCEL"):
            party.cseq = max(party.cseq, number)

    def request(self, method: str, callee: bool) -> Request:
        """The proxy's own request to one end, in the other's name. ACK takes the INVITE's number and is made
        by `ack`."""
        party = self.toward(callee)
        party.cseq += 1
        party.ahead += 1
        return self._compose(method, party, self.toward(not callee), party.cseq)

    def ack(self, response: Response, callee: bool) -> Request:
        """The ACK to a 2xx that the proxy itself has to acknowledge (RFC 3261 section 13.2.2.4)."""
        return self._compose("ACK", self.toward(callee), self.toward(not callee), response.cseq.number)

    def _compose(self, method: str, to: Party, sender: Party, number: int) -> Request:
        headers = Headers()
        for route in to.routes:
            headers.append("Route", route)
        headers.append("Max-Forwards", "70")
        headers.append("From", sender.address)
        headers.append("To", to.address)
        headers.append("Call-ID", self.call_id)
        headers.append("CSeq", str(CSeq(number, method)))
        headers.append("Content-Length", "0")
        return Request(method, to.target, headers, b"")


def contact_uri(headers: Headers) -> str | None:
    """The URI of the first Contact, the remote target (RFC 3261 section 12.1); None without a usable one."""
    try:
        return NameAddr.parse(headers.first("Contact") or "").uri
    except BadMessage:
        return None
