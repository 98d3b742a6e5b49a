"""The engine in real time: one task steps the model at its pace; sequences are told when tokens are theirs.

Loading, sleeping and waking are timed here as well. It knows nothing of HTTP: a `Sequence` is what a route hands in
and waits on. All methods run on one event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Hashable, Iterable
from collections.abc import Sequence as Seq
from dataclasses import dataclass

from logos.domain.lifecycle import EngineState
from logos.simulation.engine import EngineModel, EnginePace, Step, TransitionTimes
from logos.simulation.server.figures import Counts
from logos.simulation.server.neighbours import Neighbourhood

# A late timer is made up for by shorter steps after it, unless the process was away for longer than this.
_LATENESS_S_MAX = 0.1
_HELD_MAX = 100_000
HELD_S_MAX = 600.0  # how long a request may wait for a sleeping engine


class Unavailable(Exception):
    """The engine cannot take this sequence."""


class Sequence:
    """One sequence as its route sees it: `made` tokens so far, and an event when there are more."""

    __slots__ = (
        "aborted", "admitted_at_s", "arrived_at_s", "cached_tokens", "done", "finish_reason", "first_at_s", "made",
        "news", "output_tokens", "prefix", "prompt_tokens", "streamed",
    )  # fmt: skip

    def __init__(
        self,
        prompt_tokens: int,
        output_tokens: int,
        news: asyncio.Event,
        *,
        streamed: bool = False,
        prefix: Seq[Hashable] = (),
        finish_reason: str = "length",
    ) -> None:
        self.finish_reason = finish_reason  # how it ends if nobody aborts it
        self.prompt_tokens = prompt_tokens
        self.output_tokens = output_tokens
        self.prefix = prefix
        self.news = news  # shared by the sequences of one request
        self.streamed = streamed  # whether every token is news, or only the end
        self.made = 0
        self.done = False
        self.aborted = False
        self.cached_tokens = 0
        self.arrived_at_s = 0.0
        self.admitted_at_s = 0.0
        self.first_at_s = 0.0


@dataclass(frozen=True, slots=True)
class LiveSettings:
    """Pace and transitions, and how many real seconds stand for one of theirs."""

    pace: EnginePace
    times: TransitionTimes
    time_scale: float = 1.0


class LiveEngine:
    """Created inside a running event loop; `run()` is its one task."""

    def __init__(self, settings: LiveSettings, neighbourhood: Neighbourhood | None = None) -> None:
        self.settings = settings
        self._neighbourhood = neighbourhood
        self.counts = Counts()
        self.state = EngineState.LOADING
        self.sleep_level: int | None = None
        self._loop = asyncio.get_running_loop()
        self._model: EngineModel[Sequence] = EngineModel(settings.pace)
        self._held: dict[Sequence, None] = {}  # arrived while it slept, or was about to
        self._admits = True
        self._asleep_tags: set[str] = set()
        self._transition = asyncio.Lock()
        self._may_step = asyncio.Event()
        self._work = asyncio.Event()
        self._drained = asyncio.Event()

    # --- what the figures read ------------------------------------------------------------------------------

    @property
    def running(self) -> int:
        return self._model.running

    @property
    def waiting(self) -> int:
        return self._model.waiting

    @property
    def held(self) -> int:
        return len(self._held)

    @property
    def kv_usage(self) -> float:
        return self._model.kv_usage

    @property
    def prefix_queried_tokens(self) -> int:
        return self._model.prefix_cache.queried_tokens

    @property
    def prefix_hit_tokens(self) -> int:
        return self._model.prefix_cache.hit_tokens

    @property
    def preemptions(self) -> int:
        return self._model.preemptions

    @property
    def loaded(self) -> bool:
        return self.state is not EngineState.LOADING

    @property
    def is_sleeping(self) -> bool:
        return self.sleep_level is not None

    # --- sequences ------------------------------------------------------------------------------------------

    def submit(self, sequence: Sequence) -> None:
        """Take a sequence in; while the engine sleeps it is held until it wakes. Raises Unavailable."""
        if not self.loaded:
            raise Unavailable("the model is still being loaded")
        if len(self._held) >= _HELD_MAX:
            raise Unavailable("too many requests wait for this engine to wake")
        sequence.arrived_at_s = self._loop.time()
        if self._admits:
            self._enter(sequence)
        else:
            self._held[sequence] = None

    def abort(self, sequence: Sequence) -> None:
        """Take a sequence out at once, wherever it is; nothing happens if it has ended or never arrived."""
        if sequence.done or sequence.arrived_at_s == 0.0:
            return
        self._held.pop(sequence, None)
        self._model.abort(sequence)
        self._end(sequence, aborted=True)
        if self._model.idle:
            self._drained.set()

    def abort_all(self) -> None:
        """End every sequence, as a sleep with mode=abort and the end of the process do."""
        for sequence in [*self._held, *self._model.keys()]:
            self.abort(sequence)

    def _enter(self, sequence: Sequence) -> None:
        self._model.submit(sequence, sequence.prompt_tokens, sequence.output_tokens, sequence.prefix)
        self._work.set()

    def _end(self, sequence: Sequence, *, aborted: bool) -> None:
        sequence.done = True
        sequence.aborted = aborted
        self.counts.ended["abort" if aborted else sequence.finish_reason] += 1
        sequence.news.set()

    # --- transitions ----------------------------------------------------------------------------------------

    async def sleep(self, level: int, mode: str) -> None:
        """Fall asleep: `abort` ends what runs, `wait` lets it end, `keep` computes it again after waking."""
        async with self._transition:
            if not self.loaded:
                raise Unavailable("the model is still being loaded")
            self._admits = False
            if mode == "abort":
                self.abort_all()
            elif mode == "wait" and not self.is_sleeping:
                self._step_on()  # a paused engine would never end what it runs
                await self._drain()
            self._may_step.clear()
            if level == 0:  # a pause; nothing is given up
                return
            self._model.preempt_all()
            if self.sleep_level is None:
                self.state = EngineState.FALLING_ASLEEP
                await self._pass(self.settings.times.sleep_s)
            self.state = EngineState.ASLEEP
            self.sleep_level = level
            self._asleep_tags = {"weights", "kv_cache"}

    async def wake(self, tags: Iterable[str] | None) -> bool:
        """Wake up, wholly or (level 2) a part at a time; whether it is wholly awake then."""
        async with self._transition:
            if not self.loaded:
                raise Unavailable("the model is still being loaded")
            due = self._asleep_tags if tags is None else self._asleep_tags & set(tags)
            if "weights" in due:
                self.state = EngineState.WAKING
                await self._pass(self.settings.times.wake_s)
            self._asleep_tags = self._asleep_tags - due
            if self._asleep_tags:
                return False
            self._rise()
            return True

    def forget_prefixes(self) -> None:
        """Empty the prefix cache."""
        self._model.prefix_cache.clear()

    async def _drain(self) -> None:
        while not self._model.idle:
            self._drained.clear()
            await self._drained.wait()

    def _rise(self) -> None:
        self.state = EngineState.AWAKE
        self.sleep_level = None
        self._admits = True
        held, self._held = self._held, {}
        for sequence in held:
            self._enter(sequence)
        self._step_on()

    def _step_on(self) -> None:
        self._may_step.set()
        self._work.set()

    async def _pass(self, simulated_s: float) -> None:
        await asyncio.sleep(simulated_s * self.settings.time_scale)

    # --- the one task ---------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Load, then step for ever."""
        await self._pass(self.settings.times.load_s)
        self._rise()
        due_s = self._loop.time()
        while True:
            if self._neighbourhood is not None:
                self._model.contended = self._neighbourhood.is_contended()
            plan = self._model.plan() if self._may_step.is_set() else None
            if plan is None:
                self._tell_busy(0.0)
                self._work.clear()
                await self._work.wait()
                due_s = self._loop.time()  # the next step begins now
                continue
            started_s = self._loop.time()
            for sequence in plan.admitted:
                self._note_admission(sequence, started_s)
            step_s = plan.step_s * self.settings.time_scale
            # Without a pace, equal steps are taken at once.
            steps = 1 if step_s > 0 else plan.steps_ahead
            due_s = max(due_s, started_s - _LATENESS_S_MAX) + step_s
            self._tell_busy(step_s)
            await asyncio.sleep(max(0.0, due_s - started_s))
            if not self._may_step.is_set():
                continue  # it fell asleep in the middle of the step
            self._tell(self._model.advance(steps), started_s)

    def _tell_busy(self, step_s: float) -> None:
        """Neighbours take it to be busy for this step and the next one, which begins right after it."""
        if self._neighbourhood is not None:
            self._neighbourhood.tell(time.monotonic() + 2 * step_s if step_s > 0 else 0.0)

    def _tell(self, step: Step[Sequence], started_s: float) -> None:
        """Hand the tokens of a step to their sequences, and count them."""
        now_s = self._loop.time()
        counts = self.counts
        for sequence in step.first:
            sequence.first_at_s = now_s
            counts.prompt_tokens += sequence.prompt_tokens
            counts.first_token_s.observe(now_s - sequence.arrived_at_s)
            counts.queue_s.observe(sequence.admitted_at_s - sequence.arrived_at_s)
            counts.prefill_s.observe(now_s - sequence.admitted_at_s)
        made = 0
        for sequence, tokens in step.tokens:
            sequence.made += tokens
            made += tokens
            if sequence.streamed:
                sequence.news.set()
        later = made - len(step.first)
        if later:
            counts.inter_token_s.observe((now_s - started_s) / step.steps, later)
        counts.generation_tokens += made
        for sequence in step.finished:
            counts.total_s.observe(now_s - sequence.arrived_at_s)
            counts.decode_s.observe(now_s - sequence.first_at_s)
            self._end(sequence, aborted=False)
        if step.finished and self._model.idle:
            self._drained.set()

    def _note_admission(self, sequence: Sequence, now_s: float) -> None:
        if sequence.admitted_at_s == 0.0:  # else it was preempted and comes back
            sequence.admitted_at_s = now_s
            sequence.cached_tokens = self._model.cached_tokens(sequence)
