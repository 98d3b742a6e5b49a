"""Small worlds and workloads for tests of the simulation."""

from __future__ import annotations

from typing import Any

from logos.scheduling import commands as cmd
from logos.scheduling import events as ev
from logos.simulation.arrivals import Arrival
from logos.simulation.cluster import parse_world
from logos.simulation.plain_core import PlainCore
from logos.simulation.world import World

PACE = {
    "step_base_s": 1.0,
    "step_per_sequence_s": 0.1,
    "prefill_per_token_s": 0.01,
    "max_sequences": 4,
    "kv_cache_tokens": 1000,
}
TIMES = {"load_s": 20.0, "wake_s": 1.0, "sleep_s": 3.0, "stop_s": 0.5}


def engine(**more: Any) -> dict[str, Any]:
    return {"memory_mib": 600, "residue_mib": 10, "pace": PACE, "transitions": TIMES, **more}


def model(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "engine": engine(**more)}


def node(*engines: tuple[str, str], **more: Any) -> dict[str, Any]:
    """One GPU with 1,000 MiB, and (model, state) of what is there from the start."""
    initial = [{"model": name, "state": state} for name, state in engines]
    return {"name": "n", "memory_mib_per_gpu": 1000, "engines": initial, **more}


def world(*nodes: dict[str, Any], models: tuple[dict[str, Any], ...] = (), **more: Any) -> World:
    return parse_world({"nodes": list(nodes), "models": list(models or (model("a"), model("b"))), **more}, "small")


def arrival(request_id: str, at: float = 0.0, name: str = "a", *, prompt: int = 10, output: int = 5) -> Arrival:
    return Arrival(request_id, at, ((name, 0.0),), prompt, output, output)


class Scripted(PlainCore):
    """Does what a test says: `script(core, event)` returns the commands that answer an event."""

    def __init__(self, of: World, script: Any) -> None:
        super().__init__(of.catalogue)
        self.script = script
        self.heard: list[ev.Event] = []

    def handle(self, event: ev.Event) -> list[cmd.Command]:
        self.heard.append(event)
        return super().handle(event) + list(self.script(self, event) or ())

    def decide(self) -> None:
        self.serve_in_order(self.engines.values())
