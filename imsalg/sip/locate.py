"""Locating SIP servers: from a URI to the servers it stands for, best first (RFC 3263, RFC 2782).

    servers = locate(uri, sources, rng)
    step = next(servers)                 # a Question for the DNS, or a Flow: a server to try
    step = servers.send(records)         # the records of the answer, () after a Flow; StopIteration: no more

It goes no further than it is asked to: the address of the third server is not looked up before the
second has failed (RFC 3263 section 4.3). It knows no clock and no cache; whoever drives it has both.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from functools import lru_cache, partial
from ipaddress import ip_address
from random import Random
from typing import TypeVar

from msgspec import Struct

from imsalg.sip.hop import Flow, Transport
from imsalg.sip.values import Address, Uri

MAX_NAME = 253  # octets (RFC 1035 section 3.1)
MAX_RECORDS = 32  # of one answer that are looked at

T = TypeVar("T")


class Kind(StrEnum):
    """Record types, as the DNS names them."""

    A = "A"
    AAAA = "AAAA"
    SRV = "SRV"
    NAPTR = "NAPTR"


class Question(Struct, frozen=True):
    """name: in lower case, without the final dot."""

    name: str
    kind: Kind


class Srv(Struct, frozen=True):
    """RFC 2782. target: "" says that the service is not to be had here."""

    priority: int
    weight: int
    port: int
    target: str


class Naptr(Struct, frozen=True):
    """RFC 3403 section 4.1; only those without a regexp are of use here. flags, service: in lower case."""

    order: int
    preference: int
    flags: str
    service: str
    replacement: str


Record = str | Srv | Naptr  # str: a numeric address
Servers = Generator[Question | Flow, Sequence[Record], None]


# NAPTR service field (RFC 3263 section 4.1) and SRV service (section 4.2)
_SERVICES = {
    Transport.UDP: ("sip+d2u", "_sip._udp"),
    Transport.TCP: ("sip+d2t", "_sip._tcp"),
    Transport.TLS: ("sips+d2t", "_sips._tcp"),
}


def locate(uri: Uri, sources: Mapping[Transport, Address], rng: Random) -> Servers:
    """The servers a sip URI stands for. sources: the transports we can use, the preferred one first, and our
    address for each; servers of its address family only are looked for."""
    wanted = leaves_by(uri, sources)
    if not wanted or len(uri.host) > MAX_NAME:
        return
    if is_numeric(uri.host):
        leaves = wanted[0]
        yield Flow(leaves, sources[leaves], Address(uri.host, uri.port or leaves.default_port))
        return
    name = _plain(uri.host)
    addresses = partial(_addresses, sources=sources, domain=name, rng=rng)
    if uri.port is not None:
        yield from addresses(uri.host, uri.port, wanted[0])
        return
    services: list[tuple[Transport, str]] = []
    if not uri.param("transport"):
        services = _selected((yield Question(name, Kind.NAPTR)), wanted)
    if not services:
        services = [(each, f"{_SERVICES[each][1]}.{name}") for each in wanted]
    found = False
    for transport, service in services:
        records = [each for each in (yield Question(service, Kind.SRV)) if isinstance(each, Srv)]
        found = found or bool(records)
        for srv in by_weight(records, rng):
            if srv.target and srv.port:
                yield from addresses(srv.target, srv.port, transport)
    if not found:  # RFC 3263 section 4.2
        transport = services[0][0]
        yield from addresses(name, transport.default_port, transport)


def leaves_by(uri: Uri, transports: Iterable[Transport]) -> list[Transport]:
    """Those of our transports that a request for a SIP URI may leave by: the one it names; where it names
    none, any for a domain, and UDP or TLS for a server (RFC 3263 section 4.1)."""
    transports = [each for each in transports if each in _SERVICES and uri.host]
    if uri.scheme == "sip" and not uri.param("transport") and uri.port is None and not is_numeric(uri.host):
        return transports
    named = Transport.of(uri)
    return [each for each in transports if each is named]


def by_weight(records: Sequence[Srv], rng: Random) -> Iterator[Srv]:
    """SRV records in the order in which they are tried: by priority, and by chance within one (RFC 2782)."""
    for priority in sorted({each.priority for each in records}):
        left = [each for each in _shuffled(records, rng) if each.priority == priority]
        left.sort(key=lambda each: each.weight > 0)
        while left:
            chosen = rng.getrandbits(32) * (sum(each.weight for each in left) + 1) >> 32
            for srv in left:
                chosen -= srv.weight
                if chosen <= 0:
                    break
            left.remove(srv)
            yield srv


@lru_cache(4096)
def is_numeric(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _selected(records: Sequence[Record], wanted: Sequence[Transport]) -> list[tuple[Transport, str]]:
    """The services of NAPTR records that we can use, the best first (RFC 3263 section 4.1)."""
    naptrs = sorted(
        (each for each in records if isinstance(each, Naptr)), key=lambda each: (each.order, each.preference)
    )
    by_service = {_SERVICES[each][0]: each for each in wanted}
    return [
        (by_service[each.service], each.replacement)
        for each in naptrs
        if each.flags == "s" and each.replacement and each.service in by_service
    ]


def _addresses(
    host: str,
    port: int,
    transport: Transport,
    *,
    sources: Mapping[Transport, Address],
    domain: str,
    rng: Random,
) -> Servers:
    """The servers of a host. Where it has several addresses, each is as good (RFC 3263 section 4.2)."""
    source = sources[transport]
    hosts: Sequence[Record] = (host,)
    if not is_numeric(host):
        hosts = yield Question(_plain(host), Kind.AAAA if ":" in source.host else Kind.A)
    domain = domain if transport.secure else ""
    for each in _shuffled(hosts, rng):
        if isinstance(each, str):
            yield Flow(transport, source, Address(each, port), domain)


def _plain(host: str) -> str:
    return host.lower().rstrip(".")


def _shuffled(records: Sequence[T], rng: Random) -> Sequence[T]:
    return records if len(records) < 2 else sorted(records, key=lambda _: rng.getrandbits(32))
