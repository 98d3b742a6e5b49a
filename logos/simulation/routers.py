"""Baselines for many servers of one model: in turn, as a plain load balancer does, and by weighted scores.

The weighted one is the best heuristic of the published comparison (weights 3-2-2): what is queued, what of the KV cache
is used, and what of the prompt is cached, each between 0 and 1, by the engines' last reports. Everything is sent at
once; nothing waits here, and no engine is moved.
"""

from __future__ import annotations

from logos.domain.catalogue import Catalogue
from logos.domain.lifecycle import EngineState
from logos.scheduling import events as ev
from logos.simulation.plain_core import PlainCore, PlainEngine

QUEUE_WEIGHT, KV_WEIGHT, PREFIX_WEIGHT = 3.0, 2.0, 2.0
PREFIXES_MAX = 10_000  # remembered for each engine


class RoundRobinCore(PlainCore):
    """Each request to the next awake engine of its model."""

    def __init__(self, catalogue: Catalogue) -> None:
        super().__init__(catalogue)
        self._next: dict[int, int] = {}

    def decide(self) -> None:
        for waiting in list(self.waiting.values()):
            awake = [each for each in self.engines_of(waiting.endpoint_id) if each.state is EngineState.AWAKE]
            if not awake:
                continue
            self.dispatch(waiting, self.choose(waiting.request, awake))

    def choose(self, request: ev.Request, awake: list[PlainEngine]) -> PlainEngine:
        endpoint_id = awake[0].endpoint_id
        number = self._next.get(endpoint_id, 0)
        self._next[endpoint_id] = number + 1
        return awake[number % len(awake)]


class WeightedCore(RoundRobinCore):
    """Each request to the engine with the highest score."""

    def __init__(self, catalogue: Catalogue) -> None:
        super().__init__(catalogue)
        self._queued: dict[str, int] = {}
        self._kv_usage: dict[str, float] = {}
        self._prefixes: dict[str, dict[int, None]] = {}
        self._reactions[ev.EngineReported] = self._reported

    def choose(self, request: ev.Request, awake: list[PlainEngine]) -> PlainEngine:
        most = max((self._queued.get(each.engine_id, 0) for each in awake), default=0)
        best = max(awake, key=lambda each: self._score(each, request, most))
        self._queued[best.engine_id] = self._queued.get(best.engine_id, 0) + 1
        if request.prefix is not None:
            held = self._prefixes.setdefault(best.engine_id, {})
            held[request.prefix] = None
            if len(held) > PREFIXES_MAX:
                del held[next(iter(held))]
        return best

    def _score(self, engine: PlainEngine, request: ev.Request, most: int) -> float:
        queue = 1.0 - self._queued.get(engine.engine_id, 0) / most if most else 1.0
        kv = 1.0 - self._kv_usage.get(engine.engine_id, 0.0)
        is_held = request.prefix is not None and request.prefix in self._prefixes.get(engine.engine_id, {})
        cached = request.prefix_tokens / max(request.prompt_tokens, 1) if is_held else 0.0
        return QUEUE_WEIGHT * queue + KV_WEIGHT * kv + PREFIX_WEIGHT * min(cached, 1.0)

    def _reported(self, event: ev.EngineReported) -> None:
        self._queued[event.engine_id] = event.waiting
        self._kv_usage[event.engine_id] = event.kv_usage
