"""How much slower an engine is while another on the same GPUs is busy, told apart from how fast it is at all.

An engine that never runs alone looks just like a slower one. What tells the two apart is contrast: whether a request
that had more company than usual took longer than expected, or one that had less came sooner. What all of them have in
common is the line's (`fit`), which is learned beside it.
"""

from __future__ import annotations

import math

from logos.prediction import priors

STEP = 1.0  # what an error of one, as a logarithm, moves the factor where the company was entirely unusual
ERROR_MAX = 0.5
FACTOR_MAX = 4.0
USUAL_SMOOTHING = 0.02  # share of the newest in the running average of what company is usual


class Slowdown:
    """`factor`: a step takes so many times as long beside a busy engine (at least 1)."""

    __slots__ = ("factor", "usual")

    def __init__(self, factor: float = priors.SLOWDOWN, usual: float = 0.0) -> None:
        self.factor = factor
        self.usual = usual  # the share of their time (0 to 1) that requests had company, of late

    def beside(self, share: float) -> float:
        """How much longer something takes that has company for this share of its time."""
        return 1.0 + share * (self.factor - 1.0)

    def learn(self, share: float, seen_s: float, expected_s: float) -> None:
        """Something with company for this share of its time took `seen_s`; that company expected, `expected_s`."""
        contrast = share - self.usual
        self.usual += USUAL_SMOOTHING * contrast
        if seen_s > 0.0 and expected_s > 0.0:
            error = min(max(math.log(seen_s / expected_s), -ERROR_MAX), ERROR_MAX)
            self.factor = min(max(self.factor + STEP * error * contrast, 1.0), FACTOR_MAX)
