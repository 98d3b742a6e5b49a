"""Which open place of an endpoint has most free slots, without a look at each.

A heap of upper bounds: whoever gives slots back says so, and what a place has lost since is only noticed when it comes
to the top. So no bound is too low, and the first that is exact names the roomiest place. Every operation is O(log n),
amortized: a bound is corrected at most once for each time that slots were taken. Which place a request should go to is
decided elsewhere.
"""

from __future__ import annotations

import heapq
from typing import Generic, Protocol, TypeVar


class Room(Protocol):
    """Somewhere with slots. Of those of one endpoint each has a `number` of its own, older ones a smaller one."""

    @property
    def number(self) -> int: ...

    @property
    def free(self) -> int: ...


R = TypeVar("R", bound=Room)

SLACK = 64  # void entries tolerated before they are swept


class Roominess(Generic[R]):
    """Places by free slots, the older one first among equals."""

    __slots__ = ("_bounds", "_heap")

    def __init__(self) -> None:
        self._bounds: dict[int, int] = {}  # by number: the bound that counts; other entries of the heap are void
        self._heap: list[tuple[int, int, R]] = []  # (-bound, number, place)

    def __len__(self) -> int:
        """Entries held, void ones included."""
        return len(self._heap)

    def grown(self, place: R) -> None:
        """It may have more free slots than before: it has opened, or some were given back."""
        free, number = place.free, place.number
        if free > self._bounds.get(number, 0):
            self._bounds[number] = free
            heapq.heappush(self._heap, (-free, number, place))
            if len(self._heap) > 2 * len(self._bounds) + SLACK:
                self._sweep()

    def most(self) -> R | None:
        """The place with most free slots; None if none has any."""
        heap, bounds = self._heap, self._bounds
        while heap:
            negative, number, place = heap[0]
            if bounds.get(number) != -negative:
                heapq.heappop(heap)
                continue
            free = place.free
            if free == -negative:
                return place
            if free > 0:
                bounds[number] = free
                heapq.heapreplace(heap, (-free, number, place))
            else:
                del bounds[number]
                heapq.heappop(heap)
        return None

    def _sweep(self) -> None:
        """Void entries go, and all but one for each bound that counts."""
        counting = {entry[1]: entry for entry in self._heap if self._bounds.get(entry[1]) == -entry[0]}
        self._heap = list(counting.values())
        heapq.heapify(self._heap)
