"""Arrival rates that forget, and the reference's score of a model."""

from __future__ import annotations

import math

import pytest

from logos.scheduling.demand import MEMORY_S, RATE_MIN, YOUNG_S, Demand, Score


@pytest.mark.parametrize("per_s", [0.05, 1.0, 20.0])
def test_even_arrivals_are_measured_as_what_they_are(per_s: float) -> None:
    demand = Demand()
    for number in range(int(600 * per_s)):
        demand.arrived(number / per_s)
    assert demand.per_s(600.0) == pytest.approx(per_s, rel=0.2)


def test_a_rate_is_right_from_early_on_and_not_only_after_a_minute() -> None:
    demand = Demand()
    for number in range(20):
        demand.arrived(float(number))
    assert demand.per_s(20.0) == pytest.approx(1.0, rel=0.1)


def test_nobody_is_never_asked_for() -> None:
    demand = Demand()
    assert demand.per_s(0.0) == RATE_MIN
    demand.arrived(0.0)
    assert demand.per_s(10_000.0) == RATE_MIN


def test_a_first_arrival_is_not_taken_for_a_flood() -> None:
    demand = Demand()
    demand.arrived(0.0)
    assert demand.per_s(0.0) == pytest.approx(demand.per_s(YOUNG_S) * math.exp(YOUNG_S / MEMORY_S))
    assert 1.0 / YOUNG_S <= demand.per_s(0.0) < 1.1 / YOUNG_S


def test_what_is_long_ago_counts_less() -> None:
    demand = Demand()
    for number in range(600):
        demand.arrived(float(number))
    before = demand.per_s(600.0)
    assert demand.per_s(600.0 + MEMORY_S) == pytest.approx(before / math.e, rel=0.01)


def test_several_arrivals_at_once_count_each() -> None:
    one_by_one, together = Demand(), Demand()
    for _ in range(7):
        one_by_one.arrived(3.0)
    together.arrived(3.0, 7)
    assert together.per_s(4.0) == one_by_one.per_s(4.0)


def test_each_arrival_adds_one_to_the_score() -> None:
    score = Score()
    for at in (1.0, 2.0, 3.0):
        score.arrived(at)
    assert score.at(4.0) == 3.0


def test_from_the_fifth_arrival_within_ten_seconds_on_each_adds_more() -> None:
    score = Score()
    for at in (1.0, 2.0, 3.0, 4.0):
        score.arrived(at)
    assert score.at(4.0) == 4.0
    score.arrived(5.0)
    assert score.at(5.0) == 4.0 + 2.5
    score.arrived(6.0)
    assert score.at(6.0) == 4.0 + 2.5 + 2.5


def test_five_arrivals_in_more_than_ten_seconds_are_no_burst() -> None:
    score = Score()
    for at in (20.0, 22.4, 24.8, 27.2, 29.9):
        score.arrived(at)
    assert score.at(29.9) == 5.0 + 1.5
    slow = Score()
    for at in (11.0, 14.0, 17.0, 20.5, 21.0):
        slow.arrived(at)
    assert slow.at(21.0) == pytest.approx(3.0 * 0.7 + 2.0)


def test_the_score_fades_by_three_tenths_with_each_cycle_of_ten_seconds() -> None:
    score = Score()
    score.arrived(9.0)
    assert score.at(9.9) == 1.0
    assert score.at(10.0) == pytest.approx(0.7)
    assert score.at(19.9) == pytest.approx(0.7)
    assert score.at(40.0) == pytest.approx(0.7**4)


def test_only_the_last_arrivals_are_kept() -> None:
    score = Score()
    for number in range(1000):
        score.arrived(number / 100)
    assert len(score.arrivals) == 5
