"""Memory, requests and claims are conserved in worlds drawn from a seed, whatever their nodes and models are.

The worlds are small and crowded: models change places all the time, and everything that may go wrong does.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest

from logos.domain.catalogue import Catalogue
from logos.domain.nouns import Endpoint, Node
from logos.scheduling.events import Request
from logos.scheduling.replay import replay
from tests.scenarios.platform import Mishaps, Platform, SimGateway, SimRequest
from tests.scenarios.test_conservation import POLICIES, SWAPPING, assert_nothing_is_left
from tests.scenarios.world import catalogue, node, pooled, remote

SEEDS = 16
MISHAPS = Mishaps(
    gateway_dies_s=25.0, engine_dies_s=30.0, node_dies_s=60.0, scheduler_dies_s=30.0, catalogue_changes_s=12.0
)


class Demanding(Platform):
    """Clients that may wait long or not at all, and were promised much, little or nothing."""

    def client_asks(self, gateway: SimGateway, request: Request, service_s: float) -> SimRequest:
        chance = self.chance
        asked = replace(
            request,
            team_id=chance.choice([None, 1, 2]),
            prompt_tokens=chance.choice([0, 1, 400, 20_000]),
            queue_timeout_s=chance.choice([0.0, 0.5, 3.0, 10.0, 40.0]),
            slo_ttft_s=chance.choice([None, None, 0.0, 0.3, 2.0, 30.0]),
            slo_total_s=chance.choice([None, None, 1.0, 20.0]),
            prefix=chance.choice([None, 1, 2, 3]),
            prefix_tokens=chance.choice([0, 100, 1000]),
        )
        return super().client_asks(gateway, asked, service_s)


def drawn_node(chance: random.Random, number: int) -> Node:
    gpus = [chance.choice([16, 24, 32]) for _ in range(chance.choice([1, 1, 2, 3]))]
    drawn = node(f"n{number}", *gpus, host_gib=chance.choice([0, 20, 40]), sleeps=chance.random() < 0.8)
    return replace(drawn, transitions_at_once=chance.choice([None, 1, 2]))


def drawn_model(chance: random.Random, number: int) -> Endpoint:
    gpus = chance.choice([1, 1, 1, 2])
    least = int(chance.random() < 0.1)
    return pooled(
        number,
        gib=chance.choice([8, 12, 15, 20]) * gpus,
        gpus=gpus,
        parallel=chance.choice([1, 2, 8]),
        replicas=(least, least + chance.choice([1, 1, 2])),
        pinned=chance.random() < 0.05,
        sleeps=chance.random() < 0.9,
        residue_gib=chance.choice([0, 1, 2]) * gpus,
        host_gib=chance.choice([0, 8]),
    )


def drawn_world(seed: int, policy: str) -> Platform:
    chance = random.Random(seed)
    nodes = tuple(drawn_node(chance, number) for number in range(chance.choice([1, 1, 2])))
    models = [drawn_model(chance, number) for number in range(1, chance.choice([4, 6, 8]))]
    known: Catalogue = catalogue(*models, *([remote(9, parallel=2)] if chance.random() < 0.3 else []))
    rate, service_s = chance.choice([4.0, 15.0]), chance.choice([0.2, 1.0])
    return Demanding(
        seed, known, nodes, policy=policy, rate=rate, service_s=service_s, mishaps=MISHAPS, gateways=2, **SWAPPING
    )


@pytest.mark.parametrize("policy", POLICIES)
def test_memory_requests_and_claims_are_conserved_and_the_journals_replay(policy: str) -> None:
    moved: Counter[str] = Counter()
    for seed in range(SEEDS):
        done = drawn_world(seed, policy)
        done.run(45.0)
        assert_nothing_is_left(done)
        for opening, entries in done.journals:
            assert replay(opening, entries) == [], seed
        moved.update(type(command).__name__ for _, log in done.journals for _, caused in log for command in caused)
    assert min(moved[each] for each in ("LoadEngine", "SleepEngine", "WakeEngine", "StopEngine")) >= 5, moved
