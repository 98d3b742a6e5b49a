"""The engine in real time, at a pace of milliseconds, on the test's own event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from logos.domain.lifecycle import EngineState
from logos.simulation.engine import EnginePace, TransitionTimes
from logos.simulation.server.live import LiveEngine, LiveSettings, Sequence, Unavailable

PACE = EnginePace(step_base_s=0.002, step_per_sequence_s=0, prefill_per_token_s=0, kv_cache_tokens=1000)
TIMES = TransitionTimes(load_s=0.02, wake_s=0.02, sleep_s=0.02)


@asynccontextmanager
async def running_engine(pace: EnginePace = PACE, *, load: bool = True) -> AsyncIterator[LiveEngine]:
    engine = LiveEngine(LiveSettings(pace, TIMES))
    task = asyncio.create_task(engine.run())
    try:
        while load and not engine.loaded:
            await asyncio.sleep(0.005)
        yield engine
        assert not task.done()
    finally:
        task.cancel()


def sequence(output_tokens: int = 5) -> Sequence:
    return Sequence(10, output_tokens, asyncio.Event())


async def until_done(waited_for: Sequence) -> None:
    async with asyncio.timeout(5):
        while not waited_for.done:
            await waited_for.news.wait()
            waited_for.news.clear()


async def test_nothing_is_taken_in_while_the_model_loads() -> None:
    async with running_engine(load=False) as engine:
        with pytest.raises(Unavailable):
            engine.submit(sequence())


async def test_a_sequence_gets_its_tokens_and_is_counted() -> None:
    async with running_engine() as engine:
        one = sequence(20)
        engine.submit(one)
        await until_done(one)
        assert one.made == 20
        assert engine.counts.generation_tokens == 20
        assert engine.counts.prompt_tokens == 10
        assert engine.counts.ended == {"stop": 0, "length": 1, "abort": 0}
        assert sum(engine.counts.inter_token_s.counts) == 19


async def test_steps_keep_their_pace_on_average() -> None:
    async with running_engine() as engine:
        one = sequence(50)
        began_s = asyncio.get_running_loop().time()
        engine.submit(one)
        await until_done(one)
        assert asyncio.get_running_loop().time() - began_s >= 50 * 0.002 * 0.9


async def test_without_a_pace_everything_happens_at_once() -> None:
    async with running_engine(EnginePace(0, 0, 0)) as engine:
        one = sequence(10_000)
        engine.submit(one)
        await until_done(one)
        assert one.made == 10_000


async def test_an_aborted_sequence_is_gone_at_once() -> None:
    async with running_engine() as engine:
        one = sequence(900)
        engine.submit(one)
        await asyncio.sleep(0.02)
        assert engine.running == 1
        engine.abort(one)
        assert (engine.running, engine.kv_usage, one.aborted, one.done) == (0, 0.0, True, True)
        engine.abort(one)
        assert engine.counts.ended["abort"] == 1


async def test_sleep_with_abort_ends_what_runs() -> None:
    async with running_engine() as engine:
        one = sequence(900)
        engine.submit(one)
        await asyncio.sleep(0.02)
        await engine.sleep(1, "abort")
        assert one.aborted
        assert (engine.state, engine.sleep_level) == (EngineState.ASLEEP, 1)


async def test_sleep_with_wait_lets_everything_end_first() -> None:
    async with running_engine() as engine:
        one = sequence(30)
        engine.submit(one)
        await engine.sleep(1, "wait")
        assert one.made == 30
        assert not one.aborted


async def test_sleep_with_keep_goes_on_after_waking() -> None:
    async with running_engine() as engine:
        one = sequence(30)
        engine.submit(one)
        await asyncio.sleep(0.02)
        await engine.sleep(1, "keep")
        made = one.made
        assert not one.done
        await asyncio.sleep(0.05)
        assert one.made == made
        await engine.wake(None)
        await until_done(one)
        assert one.made == 30


async def test_who_arrives_while_it_sleeps_waits_for_the_waking() -> None:
    async with running_engine() as engine:
        await engine.sleep(1, "wait")
        one, left = sequence(), sequence()
        engine.submit(one)
        engine.submit(left)
        assert engine.held == 2
        engine.abort(left)
        assert engine.held == 1
        assert await engine.wake(None)
        await until_done(one)
        assert (one.made, left.made, engine.held) == (5, 0, 0)


async def test_a_level_2_sleep_ends_in_two_parts() -> None:
    async with running_engine() as engine:
        await engine.sleep(2, "wait")
        assert not await engine.wake(["weights"])
        assert engine.is_sleeping
        assert await engine.wake(["kv_cache"])
        assert not engine.is_sleeping


async def test_a_pause_stops_steps_and_gives_nothing_up() -> None:
    async with running_engine() as engine:
        one = sequence(30)
        engine.submit(one)
        await asyncio.sleep(0.02)
        await engine.sleep(0, "keep")
        made = one.made
        await asyncio.sleep(0.03)
        assert (one.made, engine.running, engine.is_sleeping) == (made, 1, False)
        await engine.wake(None)
        await until_done(one)


async def test_a_paused_engine_can_still_be_put_to_sleep() -> None:
    async with running_engine() as engine:
        one = sequence(10)
        engine.submit(one)
        await engine.sleep(0, "keep")
        async with asyncio.timeout(5):
            await engine.sleep(1, "wait")
        assert one.done
