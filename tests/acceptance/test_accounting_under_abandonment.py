"""Clients that leave at random moments: every request is a row, and nothing stays behind.

Small here; `python -m benchmarks.soak` does the same with 10,000 and 10,000 requests.
"""

from __future__ import annotations

import asyncio

import pytest

from tests.acceptance.conftest import World
from tests.support.load import Load
from tests.support.logos_up import Platform, wait_for
from tests.support.upstream import chat_or_streamed, streamed

pytestmark = [pytest.mark.ray, pytest.mark.slow]

REQUESTS = 800
WORDS = ("one", " two", " three", " four", " five", " six")


def test_every_request_is_one_row_and_one_charge_though_clients_leave(world: World, platform: Platform) -> None:
    model = world.model(chat_or_streamed(WORDS, pace_s=0.01), priced=True, max_parallel=64)
    load = Load(platform.base_url, world.key(log="FULL"), model, abandoned_share=0.1, abandon_after_s_max=0.15)
    asyncio.run(load.send(REQUESTS))
    platform.wait_until_settled(40)

    assert load.sent == REQUESTS
    assert load.statuses == {200: load.whole}
    assert load.broken == load.stuck == load.refused == 0
    rows = world.log("request_id, cost_currency, result_status, usage_source, cost_micro_cents")
    assert len(rows) == load.sent, f"{load.sent - len(rows)} requests have no row"
    assert len({row[0] for row in rows}) == len(rows)
    assert {row[2] for row in rows} <= {"success", "client_left"}
    assert sum(row[2] == "client_left" for row in rows) <= load.abandoned
    for _, _, status, source, cost in rows:
        assert (source == "upstream") if status == "success" else (source in {"upstream", "relayed", "none"})
        assert (cost or 0) > 0 or source == "none"
    assert max(world.upstream.counts(model).values()) == 1, "a request was sent to the upstream twice"
    charged = sum(row[4] or 0 for row in rows)
    ((balance, counted),) = platform.rows(
        "SELECT micro_cents, requests FROM balances JOIN api_keys ON scope_id = api_keys.id "
        "WHERE scope = 'key' AND api_keys.name = %s",
        world.keys[-1],
    )
    assert (balance, counted) == (charged, sum(row[1] is not None for row in rows))


def test_the_upstreams_connection_closes_within_a_second_of_the_clients(world: World, platform: Platform) -> None:
    model = world.model(streamed(["word "] * 2000, pace_s=0.02))
    body = {"model": model, "stream": True, "messages": [{"role": "user", "content": "Go on for ever."}]}
    with world.client() as client:
        with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            lines = answer.iter_lines()
            next(lines)
        (received,) = world.upstream.of(model)
        wait_for(lambda: received.closed_at is not None, 1.0, "the upstream was still asked a second later")
    platform.wait_until_settled()
    ((status, http_status, source),) = world.log("result_status, http_status, usage_source")
    assert (status, http_status, source) == ("client_left", 499, "relayed")


def test_nothing_stays_behind_in_the_gateways(world: World, platform: Platform) -> None:
    model = world.model(chat_or_streamed(WORDS, pace_s=0.005))
    key = world.key()

    def round_of(seed: int) -> float:
        load = Load(
            platform.base_url, key, model, connections=32, abandoned_share=0.2, abandon_after_s_max=0.08, seed=seed
        )
        asyncio.run(load.send(400))
        platform.wait_until_settled(40)
        return platform.resident_mib("replica")

    first = round_of(1)
    second = round_of(2)
    wait_for(lambda: not platform.get("/admin/scheduler")["leases"], 30, "leases are held though nothing runs")
    assert second <= first * 1.03, f"resident memory grew from {first:.0f} to {second:.0f} MiB"
    assert world.upstream.open_connections <= world.upstream.connections
