"""The bookkeeping that simple schedulers share: who waits, which engines there are, what runs where.

A baseline says in `decide` what shall be done now; everything it does goes through the methods here. It speaks the
contract of the real core and nothing of that core is used. Requests go to the first pooled endpoint among their
candidates, which is all that the worlds of baselines need; no policy lives here.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from logos.domain.catalogue import Catalogue
from logos.domain.lifecycle import HOLDS_GPU_MEMORY, EngineState
from logos.domain.nouns import EngineSpec, Node, Place, Tier
from logos.scheduling import commands as cmd
from logos.scheduling import events as ev


@dataclass(slots=True, eq=False)
class PlainEngine:
    """One engine and what runs on it. `used_at`: when a request last came or went."""

    engine_id: str
    endpoint_id: int
    node_id: str
    gpu_indices: tuple[int, ...]
    spec: EngineSpec
    state: EngineState
    since: float = 0.0
    used_at: float = 0.0
    running: dict[str, None] = field(default_factory=dict)

    @property
    def per_gpu_mib(self) -> int:
        if self.state in HOLDS_GPU_MEMORY:
            return self.spec.memory_per_gpu_mib
        return self.spec.residue_per_gpu_mib if self.state is EngineState.ASLEEP else 0


@dataclass(slots=True, eq=False)
class Waiting:
    """A request that has no place yet."""

    request: ev.Request
    endpoint_id: int
    arrived_at: float


class PlainCore:
    """Takes in events, lets `decide` act, and hands out the commands. Subclasses define `decide`."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self.now = 0.0
        self.nodes: dict[str, Node] = {}
        self.engines: dict[str, PlainEngine] = {}
        self.waiting: dict[str, Waiting] = {}  # in order of arrival
        self._deadlines: list[tuple[float, str, float]] = []  # a heap of (until, request id, arrived at)
        self._place: dict[str, PlainEngine] = {}
        self._commands: list[cmd.Command] = []
        self._loaded = 0
        self._reactions: dict[type, Callable[[Any], None]] = {
            ev.RequestsArrived: self._arrived,
            ev.RequestCancelled: self._ended,
            ev.RequestFinished: self._ended,
            ev.RequestFailed: self._ended,
            ev.EngineChanged: self._changed,
            ev.NodeSeen: self._node_seen,
            ev.NodeLost: self._node_lost,
        }

    def handle(self, event: ev.Event) -> list[cmd.Command]:
        """Events in, commands out."""
        self.now = event.at
        reaction = self._reactions.get(type(event))
        if reaction is not None:
            reaction(event)
        self._reject_late()
        self.decide()
        commands, self._commands = self._commands, []
        return commands

    def decide(self) -> None:
        """Does what can be done now."""
        raise NotImplementedError

    # What a baseline may look at.

    def engines_of(self, endpoint_id: int) -> list[PlainEngine]:
        return [each for each in self.engines.values() if each.endpoint_id == endpoint_id]

    def room(self, engine: PlainEngine) -> int:
        """Requests that it could take now."""
        if engine.state is not EngineState.AWAKE:
            return 0
        return self.catalogue.endpoint[engine.endpoint_id].max_parallel - len(engine.running)

    def fits(self, engine: PlainEngine) -> bool:
        """Whether there is memory for it to be awake now."""
        needed = engine.spec.memory_per_gpu_mib - engine.per_gpu_mib
        free = self.free_mib(engine.node_id)
        return all(free[gpu] >= needed for gpu in engine.gpu_indices)

    def neighbours(self, engine: PlainEngine) -> list[PlainEngine]:
        """Engines that hold memory on the same GPUs."""
        found = self.holders(engine.node_id, engine.gpu_indices)
        return [each for each in found if each is not engine]

    def holders(self, node_id: str, gpu_indices: Iterable[int]) -> list[PlainEngine]:
        """Engines that hold memory on these GPUs, asleep ones left out."""
        gpus = set(gpu_indices)
        return [
            each
            for each in self.engines.values()
            if each.node_id == node_id and each.state in HOLDS_GPU_MEMORY and not gpus.isdisjoint(each.gpu_indices)
        ]

    def free_mib(self, node_id: str) -> dict[int, int]:
        """Free memory by GPU index."""
        free = {gpu.index: gpu.memory_mib for gpu in self.nodes[node_id].gpus}
        for engine in self.engines.values():
            if engine.node_id == node_id:
                for gpu in engine.gpu_indices:
                    free[gpu] -= engine.per_gpu_mib
        return free

    def can_sleep(self, engine: PlainEngine) -> bool:
        return engine.spec.sleeps and self.nodes[engine.node_id].sleeps

    # What a baseline may do.

    def dispatch(self, waiting: Waiting, engine: PlainEngine) -> None:
        request = waiting.request
        del self.waiting[request.request_id]
        engine.running[request.request_id] = None
        engine.used_at = self.now
        self._place[request.request_id] = engine
        self._commands.append(
            cmd.Dispatch(
                request.request_id,
                request.gateway_id,
                Place(engine.endpoint_id, engine.engine_id),
                Tier.WARM,
                self.now - waiting.arrived_at,
            )
        )

    def serve_in_order(self, engines: Iterable[PlainEngine]) -> None:
        """Dispatches to these engines whatever waits for them, oldest first, while they have room."""
        by_endpoint = {each.endpoint_id: each for each in engines}
        for waiting in list(self.waiting.values()):
            engine = by_endpoint.get(waiting.endpoint_id)
            if engine is not None and self.room(engine) > 0:
                self.dispatch(waiting, engine)

    def sleep(self, engine: PlainEngine) -> None:
        self._become(engine, EngineState.FALLING_ASLEEP)
        self._commands.append(cmd.SleepEngine(engine.engine_id))

    def wake(self, engine: PlainEngine) -> None:
        self._become(engine, EngineState.WAKING)
        self._commands.append(cmd.WakeEngine(engine.engine_id))

    def stop(self, engine: PlainEngine) -> None:
        self._become(engine, EngineState.STOPPING)
        self._commands.append(cmd.StopEngine(engine.engine_id))

    def load(self, endpoint_id: int, node_id: str, gpu_indices: tuple[int, ...]) -> None:
        spec = self.catalogue.endpoint[endpoint_id].engine
        assert spec is not None
        self._loaded += 1
        engine_id = f"loaded-{self._loaded}"
        engine = PlainEngine(engine_id, endpoint_id, node_id, gpu_indices, spec, EngineState.LOADING, self.now)
        self.engines[engine_id] = engine
        self._commands.append(cmd.LoadEngine(engine_id, endpoint_id, node_id, gpu_indices, spec.memory_mib))

    def wake_me(self, at: float) -> None:
        self._commands.append(cmd.WakeAt(at))

    # Inside.

    def _become(self, engine: PlainEngine, state: EngineState) -> None:
        engine.state = state
        engine.since = self.now

    def _arrived(self, event: ev.RequestsArrived) -> None:
        for request in event.requests:
            endpoint_id = self._pooled(request)
            if endpoint_id is None:
                message = "none of its endpoints has engines"
                self._commands.append(cmd.Reject(request.request_id, request.gateway_id, "no_capacity", message))
                continue
            self.waiting[request.request_id] = Waiting(request, endpoint_id, self.now)
            deadline = self.now + request.queue_timeout_s
            heapq.heappush(self._deadlines, (deadline, request.request_id, self.now))
            self._commands.append(cmd.WakeAt(deadline))

    def _pooled(self, request: ev.Request) -> int | None:
        for candidate in request.candidates:
            if self.catalogue.endpoint[candidate.endpoint_id].engine is not None:
                return candidate.endpoint_id
        return None

    def _reject_late(self) -> None:
        """Those whose time is over. A request that comes again may have less left than one that came before it."""
        while self._deadlines and self._deadlines[0][0] <= self.now:
            _, request_id, arrived_at = heapq.heappop(self._deadlines)
            waiting = self.waiting.get(request_id)
            if waiting is None or waiting.arrived_at != arrived_at:
                continue
            del self.waiting[request_id]
            request, waited_s = waiting.request, self.now - arrived_at
            message = "it waited too long"
            self._commands.append(cmd.Reject(request_id, request.gateway_id, "queue_timeout", message, None, waited_s))

    def _ended(self, event: ev.RequestFinished | ev.RequestFailed | ev.RequestCancelled) -> None:
        self.waiting.pop(event.request_id, None)
        engine = self._place.pop(event.request_id, None)
        if engine is not None:
            del engine.running[event.request_id]
            engine.used_at = self.now

    def _changed(self, event: ev.EngineChanged) -> None:
        engine = self.engines.get(event.engine_id)
        if engine is None:
            return
        self._become(engine, event.state)
        if event.state is EngineState.FAILED:
            self._commands.append(cmd.StopEngine(engine.engine_id))
            self._become(engine, EngineState.STOPPING)
        elif event.state is EngineState.COLD:
            del self.engines[engine.engine_id]

    def _node_seen(self, event: ev.NodeSeen) -> None:
        self.nodes[event.node.id] = event.node
        for seen in event.engines:
            spec = self.catalogue.endpoint[seen.endpoint_id].engine
            if spec is not None and seen.engine_id not in self.engines:
                self.engines[seen.engine_id] = PlainEngine(
                    seen.engine_id, seen.endpoint_id, event.node.id, seen.gpu_indices, spec, seen.state, self.now
                )

    def _node_lost(self, event: ev.NodeLost) -> None:
        self.nodes.pop(event.node_id, None)
        self.engines = {key: each for key, each in self.engines.items() if each.node_id != event.node_id}
