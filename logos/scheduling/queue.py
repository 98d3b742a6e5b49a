"""The queue of one endpoint: classes first, fair shares within a class, and a hard bound on overtaking.

It orders opaque items; which endpoint a request waits at, and when it may go, is decided elsewhere.

Order. A request has a rank (its class: mode, then priority; lower first). Within a rank, start-time fair queueing
(Goyal, Vin, Cheng 1996) over flows: a request starts at S = max(V, F of its flow), its flow's F becomes S + cost, and V
is the start tag last served. So flows with work waiting get equal shares of tokens, whoever sends more requests.

Bound. Let c(o) be how often o has been overtaken: how many that arrived after it were served while it waited. It is
spent when c(o) >= K(o), K >= 0. A request may be chosen only if no older one that waits is spent. The head is the first
in order if it may be chosen, else the oldest that is spent. Claim: c(o) <= K(o), always.

  1. The head may always be chosen: nothing older than the oldest that is spent is spent.
  2. c(o) begins at 0 and grows by one when a later arrival is chosen. While o is spent none may be, so it ends at K(o).

Until somebody is spent, the order alone decides. Who leaves without being served has overtaken nobody.

Counting. If o is older than p and both wait, c(o) >= c(p): whatever overtook p came after o, too, while o waited. So of
those with the same K the oldest is the first to be spent, and only its c is counted. When it leaves, its successor has
been overtaken as often, except by what came between the two; so each that waits keeps how many were served that came
between it and the next, and whoever leaves hands that on to the one before. The search for successors passes each
request once for each K, of which there are a handful.

Every operation is O(log n), amortized: removed requests stay in the heap until they surface or outnumber the rest.
Who comes to an empty queue lines up when a second one comes: where there is room, hardly anybody ever does.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")

SLACK = 64  # dead heap entries and idle flows tolerated before they are swept


class Entry(Generic[Item]):
    """A waiting item. `start` is given when it lines up, between `before` and `after`; `passed` were served that came
    between it and the next."""

    __slots__ = (
        "after",
        "before",
        "cost",
        "deadline",
        "flow",
        "is_waiting",
        "item",
        "number",
        "overtakes",
        "passed",
        "rank",
        "start",
        "team",
    )

    def __init__(
        self, item: Item, rank: int, flow: int, team: int, cost: float, deadline: float, number: int, overtakes: int
    ) -> None:
        self.item = item
        self.rank = rank
        self.flow = flow
        self.team = team
        self.cost = cost
        self.deadline = deadline
        self.start = 0.0
        self.number = number
        self.overtakes = overtakes
        self.before: Entry[Item] | None = None
        self.after: Entry[Item] | None = None
        self.passed = 0
        self.is_waiting = True


class _Oldest(Generic[Item]):
    """Of those that may be overtaken equally often: the oldest, and how often it has been."""

    __slots__ = ("entry", "overtaken")

    def __init__(self, entry: Entry[Item]) -> None:
        self.entry = entry
        self.overtaken = 0


class _Line(Generic[Item]):
    """Who waits in order of arrival, and who of them may not be overtaken any more: the oldest that is `spent`."""

    __slots__ = ("_oldest", "_youngest", "spent")

    def __init__(self) -> None:
        self._youngest: Entry[Item] | None = None
        self._oldest: dict[int, _Oldest[Item]] = {}  # by K
        self.spent: Entry[Item] | None = None

    def append(self, entry: Entry[Item]) -> None:
        last = self._youngest
        if last is not None:
            last.after = entry
            entry.before = last
        self._youngest = entry
        if entry.overtakes not in self._oldest:
            self._oldest[entry.overtakes] = _Oldest(entry)
            if entry.overtakes == 0 and self.spent is None:
                self.spent = entry

    def leave(self, entry: Entry[Item], overtook: int) -> None:
        """It was served, so it `overtook` whoever is older: 1; or it was not: 0."""
        before, after = entry.before, entry.after
        if after is None:
            self._youngest = before
        else:
            after.before = before
        if before is not None:
            before.after = after
            before.passed += entry.passed + overtook
        oldest = self._oldest[entry.overtakes]
        if oldest.entry is entry:
            self._succeed(oldest)
        entry.before = entry.after = None  # those that have left must not keep each other
        self._count(entry.number, overtook)

    def _succeed(self, oldest: _Oldest[Item]) -> None:
        gone: Entry[Item] = oldest.entry
        overtaken, each = oldest.overtaken - gone.passed, gone.after
        while each is not None and each.overtakes != gone.overtakes:
            overtaken -= each.passed
            each = each.after
        if each is None:
            del self._oldest[gone.overtakes]
        else:
            oldest.entry, oldest.overtaken = each, overtaken

    def _count(self, number: int, overtook: int) -> None:
        spent: Entry[Item] | None = None
        for overtakes, oldest in self._oldest.items():
            entry = oldest.entry
            if entry.number < number:
                oldest.overtaken += overtook
            if oldest.overtaken >= overtakes and (spent is None or entry.number < spent.number):
                spent = entry
        self.spent = spent


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
        self._line: _Line[Item] = _Line()
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
        entry = Entry(item, rank, flow, team, cost, deadline, number, overtakes)
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
        return entry is not None and self._may_go(entry)

    def pop(self, item_id: str) -> None:
        """`item_id`, the head or one that may go, is served: the virtual time moves on."""
        entry = self._waiting[item_id]
        if entry is not self._lone:
            self._served(entry)
        self._depart(item_id, entry, overtook=1)

    def remove(self, item_id: str) -> None:
        """It leaves without being served. Unknown ids are ignored."""
        entry = self._waiting.get(item_id)
        if entry is not None:
            self._depart(item_id, entry, overtook=0)

    def _depart(self, item_id: str, entry: Entry[Item], *, overtook: int) -> None:
        del self._waiting[item_id]
        if entry is self._lone:
            self._lone = None
            return
        entry.is_waiting = False
        self._line.leave(entry, overtook)
        self._leave(entry)

    def _line_up(self, entry: Entry[Item]) -> None:
        self._enter(entry)
        self._line.append(entry)

    def _head(self) -> Entry[Item] | None:
        if self._lone is not None or not self._waiting:
            return self._lone
        first = self._first()
        return first if self._may_go(first) else self._line.spent

    def _may_go(self, entry: Entry[Item]) -> bool:
        spent = self._line.spent
        return spent is None or entry.number <= spent.number

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
