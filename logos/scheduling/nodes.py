"""Nodes, the engines on them, and the memory ledger of their GPUs.

An engine takes its memory from the moment it is told to load or wake until its node has reported that it is gone or
asleep: a release that is only promised is not credited. Asleep it keeps a residue, and host RAM for its weights, which
it does not give back on waking. Whether an engine should come or go is decided in `capacity` and the rules of swapping.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from logos.domain.lifecycle import HOLDS_GPU_MEMORY, EngineState
from logos.domain.nouns import EngineSpec, Node
from logos.scheduling.timers import Timer

LIVE = frozenset({EngineState.AWAKE, EngineState.LOADING, EngineState.WAKING})
ENDING = frozenset({EngineState.STOPPING, EngineState.FAILED})
LEAVING = frozenset({EngineState.STOPPING, EngineState.DRAINING, EngineState.FALLING_ASLEEP, EngineState.FAILED})
IN_TRANSIT = frozenset(
    {EngineState.LOADING, EngineState.WAKING, EngineState.FALLING_ASLEEP, EngineState.STOPPING, EngineState.FAILED}
)
MIB_PER_GIB = 1024


@dataclass(slots=True, eq=False)
class Engine:
    """One engine as the core knows it. `seconds` is what its last transition took, `measured_mib` what it holds by
    its node's measurement; the ledger counts what was promised, `memory_per_gpu_mib` on each of its GPUs."""

    engine_id: str
    endpoint_id: int
    node_id: str
    gpu_indices: tuple[int, ...]
    memory_per_gpu_mib: int
    state: EngineState
    since: float
    residue_per_gpu_mib: int = 0
    host_mib: int = 0  # taken from its first sleep on
    has_slept: bool = False
    is_off_gpus: bool = False  # asleep, or it slept when it was ended or died
    was_awaited: bool = False  # requests waited when it last came
    seconds: float = 0.0
    measured_mib: int = 0
    running_inside: int = 0
    waiting_inside: int = 0
    kv_usage: float = 0.0
    timer: Timer | None = None
    claimed_by: int | None = None  # the endpoint that it makes room for
    is_stuck: bool = False  # its end is overdue: it holds what it holds, and nobody waits for that any more

    @property
    def held_per_gpu_mib(self) -> int:
        """GPU memory that it takes in its present state."""
        if self.is_off_gpus:
            return self.residue_per_gpu_mib
        return self.memory_per_gpu_mib if self.state in HOLDS_GPU_MEMORY else 0

    def become(self, state: EngineState, now: float) -> None:
        """Its new state, from now on. What ends a sleeping engine brings nothing back to its GPUs."""
        if state is EngineState.ASLEEP or state not in ENDING:
            self.is_off_gpus = state is EngineState.ASLEEP
        if state not in ENDING:
            self.is_stuck = False
        self.state = state
        self.since = now

    @property
    def is_live(self) -> bool:
        """It serves, or is about to."""
        return self.state in LIVE

    @property
    def is_on_its_way(self) -> bool:
        """It is being loaded or woken."""
        return self.state in LIVE and self.state is not EngineState.AWAKE

    @property
    def is_leaving(self) -> bool:
        """Its memory will be free, but is not yet."""
        return self.state in LEAVING and not self.is_stuck

    @property
    def is_dismissed(self) -> bool:
        """No engines are wanted at its endpoint any more: it goes when what runs there has ended."""
        return self.state is EngineState.DRAINING and self.claimed_by is None

    @property
    def is_in_transit(self) -> bool:
        """What it holds will change before long."""
        return self.state in IN_TRANSIT and not self.is_stuck


class Fit(NamedTuple):
    """GPUs of one node on which an engine fits, and how much memory would stay free on them."""

    node_id: str
    gpu_indices: tuple[int, ...]
    left_mib: int


class Reservation(NamedTuple):
    """Memory that an endpoint's engine will take as soon as who holds it has gone: nobody else may."""

    gpu_indices: tuple[int, ...]
    memory_per_gpu_mib: int


@dataclass(slots=True, eq=False)
class NodeState:
    """One node and what is on it."""

    node: Node
    engines: dict[str, Engine] = field(default_factory=dict)
    reserved: dict[int, Reservation] = field(default_factory=dict)  # by the endpoint that will come
    idle_since: float | None = None  # when it was first seen that nothing runs there
    is_released: bool = False  # it has been given back and will be gone: nothing more comes there
    # Worked out when asked for.
    _beside: dict[str, tuple[Engine, ...]] = field(default_factory=dict)
    _unheld_mib: dict[int, int] | None = None
    _roomiest_mib: int = 0

    def enter(self, engine: Engine) -> None:
        """An engine is there, whatever its state."""
        self.engines[engine.engine_id] = engine
        self._beside.clear()
        self.memory_changed()

    def drop(self, engine: Engine) -> None:
        """An engine is gone."""
        del self.engines[engine.engine_id]
        self._beside.clear()
        self.memory_changed()

    def memory_changed(self) -> None:
        """What its engines hold, or what there is, may be different. Must be called whenever that is so."""
        self._unheld_mib = None

    def beside(self, engine: Engine) -> tuple[Engine, ...]:
        """The other engines on the same GPUs."""
        found = self._beside.get(engine.engine_id)
        if found is None:
            gpus = set(engine.gpu_indices)
            found = tuple(
                other
                for other in self.engines.values()
                if other is not engine and not gpus.isdisjoint(other.gpu_indices)
            )
            self._beside[engine.engine_id] = found
        return found

    @property
    def has_stuck(self) -> bool:
        """An engine that should have ended holds memory there."""
        return any(engine.is_stuck for engine in self.engines.values())

    def unheld_mib(self) -> dict[int, int]:
        """Memory by GPU index that no engine holds, reserved or not."""
        return dict(self._unheld())

    def summed_unheld_mib(self) -> dict[int, int]:
        """The same, from its engines as they are now."""
        unheld = {gpu.index: gpu.memory_mib for gpu in self.node.gpus}
        for engine in self.engines.values():
            _add(unheld, engine.gpu_indices, -engine.held_per_gpu_mib)
        return unheld

    def may_fit(self, spec: EngineSpec) -> bool:
        """False where it certainly does not fit now: no GPU has as much memory that nobody holds."""
        self._unheld()
        return self._roomiest_mib >= spec.memory_per_gpu_mib

    def free_mib(
        self,
        endpoint_id: int | None = None,
        *,
        without: Iterable[Engine] = (),
        asleep: Iterable[Engine] = (),
        besides: Iterable[Reservation] = (),
    ) -> dict[int, int]:
        """Free memory by GPU index, for engines of this endpoint (what is reserved for others is not), as if the
        engines `without` were gone, the engines `asleep` slept and what `besides` asks for were reserved."""
        free = self.unheld_mib()
        for engine in without:
            _add(free, engine.gpu_indices, engine.held_per_gpu_mib)
        for engine in asleep:
            _add(free, engine.gpu_indices, engine.held_per_gpu_mib - engine.residue_per_gpu_mib)
        for reserved_for, reservation in self.reserved.items():
            if reserved_for != endpoint_id:
                _add(free, reservation.gpu_indices, -reservation.memory_per_gpu_mib)
        for reservation in besides:
            _add(free, reservation.gpu_indices, -reservation.memory_per_gpu_mib)
        return free

    def host_free_mib(self) -> float:
        """Host RAM that is not taken by the weights of engines that sleep or have slept; unlimited if not told."""
        if self.node.host_memory_mib <= 0:
            return float("inf")
        return self.node.host_memory_mib - sum(each.host_mib for each in self.engines.values() if each.has_slept)

    def has_room_for(self, engine: Engine) -> bool:
        """Whether this sleeping engine could wake on its GPUs now."""
        if self.is_released:
            return False
        free = self.free_mib(engine.endpoint_id, without=(engine,))
        return all(free.get(index, -1) >= engine.memory_per_gpu_mib for index in engine.gpu_indices)

    def fit(
        self,
        spec: EngineSpec,
        endpoint_id: int | None = None,
        *,
        without: Iterable[Engine] = (),
        asleep: Iterable[Engine] = (),
        besides: Iterable[Reservation] = (),
    ) -> Fit | None:
        """Best fit: the GPUs with the least free memory that suffices, for an engine of this endpoint."""
        free = self.free_mib(endpoint_id, without=without, asleep=asleep, besides=besides)
        need = spec.memory_per_gpu_mib
        enough = sorted((left, index) for index, left in free.items() if left >= need)[: spec.gpus]
        if len(enough) < spec.gpus:
            return None
        left_mib = sum(left for left, _ in enough) - need * spec.gpus
        return Fit(self.node.id, tuple(sorted(index for _, index in enough)), left_mib)

    def _unheld(self) -> dict[int, int]:
        if self._unheld_mib is None:
            self._unheld_mib = self.summed_unheld_mib()
            self._roomiest_mib = max(self._unheld_mib.values(), default=0)
        return self._unheld_mib

    def could_fit(self, spec: EngineSpec) -> bool:
        """Whether it would fit on the empty node."""
        return sum(gpu.memory_mib >= spec.memory_per_gpu_mib for gpu in self.node.gpus) >= spec.gpus


def _add(free: dict[int, int], indices: Iterable[int], mib: int) -> None:
    for index in indices:
        if index in free:
            free[index] += mib


def need_message(spec: EngineSpec) -> str:
    """What it needs, for clients."""
    if spec.gpus == 1:
        return f"needs {gib(spec.memory_per_gpu_mib)} on 1 GPU"
    return f"needs {gib(spec.memory_per_gpu_mib)} on each of {spec.gpus} GPUs"


def does_not_fit_message(spec: EngineSpec, nodes: Sequence[NodeState]) -> str:
    """What it needs and what the best node has, for clients. There is at least one node."""
    best = max(nodes, key=lambda each: (min(len(each.node.gpus), spec.gpus), _largest_mib(each)))
    largest = gib(_largest_mib(best))
    if spec.gpus == 1:
        return f"{need_message(spec)}; the largest GPU has {largest}"
    return f"{need_message(spec)}; the best node has {count(len(best.node.gpus), 'GPU')}, the largest of {largest}"


def gib(mib: int) -> str:
    """40 GiB, 1.5 GiB."""
    return f"{mib / MIB_PER_GIB:.1f}".removesuffix(".0") + " GiB"


def count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _largest_mib(node: NodeState) -> int:
    return max((gpu.memory_mib for gpu in node.node.gpus), default=0)
