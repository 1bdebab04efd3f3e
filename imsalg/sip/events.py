"""What the endpoint and its transaction user (TU) talk about: transactions, and what happened to them."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

from imsalg.sip.hop import Flow, Key, reply_flow, stamp_source
from imsalg.sip.message import Request, Response
from imsalg.sip.shares import Source
from imsalg.sip.timers import Running
from imsalg.sip.transaction import Machine, Timer

OCTETS = 16 * 1024  # a request that takes more counts for several


class _Transaction:
    """What both sides have.

    For the TU: `request` as it was received or sent, to be left as it is (forward a copy); `flow`; `state`;
    and `owner`, which the TU may set, and takes away when it is told that the transaction has ended. The
    other attributes are the endpoint's.
    """

    __slots__ = (
        "fallback", "fired", "flow", "machine", "owner", "request", "state", "timers", "to", "weight", "wire",
    )  # fmt: skip

    def __init__(
        self, machine: Machine, request: Request, flow: Flow, to: Flow, fallback: Flow | None, owner: object
    ) -> None:
        self.request = request
        self.weight = 1 + (request.headers.octets + len(request.body)) // OCTETS
        self.flow = flow
        self.owner = owner
        self.state = machine.initial
        self.machine = machine
        self.to = to  # where its messages go
        self.fallback = fallback  # where they go once the transport of `to` has failed
        self.wire = b""  # the latest message it sent (but ACK)
        self.fired = 0  # how often it retransmitted by timer
        self.timers: dict[Timer, Running[tuple[Transaction, Timer]]] = {}

    def __repr__(self) -> str:
        return f"<{self.machine.name} {self.request.method} {self.state}>"


class ClientTransaction(_Transaction):
    """A request we sent. `flow` is the one it went on in the end, TCP for a long one."""

    __slots__ = ("cancel", "key", "sent_by")

    def __init__(
        self,
        machine: Machine,
        request: Request,
        branch: str,
        flow: Flow,
        fallback: Flow | None,
        owner: object,
    ) -> None:
        super().__init__(machine, request, flow, flow, fallback, owner)
        self.key = (branch, request.method)  # RFC 3261 section 17.1.3
        self.sent_by = (flow.local.host.lower(), flow.local.port)
        # the header fields of the CANCEL that is wanted
        self.cancel: tuple[tuple[str, str], ...] | None = None


class ServerTransaction(_Transaction):
    """A request we received on `flow`. source: whose share it is of, None where that is not limited."""

    __slots__ = ("cancelled", "key", "source", "vias")

    def __init__(
        self,
        machine: Machine,
        request: Request,
        key: Key,
        flow: Flow,
        fallback: Flow | None,
        source: Source | None,
    ) -> None:
        super().__init__(machine, request, flow, reply_flow(request.via, flow), fallback, None)
        stamp_source(request, flow)
        self.key = key
        self.source = source
        self.vias = tuple(request.headers.lines("Via"))
        self.cancelled = False


Transaction = ClientTransaction | ServerTransaction


class Cause(StrEnum):
    TIMEOUT = "timeout"
    TRANSPORT = "transport"


class RequestReceived(Struct, frozen=True):
    """A new request, neither ACK nor CANCEL; the TU answers it with respond()."""

    transaction: ServerTransaction
    request: Request
    flow: Flow


class CancelReceived(Struct, frozen=True):
    """The INVITE is to be cancelled. The CANCEL is answered already; the TU still answers the INVITE, with
    487."""

    transaction: ServerTransaction
    request: Request


class SenderGone(Struct, frozen=True):
    """Whoever sent the INVITE can be given no response any more: its flow has gone, and there is no other
    way. The TU still answers it."""

    transaction: ServerTransaction


class AckReceived(Struct, frozen=True):
    """An ACK that ends no transaction: that for a 2xx."""

    request: Request
    flow: Flow


class ResponseReceived(Struct, frozen=True):
    """A response; its top Via is ours. Of finals only a 2xx to an INVITE comes more than once."""

    transaction: ClientTransaction
    response: Response


class TransactionFailed(Struct, frozen=True):
    """Client: no final response came, and none will. Server: the latest response, or the ACK for it, did
    not get through. detail: the shell's words on the transport that failed."""

    transaction: Transaction
    cause: Cause
    detail: str = ""


class TransactionEnded(Struct, frozen=True):
    """The last that is heard of a transaction; told where it has an owner."""

    transaction: Transaction


Event = (
    RequestReceived
    | CancelReceived
    | SenderGone
    | AckReceived
    | ResponseReceived
    | TransactionFailed
    | TransactionEnded
)
