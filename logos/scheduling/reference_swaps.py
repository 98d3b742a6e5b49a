"""The reference's rules of swapping, part of the policies `ettft` and `utilization` (scheduling.md section 2).

A score for each model rises with its arrivals and fades in cycles of 10 s. A model whose requests wait tries to come
in when one arrives, when a transition has ended and at each cycle; who must go is judged by scores, by what runs and by
how long it has been awake. One transition at a time on each node. The numbers are the reference's, not settings.
"""

from __future__ import annotations

from logos.scheduling.demand import CYCLE_S
from logos.scheduling.idling import Idling
from logos.scheduling.nodes import Engine
from logos.scheduling.places import EndpointState
from logos.scheduling.state import State
from logos.scheduling.swapping import Claim, Claims
from logos.scheduling.timers import Timer
from logos.scheduling.transitions import Transitions

WAITING_SHARE = 0.5
PROTECTED_S = 5.0
IDLE_RATIO_AT_CYCLE = 1.5
BUSY_RATIO_AT_CYCLE = 3.0
BUSY_WAITING_MIN = 2
IDLE_SLEEP_S = 120.0


class ReferenceSwaps:
    """Who may come in, by scores."""

    def __init__(self, state: State, transitions: Transitions, claims: Claims) -> None:
        self._state = state
        self._transitions = transitions
        self._claims = claims
        self._idling = Idling(state, transitions)
        self._cycle: Timer | None = None

    def wanted(self, endpoint: EndpointState) -> None:
        """It tries if a request has just come; whoever is only looked at again waits for the next cycle."""
        if endpoint.score.arrivals and endpoint.score.arrivals[-1] == self._state.now:
            self._try(endpoint, at_cycle=False)
        self._keep_cycling()

    def attend(self, endpoint: EndpointState) -> None:
        for engine in self._idling.idlers(endpoint):
            self._idling.sleep_after(engine, endpoint, IDLE_SLEEP_S)

    def moved(self) -> None:
        self._try_all(at_cycle=False)

    # Inside.

    def _keep_cycling(self) -> None:
        """Another cycle only while somebody waits for a model that is not awake."""
        if self._cycle is None or not self._cycle.is_pending:
            at = (self._state.now // CYCLE_S + 1) * CYCLE_S
            self._cycle = self._state.timers.add(at, self._on_cycle)

    def _on_cycle(self) -> None:
        if self._try_all(at_cycle=True):
            self._keep_cycling()

    def _try_all(self, *, at_cycle: bool) -> bool:
        """Highest effective score first; whether anybody waits."""
        waiting = [each for each in self._state.endpoints.values() if each.queue and each.is_pooled and not each.live]
        for endpoint in sorted(waiting, key=lambda each: -self._effective(each)):
            self._try(endpoint, at_cycle=at_cycle)
        return bool(waiting)

    def _try(self, endpoint: EndpointState, *, at_cycle: bool) -> None:
        if endpoint.endpoint.id in self._state.claims or endpoint.is_contested:
            return
        for claim in self._claims.options(endpoint, self._effective_of):
            if not self._claims.is_busy(claim.node) and self._may_go(claim, at_cycle=at_cycle):
                self._claims.make(claim, settle=True)
                return

    def _may_go(self, claim: Claim, *, at_cycle: bool) -> bool:
        return all(self._yields(victim, claim.endpoint, at_cycle=at_cycle) for victim in claim.victims)

    def _yields(self, victim: Engine, claimant: EndpointState, *, at_cycle: bool) -> bool:
        now, owner = self._state.now, self._state.endpoints[victim.endpoint_id]
        if now < victim.since + (self._state.settings.protected_s if victim.was_awaited else PROTECTED_S):
            return False
        running, waiting, wanting = self._running(victim), len(owner.queue), len(claimant.queue)
        ratio = self._effective(claimant) / max(self._effective(owner), 1e-9)
        if running == 0:
            return waiting <= wanting and (not at_cycle or ratio >= IDLE_RATIO_AT_CYCLE)
        if at_cycle and ratio >= BUSY_RATIO_AT_CYCLE:
            return True
        return wanting >= BUSY_WAITING_MIN and wanting > running + waiting

    def _running(self, engine: Engine) -> int:
        place = self._transitions.place_of(engine)
        return len(place.running) if place is not None else 0

    def _effective(self, endpoint: EndpointState) -> float:
        return endpoint.score.at(self._state.now) + WAITING_SHARE * len(endpoint.queue)

    def _effective_of(self, engine: Engine) -> float:
        return self._effective(self._state.endpoints[engine.endpoint_id])
