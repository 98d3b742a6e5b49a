from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from logos.classification.meaning import (
    FEEDBACK_STEP,
    QUALITY_POINTS_MAX,
    SHIFT_MAX,
    Descriptions,
    Vector,
    Votes,
    mean,
    quantised,
    shifted,
    unit,
)

# The machine may be busy: how long an example takes says nothing.
calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

directions = arrays.arrays(np.float32, 4, elements=st.floats(-1, 1, width=32)).filter(
    lambda vector: float(np.linalg.norm(vector)) > 0.01
)


def vector(*numbers: float) -> Vector:
    return np.array(numbers, dtype=np.float32)


def similarity(prompt: Vector, description: Vector) -> float:
    return Descriptions.of({1: unit(description)}).similarities(unit(prompt), (1,))[1]


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((1.0, 0.0), (2.0, 0.0), 1.0),
        ((1.0, 0.0), (0.0, 3.0), 0.0),
        ((1.0, 1.0), (-1.0, -1.0), -1.0),
        ((1.0, 0.0), (1.0, 1.0), math.sqrt(0.5)),
        ((0.0, 0.0), (1.0, 1.0), 0.0),
        ((math.nan, 1.0), (1.0, 1.0), 0.0),
        ((math.inf, 1.0), (1.0, 1.0), 0.0),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_similarity_is_the_cosine(a: tuple[float, ...], b: tuple[float, ...], expected: float) -> None:
    assert similarity(vector(*a), vector(*b)) == pytest.approx(expected)


@calm
@given(directions, directions)
def test_a_similarity_is_between_minus_one_and_one(a: Vector, b: Vector) -> None:
    assert -1.0 <= similarity(a, b) <= 1.0


def test_only_known_models_that_are_asked_for_have_a_similarity() -> None:
    known = Descriptions.of({4: vector(1, 0), 9: vector(0, 1), 5: vector(0, 1)})
    assert known.similarities(vector(1, 0), (9, 4, 77)) == {9: 0.0, 4: 1.0}
    assert Descriptions.of({}).similarities(vector(1, 0), (4,)) == {}


def test_passages_count_by_their_weight_and_not_by_their_length() -> None:
    blended = mean(np.array([[10, 0], [0, 1]], dtype=np.float32), [1.0, 1.0])
    assert blended == pytest.approx([math.sqrt(0.5)] * 2)
    assert mean(np.array([[1, 0], [0, 1]], dtype=np.float32), [3.0, 4.0]) == pytest.approx([0.6, 0.8])


# Votes


def test_a_good_vote_moves_a_description_five_percent_towards_the_prompt() -> None:
    description, prompt = vector(1, 0), vector(0, 1)
    moved = shifted(description, Votes().plus(True, quantised(prompt)))
    assert moved == pytest.approx(unit(vector(1 - FEEDBACK_STEP, FEEDBACK_STEP)))
    assert similarity(prompt, moved) > similarity(prompt, description)


def test_a_bad_vote_moves_it_as_far_away() -> None:
    moved = shifted(vector(1, 0), Votes().plus(False, quantised(vector(0, 1))))
    assert moved == pytest.approx(unit(vector(1 + FEEDBACK_STEP, -FEEDBACK_STEP)))


@calm
@given(directions, st.lists(st.tuples(st.booleans(), directions), max_size=20), st.booleans(), directions, st.randoms())
def test_taking_a_vote_back_leaves_exactly_what_was_there(
    description: Vector, others: list[tuple[bool, Vector]], good: bool, prompt: Vector, chance: object
) -> None:
    before = Votes()
    for is_good, each in others:
        before = before.plus(is_good, quantised(each))
    meanwhile = before.plus(good, quantised(prompt)).plus(True, quantised(description))
    after = meanwhile.minus(good, quantised(prompt)).minus(True, quantised(description))
    assert (after.good, after.bad, after.net) == (before.good, before.bad, before.net)
    assert np.array_equal(shifted(unit(description), after), shifted(unit(description), before))
    assert after.quality_points == before.quality_points


@calm
@given(directions, directions, st.integers(1, 100_000), st.booleans())
def test_however_many_votes_there_are_most_of_a_description_stays(
    description: Vector, prompt: Vector, count: int, good: bool
) -> None:
    description = unit(description)
    one = quantised(prompt).astype(np.int64) * (1 if good else -1)
    many = Votes(count, 0, count if good else -count, one * count)
    angle = float(shifted(description, many) @ description)
    assert angle >= math.sqrt(1 - SHIFT_MAX**2) - 1e-4


def test_a_vote_without_a_known_prompt_is_about_quality_alone() -> None:
    votes = Votes().plus(True, None)
    assert votes.quality_points > 0
    assert np.array_equal(shifted(vector(1, 0), votes), vector(1, 0))


def test_quality_grows_with_votes_and_is_bounded() -> None:
    points = [Votes(good, 0).quality_points for good in (0, 1, 10, 1_000_000)]
    assert points == sorted(points)
    assert points[0] == 0.0
    assert points[1] < 1.0
    assert points[2] == QUALITY_POINTS_MAX / 2
    assert points[3] < QUALITY_POINTS_MAX
    assert Votes(0, 10).quality_points == -QUALITY_POINTS_MAX / 2
    assert Votes(7, 7).quality_points == 0.0
