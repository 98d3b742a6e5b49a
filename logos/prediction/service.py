"""Service times, answer lengths and transition times per endpoint, as observed: medians over a bounded window.

What is unknown is None: the caller brings its own prior. Which endpoint should serve a request is not decided here.
"""

from __future__ import annotations

import enum
import math
from array import array
from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass

WINDOW = 128  # observations kept per endpoint: a median over them moves within about 64 requests
SMOOTHING = 0.3  # share of the newest transition in the running average


class Transition(enum.StrEnum):
    """What an engine's time is measured for."""

    LOAD = "load"
    WAKE = "wake"
    SLEEP = "sleep"
    STOP = "stop"


class ObservedQuantiles:
    """The last `window` values of something, kept sorted: O(log n) to find a place, n is small.

    In arrays, because there are many of these: where memory is slow, a search through objects scattered in it takes
    longer than one through numbers. `ordered` is for others to read only.
    """

    __slots__ = ("_oldest", "_recent", "_window", "ordered")

    def __init__(self, values: Sequence[float] = (), window: int = WINDOW) -> None:
        self._window = window
        self._recent = array("d", values[-window:])  # a ring, once it is full
        self._oldest = 0
        self.ordered = array("d", sorted(self._recent))

    def __len__(self) -> int:
        return len(self.ordered)

    def add(self, value: float) -> None:
        recent, ordered = self._recent, self.ordered
        if len(recent) < self._window:
            recent.append(value)
        else:
            oldest = self._oldest
            del ordered[bisect_left(ordered, recent[oldest])]
            recent[oldest] = value
            self._oldest = (oldest + 1) % self._window
        insort(ordered, value)

    def quantile(self, share: float, *, above: float = -math.inf) -> float | None:
        """The smallest observed value that at least `share` (0 to 1) of the observations do not exceed; of those
        `above` a value only, if one is given. None: there are none."""
        first = bisect_right(self.ordered, above) if above != -math.inf else 0
        count = len(self.ordered) - first
        if not count:
            return None
        rank = -int(-share * count // 1)  # rounded up
        return self.ordered[first + min(max(rank, 1), count) - 1]

    @property
    def median(self) -> float | None:
        """The lower one; `quantile(0.5)` in fewer steps. None: there are no observations."""
        ordered = self.ordered
        return ordered[(len(ordered) - 1) // 2] if ordered else None

    @property
    def values(self) -> tuple[float, ...]:
        """Oldest first; what `ObservedQuantiles(values)` is rebuilt from."""
        return (*self._recent[self._oldest :], *self._recent[: self._oldest])


@dataclass(frozen=True, slots=True)
class EndpointSnapshot:
    """What is known of one endpoint, written down."""

    endpoint_id: int
    service_s: tuple[float, ...] = ()
    output_tokens: tuple[float, ...] = ()
    load_s: float | None = None
    wake_s: float | None = None


@dataclass(frozen=True, slots=True)
class ServiceSnapshot:
    """The whole predictor, written down: part of a journal's opening."""

    endpoints: tuple[EndpointSnapshot, ...] = ()


class _EndpointHistory:
    __slots__ = ("output_tokens", "service_s", "transition_s")

    def __init__(self, snapshot: EndpointSnapshot) -> None:
        self.service_s = ObservedQuantiles(snapshot.service_s)
        self.output_tokens = ObservedQuantiles(snapshot.output_tokens)
        self.transition_s: dict[Transition, float] = {}
        if snapshot.load_s is not None:
            self.transition_s[Transition.LOAD] = snapshot.load_s
        if snapshot.wake_s is not None:
            self.transition_s[Transition.WAKE] = snapshot.wake_s


class ServiceTimes:
    """Per endpoint: the median time of a whole answer, its median length, and how long engines take to come."""

    def __init__(self, snapshot: ServiceSnapshot | None = None) -> None:
        known = snapshot.endpoints if snapshot is not None else ()
        self._endpoints = {each.endpoint_id: _EndpointHistory(each) for each in known}

    def answered(self, endpoint_id: int, total_s: float, completion_tokens: int) -> None:
        """A complete answer took `total_s`; 0 tokens means that they were not counted."""
        history = self._history(endpoint_id)
        if total_s > 0:
            history.service_s.add(total_s)
        if completion_tokens > 0:
            history.output_tokens.add(float(completion_tokens))

    def transitioned(self, endpoint_id: int, transition: Transition, seconds: float) -> None:
        known = self._history(endpoint_id).transition_s
        before = known.get(transition)
        known[transition] = seconds if before is None else before + SMOOTHING * (seconds - before)

    def service_p50_s(self, endpoint_id: int) -> float | None:
        history = self._endpoints.get(endpoint_id)
        return history.service_s.median if history else None

    def output_p50_tokens(self, endpoint_id: int) -> float | None:
        history = self._endpoints.get(endpoint_id)
        return history.output_tokens.median if history else None

    def transition_s(self, endpoint_id: int, transition: Transition) -> float | None:
        history = self._endpoints.get(endpoint_id)
        return history.transition_s.get(transition) if history else None

    def forget(self, endpoint_id: int) -> None:
        self._endpoints.pop(endpoint_id, None)

    def snapshot(self) -> ServiceSnapshot:
        return ServiceSnapshot(
            tuple(
                EndpointSnapshot(
                    endpoint_id,
                    history.service_s.values,
                    history.output_tokens.values,
                    history.transition_s.get(Transition.LOAD),
                    history.transition_s.get(Transition.WAKE),
                )
                for endpoint_id, history in self._endpoints.items()
            )
        )

    def _history(self, endpoint_id: int) -> _EndpointHistory:
        history = self._endpoints.get(endpoint_id)
        if history is None:
            history = self._endpoints[endpoint_id] = _EndpointHistory(EndpointSnapshot(endpoint_id))
        return history
