"""The actor of one GPU node: it runs engine processes and obeys. Load, sleep, wake, stop, report; it decides nothing.

Engines live in sessions of their own, so they go on serving while this actor restarts; a file on disk says which ones
there are, and a restarted actor adopts those whose pid, start time and port still match. A plain async class;
`deployments` makes it a Ray actor.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import aiohttp

from logos.actors.loops import keep_going
from logos.actors.orders import EngineDone, EngineOrder
from logos.domain.errors import EngineFailed, LogosError
from logos.domain.lifecycle import EngineState
from logos.domain.nouns import Gpu, Node
from logos.engines.adoption import adopt, record_of, write_records
from logos.engines.hardware import has_gpu
from logos.engines.launch import EngineKind, EngineLaunch
from logos.engines.process import EngineProcess, free_port
from logos.scheduling.events import EngineReported, EngineSeen

log = logging.getLogger(__name__)

HEARTBEAT_S = 1.0
FIGURES_WAIT_S = 2.0
UNBOUNDED = 1_000_000
RESTING = frozenset({EngineState.AWAKE, EngineState.ASLEEP})
# What a transition that was begun ends in, if all goes well.
GOES_ON_TO = {
    EngineState.LOADING: EngineState.AWAKE,
    EngineState.WAKING: EngineState.AWAKE,
    EngineState.FALLING_ASLEEP: EngineState.ASLEEP,
}
KNOWN = RESTING | GOES_ON_TO.keys()  # states in which an engine is told of, and adopted


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """What a node is and how its engines are started. `simulated_flags` go to every simulated engine.

    `sleeps` None: simulated and GPU nodes can put engines to sleep, vLLM's CPU build cannot. `transitions_at_once`
    None: no bound; further loads, sleeps and wakes wait their turn on the node. `load_s`, `wake_s` and `sleep_s` are
    what engines are said to take there; None: nothing is said.
    """

    node_id: str
    provider_id: int
    gpus: tuple[Gpu, ...]
    host_memory_mib: int
    simulated: bool
    directory: Path
    simulated_flags: tuple[str, ...] = ()
    load_timeout_s: float = 600.0
    sleep_timeout_s: float = 120.0
    stop_grace_s: float = 5.0
    sleeps: bool | None = None
    transitions_at_once: int | None = None
    load_s: float | None = None
    wake_s: float | None = None
    sleep_s: float | None = None


class SchedulerPort(Protocol):
    """What a node tells the scheduler; every call may fail with ConnectionError while it restarts."""

    async def node_seen(
        self, node: Node, engines: tuple[EngineSeen, ...], addresses: tuple[tuple[str, str], ...]
    ) -> int: ...

    async def node_reported(self, node_id: str, epoch: int, reports: tuple[EngineReported, ...]) -> bool: ...

    async def engine_failed(self, engine_id: str, reason: str) -> None: ...

    async def engine_done(self, done: EngineDone) -> None: ...


@dataclass(slots=True)
class _Engine:
    process: EngineProcess
    endpoint_id: int
    gpu_indices: tuple[int, ...]
    memory_mib: int
    state: EngineState


@dataclass(slots=True)
class _Doing:
    """A transition under way, and whether anybody waits for its end."""

    to: EngineState
    task: asyncio.Task[EngineDone]
    awaited: bool = True


class NodeActor:
    """The node of `settings`, speaking to `scheduler`."""

    def __init__(
        self, settings: NodeSettings, scheduler: SchedulerPort, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._scheduler = scheduler
        self._clock = clock
        settings.directory.mkdir(parents=True, exist_ok=True)
        self._file = settings.directory / "engines.json"
        self._session: aiohttp.ClientSession | None = None
        self._engines: dict[str, _Engine] = {}
        self._doing: dict[str, _Doing] = {}  # by engine id
        self._epoch = 0
        self._heartbeat: asyncio.Task[None] | None = None
        self._has_gpus = settings.simulated or has_gpu()
        self._turns = asyncio.Semaphore(settings.transitions_at_once or UNBOUNDED)
        sleeps = self._has_gpus if settings.sleeps is None else settings.sleeps
        self.node = Node(
            settings.node_id,
            settings.provider_id,
            settings.gpus,
            settings.host_memory_mib,
            sleeps,
            settings.load_s,
            settings.wake_s,
            settings.sleep_s,
            settings.transitions_at_once,
        )

    async def start(self) -> None:
        """Adopts what an earlier life of this node left running, and begins to report."""
        self._session = aiohttp.ClientSession(trust_env=False)
        adoption = await adopt(self._file, self._session)
        for process, state in adoption.adopted:
            await self._adopt(process, state)
        self._write_file()
        self._heartbeat = asyncio.create_task(keep_going(self._report_for_ever))

    async def _adopt(self, process: EngineProcess, state: EngineState) -> None:
        """Takes an engine over, and brings to its end what it was in the middle of. What cannot be told is ended."""
        launch = process.launch
        try:
            if state in RESTING:
                state = EngineState.ASLEEP if await process.is_sleeping() else EngineState.AWAKE
        except EngineFailed as error:
            log.warning("engine %s is not adopted: %s", launch.engine_id, error)
            state = EngineState.FAILED
        if launch.endpoint_id is None or state not in KNOWN:
            await process.stop(self._settings.stop_grace_s)
            return
        gpus = launch.gpus or tuple(gpu.index for gpu in self._settings.gpus)
        self._engines[launch.engine_id] = _Engine(process, launch.endpoint_id, gpus, launch.memory_mib, state)
        if state in GOES_ON_TO:
            self._begin(launch.engine_id, GOES_ON_TO[state], self._go_on(launch.engine_id, state)).awaited = False
        log.info("adopted engine %s, which is %s", launch.engine_id, state)

    async def _go_on(self, engine_id: str, state: EngineState) -> EngineDone:
        """Ends a transition that an earlier life began, and tells of it unless somebody has asked again meanwhile."""
        if state is EngineState.LOADING:
            done = await self._wait_until_loaded(self._engines[engine_id], self._clock())
        else:
            done = await self._move(engine_id, state, GOES_ON_TO[state])
        doing = self._doing.get(engine_id)
        if self._epoch and doing is not None and not doing.awaited:
            with contextlib.suppress(ConnectionError, TimeoutError):
                await self._scheduler.engine_done(done)
        return done

    async def ping(self) -> str:
        return self._settings.node_id

    async def shut_down(self) -> None:
        """Stops every engine; the node obeys nobody after this."""
        if self._heartbeat is not None:
            self._heartbeat.cancel()
        await asyncio.gather(*(self.stop(engine_id) for engine_id in list(self._engines)))
        if self._session is not None:
            await self._session.close()

    async def release(self) -> None:
        """Ends the engines, so that the machine can be given back."""
        await self.shut_down()

    # ------------------------------------------------------------------ orders

    async def load(self, order: EngineOrder) -> EngineDone:
        """Starts an engine and waits until it serves. A failure is an answer."""
        return await self._obey(order.engine_id, EngineState.AWAKE, partial(self._load, order))

    async def sleep(self, engine_id: str, level: int) -> EngineDone:
        """Puts an engine to sleep once all that runs in it has ended: nothing is cut."""
        work = partial(self._move, engine_id, EngineState.FALLING_ASLEEP, EngineState.ASLEEP, level)
        return await self._obey(engine_id, EngineState.ASLEEP, work)

    async def wake(self, engine_id: str) -> EngineDone:
        """Wakes an engine and has one token made, the proof that it serves."""
        work = partial(self._move, engine_id, EngineState.WAKING, EngineState.AWAKE)
        return await self._obey(engine_id, EngineState.AWAKE, work)

    async def stop(self, engine_id: str) -> EngineDone:
        """Ends an engine at once, whatever else is under way with it."""
        began = self._clock()
        engine = self._engines.get(engine_id)
        if engine is not None:
            engine.state = EngineState.STOPPING
            await self._drop(engine_id)
        return EngineDone(engine_id, EngineState.COLD, self._clock() - began)

    async def _obey(
        self, engine_id: str, to: EngineState, work: Callable[[], Coroutine[Any, Any, EngineDone]]
    ) -> EngineDone:
        """Carries an order out. The same order again joins the first, or is answered at once where nothing is left to
        do. Whoever gave it may have restarted by the end: then the new life is told."""
        ordered_in = self._epoch
        engine, doing = self._engines.get(engine_id), self._doing.get(engine_id)
        if doing is not None and doing.to is to:
            doing.awaited = True
        elif engine is not None and engine.state is to:
            return self._done(engine, 0.0)
        else:
            doing = self._begin(engine_id, to, work())
        done = await asyncio.shield(doing.task)
        if ordered_in and self._epoch != ordered_in:
            with contextlib.suppress(ConnectionError, TimeoutError):
                await self._scheduler.engine_done(done)
        return done

    def _begin(self, engine_id: str, to: EngineState, work: Coroutine[Any, Any, EngineDone]) -> _Doing:
        doing = self._doing[engine_id] = _Doing(to, asyncio.get_running_loop().create_task(work))
        doing.task.add_done_callback(lambda _: self._over(engine_id, doing))
        return doing

    def _over(self, engine_id: str, doing: _Doing) -> None:
        if self._doing.get(engine_id) is doing:
            del self._doing[engine_id]

    async def _load(self, order: EngineOrder) -> EngineDone:
        process = EngineProcess(self._launch(order), self._open_session)
        engine = _Engine(process, order.endpoint_id, order.gpu_indices, order.memory_mib, EngineState.LOADING)
        self._engines[order.engine_id] = engine
        async with self._turns:
            began = self._clock()
            if self._engines.get(order.engine_id) is not engine:
                return EngineDone(order.engine_id, EngineState.FAILED, reason="it was stopped before it could start")
            try:
                await process.start()
                self._write_file()
            except (EngineFailed, OSError) as error:
                return await self._failed(order.engine_id, error, began)
            return await self._wait_until_loaded(engine, began)

    async def _wait_until_loaded(self, engine: _Engine, began: float) -> EngineDone:
        try:
            await engine.process.wait_ready(self._settings.load_timeout_s)
        except (EngineFailed, OSError, TimeoutError) as error:
            return await self._failed(engine.process.engine_id, error, began)
        return self._rests(engine, EngineState.AWAKE, began)

    async def _move(self, engine_id: str, through: EngineState, to: EngineState, level: int = 1) -> EngineDone:
        engine = self._engines.get(engine_id)
        if engine is None:
            return EngineDone(engine_id, EngineState.FAILED, reason="there is no such engine on this node")
        engine.state = through
        self._write_file()
        async with self._turns:
            began = self._clock()
            try:
                if to is EngineState.ASLEEP:
                    await engine.process.sleep(level, timeout_s=self._settings.sleep_timeout_s)
                else:
                    await engine.process.wake(timeout_s=self._settings.sleep_timeout_s)
            except (EngineFailed, OSError, TimeoutError) as error:
                return await self._failed(engine_id, error, began)
        return self._rests(engine, to, began)

    def _rests(self, engine: _Engine, state: EngineState, began: float) -> EngineDone:
        """A transition ended well. One that was stopped meanwhile does not come back."""
        if engine.state is EngineState.STOPPING:
            return EngineDone(engine.process.engine_id, EngineState.FAILED, reason="it was stopped meanwhile")
        engine.state = state
        self._write_file()
        return self._done(engine, self._clock() - began)

    def _done(self, engine: _Engine, seconds: float) -> EngineDone:
        held_mib = engine.memory_mib if engine.state is EngineState.AWAKE else 0
        address = engine.process.launch.base_url
        return EngineDone(engine.process.engine_id, engine.state, seconds, held_mib, address=address)

    async def _failed(self, engine_id: str, error: Exception, began: float) -> EngineDone:
        """Nothing of it stays. Clients are shown the reason, and a log's last lines may hold anything."""
        log.warning("engine %s: %s", engine_id, error)
        await self._drop(engine_id)
        reason = str(error).partition("; its log")[0]
        return EngineDone(engine_id, EngineState.FAILED, self._clock() - began, reason=reason)

    async def _drop(self, engine_id: str) -> None:
        engine = self._engines.get(engine_id)
        if engine is not None:
            await engine.process.stop(self._settings.stop_grace_s)
            self._engines.pop(engine_id, None)
            self._write_file()

    @property
    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise EngineFailed("the node has not started yet")
        return self._session

    def _launch(self, order: EngineOrder) -> EngineLaunch:
        settings = self._settings
        args = order.spec.args
        if settings.simulated:
            args = (*settings.simulated_flags, "--max-num-seqs", str(order.max_parallel), *args)
            if order.context_length_tokens is not None:
                args = ("--max-model-len", str(order.context_length_tokens), *args)
            args = (*self._neighbourhood(order), *args)
        memory_mib = next((gpu.memory_mib for gpu in settings.gpus if gpu.index in order.gpu_indices), 0)
        return EngineLaunch(
            engine_id=order.engine_id,
            model=order.upstream_model,
            kind=EngineKind.SIMULATED if settings.simulated else EngineKind.VLLM,
            port=free_port(),
            log_file=str(settings.directory / f"{order.engine_id.replace('/', '_')}.log"),
            endpoint_id=order.endpoint_id,
            weights=order.spec.weights,
            gpus=order.gpu_indices if self._has_gpus else (),
            memory_mib=order.memory_mib,
            gpu_memory_mib=memory_mib,
            args=args,
            sleeps=order.spec.sleeps and self.node.sleeps,
        )

    def _neighbourhood(self, order: EngineOrder) -> tuple[str, ...]:
        """How a simulated engine finds those that it shares GPUs with."""
        gpus = ",".join(str(index) for index in order.gpu_indices)
        return "--neighbourhood", str(self._settings.directory / "neighbourhood"), "--gpus", gpus

    def _write_file(self) -> None:
        write_records(
            self._file,
            [
                record_of(engine.process, engine.state)
                for engine in self._engines.values()
                if engine.process.identity is not None
            ],
        )

    # ------------------------------------------------------------------ reporting

    async def _report_for_ever(self) -> None:
        while True:
            with contextlib.suppress(ConnectionError, TimeoutError, LogosError):
                await self._report()
            await asyncio.sleep(HEARTBEAT_S)

    async def _report(self) -> None:
        await self._notice_dead_engines()
        if self._epoch:
            reports = await self._figures()
            if await self._scheduler.node_reported(self.node.id, self._epoch, reports):
                return
        await self._introduce()

    async def _introduce(self) -> None:
        """Tells what engines there are, also those in the middle of something; and what became of these meanwhile."""
        seen = {engine_id: engine for engine_id, engine in self._engines.items() if engine.state in KNOWN}
        told = {engine_id: engine.state for engine_id, engine in seen.items()}
        self._epoch = await self._scheduler.node_seen(
            self.node,
            tuple(self._as_seen(engine_id, engine) for engine_id, engine in seen.items()),
            tuple((engine_id, engine.process.launch.base_url) for engine_id, engine in seen.items()),
        )
        for engine_id, state in told.items():
            engine = self._engines.get(engine_id)
            if engine is None:
                await self._scheduler.engine_failed(engine_id, "it ended while its node introduced itself")
            elif engine.state is not state and engine.state in RESTING:
                await self._scheduler.engine_done(self._done(engine, 0.0))

    def _as_seen(self, engine_id: str, engine: _Engine) -> EngineSeen:
        slept = engine.process.has_slept
        return EngineSeen(engine_id, engine.endpoint_id, engine.gpu_indices, engine.state, engine.memory_mib, slept)

    async def _notice_dead_engines(self) -> None:
        for engine_id, engine in list(self._engines.items()):
            if engine.state in RESTING and not engine.process.alive():
                log.warning("engine %s ended by itself", engine_id)
                await self._drop(engine_id)
                await self._scheduler.engine_failed(engine_id, "the engine's process ended by itself")

    async def _figures(self) -> tuple[EngineReported, ...]:
        """Of the engines that are awake, all asked at once: one that hangs must not keep the node silent."""
        awake = [(name, each) for name, each in list(self._engines.items()) if each.state is EngineState.AWAKE]
        reports = await asyncio.gather(*(self._figures_of(*each) for each in awake))
        return tuple(report for report in reports if report is not None)

    async def _figures_of(self, engine_id: str, engine: _Engine) -> EngineReported | None:
        try:
            async with asyncio.timeout(FIGURES_WAIT_S):
                figures = await engine.process.scrape()
        except (EngineFailed, OSError, TimeoutError):
            return None
        return EngineReported(0.0, engine_id, figures.running, figures.waiting, figures.kv_usage)
