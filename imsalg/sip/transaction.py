"""The four transaction machines of SIP as tables: RFC 3261 figures 5 to 8 with RFC 6026's Accepted state.

A machine is `(state, event) -> (actions, next state)` and a second table that says which timers live in
which state. That second table is all there is to starting and stopping them: on entering a state its timers
that do not run yet are started, and the timers that do not belong to it are stopped. A pair that is not in
the table means that the event is absorbed. Nothing here knows bytes, sockets or clocks; `endpoint` carries
the actions out.

Rows beyond the figures, each with its reason:
- Server INVITE begins in TRYING, which is the figure's Proceeding as long as the TU is silent: it owns the
  200 ms after which a 100 is sent (RFC 3261 section 17.2.1).
- Client INVITE, Proceeding, Timer.CANCEL: 64*T1 after a CANCEL the transaction counts as cancelled even if no
  final response came (RFC 3261 section 9.1). The endpoint starts this one, when it sends the CANCEL.
- Server INVITE, Trying and Proceeding, FLOW_GONE: who waits for the response cannot be given one, which ends
  nothing here, but is for the TU to know: it may end what it has begun for that request.
- Server non-INVITE, Trying and Proceeding, Timer F: the client's Timer F has fired by now and no response
  is of use any more (RFC 4320 section 4.2), so a request which nobody answers ends by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from msgspec import Struct

T1 = 0.5  # seconds; round-trip estimate (RFC 3261 section 17.1.1.1)
T2 = 4.0  # seconds; longest interval between retransmissions of non-INVITE requests and INVITE responses
T4 = 5.0  # seconds; how long a message stays in the network
TRYING_AFTER = 0.2  # seconds of silence of the TU before the server transaction sends 100 (section 17.2.1)


class _Word(StrEnum):
    """Looked up with every message; Enum's own hash is a Python function and says the same."""

    __hash__ = str.__hash__


class State(_Word):
    CALLING = "Calling"
    TRYING = "Trying"
    PROCEEDING = "Proceeding"
    COMPLETED = "Completed"
    CONFIRMED = "Confirmed"
    ACCEPTED = "Accepted"
    TERMINATED = "Terminated"


class Signal(_Word):
    """What happens to a transaction from outside: on a client responses come in, on a server the TU gives
    them."""

    REQUEST = "request"  # a retransmission of the request
    ACK = "ACK"
    PROVISIONAL = "1xx"
    SUCCESS = "2xx"
    FAILURE = "300-699"
    TRANSPORT_ERROR = "Transport Err."
    FLOW_GONE = "Flow gone"


class Timer(_Word):
    """RFC 3261 table 4, RFC 6026 section 7 (L, M), and the two of this file's docstring."""

    A = "Timer A"  # INVITE request retransmission, UDP only
    B = "Timer B"  # INVITE client gives up
    D = "Timer D"  # INVITE client absorbs retransmitted finals
    E = "Timer E"  # non-INVITE request retransmission, UDP only
    F = "Timer F"  # non-INVITE client gives up
    G = "Timer G"  # INVITE response retransmission, UDP only
    H = "Timer H"  # INVITE server waits for the ACK
    I = "Timer I"  # INVITE server absorbs retransmitted ACKs  # noqa: E741
    J = "Timer J"  # non-INVITE server absorbs retransmitted requests
    K = "Timer K"  # non-INVITE client absorbs retransmitted responses
    L = "Timer L"  # INVITE server absorbs retransmitted INVITEs after 2xx
    M = "Timer M"  # INVITE client passes retransmitted and forked 2xx
    TRYING = "Timer 100"
    CANCEL = "Timer CANCEL"


class Action(StrEnum):
    SEND = "send"  # client: the request again; server: the latest response (again)
    SEND_ACK = "send ACK"  # for a 300-699
    SEND_TRYING = "send 100"
    DELIVER = "to TU"  # the response, or the ACK
    FAIL = "inform TU"  # the cause is `transport` on a transport error, else `timeout`


Event = Signal | Timer
Row = tuple[tuple[Action, ...], State]


class Machine(Struct, frozen=True):
    """One figure. `initial` is entered when the request has been sent (client) or passed to the TU
    (server)."""

    name: str
    initial: State
    table: Mapping[tuple[State, Event], Row]
    timers: Mapping[State, tuple[Timer, ...]]


def delay(timer: Timer, state: State, fired: int, *, reliable: bool, t1: float) -> float | None:
    """Seconds until `timer` fires in `state`, having fired `fired` times already (RFC 3261 table 4).

    None: it does not run on this transport. 0.0: it is over as soon as it is started.
    """
    if timer in _RETRANSMITS:
        if reliable:
            return None
        if timer is Timer.E and state is State.PROCEEDING:  # section 17.1.2.2
            return T2
        interval = t1 * 2.0 ** min(fired, 10)
        return interval if timer is Timer.A else min(interval, T2)  # sections 17.1.1.2, 17.1.2.2 and 17.2.1
    if reliable and timer in _ABSORBS:
        return 0.0
    return _FIXED.get(timer, 64 * t1)  # B, D, F, H, J, L, M, CANCEL


_RETRANSMITS = frozenset((Timer.A, Timer.E, Timer.G))
_ABSORBS = frozenset((Timer.D, Timer.I, Timer.J, Timer.K))
_FIXED = {Timer.I: T4, Timer.K: T4, Timer.TRYING: TRYING_AFTER}


def signal_of(status: int) -> Signal:
    """The column of the figures a response's status code belongs to."""
    if status < 200:
        return Signal.PROVISIONAL
    return Signal.SUCCESS if status < 300 else Signal.FAILURE


_NOTHING: tuple[Action, ...] = ()
_SEND = (Action.SEND,)
_DELIVER = (Action.DELIVER,)
_FAIL = (Action.FAIL,)

# RFC 3261 figure 5 as RFC 6026 section 7.2 changes it.
CLIENT_INVITE = Machine(
    name="client_invite",
    initial=State.CALLING,
    table={
        (State.CALLING, Timer.A): (_SEND, State.CALLING),
        (State.CALLING, Timer.B): (_FAIL, State.TERMINATED),
        (State.CALLING, Signal.TRANSPORT_ERROR): (_FAIL, State.TERMINATED),
        (State.CALLING, Signal.FLOW_GONE): (_FAIL, State.TERMINATED),
        (State.CALLING, Signal.PROVISIONAL): (_DELIVER, State.PROCEEDING),
        (State.CALLING, Signal.SUCCESS): (_DELIVER, State.ACCEPTED),
        (State.CALLING, Signal.FAILURE): ((Action.SEND_ACK, Action.DELIVER), State.COMPLETED),
        (State.PROCEEDING, Signal.PROVISIONAL): (_DELIVER, State.PROCEEDING),
        (State.PROCEEDING, Signal.FLOW_GONE): (_FAIL, State.TERMINATED),
        (State.PROCEEDING, Signal.SUCCESS): (_DELIVER, State.ACCEPTED),
        (State.PROCEEDING, Signal.FAILURE): ((Action.SEND_ACK, Action.DELIVER), State.COMPLETED),
        (State.PROCEEDING, Timer.CANCEL): (_FAIL, State.TERMINATED),
        (State.COMPLETED, Signal.FAILURE): ((Action.SEND_ACK,), State.COMPLETED),
        (State.COMPLETED, Signal.TRANSPORT_ERROR): (_FAIL, State.TERMINATED),
        (State.COMPLETED, Timer.D): (_NOTHING, State.TERMINATED),
        (State.ACCEPTED, Signal.SUCCESS): (_DELIVER, State.ACCEPTED),
        (State.ACCEPTED, Timer.M): (_NOTHING, State.TERMINATED),
    },
    timers={
        State.CALLING: (Timer.A, Timer.B),
        State.PROCEEDING: (),
        State.COMPLETED: (Timer.D,),
        State.ACCEPTED: (Timer.M,),
    },
)

# RFC 3261 figure 6.
CLIENT_NON_INVITE = Machine(
    name="client_non_invite",
    initial=State.TRYING,
    table={
        (State.TRYING, Timer.E): (_SEND, State.TRYING),
        (State.TRYING, Timer.F): (_FAIL, State.TERMINATED),
        (State.TRYING, Signal.TRANSPORT_ERROR): (_FAIL, State.TERMINATED),
        (State.TRYING, Signal.FLOW_GONE): (_FAIL, State.TERMINATED),
        (State.TRYING, Signal.PROVISIONAL): (_DELIVER, State.PROCEEDING),
        (State.TRYING, Signal.SUCCESS): (_DELIVER, State.COMPLETED),
        (State.TRYING, Signal.FAILURE): (_DELIVER, State.COMPLETED),
        (State.PROCEEDING, Timer.E): (_SEND, State.PROCEEDING),
        (State.PROCEEDING, Timer.F): (_FAIL, State.TERMINATED),
        (State.PROCEEDING, Signal.TRANSPORT_ERROR): (_FAIL, State.TERMINATED),
        (State.PROCEEDING, Signal.FLOW_GONE): (_FAIL, State.TERMINATED),
        (State.PROCEEDING, Signal.PROVISIONAL): (_DELIVER, State.PROCEEDING),
        (State.PROCEEDING, Signal.SUCCESS): (_DELIVER, State.COMPLETED),
        (State.PROCEEDING, Signal.FAILURE): (_DELIVER, State.COMPLETED),
        (State.COMPLETED, Timer.K): (_NOTHING, State.TERMINATED),
    },
    timers={
        State.TRYING: (Timer.E, Timer.F),
        State.PROCEEDING: (Timer.E, Timer.F),
        State.COMPLETED: (Timer.K,),
    },
)

# RFC 3261 figure 7 as RFC 6026 section 7.1 changes it.
SERVER_INVITE = Machine(
    name="server_invite",
    initial=State.TRYING,
    table={
        (State.TRYING, Timer.TRYING): ((Action.SEND_TRYING,), State.PROCEEDING),
        (State.TRYING, Signal.PROVISIONAL): (_SEND, State.PROCEEDING),
        (State.TRYING, Signal.SUCCESS): (_SEND, State.ACCEPTED),
        (State.TRYING, Signal.FAILURE): (_SEND, State.COMPLETED),
        (State.TRYING, Signal.TRANSPORT_ERROR): (_FAIL, State.TRYING),
        (State.TRYING, Signal.FLOW_GONE): (_FAIL, State.TRYING),
        (State.PROCEEDING, Signal.FLOW_GONE): (_FAIL, State.PROCEEDING),
        (State.PROCEEDING, Signal.REQUEST): (_SEND, State.PROCEEDING),
        (State.PROCEEDING, Signal.PROVISIONAL): (_SEND, State.PROCEEDING),
        (State.PROCEEDING, Signal.SUCCESS): (_SEND, State.ACCEPTED),
        (State.PROCEEDING, Signal.FAILURE): (_SEND, State.COMPLETED),
        (State.PROCEEDING, Signal.TRANSPORT_ERROR): (_FAIL, State.PROCEEDING),
        (State.COMPLETED, Signal.REQUEST): (_SEND, State.COMPLETED),
        (State.COMPLETED, Timer.G): (_SEND, State.COMPLETED),
        (State.COMPLETED, Timer.H): (_FAIL, State.TERMINATED),
        (State.COMPLETED, Signal.TRANSPORT_ERROR): (_FAIL, State.COMPLETED),
        (State.COMPLETED, Signal.ACK): (_NOTHING, State.CONFIRMED),
        (State.CONFIRMED, Timer.I): (_NOTHING, State.TERMINATED),
        (State.ACCEPTED, Signal.SUCCESS): (_SEND, State.ACCEPTED),
        (State.ACCEPTED, Signal.ACK): (_DELIVER, State.ACCEPTED),
        (State.ACCEPTED, Signal.TRANSPORT_ERROR): (_FAIL, State.ACCEPTED),
        (State.ACCEPTED, Timer.L): (_NOTHING, State.TERMINATED),
    },
    timers={
        State.TRYING: (Timer.TRYING,),
        State.PROCEEDING: (),
        State.COMPLETED: (Timer.G, Timer.H),
        State.CONFIRMED: (Timer.I,),
        State.ACCEPTED: (Timer.L,),
    },
)

# RFC 3261 figure 8.
SERVER_NON_INVITE = Machine(
    name="server_non_invite",
    initial=State.TRYING,
    table={
        (State.TRYING, Signal.PROVISIONAL): (_SEND, State.PROCEEDING),
        (State.TRYING, Signal.SUCCESS): (_SEND, State.COMPLETED),
        (State.TRYING, Signal.FAILURE): (_SEND, State.COMPLETED),
        (State.TRYING, Timer.F): (_NOTHING, State.TERMINATED),
        (State.PROCEEDING, Signal.REQUEST): (_SEND, State.PROCEEDING),
        (State.PROCEEDING, Signal.PROVISIONAL): (_SEND, State.PROCEEDING),
        (State.PROCEEDING, Signal.SUCCESS): (_SEND, State.COMPLETED),
        (State.PROCEEDING, Signal.FAILURE): (_SEND, State.COMPLETED),
        (State.PROCEEDING, Signal.TRANSPORT_ERROR): (_FAIL, State.TERMINATED),
        (State.PROCEEDING, Timer.F): (_NOTHING, State.TERMINATED),
        (State.COMPLETED, Signal.REQUEST): (_SEND, State.COMPLETED),
        (State.COMPLETED, Signal.TRANSPORT_ERROR): (_FAIL, State.TERMINATED),
        (State.COMPLETED, Timer.J): (_NOTHING, State.TERMINATED),
    },
    timers={
        State.TRYING: (Timer.F,),
        State.PROCEEDING: (Timer.F,),
        State.COMPLETED: (Timer.J,),
    },
)

MACHINES = (CLIENT_INVITE, CLIENT_NON_INVITE, SERVER_INVITE, SERVER_NON_INVITE)
