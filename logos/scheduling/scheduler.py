"""The scheduler core: `Scheduler.handle(event) -> list[Command]`, synchronous and deterministic.

This module is the table of what is done about each event, and nothing more: choosing and queueing are in `placement`,
leases in `leases`, engines in `engines` and `capacity`, the catalogue in `endpoints`. No clock, no I/O, no addresses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from logos.domain.catalogue import Catalogue
from logos.domain.errors import InvalidDeclaration
from logos.domain.lifecycle import RequestState
from logos.prediction.predictor import Predictor
from logos.prediction.service import ServiceTimes
from logos.scheduling import events
from logos.scheduling.capacity import Capacity
from logos.scheduling.commands import Command, WakeAt
from logos.scheduling.deadline_queue import DeadlineQueue
from logos.scheduling.delays import Delays
from logos.scheduling.endpoints import Endpoints
from logos.scheduling.engines import Engines
from logos.scheduling.events import Event
from logos.scheduling.first_come import FirstCome
from logos.scheduling.hedging import Hedging
from logos.scheduling.invariants import check
from logos.scheduling.learned import Learned
from logos.scheduling.leases import Leases
from logos.scheduling.marginal_swaps import MarginalSwaps
from logos.scheduling.placement import Placement
from logos.scheduling.policies import POLICIES, PREDICTING
from logos.scheduling.queue import FairQueue
from logos.scheduling.reference_swaps import ReferenceSwaps
from logos.scheduling.scaling import Scaling
from logos.scheduling.settings import SchedulerSettings
from logos.scheduling.situations import answered, first_token
from logos.scheduling.state import State
from logos.scheduling.summary import summarize
from logos.scheduling.swapping import Claims, SwapRules
from logos.scheduling.tickets import Ticket
from logos.scheduling.transitions import Transitions
from logos.scheduling.views import Views

SWAP_RULES: dict[str, Callable[[State, Transitions, Claims], SwapRules]] = {
    "fcfs": FirstCome,
    "utilization": ReferenceSwaps,
    "ettft": ReferenceSwaps,
    "slo": MarginalSwaps,
}


class Scheduler:
    """Events in, commands out. The same events from the same beginning give the same commands."""

    def __init__(
        self,
        catalogue: Catalogue,
        settings: SchedulerSettings,
        *,
        epoch: int = 1,
        learned: Learned | None = None,
    ) -> None:
        """Raises InvalidDeclaration if the settings name no policy. `epoch` makes lease ids unique over restarts."""
        policy = POLICIES.get(settings.policy)
        if policy is None:
            known = ", ".join(POLICIES)
            raise InvalidDeclaration(f"there is no scheduling policy {settings.policy!r}: choose one of {known}")
        held = learned or Learned()
        state = self._state = State(
            settings,
            epoch,
            Predictor(held.predictor),
            ServiceTimes(held.service),
            DeadlineQueue if settings.policy in PREDICTING else FairQueue,
        )
        self._leases = Leases(state)
        transitions = Transitions(state, self._leases)
        claims = Claims(state, transitions)
        rules = SWAP_RULES[settings.policy](state, transitions, claims)
        self._capacity = Capacity(state, transitions, claims, rules)
        self._engines = Engines(state, transitions, self._capacity)
        self._endpoints = Endpoints(state, self._capacity, self._leases)
        views = Views(state, self._capacity, Delays(state, claims), predicts=settings.policy in PREDICTING)
        self._scaling = Scaling(state, transitions)
        self._placement = Placement(state, policy, views, self._capacity, self._scaling, self._leases)
        self._hedging = Hedging(state, policy, views) if state.hedges.is_open else None
        self._endpoints.apply(catalogue)
        self._reactions = self._table()

    def handle(self, event: Event) -> list[Command]:
        """Takes in one event and says what shall be done about it, in order."""
        state = self._state
        is_first = state.started_at is None
        state.begin(event.at)
        if is_first and state.settings.reconvene_s > 0:
            state.timers.add(event.at + state.settings.reconvene_s, self._reconvened)
        while (due := state.timers.pop_due(state.now)) is not None:
            due.action()
        self._reactions[type(event)](event)
        if state.touched:
            self._settle()
        wake_at = state.timers.to_ask()
        if wake_at is not None:
            state.commands.append(WakeAt(wake_at))
        caused, state.commands = state.commands, []
        return caused

    def summary(self) -> dict[str, Any]:
        """Plain values for /health and the admin page."""
        return summarize(self._state)

    def learned(self) -> Learned:
        """What has been learned, for the opening of the next journal."""
        return Learned(self._state.service.snapshot(), self._state.predictor.snapshot())

    def check_invariants(self) -> None:
        """Raises AssertionError if the books do not balance. O(everything): for tests."""
        check(self._state)

    # Inside.

    def _table(self) -> dict[type, Callable[[Any], None]]:
        """Event type -> what is done about it."""
        return {
            events.RequestsArrived: self._arrived,
            events.RequestCancelled: self._cancelled,
            events.RequestStarted: self._started,
            events.FirstToken: self._first_token,
            events.RequestFinished: self._finished,
            events.RequestFailed: self._failed,
            events.EngineReported: self._engines.reported,
            events.EngineChanged: self._engines.changed,
            events.NodeSeen: self._node_seen,
            events.NodeLost: self._engines.node_lost,
            events.LimitObserved: self._limit_observed,
            events.GatewaySeen: self._gateway_seen,
            events.GatewayLost: self._gateway_lost,
            events.LeaseReported: self._leases.reported,
            events.LeaseReturned: self._leases.returned,
            events.CatalogueChanged: self._catalogue_changed,
            events.Woke: lambda event: self._state.timers.woke(event.at),
        }

    def _settle(self) -> None:
        """Looks at every endpoint that was touched, until nothing is left to do."""
        state = self._state
        while state.touched:
            endpoint_id = next(iter(state.touched))
            del state.touched[endpoint_id]
            endpoint = state.endpoints.get(endpoint_id)
            if endpoint is None:
                continue
            self._placement.attend(endpoint)
            self._endpoints.forget_if_over(endpoint)

    def _node_seen(self, event: events.NodeSeen) -> None:
        if event.node.id not in self._state.nodes:
            self._scaling.came(event.node)
        self._engines.node_seen(event)
        self._scaling.reconsider()

    def _catalogue_changed(self, event: events.CatalogueChanged) -> None:
        self._endpoints.apply(event.catalogue)
        self._scaling.reconsider()

    def _reconvened(self) -> None:
        """Whoever was going to has introduced itself: placing begins."""
        for endpoint_id in self._state.endpoints:
            self._state.touch(endpoint_id)
        self._capacity.reconsider()

    # Requests.

    def _arrived(self, event: events.RequestsArrived) -> None:
        for request in event.requests:
            if self._hedging is not None:
                self._hedging.arrived(request)
            self._placement.arrive(request)

    def _cancelled(self, event: events.RequestCancelled) -> None:
        ticket = self._state.tickets.get(event.request_id)
        if ticket is None:
            return
        if event.outrun and self._hedging is not None:
            self._hedging.outrun(ticket)
        self._state.end(ticket)

    def _started(self, event: events.RequestStarted) -> None:
        ticket = self._state.tickets.get(event.request_id)
        if ticket is not None and ticket.state is RequestState.DISPATCHED:
            ticket.state = RequestState.STARTED
            if self._hedging is not None:
                self._hedging.watch(ticket)

    def _first_token(self, event: events.FirstToken) -> None:
        ticket = self._state.tickets.get(event.request_id)
        if ticket is not None and ticket.state is RequestState.STARTED:
            ticket.state = RequestState.STREAMING
            if ticket.deadline is not None:
                self._state.timers.cancel(ticket.deadline)
                ticket.deadline = None
            first_token(self._state, ticket, event.ttft_s)

    def _finished(self, event: events.RequestFinished) -> None:
        ticket = self._placed(event.request_id)
        if ticket is None:
            return
        total_s = event.total_s
        if total_s <= 0 and ticket.dispatched_at is not None:
            total_s = self._state.now - ticket.dispatched_at
        self._state.service.answered(ticket.endpoint_id, total_s, event.completion_tokens)
        answered(self._state, ticket, event.completion_tokens, total_s)
        self._state.endpoints[ticket.endpoint_id].circuit.succeeded()
        self._state.end(ticket)

    def _failed(self, event: events.RequestFailed) -> None:
        ticket = self._placed(event.request_id)
        if ticket is None:
            return
        endpoint = self._state.endpoints[ticket.endpoint_id]
        if event.retry_after_s is not None and event.retry_after_s > 0:
            endpoint.rate.hold(self._state.now + event.retry_after_s)
            self._leases.recall(endpoint.places.values())
        if event.endpoint_fault and endpoint.circuit.failed(self._state.now):
            self._state.upset_endpoint(ticket.endpoint_id)
        self._state.end(ticket)

    def _placed(self, request_id: str) -> Ticket | None:
        """A request that has a place; one that still waits has nothing that could finish or fail."""
        ticket = self._state.tickets.get(request_id)
        return None if ticket is None or ticket.state is RequestState.WAITING else ticket

    def _limit_observed(self, event: events.LimitObserved) -> None:
        endpoint = self._state.endpoints.get(event.endpoint_id)
        if endpoint is None:
            return
        now = self._state.now
        endpoint.rate.observe(now, event.remaining_requests, event.remaining_tokens, event.reset_s)
        if not endpoint.rate.is_leasable(now):
            self._leases.recall(endpoint.places.values())
        self._state.touch(event.endpoint_id)

    # Gateways.

    def _gateway_seen(self, event: events.GatewaySeen) -> None:
        gateway = self._state.gateway(event.gateway_id)
        for request_id, place in event.running:
            if request_id in self._state.tickets:
                continue
            ticket = Ticket(request_id, gateway.gateway_id, place.endpoint_id, self._state.now)
            ticket.state = RequestState.STARTED
            self._state.admit(ticket)
            known = self._state.place(place)
            self._state.run(ticket, known)
            known.inherited = max(known.inherited, known.held)
        for lease in event.leases:
            self._leases.adopt(lease)

    def _gateway_lost(self, event: events.GatewayLost) -> None:
        gateway = self._state.gateways.get(event.gateway_id)
        if gateway is None:
            return
        for ticket in list(gateway.tickets.values()):
            self._state.end(ticket)
        for lease in list(gateway.leases.values()):
            self._state.drop_lease(lease)
        del self._state.gateways[event.gateway_id]
