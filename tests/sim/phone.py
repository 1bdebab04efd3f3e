"""Phones that do what the RFCs say, and what they leave open at random: whole calls over a lossy link.

A Phone has one Endpoint and an End for each dialog it is in. A walk asks it to do something now and then, and
the phone answers what comes, with delays. A Phone called by several forks answers as if a forking proxy stood
before it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from imsalg.sip.dialog import contact_uri
from imsalg.sip.endpoint import Endpoint
from imsalg.sip.events import (
    AckReceived,
    CancelReceived,
    ClientTransaction,
    Event,
    RequestReceived,
    ResponseReceived,
    ServerTransaction,
    TransactionFailed,
)
from imsalg.sip.headers import Headers
from imsalg.sip.hop import Flow, Transport
from imsalg.sip.message import Request, Response, make_response
from imsalg.sip.values import Address
from tests.sim.end import End
from tests.sim.link import Link
from tests.sim.said import Said


@dataclass(eq=False)
class Attempt:
    """An INVITE of this phone outside of dialogs, and what came of it."""

    phone: Phone
    offer: Said | None
    request: Request
    tx: ClientTransaction | None = None
    over: bool = False

    def answered(self, response: Response) -> None:
        status, tag = response.status, response.to.tag
        key = (response.call_id, tag or "")
        end = self.phone.ends.get(key)
        if status >= 300:
            self.over = True
            for each in self.phone.of(response.call_id):
                each.over = each.over or not each.confirmed
            if status in (401, 407, 422) and self.request.cseq.number < 3:
                self.phone.later(self.again)
            return
        if tag is None or status == 100:
            return
        if status == 199:
            if end is not None and not end.confirmed:
                end.over = True
            return
        if end is None:
            end = self.phone.ends[key] = End(
                self.phone,
                response.call_id,
                response.headers.get("From") or "",
                response.headers.get("To") or "",
            )
            end.cseq = response.cseq.number
            end.routes = response.headers.values("Record-Route")[::-1]
            if self.offer is not None:
                end.pending = True, self.offer
        end.target = contact_uri(response.headers) or end.target
        if status < 200:
            if not end.over:
                end.provisional(self.offer, response)
            return
        second = any(each.confirmed and each is not end for each in self.phone.of(response.call_id))
        self.over = True
        late = end.over and not end.confirmed  # its early dialog was given up
        end.over = end.over and end.confirmed
        end.accepted(self.offer, response)
        if second or late:
            end.bye()

    def again(self) -> None:
        request = self.request.copy()
        request.headers.set("CSeq", f"{request.cseq.number + 1} INVITE")
        self.request, self.over = request, False
        self.tx = self.phone.send(request.copy(), self)

    def cancel(self) -> None:
        if self.tx is not None and not self.over:
            self.phone.endpoint.cancel(self.tx, self.phone.link.now)


class Phone:
    """secured: it asks for e2ae SDES; dtls: for DTLS-SRTP instead."""

    def __init__(
        self,
        link: Link,
        rng: random.Random,
        address: Address,
        proxy: Address,
        *,
        secured: bool,
        dtls: bool = False,
    ) -> None:
        self.link, self.rng, self.address = link, rng, address
        self.secured, self.dtls = secured, dtls
        self.flow = Flow(Transport.UDP, address, proxy)
        self.endpoint = Endpoint(rng)
        self.ends: dict[tuple[str, str], End] = {}  # (Call-ID, the other's tag; for a callee its own)
        self.attempts: list[Attempt] = []
        self.marks = 0
        self.path = ""
        self.registered = False
        self.contact = f"sip:phone@{address}"
        self._keys: dict[str, bytes] = {}
        self._forked: dict[ServerTransaction, list[End]] = {}
        link.attach(self.endpoint, address, on_event=self.on_event)

    def key(self, call_id: str) -> bytes:
        """One for each call, and sometimes a new one."""
        if call_id not in self._keys or self.rng.random() < 0.1:
            self._keys[call_id] = self.rng.randbytes(32 if self.dtls else 30)
        return self._keys[call_id]

    def of(self, call_id: str) -> list[End]:
        return [end for (id, _), end in self.ends.items() if id == call_id]

    def later(self, do: Callable[[], None]) -> None:
        self.link.call_at(self.link.now + self.rng.choice((0.06, 0.3, 2.0)), do)

    def send(self, request: Request, owner: object) -> ClientTransaction:
        return self.endpoint.request(request, self.flow, self.link.now, owner=owner)

    def respond(self, tx: ServerTransaction, response: Response) -> None:
        self.endpoint.respond(tx, response, self.link.now)

    def reply(self, tx: ServerTransaction, status: int, said: Said | None = None) -> None:
        response = make_response(tx.request, status, to_tag="none")
        if 200 <= status < 300:
            response.headers.append("Contact", f"<{self.contact}>")
        response.set_body(bytes(said) if said else b"", "application/sdp" if said else None)
        self.respond(tx, response)

    # -- outside of dialogs

    def outside(self, method: str, uri: str, *headers: tuple[str, str]) -> Request:
        tag, id = self.rng.getrandbits(32), self.rng.getrandbits(48)
        fields = Headers(headers)
        for name, value in (
            *(("Max-Forwards", "70"), ("From", f"<sip:phone@home.example>;tag={tag}"), ("To", f"<{uri}>")),
            *(("Call-ID", f"{id}@home"), ("CSeq", f"1 {method}"), ("Contact", f"<{self.contact}>")),
        ):
            fields.append(name, value)
        return Request(method, uri, fields)

    def register(self) -> None:
        mechanism = ("Security-Client", f"{'dtls' if self.dtls else 'sdes'}-srtp;mediasec")
        self.send(self.outside("REGISTER", "sip:home.example", mechanism, ("Expires", "3600")), None)

    def call(self, uri: str, route: str = "") -> None:
        request = self.outside(
            "INVITE", uri, ("Supported", "100rel, 199"), *([("Route", route)] if route else [])
        )
        offer = None
        if self.rng.random() < 0.75:
            offer = End(self, request.call_id, "", "").describe()
            request.set_body(bytes(offer), "application/sdp")
        attempt = Attempt(self, offer, request)
        attempt.tx = self.send(request.copy(), attempt)
        self.attempts.append(attempt)

    # -- events

    def on_event(self, event: Event) -> None:
        match event:
            case RequestReceived(tx, request):
                self.received(tx, request)
            case AckReceived(request):
                if (end := self.find(request)) is not None:
                    end.acknowledged(request)
            case CancelReceived(tx):
                self.cancelled(tx)
            case ResponseReceived(tx, response):
                self.answered(tx.owner, response)
            case TransactionFailed(ClientTransaction() as tx):
                if tx.owner is not None:
                    self.answered(tx.owner, make_response(tx.request, 408))

    def find(self, request: Request) -> End | None:
        for tag in (request.to.tag, request.from_.tag):
            if (end := self.ends.get((request.call_id, tag or ""))) is not None:
                return end
        return None

    def answered(self, owner: object, response: Response) -> None:
        match owner:
            case (End() as end, str(method), offer):
                end.answered(method, offer, response)
            case Attempt():
                owner.answered(response)
            case None:
                self.registered = self.registered or response.status == 200

    def received(self, tx: ServerTransaction, request: Request) -> None:
        if request.method == "REGISTER":
            self.path = request.headers.get("Path") or ""
            response = make_response(request, 200, to_tag="home")
            response.headers.append("Contact", f"{request.headers.get('Contact')};expires=3600")
            response.headers.append("P-Associated-URI", "<sip:phone@home.example>")
            self.respond(tx, response)
        elif request.to.tag is not None:
            end = self.find(request)
            if end is None:
                self.reply(tx, 481)
            else:
                end.receive(tx, request)
        elif request.method == "INVITE":
            self.ring(tx, request)
        else:
            self.reply(tx, 405)

    def ring(self, tx: ServerTransaction, request: Request) -> None:
        """A call comes: it is challenged, refused or forked, and the forks do as they like."""
        if request.cseq.number == 1 and self.rng.random() < 0.2:
            self.reply(tx, self.rng.choice((401, 407, 422)))
            return
        forks = self._forked[tx] = []
        for _ in range(self.rng.choice((1, 1, 1, 2, 3))):
            tag = str(self.rng.getrandbits(32))
            here = f"{request.headers.get('To')};tag={tag}"
            end = End(self, request.call_id, here, request.headers.get("From") or "")
            end.target = contact_uri(request.headers) or ""
            end.routes = request.headers.values("Record-Route")
            end.take(tx, request)
            self.ends[request.call_id, tag] = end
            forks.append(end)
            for do in (lambda e=end: e.respond(180, None), end.preview, end.reliable, end.update):
                if self.rng.random() < 0.4:
                    self.later(lambda e=end, d=do: d() if self.alive(e) else None)
        winner = self.rng.choice(forks)
        if self.rng.random() < 0.2:
            self.later(lambda: self.refuse_all(winner, 486))
        else:
            self.later(lambda: self.decide(tx, winner))

    def alive(self, end: End) -> bool:
        return not end.over and not end.confirmed and end.invited is not None

    def decide(self, tx: ServerTransaction, winner: End) -> None:
        """One fork takes it, seldom two; of the others some say so with 199 (RFC 6228)."""
        if not self.alive(winner):
            return
        winner.accept()
        if not winner.confirmed:
            self.later(lambda: self.decide(tx, winner))
            return
        for end in self._forked[tx]:
            if end is winner or not self.alive(end):
                continue
            if self.rng.random() < 0.2 and not end.unconfirmed:
                end.accept()
            if not end.confirmed:
                end.over = True

    def refuse_all(self, end: End, status: int) -> None:
        """The one final response other than 2xx to an INVITE that was forked."""
        tx = end.invited
        if tx is None or any(each.confirmed for each in self._forked.get(tx, ())):
            end.over = True
            return
        for each in self._forked.get(tx, ()):
            each.over = True
        self.reply(tx, status)

    def cancelled(self, tx: ServerTransaction) -> None:
        if tx in self._forked:
            for end in self._forked[tx]:
                self.refuse_all(end, 487)
                break
            return
        for end in self.ends.values():
            if end.invited is tx and not end.over:
                if end.firm or end.unconfirmed or end.unacknowledged:
                    return  # RFC 6141 section 3.4: it will be accepted
                end.decline(487)
