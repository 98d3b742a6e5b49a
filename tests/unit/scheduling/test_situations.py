"""What ran beside a request, as the predictor is told."""

from __future__ import annotations

import pytest

from logos.domain.lifecycle import EngineState
from logos.domain.nouns import Place
from logos.prediction.pace import Company
from logos.scheduling.events import EngineSeen, FirstToken, Woke
from logos.scheduling.situations import _company
from tests.scenarios.world import World, node, pooled, request, sleeps

GIB = 1024
M1, M2, M3 = "n/m1/1", "n/m2/2", "n/m3/3"


def neighbours(idle_sleep_s: float = 500.0) -> World:
    """Three models awake on one GPU, each with a request whose first token came at the same time."""
    world = World(pooled(1), pooled(2), pooled(3), policy="slo", idle_sleep_s=idle_sleep_s, lease_ttl_s=0.0)
    engines = enumerate((M1, M2, M3), start=1)
    world.node_seen(
        node("n", 60), *(EngineSeen(each, number, (0,), EngineState.AWAKE, 16 * GIB) for number, each in engines)
    )
    for number, request_id in enumerate("abc", start=1):
        generates(world, request_id, number)
    return world


def generates(world: World, request_id: str, endpoint_id: int) -> None:
    world.arrives(request(request_id, endpoint_id))
    world.starts(request_id)
    world.hears(FirstToken(world.now, request_id, 0.1))


def company_of(world: World, request_id: str) -> Company | None:
    """Of a request that runs on m1, until now."""
    world.hears(Woke(world.now))
    state = world.scheduler._state
    return _company(state, state.endpoints[1].places[Place(1, M1)].running[request_id])


def assert_was_company(world: World, request_id: str, share: float) -> None:
    company = company_of(world, request_id)
    assert company is not None
    assert tuple(company) == pytest.approx((1.0, share))


def test_neighbours_are_company_for_as_long_as_they_were_busy() -> None:
    world = neighbours()
    world.passes(1.0)
    world.finishes("c")
    world.passes(9.0)
    world.finishes("b")
    world.passes(30.0)
    assert_was_company(world, "a", 11.0 / 40.0)  # where two are busy at once, both count


def test_a_neighbour_counts_though_another_has_been_busy_for_longer() -> None:
    world = neighbours()
    world.passes(50.0)
    for each in "abc":
        world.finishes(each)
    for number, each in ((1, "d"), (3, "e")):
        generates(world, each, number)
    world.passes(50.0)
    world.finishes("d")
    world.finishes("e")  # m3 has been busy for longer than m2
    generates(world, "f", 1)
    generates(world, "g", 2)
    world.passes(20.0)
    assert_was_company(world, "f", 1.0)


def test_a_neighbour_that_falls_asleep_meanwhile_was_company_before() -> None:
    world = neighbours(idle_sleep_s=5.0)
    world.finishes("c")
    world.passes(10.0)
    world.finishes("b")
    assert set(sleeps(world.passes(6.0))) == {M2}
    world.asleep(M2)
    world.passes(24.0)
    assert_was_company(world, "a", 10.0 / 40.0)


@pytest.mark.parametrize("passes_s", [1.0, 100.0])  # until the others have done less, or more, than it had
def test_what_a_neighbour_did_that_has_ended_is_not_known(passes_s: float) -> None:
    world = neighbours()
    world.passes(10.0)
    generates(world, "later", 1)
    world.finishes("b")
    world.engine_fails(M2)
    world.cold(M2)
    world.passes(passes_s)
    assert company_of(world, "later") is None


def test_an_engine_that_comes_later_to_the_same_gpu_is_a_neighbour_from_then_on() -> None:
    world = World(pooled(1), pooled(2), policy="slo", lease_ttl_s=0.0)
    first, second = (EngineSeen(each, at, (0,), EngineState.AWAKE, 16 * GIB) for at, each in ((1, M1), (2, M2)))
    world.node_seen(node("n", 60), first)
    for each, seen in (("a", (first,)), ("c", (first, second))):
        world.node_seen(node("n", 60), *seen)
        if second in seen:
            generates(world, "b", 2)
        generates(world, each, 1)
    met = [world.scheduler._state.tickets[each].met for each in "ac"]
    assert [each.neighbours for each in met if each is not None] == [0, 1]
