"""The H.248 model as values: contexts join terminations, terminations have streams; and what must hold.

Everything here is frozen. A command makes a new Context from the old one, which is either taken as a whole or
forgotten, so nothing has to be undone. What a peer may ask for is checked here; ports are handed in.

Choices where TS 23.334 leaves them open:
- A protected stream has both keys, or its DTLS role, before its mode is anything but inactive.
- Several remote keys are told apart by MKIs, all of the same length and suite; our own packets carry no MKI.
- Nothing is ever sent to an unspecified, multicast or broadcast address: hold is a mode, not an address.
"""

from __future__ import annotations

import ipaddress
import math
import string
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from msgspec import Struct

from agw.certificate import Certificate
from agw.errors import CommandError
from agw.iq.messages import (
    MAX_STREAMS,
    MAX_TERMINATIONS,
    Address,
    Dtls,
    ErrorCode,
    Fingerprint,
    Ice,
    Key,
    LocalStream,
    Mode,
    Stream,
    Transport,
)
from agw.iq.wire import valid_name

MAX_STREAM_ID = 65535
MAX_REMOTE_KEYS = 16
MAX_MKI = 128  # bytes, RFC 4568 section 6.1
MAX_INACTIVITY = 86400.0  # seconds
MAX_FINGERPRINTS = 16

# Bytes of a digest; MD2 and MD5 prove nothing (RFC 8122 section 5).
_DIGEST_LENGTH = {"sha-1": 20, "sha-224": 28, "sha-256": 32, "sha-384": 48, "sha-512": 64}
_ICE_CHARS = frozenset(string.ascii_letters + string.digits + "+/")  # RFC 8839 section 5.4


class PortPair(NamedTuple):
    realm: str
    host: str
    port: int  # the even one


class Termination(Struct, frozen=True):
    """One side of a context. host: our address, one for all streams. ports: stream id -> the even port, with
    RTCP on the next one; it has the same keys as `streams`. certificate: ours, for all streams with DTLS."""

    name: str
    realm: str
    host: str
    ip6: bool
    streams: Mapping[int, Stream]
    ports: Mapping[int, int]
    certificate: Certificate

    def local(self, id: int) -> LocalStream:
        port = self.ports[id]
        fingerprint = Fingerprint("sha-256", self.certificate.sha256) if self.streams[id].dtls else None
        return LocalStream(id, Address(self.host, port), Address(self.host, port + 1), fingerprint)

    def locals(self) -> tuple[LocalStream, ...]:
        return tuple(self.local(id) for id in self.streams)


class Context(Struct, frozen=True):
    """owner: the controller that made it. terminations: in the order in which they were made."""

    name: str
    owner: str
    terminations: Mapping[str, Termination]

    def ports(self) -> set[PortPair]:
        return {
            PortPair(termination.realm, termination.host, port)
            for termination in self.terminations.values()
            for port in termination.ports.values()
        }

    def connected(self, stream: int) -> tuple[str, str] | None:
        """The two terminations that this stream joins, in order; None if there are no two.

        Two are joined whatever their modes. Of three and more (an early dialog each), and of two that do not
        fit (two early dialogs that have offered), it is the first two whose mode is not inactive: what a late
        branch sends is not heard, RTCP included.
        """
        having = [(name, t.streams[stream]) for name, t in self.terminations.items() if stream in t.streams]
        if len(having) > 2 or (len(having) == 2 and _misfit(having[0][1], having[1][1])):
            having = [(name, each) for name, each in having if each.mode is not Mode.INACTIVE]
        return (having[0][0], having[1][0]) if len(having) >= 2 else None


def check_streams(streams: Sequence[Stream], *, ip6: bool) -> None:
    """What must hold for each stream of a command. Raises CommandError."""
    if len(streams) > MAX_STREAMS:
        raise CommandError(ErrorCode.OVERLOAD, f"more than {MAX_STREAMS} streams")
    seen: set[int] = set()
    for stream in streams:
        try:
            _check_stream(stream, ip6)
        except ValueError as error:
            raise CommandError(ErrorCode.INVALID, f"stream {stream.id}: {error}") from None
        if stream.id in seen:
            raise CommandError(ErrorCode.INVALID, f"stream {stream.id} is given twice")
        seen.add(stream.id)


def check_context(context: Context) -> None:
    """What must hold when a request is done. Raises CommandError."""
    if len(context.terminations) > MAX_TERMINATIONS:
        raise CommandError(ErrorCode.OVERLOAD, f"more than {MAX_TERMINATIONS} terminations")
    for termination in context.terminations.values():
        if not termination.streams:
            raise CommandError(ErrorCode.INVALID, f"termination {termination.name} is left without a stream")
        if len(termination.streams) > MAX_STREAMS:
            raise CommandError(ErrorCode.OVERLOAD, f"more than {MAX_STREAMS} streams in {termination.name}")
    for id in {id for termination in context.terminations.values() for id in termination.streams}:
        joined = [context.terminations[name].streams[id] for name in context.connected(id) or ()]
        if joined and (text := _misfit(*joined)):
            raise CommandError(ErrorCode.UNSUPPORTED, f"stream {id}: {text}")


def _misfit(one: Stream, other: Stream) -> str:
    """Why these two cannot be joined; "" if they can."""
    if one.transport.is_transparent != other.transport.is_transparent:
        return "a transparent side cannot be joined with RTP"
    for this, that in ((one, other), (other, one)):
        if this.transport is Transport.UDP and this.latch and that.transport is Transport.DTLS:
            return "the side without DTLS cannot latch"  # its packets do not pass the Plane
    return ""


def _check_stream(stream: Stream, ip6: bool) -> None:
    if not 0 <= stream.id <= MAX_STREAM_ID:
        raise ValueError("its id is out of range")
    for address in (stream.remote, stream.remote_rtcp):
        if address is not None:
            _check_remote(address, ip6)
    if stream.latch_from is not None:
        _check_remote(Address(stream.latch_from, 1), ip6)
    if stream.remote is None and stream.remote_rtcp is not None:
        raise ValueError("remote_rtcp without remote")
    if not (math.isfinite(stream.inactivity) and 0.0 <= stream.inactivity <= MAX_INACTIVITY):
        raise ValueError("inactivity is out of range")
    _check_dtls(stream)
    if stream.ice is not None:
        _check_ice(stream.ice, stream)
    keys = stream.remote_keys if stream.local_key is None else (stream.local_key, *stream.remote_keys)
    if stream.transport is not Transport.SRTP:
        if keys:
            raise ValueError(f"keys on {stream.transport.value}")
        return
    for key in keys:
        _check_key(key)
    if stream.local_key is not None and stream.local_key.mki:
        raise ValueError("an MKI in local_key")
    if len(stream.remote_keys) > 1:
        _check_several(stream.remote_keys)
    if stream.mode is not Mode.INACTIVE and (stream.local_key is None or not stream.remote_keys):
        raise ValueError(f"mode {stream.mode.value} before both keys are known")


def _check_dtls(stream: Stream) -> None:
    if stream.dtls is None:
        if stream.transport.has_dtls:
            raise ValueError(f"{stream.transport.value} without dtls")
        return
    if not stream.transport.has_dtls:
        raise ValueError(f"dtls on {stream.transport.value}")
    if not valid_name(stream.dtls.association):
        raise ValueError("no name for an association")
    _check_fingerprints(stream.dtls)
    if stream.mode is not Mode.INACTIVE and stream.dtls.role is None:
        raise ValueError(f"mode {stream.mode.value} before the DTLS role is known")


def _check_fingerprints(dtls: Dtls) -> None:
    if dtls.role is not None and not dtls.fingerprints:
        raise ValueError("a DTLS role without fingerprints")
    if len(dtls.fingerprints) > MAX_FINGERPRINTS:
        raise ValueError(f"more than {MAX_FINGERPRINTS} fingerprints")
    if len({fingerprint.hash for fingerprint in dtls.fingerprints}) > 1:
        raise ValueError("fingerprints of several hash functions")
    for fingerprint in dtls.fingerprints:
        if fingerprint.hash not in _DIGEST_LENGTH:
            raise ValueError(f"a fingerprint by {fingerprint.hash[:32]!r}")
        if len(fingerprint.digest) != _DIGEST_LENGTH[fingerprint.hash]:
            raise ValueError(f"a {fingerprint.hash} fingerprint of {len(fingerprint.digest)} bytes")


def _check_ice(ice: Ice, stream: Stream) -> None:
    if stream.transport is Transport.UDP:
        raise ValueError("ice on a transparent stream")
    if stream.latch:
        raise ValueError("ice and latch: checks tell where the peer is")
    _check_ice_text("ufrag", ice.ufrag, 4)
    _check_ice_text("pwd", ice.pwd, 22)
    if ice.remote_ufrag:
        _check_ice_text("ufrag", ice.remote_ufrag, 4)


def _check_ice_text(what: str, text: str, shortest: int) -> None:
    if not shortest <= len(text) <= 256 or not {*text} <= _ICE_CHARS:
        raise ValueError(f"an ICE {what} that is none")


def _check_remote(address: Address, ip6: bool) -> None:
    _check_host(address.host, ip6)
    if not 0 < address.port < 65536:
        raise ValueError("a remote port out of range")


@lru_cache(maxsize=1024)
def _check_host(text: str, ip6: bool) -> None:
    try:
        host = ipaddress.ip_address(text)
    except ValueError:
        raise ValueError("a remote host that is not numeric") from None
    if host.version != (6 if ip6 else 4):
        raise ValueError(f"an IPv{host.version} remote on the other family")
    if isinstance(host, ipaddress.IPv6Address) and (host.scope_id or host.ipv4_mapped):
        raise ValueError("a scoped or IPv4-mapped remote")
    if host.is_unspecified or host.is_multicast or host == _BROADCAST:
        raise ValueError("an unspecified, multicast or broadcast remote")


_BROADCAST = ipaddress.IPv4Address("255.255.255.255")


def _check_key(key: Key) -> None:
    if len(key.material) != key.suite.material_length:
        raise ValueError(
            f"a key of {len(key.material)} bytes; {key.suite.value} has {key.suite.material_length}"
        )
    if len(key.mki) > MAX_MKI:
        raise ValueError(f"an MKI of more than {MAX_MKI} bytes")


def _check_several(keys: tuple[Key, ...]) -> None:
    if len(keys) > MAX_REMOTE_KEYS:
        raise ValueError(f"more than {MAX_REMOTE_KEYS} remote keys")
    if not keys[0].mki or len({len(key.mki) for key in keys}) != 1:
        raise ValueError("several remote keys without MKIs of one length")
    if len({key.mki for key in keys}) != len(keys):
        raise ValueError("two remote keys with one MKI")
    if len({key.suite for key in keys}) != 1:
        raise ValueError("remote keys of several suites")
