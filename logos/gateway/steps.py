"""Where the time of a request goes inside a gateway: seconds per step, summed, for `logos_step_seconds`.

A handful of float additions per request, so it is always on. No clock of its own: the caller reads it.
"""

from __future__ import annotations

STEPS = ("authenticate", "parse", "resolve", "admit", "place", "open", "upstream", "relay", "settle")


class Steps:
    """Sums since the last `take`. `upstream` is waiting for the endpoint, not work."""

    __slots__ = ("_sums",)

    def __init__(self) -> None:
        self._sums = dict.fromkeys(STEPS, 0.0)

    def add(self, step: str, seconds: float) -> None:
        self._sums[step] += seconds

    def take(self) -> dict[str, float]:
        """The sums since the last call."""
        taken, self._sums = self._sums, dict.fromkeys(STEPS, 0.0)
        return taken
