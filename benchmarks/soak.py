"""10,000 requests at 64 connections, a tenth of them abandoned at random moments, and 10,000 more: does anything stay?

`python -m benchmarks.soak [--requests N]`. Not one of the benchmarks that run by themselves: it takes minutes. Fails if
a request has no row or two, a charge is missing or double, anything is left in flight, or the gateways' memory after
the second half is more than 3 % above that after the first.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time

from tests.support.load import Load
from tests.support.logos_up import Platform
from tests.support.upstream import ScriptedUpstream, chat_or_streamed

GROWTH_MAX = 1.03
WORDS = ("one", " two", " three", " four", " five")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000, help="in each half")
    parser.add_argument("--halves", type=int, default=2)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--abandoned", type=float, default=0.1)
    parser.add_argument("--pace-s", type=float, default=0.005, help="between two words of the upstream")
    given = parser.parse_args()
    config = {"nodes": [], "gateway": {"replicas_min": 2, "replicas_max": 2}}
    with ScriptedUpstream() as upstream, Platform(config) as platform:
        upstream.answer("soak", chat_or_streamed(WORDS, pace_s=given.pace_s))
        platform.apply(
            {
                "providers": [{"name": "scripted", "base_url": upstream.base_url, "privacy": "LOCAL"}],
                "models": [{"name": "soak", "endpoints": [{"provider": "scripted", "max_parallel": 256}]}],
                "prices": [{"model": "soak", "currency": "EUR", "per_million": {"prompt": 1, "completion": 2}}],
            }
        )
        failures = soak(platform, upstream, given)
    for failure in failures:
        print(f"FAILED: {failure}")
    return 1 if failures else 0


def soak(platform: Platform, upstream: ScriptedUpstream, given: argparse.Namespace) -> list[str]:
    """The halves; what went wrong."""
    key = platform.create_key("soak")
    failures: list[str] = []
    resident: list[float] = []
    sent = 0
    for half in range(given.halves):
        load = Load(
            platform.base_url,
            key,
            "soak",
            connections=given.connections,
            abandoned_share=given.abandoned,
            abandon_after_s_max=given.pace_s * len(WORDS) * 2 + 0.02,
            seed=half,
        )
        began = time.monotonic()
        asyncio.run(load.send(given.requests))
        elapsed_s = time.monotonic() - began
        platform.wait_until_settled(120)
        sent += load.sent
        resident.append(platform.resident_mib("replica"))
        upstream.received.clear()
        print(
            f"{load.sent:,} sent in {elapsed_s:.0f} s ({load.sent / elapsed_s:.0f}/s), {load.abandoned:,} abandoned, "
            f"{load.whole:,} whole, {load.broken} broken, {load.stuck} stuck, statuses {dict(load.statuses)}; "
            f"replicas {resident[-1]:.1f} MiB",
            flush=True,
        )
        if load.broken or load.stuck or set(load.statuses) - {200}:
            failures.append(f"broken {load.broken}, stuck {load.stuck}, statuses {dict(load.statuses)}")
    return [*failures, *check(platform, sent, resident)]


def check(platform: Platform, sent: int, resident: list[float]) -> list[str]:
    """The books."""
    rows, charged, priced = platform.rows(
        "SELECT count(*), coalesce(sum(cost_micro_cents), 0), count(cost_currency) FROM log_entry"
    )[0]
    balance, counted = platform.rows(
        "SELECT coalesce(sum(micro_cents), 0), coalesce(sum(requests), 0) FROM balances WHERE scope = 'key'"
    )[0]
    outcomes = dict(platform.rows("SELECT result_status, count(*) FROM log_entry GROUP BY 1"))
    print(f"rows {rows:,} of {sent:,} sent, outcomes {outcomes}; charged {charged:,} micro-cents, balance {balance:,}")
    print(f"left: {platform.unsettled() or 'nothing'}; leases {platform.get('/admin/scheduler')['leases']}")
    failures = []
    if rows != sent:
        failures.append(f"{sent:,} requests were sent, {rows:,} rows are there")
    if (balance, counted) != (charged, priced):
        failures.append(f"the balance says {balance} for {counted} requests, the rows {charged} for {priced}")
    if len(resident) > 1:
        growth = resident[1] / resident[0]
        print(
            f"memory of the replicas after the second half: {growth:.3f} of that after the first (limit {GROWTH_MAX})"
        )
        if growth > GROWTH_MAX:
            failures.append(f"memory grew by {(growth - 1) * 100:.1f} %")
    return failures


if __name__ == "__main__":
    sys.exit(main())
