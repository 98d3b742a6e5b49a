from __future__ import annotations

import statistics

from hypothesis import given
from hypothesis import strategies as st

from logos.prediction.service import WINDOW, ObservedQuantiles, ServiceTimes, Transition


def test_nothing_observed_is_nothing_known() -> None:
    times = ServiceTimes()
    assert times.service_p50_s(1) is None
    assert times.output_p50_tokens(1) is None
    assert ObservedQuantiles().median is None
    assert times.transition_s(1, Transition.LOAD) is None


@given(st.lists(st.floats(0.0, 1e6), min_size=1, max_size=3 * WINDOW))
def test_the_median_is_that_of_the_last_observations(values: list[float]) -> None:
    observed = ObservedQuantiles()
    for value in values:
        observed.add(value)
    recent = values[-WINDOW:]
    assert observed.quantile(0.5) == observed.median == statistics.median_low(recent)
    assert observed.values == ObservedQuantiles(values).values == tuple(recent)
    assert (observed.quantile(0.0), observed.quantile(1.0)) == (min(recent), max(recent))


def test_endpoints_are_told_apart_and_forgotten() -> None:
    times = ServiceTimes()
    times.answered(1, 2.0, 100)
    times.answered(2, 8.0, 10)
    assert (times.service_p50_s(1), times.output_p50_tokens(2)) == (2.0, 10.0)
    times.forget(1)
    assert times.service_p50_s(1) is None


def test_figures_that_were_not_taken_are_not_learned() -> None:
    times = ServiceTimes()
    times.answered(1, 0.0, 0)
    assert times.service_p50_s(1) is None
    assert times.output_p50_tokens(1) is None


def test_transition_times_follow_the_newest_slowly() -> None:
    times = ServiceTimes()
    times.transitioned(1, Transition.LOAD, 20.0)
    times.transitioned(1, Transition.LOAD, 30.0)
    assert times.transition_s(1, Transition.LOAD) == 23.0
    assert times.transition_s(1, Transition.WAKE) is None


def test_what_was_written_down_is_restored() -> None:
    times = ServiceTimes()
    for each in range(2 * WINDOW):
        times.answered(each % 3, each / 7, each)
    times.transitioned(1, Transition.LOAD, 20.0)
    times.transitioned(2, Transition.WAKE, 1.0)
    restored = ServiceTimes(times.snapshot())
    assert restored.snapshot() == times.snapshot()
    for each in range(WINDOW):
        times.answered(1, each / 3, each)
        restored.answered(1, each / 3, each)
    assert restored.service_p50_s(1) == times.service_p50_s(1)
