"""From a context to the flows that realise it, and the face of whatever moves the packets.

A *leg* is one stream of one termination: two UDP ports towards one peer, and how that peer is spoken to.
Two legs that name each other as `peer` are a flow; what comes in on one goes out on the other. A leg without
a peer has its ports open all the same: it counts and drops what comes.

Every command, release, restart and audit is the same three steps: the contexts say which legs are wanted,
the difference to the legs that stand is taken, and the Plane makes it so. Legs are named by (context,
termination, stream), so that a leg that merely changes keeps what it has learnt.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping
from enum import Enum, auto
from functools import lru_cache
from typing import NamedTuple, Protocol

from msgspec import Struct

from agw.context import Context, Termination
from agw.iq.messages import Address, Event, Key, Mode, Stream, StreamStatistics, Transport


class LegId(NamedTuple):
    context: str
    termination: str
    stream: int


class SlowPath(Enum):
    """Which packets of a leg are given to the gateway itself, by `Plane.packets`."""

    NONE = auto()
    CONTROL = auto()  # STUN and DTLS (RFC 7983 section 7); on a transparent leg they pass as all else does
    ALL = auto()


class Keys(NamedTuple):
    """Of one direction each."""

    local: Key | None = None
    remote: tuple[Key, ...] = ()


class Learnt(NamedTuple):
    """What the peer of a leg has told by ICE and DTLS; pairs are for the RTP and the RTCP port.

    remotes: where it is, in place of what was signalled. keys: those agreed by DTLS.
    """

    remotes: tuple[Address | None, Address | None] = (None, None)
    keys: tuple[Keys, Keys] = (Keys(), Keys())


class Leg(Struct, frozen=True):
    """What one stream of one termination shall be on the wire: the fields of `messages.Stream`, resolved.

    local_rtp, local_rtcp: the ports to open, always both; with rtcp_mux RTCP leaves from local_rtp and is
    taken on either port.
    remote, remote_rtcp: where RTP and RTCP are sent, None: nowhere yet. With rtcp_mux both are the same.
    peer: the leg that this one is connected with, and which names this one as its peer.
    transport: RTP, SRTP, UDP, or DTLS, which is UDP whose media the gateway finds (`Plane.hear`). Two
    connected legs are both transparent (UDP, DTLS) or neither is.
    rtcp_keys: where RTCP has others than RTP; None: they are the same.
    slow_path: what is not given to the gateway and is not media or RTCP is dropped.
    """

    id: LegId
    local_rtp: Address
    local_rtcp: Address
    transport: Transport
    remote: Address | None = None
    remote_rtcp: Address | None = None
    rtcp_mux: bool = False
    local_key: Key | None = None
    remote_keys: tuple[Key, ...] = ()
    mode: Mode = Mode.INACTIVE
    latch: bool = False
    latch_from: str | None = None
    source_filter: bool = False
    inactivity: float = 0.0
    peer: LegId | None = None
    rtcp_keys: Keys | None = None
    slow_path: SlowPath = SlowPath.NONE


class Difference(Struct, frozen=True):
    """removed: legs to close. wanted: legs to open or to change. A leg that is in neither stays as it is."""

    removed: tuple[LegId, ...] = ()
    wanted: tuple[Leg, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.removed or self.wanted)


def difference(standing: Mapping[LegId, Leg], wanted: Iterable[Leg]) -> Difference:
    """What leads from the legs that stand to exactly the wanted ones."""
    target = {leg.id: leg for leg in wanted}
    return Difference(
        removed=tuple(id for id in standing if id not in target),
        wanted=tuple(leg for leg in target.values() if standing.get(leg.id) != leg),
    )


class OpenError(Exception):
    """Sockets could not be opened, mostly because a port is someone else's; the Plane is as it was before.

    legs: those whose ports are of no use; the gateway gives them others and asks again.
    """

    def __init__(self, legs: tuple[LegId, ...], text: str) -> None:
        super().__init__(text)
        self.legs = legs
        self.text = text


class Plane(Protocol):
    """What moves the packets. It has no opinion: it holds exactly the legs it was told to.

    events: called with (leg, event, detail), never from within a call of the methods below; the shell sets it
    before the first leg. MEDIA_INACTIVE, MEDIA_FIRST and SRTP_FAILURES as they say; CONTEXT_LOST when the
    leg's sockets broke.
    packets: called likewise, with (leg, channel, source, data), for each packet of the slow path that passes
    the leg's source filter. channel: 0 for the port of RTP, 1 for that of RTCP. What comes faster than it is
    taken is dropped, and counted. Such packets move no address, and STUN and DTLS are no media.
    """

    events: Callable[[LegId, Event, str], None]
    packets: Callable[[LegId, int, Address, bytes], None]

    def apply(self, difference: Difference) -> dict[LegId, StreamStatistics]:
        """Make the difference true, as a whole or (`OpenError`) not at all. Gives the counts of removed legs.

        A changed leg keeps what the change does not concern:
        sockets while local_rtp and local_rtcp are the same; counters always, also when `peer` is another;
        the latched address while `remote`, `latch` and `latch_from` are the same, another one forgets it;
        the sending SRTP context with its roll-over counter while `local_key` is equal, and each receiving one
        while an equal key is in `remote_keys` (trap P14); a key that was not there before is a new context.
        The inactivity timer starts anew when the mode begins to receive, and is parked while it does not.
        """
        ...

    def send(self, id: LegId, channel: int, target: Address, data: bytes) -> bool:
        """Send a packet of the slow path from a standing leg's own port; it is in no count. False: the leg's
        sockets broke, or the kernel does not take it. raises UsageError for an address as `apply` does."""
        ...

    def hear(self, id: LegId) -> None:
        """What a standing leg has handed up had media in it."""
        ...

    def statistics(self, id: LegId) -> StreamStatistics:
        """The counts of a standing leg since it was opened."""
        ...

    def idle(self, id: LegId) -> float:
        """Seconds since a standing leg's last media packet from its peer; since it was opened if none."""
        ...

    def close(self) -> None:
        """Close every leg."""
        ...


def legs(context: Context, learnt: Mapping[LegId, Learnt]) -> list[Leg]:
    """The legs that realise a context. learnt: of those whose peers have told something."""
    found = []
    for termination in context.terminations.values():
        for stream in termination.streams.values():
            id = LegId(context.name, termination.name, stream.id)
            speaks = stream.dtls is not None or stream.ice is not None  # what it told before counts no more
            told = learnt.get(id, _NOTHING) if speaks else _NOTHING
            found.append(_leg(id, context, termination, stream, told))
    return found


_NOTHING = Learnt()


def _leg(id: LegId, context: Context, termination: Termination, stream: Stream, learnt: Learnt) -> Leg:
    local = termination.local(stream.id)
    peer = other = None
    if (pair := context.connected(stream.id)) and termination.name in pair:
        peer = LegId(context.name, pair[pair[0] == termination.name], stream.id)
        other = context.terminations[peer.termination].streams[stream.id]
    srtp = stream.transport is Transport.DTLS_SRTP
    keys, rtcp_keys = learnt.keys if srtp else (Keys(stream.local_key, stream.remote_keys), None)
    remote, remote_rtcp = remotes(stream)
    found, found_rtcp = learnt.remotes
    remote = found or remote
    return Leg(
        id=id,
        local_rtp=local.rtp,
        local_rtcp=local.rtcp,
        transport=Transport.SRTP if srtp else stream.transport,
        remote=remote,
        remote_rtcp=remote if stream.rtcp_mux else found_rtcp or remote_rtcp,
        rtcp_mux=stream.rtcp_mux,
        local_key=keys.local,
        remote_keys=keys.remote,
        mode=stream.mode,
        latch=stream.latch,
        latch_from=stream.latch_from and canonical_host(stream.latch_from),
        source_filter=stream.source_filter and stream.ice is None,
        inactivity=stream.inactivity,
        peer=peer,
        rtcp_keys=None if stream.rtcp_mux else rtcp_keys,
        slow_path=_slow_path(stream, other),
    )


def _slow_path(stream: Stream, other: Stream | None) -> SlowPath:
    """other: the stream that it is connected with. What DTLS carries goes through the gateway."""
    if Transport.DTLS in (stream.transport, other and other.transport):
        return SlowPath.ALL
    return SlowPath.CONTROL if stream.dtls or stream.ice else SlowPath.NONE


def remotes(stream: Stream) -> tuple[Address | None, Address | None]:
    """Where RTP and RTCP are to be sent, as signalled: RFC 5761 section 5.1.1 with rtcp_mux, else RFC 3605,
    else the next port (RFC 3550 section 11)."""
    if stream.remote is None:
        return None, None
    remote = _canonical(stream.remote)
    if stream.rtcp_mux:
        return remote, remote
    if stream.remote_rtcp is not None:
        return remote, _canonical(stream.remote_rtcp)
    if remote.port == 65535:
        return remote, None  # there is no next port: this peer gets no RTCP
    return remote, Address(remote.host, remote.port + 1)


def _canonical(address: Address) -> Address:
    """With the host as sockets print it, so that sources can be compared."""
    return Address(canonical_host(address.host), address.port)


@lru_cache(maxsize=1024)
def canonical_host(host: str) -> str:
    """As sockets print it."""
    return str(ipaddress.ip_address(host))
