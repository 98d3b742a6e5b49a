"""Straight lines learned online, with coefficients that are never negative, and their median and 0.9 quantile.

What the features mean is in `pace`. Coefficients that are not negative are what makes a forecast monotone: more of
anything never predicts less. An observation costs some 20 microseconds; a forecast is one dot product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import mul
from typing import NamedTuple

from logos.prediction.spans import Calibration, CalibrationSnapshot, Span

FORGETTING = 0.993  # an observation counts half after 69 more
PRIOR_WEIGHT = 2.0  # how many observations the prior of each coefficient is worth
SPREAD_OF_PRIOR = 0.3
SPREAD_MIN = 0.005
RESIDUALS = 128
RESIDUAL_PRIOR = Span(0.0, 2.0)  # in units of the mean absolute deviation
RESIDUAL_PRIOR_WEIGHT = 8
TINY = 1e-9

Features = Sequence[float]


@dataclass(frozen=True, slots=True)
class LineSnapshot:
    """The moments and the coefficients of a line."""

    moments: tuple[float, ...]
    theta: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class FitSnapshot:
    """A `QuantileFit`, written down; `gram` row by row."""

    gram: tuple[float, ...]
    mean: LineSnapshot
    spread: LineSnapshot
    regimes: tuple[CalibrationSnapshot, ...]


class Quantiles(NamedTuple):
    """The coefficients of a median and of a 0.9 quantile."""

    p50: list[float]
    p90: list[float]


class Line:
    """y = theta . x with theta >= 0: the right-hand side of the normal equations, and their solution so far."""

    __slots__ = ("_moments", "_prior", "theta")

    def __init__(self, prior: Features, snapshot: LineSnapshot | None) -> None:
        self._prior = tuple(prior)
        self._moments = list(snapshot.moments) if snapshot else [0.0] * len(prior)
        self.theta = list(snapshot.theta) if snapshot else list(prior)

    def learn(self, weighted: Features, y: float, rows: Sequence[Features], ridge: Features) -> None:
        """`rows` of the Gram matrix with this observation in it. One projected Gauss-Seidel sweep from where the last
        one ended; the prior stays in the sum as a ridge, so nothing blows up where a feature does not vary."""
        theta = self.theta
        self._moments = [FORGETTING * old + new * y for old, new in zip(self._moments, weighted, strict=True)]
        for i, weight in enumerate(weighted):
            if weight:  # nothing new is known of the others
                row, held = rows[i], ridge[i]
                others = sum(map(mul, row, theta)) - row[i] * theta[i]
                theta[i] = max(0.0, (self._moments[i] + held * self._prior[i] - others) / (row[i] + held))

    def snapshot(self) -> LineSnapshot:
        return LineSnapshot(tuple(self._moments), tuple(self.theta))


class QuantileFit:
    """The median and the 0.9 quantile of y given x: a line for the middle, a line for the mean absolute deviation,
    and calibrated residuals in units of it, kept apart for each `regime` (0, 1, ...) that the caller tells apart.

    Both lines are least squares of relative errors, older ones counting less.
    """

    __slots__ = ("_mean", "_quantiles", "_regimes", "_ridge", "_rows", "_spread")

    def __init__(self, prior: Features, typical: Features, regimes: int, snapshot: FitSnapshot | None = None) -> None:
        """`typical` is a usual value of each feature: it says how firmly each coefficient is held to its prior."""
        size, known = len(prior), snapshot
        expected = max(sum(map(mul, prior, typical)), TINY)
        self._ridge = [PRIOR_WEIGHT * (value / expected) ** 2 for value in typical]
        gram = known.gram if known else (0.0,) * (size * size)
        self._rows = [list(gram[i : i + size]) for i in range(0, size * size, size)]
        self._mean = Line(prior, known.mean if known else None)
        self._spread = Line([SPREAD_OF_PRIOR * value for value in prior], known.spread if known else None)
        calibrations = known.regimes if known else (CalibrationSnapshot(),) * regimes
        self._regimes = [Calibration(each, RESIDUALS) for each in calibrations]
        self._quantiles: list[Quantiles | None] = [None] * regimes  # worked out when asked for

    def quantiles(self, regime: int = 0) -> Quantiles:
        """The coefficients of both quantiles, each at least 0, and each of the 0.9 quantile at least the median's."""
        known = self._quantiles[regime]
        if known is None:
            known = self._quantiles[regime] = self._settle(regime)
        return known

    def learn(self, x: Features, y: float, regime: int = 0) -> None:
        """x and y must be finite and not negative."""
        middle = max(sum(map(mul, self._mean.theta, x)), TINY)
        deviation = max(sum(map(mul, self._spread.theta, x)), SPREAD_MIN * middle)
        covered = y <= sum(map(mul, self.quantiles(regime).p90, x)) + TINY
        self._regimes[regime].add((y - middle) / deviation, covered=covered)
        scale = 1.0 / max(middle, y) ** 2  # no error counts as more than 1, so no outlier as more than a usual value
        weighted = [scale * value for value in x]
        self._rows = [
            [FORGETTING * old + left * right for old, right in zip(row, x, strict=True)]
            for row, left in zip(self._rows, weighted, strict=True)
        ]
        self._mean.learn(weighted, y, self._rows, self._ridge)
        self._spread.learn(weighted, abs(y - middle), self._rows, self._ridge)
        self._quantiles = [None] * len(self._quantiles)

    def snapshot(self) -> FitSnapshot:
        gram = tuple(value for row in self._rows for value in row)
        regimes = tuple(each.snapshot() for each in self._regimes)
        return FitSnapshot(gram, self._mean.snapshot(), self._spread.snapshot(), regimes)

    def _settle(self, regime: int) -> Quantiles:
        low, high = self._regimes[regime].span(RESIDUAL_PRIOR, RESIDUAL_PRIOR_WEIGHT)
        p50: list[float] = []
        p90: list[float] = []
        for mean, spread in zip(self._mean.theta, self._spread.theta, strict=True):
            deviation = max(spread, SPREAD_MIN * mean)
            p50.append(max(0.0, mean + low * deviation))
            p90.append(max(p50[-1], mean + high * deviation))
        return Quantiles(p50, p90)
