"""Models that want the same memory, for the scenarios of who makes room for whom. No tests here."""

from __future__ import annotations

from logos.domain.lifecycle import EngineState
from logos.scheduling.commands import Command
from logos.scheduling.events import EngineSeen, Event, Request
from tests.scenarios.world import World, node, pooled, request, revokes

GIB = 1024
ONE, TWO, THREE, FOUR = (f"n/m{each}/9{each}" for each in (1, 2, 3, 4))


def patient(request_id: str, endpoint_id: int, **more: int) -> Request:
    return request(request_id, endpoint_id, queue_timeout_s=900.0, **more)


def world(
    policy: str,
    *,
    awake: tuple[int, ...] = (1,),
    asleep: tuple[int, ...] = (2,),
    parallel: int = 4,
    room_gib: int = 24,
    **settings: object,
) -> World:
    """Models of 16 GiB each on one GPU of `room_gib`; the time is 100 s."""
    made = Prompt(*(pooled(each, parallel=parallel) for each in (1, 2, 3, 4)), policy=policy, **settings)
    states = dict.fromkeys(awake, EngineState.AWAKE) | dict.fromkeys(asleep, EngineState.ASLEEP)
    seen = (EngineSeen(f"n/m{each}/9{each}", each, (0,), state, 16 * GIB) for each, state in states.items())
    made.node_seen(node("n", room_gib), *seen)
    return made


class Prompt(World):
    """Its gateways give a lease back the moment they are asked to."""

    def hears(self, event: Event) -> list[Command]:
        commands = super().hears(event)
        for lease_id in revokes(commands):
            commands += self.returns(lease_id)
        return commands


def until(it: World, at: float) -> list[Command]:
    return it.passes(at - it.now)


def served(it: World, endpoint_id: int, times: int) -> None:
    """So many requests came and went at a model that is awake."""
    for number in range(times):
        it.arrives(request(f"s{endpoint_id}-{it.now}-{number}", endpoint_id))
        it.finishes(f"s{endpoint_id}-{it.now}-{number}")
