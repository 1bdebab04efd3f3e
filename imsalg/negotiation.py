"""Offer and answer of one dialog (RFC 3264, RFC 6337), whatever message they ride in: decide, ask, rewrite.

An exchange takes two steps of two halves each:

    offer(side, body)  -> what the gateway shall have;  when it has:  offered()  -> the SDP for the other side
    answer(side, body) -> what the gateway shall have;  when it has:  answered() -> the SDP for the offerer

An offer only adds what the other side needs to be named an address. Addresses, keys and gates change when the
answer completes the exchange (RFC 4568 section 7.1.4: refused offers leave the old parameters), so `rollback`
is cheap.

Each side has one termination: the answerer's is shared by all early dialogs of an INVITE, for all of them got
the same offer; the offerer's is one for each early dialog (`fork`), with an address and a key of its own
(traps P13, P26)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random

from msgspec import Struct, field
from msgspec.structs import replace

from agw.iq.messages import Mode, Stream, Transport
from imsalg.anchor import Anchor, Side, Wanted
from imsalg.edge import Edge, Origins
from imsalg.errors import BadSdp, UsageError
from imsalg.exchange import Agreed, Exchange, still_to_come, transport
from imsalg.networks import Networks
from imsalg.ownprotection import OwnProtection
from imsalg.policy import rewrite
from imsalg.policy.association import Association
from imsalg.policy.bundle import Names
from imsalg.policy.check import Own, check_answer
from imsalg.policy.decide import Access, Decision, Direction, Rules, decide, status
from imsalg.policy.mline import Protection
from imsalg.policy.treatment import Mechanism
from imsalg.sdp.attributes import Crypto
from imsalg.sdp.document import Document
from imsalg.sip.hop import Flow


class Terms(Struct, frozen=True):
    """What the media of a call are negotiated under: fixed by the UE's registration and the access it uses.

    hosts: our signalling address on each side, which stands in o=. denied: networks that no media go to.
    inactivity: seconds without media until the gateway says so; 0: never. latch_anywhere: from where a UE's
    signalling comes says nothing of where its media come from.
    """

    registered: frozenset[Mechanism]
    access: Access
    rules: Rules
    realms: Mapping[Side, str]
    hosts: Mapping[Side, str]
    denied: Mapping[Side, Networks]
    inactivity: float
    latch_anywhere: bool


class Negotiation(Struct, eq=False):
    """The media session of one dialog: what was agreed, and the exchange under way."""

    anchor: Anchor
    terms: Terms
    flows: Mapping[Side, Flow]
    edges: dict[Side, Edge]
    own: OwnProtection
    agreed: Agreed = field(default_factory=Agreed)
    watched: bool = False  # silence counts
    pending: Exchange | None = None
    latest: Exchange | None = None  # the last completed

    @classmethod
    def start(
        cls, anchor: Anchor, terms: Terms, rng: Random, flows: Mapping[Side, Flow], number: int = 0
    ) -> Negotiation:
        """flows: as the call has them. number: sets its terminations apart from those of other dialogs of the
        call. Each side is offered addresses of the family that its signalling uses."""
        edges = {
            side: Edge.of(
                side,
                number,
                terms.realms[side],
                terms.denied[side],
                Origins(str(rng.getrandbits(53)), 1, terms.hosts[side]),
            )
            for side in Side
        }
        return cls(anchor, terms, flows, edges, OwnProtection.start(rng, terms.rules))

    def fork(self, number: int) -> Negotiation:
        """The same for another early dialog of the same INVITE: the offer is shared, the answer is its
        own."""
        exchange = self.pending
        if exchange is None:
            raise UsageError("only a pending offer can be forked")
        offerer, answerer = exchange.side, exchange.side.other
        edges = {
            offerer: self.edges[offerer].beside(offerer, number),
            answerer: self.edges[answerer].shared(),
        }
        mine = self.own.fork()
        own = mine.beside(exchange.own) if number > 1 else exchange.own
        pending = replace(exchange, own=own)
        return replace(self, edges=edges, own=mine, agreed=Agreed(), pending=pending)

    @property
    def names(self) -> list[str]:
        """Of its terminations."""
        return [edge.name for edge in self.edges.values()]

    # -- offer

    def offer(self, side: Side, body: bytes) -> Wanted:
        """Take an offer from one side. Raises BadSdp with the status to refuse it with; nothing has changed
        then."""
        document = Document(body)
        agreed, terms = self.agreed, self.terms
        if len(document.media) < len(agreed.decisions):
            raise BadSdp("fewer m-lines than before (RFC 3264 section 8)")
        decisions = decide(
            document, _direction(side), terms.registered, terms.access, terms.rules, agreed.decisions
        )
        if status(decisions) != 200:
            raise BadSdp("; ".join(dict.fromkeys(d.reason for d in decisions if d.active)))
        ids = agreed.ids(decisions)
        own: dict[int, Own] = {}
        streams: dict[int, Stream] = {}
        ip6 = self.edges[side].family(side, self.anchor, document, decisions)
        self._reachable(side, document, decisions, ids)
        for index, (id, decision) in enumerate(zip(ids, decisions, strict=True)):
            if not decision.active or not decision.anchored:
                continue
            before = agreed.stream(side.other, id)
            if side is Side.CORE and decision.treatment.e2ae:
                own[index] = self.own.to_offer(id, decision, agreed)
            carriage = transport(decision, side.other)
            streams[id] = before or self.own.reserve(id, carriage, own.get(index))
        self.edges[side].ip6 = ip6
        self.pending = Exchange(side, document, decisions, decisions, ids, own, streams, agreed)
        name = self.edges[side.other].name
        return {name: self.wanted()[name]}

    def offered(self) -> bytes:
        """The offer for the other side, once the gateway has what `offer` wanted."""
        exchange = self._exchange()
        edge = self.edges[exchange.side.other]
        protections = self.own.offered(exchange, edge, self.anchor)
        exchange.sent = edge.origin.write(
            lambda origin: rewrite.offer(
                exchange.offer,
                exchange.decisions,
                _direction(exchange.side),
                edge.locals(self.anchor, exchange.ids),
                protections,
                origin,
                self.terms.rules,
                self.terms.access,
                exchange.before.named,
            ),
        )
        return edge.origin.last

    # -- answer

    def answer(self, side: Side, body: bytes, preview: bool = False) -> Wanted:
        """Take the answer. preview: it is of a provisional response that is not reliable. Raises BadSdp if it
        cannot be served: the exchange has failed then."""
        exchange = self._exchange()
        if side is exchange.side:
            raise UsageError("an answer from the side that offered")
        if exchange.sent is None:
            raise BadSdp("an answer to an offer that has not been passed on", 400)
        answer = Document(body)
        lines = check_answer(exchange.sent, answer, exchange.decisions, exchange.own, self.terms.rules)
        for line, media in zip(lines, answer.media, strict=True):
            if media.port and not line.accepted:
                raise BadSdp(line.reason)
        decisions = tuple(line.decision for line in lines)
        self.edges[side].family(side, self.anchor, answer, decisions)
        self._reachable(side, answer, decisions, exchange.ids)
        exchange.answer, exchange.decisions, exchange.preview = answer, decisions, preview
        keys: dict[int, Crypto] = {}
        associations: dict[int, Association] = {}
        streams: dict[Side, dict[int, Stream]] = {Side.ACCESS: {}, Side.CORE: {}}
        for index, line in enumerate(lines):
            if not (line.decision.active and line.decision.anchored):
                continue
            id = exchange.ids[index]
            streams[Side.CORE][id] = self._stream(index, Side.CORE, exchange)
            access = self._stream(index, Side.ACCESS, exchange)
            streams[Side.ACCESS][id], ours = self.own.protect(access, index, exchange, line, self.agreed)
            match ours:
                case Crypto():
                    keys[index] = ours
                case Association():
                    associations[index] = ours
        self.own.taken()
        self.agreed = Agreed(decisions, keys, associations, streams, Names.of(answer))
        return self.wanted()

    def answered(self) -> bytes:
        """The answer for the offerer, once the gateway has what `answer` wanted. The exchange is complete."""
        exchange = self._exchange()
        edge, answer = self.edges[exchange.side], exchange.said(exchange.side.other)
        protections: dict[int, Protection] = {}
        if exchange.side is Side.ACCESS:
            protections = self.own.answered(exchange, self.agreed, edge, self.anchor)
        returned = edge.origin.write(
            lambda origin: rewrite.answer(
                answer,
                exchange.offer,
                exchange.decisions,
                _direction(exchange.side),
                edge.locals(self.anchor, exchange.ids),
                protections,
                origin,
                self.terms.rules,
                exchange.before.named,
            ),
        )
        if exchange.side is Side.ACCESS:
            self.agreed = replace(self.agreed, named=Names.of(returned))
        exchange.complete()
        self.latest, self.pending = exchange, None
        return edge.origin.last

    def reopen(self, offer: Document) -> None:
        """Expect another answer to an offer that has one, if nothing was agreed on since: an early answer may
        be followed by the callee's own."""
        if self.latest is not None and self.latest.offer is offer:
            own = self.own.beside(self.latest.own)  # another answer may make other associations
            self.pending = replace(self.latest, answer=None, decisions=self.latest.asked, own=own)

    def rollback(self) -> None:
        """The pending offer was refused: the media are as they were (trap P29), even if they have followed a
        preview of its answer."""
        exchange, self.pending = self.pending, None
        if exchange is not None and exchange.preview:
            self.agreed, self.latest = exchange.before, None

    def accepted(self) -> None:
        """A 2xx to an INVITE has come: an answer that was only a preview stands, and silence counts from now
        on; a call that rings may be silent for long."""
        if self.latest is not None:
            self.latest.preview = False
        if not self.watched:
            self.watched = True
            streams = {
                side: {id: replace(s, inactivity=self._inactivity(s.mode)) for id, s in streams.items()}
                for side, streams in self.agreed.streams.items()
            }
            self.agreed = replace(self.agreed, streams=streams)

    @property
    def firm(self) -> Agreed:
        """What was agreed on and is no preview."""
        return self.latest.before if self.latest is not None and self.latest.preview else self.agreed

    # -- what the gateway shall have

    def wanted(self) -> Wanted:
        """The terminations of this dialog as agreed, and what an offer or a preview of its answer needs."""
        return {
            edge.name: edge.termination({**self._kept(side), **self.agreed.streams.get(side, {})})
            for side, edge in self.edges.items()
        }

    def _kept(self, side: Side) -> dict[int, Stream]:
        """What stays beside what is agreed on."""
        kept: dict[int, Stream] = {}
        for exchange in filter(None, (self.latest, self.pending)):
            streams = exchange.kept(side)
            kept |= self.parked(side, streams) if exchange.preview else streams
        return kept

    def parked(self, side: Side, streams: Mapping[int, Stream]) -> dict[int, Stream]:
        """Streams that are not agreed on now and may be again, as the gateway has them, but closed."""
        have = self.anchor.have(self.edges[side].name)
        there = have.streams if have is not None else {}
        return {id: replace(there.get(id, stream), mode=Mode.INACTIVE) for id, stream in streams.items()}

    def _stream(self, index: int, side: Side, exchange: Exchange) -> Stream:
        where, rtcp = exchange.remote(index, side)
        before = self.agreed.stream(side, exchange.ids[index])
        if where is None and before is not None:
            where, rtcp = before.remote, before.remote_rtcp
        mode = exchange.mode(index, side)
        carriage = exchange.transport(index, side)
        secured = carriage is Transport.SRTP or carriage.has_dtls
        return Stream(
            exchange.ids[index],
            carriage,
            where,
            rtcp,
            exchange.mux(index, side),
            mode=mode,
            latch=side is Side.ACCESS,
            latch_from=self._latch_from(side),
            source_filter=side is Side.ACCESS and not (secured or self.terms.latch_anywhere),
            inactivity=self._inactivity(mode),
        )

    def _reachable(
        self, side: Side, document: Document, decisions: Sequence[Decision], ids: Sequence[int]
    ) -> None:
        """Raises BadSdp where nothing could be sent to the core: only a UE is learned from what it sends."""
        for index, (id, decision) in enumerate(zip(ids, decisions, strict=True)):
            known = side is Side.ACCESS or self.agreed.stream(side, id) is not None
            if decision.active and decision.anchored and not known and still_to_come(document, index):
                raise BadSdp("a media address that is still to come (RFC 8840): trickling is not served here")

    def _latch_from(self, side: Side) -> str | None:
        """Where a UE is that does not know it: behind a NAT, where its signalling comes from."""
        host = self.flows[side].remote.host.partition("%")[0]
        known = side is Side.ACCESS and not self.terms.latch_anywhere
        return host if known and (":" in host) == self.edges[side].ip6 else None

    @property
    def supervised(self) -> bool:
        """Whether the gateway tells of silence."""
        return any(stream.inactivity for side in self.agreed.streams.values() for stream in side.values())

    def _inactivity(self, mode: Mode) -> float:
        return self.terms.inactivity if self.watched and mode is Mode.SENDRECV else 0.0

    def _exchange(self) -> Exchange:
        if self.pending is None:
            raise UsageError("no offer is pending")
        return self.pending


def _direction(offerer: Side) -> Direction:
    return Direction.ORIGINATING if offerer is Side.ACCESS else Direction.TERMINATING
