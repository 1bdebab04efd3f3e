"""A request on its way through the proxy, and the effects that `core` carries out for the machines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from agw.iq.messages import Command
from imsalg.anchor import Side
from imsalg.sdp.document import Document
from imsalg.sip.events import ClientTransaction, ServerTransaction
from imsalg.sip.hop import Flow
from imsalg.sip.message import Request, Response
from imsalg.sip.values import Uri

if TYPE_CHECKING:
    from imsalg.call import Call
    from imsalg.forwarding import Departure
    from imsalg.registration import Registering
    from imsalg.subscription import Subscription


Hops = tuple[Uri, ...]
"""What a server of the core is found by, tried in order (RFC 3263)."""


class Crossing(Struct, eq=False):
    """One request: the server transaction it came by and the client transaction it leaves by.

    side: where it came from. request: as received. outgoing, flow: what leaves, and where to; with `hops`
    that is so once a server was found, and before it is where it came from. The proxy's own requests have no
    server transaction. sent: the client transaction was asked for. answered: the final status its sender was
    given, 0 if none yet. final: the other side's, until it is passed on. deadline: when an INVITE is given
    up. offer: the session description it carried, if that was an offer. open: how many of its transactions
    have not ended.
    """

    side: Side
    request: Request
    outgoing: Request
    flow: Flow
    hops: Hops = ()
    server: ServerTransaction | None = None
    client: ClientTransaction | None = None
    sent: bool = False
    answered: int = 0
    final: Response | None = None
    deadline: float | None = None
    offer: Document | None = None
    call: Call | None = None
    registering: Registering | None = None
    subscription: Subscription | None = None
    departure: Departure | None = None
    open: int = 0

    def transaction_ended(self) -> None:
        """With the last one nobody hears of this request any more. A call remembers the INVITE that made it,
        and these two shall not keep each other."""
        self.open -= 1
        if not self.open and (self.departure is None or self.departure.settled):
            self.call = None

    @property
    def accepted(self) -> bool:
        return 200 <= self.answered < 300


class Send(Struct, frozen=True):
    """Start the client transaction of a crossing."""

    crossing: Crossing


class Respond(Struct, frozen=True):
    """Answer the server transaction of a crossing."""

    crossing: Crossing
    response: Response


class Cancel(Struct, frozen=True):
    """Cancel the client transaction of an INVITE. reasons: Reason values for the other end (RFC 3326)."""

    crossing: Crossing
    reasons: tuple[str, ...] = ()


class SendAck(Struct, frozen=True):
    """An ACK to a 2xx has no transaction."""

    request: Request
    flow: Flow
    hops: Hops = ()


class Ask(Struct, frozen=True):
    """Commands for the gateway, on one context. number: comes back with the reply."""

    context: str
    commands: tuple[Command, ...]
    number: int


class Ended(Struct, frozen=True):
    """The proxy has ended a call that was answered or being set up. status: what says why."""

    status: int


class Note(Struct, frozen=True):
    """A line for the log; level as in `logging`."""

    level: int
    text: str


Effect = Send | Respond | Cancel | SendAck | Ask | Ended | Note
