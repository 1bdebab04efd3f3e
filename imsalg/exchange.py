"""One offer and its answer (RFC 3264): what the two say of each stream, in the terms of the gateway."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from functools import lru_cache

from msgspec import Struct, field

from agw.iq.messages import Address, Mode, Stream, Transport
from imsalg.anchor import Side, m_line
from imsalg.errors import BadSdp, UsageError
from imsalg.policy.association import Association
from imsalg.policy.bundle import Names
from imsalg.policy.check import Own
from imsalg.policy.decide import Decision
from imsalg.policy.treatment import Carriage, is_rtp
from imsalg.sdp import datachannel
from imsalg.sdp.attributes import Crypto, Direction, RtcpAttribute
from imsalg.sdp.document import MAX_MEDIA, Document
from imsalg.sdp.ice import IceCredentials, is_lite


class Agreed(Struct, frozen=True):
    """What the two sides have agreed on. keys, associations: our crypto line towards the UE, or the DTLS
    association with it, by m-line. streams: of each side's termination. named: as in the answer that
    the UE gave or got."""

    decisions: tuple[Decision, ...] = ()
    keys: Mapping[int, Crypto] = field(default_factory=dict)
    associations: Mapping[int, Association] = field(default_factory=dict)
    streams: Mapping[Side, Mapping[int, Stream]] = field(default_factory=dict)
    named: Names = field(default_factory=Names)

    def stream(self, side: Side, id: int) -> Stream | None:
        return self.streams.get(side, {}).get(id)

    def association(self, id: int) -> Association | None:
        """The one that stands on a stream."""
        return self.associations.get(m_line(id)) if self.stream(Side.ACCESS, id) is not None else None

    def ids(self, decisions: Sequence[Decision]) -> tuple[int, ...]:
        """The streams of the m-lines of an offer: those that stand, but another one where a line is to be
        carried in a way that its stream cannot become."""
        return tuple(self._id(index, decision) for index, decision in enumerate(decisions))

    def _id(self, index: int, decision: Decision) -> int:
        stands = {
            side: stream
            for side, streams in self.streams.items()
            for stream in streams.values()
            if m_line(stream.id) == index
        }
        if not stands:
            return index + 1
        id = next(iter(stands.values())).id
        if not (decision.active and decision.anchored):
            return id
        fits = all(
            stream.transport is (to := transport(decision, side)) or {stream.transport, to} <= _KEYED_BY_SDP
            for side, stream in stands.items()
        )
        return id if fits else (id - 1 + MAX_MEDIA) % (2 * MAX_MEDIA) + 1


class Exchange(Struct):
    """An offer, and its answer once there is one.

    decisions: with the answer, what is in force. asked: what an answer may choose from.
    ids: of the streams, by m-line. own: what of ours protects the lines of an offer to the UE.
    reserved: the answerer's streams, which the offer names an address of. before: what was agreed on, which
    holds again if the offer is refused. preview: the answer came in a response that nobody acknowledges, and
    may yet be withdrawn, or be another one.
    """

    side: Side  # who offers
    offer: Document  # as received
    decisions: tuple[Decision, ...]
    asked: tuple[Decision, ...]
    ids: tuple[int, ...]
    own: Mapping[int, Own]
    reserved: dict[int, Stream]
    before: Agreed
    sent: Document | None = None  # the offer as we passed it on
    answer: Document | None = None
    preview: bool = False

    def complete(self) -> None:
        """What an answer that stays has declined is over."""
        if not self.preview:
            self.asked, self.reserved = self.decisions, {}

    def kept(self, side: Side) -> Mapping[int, Stream]:
        """Streams of a side that stay beside what is agreed on: their ports have been told, and media may
        come back to them."""
        told = self.reserved if side is not self.side and (self.answer is None or self.preview) else {}
        return {**told, **self.before.streams.get(side, {})} if self.preview else told

    def said(self, side: Side) -> Document:
        """The description of one side."""
        document = self.offer if side is self.side else self.answer
        if document is None:
            raise UsageError("no answer has been taken")
        return document

    def remote(self, index: int, side: Side) -> tuple[Address | None, Address | None]:
        """Where a side wants RTP and RTCP; see `remote`."""
        return remote(side, self.said(side), index, self.decisions[index])

    def checks(self, index: int) -> IceCredentials | None:
        """The UE's credentials, where connectivity checks tell where it is."""
        return _checks(self.said(Side.ACCESS), index, self.decisions[index])

    def transport(self, index: int, side: Side) -> Transport:
        return transport(self.decisions[index], side)

    def mux(self, index: int, side: Side) -> bool:
        """Whether RTP and RTCP share a port on a side (RFC 5761 section 5.1.1): the gateway grants it to the
        offerer by itself, but what is end to end is answered end to end."""
        if not is_rtp(self.offer.media[index].proto):
            return True  # there is no RTCP
        if side is self.side:
            alone = self.transport(index, side) is not Transport.UDP
            return self.offer.media[index].has("rtcp-mux") and (alone or self._grants_mux(index))
        return self.sent is not None and self.sent.media[index].has("rtcp-mux") and self._grants_mux(index)

    def _grants_mux(self, index: int) -> bool:
        return self.said(self.side.other).media[index].has("rtcp-mux")

    def mode(self, index: int, side: Side) -> Mode:
        """The answer says what flows, of what the offer has asked for: nobody opens what the other end has
        closed. The answerer's `sendonly` is what the gateway receives from it (RFC 3264 section 6.1)."""
        offer, answer = self.said(self.side), self.said(self.side.other)
        if datachannel.over_udp(offer.media[index].proto):
            return Mode.SENDRECV  # RFC 8841 section 9.2
        offerer, answerer = (each.direction_of(each.media[index]) for each in (offer, answer))
        sends = answerer in _SENDING and offerer in _RECEIVING and not _held(offer, index)
        receives = answerer in _RECEIVING and offerer in _SENDING and not _held(answer, index)
        if side is self.side:  # towards the offerer goes what the answerer sends
            sends, receives = receives, sends
        return _MODES[receives, sends]


_KEYED_BY_SDP = frozenset((Transport.RTP, Transport.SRTP))  # the one becomes the other without more ado
_SENDING = (Direction.SENDRECV, Direction.SENDONLY)
_RECEIVING = (Direction.SENDRECV, Direction.RECVONLY)
_MODES = {
    (True, True): Mode.SENDRECV,
    (True, False): Mode.SENDONLY,
    (False, True): Mode.RECVONLY,
    (False, False): Mode.INACTIVE,
}


def transport(decision: Decision, side: Side) -> Transport:
    """What an anchored m-line is carried in on a side."""
    match decision.carried.access if side is Side.ACCESS else decision.carried.core:
        case Carriage.RTP:
            return Transport.RTP
        case Carriage.SRTP:
            return Transport.SRTP
        case Carriage.DTLS_SRTP:
            return Transport.DTLS_SRTP
        case Carriage.DTLS:
            return Transport.DTLS
        case Carriage.UDP:
            return Transport.UDP
        case other:
            raise UsageError(f"{decision.treatment} is not anchored: {other}")


def remote(
    side: Side, document: Document, index: int, decision: Decision
) -> tuple[Address | None, Address | None]:
    """Where a side wants RTP and RTCP; (None, None) if it says nowhere, or if checks will tell. Raises BadSdp
    for a name or a missing c=."""
    if side is Side.ACCESS and _checks(document, index, decision):
        return None, None
    media = document.media[index]
    connection = document.connection_of(media)
    if connection is None:
        raise BadSdp("an m-line without c=", 400)
    if connection.unspecified:
        return None, None
    rtp = Address(_numeric(connection.host), media.port)
    if (value := media.attribute("rtcp")) is None:
        return rtp, None
    rtcp = RtcpAttribute.parse(value)
    where = rtcp.connection or connection
    if not rtcp.port or where.unspecified:  # as browsers write it, who multiplex RTCP anyway
        return rtp, None
    return rtp, Address(_numeric(where.host), rtcp.port)


def _checks(document: Document, index: int, decision: Decision) -> IceCredentials | None:
    """Of a UE's description. Where both agents are lite there are no checks (RFC 8445 section 6.1.1), nor
    where the UE has seen that somebody changed our address (RFC 8839 section 5.3)."""
    media = document.media[index]
    if not decision.treatment.by_dtls or is_lite(document) or media.has("ice-mismatch"):
        return None
    return IceCredentials.of(document, media)


def still_to_come(document: Document, index: int) -> bool:
    """Whether the address is a placeholder, for candidates that come later (RFC 8840 section 4.1.1)."""
    return _unspecified(document, index) and IceCredentials.of(document, document.media[index]) is not None


def _held(document: Document, index: int) -> bool:
    """On hold in the old way (RFC 3264 section 8.4)."""
    return _unspecified(document, index) and not still_to_come(document, index)


def _unspecified(document: Document, index: int) -> bool:
    connection = document.connection_of(document.media[index])
    return connection is not None and connection.unspecified


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
