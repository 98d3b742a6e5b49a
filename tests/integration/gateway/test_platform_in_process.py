"""The whole way of a request with every real part but Ray: actors, engines, Postgres and HTTP in one process."""

from __future__ import annotations

import asyncio
import errno
import itertools
import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from logos.actors.journal import read_journal, replay_file
from logos.config import Settings
from logos.domain.records import Progress
from logos.gateway.outbox_files import entries_of, segments_of
from logos.scheduling.commands import Dispatch
from logos.scheduling.events import FirstToken, LeaseReported, RequestFinished, RequestsArrived
from logos.scheduling.settings import SchedulerSettings
from tests.support.in_process import InProcessPlatform, in_process_platform
from tests.support.postgres import rows, value
from tests.support.raw_upstream import END, chunk, stream_head, whole
from tests.support.upstream import (
    Answer,
    Received,
    ScriptedUpstream,
    Step,
    chat,
    chat_or_streamed,
    error,
    event,
    steps,
    streamed,
)

KEY = "a-key-of-the-tests-0123456789abcdef0123456789"
WATCHED = "watched-key-of-the-tests-0123456789abcdef01234"
CHAT = "/v1/chat/completions"


def hello(model: str | None, **more: Any) -> dict[str, Any]:
    named = {} if model is None else {"model": model}
    return {**named, "messages": [{"role": "user", "content": "Hello"}], **more}


class Gauge:
    """How many answers an upstream had under way at once, at most."""

    def __init__(self) -> None:
        self.now = self.most = 0

    def around(self, answer: Answer) -> Answer:
        def counted(request: Received) -> Iterator[Step]:
            self.now += 1
            self.most = max(self.most, self.now)
            try:
                yield from answer(request)
            finally:
                self.now -= 1

        return counted


async def until(happens: Callable[[], bool], within_s: float = 5.0) -> None:
    """Waits until it is so; fails if it does not become so."""
    async with asyncio.timeout(within_s):
        while not happens():
            await asyncio.sleep(0.01)


def is_idle(platform: InProcessPlatform) -> bool:
    return all(
        gateway.placement.idle and not gateway.outbox.records and not gateway.flow.in_flight
        for gateway in platform.gateways
    )


@pytest.fixture
def upstream() -> Any:
    with ScriptedUpstream() as running:
        yield running


@pytest.fixture
async def remote(database_url: str, tmp_path: Path, upstream: ScriptedUpstream) -> AsyncIterator[InProcessPlatform]:
    """Two gateways in front of one remote provider with one model of eight places."""
    settings = Settings.default_world().model_copy(update={"nodes": ()})
    declaration = {
        "providers": [{"name": "far", "kind": "openai", "base_url": upstream.base_url, "privacy": "LOCAL"}],
        "models": [{"name": "m", "endpoints": [{"provider": "far", "max_parallel": 8}]}],
        "keys": [{"name": "tests", "key": KEY, "limits": {"requests_per_minute": 100000, "concurrent": 500}}],
    }
    async with in_process_platform(
        database_url, tmp_path, settings=settings, declaration=declaration, gateways=2
    ) as platform:
        yield platform


def client_of(platform: InProcessPlatform, number: int = 0) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=platform.urls[number], headers={"authorization": f"Bearer {KEY}"}, timeout=30, trust_env=False
    )


async def test_a_first_request_loads_its_engine_and_is_on_record(database_url: str, tmp_path: Path) -> None:
    async with in_process_platform(database_url, tmp_path) as platform, client_of(platform) as client:
        client.headers["authorization"] = f"Bearer {platform.root_key}"
        first = await client.post(CHAT, json=hello("llama-3.1-8b", max_tokens=4))
        second = await client.post(CHAT, json=hello("llama-3.1-8b", max_tokens=4))
        assert first.status_code == second.status_code == 200
        assert first.headers["x-logos-tier"] == "cold"
        assert second.headers["x-logos-tier"] == "warm"
        await until(lambda: is_idle(platform))
        found = rows(
            database_url,
            "SELECT result_status, was_cold_start, classification_statistics, usage_source FROM log_entry ORDER BY id",
        )
        assert found == [("success", True, None, "upstream"), ("success", False, None, "upstream")]


async def test_the_journal_of_a_live_run_replays_to_the_same_commands(database_url: str, tmp_path: Path) -> None:
    async with in_process_platform(database_url, tmp_path, gateways=2) as platform:
        async with client_of(platform) as client:
            client.headers["authorization"] = f"Bearer {platform.root_key}"
            await asyncio.gather(
                *(client.post(CHAT, json=hello("qwen2.5-coder-7b", max_tokens=3)) for _ in range(60)),
                *(client.post(CHAT, json=hello(None, max_tokens=3)) for _ in range(10)),
            )
        await until(lambda: is_idle(platform))
    (journal,) = (tmp_path / "journal").glob("*.jsonl")
    assert journal.read_bytes().count(b"\n") > 20
    assert replay_file(journal) == []


async def test_more_clients_than_places_are_all_served_and_nothing_stays_behind(
    remote: InProcessPlatform, upstream: ScriptedUpstream, database_url: str
) -> None:
    gauge = Gauge()
    upstream.answer("m", gauge.around(chat(delay_s=0.02)))
    async with client_of(remote, 0) as one, client_of(remote, 1) as other:
        answers = await asyncio.gather(*(each.post(CHAT, json=hello("m")) for _ in range(32) for each in (one, other)))
    assert {answer.status_code for answer in answers} == {200}
    await until(lambda: is_idle(remote))
    assert value(database_url, "SELECT count(*) FROM log_entry WHERE result_status = 'success'") == 64
    assert 1 < gauge.most <= 8


async def test_a_request_that_waits_for_a_place_is_on_record_by_then(
    remote: InProcessPlatform, upstream: ScriptedUpstream, database_url: str
) -> None:
    """So that it has a row even if its gateway dies meanwhile."""
    upstream.answer("m", chat(delay_s=0.5))
    gateway = remote.gateways[0]
    async with client_of(remote) as client:
        asked = asyncio.gather(*(client.post(CHAT, json=hello("m")) for _ in range(12)))
        await until(lambda: gateway.placement.figures() | {"waiting": 4, "running": 8} == gateway.placement.figures())
        in_line = gateway.outbox.records - 8
        assert {answer.status_code for answer in await asked} == {200}
    assert in_line == 4
    await until(lambda: is_idle(remote))
    assert rows(
        database_url,
        "SELECT result_status, model_id IS NULL, attempts, count(*) FROM log_entry GROUP BY 1, 2, 3",
    ) == [("success", False, 1, 12)]


async def test_a_client_that_leaves_a_stream_frees_its_place_and_is_charged_what_it_got(
    remote: InProcessPlatform, upstream: ScriptedUpstream, database_url: str
) -> None:
    upstream.answer("m", streamed(["word"] * 500, pace_s=0.02))
    async with client_of(remote) as client, client.stream("POST", CHAT, json=hello("m", stream=True)) as answer:
        lines = answer.aiter_lines()
        for _ in range(6):
            await anext(lines)
    await until(lambda: is_idle(remote))
    status, source, attempts = rows(database_url, "SELECT result_status, usage_source, attempts FROM log_entry")[0]
    assert (status, source, attempts) == ("client_left", "relayed", 1)
    counted = dict(rows(database_url, "SELECT token_type, tokens FROM usage_tokens"))
    assert counted["prompt"] > 0
    assert 1 <= counted["completion"] <= 100


async def test_the_scheduler_may_be_replaced_under_load(
    remote: InProcessPlatform, upstream: ScriptedUpstream, database_url: str
) -> None:
    gauge = Gauge()
    upstream.answer("m", gauge.around(chat_or_streamed(pace_s=0.005)))
    async with client_of(remote, 0) as one, client_of(remote, 1) as other:
        asked = [
            asyncio.create_task(each.post(CHAT, json=hello("m", stream=number % 2 == 0)))
            for number in range(60)
            for each in (one, other)
        ]
        await asyncio.sleep(0.1)
        await remote.scheduler.replace()
        answers = await asyncio.gather(*asked)
    assert {answer.status_code for answer in answers} == {200}
    await until(lambda: is_idle(remote))
    assert value(database_url, "SELECT count(*) FROM log_entry WHERE result_status = 'success'") == 120
    assert 1 < gauge.most <= 8


async def test_an_upstream_that_fails_is_answered_for_and_recorded_once(
    remote: InProcessPlatform, upstream: ScriptedUpstream, database_url: str
) -> None:
    upstream.answer("m", error())
    async with client_of(remote) as client:
        answer = await client.post(CHAT, json=hello("m"))
    assert answer.status_code == 502
    assert upstream.base_url not in answer.text
    await until(lambda: is_idle(remote))
    assert rows(database_url, "SELECT result_status, attempts, usage_source FROM log_entry") == [
        ("upstream_error", 1, "none")
    ]


async def test_a_second_attempt_may_wait_only_for_what_the_first_one_has_left(
    remote: InProcessPlatform, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    near = {"name": "near", "kind": "openai", "base_url": upstream.base_url, "privacy": "LOCAL"}
    places = [{"provider": each, "upstream_model": each, "max_parallel": 1} for each in ("far", "near")]
    await remote.apply({"providers": [near], "models": [{"name": "m", "endpoints": places}]})
    upstream.answer("far", steps(0.3, whole(b"{}", "500 Internal Server Error")))
    upstream.answer("near", chat(delay_s=0.3))
    async with client_of(remote) as client:
        answers = await asyncio.gather(*(client.post(CHAT, json=hello("m")) for _ in range(4)))
    assert {answer.status_code for answer in answers} == {200}
    await until(lambda: is_idle(remote))
    await asyncio.sleep(0.6)  # the journal is written a few times a second
    (journal,) = (tmp_path / "journal").glob("*.jsonl")
    left_s: dict[str, float] = {}
    waits = []
    for told, caused in read_journal(journal)[1]:
        for each in told.requests if isinstance(told, RequestsArrived) else ():
            assert each.queue_timeout_s <= left_s.get(each.request_id, 60.0), each
        for sent in (command for command in caused if isinstance(command, Dispatch)):
            left_s[sent.request_id] = left_s.get(sent.request_id, 60.0) - sent.queue_wait_s
            waits.append(sent.queue_wait_s)
    assert max(waits) > 0.2


async def test_a_request_that_waits_does_not_go_where_it_has_become_less_private_meanwhile(
    remote: InProcessPlatform, upstream: ScriptedUpstream, database_url: str
) -> None:
    far = {"name": "far", "kind": "openai", "base_url": upstream.base_url}
    model = {"name": "m", "endpoints": [{"provider": "far", "max_parallel": 1}]}
    await remote.apply({"models": [model], "policies": [{"name": "at-home", "privacy": "LOCAL"}]})
    upstream.answer("m", chat(delay_s=0.5))
    gateway = remote.gateways[0]
    async with client_of(remote) as client:
        at_home = {"x-logos-policy": "at-home"}
        asked = [asyncio.create_task(client.post(CHAT, json=hello("m"), headers=at_home)) for _ in range(2)]
        await until(lambda: gateway.placement.figures()["waiting"] == 1)
        known = gateway.directory.version
        await remote.apply({"providers": [{**far, "privacy": "CLOUD_NOT_IN_EU_BY_US_PROVIDER"}]})
        await until(lambda: gateway.directory.version > known)
        assert sorted([(await answer).status_code for answer in asked]) == [200, 503]
        assert (await client.post(CHAT, json=hello("m"), headers=at_home)).status_code == 403
        assert (await client.post(CHAT, json=hello("m"))).status_code == 200
    assert len(upstream.of("m")) == 2
    await until(lambda: is_idle(remote))
    found = rows(database_url, "SELECT result_status FROM log_entry ORDER BY result_status")
    assert found == [("no_capacity",), ("success",), ("success",)]


async def test_an_endpoint_that_cannot_be_called_is_blamed_and_another_one_serves_that_is_private_enough(
    remote: InProcessPlatform, upstream: ScriptedUpstream, database_url: str
) -> None:
    await remote.apply(
        {
            "providers": [
                {"name": "nowhere", "base_url": "http://h.example:99999/v1", "privacy": "LOCAL"},
                {"name": "cloud", "base_url": upstream.base_url, "privacy": "CLOUD_NOT_IN_EU_BY_US_PROVIDER"},
            ],
            "policies": [{"name": "at-home", "privacy": "LOCAL"}],
            "models": [
                {"name": "one", "endpoints": [{"provider": "nowhere"}]},
                {"name": "two", "endpoints": [{"provider": "nowhere"}, {"provider": "far"}]},
                {"name": "three", "endpoints": [{"provider": "nowhere"}, {"provider": "cloud"}]},
            ],
        }
    )
    upstream.answer("two", chat())
    upstream.answer("three", chat())
    at_home = {"x-logos-policy": "at-home"}
    async with client_of(remote) as client:
        answers = [await client.post(CHAT, json=hello(model)) for model in ("one", "two", "two", "two")]
        answers += [await client.post(CHAT, json=hello("three"), headers=each) for each in (at_home, {})]
    assert [answer.status_code for answer in answers] == [502, 200, 200, 200, 502, 200]
    assert len(upstream.of("three")) == 1
    assert answers[0].json()["error"]["code"] == "upstream_misdeclared"
    await until(lambda: is_idle(remote))
    found = rows(database_url, "SELECT outcome FROM attempts ORDER BY log_entry_id, number")
    assert {outcome for (outcome,) in found} == {"upstream_error", "success"}


async def test_a_request_that_waits_for_another_place_after_one_that_failed_is_noted_as_waiting(
    remote: InProcessPlatform, upstream: ScriptedUpstream
) -> None:
    nowhere = {"name": "nowhere", "base_url": "http://h.example:99999/v1", "privacy": "LOCAL"}
    places = [{"provider": "nowhere", "max_parallel": 1}, {"provider": "far", "max_parallel": 1}]
    await remote.apply({"providers": [nowhere], "models": [{"name": "two", "endpoints": places}]})
    upstream.answer("two", chat(delay_s=0.5))
    outbox = remote.gateways[0].outbox
    async with client_of(remote) as client:
        answers = await asyncio.gather(*(client.post(CHAT, json=hello("two")) for _ in range(2)))
    assert {answer.status_code for answer in answers} == {200}
    noted: dict[str, list[bool]] = {}
    for entry in itertools.chain.from_iterable(map(entries_of, segments_of(outbox._directory))):
        if isinstance(entry, Progress):
            noted.setdefault(entry.request_id, []).append(entry.waits)
    assert [False, True, False] in noted.values()  # sent, waiting, sent again


async def test_a_full_disk_refuses_requests_and_holds_nothing_of_their_keys_limits(
    remote: InProcessPlatform, upstream: ScriptedUpstream, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await remote.apply({"keys": [{"name": "one", "key": WATCHED, "limits": {"concurrent": 1}}]})
    upstream.answer("m", chat())

    def no_space(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    async with client_of(remote) as client:
        client.headers["authorization"] = f"Bearer {WATCHED}"
        with monkeypatch.context() as broken:
            broken.setattr("logos.gateway.outbox.os.write", no_space)
            answers = [await client.post(CHAT, json=hello("m")) for _ in range(2)]
        answers.append(await client.post(CHAT, json=hello("m")))
    assert [answer.status_code for answer in answers] == [503, 503, 200]
    assert [answer.json()["error"]["code"] for answer in answers[:2]] == ["outbox_full"] * 2
    assert answers[0].headers["retry-after"]
    await until(lambda: is_idle(remote))
    assert rows(database_url, "SELECT result_status FROM log_entry") == [("success",)]
    assert len(upstream.of("m")) == 1


def error_then(message: str) -> Answer:
    """A stream that ends in an error event."""
    failed = b"data: " + json.dumps({"error": {"message": message, "code": "no_memory"}}).encode() + b"\n\n"
    return lambda _: [stream_head(), chunk(event({"content": "a"})), chunk(failed), END]


async def test_what_an_upstream_says_of_a_prompt_is_on_record_only_for_keys_that_log_it(
    remote: InProcessPlatform, upstream: ScriptedUpstream, database_url: str, tmp_path: Path
) -> None:
    echo = "the input 'where I hid it' does not fit"
    await remote.apply({"keys": [{"name": "watched", "key": WATCHED, "log": "FULL"}]})
    answers = []
    async with client_of(remote) as client:
        for key, answer in (
            (KEY, error("500 Internal Server Error", echo)),  # the first one is placed by the scheduler, which is told
            (KEY, error("400 Bad Request", echo)),
            (KEY, error_then(echo)),
            (WATCHED, error("400 Bad Request", echo)),
        ):
            upstream.answer("m", answer)
            asked = hello("m", stream=len(answers) == 2)
            answers.append(await client.post(CHAT, json=asked, headers={"authorization": f"Bearer {key}"}))
    assert [answer.status_code for answer in answers] == [502, 400, 200, 400]
    assert answers[1].json()["error"]["message"] == echo  # the client's own words
    await until(lambda: is_idle(remote))
    found = rows(database_url, "SELECT error_message FROM log_entry ORDER BY id")
    found += rows(database_url, "SELECT error_message FROM attempts ORDER BY log_entry_id, number")
    kept = [message for (message,) in found]
    summary = "The model's endpoint answered {} (some_code)."
    assert [kept[1], kept[3]] == [summary.format(400), echo]
    assert kept[4:] == [
        summary.format(500),
        summary.format(400),
        "The model's endpoint answered 502 (no_memory).",
        echo,
    ]
    (journal,) = (tmp_path / "journal").glob("*.jsonl")
    await until(lambda: summary.format(500) in journal.read_text())  # it is written a few times a second
    assert "where I hid it" not in journal.read_text()


def one_small_node() -> tuple[Settings, dict[str, Any]]:
    """A simulated node on which only one of two models fits at a time."""
    node = {
        "name": "small",
        "gpus": 1,
        "memory_gib": 24,
        "pace": {"load_s": 0.3, "wake_s": 0.2, "sleep_s": 0.4, "step_base_ms": 5.0},
    }
    settings = Settings.model_validate({"nodes": [node], "scheduler": {"policy": "slo"}})
    engine = {"gpus": 1, "memory_gib": 16, "residue_gib": 1, "max_parallel": 4}
    models = [{"name": name, "context_length": 4096, "engine": engine} for name in ("one", "other")]
    return settings, {"models": models, "slo": {"interactive": {"ttft_ms": 3000}}}


async def test_a_clock_that_is_set_back_makes_no_request_end_before_it_began(
    remote: InProcessPlatform, upstream: ScriptedUpstream, database_url: str
) -> None:
    flow = remote.gateways[0].flow
    before, after = flow.wall_clock(), flow.wall_clock() - 3600
    times = itertools.chain([before], itertools.repeat(after))
    flow.wall_clock = lambda: next(times)
    upstream.answer("m", streamed())
    async with client_of(remote) as client:
        assert (await client.post(CHAT, json=hello("m", stream=True))).status_code == 200
    await until(lambda: is_idle(remote))
    assert value(
        database_url,
        "SELECT count(*) FROM log_entry JOIN attempts ON log_entry_id = log_entry.id WHERE started_at >= "
        "timestamp_request AND time_at_first_token > timestamp_forwarding AND timestamp_response > time_at_first_token",
    )


async def test_what_is_refused_before_it_is_accepted_is_counted_by_its_code_and_leaves_no_row(
    remote: InProcessPlatform, upstream: ScriptedUpstream, database_url: str
) -> None:
    upstream.answer("m", chat("Hi"))
    once = "a-key-for-one-request-0123456789abcdef0123456"
    await remote.apply({"keys": [{"name": "once", "key": once, "limits": {"requests_per_minute": 1}}]})
    async with client_of(remote) as client:
        limited = {"authorization": f"Bearer {once}"}
        answers = [
            await client.post(CHAT, json=hello("m"), headers={"authorization": "Bearer nobody"}),
            await client.post(CHAT, json={"model": "m"}),
            await client.post(CHAT, json=hello("no-such-model")),
            await client.post(CHAT, json=hello("m"), headers=limited),
            await client.post(CHAT, json=hello("m"), headers=limited),
        ]
        assert [each.status_code for each in answers] == [401, 400, 404, 200, 429]
        await until(lambda: is_idle(remote))
        told = (await client.get("/metrics")).text
    refused = [line for line in told.splitlines() if line.startswith("logos_refused_total")]
    codes = [each.json()["error"]["code"] for each in answers if each.status_code != 200]
    assert sorted(refused) == sorted(f'logos_refused_total{{code="{code}"}} 1.0' for code in codes)
    assert value(database_url, "SELECT count(*) FROM log_entry") == 1


async def test_models_that_do_not_fit_together_take_turns_by_sleep_and_wake(database_url: str, tmp_path: Path) -> None:
    settings, declaration = one_small_node()
    async with (
        in_process_platform(
            database_url,
            tmp_path,
            settings=settings,
            declaration=declaration,
            scheduler_settings=SchedulerSettings(policy="slo"),
        ) as platform,
        client_of(platform) as client,
    ):
        client.headers["authorization"] = f"Bearer {platform.root_key}"
        tiers = []
        for name in ("one", "other", "one", "one"):
            answer = await client.post(CHAT, json=hello(name, max_tokens=4, stream=True))
            assert answer.status_code == 200, answer.text
            tiers.append(answer.headers["x-logos-tier"])
            assert float(answer.headers["x-logos-predicted-ttft-ms"]) >= 0.0
        assert tiers[:3] == ["cold", "cold", "asleep"]
        assert tiers[3] in {"warm", "queued"}
        state = await platform.scheduler.state()
        assert {each["model"]: each["state"] for each in state["engines"]} == {"one": "awake", "other": "asleep"}
        assert state["nodes"][0]["host_taken_mib"] == 2 * 16 * 1024
        await until(lambda: is_idle(platform))
        await platform.scheduler.save()
        while 'logos_swaps_total{model="one",transition="wake"} 1.0' not in (
            metrics := (await client.get("/metrics")).text
        ):
            await asyncio.sleep(0.1)  # the scheduler pushes its figures every 2 s
    found = rows(
        database_url,
        "SELECT was_cold_start, load_duration_ms, predicted_ttft_ms, slo_ttft_ms, result_status "
        "FROM log_entry ORDER BY timestamp_request",
    )
    assert [(cold, slo, status) for cold, _, _, slo, status in found] == [
        (True, 3000, "success"),
        (True, 3000, "success"),
        (True, 3000, "success"),
        (False, 3000, "success"),
    ]
    assert all(predicted is not None for _, _, predicted, _, _ in found)
    load_ms, wake_ms = found[0][1], found[2][1]
    assert load_ms > 300
    assert wake_ms > 200
    assert 'logos_swaps_total{model="one",transition="load"} 1.0' in metrics
    assert 'logos_engines{model="other",state="asleep"} 1.0' in metrics
    assert 'logos_ttft_actual_to_predicted_count{model="one"}' in metrics
    learned = value(database_url, "SELECT learned FROM scheduler_learned")
    seen = {(each["endpoint_id"] is None, each["transition"]) for each in learned["predictor"]["transitions"]}
    assert {(False, "load"), (False, "sleep"), (False, "wake")} <= seen
    (journal,) = (tmp_path / "journal").glob("*.jsonl")
    assert replay_file(journal) == []


async def test_a_scheduler_that_restarts_goes_on_with_what_it_had_learned(database_url: str, tmp_path: Path) -> None:
    settings, declaration = one_small_node()
    async with in_process_platform(database_url, tmp_path, settings=settings, declaration=declaration) as platform:
        async with client_of(platform) as client:
            client.headers["authorization"] = f"Bearer {platform.root_key}"
            for name in ("one", "other"):
                assert (await client.post(CHAT, json=hello(name, max_tokens=4))).status_code == 200
            await platform.scheduler.save()
            await platform.scheduler.replace()
            state = await platform.scheduler.state()
            await until(lambda: len(platform.nodes["small"]._engines) == 2)
            assert (await client.post(CHAT, json=hello("one", max_tokens=4))).status_code == 200
            state = await platform.scheduler.state()
            assert {each["model"]: each["state"] for each in state["engines"]} == {"one": "awake", "other": "asleep"}
        await until(lambda: is_idle(platform))
    journals = sorted((tmp_path / "journal").glob("*.jsonl"))
    opening, _ = read_journal(journals[-1])
    assert opening.learned is not None
    assert any(each.endpoint_id for each in opening.learned.predictor.transitions)
    assert [replay_file(journal) for journal in journals] == [[], []]


async def test_the_scheduler_hears_prices_fingerprints_and_what_came_of_each_request(
    database_url: str, tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    settings = Settings.default_world().model_copy(update={"nodes": ()})
    declaration = {
        "providers": [{"name": "far", "kind": "openai", "base_url": upstream.base_url, "privacy": "LOCAL"}],
        "models": [
            {"name": "m", "weights": {"quality": 5}, "endpoints": [{"provider": "far", "max_parallel": 8}]},
            {"name": "better", "weights": {"quality": 9}},
        ],
        "prices": [{"model": "m", "currency": "EUR", "per_million": {"prompt": 1.5, "completion": 2}}],
        "keys": [{"name": "tests", "key": KEY}],
    }
    upstream.answer("m", chat_or_streamed(pace_s=0.03))
    system = {"role": "system", "content": "Be brief. " * 20}
    body = {"model": "m", "messages": [system, {"role": "user", "content": "Hello"}], "max_tokens": 30}
    async with (
        in_process_platform(database_url, tmp_path, settings=settings, declaration=declaration) as platform,
        client_of(platform) as client,
    ):
        for stream in (True, False):
            answer = await client.post(CHAT, json={**body, "stream": stream}, headers={"x-logos-slo-ms": "7000"})
            assert answer.status_code == 200
        await until(lambda: is_idle(platform))
        await asyncio.sleep(0.6)  # what happened under leases is reported four times a second
    (journal,) = (tmp_path / "journal").glob("*.jsonl")
    _, entries = read_journal(journal)
    told = [event for event, _ in entries]
    [arrived] = [each for event in told if isinstance(event, RequestsArrived) for each in event.requests]
    [candidate] = arrived.candidates
    assert (candidate.prompt_price, candidate.completion_price) == (150_000_000, 200_000_000)
    assert candidate.quality == 0.0
    assert arrived.prefix is not None
    assert 50 < arrived.prefix_tokens < arrived.prompt_tokens
    assert (arrived.slo_ttft_s, arrived.slo_total_s) == (None, 7.0)
    [first] = [event for event in told if isinstance(event, FirstToken)]
    [finished] = [event for event in told if isinstance(event, RequestFinished)]
    assert 0.0 < first.ttft_s < finished.total_s
    assert finished.prompt_tokens > 0
    assert finished.completion_tokens > 0
    [ended] = [each for event in told if isinstance(event, LeaseReported) for each in event.ended]
    assert ended.ok
    assert ended.ttft_s is None, "the first byte of a whole answer is not its first token"
    assert (ended.prompt_tokens, ended.completion_tokens) == (finished.prompt_tokens, finished.completion_tokens)
    assert rows(database_url, "SELECT slo_ttft_ms, predicted_ttft_ms IS NULL FROM log_entry") == [(7000, False)] * 2
