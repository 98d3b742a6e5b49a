"""A baseline that works like Ollama: one line, models in and out by least recent use, fixed parallelism.

Requests are looked at strictly in order of arrival. The one at the head waits until its model is there; if memory is
short, the engines least recently used go, each when it has nothing left to run. Whoever stands behind waits, too, even
if its own model is awake. Models go to host RAM and come back from there, as from a page cache.
"""

from __future__ import annotations

from logos.domain.catalogue import Catalogue
from logos.domain.lifecycle import EngineState
from logos.simulation.plain_core import PlainCore, PlainEngine, Waiting

PARALLEL = 4
COMING = frozenset({EngineState.WAKING, EngineState.LOADING})


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
        """Wakes the head's engine, or makes room for it."""
        engines = self.engines_of(head.endpoint_id)
        if any(each.state in COMING or each.state is EngineState.AWAKE for each in engines):
            return
        engine = next((each for each in engines if each.state is EngineState.ASLEEP), None)
        if engine is None:
            return
        if self.fits(engine):
            self.wake(engine)
            return
        in_the_way = self.neighbours(engine)
        if any(each.state is EngineState.FALLING_ASLEEP for each in in_the_way):
            return
        idle = [each for each in in_the_way if each.state is EngineState.AWAKE and not each.running]
        if idle:
            self.sleep(min(idle, key=lambda each: each.used_at))
