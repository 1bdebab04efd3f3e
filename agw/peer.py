"""The far end of one leg, as its STUN and DTLS tell: where it is, and the keys agreed with it (no IO).

A leg has two ports. With rtcp_mux all is on the first; without, RTCP has an ICE component and a DTLS
association of its own on the second (RFC 5764 section 4.1, RFC 8445 section 13.1).

An association is named by signalling. Another name makes another association, and the one that stands goes
on until the handshake of the new one has succeeded; if it fails, nothing has changed (trap P02). Both hear
what comes then: the new one all of it, the standing one no records of epoch 0, and each sees which are under
its keys. While a new one is announced and our role in it not known, its packets are kept and heard later
(trap P06).

Where a DTLS packet may come from: with ICE from where a check came from, without from anywhere, but a server
speaks with one source at a time, which has shown that it is there. Whoever scans our ports can do that too:
such a handshake gives way to one from the host that is signalled, its failure is nobody's, and there are not
many of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from agw import dtls, ice
from agw.certificate import Certificate
from agw.dtls import Association, State
from agw.flows import Keys, Learnt, canonical_host, remotes
from agw.iq.messages import Address, DtlsRole, Event, Key, Stream, Suite, Transport
from agw.records import record_number, records

MAX_STRANGERS = 8  # handshakes of one association in vain, until only the hosts that are signalled are heard
MAX_KEPT = 4  # packets, the last ones: a ClientHello fills two, and is repeated


@dataclass(frozen=True, slots=True)
class Told:
    """For the controller."""

    event: Event
    detail: str


@dataclass(frozen=True, slots=True)
class Data:
    """What a record held (Transport.DTLS)."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Packet:
    """To be sent from the leg's port of RTP, channel 0, or RTCP, 1."""

    channel: int
    target: Address
    data: bytes


class Peer:
    """signal() what is signalled; receive(), send(), expire() at timeout(); then next() until it is None.

    certificate: ours. secret: 32 bytes for cookies. learnt: what is known of the peer by now.
    """

    def __init__(self, certificate: Certificate, secret: bytes) -> None:
        self._out: deque[Packet | Told | Data] = deque()
        self._ports = tuple(_Port(n, certificate, secret, self._out) for n in range(2))

    def signal(self, stream: Stream, now: float) -> None:
        for port in self._ports:
            port.signal(stream, now)

    def receive(self, channel: int, source: Address, data: bytes, now: float) -> None:
        self._ports[channel].receive(source, data, now)

    def send(self, data: bytes) -> None:
        """In a record, if an association stands."""
        self._ports[0].send(data)

    def close(self) -> None:
        """Says close_notify; nothing is to be asked of it but next()."""
        for port in self._ports:
            port.close()

    def expire(self, now: float) -> None:
        for port in self._ports:
            port.expire(now)

    def timeout(self) -> float | None:
        return min((at for port in self._ports for at in port.timeouts()), default=None)

    def next(self) -> Packet | Told | Data | None:
        return self._out.popleft() if self._out else None

    @property
    def learnt(self) -> Learnt:
        rtp, rtcp = self._ports
        return Learnt((rtp.remote, rtcp.remote), (rtp.keys, rtcp.keys))


class _Port:
    """remote: where the peer was found, None: nowhere yet. keys: of the association that stands."""

    def __init__(
        self, channel: int, certificate: Certificate, secret: bytes, out: deque[Packet | Told | Data]
    ) -> None:
        self._channel = channel
        self._certificate = certificate
        self._secret = secret
        self._out = out
        self._stream: Stream | None = None
        self._signalled: Address | None = None
        self._found: Address | None = None  # by DTLS
        self._agent: ice.Agent | None = None
        self._standing: _Named | None = None
        self._pending: _Named | None = None
        self._kept: deque[tuple[Address, bytes]] = deque(maxlen=MAX_KEPT)
        self._strangers = 0  # whose handshakes have failed, while there is a pending association
        self.keys = Keys()

    @property
    def remote(self) -> Address | None:
        if self._agent is not None:
            return Address(*self._agent.selected) if self._agent.selected else None
        return self._found

    def signal(self, stream: Stream, now: float) -> None:
        self._stream = stream
        used = self._channel == 0 or not stream.rtcp_mux
        signalled = remotes(stream)[self._channel]
        if signalled != self._signalled:
            self._signalled, self._found = signalled, None
        self._signal_ice(stream if used else None)
        self._signal_dtls(stream if used else None, now)
        self._start(now)

    def receive(self, source: Address, data: bytes, now: float) -> None:
        if not data:
            return
        if data[0] <= 3:
            if self._agent is not None:
                answer = self._agent.receive(data, (source.host, source.port), now)
                if answer is not None:
                    self._out.append(Packet(self._channel, source, answer))
                self._start(now)
        elif 20 <= data[0] <= 63:  # RFC 7983 section 7
            self._receive_dtls(source, data, now)

    def send(self, data: bytes) -> None:
        if self._standing is not None and (target := self._target(self._standing)) is not None:
            self._standing.association.send(data)
            self._drain(self._standing, target)

    def close(self) -> None:
        if self._standing is not None:
            self._standing.association.close()
            self._drain(self._standing, self._target(self._standing))

    def expire(self, now: float) -> None:
        if self._agent is not None and self._agent.expire(now) and self._channel == 0:
            self._out.append(Told(Event.CONSENT_LOST, f"no connectivity check for {ice.CONSENT:g} s"))
        if self._pending is not None:
            self._pending.association.expire(now)
            self._drain(self._pending, self._target(self._pending))

    def timeouts(self) -> Iterator[float]:
        if self._agent is not None and (at := self._agent.timeout()) is not None:
            yield at
        if self._pending is not None and (at := self._pending.association.timeout()) is not None:
            yield at

    # -- what is signalled ---------------------------------------------------------------------------------

    def _signal_ice(self, stream: Stream | None) -> None:
        if stream is None or stream.ice is None:
            self._agent = None
            return
        credentials = ice.Credentials(stream.ice.ufrag, stream.ice.pwd, stream.ice.remote_ufrag)
        if self._agent is None:
            self._agent = ice.Agent(credentials)
        else:
            self._agent.signal(credentials)

    def _signal_dtls(self, stream: Stream | None, now: float) -> None:
        if stream is None or stream.dtls is None:
            self._standing = self._pending = None
            self.keys = Keys()
            self._kept.clear()
        elif self._standing is not None and self._standing.name == stream.dtls.association:
            self._pending = None
            self._kept.clear()
        elif self._pending is not None and self._pending.name == stream.dtls.association:
            pass
        elif stream.dtls.role is None:
            self._pending = None
        else:
            self._pending = self._new(stream)
            self._strangers = 0
            kept = [*self._kept]
            self._kept.clear()
            for source, data in kept:
                self._receive_dtls(source, data, now)

    def _new(self, stream: Stream) -> _Named:
        assert stream.dtls is not None
        client = stream.dtls.role is DtlsRole.CLIENT
        fingerprints = [(each.hash, each.digest) for each in stream.dtls.fingerprints]
        srtp = stream.transport is Transport.DTLS_SRTP
        association = Association(self._certificate, client, fingerprints, srtp, self._secret)
        return _Named(stream.dtls.association, client, association)

    def _start(self, now: float) -> None:
        """A client begins when it is known where the peer is, and follows it."""
        new = self._pending
        if new is None or not new.client:
            return
        if self._agent is None and self._signalled is not None:
            new.source = self._signalled
        if new.association.state is State.WAITING and (target := self._target(new)) is not None:
            new.association.start(now)
            self._drain(new, target)

    # -- DTLS ------------------------------------------------------------------------------------------------

    def _may_speak(self, source: Address) -> bool:
        return self._agent is None or self._agent.verified((source.host, source.port))

    def _receive_dtls(self, source: Address, data: bytes, now: float) -> None:
        stream = self._stream
        if stream is None or stream.dtls is None:
            return
        heard = self._may_speak(source)
        if (standing := self._standing) is not None and heard:
            standing.association.receive(data, None if self._agent else _octets(source), now)
            if self._drain(standing, source) and stream.latch:
                # A record in it was authentic; whoever caught that may have put another beside it.
                number = min(map(record_number, records(data)), default=0)
                if number > standing.newest:  # RFC 9146 section 6
                    standing.newest, self._found = number, source
        if (new := self._pending) is not None and heard:
            self._receive_new(new, source, data, now)
        elif stream.dtls.role is None and not (standing and standing.name == stream.dtls.association):
            self._kept.append((source, data))  # whoever it is from: the answer may come without ICE

    def _receive_new(self, new: _Named, source: Address, data: bytes, now: float) -> None:
        if self._agent is not None:
            new.source = source
            new.association.receive(data, None, now)
            self._drain(new, self._target(new))
            return
        if self._strangers == MAX_STRANGERS and not self._is_expected(source):
            return
        if new.source not in (None, source):
            if new.client or self._is_expected(new.source) or not self._is_expected(source):
                return
            assert self._stream is not None
            other = self._new(self._stream)  # a stranger was quicker, and has to wait
            other.association.receive(data, _octets(source), now)
            if other.association.state is State.WAITING:
                self._drain(other, source)
                return
            self._pending = new = other
        else:
            new.association.receive(data, None if new.source else _octets(source), now)
        if new.association.state is not State.WAITING:
            new.source = source
        self._drain(new, source)

    def _is_expected(self, source: Address | None) -> bool:
        """Whether it is a host that signalling speaks of; if it speaks of none, any is."""
        assert self._stream is not None
        hosts = [canonical_host(self._stream.latch_from)] if self._stream.latch_from else []
        hosts += [self._signalled.host] if self._signalled else []
        return source is None or not hosts or source.host in hosts

    def _target(self, named: _Named) -> Address | None:
        if self._agent is not None:
            return self.remote or named.source  # both are verified
        return (self._found or self._signalled) if named is self._standing else named.source

    def _drain(self, named: _Named, target: Address | None) -> bool:
        """What it has to send, to `target`, and to tell; true if it has told anything."""
        for data in named.association.to_send():
            if target is not None:
                self._out.append(Packet(self._channel, target, data))
        told = False
        while (event := named.association.next_event()) is not None:
            told = True
            match event:
                case dtls.Established():
                    self._establish(named, event)
                case dtls.Data(data):
                    self._out.append(Data(data))
                case dtls.Failed():
                    self._fail(named, event)
                case dtls.Closed():
                    self.keys = Keys()
        return told

    def _establish(self, named: _Named, event: dtls.Established) -> None:
        self._standing, self._pending = named, None
        self._found = named.source
        if event.profile:
            suite = _SUITES[event.profile]
            self.keys = Keys(Key(suite, event.local), (Key(suite, event.remote),))
        detail = f"{self._of} {event.version} {event.cipher} {event.profile}"
        self._out.append(Told(Event.DTLS_ESTABLISHED, detail.strip()))

    def _fail(self, named: _Named, event: dtls.Failed) -> None:
        standing = self._standing
        if named is standing:
            self.keys = Keys()
        elif not named.client and self._agent is None and not self._is_expected(named.source):
            assert self._stream is not None
            self._pending = self._new(self._stream)  # the peer may still come
            self._strangers += 1
            return
        if self._channel == 0 or event.impostor:  # many a peer sends no RTCP, and does nothing for it
            stands = standing is not None and standing.association.state is State.ESTABLISHED
            what = Event.DTLS_KEPT if stands else Event.DTLS_FAILED
            self._out.append(Told(what, f"{self._of} {event.reason}"))

    @property
    def _of(self) -> str:
        return "RTCP:" if self._channel else "RTP:"


@dataclass(slots=True)
class _Named:
    """source: with whom, where ICE does not say it. newest: the record by which it was told last."""

    name: str
    client: bool
    association: Association
    source: Address | None = None
    newest: int = 0


def _octets(source: Address) -> bytes:
    return f"{source.host} {source.port}".encode()


_SUITES = {
    "SRTP_AEAD_AES_256_GCM": Suite.AEAD_AES_256_GCM,
    "SRTP_AEAD_AES_128_GCM": Suite.AEAD_AES_128_GCM,
    "SRTP_AES128_CM_SHA1_80": Suite.AES_CM_128_HMAC_SHA1_80,
}
