"""Straight lines learned online, with coefficients that are never negative, and their median and 0.9 quantile.

What the features mean is in `pace`. Coefficients that are not negative are what makes a forecast monotone: more of
anything never predicts less. An observation costs some 20 microseconds; a forecast is two dot products.
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

    p50: Sequence[float]
    p90: Sequence[float]


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
        theta, moments, prior = self.theta, self._moments, self._prior
        for i, weight in enumerate(weighted):
            if not weight:  # nothing new is known of it
                moments[i] *= FORGETTING
                continue
            moments[i] = moment = FORGETTING * moments[i] + weight * y
            row, held = rows[i], ridge[i]
            own = row[i]
            others = sum(map(mul, row, theta)) - own * theta[i]
            theta[i] = max(0.0, (moment + held * prior[i] - others) / (own + held))

    def snapshot(self) -> LineSnapshot:
        return LineSnapshot(tuple(self._moments), tuple(self.theta))


class QuantileFit:
    """The median and the 0.9 quantile of y given x: a line for the middle, a line for the mean absolute deviation,
    and calibrated residuals in units of it, kept apart for each `regime` (0, 1, ...) that the caller tells apart.

    Both lines are least squares of relative errors, older ones counting less.
    """

    __slots__ = ("_mean", "_quantiles", "_regimes", "_residuals", "_ridge", "_rows", "_spread")

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
        # Worked out when asked for, and again when something has been learned since.
        self._residuals: list[Span | None] = [None] * len(self._regimes)
        self._quantiles: list[Quantiles | None] = [None] * len(self._regimes)

    def quantiles(self, regime: int = 0) -> Quantiles:
        """The coefficients of both quantiles, each at least 0, and each of the 0.9 quantile at least the median's."""
        return self._quantiles[regime] or self._settle(regime)

    def coefficient(self, feature: int, regime: int = 0) -> tuple[float, float]:
        """That of one feature, in the median and in the 0.9 quantile."""
        p50, p90 = self._quantiles[regime] or self._settle(regime)
        return p50[feature], p90[feature]

    def median(self, x: Features, regime: int = 0) -> float:
        """That of y."""
        p50, _ = self._quantiles[regime] or self._settle(regime)
        found: float = sum(map(mul, p50, x))
        return found

    def at(self, x: Features, regime: int = 0) -> tuple[float, float]:
        """The median and the 0.9 quantile of y."""
        p50, p90 = self._quantiles[regime] or self._settle(regime)
        return sum(map(mul, p50, x)), sum(map(mul, p90, x))

    def learn(self, x: Features, y: float, regime: int = 0) -> bool:
        """x and y must be finite and not negative. Whether y was above the median that was expected."""
        p50, p90 = self.at(x, regime)
        middle = max(sum(map(mul, self._mean.theta, x)), TINY)
        deviation = max(sum(map(mul, self._spread.theta, x)), SPREAD_MIN * middle)
        self._regimes[regime].add((y - middle) / deviation, covered=y <= p90 + TINY)
        self._residuals[regime] = None
        self._quantiles = [None] * len(self._regimes)
        scale = 1.0 / max(middle, y) ** 2  # no error counts as more than 1, so no outlier as more than a usual value
        weighted = [scale * value for value in x]
        rows = self._rows
        for i, left in enumerate(weighted):
            if left:
                rows[i] = [FORGETTING * old + left * right for old, right in zip(rows[i], x, strict=True)]
            elif rows[i][i]:  # else it has always been 0, and so is the row
                rows[i] = [FORGETTING * old for old in rows[i]]
        self._mean.learn(weighted, y, rows, self._ridge)
        self._spread.learn(weighted, abs(y - middle), rows, self._ridge)
        return y > p50

    def snapshot(self) -> FitSnapshot:
        gram = tuple(value for row in self._rows for value in row)
        regimes = tuple(each.snapshot() for each in self._regimes)
        return FitSnapshot(gram, self._mean.snapshot(), self._spread.snapshot(), regimes)

    def _settle(self, regime: int) -> Quantiles:
        residuals = self._residuals[regime]
        if residuals is None:
            residuals = self._regimes[regime].span(RESIDUAL_PRIOR, RESIDUAL_PRIOR_WEIGHT)
            self._residuals[regime] = residuals
        low, high = residuals
        p50, p90 = [], []
        for mean, spread in zip(self._mean.theta, self._spread.theta, strict=True):
            least = SPREAD_MIN * mean
            deviation = spread if spread > least else least
            middle = mean + low * deviation
            middle = middle if middle > 0.0 else 0.0
            upper = mean + high * deviation
            p50.append(middle)
            p90.append(upper if upper > middle else middle)
        known = self._quantiles[regime] = Quantiles(p50, p90)
        return known
