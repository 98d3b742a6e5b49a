"""How models change places: claims, drained victims, reserved memory, and what may go wrong in the middle of a swap."""

from __future__ import annotations

import pytest

from logos.domain.lifecycle import EngineState
from logos.domain.nouns import Place
from logos.scheduling.commands import LoadEngine, SleepEngine, StopEngine, WakeEngine
from logos.scheduling.events import EngineSeen, Request
from tests.scenarios.world import (
    World,
    dispatched,
    dispatches,
    grants,
    loads,
    node,
    pooled,
    rejected,
    request,
    revokes,
    sleeps,
    stops,
    wakes,
)

GIB = 1024
POLICIES = ["fcfs", "utilization", "ettft", "slo"]
M1, M2 = "n/m1/1", "n/m2/2"


def serving(*running: str, policy: str = "fcfs", parallel: int = 4, sleeps: bool = True) -> World:
    """m1 runs these on the only GPU, which m2 would need; it has been awake for a while."""
    world = World(pooled(1, parallel=parallel), pooled(2), pooled(3), policy=policy)
    world.node_seen(node("n", 24, sleeps=sleeps))
    world.arrive(*(request(each, 1, queue_timeout_s=900.0) for each in running or ("first",)))
    world.awake(M1)
    if not running:
        world.finishes("first")
    world.now += 20.0
    return world


def changed_places(policy: str = "fcfs") -> World:
    """m1 sleeps, m2 is awake and runs `second`."""
    world = serving(policy=policy)
    world.arrives(request("second", 2, queue_timeout_s=900.0))
    world.passes(30.0)
    world.asleep(M1)
    world.awake(M2)
    world.now += 20.0
    assert world.states() == {M1: "asleep", M2: "awake"}
    return world


def patient(request_id: str, endpoint_id: int) -> Request:
    return request(request_id, endpoint_id, queue_timeout_s=900.0)


# Draining.


@pytest.mark.parametrize("policy", POLICIES)
def test_a_claim_drains_its_victim_and_never_cuts_what_runs(policy: str) -> None:
    world = serving("x", "y", policy=policy)
    assert world.arrive(*(patient(each, 2) for each in "abcd")) == []
    assert world.states() == {M1: "draining"}
    assert sleeps(world.passes(50.0)) == []
    assert sleeps(world.finishes("x") + world.passes(50.0)) == []
    assert sleeps(world.finishes("y") + world.passes(25.0)) == [M1]
    assert [each.endpoint_id for each in loads(world.asleep(M1))] == [2]
    assert dispatched(world.awake(M2)) == ["a", "b", "c", "d"]


def test_a_victim_that_drains_admits_nothing_of_its_own_accord() -> None:
    world = serving("x")
    world.arrives(request("a", 2))
    assert world.arrives(request("later", 1)) == []
    assert sleeps(world.finishes("x")) == [M1]


def test_leases_are_asked_back_before_a_victim_sleeps() -> None:
    world = serving()
    [lease] = grants(world.arrives(request("x", 1)))
    world.finishes("x")
    commands = world.arrives(request("a", 2))
    assert (revokes(commands), sleeps(commands)) == ([lease.lease_id], [])
    assert sleeps(world.returns(lease.lease_id)) == [M1]


@pytest.mark.parametrize("policy", ["ettft", "slo"])
def test_of_more_engines_than_there_shall_be_one_that_does_nothing_sleeps_at_once(policy: str) -> None:
    world = World(pooled(1, replicas=(0, 2)), policy=policy, lease_ttl_s=0.0)
    engines = (EngineSeen(f"n/m1/{each}", 1, (each,), EngineState.AWAKE, 16 * GIB) for each in (0, 1))
    world.node_seen(node("n", 16, 16), *engines)
    assert dispatched(world.arrives(request("x"))) == ["x"]
    assert sleeps(world.passes(1.0)) == []
    assert sleeps(world.declares(pooled(1, replicas=(0, 1)))) == ["n/m1/1"]
    assert sleeps([*world.finishes("x"), *world.passes(1.0)]) == []


def test_a_victim_in_whose_place_another_has_come_meanwhile_sleeps_when_it_has_nothing_to_do() -> None:
    world = serving(policy="ettft")
    commands = world.arrive(request("x", 1), request("a", 2), request("b", 2), request("c", 2), request("late", 1))
    assert world.states() == {M1: "draining"}
    world.returns(*revokes(commands))
    [load] = loads(world.node_seen(node("n2", 16)))
    assert dispatched(world.awake(load.engine_id)) == ["late"]
    for each in ("a", "b", "c"):
        world.leaves(each)
    assert world.states() == {M1: "awake", load.engine_id: "awake"}
    assert sleeps(world.finishes("x")) == [M1]


def test_an_idle_engine_with_a_lease_serves_on_until_the_lease_is_back() -> None:
    world = serving(policy="slo")
    [lease] = grants(world.arrives(request("x", 1)))
    world.finishes("x")
    for _ in range(12):  # the gateway keeps its lease alive
        world.passes(10.0)
        world.reports(lease.lease_id, "y")
        world.reports(lease.lease_id, ended=("y",))
    commands = world.passes(125.0)
    assert sleeps(commands) == [M1]
    assert world.states() == {M1: "falling_asleep"}


def test_a_request_that_comes_while_an_idle_engine_waits_for_its_lease_is_served() -> None:
    world = World(pooled(1), policy="slo", idle_sleep_s=5.0)
    world.node_seen(node("n", 24))
    world.arrives(request("x", 1))
    world.awake(M1)
    [lease] = grants(world.arrives(request("y", 1)))
    world.finishes("x")
    world.finishes("y")
    assert revokes(world.passes(5.1)) == [lease.lease_id]
    assert dispatched(world.arrives(request("z", 1))) == ["z"]
    assert sleeps(world.returns(lease.lease_id)) == []
    assert sleeps(world.finishes("z")) == []
    [lease_id] = revokes(world.passes(5.1))
    assert sleeps(world.returns(lease_id)) == [M1]


# Taking claims back.


@pytest.mark.parametrize("policy", POLICIES)
def test_a_claim_whose_requests_have_all_left_is_withdrawn_and_its_victim_serves_again(policy: str) -> None:
    world = serving("x", policy=policy)
    world.arrive(request("a", 2), request("b", 2), request("c", 2))
    assert world.states() == {M1: "draining"}
    assert world.leaves("a") + world.leaves("b") == []
    world.leaves("c")
    assert world.states() == {M1: "awake"}
    assert dispatched(world.arrives(request("y", 1))) == ["y"]


def test_what_waits_for_the_victim_is_dispatched_when_the_claim_is_withdrawn() -> None:
    world = serving("x")
    world.arrives(request("a", 2))
    world.arrives(request("y", 1))
    assert dispatched(world.leaves("a")) == ["y"]


def test_a_request_that_times_out_takes_its_claim_along() -> None:
    world = serving("x")
    world.arrives(request("a", 2, queue_timeout_s=5.0))
    assert rejected(world.passes(5.1)) == [("a", "queue_timeout")]
    assert world.states() == {M1: "awake"}


def test_a_cancelled_request_never_triggers_a_load() -> None:
    world = serving()
    assert sleeps(world.arrives(request("a", 2))) == [M1]
    assert world.leaves("a") == []
    assert world.asleep(M1) == []
    assert world.passes(100.0) == []
    assert world.states() == {M1: "asleep"}


def test_a_cancelled_request_never_triggers_a_wake() -> None:
    world = changed_places()
    world.arrives(request("a", 1))
    world.leaves("a")
    assert world.finishes("second") == []
    assert world.states() == {M1: "asleep", M2: "awake"}


def test_when_a_claim_is_withdrawn_who_waited_behind_it_claims() -> None:
    world = serving("x")
    world.arrives(request("a", 2))
    world.arrives(request("b", 3))
    world.leaves("a")
    assert world.states() == {M1: "draining"}
    assert sleeps(world.finishes("x")) == [M1]
    assert [each.endpoint_id for each in loads(world.asleep(M1))] == [3]


# Memory that is promised.


def test_nobody_else_takes_memory_that_is_reserved() -> None:
    world = World(pooled(1, gib=16), pooled(2, gib=24), pooled(3, gib=8), policy="fcfs")
    world.node_seen(node("n", 24))
    world.arrives(request("x", 1))
    world.awake(M1)
    world.arrives(request("a", 2))
    assert world.arrives(request("b", 3)) == []  # 8 GiB are free, and promised
    assert sleeps(world.finishes("x")) == [M1]
    assert [each.endpoint_id for each in loads(world.asleep(M1))] == [2]


def test_who_fits_into_what_the_reservation_leaves_comes_too() -> None:
    world = World(pooled(1, gib=24), pooled(2, gib=16), pooled(3, gib=8), policy="fcfs")
    world.node_seen(node("n", 24))
    world.arrives(request("x", 1))
    world.awake(M1)
    world.arrives(request("a", 2))
    assert world.arrives(request("b", 3)) == []
    world.finishes("x")
    assert [each.endpoint_id for each in loads(world.asleep(M1))] == [2, 3]


@pytest.mark.parametrize("policy", POLICIES)
def test_more_requests_join_the_swap_that_is_under_way(policy: str) -> None:
    world = serving(policy=policy)
    commands = world.arrives(patient("a", 2))
    assert sleeps(commands + world.passes(21.0)) == [M1]
    assert world.arrives(patient("b", 2)) == []
    assert len(loads(world.asleep(M1))) == 1
    assert world.arrives(patient("c", 2)) == []
    assert dispatched(world.awake(M2)) == ["a", "b", "c"]


def test_who_could_have_the_memory_of_an_engine_that_leaves_anyway_claims_nobody() -> None:
    world = World(pooled(1, gib=16), pooled(2, gib=8), pooled(3, gib=16), policy="fcfs")
    world.node_seen(node("n", 24))
    world.arrive(request("x", 1), request("y", 2))
    world.awake(M1)
    world.awake(M2)
    world.declares(pooled(2, gib=8), pooled(3, gib=16))  # m1 has left, and drains
    assert world.arrives(request("a", 3)) == []
    assert world.states() == {M1: "draining", M2: "awake"}
    assert stops(world.finishes("x")) == [M1]
    assert [each.endpoint_id for each in loads(world.cold(M1))] == [3]


def test_one_of_two_replicas_goes_where_one_shall_stay() -> None:
    world = World(pooled(1, gib=12, replicas=(1, 2), parallel=1), pooled(2, gib=24), policy="fcfs")
    world.node_seen(node("n", 24))
    world.arrive(request("x", 1), request("y", 1))
    [first, second] = sorted(world.states())
    world.awake(first)
    world.awake(second)
    world.finishes("x")
    world.finishes("y")
    assert rejected(world.arrives(request("a", 2))) == [("a", "no_capacity")]
    assert set(world.states().values()) == {"awake"}


# There and back.


@pytest.mark.parametrize("policy", POLICIES)
def test_models_change_places_by_sleep_and_wake(policy: str) -> None:
    world = changed_places(policy)
    world.arrive(patient("a", 1), patient("b", 1), patient("c", 1))
    assert sleeps(world.finishes("second") + world.passes(25.0)) == [M2]
    assert world.asleep(M2) == [WakeEngine(M1)]
    assert dispatched(world.awake(M1, 2.0)) == ["a", "b", "c"]
    assert world.states() == {M1: "awake", M2: "asleep"}


def test_a_model_that_has_room_to_wake_wakes_at_once() -> None:
    world = changed_places()
    world.finishes("second")
    world.engine(M2, EngineState.FAILED)
    world.cold(M2)
    assert world.arrives(request("a", 1)) == [WakeEngine(M1)]


# What may go wrong.


def test_a_sleep_that_fails_ends_the_engine_and_the_claim_goes_on() -> None:
    world = serving()
    world.arrives(patient("a", 2))
    assert world.engine_fails(M1) == [StopEngine(M1)]
    assert [each.endpoint_id for each in loads(world.cold(M1))] == [2]


def test_a_victim_that_would_not_sleep_and_is_still_awake_is_stopped() -> None:
    world = serving()
    world.arrives(patient("a", 2))
    assert world.awake(M1) == [StopEngine(M1)]
    assert [each.endpoint_id for each in loads(world.cold(M1))] == [2]


def test_an_idle_engine_that_would_not_sleep_serves_on() -> None:
    world = World(pooled(1), policy="slo", idle_sleep_s=5.0)
    world.node_seen(node("n", 24))
    world.arrives(request("x", 1))
    world.awake(M1)
    world.finishes("x")
    assert sleeps(world.passes(5.1)) == [M1]
    assert world.awake(M1) == []
    assert dispatched(world.arrives(request("y", 1))) == ["y"]


def test_a_sleep_that_is_never_answered_ends_the_engine() -> None:
    """Ten times what nine in ten take is too long, and so is the time-out of the settings."""
    world = serving()
    world.arrives(patient("a", 2))
    assert stops(world.passes(29.0)) == []
    assert stops(world.passes(60.0)) == [M1]
    assert [each.endpoint_id for each in loads(world.cold(M1))] == [2]


def test_the_time_out_of_the_settings_is_the_latest_that_a_transition_is_waited_for() -> None:
    world = World(pooled(1), pooled(2), policy="fcfs", sleep_timeout_s=7.0)
    world.node_seen(node("n", 24))
    world.arrives(patient("first", 1))
    world.awake(M1)
    world.finishes("first")
    world.now += 20.0
    world.arrives(patient("a", 2))
    assert stops(world.passes(6.9)) == []
    assert stops(world.passes(0.2)) == [M1]


# What never ends.


def with_a_stuck_end(policy: str) -> World:
    """m3 was told to end on the first GPU of two and never does; m1 is idle on the second, and m2 asks for a place."""
    world = World(*(pooled(each, sleeps=each != 3) for each in (1, 2, 3)), policy=policy, stop_timeout_s=30.0)
    world.node_seen(node("n", 16, 16))
    for number, endpoint_id in enumerate((3, 1), start=1):
        world.arrives(patient(f"first{endpoint_id}", endpoint_id))
        world.awake(f"n/m{endpoint_id}/{number}")
        world.finishes(f"first{endpoint_id}")
    world.now += 20.0
    world.engine_fails("n/m3/1")
    world.now += 5.0
    world.arrives(patient("a", 2))
    assert world.states()["n/m3/1"] == "stopping"
    return world


@pytest.mark.parametrize("policy", POLICIES)
def test_an_end_that_is_never_answered_keeps_nobody_from_changing_places(policy: str) -> None:
    world = with_a_stuck_end(policy)
    assert sleeps(world.passes(20.0)) == []  # its memory is on its way, for all that is known
    assert sleeps(world.passes(30.0)) == ["n/m1/2"]
    [load] = loads(world.asleep("n/m1/2"))
    assert (load.endpoint_id, load.gpu_indices) == (2, (1,))
    assert dispatched(world.awake(load.engine_id)) == ["a"]


def free_on_first_gpu(world: World) -> int:
    """In MiB."""
    free: int = world.scheduler.summary()["nodes"][0]["gpus"][0]["free_mib"]
    return free


@pytest.mark.parametrize("policy", POLICIES)
def test_what_never_ended_holds_its_memory_until_its_node_says_otherwise(policy: str) -> None:
    world = with_a_stuck_end(policy)
    world.passes(50.0)
    [load] = loads(world.asleep("n/m1/2"))
    world.awake(load.engine_id)
    commands = world.arrives(patient("b", 3)) + world.passes(40.0)
    assert [each for each in loads(commands) if each.gpu_indices == (0,)] == []
    assert rejected(commands) == []  # it may yet end, so who asks for it waits
    assert stops(world.passes(60.0)).count("n/m3/1") == 2  # asked again and again
    assert free_on_first_gpu(world) == 0
    come = loads(world.cold("n/m3/1"))
    assert free_on_first_gpu(world) == (0 if come else 16 * GIB)


def test_a_claim_whose_victim_never_ends_is_given_up_for_one_on_another_node() -> None:
    world = World(*(pooled(each, sleeps=False) for each in (1, 2, 3)), policy="slo", stop_timeout_s=30.0)
    for number, endpoint_id in enumerate((1, 3), start=1):
        world.node_seen(node(f"n{number}", 16))
        world.arrives(patient(f"first{endpoint_id}", endpoint_id))
        world.awake(f"n{number}/m{endpoint_id}/{number}")
        world.finishes(f"first{endpoint_id}")
    world.now += 60.0
    stopped = stops(world.arrives(patient("a", 2)) + world.passes(25.0))
    assert len(stopped) == 1
    other = ({"n1/m1/1", "n2/m3/2"} - set(stopped)).pop()
    assert other in stops(world.passes(60.0))
    [load] = loads(world.cold(other))
    assert (load.endpoint_id, load.node_id) == (2, other.partition("/")[0])


def test_an_answer_that_comes_after_the_time_out_changes_nothing() -> None:
    world = serving()
    world.arrives(patient("a", 2))
    world.passes(121.0)
    assert world.asleep(M1) == []
    assert world.states() == {M1: "stopping"}


def test_after_a_wake_that_fails_the_model_is_loaded_again_after_a_back_off() -> None:
    world = changed_places()
    world.finishes("second")
    world.arrives(patient("a", 1))
    world.asleep(M2)
    assert world.engine_fails(M1) == [StopEngine(M1)]
    assert world.cold(M1) == []
    [load] = loads(world.passes(2.1))
    assert load.endpoint_id == 1
    assert dispatched(world.awake(load.engine_id)) == ["a"]


def test_a_wake_that_is_never_answered_is_given_up() -> None:
    world = changed_places()
    world.finishes("second")
    world.arrives(patient("a", 1))
    world.asleep(M2)
    assert stops(world.passes(29.0)) == []
    assert stops(world.passes(60.0)) == [M1]


def test_a_load_that_fails_three_times_refuses_who_waits_and_the_victim_comes_back() -> None:
    world = serving()
    world.arrives(patient("a", 2))
    world.asleep(M1)
    for attempt, back_off_s in enumerate((2.0, 4.0), start=2):
        assert rejected(world.engine_fails(f"n/m2/{attempt}")) == []
        world.cold(f"n/m2/{attempt}")
        assert loads(world.passes(back_off_s - 0.1)) == []
        assert len(loads(world.passes(0.2))) == 1
    assert rejected(world.engine_fails("n/m2/4")) == [("a", "no_capacity")]
    world.cold("n/m2/4")
    assert world.arrives(request("x", 1)) == [WakeEngine(M1)]


def test_a_node_lost_in_the_middle_of_a_swap_takes_the_claim_along() -> None:
    world = serving("x")
    world.arrives(patient("a", 2))
    assert rejected(world.node_lost("n")) == [("a", "no_capacity")]
    world.fails("x")
    assert world.states() == {}
    world.node_seen(node("n", 24))
    assert [each.endpoint_id for each in loads(world.arrives(request("b", 2)))] == [2]


def test_a_claim_is_made_anew_on_another_node_when_its_own_is_lost() -> None:
    world = World(pooled(1), pooled(2), policy="fcfs")
    world.node_seen(node("first", 24))
    world.arrives(request("x", 1))
    world.awake("first/m1/1")
    world.arrives(patient("a", 2))
    world.node_seen(node("second", 20), EngineSeen("second/m1/9", 1, (0,), EngineState.AWAKE, 16 * GIB))
    assert world.states() == {"first/m1/1": "draining", "second/m1/9": "awake"}
    assert sleeps(world.node_lost("first")) == ["second/m1/9"]


def test_a_claimant_whose_sleeping_engine_dies_is_loaded_instead() -> None:
    world = changed_places()
    world.arrives(patient("a", 1))
    assert world.engine_fails(M1) == [StopEngine(M1)]
    world.cold(M1)
    assert world.states() == {M2: "draining"}
    assert sleeps(world.finishes("second")) == [M2]
    commands = world.asleep(M2)
    assert ([each.endpoint_id for each in loads(commands)], wakes(commands)) == ([1], [])


def test_a_victim_that_dies_makes_room_too() -> None:
    world = serving("x")
    world.arrives(patient("a", 2))
    assert world.engine_fails(M1) == [StopEngine(M1)]
    assert [each.endpoint_id for each in loads(world.cold(M1))] == [2]
    world.fails("x")


def test_a_victim_that_a_catalogue_removes_makes_room_for_good() -> None:
    world = serving("x")
    world.arrives(patient("a", 2))
    assert world.declares(pooled(2), pooled(3)) == []
    assert stops(world.finishes("x")) == [M1]
    assert [each.endpoint_id for each in loads(world.cold(M1))] == [2]


def test_a_claimant_that_a_catalogue_removes_gives_its_claim_up() -> None:
    world = serving("x")
    world.arrives(patient("a", 2))
    world.declares(pooled(1), pooled(3))
    assert world.states() == {M1: "awake"}
    assert dispatched(world.arrives(request("y", 1))) == ["y"]


def test_an_engine_whose_endpoint_leaves_the_catalogue_and_returns_serves_again() -> None:
    world = serving("x")
    world.declares(pooled(2))
    assert world.states() == {M1: "draining"}
    world.declares(pooled(1), pooled(2), version=3)
    assert dispatches(world.arrives(request("y", 1))) == [("y", Place(1, M1))]


def test_a_sleeping_engine_of_a_removed_endpoint_is_stopped() -> None:
    world = changed_places()
    assert world.declares(pooled(2)) == [StopEngine(M1)]


def test_an_engine_that_falls_asleep_while_its_endpoint_is_removed_is_stopped_then() -> None:
    world = serving()
    world.arrives(patient("a", 2))
    assert world.declares(pooled(2)) == []
    assert world.asleep(M1)[0] == StopEngine(M1)


def test_after_a_restart_an_engine_that_falls_asleep_is_expected_to() -> None:
    world = World(pooled(1), pooled(2), policy="fcfs")
    world.node_seen(node("n", 24), EngineSeen(M1, 1, (0,), EngineState.FALLING_ASLEEP, 16 * GIB))
    assert world.arrives(patient("a", 2)) == []
    assert world.asleep(M1) == [LoadEngine("n/m2/1", 2, "n", (0,), 16 * GIB)]


def test_a_sleeping_engine_is_kept_after_a_restart() -> None:
    world = World(pooled(1), pooled(2), policy="fcfs")
    world.node_seen(
        node("n", 24),
        EngineSeen(M1, 1, (0,), EngineState.ASLEEP, 16 * GIB),
        EngineSeen(M2, 2, (0,), EngineState.AWAKE, 16 * GIB),
    )
    assert world.arrives(request("a", 1)) == [SleepEngine(M2)]
    assert wakes(world.asleep(M2)) == [M1]
