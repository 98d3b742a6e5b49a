"""Nodes that are asked for, and nodes that are given back."""

from __future__ import annotations

from logos.domain.lifecycle import EngineState
from logos.domain.nouns import Node
from logos.scheduling.commands import Command, ReleaseNode, RequestNodes
from logos.scheduling.events import EngineSeen
from tests.scenarios.world import World, loads, node, pooled, request, wakes


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
