"""Two models that do not fit together on one GPU: both are answered, for one sleeps while the other serves."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from logos.actors.journal import replay_file
from tests.acceptance.conftest import SMALL_POOL, World
from tests.support.http_client import data_of
from tests.support.logos_up import Platform, wait_for

pytestmark = [pytest.mark.ray, pytest.mark.slow]

CHAT = "/v1/chat/completions"


def declare(world: World) -> str:
    name = world.unique("model")
    engine = {"provider": SMALL_POOL, "gpus": 1, "memory_gib": 14, "residue_gib": 0.5, "max_parallel": 8}
    world.platform.apply({"models": [{"name": name, "context_length": 4096, "engine": engine}]})
    return name


def ask(model: str, max_tokens: int = 4, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": max_tokens, **more}


def test_models_change_places_and_nothing_that_runs_is_cut(world: World, platform: Platform) -> None:
    one, other = declare(world), declare(world)
    key = world.key()
    answers: list[list[str]] = []

    def stream_long() -> None:
        with world.client(key) as client, client.stream("POST", CHAT, json=ask(one, 120, stream=True)) as streamed:
            answers.append(data_of(streamed.read()))

    with world.client(key) as client:
        first = client.post(CHAT, json=ask(one))
        running = threading.Thread(target=stream_long)
        running.start()
        second = client.post(CHAT, json=ask(other))
        running.join(30)
        third = client.post(CHAT, json=ask(one))
    assert [first.status_code, second.status_code, third.status_code] == [200, 200, 200], second.text + third.text
    assert third.headers["x-logos-tier"] == "asleep"
    [chunks] = answers
    assert chunks[-1] == "[DONE]", "the stream was cut by the swap"
    engines = {each["model"]: each for each in platform.get("/admin/scheduler")["engines"]}
    assert (engines[one]["state"], engines[other]["state"]) == ("awake", "asleep")
    wait_for(lambda: platform.metric_by("logos_swaps_total", "transition").get("wake"), 6.0)  # pushed every 2 s
    platform.wait_until_settled()
    found = world.log("was_cold_start, load_duration_ms, predicted_ttft_ms, slo_ttft_ms, engine_id, result_status")
    assert [row[5] for row in found] == ["success"] * 4
    woken = found[-1]
    assert (woken[0], woken[4]) == (True, engines[one]["engine_id"])
    assert 400 < woken[1] < 5_000
    assert all(row[2] is not None and row[3] == 10_000 for row in found)
    assert replay_file(Path(platform.get("/admin/scheduler")["journal"])) == []
