"""A real vLLM as a remote provider: the same bytes, the same usage, and nothing goes on for a client that has left."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.acceptance.conftest import World
from tests.support.http_client import data_of
from tests.support.logos_up import Platform
from tests.support.recording_proxy import RecordingProxy
from tests.support.vllm_server import CONTEXT_TOKENS, SERVED_NAME, VllmServer, vllm_server

__all__ = ["vllm_server"]

pytestmark = [pytest.mark.vllm, pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(500)]

CHAT = "/v1/chat/completions"


@pytest.fixture
def recorded(vllm_server: VllmServer) -> Iterator[RecordingProxy]:
    with RecordingProxy(vllm_server.base_url) as proxy:
        yield proxy


def declare(world: World, base_url: str, *, priced: bool = False) -> str:
    name = world.unique("model")
    world.platform.apply(
        {
            "providers": [{"name": f"{name}-vllm", "base_url": f"{base_url}/v1", "privacy": "LOCAL"}],
            "models": [
                {
                    "name": name,
                    "context_length": CONTEXT_TOKENS,
                    "endpoints": [{"provider": f"{name}-vllm", "upstream_model": SERVED_NAME}],
                }
            ],
            "prices": [{"model": name, "currency": "EUR", "per_million": {"prompt": 1, "completion": 2}}]
            if priced
            else [],
        }
    )
    return name


def body_of(model: str, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "What is the integral of x²?"}]
    return {"model": model, "messages": messages, "max_tokens": 12, "temperature": 0, "ignore_eos": True, **more}


def test_a_stream_is_byte_identical_where_no_price_is_set(
    world: World, platform: Platform, recorded: RecordingProxy
) -> None:
    model = declare(world, recorded.base_url)
    body = body_of(model, stream=True, stream_options={"include_usage": True})
    with world.client() as client:
        answer = client.post(CHAT, json=body)
    assert answer.status_code == 200, answer.text
    assert answer.content == recorded.bodies[-1]
    usage = json.loads(data_of(answer.content)[-2])["usage"]
    assert usage["completion_tokens"] == 12
    platform.wait_until_settled()
    ((row, source),) = world.log("log_entry.id, usage_source")
    assert source == "upstream"
    tokens = dict(platform.rows("SELECT token_type, tokens FROM usage_tokens WHERE log_entry_id = %s", row))
    assert tokens["prompt"] == usage["prompt_tokens"]
    assert tokens["completion"] == usage["completion_tokens"]


def test_without_being_asked_for_usage_only_that_event_is_missing(world: World, recorded: RecordingProxy) -> None:
    model = declare(world, recorded.base_url)
    with world.client() as client:
        answer = client.post(CHAT, json=body_of(model, stream=True))
    theirs = recorded.bodies[-1].split(b"\n\n")
    without = [event for event in theirs if b'"choices":[]' not in event]
    assert len(theirs) - len(without) == 1
    assert answer.content == b"\n\n".join(without)


def test_a_whole_answer_is_byte_identical_and_its_usage_is_vllms(
    world: World, platform: Platform, recorded: RecordingProxy
) -> None:
    model = declare(world, recorded.base_url)
    with world.client() as client:
        answer = client.post(CHAT, json=body_of(model))
        refused = client.post(CHAT, json=body_of(model, max_tokens=10**6))
    assert answer.status_code == 200, answer.text
    assert answer.content == recorded.bodies[0]
    assert answer.json()["usage"]["completion_tokens"] == 12
    assert refused.status_code == 400, refused.text
    assert refused.json()["error"]["message"]


def test_a_price_adds_the_cost_and_changes_nothing_else(
    world: World, platform: Platform, recorded: RecordingProxy
) -> None:
    model = declare(world, recorded.base_url, priced=True)
    with world.client() as client:
        answer = client.post(CHAT, json=body_of(model))
    mine, theirs = answer.json(), json.loads(recorded.bodies[-1])
    usage = mine["usage"]
    cost = usage.pop("cost")
    assert usage.pop("cost_currency") == "EUR"
    assert mine == theirs
    expected = usage["prompt_tokens"] * 100 + usage["completion_tokens"] * 200  # micro-cents
    platform.wait_until_settled()
    assert world.log("cost_micro_cents") == [(expected,)]
    assert float(cost) == pytest.approx(expected / 1e8)


def test_the_openai_client_through_logos(world: World, vllm_server: VllmServer) -> None:
    model = declare(world, vllm_server.base_url)
    with openai.OpenAI(base_url=f"{world.platform.base_url}/v1", api_key=world.key(), max_retries=0) as client:
        body = body_of(model)
        extra = {"ignore_eos": body.pop("ignore_eos")}
        plain = client.chat.completions.create(**body, extra_body=extra)
        streamed = client.chat.completions.create(**body, stream=True, extra_body=extra)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in streamed if chunk.choices)
        completion = client.completions.create(model=model, prompt="One, two,", max_tokens=4, temperature=0)
    assert plain.choices[0].message.content == text
    assert completion.choices[0].text is not None


def test_a_client_that_leaves_frees_vllm_within_a_second(
    world: World, platform: Platform, vllm_server: VllmServer
) -> None:
    model = declare(world, vllm_server.base_url)
    with world.client() as client:
        with client.stream("POST", CHAT, json=body_of(model, max_tokens=8000, stream=True)) as answer:
            lines = answer.iter_lines()
            next(lines)
            wait_for_running(vllm_server, 1)
        wait_for_running(vllm_server, 0)
    platform.wait_until_settled()
    assert world.log("result_status, usage_source") == [("client_left", "relayed")]


def test_a_client_that_leaves_before_the_answer_frees_vllm(world: World, vllm_server: VllmServer) -> None:
    model = declare(world, vllm_server.base_url)
    with world.client(timeout=1.0) as client, pytest.raises(Exception, match="timed out"):
        client.post(CHAT, json=body_of(model, max_tokens=8000))
    wait_for_running(vllm_server, 0)


def wait_for_running(server: VllmServer, expected: int) -> None:
    """Returns once vLLM counts so many running sequences; fails after a second."""
    deadline = time.monotonic() + 1
    while (running := server.metric("vllm:num_requests_running")) != expected:
        assert time.monotonic() < deadline, f"{running:.0f} running, not {expected}"
        time.sleep(0.01)
