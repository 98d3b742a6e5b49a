"""The best schedule that a search finds with full knowledge of arrivals and lengths: how far a policy is from it.

For worlds of one node whose models take turns on it. A beam search over (time, who is awake, who waits since when) in a
coarse model of the engines proposes plans; the simulator itself says what the best of them are worth, and shifts the
times at which their phases close as long as that helps. What is found is a schedule, not a bound: nothing below it is
proved impossible. The bounds that are proved are in `bounds`.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from logos.domain.lifecycle import EngineState
from logos.simulation.arrivals import Arrival, draw
from logos.simulation.figures import mean
from logos.simulation.kernel import Simulation
from logos.simulation.lengths import output_tokens
from logos.simulation.planned import Phase, PlannedCore
from logos.simulation.run import Run, Status
from logos.simulation.world import World

BUCKET_S = 3.0  # states are compared with those of about the same time
BEAM = 5  # states kept for each bucket and set of awake models
HORIZON_S = 150.0  # the longest phase that is considered
CLOSINGS_APART_S = 1.0
CROWD_S = 0.5  # arrivals less apart than this are one crowd: closing within it is rarely good
SOON_S = 15.0
AFTER_S = 0.001  # a phase that closes at an arrival still takes it
FINALISTS = 6
SHIFTS_S = (-3.0, 3.0, -1.0, 1.0, -0.3, 0.3)
MODELS_MAX = 6
REQUESTS_MAX = 2_000


@dataclass(frozen=True, slots=True)
class Job:
    """One request as a clairvoyant sees it."""

    at: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Clairvoyant:
    """The best plan found, and the run that it makes."""

    plan: tuple[Phase, ...]
    run: Run


def is_searchable(world: World, workload: Sequence[Arrival]) -> bool:
    """Whether models take turns on one node there, and the search would end soon."""
    if len(world.nodes) != 1 or world.remotes or not 2 <= len(world.engines) <= MODELS_MAX:
        return False
    initial = [each.endpoint_id for each in world.nodes[0].engines]
    one_each = sorted(initial) == sorted(world.engines)
    asleep = all(each.state is EngineState.ASLEEP for each in world.nodes[0].engines)
    return one_each and asleep and 0 < len(workload) <= REQUESTS_MAX and len(_awake_sets(world)) > 1


def best_schedule(world: World, workload: Sequence[Arrival], seed: int, *, evaluations: int = 60) -> Clairvoyant | None:
    """The schedule with the least mean TTFT that was found; None where the search does not apply, or finds none that
    answers every request (a model that does not fit beside the residues of the others, say).

    `evaluations` bounds the runs of the simulator after the beam search.
    """
    if not is_searchable(world, workload):
        return None
    plans = _Search(world, workload, seed).plans()
    if not plans:
        return None
    tried = [_try(world, workload, seed, plan) for plan in plans[:FINALISTS]]
    best = _improve(world, workload, seed, min(tried, key=_mean_ttft_s), evaluations)
    return best if _mean_ttft_s(best) < math.inf else None


def _try(world: World, workload: Sequence[Arrival], seed: int, plan: tuple[Phase, ...]) -> Clairvoyant:
    core = PlannedCore(world.catalogue, plan)
    return Clairvoyant(plan, Simulation(world, workload, core, seed, policy="clairvoyant").run())


def _mean_ttft_s(found: Clairvoyant) -> float:
    ttfts = [each.ttft_s for each in found.run.outcomes if each.status is Status.OK and each.ttft_s is not None]
    return mean(ttfts) if len(ttfts) == len(found.run.outcomes) else math.inf


def _improve(world: World, workload: Sequence[Arrival], seed: int, best: Clairvoyant, evaluations: int) -> Clairvoyant:
    """Shifts one closing after the other, as long as evaluations are left and a whole round still helps."""
    left, value = evaluations, _mean_ttft_s(best)
    for shift_s in SHIFTS_S:
        for index in range(len(best.plan) - 1):
            if left <= 0:
                return best
            left -= 1
            found = _try(world, workload, seed, _shifted(best.plan, index, shift_s))
            if (found_value := _mean_ttft_s(found)) < value:
                best, value = found, found_value
    return best


def _shifted(plan: tuple[Phase, ...], index: int, shift_s: float) -> tuple[Phase, ...]:
    closes_at = max(0.0, plan[index].closes_at + shift_s)
    return (*plan[:index], replace(plan[index], closes_at=closes_at), *plan[index + 1 :])


def _awake_sets(world: World) -> list[frozenset[int]]:
    """The largest sets of endpoints whose engines fit on the node together, the others asleep."""
    node = world.nodes[0]
    fitting = [
        frozenset(chosen)
        for size in range(1, len(world.engines) + 1)
        for chosen in itertools.combinations(sorted(world.engines), size)
        if _fit(world, frozenset(chosen))
    ]
    assert node.engines
    return [each for each in fitting if not any(each < other for other in fitting)]


def _fit(world: World, awake: frozenset[int]) -> bool:
    used = {gpu.index: 0 for gpu in world.nodes[0].node.gpus}
    for initial in world.nodes[0].engines:
        spec = world.catalogue.endpoint[initial.endpoint_id].engine
        assert spec is not None
        takes = spec.memory_per_gpu_mib if initial.endpoint_id in awake else spec.residue_per_gpu_mib
        for gpu in initial.gpu_indices:
            used[gpu] += takes
    return all(used[gpu.index] <= gpu.memory_mib for gpu in world.nodes[0].node.gpus)


class _Engine:
    """A coarse engine: every running sequence makes a token each step. `ends` is a heap of step counts."""

    __slots__ = ("ends", "steps")

    def __init__(self, steps: float = 0.0, ends: list[float] | None = None) -> None:
        self.steps = steps
        self.ends = ends if ends is not None else []

    def copy(self) -> _Engine:
        return _Engine(self.steps, self.ends.copy())


class _State:
    """A moment of a schedule: the models of a set have just come, or are about to (`opens`)."""

    __slots__ = ("awake", "closed_at", "cost", "engines", "heads", "opens", "parent", "t")

    def __init__(self, t: float, awake: frozenset[int], heads: dict[int, int]) -> None:
        self.t = t
        self.awake = awake
        self.heads = heads  # by endpoint: the first job that has not been admitted
        self.engines: dict[int, _Engine] = {}
        self.opens: dict[int, float] = {}
        self.cost = 0.0  # waiting of everything admitted so far
        self.parent: _State | None = None
        self.closed_at = 0.0  # when the phase before this one closed

    def copy(self) -> _State:
        other = _State(self.t, self.awake, self.heads.copy())
        other.engines = {key: engine.copy() for key, engine in self.engines.items()}
        other.opens = self.opens.copy()
        other.cost = self.cost
        return other


class _Search:
    """Beam search over schedules in a coarse model of the engines."""

    def __init__(self, world: World, workload: Sequence[Arrival], seed: int) -> None:
        self._world = world
        self._jobs = _jobs(world, workload, seed)
        self._sets = _awake_sets(world)
        self._finished: list[tuple[float, int, _State]] = []
        self._count = itertools.count()

    def plans(self) -> list[tuple[Phase, ...]]:
        """Plans in order of their cost in the coarse model, best first."""
        buckets: dict[int, list[_State]] = {}
        agenda: list[int] = []
        for state in self._beginnings():
            self._enter(buckets, agenda, state)
        while agenda:
            bucket = heapq.heappop(agenda)
            for state in self._best(buckets.pop(bucket)):
                for following in self._expand(state):
                    self._enter(buckets, agenda, following)
        return [_plan(state) for _, _, state in sorted(self._finished)[:FINALISTS]]

    def _enter(self, buckets: dict[int, list[_State]], agenda: list[int], state: _State) -> None:
        bucket = int(state.t / BUCKET_S)
        if bucket not in buckets:
            buckets[bucket] = []
            heapq.heappush(agenda, bucket)
        buckets[bucket].append(state)

    def _beginnings(self) -> Iterator[_State]:
        for awake in self._sets:
            state = _State(0.0, awake, dict.fromkeys(self._jobs, 0))
            self._wake(state, awake, 0.0)
            yield state

    def _best(self, states: list[_State]) -> Iterator[_State]:
        """The beam: for each set of awake models those of least cost so far."""
        for awake in self._sets:
            found = [(self._rank(state), next(self._count), state) for state in states if state.awake == awake]
            for _, _, state in heapq.nsmallest(BEAM, found):
                yield state

    def _rank(self, state: _State) -> float:
        """What has been waited until the state's time, by those who still wait too."""
        cost = state.cost
        for endpoint_id, jobs in self._jobs.items():
            for job in itertools.islice(jobs, state.heads[endpoint_id], None):
                if job.at >= state.t:
                    break
                cost += state.t - job.at
        return cost

    def _wake(self, state: _State, entering: frozenset[int], at: float) -> None:
        """One after the other, those that most wait for first."""
        order = sorted(entering, key=lambda each: (-self._waiting(state, each, at), each))
        for endpoint_id in order:
            at += self._world.engines[endpoint_id].times.wake_s
            state.opens[endpoint_id] = at
            state.engines[endpoint_id] = _Engine()

    def _waiting(self, state: _State, endpoint_id: int, at: float) -> int:
        jobs = self._jobs[endpoint_id]
        return sum(job.at < at for job in jobs[state.heads[endpoint_id] : state.heads[endpoint_id] + 50])

    def _expand(self, state: _State) -> Iterator[_State]:
        """Closes the phase at every moment that may be a good one."""
        moving = state.copy()
        begins = max(state.opens.values(), default=state.t)
        self._advance(moving, begins, moving.awake)
        last_closing = -math.inf
        while moving.t <= begins + HORIZON_S:
            if self._nobody_else_comes(moving):
                self._finish(state, moving)
                return
            upcoming = [
                self._jobs[each][moving.heads[each]].at
                for each in moving.awake
                if moving.heads[each] < len(self._jobs[each])
            ]
            is_last_of_crowd = not upcoming or min(upcoming) - moving.t >= CROWD_S
            if is_last_of_crowd or moving.t - last_closing >= CLOSINGS_APART_S:
                last_closing = moving.t
                until = max(moving.t + SOON_S, min(upcoming, default=math.inf))
                for awake in self._sets:
                    if awake != state.awake and self._is_wanted(moving, awake, until):
                        yield self._closed(state, moving, awake)
            if not upcoming:
                return
            self._advance(moving, max(min(upcoming), moving.t), moving.awake)

    def _nobody_else_comes(self, state: _State) -> bool:
        return all(state.heads[each] >= len(jobs) for each, jobs in self._jobs.items())

    def _is_wanted(self, state: _State, awake: frozenset[int], until: float) -> bool:
        """Whether somebody waits for what would come, or will by then."""
        return any(
            state.heads[each] < len(self._jobs[each]) and self._jobs[each][state.heads[each]].at <= until
            for each in awake - state.awake
        )

    def _finish(self, parent: _State, state: _State) -> None:
        state.parent = parent
        heapq.heappush(self._finished, (state.cost, next(self._count), state))

    def _closed(self, parent: _State, moving: _State, awake: frozenset[int]) -> _State:
        """The next phase's state: what leaves runs out and sleeps, what comes wakes."""
        state = moving.copy()
        state.parent = parent
        state.closed_at = moving.t + AFTER_S
        leaving, staying = moving.awake - awake, moving.awake & awake
        out_at = self._run_out(state, leaving, staying)
        asleep_at = 0.0
        for each in sorted(leaving, key=lambda one: (out_at[one], one)):
            asleep_at = max(asleep_at, out_at[each]) + self._world.engines[each].times.sleep_s
            del state.engines[each]
            state.opens.pop(each, None)
        state.awake = awake
        if staying:
            self._advance(state, asleep_at, staying)
        state.t = asleep_at
        self._wake(state, awake - moving.awake, asleep_at)
        return state

    def _run_out(self, state: _State, leaving: frozenset[int], staying: frozenset[int]) -> dict[int, float]:
        """When each of those that leave has nothing left to run; the state goes on until then."""
        out_at: dict[int, float] = {}
        while True:
            out_at |= {each: state.t for each in leaving if not state.engines[each].ends and each not in out_at}
            if len(out_at) == len(leaving):
                return out_at
            self._advance(state, self._next_end(state, leaving), staying)

    def _next_end(self, state: _State, among: frozenset[int]) -> float:
        """When the next sequence of these engines ends."""
        found = [
            state.t + (engine.ends[0] - engine.steps) * self._step_s(state, each)
            for each, engine in state.engines.items()
            if each in among and engine.ends
        ]
        return min(found)

    def _step_s(self, state: _State, endpoint_id: int) -> float:
        busy = sum(bool(engine.ends) for engine in state.engines.values())
        return self._world.engines[endpoint_id].pace.step_s(len(state.engines[endpoint_id].ends), 0, contended=busy > 1)

    def _advance(self, state: _State, until: float, admitting: frozenset[int]) -> None:
        """Lets sequences run and end until then, and admits what arrives for these endpoints, that time included."""
        while True:
            self._admit(state, admitting)
            pending = [
                max(self._jobs[each][state.heads[each]].at, state.opens.get(each, 0.0))
                for each in admitting
                if state.heads[each] < len(self._jobs[each])
            ]
            steps_s = {each: self._step_s(state, each) for each, engine in state.engines.items() if engine.ends}
            moments = [
                state.t + (state.engines[each].ends[0] - state.engines[each].steps) * step_s
                for each, step_s in steps_s.items()
            ]
            moment = min([until, *moments, *(each for each in pending if each > state.t)])
            for each, step_s in steps_s.items():
                engine = state.engines[each]
                engine.steps += (moment - state.t) / step_s
                while engine.ends and engine.ends[0] <= engine.steps + 1e-6:
                    heapq.heappop(engine.ends)
            state.t = moment
            if moment >= until:
                self._admit(state, admitting)
                return

    def _admit(self, state: _State, admitting: frozenset[int]) -> None:
        for each in admitting:
            opens = state.opens.get(each, 0.0)
            if opens > state.t:
                continue
            jobs, head = self._jobs[each], state.heads[each]
            engine = state.engines[each]
            while head < len(jobs) and jobs[head].at <= state.t:
                state.cost += state.t - jobs[head].at
                heapq.heappush(engine.ends, engine.steps + jobs[head].tokens)
                head += 1
            state.heads[each] = head


def _jobs(world: World, workload: Sequence[Arrival], seed: int) -> dict[int, list[Job]]:
    """By endpoint, in order of arrival."""
    ordered = sorted(workload, key=lambda each: each.at)
    found: dict[int, list[Job]] = {endpoint_id: [] for endpoint_id in world.engines}
    for arrival, luck in zip(ordered, draw(ordered, seed), strict=True):
        endpoint_id = world.candidates(arrival.models)[0].endpoint_id
        shares = world.shares_of(world.catalogue.endpoint[endpoint_id].model_id)
        tokens = arrival.output_tokens or output_tokens(shares, luck.length, arrival.output_tokens_max)
        found[endpoint_id].append(Job(arrival.at, tokens))
    return found


def _plan(state: _State) -> tuple[Phase, ...]:
    """From the first phase to the last."""
    phases: list[Phase] = []
    closes_at = math.inf
    current: _State | None = state.parent  # the finished state stands for the end of its parent's phase
    while current is not None:
        phases.append(Phase(current.awake, closes_at))
        closes_at = current.closed_at
        current = current.parent
    return tuple(reversed(phases))
