from __future__ import annotations

import random
import statistics

import pytest

from logos.prediction.spans import AT_ONCE, Calibration, CalibrationSnapshot, Span

PRIOR = Span(0.0, 2.0)


def test_one_after_the_other_medians_add_and_spreads_do_not() -> None:
    assert Span(1.0, 4.0).then(Span(2.0, 6.0)) == Span(3.0, 8.0)
    assert Span(1.0, 4.0).then(AT_ONCE) == Span(1.0, 4.0)


@pytest.mark.parametrize(("elapsed", "left"), [(1.0, Span(2.0, 5.0)), (4.0, Span(0.0, 2.0)), (-1.0, Span(3.0, 6.0))])
def test_what_has_passed_is_not_waited_for_again(elapsed: float, left: Span) -> None:
    assert Span(3.0, 6.0).less(elapsed) == left


def test_the_prior_fades_as_residuals_come() -> None:
    calibration = Calibration(CalibrationSnapshot(), 100)
    assert calibration.span(PRIOR, 10) == PRIOR
    for _ in range(10):
        calibration.add(1.0, covered=True)
    assert calibration.span(PRIOR, 10) == Span(10 / 17.5, 1.0 + 7.5 / 17.5)
    for _ in range(30):
        calibration.add(1.0, covered=True)
    assert calibration.span(PRIOR, 10) == Span(1.0, 1.0)


def test_coverage_holds_while_residuals_grow() -> None:
    """A plain window lags behind; the level makes up for it."""
    chance = random.Random(2)
    calibration, covered = Calibration(CalibrationSnapshot(), 100), []
    for each in range(4_000):
        residual = chance.gauss(each / 300, 1.0)
        covered.append(residual <= calibration.span(PRIOR, 10).p90)
        calibration.add(residual, covered=covered[-1])
    assert 0.88 <= statistics.fmean(covered) <= 0.92
