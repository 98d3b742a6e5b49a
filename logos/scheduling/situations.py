"""What a request meets at a place, in the predictor's words; and what came of it, for the predictor to learn from.

Nothing is estimated here (that is the prediction room's) and nothing decided.
"""

from __future__ import annotations

from logos.domain.nouns import Place
from logos.prediction.pace import Situation
from logos.prediction.spans import AT_ONCE, Span
from logos.scheduling.state import EndpointState, PlaceState, State, Ticket


def situation(
    state: State,
    endpoint: EndpointState,
    place: PlaceState,
    prompt_tokens: int,
    uncached_tokens: int,
    *,
    waiting: int = 0,
    queued_tokens: int = 0,
    delay: Span = AT_ONCE,
) -> Situation:
    """What a request of so many prompt tokens meets at this place now, behind so many others that wait."""
    backlog = place.backlog
    remaining = backlog.remaining_tokens
    elapsed = state.now - backlog.at if remaining > 0.0 else 0.0
    engine = state.engines.get(place.place.engine_id) if place.place.engine_id is not None else None
    kv_usage = engine.kv_usage if engine is not None else 0.0
    neighbours = neighbours_running(state, place.place) if engine is not None else 0
    return Situation(
        prompt_tokens,
        uncached_tokens,
        len(place.running),
        place.capacity,
        waiting,
        queued_tokens,
        remaining,
        elapsed,
        kv_usage,
        neighbours,
        delay,
    )


def neighbours_running(state: State, place: Place) -> int:
    """Requests that run in other engines on the same GPUs."""
    engine = state.engines.get(place.engine_id) if place.engine_id is not None else None
    node = state.nodes.get(engine.node_id) if engine is not None else None
    if engine is None or node is None or len(node.engines) < 2:
        return 0
    gpus, running = set(engine.gpu_indices), 0
    for other in node.engines.values():
        if other is engine or gpus.isdisjoint(other.gpu_indices):
            continue
        there = state.endpoints[other.endpoint_id].places.get(Place(other.endpoint_id, other.engine_id))
        running += len(there.running) if there is not None else 0
    return running


def learn_first_token(state: State, ticket: Ticket, ttft_s: float) -> None:
    """The first token came so long after the request was dispatched."""
    if ticket.met is not None:
        state.predictor.observe_first_token(ticket.endpoint_id, ticket.met, ttft_s)


def learn_answer(state: State, ticket: Ticket, completion_tokens: int, total_s: float) -> None:
    """The whole answer, so long after the request was dispatched."""
    if ticket.request is not None:
        state.predictor.answers.observe(
            state.endpoints[ticket.endpoint_id].endpoint.model_id,
            ticket.request.key_id,
            completion_tokens,
            ticket.request.output_tokens_max,
        )
    if ticket.met is None or ticket.dispatched_at is None or ticket.first_token_at is None:
        return
    first_s = ticket.first_token_at - ticket.dispatched_at
    state.predictor.observe_finished(ticket.endpoint_id, ticket.met, completion_tokens, first_s, total_s)
