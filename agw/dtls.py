"""DTLS 1.2 (RFC 6347) of one association over OpenSSL, without IO but for OpenSSL's own look at the clock.

How it works. OpenSSL reads from and writes to memory. One datagram is put in at a time and all that comes of
it is taken out at once, cut at the borders of records into datagrams of at most MTU bytes: memory keeps no
borders of datagrams, and a flight that is half read is never completed (trap P10).

Who repeats. OpenSSL's timer begins with a second, doubles, and reads the real clock; it is served when it is
due. Over 30 % of loss that alone takes minutes, so each flight is also sent again as it was, sooner: what the
peer has is a replay to it, what it has not completes the flight. A peer that repeats the datagram with which
the handshake was done has missed our last flight, and is sent that again. The limit of the whole is ours.

Who is trusted. The peer's certificate has to match a fingerprint before OpenSSL goes on with the handshake,
and is looked at once more before keys or data leave here (RFC 8122 section 6, trap P09). A server answers a
ClientHello from an unverified source with a cookie and forgets it (RFC 6347 section 4.2.1): a flood of
spoofed ones costs no state. (Browsers' ClientHellos come in fragments; the first has the cookie.) An
established association hears no record of epoch 0 (trap P07): a new handshake needs a new association, which
signalling announces. There is no renegotiation, no resumption and no ticket.

What it may cost. OpenSSL makes room for a handshake message when a fragment announces it, and keeps records
that come under keys which it has not yet. In the clear we see what is announced. Under keys there is one
message only, Finished, of one length: OpenSSL gets a few records of that length, and none of another. After
the handshake it gets them only from where the peer is known to be, so that nobody else uses them up: a peer
that has missed our last flight depends on its own being heard.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum, auto

from OpenSSL import SSL, crypto

from agw.certificate import MTU, PROFILES, Certificate
from agw.records import ALERT, HANDSHAKE, epoch, fits, is_client_hello, may_be_finished, records

HANDSHAKE_LIMIT = 30.0  # seconds from the first flight
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 2.0  # seconds until a flight is sent again; RFC 6347 section 4.2.4.1
MAX_REPEATS = 10  # of the last flight
MAX_DATA = 2048  # bytes in a record, and of a datagram that comes
MAX_FINISHED = 4  # records that may be a Finished, during the handshake and again after it


@dataclass(frozen=True, slots=True)
class Established:
    """The handshake is done and the peer is who it should be. profile: "SRTP_AEAD_AES_256_GCM" …, "" without
    SRTP; local, remote: master key and salt of what we send and of what the peer sends."""

    version: str
    cipher: str
    profile: str
    local: bytes = field(repr=False)
    remote: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Data:
    data: bytes


@dataclass(frozen=True, slots=True)
class Failed:
    """Before or after it was established; nothing follows."""

    reason: str
    impostor: bool = False  # the certificate is not the peer's


@dataclass(frozen=True, slots=True)
class Closed:
    """By the peer's close_notify, which is answered; nothing follows."""


Event = Established | Data | Failed | Closed


class State(Enum):
    WAITING = auto()  # a server that has seen no ClientHello, or none with a cookie; a client before start()
    HANDSHAKE = auto()
    ESTABLISHED = auto()
    ENDED = auto()


class Association:
    """receive(), expire() at timeout(), start() and send() in; then to_send() and next_event() until empty.

    client: our role. fingerprints: the peer's, as (hash, digest) with a hash as in RFC 8122; it needs one.
    srtp: agree on an SRTP profile and export keys, or fail (RFC 5764). secret: for cookies; 32 bytes that
    nobody else knows.
    """

    def __init__(
        self,
        certificate: Certificate,
        client: bool,
        fingerprints: Sequence[tuple[str, bytes]],
        srtp: bool,
        secret: bytes,
    ) -> None:
        self.state = State.WAITING
        self._client = client
        self._fingerprints = frozenset((_DIGESTS[name], digest) for name, digest in fingerprints)
        self._srtp = srtp
        self._secret = secret
        self._connection = certificate.connection(self, srtp)
        self._source = b""  # of the handshake
        self._impostor = False
        self._deadline: float | None = None
        self._retransmit_at: float | None = None  # OpenSSL's
        self._resend_at: float | None = None
        self._pause = FIRST_PAUSE
        self._flight: list[bytes] = []  # the last one of ours
        self._answered = b""  # the datagram that it answers, where that ended the handshake
        self._repeats = 0
        self._finished = 0  # heard
        self._out: deque[bytes] = deque()
        self._events: deque[Event] = deque()

        if client:
            self._connection.set_connect_state()
        else:
            self._connection.set_accept_state()

    def start(self, now: float) -> None:
        """A client's first flight."""
        self._begin(now)

    def receive(self, datagram: bytes, source: bytes | None, now: float) -> None:
        """source: where it came from, in any form, if nobody else has verified that its sender is there; a
        server wants a cookie from it before the handshake begins, and when that is done hears no handshake
        message from another. None: verified."""
        if len(datagram) > MAX_DATA:
            return
        if self.state is State.WAITING:
            if self._client or not (is_client_hello(datagram) and all(map(fits, records(datagram)))):
                return
            self._connection.bio_write(datagram)
            self._source = source or b""
            if source is not None and not self._is_there():
                return
            self._begin(now)
        elif self.state is State.HANDSHAKE:
            if heard := self._awaited(datagram, verified=True):
                self._connection.bio_write(heard)
                self._shake(now)
                self._answered = datagram
        elif self.state is State.ESTABLISHED:
            verified = source in (None, self._source)
            if verified and datagram == self._answered:
                if self._repeats < MAX_REPEATS:
                    self._repeats += 1
                    self._out.extend(self._flight)
            elif heard := self._awaited(datagram, verified):
                self._connection.bio_write(heard)
                self._read()
                self._flush()

    def send(self, data: bytes) -> bool:
        """In one record; False where that cannot be."""
        if self.state is not State.ESTABLISHED or not 0 < len(data) <= MAX_DATA:
            return False
        try:
            self._connection.send(data)
        except SSL.Error:
            return False
        self._flush()
        return True

    def close(self) -> None:
        """Say close_notify, if there is an association; nothing follows."""
        if self.state is State.ESTABLISHED:
            with suppress(SSL.Error):
                self._connection.shutdown()
            self._flush()
        self._end()

    def expire(self, now: float) -> None:
        if self.state is not State.HANDSHAKE:
            return
        if self._deadline is not None and now >= self._deadline:
            self._fail(f"no handshake within {HANDSHAKE_LIMIT:g} s")
            return
        try:
            self._connection.DTLSv1_handle_timeout()
        except SSL.Error as error:
            self._fail(_text(error))
            return
        if fresh := self._flush():
            self._flight = fresh
        elif self._resend_at is not None and now >= self._resend_at:
            self._out.extend(self._flight)
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
        else:
            self._time(now)
            return
        self._resend_at = now + self._pause
        self._time(now)

    def timeout(self) -> float | None:
        times = [at for at in (self._deadline, self._retransmit_at, self._resend_at) if at is not None]
        return min(times, default=None)

    def to_send(self) -> list[bytes]:
        """Datagrams for the peer; without a verified one, for where the last one came from."""
        out = list(self._out)
        self._out.clear()
        return out

    def next_event(self) -> Event | None:
        return self._events.popleft() if self._events else None

    # -- what OpenSSL asks --

    def cookie(self) -> bytes:
        """Of the source that is heard just now."""
        return hmac.digest(self._secret, self._source, hashlib.sha256)

    def is_peer(self, certificate: crypto.X509) -> bool:
        der = crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate)
        if any(hashlib.new(name, der).digest() == digest for name, digest in self._fingerprints):
            return True
        self._impostor = True
        return False

    # -- inside --

    def _is_there(self) -> bool:
        """Whether the ClientHello that was written has the cookie of its source; if not it is answered with
        that. OpenSSL then knows as much as before."""
        try:
            self._connection.DTLSv1_listen()
        except SSL.Error:  # WantReadError: there was no cookie; else no ClientHello that it understands
            self._flush()
            return False
        return True

    def _awaited(self, datagram: bytes, verified: bool) -> bytes:
        """The records that OpenSSL is given."""
        return b"".join(record for record in records(datagram) if self._is_awaited(record, verified))

    def _is_awaited(self, record: bytes, verified: bool) -> bool:
        established = self.state is State.ESTABLISHED
        if not epoch(record):
            return not established and fits(record)
        if established and record[0] != HANDSHAKE:
            return True
        if not (verified and self._finished < MAX_FINISHED):
            return False
        if not (record[0] == ALERT or may_be_finished(record)):
            return False
        self._finished += 1
        return True

    def _begin(self, now: float) -> None:
        self.state = State.HANDSHAKE
        self._deadline = now + HANDSHAKE_LIMIT
        self._shake(now)

    def _shake(self, now: float) -> None:
        try:
            self._connection.do_handshake()
        except SSL.WantReadError:
            if flight := self._flush():
                self._flight, self._pause = flight, FIRST_PAUSE
                self._resend_at = now + self._pause
            self._time(now)
        except SSL.Error as error:
            self._fail(_text(error))
        else:
            self._flight = self._flush()
            self._establish()

    def _establish(self) -> None:
        connection = self._connection
        certificate = connection.get_peer_certificate()
        if certificate is None or not self.is_peer(certificate):
            self._fail("the certificate is not the peer's")
            return
        profile = connection.get_selected_srtp_profile().decode() if self._srtp else ""
        local = remote = b""
        if self._srtp:
            if profile not in PROFILES:
                self._fail("no SRTP profile is agreed")
                return
            local, remote = self._keys(*PROFILES[profile])
        self.state = State.ESTABLISHED
        self._finished = 0
        self._deadline = self._retransmit_at = self._resend_at = None
        version = connection.get_protocol_version_name()
        self._events.append(Established(version, connection.get_cipher_name() or "", profile, local, remote))
        self._read()

    def _keys(self, key: int, salt: int) -> tuple[bytes, bytes]:
        """Ours and the peer's (RFC 5764 section 4.2). key, salt: bytes of each."""
        material = self._connection.export_keying_material(b"EXTRACTOR-dtls_srtp", 2 * (key + salt))
        salts = material[2 * key :]
        client = material[:key] + salts[:salt]
        server = material[key : 2 * key] + salts[salt:]
        return (client, server) if self._client else (server, client)

    def _read(self) -> None:
        while self.state is State.ESTABLISHED:
            try:
                self._events.append(Data(self._connection.recv(MAX_DATA)))
            except SSL.WantReadError:
                return
            except SSL.ZeroReturnError:
                self.close()  # RFC 5246 section 7.2.1: with a close_notify of our own
                self._events.append(Closed())
            except SSL.Error as error:
                self._fail(_text(error))

    def _fail(self, reason: str) -> None:
        self._flush()
        self._end()
        if self._impostor:
            reason = "the certificate is not the one whose fingerprint was signalled"
        self._events.append(Failed(reason, self._impostor))

    def _end(self) -> None:
        self.state = State.ENDED
        self._deadline = self._retransmit_at = self._resend_at = None

    def _time(self, now: float) -> None:
        left = self._connection.DTLSv1_get_timeout()
        self._retransmit_at = None if left is None else now + left

    def _flush(self) -> list[bytes]:
        """Take out what OpenSSL has written; the datagrams are on their way, too."""
        written = bytearray()
        while True:
            try:
                written += self._connection.bio_read(1 << 16)
            except SSL.WantReadError:
                break
        datagrams: list[bytes] = []
        for record in records(bytes(written)):
            if datagrams and len(datagrams[-1]) + len(record) <= MTU:
                datagrams[-1] += record
            else:
                datagrams.append(record)
        self._out.extend(datagrams)
        return datagrams


def _text(error: SSL.Error) -> str:
    """What OpenSSL says of it: its reasons, which have nothing of the peer's in them."""
    if isinstance(error, SSL.SysCallError | SSL.ZeroReturnError) or not error.args:
        return "the peer closed during the handshake"
    return ", ".join(str(reason[2]) for reason in error.args[0]) or "DTLS error"


_DIGESTS = {  # RFC 8122 section 5, and OpenSSL's names
    "sha-1": "sha1",
    "sha-224": "sha224",
    "sha-256": "sha256",
    "sha-384": "sha384",
    "sha-512": "sha512",
}
