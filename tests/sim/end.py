"""One end of a dialog that does what the RFCs say, and what they leave open at random (see `phone`).

What it may do by itself (RFC 3261, 3262, 3264, 3311, 6141) is in `may_offer`, `update`, `reinvite` and `bye`;
`agreed` is the last offer/answer exchange that this end holds for complete.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from imsalg.sdp.attributes import Direction
from imsalg.sip.events import ClientTransaction, ServerTransaction
from imsalg.sip.headers import Headers
from imsalg.sip.message import Request, Response, make_response
from imsalg.sip.transaction import T1, T2
from imsalg.sip.values import NameAddr
from tests.sim.said import ANSWERS, Said

if TYPE_CHECKING:
    from tests.sim.phone import Phone

GIVE_UP = 64 * T1


class End:
    """One end of a dialog. pending: the offer without an answer, this end's or the other's, as (mine, it).
    invite: the INVITE under way in either direction. busy: another request of this end's under way."""

    def __init__(self, phone: Phone, call_id: str, here: str, there: str) -> None:
        self.phone, self.call_id, self.here, self.there = phone, call_id, here, there
        self.target = ""
        self.routes: list[str] = []
        self.cseq = phone.rng.randrange(1, 1000)
        self.seen = 0  # the other's highest CSeq
        self.confirmed = self.over = False
        self.agreed: tuple[Said, Said] | None = None
        self.pending: tuple[bool, Said] | None = None
        self.inviting: ClientTransaction | None = None
        self.invited: ServerTransaction | None = None
        self.unacknowledged: Response | None = None  # our 2xx
        self.busy = False
        self.rseq = phone.rng.randrange(1, 100)
        self.unconfirmed: Response | None = None  # our reliable provisional response
        self.answer: Said | None = None  # ours to the INVITE under way, said in a preview or meant
        self.firm = False  # the INVITE under way has had its offer and answer
        self.acks: dict[int, Request] = {}
        self.pracked: set[tuple[int, int]] = set()

    # -- what it says

    def describe(self, to: Said | None = None) -> Said:
        """An offer, or the answer to one."""
        rng, phone = self.phone.rng, self.phone
        phone.marks += 1
        held = to is None and rng.random() < 0.1
        if to is None:
            direction = rng.choice((Direction.SENDRECV,) * 3 + (Direction.SENDONLY, Direction.INACTIVE))
        else:
            direction = rng.choice(ANSWERS[to.direction])
        host = "0.0.0.0" if held else phone.address.host
        key = phone.key(self.call_id) if phone.secured else b""
        mark, port = phone.marks * 2 + phone.secured, rng.choice((4000, 4002, 4004))
        setup = "" if not phone.dtls else "actpass" if to is None else rng.choice(("active", "passive"))
        return Said(mark, host, port, direction, key, setup)

    def complete(self, mine: Said, theirs: Said) -> None:
        self.pending, self.agreed = None, (mine, theirs)

    # -- requests of this end

    def request(self, method: str, *headers: tuple[str, str], body: bytes = b"", cseq: int = 0) -> Request:
        if not cseq:
            self.cseq += 1
        fields = Headers([("Route", route) for route in self.routes])
        for name, value in (
            *(("Max-Forwards", "70"), ("From", self.here), ("To", self.there), ("Call-ID", self.call_id)),
            *(("CSeq", f"{cseq or self.cseq} {method}"), ("Contact", f"<{self.phone.contact}>"), *headers),
        ):
            fields.append(name, value)
        request = Request(method, self.target, fields)
        request.set_body(body, "application/sdp" if body else None)
        return request

    def send(self, method: str, *headers: tuple[str, str], offer: Said | None = None) -> ClientTransaction:
        request = self.request(method, *headers, body=bytes(offer) if offer else b"")
        if offer is not None:
            self.pending = True, offer
        return self.phone.send(request, (self, method, offer))

    @property
    def may_offer(self) -> bool:
        return self.pending is None and self.agreed is not None and not self.over and not self.busy

    def update(self) -> None:
        if self.may_offer and not self.unconfirmed and (self.confirmed or self.firm):
            self.busy = True
            offer = self.describe() if self.phone.rng.random() < 0.8 else None
            self.send("UPDATE", offer=offer)

    def reinvite(self) -> None:
        if self.may_offer and self.confirmed and not (self.inviting or self.invited or self.unacknowledged):
            offer = self.describe() if self.phone.rng.random() < 0.7 else None
            self.firm = False
            self.inviting = self.send("INVITE", ("Supported", "100rel"), offer=offer)
            if self.phone.rng.random() < 0.2:
                tx = self.inviting
                self.phone.later(lambda: self.phone.endpoint.cancel(tx, self.phone.link.now))

    def info(self) -> None:
        if not self.over and not self.busy and self.confirmed:
            self.busy = True
            self.send("INFO")

    def bye(self) -> None:
        if not self.confirmed and self.invited:
            return  # nor does it end an early dialog so
        if self.over or (self.unacknowledged and self.phone.link.now < self.acknowledge_by):
            return  # RFC 3261 section 15: the callee waits for the ACK
        self.over = True
        if self.invited and not self.unacknowledged:
            self.phone.respond(self.invited, make_response(self.invited.request, 487))
        self.send("BYE")

    acknowledge_by = 0.0

    # -- responses to this end's requests

    def answered(self, method: str, offer: Said | None, response: Response) -> None:
        if method == "INVITE":
            self.reinvite_answered(offer, response)
            return
        if response.status < 200 or method == "BYE":
            return
        self.busy = False
        if offer is not None and self.pending == (True, offer):
            if response.status < 300:
                self.complete(offer, Said.read(response.body))
            else:
                self.pending = None
        if response.status in (408, 481):
            self.bye()

    def reinvite_answered(self, offer: Said | None, response: Response) -> None:
        if response.status < 200:
            self.provisional(offer, response)
        elif response.status < 300:
            self.accepted(offer, response)
        else:
            self.inviting = None
            if offer is not None and self.pending == (True, offer):
                self.pending = None
            if response.status in (408, 481):
                self.bye()

    def provisional(self, offer: Said | None, response: Response) -> None:
        """Only what is reliable counts; the rest comes again."""
        rseq = int(response.headers.get("RSeq") or 0)
        number = response.cseq.number
        if not rseq or (number, rseq) in self.pracked or self.busy:
            return  # it is retransmitted
        self.pracked.add((number, rseq))
        answer = b""
        if response.body and offer is None and not self.firm:
            theirs = Said.read(response.body)
            mine = self.describe(theirs)
            self.complete(mine, theirs)
            answer, self.firm = bytes(mine), True
        elif response.body and offer is not None and self.pending == (True, offer):
            self.complete(offer, Said.read(response.body))
            self.firm = True
        elif response.body:
            raise AssertionError("a description out of turn in a provisional response")
        self.busy = True
        rack = ("RAck", f"{rseq} {number} INVITE")
        request = self.request("PRACK", rack, body=answer)
        new = None
        if not answer and self.firm and self.pending is None and self.phone.rng.random() < 0.3:
            new = self.describe()
            request.set_body(bytes(new), "application/sdp")
            self.pending = True, new
        self.phone.send(request, (self, "PRACK", new))

    def accepted(self, offer: Said | None, response: Response) -> None:
        number = response.cseq.number
        if number not in self.acks:
            self.inviting, self.confirmed = None, True
            body = b""
            if offer is None and not self.firm:
                theirs = Said.read(response.body)
                mine = self.describe(theirs)
                self.complete(mine, theirs)
                body = bytes(mine)
            elif self.pending == (True, offer):
                self.complete(self.pending[1], Said.read(response.body))
            self.firm = True
            self.acks[number] = self.request("ACK", body=body, cseq=number)
        self.phone.endpoint.send(self.acks[number].copy(), self.phone.flow, self.phone.link.now)

    # -- requests of the other end

    def receive(self, tx: ServerTransaction, request: Request) -> None:
        if self.over:
            self.phone.reply(tx, 481)
        elif request.cseq.number <= self.seen:
            self.phone.reply(tx, 500)
        else:
            self.seen = request.cseq.number
            match request.method:
                case "BYE":
                    self.over = True
                    self.phone.reply(tx, 200)
                    if self.invited and not self.unacknowledged:
                        self.phone.reply(self.invited, 487)
                case "UPDATE" | "PRACK":
                    self.changed(tx, request)
                case "INVITE":
                    self.reinvited(tx, request)
                case _:
                    self.phone.reply(tx, 200)

    def changed(self, tx: ServerTransaction, request: Request) -> None:
        said = Said.read(request.body) if request.body else None
        if request.method == "PRACK":
            if self.unconfirmed is None:
                self.phone.reply(tx, 481)
                return
            self.unconfirmed = None
            if said is not None and self.pending is not None and self.pending[0] and not self.firm:
                self.complete(self.pending[1], said)
                self.firm = True
                said = None
            else:
                self.firm = self.firm or self.agreed is not None
        if said is None:
            self.phone.reply(tx, 200)
        elif self.pending is not None:
            self.phone.reply(tx, 491 if self.pending[0] else 500)
        elif request.method == "UPDATE" and self.phone.rng.random() < 0.15:
            self.phone.reply(tx, 488)
        else:
            mine = self.describe(said)
            self.complete(mine, said)
            self.phone.reply(tx, 200, mine)

    def reinvited(self, tx: ServerTransaction, request: Request) -> None:
        if self.invited is not None or self.unacknowledged is not None:
            self.phone.reply(tx, 500)
        elif self.inviting is not None or (self.pending is not None and self.pending[0]) or self.busy:
            self.phone.reply(tx, 491)
        elif self.pending is not None:
            self.phone.reply(tx, 500)
        else:
            self.take(tx, request)
            kind = self.phone.rng.random()
            if kind < 0.2:
                self.preview()
            elif kind < 0.4:
                self.reliable()
            refused = self.phone.rng.random() < 0.2 and self.unconfirmed is None
            self.phone.later(self.refuse if refused else self.accept)

    def take(self, tx: ServerTransaction, request: Request) -> None:
        """An INVITE: its offer waits for an answer."""
        self.invited, self.firm, self.answer = tx, False, None
        self.seen = request.cseq.number
        if request.body:
            offer = Said.read(request.body)
            self.pending, self.answer = (False, offer), self.describe(offer)

    def preview(self) -> None:
        """What the answer will be, or nothing."""
        if self.invited and not self.over and not self.firm:
            self.respond(183, self.answer if self.phone.rng.random() < 0.7 else None)

    def reliable(self) -> None:
        """A reliable provisional response, with the answer or an offer; once at a time."""
        if self.invited is None or self.over or self.firm or self.unconfirmed or self.unacknowledged:
            return
        if self.answer is not None and self.pending is not None:
            said = self.answer
            self.complete(said, self.pending[1])
        elif self.pending is None:
            said = self.describe()
            self.pending = True, said
        else:
            return
        self.rseq += 1
        self.unconfirmed = self.respond(183, said, ("Require", "100rel"), ("RSeq", str(self.rseq)))
        self.again(self.unconfirmed, lambda: self.unconfirmed, T1, self.phone.link.now + GIVE_UP)

    def respond(self, status: int, said: Said | None, *headers: tuple[str, str]) -> Response:
        assert self.invited is not None
        response = make_response(self.invited.request, status, to_tag=NameAddr.parse(self.here).tag)
        response.headers.append("Contact", f"<{self.phone.contact}>")
        for name, value in headers:
            response.headers.append(name, value)
        response.set_body(bytes(said) if said else b"", "application/sdp" if said else None)
        self.phone.respond(self.invited, response.copy())
        return response

    def again(
        self, response: Response, wanted: Callable[[], Response | None], wait: float, until: float
    ) -> None:
        """Send it until it is acknowledged (RFC 3261 section 13.3.1.4, RFC 3262 section 3)."""

        def fire() -> None:
            if wanted() is not response or self.over or self.invited is None:
                return
            if self.phone.link.now >= until:
                self.given_up()
                return
            self.phone.respond(self.invited, response.copy())
            self.again(response, wanted, min(2 * wait, T2), until)

        self.phone.link.call_at(self.phone.link.now + wait, fire)

    def given_up(self) -> None:
        if self.confirmed:
            self.acknowledge_by = 0.0
            self.bye()
        else:
            self.phone.refuse_all(self, 504)

    def refuse(self) -> None:
        """A re-INVITE; not once something was agreed on in it (RFC 6141 section 3.3)."""
        if self.invited is None or self.over or self.unacknowledged:
            return
        if self.unconfirmed or self.firm:
            self.phone.later(self.accept)
            return
        self.decline(self.phone.rng.choice((488, 491, 500)))

    def decline(self, status: int) -> None:
        """The INVITE under way, and its offer if it had one."""
        assert self.invited is not None
        tx, self.invited = self.invited, None
        if self.answer is not None:
            self.pending = None
        self.phone.reply(tx, status)

    def accept(self) -> None:
        """200 to the INVITE, once nothing is open that came before."""
        if self.invited is None or self.over or self.unacknowledged:
            return
        open_update = self.pending is not None and (self.firm or self.pending[0])
        if self.unconfirmed or open_update:
            self.phone.later(self.accept)
            return
        said = None
        if self.agreed is None or not self.firm:
            if self.pending is not None and self.answer is not None:
                said = self.answer
                self.complete(said, self.pending[1])
            else:
                said = self.describe()
                self.pending = True, said
        self.confirmed = True
        self.acknowledge_by = self.phone.link.now + GIVE_UP
        self.unacknowledged = self.respond(200, said)
        self.again(self.unacknowledged, lambda: self.unacknowledged, T1, self.acknowledge_by)

    def acknowledged(self, request: Request) -> None:
        ok = self.unacknowledged
        if ok is None or ok.cseq.number != request.cseq.number:
            return
        self.unacknowledged = self.invited = None
        if self.pending is not None and bytes(self.pending[1]) == ok.body:
            if request.body:
                self.complete(self.pending[1], Said.read(request.body))
            else:
                self.pending = None
        self.firm = True
