"""What a request meets at a place, in the predictor's words; and what came of it, for the predictor to learn from.

Nothing is estimated here (that is the prediction room's) and nothing decided.
"""

from __future__ import annotations

from collections.abc import Sequence

from logos.domain.nouns import Place
from logos.prediction.pace import Company, Situation
from logos.prediction.spans import AT_ONCE, Span
from logos.scheduling.events import Ended, Met
from logos.scheduling.nodes import Engine
from logos.scheduling.places import EndpointState, Lease, PlaceState
from logos.scheduling.state import State
from logos.scheduling.tickets import Reading, Ticket

ALONE: frozenset[Place] = frozenset()
REPORTED_WITHIN_S = 0.5  # of the end of a request under a lease, its gateway tells


def situation(
    state: State,
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
    engine = _engine_of(state, place.place)
    return Situation(
        prompt_tokens,
        uncached_tokens,
        len(place.running),
        place.capacity,
        waiting,
        queued_tokens,
        remaining,
        elapsed,
        engine.kv_usage if engine is not None else 0.0,
        _running(_neighbours(state, engine)),
        backlog.remaining_pairs,
        delay,
    )


def neighbours(state: State, place: Place) -> Sequence[PlaceState]:
    """The places of other engines on the same GPUs."""
    return _neighbours(state, _engine_of(state, place))


def neighbours_running(state: State, place: Place) -> int:
    """Requests that run in other engines on the same GPUs."""
    return _running(neighbours(state, place))


def first_token(state: State, ticket: Ticket, ttft_s: float) -> None:
    """The first token came so long after the request was dispatched; 0: nobody measured it. Gateways tell of it a while
    later, with whatever else there is to tell, so it is the measured time that counts."""
    came_at = state.now
    if ttft_s > 0 and ticket.dispatched_at is not None:
        came_at = min(came_at, ticket.dispatched_at + ttft_s)
    ticket.first_token_at = came_at
    if ticket.place is None or ticket.met is None:
        return
    if ttft_s > 0:
        state.predictor.observe_first_token(ticket.endpoint_id, ticket.met, ttft_s)
    place = state.endpoints[ticket.endpoint_id].places[ticket.place]
    place.backlog.left(ticket.request_id, came_at, *state.predictor.prompt_cost_s(ticket.endpoint_id))
    ticket.company_from = _reading(state, place)


def answered(state: State, ticket: Ticket, completion_tokens: int, total_s: float) -> None:
    """The whole answer has come, so long after the request was dispatched."""
    endpoint = state.endpoints[ticket.endpoint_id].endpoint
    if ticket.request is not None:
        allowed = ticket.request.output_tokens_max
        state.predictor.answers.observe(endpoint.model_id, ticket.request.key_id, completion_tokens, allowed)
    if ticket.met is None or ticket.dispatched_at is None or ticket.first_token_at is None:
        return
    first_s = ticket.first_token_at - ticket.dispatched_at
    company = _company(state, ticket)
    state.predictor.observe_finished(endpoint.id, ticket.met, completion_tokens, first_s, total_s, company)


def answered_under_lease(state: State, endpoint: EndpointState, ended: Ended, lease: Lease | None) -> None:
    """A whole answer came under a lease, and what its gateway tells of it has just been heard. The pace is learned from
    it only if nothing of others ran beside it: of them nobody knows what they were doing then."""
    endpoint_id, model_id = endpoint.endpoint.id, endpoint.endpoint.model_id
    if ended.key_id is None:
        return
    state.predictor.answers.observe(model_id, ended.key_id, ended.completion_tokens, ended.output_tokens_max)
    if lease is None or ended.met is None or ended.ttft_s is None or ended.total_s is None:
        return
    place = state.place(lease.place)
    if not _ran_alone(state, lease.gateway_id, place, state.now - ended.total_s - REPORTED_WITHIN_S):
        return
    met = _as_situation(ended.met, ended.cached_tokens, place.capacity)
    state.predictor.observe_first_token(endpoint_id, met, ended.ttft_s)
    company = Company(ended.batch) if ended.batch else None
    state.predictor.observe_finished(endpoint_id, met, ended.completion_tokens, ended.ttft_s, ended.total_s, company)


def _engine_of(state: State, place: Place) -> Engine | None:
    return state.engines.get(place.engine_id) if place.engine_id is not None else None


def _neighbours(state: State, engine: Engine | None) -> Sequence[PlaceState]:
    node = state.nodes.get(engine.node_id) if engine is not None else None
    others = node.beside(engine) if engine is not None and node is not None else ()
    if not others:
        return ()
    places = (state.endpoints[each.endpoint_id].places.get(Place(each.endpoint_id, each.engine_id)) for each in others)
    return [each for each in places if each is not None]


def _running(places: Sequence[PlaceState]) -> int:
    return sum(len(each.running) for each in places) if places else 0


def _as_situation(met: Met, cached_tokens: int, slots: int) -> Situation:
    return Situation(
        met.prompt_tokens,
        max(met.prompt_tokens - cached_tokens, 0),
        met.running,
        slots,
        prefill_tokens=met.prefill_tokens,
        prefill_elapsed_s=met.prefill_elapsed_s,
        prefill_pairs=met.prefill_pairs,
    )


def _ran_alone(state: State, gateway_id: str, place: PlaceState, since: float) -> bool:
    """Whether nothing of other gateways ran at this endpoint since then, and nothing in engines on the same GPUs."""
    if any(ticket.gateway_id != gateway_id for ticket in place.running.values()):
        return False
    others = (
        each.ran_at.get(place.place.endpoint_id) for each in state.gateways.values() if each.gateway_id != gateway_id
    )
    if any(ran_at is not None and ran_at >= since for ran_at in others):
        return False
    return all(not each.running and each.idle_since < since for each in neighbours(state, place.place))


def _reading(state: State, place: PlaceState) -> Reading:
    """As of now. Of two readings only the sum over all neighbours can be compared, whichever was busy in between."""
    now, others = state.now, neighbours(state, place.place)
    batch_s = place.occupancy.advance(now, len(place.running)).batch_s
    if not others:
        return Reading(now, batch_s, 0.0, ALONE)
    beside_s = sum(each.occupancy.advance(now, len(each.running)).busy_s for each in others)
    return Reading(now, batch_s, beside_s, frozenset(each.place for each in others))


def _company(state: State, ticket: Ticket) -> Company | None:
    """Since its first token. None: nobody knows; a neighbour that has ended has taken its count along."""
    before = ticket.company_from
    if before is None or ticket.place is None:
        return None
    now = _reading(state, state.endpoints[ticket.endpoint_id].places[ticket.place])
    passed = now.at - before.at
    if passed <= 0.0 or not before.neighbours <= now.neighbours:
        return None
    beside = (now.beside_s - before.beside_s) / passed
    return Company((now.batch_s - before.batch_s) / passed, min(beside, 1.0))
