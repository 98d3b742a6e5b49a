"""How long what runs will run, and what waits would: until an engine has drained, in seconds.

Estimates from the predictor's quantiles of answer lengths and pace, for the rules of swapping. Nothing is decided here.
"""

from __future__ import annotations

from logos.domain.nouns import Place
from logos.prediction.spans import Span
from logos.scheduling.nodes import Engine
from logos.scheduling.places import PlaceState
from logos.scheduling.situations import neighbours_running
from logos.scheduling.state import State
from logos.scheduling.tickets import Ticket

RUNNING_UPPER = 1.0  # from the median (0) to the 0.9 quantile (1) of what a running request still needs
JUDGED_FOR_S = 0.3  # how long what was worked out for a running request stands
WAITING_UPPER = 0.4  # and of what a waiting one will


class Drains:
    """Reads the books and the predictor; keeps what it worked out in `Ticket.ends_at`."""

    def __init__(self, state: State) -> None:
        self._state = state

    def drain_s(self, engine: Engine) -> float:
        """Until the last of what runs on it should be through. 0: nothing runs."""
        place = self._place(engine)
        if place is None or not place.running:
            return 0.0
        now, token_s = self._state.now, self.token_s(engine)
        latest = now
        for ticket in place.running.values():
            if now >= ticket.judged_at + JUDGED_FOR_S:
                ticket.judged_at, ticket.ends_at = now, now + self._remaining_s(ticket, token_s)
            latest = max(latest, ticket.ends_at)
        return latest - now

    def is_busy(self, engine: Engine) -> bool:
        place = self._place(engine)
        return place is not None and bool(place.running)

    def stay_s(self, ticket: Ticket, engine: Engine, token_s: float) -> float:
        """What a waiting request would take there from its dispatch to its end, with `token_s` from token to token."""
        request = ticket.request
        assert request is not None
        prompt_s = ticket.uncached_tokens * self._state.predictor.prompt_token_s(engine.endpoint_id)
        tokens = self._tokens(ticket, engine.endpoint_id, 0)
        return prompt_s + between(tokens, WAITING_UPPER) * token_s

    def token_s(self, engine: Engine, more: int = 0) -> float:
        """Seconds from token to token on it, with so many more in its batch."""
        place = self._place(engine)
        running = (len(place.running) if place is not None else 0) + more
        beside = neighbours_running(self._state, Place(engine.endpoint_id, engine.engine_id))
        return self._state.predictor.tpot(engine.endpoint_id, running, beside).p50

    # Inside.

    def _remaining_s(self, ticket: Ticket, token_s: float) -> float:
        produced = 0
        if ticket.first_token_at is not None and token_s > 0.0:
            produced = int((self._state.now - ticket.first_token_at) / token_s)
        tokens = self._tokens(ticket, ticket.endpoint_id, produced)
        return max(between(tokens, RUNNING_UPPER) - produced, 1.0) * token_s

    def _tokens(self, ticket: Ticket, endpoint_id: int, produced: int) -> Span:
        request = ticket.request
        key_id, allowed = (request.key_id, request.output_tokens_max) if request is not None else (-1, None)
        model_id = self._state.endpoints[endpoint_id].endpoint.model_id
        return self._state.predictor.answers.span(model_id, key_id, allowed, produced)

    def _place(self, engine: Engine) -> PlaceState | None:
        return self._state.endpoints[engine.endpoint_id].places.get(Place(engine.endpoint_id, engine.engine_id))


def between(span: Span, share: float) -> float:
    """So far from the median to the 0.9 quantile."""
    return span.p50 + share * (span.p90 - span.p50)
