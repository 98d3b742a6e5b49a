"""What a second place for late requests gains: p99 TTFT with up to 5 % of requests hedged against none, simulated.

One model at two providers with eight places each; one of them is unpredictably slow (one answer in twenty begins 8 s
late), the other is steady. Beside it the same with both steady, where hedging can gain nothing and must cost nothing.
Poisson traffic, median over seeds, each seed run with and without in turn. Exits 1 if p99 does not fall to the stated
share of what it was, if the steady pair gets worse, or if the bound is broken.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator
from typing import Any

from logos.scheduling.settings import SchedulerSettings
from logos.simulation.cluster import parse_world
from logos.simulation.figures import figures
from logos.simulation.kernel import simulate
from logos.simulation.traffic import drawn
from logos.simulation.world import World
from logos.workload.generate import Traffic

SHARES = (0.0, 0.01, 0.05)
SEEDS = range(1, 6)
REQUESTS_PER_S = 5.0
DURATION_S = 900.0
TTFT_SLO_MS = 1500
STALLS = {"one is unpredictably slow": (0.05, 0.0), "both are steady": (0.0, 0.0)}
STALL_S = 8.0
P99_RATIO_MAX = 0.5
STEADY_RATIO_MAX = 1.02


def two_providers(stalls: tuple[float, float]) -> World:
    """The same model twice; nothing but the share of answers that begin late tells them apart."""
    names = ("one", "other")
    return parse_world(
        {
            "providers": [{"name": name, "privacy": "CLOUD_IN_EU_BY_EU_PROVIDER"} for name in names],
            "models": [
                {
                    "name": "m",
                    "remotes": [
                        {"provider": name, "max_parallel": 8, "ttft_s": 0.3, "stall_share": share, "stall_s": STALL_S}
                        for name, share in zip(names, stalls, strict=True)
                    ],
                }
            ],
            "slo": {"interactive": {"ttft_ms": TTFT_SLO_MS}},
        },
        "two providers",
    )


def runs(world: World, seed: int) -> Iterator[dict[str, Any]]:
    """One for each share, of the same traffic."""
    traffic = Traffic(
        duration_s=DURATION_S, rate_per_s=REQUESTS_PER_S, models=("m",), prompt_tokens=150, output_tokens=(40, 300)
    )
    workload = drawn(traffic, seed)
    for share in SHARES:
        yield figures(simulate(world, workload, SchedulerSettings(policy="slo", hedge_share=share), seed))


def main() -> int:
    missed = False
    for name, stalls in STALLS.items():
        world = two_providers(stalls)
        by_share = list(zip(*(runs(world, seed) for seed in SEEDS), strict=True))
        print(f"{name}: {REQUESTS_PER_S:g} requests/s, TTFT promised within {TTFT_SLO_MS / 1000:g} s")
        p99_without = 0.0
        for share, found in zip(SHARES, by_share, strict=True):
            p99 = statistics.median(each["ttft_s"]["p99"] for each in found)
            p50 = statistics.median(each["ttft_s"]["p50"] for each in found)
            kept = statistics.median(each["slo_attainment"] for each in found)
            sent = sum(each["hedged"] for each in found) / sum(each["requests"] for each in found)
            won = sum(each["hedges_won"] for each in found) / max(sum(each["hedged"] for each in found), 1)
            p99_without = p99_without or p99
            print(
                f"  up to {share:4.0%} hedged: {sent:5.1%} sent, {won:4.0%} of them won; TTFT p50 {p50:.3f} s, "
                f"p99 {p99:.3f} s ({p99 / p99_without:.2f}), promise kept {kept:.2%}"
            )
            missed = missed or sent > share
        limit = STEADY_RATIO_MAX if stalls[0] == stalls[1] else P99_RATIO_MAX
        missed = missed or p99 / p99_without > limit
        print(f"  limit of the ratio at {SHARES[-1]:.0%}: {limit}")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
