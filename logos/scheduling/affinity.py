"""Which of an endpoint's open places a request should go to: prompts whose beginning is held there, tight neighbours.

A place remembers the prompts it was given lately. A request goes where its first token is expected soonest, counting
the prompt tokens that need not be computed, so a held prefix is worth exactly the time that it saves and no more. A
place where somebody's pace is promised, and would be broken by one more in the batch, takes nobody, until whoever waits
for it is late itself. Whether and when a request goes is decided in `placement`.
"""

from __future__ import annotations

from collections import OrderedDict

from logos.scheduling.events import Request
from logos.scheduling.places import EndpointState, PlaceState
from logos.scheduling.situations import neighbours_running, situation
from logos.scheduling.state import State
from logos.scheduling.tickets import Ticket

PREFIXES_MAX = 512  # remembered for each place; an engine's cache holds about as many conversations


def uncached_tokens(place: PlaceState, request: Request) -> int:
    """Prompt tokens that have to be computed there, as far as is known."""
    if request.prefix is None or request.prefix not in place.prefixes:
        return request.prompt_tokens
    return max(request.prompt_tokens - min(request.prefix_tokens, place.prefixes[request.prefix]), 0)


def remember(prefixes: OrderedDict[int, int], request: Request) -> None:
    """The place computes this prompt, and holds its beginning for a while."""
    if request.prefix is None:
        return
    prefixes[request.prefix] = max(request.prefix_tokens, prefixes.get(request.prefix, 0))
    prefixes.move_to_end(request.prefix)
    if len(prefixes) > PREFIXES_MAX:
        prefixes.popitem(last=False)


def place_for(state: State, endpoint: EndpointState, ticket: Ticket) -> PlaceState | None:
    """The open place with room that suits this request best, if there is one. Looks at each only where something is
    promised, or the prompt begins like others."""
    request = ticket.request
    if not endpoint.paced and (request is None or request.prefix is None):
        return endpoint.roomiest()
    open_places = [place for place in endpoint.places.values() if place.free > 0]
    if endpoint.paced:
        open_places = [place for place in open_places if _keeps_pace(state, place) or _is_late(state, ticket)]
    if len(open_places) < 2:
        return open_places[0] if open_places else None
    if request is None or request.prefix is None:
        return max(open_places, key=lambda each: each.free)
    return min(open_places, key=lambda each: (_ttft_s(state, endpoint, each, request), -each.free))


def pace_allowed_s(ticket: Ticket) -> float | None:
    """Seconds from token to token with which a request that was promised a whole answer in time keeps its promise."""
    request = ticket.request
    if request is None or request.slo_total_s is None or ticket.dispatched_at is None:
        return None
    left_s = request.slo_total_s - (ticket.dispatched_at - ticket.arrived_at)
    return max(left_s, 0.0) / max(ticket.output_tokens, 1)


def _ttft_s(state: State, endpoint: EndpointState, place: PlaceState, request: Request) -> float:
    met = situation(state, place, request.prompt_tokens, uncached_tokens(place, request))
    return state.predictor.forecast(endpoint.endpoint.id, met).ttft_p50_s


def _keeps_pace(state: State, place: PlaceState) -> bool:
    """Whether one more would leave everybody there with the pace that was promised. A pace that is broken already, or
    could not be kept alone, keeps nobody out."""
    if not place.paces:
        return True
    running, beside = len(place.running), neighbours_running(state, place.place)
    endpoint_id = place.place.endpoint_id
    now_s = state.predictor.tpot(endpoint_id, running, beside).p50
    then_s = state.predictor.tpot(endpoint_id, running + 1, beside).p50
    return not any(now_s <= allowed_s < then_s for allowed_s in place.paces.values())


def _is_late(state: State, ticket: Ticket) -> bool:
    return ticket.slo_ttft_s is not None and state.now >= ticket.arrived_at + ticket.slo_ttft_s
