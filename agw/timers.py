"""Which of many is due next, where most are moved long before they are due (no IO, no clock)."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Hashable
from typing import Generic, TypeVar

SPARE = 64  # times in the heap that are none any more, besides as many as there are

Key = TypeVar("Key", bound=Hashable)


class Timers(Generic[Key]):
    """One time for each key. A time that was moved stays in the heap until it has passed, or until such are
    the majority, and is known by the number that it has there."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Key]] = []
        self._set: dict[Key, tuple[float, int]] = {}
        self._numbers = itertools.count()

    def set(self, key: Key, at: float | None) -> None:
        """None: it is not waited for."""
        if at is None:
            self._set.pop(key, None)
        elif key not in self._set or self._set[key][0] != at:
            number = next(self._numbers)
            self._set[key] = at, number
            heapq.heappush(self._heap, (at, number, key))
            if len(self._heap) > 2 * len(self._set) + SPARE:
                self._heap = [(at, number, key) for key, (at, number) in self._set.items()]
                heapq.heapify(self._heap)

    def timeout(self) -> float | None:
        while self._heap and self._set.get(self._heap[0][2]) != self._heap[0][:2]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def due(self, now: float) -> list[Key]:
        """Those whose time has come; they have none any more."""
        keys: list[Key] = []
        while (at := self.timeout()) is not None and at <= now:
            key = heapq.heappop(self._heap)[2]
            del self._set[key]
            keys.append(key)
        return keys
