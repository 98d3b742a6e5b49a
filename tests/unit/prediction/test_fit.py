from __future__ import annotations

import random
import statistics
from operator import mul

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logos.prediction.fit import FORGETTING, SPREAD_MIN, TINY, FitSnapshot, LineSnapshot, QuantileFit, Quantiles
from logos.prediction.spans import CalibrationSnapshot

PRIOR = (0.1, 0.001)
TYPICAL = (1.0, 500.0)
PLAIN = st.floats(0.0, 1e6)


def at(theta: list[float], x: tuple[float, float]) -> float:
    return sum(map(mul, theta, x))


def fitted(rows: list[tuple[float, float]]) -> Quantiles:
    """After observations of (feature, y), beside a constant feature."""
    fit = QuantileFit(PRIOR, TYPICAL, 1)
    for feature, y in rows:
        fit.learn((1.0, feature), y)
    return fit.quantiles()


def test_before_anything_was_seen_the_prior_holds() -> None:
    assert tuple(fitted([]).p50) == PRIOR
    assert at(fitted([]).p90, TYPICAL) > at(fitted([]).p50, TYPICAL)


def test_a_line_without_noise_is_found() -> None:
    chance = random.Random(1)
    features = [chance.uniform(10, 4_000) for _ in range(200)]
    p50 = fitted([(each, 0.3 + 0.0002 * each) for each in features]).p50
    assert p50 == pytest.approx((0.3, 0.0002), rel=0.05)


def test_a_prior_that_is_wrong_a_thousandfold_is_overcome_in_a_few_observations() -> None:
    chance = random.Random(2)
    rows = [(each, 1_000 * (0.1 + 0.001 * each)) for each in (chance.uniform(10, 4_000) for _ in range(20))]
    assert at(fitted(rows).p50, TYPICAL) == pytest.approx(600.0, rel=0.3)


def test_a_falling_line_is_taken_as_flat() -> None:
    chance = random.Random(4)
    p50 = fitted([(each, 5.0 - 0.001 * each) for each in (chance.uniform(10, 4_000) for _ in range(400))]).p50
    assert at(p50, (1.0, 10.0)) == pytest.approx(at(p50, (1.0, 4_000.0)), rel=0.3)


def test_one_outlier_moves_little() -> None:
    chance = random.Random(3)
    rows = [(each, 0.3 + 0.0002 * each) for each in (chance.uniform(10, 4_000) for _ in range(100))]
    assert at(fitted([*rows, (500.0, 80_000.0)]).p50, TYPICAL) == pytest.approx(0.4, rel=0.25)


@pytest.mark.parametrize("seed", range(4))
def test_the_upper_quantile_covers_nine_in_ten_while_the_world_drifts(seed: int) -> None:
    """Noise that grows with the feature, is skewed, and becomes four times as slow on the way."""
    chance = random.Random(seed)
    fit = QuantileFit(PRIOR, TYPICAL, 1)
    covered: list[bool] = []
    below: list[bool] = []
    for each in range(3_000):
        x = (1.0, chance.uniform(10, 4_000))
        y = (0.05 + 0.0003 * x[1] * chance.lognormvariate(0.0, 0.3)) * (1.0 + each / 1_000)
        p50, p90 = fit.quantiles()
        covered.append(y <= at(p90, x))
        below.append(y <= at(p50, x))
        fit.learn(x, y)
    assert 0.87 <= statistics.fmean(covered[200:]) <= 0.93
    assert 0.44 <= statistics.fmean(below[200:]) <= 0.56


def test_a_coefficient_that_spreads_more_than_it_measures_does_not_turn_negative() -> None:
    """Everything has become faster at once, and nothing that is known so far explains why."""
    residuals = CalibrationSnapshot((-0.5,) * 100)
    mean, spread = LineSnapshot((0.0, 0.0), (1.0, 0.0)), LineSnapshot((0.0, 0.0), (0.0, 0.001))
    fit = QuantileFit(PRIOR, TYPICAL, 1, FitSnapshot((0.0,) * 4, mean, spread, (residuals,)))
    assert fit.quantiles() == ([1.0 - 0.5 * SPREAD_MIN, 0.0], [1.0 - 0.5 * SPREAD_MIN, 0.0])


@given(
    st.lists(st.tuples(st.just(1.0), st.sampled_from((0.0, 3.0)), st.floats(0.0, 1e3)), min_size=1, max_size=40),
    st.tuples(st.sampled_from((0.0, 1.0)), st.sampled_from((0.0, 7.0)), st.floats(0.0, 1e3)),
)
def test_leaving_out_features_that_are_0_changes_nothing(
    rows: list[tuple[float, float, float]], x: tuple[float, float, float]
) -> None:
    fit = QuantileFit((0.1, 0.5, 0.001), (1.0, 1.0, 500.0), 1)
    for row in rows:
        was_above = fit.learn(row, 0.2 + 0.3 * row[1])
        assert isinstance(was_above, bool)
    p50, p90 = fit.quantiles()
    assert fit.at(x) == pytest.approx((sum(map(mul, p50, x)), sum(map(mul, p90, x))))
    assert [fit.coefficient(each) for each in range(3)] == list(zip(p50, p90, strict=True))
    assert fit.snapshot().gram == pytest.approx(dense_gram(rows))


def dense_gram(rows: list[tuple[float, float, float]]) -> list[float]:
    """As if no feature were ever left out."""
    fit = QuantileFit((0.1, 0.5, 0.001), (1.0, 1.0, 500.0), 1)
    gram = [0.0] * 9
    for x in rows:
        y = 0.2 + 0.3 * x[1]
        middle = max(sum(map(mul, fit.snapshot().mean.theta, x)), TINY)
        scale = 1.0 / max(middle, y) ** 2
        pairs = [left * right for left in x for right in x]
        gram = [FORGETTING * old + scale * new for old, new in zip(gram, pairs, strict=True)]
        fit.learn(x, y)
    return gram


def test_learning_says_whether_more_came_than_was_expected() -> None:
    fit = QuantileFit(PRIOR, TYPICAL, 1)
    expected, _ = fit.at(TYPICAL)
    assert not fit.learn(TYPICAL, expected)
    assert fit.learn(TYPICAL, 2 * expected)


def test_regimes_have_their_own_residuals() -> None:
    chance = random.Random(5)
    fit = QuantileFit(PRIOR, TYPICAL, 2)
    for _ in range(400):
        fit.learn((1.0, 100.0), 1.0, 0)
        fit.learn((1.0, 100.0), chance.uniform(0.0, 2.0), 1)
    steady, noisy = (at(fit.quantiles(regime).p90, (1.0, 100.0)) for regime in (0, 1))
    assert steady < 1.2 < 1.5 < noisy


@given(st.lists(st.tuples(PLAIN, PLAIN), max_size=60))
def test_coefficients_are_never_negative_and_quantiles_never_cross(rows: list[tuple[float, float]]) -> None:
    p50, p90 = fitted(rows)
    assert all(0.0 <= low <= high < float("inf") for low, high in zip(p50, p90, strict=True))


@given(st.lists(st.tuples(PLAIN, PLAIN), max_size=60), st.lists(st.tuples(PLAIN, PLAIN), max_size=10))
def test_a_restored_fit_goes_on_identically(
    before: list[tuple[float, float]], after: list[tuple[float, float]]
) -> None:
    fit = QuantileFit(PRIOR, TYPICAL, 2)
    for each, (feature, y) in enumerate(before):
        fit.learn((1.0, feature), y, each % 2)
    restored = QuantileFit(PRIOR, TYPICAL, 2, fit.snapshot())
    for feature, y in after:
        fit.learn((1.0, feature), y)
        restored.learn((1.0, feature), y)
    assert restored.quantiles() == fit.quantiles()
    assert restored.snapshot() == fit.snapshot()
