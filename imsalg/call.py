"""One call: two sides and one gateway context (Proxy-B2BUA of RFC 7092; TS 23.334 clause 6.2).

The call is a machine. What happens comes in as method calls (a request, a response, a gateway's reply, time);
what it wants done is appended to `effects`, which `core` carries out. It never waits: CANCEL, BYE, a lost
gateway or a limit may come at any point. What needs the gateway is a step (see `steps`).

Every dialog of the call is a branch with a negotiation of its own (see `branches`); how requests and their
responses cross is in `passage`.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from agw.iq.messages import ErrorReply, Notice, Reply
from imsalg.anchor import Anchor, Side
from imsalg.branches import Branches
from imsalg.callstate import CallState
from imsalg.crossing import Crossing, Effect, Hops, SendAck
from imsalg.negotiation import Terms
from imsalg.passage import Limits, Passage
from imsalg.records import CallRecord
from imsalg.sip.dialog import Party
from imsalg.sip.hop import Flow
from imsalg.sip.message import Request, Response
from imsalg.sip.timers import earliest
from imsalg.steps import Steps
from imsalg.supervision import Supervision

_KEPT = ("From", "To", "Call-ID", "CSeq", "Contact", "Record-Route")  # of an INVITE that is answered


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
        self.caller = invite.side
        self.flows: dict[Side, Flow] = {} if invite.hops else {invite.side.other: invite.flow}
        if invite.server is not None:
            self.flows[invite.side] = invite.server.flow
        self.started = now
        self.effects: list[Effect] = []
        anchor = Anchor(token)
        self._steps = Steps(anchor, self.effects, limits.gateway, self._end)
        self._steps.now = now
        self._branches = Branches(invite, anchor, terms, rng, self.flows)
        state = CallState(token, self._branches, self._steps, self.effects, self.flows)
        self._passage = Passage(state, route, limits)
        self._supervision = Supervision(state, terms.inactivity)

    @property
    def invite(self) -> Crossing:
        """The INVITE that makes the call; another one where it came again."""
        return self._branches.invite

    @property
    def finished(self) -> bool:
        """Nothing is left: no dialog, no request under way or expected, nothing at the gateway."""
        passage = self._passage
        return not (self._branches or passage.underway or passage.again is not None) and self._steps.idle

    @property
    def anchored(self) -> bool:
        """Whether the gateway may hold a context of this call."""
        return self._steps.holds

    @property
    def settled(self) -> bool:
        """No step is under way, so that what was agreed is what the gateway has."""
        return self._steps.settled

    def record(self, epoch: float) -> CallRecord | None:
        """What a restart needs; None while there is no dialog that could survive one. epoch: what the wall
        clock shows at zero of ours."""
        branches = self._branches.agreed()
        if self._branches.closed or not branches:
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
            tuple(branch.record(epoch) for branch in branches),
        )

    def resume(self, record: CallRecord, epoch: float) -> None:
        """Go on where a record says that the call stood. Its media wait for `reclaim`."""
        self.flows.update(record.flows)
        self.started = record.started - epoch
        self._branches.resume(record.branches, epoch, self._passage.latest)
        if any(branch.media.agreed.streams for branch in self._branches):
            self._steps.pause()

    def timeout(self) -> float | None:
        """When `expire` wants to be called."""
        passage = self._passage
        return earliest(
            passage.underway.deadline, self._steps.deadline, passage.again, self._branches.expires
        )

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
            "state": self._state,
            "age": round(now - self.started, 1),
            "treatments": [str(decision.treatment) for decision in decisions],
        }

    @property
    def _state(self) -> str:
        if self._branches.closed:
            return "ending"
        return "established" if self._branches.established else "setup"

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
            self._passage.again is not None
            and crossing.side is self.caller
            and at.remote == self.flows[Side.ACCESS].remote
            and (request.call_id, request.from_.tag) == (before.call_id, before.from_.tag)
            and request.cseq.number > before.cseq.number
        )

    # -- what happens

    def request(self, crossing: Crossing, now: float) -> None:
        """A request of this call, the INVITE that makes it included."""
        self._steps.now = now
        if self.waits_for(crossing):
            self._passage.again, self._branches.invite = None, crossing
        crossing.call = self
        self._passage.request(crossing)

    def cancel(self, crossing: Crossing, reasons: tuple[str, ...], now: float) -> None:
        """The sender of an INVITE has cancelled it. reasons: its Reason values."""
        self._steps.now = now
        self._passage.cancel(crossing, reasons)

    def acknowledge(self, request: Request, ack: SendAck, side: Side, now: float) -> None:
        """The ACK to a 2xx, as it came and as it is to leave."""
        self._steps.now = now
        self._passage.acknowledge(request, ack, side)

    def response(self, crossing: Crossing, response: Response, now: float) -> None:
        """A response to a request of this call, or to one of our own."""
        self._steps.now = now
        self._passage.response(crossing, response)

    def stray(self, crossing: Crossing, response: Response, now: float) -> None:
        """A 2xx to an INVITE, from a server that was given up for another."""
        self._steps.now = now
        self._passage.release.hang_up(crossing, response)

    def replied(self, number: int, reply: Reply | ErrorReply, now: float) -> None:
        """The gateway's reply to the command of that number."""
        self._steps.now = now
        self._steps.replied(number, reply)

    def notice(self, notice: Notice, now: float) -> None:
        self._steps.now = now
        self._supervision.notice(notice)

    def reclaim(self, now: float) -> None:
        """The gateway is there after our restart, and the call goes on."""
        self._steps.now = now
        self._supervision.reclaim()

    def expire(self, now: float) -> None:
        """Time has come to `timeout()`."""
        self._steps.now = now
        self._steps.expire()
        self._passage.expire()

    # -- its end

    def end(self, reason: str, status: int, now: float) -> None:
        """End the call from the middle."""
        self._steps.now = now
        self._passage.end(reason, status)

    def gateway_lost(self, reason: str, now: float) -> None:
        """Whatever the gateway had of this call is gone."""
        self._steps.now = now
        self._steps.gone()
        self._steps.lost(reason)

    def _end(self, reason: str, status: int) -> None:
        self._passage.end(reason, status)
