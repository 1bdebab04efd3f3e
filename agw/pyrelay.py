"""The Python Plane: UDP sockets on the running event loop, SRTP by libsrtp.

The twin of the native Plane: slower, needs no compiler, and says what is right.

Every packet that is read has one outcome. It is *forwarded*: counted as received on its leg and as sent on
the peer leg; or it takes the *slow path*: it is STUN or DTLS, or what DTLS carries, given to the gateway
itself; or it is *dropped* on its leg, for a named cause. So over all legs sent equals received.

The way of a packet, in `_Standing._relay`: what it is (first bytes and port), who sent it (source filter),
[the slow path leaves here,] whether it is authentic (SRTP), what is learnt from it (address, media seen),
whether it may pass (gates), how it leaves (SRTP). Nothing is learnt from a packet that is not authentic
(trap P15). A packet of the slow path is given away at once: until it is read it waits in the kernel.

The sockets are read by `loop.add_reader`, one packet each time a socket is ready, because asyncio's datagram
transports are opened by a coroutine, and a Plane opens its legs at once or not at all.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Callable
from enum import StrEnum
from typing import NamedTuple

from agw.demux import is_rtcp, is_slow, is_stun
from agw.flows import Difference, Keys, Leg, LegId, SlowPath
from agw.iq.messages import Address, Event, Key, StreamStatistics, Transport
from agw.latch import Sockaddr, Whereabouts
from agw.sockets import Sockets, latch_from, log_latched, open_all, send, sockaddr
from agw.srtp import MAX_PACKET, Failure, Protector, SrtpError, Unprotector

SRTP_FAILURE_PERIOD = 60.0  # seconds over which failed authentications are counted, and told at most once


class Drop(StrEnum):
    """Why a packet went no further; beside these there are the causes of `agw.srtp.Failure`."""

    NOT_RTP = "not_rtp"  # on an RTP leg: neither RTP nor RTCP, or not on its port, nor for the slow path
    NOT_DTLS = "not_dtls"  # on a DTLS leg: neither DTLS nor STUN
    TOO_LONG = "too_long"  # more than MAX_PACKET bytes
    WRONG_SOURCE = "wrong_source"
    LOOP = "loop"  # from a socket of our own which is not that of another call's same side
    GATED = "gated"  # media which the mode of this leg or of its peer leg forbids
    NO_PEER = "no_peer"  # the leg is not connected
    NO_REMOTE = "no_remote"  # the peer leg does not know yet where to send
    NO_KEY = "no_key"  # an SRTP leg without a key for this direction
    SEND_FAILED = "send_failed"  # the socket is full, or the remote cannot be reached


class PythonPlane:
    """A `agw.flows.Plane`; made and used on the thread of a running event loop.

    srtp_failures: failed authentications on one leg within a minute, above which SRTP_FAILURES is told.
    apply raises UsageError, and has done nothing, for an address that is not numeric or not of the family of
    the leg's own, and for keys that `agw.srtp` does not take.
    """

    def __init__(self, srtp_failures: int = 100) -> None:
        self.events: Callable[[LegId, Event, str], None] = lambda id, event, detail: None
        self.packets: Callable[[LegId, int, Address, bytes], None] = lambda id, channel, source, data: None
        self.loop = asyncio.get_running_loop()
        self.srtp_failures = srtp_failures
        self.own: dict[Sockaddr, _Standing] = {}  # by host and port of our sockets
        self._legs: dict[LegId, _Standing] = {}

    def apply(self, difference: Difference) -> dict[LegId, StreamStatistics]:
        prepared = [(leg, _prepare(leg, self._legs.get(leg.id))) for leg in difference.wanted]
        opened = open_all(difference.wanted, self._has_sockets)
        counts = {id: self._remove(id) for id in difference.removed}
        for leg, means in prepared:
            standing = self._legs.get(leg.id)
            if standing is None:
                standing = self._legs[leg.id] = _Standing(self, leg, means, opened[leg.id])
            else:
                standing.change(leg, means, opened.get(leg.id))
        for leg in difference.wanted:
            self._legs[leg.id].disconnect()
        for leg in difference.wanted:
            self._connect(self._legs[leg.id])
        return counts

    def send(self, id: LegId, channel: int, target: Address, data: bytes) -> bool:
        standing = self._legs[id]
        return send(standing.sockets, channel, target, data, standing.leg)

    def hear(self, id: LegId) -> None:
        self.loop.call_soon(self._legs[id].hear)

    def statistics(self, id: LegId) -> StreamStatistics:
        return self._legs[id].statistics()

    def idle(self, id: LegId) -> float:
        return self.loop.time() - self._legs[id].heard

    def close(self) -> None:
        for id in list(self._legs):
            self._remove(id)

    def _has_sockets(self, leg: Leg) -> bool:
        return leg.id in self._legs and self._legs[leg.id].has_ports_of(leg)

    def _remove(self, id: LegId) -> StreamStatistics:
        standing = self._legs.pop(id)
        standing.disconnect()
        standing.close()
        return standing.statistics()

    def _connect(self, standing: _Standing) -> None:
        """Legs are connected when each names the other."""
        peer = self._legs.get(standing.leg.peer) if standing.leg.peer else None
        if peer is not None and peer.leg.peer == standing.leg.id:
            standing.peer, peer.peer = peer, standing


class _Means(NamedTuple):
    """What a leg needs and what can be wrong with it, made before anything is changed."""

    remotes: tuple[Sockaddr | None, Sockaddr | None]  # for RTP, for RTCP
    latch_from: str | None  # as recvfrom will tell it
    protectors: tuple[Protector | None, Protector | None]  # one and the same where the keys are
    unprotectors: tuple[Unprotector | None, Unprotector | None]


def _prepare(leg: Leg, standing: _Standing | None) -> _Means:
    protectors = standing.protectors if standing else (None, None)
    unprotectors = standing.unprotectors if standing else (None, None)
    secured = leg.transport is Transport.SRTP
    keys = Keys(leg.local_key, leg.remote_keys) if secured else Keys()
    protector = _protector(keys.local, protectors[0])
    unprotector = _unprotector(keys.remote, unprotectors[0])
    rtcp_protector, rtcp_unprotector = protector, unprotector
    if secured and leg.rtcp_keys is not None:
        rtcp_protector = _protector(leg.rtcp_keys.local, protectors[1])
        rtcp_unprotector = _unprotector(leg.rtcp_keys.remote, unprotectors[1])
    remotes = sockaddr(leg.remote, leg), sockaddr(leg.remote_rtcp, leg)
    first_from = latch_from(leg)
    host = first_from[0] if first_from else None
    return _Means(remotes, host, (protector, rtcp_protector), (unprotector, rtcp_unprotector))


def _protector(key: Key | None, standing: Protector | None) -> Protector | None:
    if key is None:
        return None
    return standing if standing is not None and standing.key == key else Protector(key)


def _unprotector(keys: tuple[Key, ...], standing: Unprotector | None) -> Unprotector | None:
    if not keys:
        return None
    if standing is None:
        return Unprotector(keys)
    return standing if standing.keys == keys else standing.rekeyed(keys)


class _Standing:
    """A leg as it stands: its sockets, its contexts, what it has learnt and counted.

    sockets and whereabouts are pairs, indexed by *channel*: 0 is the RTP port, with rtcp_mux for RTCP as
    well, 1 is the RTCP port. protectors and unprotectors are pairs, for RTP and for RTCP.
    """

    __slots__ = (
        "_failed_since", "_failures", "_flowing", "_plane", "_rtp", "_timed", "_timed_since", "_timer",
        "dropped", "heard", "leg", "muxed", "peer", "protectors", "received", "received_octets", "receives",
        "secured", "seen", "sends", "sent", "sent_octets", "slow_path", "sockets", "unprotectors",
        "whereabouts",
    )  # fmt: skip

    def __init__(self, plane: PythonPlane, leg: Leg, means: _Means, sockets: Sockets) -> None:
        self._plane = plane
        self.peer: _Standing | None = None
        self.received = self.received_octets = self.sent = self.sent_octets = self.slow_path = 0
        self.dropped: Counter[str] = Counter()
        self.heard = plane.loop.time()  # the last media, or when the leg was opened
        self.seen = False  # media, ever
        self._flowing = False  # media, and no MEDIA_INACTIVE since
        self._timed: float = 0.0  # the inactivity that is watched for now; 0: parked
        self._timed_since = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._failures = 0
        self._failed_since = 0.0
        self.whereabouts = (Whereabouts(), Whereabouts())
        self.sockets: Sockets | None = None
        self.change(leg, means, sockets)

    def change(self, leg: Leg, means: _Means, sockets: Sockets | None) -> None:
        """Become what `leg` says. sockets: None where the old ones stay."""
        self.leg = leg
        self._rtp = leg.transport in (Transport.RTP, Transport.SRTP)
        self.secured = leg.transport is Transport.SRTP
        self.muxed = leg.rtcp_mux
        self.receives = leg.mode.receives
        self.sends = leg.mode.sends
        self.protectors = means.protectors
        self.unprotectors = means.unprotectors
        if sockets is not None:
            self._close_sockets()
            self.sockets = sockets
            for channel, sock in enumerate(sockets):
                self._plane.own[sock.getsockname()[:2]] = self
                self._plane.loop.add_reader(sock, self._read, sock, channel)
        for whereabouts, remote in zip(self.whereabouts, means.remotes, strict=True):
            whereabouts.signal(remote, leg.latch, means.latch_from, leg.source_filter, self.secured)
        self._watch(leg.inactivity if self.receives else 0.0)

    def has_ports_of(self, leg: Leg) -> bool:
        here = (self.leg.local_rtp, self.leg.local_rtcp)
        return self.sockets is not None and here == (leg.local_rtp, leg.local_rtcp)

    def statistics(self) -> StreamStatistics:
        return StreamStatistics(
            id=self.leg.id.stream,
            received=self.received,
            sent=self.sent,
            received_octets=self.received_octets,
            sent_octets=self.sent_octets,
            dropped={str(cause): count for cause, count in self.dropped.items()},
            slow_path=self.slow_path,
        )

    def disconnect(self) -> None:
        if self.peer is not None:
            self.peer.peer = None
            self.peer = None

    def close(self) -> None:
        self._watch(0.0)
        self._close_sockets()

    # -- a packet ----------------------------------------------------------------------------------

    def _read(self, sock: socket.socket, channel: int) -> None:
        try:
            packet, source = sock.recvfrom(MAX_PACKET + 1)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._close_sockets()
            self._tell(Event.CONTEXT_LOST, str(error))
            return
        cause = self._relay(packet, source, channel)
        if cause is not None:
            self.dropped[cause] += 1

    def _relay(self, packet: bytes, source: Sockaddr, channel: int) -> Drop | Failure | None:
        """Forward a packet or give it to the slow path, and count it as such, or say why not."""
        length = len(packet)
        if length > MAX_PACKET:
            return Drop.TOO_LONG
        rtcp = is_rtcp(packet, channel, self.muxed) if self._rtp else channel == 1 and not self.muxed
        slow = self.leg.slow_path is SlowPath.ALL
        if slow and self.leg.transport is Transport.DTLS and not is_slow(packet):
            return Drop.NOT_DTLS
        if rtcp is None and self.leg.slow_path is SlowPath.CONTROL:
            slow = is_slow(packet)
        if rtcp is None and not slow:
            return Drop.NOT_RTP
        whereabouts = self.whereabouts[channel]
        if whereabouts.allowed is not None and source[0] not in whereabouts.allowed:
            return Drop.WRONG_SOURCE
        # Two peers who each name our own address as theirs would have a packet go round for ever. Contexts
        # are chained only where they do not latch (a call that passes twice): that cannot close a circle.
        own = self._plane.own.get(source[:2])
        if own is not None and (self.leg.latch or own.leg.latch):
            return Drop.LOOP
        if rtcp is None or slow:
            if self.leg.transport is Transport.UDP and channel == 0:  # in DTLS the gateway sees what it is
                self.hear()
            self.slow_path += 1
            host, port = source[:2]
            self._plane.packets(self.leg.id, channel, Address(host.partition("%")[0], port), packet)
            return None

        newest = True
        if self.secured:
            unprotector = self.unprotectors[rtcp]
            if unprotector is None:
                return Drop.NO_KEY
            try:
                packet = unprotector.unprotect(packet, rtcp)
                newest = unprotector.newest
            except SrtpError as error:
                self._failed(error.failure)
                return error.failure

        if whereabouts.latching and newest and whereabouts.learn(source):
            log_latched(self.leg.id, channel == 1, *source[:2])
        if not rtcp:
            self.hear()

        peer = self.peer
        if peer is None:
            return Drop.NO_PEER
        if not rtcp and not (self.receives and peer.sends) and self._obeys_mode(packet):
            return Drop.GATED
        channel = 1 if rtcp and not peer.muxed else 0
        target = peer.whereabouts[channel].target
        if target is None or peer.sockets is None:
            return Drop.NO_REMOTE
        if peer.secured:
            protector = peer.protectors[rtcp]
            if protector is None:
                return Drop.NO_KEY
            try:
                packet = protector.protect(packet, rtcp)
            except SrtpError as error:
                return error.failure
        try:
            peer.sockets[channel].sendto(packet, target)
        except OSError:
            return Drop.SEND_FAILED
        self.received += 1
        self.received_octets += length
        peer.sent += 1
        peer.sent_octets += len(packet)
        return None

    def _obeys_mode(self, packet: bytes) -> bool:
        """Only media do (trap P35). RTCP goes on whatever the direction is (RFC 3264 section 5.1), and so do
        the checks without which an end has to stop sending (RFC 7675 section 5.1): known here by sight."""
        if self.leg.transport is not Transport.UDP:
            return True
        return not is_stun(packet) and not (self.muxed and is_rtcp(packet, 0, True))

    # -- what is learnt ---------------------------------------------------------------

    def hear(self) -> None:
        """Media; of a leg that is gone none count."""
        if self.sockets is None:
            return
        self.heard = self._plane.loop.time()
        if not self._flowing:
            self._media()

    def _media(self) -> None:
        """Media have come, for the first time or after they had been missed."""
        self._flowing = True
        if self._timer is None and self._timed:
            self._time()
        if not self.seen:
            self.seen = True
            self._tell(Event.MEDIA_FIRST, "")

    def _watch(self, inactivity: float) -> None:
        """Watch for so many seconds of silence from now on, unless that is done already; 0: do not watch."""
        if inactivity == self._timed:
            return
        self._timed = inactivity
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if inactivity:
            self._time()

    def _time(self) -> None:
        self._timed_since = self._plane.loop.time()
        self._timer = self._plane.loop.call_later(self._timed, self._check_silence)

    def _check_silence(self) -> None:
        left = max(self.heard, self._timed_since) + self._timed - self._plane.loop.time()
        if left > 0:
            self._timer = self._plane.loop.call_later(left, self._check_silence)
        else:
            self._timer = None
            self._flowing = False
            self._tell(Event.MEDIA_INACTIVE, f"no media for {self._timed:g} s")

    def _failed(self, failure: Failure) -> None:
        if failure not in (Failure.AUTH_FAILED, Failure.WRONG_MKI):
            return
        now = self._plane.loop.time()
        if now - self._failed_since >= SRTP_FAILURE_PERIOD:
            self._failed_since = now
            self._failures = 0
        self._failures += 1
        if self._failures == self._plane.srtp_failures + 1:
            self._tell(Event.SRTP_FAILURES, f"{self._failures} packets, the last: {failure.value}")

    def _tell(self, event: Event, detail: str) -> None:
        self._plane.events(self.leg.id, event, detail)

    def _close_sockets(self) -> None:
        for sock in self.sockets or ():
            self._plane.loop.remove_reader(sock)
            self._plane.own.pop(sock.getsockname()[:2], None)
            sock.close()
        self.sockets = None
