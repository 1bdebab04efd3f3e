"""The proxy's configuration as frozen structs. `configfile` reads them; configs/proxy.toml is the commented
example."""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import ip_address
from typing import Annotated

from msgspec import Meta, Struct

from agw.iq.connection import TlsAddress
from agw.iq.connection import parse_address as parse_iq_address
from imsalg.errors import BadMessage
from imsalg.networks import Networks, numeric
from imsalg.policy.decide import Access, Rules
from imsalg.policy.treatment import Mechanism
from imsalg.sip.hop import Transport
from imsalg.sip.locate import leaves_by
from imsalg.sip.values import Address, Uri

Name = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$")]
Count = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0)]

MAX_CALLS = 32_000  # and a tenth for emergencies; a greeting on Iq, one frame, names all of them
MEDIA_DENY = Networks(  # this network, loopback, link-local, reserved
    ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "240.0.0.0/4", "::1/128", "fe80::/10")
)


class AccessConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One address that UEs talk to (the Gm side).

    transports: what is served there: UDP, and one of those that need its TCP port. cert, key: PEM files, for
    TLS and WSS. ca: who signs the certificates that UEs must show there; none: they need none. path: of WS
    and WSS.
    mechanisms: media-plane security announced to the UEs here (TS 24.229 clause 7.2A.7); none: e2ae is off.
    realm: the gateway's IP realm for media of this side.
    trusted: peers served without registration. emergency: unregistered emergency calls are let in.
    latch_anywhere: a UE's plain media may come from another host than its signalling and than its SDP says.
    media_deny: networks that media are never sent to, whatever an SDP says; loopback counts only where
    `listen` is not loopback itself.
    """

    name: Name
    listen: Address
    transports: tuple[Transport, ...] = (Transport.UDP, Transport.TCP)
    cert: str = ""
    key: str = ""
    ca: str = ""
    path: Annotated[str, Meta(pattern=r"^/[!-~]*$")] = "/"
    type: Access = Access.SIP
    mechanisms: tuple[Mechanism, ...] = ()
    realm: Name = "access"
    trusted: Networks = Networks()
    emergency: bool = False
    latch_anywhere: bool = False
    media_deny: Networks = MEDIA_DENY

    @property
    def denied(self) -> Networks:
        return _denied(self.media_deny, self.listen)

    def __post_init__(self) -> None:
        _check_transports(self.transports)
        if any(transport.secure for transport in self.transports) and not (self.cert and self.key):
            raise ValueError("transports: TLS and WSS need cert and key")
        if {Mechanism.E2DCE, Mechanism.DATA_CHANNEL} & set(self.mechanisms):
            raise ValueError("mechanisms: data channels are set in [policy.e2dce]")


class CoreConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The side of the home network (Mw).

    next_hop: the SIP URI REGISTER goes to (I-CSCF, S-CSCF), and what else has no Service-Route; of several
    the second is tried when no server of the first serves.
    transports: as of an access. TLS is mutual: cert and key are ours, towards both who connects to us and
    whom we connect to, and ca signs the certificates of both.
    trusted: who may talk to us here; none named: everyone who reaches this address. media_deny: as of an
    access.
    nameserver: whom to ask for names; none named: those of /etc/resolv.conf.
    patience: seconds a server may stay silent before the next one is tried.
    quarantine: seconds for which one that was silent or not reached is tried last.
    """

    listen: Address
    next_hop: str | Annotated[tuple[str, ...], Meta(min_length=1, max_length=8)]
    transports: tuple[Transport, ...] = (Transport.UDP, Transport.TCP)
    cert: str = ""
    key: str = ""
    ca: str = ""
    realm: Name = "core"
    trusted: Networks = Networks()
    media_deny: Networks = MEDIA_DENY
    nameserver: Annotated[tuple[str, ...], Meta(max_length=8)] = ()
    patience: Seconds = 4.0
    quarantine: Seconds = 30.0

    @property
    def denied(self) -> Networks:
        return _denied(self.media_deny, self.listen)

    @property
    def next_hops(self) -> tuple[str, ...]:
        return (self.next_hop,) if isinstance(self.next_hop, str) else self.next_hop

    @property
    def nameservers(self) -> tuple[Address, ...]:
        return tuple(_nameserver(text) for text in self.nameserver)

    def __post_init__(self) -> None:
        _check_transports(self.transports)
        if {Transport.WS, Transport.WSS} & set(self.transports):
            raise ValueError("transports: WebSocket is for UEs only")
        if Transport.TLS in self.transports and not (self.cert and self.key and self.ca):
            raise ValueError("transports: TLS needs cert, key and ca")
        for hop in self.next_hops:
            try:
                uri = Uri.parse(hop)
            except BadMessage as error:
                raise ValueError(f"next_hop: {error.reason}") from None
            if uri.scheme not in ("sip", "sips"):
                raise ValueError(f"next_hop: expected a sip URI, got {hop!r}")
            if not leaves_by(uri, self.transports):
                what = Transport.of(uri) or "its transport"
                raise ValueError(f"next_hop: {what} is not among the transports")
        for text in self.nameserver:
            _nameserver(text)


def _check_transports(transports: tuple[Transport, ...]) -> None:
    if not transports:
        raise ValueError("transports: at least one is needed")
    if sum(transport.reliable for transport in transports) > 1:
        raise ValueError("transports: one port serves UDP and one of TCP, TLS, WS, WSS; add a table")
    if len(set(transports)) < len(transports):
        raise ValueError("transports: one is named twice")


@lru_cache(maxsize=256)  # asked for with every call, and one for each address there is
def _denied(media_deny: Networks, listen: Address) -> Networks:
    if not ip_address(listen.host).is_loopback:
        return media_deny
    return Networks(str(network) for network in media_deny if not network.is_loopback)


class GatewayConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the gateway is: "unix:PATH", or "tls:HOST:PORT" with cert, key and ca (PEM files).

    timeout: seconds a command may take before the call that waits for it is given up.
    grace: seconds the connection may be away before the calls it carries are ended.
    """

    iq: str
    cert: str = ""
    key: str = ""
    ca: str = ""
    timeout: Seconds = 2.0
    grace: Seconds = 5.0

    def __post_init__(self) -> None:
        try:
            address = parse_iq_address(self.iq)
        except ValueError as error:
            raise ValueError(f"iq: {error}") from None
        if isinstance(address, TlsAddress) and not (self.cert and self.key and self.ca):
            raise ValueError("iq: tls needs cert, key and ca")


class RegistrationConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Seconds. A shorter wish than min_expires is answered 423; a longer than max_expires is not believed.

    reg_event: the home network is asked to tell when it takes a registration away (RFC 3680).
    """

    min_expires: Count = 60
    max_expires: Count = 600_000
    reg_event: bool = False

    def __post_init__(self) -> None:
        if self.min_expires > self.max_expires:
            raise ValueError("min_expires: is greater than max_expires")


class CallConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """ringing_limit: seconds an INVITE may stay without a final answer.
    inactivity: seconds without media after which the call is ended; 0: never. session_expires: the session
    interval that is asked for where neither end does (RFC 4028), in seconds; 0: none. session_limit: the
    longest interval that is agreed to, and the seconds after which a call that nobody refreshes is ended,
    whatever its ends know of session timers."""

    ringing_limit: Seconds = 180.0
    inactivity: Annotated[float, Meta(ge=0)] = 60.0
    session_expires: Annotated[int, Meta(ge=0, lt=2**32)] = 1800
    session_limit: Annotated[int, Meta(ge=90, lt=2**32)] = 43_200

    def __post_init__(self) -> None:
        if 0 < self.session_expires < 90:
            raise ValueError("session_expires: 0, or at least 90 seconds (RFC 4028 section 4)")
        if self.session_expires > self.session_limit:
            raise ValueError("session_expires: is greater than session_limit")


class LimitsConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is refused beyond. calls: at most MAX_CALLS. transactions: a quarter of them for strangers.
    connections: TCP, both directions together, a tenth of them for the core side only;
    connections_per_source: accepted from one address; connection_idle: seconds of silence after which one is
    closed; handshake: seconds until a new one must have brought something whole, and a message that was begun
    its end; write_buffer: octets a slow peer may leave unread before its connection is closed; write_buffers:
    all of them together, before that of the slowest is."""

    calls: Annotated[int, Meta(ge=1, le=MAX_CALLS)] = 1000
    registrations: Count = 10_000
    transactions: Count = 100_000
    connections: Count = 1000
    connections_per_source: Count = 200
    connection_idle: Seconds = 600.0
    handshake: Seconds = 30.0
    write_buffer: Count = 1024 * 1024
    write_buffers: Count = 64 * 1024 * 1024

    def __post_init__(self) -> None:
        if self.write_buffer > self.write_buffers:
            raise ValueError("write_buffer: is greater than write_buffers")


class SourcesConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one peer on the access side may do: each user who has registered, with all his UEs; all others of
    one host (IPv6: of one /64) together. Trusted peers are not limited.

    rate: messages per second; a connection that is accepted, and a read that brings no message, count as one.
    burst: messages at once; beyond them requests are answered 503. penalty: seconds in which a source is not
    heard or read that went on for as many messages again. The others: what it may have at a time;
    transactions are remembered for 32 seconds after their end. registrations: of one host. bindings: of one
    user; one more ends the oldest."""

    rate: Annotated[float, Meta(ge=1)] = 200.0
    burst: Count = 2000
    penalty: Annotated[float, Meta(ge=0)] = 30.0
    transactions: Count = 5000
    registrations: Count = 2000
    bindings: Count = 32
    calls: Count = 200


class SipConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """t1: seconds, the round-trip estimate that all transaction timers are multiples of (RFC 3261 section
    17.1.1.1)."""

    t1: Annotated[float, Meta(ge=0.01, le=5.0)] = 0.5


class StatusConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """socket: path of a Unix socket; whoever connects is sent one JSON document. Empty: there is none."""

    socket: str = ""


class StoreConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """path: of the file that registrations and calls are kept in over a restart. Empty: they are not."""

    path: str = ""


class ProxyConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of it. name: what we call ourselves (host part of Path and Record-Route tokens stays `listen`).
    visited_network: P-Visited-Network-ID of the requests to the core."""

    name: Name = "pcscf"
    visited_network: Annotated[str, Meta(min_length=1)] = "visited.invalid"
    access: Annotated[tuple[AccessConfig, ...], Meta(min_length=1, max_length=16)]
    core: CoreConfig
    gateway: GatewayConfig
    sip: SipConfig = SipConfig()
    policy: Rules = Rules()
    registration: RegistrationConfig = RegistrationConfig()
    call: CallConfig = CallConfig()
    limits: LimitsConfig = LimitsConfig()
    sources: SourcesConfig = SourcesConfig()
    status: StatusConfig = StatusConfig()
    store: StoreConfig = StoreConfig()

    def __post_init__(self) -> None:
        listens = [access.listen for access in self.access] + [self.core.listen]
        if len(set(listens)) < len(listens):
            raise ValueError("access: two sides listen on the same address")
        if len({access.name for access in self.access}) < len(self.access):
            raise ValueError("access: two have the same name")


def parse_address(text: str, where: str = "") -> Address:
    """`host:port`, IPv6 in brackets. Raises ValueError, its text preceded by `where`."""
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s:\[\]]+)):([0-9]{1,5})", text, re.ASCII)
    if not found or not 0 < int(found[3]) < 65536:
        raise ValueError(f"{where}expected host:port or [IPv6]:port, got {text!r}")
    return Address(found[1] or found[2], int(found[3]))


def _nameserver(text: str) -> Address:
    """`host` or `host:port`, numeric. Raises ValueError."""
    if numeric(text):
        return Address(text, 53)
    address = parse_address(text, "nameserver: ")
    if not numeric(address.host):
        raise ValueError(f"nameserver: expected a numeric address, got {text!r}")
    return address
