"""How much neighbours slow an engine is told apart from how fast it is."""

from __future__ import annotations

import math
import random

import pytest

from logos.prediction import priors
from logos.prediction.pace import Company, Pace, Situation
from logos.prediction.priors import Size
from logos.prediction.slowdown import FACTOR_MAX, Slowdown

SIZE = Size(8.0, 5.0)


def taught(slowdown: float, answers: int, *, hardware: float = 1.0) -> Pace:
    """A pace that has seen so many answers, one in eight of which had company for a part of its time only; everything
    took `hardware` times as long as it may have been expected to."""
    chance = random.Random(3)
    pace = Pace(SIZE)
    for number in range(answers):
        beside = chance.uniform(0.1, 0.9) if number % 8 == 0 else 1.0
        batch = chance.uniform(1.0, 20.0)
        token_s = hardware * (0.027 + 0.0015 * batch) * (1.0 + beside * (slowdown - 1.0)) * chance.uniform(0.97, 1.03)
        pace.learn_rest(101, 0.1, 0.1 + 100.0 * token_s, Company(batch, beside))
    return pace


@pytest.mark.parametrize("slowdown", [1.0, 1.25, 2.0])
def test_an_engine_that_is_hardly_ever_alone_is_not_taken_for_a_slower_one(slowdown: float) -> None:
    pace = taught(slowdown, 200)
    assert pace.tpot(8, 1).p50 / pace.tpot(8).p50 == pytest.approx(slowdown, rel=0.1)
    assert pace.tpot(8).p50 == pytest.approx(0.027 + 0.0015 * 8, rel=0.1)


@pytest.mark.parametrize("hardware", [0.5, 2.0])
def test_an_engine_that_is_slower_or_faster_than_its_size_says_is_not_put_down_to_its_neighbours(
    hardware: float,
) -> None:
    pace = taught(1.25, 300, hardware=hardware)
    assert pace.tpot(8, 1).p50 / pace.tpot(8).p50 == pytest.approx(1.25, rel=0.1)


def test_after_fifty_answers_more_than_half_of_it_is_known() -> None:
    pace = taught(2.0, 50)
    assert pace.tpot(8, 1).p50 / pace.tpot(8).p50 > (priors.SLOWDOWN + 2.0) / 2.0


def test_an_engine_that_is_always_alone_says_nothing_of_neighbours() -> None:
    pace = Pace(SIZE)
    for _ in range(100):
        pace.learn_rest(101, 0.1, 0.1 + 100.0 * 0.02, Company(4.0, 0.0))
    assert pace.tpot(8, 1).p50 / pace.tpot(8).p50 == pytest.approx(priors.SLOWDOWN)


def test_first_tokens_and_the_rest_are_slowed_each_by_its_own() -> None:
    pace = taught(2.0, 200)
    alone, beside = (pace.forecast(Situation(1000, 1000, neighbours=each)).ttft_p50_s for each in (0, 1))
    assert beside / alone == pytest.approx(priors.SLOWDOWN)


def test_it_stays_within_its_bounds_whatever_is_seen() -> None:
    slowdown = Slowdown(1.0)
    for seen_s in (1e9, 0.0, -1.0, 1e-9, 5e-324):
        for _ in range(50):
            slowdown.learn(1.0, seen_s, 1.0)
            assert 1.0 <= slowdown.factor <= FACTOR_MAX
            slowdown.learn(0.0, seen_s, 0.0)
            slowdown.learn(0.5, seen_s, 6.0)
            assert 1.0 <= slowdown.factor <= FACTOR_MAX


def test_what_is_written_down_goes_on_the_same() -> None:
    slowdown = Slowdown(1.0)
    slowdown.learn(1.0, 1.4, 1.0)
    again = Slowdown(1.0, slowdown.snapshot())
    for each in (slowdown, again):
        each.learn(0.3, 0.8, 1.0)
    assert again.snapshot() == slowdown.snapshot()
    assert again.factor != priors.SLOWDOWN


def test_of_the_first_surprise_half_is_put_down_to_the_company() -> None:
    slowdown = Slowdown(1.0)
    slowdown.learn(1.0, math.exp(0.4), 1.0)
    assert slowdown.factor == pytest.approx(priors.SLOWDOWN + 0.4 / 2.0)
