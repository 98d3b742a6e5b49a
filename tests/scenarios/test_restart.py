"""After a restart of the scheduler: what gateways and nodes hold becomes known before anything is given away."""

from __future__ import annotations

import pytest

from logos.domain.leases import SlotLease
from logos.domain.lifecycle import EngineState
from logos.domain.nouns import Place
from logos.scheduling.commands import WakeEngine
from logos.scheduling.events import EngineSeen
from tests.scenarios.world import (
    World,
    dispatched,
    grants,
    loads,
    node,
    pooled,
    remote,
    request,
    revokes,
    sleeps,
    stops,
    wakes,
)

ENGINE = "n/m1/1"
HELD = SlotLease("1-1", "g1", Place(1), 3, 9.0)


def test_nothing_is_placed_while_gateways_introduce_themselves() -> None:
    world = World(remote(1, parallel=4), epoch=2, reconvene_s=2.0)
    assert world.gateway_seen("g2") == []
    assert world.arrives(request("a", gateway="g2"), request("b", gateway="g2")) == []
    world.now += 1.0
    assert world.gateway_seen("g1", HELD) == []
    assert dispatched(world.passes(1.1)) == ["a"]
    assert world.endpoint(1)["leased_unused"] == 3


def test_leases_of_before_the_restart_go_on_under_their_ids() -> None:
    world = World(remote(1, parallel=9), epoch=2)
    world.gateway_seen("g1", HELD)
    world.reports("1-1", "x")
    assert (world.endpoint(1)["running"], world.endpoint(1)["leased_unused"]) == (1, 2)
    world.now += 6.0
    [renewed] = grants(world.reports("1-1", "y"))
    assert (renewed.lease_id, renewed.slots) == ("1-1", 3)


def test_a_slot_of_a_lease_is_its_holders_again_where_more_is_held_than_there_is() -> None:
    world = World(remote(1, parallel=4), epoch=2)
    world.gateway_seen("g1", HELD, running=(("x", Place(1)), ("y", Place(1))))
    world.reports("1-1", "z")
    world.reports("1-1", ended=("z",))
    assert (world.endpoint(1)["running"], world.endpoint(1)["leased_unused"]) == (2, 3)
    assert dispatched(world.arrives(request("a"))) == []


def test_a_lease_of_before_the_restart_runs_out_when_its_holder_said() -> None:
    world = World(remote(1, parallel=3), epoch=2)
    world.gateway_seen("g1", HELD)
    world.arrives(request("a"))
    assert dispatched(world.passes(9.0 + 1.9)) == []
    assert dispatched(world.passes(0.2)) == ["a"]


def test_new_leases_have_ids_of_their_own() -> None:
    world = World(remote(1, parallel=99), epoch=2)
    world.gateway_seen("g1", HELD)
    [lease] = grants(world.arrives(request("a", gateway="g2")))
    assert lease.lease_id == "2-1"


def test_what_ran_before_the_restart_counts_and_ends_like_any_other() -> None:
    world = World(remote(1, parallel=2), epoch=2)
    world.gateway_seen("g1", running=(("x", Place(1)), ("y", Place(1))))
    assert dispatched(world.arrives(request("a"))) == []
    assert dispatched(world.finishes("x")) == ["a"]
    world.leaves("y")
    world.finishes("a")
    assert world.is_empty()


def test_what_ran_under_a_lease_is_counted_once_when_the_lease_reports_it() -> None:
    world = World(remote(1, parallel=9), epoch=2)
    world.gateway_seen("g1", HELD, running=(("x", Place(1)), ("y", Place(1))))
    world.reports("1-1", "x", "y")
    assert (world.endpoint(1)["running"], world.endpoint(1)["leased_unused"]) == (2, 1)
    world.reports("1-1", ended=("x", "y"))
    assert (world.endpoint(1)["running"], world.endpoint(1)["leased_unused"]) == (0, 3)


def test_what_ran_under_a_lease_ends_even_if_it_was_never_told_to_be_under_it() -> None:
    world = World(remote(1, parallel=9), epoch=2)
    world.gateway_seen("g1", HELD, running=(("x", Place(1)),))
    world.reports("1-1", ended=("x",))
    assert world.endpoint(1)["running"] == 0


def test_a_gateway_that_introduces_itself_twice_changes_nothing() -> None:
    world = World(remote(1, parallel=9), epoch=2)
    for _ in range(2):
        world.gateway_seen("g1", HELD, running=(("x", Place(1)),))
    assert (world.endpoint(1)["running"], world.endpoint(1)["leased_unused"]) == (1, 3)


def test_engines_of_before_the_restart_are_taken_over() -> None:
    world = World(pooled(1, parallel=2), epoch=2, reconvene_s=2.0)
    world.gateway_seen("g1", running=(("x", Place(1, "n/m1/7")),))
    world.arrives(request("a"))
    world.now += 1.0
    assert world.node_seen(node("n", 24), EngineSeen("n/m1/7", 1, (0,), EngineState.AWAKE, 16 * 1024)) == []
    assert dispatched(world.passes(1.1)) == ["a"]
    assert loads(world.arrives(request("b"))) == []
    assert dispatched(world.finishes("x")) == ["b"]


def test_everything_may_be_heard_of_before_the_catalogue_is() -> None:
    world = World(epoch=2)
    assert world.node_seen(node("n", 24), EngineSeen("n/m1/7", 1, (0,), EngineState.AWAKE, 16 * 1024)) == []
    place = Place(1, "n/m1/7")
    assert world.gateway_seen("g1", SlotLease("1-1", "g1", place, 1, 9.0), running=(("x", place),)) == []
    assert world.arrives(request("a")) == []
    assert dispatched(world.declares(pooled(1, parallel=4))) == ["a"]
    assert world.endpoint(1)["leases"] == 1
    assert dispatched(world.arrives(request("b"))) == ["b"]


def test_an_engine_of_an_endpoint_that_is_no_more_is_stopped() -> None:
    world = World(pooled(1), epoch=2)
    assert stops(world.node_seen(node("n", 24), EngineSeen("n/m9/7", 9, (0,), EngineState.AWAKE, 8 * 1024))) == [
        "n/m9/7"
    ]


def test_an_engine_that_was_loading_is_waited_for() -> None:
    world = World(pooled(1), epoch=2)
    world.node_seen(node("n", 24), EngineSeen("n/m1/7", 1, (0,), EngineState.LOADING, 16 * 1024))
    assert world.arrives(request("a")) == []
    assert dispatched(world.awake("n/m1/7")) == ["a"]


def test_an_engine_that_was_falling_asleep_is_ended_when_that_is_overdue_and_loaded_again_when_wanted() -> None:
    world = World(pooled(1), epoch=2, sleep_timeout_s=20.0, load_tries_max=1)
    world.node_seen(node("n", 24), EngineSeen("n/m1/7", 1, (0,), EngineState.FALLING_ASLEEP, 16 * 1024))
    assert stops(world.passes(19.9)) == []
    assert stops(world.passes(0.2)) == ["n/m1/7"]
    world.cold("n/m1/7")
    assert len(loads(world.arrives(request("a")))) == 1


def test_engine_ids_of_before_the_restart_are_not_used_again() -> None:
    world = World(pooled(1, gib=8, replicas=(2, 2)), epoch=2)
    [load] = loads(world.node_seen(node("n", 24), EngineSeen("n/m1/1", 1, (0,), EngineState.AWAKE, 8 * 1024)))
    assert load.engine_id == "n/m1/2"


def test_nothing_is_ended_before_gateways_have_said_what_runs_there() -> None:
    world = World(pooled(1), reconvene_s=2.0)
    world.node_seen(node("n", 24), EngineSeen("n/m1/1", 1, (0,), EngineState.AWAKE, 16 * 1024))
    assert world.declares(pooled(2)) == []
    world.gateway_seen("g1", running=(("x", Place(1, "n/m1/1")),))
    assert stops(world.passes(2.1)) == []
    assert stops(world.finishes("x")) == ["n/m1/1"]


@pytest.mark.parametrize("policy", ["fcfs", "utilization", "ettft", "slo"])
def test_nobody_makes_room_before_gateways_have_said_what_runs_there(policy: str) -> None:
    world = World(pooled(1), pooled(2), policy=policy, reconvene_s=10.0)
    sleeper = EngineSeen("n/m2/2", 2, (0,), EngineState.ASLEEP, 16 * 1024)
    world.node_seen(node("n", 24), engine_one(EngineState.AWAKE), sleeper)
    world.arrives(request("a", 2))
    world.now += 6.0
    assert world.node_seen(node("n", 24), engine_one(EngineState.AWAKE), sleeper) == []
    assert sleeps(world.passes(15.0)) == [ENGINE]


def test_what_nobody_uses_is_ended_once_gateways_have_introduced_themselves() -> None:
    world = World(pooled(1), reconvene_s=2.0)
    world.node_seen(node("n", 24), EngineSeen("n/m1/1", 1, (0,), EngineState.AWAKE, 16 * 1024))
    assert world.declares(pooled(2)) == []
    assert stops(world.passes(2.1)) == ["n/m1/1"]


def test_an_engine_that_has_slept_before_a_restart_still_takes_host_memory() -> None:
    world = World(pooled(1))
    world.node_seen(node("n", 24), EngineSeen("n/m1/1", 1, (0,), EngineState.AWAKE, 16 * 1024, has_slept=True))
    [seen] = world.scheduler.summary()["nodes"]
    assert seen["host_taken_mib"] == 16 * 1024


# A node introduces itself again while the answer to an order is on its way.


def test_an_engine_that_was_told_to_sleep_gets_nothing_though_its_node_still_says_awake() -> None:
    world = told_to_sleep()
    assert world.node_seen(node("n", 24), engine_one(EngineState.AWAKE)) == []
    assert dispatched(world.arrives(request("b"))) == []
    assert world.asleep(ENGINE) == [WakeEngine(ENGINE)]
    assert dispatched(world.awake(ENGINE, 1.0)) == ["b"]


def test_an_engine_that_was_told_to_wake_holds_its_memory_though_its_node_still_says_asleep() -> None:
    world = World(pooled(1), pooled(2), policy="fcfs")
    world.node_seen(node("n", 24), engine_one(EngineState.ASLEEP))
    assert wakes(world.arrives(request("a"))) == [ENGINE]
    world.leaves("a")
    assert world.node_seen(node("n", 24), engine_one(EngineState.ASLEEP)) == []
    assert world.awake(ENGINE, 1.0) == []
    assert loads(world.arrives(request("b", 2))) == []
    assert world.states() == {ENGINE: "falling_asleep"}


def test_an_engine_whose_node_has_lost_the_order_to_sleep_is_ended_by_its_time_out() -> None:
    world = told_to_sleep()
    world.node_seen(node("n", 24), engine_one(EngineState.AWAKE))
    assert stops(world.passes(60.0)) == [ENGINE]


def told_to_sleep() -> World:
    world = World(pooled(1), policy="ettft", reconvene_s=1.0)
    world.node_seen(node("n", 24), engine_one(EngineState.AWAKE))
    assert sleeps(world.passes(125.0)) == [ENGINE]
    return world


def engine_one(state: EngineState) -> EngineSeen:
    return EngineSeen(ENGINE, 1, (0,), state, 16 * 1024)


def test_what_a_sleeping_engine_of_an_unknown_model_may_keep_is_given_to_nobody() -> None:
    world = World(pooled(2, gib=20), epoch=2)
    asleep = EngineSeen("n/m1/9", 1, (0,), EngineState.ASLEEP, 16 * 1024)
    assert stops(world.node_seen(node("n", 24), asleep)) == ["n/m1/9"]
    assert loads(world.arrives(request("a", 2))) == []
    assert [each.endpoint_id for each in loads(world.cold("n/m1/9"))] == [2]


def test_engines_seen_before_the_catalogue_keep_what_it_says_of_them() -> None:
    world = World(epoch=2)
    asleep = EngineSeen("n/m1/9", 1, (0,), EngineState.ASLEEP, 16 * 1024)
    awake = EngineSeen("n/m2/9", 2, (0,), EngineState.AWAKE, 16 * 1024)
    world.node_seen(node("n", 24, host_gib=20), asleep, awake)
    world.declares(pooled(1, residue_gib=2), pooled(2), pooled(3, gib=6))
    assert [each.endpoint_id for each in loads(world.arrives(request("a", 3)))] == [3]


def test_an_engine_that_is_gone_already_is_not_taken_over() -> None:
    world = World(pooled(1), epoch=2, reconvene_s=0.0)
    assert world.node_seen(node("n", 16), EngineSeen(ENGINE, 1, (0,), EngineState.COLD, 0)) == []
    assert world.states() == {}
    assert [each.gpu_indices for each in loads(world.arrives(request("a")))] == [(0,)]


def test_a_lease_is_not_renewed_while_others_may_still_say_what_they_hold() -> None:
    world = World(remote(1, parallel=9), epoch=2, reconvene_s=7.0)
    world.gateway_seen("g1", HELD)
    world.now += 6.0
    assert world.reports("1-1", "x") == []
    world.passes(1.0)
    assert [each.lease_id for each in grants(world.reports("1-1", "y"))] == ["1-1"]


def test_a_lease_that_is_told_of_while_somebody_waits_is_asked_back() -> None:
    world = World(remote(1, parallel=1), epoch=2)
    world.gateway_seen("g2", running=(("x", Place(1)),))
    world.arrives(request("a", gateway="g2"))
    assert revokes(world.gateway_seen("g1", HELD)) == ["1-1"]


def test_what_a_lease_reports_runs_there_wherever_it_was_said_to_run_before() -> None:
    world = World(remote(1, parallel=9), remote(2, parallel=9), epoch=2)
    world.gateway_seen("g1", HELD, running=(("x", Place(2)),))
    world.reports("1-1", "x")
    assert (world.endpoint(1)["running"], world.endpoint(2)["running"]) == (1, 0)
    world.reports("1-1", ended=("x",))
    assert (world.endpoint(1)["running"], world.endpoint(2)["running"]) == (0, 0)


def test_the_memory_of_an_engine_on_several_gpus_is_shared_among_them() -> None:
    world = World(pooled(1, gpus=2, gib=20), epoch=2)
    world.node_seen(node("n", 16, 16), EngineSeen(ENGINE, 1, (0, 1), EngineState.AWAKE, 20 * 1024))
    [seen] = world.scheduler.summary()["nodes"]
    assert [gpu["free_mib"] for gpu in seen["gpus"]] == [6 * 1024, 6 * 1024]
