"""A small simulated world for `bench_prediction`: engines that differ, behind a queue each, and remote endpoints.

It drives `EngineModel` by a heap of events of its own, one Logos-like queue in front of each engine, and says at two
moments what a scheduler would know then: when a request arrives and when it is dispatched. Scoring is elsewhere.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Protocol

from logos.domain.nouns import EngineSpec, Tier
from logos.prediction.backlog import Backlog
from logos.prediction.pace import Situation
from logos.prediction.predictor import Predictor
from logos.prediction.service import Transition
from logos.prediction.spans import AT_ONCE, Span
from logos.simulation.engine import EngineModel, EnginePace
from logos.simulation.lengths import DEFAULT_SHARES, output_tokens

PREFIXES = 8
PREFIX_SHARE = 0.5
REMEMBERED_PREFIXES = 32  # what a scheduler would think that an engine still holds
PROMPT_TOKENS = (10, 8_000)
REPORT_S = 1.0  # how old an engine's own figures may be


@dataclass(frozen=True, slots=True)
class EngineKind:
    """An endpoint with one engine. Transitions in seconds, drawn around these medians."""

    name: str
    memory_mib: int
    slots: int
    pace: EnginePace
    wake_s: float
    sleep_s: float
    load_s: float
    idle_s: float = 10.0  # after which it sleeps
    load: float = 0.4  # of what it could do
    neighbour: str | None = None  # on the same GPUs


@dataclass(frozen=True, slots=True)
class RemoteKind:
    """A remote endpoint: its latency is `base_s` + `token_s` a prompt token, times a lognormal factor."""

    name: str
    base_s: float
    token_s: float
    sigma: float
    rate: float = 1.0


@dataclass(slots=True, eq=False)
class Job:
    """One request on its way."""

    number: int
    prompt: int
    output: int
    allowed: int
    prefix: int | None
    arrived_at: float
    met: Situation
    tier: Tier
    uncached: int = 0
    dispatched_at: float = 0.0
    met_at_dispatch: Situation | None = None
    first_at: float | None = None


class Watch(Protocol):
    """Who wants to know: what arrived where (its situation is in the job), and the TTFT from then, in seconds."""

    def arrived(self, place: Place, job: Job) -> None: ...

    def seen(self, place: Place, job: Job, ttft_s: float) -> None: ...


@dataclass(slots=True, eq=False)
class Clock:
    """The heap of what will happen."""

    now: float = 0.0
    events: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    order: count[int] = field(default_factory=count)

    def at(self, when: float, action: Callable[[], None]) -> None:
        heapq.heappush(self.events, (when, next(self.order), action))

    def run(self) -> None:
        while self.events:
            self.now, _, action = heapq.heappop(self.events)
            action()


class Place:
    """What engines and remote endpoints have in common: arrivals in bursts, prompts with shared beginnings."""

    def __init__(self, endpoint_id: int, name: str, rate: float, world: World) -> None:
        self.endpoint_id, self.name, self.world = endpoint_id, name, world
        self.random = random.Random(f"{world.seed}/{name}")
        self.rate = rate
        self.left = world.requests
        self.prefixes = [16 * self.random.randrange(16, 190) for _ in range(PREFIXES)]
        self.burst_until = self.calm_until = 0.0
        self._next_arrival()

    def _next_arrival(self) -> None:
        """Bursts of 5 to 20 s at 2.5 times the rate, calms of 20 to 60 s at half of it."""
        chance, now = self.random, self.world.clock.now
        if now >= self.calm_until:
            self.burst_until = now + chance.uniform(5, 20)
            self.calm_until = self.burst_until + chance.uniform(20, 60)
        rate = self.rate * (2.5 if now < self.burst_until else 0.5)
        self.world.clock.at(now + chance.expovariate(rate), self._arrive)

    def _arrive(self) -> None:
        self.left -= 1
        if self.left:
            self._next_arrival()
        self.take(self._job())

    def _job(self) -> Job:
        chance = self.random
        low, high = PROMPT_TOKENS
        prompt = round(min(max(chance.lognormvariate(math.log(700), 1.2), low), high))
        prefix = None
        if chance.random() < PREFIX_SHARE:
            prefix = min(chance.randrange(PREFIXES), chance.randrange(PREFIXES))
            prompt = min(high, prompt + self.prefixes[prefix])
        allowed = chance.randrange(32, 420)
        output = output_tokens(DEFAULT_SHARES, chance.random(), allowed)
        nothing = Situation(0, 0)
        return Job(self.left, prompt, output, allowed, prefix, self.world.clock.now, nothing, Tier.WARM)

    def take(self, job: Job) -> None:
        raise NotImplementedError


class RemotePlace(Place):
    """Answers after a while, however many ask."""

    def __init__(self, endpoint_id: int, kind: RemoteKind, world: World) -> None:
        super().__init__(endpoint_id, kind.name, kind.rate, world)
        self.kind = kind
        self.running = 0
        world.predictor.introduce(endpoint_id, None)

    def take(self, job: Job) -> None:
        job.tier = Tier.REMOTE
        job.met = Situation(job.prompt, job.prompt, self.running)
        self.world.watch.arrived(self, job)
        median_s = self.kind.base_s + self.kind.token_s * job.prompt
        ttft_s = median_s * self.random.lognormvariate(0.0, self.kind.sigma)
        self.running += 1
        self.world.clock.at(self.world.clock.now + ttft_s, lambda: self._first(job, ttft_s))

    def _first(self, job: Job, ttft_s: float) -> None:
        self.world.predictor.observe_first_token(self.endpoint_id, job.met, ttft_s)
        self.world.watch.seen(self, job, ttft_s)
        self.world.clock.at(self.world.clock.now + 0.02 * job.output, self._finished)

    def _finished(self) -> None:
        self.running -= 1


class EnginePlace(Place):
    """One engine and the queue in front of it. It sleeps, or is stopped, when it has been idle."""

    def __init__(self, endpoint_id: int, kind: EngineKind, world: World) -> None:
        self.kind = kind
        self.engine: EngineModel[int] = EngineModel(kind.pace)
        self.queue: deque[Job] = deque()
        self.inside: dict[int, Job] = {}
        self.remembered: OrderedDict[int, None] = OrderedDict()
        self.awake = False
        self.coming: list[tuple[Transition, float]] = []  # transitions to go through, (which, what it will take)
        self.coming_since = 0.0
        self.backlog = Backlog()
        self.leap: tuple[float, float, int] | None = None  # (since, seconds of a step, steps)
        self.leap_number = 0
        self.idle_number = 0
        self.kv_usage, self.reported_at = 0.0, 0.0
        self.down = Transition.LOAD  # what it takes to bring it back
        super().__init__(endpoint_id, kind.name, self._rate(), world)
        world.predictor.introduce(endpoint_id, EngineSpec(1, kind.memory_mib))

    def _rate(self) -> float:
        """Requests a second at which it would be busy for `load` of the time, roughly."""
        pace, kind = self.kind.pace, self.kind
        batch = min(kind.slots, pace.max_sequences) / 2
        mean_prompt, mean_output = 1_500, 120
        cost_s = pace.prefill_per_token_s * mean_prompt * 0.8
        cost_s += mean_output * (pace.step_base_s / batch + pace.step_per_sequence_s)
        return kind.load / cost_s

    @property
    def now(self) -> float:
        return self.world.clock.now

    @property
    def neighbour(self) -> EnginePlace | None:
        found = self.world.named.get(self.kind.neighbour or "")
        return found if isinstance(found, EnginePlace) else None

    # What a scheduler would know.

    def situation(self, job: Job, *, waiting: bool) -> Situation:
        """At this moment; `waiting`: the queue goes before it."""
        ahead = self.queue if waiting else ()
        return Situation(
            prompt_tokens=job.prompt,
            uncached_tokens=job.uncached,
            running=len(self.inside),
            slots=self.kind.slots,
            waiting=len(ahead),
            queued_tokens=sum(each.uncached for each in ahead),
            prefill_tokens=self.backlog.remaining_tokens,
            prefill_elapsed_s=self.now - self.backlog.at,
            prefill_pairs=self.backlog.remaining_pairs,
            kv_usage=self.kv_usage,
            neighbours=len(neighbour.inside) if (neighbour := self.neighbour) else 0,
            delay=self._delay(),
        )

    def _delay(self) -> Span:
        if self.awake:
            return AT_ONCE
        total = AT_ONCE
        elapsed = self.now - self.coming_since
        for transition, _ in self.coming:
            expected = self.world.predictor.transition(self.endpoint_id, "node", transition)
            total = total.then(expected.less(elapsed))
            elapsed = 0.0
        if self.coming[-1][0] is Transition.SLEEP:
            total = total.then(self.world.predictor.transition(self.endpoint_id, "node", self.down))
        return total

    def _expect_cached(self, job: Job) -> None:
        """Held if somebody with this prefix has had a first token, or is far enough ahead of it to have one by then."""
        job.uncached = job.prompt
        if job.prefix is None:
            return
        between = -1
        for each in self.inside.values():
            if each.first_at is None and between >= 0:
                between += each.uncached
            elif each.first_at is None and each.prefix == job.prefix:
                between = 0
        if job.prefix in self.remembered or between >= self.kind.pace.prefill_chunk_tokens:
            job.uncached = job.prompt - min(self.prefixes[job.prefix], job.prompt - 1)

    # What happens.

    def take(self, job: Job) -> None:
        self._expect_cached(job)
        if not self.awake and not self.coming:
            self._change(self.down)
        job.met = self.situation(job, waiting=True)
        job.tier = Tier.QUEUED if len(self.queue) + len(self.inside) >= self.kind.slots else Tier.WARM
        if job.met.delay is not AT_ONCE:
            job.tier = Tier.COLD if self.down is Transition.LOAD else Tier.ASLEEP
        self.world.watch.arrived(self, job)
        self.queue.append(job)
        self._dispatch()

    def _dispatch(self) -> None:
        while self.awake and self.queue and len(self.inside) < self.kind.slots:
            job = self.queue.popleft()
            self._expect_cached(job)
            job.met_at_dispatch = self.situation(job, waiting=False)
            job.dispatched_at = self.now
            self.inside[job.number] = job
            self.backlog.dispatched(str(job.number), job.uncached, self.now, job.prompt - job.uncached)
            blocks: list[tuple[int, int]] = []
            if job.prefix is not None:
                blocks = [(job.prefix, block) for block in range(min(self.prefixes[job.prefix], job.prompt) // 16)]
            self.engine.submit(job.number, job.prompt, job.output, blocks)
            self._cut()
        self._plan()

    def _cut(self) -> None:
        """Somebody came: the leap ends at the next boundary of a step."""
        if self.leap is None:
            return
        since, step_s, steps = self.leap
        done = min(max(math.ceil((self.now - since) / step_s), 1), steps)
        self._leap(since, step_s, done)

    def _leap(self, since: float, step_s: float, steps: int) -> None:
        self.leap = (since, step_s, steps)
        self.leap_number += 1
        number = self.leap_number
        self.world.clock.at(since + step_s * steps, lambda: self._stepped(number))

    def _plan(self) -> None:
        if self.leap is not None:
            return
        self.engine.contended = self.neighbour is not None and not self.neighbour.engine.idle
        plan = self.engine.plan()
        if plan is None:
            self._idle()
        else:
            self._leap(self.now, plan.step_s, plan.steps_ahead)

    def _stepped(self, number: int) -> None:
        if number != self.leap_number or self.leap is None:
            return
        steps, self.leap = self.leap[2], None
        step = self.engine.advance(steps, list_tokens=False)
        for key in step.first:
            self._first(self.inside[key])
        for key in step.finished:
            self._finished(self.inside.pop(key))
        if self.now >= self.reported_at + REPORT_S:
            self.kv_usage, self.reported_at = self.engine.kv_usage, self.now
        self._dispatch()

    def _first(self, job: Job) -> None:
        assert job.met_at_dispatch is not None
        job.first_at = self.now
        if job.prefix is not None:  # known to be in the cache from now on
            self.remembered[job.prefix] = None
            self.remembered.move_to_end(job.prefix)
        predictor = self.world.predictor
        self.backlog.left(str(job.number), self.now, *predictor.prompt_cost_s(self.endpoint_id))
        predictor.observe_first_token(self.endpoint_id, job.met_at_dispatch, self.now - job.dispatched_at)
        if job.dispatched_at > job.arrived_at:
            predictor.observe_first_token(self.endpoint_id, job.met, self.now - job.arrived_at)
        self.world.watch.seen(self, job, self.now - job.arrived_at)

    def _finished(self, job: Job) -> None:
        assert job.met_at_dispatch is not None
        assert job.first_at is not None
        predictor, met = self.world.predictor, job.met_at_dispatch
        first_s, total_s = job.first_at - job.dispatched_at, self.now - job.dispatched_at
        predictor.observe_finished(self.endpoint_id, met, job.output, first_s, total_s)
        predictor.answers.observe(self.endpoint_id, 1, job.output, job.allowed)

    # Transitions.

    def _idle(self) -> None:
        self.idle_number += 1
        number = self.idle_number

        def sleep_if_still_idle() -> None:
            if number == self.idle_number and self.awake and self.engine.idle:
                self.awake = False
                self.engine.preempt_all()
                self.remembered.clear()
                self.down = Transition.LOAD if self.random.random() < 0.2 else Transition.WAKE
                self._change(Transition.SLEEP)

        self.world.clock.at(self.now + self.kind.idle_s, sleep_if_still_idle)

    def _change(self, transition: Transition) -> None:
        median_s = {
            Transition.LOAD: self.kind.load_s,
            Transition.WAKE: self.kind.wake_s,
            Transition.SLEEP: self.kind.sleep_s,
        }[transition]
        seconds = median_s * self.random.lognormvariate(0.0, 0.06)
        if not self.coming:
            self.coming_since = self.now
        self.coming.append((transition, seconds))
        self.world.clock.at(self.now + seconds, lambda: self._changed(transition, seconds))

    def _changed(self, transition: Transition, seconds: float) -> None:
        self.world.predictor.observe_transition(self.endpoint_id, "node", transition, seconds)
        self.coming.pop(0)
        if transition is not Transition.SLEEP:
            self.awake = True
            self._dispatch()
        elif self.queue:
            self._change(self.down)


class World:
    """Endpoints, one predictor that learns from all of them, and who wants to know what was predicted and came."""

    def __init__(self, kinds: tuple[EngineKind | RemoteKind, ...], requests: int, seed: int, watch: Watch) -> None:
        self.seed, self.requests, self.watch = seed, requests, watch
        self.clock = Clock()
        self.predictor = Predictor()
        self.named: dict[str, Place] = {}
        for endpoint_id, kind in enumerate(kinds, start=1):
            made = EnginePlace if isinstance(kind, EngineKind) else RemotePlace
            self.named[kind.name] = made(endpoint_id, kind, self)

    def run(self) -> None:
        """Until every request has been answered."""
        self.clock.run()
