"""How fast the simulator is, scheduler core included: a million requests on 1,000 GPUs and 100 models.

Stated limits: at most 180 s on one core and 4 GiB for the million, and a cost per event that does not grow faster than
logarithmically from 10 GPUs over 100 to 1,000 (with ten engines for each model, and with one model on all GPUs), nor
with the number of requests that wait. The load for each GPU is the same everywhere, so what grows is the core's and the
kernel's own bookkeeping. Exits 1 if a limit is missed.

Seconds are the process's own, so that what else the machine does hardly counts.

    python -m benchmarks.bench_simulator [--requests N] [--policy NAME]
"""

from __future__ import annotations

import argparse
import gc
import math
import resource
import time
from dataclasses import dataclass, replace

from logos.scheduling.settings import SchedulerSettings
from logos.simulation.arrivals import Arrival
from logos.simulation.cluster import parse_world
from logos.simulation.kernel import simulate
from logos.simulation.run import Run, Status
from logos.simulation.traffic import drawn
from logos.simulation.world import World
from logos.workload.generate import Traffic

SECONDS_MAX = 180.0
GIB_MAX = 4.0
RATE_PER_GPU = 1.2  # requests/s: about two thirds of what an engine can do
CROWD_GPUS = 100
CROWDS = (10_000, 30_000, 100_000)
SIZES = {  # (GPUs, models)
    "ten engines for each model": ((10, 1), (100, 10), (1_000, 100)),
    "one model": ((10, 1), (100, 1), (1_000, 1)),
}
SLACK = 1.5  # over logarithmic growth, for noise


@dataclass(frozen=True)
class Measured:
    gpus: int
    requests: int
    seconds: float
    events: int
    ok: int

    @property
    def event_us(self) -> float:
        return self.seconds / self.events * 1e6


def world_of(gpus: int, models: int) -> World:
    """Every GPU has an engine of one of the models, awake; a model has as many engines as GPUs there are for it."""
    names = [f"model-{number}" for number in range(1, models + 1)] if models > 1 else ["model"]
    per_model = gpus // models
    nodes = [
        {
            "name": f"node-{number}",
            "gpus": per_model,
            "memory_mib_per_gpu": 81920,
            "engines": [{"model": name, "gpus": [gpu], "state": "awake"} for gpu in range(per_model)],
        }
        for number, name in enumerate(names, 1)
    ]
    engine = {
        "memory_mib": 61440,
        "min_replicas": per_model,
        "max_replicas": per_model,
        "max_parallel": 48,
        "pinned": True,
        "pace": {"step_base_s": 0.01, "step_per_sequence_s": 0.0005, "prefill_per_token_s": 0.00005},
    }
    declared = {
        "nodes": nodes,
        "models": [{"name": name, "engine": engine} for name in names],
        "queue_timeout_s": 86400.0,
    }
    return parse_world(declared, f"{gpus} GPUs")


def workload_of(world: World, requests: int, overload: float = 1.0) -> list[Arrival]:
    """Poisson arrivals for all models alike, so many in all."""
    rate = RATE_PER_GPU * world.gpus * overload
    names = tuple(model.name for model in world.catalogue.models)
    traffic = Traffic(
        rate_per_s=rate, duration_s=requests / rate, seed=7, models=names, skew=0.0, output_tokens=(100, 400)
    )
    return drawn(traffic, keys=50)


def crowd_of(world: World, requests: int) -> list[Arrival]:
    """All within one second, so that nearly all of them wait."""
    ordinary = workload_of(world, requests)
    last_at = ordinary[-1].at
    return [replace(each, at=each.at / last_at) for each in ordinary]


def measure(world: World, workload: list[Arrival], policy: str) -> Measured:
    gc.collect()
    began = time.process_time()
    run: Run = simulate(world, workload, SchedulerSettings(policy=policy, queue_length_max=1_000_000), seed=1)
    seconds = time.process_time() - began
    ok = sum(each.status is Status.OK for each in run.outcomes)
    return Measured(world.gpus, len(run.outcomes), seconds, run.events, ok)


def show(measured: Measured) -> None:
    print(
        f"{measured.gpus:>6}{measured.requests:>11,}{measured.seconds:>9.1f}{measured.events:>12,}"
        f"{measured.event_us:>10.1f}{measured.requests / measured.seconds:>13,.0f}{measured.ok:>11,}"
    )


HEADER = f"{'GPUs':>6}{'requests':>11}{'s':>9}{'events':>12}{'us/event':>10}{'requests/s':>13}{'ok':>11}"


def grows_logarithmically(few_us: float, many_us: float, few: int, many: int) -> bool:
    """The cost of an event grows no faster than the logarithm of what there is more of."""
    return many_us / few_us <= SLACK * math.log(many) / math.log(few)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=1_000_000, help="of the last and largest run")
    parser.add_argument("--policy", default="slo")
    given = parser.parse_args()
    missed: list[str] = []
    print(f"policy {given.policy}, one core; the load of each GPU is the same")
    print(HEADER)
    for title, sizes in SIZES.items():
        print(title)
        worlds = [world_of(*each) for each in sizes]
        found = [measure(world, workload_of(world, 50_000), given.policy) for world in worlds]
        for each in found:
            show(each)
        if not grows_logarithmically(found[0].event_us, found[-1].event_us, found[0].gpus, found[-1].gpus):
            missed.append(f"the cost of an event grows faster than the logarithm of the GPUs: {title}")
    print(f"nearly all waiting, {CROWD_GPUS} GPUs")
    crowded = world_of(CROWD_GPUS, 10)
    crowds = [measure(crowded, crowd_of(crowded, each), given.policy) for each in CROWDS]
    for each in crowds:
        show(each)
    if not grows_logarithmically(crowds[0].event_us, crowds[-1].event_us, CROWDS[0], CROWDS[-1]):
        missed.append("the cost of an event grows faster than the logarithm of the requests that wait")
    world = world_of(1_000, 100)
    most = measure(world, workload_of(world, given.requests), given.policy)
    show(most)
    gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    print(f"peak memory {gib:.2f} GiB of {GIB_MAX:.0f}; {most.seconds:.0f} s for {most.requests:,} requests", end="; ")
    print(f"the limit is {SECONDS_MAX:.0f} s for a million")
    if most.seconds > SECONDS_MAX * given.requests / 1_000_000:
        missed.append(f"{most.seconds:.0f} s for {most.requests:,} requests")
    if gib > GIB_MAX:
        missed.append(f"{gib:.2f} GiB")
    for each in missed:
        print(f"MISSED {each}")
    if missed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
