"""`logos.engines` with real processes: transitions of a simulated engine, failures, and finding it again."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import aiohttp
import msgspec
import psutil
import pytest

from logos.domain.errors import EngineFailed
from logos.domain.lifecycle import EngineState
from logos.engines.adoption import adopt, read_records, record_of, write_records
from logos.engines.launch import EngineKind, EngineLaunch
from logos.engines.process import EngineProcess, free_port
from tests.support.engines import (
    HELLO,
    MODEL,
    PACE,
    TIMES,
    StartEngine,
    client_of,
    own_engine,
    seconds_until_running,
    session,
    start_engine,
)

__all__ = ["own_engine", "session", "start_engine"]

LONG = {"max_tokens": 5000, "extra_body": {"ignore_eos": True}}


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


async def test_an_engine_that_does_not_listen_yet_is_taken_over_while_it_loads_and_ended_later(
    own_engine: EngineProcess, tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    path = tmp_path / "engines.json"
    record = record_of(own_engine, EngineState.LOADING)
    elsewhere = replace(record, launch=replace(record.launch, port=free_port()))
    write_records(path, [elsewhere])
    assert [state for _, state in (await adopt(path, session)).adopted] == [EngineState.LOADING]
    write_records(path, [replace(elsewhere, state=EngineState.AWAKE)])
    adoption = await adopt(path, session)
    assert adoption.ended == (own_engine.engine_id,)
    assert not own_engine.alive()
