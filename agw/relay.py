"""The native Plane: the packet loop of `agw.native`, driven from the event loop.

Python sees no media here. It opens the sockets, makes the keys and holds both; the loop's threads are lent
them in `apply`, which comes back when the change is in force, and what is not lent any more is closed and
wiped. What a leg does and counts is as `agw.pyrelay` says, but that packets of the slow path wait in the
loop's queue, and what finds no room there is dropped as "slow_path_full".

The legs of one context are on one thread, so that no packet changes threads: legs of different contexts
cannot be connected.
"""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

from agw.errors import UsageError
from agw.flows import Difference, Keys, Leg, LegId, OpenError, SlowPath
from agw.iq.messages import Address, Event, Key, StreamStatistics, Suite, Transport
from agw.latch import Sockaddr
from agw.native import check
from agw.native._relay import ffi, lib
from agw.sockets import Sockets, close_all, latch_from, log_latched, open_all, send, sockaddr

check(ffi.string(lib.relay_built_from()).decode() if hasattr(lib, "relay_built_from") else "")

_NOTICES_AT_ONCE = 64  # then the event loop has its turn


class NativePlane:
    """A `agw.flows.Plane`; made and used on the thread of a running event loop.

    srtp_failures: failed authentications on one leg within a minute, above which SRTP_FAILURES is told.
    cores: the processors that have a thread each; none: one thread, on any.
    coalesce: seconds a packet may wait at most so that one wake-up finds several.
    apply raises UsageError, and has done nothing, for an address that is not numeric or not of the family of
    the leg's own, for keys that `agw.srtp` does not take, and for a peer in another context.
    """

    def __init__(self, srtp_failures: int = 100, cores: Sequence[int] = (), coalesce: float = 0.0) -> None:
        self.events: Callable[[LegId, Event, str], None] = lambda id, event, detail: None
        self.packets: Callable[[LegId, int, Address, bytes], None] = lambda id, channel, source, data: None
        self._loop = asyncio.get_running_loop()
        self._legs: dict[LegId, _Standing] = {}
        self._names: dict[int, _Standing] = {}
        self._next_name = itertools.count(1)
        self._load = [0] * max(1, len(cores))  # legs of each thread
        self._threads: dict[str, int] = {}  # of each context
        self._in_context: Counter[str] = Counter()  # legs
        settings = ffi.new(
            "struct relay_settings *",
            {
                "workers": len(self._load),
                "cores": list(cores) or [-1],
                "coalesce": _ns(coalesce),
                "srtp_failures": srtp_failures,
            },
        )
        self._relay = lib.relay_open(settings)
        if not self._relay:
            raise OSError(ffi.errno, os.strerror(ffi.errno))
        self._notice = ffi.new("struct relay_notice *")
        self._packet = ffi.new("uint8_t[]", lib.SRTP_MAX_PACKET)
        self._descriptor = lib.relay_descriptor(self._relay)
        self._loop.add_reader(self._descriptor, self._listen)

    def apply(self, difference: Difference) -> dict[LegId, StreamStatistics]:
        prepared = [(leg, _prepare(leg, self._legs.get(leg.id))) for leg in difference.wanted]
        opened = open_all(difference.wanted, self._has_sockets)
        wanted = {leg.id: leg for leg in difference.wanted}
        new = [id for id in wanted if id not in self._legs]
        for id in new:
            self._add(id)

        def peer_of(leg: Leg) -> Any:
            """Its handle, if the two are each other's."""
            if leg.peer is None or leg.peer in difference.removed or leg.peer not in self._legs:
                return ffi.NULL
            peer = self._legs[leg.peer]
            return peer.handle if (wanted.get(leg.peer) or peer.leg).peer == leg.id else ffi.NULL

        changes = ffi.new("struct relay_change[]", len(difference.removed) + len(prepared))
        unfilled = iter(changes)
        for id, change in zip(difference.removed, unfilled, strict=False):
            change.leg, change.removed = self._legs[id].handle, True
        for (leg, means), change in zip(prepared, unfilled, strict=True):
            change.leg, change.peer = self._legs[leg.id].handle, peer_of(leg)
            _fill(change, leg, means, opened.get(leg.id))
        failed = lib.relay_apply(self._relay, changes, len(changes))
        if failed >= 0:
            text = os.strerror(ffi.errno)
            close_all(opened.values())
            for id in new:
                self._take_out(id)
            raise OpenError((prepared[failed - len(difference.removed)][0].id,), text)

        for leg, means in prepared:
            self._legs[leg.id].become(leg, means, opened.get(leg.id))
        return {id: self._take_out(id).end() for id in difference.removed}

    def send(self, id: LegId, channel: int, target: Address, data: bytes) -> bool:
        standing = self._legs[id]
        return send(standing.sockets, channel, target, data, standing.leg)

    def hear(self, id: LegId) -> None:
        lib.relay_hear(self._legs[id].handle)

    def statistics(self, id: LegId) -> StreamStatistics:
        return self._legs[id].statistics()

    def idle(self, id: LegId) -> float:
        return float(self._legs[id].count().idle) / 1e9

    def close(self) -> None:
        if not self._relay:
            return
        self.apply(Difference(removed=tuple(self._legs)))
        self._loop.remove_reader(self._descriptor)
        lib.relay_close(self._relay)
        self._relay = ffi.NULL

    # -- inside --

    def _has_sockets(self, leg: Leg) -> bool:
        return leg.id in self._legs and self._legs[leg.id].has_ports_of(leg)

    def _add(self, id: LegId) -> None:
        if id.context not in self._threads:
            self._threads[id.context] = min(range(len(self._load)), key=self._load.__getitem__)
        thread = self._threads[id.context]
        name = next(self._next_name)
        handle = lib.relay_leg_new(self._relay, thread, name)
        if not handle:
            raise MemoryError
        self._load[thread] += 1
        self._in_context[id.context] += 1
        self._legs[id] = self._names[name] = _Standing(name, ffi.gc(handle, lib.relay_leg_free))

    def _take_out(self, id: LegId) -> _Standing:
        standing = self._legs.pop(id)
        del self._names[standing.name]
        self._load[self._threads[id.context]] -= 1
        self._in_context[id.context] -= 1
        if not self._in_context[id.context]:
            del self._in_context[id.context], self._threads[id.context]
        return standing

    def _listen(self) -> None:
        for _ in range(_NOTICES_AT_ONCE):
            if not self._relay or not lib.relay_read(self._relay, self._notice, self._packet):
                break
            standing = self._names.get(self._notice.leg)  # none: the leg has gone since
            if standing is not None:
                self._hear(standing, self._notice)

    def _hear(self, standing: _Standing, notice: Any) -> None:
        id = standing.leg.id
        match notice.kind:
            case lib.RELAY_PACKET:
                data = bytes(ffi.buffer(self._packet, notice.value))
                self.packets(id, notice.channel, Address(*_address_of(notice)), data)
            case lib.RELAY_MEDIA_FIRST:
                self.events(id, Event.MEDIA_FIRST, "")
            case lib.RELAY_MEDIA_INACTIVE:
                self.events(id, Event.MEDIA_INACTIVE, f"no media for {standing.leg.inactivity:g} s")
            case lib.RELAY_SRTP_FAILURES:
                last = _OUTCOMES[notice.outcome]
                self.events(id, Event.SRTP_FAILURES, f"{notice.value} packets, the last: {last}")
            case lib.RELAY_REKEYED:
                standing.forget_old_keys()
            case lib.RELAY_LATCHED:
                log_latched(id, bool(notice.channel), *_address_of(notice))
            case lib.RELAY_BROKEN:
                if standing.lose_sockets():
                    self.events(id, Event.CONTEXT_LOST, os.strerror(notice.value))


class _KeySet(NamedTuple):
    """Keys that are in force together, and what the loop is shown of them."""

    keys: tuple[Key, ...]
    handles: dict[Key, Any]
    shown: Any


class _Keying(NamedTuple):
    """What protects RTP or RTCP, or both."""

    local: Key | None = None
    protector: Any = ffi.NULL  # handle of `local`, NULL if there is none
    current: _KeySet | None = None
    previous: _KeySet | None = None


class _Means(NamedTuple):
    """What a leg needs and what can be wrong with it, made before anything is changed. Pairs: RTP, RTCP."""

    remotes: tuple[Sockaddr | None, Sockaddr | None] = (None, None)
    latch_from: Sockaddr | None = None
    keyings: tuple[_Keying, _Keying] = (_Keying(), _Keying())


@dataclass(slots=True)
class _Standing:
    """A leg as it stands: what the loop has been lent for it. It outlives the loan."""

    name: int
    handle: Any
    leg: Leg = field(init=False)
    sockets: Sockets | None = None
    means: _Means = field(default=_Means(), repr=False)

    def become(self, leg: Leg, means: _Means, sockets: Sockets | None) -> None:
        self.leg, self.means = leg, means
        if sockets is not None:
            self.close()
            self.sockets = sockets

    def has_ports_of(self, leg: Leg) -> bool:
        here = (self.leg.local_rtp, self.leg.local_rtcp)
        return (
            self.sockets is not None and not self.count().broken and here == (leg.local_rtp, leg.local_rtcp)
        )

    def count(self) -> Any:
        counts = ffi.new("struct relay_counts *")
        lib.relay_count(self.handle, counts)
        return counts

    def statistics(self) -> StreamStatistics:
        counts = self.count()
        outcomes = ffi.unpack(counts.outcomes, lib.RELAY_OUTCOMES)
        return StreamStatistics(
            id=self.leg.id.stream,
            received=counts.received,
            sent=counts.sent,
            received_octets=counts.received_octets,
            sent_octets=counts.sent_octets,
            dropped={_OUTCOMES[n]: outcomes[n] for n in _DROPS if outcomes[n]},
            slow_path=outcomes[lib.RELAY_SLOW_PATH],
        )

    def rekeying(self) -> list[bool]:
        """Of RTP, of RTCP: whether the previous keys are still taken."""
        counts = self.count()  # `counts.rekeying` is memory of it, and does not keep it
        return [bool(each) for each in counts.rekeying]

    def forget_old_keys(self) -> None:
        rtp, rtcp = (
            keying if rekeying else keying._replace(previous=None)
            for keying, rekeying in zip(self.means.keyings, self.rekeying(), strict=True)
        )
        self.means = self.means._replace(keyings=(rtp, rtcp))

    def lose_sockets(self) -> bool:
        """False: it has others by now."""
        if not self.count().broken:
            return False
        self.close()
        return True

    def close(self) -> None:
        if self.sockets is not None:
            close_all([self.sockets])
            self.sockets = None

    def end(self) -> StreamStatistics:
        """It has been removed; what it has counted."""
        self.close()
        return self.statistics()


def _prepare(leg: Leg, standing: _Standing | None) -> _Means:
    remotes = (sockaddr(leg.remote, leg), sockaddr(leg.remote_rtcp, leg))
    if leg.peer is not None and leg.peer.context != leg.id.context:
        raise UsageError("the peer leg is in another context")
    if leg.transport is not Transport.SRTP:
        return _Means(remotes, latch_from(leg))
    before = standing.means.keyings if standing else (_Keying(), _Keying())
    rekeying = standing.rekeying() if standing else [False, False]
    keying = rtcp_keying = _keying(Keys(leg.local_key, leg.remote_keys), before[0], rekeying[0])
    if leg.rtcp_keys is not None:
        rtcp_keying = _keying(leg.rtcp_keys, before[1], rekeying[1])
    return _Means(remotes, latch_from(leg), (keying, rtcp_keying))


def _keying(keys: Keys, before: _Keying, rekeying: bool) -> _Keying:
    protector = ffi.NULL
    if keys.local is not None:
        protector = before.protector if keys.local == before.local else _key(keys.local, sends=True)
    current, previous = before.current, before.previous
    if not keys.remote:
        current = previous = None
    elif current is None:
        current, previous = _key_set(keys.remote, {}), None
    elif current.keys != keys.remote:
        if not rekeying:
            previous = None
        kept = {**(previous.handles if previous else {}), **current.handles}
        current, previous = _key_set(keys.remote, kept), previous or current
    return _Keying(keys.local, protector, current, previous)


def _key_set(keys: tuple[Key, ...], kept: dict[Key, Any]) -> _KeySet:
    mkis = {key.mki for key in keys}
    alike = len({(key.suite, len(key.mki)) for key in keys}) == 1
    if not alike or len(mkis) != len(keys) or len(keys) > lib.SRTP_MAX_KEYS:
        raise UsageError("the keys of one direction have one suite, and different MKIs of one length")
    handles = {key: kept.get(key) or _key(key, sends=False) for key in keys}
    shown = ffi.new("struct srtp_keys *", {"count": len(keys), "keys": list(handles.values())})
    return _KeySet(keys, handles, shown)


def _key(key: Key, *, sends: bool) -> Any:
    suite = getattr(lib, f"SRTP_{key.suite.name}")
    if len(key.material) != key.suite.material_length:
        raise UsageError(f"a key of {key.suite.value} has {key.suite.material_length} bytes")
    handle = lib.srtp_key_new(suite, key.material, len(key.material), key.mki, len(key.mki), sends)
    if not handle:
        raise UsageError(f"no key of {key.suite.value} can be made of it")
    return ffi.gc(handle, lib.srtp_key_free)


def _fill(change: Any, leg: Leg, means: _Means, sockets: Sockets | None) -> None:
    """A struct relay_change, but for whose it is."""
    change.sockets = (sockets[0].fileno(), sockets[1].fileno()) if sockets else (-1, -1)
    change.transport = _TRANSPORTS[leg.transport]
    change.rtcp_mux = leg.rtcp_mux
    change.receives = leg.mode.receives
    change.sends = leg.mode.sends
    change.latch = leg.latch
    change.latch_from = _address(means.latch_from)
    change.source_filter = leg.source_filter
    change.slow_path = _SLOW_PATHS[leg.slow_path]
    change.inactivity = _ns(leg.inactivity) if leg.mode.receives else 0
    rtp, rtcp = means.remotes
    change.remotes = (_address(rtp), _address(rtcp))
    one, other = means.keyings
    change.sends_with = (one.protector, other.protector)
    change.receives_with = (_shown(one.current), _shown(other.current))
    change.received_with = (_shown(one.previous), _shown(other.previous))


def _shown(keys: _KeySet | None) -> Any:
    return keys.shown if keys else ffi.NULL


def _address(remote: Sockaddr | None) -> tuple[int, bytes, int]:
    """A struct relay_address."""
    if remote is None:
        return 0, b"", 0
    version, host = _packed(remote[0].partition("%")[0])
    return version, host, remote[1]


@lru_cache(maxsize=1024)
def _packed(text: str) -> tuple[int, bytes]:
    """The version of an IP address, and its octets."""
    host = ipaddress.ip_address(text)
    return host.version, host.packed


def _address_of(notice: Any) -> tuple[str, int]:
    address = notice.address
    return _printed(bytes(ffi.buffer(address.host, 16 if address.family == 6 else 4))), address.port


@lru_cache(maxsize=1024)
def _printed(octets: bytes) -> str:
    return str(ipaddress.ip_address(octets))


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)


_TRANSPORTS = {
    Transport.RTP: lib.RELAY_RTP,
    Transport.SRTP: lib.RELAY_SRTP,
    Transport.UDP: lib.RELAY_UDP,
    Transport.DTLS: lib.RELAY_DTLS,
}
_SLOW_PATHS = {
    SlowPath.NONE: lib.RELAY_NO_SLOW_PATH,
    SlowPath.CONTROL: lib.RELAY_SLOW_CONTROL,
    SlowPath.ALL: lib.RELAY_SLOW_ALL,
}
_OUTCOMES = [ffi.string(lib.relay_outcome_name(n)).decode() for n in range(lib.RELAY_OUTCOMES)]
_DROPS = sorted({*range(lib.RELAY_OUTCOMES)} - {lib.RELAY_FORWARDED, lib.RELAY_SLOW_PATH})
assert all(hasattr(lib, f"SRTP_{suite.name}") for suite in Suite)
