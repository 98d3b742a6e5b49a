"""What happens when: the heap of a discrete-event simulation, and its clock.

The only place where simulated time moves. It knows nothing of what the entries mean.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from typing import Any


class Agenda:
    """A heap of (at, sequence, action, argument): equal times happen in the order in which they were entered."""

    __slots__ = ("_heap", "_sequence", "now")

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[tuple[float, int, Callable[[Any], None], Any]] = []
        self._sequence = 0

    def __len__(self) -> int:
        return len(self._heap)

    def at(self, at: float, action: Callable[[Any], None], argument: Any = None) -> None:
        """Does `action(argument)` at that time, or now if it is over."""
        self._sequence += 1
        heapq.heappush(self._heap, (max(self.now, at), self._sequence, action, argument))

    def next_at(self) -> float:
        """When the next entry is due; infinity if there is none."""
        return self._heap[0][0] if self._heap else math.inf

    def proceed(self) -> None:
        """Moves the clock to the next entry and does it. Raises IndexError if there is none."""
        self.now, _, action, argument = heapq.heappop(self._heap)
        action(argument)
