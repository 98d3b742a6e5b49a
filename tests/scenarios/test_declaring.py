"""What becomes of engines and claims when the catalogue makes a pooled endpoint a remote one, or it comes back."""

from __future__ import annotations

import pytest

from logos.domain.lifecycle import EngineState
from logos.domain.nouns import Place
from logos.prediction.pace import Situation
from logos.scheduling.events import EngineSeen, FirstToken
from tests.scenarios.contested import Prompt, patient
from tests.scenarios.world import (
    World,
    dispatched,
    dispatches,
    grants,
    node,
    pooled,
    remote,
    request,
    revokes,
    sleeps,
    stops,
)

POLICIES = ["fcfs", "utilization", "ettft", "slo"]
ENGINE = "n/m1/1"


def awake(*running: str, policy: str = "slo", **settings: float) -> World:
    """m1 runs these on the only GPU, which m2 would need."""
    it = Prompt(pooled(1), pooled(2), policy=policy, **settings)
    it.node_seen(node("n", 24), EngineSeen(ENGINE, 1, (0,), EngineState.AWAKE, 16 * 1024))
    it.now += 50.0
    it.arrive(*(patient(each, 1) for each in running))
    return it


@pytest.mark.parametrize("policy", POLICIES)
def test_the_engine_of_an_endpoint_that_is_remote_now_is_stopped(policy: str) -> None:
    it = awake(policy=policy)
    assert stops(it.declares(remote(1), pooled(2))) == [ENGINE]
    assert dispatches(it.arrives(patient("a", 1))) == [("a", Place(1))]
    it.cold(ENGINE)
    assert it.states() == {}


def test_an_engine_that_runs_something_ends_it_first_and_gets_nothing_more() -> None:
    it = awake("x")
    assert stops(it.declares(remote(1), pooled(2))) == []
    assert dispatches(it.arrives(patient("a", 1))) == [("a", Place(1))]
    assert stops(it.finishes("x")) == [ENGINE]


def test_an_engine_that_was_falling_asleep_is_stopped_then() -> None:
    it = awake(policy="fcfs")
    assert sleeps(it.arrives(patient("a", 2))) == [ENGINE]
    assert stops(it.declares(remote(1), pooled(2))) == []
    assert stops(it.asleep(ENGINE)) == [ENGINE]


@pytest.mark.parametrize("policy", POLICIES)
def test_the_claim_of_an_endpoint_that_is_remote_now_is_withdrawn(policy: str) -> None:
    it = awake("x", policy=policy)
    it.arrive(*(patient(each, 2) for each in "abc"))
    assert dispatched(it.declares(pooled(1), remote(2))) == ["a", "b", "c"]
    assert it.states() == {ENGINE: "awake"}
    assert it.scheduler.summary()["claims"] == []


def test_an_engine_serves_again_when_its_endpoint_is_pooled_again() -> None:
    it = awake("x")
    it.declares(remote(1), pooled(2))
    it.declares(pooled(1), pooled(2), version=3)
    assert dispatches(it.arrives(patient("a", 1))) == [("a", Place(1, ENGINE))]
    assert it.states() == {ENGINE: "awake"}


def test_it_is_not_stopped_before_gateways_have_said_what_runs_there() -> None:
    it = Prompt(pooled(1), policy="slo", reconvene_s=10.0)
    it.node_seen(node("n", 24), EngineSeen(ENGINE, 1, (0,), EngineState.AWAKE, 16 * 1024))
    assert it.declares(remote(1)) == []
    it.gateway_seen("g1", running=(("x", Place(1, ENGINE)),))
    assert stops(it.passes(11.0)) == []
    assert stops(it.finishes("x")) == [ENGINE]


def test_a_version_of_the_catalogue_that_changes_nothing_asks_nothing_back() -> None:
    world = World(remote(1, parallel=9), pooled(2))
    assert grants(world.arrives(request("a")))
    assert world.declares(remote(1, parallel=9), pooled(2)) == []


@pytest.mark.parametrize("less", [{"parallel": 2}, {"parallel": 9, "requests_per_minute": 600}])
def test_leases_are_asked_back_where_less_is_allowed_now(less: dict[str, int]) -> None:
    world = World(remote(1, parallel=9))
    [lease] = grants(world.arrives(request("a")))
    assert revokes(world.declares(remote(1, **less))) == [lease.lease_id]


def test_an_engine_of_an_endpoint_that_turns_out_to_be_remote_is_stopped() -> None:
    world = World(epoch=2)
    world.node_seen(node("n", 24), EngineSeen(ENGINE, 1, (0,), EngineState.ASLEEP, 16 * 1024))
    assert stops(world.declares(remote(1))) == [ENGINE]


def test_an_engine_that_sleeps_keeps_what_was_declared_when_it_came() -> None:
    world = World(pooled(1, residue_gib=2))
    world.node_seen(node("n", 24), EngineSeen(ENGINE, 1, (0,), EngineState.ASLEEP, 16 * 1024))
    world.declares(pooled(1, residue_gib=1))
    [seen] = world.scheduler.summary()["nodes"]
    assert [gpu["free_mib"] for gpu in seen["gpus"]] == [22 * 1024]


def test_what_was_learned_of_an_endpoint_is_forgotten_with_it() -> None:
    world = World(remote(1), remote(2), policy="slo")
    predictor = world.scheduler._state.predictor
    empty = predictor.forecast(1, Situation(100, 100)).ttft_p50_s
    for number in range(40):
        world.arrives(request(f"r{number}"))
        world.starts(f"r{number}")
        world.now += 9.0
        world.hears(FirstToken(world.now, f"r{number}", 9.0))
        world.finishes(f"r{number}", total_s=10.0)
    assert predictor.forecast(1, Situation(100, 100)).ttft_p50_s > 2 * empty
    world.passes(60.0)
    world.declares(remote(2))
    world.passes(60.0)
    world.declares(remote(1), remote(2), version=3)
    assert predictor.forecast(1, Situation(100, 100)).ttft_p50_s == empty
