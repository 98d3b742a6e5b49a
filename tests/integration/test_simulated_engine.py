"""The simulated engine as a real process, started through `logos.engines` and used by the official OpenAI client."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import openai
import psutil
import pytest

from logos.domain.errors import EngineFailed
from logos.domain.lifecycle import EngineState
from logos.engines.adoption import adopt, read_records, record_of, write_records
from logos.engines.identity import ProcessIdentity
from logos.engines.launch import EngineKind, EngineLaunch
from logos.engines.process import EngineProcess, free_port
from tests.support.vllm_server import CHAT_FLAGS, FLAGS, SETTINGS, tiny_model

MODEL = "simulated-7b"
PACE = ("--step-base-ms", "5", "--step-per-sequence-ms", "0.1", "--prefill-per-token-ms", "0.05")
TIMES = ("--load-s", "0.1", "--sleep-s", "0.1", "--wake-s", "0.1")
LONG = {"max_tokens": 5000, "extra_body": {"ignore_eos": True}}
HELLO = [{"role": "user", "content": "Hello, who are you?"}]
WEATHER = {
    "type": "function",
    "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}

StartEngine = Callable[..., Awaitable[EngineProcess]]


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
async def start_engine(tmp_path: Path, session: aiohttp.ClientSession) -> AsyncIterator[StartEngine]:
    """Starts engines, and ends them when the test is over, however it ends."""
    started: list[EngineProcess] = []

    async def start(*args: str, ready: bool = True) -> EngineProcess:
        launch = EngineLaunch(
            engine_id=f"engine-{len(started)}",
            model=MODEL,
            kind=EngineKind.SIMULATED,
            port=free_port(),
            log_file=str(tmp_path / "logs" / f"{len(started)}.log"),
            args=(*PACE, *TIMES, *args),
        )
        engine = EngineProcess(launch, session)
        started.append(engine)
        await engine.start()
        if ready:
            await engine.wait_ready(timeout_s=20)
        return engine

    yield start
    for engine in started:
        await engine.stop(grace_s=2)


@pytest.fixture
async def own_engine(start_engine: StartEngine) -> EngineProcess:
    """An engine for one test alone, which may do with it what it likes."""
    return await start_engine()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[EngineLaunch, ProcessIdentity]]:
    """One engine for all tests that only send requests."""
    log_file = tmp_path_factory.mktemp("shared") / "log"
    launch = EngineLaunch("shared", MODEL, EngineKind.SIMULATED, free_port(), str(log_file), args=(*PACE, *TIMES))

    async def start() -> EngineProcess:
        async with aiohttp.ClientSession() as session:
            engine = EngineProcess(launch, session)
            await engine.start()
            try:
                await engine.wait_ready(timeout_s=20)
            except BaseException:
                await engine.stop(0)
                raise
            return engine

    engine = asyncio.run(start())
    try:
        assert engine.identity is not None
        yield launch, engine.identity
    finally:
        asyncio.run(engine.stop())


@pytest.fixture
async def engine(shared: tuple[EngineLaunch, ProcessIdentity], session: aiohttp.ClientSession) -> EngineProcess:
    return EngineProcess(shared[0], session, shared[1])


@pytest.fixture
async def client(engine: EngineProcess) -> AsyncIterator[openai.AsyncOpenAI]:
    async with client_of(engine) as client:
        yield client


def client_of(engine: EngineProcess) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{engine.launch.base_url}/v1", api_key="any", max_retries=0)


async def seconds_until_running(engine: EngineProcess, running: int, timeout_s: float = 5.0) -> float:
    began_s = time.monotonic()
    while (await engine.scrape()).running != running:
        assert time.monotonic() - began_s < timeout_s, f"never {running} running"
        await asyncio.sleep(0.01)
    return time.monotonic() - began_s


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


# --- transitions --------------------------------------------------------------------------------------------


async def test_health_says_when_the_model_is_loaded(start_engine: StartEngine) -> None:
    engine = await start_engine("--load-s", "1.0", ready=False)
    while not engine.alive() or not engine.identity.listens_on(engine.launch.port):  # type: ignore[union-attr]
        await asyncio.sleep(0.02)
    assert not await engine.healthy()
    with pytest.raises(EngineFailed, match="503"):
        await engine.probe()
    assert 1.0 <= await engine.wait_ready(timeout_s=10) < 5


async def test_an_engine_sleeps_holds_requests_and_wakes(own_engine: EngineProcess) -> None:
    assert 0.1 <= await own_engine.sleep() < 1
    assert await own_engine.is_sleeping()
    async with client_of(own_engine) as client:
        held = asyncio.create_task(client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=5))
        await asyncio.sleep(0.1)
        assert (await own_engine.scrape()).waiting == 1
        assert not held.done()
        assert 0.1 <= await own_engine.wake() < 1
        assert not await own_engine.is_sleeping()
        assert (await held).choices[0].message.content


async def test_a_level_2_sleep_is_ended_in_its_order(own_engine: EngineProcess) -> None:
    await own_engine.sleep(level=2)
    await own_engine.wake()
    assert not await own_engine.is_sleeping()


async def test_sleep_lets_a_running_answer_end(own_engine: EngineProcess) -> None:
    async with client_of(own_engine) as client:
        running = asyncio.create_task(
            client.completions.create(model=MODEL, prompt="a", max_tokens=60, extra_body={"ignore_eos": True})
        )
        await seconds_until_running(own_engine, 1)
        assert await own_engine.sleep() > 0.15
        answer = await running
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 60


async def test_a_busy_engine_stops_promptly(own_engine: EngineProcess) -> None:
    async with client_of(own_engine) as client:
        running = [
            asyncio.create_task(client.completions.create(model=MODEL, prompt="a", stream=stream, **LONG))
            for stream in (True, False)
        ]
        await seconds_until_running(own_engine, 2)
        assert await own_engine.stop(grace_s=5) < 1.0
        assert not own_engine.alive()
        await asyncio.gather(*running, return_exceptions=True)


async def test_an_engine_that_ignores_sigterm_is_killed(own_engine: EngineProcess) -> None:
    assert own_engine.pid is not None
    os.kill(own_engine.pid, signal.SIGSTOP)
    assert 0.2 <= await own_engine.stop(grace_s=0.2) < 2.0
    assert not psutil.pid_exists(own_engine.pid)


async def test_an_engine_that_dies_while_loading_is_told_with_its_last_words(start_engine: StartEngine) -> None:
    engine = await start_engine("--max-num-seqs", "none", ready=False)
    with pytest.raises(EngineFailed, match=r"exit code 2.*invalid int value: 'none'"):
        await engine.wait_ready(timeout_s=20)


async def test_a_port_that_is_taken_is_told_and_not_mistaken_for_the_engine(
    own_engine: EngineProcess, session: aiohttp.ClientSession
) -> None:
    second = EngineProcess(own_engine.launch, session)
    try:
        await second.start()
        with pytest.raises(EngineFailed, match="address already in use"):
            await second.wait_ready(timeout_s=20)
    finally:
        await second.stop()
    assert own_engine.alive()


async def test_an_engine_that_takes_too_long_is_told_apart(start_engine: StartEngine) -> None:
    engine = await start_engine("--load-s", "30", ready=False)
    with pytest.raises(EngineFailed, match="not ready after") as failed:
        await engine.wait_ready(timeout_s=0.2)
    assert failed.value.code == "engine_timeout"


async def test_an_engine_is_started_once(own_engine: EngineProcess) -> None:
    with pytest.raises(EngineFailed, match="running already"):
        await own_engine.start()


async def test_a_python_that_is_not_there_is_told(tmp_path: Path, session: aiohttp.ClientSession) -> None:
    launch = EngineLaunch(
        "e", MODEL, EngineKind.SIMULATED, free_port(), str(tmp_path / "log"), python="/nowhere/python"
    )
    with pytest.raises(EngineFailed, match="cannot be started"):
        await EngineProcess(launch, session).start()


# --- adoption -----------------------------------------------------------------------------------------------

PARENT = """
import asyncio, sys
from pathlib import Path
import aiohttp, msgspec
from logos.domain.lifecycle import EngineState
from logos.engines.adoption import record_of, write_records
from logos.engines.identity import ProcessIdentity
from logos.engines.launch import EngineLaunch
from logos.engines.process import EngineProcess

async def main() -> None:
    async with aiohttp.ClientSession() as session:
        engine = EngineProcess(msgspec.json.decode(sys.argv[1], type=EngineLaunch), session)
        await engine.start()
        await engine.wait_ready(20)
        write_records(Path(sys.argv[2]), [record_of(engine, EngineState.AWAKE)])
        print("ready", flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_an_engine_survives_kill_9_of_its_parent_and_is_found_again(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    import msgspec

    path = tmp_path / "engines.json"
    launch = EngineLaunch(
        "e1", MODEL, EngineKind.SIMULATED, free_port(), str(tmp_path / "log"), args=(*PACE, *TIMES), endpoint_id=3
    )
    root = Path(__file__).resolve().parents[2]
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, msgspec.json.encode(launch).decode(), str(path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    engine = None
    try:
        assert parent.stdout is not None
        assert await asyncio.to_thread(parent.stdout.readline) == b"ready\n"
        parent.kill()
        parent.wait()
        parent.stdout.close()
        adoption = await adopt(path, session)
        ((engine, state),) = adoption.adopted
        assert (engine.engine_id, engine.launch, state) == ("e1", launch, EngineState.AWAKE)
        assert await engine.probe() < 5
        assert await engine.stop() < 1
        assert not engine.alive()
        assert (await adopt(path, session)).lost == ("e1",)
        assert read_records(path) == []
    finally:
        parent.kill()
        for record in read_records(path):
            await EngineProcess(record.launch, session, record.identity).stop(1)


async def test_a_loading_engine_that_does_not_listen_yet_is_ended(
    own_engine: EngineProcess, tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    from dataclasses import replace

    path = tmp_path / "engines.json"
    record = record_of(own_engine, EngineState.LOADING)
    write_records(path, [replace(record, launch=replace(record.launch, port=free_port()))])
    adoption = await adopt(path, session)
    assert adoption.ended == (own_engine.engine_id,)
    assert not own_engine.alive()


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


async def shape_of_answer(session: aiohttp.ClientSession, url: str, path: str, body: dict[str, Any]) -> object:
    """Status, content type and shape of an answer; of the middle of a stream, one event stands for all."""
    async with session.post(f"{url}/v1/{path}", json={"max_tokens": 4, "ignore_eos": True, **body}) as response:
        text = await response.text()
        head = (response.status, response.headers["Content-Type"])
    if not head[1].startswith("text/event-stream"):
        return head, shape(json.loads(text))
    events = text.removesuffix("\n\n").split("\n\n")
    assert events[-1] == "data: [DONE]"
    shapes = [shape(json.loads(event.removeprefix("data: "))) for event in events[:-1]]
    return head, [each for each, before in zip(shapes, [None, *shapes], strict=False) if each != before]


@pytest.mark.vllm
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
            answers = [await shape_of_answer(session, each.launch.base_url, path, body) for each in (engine, real)]
            assert answers[0] == answers[1], name
        await real.probe()
        assert not await real.is_sleeping()
        long = asyncio.create_task(
            shape_of_answer(session, launch.base_url, "completions", {"prompt": "a", "max_tokens": 8000})
        )
        await seconds_until_running(real, 1)
        long.cancel()
        assert await seconds_until_running(real, 0) < 1.0
    finally:
        await real.stop(grace_s=20)
    assert not real.alive()
