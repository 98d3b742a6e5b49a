"""Two quantiles of something not yet known, how they add up, and how a quantile is learned that keeps its promise.

What is estimated (a first token, an answer, a wake-up) is the business of the other modules of this room.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from logos.prediction.service import ObservedQuantiles

COVERAGE = 0.9  # what the upper quantile of everything here promises
LEVEL_STEP = 0.02  # how fast the level follows what was covered
PRIOR_FADES = 4  # after so many times its weight, a prior is forgotten
LEVEL_MIN, LEVEL_MAX = 0.5, 0.995
LONGEST_S = 86_400.0  # nothing is expected, or believed, to take longer


class Span(NamedTuple):
    """The median and the 0.9 quantile of a duration in seconds (or of a number of tokens, where it says so)."""

    p50: float
    p90: float

    def then(self, other: Span) -> Span:
        """The two one after the other, as if independent: medians add, the distances to the 0.9 quantile as squares."""
        p50 = self.p50 + other.p50
        return Span(p50, p50 + math.hypot(self.p90 - self.p50, other.p90 - other.p50))

    def less(self, elapsed: float) -> Span:
        """What is left of it when `elapsed` has passed already; never below 0."""
        passed = max(0.0, elapsed)
        return Span(max(0.0, self.p50 - passed), max(0.0, self.p90 - passed))


AT_ONCE = Span(0.0, 0.0)


def is_sensible(value: float, most: float = LONGEST_S) -> bool:
    """Whether a measurement can be learned from: a number, not negative, not beyond `most`."""
    return 0.0 <= value <= most


@dataclass(frozen=True, slots=True)
class CalibrationSnapshot:
    """The last residuals, oldest first, and the level that the upper quantile is taken at."""

    residuals: tuple[float, ...] = ()
    level: float = COVERAGE


class Calibration:
    """Median and upper quantile of the residuals of one predictor, from a bounded window of the last ones.

    The upper one is taken at a level that rises whenever a prediction was exceeded and falls a little whenever it was
    not, so that in the long run the share covered is `COVERAGE` even while the world drifts (adaptive conformal
    inference, Gibbs and Candes 2021).
    """

    __slots__ = ("_level", "_residuals")

    def __init__(self, snapshot: CalibrationSnapshot, window: int) -> None:
        self._residuals = ObservedQuantiles(snapshot.residuals, window)
        self._level = snapshot.level

    def __len__(self) -> int:
        return len(self._residuals)

    def add(self, residual: float, *, covered: bool) -> None:
        """`covered`: the prediction that was made for it was not exceeded."""
        self._residuals.add(residual)
        level = self._level + LEVEL_STEP * (COVERAGE - covered)
        self._level = min(max(level, LEVEL_MIN), LEVEL_MAX)

    def span(self, prior: Span, weight: int) -> Span:
        """Of the residuals; while there are few, as if `weight` more had been seen as `prior` says, fading out."""
        ordered = self._residuals.ordered
        seen = len(ordered)
        if not seen:
            return prior
        share = seen / (seen + max(weight - seen / PRIOR_FADES, 0.0))
        p50 = ordered[(seen - 1) // 2] if seen % 2 else (ordered[seen // 2 - 1] + ordered[seen // 2]) / 2
        p90 = ordered[min(math.ceil(self._level * (seen + 1)), seen) - 1]
        return Span(prior.p50 + share * (p50 - prior.p50), prior.p90 + share * (p90 - prior.p90))

    def snapshot(self) -> CalibrationSnapshot:
        return CalibrationSnapshot(self._residuals.values, self._level)


def span_of(values: ObservedQuantiles) -> Span | None:
    """The two quantiles of what was observed; None if nothing was."""
    p50, p90 = values.quantile(0.5), values.quantile(COVERAGE)
    return None if p50 is None or p90 is None else Span(p50, p90)


def median(values: Iterable[float]) -> float:
    """The lower median of at least one value."""
    ordered = sorted(values)
    return ordered[(len(ordered) - 1) // 2]
