"""The simulated driver of the scheduler core: events in the order of time, commands carried out in a simulated world.

    run = simulate(world, workload, SchedulerSettings(policy="slo"), seed=1)

One gateway that never dispatches under a lease stands for all of them. Whatever the core is told, it is told in the
words of the contract; whatever it says is answered as `ANSWERED_BY` has it. No decision of scheduling is made here.
"""

from __future__ import annotations

import gc
import math
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol

from logos.domain.nouns import Place
from logos.scheduling import commands as cmd
from logos.scheduling import events as ev
from logos.scheduling.scheduler import Scheduler
from logos.scheduling.settings import SchedulerSettings
from logos.simulation.agenda import Agenda
from logos.simulation.arrivals import Arrival, Luck, draw
from logos.simulation.hedges import Hedges
from logos.simulation.lengths import output_tokens
from logos.simulation.nodes import SimEngine, SimNode
from logos.simulation.remotes import RemoteEndpoint
from logos.simulation.reserve import Reserve
from logos.simulation.run import Outcome, Run, SimulationFault, Status
from logos.simulation.world import World, WorldNode

GATEWAY = "gateway-1"
ATTEMPTS_MAX = 3
STUCK_AFTER_S = 86_400.0  # after the last arrival and the longest wait: nothing takes as long
REFUSAL_S = 0.05  # until a 429 is here
TOO_LONG = "context_length_exceeded: prompt and max_tokens are more than its models take"
COLLECT_AFTER = 200_000  # objects made and kept


class Core(Protocol):
    """What is simulated: the scheduler, or a baseline that speaks the same contract."""

    def handle(self, event: ev.Event) -> list[cmd.Command]: ...


class Fault(Protocol):
    """Something that goes wrong at a time."""

    @property
    def at(self) -> float: ...

    def strike(self, simulation: Simulation) -> None: ...


def simulate(
    world: World,
    workload: Sequence[Arrival],
    settings: SchedulerSettings,
    seed: int = 1,
    *,
    faults: Sequence[Fault] = (),
) -> Run:
    """One run of a workload under the settings' policy. Raises SimulationFault if the core breaks the contract, and
    InvalidDeclaration if the settings name no policy."""
    scheduler = simulated_scheduler(world, settings)
    simulation = Simulation(world, workload, scheduler, seed, policy=settings.policy, faults=faults)
    run = simulation.run()
    scheduler.check_invariants()
    return run


def simulated_scheduler(world: World, settings: SchedulerSettings) -> Scheduler:
    """The core for a simulation: it grants no leases. The one gateway here, which asks for every request, would hand
    each back at once, and one event in five would be about that."""
    return Scheduler(world.catalogue, replace(settings, lease_ttl_s=0.0))


class Simulation:
    """One run. `agenda.now` is the simulated time in seconds since the start."""

    def __init__(
        self,
        world: World,
        workload: Sequence[Arrival],
        core: Core,
        seed: int,
        *,
        policy: str,
        faults: Sequence[Fault] = (),
    ) -> None:
        self.world = world
        self.agenda = Agenda()
        self.result = Run(
            world.name, policy, seed, [], gpus=world.gpus, tariffs=world.tariffs, remote_ids=frozenset(world.remotes)
        )
        self.core = core
        self._soon: deque[ev.Event] = deque()  # to be told before time goes on
        self._workload = sorted(workload, key=lambda each: each.at)
        self._luck = dict(zip((each.request_id for each in self._workload), draw(self._workload, seed), strict=True))
        if len(self._luck) < len(self._workload):
            raise SimulationFault("request ids must be unique")
        self._open: dict[str, Outcome] = {}
        self._requests: dict[str, ev.Request] = {}  # as last asked for, of open requests
        self._candidates: dict[tuple[tuple[str, float], ...], tuple[ev.Candidate, ...]] = {}
        self.failing_starts: dict[int, int] = {}  # by endpoint: how many of its next loads and wakings fail
        self.nodes = {each.node.id: self._node(each) for each in world.nodes}
        self._node_of: dict[str, SimNode] = {
            engine_id: node for node in self.nodes.values() for engine_id in node.engines
        }
        self._just_lost: dict[str, float] = {}  # nodes and engines, and when
        self.remotes = {each: RemoteEndpoint(each, profile) for each, profile in world.remotes.items()}
        self._hedges = Hedges(self.agenda, self._open, self._requests, self._luck, self.tell, self._take_out)
        self._reserve = Reserve(world, self.agenda, self.lose_node, self.return_node)
        self._perform = self._table()
        for fault in faults:
            self.agenda.at(fault.at, self._strike, fault)

    def run(self) -> Run:
        """Runs until every request has ended. Raises SimulationFault if one never does."""
        with garbage_collected_rarely():
            self._run()
        return self._closed()

    def _run(self) -> None:
        self._soon.append(ev.GatewaySeen(0.0, GATEWAY))
        self._soon.extend(node.seen() for node in self.nodes.values())
        self._tell_all()
        if self.world.report_interval_s > 0:
            self.agenda.at(self.world.report_interval_s, self._report)
        last_at = self._workload[-1].at if self._workload else 0.0
        stuck_at = last_at + self.world.queue_timeout_s * ATTEMPTS_MAX + STUCK_AFTER_S
        agenda, soon, to_come = self.agenda, self._soon, iter(self._workload)
        arrival = next(to_come, None)
        while self._open or arrival is not None:
            next_at = agenda.next_at()
            if arrival is not None and arrival.at <= next_at:
                agenda.now = max(agenda.now, arrival.at)
                self._arrive(arrival)
                arrival = next(to_come, None)
            elif next_at < math.inf and agenda.now < stuck_at:
                agenda.proceed()
            else:
                raise SimulationFault(f"{len(self._open)} requests never ended, {next(iter(self._open))} among them")
            if soon:
                self._tell_all()

    # What the core is told.

    def tell(self, event: ev.Event) -> None:
        """The core hears of it before time goes on."""
        self._soon.append(event)

    def _tell_all(self) -> None:
        soon, handle, perform, run = self._soon, self.core.handle, self._perform, self.result
        while soon:
            run.events += 1
            for command in handle(soon.popleft()):
                run.commands += 1
                perform[type(command)](command)

    def _arrive(self, arrival: Arrival) -> None:
        outcome = Outcome(arrival)
        outcome.slo_ttft_s, outcome.slo_total_s = self._promised(arrival)
        self.result.outcomes.append(outcome)
        models = self.world.long_enough(arrival.models, arrival.context_tokens)
        if not models:
            outcome.status, outcome.ended_at, outcome.reason = Status.REJECTED, arrival.at, TOO_LONG
            return
        self._open[arrival.request_id] = outcome
        candidates = self._candidates.get(models)
        if candidates is None:
            candidates = self._candidates[models] = self.world.candidates(models)
        self._ask(
            ev.Request(
                arrival.request_id,
                GATEWAY,
                arrival.key_id,
                candidates,
                arrival.team_id,
                arrival.priority,
                arrival.mode,
                arrival.prompt_tokens,
                arrival.output_tokens_max,
                self.world.queue_timeout_s,
                arrival.slo_ttft_s,
                arrival.slo_total_s,
                1,
                arrival.prefix,
                arrival.prefix_tokens,
                True,
            )
        )
        if arrival.patience_s is not None:
            self.agenda.at(arrival.at + arrival.patience_s, self._leave, arrival.request_id)

    def _promised(self, arrival: Arrival) -> tuple[float | None, float | None]:
        """Until its first token and until its end, whoever schedules it: its own promises, or those of its mode."""
        slo, ttft_s, total_s = self.world.catalogue.slo, arrival.slo_ttft_s, arrival.slo_total_s
        first_s = slo.first_token_s(arrival.mode, ttft_s, total_s)
        return first_s, slo.of(arrival.mode).total_s if ttft_s is total_s is None else total_s

    def _ask(self, request: ev.Request) -> None:
        self._requests[request.request_id] = request
        self._soon.append(ev.RequestsArrived(self.agenda.now, GATEWAY, (request,)))

    def _leave(self, request_id: str) -> None:
        """The client closes its connection, wherever its request is."""
        outcome = self._open.get(request_id)
        if outcome is None:
            return
        self._take_out(request_id, outcome)
        self._hedges.left(outcome)
        self._end(outcome, Status.LEFT)
        self._soon.append(ev.RequestCancelled(self.agenda.now, request_id))

    def _take_out(self, request_id: str, outcome: Outcome) -> None:
        """From the engine or the remote endpoint in which it runs, if it does."""
        node = self._node_of.get(outcome.engine_id) if outcome.engine_id is not None else None
        engine = node.engines.get(outcome.engine_id or "") if node is not None else None
        if engine is not None:
            engine.serving.abort(request_id)
        elif outcome.endpoint_id in self.remotes:
            self.remotes[outcome.endpoint_id].leave(request_id)

    def _report(self, _: Any) -> None:
        for node in self.nodes.values():
            self._soon.extend(node.report())
        self.agenda.at(self.agenda.now + self.world.report_interval_s, self._report)

    def _strike(self, fault: Fault) -> None:
        fault.strike(self)

    # What the core says.

    def _table(self) -> dict[type, Callable[[Any], None]]:
        return {
            cmd.Dispatch: self._dispatch,
            cmd.Reject: self._reject,
            cmd.LoadEngine: self._load,
            cmd.SleepEngine: self._order,
            cmd.WakeEngine: self._order,
            cmd.StopEngine: self._order,
            cmd.ReleaseNode: lambda command: self._reserve.take(command.node_id),
            cmd.RequestNodes: self._reserve.asked,
            cmd.WakeAt: lambda command: self.agenda.at(command.at, self._wake),
            cmd.GrantLease: self._give_back,
            cmd.RevokeLease: lambda command: None,  # given back when it was granted
        }

    def _wake(self, _: Any) -> None:
        self._soon.append(ev.Woke(self.agenda.now))

    def _give_back(self, command: cmd.GrantLease) -> None:
        self._soon.append(ev.LeaseReturned(self.agenda.now, command.lease.lease_id))

    def _reject(self, command: cmd.Reject) -> None:
        outcome = self._open.get(command.request_id)
        if outcome is not None:
            outcome.reason = f"{command.code}: {command.message}"
            self._end(outcome, Status.REJECTED)

    def _dispatch(self, command: cmd.Dispatch) -> None:
        """To its engine or remote endpoint, unless the client left while the command was on its way."""
        is_hedge = command.hedge_of is not None
        outcome = self._hedges.begin(command) if is_hedge else self._open.get(command.request_id)
        if outcome is None:
            return
        if outcome.dispatched_at is not None:
            raise SimulationFault(f"{command.request_id} was dispatched while it runs at {outcome.endpoint_id}")
        now, place = self.agenda.now, command.place
        outcome.dispatched_at = now
        outcome.endpoint_id, outcome.engine_id = place
        outcome.model = self.world.model_name_at[place.endpoint_id]
        outcome.tier = command.tier
        outcome.predicted_ttft_s = command.predicted_ttft_s
        outcome.load_s = command.load_s
        outcome.output_tokens = self._length(outcome.arrival, place)
        if place.engine_id is None:
            self._forward(outcome)
        else:
            self._submit(outcome, place.engine_id)

    def _length(self, arrival: Arrival, place: Place) -> int:
        """Tokens that the model there answers with: the same whichever policy chose it."""
        if arrival.output_tokens is not None:
            return arrival.output_tokens
        model_id = self.world.catalogue.endpoint[place.endpoint_id].model_id
        luck = self._luck[arrival.request_id]
        return output_tokens(self.world.shares_of(model_id), luck.length, arrival.output_tokens_max)

    def _load(self, command: cmd.LoadEngine) -> None:
        node = self.nodes.get(command.node_id)
        if node is None:
            if self._just_lost.get(command.node_id) == self.agenda.now:
                return
            raise SimulationFault(f"LoadEngine on {command.node_id}, which is not there")
        self._node_of[command.engine_id] = node
        node.obey(command)

    def _order(self, command: cmd.SleepEngine | cmd.WakeEngine | cmd.StopEngine) -> None:
        node = self._node_of.get(command.engine_id)
        if node is None:
            if self._just_lost.get(command.engine_id) == self.agenda.now:
                return
            raise SimulationFault(f"{type(command).__name__} of {command.engine_id}, which nobody has")
        node.obey(command)

    # Requests at engines.

    def _submit(self, outcome: Outcome, engine_id: str) -> None:
        node = self._node_of.get(engine_id)
        engine = node.engines.get(engine_id) if node is not None else None
        request_id, arrival = outcome.arrival.request_id, outcome.arrival
        if engine is None or not engine.serves:
            self._fail(request_id, f"engine {engine_id} does not answer")
            return
        prefix = _blocks(arrival, engine.serving.model.pace.prefix_block_tokens)
        try:
            engine.serving.submit(request_id, max(arrival.prompt_tokens, 1), outcome.output_tokens, prefix)
        except ValueError as error:
            self._fail(request_id, str(error), endpoint_fault=False)
            return
        self._soon.append(ev.RequestStarted(self.agenda.now, request_id))

    def first_token(self, request_id: str) -> None:
        """An engine made the first token of an answer; after a preemption or a retry it is not the first."""
        outcome = self._open.get(request_id)
        if outcome is None or outcome.first_token_at is not None:
            return
        now = self.agenda.now
        outcome.first_token_at = now
        assert outcome.dispatched_at is not None
        self._soon.append(ev.FirstToken(now, request_id, now - outcome.dispatched_at))
        if outcome.hedge is not None or outcome.hedge_of is not None:
            self._hedges.decided(outcome)

    def finished(self, request_id: str) -> None:
        """An engine made the last token of an answer."""
        outcome = self._open.get(request_id)
        if outcome is None:
            return
        now, arrival = self.agenda.now, outcome.arrival
        assert outcome.dispatched_at is not None
        total_s = now - outcome.dispatched_at
        self._end(outcome, Status.OK)
        self._soon.append(ev.RequestFinished(now, request_id, arrival.prompt_tokens, outcome.output_tokens, total_s))

    # Requests at remote endpoints.

    def _forward(self, outcome: Outcome) -> None:
        assert outcome.endpoint_id is not None
        remote = self.remotes[outcome.endpoint_id]
        now, arrival = self.agenda.now, outcome.arrival
        self._soon.append(ev.RequestStarted(now, arrival.request_id))
        tokens = arrival.prompt_tokens + outcome.output_tokens
        retry_after_s = remote.refusal_s(now, tokens)
        if remote.is_down or retry_after_s is not None:
            self.agenda.at(now + REFUSAL_S, self._refused, (outcome, outcome.attempts, retry_after_s))
            return
        remote.admit(now, arrival.request_id, tokens)
        luck: Luck = self._luck[arrival.request_id]
        ttft_s, total_s = remote.times_s(arrival.prompt_tokens, outcome.output_tokens, luck.latency)
        self.agenda.at(now + ttft_s, self._remote_first, (outcome, outcome.attempts))
        self.agenda.at(now + total_s, self._remote_finished, (outcome, outcome.attempts))

    def _refused(self, refusal: tuple[Outcome, int, float | None]) -> None:
        outcome, attempt, retry_after_s = refusal
        if outcome.status is Status.OPEN and outcome.attempts == attempt:
            reason = "429" if retry_after_s is not None else "503"
            self._fail(outcome.arrival.request_id, reason, retry_after_s=retry_after_s)

    def _remote_first(self, mark: tuple[Outcome, int]) -> None:
        outcome, attempt = mark
        if outcome.status is not Status.OPEN or outcome.attempts != attempt:
            return
        assert outcome.endpoint_id is not None
        limit = self.remotes[outcome.endpoint_id].limit(self.agenda.now)
        if limit is not None:
            self._soon.append(limit)
        self.first_token(outcome.arrival.request_id)

    def _remote_finished(self, mark: tuple[Outcome, int]) -> None:
        outcome, attempt = mark
        if outcome.status is not Status.OPEN or outcome.attempts != attempt:
            return
        assert outcome.endpoint_id is not None
        self.remotes[outcome.endpoint_id].leave(outcome.arrival.request_id)
        self.finished(outcome.arrival.request_id)

    # Ends.

    def _fail(
        self, request_id: str, reason: str, *, endpoint_fault: bool = True, retry_after_s: float | None = None
    ) -> None:
        """An attempt failed: the core hears of it, and before the first byte the gateway tries anew. As live, that may
        be at another engine of the same endpoint, or at this one; not at the remote endpoint that failed."""
        outcome = self._open.get(request_id)
        if outcome is None:
            return
        self._soon.append(ev.RequestFailed(self.agenda.now, request_id, reason, endpoint_fault, retry_after_s))
        if (outcome.hedge is not None or outcome.hedge_of is not None) and outcome.first_token_at is None:
            outcome = self._hedges.failed(outcome)
            if outcome is None:
                return
        request = self._requests[outcome.arrival.request_id]
        left = request.candidates
        if outcome.endpoint_id in self.remotes or not endpoint_fault:
            left = tuple(each for each in left if each.endpoint_id != outcome.endpoint_id)
        if outcome.first_token_at is not None or outcome.attempts >= ATTEMPTS_MAX or not left:
            outcome.reason = reason
            self._end(outcome, Status.FAILED)
            return
        outcome.attempts += 1
        outcome.engine_id = outcome.dispatched_at = None
        waited_s = self.agenda.now - outcome.arrival.at
        timeout_s = max(0.0, self.world.queue_timeout_s - waited_s)
        self._ask(replace(request, candidates=left, attempt=outcome.attempts, queue_timeout_s=timeout_s))

    def _end(self, outcome: Outcome, status: Status) -> None:
        request_id = outcome.arrival.request_id
        outcome.status = status
        outcome.ended_at = self.agenda.now
        del self._open[request_id]
        del self._requests[request_id]
        if outcome.hedge_of is not None and (first := self._hedges.ended(outcome)) is not None:
            self._end(first, status)

    def _closed(self) -> Run:
        """The run is over: adds up what nodes have counted."""
        run = self.result
        run.ended_at = self.agenda.now
        for node in self.nodes.values():
            node.check()
            run.gpu_busy_s += node.gpu_busy_s()
        return run

    # What may go wrong, for faults.

    def listen(self, core: Core) -> None:
        """From now on this core is told what happens."""
        self.core = core

    def lose_node(self, node_id: str) -> None:
        """The machine is gone, and all that ran on it; orders that it is given at this instant crossed the news."""
        self._just_lost = dict.fromkeys((node_id, *self._without_node(node_id)), self.agenda.now)

    def _without_node(self, node_id: str) -> list[str]:
        """Takes the node out of the world. Returns the engines that it had."""
        node = self.nodes.pop(node_id, None)
        if node is None:
            return []
        self.result.gpu_busy_s += node.gpu_busy_s()
        lost = node.die()
        gone = [engine_id for engine_id, each in self._node_of.items() if each is node]
        for engine_id in gone:
            del self._node_of[engine_id]
        self._soon.append(ev.NodeLost(self.agenda.now, node_id))
        for request_id in lost:
            self._fail(request_id, f"node {node_id} is gone")
        return gone

    def return_node(self, node_id: str) -> None:
        """The machine is back, with nothing on it."""
        described = next(each for each in self.world.nodes if each.node.id == node_id)
        self.nodes[node_id] = node = self._node(replace(described, engines=()))
        self._soon.append(node.seen())

    def _node(self, described: WorldNode) -> SimNode:
        return SimNode(
            described, self.world, self.agenda, self, self.tell, self.result.transitions, self.failing_starts
        )

    def crash_engine(self, engine: SimEngine, reason: str = "the engine's process ended by itself") -> None:
        """The process of an engine ends by itself."""
        for request_id in self._node_of[engine.engine_id].crash(engine, reason):
            self._fail(request_id, reason)


@contextmanager
def garbage_collected_rarely() -> Iterator[None]:
    """A run makes millions of values that stay and few cycles that do not: looking for these among those every 700
    objects would take a tenth of its time."""
    before = gc.get_threshold()
    gc.set_threshold(COLLECT_AFTER, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _blocks(arrival: Arrival, block_tokens: int) -> Sequence[Hashable]:
    """Names of the leading blocks of a prompt: by segment, and by place within it. Only whole blocks count."""
    blocks: list[Hashable] = []
    for name, tokens in arrival.shared:
        blocks += [(name, block) for block in range(tokens // block_tokens)]
    return blocks
