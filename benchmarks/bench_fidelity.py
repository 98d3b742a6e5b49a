"""Whether the simulation tells the truth: generated traces on a live platform and in simulation, side by side.

The world is `contention` (three models of which two fit), a trace ten minutes of it, compressed in time: every pace,
transition, deadline and waiting rule is `--time-scale` times as long on both sides, so both live in the same faster
world, and only what the live path adds (HTTP, Ray, processes) is not compressed. Live is a whole `logos up` with
simulated engines behind real HTTP. Afterwards the simulation is given the transition times that the live scheduler
met, as for any hardware, and runs a few times: with their quantiles and with arrivals a few milliseconds later,
because swaps amplify chance (a few milliseconds more for a transition move the simulated p50 of one trace by 10 %).
For the same reason there are `--trials` traces, of one seed each. The ratio of live to simulated TTFT, from
sending to first byte at the client, should be within 15 % of 1 for p50 and p95, at the median of the trials; the
journal of each live run must replay to the same commands. Nothing else should run on the machine meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp

from deployments.platform import simulated_times
from logos.actors.journal import read_journal, replay_file
from logos.config import PaceSettings
from logos.domain.nouns import EngineSpec, Node, SloClass, SloTargets
from logos.scheduling.commands import LoadEngine, SleepEngine, WakeEngine
from logos.scheduling.events import EngineChanged
from logos.scheduling.settings import SchedulerSettings
from logos.simulation.arrivals import Arrival
from logos.simulation.cluster import read_world
from logos.simulation.engine import EnginePace, TransitionTimes
from logos.simulation.figures import figures, quantile
from logos.simulation.kernel import simulate
from logos.simulation.lengths import output_tokens
from logos.simulation.run import Run, Status
from logos.simulation.world import EngineProfile, World
from tests.support.logos_up import ROOT_KEY, Platform

LIMIT = 0.15
QUANTILES = (0.5, 0.95)
TRACE_S = 600.0  # of the uncompressed world, like every time here but those called live
WARM_UP_S = (0.0, 25.0, 50.0)  # when each model is asked for once, so that all have engines
TRACE_FROM_S = 100.0
LOAD_S = 2.0
SLO_S = 10.0
QUEUE_TIMEOUT_S = 600.0
# Prompts differ from their first word on, as those of the world do: else engines hold the beginning of all but one.
PROMPT = (
    "{:05d}: explain why the sky is blue to a child that has just asked, in words that it knows. " + "Please. " * 14
)
PROMPT_TOKENS = 50  # as the simulated engine counts them
OUTPUT_TOKENS = (110, 420)
JITTER_LIVE_S = 0.005
RUNS = 9
ORDERED = {LoadEngine: "load_s", WakeEngine: "wake_s", SleepEngine: "sleep_s"}
Measured = dict[tuple[int, str], list[float]]  # seconds by endpoint id and name of the transition
SCALED = ("swap_linger_max_s", "swap_wait_max_s", "swap_review_s", "idle_in_the_way_s", "idle_sleep_s", "protected_s")


@dataclass(frozen=True, slots=True)
class Sent:
    """One request of the trace: when, to which model, and how many tokens its answer has."""

    at: float
    model: str
    tokens: int


def trace(world: World, load: int, seed: int) -> list[Sent]:
    """`load` requests over ten minutes, models even, lengths from the world's tables; the warm-up before it."""
    chance = random.Random(seed)
    names = [model.name for model in world.catalogue.models]
    warm_up = [Sent(at, name, 8) for at, name in zip(WARM_UP_S, names, strict=True)]
    times = sorted(TRACE_FROM_S + chance.uniform(0.0, TRACE_S) for _ in range(load))
    return [*warm_up, *(_drawn(world, at, chance) for at in times)]


def _drawn(world: World, at: float, chance: random.Random) -> Sent:
    model = chance.choice(world.catalogue.models)
    return Sent(
        at, model.name, output_tokens(world.shares_of(model.id), chance.random(), chance.randint(*OUTPUT_TOKENS))
    )


def settings_of(policy: str, scale: float) -> SchedulerSettings:
    """The defaults, as fast as the world."""
    settings = SchedulerSettings(policy=policy)
    return replace(settings, **{name: getattr(settings, name) * scale for name in SCALED})


# The simulated side.


def compressed(world: World, scale: float, measured: Measured | None = None, share: float = 0.5) -> World:
    """The world of the trace: no engines yet, and everything `scale` times as long; but transitions as measured, at
    the quantile `share`."""
    return replace(
        world,
        catalogue=replace(world.catalogue, slo=SloTargets(SloClass(ttft_s=SLO_S * scale))),
        nodes=tuple(replace(node, engines=(), node=_declared(node.node, scale)) for node in world.nodes),
        engines={
            endpoint_id: EngineProfile(
                _paced(profile.pace, scale), _times(endpoint_id, profile, scale, measured, share)
            )
            for endpoint_id, profile in world.engines.items()
        },
        queue_timeout_s=QUEUE_TIMEOUT_S * scale,
    )


def _declared(node: Node, scale: float) -> Node:
    """What live nodes say of themselves, too."""
    return replace(node, **simulated_times(PaceSettings(time_scale=scale)))


def _times(
    endpoint_id: int, profile: EngineProfile, scale: float, measured: Measured | None, share: float
) -> TransitionTimes:
    times = replace(profile.times, load_s=LOAD_S).times(scale)
    for name in ("load_s", "wake_s", "sleep_s"):
        seen = (measured or {}).get((endpoint_id, name))
        if seen:
            times = replace(times, **{name: quantile(seen, share)})
    return times


def measured_in(journal: Path) -> Measured:
    """What loads, wakes and sleeps took by the live nodes' own clocks, and what order and answer add on their ways."""
    _, entries = read_journal(journal)
    ordered: dict[str, tuple[str, float]] = {}
    endpoint_of: dict[str, int] = {}
    found: Measured = {}
    ways: dict[str, list[float]] = {}
    for event, caused in entries:
        if isinstance(event, EngineChanged) and event.seconds > 0 and event.engine_id in ordered:
            name, at = ordered.pop(event.engine_id)
            found.setdefault((endpoint_of[event.engine_id], name), []).append(event.seconds)
            ways.setdefault(name, []).append(event.at - at - event.seconds)
        for command in caused:
            if isinstance(command, LoadEngine):
                endpoint_of[command.engine_id] = command.endpoint_id
            if isinstance(command, LoadEngine | WakeEngine | SleepEngine):
                ordered[command.engine_id] = ORDERED[type(command)], event.at
    # Some orders wait for their turn on the node, which the simulation has, too: the lower quartile does not.
    return {
        (endpoint_id, name): [each + quantile(ways[name], 0.25) for each in seconds]
        for (endpoint_id, name), seconds in found.items()
    }


def _paced(pace: EnginePace, scale: float) -> EnginePace:
    return replace(
        pace,
        step_base_s=pace.step_base_s * scale,
        step_per_sequence_s=pace.step_per_sequence_s * scale,
        prefill_per_token_s=pace.prefill_per_token_s * scale,
    )


def simulated(
    world: World,
    sent: Sequence[Sent],
    settings: SchedulerSettings,
    scale: float,
    jitter: int = 0,
    measured: Measured | None = None,
) -> Run:
    """`jitter` 0 is the trace as it is, other numbers are other delays of arrivals and other quantiles."""
    chance = random.Random(jitter)
    share = (jitter + 0.5) / RUNS
    arrivals = [
        Arrival(
            f"r{number}",
            each.at * scale + (chance.uniform(0.0, JITTER_LIVE_S) if jitter else 0.0),
            ((each.model, 0.0),),
            PROMPT_TOKENS,
            each.tokens,
            each.tokens,
        )
        for number, each in enumerate(sent)
    ]
    return simulate(compressed(world, scale, measured, share), arrivals, settings)


def first_tokens(run: Run, scale: float) -> list[float]:
    """Of the trace without its warm-up, in seconds of the compressed world."""
    traced = [each for each in run.outcomes if each.arrival.at >= TRACE_FROM_S * scale]
    return [each.ttft_s for each in traced if each.status is Status.OK and each.ttft_s is not None]


# The live side.


def configuration(world: World, settings: SchedulerSettings, scale: float) -> dict[str, Any]:
    """The same world as a config file."""
    [node] = world.nodes
    engines = {world.model_name_at[each.id]: each for each in world.catalogue.endpoints}
    return {
        "gateway": {"replicas_min": 1, "replicas_max": 1},
        "scheduler": {
            "policy": settings.policy,
            "queue_timeout_s": QUEUE_TIMEOUT_S * scale,
            "lease_ttl_s": settings.lease_ttl_s,
            **{name: getattr(settings, name) for name in SCALED},
        },
        "nodes": [
            {
                "name": node.node.id,
                "gpus": len(node.node.gpus),
                "memory_gib": node.node.gpus[0].memory_mib / 1024,
                "host_memory_gib": node.node.host_memory_mib / 1024,
                "transitions_at_once": node.transitions_at_once,
                "pace": {"time_scale": scale},
            }
        ],
        "models": [
            {
                "name": name,
                "context_length": 8192,
                "capabilities": ["chat"],
                "engine": _engine(endpoint.engine or EngineSpec(), endpoint.max_parallel, world.engines[endpoint.id]),
            }
            for name, endpoint in engines.items()
        ],
        "slo": {"interactive": {"ttft_ms": round(SLO_S * scale * 1000)}},
    }


def _engine(spec: EngineSpec, max_parallel: int, profile: EngineProfile) -> dict[str, Any]:
    pace, times = profile.pace, profile.times
    flags = {
        "--step-base-ms": pace.step_base_s * 1000,
        "--step-per-sequence-ms": pace.step_per_sequence_s * 1000,
        "--prefill-per-token-ms": pace.prefill_per_token_s * 1000,
        "--kv-cache-tokens": pace.kv_cache_tokens,
        "--max-num-batched-tokens": pace.prefill_chunk_tokens,
        "--slowdown": pace.slowdown,
        "--load-s": LOAD_S,
        "--wake-s": times.wake_s,
        "--sleep-s": times.sleep_s,
    }
    return {
        "gpus": spec.gpus,
        "memory_gib": spec.memory_mib / 1024,
        "residue_gib": spec.residue_mib / 1024,
        "max_parallel": max_parallel,
        "args": [part for name, value in flags.items() for part in (name, str(value))],
    }


@dataclass(slots=True)
class Live:
    """What a live run gave."""

    ttft_s: list[float]
    failed: list[str]
    late_s: float  # how much later than planned requests were sent, at the 0.95 quantile
    swaps: float
    differences: int
    measured: Measured = field(default_factory=dict)


async def _send(
    session: aiohttp.ClientSession, url: str, each: Sent, due: float, live: Live, lates: list[float]
) -> None:
    await asyncio.sleep(max(0.0, due - time.monotonic()))
    lates.append(time.monotonic() - due)
    body = {
        "model": each.model,
        "messages": [{"role": "user", "content": PROMPT.format(len(lates))}],
        "max_tokens": each.tokens,
        "ignore_eos": True,
        "stream": True,
    }
    async with session.post(f"{url}/v1/chat/completions", json=body) as answer:
        if answer.status != 200:
            live.failed.append(f"{answer.status} {(await answer.text())[:200]}")
            return
        await answer.content.readany()
        if each.at >= TRACE_FROM_S:
            live.ttft_s.append(time.monotonic() - due)
        while await answer.content.readany():
            pass


async def _replay(url: str, sent: Sequence[Sent], scale: float, live: Live) -> None:
    lates: list[float] = []
    began = time.monotonic() + 1.0
    timeout = aiohttp.ClientTimeout(total=None)
    connector = aiohttp.TCPConnector(limit=0)
    headers = {"authorization": f"Bearer {ROOT_KEY}"}
    async with aiohttp.ClientSession(timeout=timeout, connector=connector, headers=headers, trust_env=False) as session:
        await asyncio.gather(*(_send(session, url, each, began + each.at * scale, live, lates) for each in sent))
    live.late_s = quantile(lates, 0.95)


def run_live(
    world: World, sent: Sequence[Sent], settings: SchedulerSettings, scale: float, keep: Path | None = None
) -> Live:
    live = Live([], [], 0.0, 0.0, 0)
    with Platform(configuration(world, settings, scale)) as platform:
        asyncio.run(_replay(platform.base_url, sent, scale, live))
        platform.wait_until_settled(30.0)
        time.sleep(2.5)  # the scheduler's figures are pushed every 2 s
        live.swaps = platform.metric("logos_swaps_total")
        journal = Path(platform.get("/admin/scheduler")["journal"])
        live.differences = len(replay_file(journal))
        live.measured = measured_in(journal)
        if keep is not None:
            shutil.copy(journal, keep)
    return live


# Side by side.


def overhead_s(world: World, measured: Measured, scale: float) -> float:
    """What Ray, HTTP and the probe after a wake add to a transition, at the median."""
    added = [
        seconds - getattr(world.engines[endpoint_id].times, name) * scale
        for (endpoint_id, name), seen in measured.items()
        if name != "load_s"
        for seconds in seen
    ]
    return quantile(added, 0.5)


def compare(live: Live, runs: Sequence[list[float]]) -> dict[float, float]:
    """Prints the two, and returns how many times the simulated TTFT the live one is, by quantile."""
    ratios = {}
    for q in QUANTILES:
        spread = sorted(quantile(run, q) for run in runs)
        expected, found = statistics.median(spread), quantile(live.ttft_s, q)
        ratios[q] = found / expected
        print(
            f"  TTFT p{q * 100:g}: live {found:.3f} s, simulated {expected:.3f} s "
            f"({spread[0]:.3f} to {spread[-1]:.3f}), ratio {ratios[q]:.3f}"
        )
    means = statistics.fmean(live.ttft_s), statistics.median(statistics.fmean(run) for run in runs)
    print(f"  mean TTFT: live {means[0]:.3f} s, simulated {means[1]:.3f} s, ratio {means[0] / means[1]:.3f}")
    return ratios


@dataclass(slots=True)
class Verdict:
    """What all trials gave."""

    ratios: dict[float, list[float]] = field(default_factory=lambda: {q: [] for q in QUANTILES})
    missed: list[str] = field(default_factory=list)

    def conclude(self) -> int:
        """Prints the medians and what missed its limit; the exit code."""
        for q, ratios in self.ratios.items():
            ratio = statistics.median(ratios)
            print(f"p{q * 100:g}: live over simulated {ratio:.3f}, of {len(ratios)} traces {_listed(ratios)}")
            if abs(ratio - 1.0) > LIMIT:
                self.missed.append(f"p{q * 100:g} is {ratio:.2f} times the simulated one, not within {LIMIT:.0%}")
        for each in self.missed:
            print(f"MISSED: {each}", file=sys.stderr)
        return 1 if self.missed else 0


def _listed(ratios: Sequence[float]) -> str:
    return ", ".join(f"{each:.3f}" for each in ratios)


def trial(given: argparse.Namespace, world: World, seed: int, verdict: Verdict) -> None:
    """One trace on both sides."""
    scale = given.time_scale
    sent = trace(world, given.load, seed)
    settings = replace(settings_of(given.policy, scale), lease_ttl_s=given.lease_ttl_s)
    nominal = simulated(world, sent, settings, scale)
    swaps, expected = figures(nominal)["swaps"], first_tokens(nominal, scale)
    print(f"{given.policy}, {given.load} requests, seed {seed}, a second takes {scale:g} s")
    print(
        f"  simulated with nominal transitions: p50 {quantile(expected, 0.5):.3f} s, p95 "
        f"{quantile(expected, 0.95):.3f} s, {swaps} swaps",
        flush=True,
    )
    if given.simulate_only:
        return
    live = run_live(world, sent, settings, scale, given.keep_journal)
    print(
        f"  live: {len(live.ttft_s)} answered, {len(live.failed)} failed, {live.swaps:g} swaps, sent "
        f"{live.late_s * 1000:.1f} ms late (p95), {live.differences} differences when the journal is replayed; "
        f"transitions took {overhead_s(world, live.measured, scale) * 1000:.0f} ms more than nominal"
    )
    runs = [simulated(world, sent, settings, scale, jitter, live.measured) for jitter in range(RUNS)]
    for q, ratio in compare(live, [first_tokens(run, scale) for run in runs]).items():
        verdict.ratios[q].append(ratio)
    verdict.missed += [f"failed: {each}" for each in live.failed[:3]]
    if live.differences:
        verdict.missed.append(f"the journal of seed {seed} replays with {live.differences} differences")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", default="slo")
    parser.add_argument("--load", type=int, default=600, help="requests in ten minutes")
    parser.add_argument("--seed", type=int, default=1, help="of the first trace")
    parser.add_argument("--trials", type=int, default=3, help="how many traces")
    parser.add_argument("--time-scale", type=float, default=0.25, help="live seconds per second of the trace")
    parser.add_argument("--lease-ttl-s", type=float, default=15.0, help="live only; 0 does without leases")
    parser.add_argument("--keep-journal", type=Path, metavar="FILE", help="where the last live journal is copied to")
    parser.add_argument("--simulate-only", action="store_true", help="the simulated side alone")
    given = parser.parse_args(arguments)
    world, verdict = read_world("contention"), Verdict()
    for seed in range(given.seed, given.seed + given.trials):
        trial(given, world, seed, verdict)
    return 0 if given.simulate_only else verdict.conclude()


if __name__ == "__main__":
    sys.exit(main())
