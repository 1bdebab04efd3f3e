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

import ipaddress
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Protocol

from msgspec.structs import replace as with_fields

from agw.iq.messages import Address, Key, Mode, Stream, Suite, Transport
from imsalg.anchor import Anchor, Side, Termination, Wanted
from imsalg.config import Networks
from imsalg.errors import BadSdp, UsageError
from imsalg.policy import rewrite
from imsalg.policy.decide import Access, Decision, Direction, Rules, decide, status
from imsalg.policy.rewrite import AnswerLine, Local
from imsalg.policy.treatment import Carriage, Mechanism, Treatment
from imsalg.sdp.attributes import MATERIAL_LENGTH, Crypto, InlineKey, RtcpAttribute
from imsalg.sdp.attributes import Direction as MediaDirection
from imsalg.sdp.document import Document, Media, Origin
from imsalg.sip.hop import Flow


class Random(Protocol):
    """What is used of random.Random."""

    def randbytes(self, n: int, /) -> bytes: ...
    def getrandbits(self, k: int, /) -> int: ...


@dataclass(frozen=True, slots=True)
class Terms:
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


@dataclass(slots=True)
class Origins:
    """Our o= line towards one side: the version rises by one when, and only when, the SDP changed (trap
    P31)."""

    session_id: str
    version: int
    host: str
    last: bytes = field(default=b"", repr=False)  # it may have keys

    def write(self, username: str, build: Callable[[Origin], Document]) -> Document:
        """What is built; `last` has it as bytes."""
        addrtype = "IP6" if ":" in self.host else "IP4"
        origin = Origin(username, self.session_id, self.version, "IN", addrtype, self.host)
        document = build(origin)
        body = bytes(document)
        if self.last and body != self.last:
            self.version += 1
            document = build(replace(origin, version=self.version))
            body = bytes(document)
        self.last = body
        return document


@dataclass(frozen=True, slots=True)
class Agreed:
    """What the two sides have agreed on. keys: our crypto line towards the UE, by m-line. streams: of each
    side's termination."""

    decisions: tuple[Decision, ...]
    keys: dict[int, Crypto]
    streams: dict[Side, dict[int, Stream]]


@dataclass(slots=True)
class Exchange:
    """An offer, and its answer once there is one.

    reserved: the answerer's streams, which the offer names an address of. before: what was agreed on, which
    holds again if the offer is refused. preview: the answer came in a response that nobody acknowledges, and
    may yet be withdrawn.
    """

    side: Side  # who offers
    offer: Document  # as received
    decisions: tuple[Decision, ...]
    own: dict[int, tuple[Crypto, ...]]  # our lines in the offer to the UE, by m-line
    reserved: dict[int, Stream]
    before: Agreed
    sent: Document | None = None  # the offer as we passed it on
    answer: Document | None = None
    preview: bool = False


@dataclass(slots=True, eq=False)
class Negotiation:
    """The media session of one dialog: what was agreed, and the exchange under way."""

    anchor: Anchor
    terms: Terms
    rng: Random
    flows: Mapping[Side, Flow]
    names: dict[Side, str]
    origins: dict[Side, Origins]
    decisions: tuple[Decision, ...] = ()
    keys: dict[int, Crypto] = field(default_factory=dict)  # our crypto line towards the UE, by m-line
    unused: dict[int, tuple[Crypto, ...]] = field(default_factory=dict)  # our lines that no answer took
    streams: dict[Side, dict[int, Stream]] = field(default_factory=dict)  # as agreed
    families: dict[Side, bool] = field(default_factory=dict)  # whether each side is on IPv6
    watched: bool = False  # silence counts
    pending: Exchange | None = None
    latest: Exchange | None = None  # the last completed

    @classmethod
    def start(
        cls, anchor: Anchor, terms: Terms, rng: Random, flows: Mapping[Side, Flow], number: int = 0
    ) -> Negotiation:
        """flows: as the call has them. number: sets its terminations apart from those of other dialogs of the
        call. Each side is offered addresses of the family that its signalling uses."""
        origins = {side: Origins(str(rng.getrandbits(53)), 1, terms.hosts[side]) for side in Side}
        names = {side: _name(side, number) for side in Side}
        families = {side: ":" in host for side, host in terms.hosts.items()}
        return cls(anchor, terms, rng, flows, names, origins, families=families)

    def fork(self, number: int) -> Negotiation:
        """The same for another early dialog of the same INVITE: the offer is shared, the answer is its
        own."""
        exchange = self.pending
        if exchange is None:
            raise UsageError("only a pending offer can be forked")
        names = dict(self.names)
        names[exchange.side] = _name(exchange.side, number)
        return replace(
            self,
            names=names,
            origins={
                exchange.side: replace(self.origins[exchange.side], last=b""),
                exchange.side.other: replace(self.origins[exchange.side.other]),
            },
            keys={},
            unused={},
            streams={},
            families=dict(self.families),
            pending=replace(exchange),
        )

    # -- offer

    def offer(self, side: Side, body: bytes) -> Wanted:
        """Take an offer from one side. Raises BadSdp with the status to refuse it with; nothing has changed
        then."""
        document = Document(body)
        if len(document.media) < len(self.decisions):
            raise BadSdp("fewer m-lines than before (RFC 3264 section 8)")
        direction = Direction.ORIGINATING if side is Side.ACCESS else Direction.TERMINATING
        decisions = decide(
            document, direction, self.terms.registered, self.terms.access, self.terms.rules, self.decisions
        )
        if status(decisions) != 200:
            raise BadSdp("; ".join(dict.fromkeys(d.reason for d in decisions if d.active)))
        own: dict[int, tuple[Crypto, ...]] = {}
        streams: dict[int, Stream] = {}
        ip6 = self._family(side, document, decisions)
        for index, decision in enumerate(decisions):
            if not decision.active or not decision.anchored:
                continue
            if side is Side.CORE and decision.treatment is Treatment.E2AE_SDES:
                own[index] = self._own_lines(index)
            agreed = self.streams.get(side.other, {}).get(index + 1)
            streams[index + 1] = agreed or Stream(index + 1, _transport(decision, side.other))
        self.families[side] = ip6
        before = Agreed(self.decisions, self.keys, self.streams)
        self.pending = Exchange(side, document, decisions, own, streams, before)
        name = self.names[side.other]
        return {name: self.wanted()[name]}

    def offered(self) -> bytes:
        """The offer for the other side, once the gateway has what `offer` wanted."""
        exchange = self._exchange()
        side = exchange.side.other
        exchange.sent = self.origins[side].write(
            exchange.offer.origin.username,
            lambda origin: rewrite.offer(
                exchange.offer,
                exchange.decisions,
                _direction(exchange.side),
                self._locals(side),
                exchange.own,
                origin,
            ),
        )
        return self.origins[side].last

    # -- answer

    def answer(self, side: Side, body: bytes) -> Wanted:
        """Take the answer. Raises BadSdp if it cannot be served: the exchange has failed then."""
        exchange = self._exchange()
        if side is exchange.side:
            raise UsageError("an answer from the side that offered")
        if exchange.sent is None:
            raise BadSdp("an answer to an offer that has not been passed on", 400)
        answer = Document(body)
        lines = rewrite.check_answer(
            exchange.sent, answer, exchange.decisions, exchange.own, self.terms.rules
        )
        for line, media in zip(lines, answer.media, strict=True):
            if media.port and not line.accepted:
                raise BadSdp(line.reason)
        decisions = tuple(line.decision for line in lines)
        self._family(side, answer, decisions)
        exchange.answer, exchange.decisions = answer, decisions
        keys: dict[int, Crypto] = {}
        streams: dict[Side, dict[int, Stream]] = {Side.ACCESS: {}, Side.CORE: {}}
        for index, line in enumerate(lines):
            if not (line.decision.active and line.decision.anchored):
                continue
            theirs = self._key_lines(index, exchange, line, keys)
            for here in Side:
                streams[here][index + 1] = self._stream(
                    index, here, exchange, answer, theirs, keys.get(index)
                )
        self.keys, self.unused = keys, {}
        self.streams = streams
        return self.wanted()

    def answered(self, preview: bool = False) -> bytes:
        """The answer for the offerer, once the gateway has what `answer` wanted. The exchange is complete.
        preview: it is of a provisional response that is not reliable."""
        exchange = self._exchange()
        answer = exchange.answer
        if answer is None:
            raise UsageError("no answer has been taken")
        own = {index: (line,) for index, line in self.keys.items()} if exchange.side is Side.ACCESS else {}
        self.origins[exchange.side].write(
            answer.origin.username,
            lambda origin: rewrite.answer(
                answer,
                exchange.offer,
                exchange.decisions,
                _direction(exchange.side),
                self._locals(exchange.side),
                own,
                origin,
                self.terms.rules,
            ),
        )
        self.decisions = exchange.decisions
        self.latest, self.pending = replace(exchange, preview=preview), None
        return self.origins[exchange.side].last

    def reopen(self, offer: Document) -> None:
        """Expect another answer to an offer that has one, if nothing was agreed on since: an early answer may
        be followed by the callee's own."""
        if self.latest is not None and self.latest.offer is offer:
            self.pending = replace(self.latest, answer=None, reserved={})

    def rollback(self) -> None:
        """The pending offer was refused: the media are as they were (trap P29), even if they have followed a
        preview of its answer."""
        exchange, self.pending = self.pending, None
        if exchange is not None and exchange.preview:
            before, self.latest = exchange.before, None
            self.decisions, self.keys, self.streams = (
                before.decisions,
                dict(before.keys),
                dict(before.streams),
            )

    # -- what the gateway shall have

    def wanted(self) -> Wanted:
        """The terminations of this dialog as agreed, and what the pending offer needs."""
        streams = {side: self.streams.get(side, {}) for side in Side}
        if self.pending is not None and self.pending.answer is None:
            answerer = self.pending.side.other
            streams[answerer] = {**self.pending.reserved, **streams[answerer]}
        return {self.names[side]: self._termination(side, streams[side]) for side in Side}

    def _termination(self, side: Side, streams: Mapping[int, Stream]) -> Termination:
        return Termination(self.terms.realms[side], self.families[side], streams)

    def _family(self, side: Side, document: Document, decisions: Sequence[Decision]) -> bool:
        """Whether a side's media are on IPv6. One termination has one family, for good: what the gateway
        could never send to is refused before anybody is called. Raises BadSdp."""
        lines = [m for m, d in zip(document.media, decisions, strict=True) if d.active and d.anchored]
        hosts = {address.host for media in lines for address in _remote(document, media) if address}
        if any(host in self.terms.denied[side] for host in hosts):
            raise BadSdp("a media address in a network that media are not sent to here")
        said = {":" in host for host in hosts}
        if len(said) > 1:
            raise BadSdp("media addresses of both families; the gateway has one for each side")
        stands = self.anchor.have(self.names[side])
        if stands is not None and said and said != {stands.ip6}:
            raise BadSdp("media addresses of another family than before")
        if stands is not None or not lines:
            return self.families[side]
        held = document.connection_of(lines[0])
        return said.pop() if said else held is not None and ":" in held.host

    def _locals(self, side: Side) -> dict[int, Local]:
        return {
            id - 1: Local(
                "IP6" if ":" in local.rtp.host else "IP4", local.rtp.host, local.rtp.port, local.rtcp.port
            )
            for id, local in self.anchor.local(self.names[side]).items()
        }

    def _stream(
        self,
        index: int,
        side: Side,
        exchange: Exchange,
        answer: Document,
        theirs: Crypto | None,
        ours: Crypto | None,
    ) -> Stream:
        offered, answered = exchange.offer.media[index], answer.media[index]
        if side is exchange.side:
            document, media, mux = exchange.offer, offered, offered.has("rtcp-mux")
        else:
            document, media = answer, answered
            mux = answered.has("rtcp-mux") and offered.has("rtcp-mux")
        decision = exchange.decisions[index]
        transport = _transport(decision, side)
        if transport is Transport.UDP:  # what is end to end is answered end to end
            mux = answered.has("rtcp-mux") and offered.has("rtcp-mux")
        mode = _mode(exchange, answer, index, side)
        remote, remote_rtcp = _remote(document, media)
        if remote is None and (before := self.streams.get(side, {}).get(index + 1)):
            remote, remote_rtcp = before.remote, before.remote_rtcp
        secured = transport is Transport.SRTP
        return Stream(
            index + 1,
            transport,
            remote,
            remote_rtcp,
            mux,
            local_key=_key(ours)[0] if secured and ours else None,
            remote_keys=_key(theirs) if secured and theirs else (),
            mode=mode,
            latch=side is Side.ACCESS,
            latch_from=self._latch_from(side),
            source_filter=side is Side.ACCESS and not (secured or self.terms.latch_anywhere),
            inactivity=self._inactivity(mode),
        )

    def _latch_from(self, side: Side) -> str | None:
        """Where a UE is that does not know it: behind a NAT, where its signalling comes from."""
        host = self.flows[side].remote.host.partition("%")[0]
        known = side is Side.ACCESS and not self.terms.latch_anywhere
        return host if known and (":" in host) == self.families[side] else None

    def watch(self) -> None:
        """Silence counts from now on, as the call is answered: one that rings may be silent for long."""
        if not self.watched:
            self.watched = True
            self.streams = {
                side: {id: with_fields(s, inactivity=self._inactivity(s.mode)) for id, s in streams.items()}
                for side, streams in self.streams.items()
            }

    @property
    def supervised(self) -> bool:
        """Whether the gateway tells of silence."""
        return any(stream.inactivity for streams in self.streams.values() for stream in streams.values())

    def _inactivity(self, mode: Mode) -> float:
        return self.terms.inactivity if self.watched and mode is Mode.SENDRECV else 0.0

    # -- keys

    def _own_lines(self, index: int) -> tuple[Crypto, ...]:
        """Our lines in an offer to the UE: the one in use, or a fresh one for each suite we like (trap P14);
        the same again if the last offer was refused (trap P37)."""
        if index in self.keys:
            return (self.keys[index],)
        if index not in self.unused:
            suites = enumerate(self.terms.rules.suites, start=1)
            self.unused[index] = tuple(self._fresh(tag, suite) for tag, suite in suites)
        return self.unused[index]

    def _key_lines(
        self, index: int, exchange: Exchange, line: AnswerLine, keys: dict[int, Crypto]
    ) -> Crypto | None:
        """The UE's line for an m-line under e2ae; ours goes to `keys`."""
        decision = exchange.decisions[index]
        if decision.treatment is not Treatment.E2AE_SDES:
            return None
        if exchange.side is Side.ACCESS:
            theirs = decision.crypto
            if theirs is None:
                raise UsageError("an e2ae offer without a selected crypto line")
            before = self.keys.get(index)
            if before is not None and before.suite == theirs.suite:
                keys[index] = replace(before, tag=theirs.tag)
            else:
                keys[index] = self._fresh(theirs.tag, theirs.suite)
            return theirs
        if line.own is None:
            raise UsageError("an accepted e2ae answer without a crypto line")
        keys[index] = line.own
        return line.crypto

    def _fresh(self, tag: int, suite: str) -> Crypto:
        """A new key of ours; lifetime and MKI are left out (TS 33.328 clause 7.2.1 step 7)."""
        return Crypto(tag, suite, (InlineKey(self.rng.randbytes(MATERIAL_LENGTH[suite]), None, None),), ())

    def _exchange(self) -> Exchange:
        if self.pending is None:
            raise UsageError("no offer is pending")
        return self.pending


def select(negotiations: Iterable[Negotiation], chosen: Negotiation) -> Wanted:
    """Let one early dialog's media be heard, and close the gates of the others' own terminations."""
    wanted: dict[str, Termination | None] = {}
    for negotiation in negotiations:
        if negotiation is not chosen:
            for name, termination in negotiation.wanted().items():
                if name not in chosen.names.values() and termination is not None:
                    wanted[name] = termination.muted()
    return {**wanted, **chosen.wanted()}


def _name(side: Side, number: int) -> str:
    return f"{side.value}.{number}" if number else side.value


def _direction(offerer: Side) -> Direction:
    return Direction.ORIGINATING if offerer is Side.ACCESS else Direction.TERMINATING


def _transport(decision: Decision, side: Side) -> Transport:
    carriage = decision.treatment.carriage
    match carriage.access if side is Side.ACCESS else carriage.core:
        case Carriage.RTP:
            return Transport.RTP
        case Carriage.SRTP:
            return Transport.SRTP
        case Carriage.UDP:
            return Transport.UDP
        case other:
            raise UsageError(f"{decision.treatment} is not anchored: {other}")


def _mode(exchange: Exchange, answer: Document, index: int, side: Side) -> Mode:
    """The answer says what flows; the answerer's `sendonly` is what the gateway receives from it (RFC 3264
    6.1)."""
    answerer = answer.direction_of(answer.media[index])
    sends = answerer in (MediaDirection.SENDRECV, MediaDirection.SENDONLY)
    receives = answerer in (MediaDirection.SENDRECV, MediaDirection.RECVONLY)
    if _held(exchange.offer, exchange.offer.media[index]):
        sends = False
    if _held(answer, answer.media[index]):
        receives = False
    if side is exchange.side:  # towards the offerer goes what the answerer sends
        sends, receives = receives, sends
    return _MODES[receives, sends]


_MODES = {
    (True, True): Mode.SENDRECV,
    (True, False): Mode.SENDONLY,
    (False, True): Mode.RECVONLY,
    (False, False): Mode.INACTIVE,
}


def _held(document: Document, media: Media) -> bool:
    connection = document.connection_of(media)
    return connection is not None and connection.unspecified


def _remote(document: Document, media: Media) -> tuple[Address | None, Address | None]:
    """Where a peer wants RTP and RTCP; (None, None) if it says nowhere. Raises BadSdp for a name or a missing
    c=."""
    connection = document.connection_of(media)
    if connection is None:
        raise BadSdp("an m-line without c=", 400)
    if connection.unspecified:
        return None, None
    remote = Address(_numeric(connection.host), media.port)
    if (value := media.attribute("rtcp")) is None:
        return remote, None
    rtcp = RtcpAttribute.parse(value)
    where = rtcp.connection or connection
    if not rtcp.port or where.unspecified:  # as browsers write it, who multiplex RTCP anyway
        return remote, None
    return remote, Address(_numeric(where.host), rtcp.port)


@lru_cache(maxsize=1024)
def _numeric(host: str) -> str:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise BadSdp("a media address that is no numeric one; others are not served") from None
    if address.is_multicast or address == ipaddress.IPv4Address("255.255.255.255"):
        raise BadSdp("a multicast or broadcast media address; the gateway does not send there")
    if isinstance(address, ipaddress.IPv6Address) and (address.scope_id or address.ipv4_mapped):
        raise BadSdp("a scoped or IPv4-mapped media address; the gateway does not send there")
    return host


def _key(crypto: Crypto) -> tuple[Key, ...]:
    return tuple(Key(Suite(crypto.suite), key.material, key.mki or b"") for key in crypto.keys)
