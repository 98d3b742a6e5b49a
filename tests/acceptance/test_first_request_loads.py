"""Models declared on the simulated nodes: loaded when first wanted, refused with the reason when they never fit."""

from __future__ import annotations

import time

import pytest

from tests.acceptance.conftest import World
from tests.support.logos_up import Platform

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def declare(world: World, memory_gib: float, gpus: int = 1) -> str:
    name = world.unique("model")
    engine = {"gpus": gpus, "memory_gib": memory_gib}
    world.platform.apply({"models": [{"name": name, "context_length": 4096, "engine": engine}]})
    return name


def ask(model: str, **more: object) -> dict[str, object]:
    return {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4, **more}


def test_the_first_request_loads_the_engine_and_is_answered(world: World, platform: Platform) -> None:
    model = declare(world, memory_gib=1.5)
    with world.client() as client:
        began = time.monotonic()
        first = client.post("/v1/chat/completions", json=ask(model))
        first_s = time.monotonic() - began
        second = client.post("/v1/chat/completions", json=ask(model))
    assert first.status_code == 200, first.text
    assert first.headers["x-logos-tier"] == "cold"
    assert second.headers["x-logos-tier"] in {"warm", "queued"}
    assert float(first.headers["x-logos-queue-ms"]) > 1000 > float(second.headers["x-logos-queue-ms"])
    assert first_s < 30
    engines = [engine for engine in platform.get("/admin/scheduler")["engines"] if engine["model"] == model]
    assert [engine["state"] for engine in engines] == ["awake"]
    platform.wait_until_settled()
    cold, warm = world.log("was_cold_start, load_duration_ms, engine_id, prompt_tokens_estimated, result_status")
    assert cold[0] is True
    assert cold[1] is not None
    assert cold[1] > 1000
    assert warm[0] is False
    assert cold[2] == warm[2] == engines[0]["engine_id"]
    assert cold[4] == warm[4] == "success"


def test_requests_that_come_while_it_loads_wait_for_the_same_engine(world: World, platform: Platform) -> None:
    model = declare(world, memory_gib=1.25)
    import asyncio

    from tests.support.load import Load

    load = Load(platform.base_url, world.key(), model, connections=8)
    asyncio.run(load.send(8))
    assert load.statuses == {200: 8}
    engines = [engine for engine in platform.get("/admin/scheduler")["engines"] if engine["model"] == model]
    assert len(engines) == 1


@pytest.mark.parametrize(("memory_gib", "gpus"), [(1000.0, 1), (30.0, 1), (8.0, 4)])
def test_a_model_that_fits_on_no_node_is_refused_with_its_reason(
    world: World, platform: Platform, memory_gib: float, gpus: int
) -> None:
    model = declare(world, memory_gib, gpus)
    with world.client() as client:
        began = time.monotonic()
        answer = client.post("/v1/chat/completions", json=ask(model))
    assert answer.status_code == 503, answer.text
    assert time.monotonic() - began < 5, "it was left waiting for what can never be"
    told = answer.json()["error"]["message"]
    assert "GiB" in told or "MiB" in told or "GPU" in told, told
    platform.wait_until_settled()
    ((status, reason),) = world.log("result_status, error_message")
    assert status == "no_capacity"
    assert reason == told


def test_a_request_that_may_not_wait_is_refused_at_once(world: World) -> None:
    model = declare(world, memory_gib=2.0)
    with world.client() as client:
        answer = client.post("/v1/chat/completions", json=ask(model, timeout_s=0.1))
        assert answer.status_code == 503, answer.text
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.json()["error"]["code"] in {"queue_timeout", "no_capacity"}
