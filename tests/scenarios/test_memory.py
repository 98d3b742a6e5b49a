"""The memory ledger while models change places: what sleeping engines keep on GPUs and in host RAM, and who yields."""

from __future__ import annotations

from logos.domain.lifecycle import EngineState
from logos.domain.nouns import Endpoint, Node
from logos.scheduling.commands import SleepEngine, StopEngine, WakeEngine
from logos.scheduling.events import EngineSeen, Request
from tests.scenarios.world import World, loads, node, pooled, rejected, request, sleeps, stops

GIB = 1024


def patient(request_id: str, endpoint_id: int) -> Request:
    return request(request_id, endpoint_id, queue_timeout_s=900.0)


def seen(endpoint_id: int, state: EngineState, gib: int = 16, gpus: tuple[int, ...] = (0,)) -> EngineSeen:
    return EngineSeen(f"n/m{endpoint_id}/9{endpoint_id}", endpoint_id, gpus, state, gib * GIB)


def world(
    there: Node, endpoints: tuple[Endpoint, ...], *engines: EngineSeen, policy: str = "fcfs", ago_s: float = 100.0
) -> World:
    """The node and its engines introduced themselves so long ago."""
    made = World(*endpoints, policy=policy)
    made.node_seen(there, *engines)
    made.now += ago_s
    return made


def free_gib(of: World) -> list[int]:
    [found] = of.scheduler.summary()["nodes"]
    return [gpu["free_mib"] // GIB for gpu in found["gpus"]]


AWAKE, ASLEEP = EngineState.AWAKE, EngineState.ASLEEP
ONE, TWO, THREE = "n/m1/91", "n/m2/92", "n/m3/93"


# The GPUs.


def test_a_sleeping_engine_keeps_its_residue_and_a_falling_one_everything() -> None:
    it = world(node("n", 24), (pooled(1, residue_gib=2), pooled(2)), seen(1, AWAKE))
    assert free_gib(it) == [8]
    assert sleeps(it.arrives(patient("a", 2))) == [ONE]
    assert free_gib(it) == [8]
    assert len(loads(it.asleep(ONE))) == 1
    assert free_gib(it) == [24 - 2 - 16]


def test_a_waking_engine_takes_its_memory_at_once() -> None:
    it = world(node("n", 24), (pooled(1, residue_gib=2),), seen(1, ASLEEP))
    assert free_gib(it) == [22]
    assert it.arrives(request("a", 1)) == [WakeEngine(ONE)]
    assert free_gib(it) == [8]


def test_the_residue_is_shared_by_the_gpus_of_an_engine() -> None:
    it = world(node("n", 16, 16), (pooled(1, gib=20, gpus=2, residue_gib=4),), seen(1, ASLEEP, 20, (0, 1)))
    assert free_gib(it) == [14, 14]


def test_a_sleeping_engine_that_is_ended_takes_no_more_than_it_kept() -> None:
    it = world(
        node("n", 24, host_gib=16),
        (pooled(1, residue_gib=2), pooled(2, gib=20), pooled(3, gib=20)),
        seen(1, ASLEEP),
        seen(2, AWAKE, 20),
    )
    it.declares(pooled(2, gib=20), pooled(3, gib=20))
    assert it.states()[ONE] == "stopping"
    assert free_gib(it) == [2]
    it.engine_fails(ONE)
    assert free_gib(it) == [2]
    it.cold(ONE)
    assert free_gib(it) == [4]


def test_an_engine_whose_sleep_failed_holds_everything_until_it_is_gone() -> None:
    it = world(node("n", 24), (pooled(1, residue_gib=2), pooled(2)), seen(1, AWAKE))
    it.arrives(patient("a", 2))
    it.engine_fails(ONE)
    assert free_gib(it) == [8]
    it.cold(ONE)
    assert free_gib(it) == [8]  # m2 has it


def test_an_engine_whose_wake_failed_holds_everything_until_it_is_gone() -> None:
    it = world(node("n", 24), (pooled(1, residue_gib=2),), seen(1, ASLEEP))
    it.arrives(patient("a", 1))
    it.engine_fails(ONE)
    assert free_gib(it) == [8]
    it.cold(ONE)
    assert free_gib(it) == [24]


def test_the_residue_of_a_victim_is_reckoned_with_before_it_sleeps() -> None:
    """Asleep it would keep 2 of 24 GiB: too much for a model of 24, so it stops."""
    it = world(node("n", 24), (pooled(1, residue_gib=2), pooled(2, gib=24)), seen(1, AWAKE))
    assert it.arrives(patient("a", 2)) == [StopEngine(ONE)]
    assert [each.endpoint_id for each in loads(it.cold(ONE))] == [2]


def test_a_sleeping_engine_goes_to_disk_if_its_residue_is_in_the_way() -> None:
    it = world(node("n", 24), (pooled(1, residue_gib=2), pooled(2, gib=24)), seen(1, ASLEEP))
    assert it.arrives(patient("a", 2)) == [StopEngine(ONE)]
    assert it.states() == {ONE: "stopping"}
    assert [each.endpoint_id for each in loads(it.cold(ONE))] == [2]


def test_a_sleeping_engine_goes_to_disk_so_that_another_can_wake() -> None:
    it = world(node("n", 24), (pooled(1, residue_gib=2), pooled(2, gib=24)), seen(1, ASLEEP), seen(2, ASLEEP, 24))
    assert it.arrives(patient("a", 2)) == [StopEngine(ONE)]
    assert it.cold(ONE) == [WakeEngine(TWO)]


def test_only_as_many_sleeping_engines_go_to_disk_as_must() -> None:
    it = world(
        node("n", 24),
        (pooled(1, residue_gib=2), pooled(2, residue_gib=1), pooled(3, gib=23)),
        seen(1, ASLEEP),
        seen(2, ASLEEP),
    )
    assert it.arrives(patient("a", 3)) == [StopEngine(ONE)]


def test_a_sleeping_engine_is_left_alone_while_others_are_changing_places() -> None:
    """m4 could have the first GPU if m1 went to disk; but maybe what is under way on the second will do."""
    it = world(
        node("n", 24, 24),
        (pooled(1, residue_gib=2), pooled(2, gib=20), pooled(3, gib=23, residue_gib=1), pooled(4, gib=24)),
        seen(1, ASLEEP),
        seen(2, AWAKE, 20, (1,)),
        policy="slo",
    )
    assert it.arrives(patient("a", 3)) == [SleepEngine(TWO)]
    assert it.arrives(patient("b", 4)) == []
    [load] = loads(it.asleep(TWO))
    assert it.states()[ONE] == "asleep"
    assert stops(it.awake(load.engine_id)) == [ONE]


def test_the_least_wanted_are_spared_if_one_of_the_others_is_enough() -> None:
    """m1 comes first as a victim, but m2 must go anyway, and with it enough has gone."""
    it = world(
        node("n", 24),
        (pooled(1, gib=4), pooled(2, gib=20), pooled(3, gib=20)),
        seen(1, AWAKE, 4),
        seen(2, AWAKE, 20),
    )
    assert sleeps(it.arrives(patient("a", 3))) == [TWO]


# Host RAM.


def test_a_victim_without_room_in_host_ram_stops() -> None:
    it = world(node("n", 24, host_gib=10), (pooled(1), pooled(2)), seen(1, AWAKE))
    assert it.arrives(patient("a", 2)) == [StopEngine(ONE)]


def test_a_model_says_itself_how_much_host_ram_its_weights_take() -> None:
    it = world(node("n", 24, host_gib=10), (pooled(1, host_gib=8), pooled(2)), seen(1, AWAKE))
    assert it.arrives(patient("a", 2)) == [SleepEngine(ONE)]


def test_a_model_that_cannot_sleep_stops() -> None:
    it = world(node("n", 24), (pooled(1, sleeps=False), pooled(2)), seen(1, AWAKE))
    assert it.arrives(patient("a", 2)) == [StopEngine(ONE)]


def test_nothing_sleeps_on_a_node_that_cannot() -> None:
    it = world(node("n", 24, sleeps=False), (pooled(1), pooled(2)), seen(1, AWAKE))
    assert it.arrives(patient("a", 2)) == [StopEngine(ONE)]


def test_when_host_ram_is_full_who_has_slept_longest_goes_to_disk_and_the_victim_sleeps() -> None:
    it = world(
        node("n", 32, host_gib=40),
        (pooled(1), pooled(2), pooled(3), pooled(4, gib=32)),
        seen(1, EngineState.FALLING_ASLEEP),
        seen(2, ASLEEP),
        seen(3, AWAKE),
        ago_s=10.0,
    )
    it.asleep(ONE)
    assert it.arrives(patient("a", 4)) == [StopEngine(TWO)]
    assert it.states() == {ONE: "asleep", TWO: "stopping", THREE: "draining"}
    assert it.cold(TWO) == [SleepEngine(THREE)]
    assert [each.endpoint_id for each in loads(it.asleep(THREE))] == [4]


def test_nobody_goes_to_disk_for_a_victim_that_cannot_sleep_or_for_whom_it_is_not_enough() -> None:
    for third, host_gib in ((pooled(3, sleeps=False), 16), (pooled(3, host_gib=20), 16)):
        it = world(node("n", 24, host_gib=host_gib), (pooled(1), third, pooled(4)), seen(1, ASLEEP), seen(3, AWAKE))
        assert it.arrives(patient("a", 4)) == [StopEngine(THREE)]


def test_the_claimants_own_sleeping_engine_is_not_sacrificed_for_its_victim() -> None:
    it = world(node("n", 24, host_gib=20), (pooled(1), pooled(2)), seen(1, ASLEEP), seen(2, AWAKE))
    assert it.arrives(patient("a", 1)) == [StopEngine(TWO)]
    assert it.cold(TWO) == [WakeEngine(ONE)]


def test_host_ram_is_taken_when_the_sleep_is_ordered_and_kept_on_waking() -> None:
    """Two victims that would each find room, but not both."""
    it = world(
        node("n", 32, host_gib=20),
        (pooled(1), pooled(2), pooled(3, gib=32)),
        seen(1, AWAKE),
        seen(2, AWAKE),
    )
    assert it.arrives(patient("a", 3)) == [SleepEngine(ONE), StopEngine(TWO)]
    it.asleep(ONE)
    [load] = loads(it.cold(TWO))
    it.awake(load.engine_id)
    it.finishes("a")
    assert stops(it.arrives(patient("b", 1))) == [load.engine_id]  # m1's weights are still in host RAM
    assert it.cold(load.engine_id) == [WakeEngine(ONE)]
    it.awake(ONE)
    it.finishes("b")
    assert it.arrives(patient("c", 3)) == [SleepEngine(ONE)]  # and that is where they go back to


def test_an_idle_engine_stays_awake_where_host_ram_is_full() -> None:
    it = world(node("n", 40, host_gib=20), (pooled(1), pooled(2)), seen(1, AWAKE), seen(2, ASLEEP), policy="slo")
    assert it.passes(500.0) == []
    assert it.states() == {ONE: "awake", TWO: "asleep"}


def test_pinned_engines_and_those_of_a_minimum_do_not_fall_asleep_when_they_idle() -> None:
    for kept in (pooled(1, pinned=True), pooled(1, replicas=(1, 1))):
        for policy in ("ettft", "slo"):
            it = world(node("n", 24), (kept,), seen(1, AWAKE), policy=policy)
            assert it.passes(500.0) == []


def test_memory_that_nobody_can_be_asked_for_is_refused_at_once() -> None:
    it = world(node("n", 24), (pooled(1, pinned=True), pooled(2)), seen(1, AWAKE))
    assert rejected(it.arrives(patient("a", 2))) == [("a", "no_capacity")]


# After a restart.


def test_an_engine_that_a_node_names_before_the_catalogue_does_keeps_what_its_kind_keeps() -> None:
    it = World(policy="fcfs")
    it.node_seen(node("n", 24, host_gib=20), seen(1, ASLEEP), seen(2, AWAKE, 20))
    it.declares(pooled(1, residue_gib=2), pooled(2, gib=20), pooled(3, gib=20))
    assert free_gib(it) == [2]
    assert it.arrives(patient("a", 3)) == [StopEngine(ONE)]  # it has 16 of the 20 GiB of host RAM, which m2 wants


def test_a_node_that_comes_back_larger_has_room_for_what_did_not_fit() -> None:
    world = World(pooled(1, gib=16, replicas=(1, 1)))
    assert loads(world.node_seen(node("n1", 8))) == []
    [load] = loads(world.node_seen(node("n1", 20)))
    assert load.node_id == "n1"
