from __future__ import annotations

import random
import statistics

import pytest

from logos.domain.nouns import EngineSpec, Node
from logos.prediction import priors
from logos.prediction.priors import Size
from logos.prediction.service import Transition
from logos.prediction.transitions import KINDS_MAX, TransitionTimes

SMALL, LARGE = Size(8.0, 4.0), Size(80.0, 64.0)
# GiB of weights per GPU, then seconds to wake and to load, as measured (scheduling.md section 5).
MEASURED = [(54.8, 5.5, 97.7), (56.0, 2.87, 47.4), (7.8, 0.80, 46.0), (1.1, 0.10, 21.0), (7.5, 1.25, 57.1)]


@pytest.mark.parametrize(("weights_gib", "wake_s", "load_s"), MEASURED)
def test_the_prior_is_near_what_was_measured_elsewhere(weights_gib: float, wake_s: float, load_s: float) -> None:
    size = Size(weights_gib, weights_gib)
    for transition, seconds in ((Transition.WAKE, wake_s), (Transition.LOAD, load_s)):
        assert seconds / 1.8 < priors.transition_s(size, transition).p50 < seconds * 1.8


def test_one_observation_replaces_the_prior() -> None:
    times = TransitionTimes()
    times.observe(1, SMALL, "a", Transition.WAKE, 7.0)
    span = times.span(1, SMALL, "a", Transition.WAKE)
    assert span.p50 == pytest.approx(7.0)
    assert 7.0 < span.p90 < 10.0


def test_what_is_declared_is_expected_until_it_was_seen_and_an_engine_knows_better_than_its_node() -> None:
    times = TransitionTimes()
    times.observe(2, SMALL, "a", Transition.LOAD, 300.0)  # another model's says less than a declaration
    times.declare("a", Node("a", 1, (), load_s=4.0, wake_s=0.5))
    assert times.span(1, SMALL, "a", Transition.LOAD).p50 == 4.0
    assert times.span(1, SMALL, "a", Transition.WAKE).p50 == 0.5
    assert times.span(1, SMALL, "a", Transition.SLEEP) == priors.transition_s(SMALL, Transition.SLEEP)
    times.declare(1, EngineSpec(load_s=9.0))
    assert times.span(1, SMALL, "a", Transition.LOAD).p50 == 9.0
    assert times.span(3, SMALL, "a", Transition.LOAD).p50 == 4.0
    assert times.span(1, SMALL, "b", Transition.LOAD).p50 == 9.0
    times.observe(1, SMALL, "a", Transition.LOAD, 7.0)
    assert times.span(1, SMALL, "a", Transition.LOAD).p50 == pytest.approx(7.0)
    times.forget(1)
    times.declare("a", None)
    assert times.span(1, SMALL, "a", Transition.WAKE) == priors.transition_s(SMALL, Transition.WAKE)


def test_a_declaration_that_cannot_be_is_not_believed() -> None:
    times = TransitionTimes()
    times.declare("a", Node("a", 1, (), load_s=float("nan"), wake_s=-1.0))
    for each in (Transition.LOAD, Transition.WAKE):
        assert times.span(1, SMALL, "a", each) == priors.transition_s(SMALL, each)


def test_kinds_of_transition_are_told_apart() -> None:
    times = TransitionTimes()
    before = times.span(1, SMALL, "a", Transition.LOAD)
    times.observe(1, SMALL, "a", Transition.WAKE, 7.0)
    assert times.span(1, SMALL, "a", Transition.LOAD) == before


def test_another_node_is_expected_to_take_as_long_until_it_is_seen() -> None:
    times = TransitionTimes()
    times.observe(1, SMALL, "a", Transition.LOAD, 100.0)
    assert times.span(1, SMALL, "b", Transition.LOAD).p50 == pytest.approx(100.0)
    times.observe(2, SMALL, "b", Transition.LOAD, 50.0)
    assert times.span(1, SMALL, "b", Transition.LOAD).p50 == pytest.approx(100.0)
    times.observe(1, SMALL, "b", Transition.LOAD, 10.0)
    assert times.span(1, SMALL, "b", Transition.LOAD).p50 == pytest.approx(10.0)
    assert times.span(1, SMALL, "a", Transition.LOAD).p50 == pytest.approx(100.0)


def test_another_model_is_scaled_by_its_size_and_the_hardware_seen() -> None:
    times = TransitionTimes()
    twice_as_slow = 2 * priors.transition_s(SMALL, Transition.WAKE).p50
    times.observe(1, SMALL, "a", Transition.WAKE, twice_as_slow)
    expected = 2 * priors.transition_s(LARGE, Transition.WAKE).p50
    assert times.span(2, LARGE, "a", Transition.WAKE).p50 == pytest.approx(expected)
    assert times.span(2, LARGE, "b", Transition.WAKE).p50 == pytest.approx(expected)
    times.observe(3, SMALL, "b", Transition.WAKE, 2 * twice_as_slow)
    assert times.span(2, LARGE, "a", Transition.WAKE).p50 == pytest.approx(expected)
    assert times.span(2, LARGE, "b", Transition.WAKE).p50 == pytest.approx(2 * expected)


def test_the_upper_quantile_covers_about_nine_in_ten() -> None:
    chance = random.Random(3)
    times, covered = TransitionTimes(), []
    for _ in range(1_000):
        seconds = 5.0 * chance.lognormvariate(0.0, 0.2)
        covered.append(seconds <= times.span(1, SMALL, "a", Transition.WAKE).p90)
        times.observe(1, SMALL, "a", Transition.WAKE, seconds)
    assert 0.86 <= statistics.fmean(covered[20:]) <= 0.94


def test_a_forgotten_endpoint_leaves_what_it_taught_about_the_hardware() -> None:
    times = TransitionTimes()
    times.observe(1, SMALL, "a", Transition.WAKE, 7.0)
    times.forget(1)
    assert {each.endpoint_id for each in times.snapshot()} == {None}


def test_nodes_that_come_and_go_are_forgotten_in_the_end() -> None:
    times = TransitionTimes()
    for each in range(KINDS_MAX):
        times.observe(1, SMALL, f"node {each}", Transition.WAKE, 7.0)
    assert len(times.snapshot()) == KINDS_MAX
    assert times.span(1, SMALL, f"node {KINDS_MAX - 1}", Transition.WAKE).p50 == pytest.approx(7.0)
