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
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import aiohttp

from logos.actors.scheduler import EngineDone, EngineOrder
from logos.domain.errors import EngineFailed, LogosError
from logos.domain.lifecycle import EngineState
from logos.domain.nouns import Gpu, Node
from logos.engines.adoption import EngineRecord, adopt, write_records
from logos.engines.launch import EngineKind, EngineLaunch
from logos.engines.process import EngineProcess, free_port
from logos.scheduling.events import EngineReported, EngineSeen

log = logging.getLogger(__name__)

HEARTBEAT_S = 1.0


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """What a node is and how its engines are started. `simulated_flags` go to every simulated engine."""

    node_id: str
    provider_id: int
    gpus: tuple[Gpu, ...]
    host_memory_mib: int
    simulated: bool
    directory: Path
    simulated_flags: tuple[str, ...] = ()
    load_timeout_s: float = 600.0
    stop_grace_s: float = 5.0


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
        self._epoch = 0
        self._heartbeat: asyncio.Task[None] | None = None
        self.node = Node(settings.node_id, settings.provider_id, settings.gpus, settings.host_memory_mib)

    async def start(self) -> None:
        """Adopts what an earlier life of this node left running, and begins to report."""
        self._session = aiohttp.ClientSession(trust_env=False)
        adoption = await adopt(self._file, self._session)
        for process, state in adoption.adopted:
            launch = process.launch
            if launch.endpoint_id is None or state not in (EngineState.AWAKE, EngineState.ASLEEP):
                await process.stop(self._settings.stop_grace_s)
                continue
            state = EngineState.ASLEEP if await process.is_sleeping() else EngineState.AWAKE
            self._engines[launch.engine_id] = _Engine(
                process, launch.endpoint_id, launch.gpus, launch.memory_mib, state
            )
            log.info("adopted engine %s", launch.engine_id)
        self._write_file()
        self._heartbeat = asyncio.create_task(self._report_for_ever())

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
        """Starts an engine and waits until it serves. A failure is an answer, with the engine's last words."""
        ordered_in = self._epoch
        done = await self._load(order)
        if self._epoch != ordered_in:  # whoever gave the order has restarted and does not wait for the answer
            with contextlib.suppress(ConnectionError, TimeoutError):
                await self._scheduler.engine_done(done)
        return done

    async def _load(self, order: EngineOrder) -> EngineDone:
        began = self._clock()
        process = EngineProcess(self._launch(order), self._open_session)
        engine = _Engine(process, order.endpoint_id, order.gpu_indices, order.memory_mib, EngineState.LOADING)
        self._engines[order.engine_id] = engine
        try:
            await process.start()
            self._write_file()
            await process.wait_ready(self._settings.load_timeout_s)
        except (EngineFailed, OSError, TimeoutError) as error:
            log.warning("engine %s: %s", order.engine_id, error)
            await self._drop(order.engine_id)
            # Clients are shown the reason of a failed load, and a log's last lines may hold anything.
            reason = str(error).partition("; its log")[0]
            return EngineDone(order.engine_id, EngineState.FAILED, self._clock() - began, reason=reason)
        engine.state = EngineState.AWAKE
        self._write_file()
        return EngineDone(
            order.engine_id,
            EngineState.AWAKE,
            seconds=self._clock() - began,
            memory_mib=order.memory_mib,
            address=process.launch.base_url,
        )

    async def sleep(self, engine_id: str, level: int) -> EngineDone:
        return await self._move(engine_id, EngineState.FALLING_ASLEEP, EngineState.ASLEEP, level)

    async def wake(self, engine_id: str) -> EngineDone:
        return await self._move(engine_id, EngineState.WAKING, EngineState.AWAKE)

    async def stop(self, engine_id: str) -> EngineDone:
        began = self._clock()
        engine = self._engines.get(engine_id)
        if engine is not None:
            engine.state = EngineState.STOPPING
            await self._drop(engine_id)
        return EngineDone(engine_id, EngineState.COLD, self._clock() - began)

    async def _move(self, engine_id: str, through: EngineState, to: EngineState, level: int = 1) -> EngineDone:
        engine = self._engines.get(engine_id)
        if engine is None:
            return EngineDone(engine_id, EngineState.FAILED, reason="there is no such engine on this node")
        began = self._clock()
        engine.state = through
        try:
            if to is EngineState.ASLEEP:
                await engine.process.sleep(level)
            else:
                await engine.process.wake()
        except (EngineFailed, OSError, TimeoutError) as error:
            await self._drop(engine_id)
            return EngineDone(engine_id, EngineState.FAILED, self._clock() - began, reason=str(error))
        engine.state = to
        self._write_file()
        return EngineDone(
            engine_id, to, self._clock() - began, engine.memory_mib, address=engine.process.launch.base_url
        )

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
        memory_mib = next((gpu.memory_mib for gpu in settings.gpus if gpu.index in order.gpu_indices), 0)
        return EngineLaunch(
            engine_id=order.engine_id,
            model=order.upstream_model,
            kind=EngineKind.SIMULATED if settings.simulated else EngineKind.VLLM,
            port=free_port(),
            log_file=str(settings.directory / f"{order.engine_id.replace('/', '_')}.log"),
            endpoint_id=order.endpoint_id,
            weights=order.spec.weights,
            gpus=order.gpu_indices,
            memory_mib=order.memory_mib,
            gpu_memory_mib=memory_mib,
            args=args,
        )

    def _write_file(self) -> None:
        write_records(
            self._file,
            [
                EngineRecord(engine.process.launch, engine.process.identity, engine.state)
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
            reports = tuple([report async for report in self._figures()])
            if await self._scheduler.node_reported(self.node.id, self._epoch, reports):
                return
        known = (EngineState.LOADING, EngineState.AWAKE, EngineState.ASLEEP)
        seen = {engine_id: engine for engine_id, engine in self._engines.items() if engine.state in known}
        self._epoch = await self._scheduler.node_seen(
            self.node,
            tuple(
                EngineSeen(engine_id, engine.endpoint_id, engine.gpu_indices, engine.state, engine.memory_mib)
                for engine_id, engine in seen.items()
            ),
            tuple((engine_id, engine.process.launch.base_url) for engine_id, engine in seen.items()),
        )

    async def _notice_dead_engines(self) -> None:
        for engine_id, engine in list(self._engines.items()):
            if engine.state in (EngineState.AWAKE, EngineState.ASLEEP) and not engine.process.alive():
                log.warning("engine %s ended by itself", engine_id)
                await self._drop(engine_id)
                await self._scheduler.engine_failed(engine_id, "the engine's process ended by itself")

    async def _figures(self) -> AsyncIterator[EngineReported]:
        for engine_id, engine in list(self._engines.items()):
            if engine.state is EngineState.AWAKE:
                with contextlib.suppress(EngineFailed, OSError, TimeoutError):
                    figures = await engine.process.scrape()
                    yield EngineReported(0.0, engine_id, figures.running, figures.waiting, figures.kv_usage)
