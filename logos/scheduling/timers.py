"""Timers as data: what is due when, and which times the driver has been asked to wake the core at.

Nothing waits here. The core asks with WakeAt and hears Woke; whatever is due runs at the beginning of any event.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable


class Timer:
    """Something to do at a time, unless it is cancelled before."""

    __slots__ = ("action", "at", "is_pending")

    def __init__(self, at: float, action: Callable[[], None]) -> None:
        self.at = at
        self.action = action
        self.is_pending = True


class Timers:
    """A heap of (at, sequence, timer). Cancelled timers stay in it until they surface or outnumber the others."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._sequence = 0
        self._cancelled = 0
        self._asked: list[float] = []

    def add(self, at: float, action: Callable[[], None]) -> Timer:
        timer = Timer(at, action)
        self._sequence += 1
        heapq.heappush(self._heap, (at, self._sequence, timer))
        return timer

    def cancel(self, timer: Timer | None) -> None:
        if timer is None or not timer.is_pending:
            return
        timer.is_pending = False
        self._cancelled += 1
        if self._cancelled > 64 and self._cancelled * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2].is_pending]
            heapq.heapify(self._heap)
            self._cancelled = 0

    def pop_due(self, now: float) -> Timer | None:
        """The earliest timer that is due, if any."""
        if not self._heap or self._heap[0][0] > now:
            return None
        earliest = self.earliest()
        if earliest is None or earliest > now:
            return None
        timer = heapq.heappop(self._heap)[2]
        timer.is_pending = False
        return timer

    def earliest(self) -> float | None:
        while self._heap and not self._heap[0][2].is_pending:
            heapq.heappop(self._heap)
            self._cancelled -= 1
        return self._heap[0][0] if self._heap else None

    def woke(self, now: float) -> None:
        """One of the asked times has come; one that came a little early counts as come, and is asked again."""
        if self._asked:
            heapq.heappop(self._asked)
        while self._asked and self._asked[0] <= now:
            heapq.heappop(self._asked)

    def to_ask(self) -> float | None:
        """The time to ask for now: only if it is earlier than all that are asked for already."""
        if not self._heap or (self._asked and self._asked[0] <= self._heap[0][0]):
            return None
        earliest = self.earliest()
        if earliest is None or (self._asked and self._asked[0] <= earliest):
            return None
        heapq.heappush(self._asked, earliest)
        return earliest

    def __len__(self) -> int:
        return len(self._heap) - self._cancelled
