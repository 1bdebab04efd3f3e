"""Many timers in one heap: start, cancel and expire in O(log n), amortised.

A cancelled timer stays in the heap as an empty shell until it comes to the top, or until the shells are the
majority and the heap is rebuilt; either way it no longer holds what it was for.
"""

from __future__ import annotations

import heapq
from typing import Generic, TypeVar

T = TypeVar("T")


class Running(Generic[T]):
    """One timer that was started: `when` it is due (absolute seconds) and the item it is for."""

    __slots__ = ("item", "when")

    def __init__(self, when: float, item: T) -> None:
        self.when = when
        self.item: T | None = item


class Timers(Generic[T]):
    """`len()` is the number of timers that run. Equal times expire in the order in which they were
    started."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Running[T]]] = []  # no two have the same order
        self._live = 0
        self._order = 0

    def __len__(self) -> int:
        return self._live

    def start(self, when: float, item: T) -> Running[T]:
        """Start a timer that is due at `when`."""
        self._order += 1
        running = Running(when, item)
        heapq.heappush(self._heap, (when, self._order, running))
        self._live += 1
        return running

    def cancel(self, running: Running[T]) -> None:
        """Stop a timer; does nothing if it has expired or was stopped already."""
        if running.item is None:
            return
        running.item = None
        self._live -= 1
        if len(self._heap) > 2 * self._live + 64:
            self._heap = [entry for entry in self._heap if entry[2].item is not None]
            heapq.heapify(self._heap)

    def next(self) -> float | None:
        """When the next timer is due, or None if none runs."""
        heap = self._heap
        while heap and heap[0][2].item is None:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def expired(self, now: float) -> T | None:
        """Take the earliest timer that is due at `now` off the heap; None if there is none."""
        when = self.next()
        if when is None or when > now:
            return None
        _, _, running = heapq.heappop(self._heap)
        item, running.item = running.item, None
        self._live -= 1
        return item
