"""The simulated engine as a real process, used by the official OpenAI client and by clients that leave."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest

from logos.engines.launch import EngineKind, EngineLaunch
from logos.engines.process import EngineProcess, free_port
from tests.support.engines import (
    HELLO,
    MODEL,
    StartEngine,
    client,
    engine,
    seconds_until_running,
    session,
    shared_engine,
    start_engine,
)
from tests.support.vllm_server import CHAT_FLAGS, FLAGS, SETTINGS, tiny_model

__all__ = ["client", "engine", "session", "shared_engine", "start_engine"]

WEATHER = {
    "type": "function",
    "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}


# --- what clients see ---------------------------------------------------------------------------------------


async def test_a_chat_says_exactly_what_it_used(engine: EngineProcess, client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=30)
    again = await client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=30)
    assert answer.choices[0].message.content == again.choices[0].message.content
    assert answer.id != again.id
    assert answer.usage is not None
    assert 1 <= answer.usage.completion_tokens <= 30
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.choices[0].finish_reason == ("length" if answer.usage.completion_tokens == 30 else "stop")
    url = engine.launch.base_url
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{url}/tokenize", json={"messages": HELLO}) as response:
            assert (await response.json())["count"] == answer.usage.prompt_tokens
        async with session.post(f"{url}/tokenize", json={"prompt": answer.choices[0].message.content}) as response:
            told = await response.json()
            assert told["count"] == answer.usage.completion_tokens
        async with session.post(f"{url}/detokenize", json={"tokens": told["tokens"]}) as response:
            assert (await response.json())["prompt"] == answer.choices[0].message.content


async def test_a_streamed_chat_is_the_same_answer_a_token_at_a_time(client: openai.AsyncOpenAI) -> None:
    whole = await client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=40)
    stream = await client.chat.completions.create(
        model=MODEL, messages=HELLO, max_tokens=40, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks[:-1]) == whole.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens == len(chunks) - 2
    assert all(chunk.usage is None for chunk in chunks[:-1])


async def test_continuous_usage_counts_along(client: openai.AsyncOpenAI) -> None:
    stream = await client.completions.create(
        model=MODEL,
        prompt="Once",
        max_tokens=10,
        stream=True,
        stream_options={"include_usage": True, "continuous_usage_stats": True},  # type: ignore[typeddict-unknown-key]
        extra_body={"ignore_eos": True},
    )
    chunks = [chunk async for chunk in stream]
    assert [chunk.usage.completion_tokens for chunk in chunks if chunk.usage] == [*range(1, 11), 10]


async def test_several_prompts_and_choices_are_answered_together(client: openai.AsyncOpenAI) -> None:
    answer = await client.completions.create(model=MODEL, prompt=["one", "two"], n=2, max_tokens=20)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert len({choice.text for choice in answer.choices}) == 4
    stream = await client.completions.create(model=MODEL, prompt=["one", "two"], n=2, max_tokens=20, stream=True)
    texts = ["", "", "", ""]
    async for chunk in stream:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [choice.text for choice in answer.choices]


async def test_stop_strings_and_echo(client: openai.AsyncOpenAI) -> None:
    answer = await client.completions.create(
        model=MODEL, prompt='Say "it":', echo=True, max_tokens=500, stop=["."], extra_body={"ignore_eos": True}
    )
    choice = answer.choices[0]
    assert choice.text.startswith('Say "it":')
    assert choice.finish_reason == "stop"
    assert "." not in choice.text


async def test_a_forced_call_has_arguments_streamed_or_not(client: openai.AsyncOpenAI) -> None:
    choice = {"type": "function", "function": {"name": "get_weather"}}
    whole = await client.chat.completions.create(
        model=MODEL, messages=HELLO, tools=[WEATHER], tool_choice=choice, max_tokens=100
    )
    (call,) = whole.choices[0].message.tool_calls or []
    assert call.function.name == "get_weather"
    assert list(json.loads(call.function.arguments)) == ["city"]
    assert whole.choices[0].finish_reason == "stop"
    stream = await client.chat.completions.create(
        model=MODEL, messages=HELLO, tools=[WEATHER], tool_choice="required", stream=True
    )
    chunks = [chunk async for chunk in stream]
    deltas = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    assert deltas[0].function.name == "get_weather"
    assert "".join(delta.function.arguments for delta in deltas) == call.function.arguments
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


async def test_embeddings_are_unit_vectors_in_either_encoding(client: openai.AsyncOpenAI) -> None:
    one = await client.embeddings.create(model=MODEL, input=["a text", "another"])
    plain = await client.embeddings.create(model=MODEL, input="a text", encoding_format="float", dimensions=256)
    assert one.data[0].embedding == pytest.approx(plain.data[0].embedding, abs=1e-6)
    assert sum(value**2 for value in one.data[1].embedding) == pytest.approx(1, abs=1e-5)
    assert one.usage.prompt_tokens == one.usage.total_tokens == 4
    small = await client.embeddings.create(model=MODEL, input="a text", dimensions=16)
    assert len(small.data[0].embedding) == 16


async def test_models_and_errors_have_the_client_s_own_classes(client: openai.AsyncOpenAI) -> None:
    (model,) = (await client.models.list()).data
    assert model.id == MODEL
    assert model.max_model_len == 32768  # type: ignore[attr-defined]
    with pytest.raises(openai.NotFoundError) as not_found:
        await client.chat.completions.create(model="other", messages=HELLO)
    assert not_found.value.body == {
        "message": f"The model `other` does not exist. Valid aliases: {MODEL}.",
        "type": "NotFoundError",
        "param": "model",
        "code": 404,
    }
    with pytest.raises(openai.BadRequestError, match="maximum context length is 32768"):
        await client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "x" * 200_000}])


async def test_wrong_routes_methods_and_bodies_are_refused(engine: EngineProcess) -> None:
    url = engine.launch.base_url
    async with aiohttp.ClientSession() as session:
        for method, path, body, status in (
            ("GET", "/nowhere", None, 404),
            ("GET", "/v1/completions", None, 405),
            ("POST", "/v1/completions", b"{", 400),
            ("POST", "/sleep?level=3", None, 400),
            ("POST", "/sleep?mode=now", None, 400),
        ):
            headers = {"Content-Type": "application/json"}
            async with session.request(method, url + path, data=body, headers=headers) as response:
                assert response.status == status
                told = await response.json()
                assert told.get("detail") if status in (404, 405) else told["error"]["code"] == status
        async with session.post(
            f"{url}/v1/completions", data=b"{}", headers={"Content-Type": "text/plain"}
        ) as response:
            assert response.status == 400
        async with session.get(f"{url}/version") as response:
            assert "version" in await response.json()


async def test_a_repeated_prompt_is_partly_cached(start_engine: StartEngine) -> None:
    engine = await start_engine("--enable-prompt-tokens-details")
    async with openai.AsyncOpenAI(base_url=f"{engine.launch.base_url}/v1", api_key="any") as client:
        messages = [{"role": "user", "content": "word " * 200}]
        cached = []
        for _ in range(2):
            answer = await client.chat.completions.create(model=MODEL, messages=messages, max_tokens=2)
            assert answer.usage is not None
            assert answer.usage.prompt_tokens_details is not None
            cached.append(answer.usage.prompt_tokens_details.cached_tokens or 0)
    assert cached[0] == 0
    assert cached[1] == answer.usage.prompt_tokens // 16 * 16
    assert (await engine.scrape()).prefix_hit_tokens == cached[1]


# --- clients that leave -------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
async def test_a_closed_connection_frees_its_place_at_once(engine: EngineProcess, stream: bool) -> None:
    body = json.dumps(
        {"model": MODEL, "messages": HELLO, "stream": stream, "max_tokens": 20_000, "ignore_eos": True}
    ).encode()
    with socket.create_connection((engine.launch.host, engine.launch.port)) as raw:
        raw.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        await seconds_until_running(engine, 1)
    assert await seconds_until_running(engine, 0) < 1.0
    figures = await engine.scrape()
    assert (figures.waiting, figures.kv_usage) == (0, 0.0)
    async with aiohttp.ClientSession() as session, session.get(f"{engine.launch.base_url}/load") as response:
        assert await response.json() == {"server_load": 0}


async def test_many_clients_of_which_half_leave_leave_nothing_behind(
    engine: EngineProcess, client: openai.AsyncOpenAI
) -> None:
    async def one(number: int) -> int:
        messages = [{"role": "user", "content": f"number {number}"}]
        stream = await client.chat.completions.create(model=MODEL, messages=messages, max_tokens=20, stream=True)
        seen = 0
        async for _ in stream:
            seen += 1
            if number % 2:
                await stream.close()
                return 0
        return seen

    assert sum(await asyncio.gather(*(one(number) for number in range(60)))) > 30
    await seconds_until_running(engine, 0)
    assert (await engine.scrape()).kv_usage == 0.0


# --- against a real vLLM ------------------------------------------------------------------------------------

LAST = [{"role": "user", "content": "Hello"}]
FORCED = {"type": "function", "function": {"name": "get_weather"}}
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("chat/completions", {"messages": LAST}),
    "chat stream": ("chat/completions", {"messages": LAST, "stream": True}),
    "chat stream usage": (
        "chat/completions",
        {"messages": LAST, "stream": True, "stream_options": {"include_usage": True}},
    ),
    "chat stream all usage": (
        "chat/completions",
        {
            "messages": LAST,
            "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        },
    ),
    "completion": ("completions", {"prompt": "Hello"}),
    "completion stream usage": (
        "completions",
        {"prompt": "Hello", "stream": True, "stream_options": {"include_usage": True}},
    ),
    "unknown model": ("completions", {"model": "other", "prompt": "Hello"}),
    "no tokens": ("completions", {"prompt": "Hello", "max_tokens": 0}),
    "too many tokens": ("completions", {"prompt": "Hello", "max_tokens": 99_999}),
    "too hot": ("completions", {"prompt": "Hello", "temperature": 3}),
    "wrong type": ("chat/completions", {"messages": "Hello"}),
    "no messages": ("chat/completions", {"messages": []}),
    "no tool": ("chat/completions", {"messages": LAST, "tool_choice": FORCED}),
}


def shape(value: object) -> object:
    """The fields of a JSON value in their order, and the values that name a kind rather than tell a fact."""
    if isinstance(value, dict):
        told = ("object", "finish_reason", "role", "type", "param", "code", "index")
        return [(name, part if name in told else shape(part)) for name, part in value.items()]
    if isinstance(value, list):
        return [shape(part) for part in value]
    return type(value).__name__


async def shapes_of_answer(
    session: aiohttp.ClientSession, url: str, path: str, body: dict[str, Any]
) -> tuple[object, object]:
    """Status, content type and shape of an answer, and apart from it the shape of a stream's events in between.

    A busy vLLM sends many tokens in one event; then there may be none in between.
    """
    async with session.post(f"{url}/v1/{path}", json={"max_tokens": 50, "ignore_eos": True, **body}) as response:
        text = await response.text()
        head = (response.status, response.headers["Content-Type"])
    if not head[1].startswith("text/event-stream"):
        return (head, shape(json.loads(text))), None
    *events, done = [event.removeprefix("data: ") for event in text.removesuffix("\n\n").split("\n\n")]
    assert done == "[DONE]"
    rest = [json.loads(event) for event in events]
    # The event that names the role; plain completions have none.
    opening = [rest.pop(0)] if path == "chat/completions" else []
    ending = [event for event in rest if not event["choices"] or event["choices"][0]["finish_reason"]]
    between = [event for event in rest if event not in ending]
    for event in ending:
        for choice in event["choices"]:
            # vLLM leaves the content out where the last token is only a part of a character.
            choice.get("delta", {}).setdefault("content", "")
    return (head, shape([*opening, *ending])), shape(between[0]) if between else None


@pytest.mark.vllm
@pytest.mark.timeout(400)
async def test_shapes_are_those_of_a_real_vllm_run_by_the_same_code(
    engine: EngineProcess, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    python = os.environ.get("LOGOS_VLLM_PYTHON")
    if not python:
        pytest.skip("LOGOS_VLLM_PYTHON names no Python with vLLM (make test-vllm sets it)")
    launch = EngineLaunch(
        "real",
        MODEL,
        EngineKind.VLLM,
        free_port(),
        str(tmp_path / "vllm.log"),
        weights=str(tiny_model(Path(python))),
        args=(*FLAGS, *CHAT_FLAGS),
        env=tuple(SETTINGS.items()),
        python=python,
    )
    real = EngineProcess(launch, session)
    await real.start()
    try:
        await real.wait_ready(timeout_s=300)
        for name, (path, fields) in SHAPES.items():
            body = {"model": MODEL, **fields}
            ours, between_ours = await shapes_of_answer(session, engine.launch.base_url, path, body)
            theirs, between_theirs = await shapes_of_answer(session, launch.base_url, path, body)
            assert ours == theirs, name
            assert between_theirs in (None, between_ours), name
        await real.probe()
        assert not await real.is_sleeping()
        long = asyncio.create_task(
            shapes_of_answer(session, launch.base_url, "completions", {"prompt": "a", "max_tokens": 8000})
        )
        await seconds_until_running(real, 1)
        long.cancel()
        assert await seconds_until_running(real, 0) < 1.0
    finally:
        await real.stop(grace_s=20)
    assert not real.alive()
