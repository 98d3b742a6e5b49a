"""How the scheduler copes when things go wrong: no request stuck, the books balance, and how long recovery takes.

A simulated cluster of four nodes with three models and a remote provider; each fault strikes under the same traffic,
once as it is and once with nothing wrong. Recovery is as in `logos.simulation.recovery`: the time from the fault until
the last request that fares worse because of it.
Exits 1 if a request is stuck, the books do not balance, or recovery takes longer than is stated here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from logos.scheduling.policies import POLICIES
from logos.scheduling.scheduler import Scheduler
from logos.scheduling.settings import SchedulerSettings
from logos.simulation.arrivals import Arrival
from logos.simulation.cluster import parse_world
from logos.simulation.faults import EngineDies, LoadsFail, NodeDies, Nonsense, RemoteDown
from logos.simulation.figures import figures
from logos.simulation.kernel import Core, Fault, Simulation
from logos.simulation.recovery import recovery_s
from logos.simulation.run import Run
from logos.simulation.traffic import drawn
from logos.simulation.world import World
from logos.workload.generate import Arrivals, Traffic

SLO_S = 10.0
BURST_S = 20.0
RECOVERY_S_MAX = 120.0
SEED = 5


def cluster() -> World:
    """Four nodes of one GPU; two small models with an engine each to begin with, a large one that only fits alone, and
    one at a provider that admits fewer requests than come in a burst."""
    pace = {"step_base_s": 0.02, "step_per_sequence_s": 0.001, "prefill_per_token_s": 0.0003}
    times = {"load_s": 20.0, "wake_s": 1.0, "sleep_s": 2.0, "stop_s": 0.5}
    engine = {"memory_mib": 16000, "residue_mib": 256, "max_replicas": 3, "pace": pace, "transitions": times}
    remote = {"provider": "cloud", "limits": {"requests_per_minute": 25}, "price": {"prompt": 1.0, "completion": 3.0}}
    engines = [{"model": "small-a", "state": "awake"}, {"model": "small-b", "state": "awake"}]
    return parse_world(
        {
            "nodes": [
                {"name": "n1", "memory_mib_per_gpu": 40000, "host_memory_mib": 131072, "engines": engines},
                {"name": "n", "count": 3, "memory_mib_per_gpu": 40000, "host_memory_mib": 131072},
            ],
            "providers": [{"name": "cloud", "privacy": "CLOUD_IN_EU_BY_EU_PROVIDER"}],
            "models": [
                {"name": "small-a", "engine": engine},
                {"name": "small-b", "engine": engine},
                {"name": "large", "engine": {**engine, "memory_mib": 36000}},
                {"name": "hosted", "remotes": [remote]},
            ],
            "queue_timeout_s": 60.0,
            "report_interval_s": 1.0,
        },
        "four nodes",
    )


def traffic(world: World) -> list[Arrival]:
    """Bursts for all models, for ten minutes."""
    names = tuple(model.name for model in world.catalogue.models)
    return drawn(
        Traffic(arrivals=Arrivals.BURSTY, burstiness=6.0, rate_per_s=2.0, duration_s=600.0, seed=SEED, models=names),
        keys=4,
    )


@dataclass(frozen=True)
class Case:
    """One thing that goes wrong."""

    name: str
    faults: tuple[Fault, ...] = ()
    lasts_s: float = 0.0
    around: Callable[[Core], Core] = lambda core: core


def burst_at(workload: Sequence[Arrival]) -> float:
    """A moment inside the densest part of the middle of the workload."""
    middle = [each.at for each in workload if 60.0 <= each.at <= 300.0]
    densest = max(middle, key=lambda at: sum(at <= other < at + BURST_S for other in middle))
    return densest + BURST_S / 2


def cases(world: World, at: float) -> Sequence[Case]:
    endpoint = {world.model_name_at[each.id]: each.id for each in world.catalogue.endpoints if each.engine is not None}
    remote = next(iter(world.remotes))
    return (
        Case("a node is lost in a burst", (NodeDies(at, "n1"),)),
        Case("the same, and comes back after 60 s", (NodeDies(at, "n1", 60.0),), 60.0),
        Case("an engine dies", (EngineDies(at, endpoint["small-a"]),)),
        Case(
            "an engine dies, then 3 loads fail",
            (LoadsFail(at, endpoint["small-b"], 3), EngineDies(at + 0.1, endpoint["small-b"])),
        ),
        Case("a remote provider is down for 60 s", (RemoteDown(at, remote, 60.0),), 60.0),
        Case("measurements are nonsense", around=Nonsense),
    )


def run(world: World, workload: Sequence[Arrival], policy: str, case: Case) -> Run:
    """Raises SimulationFault for a stuck request, AssertionError for books that do not balance."""
    scheduler = Scheduler(world.catalogue, SchedulerSettings(policy=policy))
    simulation = Simulation(world, workload, case.around(scheduler), SEED, policy=policy, faults=case.faults)
    found = simulation.run()
    scheduler.check_invariants()
    return found


def main() -> None:
    world = cluster()
    workload = traffic(world)
    at = burst_at(workload)
    missed: list[str] = []
    print(f"{len(workload)} requests in 10 minutes; the fault strikes at {at:.0f} s; SLO {SLO_S:.0f} s")
    print(f"{'policy':<8}{'':<36}{'ok':>6}{'rejected':>10}{'failed':>8}{'in SLO':>8}{'p95 s':>8}{'recovery s':>12}")
    for policy in [each for each in ("ettft", "slo") if each in POLICIES]:
        without = run(world, workload, policy, Case("nothing is wrong"))
        _show(policy, "nothing is wrong", figures(without, SLO_S), 0.0)
        for case in cases(world, at):
            found = run(world, workload, policy, case)
            seconds = recovery_s(found, without, at, SLO_S, lasts_s=case.lasts_s)
            _show(policy, case.name, figures(found, SLO_S), math.inf if seconds is None else seconds)
            if case.faults and (seconds is None or seconds > RECOVERY_S_MAX):
                took = "was not seen" if seconds is None else f"took {seconds:.0f} s of {RECOVERY_S_MAX:.0f}"
                missed.append(f"{policy}: {case.name}: recovery {took}")
    for each in missed:
        print(f"MISSED {each}")
    if missed:
        raise SystemExit(1)


def _show(policy: str, name: str, found: dict[str, Any], seconds: float) -> None:
    p95 = found["ttft_s"]["p95"]
    print(
        f"{policy:<8}{name:<36}{found['ok']:>6}{found['rejected']:>10}{found['failed']:>8}"
        f"{found['slo_attainment']:>8.1%}{math.inf if p95 is None else p95:>8.1f}{seconds:>12.1f}"
    )


if __name__ == "__main__":
    main()
