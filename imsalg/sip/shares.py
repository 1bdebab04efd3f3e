"""Who shares what there is: a source is one peer, as far as can be told from its address."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from functools import lru_cache
from ipaddress import IPv6Network

Source = Hashable
"""A registered user, as a tuple of one; of everybody else the host, as text."""


@lru_cache(maxsize=4096)
def source_of(host: str) -> str:
    """The source that a numeric host belongs to: itself, or its /64, which is what a subscriber is given."""
    return str(IPv6Network((host.partition("%")[0], 64), strict=False)) if ":" in host else host


def is_stranger(source: Source | None) -> bool:
    """Whether it is known by its host alone. None: nobody's share."""
    return isinstance(source, str)


class Shares:
    """How much of something each source holds, nobody more than `limit`."""

    __slots__ = ("_held", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._held: Counter[Source] = Counter()

    def __len__(self) -> int:
        """How many sources hold something."""
        return len(self._held)

    def full(self, source: Source) -> bool:
        return self._held[source] >= self.limit

    def take(self, source: Source, count: int = 1) -> None:
        self._held[source] += count

    def give_back(self, source: Source, count: int = 1) -> None:
        self._held[source] -= count
        if not self._held[source]:
            del self._held[source]
