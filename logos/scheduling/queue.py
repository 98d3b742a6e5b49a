"""The queue of one endpoint: classes first, fair shares within a class, and a hard bound on overtaking.

It orders opaque items; which endpoint a request waits at, and when it may go, is decided elsewhere.

Order. A request has a rank (its class: mode, then priority; lower first). Within a rank, start-time fair queueing
(Goyal, Vin, Cheng 1996) over flows: a request starts at S = max(V, F of its flow), its flow's F becomes S + cost, and V
is the start tag last served. So flows with work waiting get equal shares of tokens, whoever sends more requests.

Bound. Requests are numbered on arrival. With b(o) = number(o) + K(o), K >= 0, a request r may be chosen only if
number(r) <= b(o) for every o that waits. The head is the first in order if it may be chosen, else the request with the
smallest b. Claim: at most K(o) later arrivals are chosen before o.

  1. The head may always be chosen. The first in order is tested: number <= min b is the same as number <= every b. The
     request t with the smallest b has number(t) <= b(t) <= b(o) for every waiting o.
  2. Whoever is chosen before o while o waits has a number <= b(o) = number(o) + K(o). Later arrivals have numbers above
     number(o); numbers are used once; so there are at most K(o) of them.

Every operation is O(log n), amortized: removed requests stay in the two heaps until they surface or outnumber the rest.
Who comes to an empty queue is in no heap until a second one comes: where there is room, hardly anybody ever lines up.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")

SLACK = 64  # dead heap entries and idle flows tolerated before they are swept


class Entry(Generic[Item]):
    """A waiting item. `bound` is the highest number that may go before it; `start` is given when it lines up."""

    __slots__ = ("bound", "cost", "deadline", "flow", "is_waiting", "item", "number", "rank", "start", "team")

    def __init__(
        self, item: Item, rank: int, flow: int, team: int, cost: float, deadline: float, number: int, bound: int
    ) -> None:
        self.item = item
        self.rank = rank
        self.flow = flow
        self.team = team
        self.cost = cost
        self.deadline = deadline
        self.start = 0.0
        self.number = number
        self.bound = bound
        self.is_waiting = True


class _Shares:
    """Virtual time within one rank: start tag last served, finish tags of the flows, how many wait."""

    __slots__ = ("finish", "virtual", "waiting")

    def __init__(self) -> None:
        self.virtual = 0.0
        self.finish: dict[int, float] = {}
        self.waiting = 0

    def start(self, flow: int, cost: float) -> float:
        start = max(self.virtual, self.finish.get(flow, 0.0))
        self.finish[flow] = start + cost
        self.waiting += 1
        if len(self.finish) > 2 * self.waiting + SLACK:
            # A flow that finished in the virtual past starts like an unknown one.
            self.finish = {each: tag for each, tag in self.finish.items() if tag > self.virtual}
        return start


class FairQueue(Generic[Item]):
    """Waiting items by id. `len` and iteration (in order of arrival) count what waits."""

    def __init__(self) -> None:
        self._waiting: dict[str, Entry[Item]] = {}
        self._lone: Entry[Item] | None = None  # the one that waits, if it came to an empty queue
        self._bounds: list[tuple[int, int, Entry[Item]]] = []
        self._arrivals = 0
        self._order: list[tuple[int, float, int, Entry[Item]]] = []
        self._shares: dict[int, _Shares] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Item]:
        return iter([entry.item for entry in self._waiting.values()])

    def __contains__(self, item_id: str) -> bool:
        return item_id in self._waiting

    def push(
        self,
        item_id: str,
        item: Item,
        *,
        rank: int,
        flow: int,
        cost: float,
        overtakes: int,
        team: int = 0,
        deadline: float = float("inf"),
    ) -> None:
        """`cost` in tokens, at least 0; `overtakes` is K, at least 0. An id must not wait twice."""
        assert item_id not in self._waiting, item_id
        number = self._arrivals
        self._arrivals += 1
        entry = Entry(item, rank, flow, team, cost, deadline, number, number + overtakes)
        if not self._waiting:
            self._lone = entry
        else:
            if self._lone is not None:
                self._line_up(self._lone)
                self._lone = None
            self._line_up(entry)
        self._waiting[item_id] = entry

    def peek(self) -> Item | None:
        """The item to go next; it stays."""
        head = self._head()
        return head.item if head is not None else None

    def oldest(self) -> Item | None:
        """The item that has waited longest."""
        return next(iter(self._waiting.values())).item if self._waiting else None

    def waiting(self) -> Iterator[Item]:
        """In order of arrival, lazily: nothing may come or go meanwhile."""
        return (entry.item for entry in self._waiting.values())

    def may_go(self, item_id: str) -> bool:
        """Whether the bounds on overtaking let this item go next."""
        entry = self._waiting.get(item_id)
        return entry is not None and (entry is self._lone or entry.number <= self._tightest().bound)

    def pop(self, item_id: str) -> None:
        """`item_id`, the head or one that may go, is served: the virtual time moves on."""
        entry = self._waiting[item_id]
        if entry is not self._lone:
            self._served(entry)
        self.remove(item_id)

    def remove(self, item_id: str) -> None:
        """It leaves without being served. Unknown ids are ignored."""
        entry = self._waiting.pop(item_id, None)
        if entry is None:
            return
        if entry is self._lone:
            self._lone = None
            return
        entry.is_waiting = False
        if len(self._bounds) > 2 * len(self._waiting) + SLACK:
            self._bounds = [each for each in self._bounds if each[2].is_waiting]
            heapq.heapify(self._bounds)
        self._leave(entry)

    def _line_up(self, entry: Entry[Item]) -> None:
        self._enter(entry)
        heapq.heappush(self._bounds, (entry.bound, entry.number, entry))

    def _head(self) -> Entry[Item] | None:
        if self._lone is not None or not self._waiting:
            return self._lone
        first, tightest = self._first(), self._tightest()
        return first if first.number <= tightest.bound else tightest

    def _tightest(self) -> Entry[Item]:
        """The item in line that may be overtaken least. There is one."""
        while not self._bounds[0][2].is_waiting:
            heapq.heappop(self._bounds)
        return self._bounds[0][2]

    # The order, apart from the bound.

    def _enter(self, entry: Entry[Item]) -> None:
        shares = self._shares.get(entry.rank)
        if shares is None:
            shares = self._shares[entry.rank] = _Shares()
        entry.start = shares.start(entry.flow, entry.cost)
        heapq.heappush(self._order, (entry.rank, entry.start, entry.number, entry))

    def _leave(self, entry: Entry[Item]) -> None:
        shares = self._shares[entry.rank]
        shares.waiting -= 1
        if not shares.waiting:
            del self._shares[entry.rank]  # the rank is idle: everybody starts afresh
        if len(self._order) > 2 * len(self._waiting) + SLACK:
            self._order = [each for each in self._order if each[3].is_waiting]
            heapq.heapify(self._order)

    def _first(self) -> Entry[Item]:
        while not self._order[0][3].is_waiting:
            heapq.heappop(self._order)
        return self._order[0][3]

    def _served(self, entry: Entry[Item]) -> None:
        shares = self._shares[entry.rank]
        shares.virtual = max(shares.virtual, entry.start)
