"""One offer and its answer (RFC 3264): what the two say of each stream, in the terms of the gateway."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from agw.iq.messages import Address, Mode, Stream, Transport
from imsalg.anchor import Side
from imsalg.errors import BadSdp, UsageError
from imsalg.policy.decide import Decision
from imsalg.policy.treatment import Carriage
from imsalg.sdp.attributes import Crypto, Direction, RtcpAttribute
from imsalg.sdp.document import Document, Media


@dataclass(frozen=True, slots=True)
class Agreed:
    """What the two sides have agreed on. keys: our crypto line towards the UE, by m-line. streams: of each
    side's termination."""

    decisions: tuple[Decision, ...] = ()
    keys: Mapping[int, Crypto] = field(default_factory=dict)
    streams: Mapping[Side, Mapping[int, Stream]] = field(default_factory=dict)

    def stream(self, side: Side, index: int) -> Stream | None:
        """The stream of an m-line."""
        return self.streams.get(side, {}).get(index + 1)


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

    def said(self, side: Side) -> Document:
        """The description of one side."""
        document = self.offer if side is self.side else self.answer
        if document is None:
            raise UsageError("no answer has been taken")
        return document

    def remote(self, index: int, side: Side) -> tuple[Address | None, Address | None]:
        """Where a side wants RTP and RTCP; see `remote`."""
        document = self.said(side)
        return remote(document, document.media[index])

    def transport(self, index: int, side: Side) -> Transport:
        return transport(self.decisions[index], side)

    def mux(self, index: int, side: Side) -> bool:
        """Whether RTP and RTCP share a port on a side (RFC 5761 section 5.1.1): the gateway grants it to the
        offerer by itself, but what is end to end is answered end to end."""
        asked = self.said(self.side).media[index].has("rtcp-mux")
        granted = self.said(self.side.other).media[index].has("rtcp-mux")
        alone = side is self.side and self.transport(index, side) is not Transport.UDP
        return asked and (alone or granted)

    def mode(self, index: int, side: Side) -> Mode:
        """The answer says what flows; the answerer's `sendonly` is what the gateway receives from it (RFC
        3264 section 6.1)."""
        offer, answer = self.said(self.side), self.said(self.side.other)
        answerer = answer.direction_of(answer.media[index])
        sends = answerer in (Direction.SENDRECV, Direction.SENDONLY) and not _held(offer, index)
        receives = answerer in (Direction.SENDRECV, Direction.RECVONLY) and not _held(answer, index)
        if side is self.side:  # towards the offerer goes what the answerer sends
            sends, receives = receives, sends
        return _MODES[receives, sends]


_MODES = {
    (True, True): Mode.SENDRECV,
    (True, False): Mode.SENDONLY,
    (False, True): Mode.RECVONLY,
    (False, False): Mode.INACTIVE,
}


def transport(decision: Decision, side: Side) -> Transport:
    """What an anchored m-line is carried in on a side."""
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


def remote(document: Document, media: Media) -> tuple[Address | None, Address | None]:
    """Where a peer wants RTP and RTCP; (None, None) if it says nowhere. Raises BadSdp for a name or a missing
    c=."""
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


def _held(document: Document, index: int) -> bool:
    """On hold in the old way (RFC 3264 section 8.4)."""
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
