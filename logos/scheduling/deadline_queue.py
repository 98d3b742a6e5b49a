"""The queue of one endpoint under the policy `slo`: earliest deadline first, within fair shares, overtaking bounded.

Fair shares are start-time fair queueing over keys (see `queue`), with the cost of a request multiplied by the number of
its team's keys that wait, so that teams have equal shares and the keys of a team divide theirs. Instead of the smallest
start tag the earliest deadline goes, but only of those that are at most `AHEAD_TOKENS` ahead of the request that is
furthest behind: who sends little is never held up by it, who sends much can hurry only within that. The bound on
overtaking is the base class's, and holds whatever the order is.
"""

from __future__ import annotations

import heapq
from typing import TypeVar

from logos.scheduling.queue import SLACK, Entry, FairQueue

Item = TypeVar("Item")

AHEAD_TOKENS = 20_000.0


class DeadlineQueue(FairQueue[Item]):
    """Waiting items by id; every operation is O(log n), amortized."""

    def __init__(self) -> None:
        super().__init__()
        self._begin()

    def _begin(self) -> None:
        self._virtual = 0.0
        self._finish: dict[int, float] = {}  # by key
        self._waiting_of: dict[int, dict[int, int]] = {}  # team -> key -> how many wait
        self._by_start: list[tuple[float, int, Entry[Item]]] = []
        self._held: list[tuple[float, int, Entry[Item]]] = []  # too far ahead of the others to go by deadline
        self._eligible: list[tuple[float, int, Entry[Item]]] = []

    def _enter(self, entry: Entry[Item]) -> None:
        self._advance()
        flow, keys = entry.flow, self._waiting_of.setdefault(entry.team, {})
        keys[flow] = keys.get(flow, 0) + 1
        entry.start = max(self._virtual, self._finish.get(flow, 0.0))
        self._finish[flow] = entry.start + entry.cost * len(keys)
        place = (entry.start, entry.number, entry)
        heapq.heappush(self._by_start, place)
        if entry.start > self._virtual + AHEAD_TOKENS:
            heapq.heappush(self._held, place)
        else:
            heapq.heappush(self._eligible, (entry.deadline, entry.number, entry))

    def _leave(self, entry: Entry[Item]) -> None:
        keys = self._waiting_of[entry.team]
        keys[entry.flow] -= 1
        if not keys[entry.flow]:
            del keys[entry.flow]
        if not keys:
            del self._waiting_of[entry.team]
        if not self._waiting:
            self._begin()  # idle: everybody starts afresh
        elif len(self._by_start) > 2 * len(self._waiting) + SLACK:
            self._sweep()

    def _first(self) -> Entry[Item]:
        self._advance()
        reach = self._virtual + AHEAD_TOKENS
        while self._held and (self._held[0][0] <= reach or not self._held[0][2].is_waiting):
            _, number, entry = heapq.heappop(self._held)
            if entry.is_waiting:
                heapq.heappush(self._eligible, (entry.deadline, number, entry))
        while not self._eligible[0][2].is_waiting:
            heapq.heappop(self._eligible)
        return self._eligible[0][2]

    def _served(self, entry: Entry[Item]) -> None:
        """The virtual time follows whoever is furthest behind."""

    def _advance(self) -> None:
        """The virtual time is that of whoever is furthest behind now: whether anybody has looked before must not count,
        so this is made sure of before anybody comes."""
        by_start = self._by_start
        while by_start and not by_start[0][2].is_waiting:
            heapq.heappop(by_start)
        if by_start:
            self._virtual = max(self._virtual, by_start[0][0])

    def _sweep(self) -> None:
        """Dead entries go, and flows that finished in the virtual past, which start like unknown ones."""
        for heap in (self._by_start, self._held, self._eligible):
            heap[:] = [each for each in heap if each[2].is_waiting]
            heapq.heapify(heap)
        self._finish = {flow: tag for flow, tag in self._finish.items() if tag > self._virtual}
