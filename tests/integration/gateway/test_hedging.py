"""A hedged request over real sockets: one answer, one row, one charge, and no place left occupied."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from logos.actors.journal import read_journal, replay_file
from logos.config import Settings
from logos.scheduling.events import LeaseReported, RequestCancelled, RequestsArrived
from logos.scheduling.settings import SchedulerSettings
from tests.integration.gateway.test_platform_in_process import CHAT, KEY, client_of, hello, is_idle, until
from tests.support.in_process import InProcessPlatform, in_process_platform
from tests.support.postgres import rows, value
from tests.support.raw_upstream import HANG, RESET, chunk, stream_head, whole
from tests.support.upstream import Answer, ScriptedUpstream, chat, event, steps, streamed

PROMISED_MS = 200
HASTY = {"x-logos-slo-ttft-ms": str(PROMISED_MS)}
HANGS = steps(HANG)


def breaks(after_s: float) -> Answer:
    return steps(after_s, whole(b'{"error": {"message": "it broke"}}', "500 Internal Server Error"))


def declaration(upstream: ScriptedUpstream, *, second_privacy: str = "LOCAL") -> dict[str, Any]:
    """One model at two providers, of which the second one is ten times as dear."""
    privacies = {"one": "LOCAL", "other": second_privacy}
    return {
        "providers": [
            {"name": name, "kind": "openai", "base_url": upstream.base_url, "privacy": privacy}
            for name, privacy in privacies.items()
        ],
        "models": [
            {
                "name": "m",
                "endpoints": [
                    {"provider": "one", "upstream_model": "first", "max_parallel": 8},
                    {"provider": "other", "upstream_model": "second", "max_parallel": 8},
                ],
            },
            {"name": "solo", "endpoints": [{"provider": "one", "upstream_model": "first", "max_parallel": 8}]},
        ],
        "prices": [
            {
                "model": "m",
                "provider": name,
                "currency": "EUR",
                "valid_from": "2026-01-01",
                "per_million": {"prompt": price, "completion": price},
            }
            for name, price in (("one", 100.0), ("other", 1000.0))
        ],
        "policies": [{"name": "at-home", "privacy": "LOCAL"}],
        "keys": [{"name": "tests", "key": KEY, "limits": {"concurrent": 500}}],
    }


@contextlib.asynccontextmanager
async def hedging(
    database_url: str, tmp_path: Path, upstream: ScriptedUpstream, *, share: float = 1.0, **more: Any
) -> AsyncIterator[InProcessPlatform]:
    """Requests go to the first provider, as long as it works; the journal of it all must replay."""
    settings = Settings.default_world().model_copy(update={"nodes": ()})
    settings = settings.model_copy(update={"scheduler": settings.scheduler.model_copy(update={"hedge_share": share})})
    scheduling = SchedulerSettings(policy="fcfs", hedge_share=share, reconvene_s=0.5)
    async with in_process_platform(
        database_url,
        tmp_path,
        settings=settings,
        declaration=declaration(upstream, **more),
        scheduler_settings=scheduling,
    ) as running:
        yield running
        await until(lambda: is_idle(running))
        await nothing_runs(running)
    for journal in (tmp_path / "journal").glob("*.jsonl"):
        assert replay_file(journal) == []


async def nothing_runs(platform: InProcessPlatform) -> None:
    """The scheduler has heard the end of everything: no place is left occupied."""
    async with asyncio.timeout(5.0):
        while (state := await platform.scheduler.state())["running"] or state["waiting"]:
            await asyncio.sleep(0.02)
    assert {each["running"] for each in state["endpoints"]} == {0}


@pytest.fixture
def upstream() -> Any:
    with ScriptedUpstream() as running:
        yield running


@pytest.fixture
async def platform(database_url: str, tmp_path: Path, upstream: ScriptedUpstream) -> AsyncIterator[InProcessPlatform]:
    async with hedging(database_url, tmp_path, upstream) as running:
        yield running


async def ask(platform: InProcessPlatform, **headers: str) -> httpx.Response:
    async with client_of(platform) as client:
        return await client.post(CHAT, json=hello("m", stream=True), headers={**HASTY, **headers})


async def on_record(platform: InProcessPlatform, database_url: str) -> dict[str, Any]:
    """The one row there is, with its tries."""
    await until(lambda: is_idle(platform))
    names = ("result_status", "attempts", "hedge_winner", "cost_micro_cents", "usage_source", "endpoint_id")
    [found] = rows(
        database_url,
        "SELECT result_status, attempts, hedge_winner, cost_micro_cents, usage_source, endpoint_id FROM log_entry",
    )
    tries = rows(
        database_url,
        "SELECT number, endpoint_id, outcome, is_hedge, house_cost_micro_cents FROM attempts ORDER BY number",
    )
    return {**dict(zip(names, found, strict=True)), "tries": tries}


def cancelled(tmp_path: Path) -> list[RequestCancelled]:
    """What the scheduler was told of places that were given up or left."""
    [journal] = (tmp_path / "journal").glob("*.jsonl")
    _, entries = read_journal(journal)
    return [event for event, _ in entries if isinstance(event, RequestCancelled)]


async def test_the_second_place_serves_a_request_whose_first_one_hangs(
    platform: InProcessPlatform, upstream: ScriptedUpstream, database_url: str, tmp_path: Path
) -> None:
    upstream.answer("first", HANGS)
    upstream.answer("second", streamed(["a", "b"]))
    answer = await ask(platform)
    assert answer.status_code == 200
    assert answer.text.endswith("data: [DONE]\n\n")
    assert (answer.headers["x-logos-hedge-winner"], answer.headers["x-logos-attempts"]) == ("second", "2")
    assert answer.headers["x-logos-provider"] == "other"
    row = await on_record(platform, database_url)
    assert (row["result_status"], row["attempts"], row["hedge_winner"]) == ("success", 2, "second")
    assert row["tries"] == [(1, 1, "outrun", False, 0), (2, 2, "success", True, 0)]
    await until(lambda: upstream.of("first")[0].closed_at is not None)
    # Charged once, by what the place that served it counted and costs: 12 tokens of 1e5 micro-cents.
    assert (row["endpoint_id"], row["cost_micro_cents"], row["usage_source"]) == (2, 12 * 100_000, "upstream")
    assert rows(database_url, "SELECT scope, micro_cents, requests FROM balances") == [("key", 12 * 100_000, 1)]
    assert dict(rows(database_url, "SELECT token_type, tokens FROM usage_tokens"))["completion"] == 2
    # The scheduler knows why the first place was given up, and learns that it was slow.
    await until(lambda: [each.outrun for each in cancelled(tmp_path)] == [True])


async def test_the_first_place_serves_it_if_it_is_faster_after_all(
    platform: InProcessPlatform, upstream: ScriptedUpstream, database_url: str
) -> None:
    upstream.answer("first", streamed(["a", "b"], delay_s=1.0))
    upstream.answer("second", HANGS)
    answer = await ask(platform)
    assert (answer.status_code, answer.headers["x-logos-hedge-winner"]) == (200, "first")
    row = await on_record(platform, database_url)
    assert (row["result_status"], row["hedge_winner"], row["endpoint_id"]) == ("success", "first", 1)
    assert row["cost_micro_cents"] == 12 * 10_000
    assert row["tries"] == [(1, 1, "success", False, 0), (2, 2, "outrun", True, 0)]
    await until(lambda: upstream.of("second")[0].closed_at is not None)


async def test_when_one_place_breaks_the_other_one_answers(
    platform: InProcessPlatform, upstream: ScriptedUpstream, database_url: str
) -> None:
    upstream.answer("first", breaks(0.8))
    upstream.answer("second", streamed(["a"], delay_s=0.8))
    answer = await ask(platform)
    assert (answer.status_code, answer.headers["x-logos-hedge-winner"]) == (200, "second")
    row = await on_record(platform, database_url)
    assert row["tries"] == [(1, 1, "upstream_error", False, 0), (2, 2, "success", True, 0)]


async def test_when_both_places_break_the_client_gets_an_error_and_is_charged_nothing(
    platform: InProcessPlatform, upstream: ScriptedUpstream, database_url: str
) -> None:
    upstream.answer("first", breaks(1.2))
    upstream.answer("second", breaks(0.1))
    answer = await ask(platform)
    assert answer.status_code == 502
    row = await on_record(platform, database_url)
    assert (row["result_status"], row["hedge_winner"], row["cost_micro_cents"]) == ("upstream_error", "none", 0)
    assert row["tries"] == [(1, 1, "upstream_error", False, 0), (2, 2, "upstream_error", True, 0)]


async def test_a_mistake_of_the_client_ends_the_race(
    platform: InProcessPlatform, upstream: ScriptedUpstream, database_url: str
) -> None:
    upstream.answer("first", HANGS)
    upstream.answer("second", steps(whole(b'{"error": {"message": "no such thing"}}', "400 Bad Request")))
    answer = await ask(platform)
    assert answer.status_code == 400
    await on_record(platform, database_url)
    await until(lambda: upstream.of("first")[0].closed_at is not None)


async def test_a_client_that_leaves_closes_both_places(
    platform: InProcessPlatform, upstream: ScriptedUpstream, database_url: str
) -> None:
    upstream.answer("first", HANGS)
    upstream.answer("second", HANGS)
    asked = asyncio.create_task(ask(platform))
    await until(lambda: bool(upstream.of("second")))
    asked.cancel()
    await until(lambda: all(each.closed_at is not None for each in upstream.received))
    row = await on_record(platform, database_url)
    assert (row["result_status"], row["hedge_winner"]) == ("client_left", "none")
    assert sorted(row["tries"]) == [(1, 1, "client_left", False, 0), (2, 2, "client_left", True, 0)]
    assert value(database_url, "SELECT sum(requests) FROM balances") == 1


async def test_a_client_that_leaves_when_one_place_has_broken_already_closes_the_other(
    platform: InProcessPlatform, upstream: ScriptedUpstream, database_url: str
) -> None:
    upstream.answer("first", breaks(0.8))
    upstream.answer("second", HANGS)
    asked = asyncio.create_task(ask(platform))
    await until(lambda: bool(upstream.of("second")) and upstream.of("first")[0].answered_at is not None)
    await asyncio.sleep(0.2)  # so that its gateway has heard of it
    asked.cancel()
    await until(lambda: upstream.of("second")[0].closed_at is not None)
    row = await on_record(platform, database_url)
    assert (row["result_status"], row["hedge_winner"]) == ("client_left", "none")
    assert row["tries"] == [(1, 1, "upstream_error", False, 0), (2, 2, "client_left", True, 0)]


async def test_a_winner_that_breaks_after_its_first_byte_is_told_in_the_stream_and_not_tried_again(
    platform: InProcessPlatform, upstream: ScriptedUpstream, database_url: str
) -> None:
    upstream.answer("first", HANGS)
    upstream.answer("second", steps(stream_head(), chunk(event({"content": "a"})), 0.2, RESET))
    answer = await ask(platform)
    assert answer.status_code == 200
    assert '"error"' in answer.text
    row = await on_record(platform, database_url)
    assert (row["result_status"], row["usage_source"], row["hedge_winner"]) == ("upstream_error", "relayed", "second")
    assert row["tries"] == [(1, 1, "outrun", False, 0), (2, 2, "upstream_error", True, 0)]
    assert len(upstream.received) == 2


async def test_a_scheduler_that_restarts_in_a_race_gets_both_places_back(
    platform: InProcessPlatform, upstream: ScriptedUpstream, database_url: str
) -> None:
    upstream.answer("first", HANGS)
    upstream.answer("second", streamed(["a"], delay_s=1.5))
    asked = asyncio.create_task(ask(platform))
    await until(lambda: bool(upstream.of("second")))
    await platform.scheduler.replace()
    assert (await asked).headers["x-logos-hedge-winner"] == "second"
    row = await on_record(platform, database_url)
    assert row["tries"] == [(1, 1, "outrun", False, 0), (2, 2, "success", True, 0)]


async def test_what_shows_no_first_token_or_has_slack_is_not_hedged(
    platform: InProcessPlatform, upstream: ScriptedUpstream, database_url: str
) -> None:
    upstream.answer("first", lambda request: (streamed(delay_s=1.2) if request.streams else chat(delay_s=1.2))(request))
    async with client_of(platform) as client:
        whole_answer, patient = await asyncio.gather(
            client.post(CHAT, json=hello("m"), headers=HASTY), client.post(CHAT, json=hello("m", stream=True))
        )
    assert whole_answer.status_code == patient.status_code == 200
    assert "x-logos-hedge-winner" not in whole_answer.headers
    assert "x-logos-hedge-winner" not in patient.headers
    await until(lambda: is_idle(platform))
    assert rows(database_url, "SELECT DISTINCT hedge_winner, attempts FROM log_entry") == [(None, 1)]
    assert not upstream.of("second")


async def test_a_request_without_a_choice_goes_on_running_under_a_lease(
    platform: InProcessPlatform, tmp_path: Path
) -> None:
    async with client_of(platform) as client:
        for _ in range(6):
            assert (await client.post(CHAT, json=hello("solo", stream=True))).status_code == 200
    await nothing_runs(platform)
    [journal] = (tmp_path / "journal").glob("*.jsonl")
    await until(lambda: any(isinstance(event, LeaseReported) for event, _ in read_journal(journal)[1]))
    asked = [event for event, _ in read_journal(journal)[1] if isinstance(event, RequestsArrived)]
    assert 1 <= len(asked) < 6


async def test_at_most_the_share_of_requests_is_hedged(
    database_url: str, tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    upstream.answer("first", streamed(["a"], delay_s=1.2))
    async with hedging(database_url, tmp_path, upstream, share=0.25) as platform:
        answers = await asyncio.gather(*(ask(platform) for _ in range(8)))
    assert {each.status_code for each in answers} == {200}
    assert len(upstream.of("second")) == 2


async def test_a_second_place_is_never_less_private_than_the_policy_allows(
    database_url: str, tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    upstream.answer("first", streamed(["a"], delay_s=1.2))
    cloud = "CLOUD_NOT_IN_EU_BY_US_PROVIDER"
    async with hedging(database_url, tmp_path, upstream, second_privacy=cloud) as platform:
        assert (await ask(platform, policy="at-home")).headers["x-logos-provider"] == "one"
        assert not upstream.of("second")
        # Without the policy it is hedged, so it was the policy that kept it at home.
        upstream.answer("first", HANGS)
        assert (await ask(platform)).headers["x-logos-hedge-winner"] == "second"


async def test_a_simulated_engine_that_is_slow_is_helped_out_by_a_provider(
    database_url: str, tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    """The engine takes 3 s for a step; its sequence is aborted when the provider has answered."""
    upstream.answer("second", streamed(["a", "b"]))
    document = declaration(upstream)
    document["providers"].append({"name": "local", "kind": "pool", "privacy": "LOCAL"})
    engine = {"gpus": 1, "memory_gib": 4, "max_parallel": 4, "min_replicas": 1}
    document["models"][0] |= {"engine": engine, "endpoints": document["models"][0]["endpoints"][1:]}
    document["prices"] = []
    world = Settings.default_world()
    slow = world.nodes[0].model_copy(update={"pace": world.nodes[0].pace.model_copy(update={"step_base_ms": 3000.0})})
    settings = world.model_copy(
        update={"nodes": (slow,), "scheduler": world.scheduler.model_copy(update={"hedge_share": 1.0})}
    )
    scheduling = SchedulerSettings(policy="utilization", hedge_share=1.0)
    async with in_process_platform(
        database_url, tmp_path, settings=settings, declaration=document, scheduler_settings=scheduling
    ) as platform:
        async with asyncio.timeout(20.0):
            while [each["state"] for each in (await platform.scheduler.state())["engines"]] != ["awake"]:
                await asyncio.sleep(0.05)
        answer = await ask(platform)
        assert (answer.status_code, answer.headers["x-logos-hedge-winner"]) == (200, "second")
        row = await on_record(platform, database_url)
        assert [(number, outcome) for number, _, outcome, _, _ in row["tries"]] == [(1, "outrun"), (2, "success")]
        await nothing_runs(platform)
