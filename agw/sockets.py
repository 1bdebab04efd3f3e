"""The UDP sockets of a leg, and its addresses as the kernel has them."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterable

from agw.errors import UsageError
from agw.flows import Leg, LegId, OpenError
from agw.iq.messages import Address
from agw.latch import Sockaddr

log = logging.getLogger("agw")

RECEIVE_BUFFER = 1 << 20  # bytes the kernel may hold for one socket while we are late

Sockets = tuple[socket.socket, socket.socket]  # RTP, RTCP


def open_all(legs: Iterable[Leg], has_sockets: Callable[[Leg], bool]) -> dict[LegId, Sockets]:
    """The sockets of those legs that have none yet; all or none.

    raises OpenError: it names the legs whose sockets could not be opened.
    """
    opened: dict[LegId, Sockets] = {}
    failed: dict[LegId, OSError] = {}
    for leg in legs:
        if not has_sockets(leg):
            try:
                opened[leg.id] = _sockets(leg)
            except OSError as error:
                failed[leg.id] = error
    if failed:
        close_all(opened.values())
        raise OpenError(tuple(failed), "; ".join(dict.fromkeys(str(error) for error in failed.values())))
    return opened


def close_all(pairs: Iterable[Sockets]) -> None:
    for pair in pairs:
        for sock in pair:
            sock.close()


def sockaddr(remote: Address | None, leg: Leg) -> Sockaddr | None:
    """As recvfrom will tell it, so that the two can be compared.

    raises UsageError: not numeric, or not of the family of the leg's own address.
    """
    if remote is None:
        return None
    family = _family(leg.local_rtp)
    try:
        host = socket.inet_ntop(family, socket.inet_pton(family, remote.host))
    except (OSError, ValueError):
        raise UsageError(f"{remote.host} is no numeric address of the leg's family") from None
    return (host, remote.port) if family == socket.AF_INET else (host, remote.port, 0, 0)


def latch_from(leg: Leg) -> Sockaddr | None:
    """The host alone, as `sockaddr`."""
    return sockaddr(Address(leg.latch_from, 0) if leg.latch_from else None, leg)


def send(sockets: Sockets | None, channel: int, target: Address, data: bytes, leg: Leg) -> bool:
    """`Plane.send`, from a leg's sockets; None: they are broken."""
    there = sockaddr(target, leg)
    if sockets is None or there is None:
        return False
    try:
        sockets[channel].sendto(data, there)
    except OSError:
        return False
    return True


def log_latched(id: LegId, rtcp: bool, host: object, port: int) -> None:
    """One line for each peer that was found elsewhere than signalled."""
    what = f"{id.termination} {id.stream} {'RTCP' if rtcp else 'RTP'} {host} {port}"
    log.info("%-8s %-12s %-20s %s", "latched", "", ascii(id.context)[1:-1], ascii(what)[1:-1])


def _sockets(leg: Leg) -> Sockets:
    rtp = _socket(leg.local_rtp)
    try:
        return rtp, _socket(leg.local_rtcp)
    except OSError:
        rtp.close()
        raise


def _socket(local: Address) -> socket.socket:
    family = _family(local)
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((local.host, local.port))
    except OSError:
        sock.close()
        raise
    return sock


def _family(address: Address) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address.host else socket.AF_INET
