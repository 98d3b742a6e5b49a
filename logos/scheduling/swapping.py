"""Claims: an endpoint whose requests wait, the engines that must make room for it, and what comes when they have.

This is the mechanism and its books. When a claim is made, what its victims may still admit, and when they leave is
decided by the rules of swapping (`first_come`, `reference_swaps`, `marginal_swaps`), one set for each policy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from logos.domain.lifecycle import EngineState
from logos.scheduling.nodes import Engine, Fit, NodeState, Reservation
from logos.scheduling.places import SERVING, EndpointState
from logos.scheduling.state import State
from logos.scheduling.timers import Timer
from logos.scheduling.transitions import Transitions, spec_of

GONE = frozenset({EngineState.ASLEEP, EngineState.COLD})


@dataclass(slots=True, eq=False)
class Claim:
    """An endpoint's claim on the GPUs of one node. Until it is settled its victims serve what the rules let them; from
    then on they leave one by one, and their memory is reserved for who comes."""

    endpoint: EndpointState
    node: NodeState
    gpu_indices: tuple[int, ...]
    sleeper: Engine | None  # which wakes; otherwise an engine is loaded
    victims: tuple[Engine, ...]
    since: float
    is_for_good: bool = False  # its victims stop: asleep, they would leave too little
    is_settled: bool = False
    leaves_by: float = math.inf  # once it is settled: what its victims still admit must not keep them beyond it
    timer: Timer | None = None

    @property
    def endpoint_id(self) -> int:
        return self.endpoint.endpoint.id

    @property
    def reservation(self) -> Reservation:
        """What its engine will take."""
        return Reservation(self.gpu_indices, spec_of(self.endpoint).memory_per_gpu_mib)

    @property
    def is_nearly_over(self) -> bool:
        """All its victims have left or are leaving."""
        return self.is_settled and not any(victim.state in SERVING for victim in self.victims)


class SwapRules(Protocol):
    """When models change places: one implementation for each way of deciding it."""

    def wanted(self, endpoint: EndpointState) -> None:
        """Requests wait there, no engine is coming and no node has room for one."""

    def attend(self, endpoint: EndpointState) -> None:
        """Something changed at an endpoint that has engines."""

    def moved(self) -> None:
        """A transition has ended, a node has come or gone."""


class Claims:
    """Makes claims, carries them out, takes them back."""

    def __init__(self, state: State, transitions: Transitions) -> None:
        self._state = state
        self._transitions = transitions

    # What could be claimed.

    def options(self, endpoint: EndpointState, order: Callable[[Engine], object]) -> Iterator[Claim]:
        """On each node of its pool, the claim whose victims come first in `order`, where there is one. Engines that
        are claimed, pinned, in transit, or wanted as a minimum are nobody's victims. Where what sleeping engines keep
        is in the way, they go to disk."""
        for node in self._state.pool(endpoint):
            serving = self._displaceable(node, endpoint, order)
            claim = self._on(node, endpoint, serving)
            if claim is None and not self.is_busy(node):
                sleeping = self._sleeping(node, without_endpoint_id=endpoint.endpoint.id)
                claim = self._on(node, endpoint, [*sleeping, *serving], for_good=True)
            if claim is not None:
                yield claim

    def unsettled(self, node: NodeState, endpoint: EndpointState) -> list[Reservation]:
        """What others than this endpoint will take who claim memory there and have not told anybody to leave yet."""
        others = [each for each in self._state.claims.values() if each.node is node and each.endpoint is not endpoint]
        return [each.reservation for each in others if not each.is_settled]

    def is_busy(self, node: NodeState) -> bool:
        """Whether models are changing places there already."""
        return any(each.is_in_transit or each.claimed_by is not None for each in node.engines.values())

    # Carrying out.

    def make(self, claim: Claim, *, settle: bool = False) -> None:
        """From now on its victims admit nothing of their own accord."""
        self._state.claims[claim.endpoint_id] = claim
        for victim in claim.victims:
            victim.claimed_by = claim.endpoint_id
            self._transitions.drain(victim)
        if settle:
            self.settle(claim)

    def review(self, claim: Claim, order: Callable[[Engine], object]) -> bool:
        """Models that have come since, where there was room, become victims too; whether that makes enough room."""
        node, endpoint = claim.node, claim.endpoint
        staying = [each for each in claim.victims if not self._has_gone(claim, each)]
        candidates = [*staying, *self._displaceable(node, endpoint, order)]
        if claim.sleeper is not None:
            again = self._to_wake(endpoint, node, claim.sleeper, candidates, claim.is_for_good)
        else:
            again = self._to_load(endpoint, node, candidates, claim.is_for_good)
        if again is None:
            return not candidates  # all have gone by themselves, or somebody is in transit
        for victim in again.victims:
            if victim.claimed_by is None:
                victim.claimed_by = claim.endpoint_id
                self._transitions.drain(victim)
        claim.gpu_indices = again.gpu_indices
        claim.victims = (*claim.victims, *(each for each in again.victims if each not in claim.victims))
        return True

    def is_in_vain(self, claim: Claim) -> bool:
        """Of one whose victims do not make enough room: nothing that goes on there will change that."""
        node = claim.node
        if any(other is not claim and other.node is node for other in self._state.claims.values()):
            return False
        return not any(each.is_in_transit for each in node.engines.values())

    def settle(self, claim: Claim) -> None:
        """Its victims leave as soon as they have drained, and who comes is certain of the memory."""
        claim.is_settled = True
        self._state.timers.cancel(claim.timer)
        claim.node.reserved[claim.endpoint_id] = claim.reservation
        if claim.is_for_good:
            for victim in claim.victims:
                if victim.state is EngineState.ASLEEP:
                    self._transitions.stop(victim)
        else:
            self._make_host_room(claim)
        self.advance(claim)

    def advance(self, claim: Claim) -> None:
        """Does what can be done for a claim now: drained victims leave, and once all have left the engine comes."""
        if not claim.endpoint.queue or claim.endpoint.is_removed or not self._is_possible(claim):
            self.withdraw(claim)
            return
        for victim in claim.victims:
            if victim.state is EngineState.AWAKE:
                self._transitions.drain(victim)  # it slept, and has been woken for a request of its own
        if not claim.is_settled:
            return
        for victim in claim.victims:
            if victim.state is EngineState.DRAINING and self._transitions.is_drained(victim):
                self._leave(claim, victim)
        if all(self._has_gone(claim, victim) for victim in claim.victims):
            self.withdraw(claim)
            self._bring(claim)

    def withdraw(self, claim: Claim) -> None:
        """The claim is over; victims that have not left yet stay."""
        self._state.claims.pop(claim.endpoint_id, None)
        if claim.node.reserved.pop(claim.endpoint_id, None) is not None:
            self._state.memory_moves += 1
        self._state.timers.cancel(claim.timer)
        for victim in claim.victims:
            victim.claimed_by = None
            self._transitions.reopen(victim)
        for endpoint in self._state.endpoints.values():
            if endpoint.is_pooled and endpoint.queue and not endpoint.live:
                self._state.touch(endpoint.endpoint.id)  # its victims are anybody's again

    def concerning(self, endpoint: EndpointState) -> list[Claim]:
        """Its own claim, and those that its engines are victims of."""
        claims = self._state.claims
        if not claims:
            return []
        found = [claims[endpoint.endpoint.id]] if endpoint.endpoint.id in claims else []
        claimants = [engine.claimed_by for engine in endpoint.engines.values() if engine.claimed_by is not None]
        return [*found, *(claims[each] for each in claimants if each in claims)]

    # Inside.

    def _displaceable(
        self, node: NodeState, endpoint: EndpointState, order: Callable[[Engine], object]
    ) -> list[Engine]:
        """Those that others can spare, in order."""
        serving = [each for each in node.engines.values() if each.state is EngineState.AWAKE]
        others = [each for each in serving if each.claimed_by is None and each.endpoint_id != endpoint.endpoint.id]
        spare = {each.endpoint_id: self._state.endpoints[each.endpoint_id].spare for each in others}
        found: list[Engine] = []
        for engine in sorted(others, key=order):  # type: ignore[arg-type]  # any order
            if spare[engine.endpoint_id] > 0:
                spare[engine.endpoint_id] -= 1
                found.append(engine)
        return found

    def _sleeping(self, node: NodeState, *, without_endpoint_id: int | None = None) -> list[Engine]:
        """Engines that sleep there for nobody's sake, longest first."""
        asleep = [each for each in node.engines.values() if each.state is EngineState.ASLEEP]
        free = [each for each in asleep if each.claimed_by is None and each.endpoint_id != without_endpoint_id]
        return sorted(free, key=lambda each: each.since)

    def _on(
        self, node: NodeState, endpoint: EndpointState, candidates: Sequence[Engine], *, for_good: bool = False
    ) -> Claim | None:
        """The claim on this node, to wake an engine there or else to load one."""
        for engine in endpoint.engines.values():
            if engine.node_id == node.node.id and engine.state is EngineState.ASLEEP:
                claim = self._to_wake(endpoint, node, engine, candidates, for_good)
                if claim is not None:
                    return claim
        return self._to_load(endpoint, node, candidates, for_good)

    def _to_wake(
        self, endpoint: EndpointState, node: NodeState, sleeper: Engine, candidates: Sequence[Engine], for_good: bool
    ) -> Claim | None:
        def suffices(taken: Sequence[Engine]) -> bool:
            stopped, sleeping = self._apart(taken, for_good)
            free = node.free_mib(endpoint.endpoint.id, without=[*stopped, sleeper], asleep=sleeping)
            return all(free.get(index, -1) >= sleeper.memory_per_gpu_mib for index in sleeper.gpu_indices)

        gpus, taken = set(sleeper.gpu_indices), list[Engine]()
        for engine in candidates:
            if gpus.isdisjoint(engine.gpu_indices):
                continue
            taken.append(engine)
            if suffices(taken):
                victims = _needed(taken, suffices)
                return Claim(endpoint, node, sleeper.gpu_indices, sleeper, victims, self._state.now, for_good)
        return None

    def _to_load(
        self, endpoint: EndpointState, node: NodeState, candidates: Sequence[Engine], for_good: bool
    ) -> Claim | None:
        spec, taken = spec_of(endpoint), list[Engine]()
        for engine in candidates:
            taken.append(engine)
            stopped, sleeping = self._apart(taken, for_good)
            fit = node.fit(spec, endpoint.endpoint.id, without=stopped, asleep=sleeping)
            if fit is not None:
                gpus = fit.gpu_indices

                def suffices(taken: Sequence[Engine], gpus: tuple[int, ...] = gpus) -> bool:
                    stopped, sleeping = self._apart(taken, for_good)
                    free = node.free_mib(endpoint.endpoint.id, without=stopped, asleep=sleeping)
                    return all(free[index] >= spec.memory_per_gpu_mib for index in gpus)

                return Claim(endpoint, node, gpus, None, _needed(taken, suffices), self._state.now, for_good)
        return None

    def _apart(self, victims: Sequence[Engine], for_good: bool) -> tuple[list[Engine], list[Engine]]:
        """Those that will stop, and those that will sleep."""
        if for_good:
            return list(victims), []
        sleeping = [each for each in victims if self._transitions.is_able_to_sleep(each)]
        return [each for each in victims if each not in sleeping], sleeping

    def _is_possible(self, claim: Claim) -> bool:
        """Its node is there, its victims can go, and so can wake who shall."""
        if any(victim.is_stuck for victim in claim.victims):
            return False
        is_there = claim.node.node.id in self._state.nodes
        return is_there and (claim.sleeper is None or claim.sleeper.state is EngineState.ASLEEP)

    def _has_gone(self, claim: Claim, victim: Engine) -> bool:
        return victim.state is EngineState.COLD if claim.is_for_good else victim.state in GONE

    def _leave(self, claim: Claim, victim: Engine) -> None:
        """A drained victim goes, unless host RAM for its weights is on its way."""
        if claim.is_for_good:
            self._transitions.stop(victim)
        elif not self._transitions.is_able_to_sleep(victim) or self._transitions.can_sleep(victim):
            self._transitions.leave(victim)
        else:
            stopping = [each for each in claim.node.engines.values() if each.state is EngineState.STOPPING]
            coming = sum(each.host_mib for each in stopping if each.has_slept and not each.is_stuck)
            if claim.node.host_free_mib() + coming < victim.host_mib:
                self._transitions.stop(victim)

    def _make_host_room(self, claim: Claim) -> None:
        """Host RAM for the weights of those that will sleep: who slept longest goes to disk, if that is enough."""
        asleep = [each for each in self._sleeping(claim.node) if each is not claim.sleeper]
        free = claim.node.host_free_mib()
        for victim in claim.victims:
            if victim.state not in SERVING or victim.has_slept or not self._transitions.is_able_to_sleep(victim):
                continue
            if free + sum(each.host_mib for each in asleep) < victim.host_mib:
                continue
            while free < victim.host_mib:
                engine = asleep.pop(0)
                free += engine.host_mib
                self._transitions.stop(engine)
            free -= victim.host_mib

    def _bring(self, claim: Claim) -> None:
        if claim.sleeper is not None:
            if claim.node.has_room_for(claim.sleeper):
                self._transitions.wake(claim.sleeper)
            return
        spec = spec_of(claim.endpoint)
        fit = claim.node.fit(spec, claim.endpoint_id)
        if fit is not None:
            self._transitions.load(claim.endpoint, Fit(fit.node_id, fit.gpu_indices, fit.left_mib))


def _needed(taken: Sequence[Engine], suffices: Callable[[Sequence[Engine]], bool]) -> tuple[Engine, ...]:
    """Those of the victims without whom it would not do; spared are the ones that would have come last."""
    needed = list(taken)
    for engine in reversed(taken):
        fewer = [each for each in needed if each is not engine]
        if suffices(fewer):
            needed = fewer
    return tuple(needed)
