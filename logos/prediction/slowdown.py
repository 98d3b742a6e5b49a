"""How much slower an engine is while another on the same GPUs is busy, told apart from how fast it is at all.

An engine that never runs alone looks just like a slower one. What tells the two apart is contrast: whether a request
that had more company than usual took longer than expected, or one that had less came sooner. What all of them have in
common is the line's (`fit`), which is learned beside it. Only at the beginning, when nothing is usual yet and the line
is no more than a prior, half of what is unexpected of a request with company is put down to that company.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from logos.prediction import priors

SOONEST_S = 1e-9  # nothing that counts takes less
ERROR_MAX = 0.5
FACTOR_MAX = 4.0
USUAL_SMOOTHING = 0.02  # share of the newest in the running average of what company is usual


@dataclass(frozen=True, slots=True)
class SlowdownSnapshot:
    """`Slowdown`, written down."""

    factor: float
    usual: float | None


class Slowdown:
    """`factor`: beside a busy engine, something takes so many times as long (at least 1)."""

    __slots__ = ("_step", "factor", "usual")

    def __init__(self, step: float, snapshot: SlowdownSnapshot | None = None) -> None:
        """`step`: what an error of one, as a logarithm, moves the factor where the company was entirely unusual."""
        self._step = step
        self.factor = snapshot.factor if snapshot else priors.SLOWDOWN
        self.usual = snapshot.usual if snapshot else None  # the share of the time (0 to 1) with company, of late

    def beside(self, share: float) -> float:
        """How much longer something takes that has company for this share of its time."""
        return 1.0 + share * (self.factor - 1.0)

    def learn(self, share: float, seen_s: float, expected_s: float) -> None:
        """Something with company for this share of its time took `seen_s`; that company expected, `expected_s`."""
        usual = self.usual if self.usual is not None else share / 2.0
        contrast = share - usual
        self.usual = usual + USUAL_SMOOTHING * contrast
        if contrast and seen_s > SOONEST_S and expected_s > SOONEST_S:
            error = min(max(math.log(seen_s / expected_s), -ERROR_MAX), ERROR_MAX)
            self.factor = min(max(self.factor + self._step * error * contrast, 1.0), FACTOR_MAX)

    def snapshot(self) -> SlowdownSnapshot:
        return SlowdownSnapshot(self.factor, self.usual)
