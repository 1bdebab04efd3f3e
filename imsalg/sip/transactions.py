"""The transactions that live, by what matches a message to them (RFC 3261 sections 17.1.3 and 17.2.3) and by
flow; and how many there may be, of all peers together and of each source."""

from __future__ import annotations

from imsalg.sip.events import ClientTransaction, ServerTransaction, Transaction
from imsalg.sip.hop import Flow, Key
from imsalg.sip.shares import Shares, Source, is_stranger
from imsalg.sip.transaction import MACHINES

STRANGERS = 4  # one server transaction in so many may be of strangers, however many these are


class Transactions:
    """limit: above it requests are refused; a large one counts for several. of_source: as many server
    transactions may one source have.

    clients: by branch and method. servers: by `server_key`.
    """

    def __init__(self, limit: int, of_source: int) -> None:
        self.clients: dict[tuple[str, str], ClientTransaction] = {}
        self.servers: dict[Key, ServerTransaction] = {}
        self._by_flow: dict[Flow, dict[Transaction, None]] = {}
        self._counts = dict.fromkeys((machine.name for machine in MACHINES), 0)
        self._limit = limit
        self._for_strangers = max(1, limit // STRANGERS)
        self._shares = Shares(of_source)
        self._weight = self._strangers = 0  # of all transactions, of the strangers' server transactions

    def on(self, flow: Flow) -> list[Transaction]:
        """Those whose messages go on a flow."""
        return list(self._by_flow.get(flow, ()))

    def counts(self) -> dict[str, int]:
        """How many there are of each machine."""
        return dict(self._counts)

    def full(self, source: Source | None) -> str | None:
        """Why a source may begin no further one, as the endpoint's `drops` calls it; None: it may."""
        if self._weight >= self._limit:
            return "too-many-transactions"
        if is_stranger(source) and self._strangers >= self._for_strangers:
            return "too-many-transactions-of-strangers"
        if source is not None and self._shares.full(source):
            return "too-many-transactions-of-source"
        return None

    def add(self, tx: Transaction) -> None:
        if isinstance(tx, ClientTransaction):
            self.clients[tx.key] = tx
        else:
            self.servers[tx.key] = tx
            if tx.source is not None:
                self._shares.take(tx.source, tx.weight)
            self._strangers += tx.weight * is_stranger(tx.source)
        self._by_flow.setdefault(tx.to, {})[tx] = None
        self._counts[tx.machine.name] += 1
        self._weight += tx.weight

    def remove(self, tx: Transaction) -> None:
        if isinstance(tx, ClientTransaction):
            del self.clients[tx.key]
        else:
            del self.servers[tx.key]
            if tx.source is not None:
                self._shares.give_back(tx.source, tx.weight)
            self._strangers -= tx.weight * is_stranger(tx.source)
        self._leave_flow(tx)
        self._counts[tx.machine.name] -= 1
        self._weight -= tx.weight

    def move(self, tx: Transaction, flow: Flow) -> None:
        """Its messages go on another flow from now on."""
        self._leave_flow(tx)
        tx.to = flow
        self._by_flow.setdefault(flow, {})[tx] = None

    def _leave_flow(self, tx: Transaction) -> None:
        others = self._by_flow[tx.to]
        del others[tx]
        if not others:
            del self._by_flow[tx.to]
