"""What can be simulated by name: every policy of the scheduler, baselines, and policies behind a slow control plane.

    fcfs, utilization, ettft, slo, ...   the scheduler core with that policy
    POLICY-delayed                       the same core, driven as slowly as the reference's control plane
    ollama                               a baseline that works like Ollama
    round-robin, weighted                load balancers in front of engines that are awake

Names are resolved here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from logos.domain.catalogue import Catalogue
from logos.domain.errors import InvalidDeclaration
from logos.scheduling.policies import POLICIES
from logos.scheduling.settings import SchedulerSettings
from logos.simulation.arrivals import Arrival
from logos.simulation.delays import DelayedSimulation
from logos.simulation.kernel import Core, Fault, Simulation, simulated_scheduler
from logos.simulation.ollama import OllamaCore
from logos.simulation.routers import RoundRobinCore, WeightedCore
from logos.simulation.run import Run
from logos.simulation.world import World

BASELINES: dict[str, Callable[[Catalogue], Core]] = {
    "ollama": OllamaCore,
    "round-robin": RoundRobinCore,
    "weighted": WeightedCore,
}
DELAYED = "-delayed"
DELAYED_PROTECTION_S = 22.0  # the reference's, measured, where its rules say 15


def known_systems() -> tuple[str, ...]:
    """Every name that can be simulated; policies with the suffix `-delayed` beside them."""
    return (*POLICIES, f"ettft{DELAYED}", *BASELINES)


def check_system(name: str) -> None:
    """Raises InvalidDeclaration for a name that is none."""
    if name not in BASELINES and name.removesuffix(DELAYED) not in POLICIES:
        raise InvalidDeclaration(f"there is no policy {name!r} to simulate: choose from {', '.join(known_systems())}")


def run_system(
    name: str,
    world: World,
    workload: Sequence[Arrival],
    seed: int = 1,
    settings: SchedulerSettings | None = None,
    faults: Sequence[Fault] = (),
) -> Run:
    """One run. Raises InvalidDeclaration for an unknown name, SimulationFault if the core breaks its contract."""
    check_system(name)
    if name in BASELINES:
        core = BASELINES[name](world.catalogue)
        return Simulation(world, workload, core, seed, policy=name, faults=faults).run()
    settings = replace(settings or SchedulerSettings(), policy=name.removesuffix(DELAYED))
    if name.endswith(DELAYED):
        settings = _protected(settings)
    scheduler = simulated_scheduler(world, settings)
    kind: type[Simulation] = DelayedSimulation if name.endswith(DELAYED) else Simulation
    run = kind(world, workload, scheduler, seed, policy=name, faults=faults).run()
    scheduler.check_invariants()
    return run


def _protected(settings: SchedulerSettings) -> SchedulerSettings:
    """With the reference's longer protection of what was woken."""
    given: dict[str, Any] = {"protected_s": DELAYED_PROTECTION_S} if hasattr(settings, "protected_s") else {}
    return replace(settings, **given)
