"""The bounds beside a result: the schedule found with full knowledge, and what no schedule can beat."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logos.simulation.arrivals import Arrival
from logos.simulation.bounds import lower_bound
from logos.simulation.clairvoyant import best_schedule, is_searchable
from logos.simulation.cluster import read_world
from logos.simulation.figures import figures
from logos.simulation.kernel import Simulation
from logos.simulation.planned import Phase, PlannedCore
from logos.simulation.run import Status
from logos.simulation.systems import run_system
from logos.simulation.traffic import drawn
from logos.simulation.world import World
from logos.workload.generate import Traffic
from tests.simulation.small import arrival, node, world

TURNS = world(node(("a", "asleep"), ("b", "asleep"), transitions_at_once=1))


def mean_ttft_s(of: World, workload: list[Arrival]) -> float:
    found = best_schedule(of, workload, seed=1)
    assert found is not None
    assert all(each.status is Status.OK for each in found.run.outcomes)
    return float(figures(found.run)["ttft_s"]["mean"])


def test_one_swap_serves_two_models_when_nothing_comes_later() -> None:
    workload = [arrival("r1", 0.0), arrival("r2", 0.0), arrival("s", 1.0, "b")]
    found = best_schedule(TURNS, workload, seed=1)
    assert found is not None
    assert [sorted(phase.awake) for phase in found.plan] == [[1], [2]]
    # Awake at 1 s; r1 has its token after a step of 1.2 s, r2 after the next one of 1.3 s. r2 ends at 8.2 s; then 3 s
    # of sleep, 1 s of waking and a step of 1.2 s, for a request that came at 1 s.
    assert [each.ttft_s for each in found.run.outcomes] == pytest.approx([2.2, 3.5, 8.2 + 3.0 + 1.0 + 1.2 - 1.0])


def test_where_little_comes_each_model_is_awake_before_its_request() -> None:
    """Every 60 s the other model is asked for: time enough to sleep (3 s) and wake (1 s). A prompt takes 1.2 s."""
    workload = [arrival(f"r{number}", 10.0 + 60.0 * number, "ab"[number % 2]) for number in range(6)]
    assert mean_ttft_s(TURNS, workload) == pytest.approx(1.2)


def test_no_plan_with_two_swaps_on_a_grid_is_better() -> None:
    workload = [
        arrival("r1", 0.0),
        arrival("s", 1.0, "b"),
        arrival("r2", 7.0),
        arrival("r3", 7.1),
        arrival("t", 12.0, "b"),
    ]
    one, other = frozenset({1}), frozenset({2})
    means = []
    for first, second in ((one, other), (other, one)):
        for begins, ends in itertools.combinations(range(24), 2):
            plan = (Phase(first, begins + 0.5), Phase(second, ends + 0.5), Phase(first))
            run = Simulation(TURNS, workload, PlannedCore(TURNS.catalogue, plan), 1, policy="planned").run()
            if all(each.status is Status.OK for each in run.outcomes):
                means.append(figures(run)["ttft_s"]["mean"])
    assert mean_ttft_s(TURNS, workload) <= min(means) + 0.05


@pytest.mark.parametrize("name", ["market", "ladder", "laptop"])
def test_worlds_in_which_models_do_not_take_turns_are_not_searched(name: str) -> None:
    described = read_world(name)
    models = tuple(model.name for model in described.catalogue.models)
    assert not is_searchable(described, [Arrival("r", 0.0, ((models[0], 0.0),), 10, 10)])
    assert best_schedule(described, [Arrival("r", 0.0, ((models[0], 0.0),), 10, 10)], seed=1) is None


@pytest.mark.parametrize("policy", ["fcfs", "ettft", "slo", "ollama"])
def test_in_contention_the_clairvoyant_is_better_than_every_policy(policy: str) -> None:
    described = read_world("contention")
    assert isinstance(described.source, Traffic)
    workload = drawn(replace(described.source, duration_s=150.0), 3)
    found = figures(run_system(policy, described, workload, 1))
    assert mean_ttft_s(described, workload) < found["ttft_s"]["mean"]


@settings(max_examples=25, deadline=None)
@given(
    asked=st.lists(
        st.tuples(st.floats(0, 90), st.sampled_from("ab"), st.integers(1, 30), st.integers(1, 15)),
        min_size=1,
        max_size=12,
    ),
    policy=st.sampled_from(["fcfs", "ettft", "slo"]),
)
def test_no_policy_is_below_the_bound(asked: Any, policy: str) -> None:
    workload = [
        arrival(f"r{number}", at, name, prompt=prompt, output=output)
        for number, (at, name, prompt, output) in enumerate(asked)
    ]
    bound = lower_bound(TURNS, workload, 1)
    run = run_system(policy, TURNS, workload, 1)
    found = figures(run)
    if found["ok"] < len(workload):
        return
    for time in ("ttft_s", "latency_s"):
        for figure in ("mean", "p50", "p95", "p99"):
            assert found[time][figure] >= bound[time][figure] - 1e-9
