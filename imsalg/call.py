"""One call: two sides and one gateway context (Proxy-B2BUA of RFC 7092; TS 23.334 clause 6.2).

The call is a machine. What happens comes in as method calls (a request, a response, a gateway's reply, time);
what it wants done is appended to `effects`, which `core` carries out. It never waits: CANCEL, BYE, a lost
gateway or a limit may come at any point. What needs the gateway is a step (see `steps`); CANCEL and BYE jump
the queue of steps.

Every dialog of the call is a branch with a negotiation of its own (see `branches`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from agw.iq.messages import Audited, AuditedContext, AuditValue, ErrorReply, Event, Notice, Reply
from imsalg.anchor import Anchor, Side
from imsalg.body import NEGOTIATING, Found, drop_sdp, find_sdp
from imsalg.branches import MAX_BRANCHES, Branch, Branches
from imsalg.crossing import Cancel, Crossing, Effect, Hops, Note, Respond, Send, SendAck
from imsalg.descriptions import Descriptions
from imsalg.errors import PeerError
from imsalg.negotiation import Negotiation, Terms
from imsalg.records import CallRecord
from imsalg.sip.dialog import Dialog, Party
from imsalg.sip.endpoint import Flow, Random
from imsalg.sip.grammar import quote
from imsalg.sip.message import Request, Response, make_response
from imsalg.steps import Steps

AGAIN = 10.0  # seconds an INVITE that was refused with one of these may take to come again
_COMES_AGAIN = frozenset((401, 407, 422))
_KEPT = ("From", "To", "Call-ID", "CSeq", "Contact", "Record-Route")  # of an INVITE that is answered


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds: an INVITE without a final response; one command of the gateway."""

    ringing: float
    gateway: float


class Call:
    """token: names the call in our Record-Route URIs, and its context. route: where a request made here goes
    on the core side; (): back to where that side was. aor: the UE's, "" where it is not registered. flows:
    where requests to each side went last."""

    def __init__(
        self,
        token: str,
        invite: Crossing,
        terms: Terms,
        limits: Limits,
        route: Callable[[Request], Hops],
        rng: Random,
        now: float,
        aor: str = "",
    ) -> None:
        self.token = token
        self.aor = aor
        self.invite = invite
        self.caller = invite.side
        self.flows: dict[Side, Flow] = {} if invite.hops else {invite.side.other: invite.flow}
        if invite.server is not None:
            self.flows[invite.side] = invite.server.flow
        self.started = now
        self.ending = ""
        self.effects: list[Effect] = []
        self._inactivity = terms.inactivity
        self._limits = limits
        self._route = route
        anchor = Anchor(token)
        self._steps = Steps(anchor, self.effects, limits.gateway, self._lost)
        self._now = now
        self._branches = Branches(invite, anchor, terms, rng, self.flows)
        self._descriptions = Descriptions(token, self._branches, self._steps, self.effects.append, self._lost)
        self._crossings: list[Crossing] = []
        self._acks: list[Side] = []  # who sent the ACKs that wait for a step
        self._hung_up: set[str] = set()  # callee's tags of dialogs that nobody wanted
        self._again: float | None = None  # until when the INVITE may come again
        self._closed = False

    @property
    def finished(self) -> bool:
        """Nothing is left: no dialog, no request under way or expected, nothing at the gateway."""
        return not self._branches and not self._crossings and self._again is None and self._steps.idle

    @property
    def anchored(self) -> bool:
        """Whether the gateway may hold a context of this call."""
        return self._steps.holds

    @property
    def settled(self) -> bool:
        """No step is under way, so that what was agreed is what the gateway has."""
        return self._steps.settled

    @property
    def _now(self) -> float:
        return self._steps.now

    @_now.setter
    def _now(self, now: float) -> None:
        self._steps.now = now

    def record(self, epoch: float) -> CallRecord | None:
        """What a restart needs; None while there is no dialog that could survive one. epoch: what the wall
        clock shows at zero of ours."""
        branches = self._branches.agreed()
        if self._closed or not branches:
            return None
        request = self.invite.request
        return CallRecord(
            self.token,
            self.aor,
            self.caller,
            request.uri,
            tuple((name, value) for name in _KEPT for value in request.headers.lines(name)),
            tuple(self.invite.outgoing.headers.values("Record-Route")),
            self.flows,
            self.started + epoch,
            self._branches.root.terms.registered,
            tuple(branch.record() for branch in branches),
        )

    def resume(self, record: CallRecord, epoch: float) -> None:
        """Go on where a record says that the call stood. Its media wait for `reclaim`."""
        self.flows.update(record.flows)
        self.started = record.started - epoch
        self._branches.resume(record.branches)
        if any(branch.media.agreed.streams for branch in self._branches):
            self._steps.pause()

    def timeout(self) -> float | None:
        """When `expire` wants to be called."""
        deadlines = [crossing.deadline for crossing in self._crossings] + [self._steps.deadline, self._again]
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def status(self, now: float) -> dict[str, object]:
        """For the status document; no key material."""
        media = [self._branches.root, *(branch.media for branch in self._branches)][-1]
        decisions = media.agreed.decisions or (media.pending.decisions if media.pending else ())
        return {
            "token": self.token,
            "call_id": self.invite.request.call_id,
            "caller": self.invite.request.from_.uri,
            "callee": self.invite.request.to.uri,
            "direction": "originating" if self.caller is Side.ACCESS else "terminating",
            "state": "ending" if self._closed else "established" if self._branches.established else "setup",
            "age": round(now - self.started, 1),
            "treatments": [str(decision.treatment) for decision in decisions],
        }

    def addressee(self, request: Request, side: Side, flow: Flow) -> Party | None:
        """Whom a request from one side is for, if its tags are those of a dialog and it came from where that
        side's requests come from."""
        branch = self._branches.of(request, side)
        if branch is None or self.flows[side].remote != flow.remote:
            return None
        tag = (request.from_ if side is self.caller else request.to).tag
        caller = self.invite.request.from_.tag
        return branch.dialog.toward(side is self.caller) if tag == caller else None

    def far_end(self, request: Request, side: Side) -> Party | None:
        """Whom a request from one side is for, by its tags alone; None if they are of no dialog."""
        branch = self._branches.of(request, side)
        return branch.dialog.toward(side is self.caller) if branch else None

    def waits_for(self, crossing: Crossing) -> bool:
        """Whether an INVITE is this call's again, with what a 401, 407 or 422 has asked of it: it gets the
        same media context (trap P37)."""
        before, request = self.invite.request, crossing.request
        came = crossing.server.flow if crossing.server is not None else crossing.flow
        at = came if crossing.side is Side.ACCESS else crossing.flow
        return (
            self._again is not None
            and crossing.side is self.caller
            and at.remote == self.flows[Side.ACCESS].remote
            and (request.call_id, request.from_.tag) == (before.call_id, before.from_.tag)
            and request.cseq.number > before.cseq.number
        )

    # -- requests

    def request(self, crossing: Crossing, now: float) -> None:
        """A request of this call, the INVITE that makes it included."""
        self._now = now
        if self._again is not None and self.waits_for(crossing):
            self._again, self.invite = None, crossing
            self._branches.invite = crossing
        crossing.call = self
        self._crossings.append(crossing)
        method = crossing.request.method
        if method == "INVITE":
            crossing.deadline = now + self._limits.ringing
        if crossing is not self.invite:
            if self._branches.of(crossing.request, crossing.side) is None:
                # what crosses a BYE of ours is answered as by a peer that has hung up already
                self._refuse(crossing, 200 if self._closed and method == "BYE" else 481, "")
                return
            if crossing.server is not None:
                self.flows[crossing.side] = crossing.server.flow
        if method == "BYE" and crossing.side not in self._acks:
            self._send(crossing)
        elif method == "BYE":
            pass  # it follows the ACK
        elif not self._steps.run(partial(self._enter, crossing)):
            self._refuse(crossing, 503, "too much at once in one call")

    def _enter(self, crossing: Crossing) -> None:
        if crossing.answered:
            return
        if self._glare(crossing):
            return
        branch = self._branches.of(crossing.request, crossing.side)
        if branch is None and crossing is not self.invite:
            self._refuse(crossing, 481, "")  # its dialog ended while it waited
            return
        try:
            found = _description(crossing.request, crossing.request.method)
        except PeerError as error:
            self._refuse(crossing, error.status, error.reason)
            return
        media = branch.media if branch else self._branches.root
        refuse = partial(self._refuse, crossing)
        if found is None:
            self._send(crossing)
        elif media.pending is None:
            proceed = partial(self._send_offer, crossing, media)
            self._descriptions.offer(crossing.side, media, crossing.outgoing, found, None, proceed, refuse)
        elif branch and branch.awaits(crossing.side) and crossing.request.method == "PRACK":
            proceed = partial(self._send, crossing)
            self._descriptions.answer(crossing.side, media, crossing.outgoing, found, None, proceed, refuse)
        else:
            # RFC 3311 section 5.2: the other side's offer is out, or this side's own has no answer yet
            self._refuse(crossing, 500 if media.pending.side is crossing.side else 491, "an offer is pending")

    def _glare(self, crossing: Crossing) -> bool:
        """RFC 3261 section 14.2: one INVITE at a time (trap P29)."""
        if crossing.request.method != "INVITE":
            return False
        for other in self._crossings:
            if other is not crossing and other.request.method == "INVITE" and not other.answered:
                status = 500 if other.side is crossing.side else 491
                self._refuse(crossing, status, "an INVITE is pending")
                return True
        return False

    def _send_offer(self, crossing: Crossing, media: Negotiation) -> None:
        if media.pending is not None:
            crossing.offer = media.pending.offer
        self._send(crossing)

    def _send(self, crossing: Crossing) -> None:
        if crossing.answered:  # refused or cancelled while it waited
            self._roll_back(crossing)
            return
        branch = self._branches.of(crossing.request, crossing.side)
        if branch is not None:
            toward_callee = crossing.side is self.caller
            branch.dialog.number(crossing.outgoing, toward_callee)
            if crossing.request.method in ("INVITE", "UPDATE"):
                branch.dialog.toward(not toward_callee).refresh(crossing.request.headers)
        crossing.sent = True
        self.effects.append(Send(crossing))

    def cancel(self, crossing: Crossing, reasons: tuple[str, ...], now: float) -> None:
        """The sender of an INVITE has cancelled it (RFC 3261 section 9.2). reasons: why, as it says; a phone
        that reads "completed elsewhere" shows no missed call."""
        self._now = now
        if crossing.answered:
            return
        if crossing is self.invite or not crossing.sent:
            self._refuse(crossing, 487, "", reasons)
        else:  # whether it has changed the dialog is the other end's to say
            self.effects.append(Cancel(crossing, reasons))

    def acknowledge(self, request: Request, ack: SendAck, side: Side, now: float) -> None:
        """The ACK to a 2xx, as it came and as it is to leave."""
        self._now = now
        self._acks.append(side)
        if not self._steps.run(partial(self._ack, request, ack, side)):
            self.effects.append(Note(logging.WARNING, f"{self.token}: an ACK dropped, too much at once"))
            self._acked(side)

    def _acked(self, side: Side) -> None:
        """An ACK has left, or never will; the BYE of its sender may follow."""
        self._acks.remove(side)
        for crossing in list(self._crossings):
            if crossing.request.method == "BYE" and crossing.side is side and not crossing.sent:
                self._send(crossing)

    def _send_ack(self, ack: SendAck, side: Side) -> None:
        self.effects.append(ack)
        self._acked(side)

    def _ack(self, request: Request, ack: SendAck, side: Side) -> None:
        outgoing = ack.request
        branch = self._branches.of(request, side)
        if branch is None:
            self._acked(side)
            return
        branch.dialog.number(outgoing, side is self.caller)
        refuse = partial(self._bad_ack, ack, side)
        try:
            found = _description(request, "ACK")
        except PeerError as error:
            refuse(error.status, error.reason)
            return
        send = partial(self._send_ack, ack, side)
        passed = branch.passed(side, request.cseq.number)
        if found is None:
            if branch.awaits(side):  # the offer of the 2xx stays without an answer
                branch.media.rollback()
                self._descriptions.settle(partial(self._branches.wanted, branch.media))
            send()
        elif found.sdp in passed:
            found.replace(outgoing, passed[found.sdp])
            send()
        elif branch.awaits(side):
            self._descriptions.answer(side, branch.media, outgoing, found, passed, send, refuse)
        else:  # a description nobody asked for: it does not pass
            outgoing.set_body(b"")
            send()

    def _bad_ack(self, ack: SendAck, side: Side, status: int, reason: str) -> None:
        """An ACK cannot be refused: it passes without its answer, and the call ends."""
        ack.request.set_body(b"")
        self._send_ack(ack, side)
        self.end(f"a bad answer in the ACK: {reason}", status, self._now)

    # -- responses

    def response(self, crossing: Crossing, response: Response, now: float) -> None:
        """A response to a request of this call, or to one of our own."""
        self._now = now
        if response.status == 100:
            return
        if crossing.server is None or crossing.request.method == "BYE":
            self._bye_response(crossing, response)
            return
        if response.status >= 200:
            crossing.final = response
        if not self._steps.run(partial(self._respond, crossing, response)):
            self.effects.append(
                Note(logging.WARNING, f"{self.token}: {response.status} dropped, too much at once")
            )

    def stray(self, crossing: Crossing, response: Response, now: float) -> None:
        """A 2xx to an INVITE, from a server that was given up for another."""
        self._now = now
        self._hang_up(crossing, response)

    def _respond(self, crossing: Crossing, response: Response) -> None:
        invite = crossing.request.method == "INVITE"
        wanted = not crossing.answered or (crossing.accepted and 200 <= response.status < 300)
        if self._closed or not wanted or self._branches.tag_of(response, crossing.side) in self._hung_up:
            self._late(crossing, response)
            return
        outgoing = response.copy()
        outgoing.headers.set("CSeq", crossing.request.headers.get("CSeq") or "")
        if response.status >= 300:
            self._decline(crossing, outgoing)
            return
        branch = self._dialog_of(crossing, response)
        if branch is None:
            return
        if invite or crossing.request.method == "UPDATE":
            branch.dialog.toward(crossing.side is self.caller).refresh(response.headers)
        if response.status == 199 and not branch.dialog.confirmed:
            self._drop_branch(response.to.tag or "")
            drop_sdp(outgoing)
            self._pass_on(crossing, outgoing)
            return
        fail = partial(self._fail, crossing, response)
        try:
            found = _description(response, crossing.request.method)
        except PeerError as error:
            fail(error.status, error.reason)
            return
        proceed = partial(self._pass_on, crossing, outgoing)
        if invite and response.status >= 200:
            branch.media.accepted()
            proceed = partial(self._descriptions.confirm, branch, proceed)
        if found is not None:
            self._described(crossing, branch, response, outgoing, found, proceed, fail)
        elif response.status >= 200 and branch.media.pending and branch.media.pending.offer is crossing.offer:
            fail(500, "a 2xx without the answer")
        else:
            proceed()

    def _dialog_of(self, crossing: Crossing, response: Response) -> Branch | None:
        """The dialog of a provisional or successful response. None: that is over, or one too many, and the
        response goes no further."""
        if crossing is not self.invite:
            branch = self._branches.of(crossing.request, crossing.side)
            if branch is None and response.status >= 200:
                self._settle(crossing)
                self._refuse(crossing, 481, "")
                if crossing.request.method == "INVITE":
                    self._hang_up(crossing, response)
            return branch
        if self._branches.ended(response):
            status, reason = 487, "a response of an early dialog that is over"
        elif (branch := self._branches.made_by(response)) is not None:
            return branch
        else:
            status, reason = 503, f"more than {MAX_BRANCHES} dialogs"
        if response.status >= 200:
            self._fail(crossing, response, status, reason)
        else:
            self.effects.append(Note(logging.WARNING, f"{self.token}: {response.status} dropped: {reason}"))
        return None

    def _described(
        self,
        crossing: Crossing,
        branch: Branch,
        response: Response,
        outgoing: Response,
        found: Found,
        proceed: Callable[[], None],
        fail: Callable[[int, str], None],
    ) -> None:
        """A response with a session description: the answer, an offer, or one of these again."""
        media, side = branch.media, crossing.side.other
        number = crossing.request.cseq.number
        passed = branch.passed(side, number) if crossing.request.method == "INVITE" else None
        if passed and found.sdp in passed:
            found.replace(outgoing, passed[found.sdp])
            proceed()
            return
        if media.pending is None and crossing.offer is not None:
            media.reopen(crossing.offer)  # answered twice, as by an announcement and then the callee
        if media.pending is not None and media.pending.offer is crossing.offer:
            self._descriptions.answer(side, media, outgoing, found, passed, proceed, fail)
        elif crossing.offer is not None:
            # answered, and something else agreed on since: what holds is what this side was told last
            found.replace(outgoing, media.edges[crossing.side].origin.last)
            proceed()
        elif media.pending is None and (response.status >= 200 or "RSeq" in response.headers):
            self._descriptions.offer(side, media, outgoing, found, passed, proceed, fail)
            branch.offered = media.pending.offer if media.pending else None
        elif response.status >= 200:
            fail(488, "a session description out of turn")
        else:  # an unreliable response may not offer (RFC 3261 section 13.2.1): it passes without
            outgoing.set_body(b"")
            proceed()

    def _pass_on(self, crossing: Crossing, outgoing: Response) -> None:
        """A provisional or successful response, ready to leave."""
        if outgoing.status >= 200:
            self._finish(crossing, outgoing.status)
        self.effects.append(Respond(crossing, outgoing))

    def _decline(self, crossing: Crossing, outgoing: Response) -> None:
        """A final response other than 2xx. Media it may describe (RFC 3261 section 21.4.26) are not ours."""
        drop_sdp(outgoing)
        self._finish(crossing, outgoing.status)
        self.effects.append(Respond(crossing, outgoing))
        if crossing is self.invite and outgoing.status in _COMES_AGAIN and not self._branches:
            self._again = self._now + AGAIN
            self._branches.root.rollback()
        elif crossing is self.invite:
            self._close()
        else:
            self._roll_back(crossing)

    def _late(self, crossing: Crossing, response: Response) -> None:
        """A response to a request whose sender has its final answer from us already."""
        if 200 <= response.status < 300 and crossing.request.method == "INVITE":
            self._hang_up(crossing, response)
        if response.status >= 200:
            self._settle(crossing)

    def _bye_response(self, crossing: Crossing, response: Response) -> None:
        if response.status < 200:
            return
        if crossing.server is not None and not crossing.answered:
            outgoing = response.copy()
            outgoing.headers.set("CSeq", crossing.request.headers.get("CSeq") or "")
            self._finish(crossing, response.status)
            self.effects.append(Respond(crossing, outgoing))
            if response.status not in (401, 407):  # challenged: the dialog goes on (RFC 3261 section 22)
                self._drop_branch(self._branches.tag_of(crossing.request, crossing.side))
        self._settle(crossing)

    # -- endings

    def _roll_back(self, crossing: Crossing) -> None:
        """An offer was refused: the media are as they were (trap P29)."""
        branch = self._branches.of(crossing.request, crossing.side)
        if branch is None or crossing.offer is None:
            return
        media = branch.media
        if media.pending is None:
            media.reopen(crossing.offer)  # a provisional response may have had an answer
        if media.pending is not None and media.pending.offer is crossing.offer:
            media.rollback()
            self._descriptions.settle(partial(self._branches.wanted, media))

    def _drop_branch(self, tag: str) -> None:
        """A dialog ended, and with the last one the call."""
        released = self._branches.drop(tag)
        if released is None:
            return
        if not self._branches and self.invite.answered:
            self._close()
        else:
            self._descriptions.settle(lambda: {**released, **self._branches.wanted()})

    def end(self, reason: str, status: int, now: float) -> None:
        """End the call from the middle: BYE to both sides, or a final response to its INVITE and CANCEL."""
        self._now = now
        if self._closed:
            return
        self.ending = reason
        self.effects.append(Note(logging.WARNING, f"{self.token}: ended: {reason}"))
        for branch in self._branches:
            if branch.dialog.confirmed:
                self._bye(branch.dialog, callee=False)
                self._bye(branch.dialog, callee=True)
        if not self.invite.answered:
            self._refuse(self.invite, status, reason)
        self._close()

    def gateway_lost(self, reason: str, now: float) -> None:
        """Whatever the gateway had of this call is gone."""
        self._steps.gone()
        self.end(reason, 503, now)

    def _lost(self, reason: str) -> None:
        self.end(reason, 503, self._now)

    def _close(self) -> None:
        """The last dialog is over: whatever still waits is answered, and the gateway gets everything back."""
        if self._closed:
            return
        self._closed = True
        self._again = None
        self._branches.clear()
        self._steps.release()
        for crossing in list(self._crossings):
            if crossing.server is not None and not crossing.answered:
                if crossing.request.method != "BYE":
                    self._refuse(crossing, 481, "")
                elif not crossing.sent:
                    self._refuse(crossing, 200, "")
            if crossing.final is not None:  # came in time to be of no use
                self._late(crossing, crossing.final)

    def _refuse(self, crossing: Crossing, status: int, reason: str, reasons: tuple[str, ...] = ()) -> None:
        """A final response of our own; what went on to the other side is cancelled if it can be, with these
        Reason values."""
        response = make_response(crossing.request, status, to_tag=self.token)
        if reason:
            if crossing.side is Side.ACCESS:  # the core is not told what the UE and we have agreed on
                response.headers.append("Warning", f"399 imsalg {quote(reason)}")
            self.effects.append(
                Note(logging.INFO, f"{self.token}: {crossing.request.method} {status}: {reason}")
            )
        if status in (500, 503):
            response.headers.append("Retry-After", "2")
        crossing.answered, crossing.deadline = status, None
        self.effects.append(Respond(crossing, response))
        if not crossing.sent:
            self._settle(crossing)
        elif crossing in self._crossings and crossing.request.method == "INVITE":
            self.effects.append(Cancel(crossing, reasons))
        if crossing is self.invite:
            self._close()
        else:
            self._roll_back(crossing)

    def _fail(self, crossing: Crossing, response: Response, status: int, reason: str) -> None:
        """A response that cannot be passed on: its INVITE fails, or the running call ends."""
        accepted = response.status >= 200
        if crossing.answered:
            tag = self._branches.tag_of(response, crossing.side)
            branch = self._branches.of(response, crossing.side)
            if crossing is self.invite and not (branch and branch.dialog.confirmed):
                self._drop_branch(tag)  # another answered as well: the call is its caller's
                self._hang_up(crossing, response)
            else:
                self.end(reason, status, self._now)
            return
        if accepted:
            self._settle(crossing)
        self._refuse(crossing, status, reason)
        if accepted and crossing.request.method == "INVITE":
            self._hang_up(crossing, response)
        if crossing is not self.invite:
            self.end(reason, status, self._now)

    def _hang_up(self, crossing: Crossing, response: Response) -> None:
        """Acknowledge a 2xx that nobody waits for any more, and say BYE (RFC 3261 section 9.1)."""
        callee = crossing.side is self.caller
        tag = self._branches.tag_of(response, crossing.side)
        branch = self._branches.of(response, crossing.side)
        if branch is None and tag not in self._hung_up and len(self._hung_up) >= MAX_BRANCHES:
            return
        dialog = branch.dialog if branch else self._branches.dialog(response)
        ack = dialog.ack(response, callee)
        self.effects.append(SendAck(ack, *self._way(crossing.side.other, ack)))
        if branch is None and tag not in self._hung_up:
            self._hung_up.add(tag)
            self._bye(dialog, callee)

    def _bye(self, dialog: Dialog, callee: bool) -> None:
        """A BYE of our own, towards one end of a dialog."""
        side = self.caller.other if callee else self.caller
        request = dialog.request("BYE", callee)
        crossing = Crossing(side.other, request, request, *self._way(side, request), call=self, sent=True)
        self._crossings.append(crossing)
        self.effects.append(Send(crossing))

    def _way(self, side: Side, request: Request) -> tuple[Flow, Hops]:
        """Where a request of our own goes."""
        return self.flows[side], () if side is Side.ACCESS else self._route(request)

    def _finish(self, crossing: Crossing, status: int) -> None:
        """The sender of a request gets the other side's final answer."""
        crossing.answered = status
        self._settle(crossing)

    def _settle(self, crossing: Crossing) -> None:
        """Nothing more is expected of a request."""
        crossing.deadline = crossing.final = None
        if crossing in self._crossings:
            self._crossings.remove(crossing)

    # -- the gateway and time

    def replied(self, number: int, reply: Reply | ErrorReply, now: float) -> None:
        """The gateway's reply to the command of that number."""
        self._now = now
        self._steps.replied(number, reply)

    def notice(self, notice: Notice, now: float) -> None:
        self._now = now
        where = f"{notice.termination} m={notice.stream - 1}"
        text = f"{self.token}: {notice.event.value} {where} {notice.detail}".rstrip()
        match notice.event:
            case Event.MEDIA_FIRST:
                self.effects.append(Note(logging.INFO, text))
            case Event.SRTP_FAILURES:
                self.effects.append(Note(logging.WARNING, text))
            case Event.CONTEXT_LOST:
                self._steps.gone()
                self._lost("the gateway has lost the context")
            case Event.MEDIA_INACTIVE:
                self.effects.append(Note(logging.INFO, text))
                self._steps.run(self._audit)

    def _audit(self) -> None:
        """One stream is silent: the call ends if all are."""
        if self._steps.holds and not self._closed:
            self._steps.ask((AuditValue(),), self._audited, self._misled)

    def _audited(self, reply: Reply) -> None:
        context = _context(reply)
        if context is None or context.idle >= self._inactivity * 0.9:
            self._lost("no media")

    def reclaim(self, now: float) -> None:
        """The gateway is there after our restart: what it has of this call becomes what had been agreed, and
        the call goes on."""
        self._now = now
        if self._steps.paused:
            self._steps.go_on(partial(self._steps.ask, (AuditValue(),), self._reclaimed, self._misled))

    def _reclaimed(self, reply: Reply) -> None:
        context = _context(reply)
        *_, branch = self._branches  # the one answered last is heard
        wanted = self._branches.hear(branch.media)
        if context is None or not self._steps.restate(wanted, context.terminations, self._misled):
            self._lost("the gateway has lost the context")
        elif branch.media.supervised and context.idle >= self._inactivity * 0.9:  # the notice found nobody
            self._lost("no media")

    def _misled(self, _: int, reason: str) -> None:
        """The gateway refuses what must be."""
        self._lost(reason)

    def expire(self, now: float) -> None:
        """Time has come to `timeout()`."""
        self._now = now
        self._steps.expire()
        if self._again is not None and self._again <= now:
            self._close()
        for crossing in list(self._crossings):
            if crossing.deadline is not None and crossing.deadline <= now:
                self._refuse(crossing, 408, "the ringing limit")


def _description(message: Request | Response, method: str) -> Found | None:
    """The session description of a message that negotiates media."""
    return find_sdp(message) if method in NEGOTIATING else None


def _context(reply: Reply) -> AuditedContext | None:
    """The context that was audited, if it is there."""
    audited = (result for result in reply.results if isinstance(result, Audited))
    return next((context for result in audited for context in result.contexts), None)
