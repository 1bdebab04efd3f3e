"""The requests of one call and their responses on their way through its dialogs, in order.

What needs the gateway is a step, and what comes after it waits; CANCEL and BYE jump the queue. A request that
nobody takes is answered here, a 2xx that nobody waits for is acknowledged and hung up (see `release`), and
with the last dialog the call is closed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from msgspec import Struct

from imsalg import sessiontimer
from imsalg.acks import Acks
from imsalg.anchor import Side
from imsalg.body import drop_sdp
from imsalg.branches import MAX_BRANCHES, Branch
from imsalg.callstate import CallState
from imsalg.crossing import Cancel, Crossing, Ended, Hops, Respond, Send, SendAck
from imsalg.descriptions import Descriptions
from imsalg.release import Release
from imsalg.sip.message import Request, Response
from imsalg.underway import Underway

AGAIN = 10.0  # seconds an INVITE that was refused with one of these may take to come again
_COMES_AGAIN = frozenset((401, 407, 422))
_REFRESHES = frozenset(("INVITE", "UPDATE"))  # of the sender's target (RFC 3311 section 5.1)


class Limits(Struct, frozen=True):
    """Seconds: an INVITE without a final response; one command of the gateway; the session interval that is
    asked for, 0: none; the longest that a session may go without a refresh."""

    ringing: float
    gateway: float
    session: int
    unrefreshed: int


class Passage:
    """route: see `Release`. again: until when the INVITE of the call may come again."""

    def __init__(self, call: CallState, route: Callable[[Request], Hops], limits: Limits) -> None:
        self._call = call
        self._limits = limits
        self._descriptions = Descriptions(call)
        self.underway = Underway(call)
        self.release = Release(call, self.underway, route)
        self._acks = Acks(call, self._descriptions)
        self._unserved: dict[str, tuple[int, str]] = {}  # callee's tag -> why its early dialog was ended
        self.again: float | None = None

    @property
    def latest(self) -> float:
        """When a session of now is over unless it is refreshed, whatever has been agreed on."""
        return self._call.steps.now + sessiontimer.lasts(self._limits.unrefreshed)

    # -- requests

    def request(self, crossing: Crossing) -> None:
        """The INVITE that makes the call, or a request within its dialogs."""
        invite, method = crossing is self._call.branches.invite, crossing.request.method
        self.underway.add(crossing)
        if method == "INVITE":
            crossing.deadline = self._call.steps.now + self._limits.ringing
        if not invite and self._call.branches.of(crossing.request, crossing.side) is None:
            # what crosses a BYE of ours is answered as by a peer that has hung up already
            self._refuse(crossing, 200 if self._call.branches.closed and method == "BYE" else 481)
            return
        if not invite and crossing.server is not None:
            self._call.flows[crossing.side] = crossing.server.flow
        if method == "BYE":
            if not self._acks.wait(crossing.side):  # else it follows
                self._send(crossing)
        elif not self._call.steps.run(partial(self._enter, crossing)):
            self._refuse(crossing, 503, "too much at once in one call")

    def _enter(self, crossing: Crossing) -> None:
        if crossing.answered or self._glares(crossing):
            return
        branch = self._call.branches.of(crossing.request, crossing.side)
        refuse = partial(self._refuse, crossing)
        if branch is None and crossing is not self._call.branches.invite:
            refuse(481)  # its dialog ended while it waited
            return
        self._descriptions.in_request(crossing, branch, partial(self._send, crossing), refuse)

    def _glares(self, crossing: Crossing) -> bool:
        """RFC 3261 section 14.2: one INVITE at a time (trap P29)."""
        if crossing.request.method != "INVITE":
            return False
        for other in self.underway:
            if other is not crossing and other.request.method == "INVITE" and not other.answered:
                status = 500 if other.side is crossing.side else 491
                self._refuse(crossing, status, "an INVITE is pending")
                return True
        return False

    def _send(self, crossing: Crossing) -> None:
        if crossing.answered:  # refused or cancelled while it waited
            self._descriptions.withdraw(crossing)
            return
        branch = self._call.branches.of(crossing.request, crossing.side)
        if branch is not None:
            toward_callee = crossing.side is self._call.branches.caller
            branch.dialog.number(crossing.outgoing, toward_callee)
            if crossing.request.method in _REFRESHES:
                branch.dialog.toward(not toward_callee).refresh(crossing.request.headers)
        if sessiontimer.is_refresh(crossing.request, branch is not None and branch.dialog.confirmed):
            sessiontimer.ask(crossing.outgoing.headers, self._limits.session, self._limits.unrefreshed)
        crossing.sent = True
        self._call.effects.append(Send(crossing))

    def acknowledge(self, request: Request, ack: SendAck, side: Side) -> None:
        """The ACK to a 2xx, as it came and as it is to leave."""
        self._acks.take(request, ack, side, partial(self._acked, side))

    def _acked(self, side: Side) -> None:
        """The BYE of a side may follow its ACK."""
        for crossing in self.underway:
            if crossing.request.method == "BYE" and crossing.side is side and not crossing.sent:
                self._send(crossing)

    def cancel(self, crossing: Crossing, reasons: tuple[str, ...]) -> None:
        """The sender of an INVITE has cancelled it (RFC 3261 section 9.2). reasons: why, as it says; a phone
        that reads "completed elsewhere" shows no missed call."""
        if crossing.answered:
            return
        if crossing is self._call.branches.invite or not crossing.sent:
            self._refuse(crossing, 487, "", reasons)
        else:  # whether it has changed the dialog is the other end's to say
            self._call.effects.append(Cancel(crossing, reasons))

    # -- responses

    def response(self, crossing: Crossing, response: Response) -> None:
        """A response to a request of the call, or to one of our own."""
        if response.status == 100:
            return
        if crossing.server is None or crossing.request.method == "BYE":
            self._bye_response(crossing, response)
            return
        if response.status >= 200:
            crossing.final = response
        if not self._call.steps.run(partial(self._respond, crossing, response)):
            self._call.note(logging.WARNING, f"{response.status} dropped, too much at once")

    def _bye_response(self, crossing: Crossing, response: Response) -> None:
        if response.status < 200:
            return
        if crossing.server is not None and not crossing.answered:
            outgoing = _renumbered(response, crossing.request)
            self._pass_on(crossing, outgoing)
            if response.status not in (401, 407):  # challenged: the dialog goes on (RFC 3261 section 22)
                self._drop(self._call.branches.tag_of(crossing.request, crossing.side))
        self.underway.settle(crossing)

    def _respond(self, crossing: Crossing, response: Response) -> None:
        invite = crossing.request.method == "INVITE"
        wanted = not crossing.answered or (crossing.accepted and 200 <= response.status < 300)
        hung_up = self.release.has_hung_up(self._call.branches.tag_of(response, crossing.side))
        if self._call.branches.closed or hung_up or not wanted:
            self._late(crossing, response)
            return
        outgoing = _renumbered(response, crossing.request)
        if response.status >= 300:
            self._decline(crossing, outgoing)
            return
        branch = self._dialog_of(crossing, response)
        if branch is None:
            return
        if crossing.request.method in _REFRESHES:
            branch.dialog.toward(crossing.side is self._call.branches.caller).refresh(response.headers)
        if response.status == 199 and not branch.dialog.confirmed:
            self._drop(response.to.tag or "")
            drop_sdp(outgoing)
            self._pass_on(crossing, outgoing)
            return
        if response.status >= 200 and sessiontimer.is_refresh(crossing.request, branch.dialog.confirmed):
            lasts = sessiontimer.agree(crossing.outgoing.headers, outgoing.headers, self._limits.unrefreshed)
            branch.expires = self._call.steps.now + lasts
        proceed = partial(self._pass_on, crossing, outgoing)
        if invite and response.status >= 200:
            branch.media.accepted()
            proceed = partial(self._descriptions.confirm, branch, partial(self._accept, crossing, outgoing))
        fail = partial(self._fail, crossing, response)
        self._descriptions.in_response(crossing, branch, response, outgoing, proceed, fail)

    def _dialog_of(self, crossing: Crossing, response: Response) -> Branch | None:
        """The dialog of a provisional or successful response. None: that is over, or one too many, and the
        response goes no further."""
        if crossing is not self._call.branches.invite:
            branch = self._call.branches.of(crossing.request, crossing.side)
            if branch is None and response.status >= 200:
                self.underway.settle(crossing)
                self._refuse(crossing, 481)
                if crossing.request.method == "INVITE":
                    self.release.hang_up(crossing, response)
            return branch
        tag = response.to.tag or ""
        if self._call.branches.ended(response):
            status, reason = self._unserved.get(tag, (487, "a response of an early dialog that is over"))
        elif (branch := self._call.branches.made_by(response)) is not None:
            return branch
        else:
            status, reason = 503, f"more than {MAX_BRANCHES} dialogs"
        if response.status >= 200:
            self._fail(crossing, response, status, reason)
        else:
            self._call.note(logging.WARNING, f"{response.status} dropped: {reason}")
        return None

    def _pass_on(self, crossing: Crossing, outgoing: Response) -> None:
        """A response, ready to leave."""
        if outgoing.status >= 200:
            self.underway.finish(crossing, outgoing.status)
        self._call.effects.append(Respond(crossing, outgoing))

    def _accept(self, crossing: Crossing, outgoing: Response) -> None:
        """A 2xx to an INVITE leaves."""
        self._pass_on(crossing, outgoing)
        if not self._call.branches:  # a BYE was quicker
            self._close()

    def _decline(self, crossing: Crossing, outgoing: Response) -> None:
        """A final response other than 2xx. Media it may describe (RFC 3261 section 21.4.26) are not ours."""
        if outgoing.status == 487 and self._unserved and crossing is self._call.branches.invite:
            self.underway.settle(crossing)
            self._refuse(crossing, *next(reversed(self._unserved.values())))  # our BYE has made it so
            return
        drop_sdp(outgoing)
        self._pass_on(crossing, outgoing)
        if crossing is not self._call.branches.invite:
            self._descriptions.withdraw(crossing)
        elif outgoing.status in _COMES_AGAIN and not self._call.branches:
            self.again = self._call.steps.now + AGAIN
            self._unserved.clear()
            self._call.branches.root.rollback()
        else:
            self._close()

    def _fail(self, crossing: Crossing, response: Response, status: int, reason: str) -> None:
        """A response that cannot be passed on: its early dialog ends, its INVITE fails, or the running call
        ends."""
        invite = crossing is self._call.branches.invite
        branch = self._call.branches.of(response, crossing.side)
        if invite and branch and response.status < 200 and len(self._unserved) < MAX_BRANCHES:
            self._unserved[response.to.tag or ""] = status, reason
            self._call.note(logging.WARNING, f"{response.status}: its early dialog ends: {reason}")
            self.release.leave(branch.dialog, status)
            self._drop(response.to.tag or "")
            return
        if crossing.answered:
            if invite and not (branch and branch.dialog.confirmed):
                self._drop(self._call.branches.tag_of(response, crossing.side))
                self.release.hang_up(crossing, response)  # another answered as well: the call is its caller's
            else:
                self.end(reason, status)
            return
        accepted = response.status >= 200
        if accepted:
            self.underway.settle(crossing)
        self._refuse(crossing, status, reason)
        if accepted and crossing.request.method == "INVITE":
            self.release.hang_up(crossing, response)
        if not invite:
            self.end(reason, status)

    def _late(self, crossing: Crossing, response: Response) -> None:
        """A response to a request whose sender has its final answer from us already."""
        if 200 <= response.status < 300 and crossing.request.method == "INVITE":
            self.release.hang_up(crossing, response)
        if response.status >= 200:
            self.underway.settle(crossing)

    # -- endings

    def _refuse(
        self, crossing: Crossing, status: int, reason: str = "", reasons: tuple[str, ...] | None = None
    ) -> None:
        """See `Underway`; what the request was for has failed."""
        self.underway.refuse(crossing, status, reason, reasons)
        if crossing is self._call.branches.invite:
            self._close()
        else:
            self._descriptions.withdraw(crossing)

    def _drop(self, tag: str) -> None:
        """A dialog ended, and with the last one the call."""
        released = self._call.branches.drop(tag)
        if released is None:
            return
        if not self._call.branches and self._call.branches.invite.answered:
            self._close()
        else:
            self._descriptions.settle(lambda: {**released, **self._call.branches.wanted()})

    def end(self, reason: str, status: int) -> None:
        """End the call from the middle: BYE to both sides, or a final response to its INVITE and CANCEL."""
        if self._call.branches.closed:
            return
        self._call.note(logging.WARNING, f"ended: {reason}")
        self._call.effects.append(Ended(status))
        for branch in self._call.branches:
            if branch.dialog.confirmed:
                self.release.end(branch.dialog, status)
        if not self._call.branches.invite.answered:
            self._refuse(self._call.branches.invite, status, reason)
        self._close()

    def expire(self) -> None:
        """Time has come to what has a deadline."""
        if self.again is not None and self.again <= self._call.steps.now:
            self._close()
        for crossing in self.underway.overdue(self._call.steps.now):
            self._refuse(crossing, 408, "the ringing limit")
        for tag, dialog in self._call.branches.expired(self._call.steps.now):
            self._call.note(logging.WARNING, "ended: its session was not refreshed")
            self._call.effects.append(Ended(408))
            self.release.end(dialog, 408)
            self._drop(tag)

    def _close(self) -> None:
        """The last dialog is over: whatever still waits is answered, and the gateway gets everything back."""
        if self._call.branches.closed:
            return
        self.again = None
        self._call.branches.close()
        self._call.steps.release()
        for crossing in self.underway:
            if crossing.server is not None and not crossing.answered:
                if crossing.request.method != "BYE":
                    self.underway.refuse(crossing, 481)
                elif not crossing.sent:
                    self.underway.refuse(crossing, 200)
            if crossing.final is not None:  # came in time to be of no use
                self._late(crossing, crossing.final)


def _renumbered(response: Response, request: Request) -> Response:
    """A copy that has the number its request came with (see `Dialog.number`)."""
    outgoing = response.copy()
    if response.cseq != request.cseq:
        outgoing.headers.set("CSeq", request.headers.get("CSeq") or "")
    return outgoing
