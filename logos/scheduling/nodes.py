"""Nodes, the engines on them, and the memory ledger of their GPUs.

An engine takes its memory from the moment it is told to load until its node has reported that it is gone: a release
that is only promised is not credited. Whether an engine should come or go is decided in `capacity`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from logos.domain.lifecycle import HOLDS_GPU_MEMORY, EngineState
from logos.domain.nouns import EngineSpec, Node
from logos.scheduling.timers import Timer

LIVE = frozenset({EngineState.AWAKE, EngineState.LOADING, EngineState.WAKING})
LEAVING = frozenset({EngineState.STOPPING, EngineState.DRAINING, EngineState.FALLING_ASLEEP, EngineState.FAILED})
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
    seconds: float = 0.0
    measured_mib: int = 0
    running_inside: int = 0
    waiting_inside: int = 0
    kv_usage: float = 0.0
    timer: Timer | None = None

    @property
    def is_live(self) -> bool:
        """It serves, or is about to."""
        return self.state in LIVE

    @property
    def is_leaving(self) -> bool:
        """Its memory will be free, but is not yet."""
        return self.state in LEAVING


class Fit(NamedTuple):
    """GPUs of one node on which an engine fits, and how much memory would stay free on them."""

    node_id: str
    gpu_indices: tuple[int, ...]
    left_mib: int


@dataclass(slots=True, eq=False)
class NodeState:
    """One node and what is on it."""

    node: Node
    engines: dict[str, Engine] = field(default_factory=dict)

    def free_mib(self) -> dict[int, int]:
        """Free memory by GPU index."""
        free = {gpu.index: gpu.memory_mib for gpu in self.node.gpus}
        for engine in self.engines.values():
            if engine.state in HOLDS_GPU_MEMORY:
                for index in engine.gpu_indices:
                    if index in free:
                        free[index] -= engine.memory_per_gpu_mib
        return free

    def fit(self, spec: EngineSpec, *, without: Iterable[Engine] = ()) -> Fit | None:
        """Best fit: the GPUs with the least free memory that suffices, as if the engines `without` were gone."""
        free = self.free_mib()
        for engine in without:
            if engine.state in HOLDS_GPU_MEMORY:
                for index in engine.gpu_indices:
                    if index in free:
                        free[index] += engine.memory_per_gpu_mib
        need = spec.memory_per_gpu_mib
        enough = sorted((left, index) for index, left in free.items() if left >= need)[: spec.gpus]
        if len(enough) < spec.gpus:
            return None
        left_mib = sum(left for left, _ in enough) - need * spec.gpus
        return Fit(self.node.id, tuple(sorted(index for _, index in enough)), left_mib)

    def victims(self, spec: EngineSpec, idle: Sequence[Engine]) -> tuple[Engine, ...] | None:
        """Of this node's `idle` engines, in the order given, those whose end would make room; None: not enough."""
        taken: list[Engine] = []
        for engine in idle:
            if engine.node_id != self.node.id:
                continue
            taken.append(engine)
            fit = self.fit(spec, without=taken)
            if fit is not None:
                return tuple(each for each in taken if set(each.gpu_indices) & set(fit.gpu_indices))
        return None

    def could_fit(self, spec: EngineSpec) -> bool:
        """Whether it would fit on the empty node."""
        return sum(gpu.memory_mib >= spec.memory_per_gpu_mib for gpu in self.node.gpus) >= spec.gpus


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
