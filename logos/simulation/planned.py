"""A core that follows a plan: which models are awake when, made by somebody who knows the future.

Requests run in order of arrival as soon as their model is in; when a phase closes, the models that leave admit nothing
more, run out, and go to sleep, and those that come wake up. Where plans come from is `clairvoyant`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from logos.domain.catalogue import Catalogue
from logos.domain.lifecycle import EngineState
from logos.simulation.plain_core import PlainCore, PlainEngine


@dataclass(frozen=True, slots=True)
class Phase:
    """These endpoints are awake; from `closes_at` on those that are not in the next phase admit nothing."""

    awake: frozenset[int]
    closes_at: float = math.inf


class PlannedCore(PlainCore):
    """Follows the phases. Each endpoint has one engine; a phase does not close before all that it brings is in."""

    def __init__(self, catalogue: Catalogue, plan: Sequence[Phase]) -> None:
        super().__init__(catalogue)
        self._plan = plan
        self._index = -1
        self._leaving: frozenset[int] = frozenset()

    def decide(self) -> None:
        if not self.nodes:
            return
        if self._index < 0:
            self._enter(0)
        self._serve()
        while self._is_over():
            self._enter(self._index + 1)
            self._serve()
        for engine in self._engines(self._leaving):
            if engine.state is EngineState.AWAKE and not engine.running:
                self.sleep(engine)

    def _serve(self) -> None:
        staying = self._engines(self._plan[self._index].awake - self._leaving)
        self._wake(staying)
        self.serve_in_order(staying)

    def _engines(self, endpoint_ids: frozenset[int]) -> list[PlainEngine]:
        return [each for endpoint_id in sorted(endpoint_ids) for each in self.engines_of(endpoint_id)]

    def _enter(self, index: int) -> None:
        self._index = index
        self._leaving = frozenset()
        if math.isfinite(self._plan[index].closes_at):
            self.wake_me(self._plan[index].closes_at)

    def _is_over(self) -> bool:
        """Everything that leaves is asleep."""
        phase = self._plan[self._index]
        if self._index + 1 >= len(self._plan) or self.now < phase.closes_at:
            return False
        if not self._leaving and all(each.state is EngineState.AWAKE for each in self._engines(phase.awake)):
            self._leaving = phase.awake - self._plan[self._index + 1].awake
        leaving = self._engines(self._leaving)
        return bool(leaving) and all(each.state is EngineState.ASLEEP for each in leaving)

    def _wake(self, engines: Sequence[PlainEngine]) -> None:
        """Those that most wait for come first."""
        for engine in sorted(engines, key=self._waiting_for, reverse=True):
            if engine.state is EngineState.ASLEEP and self.fits(engine):
                self.wake(engine)

    def _waiting_for(self, engine: PlainEngine) -> int:
        return sum(each.endpoint_id == engine.endpoint_id for each in self.waiting.values())
