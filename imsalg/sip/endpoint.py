"""SIP's transaction layer and transport rules as one machine without IO (RFC 3261 sections 17 and 18).

What goes in: received messages, failures of the transport, the time, and what the transaction user (TU)
wants. What comes out: bytes for flows, and events for the TU. After each call drain `to_send()` and
`next_event()`, and call `expire()` when `timeout()` is reached. The machines are the tables of
`transaction`; this file carries out their actions. Every message is serialised once and its bytes are kept
for retransmission.

What the TU never sees: retransmissions (but those of a 2xx to an INVITE, which are end to end), ACKs for
other finals than 2xx, the transactions of CANCEL, and everything in `drops`.

Some requests are answered without any state, by the request alone, so that a retransmission gets the same
response: malformed ones (400, 505 …), those over the limit of transactions (503), every CANCEL (200 or 481),
and what the TU gives to `refuse_stateless`.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from hashlib import blake2b
from random import Random

from imsalg.errors import BadMessage, UsageError
from imsalg.sip.events import (
    AckReceived,
    CancelReceived,
    Cause,
    ClientTransaction,
    Event,
    RequestReceived,
    ResponseReceived,
    SenderGone,
    ServerTransaction,
    Transaction,
    TransactionEnded,
    TransactionFailed,
)
from imsalg.sip.grammar import quote
from imsalg.sip.hop import (
    MAGIC,
    Flow,
    Key,
    ack_of,
    cancel_of,
    reply_flow,
    second_reply_flow,
    server_key,
    stamp_source,
)
from imsalg.sip.message import BadRequest, Request, Response, make_response, parse_message
from imsalg.sip.sending import Sending, framed
from imsalg.sip.shares import Source
from imsalg.sip.timers import Timers
from imsalg.sip.transaction import (
    CLIENT_INVITE,
    CLIENT_NON_INVITE,
    SERVER_INVITE,
    SERVER_NON_INVITE,
    T1,
    Action,
    Signal,
    State,
    Timer,
    delay,
    signal_of,
)
from imsalg.sip.transactions import Transactions
from imsalg.sip.values import Address

RETRY_AFTER = 5  # seconds, in the 503 over the limit of transactions


class Endpoint:
    """See the module's docstring. Times are absolute seconds of one monotonic clock.

    drops: how many received messages ended here, by cause. max_transactions: above it requests are refused; a
    large one counts for several. source_of: who shares the server transactions
    that requests of a flow make, `max_of_source` of them at a time; None: only all together are limited.
    is_peer: whether what came on the second flow may be of the peer that a transaction has the first one to.
    servers_at: our address that servers talk to: a response to one may open a connection to it when that of
    its request is gone (RFC 3261 section 18.2.2), a long request to one leaves UDP for TCP, and over TLS its
    requests may come back on ours (RFC 5923).
    At any other, None: at all, a UE's own connection is the only way (RFC 5626 section 3.1).
    """

    def __init__(
        self,
        rng: Random,
        *,
        t1: float = T1,
        max_transactions: int = 20000,
        max_of_source: int = 20000,
        source_of: Callable[[Flow], Source | None] = lambda flow: None,
        is_peer: Callable[[Flow, Flow], bool] = lambda flow, came: flow.local == came.local,
        servers_at: Address | None = None,
    ) -> None:
        self.drops: Counter[str] = Counter()
        self._rng = rng
        self._t1 = t1
        self._source_of = source_of
        self._is_peer = is_peer
        self._servers_at = servers_at
        self._secret = rng.randbytes(16)
        self._sending = Sending(servers_at)
        self._transactions = Transactions(max_transactions, max_of_source)
        self._timers: Timers[tuple[Transaction, Timer]] = Timers()
        self._out: list[tuple[Flow, bytes]] = []
        self._events: deque[Event] = deque()

    # What the network does.

    def receive(self, data: bytes, flow: Flow, now: float) -> None:
        """A datagram. Never raises."""
        if not data.strip(b"\r\n\0 \t"):
            self.drops["keep-alive"] += 1
            return
        try:
            message = parse_message(data)
        except BadMessage as error:
            self.refuse(error, flow)
        else:
            self.receive_message(message, flow, now)

    def receive_message(self, message: Request | Response, flow: Flow, now: float) -> None:
        """A message out of parse_message() or a Stream, now the endpoint's. Never raises."""
        if isinstance(message, Response):
            self._receive_response(message, flow, now)
        elif message.method == "ACK":
            self._receive_ack(message, flow, now)
        elif message.method == "CANCEL":
            self._receive_cancel(message, flow)
        else:
            self._receive_request(message, flow, now)

    def refuse(self, error: BadMessage, flow: Flow) -> None:
        """Something that came on `flow` and is no message: answered if it is a request that can be."""
        self.drops["malformed"] += 1
        if isinstance(error, BadRequest) and error.request.method != "ACK":
            warning = f"399 imsalg {quote(error.reason)}"
            self._answer(error.request, flow, error.status, ("Warning", warning))

    def transport_failed(self, flow: Flow, now: float, error: str) -> None:
        """Bytes for `flow` could not be delivered, or its connection is gone; `error` is for the log."""
        self._sending.failed(flow, now)
        for tx in self._transactions.on(flow):
            if tx.fallback is None:
                self._run(tx, Signal.TRANSPORT_ERROR, now, TransactionFailed(tx, Cause.TRANSPORT, error))
            else:
                self._fall_back(tx, tx.fallback, now)

    def closed(self, flow: Flow, now: float) -> None:
        """The connection of a peer that had opened it is gone: what it was asked will not be answered, nor
        what it asked, unless it is a server, over another connection (RFC 3261 section 18.2.2)."""
        for tx in self._transactions.on(flow):
            if isinstance(tx, ClientTransaction):
                error = TransactionFailed(tx, Cause.TRANSPORT, "connection closed by peer")
                self._run(tx, Signal.FLOW_GONE, now, error)
            elif tx.fallback is None:
                self._run(tx, Signal.FLOW_GONE, now, SenderGone(tx))

    # What the transaction user wants.

    def request(
        self, request: Request, flow: Flow, now: float, *, owner: object = None, branch_suffix: str = ""
    ) -> ClientTransaction:
        """Send a request other than ACK and CANCEL in a new transaction; it is the endpoint's from then on.

        Our Via is put on top. Over 1300 bytes it goes to a server over TCP, and over UDP after all if no
        response came and that fails. Max-Forwards is the TU's business.
        """
        if request.method in ("ACK", "CANCEL"):
            raise UsageError(f"{request.method} has no transaction of its own")
        branch = self._branch() + branch_suffix
        wire, to, fallback = self._sending.push_via(request, flow, branch, now)
        machine = CLIENT_INVITE if request.method == "INVITE" else CLIENT_NON_INVITE
        tx = ClientTransaction(machine, request, branch, to, fallback, owner)
        self._open_client(tx, wire, now)
        return tx

    def cancel(
        self, transaction: ClientTransaction, now: float, headers: Iterable[tuple[str, str]] = ()
    ) -> None:
        """Cancel an INVITE, `headers` (Reason …) in the CANCEL. Before the first provisional response it is
        held, after a final one and the second time it is ignored (RFC 3261 section 9.1).

        The INVITE's transaction goes on and ends with its final response, or fails 64*T1 after the CANCEL.
        """
        if transaction.machine is not CLIENT_INVITE:
            raise UsageError("only an INVITE can be cancelled")
        if transaction.cancel is None:
            transaction.cancel = tuple(headers)
            if transaction.state is State.PROCEEDING:
                self._send_cancel(transaction, now)

    def respond(self, transaction: ServerTransaction, response: Response, now: float) -> None:
        """Send a response; its Via lines become those of the request. One that comes too late is ignored:
        any but a 2xx after a 2xx to an INVITE, and all after another final."""
        signal = signal_of(response.status)
        if (transaction.state, signal) not in transaction.machine.table:
            self.drops["response-too-late"] += 1
            return
        response.headers.set("Via", *transaction.vias)
        transaction.wire = framed(response)
        self._run(transaction, signal, now)

    def refuse_stateless(
        self, transaction: ServerTransaction, status: int, headers: Iterable[tuple[str, str]], now: float
    ) -> None:
        """Refuse a request and forget it: a stranger shall not make us remember and retransmit (RFC 3261
        section 8.2.7). One that comes too late is ignored."""
        if (transaction.state, signal_of(status)) not in transaction.machine.table:
            self.drops["response-too-late"] += 1
            return
        self._answer(transaction.request, transaction.flow, status, *headers)
        transaction.state = State.TERMINATED
        self._keep_timers(transaction, now)

    def send(self, request: Request, flow: Flow, now: float) -> None:
        """Send a request without a transaction, which is what the ACK for a 2xx is; our Via is put on top.
        One that is passed on is the same again when it comes again (RFC 3261 section 16.11)."""
        if via := request.headers.first("Via"):
            to_tag = request.to.tag or ""
            branch = MAGIC + self._hash(via, request.call_id, str(request.cseq), to_tag)
        else:
            branch = self._branch()
        wire, to, _ = self._sending.push_via(request, flow, branch, now)
        self._out.append((to, wire))

    # What the shell drains.

    def expire(self, now: float) -> None:
        """Let all timers fire that are due."""
        while (due := self._timers.expired(now)) is not None:
            tx, timer = due
            del tx.timers[timer]
            tx.fired += timer in (Timer.A, Timer.E, Timer.G)
            self._run(tx, timer, now, TransactionFailed(tx, Cause.TIMEOUT))

    def timeout(self) -> float | None:
        """When expire() is to be called next."""
        return self._timers.next()

    def to_send(self) -> list[tuple[Flow, bytes]]:
        """What is to be sent, one message each; takes it away."""
        out, self._out = self._out, []
        return out

    def next_event(self) -> Event | None:
        return self._events.popleft() if self._events else None

    def is_open(self, key: Key) -> bool:
        """Whether there is a server transaction of that key."""
        return key in self._transactions.servers

    def counts(self) -> dict[str, int]:
        """Living transactions of each machine, and timers that run."""
        return {**self._transactions.counts(), "timers": len(self._timers)}

    # Received messages.

    def _receive_request(self, request: Request, flow: Flow, now: float) -> None:
        key = server_key(request)
        if (tx := self._transactions.servers.get(key)) is not None:
            self.drops["retransmission"] += 1
            self._run(tx, Signal.REQUEST, now)
        elif (full := self._transactions.full(source := self._source_of(flow))) is not None:
            self.drops[full] += 1
            self._answer(request, flow, 503, ("Retry-After", str(RETRY_AFTER)))
        else:
            machine = SERVER_INVITE if request.method == "INVITE" else SERVER_NON_INVITE
            fallback = second_reply_flow(request.via, flow) if flow.local == self._servers_at else None
            tx = ServerTransaction(machine, request, key, flow, fallback, source)
            self._transactions.add(tx)
            self._events.append(RequestReceived(tx, request, flow))
            self._keep_timers(tx, now)

    def _receive_ack(self, request: Request, flow: Flow, now: float) -> None:
        tx = self._transactions.servers.get(server_key(request))
        if tx is None:
            self._events.append(AckReceived(request, flow))
        elif not self._run(tx, Signal.ACK, now, AckReceived(request, flow)):
            self.drops["ack-absorbed"] += 1

    def _receive_cancel(self, request: Request, flow: Flow) -> None:
        # RFC 3261 section 9.2. The INVITE's transaction remembers it, so the CANCEL needs none of its own.
        tx = self._transactions.servers.get(server_key(request))
        if tx is None or not self._is_peer(tx.flow, flow):
            self._answer(request, flow, 481)
            return
        self._answer(request, flow, 200)
        if tx.cancelled or tx.state not in (State.TRYING, State.PROCEEDING):
            self.drops["cancel-absorbed"] += 1
        else:
            tx.cancelled = True
            self._events.append(CancelReceived(tx, request))

    def _receive_response(self, response: Response, flow: Flow, now: float) -> None:
        via = response.via
        tx = self._transactions.clients.get((via.branch or "", response.cseq.method))
        if tx is None:  # RFC 6026 section 7.3: nobody else gets it either
            self.drops["response-unmatched"] += 1
        elif (via.host.lower(), via.port) != tx.sent_by:  # RFC 3261 section 18.1.2
            self.drops["response-of-foreign-via"] += 1
        elif not self._is_peer(tx.flow, flow):
            self.drops["response-of-a-stranger"] += 1
        else:
            tx.fallback = None  # the transport works
            if response.status >= 200:
                tx.wire = b""  # nor is it sent again
            held = tx.cancel is not None and tx.state is State.CALLING
            if not self._run(tx, signal_of(response.status), now, ResponseReceived(tx, response)):
                self.drops["response-absorbed"] += 1
            elif held and tx.state is State.PROCEEDING:
                self._send_cancel(tx, now)

    def _answer(self, request: Request, flow: Flow, status: int, *headers: tuple[str, str]) -> None:
        """Answer without state: the To tag comes from the request (RFC 3261 section 8.2.7)."""
        via = request.via
        to = reply_flow(via, flow)
        tag = self._hash(str(via.branch), request.call_id, str(request.headers.get("From")))
        stamp_source(request, flow)
        response = make_response(request, status, to_tag=tag)
        for name, value in headers:
            response.headers.append(name, value)
        self._out.append((to, bytes(response)))

    def _hash(self, *words: str) -> str:
        """Always the same of the same, and nobody else can tell it."""
        text = " ".join(words).encode("utf-8", "surrogateescape")
        return blake2b(text, digest_size=8, key=self._secret).hexdigest()

    # Sent requests.

    def _branch(self) -> str:
        return f"{MAGIC}{self._rng.getrandbits(64):016x}"

    def _send_cancel(self, invite: ClientTransaction, now: float) -> None:
        request = cancel_of(invite.request, invite.cancel or ())
        tx = ClientTransaction(CLIENT_NON_INVITE, request, invite.key[0], invite.flow, None, None)
        self._open_client(tx, bytes(request), now)
        self._start(invite, Timer.CANCEL, now)

    def _fall_back(self, tx: Transaction, flow: Flow, now: float) -> None:
        """Go on over the other flow with the same branch: what was sent is sent again."""
        self._transactions.move(tx, flow)
        tx.fallback = None
        if isinstance(tx, ClientTransaction):
            tx.flow = flow
            tx.wire = self._sending.change_via(tx.request, flow, tx.key[0])
            self._keep_timers(tx, now)  # now it is retransmitted
        if tx.wire:
            self._out.append((flow, tx.wire))

    # Transactions.

    def _open_client(self, tx: ClientTransaction, wire: bytes, now: float) -> None:
        tx.wire = wire
        self._transactions.add(tx)
        self._out.append((tx.to, wire))
        self._keep_timers(tx, now)

    def _run(self, tx: Transaction, event: Signal | Timer, now: float, news: Event | None = None) -> bool:
        """Look the event up, act, change the state; `news` is what the TU is told if it is to be told.

        False if the machine absorbs the event.
        """
        row = tx.machine.table.get((tx.state, event))
        if row is None:
            return False
        actions, state = row
        changed = state is not tx.state
        tx.state = state
        for action in actions:
            self._act(tx, action, news)
        if changed or isinstance(event, Timer):
            self._keep_timers(tx, now)
        return True

    def _act(self, tx: Transaction, action: Action, news: Event | None) -> None:
        match action:
            case Action.SEND:
                self._out.append((tx.to, tx.wire))
            case Action.SEND_ACK:
                assert isinstance(news, ResponseReceived)
                self._out.append((tx.to, bytes(ack_of(tx.request, news.response))))
            case Action.SEND_TRYING:
                response = make_response(tx.request, 100)
                response.headers.copy_lines(tx.request.headers, "Timestamp")  # RFC 3261 section 8.2.6.1
                tx.wire = bytes(response)
                self._out.append((tx.to, tx.wire))
            case Action.DELIVER | Action.FAIL:
                if news is not None and tx.request.method != "CANCEL":
                    self._events.append(news)

    def _keep_timers(self, tx: Transaction, now: float) -> None:
        """Have exactly the timers of its state run, and end it in the state that has none."""
        wanted = tx.machine.timers.get(tx.state, ())
        for timer in [timer for timer in tx.timers if timer not in wanted]:
            self._timers.cancel(tx.timers.pop(timer))
        if tx.state is State.TERMINATED:
            self._transactions.remove(tx)
            if tx.owner is not None:
                self._events.append(TransactionEnded(tx))
        for timer in wanted:
            if timer not in tx.timers:
                self._start(tx, timer, now)

    def _start(self, tx: Transaction, timer: Timer, now: float) -> None:
        after = delay(timer, tx.state, tx.fired, reliable=tx.to.transport.reliable, t1=self._t1)
        if after == 0.0:
            self._run(tx, timer, now)
        elif after is not None:
            tx.timers[timer] = self._timers.start(now + after, (tx, timer))
