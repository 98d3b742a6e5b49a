"""Sending a request to a place: the books, and the command.

Which request and which place is decided by whoever calls: `placement` in the queue's order, the rules of swapping for
engines that are about to make room, `hedging` for second places.
"""

from __future__ import annotations

from logos.domain.lifecycle import RequestState
from logos.domain.nouns import Tier
from logos.scheduling.affinity import pace_allowed_s, remember, uncached_tokens
from logos.scheduling.commands import Dispatch
from logos.scheduling.places import EndpointState, PlaceState
from logos.scheduling.situations import situation
from logos.scheduling.state import State
from logos.scheduling.tickets import Ticket

LOADS = frozenset({Tier.COLD, Tier.ASLEEP})  # what a request meets where an engine has to come first


def dispatch(state: State, ticket: Ticket, endpoint: EndpointState, place: PlaceState) -> None:
    """The request leaves the queue of its endpoint and runs at the place, which must have room."""
    endpoint.serve(ticket)
    if not endpoint.queue and endpoint.endpoint.id in state.claims:
        state.touch(endpoint.endpoint.id)  # nobody need make room for it any more
    del state.waiting[ticket.request_id]
    state.timers.cancel(ticket.deadline)
    ticket.deadline = None
    run_at(state, ticket, endpoint, place)


def run_at(state: State, ticket: Ticket, endpoint: EndpointState, place: PlaceState) -> None:
    """The request, which is in no queue, runs at the place, which must have room."""
    request = ticket.request
    assert request is not None
    uncached = uncached_tokens(place, request)
    ticket.met = situation(state, place, request.prompt_tokens, uncached)
    remember(place.prefixes, request)
    if ticket.predicted_ttft_s is not None and ticket.arrived_at == state.now and not place.is_open:
        # It was expected to wait for its turn, and did not have to.
        ticket.predicted_ttft_s = state.predictor.forecast(ticket.endpoint_id, ticket.met).ttft_p50_s
    ticket.state = RequestState.DISPATCHED
    ticket.dispatched_at = state.now
    state.run(ticket, place)
    place.backlog.dispatched(ticket.request_id, uncached, state.now, request.prompt_tokens - uncached)
    allowed_s = pace_allowed_s(ticket)
    if allowed_s is not None:
        endpoint.promise(ticket.request_id, place, allowed_s)
    endpoint.circuit.dispatched(ticket.request_id)
    state.commands.append(
        Dispatch(
            ticket.request_id,
            ticket.gateway_id,
            place.place,
            ticket.tier,
            state.now - ticket.arrived_at,
            ticket.depth_at_enqueue,
            len(endpoint.queue),
            request.priority,
            ticket.predicted_ttft_s,
            _waited_for_load_s(state, ticket, place),
            ticket.slo_ttft_s,
            ticket.hedge_of,
        )
    )


def _waited_for_load_s(state: State, ticket: Ticket, place: PlaceState) -> float | None:
    """How long its engine took to come, if that was what it waited for."""
    if ticket.tier not in LOADS or place.place.engine_id is None:
        return None
    engine = state.engines.get(place.place.engine_id)
    return engine.seconds if engine is not None and engine.since >= ticket.arrived_at else None
