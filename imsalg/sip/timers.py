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

    __slots__ = ("item", "order", "when")

    def __init__(self, when: float, order: int, item: T) -> None:
        self.when = when
        self.order = order
        self.item: T | None = item

    def __lt__(self, other: Running[T]) -> bool:
        return (self.when, self.order) < (other.when, other.order)


class Timers(Generic[T]):
    """`len()` is the number of timers that run. Equal times expire in the order in which they were
    started."""

    def __init__(self) -> None:
        self._heap: list[Running[T]] = []
        self._live = 0
        self._order = 0

    def __len__(self) -> int:
        return self._live

    def start(self, when: float, item: T) -> Running[T]:
        """Start a timer that is due at `when`."""
        self._order += 1
        running = Running(when, self._order, item)
        heapq.heappush(self._heap, running)
        self._live += 1
        return running

    def cancel(self, running: Running[T]) -> None:
        """Stop a timer; does nothing if it has expired or was stopped already."""
        if running.item is None:
            return
        running.item = None
        self._live -= 1
        if len(self._heap) > 2 * self._live + 64:
            self._heap = [entry for entry in self._heap if entry.item is not None]
            heapq.heapify(self._heap)

    def next(self) -> float | None:
        """When the next timer is due, or None if none runs."""
        heap = self._heap
        while heap and heap[0].item is None:
            heapq.heappop(heap)
        return heap[0].when if heap else None

    def expired(self, now: float) -> T | None:
        """Take the earliest timer that is due at `now` off the heap; None if there is none."""
        when = self.next()
        if when is None or when > now:
            return None
        running = heapq.heappop(self._heap)
        item, running.item = running.item, None
        self._live -= 1
        return item
