"""What a policy gets to see of a candidate at the moment of the choice, taken from the books.

Read-only: forecasts come from the prediction room, the choice is the policy's.
"""

from __future__ import annotations

from logos.domain.lifecycle import EngineState
from logos.domain.nouns import Place, Tier
from logos.prediction.spans import AT_ONCE, Span
from logos.scheduling.affinity import uncached_tokens
from logos.scheduling.capacity import Capacity, Outlook, Refusal
from logos.scheduling.delays import Delays
from logos.scheduling.events import Candidate, Request
from logos.scheduling.places import EndpointState, PlaceState
from logos.scheduling.policies import View
from logos.scheduling.situations import situation
from logos.scheduling.state import State
from logos.scheduling.tickets import rank_of

MILLION = 1_000_000


class Views:
    """Views of endpoints, with forecasts if `predicts`."""

    def __init__(self, state: State, capacity: Capacity, delays: Delays, *, predicts: bool) -> None:
        self._state = state
        self._capacity = capacity
        self._delays = delays
        self.predicts = predicts

    def of(self, endpoint: EndpointState, candidate: Candidate, request: Request) -> View | Refusal:
        """What this request would meet there, or why nothing would come of it."""
        outlook: Outlook | None = None
        if endpoint.is_pooled and not (endpoint.live or endpoint.is_open or endpoint.is_contested):
            outlook = self._capacity.outlook(endpoint)
            if outlook.refusal is not None:
                return outlook.refusal
        if self.predicts:
            return self._predicted(endpoint, candidate, request, outlook)
        return self._observed(endpoint, candidate.weight, outlook)

    # Inside.

    def _observed(self, endpoint: EndpointState, weight: float, outlook: Outlook | None) -> View:
        """What the reference's formulas want to know."""
        state, endpoint_id = self._state, endpoint.endpoint.id
        service_s, waiting = state.service_s(endpoint_id), len(endpoint.queue)
        if not endpoint.is_pooled:
            place = endpoint.remote_place
            remaining = endpoint.rate.remaining_requests(state.now)
            running = len(place.running)
            return View(endpoint_id, weight, Tier.REMOTE, running, waiting, place.capacity, service_s, remaining)
        running, parallel, tier = self._load(endpoint)
        if outlook is None:
            return View(endpoint_id, weight, tier, running, waiting, parallel, service_s)
        short, idle = outlook.memory_is_short, outlook.neighbour_is_idle
        return View(endpoint_id, weight, tier, running, waiting, parallel, service_s, None, short, idle)

    def _load(self, endpoint: EndpointState) -> tuple[int, int, Tier]:
        """Requests that run there, that may run at once, and what one more would meet."""
        running = parallel = 0
        for place in endpoint.places.values():
            running += len(place.running)
            if place.is_open:
                parallel += place.capacity
        if parallel:
            return running, parallel, awake_tier(endpoint)
        return running, endpoint.capacity_per_place, tier_of(endpoint)

    def _predicted(
        self, endpoint: EndpointState, candidate: Candidate, request: Request, outlook: Outlook | None
    ) -> View:
        endpoint_id, ahead = endpoint.endpoint.id, endpoint.queued_up_to(rank_of(request))
        place = _likely_place(endpoint, request)
        open_places = len(endpoint.places) - len(endpoint.closed)
        met = situation(
            self._state,
            place,
            request.prompt_tokens,
            uncached_tokens(place, request),
            waiting=-(-ahead.requests // max(open_places, 1)),
            queued_tokens=ahead.tokens // max(open_places, 1),
            delay=self._delay(endpoint, outlook),
        )
        forecast = self._state.predictor.forecast(endpoint_id, met)
        return View(
            endpoint_id,
            candidate.weight,
            tier_of(endpoint) if outlook is not None else Tier.WARM,
            met.running,
            len(endpoint.queue),
            place.capacity,
            0.0,
            ttft_p50_s=forecast.ttft_p50_s,
            ttft_p90_s=forecast.ttft_p90_s,
            price=self._price(endpoint, candidate, request),
            quality=candidate.quality,
            displaced_s=self._delays.displaced_s(endpoint, outlook) if len(request.candidates) > 1 else 0.0,
        )

    def _price(self, endpoint: EndpointState, candidate: Candidate, request: Request) -> float:
        """What it should cost there, in micro-cents."""
        if not (candidate.prompt_price or candidate.completion_price):
            return 0.0
        answers = self._state.predictor.answers
        output = answers.span(endpoint.endpoint.model_id, request.key_id, request.output_tokens_max)
        return (request.prompt_tokens * candidate.prompt_price + output.p50 * candidate.completion_price) / MILLION

    def _delay(self, endpoint: EndpointState, outlook: Outlook | None) -> Span:
        """A remote endpoint's rate limit is a delay, too."""
        if endpoint.is_pooled:
            return AT_ONCE if endpoint.is_open else self._delays.until_served(endpoint, outlook)
        wait_s = endpoint.rate.admits_from(self._state.now, 0) - self._state.now
        return Span(wait_s, wait_s) if wait_s > 0.0 else AT_ONCE


def tier_of(endpoint: EndpointState) -> Tier:
    """What a request meets there now."""
    if not endpoint.is_pooled:
        return Tier.REMOTE
    if endpoint.is_open:
        return awake_tier(endpoint)
    if endpoint.is_contested:
        return Tier.QUEUED
    is_asleep = any(engine.state in ASLEEP for engine in endpoint.engines.values())
    return Tier.ASLEEP if is_asleep else Tier.COLD


ASLEEP = frozenset({EngineState.ASLEEP, EngineState.WAKING, EngineState.FALLING_ASLEEP, EngineState.DRAINING})


def awake_tier(endpoint: EndpointState) -> Tier:
    """Of an endpoint that is open."""
    return Tier.QUEUED if endpoint.queue or endpoint.roomiest() is None else Tier.WARM


def _likely_place(endpoint: EndpointState, request: Request) -> PlaceState:
    """Where it would go: to the prompt's beginning if a place with room holds it, else to where most room is."""
    if request.prefix is not None and len(endpoint.places) > 1:
        for place in endpoint.places.values():
            if place.free > 0 and request.prefix in place.prefixes:
                return place
    return endpoint.roomiest() or next(iter(endpoint.places.values()), None) or _nowhere(endpoint)


def _nowhere(endpoint: EndpointState) -> PlaceState:
    """An empty place like those that it will have."""
    return PlaceState(Place(endpoint.endpoint.id), endpoint.capacity_per_place, False, 0.0)
