"""How many requests come for an endpoint: an arrival rate that forgets, and the reference's score.

A number each and the time it is of, worked out only when asked for. What follows is for the rules of swapping to say.
"""

from __future__ import annotations

import math
from collections import deque

MEMORY_S = 60.0  # an arrival counts exp(-age / this)
RATE_MIN = 0.002  # per second: an endpoint that is declared is asked some time
# The reference's score (scheduling.md section 2).
CYCLE_S = 10.0
FADE = 0.7
ARRIVAL = 1.0
BURST_BONUS = 1.5
BURST_ARRIVALS = 5
BURST_S = 10.0

YOUNG_S = 5.0  # a rate over less than this is not believed to be higher than over this


class Demand:
    """Arrivals per second, the recent ones counting most."""

    __slots__ = ("_at", "_since", "_weight")

    def __init__(self) -> None:
        self._weight = 0.0
        self._at = 0.0
        self._since: float | None = None

    def arrived(self, now: float, requests: int = 1) -> None:
        if self._since is None:
            self._since = self._at = now
        self._weight = self._weight * math.exp((self._at - now) / MEMORY_S) + requests
        self._at = now

    def per_s(self, now: float) -> float:
        """At least `RATE_MIN`."""
        if self._since is None:
            return RATE_MIN
        observed_s = max(now - self._since, YOUNG_S)
        window_s = MEMORY_S * -math.expm1(-observed_s / MEMORY_S)
        return max(self._weight * math.exp((self._at - now) / MEMORY_S) / window_s, RATE_MIN)


class Score:
    """How much a model has been asked for lately. `arrivals` are the last five."""

    __slots__ = ("_cycle", "_value", "arrivals")

    def __init__(self) -> None:
        self._value = 0.0
        self._cycle = 0
        self.arrivals: deque[float] = deque(maxlen=BURST_ARRIVALS)

    def arrived(self, now: float) -> None:
        self.arrivals.append(now)
        is_burst = len(self.arrivals) == BURST_ARRIVALS and self.arrivals[0] > now - BURST_S
        burst = BURST_BONUS if is_burst else 0.0
        self._value = self.at(now) + ARRIVAL + burst

    def at(self, now: float) -> float:
        """The score, faded once for each cycle that has begun since it was last asked for."""
        cycle = int(now // CYCLE_S)
        if cycle != self._cycle:
            self._value *= FADE ** (cycle - self._cycle)
            self._cycle = cycle
        return self._value
