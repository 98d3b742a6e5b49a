"""What must hold whatever happens: a simulated platform in which everything goes wrong, seen from outside.

The core's own books are checked after every event too (`check_invariants`).
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from logos.domain.catalogue import Catalogue
from logos.scheduling.commands import Command, Dispatch
from tests.scenarios.platform import Mishaps, Platform
from tests.scenarios.world import catalogue, node, pooled, remote

ROOT = Path(__file__).parents[2]
MIXED = catalogue(
    remote(1, parallel=6),
    remote(2, parallel=12, requests_per_minute=300, tokens_per_minute=60_000),
    pooled(3, gib=10, parallel=4, replicas=(0, 2), residue_gib=1),
    pooled(4, gib=14, gpus=2, parallel=5, residue_gib=2, host_gib=12),
    pooled(5, gib=20, parallel=8),
    pooled(6, gib=12, parallel=3, replicas=(1, 2)),
    pooled(7, gib=90, parallel=3),  # fits nowhere
    pooled(8, gib=28, pinned=True, replicas=(1, 1)),
    pooled(9, gib=26),  # fits only where the pinned one is
)
NODES = (node("n1", 24, 24, host_gib=36), node("n2", 16, sleeps=False), node("n3", 32))
SWAPPING = {"idle_sleep_s": 2.0, "load_backoff_s": 1.0, "protected_s": 1.0}
POLICIES = ["fcfs", "utilization", "ettft", "slo"]
REMOTE_ONLY = catalogue(remote(1, parallel=8), remote(2, parallel=3))


def platform(seed: int, known: Catalogue = MIXED, **more: object) -> Platform:
    return Platform(seed, known, NODES if known is MIXED else (), **more)  # type: ignore[arg-type]  # passed through


def assert_nothing_is_left(done: Platform) -> None:
    """Every request has one outcome, and slots, leases and memory have returned to zero."""
    undecided = [sim.request.request_id for sim in done.everyone if sim.outcome is None]
    assert not undecided
    assert not done.asked
    assert not any(done.running.values())
    summary = done.core.summary()
    assert (summary["waiting"], summary["running"], summary["leases"]) == (0, 0, 0)
    for endpoint in summary["endpoints"]:
        assert (endpoint["running"], endpoint["leased_unused"]) == (0, 0), endpoint
    for seen in summary["nodes"]:
        held = [each for each in summary["engines"] if each["node_id"] == seen["node_id"]]
        taken = sum(gpu["memory_mib"] - gpu["free_mib"] for gpu in seen["gpus"])
        assert taken == sum(holds_mib(done, each) for each in held)


def said(done: Platform) -> list[tuple[float, Command]]:
    """When the core gave which command."""
    return [(event.at, command) for _, log in done.journals for event, caused in log for command in caused]


def holds_mib(done: Platform, engine: dict[str, Any]) -> int:
    """GPU memory of an engine that nothing moves any more: all of it, or what stays when it sleeps."""
    assert engine["state"] in {"awake", "asleep"}, engine
    spec = done.catalogue.endpoint[engine["endpoint_id"]].engine
    assert spec is not None
    return spec.memory_mib if engine["state"] == "awake" else spec.residue_mib


@pytest.mark.parametrize("policy", POLICIES)
def test_nothing_is_lost_doubled_or_overcommitted_while_everything_goes_wrong(policy: str) -> None:
    moved, outcomes = Counter[str](), Counter[str]()
    for seed in range(4):
        done = platform(seed, policy=policy, gateways=4, rate=20.0, **SWAPPING)
        done.run(60.0)
        assert_nothing_is_left(done)
        outcomes.update(str(sim.outcome) for sim in done.everyone)
        assert len(done.journals) > 1, seed
        moved.update(type(command).__name__ for _, log in done.journals for _, caused in log for command in caused)
    # It was worth it: every way to end occurred, the scheduler restarted, and engines were moved in every way.
    assert outcomes.keys() >= {"success", "client_left", "interrupted", "queue_timeout", "no_capacity"}, outcomes
    assert min(moved[each] for each in ("LoadEngine", "SleepEngine", "WakeEngine", "StopEngine")) >= 3, moved


@pytest.mark.parametrize("seed", range(4))
def test_with_leases_only_nothing_is_overcommitted(seed: int) -> None:
    """Light load, so that leases are granted, renewed and asked back all the time."""
    done = platform(seed, REMOTE_ONLY, rate=25.0, service_s=0.15, mishaps=Mishaps(scheduler_dies_s=8.0))
    done.run(60.0)
    assert_nothing_is_left(done)
    commands = [type(command).__name__ for _, log in done.journals for _, caused in log for command in caused]
    placed = sum(bool(sim.tried) for sim in done.everyone)
    assert commands.count("Dispatch") < placed  # the rest ran under leases
    assert commands.count("RevokeLease") > 5
    assert commands.count("GrantLease") > 20


@pytest.mark.parametrize("seed", range(4))
def test_nobody_is_overtaken_too_often_seen_from_outside(seed: int) -> None:
    done = platform(
        seed,
        REMOTE_ONLY,
        candidates_max=1,
        rate=60.0,
        overtakes_high=1,
        overtakes_mid=3,
        overtakes_low=6,
        overtakes_batch_factor=2,
        mishaps=Mishaps(0.1, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    )
    done.run(30.0)
    assert_nothing_is_left(done)
    # The bound was reached, so the test could have failed.
    assert {bound for bound, seen in done.worst_overtaking.items() if seen == bound} >= {1, 2}


@pytest.mark.parametrize("policy", ["ettft", "slo"])
def test_nobody_is_overtaken_too_often_while_models_change_places(policy: str) -> None:
    reached: set[int] = set()
    for seed in range(8):
        done = Platform(
            seed,
            catalogue(*(pooled(each, parallel=3) for each in (1, 2, 3))),
            (node("n1", 40),),
            policy=policy,
            candidates_max=1,
            rate=12.0,
            overtakes_high=1,
            overtakes_mid=3,
            overtakes_low=6,
            overtakes_batch_factor=2,
            mishaps=Mishaps.none(),
            **SWAPPING,
        )
        done.run(40.0)
        assert_nothing_is_left(done)
        for endpoint_id in (1, 2, 3):
            places = ((at, each.place) for at, each in said(done) if isinstance(each, Dispatch))
            served = [at for at, place in places if place.endpoint_id == endpoint_id]
            longest_s = max(later - earlier for earlier, later in pairwise([0.0, *served, 40.0]))
            assert longest_s < 26.0, (seed, endpoint_id)  # twice what the most patient wait, and a swap
        reached |= {bound for bound, seen in done.worst_overtaking.items() if seen == bound}
    assert reached >= {1, 2}


def fingerprint(policy: str) -> str:
    """Of all that a core said in a run in which much went wrong."""
    done = platform(5, gateways=5, rate=80.0, policy=policy, mishaps=Mishaps(gateway_dies_s=2.0), **SWAPPING)
    done.run(20.0)
    return hashlib.sha256(repr(done.journals).encode()).hexdigest()


@pytest.mark.parametrize("policy", ["ettft", "slo"])
def test_the_same_events_give_the_same_commands_in_any_process(policy: str) -> None:
    """Python orders sets of strings differently in each process; no command may depend on it."""
    script = "from tests.scenarios.test_conservation import fingerprint; print(fingerprint('" + policy + "'))"
    found = {fingerprint(policy)}
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        told = subprocess.run(
            [sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        )
        found.add(told.stdout.strip())
    assert len(found) == 1
