"""Straight lines learned online, with coefficients that are never negative, and their median and 0.9 quantile.

What the features mean is in `pace`. Non-negative coefficients are what makes a forecast monotone: more of anything
never predicts less. A fit costs a few microseconds an observation; evaluating it is one dot product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import mul

from logos.prediction.spans import Calibration, CalibrationSnapshot, Span

FORGETTING = 0.99  # an observation counts half after 69 more
PRIOR_WEIGHT = 2.0  # how many observations the prior of each coefficient is worth
STEP_MAX = 4.0  # one observation counts as at most this many times the predicted, or its inverse, ...
STEP_FREE = 20  # ... after so many observations; before, the prior may be wrong by any factor
SPREAD_OF_PRIOR = 0.3
SPREAD_MIN = 0.005
RESIDUALS = 128
RESIDUAL_PRIOR = Span(0.0, 2.0)  # in units of the mean absolute deviation
RESIDUAL_PRIOR_WEIGHT = 8
TINY = 1e-9

Features = Sequence[float]


@dataclass(frozen=True, slots=True)
class LineSnapshot:
    """The moments (row by row) and the coefficients of a line."""

    gram: tuple[float, ...]
    moments: tuple[float, ...]
    theta: tuple[float, ...]


class Line:
    """y = theta . x with theta >= 0, by least squares of relative errors, older ones counting less.

    Solved by one projected Gauss-Seidel sweep an observation, from where the last one ended. The prior stays in the
    sum as a ridge, so nothing blows up where a feature does not vary.
    """

    __slots__ = ("_gram", "_moments", "_prior", "_ridge", "theta")

    def __init__(self, prior: Features, typical: Features, snapshot: LineSnapshot | None = None) -> None:
        """`typical` is a usual value of each feature: it says how firmly each coefficient is held to its prior."""
        size = len(prior)
        expected = max(sum(map(mul, prior, typical)), TINY)
        self._prior = tuple(prior)
        self._ridge = tuple(PRIOR_WEIGHT * (value / expected) ** 2 for value in typical)
        known = snapshot or LineSnapshot((0.0,) * (size * size), (0.0,) * size, self._prior)
        self._gram, self._moments, self.theta = list(known.gram), list(known.moments), list(known.theta)

    def __call__(self, x: Features) -> float:
        return float(sum(map(mul, self.theta, x)))

    def learn(self, x: Features, y: float, expected: float) -> None:
        """`expected`: the size of y by which its error is judged, above 0."""
        weight = 1.0 / (expected * expected)
        weighted = [weight * value for value in x]
        outer = [left * right for left in weighted for right in x]
        self._gram = [FORGETTING * old + new for old, new in zip(self._gram, outer, strict=True)]
        self._moments = [FORGETTING * old + new * y for old, new in zip(self._moments, weighted, strict=True)]
        self._sweep()

    def snapshot(self) -> LineSnapshot:
        return LineSnapshot(tuple(self._gram), tuple(self._moments), tuple(self.theta))

    def _sweep(self) -> None:
        gram, theta, size = self._gram, self.theta, len(self.theta)
        for i, (moment, ridge, prior) in enumerate(zip(self._moments, self._ridge, self._prior, strict=True)):
            row = gram[i * size : (i + 1) * size]
            own = row[i]
            others = sum(map(mul, row, theta)) - own * theta[i]
            theta[i] = max(0.0, (moment + ridge * prior - others) / (own + ridge))


@dataclass(frozen=True, slots=True)
class QuantileFitSnapshot:
    """A `QuantileFit`, written down."""

    mean: LineSnapshot
    spread: LineSnapshot
    regimes: tuple[CalibrationSnapshot, ...]
    seen: int


class QuantileFit:
    """The median and the 0.9 quantile of y given x: a line for the middle, a line for the mean absolute deviation,
    and calibrated residuals in units of it, kept apart for each `regime` (0, 1, ...) that the caller tells apart.

    `p50[regime]` and `p90[regime]` are coefficients, each at least 0 and each p90 at least its p50.
    """

    __slots__ = ("_mean", "_regimes", "_seen", "_spread", "p50", "p90")

    def __init__(
        self, prior: Features, typical: Features, regimes: int, snapshot: QuantileFitSnapshot | None = None
    ) -> None:
        spread_prior = [SPREAD_OF_PRIOR * value for value in prior]
        known = snapshot
        self._mean = Line(prior, typical, known.mean if known else None)
        self._spread = Line(spread_prior, typical, known.spread if known else None)
        calibrations = known.regimes if known else (CalibrationSnapshot(),) * regimes
        self._regimes = [Calibration(each, RESIDUALS) for each in calibrations]
        self._seen = known.seen if known else 0
        self.p50: list[list[float]] = [[]] * regimes
        self.p90: list[list[float]] = [[]] * regimes
        self._settle()

    def learn(self, x: Features, y: float, regime: int = 0) -> None:
        """x and y must be finite and not negative."""
        middle = max(self._mean(x), TINY)
        deviation = max(self._spread(x), SPREAD_MIN * middle)
        covered = y <= sum(map(mul, self.p90[regime], x)) + TINY
        self._regimes[regime].add((y - middle) / deviation, covered=covered)
        bounded = y if self._seen < STEP_FREE else min(max(y, middle / STEP_MAX), middle * STEP_MAX)
        self._mean.learn(x, bounded, max(middle, bounded, TINY))
        self._spread.learn(x, abs(bounded - middle), max(middle, bounded, TINY))
        self._seen = min(self._seen + 1, STEP_FREE)
        self._settle()

    def snapshot(self) -> QuantileFitSnapshot:
        regimes = tuple(each.snapshot() for each in self._regimes)
        return QuantileFitSnapshot(self._mean.snapshot(), self._spread.snapshot(), regimes, self._seen)

    def _settle(self) -> None:
        """Works out the coefficients of the two quantiles, which is what forecasts are made of."""
        middle = self._mean.theta
        spread = [max(each, SPREAD_MIN * of) for each, of in zip(self._spread.theta, middle, strict=True)]
        for regime, calibration in enumerate(self._regimes):
            low, high = calibration.span(RESIDUAL_PRIOR, RESIDUAL_PRIOR_WEIGHT)
            pairs = list(zip(middle, spread, strict=True))
            p50 = [max(0.0, mean + low * deviation) for mean, deviation in pairs]
            p90 = [mean + high * deviation for mean, deviation in pairs]
            self.p50[regime] = p50
            self.p90[regime] = [max(upper, lower) for upper, lower in zip(p90, p50, strict=True)]
