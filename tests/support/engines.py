"""Simulated engines as real processes, for tests of several rooms; whatever was started is stopped.

A test module imports the fixtures it wants, with those that they rest on: `engine` needs `shared_engine` and
`session`, `own_engine` needs `start_engine` and `session`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest

from logos.engines.identity import ProcessIdentity
from logos.engines.launch import EngineKind, EngineLaunch
from logos.engines.process import EngineProcess, free_port

MODEL = "simulated-7b"
PACE = ("--step-base-ms", "5", "--step-per-sequence-ms", "0.1", "--prefill-per-token-ms", "0.05")
TIMES = ("--load-s", "0.1", "--sleep-s", "0.1", "--wake-s", "0.1")
HELLO: list[Any] = [{"role": "user", "content": "Hello, who are you?"}]

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
def shared_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[EngineLaunch, ProcessIdentity]]:
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
async def engine(shared_engine: tuple[EngineLaunch, ProcessIdentity], session: aiohttp.ClientSession) -> EngineProcess:
    return EngineProcess(shared_engine[0], session, shared_engine[1])


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
