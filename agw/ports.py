"""Port pairs of an IP realm: an even port for RTP and the odd one above it for RTCP (RFC 3550 section 11).

A released pair rests before it is given out again, so that late packets of an old call meet no new one.
Free pairs are drawn at random, which makes the next port hard to guess.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from random import Random

from agw.errors import CommandError


class Realm:
    """The addresses of one realm; each has the same range of ports. Hosts are numeric, IPv4 or IPv6."""

    def __init__(
        self, name: str, addresses: Sequence[str], ports: tuple[int, int], rest: float, rng: Random
    ) -> None:
        self.name = name
        self._pools = {address: _Pool(*ports, rest, rng) for address in addresses}

    def choose(self, ip6: bool, now: float) -> str:
        """The address of that family with the most free pairs. Raises CommandError if there is no address."""
        hosts = [host for host in self._pools if (":" in host) is ip6]
        if not hosts:
            raise CommandError("unsupported", f"realm {self.name} has no IPv{6 if ip6 else 4} address")
        return max(hosts, key=lambda host: self._pools[host].counts(now)[2])

    def reserve(self, host: str, now: float) -> int:
        """The even port of a free pair. Raises CommandError if there is none."""
        port = self._pools[host].take(now)
        if port is None:
            raise CommandError("no_ports", f"realm {self.name} has no free ports on {host}")
        return port

    def release(self, host: str, port: int, now: float) -> None:
        """After use; the pair rests."""
        self._pools[host].rest(port, now)

    def unreserve(self, host: str, port: int) -> None:
        """The pair was never opened, and is free at once."""
        self._pools[host].give_back(port)

    def counts(self, now: float) -> tuple[int, int, int]:
        """Pairs in use, resting and free, over all addresses."""
        used, resting, free = zip(*(pool.counts(now) for pool in self._pools.values()), strict=True)
        return sum(used), sum(resting), sum(free)


class _Pool:
    """The pairs of one address, known by their even ports. Constant time for each operation."""

    def __init__(self, first: int, last: int, rest: float, rng: Random) -> None:
        self._rest = rest
        self._rng = rng
        self._free = list(range(first + first % 2, last, 2))  # the last pair's odd port is at most `last`
        self._used: set[int] = set()
        self._resting: deque[tuple[float, int]] = deque()  # (free again at, port), in that order

    def take(self, now: float) -> int | None:
        self._wake(now)
        if not self._free:
            return None
        index = self._rng.randrange(len(self._free))
        self._free[index], self._free[-1] = self._free[-1], self._free[index]
        port = self._free.pop()
        self._used.add(port)
        return port

    def rest(self, port: int, now: float) -> None:
        self._used.remove(port)
        self._resting.append((now + self._rest, port))

    def give_back(self, port: int) -> None:
        self._used.remove(port)
        self._free.append(port)

    def counts(self, now: float) -> tuple[int, int, int]:
        self._wake(now)
        return len(self._used), len(self._resting), len(self._free)

    def _wake(self, now: float) -> None:
        while self._resting and self._resting[0][0] <= now:
            self._free.append(self._resting.popleft()[1])
