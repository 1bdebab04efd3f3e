"""What the proxy says by itself in the dialogs of a call, in the voice of the other end: the BYE, and the ACK
to a 2xx that nobody waits for any more."""

from __future__ import annotations

from collections.abc import Callable

from imsalg.anchor import Side
from imsalg.branches import MAX_BRANCHES
from imsalg.callstate import CallState
from imsalg.crossing import Crossing, Hops, Send, SendAck
from imsalg.sip.dialog import Dialog
from imsalg.sip.hop import Flow
from imsalg.sip.message import Request, Response
from imsalg.underway import Underway, because


class Release:
    """route: where a request made here goes on the core side; (): back to where that side was."""

    def __init__(self, call: CallState, underway: Underway, route: Callable[[Request], Hops]) -> None:
        self._call = call
        self._underway = underway
        self._route = route
        self._hung_up: set[str] = set()  # callee's tags of dialogs that nobody wanted

    def has_hung_up(self, tag: str) -> bool:
        return tag in self._hung_up

    def end(self, dialog: Dialog, status: int) -> None:
        """BYE to both ends. status: what says why."""
        self._bye(dialog, False, status)
        self._bye(dialog, True, status)

    def leave(self, early: Dialog, status: int) -> None:
        """BYE to the callee of an early dialog: the INVITE goes on with the others, which a CANCEL would end
        as well (RFC 3261 section 15)."""
        self._bye(early, True, status)

    def hang_up(self, crossing: Crossing, response: Response) -> None:
        """Acknowledge a 2xx that nobody waits for any more, and say BYE (RFC 3261 section 9.1)."""
        callee = crossing.side is self._call.branches.caller
        tag = self._call.branches.tag_of(response, crossing.side)
        branch = self._call.branches.of(response, crossing.side)
        new = branch is None and tag not in self._hung_up
        if new and len(self._hung_up) >= MAX_BRANCHES:
            return
        dialog = branch.dialog if branch else self._call.branches.dialog(response)
        ack = dialog.ack(response, callee)
        self._call.effects.append(SendAck(ack, *self._way(crossing.side.other, ack)))
        if new:
            self._hung_up.add(tag)
            self._bye(dialog, callee, crossing.answered or 408)  # or else a server was silent for too long

    def _bye(self, dialog: Dialog, callee: bool, status: int) -> None:
        side = self._call.branches.caller.other if callee else self._call.branches.caller
        request = dialog.request("BYE", callee)
        request.headers.append("Reason", because(status))
        crossing = Crossing(side.other, request, request, *self._way(side, request), sent=True)
        self._underway.add(crossing)
        self._call.effects.append(Send(crossing))

    def _way(self, side: Side, request: Request) -> tuple[Flow, Hops]:
        return self._call.flows[side], () if side is Side.ACCESS else self._route(request)
