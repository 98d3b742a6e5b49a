"""Hedging: a second place for a request whose first token is late, in a race for the first byte. Off by default.

A request is hedged once at most, when all of this holds: its first token has not come within the 0.9 quantile that was
forecast for it; hardly any slack is left, so a second place must begin now to keep the promise; the share of requests
that may be hedged has room; another endpoint of its candidates is healthy, has nobody waiting and a free place now.

The second place is a ticket of its own id, so whatever is counted counts it like any other; the gateway lets the race
be decided and gives the other place up. What runs under a lease is never hedged.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from logos.domain.lifecycle import RequestState
from logos.scheduling.affinity import place_for, uncached_tokens
from logos.scheduling.capacity import Refusal
from logos.scheduling.dispatching import run_at
from logos.scheduling.events import Request
from logos.scheduling.places import EndpointState, PlaceState
from logos.scheduling.policies import Policy, Stake, View
from logos.scheduling.situations import situation
from logos.scheduling.state import State
from logos.scheduling.tickets import Ticket
from logos.scheduling.views import Views, tier_of

HEDGE_SUFFIX = "~2"  # of the id under which the second place runs
NEED = 2.0  # slack is near zero when less is left than so many times the median of the second place
LOOK_AGAIN_MIN_S = 0.05


class SecondPlace(NamedTuple):
    """Where a hedge would go, and the median of its first token there, in seconds."""

    endpoint: EndpointState
    place: PlaceState
    ttft_p50_s: float


class Hedging:
    """Watches requests until their first token; `state.hedges` keeps the bound."""

    def __init__(self, state: State, policy: Policy, views: Views) -> None:
        self._state = state
        self._policy = policy
        self._views = views

    def arrived(self, request: Request) -> None:
        """A request asks for a place: the share counts requests, not their retries."""
        if request.attempt == 1 and request.request_id not in self._state.tickets:
            self._state.hedges.arrived()

    def watch(self, ticket: Ticket) -> None:
        """Its gateway has taken it up: it is looked at when its first token is overdue."""
        request = ticket.request
        if request is None or not request.may_hedge or request.attempt > 1 or ticket.hedge_of is not None:
            return
        if ticket.met is None or ticket.slo_ttft_s is None or len(request.candidates) < 2:
            return
        forecast = self._state.predictor.forecast(ticket.endpoint_id, ticket.met)
        self._look_again(ticket, self._state.now + forecast.ttft_p90_s)

    def outrun(self, ticket: Ticket) -> None:
        """The second place was faster. That the first one took longer than this is all that is known of it, and is
        learned; else the slow tries, which are the ones given up, would never be heard of."""
        if ticket.hedge_id is not None and ticket.met is not None and ticket.dispatched_at is not None:
            waited_s = self._state.now - ticket.dispatched_at
            self._state.predictor.observe_first_token(ticket.endpoint_id, ticket.met, waited_s)

    # Inside.

    def _look_again(self, ticket: Ticket, at: float) -> None:
        at = max(at, self._state.now + LOOK_AGAIN_MIN_S)
        ticket.deadline = self._state.timers.add(at, partial(self._consider, ticket))

    def _consider(self, ticket: Ticket) -> None:
        """Its first token is overdue."""
        state = self._state
        ticket.deadline = None
        assert ticket.state is RequestState.STARTED, ticket
        assert ticket.slo_ttft_s is not None
        second = self._second_place(ticket) if state.hedges.has_room else None
        if second is None:
            assert ticket.dispatched_at is not None
            self._look_again(ticket, state.now + (state.now - ticket.dispatched_at))
            return
        latest = ticket.arrived_at + ticket.slo_ttft_s - NEED * second.ttft_p50_s
        if latest > state.now:
            self._look_again(ticket, latest)
        else:
            self._send(ticket, second)

    def _second_place(self, ticket: Ticket) -> SecondPlace | None:
        """The policy's choice among the endpoints that could begin at once."""
        state, request = self._state, ticket.request
        assert request is not None
        assert ticket.slo_ttft_s is not None
        views: list[View] = []
        for candidate in request.candidates:
            endpoint = state.endpoints.get(candidate.endpoint_id)
            if endpoint is None or not self._could_begin(endpoint, ticket):
                continue
            view = self._views.of(endpoint, candidate, request)
            if not isinstance(view, Refusal):
                views.append(view)
        if not views:
            return None
        left_s = max(ticket.arrived_at + ticket.slo_ttft_s - state.now, 0.0)
        chosen = state.endpoints[self._policy(views, Stake(left_s, state.settings)).endpoint_id]
        place = place_for(state, chosen, ticket)
        if place is None:
            return None
        met = situation(state, place, request.prompt_tokens, uncached_tokens(place, request))
        forecast = state.predictor.forecast(chosen.endpoint.id, met)
        return SecondPlace(chosen, place, forecast.ttft_p50_s)

    def _could_begin(self, endpoint: EndpointState, ticket: Ticket) -> bool:
        """Somewhere else, healthy, nobody waits there, and a place is free now."""
        now = self._state.now
        if endpoint.endpoint.id == ticket.endpoint_id or endpoint.queue:
            return False
        if not endpoint.circuit.is_closed or endpoint.roomiest() is None:
            return False
        return endpoint.is_pooled or endpoint.rate.admits_from(now, ticket.tokens) <= now

    def _send(self, ticket: Ticket, second: SecondPlace) -> None:
        state, endpoint = self._state, second.endpoint
        state.hedges.spend()
        hedge = Ticket(
            ticket.request_id + HEDGE_SUFFIX,
            ticket.gateway_id,
            endpoint.endpoint.id,
            ticket.arrived_at,
            ticket.request,
            tier=tier_of(endpoint),
            depth_at_enqueue=ticket.depth_at_enqueue,
            predicted_ttft_s=ticket.predicted_ttft_s,
            output_tokens=ticket.output_tokens,
            slo_ttft_s=ticket.slo_ttft_s,
            hedge_of=ticket.request_id,
        )
        ticket.hedge_id = hedge.request_id
        state.admit(hedge)
        if not endpoint.is_pooled:
            endpoint.rate.admit(state.now, hedge.tokens)
        run_at(state, hedge, endpoint, second.place)
