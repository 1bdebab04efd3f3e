"""Many timers: start, cancel and expire in O(log n), amortised, and mostly in O(1).

Who is due after all the others waits at the end of a line, whoever comes between them in a heap. Where most
last equally long, longer than the rest, as a transaction's 64*T1, they are all in the line.

A cancelled timer stays where it is as an empty shell until its turn comes, or until the shells are the
majority and are thrown out; either way it no longer holds what it was for.
"""

from __future__ import annotations

import heapq
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


def earliest(*times: float | None) -> float | None:
    """The first of some times; None where there is none."""
    first: float | None = None
    for time in times:
        if time is not None and (first is None or time < first):
            first = time
    return first


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
        self._line: deque[tuple[float, int, Running[T]]] = deque()  # no two have the same order
        self._heap: list[tuple[float, int, Running[T]]] = []
        self._live = 0
        self._order = 0

    def __len__(self) -> int:
        return self._live

    def start(self, when: float, item: T) -> Running[T]:
        """Start a timer that is due at `when`."""
        self._order += 1
        running = Running(when, item)
        if not self._line or when >= self._line[-1][0]:
            self._line.append((when, self._order, running))
        else:
            heapq.heappush(self._heap, (when, self._order, running))
        self._live += 1
        return running

    def cancel(self, running: Running[T]) -> None:
        """Stop a timer; does nothing if it has expired or was stopped already."""
        if running.item is None:
            return
        running.item = None
        self._live -= 1
        if len(self._line) + len(self._heap) > 2 * self._live + 64:
            self._line = deque(entry for entry in self._line if entry[2].item is not None)
            self._heap = [entry for entry in self._heap if entry[2].item is not None]
            heapq.heapify(self._heap)

    def next(self) -> float | None:
        """When the next timer is due, or None if none runs."""
        line, heap = self._line, self._heap
        while line and line[0][2].item is None:
            line.popleft()
        while heap and heap[0][2].item is None:
            heapq.heappop(heap)
        if line and heap:
            return min(line[0][0], heap[0][0])
        return line[0][0] if line else heap[0][0] if heap else None

    def expired(self, now: float) -> T | None:
        """Take the earliest timer that is due at `now`; None if there is none."""
        when = self.next()
        if when is None or when > now:
            return None
        line, heap = self._line, self._heap
        from_heap = not line or (heap and heap[0] < line[0])
        _, _, running = heapq.heappop(heap) if from_heap else line.popleft()
        item, running.item = running.item, None
        self._live -= 1
        return item
