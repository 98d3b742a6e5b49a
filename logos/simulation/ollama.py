"""A baseline that works like Ollama: one line, models in and out by least recent use, fixed parallelism.

Requests are looked at strictly in order of arrival. The one at the head waits until its model is there; if memory is
short, the engines least recently used go, each when it has nothing left to run. Whoever stands behind waits, too, even
if its own model is awake. Models go to host RAM and come back from there, as from a page cache.
"""

from __future__ import annotations

from logos.domain.catalogue import Catalogue
from logos.domain.lifecycle import EngineState
from logos.domain.nouns import EngineSpec
from logos.simulation.plain_core import PlainCore, PlainEngine, Waiting

PARALLEL = 4


class OllamaCore(PlainCore):
    """`parallel` requests at most run at once on one engine."""

    def __init__(self, catalogue: Catalogue, parallel: int = PARALLEL) -> None:
        super().__init__(catalogue)
        self._parallel = parallel

    def decide(self) -> None:
        while self.waiting:
            head = next(iter(self.waiting.values()))
            engine = self._ready(head)
            if engine is None:
                self._bring(head)
                return
            self.dispatch(head, engine)

    def _ready(self, head: Waiting) -> PlainEngine | None:
        for engine in self.engines_of(head.endpoint_id):
            if min(self.room(engine), self._parallel - len(engine.running)) > 0:
                return engine
        return None

    def _bring(self, head: Waiting) -> None:
        """Gets the head's engine in: awake from host RAM if it is there, else loaded; makes room if there is none."""
        engines = self.engines_of(head.endpoint_id)
        if any(each.state not in {EngineState.ASLEEP, EngineState.STOPPING} for each in engines):
            return
        asleep = next((each for each in engines if each.state is EngineState.ASLEEP), None)
        if asleep is not None:
            if self.fits(asleep):
                self.wake(asleep)
            else:
                self._make_room(self.neighbours(asleep))
            return
        spec = self.catalogue.endpoint[head.endpoint_id].engine
        found = None if spec is None else self._emptiest(spec)
        if spec is None or found is None:
            return
        node_id, gpus = found
        free = self.free_mib(node_id)
        if all(free[gpu] >= spec.memory_per_gpu_mib for gpu in gpus):
            self.load(head.endpoint_id, node_id, gpus)
        else:
            self._make_room(self.holders(node_id, gpus))

    def _emptiest(self, spec: EngineSpec) -> tuple[str, tuple[int, ...]] | None:
        """The node whose fullest chosen GPU has most free, and those GPUs; None: no node is large enough."""
        found: list[tuple[int, str, tuple[int, ...]]] = []
        for node in self.nodes.values():
            free = self.free_mib(node.id)
            large = [each.index for each in node.gpus if each.memory_mib >= spec.memory_per_gpu_mib]
            gpus = sorted(large, key=lambda each: (-free[each], each))[: spec.gpus]
            if len(gpus) == spec.gpus:
                found.append((free[gpus[-1]], node.id, tuple(sorted(gpus))))
        return max(found, key=lambda each: each[0])[1:] if found else None

    def _make_room(self, in_the_way: list[PlainEngine]) -> None:
        """One goes at a time, the idle one that was used longest ago."""
        if any(each.state is not EngineState.AWAKE for each in in_the_way):
            return
        idle = [each for each in in_the_way if not each.running]
        if not idle:
            return
        victim = min(idle, key=lambda each: each.used_at)
        if self.can_sleep(victim):
            self.sleep(victim)
        else:
            self.stop(victim)
