"""A node and its simulated engines, as real processes: sleep and wake, orders given twice, and lives that end early."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from logos.actors.node import NodeActor, NodeSettings
from logos.actors.orders import EngineDone, EngineOrder
from logos.domain.lifecycle import EngineState
from logos.domain.nouns import EngineSpec, Gpu, Node
from logos.scheduling.events import EngineReported, EngineSeen

FLAGS = ("--load-s", "0.1", "--sleep-s", "0.6", "--wake-s", "0.2", "--step-base-ms", "10")


class Scheduler:
    """Hears what a node says."""

    def __init__(self) -> None:
        self.epoch = 1
        self.seen: list[dict[str, EngineState]] = []
        self.done: list[EngineDone] = []
        self.failed: list[str] = []
        self.reports: list[EngineReported] = []
        self.slept: set[str] = set()

    async def node_seen(
        self, node: Node, engines: tuple[EngineSeen, ...], addresses: tuple[tuple[str, str], ...]
    ) -> int:
        self.seen.append({engine.engine_id: engine.state for engine in engines})
        self.slept = {engine.engine_id for engine in engines if engine.has_slept}
        return self.epoch

    async def node_reported(self, node_id: str, epoch: int, reports: tuple[EngineReported, ...]) -> bool:
        self.reports += reports
        return epoch == self.epoch

    async def engine_failed(self, engine_id: str, reason: str) -> None:
        self.failed.append(engine_id)

    async def engine_done(self, done: EngineDone) -> None:
        self.done.append(done)


class Lives:
    """Node actors of one machine, one after the other; the last one ends its engines."""

    def __init__(self, directory: Path, scheduler: Scheduler) -> None:
        self.directory = directory
        self.scheduler = scheduler
        self.current: NodeActor | None = None
        self.dead: list[NodeActor] = []  # still the parents of their engines, as far as this process is concerned

    async def begin(self, **more: Any) -> NodeActor:
        settings = NodeSettings("n", 1, (Gpu(0, 16384), Gpu(1, 16384)), 0, True, self.directory, FLAGS, **more)
        self.current = NodeActor(settings, self.scheduler)
        await self.current.start()
        return self.current

    async def die(self) -> None:
        """As by kill -9: nothing that it was doing goes on, but its engines do."""
        node = self.current
        assert node is not None
        tasks = [node._heartbeat, *(doing.task for doing in node._doing.values())]
        for task in tasks:
            if task is not None:
                task.cancel()
        await asyncio.gather(*(task for task in tasks if task is not None), return_exceptions=True)
        self.dead.append(node)
        assert node._session is not None
        await node._session.close()


@pytest.fixture
def scheduler() -> Scheduler:
    return Scheduler()


@pytest.fixture
async def lives(tmp_path: Path, scheduler: Scheduler) -> AsyncIterator[Lives]:
    made = Lives(tmp_path, scheduler)
    yield made
    if made.current is not None:
        await made.current.shut_down()
    for node in made.dead:
        for engine in node._engines.values():
            if engine.process._child is not None:
                engine.process._child.wait(5)


def order(engine_id: str = "n/m/1", *, gpus: tuple[int, ...] = (0,), args: tuple[str, ...] = ()) -> EngineOrder:
    return EngineOrder(engine_id, 7, "m", "m", EngineSpec(args=args), gpus, 1000, 8, 4096)


async def until(what: Any, within_s: float = 8.0) -> None:
    async with asyncio.timeout(within_s):
        while not what():
            await asyncio.sleep(0.02)


async def complete(address: str, tokens: int) -> dict[str, Any]:
    body = {"model": "m", "prompt": "a", "max_tokens": tokens, "ignore_eos": True}
    async with aiohttp.ClientSession() as session, session.post(f"{address}/v1/completions", json=body) as answer:
        found: dict[str, Any] = await answer.json()
        return found


async def test_sleep_waits_for_what_runs_and_both_ways_are_measured(lives: Lives) -> None:
    node = await lives.begin()
    loaded = await node.load(order())
    assert (loaded.state, loaded.memory_mib) == (EngineState.AWAKE, 1000)
    assert loaded.address is not None
    running = asyncio.create_task(complete(loaded.address, 60))
    await asyncio.sleep(0.2)
    slept = await node.sleep("n/m/1", 1)
    assert running.done(), "it fell asleep under a request"
    assert (await running)["choices"][0]["finish_reason"] == "length"
    assert (slept.state, slept.memory_mib) == (EngineState.ASLEEP, 0)
    assert slept.seconds > 0.6
    woken = await node.wake("n/m/1")
    assert (woken.state, woken.memory_mib) == (EngineState.AWAKE, 1000)
    assert woken.seconds > 0.2
    assert (await complete(loaded.address, 2))["usage"]["completion_tokens"] == 2


async def test_the_same_order_twice_is_carried_out_once(lives: Lives) -> None:
    node = await lives.begin()
    first, second = await asyncio.gather(node.load(order()), node.load(order()))
    assert first == second
    one, other = await asyncio.gather(node.sleep("n/m/1", 1), node.sleep("n/m/1", 1))
    assert one == other
    again = await node.sleep("n/m/1", 1)
    assert (again.state, again.seconds) == (EngineState.ASLEEP, 0.0)


async def test_a_sleeping_engine_is_adopted_asleep_and_wakes(lives: Lives, scheduler: Scheduler) -> None:
    node = await lives.begin()
    await node.load(order())
    await node.sleep("n/m/1", 1)
    await lives.die()
    node = await lives.begin()
    await until(lambda: len(scheduler.seen) > 1)
    assert scheduler.seen[-1] == {"n/m/1": EngineState.ASLEEP}
    assert (await node.wake("n/m/1")).state is EngineState.AWAKE
    await lives.die()
    await lives.begin()
    await until(lambda: scheduler.seen[-1] == {"n/m/1": EngineState.AWAKE})
    assert scheduler.slept == {"n/m/1"}, "its weights are still in host RAM"


async def test_a_sleep_that_was_begun_in_another_life_is_ended_and_told(lives: Lives, scheduler: Scheduler) -> None:
    node = await lives.begin()
    await node.load(order())
    sleeping = asyncio.create_task(node.sleep("n/m/1", 1))
    await asyncio.sleep(0.2)
    await lives.die()
    with contextlib.suppress(asyncio.CancelledError):
        await sleeping
    await lives.begin()
    await until(lambda: scheduler.done)
    assert scheduler.seen[-1] == {"n/m/1": EngineState.FALLING_ASLEEP}
    assert [(done.engine_id, done.state) for done in scheduler.done] == [("n/m/1", EngineState.ASLEEP)]


async def test_whoever_asks_again_after_a_restart_is_answered_and_nobody_is_told_twice(
    lives: Lives, scheduler: Scheduler
) -> None:
    node = await lives.begin()
    await node.load(order())
    sleeping = asyncio.create_task(node.sleep("n/m/1", 1))
    await asyncio.sleep(0.2)
    await lives.die()
    with contextlib.suppress(asyncio.CancelledError):
        await sleeping
    node = await lives.begin()
    assert (await node.sleep("n/m/1", 1)).state is EngineState.ASLEEP
    await asyncio.sleep(0.2)
    assert scheduler.done == []


async def test_a_scheduler_that_restarted_is_told_how_an_order_of_its_earlier_life_ended(
    lives: Lives, scheduler: Scheduler
) -> None:
    node = await lives.begin()
    await until(lambda: scheduler.seen)
    await node.load(order(args=("--sleep-s", "2.5")))
    sleeping = asyncio.create_task(node.sleep("n/m/1", 1))
    await asyncio.sleep(0.2)
    scheduler.epoch = 2
    await until(lambda: len(scheduler.seen) > 1)
    assert scheduler.seen[-1] == {"n/m/1": EngineState.FALLING_ASLEEP}
    await sleeping
    assert [(done.engine_id, done.state) for done in scheduler.done] == [("n/m/1", EngineState.ASLEEP)]


async def test_a_stop_does_not_wait_for_the_rest(lives: Lives) -> None:
    node = await lives.begin()
    await node.load(order(args=("--sleep-s", "30")))
    sleeping = asyncio.create_task(node.sleep("n/m/1", 1))
    await asyncio.sleep(0.2)
    async with asyncio.timeout(8):
        assert (await node.stop("n/m/1")).state is EngineState.COLD
        assert (await sleeping).state is EngineState.FAILED


async def test_transitions_take_turns_where_only_so_many_may_go_on_at_once(lives: Lives) -> None:
    node = await lives.begin(transitions_at_once=1)
    assert node.node.transitions_at_once == 1  # the scheduler is told
    await asyncio.gather(node.load(order("n/m/1")), node.load(order("n/m/2")))
    clock = asyncio.get_running_loop().time
    began = clock()
    done = await asyncio.gather(node.sleep("n/m/1", 1), node.sleep("n/m/2", 1))
    assert clock() - began > 1.2
    assert all(each.seconds < 1.1 for each in done), "the wait for a turn was counted"


async def test_an_engine_that_is_busy_slows_those_on_its_gpus_and_no_others(lives: Lives) -> None:
    node = await lives.begin()
    slow = ("--slowdown", "4", "--step-per-sequence-ms", "0")
    busy, beside, apart = await asyncio.gather(
        node.load(order("n/a/1", gpus=(0,), args=slow)),
        node.load(order("n/b/1", gpus=(0,), args=slow)),
        node.load(order("n/c/1", gpus=(1,), args=slow)),
    )
    clock = asyncio.get_running_loop().time

    async def seconds(done: EngineDone) -> float:
        began = clock()
        await complete(done.address or "", 30)
        return clock() - began

    alone = await seconds(beside)
    running = asyncio.create_task(complete(busy.address or "", 2000))
    await asyncio.sleep(0.7)  # until they have looked around
    together, elsewhere = await asyncio.gather(seconds(beside), seconds(apart))
    running.cancel()
    assert together > 2.5 * alone
    assert together > 2.0 * elsewhere


def test_vllms_cpu_build_does_not_sleep_and_simulated_engines_do(tmp_path: Path, scheduler: Scheduler) -> None:
    def sleeps(**more: Any) -> bool:
        return NodeActor(NodeSettings("n", 1, (Gpu(0, 1),), 0, directory=tmp_path, **more), scheduler).node.sleeps

    assert sleeps(simulated=True)
    assert not sleeps(simulated=True, sleeps=False)
    assert sleeps(simulated=False, sleeps=True)
