"""Simulated runs as stories, and the crowd that they are shown with where nobody names a workload.

The world, the policies and the runs are `simulation`'s; nothing is drawn here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from logos.analysis.story import Change, Story, request_table, span_table
from logos.domain.lifecycle import EngineState
from logos.simulation.arrivals import Arrival
from logos.simulation.from_rows import arrivals
from logos.simulation.run import Outcome, Run, Status, Transition
from logos.simulation.systems import run_system
from logos.simulation.traffic import drawn
from logos.simulation.world import World
from logos.workload.files import read_workload
from logos.workload.generate import Arrivals, Traffic

STEADY_KEYS = 3
CROWD_KEY = STEADY_KEYS + 1
ARRIVES_AT_SHARE, STAYS_SHARE, OUTWEIGHS = 0.4, 0.15, 1.5  # of the crowd: when, how long, how many times the others


def workload(world: World, path: Path | str | None, seed: int) -> list[Arrival]:
    """From a workload file, or generated. Raises InvalidWorkload, one line, for a file that does not fit."""
    return contended(world, seed) if path is None else arrivals(read_workload(Path(path)), world, str(path))


def contended(world: World, seed: int, *, rate_per_s: float = 0.35, duration_s: float = 600.0) -> list[Arrival]:
    """All models are asked for evenly, in bursts, by three keys; a fourth sends a crowd of its own in between."""
    models = tuple(model.name for model in world.catalogue.models)
    everyday = Traffic(
        Arrivals.BURSTY,
        rate_per_s,
        duration_s,
        models=models,
        burstiness=6.0,
        prompt_tokens=45,
        output_tokens=(110, 420),
    )
    crowd = replace(
        everyday, arrivals=Arrivals.POISSON, rate_per_s=OUTWEIGHS * rate_per_s, duration_s=STAYS_SHARE * duration_s
    )
    comes_at = ARRIVES_AT_SHARE * duration_s
    extra = [
        replace(each, request_id=f"crowd-{each.request_id}", at=each.at + comes_at, key_id=CROWD_KEY)
        for each in drawn(crowd, seed + 1)
    ]
    return sorted([*drawn(everyday, seed, keys=STEADY_KEYS), *extra], key=lambda each: each.at)


def simulated(names: Sequence[str], world: World, arriving: Sequence[Arrival], seed: int) -> list[Story]:
    """The same workload under each policy or baseline. Raises InvalidDeclaration for a name that is none."""
    return [story_of(run_system(name, world, arriving, seed)) for name in names]


def story_of(run: Run) -> Story:
    """A run, told. Engines that crashed stay awake in it: a run keeps no record of crashes."""
    requests = request_table(_request(each) for each in run.outcomes)
    changes = [*_awake_at_the_start(run), *(_change(each) for each in run.transitions)]
    return Story(run.policy, requests, span_table(changes, run.ended_at))


def _awake_at_the_start(run: Run) -> Iterator[Change]:
    """Engines that left that state first, or served without ever coming to it."""
    first: dict[str, Transition] = {}
    for transition in run.transitions:
        first.setdefault(transition.engine_id, transition)
    found = {each.engine_id: each.model for each in first.values() if each.before is EngineState.AWAKE}
    served = {each.engine_id: each.model for each in run.outcomes if each.engine_id is not None}
    found |= {engine_id: model for engine_id, model in served.items() if engine_id not in first}
    for engine_id, model in found.items():
        yield Change(0.0, 0.0, engine_id, model, is_coming=False, is_awake=True)


def _request(outcome: Outcome) -> dict[str, object]:
    arrival = outcome.arrival
    return {
        "at_s": arrival.at,
        "model": outcome.model or arrival.models[0][0],
        "key": f"key {arrival.key_id}",
        "is_answered": outcome.status is Status.OK,
        "wait_s": outcome.queue_wait_s,
        "ttft_s": outcome.ttft_s,
        "predicted_ttft_s": outcome.predicted_ttft_s,
        "slo_ttft_s": outcome.slo_ttft_s,
    }


def _change(transition: Transition) -> Change:
    return Change(
        transition.began_at,
        transition.ended_at,
        transition.engine_id,
        transition.model,
        is_coming=transition.before in {EngineState.COLD, EngineState.ASLEEP},
        is_awake=transition.after is EngineState.AWAKE,
    )
