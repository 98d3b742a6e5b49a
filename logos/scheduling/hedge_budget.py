"""How many requests may still get a second place: a share of those that came, never more over any beginning of a run.

Each request adds the share, each hedge takes one. What was not used is kept for a while only, so a quiet hour does not
pay for a burst. Whether a request deserves a hedge is decided in `hedging`.
"""

from __future__ import annotations

KEPT_REQUESTS = 400  # the unused share of so many is kept, or one hedge where that is more


class HedgeBudget:
    """`share` from 0 to 1: at most so many hedges per request."""

    __slots__ = ("_allowance", "_allowance_max", "_share", "requests", "sent")

    def __init__(self, share: float) -> None:
        self._share = share
        self._allowance = 0.0
        self._allowance_max = max(share * KEPT_REQUESTS, 1.0)
        self.requests = 0
        self.sent = 0

    @property
    def is_open(self) -> bool:
        """Whether hedges are sent at all."""
        return self._share > 0.0

    @property
    def has_room(self) -> bool:
        return self._allowance >= 1.0

    def arrived(self) -> None:
        """One more request has come."""
        self.requests += 1
        self._allowance = min(self._allowance + self._share, self._allowance_max)

    def spend(self) -> None:
        """One hedge is sent."""
        self.sent += 1
        self._allowance -= 1.0
