"""What becomes of a claim when the world changes under it: its victims wake, room appears elsewhere, engines hang."""

from __future__ import annotations

from dataclasses import replace

import pytest

from logos.domain.lifecycle import EngineState
from logos.scheduling.events import EngineSeen
from tests.scenarios.contested import GIB, ONE, THREE, TWO, Prompt, patient, world
from tests.scenarios.world import World, dispatched, loads, node, pooled, remote, request, sleeps, stops, wakes

POLICIES = ["fcfs", "utilization", "ettft", "slo"]


def seen(endpoint_id: int, state: EngineState, gib: int = 16, gpu: int = 0) -> EngineSeen:
    return EngineSeen(f"n/m{endpoint_id}/9{endpoint_id}", endpoint_id, (gpu,), state, gib * GIB)


# A victim that slept wakes before the claim is settled.


def test_a_victim_that_woke_for_a_request_of_its_own_makes_room_too() -> None:
    it = Prompt(pooled(1, gib=8, residue_gib=1), pooled(2, gib=10), pooled(3, gib=24), policy="slo")
    it.node_seen(node("n", 24), seen(1, EngineState.ASLEEP, 8), seen(2, EngineState.AWAKE, 10))
    it.now += 100.0
    it.arrives(patient("x", 2))
    it.arrives(patient("large", 3))
    assert wakes(it.arrives(patient("small", 1))) == [ONE]
    assert dispatched(it.awake(ONE, 1.0)) == ["small"]
    it.finishes("small")
    it.finishes("x")
    it.passes(90.0)
    assert it.states() == {ONE: "stopping", TWO: "stopping"}
    it.cold(ONE)
    assert [each.endpoint_id for each in loads(it.cold(TWO))] == [3]


# Who waits goes elsewhere.


@pytest.mark.parametrize("policy", ["fcfs", "slo"])
def test_a_claim_ends_at_once_when_all_that_waited_for_it_have_gone_elsewhere(policy: str) -> None:
    it = Prompt(pooled(1), pooled(2), remote(9), policy=policy, circuit_faults=1, cost_displaced=0.0)
    it.node_seen(node("n", 16), seen(1, EngineState.AWAKE))
    it.node_seen(node("o", 16), EngineSeen("o/m2/1", 2, (0,), EngineState.AWAKE, 16 * GIB))
    it.now += 100.0
    it.arrive(patient("x", 1), patient("y", 2))
    it.node_lost("o")
    either = {"weights": {2: 9.0, 9: 0.0}, "queue_timeout_s": 900.0, "slo_ttft_s": 900.0}
    it.arrives(request("a", **either))
    assert it.states() == {ONE: "draining"}
    assert dispatched(it.fails("y")) == ["a"]
    assert it.states() == {ONE: "awake"}


# Room appears elsewhere.


@pytest.mark.parametrize("policy", POLICIES)
def test_who_waits_for_a_victim_comes_at_once_where_a_node_has_joined(policy: str) -> None:
    it = contested(policy)
    assert [(each.endpoint_id, each.node_id) for each in loads(it.node_seen(node("n2", 24)))] == [(2, "n2")]
    assert it.states()[ONE] == "awake"
    assert it.scheduler.summary()["claims"] == []


@pytest.mark.parametrize("policy", POLICIES)
def test_a_claim_ends_at_once_when_an_engine_that_has_turned_up_serves_all_that_waited(policy: str) -> None:
    it = contested(policy)
    it.leaves("a1")
    it.leaves("a2")
    it.node_seen(node("n2", 16), EngineSeen("n2/m2/1", 2, (0,), EngineState.AWAKE, 16 * GIB))
    assert (it.endpoint(2)["running"], it.states()[ONE]) == (1, "awake")


def test_what_waits_for_a_victim_is_served_where_a_node_has_joined() -> None:
    it = World(pooled(1), pooled(2, gib=24), policy="fcfs")
    it.node_seen(node("n", 24), seen(1, EngineState.AWAKE))
    it.arrive(patient("x", 1), patient("a", 2), patient("late", 1))
    [load] = loads(it.node_seen(node("n2", 16)))
    assert (load.endpoint_id, load.node_id) == (1, "n2")
    assert dispatched(it.awake(load.engine_id)) == ["late"]
    assert it.states()[ONE] == "draining"


def test_a_victim_serves_on_when_its_claimant_has_found_room_elsewhere() -> None:
    it = contested("fcfs")
    it.now += 1.0
    it.arrives(patient("late", 1))
    assert dispatched(it.node_seen(node("n2", 24))) == ["late"]


def test_a_swap_that_is_nearly_over_is_not_given_up_for_a_load() -> None:
    it = contested("fcfs")
    assert sleeps(it.finishes("x")) == [ONE]
    assert loads(it.node_seen(node("n2", 24))) == []
    assert wakes(it.asleep(ONE)) == [TWO]


def test_what_waits_for_a_victim_is_not_loaded_beside_it() -> None:
    it = Prompt(pooled(1), pooled(2, gpus=2, gib=32), policy="slo")
    it.node_seen(node("n", 24, 24), seen(1, EngineState.AWAKE))
    it.now += 100.0
    it.arrive(*(patient(f"x{each}", 1, output_tokens_max=5000) for each in range(4)), patient("large", 2))
    assert loads(it.arrives(patient("y", 1))) == []
    assert it.states() == {ONE: "draining"}


def test_memory_that_another_claims_is_not_waited_for_where_somebody_else_could_make_room() -> None:
    it = Prompt(*(pooled(each) for each in (1, 2, 3, 4)), policy="slo")
    it.node_seen(node("n", 16), seen(1, EngineState.AWAKE))
    it.node_seen(node("o", 16), EngineSeen("o/m2/1", 2, (0,), EngineState.AWAKE, 16 * GIB))
    it.now += 100.0
    it.arrives(patient("x", 1, output_tokens_max=2000))
    it.arrives(patient("y", 2, output_tokens_max=3000))
    it.arrives(patient("a", 3))
    assert it.states() == {ONE: "draining", "o/m2/1": "awake"}
    it.arrives(patient("b", 4))
    assert it.states() == {ONE: "draining", "o/m2/1": "draining"}
    assert sleeps([*it.finishes("y"), *it.passes(1.0)]) == ["o/m2/1"]


def test_who_has_claimed_memory_waits_for_that_and_claims_no_more() -> None:
    it = Prompt(*(pooled(each) for each in (1, 2, 3)), policy="slo")
    it.node_seen(node("n", 16), seen(1, EngineState.AWAKE))
    it.now += 100.0
    it.arrive(patient("x", 1, output_tokens_max=2000), patient("a", 3))
    it.node_seen(node("o", 16), EngineSeen("o/m2/1", 2, (0,), EngineState.AWAKE, 16 * GIB))
    outlook = it.scheduler._capacity.outlook(it.scheduler._state.endpoints[3])
    assert (outlook.memory_is_short, outlook.claimable, outlook.refusal) == (True, False, None)


@pytest.mark.parametrize("is_settled", [False, True])
def test_who_fits_beside_another_that_claims_waits_for_the_same_victims(*, is_settled: bool) -> None:
    it = Prompt(pooled(1, gib=16), pooled(2, gib=8), pooled(3, gib=8), pooled(4, gib=8), policy="slo")
    it.node_seen(node("n", 16), seen(1, EngineState.AWAKE))
    it.node_seen(node("o", 8), EngineSeen("o/m2/1", 2, (0,), EngineState.AWAKE, 8 * GIB))
    it.now += 100.0
    it.arrive(patient("x", 1, output_tokens_max=2000), patient("y", 2, output_tokens_max=3000))
    it.arrives(patient("a", 3))
    if is_settled:
        assert sleeps(it.finishes("x")) == [ONE]
    it.arrives(patient("b", 4))
    assert it.states()["o/m2/1"] == "awake"
    it.finishes("x")
    it.passes(1.0)
    assert [each.endpoint_id for each in loads(it.asleep(ONE))] == [3, 4]


def test_what_another_claims_on_one_node_is_no_less_on_another() -> None:
    it = Prompt(*(pooled(each) for each in (1, 2, 3, 4, 5)), policy="slo")
    engines = {each: EngineSeen(f"n{each}/m{each}/1", each, (0,), EngineState.AWAKE, 16 * GIB) for each in (1, 2, 5)}
    for each in (1, 5):
        it.node_seen(node(f"n{each}", 16), engines[each])
    it.now += 1.0
    it.arrive(patient("x", 1, output_tokens_max=500), patient("y", 5, output_tokens_max=2000), patient("a", 3))
    it.node_seen(node("n2", 16), replace(engines[2], state=EngineState.FALLING_ASLEEP))
    it.arrives(patient("b", 4))
    assert it.states() == {"n1/m1/1": "draining", "n2/m2/1": "falling_asleep", "n5/m5/1": "awake"}


# What holds memory and does not give it back.


@pytest.mark.parametrize("policy", POLICIES)
def test_an_engine_of_its_own_that_hangs_keeps_nobody_from_claiming_what_idles(policy: str) -> None:
    it = Prompt(pooled(1), pooled(2), pooled(3), policy=policy, stop_timeout_s=30.0)
    it.node_seen(node("n", 16, 16), seen(1, EngineState.AWAKE), seen(3, EngineState.STOPPING, gpu=1))
    it.passes(40.0)
    assert sleeps([*it.arrives(patient("b", 3)), *it.passes(10.0)]) == [ONE]


def test_host_ram_of_an_engine_that_hangs_is_not_waited_for() -> None:
    it = Prompt(*(pooled(each) for each in (1, 2, 3)), pooled(4, gib=32), policy="fcfs", stop_timeout_s=30.0)
    falls = seen(1, EngineState.FALLING_ASLEEP)
    it.node_seen(node("n", 32, host_gib=40), falls, seen(2, EngineState.ASLEEP), seen(3, EngineState.AWAKE))
    it.now += 1.0
    it.asleep(ONE)
    assert stops(it.arrives(patient("a", 4))) == [TWO]
    assert it.states()[THREE] == "draining"
    assert THREE in stops(it.passes(35.0))


def test_host_ram_of_an_engine_that_ends_and_has_never_slept_is_not_waited_for() -> None:
    it = Prompt(pooled(1), pooled(2), pooled(3, gib=8, host_gib=16), policy="slo")
    it.node_seen(node("n", 16, 8, host_gib=10), seen(1, EngineState.AWAKE), seen(3, EngineState.STOPPING, 8, gpu=1))
    it.now += 30.0
    said = it.arrive(*(patient(f"a{each}", 2) for each in range(9)))
    assert stops([*said, *it.passes(1.0)]) == [ONE]


@pytest.mark.parametrize("policy", POLICIES)
def test_who_leaves_the_catalogue_and_runs_on_keeps_nobody_from_claiming_what_idles(policy: str) -> None:
    it = Prompt(pooled(1), pooled(2), pooled(3), policy=policy)
    it.node_seen(node("n", 16, 16), seen(1, EngineState.AWAKE), seen(2, EngineState.AWAKE, gpu=1))
    it.now += 50.0
    it.arrives(patient("x", 1))
    it.declares(pooled(2), pooled(3))
    assert sleeps([*it.arrives(patient("a", 3)), *it.passes(10.0)]) == [TWO]


@pytest.mark.parametrize("policy", POLICIES)
def test_a_claim_goes_on_when_the_model_of_a_victim_that_died_has_left_the_catalogue(policy: str) -> None:
    it = Prompt(pooled(1), pooled(2), pooled(3, gib=32), policy=policy)
    it.node_seen(node("n", 32), seen(1, EngineState.AWAKE), seen(2, EngineState.AWAKE))
    it.now += 100.0
    it.arrives(patient("x", 2))
    it.arrive(*(patient(f"a{each}", 3) for each in range(3)))
    it.engine_fails(ONE)
    it.cold(ONE)
    it.declares(pooled(2), pooled(3, gib=32))
    said = [*it.passes(1.0), *it.finishes("x"), *it.passes(20.0)]
    assert sleeps(said) == [TWO]


def test_for_the_weights_of_a_victim_that_died_nobody_goes_to_disk() -> None:
    it = Prompt(pooled(1), pooled(2), pooled(3, gib=32), pooled(4), policy="slo", idle_in_the_way_s=900.0)
    awake = (seen(each, EngineState.AWAKE) for each in (1, 2))
    it.node_seen(node("n", 32, host_gib=40), *awake, seen(4, EngineState.ASLEEP))
    it.now += 100.0
    it.arrives(patient("x", 2))
    it.arrive(*(patient(f"a{each}", 3) for each in range(3)))
    it.engine_fails(ONE)
    it.cold(ONE)
    said = [*it.finishes("x"), *it.passes(20.0)]
    assert (sleeps(said), stops(said)) == ([TWO], [])


def test_for_the_weights_of_a_victim_that_has_slept_before_nobody_goes_to_disk() -> None:
    it = Prompt(pooled(1), pooled(2), pooled(3), policy="fcfs")
    awake = replace(seen(1, EngineState.AWAKE), has_slept=True)
    it.node_seen(node("n", 16, host_gib=40), awake, seen(3, EngineState.ASLEEP))
    it.now += 100.0
    said = it.arrives(patient("a", 2))
    assert (sleeps(said), stops(said)) == ([ONE], [])


def contested(policy: str) -> World:
    """m1 runs x; the requests that wait for m2 claim its memory."""
    it = world(policy)
    it.now += 100.0
    it.arrives(patient("x", 1))
    it.arrive(*(patient(f"a{each}", 2) for each in range(3)))
    assert it.states()[ONE] == "draining"
    return it


def test_a_victim_that_drains_does_not_serve_again_because_its_node_says_that_it_is_awake() -> None:
    it = Prompt(pooled(1), pooled(2), policy="fcfs")
    it.node_seen(node("n", 16), seen(1, EngineState.AWAKE))
    it.now += 100.0
    it.arrive(patient("x", 1), patient("y", 2))
    assert it.states() == {ONE: "draining"}
    drains_since = it.scheduler._state.engines[ONE].since
    it.now += 3.0
    assert it.awake(ONE) == []
    assert it.states() == {ONE: "draining"}
    assert it.scheduler._state.engines[ONE].since == drains_since
    assert dispatched(it.arrives(patient("z", 1))) == []
