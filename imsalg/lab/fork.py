"""One request on its way to several targets, and which responses go back (RFC 3261 section 16.7)."""

from __future__ import annotations

from imsalg.sip.events import ClientTransaction, ServerTransaction
from imsalg.sip.message import Response
from imsalg.sip.timers import Running

ABOUT_REPAIR = (401, 407, 415, 420, 484)  # preferred among 4xx: the caller can do something about them


class Fork:
    """server: where the request came from. pending: the branches without a final response.

    best: the final response to be sent when the last branch has ended. done: a final response was sent.
    timer: timer C, of an INVITE.
    """

    __slots__ = ("best", "done", "pending", "server", "timer")

    def __init__(self, server: ServerTransaction) -> None:
        self.server = server
        self.pending: set[ClientTransaction] = set()
        self.best: Response | None = None
        self.done = False
        self.timer: Running[Fork] | None = None

    def final(self, branch: ClientTransaction, response: Response) -> Response | None:
        """Take a branch's final response; what is to be sent back now, if anything.

        A 2xx goes back at once, for an INVITE each of them; others when every branch has ended.
        """
        self.pending.discard(branch)
        if response.status < 300:
            first, self.done = not self.done, True
            return response if first or self.server.request.method == "INVITE" else None
        if self.best is None or _rank(response) < _rank(self.best):
            self.best = response
        if self.done or self.pending:
            return None
        self.done = True
        return self.best


def _rank(response: Response) -> tuple[int, int]:
    """Lower is better (RFC 3261 section 16.7 step 6): 6xx before all, else the lowest class."""
    if response.status >= 600:
        return 0, 0
    return response.status // 100, int(response.status not in ABOUT_REPAIR)
