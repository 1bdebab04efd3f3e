"""What is said on Iq: commands, replies and notices, named as in TS 23.334 clause 8.

The controller (IMS-ALG) chooses the names of contexts and terminations, so that a request can carry several
commands on one context and be repeated without harm. A request is executed as a whole or not at all.
On the wire every message is one frame: four bytes of length, big endian, then MessagePack (see `wire`).

The model is H.248's: a *context* joins *terminations*; a termination lies in one IP realm and has
*streams*, one for each m-line; streams with the same id in one context are connected with each other: always
if there are two, and of three and more (an early dialog each) the first two whose mode is not inactive.
Iq carries values (addresses, keys), never SDP.
"""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

VERSION = 3
MAX_FRAME = 1024 * 1024  # bytes; the claims, or the audit, of some 5,000 contexts
MAX_STREAMS = 32  # in one termination
MAX_TERMINATIONS = 16  # in one context
MAX_COMMANDS = 16  # in one request


class Suite(StrEnum):
    """SRTP crypto suites by their IANA names (RFC 4568, RFC 6188, RFC 7714)."""

    AES_CM_128_HMAC_SHA1_80 = "AES_CM_128_HMAC_SHA1_80"
    AES_CM_128_HMAC_SHA1_32 = "AES_CM_128_HMAC_SHA1_32"
    AES_256_CM_HMAC_SHA1_80 = "AES_256_CM_HMAC_SHA1_80"
    AEAD_AES_128_GCM = "AEAD_AES_128_GCM"
    AEAD_AES_256_GCM = "AEAD_AES_256_GCM"

    @property
    def material_length(self) -> int:
        """Bytes of master key and master salt together."""
        return _MATERIAL_LENGTH[self]


_MATERIAL_LENGTH = {
    Suite.AES_CM_128_HMAC_SHA1_80: 30,
    Suite.AES_CM_128_HMAC_SHA1_32: 30,
    Suite.AES_256_CM_HMAC_SHA1_80: 46,
    Suite.AEAD_AES_128_GCM: 28,
    Suite.AEAD_AES_256_GCM: 44,
}


class Transport(StrEnum):
    """How one side of a stream is carried (TS 23.334 clauses 6.2.10.2 and 6.2.10A)."""

    RTP = "RTP/AVP"
    SRTP = "RTP/SAVP"  # SDES; terminated here
    DTLS_SRTP = "UDP/TLS/RTP/SAVP"  # SRTP keyed by DTLS (RFC 5764); both are terminated here
    UDP = "UDP"  # transparent: both ports as they are; only a closed gate knows RTCP and STUN from media
    DTLS = "UDP/DTLS"  # DTLS, terminated here: what a record holds is a datagram of the other side (RFC 7345)

    @property
    def has_dtls(self) -> bool:
        return self is Transport.DTLS_SRTP or self is Transport.DTLS

    @property
    def is_transparent(self) -> bool:
        """It carries datagrams of any kind, not RTP."""
        return self is Transport.UDP or self is Transport.DTLS


class Mode(StrEnum):
    """H.248 stream mode, seen from outside the gateway: SENDONLY means that the gateway sends on it, and
    drops what comes."""

    INACTIVE = "inactive"
    SENDONLY = "sendonly"
    RECVONLY = "recvonly"
    SENDRECV = "sendrecv"

    @property
    def sends(self) -> bool:
        return self is Mode.SENDONLY or self is Mode.SENDRECV

    @property
    def receives(self) -> bool:
        return self is Mode.RECVONLY or self is Mode.SENDRECV


class Address(Struct, frozen=True, array_like=True):
    """A transport address: a numeric IPv4 or IPv6 host, and a port from 1 to 65535."""

    host: str
    port: int


class Key(Struct, frozen=True):
    """SRTP keying: master key and master salt in one. It has no repr that shows them (trap P18)."""

    suite: Suite
    material: bytes
    mki: bytes = b""  # 0 to 128 bytes

    def __repr__(self) -> str:
        return f"Key({self.suite.value})"


class Fingerprint(Struct, frozen=True, array_like=True):
    """Of a certificate (RFC 8122). hash: "sha-256" …, in lower case."""

    hash: str
    digest: bytes


class DtlsRole(StrEnum):
    """The gateway's."""

    CLIENT = "client"  # a=setup:active
    SERVER = "server"  # a=setup:passive


class Dtls(Struct, frozen=True, omit_defaults=True):
    """The DTLS association of a stream.

    association: its name, chosen by the controller. Another name is another association (RFC 8842), which
    takes the place of the one that stands when its handshake has succeeded, and not before (trap P02); to say
    the old name again is to keep the old one.
    role: None while it is not known; what comes is kept, within bounds, and heard later (trap P06). CLIENT:
    the handshake begins when it is known where the peer is.
    fingerprints: the peer's, of one hash function; its certificate has to match one. A role needs them.
    """

    association: str
    role: DtlsRole | None = None
    fingerprints: tuple[Fingerprint, ...] = ()


class Ice(Struct, frozen=True, omit_defaults=True):
    """ICE lite (RFC 8445 section 2.5). ufrag, pwd: ours; others than before are a restart. remote_ufrag: the
    peer's, "" while it is not known. Its password is not needed. There is no repr that shows ours."""

    ufrag: str
    pwd: str
    remote_ufrag: str = ""

    def __repr__(self) -> str:
        return f"Ice({self.ufrag!r}, remote_ufrag={self.remote_ufrag!r})"


class Stream(Struct, frozen=True, omit_defaults=True):
    """What one stream of a termination shall be. A stream is always sent whole, so a repeat changes nothing.

    remote, remote_rtcp: where to send; None while the peer has not said. remote_rtcp None: remote's port + 1.
    rtcp_mux: RTP and RTCP share one port on this side (RFC 5761), or there is no RTCP.
    local_key: protects what this termination sends, without an MKI. remote_keys: what the peer sends; several
    only with MKIs of one length. SRTP needs both before the mode is anything but inactive.
    mode: RTCP flows whenever `remote` is known; only media obey the mode (RFC 3264 section 5.1).
    latch: learn the peer's address from its packets where these are authentic, else from the first one.
    latch_from: where they are not, the host that this one has to come from if not from `remote`'s; None: any.
    source_filter: drop packets from another address than `remote`'s host (TS 23.334 clause 5.4).
    inactivity: seconds without media from the peer after which a notice is sent; 0: never.
    dtls: needed with DTLS_SRTP and DTLS, which need its role before the mode is anything but inactive. With
    separate ports RTCP has an association of its own, which has the same name, role and fingerprints.
    ice: connectivity checks tell where the peer is, and `remote` only until then; latching excludes them, and
    they come from anywhere, so the source filter does not hold.
    """

    id: int
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
    dtls: Dtls | None = None
    ice: Ice | None = None


# -- commands --------------------------------------------------------------------------------------------


class ReserveConnectionPoint(Struct, frozen=True, tag="reserve"):
    """TS 23.334 clause 8.3: create a termination whose remote side is not known yet."""

    termination: str
    realm: str
    streams: tuple[Stream, ...]
    ip6: bool = False


class ReserveAndConfigureConnectionPoint(Struct, frozen=True, tag="reserve_and_configure"):
    """TS 23.334 clause 8.2: create a termination and configure it fully. Every stream has its `remote`."""

    termination: str
    realm: str
    streams: tuple[Stream, ...]
    ip6: bool = False


class ConfigureConnectionPoint(Struct, frozen=True, tag="configure"):
    """TS 23.334 clause 8.4: replace the named streams of a termination by these, add those with a new id,
    and take away those in `remove`. Ports of streams that stay are kept."""

    termination: str
    streams: tuple[Stream, ...]
    remove: tuple[int, ...] = ()


class ChangeThroughConnection(Struct, frozen=True, tag="change_through_connection"):
    """TS 23.334 clause 6.2.12: open or close the gate of streams; the rest of each stream stays."""

    termination: str
    modes: dict[int, Mode]


class ReleaseTermination(Struct, frozen=True, tag="release"):
    """TS 23.334 clause 8.5: release one termination, or all of the context if none is named. Releasing
    what is not there succeeds with no statistics. What is released is not reserved again in the same
    request."""

    termination: str | None = None


class AuditValue(Struct, frozen=True, tag="audit"):
    """Tell the terminations and local addresses of the request's context, or of all contexts if that is
    "". Every controller may see the contexts of the others."""


Command = (
    ReserveConnectionPoint
    | ReserveAndConfigureConnectionPoint
    | ConfigureConnectionPoint
    | ChangeThroughConnection
    | ReleaseTermination
    | AuditValue
)


# -- results, in the order of the commands; all tell of the state after the whole request ----------------


class LocalStream(Struct, frozen=True, omit_defaults=True):
    """The addresses the gateway receives a stream on. fingerprint: of the gateway's certificate, where the
    stream has `dtls`; it is the same as long as the termination is there."""

    id: int
    rtp: Address
    rtcp: Address
    fingerprint: Fingerprint | None = None


class StreamStatistics(Struct, frozen=True):
    """Counted on one stream of one termination since it was reserved. dropped: cause -> packets. slow_path:
    packets that the gateway itself took (STUN, DTLS)."""

    id: int
    received: int  # packets from the peer that were forwarded
    sent: int
    received_octets: int
    sent_octets: int
    dropped: dict[str, int]
    slow_path: int = 0


class Reserved(Struct, frozen=True, tag="reserved"):
    """Answers reserve, reserve and configure, and configure: all streams of the termination as they are now,
    and the counts of those that were taken away."""

    termination: str
    streams: tuple[LocalStream, ...]
    removed: tuple[StreamStatistics, ...] = ()


class Done(Struct, frozen=True, tag="done"):
    """Answers change through-connection."""


class Released(Struct, frozen=True, tag="released"):
    """Answers release. terminations: name -> its streams' counts."""

    terminations: dict[str, tuple[StreamStatistics, ...]]


class AuditedContext(Struct, frozen=True):
    """owner: the controller that made it. idle: seconds since the last media packet; since the creation
    if none."""

    context: str
    owner: str
    terminations: dict[str, tuple[LocalStream, ...]]
    idle: float


class Audited(Struct, frozen=True, tag="audited"):
    """Answers audit. ports: realm -> [ports in use, ports resting, ports free]."""

    contexts: tuple[AuditedContext, ...]
    ports: dict[str, tuple[int, int, int]]


Result = Reserved | Done | Released | Audited


class ErrorCode(StrEnum):
    UNKNOWN_CONTEXT = "unknown_context"
    UNKNOWN_TERMINATION = "unknown_termination"
    UNKNOWN_REALM = "unknown_realm"
    UNSUPPORTED = "unsupported"
    INVALID = "invalid"
    NO_PORTS = "no_ports"
    OVERLOAD = "overload"  # a limit of contexts, terminations or streams


# -- what crosses the wire -------------------------------------------------------------------------------


class Hello(Struct, frozen=True, tag="hello"):
    """The first message in each direction. Another version is answered with an own Hello and the end of
    the connection. name: the controller's or gateway's; incarnation: changes with each start of the
    process, so that the other side sees a restart. realms: those a gateway serves (empty from a
    controller). claims: the contexts a controller still owns; the gateway drops the others made under the
    same name, and sends CONTEXT_LOST for those it does not know. The contexts of a controller that stays
    away are dropped after a grace time."""

    version: int
    name: str
    incarnation: str
    realms: tuple[str, ...] = ()
    claims: tuple[str, ...] = ()


class Request(Struct, frozen=True, tag="request"):
    """id: chosen by the controller, repeated in the reply. context: created by its first reserve."""

    id: int
    context: str
    commands: tuple[Command, ...]


class Reply(Struct, frozen=True, tag="reply"):
    id: int
    results: tuple[Result, ...]


class ErrorReply(Struct, frozen=True, tag="error"):
    """None of the request's commands had an effect. command: index of the one that failed; of the last if
    they cannot be done together."""

    id: int
    code: ErrorCode
    text: str
    command: int = 0


class Event(StrEnum):
    MEDIA_INACTIVE = "media_inactive"  # nothing from the peer for `inactivity`; once until media return
    MEDIA_FIRST = "media_first"  # the first (authenticated) media packet from the peer
    SRTP_FAILURES = "srtp_failures"  # more failed authentications than configured; once a minute at most
    DTLS_ESTABLISHED = "dtls_established"  # detail: version, cipher and SRTP profile
    DTLS_FAILED = "dtls_failed"  # detail: why; the stream has no association now
    DTLS_KEPT = "dtls_kept"  # detail: why another association failed; the one that stands goes on
    CONSENT_LOST = "consent_lost"  # no connectivity check for 30 s (RFC 7675)
    CONTEXT_LOST = "context_lost"  # the gateway had to give the context up


class Notice(Struct, frozen=True, tag="notice"):
    """termination "" and stream 0 where the event concerns the whole context."""

    context: str
    event: Event
    termination: str = ""
    stream: int = 0
    detail: str = ""


class Heartbeat(Struct, frozen=True, tag="heartbeat"):
    """Sent by each side after `wire.HEARTBEAT` seconds of own silence; three missed end the connection."""


FromController = Hello | Request | Heartbeat
FromGateway = Hello | Reply | ErrorReply | Notice | Heartbeat
