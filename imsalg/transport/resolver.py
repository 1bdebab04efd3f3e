"""Host names to numeric addresses (RFC 3263 section 4.2: A and AAAA), remembered for a short time.

`getaddrinfo` tells no time to live, so answers are kept for a fixed one; failures as well, for a shorter one,
so that a dead name costs one look-up and not one for each message. Look-ups of one name at one time share
one.
"""

from __future__ import annotations

import asyncio
import socket
import time
from functools import lru_cache
from ipaddress import ip_address

KEEP = 60.0  # seconds an answer is used
KEEP_FAILURE = 5.0
LOOKUP_LIMIT = 4.0  # seconds a look-up may take
MAX_NAMES = 4096  # remembered; the oldest go first
MAX_LOOKUPS = 64  # at one time

Key = tuple[str, socket.AddressFamily]


class ResolveError(Exception):
    """A name that has no address now, and why in one line."""


@lru_cache(4096)
def is_numeric(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def family_of(host: str) -> socket.AddressFamily:
    """Of a numeric host."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET


async def system_lookup(host: str, family: socket.AddressFamily) -> tuple[str, ...]:
    """Raises OSError, and UnicodeError for what can be no name."""
    loop = asyncio.get_running_loop()
    infos = await loop.getaddrinfo(host, None, family=family, type=socket.SOCK_DGRAM)
    return tuple(dict.fromkeys(str(info[4][0]) for info in infos))


class Resolver:
    def __init__(self) -> None:
        self._answers: dict[Key, tuple[float, tuple[str, ...]]] = {}  # until when, addresses; () is a failure
        self._lookups: dict[Key, asyncio.Task[tuple[str, ...]]] = {}

    async def addresses(self, host: str, family: socket.AddressFamily) -> tuple[str, ...]:
        """At least one numeric address of the family, in the system's order. Raises ResolveError."""
        key = (host.lower().rstrip("."), family)
        until, found = self._answers.get(key, (0.0, ()))
        if time.monotonic() >= until:
            found = await self._shared_lookup(key)
        if not found:
            raise ResolveError(f"{host} has no {'IPv6' if family == socket.AF_INET6 else 'IPv4'} address")
        return found

    async def close(self) -> None:
        lookups = list(self._lookups.values())
        for lookup in lookups:
            lookup.cancel()
        await asyncio.gather(*lookups, return_exceptions=True)

    async def _shared_lookup(self, key: Key) -> tuple[str, ...]:
        lookup = self._lookups.get(key)
        if lookup is None:
            if len(self._lookups) >= MAX_LOOKUPS:
                raise ResolveError("too many look-ups at one time")
            lookup = self._lookups[key] = asyncio.create_task(self._look_up(key))
        return await asyncio.shield(lookup)

    async def _look_up(self, key: Key) -> tuple[str, ...]:
        host, family = key
        try:
            async with asyncio.timeout(LOOKUP_LIMIT):
                found = await system_lookup(host, family)
        except (OSError, UnicodeError, TimeoutError):
            found = ()
        finally:
            del self._lookups[key]
        self._answers.pop(key, None)
        while len(self._answers) >= MAX_NAMES:
            del self._answers[next(iter(self._answers))]
        self._answers[key] = (time.monotonic() + (KEEP if found else KEEP_FAILURE), found)
        return found
