"""One engine at work in simulated time: leaps over equal steps of the engine model, cut short by whatever comes up.

The rules of a step are the engine model's; memory, transitions and commands are the node's (`nodes`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Protocol

from logos.simulation.agenda import Agenda
from logos.simulation.engine import EngineModel, EnginePace

STEP_EPSILON = 1e-9  # of a step: what rounding may have added


class Answers(Protocol):
    """Who is told what comes out of engines."""

    def first_token(self, request_id: str) -> None: ...

    def finished(self, request_id: str) -> None: ...


class ServingEngine:
    """Runs sequences, named by request id, through an engine model. `neighbours` are those on the same GPUs."""

    __slots__ = (
        "_agenda",
        "_answers",
        "_began_at",
        "_busy_changed",
        "_step_s",
        "_steps",
        "_version",
        "busy",
        "gpu_indices",
        "model",
        "neighbours",
    )

    def __init__(
        self,
        pace: EnginePace,
        agenda: Agenda,
        answers: Answers,
        busy_changed: Callable[[ServingEngine], None],
        gpu_indices: tuple[int, ...] = (),
    ) -> None:
        self.model: EngineModel[str] = EngineModel(pace)
        self.gpu_indices = gpu_indices
        self.neighbours: tuple[ServingEngine, ...] = ()
        self.busy = False
        self._agenda = agenda
        self._answers = answers
        self._busy_changed = busy_changed
        self._began_at = 0.0
        self._step_s = 0.0
        self._steps = 0
        self._version = 0  # of the leap under way; ends of older ones are void

    def submit(self, request_id: str, prompt_tokens: int, output_tokens: int, prefix: Sequence[Hashable] = ()) -> None:
        """Raises ValueError for a sequence that could never fit, or that is already here."""
        self.model.submit(request_id, prompt_tokens, output_tokens, prefix)
        if self.busy:
            self._cut()
        else:
            self._set_busy(True)
            self._leap()

    def abort(self, request_id: str) -> bool:
        """The client left; False if the sequence is not here. The step under way goes on without it."""
        was_here = self.model.abort(request_id)
        if was_here and self.busy:
            self._cut()
        return was_here

    def break_off(self) -> list[str]:
        """The process is gone: nothing goes on. Returns what was in it."""
        lost = self.model.keys()
        for request_id in lost:
            self.model.abort(request_id)
        self._version += 1
        if self.busy:
            self._set_busy(False)
        return lost

    def contend(self, contended: bool) -> None:
        """A neighbour on the same GPUs began or ended to be busy; the step under way keeps its pace."""
        if self.model.contended != contended:
            self.model.contended = contended
            if self.busy:
                self._cut()

    # Inside.

    def _leap(self) -> None:
        plan = self.model.plan()
        if plan is None:
            self._set_busy(False)
            return
        self._began_at = self._agenda.now
        self._step_s = plan.step_s
        self._steps = plan.steps_ahead
        self._arm()

    def _arm(self) -> None:
        self._version += 1
        self._agenda.at(self._began_at + self._steps * self._step_s, self._ended, self._version)

    def _cut(self) -> None:
        """The leap ends at the next boundary of a step."""
        if self._steps == 1:
            return
        done = (self._agenda.now - self._began_at) / self._step_s
        steps = max(1, math.ceil(done - STEP_EPSILON))
        if steps < self._steps:
            self._steps = steps
            self._arm()

    def _ended(self, version: int) -> None:
        if version != self._version:
            return
        step = self.model.advance(self._steps, list_tokens=False)
        # The next leap begins before anyone can react to what came out of this one.
        self._leap()
        for request_id in step.first:
            self._answers.first_token(request_id)
        for request_id in step.finished:
            self._answers.finished(request_id)

    def _set_busy(self, busy: bool) -> None:
        self.busy = busy
        self._busy_changed(self)
