"""Nodes that are asked for, and nodes that are given back."""

from __future__ import annotations

from typing import Any

import pytest

from logos.domain.lifecycle import EngineState
from logos.domain.nouns import Node, Place
from logos.scheduling.commands import Command, ReleaseNode, RequestNodes
from logos.scheduling.events import EngineSeen
from tests.scenarios.world import (
    World,
    dispatched,
    dispatches,
    loads,
    node,
    pooled,
    rejected,
    rejects,
    remote,
    request,
    stops,
    wakes,
)

ADDS_NODES = {"node_arrival_s": 100.0, "node_grace_s": 0.0}  # somebody who is asked adds a node within so long


def wanted(commands: list[Command]) -> list[str]:
    """The reasons for which nodes were asked for."""
    return [command.reason for command in commands if isinstance(command, RequestNodes)]


def released(commands: list[Command]) -> list[str]:
    return [command.node_id for command in commands if isinstance(command, ReleaseNode)]


def two_nodes() -> World:
    """Something runs on the first, nothing is on the second; a node is given back after 60 s."""
    world = World(pooled(1), pooled(2), release_node_after_s=60.0)
    world.node_seen(node("a", 24))
    world.arrives(request("x"))
    world.awake("a/m1/1")
    comes_to(world, node("b", 24))
    return world


def comes_to(world: World, seen: Node, *engines: EngineSeen) -> None:
    """A node, and then a request for what runs on the first."""
    world.node_seen(seen, *engines)
    world.arrives(request(f"at {world.now}"))


def test_every_model_that_has_waited_long_asks_for_nodes() -> None:
    world = World(pooled(1), pooled(2), pooled(3), policy="fcfs")
    world.node_seen(node("n", 24))
    world.arrives(request("x", 1, queue_timeout_s=3000.0))
    world.awake("n/m1/1")
    world.now += 50.0
    world.arrives(request("a", 2, queue_timeout_s=3000.0))
    world.now += 1.0
    world.arrives(request("b", 3, queue_timeout_s=3000.0))
    asked = wanted(world.passes(20.0))
    assert asked == ["m2: 1 waiting, the first for 15 s", "m3: 1 waiting, the first for 15 s"]


def test_an_empty_node_is_given_back_after_a_while() -> None:
    world = two_nodes()
    assert released(world.passes(59.0)) == []
    assert released(world.passes(2.0)) == ["b"]


def test_a_node_that_was_given_back_and_has_returned_is_given_back_again_as_late_as_the_first_time() -> None:
    world = two_nodes()
    assert released(world.passes(61.0)) == ["b"]
    world.node_lost("b")
    world.passes(100.0)
    comes_to(world, node("b", 24))
    assert released(world.passes(59.0)) == []
    assert released(world.passes(2.0)) == ["b"]


def test_nothing_is_loaded_on_a_node_that_was_given_back() -> None:
    world = two_nodes()
    assert released(world.passes(61.0)) == ["b"]
    assert loads(world.arrives(request("a", 2))) == []
    world.node_lost("b")
    assert [load.node_id for load in loads(world.node_seen(node("c", 24)))] == ["c"]


def test_nothing_is_woken_on_a_node_that_was_given_back() -> None:
    world = two_nodes()
    comes_to(world, node("b", 24), EngineSeen("b/m2/1", 2, (0,), EngineState.ASLEEP, 16 * 1024))
    assert released(world.passes(61.0)) == ["b"]
    assert wakes(world.arrives(request("a", 2))) == []


def test_the_last_node_of_a_pool_is_kept() -> None:
    world = two_nodes()
    assert released(world.passes(61.0)) == ["b"]
    world.node_lost("b")
    world.finishes("x")
    world.finishes("at 100.0")
    assert released(world.passes(500.0)) == []


# No node is there that could hold it.


@pytest.mark.parametrize("nodes", [[], [node("small", 8)]])
def test_where_nodes_are_added_a_request_that_fits_none_asks_for_one_and_waits_for_it(nodes: list[Node]) -> None:
    world = World(pooled(1), **ADDS_NODES)
    for each in nodes:
        world.node_seen(each)
    assert wanted(world.arrives(request("a", queue_timeout_s=300.0))) == ["m1: 1 waiting, the first for 0 s"]
    assert world.passes(99.0) == []
    assert [load.node_id for load in loads(world.node_seen(node("new", 24)))] == ["new"]
    assert dispatched(world.awake("new/m1/1")) == ["a"]


def test_many_requests_for_the_same_model_ask_for_one_node() -> None:
    world = World(pooled(1), **ADDS_NODES)
    commands = world.arrive(*(request(f"r{each}", queue_timeout_s=90.0 + each) for each in range(50)))
    assert len(wanted(commands)) == 1
    assert rejected(commands) == [(f"r{each}", "no_capacity") for each in range(11)]
    assert world.passes(90.0) == []


def test_who_gives_up_before_a_node_can_come_is_told_at_once_when_it_will_and_the_node_is_asked_for() -> None:
    world = World(pooled(1), **ADDS_NODES)
    commands = world.arrives(request("a", queue_timeout_s=30.0))
    [reject] = rejects(commands)
    assert (reject.message, reject.retry_after_s) == ("no GPU node is there to run it", 100.0)
    assert wanted(commands) == ["m1: no node that is there could hold it"]
    world.now += 75.0
    assert world.arrives(request("b", queue_timeout_s=30.0)) == []  # it should be there in 25 s


def test_nodes_that_are_there_have_a_moment_after_the_start_before_one_is_asked_for() -> None:
    world = World(pooled(1, gib=40), node_grace_s=10.0)
    world.node_seen(node("n", 24))
    assert wanted(world.arrives(request("a"))) == []
    world.now += 11.0
    assert len(wanted(world.arrives(request("b")))) == 1


def test_without_anybody_who_adds_nodes_it_is_refused_at_once_and_asked_for_once_in_a_while() -> None:
    world = World(pooled(1, gib=40), request_nodes_interval_s=60.0, node_grace_s=0.0)
    world.node_seen(node("n", 24))
    asked = []
    for each in range(13):
        commands = world.arrives(request(f"r{each}", queue_timeout_s=3000.0))
        assert rejected(commands) == [(f"r{each}", "does_not_fit")]
        asked += wanted(commands)
        world.passes(10.0)
    assert len(asked) == 3


def test_with_asking_switched_off_no_node_is_asked_for() -> None:
    world = World(pooled(1), **ADDS_NODES, request_nodes_after_s=0.0)
    commands = world.arrives(request("a", queue_timeout_s=300.0))
    assert (rejected(commands), wanted(commands)) == ([("a", "no_capacity")], [])


def test_no_node_is_asked_for_where_another_endpoint_serves_it() -> None:
    world = World(pooled(1, gib=40), remote(2), policy="fcfs", **ADDS_NODES)
    world.node_seen(node("n", 24))
    commands = world.arrives(request("a", 1, 2, queue_timeout_s=300.0))
    assert (dispatches(commands), wanted(commands)) == ([("a", Place(2))], [])


def test_what_waits_for_a_node_goes_to_one_that_comes_for_another_of_its_models() -> None:
    world = World(pooled(1, gib=40), pooled(2, gib=20), **ADDS_NODES)
    world.arrives(request("a", 1, 2, queue_timeout_s=300.0))
    assert [load.endpoint_id for load in loads(world.node_seen(node("n", 24)))] == [2]


def test_a_node_that_is_a_little_late_is_not_asked_for_twice_but_one_that_does_not_come_is() -> None:
    world = World(pooled(1), **ADDS_NODES)
    world.arrives(request("a", queue_timeout_s=300.0))
    assert wanted(world.passes(199.0)) == []
    assert wanted(world.passes(2.0)) == ["m1: 1 waiting, the first for 200 s"]


def test_a_node_that_came_and_died_is_asked_for_again() -> None:
    world = World(pooled(1), **ADDS_NODES, request_nodes_interval_s=60.0)
    world.arrives(request("a", queue_timeout_s=300.0))
    world.passes(50.0)
    world.node_seen(node("n", 24))
    world.now += 15.0
    assert wanted(world.node_lost("n")) == ["m1: 1 waiting, the first for 65 s"]


@pytest.mark.parametrize("ends", ["by itself", "by its client"])
def test_work_that_is_over_asks_no_more(ends: str) -> None:
    world = World(pooled(1), pooled(2), policy="fcfs")
    world.node_seen(node("n", 24))
    world.arrives(request("x", 1, queue_timeout_s=3000.0))
    world.awake("n/m1/1")
    world.arrives(request("a", 2, queue_timeout_s=10.0 if ends == "by itself" else 3000.0))
    world.passes(12.0)
    if ends == "by its client":
        world.leaves("a")
    assert wanted(world.passes(500.0)) == []


def test_work_whose_engine_is_coming_asks_for_no_node() -> None:
    world = World(pooled(1))
    world.node_seen(node("n", 24))
    world.arrives(request("a", queue_timeout_s=3000.0))
    assert wanted(world.passes(40.0)) == []


def test_more_than_the_engines_take_that_are_there_asks_for_a_node_for_one_more() -> None:
    world = World(pooled(1, parallel=1, replicas=(0, 2)), **ADDS_NODES)
    world.node_seen(node("n", 24))
    world.arrive(*(request(f"r{each}", queue_timeout_s=3000.0) for each in range(4)))
    world.awake("n/m1/1")
    assert wanted(world.passes(14.0)) == []
    assert wanted(world.passes(2.0)) == ["m1: 3 waiting, the first for 15 s"]
    assert wanted(world.passes(90.0)) == []
    assert [load.node_id for load in loads(world.node_seen(node("new", 24)))] == ["new"]


def test_while_one_more_engine_is_coming_no_node_is_asked_for_yet_another() -> None:
    world = World(pooled(1, parallel=1, replicas=(0, 3)))
    world.node_seen(node("n", 24, 24))
    world.arrive(*(request(f"r{each}", queue_timeout_s=3000.0) for each in range(8)))
    world.awake("n/m1/1")
    assert wanted(world.passes(30.0)) == []
    assert len(wanted(world.awake("n/m1/2"))) == 1


def test_as_many_engines_as_a_model_may_have_ask_for_no_node() -> None:
    world = World(pooled(1, parallel=1))
    world.node_seen(node("n", 24))
    world.arrive(*(request(f"r{each}", queue_timeout_s=3000.0) for each in range(4)))
    world.awake("n/m1/1")
    assert wanted(world.passes(100.0)) == []


# Which nodes are spare.


def test_the_last_node_of_a_pool_is_kept_where_nodes_are_added_too() -> None:
    world = World(pooled(1), release_node_after_s=60.0, **ADDS_NODES)
    world.node_seen(node("a", 24))
    assert released(world.passes(500.0)) == []


def test_no_node_is_given_back_while_gateways_may_still_say_what_runs_there() -> None:
    world = World(pooled(1), release_node_after_s=10.0, reconvene_s=100.0, epoch=2)
    world.node_seen(node("a", 24), EngineSeen("a/m1/1", 1, (0,), EngineState.AWAKE, 16 * 1024))
    world.node_seen(node("b", 24))
    assert released(world.passes(99.0)) == []
    assert len(released(world.passes(12.0))) == 1


def test_the_last_node_that_fits_a_declared_model_is_kept() -> None:
    world = World(pooled(1), pooled(2, gib=40), release_node_after_s=60.0)
    world.node_seen(node("a", 24))
    world.node_seen(node("b", 48))
    world.arrives(request("x"))
    assert released(world.passes(500.0)) == []
    world.node_seen(node("c", 48))
    assert len(released(world.passes(500.0))) == 1


def test_where_nodes_are_added_the_last_node_that_fits_a_model_is_given_back_and_comes_when_it_is_asked_for() -> None:
    world = World(pooled(1), pooled(2, gib=40), release_node_after_s=60.0, **ADDS_NODES)
    world.node_seen(node("a", 24))
    world.arrives(request("x"))
    world.node_seen(node("b", 48))
    assert released(world.passes(61.0)) == ["b"]
    world.node_lost("b")
    assert len(wanted(world.arrives(request("y", 2, queue_timeout_s=300.0)))) == 1
    assert len(loads(world.node_seen(node("b", 48)))) == 1


def test_the_last_node_that_fits_a_model_which_shall_always_be_there_is_kept() -> None:
    always = pooled(2, gib=40, replicas=(1, 1))
    world = World(pooled(1), always, release_node_after_s=60.0, load_backoff_s=1000.0, **ADDS_NODES)
    world.node_seen(node("a", 24))
    world.node_seen(node("b", 48))
    world.engine_fails("b/m2/1")
    world.cold("b/m2/1")  # and is loaded again after a while
    assert released(world.passes(500.0)) == ["a"]


def test_a_node_whose_engines_are_more_than_the_minimum_is_given_back() -> None:
    world = World(pooled(1, replicas=(1, 2)), release_node_after_s=60.0)
    world.node_seen(node("a", 24))
    world.awake("a/m1/1")
    world.node_seen(node("b", 24), EngineSeen("b/m1/7", 1, (0,), EngineState.AWAKE, 16 * 1024))
    assert len(released(world.passes(61.0))) == 1


def test_a_node_with_a_pinned_engine_is_kept() -> None:
    world = World(pooled(1, pinned=True), pooled(2), release_node_after_s=60.0)
    world.node_seen(node("a", 24), EngineSeen("a/m1/7", 1, (0,), EngineState.AWAKE, 16 * 1024))
    world.node_seen(node("b", 24), EngineSeen("b/m2/7", 2, (0,), EngineState.AWAKE, 16 * 1024))
    assert released(world.passes(500.0)) == ["b"]


def test_a_node_is_not_given_back_while_requests_wait_that_could_use_it() -> None:
    retries = {"load_tries_max": 2, "load_backoff_s": 60.0}
    world = World(pooled(1), pooled(2), policy="fcfs", release_node_after_s=30.0, **retries)
    world.node_seen(node("a", 24))
    world.arrives(request("x", 1, queue_timeout_s=3000.0))
    world.awake("a/m1/1")
    world.node_seen(node("b", 24))
    world.arrives(request("y", 2, queue_timeout_s=3000.0))
    world.engine_fails("b/m2/2")
    world.cold("b/m2/2")
    commands = world.passes(61.0)
    assert (released(commands), len(loads(commands))) == ([], 1)


def test_a_node_that_nobody_needs_when_it_comes_is_given_back_though_nothing_else_happens() -> None:
    world = World(pooled(1), release_node_after_s=60.0)
    world.node_seen(node("a", 24))
    world.arrives(request("x"))
    world.awake("a/m1/1")
    world.node_seen(node("b", 24))
    assert released(world.passes(61.0)) == ["b"]


def test_requests_do_not_go_to_an_idle_engine_on_a_node_that_was_given_back() -> None:
    world = World(pooled(1), pooled(2), release_node_after_s=60.0)
    world.node_seen(node("a", 24))
    world.arrives(request("x"))
    world.awake("a/m1/1")
    world.node_seen(node("b", 24, 24), EngineSeen("b/m2/7", 2, (0,), EngineState.AWAKE, 16 * 1024))
    commands = world.passes(61.0)
    assert (released(commands), stops(commands)) == (["b"], ["b/m2/7"])
    assert dispatched(world.arrives(request("y", 2))) == []
    assert [load.node_id for load in loads(world.node_lost("b") + world.node_seen(node("c", 24)))] == ["c"]


def test_a_node_on_which_a_model_is_awake_for_nobody_is_given_back_too() -> None:
    world = two_nodes()
    comes_to(world, node("b", 24), EngineSeen("b/m2/1", 2, (0,), EngineState.AWAKE, 16 * 1024))
    assert released(world.passes(61.0)) == ["b"]


def test_a_node_to_which_a_model_is_on_its_way_is_kept() -> None:
    world = two_nodes()
    comes_to(world, node("b", 24), EngineSeen("b/m2/1", 2, (0,), EngineState.LOADING, 16 * 1024))
    assert released(world.passes(100.0)) == []
    world.awake("b/m2/1")
    assert released(world.passes(61.0)) == ["b"]


@pytest.mark.parametrize(
    ("declared", "given_back"), [({"pinned": True}, []), ({"replicas": (1, 1)}, []), ({"replicas": (0, 1)}, ["b"])]
)
def test_a_node_on_which_a_model_shall_always_be_is_kept(declared: dict[str, Any], given_back: list[str]) -> None:
    world = World(pooled(1), pooled(2, **declared), release_node_after_s=60.0)
    world.node_seen(node("b", 24), EngineSeen("b/m2/1", 2, (0,), EngineState.AWAKE, 16 * 1024))
    world.node_seen(node("a", 24))
    world.arrives(request("x"))
    world.awake("a/m1/1")
    assert released(world.passes(100.0)) == given_back
