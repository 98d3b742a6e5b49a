"""How models come to GPUs: loaded when wanted, refused with the reason, retried, given room by those that must go."""

from __future__ import annotations

import dataclasses

import pytest

from logos.domain.lifecycle import EngineState
from logos.domain.nouns import Place, Tier
from logos.prediction.service import Transition
from logos.scheduling.commands import Dispatch, LoadEngine, Reject, WakeEngine
from logos.scheduling.events import EngineReported, EngineSeen
from tests.scenarios.world import (
    World,
    dispatched,
    dispatches,
    grants,
    loads,
    node,
    pooled,
    rejected,
    rejects,
    remote,
    request,
    revokes,
    sleeps,
    stops,
)

GIB = 1024


def test_the_first_request_loads_the_engine_and_goes_there() -> None:
    world = World(pooled(1, gib=16))
    world.node_seen(node("n", 24))
    assert world.arrives(request("a")) == [LoadEngine("n/m1/1", 1, "n", (0,), 16 * GIB)]
    assert world.arrives(request("b")) == []
    world.now += 20.0
    [first, second] = [each for each in world.awake("n/m1/1", 19.5) if isinstance(each, Dispatch)]
    assert (first.request_id, first.place, first.tier) == ("a", Place(1, "n/m1/1"), Tier.COLD)
    assert (first.load_s, first.queue_wait_s, first.predicted_ttft_s) == (19.5, 20.0, 45.0)
    assert second.request_id == "b"
    [later] = [each for each in world.arrives(request("c")) if isinstance(each, Dispatch)]
    assert (later.tier, later.load_s) == (Tier.WARM, None)


@pytest.mark.parametrize(("said_s", "expected_s"), [(None, 50.0), (4.0, 4.5)])
def test_a_node_that_says_what_loading_takes_is_believed(said_s: float | None, expected_s: float) -> None:
    world = World(pooled(1, gib=16), policy="slo")
    world.node_seen(dataclasses.replace(node("n", 24), load_s=said_s))
    world.arrives(request("a"))
    world.now += 20.0
    [dispatch] = [each for each in world.awake("n/m1/1", 19.5) if isinstance(each, Dispatch)]
    assert dispatch.predicted_ttft_s == pytest.approx(expected_s, rel=0.15)


def test_an_engine_takes_its_share_of_each_of_its_gpus() -> None:
    world = World(pooled(1, gib=30, gpus=2))
    world.node_seen(node("n", 16, 16, 16))
    [load] = loads(world.arrives(request("a")))
    assert (load.gpu_indices, load.memory_mib) == ((0, 1), 30 * GIB)
    [seen] = world.scheduler.summary()["nodes"]
    assert [gpu["free_mib"] for gpu in seen["gpus"]] == [GIB, GIB, 16 * GIB]


def test_the_gpu_that_is_left_fullest_is_preferred() -> None:
    world = World(pooled(1, gib=10), pooled(2, gib=10))
    world.node_seen(node("large", 80))
    world.node_seen(node("small", 24, 12))
    assert [each.gpu_indices for each in loads(world.arrives(request("a", 1)))] == [(1,)]
    [second] = loads(world.arrives(request("b", 2)))
    assert (second.node_id, second.gpu_indices) == ("small", (0,))


@pytest.mark.parametrize(
    ("gib", "gpus", "message"),
    [
        (40, 1, "needs 40 GiB on 1 GPU; the largest GPU has 24 GiB"),
        (4, 3, "needs 1.3 GiB on each of 3 GPUs; the best node has 2 GPUs, the largest of 24 GiB"),
        (60, 2, "needs 30 GiB on each of 2 GPUs; the best node has 2 GPUs, the largest of 24 GiB"),
    ],
)
def test_a_model_larger_than_every_node_is_refused_with_both_figures(gib: int, gpus: int, message: str) -> None:
    world = World(pooled(1, gib=gib, gpus=gpus))
    world.node_seen(node("n", 24, 16))
    [reject] = rejects(world.arrives(request("a")))
    assert (reject.code, reject.message, reject.retry_after_s) == ("does_not_fit", message, None)


def test_a_model_that_does_not_fit_is_served_elsewhere_if_it_can_be() -> None:
    world = World(pooled(1, gib=40), remote(2), policy="fcfs")
    world.node_seen(node("n", 24))
    assert dispatches(world.arrives(request("a", 1, 2))) == [("a", Place(2))]


def test_without_a_node_a_request_waits_a_moment_after_the_start_only() -> None:
    world = World(pooled(1), node_grace_s=10.0)
    assert world.arrives(request("a")) == []
    assert rejects(world.passes(9.9)) == []
    [reject] = rejects(world.passes(0.2))
    assert (reject.code, reject.message) == ("no_capacity", "no GPU node is there to run it")
    assert rejected(world.arrives(request("b"))) == [("b", "no_capacity")]
    assert len(loads(world.node_seen(node("n", 24)) + world.arrives(request("c")))) == 1


def test_a_node_that_comes_within_the_grace_is_used() -> None:
    world = World(pooled(1))
    world.arrives(request("a"))
    world.now += 5.0
    assert len(loads(world.node_seen(node("n", 24)))) == 1


def test_a_node_of_another_pool_is_not_used() -> None:
    world = World(pooled(1), node_grace_s=0.0)
    other = node("n", 24)
    world.node_seen(type(other)(other.id, 99, other.gpus))
    assert rejected(world.arrives(request("a"))) == [("a", "no_capacity")]


# Memory that others hold.


def busy(world: World, *, sleeps: bool = True) -> None:
    """m1 runs request `busy` on the only GPU."""
    world.node_seen(node("n", 24, sleeps=sleeps))
    world.arrives(request("busy", 1))
    world.awake("n/m1/1")


def test_memory_held_by_what_runs_is_claimed_and_comes_free_when_that_is_through() -> None:
    world = World(pooled(1), pooled(2), policy="fcfs")
    busy(world)
    assert world.arrives(request("a", 2)) == []
    assert world.states() == {"n/m1/1": "draining"}
    assert sleeps(world.finishes("busy")) == ["n/m1/1"]
    assert loads(world.passes(5.0)) == []  # a release that is only promised is not credited
    assert [each.endpoint_id for each in loads(world.asleep("n/m1/1"))] == [2]


def test_an_idle_engine_makes_room_at_once() -> None:
    world = World(pooled(1, parallel=1), pooled(2), policy="fcfs")
    busy(world)
    world.finishes("busy")
    assert sleeps(world.arrives(request("a", 2))) == ["n/m1/1"]
    assert loads(world.passes(5.0)) == []
    assert [each.endpoint_id for each in loads(world.asleep("n/m1/1"))] == [2]


@pytest.mark.parametrize("policy", ["fcfs", "utilization", "ettft", "slo"])
@pytest.mark.parametrize("is_asleep", [True, False])
def test_nobody_makes_room_and_nothing_comes_for_a_request_that_may_not_wait(policy: str, is_asleep: bool) -> None:
    world = World(pooled(1), pooled(2), policy=policy, idle_in_the_way_s=1e3, idle_sleep_s=1e3)
    seen = [EngineSeen("n/m1/91", 1, (0,), EngineState.AWAKE, 16 * GIB)]
    seen += [EngineSeen("n/m2/92", 2, (0,), EngineState.ASLEEP, 16 * GIB)] if is_asleep else []
    world.node_seen(node("n", 24), *seen)
    world.passes(40.0)
    before = world.states()
    [reject] = world.arrives(request("a", 2, queue_timeout_s=0.0))
    assert isinstance(reject, Reject)
    assert (reject.code, reject.message) == ("queue_timeout", "no place was free at once, and it may not wait")
    assert reject.retry_after_s is not None
    assert world.passes(30.0) == []
    assert world.states() == before
    assert dispatched(world.arrives(request("b", 1, queue_timeout_s=0.0))) == ["b"]


def test_an_engine_that_cannot_sleep_where_it_is_stops_to_make_room() -> None:
    world = World(pooled(1, parallel=1), pooled(2), policy="fcfs")
    busy(world, sleeps=False)
    world.finishes("busy")
    commands = world.arrives(request("a", 2))
    assert (sleeps(commands), stops(commands)) == ([], ["n/m1/1"])
    assert loads(world.passes(5.0)) == []
    assert [each.endpoint_id for each in loads(world.cold("n/m1/1"))] == [2]


def test_the_idle_engine_that_has_been_awake_longest_goes_first() -> None:
    world = World(pooled(1, gib=8), pooled(2, gib=8), pooled(3, gib=8), pooled(4, gib=8), policy="fcfs")
    world.node_seen(node("n", 24))
    world.arrive(request("a", 1), request("b", 2), request("c", 3))
    for engine_id in ("n/m1/1", "n/m2/2", "n/m3/3"):
        world.now += 1.0
        world.awake(engine_id)
    world.finishes("c")
    world.finishes("b")
    assert sleeps(world.arrives(request("d", 4))) == ["n/m2/2"]  # m1 is older, and busy


def test_only_as_much_is_put_to_sleep_as_is_needed() -> None:
    world = World(pooled(1, gib=8), pooled(2, gib=8), pooled(3, gib=16), policy="fcfs")
    world.node_seen(node("n", 16, 8))
    world.arrive(request("a", 1), request("b", 2))
    for engine in world.scheduler.summary()["engines"]:
        world.awake(engine["engine_id"])
    world.finishes("a")
    world.finishes("b")
    on_gpu_0 = [each["engine_id"] for each in world.scheduler.summary()["engines"] if each["gpus"] == [0]]
    assert len(on_gpu_0) == 1
    assert sleeps(world.arrives(request("c", 3))) == on_gpu_0


@pytest.mark.parametrize("kept", [{"pinned": True}, {"replicas": (1, 1)}])
def test_a_model_that_shall_stay_is_never_stopped_for_another(kept: dict[str, object]) -> None:
    world = World(pooled(1, parallel=1, **kept), pooled(2))  # type: ignore[arg-type]  # one of two keywords
    busy(world)
    [reject] = rejects(world.arrives(request("a", 2)))
    assert reject.code == "no_capacity"
    assert reject.message == "needs 16 GiB on 1 GPU; the memory is held by m1 (1 running)"
    assert reject.retry_after_s == 3.0 + 45.0
    world.finishes("busy")
    assert rejected(world.arrives(request("b", 2))) == [("b", "no_capacity")]


def test_an_idle_engine_with_a_lease_drains_before_it_sleeps() -> None:
    world = World(pooled(1, parallel=8), pooled(2), policy="fcfs")
    world.node_seen(node("n", 24))
    world.arrives(request("a", 1))
    world.awake("n/m1/1")
    [lease] = grants(world.arrives(request("b", 1)))
    world.finishes("a")
    world.finishes("b")
    commands = world.arrives(request("c", 2))
    assert revokes(commands) == [lease.lease_id]
    assert sleeps(commands) == []
    # The gateway had started one more: it is not cut.
    assert sleeps(world.returns(lease.lease_id, "x")) == []
    assert sleeps(world.reports(lease.lease_id, ended=("x",))) == ["n/m1/1"]
    assert len(loads(world.asleep("n/m1/1"))) == 1


def test_who_waits_for_memory_that_another_gets_first_comes_after_it() -> None:
    world = World(pooled(1, parallel=1), pooled(2), pooled(3), policy="fcfs")
    busy(world)
    world.finishes("busy")
    world.arrives(request("a", 2))
    assert world.arrives(request("b", 3)) == []  # memory is on its way, and not for it
    assert [each.endpoint_id for each in loads(world.asleep("n/m1/1"))] == [2]
    assert dispatched(world.awake("n/m2/2")) == ["a"]
    assert sleeps(world.finishes("a")) == ["n/m2/2"]
    assert [each.endpoint_id for each in loads(world.asleep("n/m2/2"))] == [3]
    assert dispatched(world.awake("n/m3/3")) == ["b"]


# Replicas.


def test_more_engines_come_when_more_waits_than_those_there_can_take() -> None:
    world = World(pooled(1, parallel=2, replicas=(0, 3)))
    world.node_seen(node("n", 16, 16, 16, 16))
    assert len(loads(world.arrives(request("a")))) == 1
    assert len(loads(world.arrives(request("b")))) == 0
    assert len(loads(world.arrives(request("c")))) == 1
    assert len(loads(world.arrive(*(request(each) for each in "defghij")))) == 1  # max_replicas
    assert dispatched(world.awake("n/m1/1")) == ["a", "b"]
    assert dispatched(world.awake("n/m1/2")) == ["c", "d"]


def test_requests_go_to_the_engine_with_most_room() -> None:
    world = World(pooled(1, parallel=2, replicas=(2, 2)))
    world.node_seen(node("n", 16, 16))
    world.awake("n/m1/1")
    world.awake("n/m1/2")
    placed = dispatches(world.arrive(*(request(each) for each in "abcd")))
    assert [place.engine_id for _, place in placed] == ["n/m1/1", "n/m1/2", "n/m1/1", "n/m1/2"]


def test_the_minimum_is_loaded_without_being_asked_for() -> None:
    world = World(pooled(1, replicas=(1, 2)))
    assert len(loads(world.node_seen(node("n", 16, 16)))) == 1
    assert len(loads(world.declares(pooled(1, replicas=(2, 2)), pooled(2)))) == 1


def test_the_minimum_is_restored_when_an_engine_fails() -> None:
    world = World(pooled(1, replicas=(1, 1)))
    world.node_seen(node("n", 16))
    world.awake("n/m1/1")
    assert stops(world.engine_fails("n/m1/1")) == ["n/m1/1"]
    assert len(loads(world.cold("n/m1/1"))) == 1


# Failures.


def test_a_failed_load_is_tried_again_after_a_back_off_that_doubles() -> None:
    world = World(pooled(1), load_backoff_s=2.0, load_tries_max=3)
    world.node_seen(node("n", 24))
    world.arrives(request("a"))
    assert stops(world.engine_fails("n/m1/1")) == ["n/m1/1"]
    assert loads(world.cold("n/m1/1")) == []
    assert loads(world.passes(1.9)) == []
    assert len(loads(world.passes(0.2))) == 1
    world.engine_fails("n/m1/2")
    world.cold("n/m1/2")
    assert loads(world.passes(3.9)) == []
    assert len(loads(world.passes(0.2))) == 1
    assert dispatched(world.awake("n/m1/3")) == ["a"]


def test_after_the_last_try_who_waits_is_refused_with_the_reason() -> None:
    world = World(pooled(1), load_tries_max=1, load_cooldown_s=60.0)
    world.node_seen(node("n", 24))
    world.arrives(request("a"))
    [reject] = rejects(world.engine_fails("n/m1/1", "no such weights"))
    assert reject.message == "its engine could not be loaded: no such weights"
    assert (reject.code, reject.retry_after_s) == ("no_capacity", 60.0)
    world.cold("n/m1/1")
    assert rejected(world.arrives(request("b"))) == [("b", "no_capacity")]
    world.passes(60.1)
    assert len(loads(world.arrives(request("c")))) == 1


def test_after_the_last_try_who_has_a_choice_goes_elsewhere() -> None:
    world = World(pooled(1), remote(2), load_tries_max=1, policy="fcfs")
    world.node_seen(node("n", 24))
    world.arrives(request("a", 1, 2))
    assert dispatches(world.engine_fails("n/m1/1")) == [("a", Place(2))]


def test_the_next_try_is_on_another_node_if_there_is_one() -> None:
    world = World(pooled(1))
    world.node_seen(node("first", 20))
    world.node_seen(node("second", 24))
    assert [each.node_id for each in loads(world.arrives(request("a")))] == ["first"]
    world.engine_fails("first/m1/1")
    world.cold("first/m1/1")
    assert [each.node_id for each in loads(world.passes(3.0))] == ["second"]


def test_a_load_that_is_never_answered_is_given_up() -> None:
    world = World(pooled(1), load_timeout_s=100.0, load_tries_max=1)
    world.node_seen(node("n", 24))
    world.arrives(request("a", queue_timeout_s=1000.0))
    commands = world.passes(100.1)
    assert stops(commands) == ["n/m1/1"]
    assert [reject.message for reject in rejects(commands)] == ["its engine could not be loaded: it took too long"]


def test_a_stop_that_is_never_answered_or_fails_is_asked_for_again() -> None:
    world = World(pooled(1, parallel=1), pooled(2), stop_timeout_s=30.0, policy="fcfs")
    busy(world, sleeps=False)
    world.finishes("busy")
    world.arrives(request("a", 2, queue_timeout_s=1000.0))
    assert stops(world.passes(30.1)) == ["n/m1/1"]
    assert stops(world.engine_fails("n/m1/1")) == []
    assert stops(world.passes(30.1)) == ["n/m1/1"]
    assert len(loads(world.cold("n/m1/1"))) == 1


def test_an_engine_that_dies_keeps_who_waits_and_is_loaded_again() -> None:
    world = World(pooled(1, parallel=1))
    busy(world)
    world.arrives(request("a"))
    assert stops(world.engine_fails("n/m1/1")) == ["n/m1/1"]
    world.fails("busy")
    [load] = loads(world.cold("n/m1/1"))
    assert dispatched(world.awake(load.engine_id)) == ["a"]


@pytest.mark.parametrize("state", [EngineState.ASLEEP, EngineState.COLD, EngineState.WAKING, EngineState.LOADING])
def test_a_report_that_cannot_be_is_ignored(state: EngineState) -> None:
    world = World(pooled(1))
    busy(world)
    assert world.engine("n/m1/1", state) == []
    assert dispatched(world.arrives(request("a"))) == ["a"]


def test_a_live_engine_that_nobody_knows_is_stopped() -> None:
    world = World(pooled(1))
    assert stops(world.awake("n/m9/1")) == ["n/m9/1"]
    assert world.engine_fails("n/m9/1") == []
    assert world.cold("n/m9/1") == []


def test_a_sleeping_engine_is_woken_when_it_is_wanted() -> None:
    world = World(pooled(1))
    world.node_seen(node("n", 24), EngineSeen("n/m1/7", 1, (0,), EngineState.ASLEEP, 16 * GIB))
    assert world.arrives(request("a")) == [WakeEngine("n/m1/7")]
    [dispatch] = [each for each in world.awake("n/m1/7", 1.5) if isinstance(each, Dispatch)]
    assert (dispatch.tier, dispatch.load_s, dispatch.predicted_ttft_s) == (Tier.ASLEEP, 1.5, 2.5)


# Nodes.


def test_when_a_node_is_lost_who_waits_goes_to_another() -> None:
    world = World(pooled(1))
    world.node_seen(node("first", 20))
    world.arrives(request("a"))
    world.node_seen(node("second", 24))
    assert [each.node_id for each in loads(world.node_lost("first"))] == ["second"]
    assert world.node_lost("first") == []


def test_what_ran_on_a_lost_node_is_left_to_its_gateway_to_report() -> None:
    world = World(pooled(1, parallel=1))
    busy(world)
    world.node_lost("n")
    assert world.scheduler.summary()["running"] == 1
    world.fails("busy")
    assert world.is_empty()
    assert world.scheduler.summary()["engines"] == []


def test_a_node_that_introduces_itself_again_changes_nothing() -> None:
    world = World(pooled(1))
    busy(world)
    seen = EngineSeen("n/m1/1", 1, (0,), EngineState.AWAKE, 16 * GIB)
    assert world.node_seen(node("n", 24), seen) == []
    assert dispatched(world.arrives(request("a"))) == ["a"]


def test_an_engine_that_its_node_no_longer_has_is_gone() -> None:
    world = World(pooled(1, parallel=1))
    busy(world)
    world.arrives(request("a"))
    [load] = loads(world.node_seen(node("n", 24)))
    assert load.engine_id == "n/m1/2"


# The catalogue.


def test_an_idle_engine_of_a_removed_endpoint_is_stopped() -> None:
    world = World(pooled(1, parallel=1))
    busy(world)
    world.finishes("busy")
    assert stops(world.declares()) == ["n/m1/1"]
    world.cold("n/m1/1")
    assert world.scheduler.summary()["endpoints"] == []


def test_a_busy_engine_of_a_removed_endpoint_drains_first() -> None:
    world = World(pooled(1, parallel=1))
    busy(world)
    assert stops(world.declares()) == []
    assert stops(world.finishes("busy")) == ["n/m1/1"]
    world.cold("n/m1/1")
    assert world.scheduler.summary()["endpoints"] == []


def test_how_long_loads_wakes_and_sleeps_take_is_learned_from_each() -> None:
    world = World(pooled(1), idle_sleep_s=195.0, policy="slo")
    world.node_seen(node("n", 16))
    took = {Transition.LOAD: 77.0, Transition.SLEEP: 19.0, Transition.WAKE: 17.0}
    world.arrives(request("a", queue_timeout_s=900.0))
    world.now += took[Transition.LOAD]
    world.awake("n/m1/1", took[Transition.LOAD])
    world.finishes("a")
    assert sleeps(world.passes(200.0)) == ["n/m1/1"]
    world.asleep("n/m1/1", took[Transition.SLEEP])
    world.arrives(request("b", queue_timeout_s=900.0))
    world.awake("n/m1/1", took[Transition.WAKE])
    for kind, seconds in took.items():
        fresh = World(pooled(1), policy="slo").scheduler._state.predictor.transition(1, "n", kind).p50
        learned = world.scheduler._state.predictor.transition(1, "n", kind).p50
        assert abs(learned - seconds) < abs(fresh - seconds), kind


def test_a_prompt_that_is_given_up_before_its_first_token_is_not_waited_for() -> None:
    world = World(remote(1))
    world.arrives(request("a", prompt_tokens=9000))
    world.starts("a")
    [place] = world.scheduler._state.endpoints[1].places.values()
    assert "a" in place.backlog
    world.leaves("a")
    assert "a" not in place.backlog


def test_how_full_an_engine_says_that_it_is_counts_for_what_comes_next() -> None:
    world = World(pooled(1), policy="slo")
    world.node_seen(node("n", 16), EngineSeen("n/m1/1", 1, (0,), EngineState.AWAKE, 16 * 1024))
    world.hears(EngineReported(world.now, "n/m1/1", 3, 2, 0.75))
    world.hears(EngineReported(world.now, "unknown", 9, 9, 0.1))
    [seen] = world.scheduler.summary()["engines"]
    assert (seen["running_inside"], seen["waiting_inside"], seen["kv_usage"]) == (3, 2, 0.75)
    world.arrives(request("a"))
    met = world.scheduler._state.tickets["a"].met
    assert met is not None
    assert met.kv_usage == 0.75
