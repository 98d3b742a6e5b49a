"""One simulated GPU node: it obeys load, sleep, wake and stop, takes its time, and has only so much memory.

It decides nothing. What an order cannot mean (an engine nobody knows, sleep while something runs) is a fault of the
scheduler and raises `SimulationFault`; what a real node could not do either (not enough memory) fails as it would
there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from logos.domain.lifecycle import HOLDS_GPU_MEMORY, EngineState, may_become
from logos.domain.nouns import EngineSpec, Node
from logos.scheduling.commands import LoadEngine, SleepEngine, StopEngine, WakeEngine
from logos.scheduling.events import EngineChanged, EngineReported, EngineSeen, Event, NodeSeen
from logos.simulation.agenda import Agenda
from logos.simulation.engine import TransitionTimes
from logos.simulation.run import SimulationFault, Transition
from logos.simulation.serving import Answers, ServingEngine
from logos.simulation.world import EngineProfile, World, WorldNode

Order = LoadEngine | SleepEngine | WakeEngine | StopEngine

# Order -> (states it may be given in, state under way, state at the end).
ORDERS: dict[type, tuple[frozenset[EngineState], EngineState, EngineState]] = {
    LoadEngine: (frozenset({EngineState.COLD}), EngineState.LOADING, EngineState.AWAKE),
    SleepEngine: (frozenset({EngineState.AWAKE}), EngineState.FALLING_ASLEEP, EngineState.ASLEEP),
    WakeEngine: (frozenset({EngineState.ASLEEP}), EngineState.WAKING, EngineState.AWAKE),
    StopEngine: (
        frozenset(EngineState) - {EngineState.COLD, EngineState.STOPPING},
        EngineState.STOPPING,
        EngineState.COLD,
    ),
}


@dataclass(slots=True, eq=False)
class SimEngine:
    """One engine on a node. `order` counts the orders begun, so that the end of an overtaken one is void."""

    engine_id: str
    endpoint_id: int
    gpu_indices: tuple[int, ...]
    spec: EngineSpec
    times: TransitionTimes
    state: EngineState
    serving: ServingEngine
    order: int = 0

    @property
    def serves(self) -> bool:
        """Whether requests that are sent to it are answered."""
        return self.state is EngineState.AWAKE

    @property
    def per_gpu_mib(self) -> int:
        """What it takes on each of its GPUs now."""
        if self.state in HOLDS_GPU_MEMORY:
            return self.spec.memory_per_gpu_mib
        return self.spec.residue_per_gpu_mib if self.state is EngineState.ASLEEP else 0


class SimNode:
    """Engines, memory and transitions of one node."""

    def __init__(
        self,
        described: WorldNode,
        world: World,
        agenda: Agenda,
        listener: Answers,
        tell: Callable[[Event], None],
        log: list[Transition],
        failing_starts: dict[int, int],
    ) -> None:
        self.node: Node = described.node
        self.alive = True
        self.engines: dict[str, SimEngine] = {}
        self._described = described
        self._world = world
        self._agenda = agenda
        self._listener = listener
        self.tell = tell
        self._log = log
        self._failing_starts = failing_starts  # by endpoint: how many of its next loads and wakings fail
        self._under_way = 0
        self._orders: deque[Order] = deque()
        self._busy_on = {gpu.index: 0 for gpu in self.node.gpus}  # engines computing there
        self._busy_since: dict[int, float] = {}
        self._busy_s = 0.0
        for number, initial in enumerate(described.engines, 1):
            engine_id = f"{self.node.id}-{number}"
            self._add(engine_id, initial.endpoint_id, initial.gpu_indices).state = initial.state
        self._meet_neighbours()

    def seen(self) -> NodeSeen:
        """The node introduces itself, with the engines that it has."""
        engines = tuple(
            EngineSeen(each.engine_id, each.endpoint_id, each.gpu_indices, each.state, each.spec.memory_mib)
            for each in self.engines.values()
        )
        return NodeSeen(self._agenda.now, self.node, engines)

    def obey(self, order: Order) -> None:
        """Begins at once, or when the transitions before it are over."""
        if isinstance(order, LoadEngine):
            self._add(order.engine_id, order.endpoint_id, order.gpu_indices)
            self._meet_neighbours()
        elif order.engine_id not in self.engines:
            raise SimulationFault(f"{type(order).__name__} of {order.engine_id}, which {self.node.id} does not have")
        most = self._described.transitions_at_once
        if isinstance(order, StopEngine):
            self._stop(order)
        elif most is not None and self._under_way >= most:
            self._orders.append(order)
        else:
            self._begin(order)

    def report(self) -> list[EngineReported]:
        """The figures of the engines that are awake."""
        now = self._agenda.now
        return [
            EngineReported(now, each.engine_id, model.running, model.waiting, model.kv_usage)
            for each in self.engines.values()
            if each.state is EngineState.AWAKE
            for model in (each.serving.model,)
        ]

    def crash(self, engine: SimEngine, reason: str) -> list[str]:
        """The engine's process ends by itself. Returns the requests that were in it."""
        engine.order += 1
        self._forget_orders(engine)
        self._become(engine, EngineState.FAILED)
        lost = engine.serving.break_off()
        self.tell(EngineChanged(self._agenda.now, engine.engine_id, EngineState.FAILED, 0.0, 0, reason))
        return lost

    def die(self) -> list[str]:
        """The machine is gone. Returns the requests that were on it."""
        self.alive = False
        self._orders.clear()
        lost: list[str] = []
        for engine in self.engines.values():
            engine.order += 1
            lost += engine.serving.break_off()
        self.engines.clear()
        return lost

    def busy_changed(self, serving: ServingEngine) -> None:
        """An engine began or ended to compute: its neighbours change pace, its GPUs are counted as used or not."""
        now = self._agenda.now
        for index in serving.gpu_indices:
            self._busy_on[index] += 1 if serving.busy else -1
            if serving.busy and self._busy_on[index] == 1:
                self._busy_since[index] = now
            elif self._busy_on[index] == 0:
                self._busy_s += now - self._busy_since.pop(index)
        for neighbour in serving.neighbours:
            neighbour.contend(any(each.busy for each in neighbour.neighbours))

    def gpu_busy_s(self) -> float:
        """GPU seconds in which an engine was computing, until now."""
        return self._busy_s + sum(self._agenda.now - since for since in self._busy_since.values())

    def check(self) -> None:
        """Raises SimulationFault if more memory is in use than there is."""
        for gpu in self.node.gpus:
            if self._used_mib(gpu.index) > gpu.memory_mib:
                raise SimulationFault(f"GPU {gpu.index} of {self.node.id} holds {self._used_mib(gpu.index)} MiB")

    # Inside.

    def _add(self, engine_id: str, endpoint_id: int, gpu_indices: tuple[int, ...]) -> SimEngine:
        if engine_id in self.engines:
            raise SimulationFault(f"LoadEngine of {engine_id}, which {self.node.id} already has")
        spec = self._world.catalogue.endpoint[endpoint_id].engine
        if spec is None or endpoint_id not in self._world.engines:
            raise SimulationFault(f"endpoint {endpoint_id} has no engines, but one was loaded on {self.node.id}")
        profile = _slowed(self._world.engines[endpoint_id], self._described.slowness)
        serving = ServingEngine(profile.pace, self._agenda, self._listener, self.busy_changed, gpu_indices)
        engine = SimEngine(engine_id, endpoint_id, gpu_indices, spec, profile.times, EngineState.COLD, serving)
        self.engines[engine_id] = engine
        return engine

    def _remove(self, engine: SimEngine) -> None:
        del self.engines[engine.engine_id]
        self._meet_neighbours()

    def _meet_neighbours(self) -> None:
        """Each engine is told which others share a GPU with it."""
        on_gpu: dict[int, list[int]] = {}
        engines = list(self.engines.values())
        for number, engine in enumerate(engines):
            for index in engine.gpu_indices:
                on_gpu.setdefault(index, []).append(number)
        for number, engine in enumerate(engines):
            near = {other for index in engine.gpu_indices for other in on_gpu[index]} - {number}
            engine.serving.neighbours = tuple(engines[other].serving for other in sorted(near))

    def _stop(self, order: StopEngine) -> None:
        """Ends a process, whatever else is going on; of a load that still waits for its turn there is none to end."""
        engine = self.engines[order.engine_id]
        self._forget_orders(engine)
        if engine.state is EngineState.COLD:
            self._remove(engine)
            self.tell(EngineChanged(self._agenda.now, engine.engine_id, EngineState.COLD, 0.0, 0))
        elif engine.state is not EngineState.STOPPING:  # a stop that takes long is asked for again
            self._begin(order)

    def _forget_orders(self, engine: SimEngine) -> None:
        """What waits for its turn is no longer meant."""
        self._orders = deque(each for each in self._orders if each.engine_id != engine.engine_id)

    def _begin(self, order: Order) -> None:
        engine = self.engines[order.engine_id]
        allowed, under_way, after = ORDERS[type(order)]
        if engine.state not in allowed:
            raise SimulationFault(f"{type(order).__name__} of {engine.engine_id}, which is {engine.state}")
        if isinstance(order, SleepEngine):
            if not engine.serving.model.idle:
                raise SimulationFault(f"SleepEngine of {engine.engine_id} while it serves requests")
            engine.serving.break_off()  # the step of somebody who left
        before = engine.state
        seconds, reason = _duration_s(order, engine), ""
        if under_way in {EngineState.LOADING, EngineState.WAKING} and (reason := self._obstacle(engine, before)):
            seconds, after = seconds / 2, EngineState.FAILED
        engine.order += 1
        self._become(engine, under_way)
        self._under_way += 1
        self._agenda.at(
            self._agenda.now + seconds, self._over, (engine, engine.order, before, after, self._agenda.now, reason)
        )

    def _over(self, end: tuple[SimEngine, int, EngineState, EngineState, float, str]) -> None:
        engine, order, before, after, began_at, reason = end
        self._under_way -= 1
        if self.alive and engine.order == order:
            now = self._agenda.now
            self._log.append(self._transition(engine, before, after, began_at, reason))
            self._become(engine, after)
            if after is EngineState.COLD:
                self._remove(engine)
            memory_mib = engine.per_gpu_mib * len(engine.gpu_indices)
            self.tell(EngineChanged(now, engine.engine_id, after, now - began_at, memory_mib, reason))
        self._begin_next()

    def _begin_next(self) -> None:
        most = self._described.transitions_at_once
        while self._orders and most is not None and self._under_way < most:
            order = self._orders.popleft()
            if order.engine_id in self.engines:
                self._begin(order)

    def _transition(
        self, engine: SimEngine, before: EngineState, after: EngineState, began_at: float, reason: str
    ) -> Transition:
        return Transition(
            began_at,
            self._agenda.now,
            self.node.id,
            engine.engine_id,
            self._world.model_name_at[engine.endpoint_id],
            len(engine.gpu_indices),
            before,
            after,
            reason,
        )

    def _become(self, engine: SimEngine, state: EngineState) -> None:
        """Raises SimulationFault for a change that the lifecycle does not know."""
        if not may_become(engine.state, state):
            raise SimulationFault(f"{engine.engine_id} cannot become {state} from {engine.state}")
        engine.state = state

    def _obstacle(self, engine: SimEngine, before: EngineState) -> str:
        """Why it cannot be loaded or woken; empty if it can."""
        if self._failing_starts.get(engine.endpoint_id, 0) > 0:
            self._failing_starts[engine.endpoint_id] -= 1
            return "the engine's process ended while it started"
        have = {gpu.index: gpu.memory_mib for gpu in self.node.gpus}
        for index in engine.gpu_indices:
            needed = engine.spec.memory_per_gpu_mib - engine.per_gpu_mib
            if self._used_mib(index) + needed > have.get(index, 0):
                return f"out of memory on GPU {index}"
        if before is EngineState.COLD and not self._host_has_room(engine):
            return "out of host memory"
        return ""

    def _used_mib(self, gpu_index: int) -> int:
        return sum(each.per_gpu_mib for each in self.engines.values() if gpu_index in each.gpu_indices)

    def _host_has_room(self, engine: SimEngine) -> bool:
        """An engine that can sleep keeps its weights in host RAM for as long as it lives."""
        if not self.node.host_memory_mib or not (self.node.sleeps and engine.spec.sleeps):
            return True
        kept = sum(
            each.spec.host_mib
            for each in self.engines.values()
            if each.spec.sleeps and (each is engine or each.state is not EngineState.COLD)
        )
        return kept <= self.node.host_memory_mib


def _duration_s(order: Order, engine: SimEngine) -> float:
    match order:
        case LoadEngine():
            return engine.times.load_s
        case SleepEngine():
            return engine.times.sleep_s
        case WakeEngine():
            return engine.times.wake_s
    return engine.times.stop_s


def _slowed(profile: EngineProfile, slowness: float) -> EngineProfile:
    if slowness == 1.0:
        return profile
    pace = replace(
        profile.pace,
        step_base_s=profile.pace.step_base_s * slowness,
        step_per_sequence_s=profile.pace.step_per_sequence_s * slowness,
        prefill_per_token_s=profile.pace.prefill_per_token_s * slowness,
    )
    return EngineProfile(pace, profile.times.times(slowness))
