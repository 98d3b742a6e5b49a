"""What becomes of a claim when the world changes under it: its victims wake, room appears elsewhere, engines hang."""

from __future__ import annotations

from logos.domain.lifecycle import EngineState
from logos.scheduling.events import EngineSeen
from tests.scenarios.contested import GIB, ONE, TWO, Prompt, patient
from tests.scenarios.world import dispatched, loads, node, pooled, wakes


def seen(endpoint_id: int, state: EngineState, gib: int = 16) -> EngineSeen:
    return EngineSeen(f"n/m{endpoint_id}/9{endpoint_id}", endpoint_id, (0,), state, gib * GIB)


# A victim that slept wakes before the claim is settled.


def test_a_victim_that_woke_for_a_request_of_its_own_makes_room_too() -> None:
    world = Prompt(pooled(1, gib=8, residue_gib=1), pooled(2, gib=10), pooled(3, gib=24), policy="slo")
    world.node_seen(node("n", 24), seen(1, EngineState.ASLEEP, 8), seen(2, EngineState.AWAKE, 10))
    world.now += 100.0
    world.arrives(patient("x", 2))
    world.arrives(patient("large", 3))
    assert wakes(world.arrives(patient("small", 1))) == [ONE]
    assert dispatched(world.awake(ONE, 1.0)) == ["small"]
    world.finishes("small")
    world.finishes("x")
    world.passes(90.0)
    assert world.states() == {ONE: "stopping", TWO: "stopping"}
    world.cold(ONE)
    assert [each.endpoint_id for each in loads(world.cold(TWO))] == [3]
