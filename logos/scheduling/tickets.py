"""A request inside the scheduler, from its arrival to its end, and what its waiting and its deadline count.

Values and what follows from them; nothing is moved or decided here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from logos.domain.lifecycle import RequestState
from logos.domain.nouns import Mode, Place, Priority, Tier
from logos.prediction.pace import Situation
from logos.scheduling.events import Request
from logos.scheduling.timers import Timer

# What waiting counts, by priority and in batch mode.
WEIGHT_OF = {Priority.LOW: 0.7, Priority.MID: 1.0, Priority.HIGH: 1.5}
BATCH_WEIGHT = 0.5
# What a promise is multiplied by, by priority; and what counts as promised where nothing is.
PATIENCE_OF = {Priority.LOW: 2.0, Priority.MID: 1.0, Priority.HIGH: 0.5}
UNPROMISED_S = 60.0


def rank_of(request: Request) -> int:
    """Its class in the queue: interactive before batch, urgent before not."""
    urgency = Priority.HIGH - request.priority
    return urgency if request.mode is Mode.INTERACTIVE else urgency + 100


class Reading(NamedTuple):
    """What a place's `Occupancy` has counted at one moment, and those of its neighbours, added up."""

    at: float
    batch_s: float
    beside_s: float
    neighbours: frozenset[Place]


@dataclass(slots=True, eq=False)
class Ticket:
    """A request that has not ended: it waits at an endpoint or runs at a place.

    `request` is None for what runs under a lease or was running when a gateway introduced itself: it has a place, and
    its candidates are nobody's business any more.
    """

    request_id: str
    gateway_id: str
    endpoint_id: int
    arrived_at: float
    request: Request | None = None
    state: RequestState = RequestState.WAITING
    place: Place | None = None
    lease_id: str | None = None
    tier: Tier = Tier.WARM
    depth_at_enqueue: int = 0
    predicted_ttft_s: float | None = None
    output_tokens: int = 0  # expected
    slo_ttft_s: float | None = None
    dispatched_at: float | None = None
    first_token_at: float | None = None
    met: Situation | None = None  # when it was dispatched
    company_from: Reading | None = None  # at its first token
    left: float = 0.0  # tokens that it still needs, ...
    judged_at: float = float("-inf")  # ... as worked out at that time
    deadline: Timer | None = None  # of its wait; then, where it may be hedged, when its first token is overdue
    hedge_id: str | None = None  # under which it runs at a second place, too
    hedge_of: str | None = None  # the request whose second place this is

    @property
    def attempt(self) -> int:
        return self.request.attempt if self.request is not None else 0

    @property
    def tokens(self) -> int:
        """What it is expected to cost its endpoint, prompt and answer."""
        return (self.request.prompt_tokens if self.request is not None else 0) + self.output_tokens

    @property
    def uncached_tokens(self) -> int:
        """Prompt tokens that have to be computed, as far as is known."""
        return self.request.prompt_tokens if self.request is not None else 0

    @property
    def gives_up_at(self) -> float:
        """When it has waited for as long as it may."""
        assert self.request is not None
        return self.arrived_at + self.request.queue_timeout_s

    @property
    def weight(self) -> float:
        """What its waiting counts beside that of others."""
        assert self.request is not None
        weight = WEIGHT_OF[self.request.priority]
        return weight if self.request.mode is Mode.INTERACTIVE else weight * BATCH_WEIGHT

    @property
    def rank(self) -> int:
        assert self.request is not None
        return rank_of(self.request)

    @property
    def effective_deadline(self) -> float:
        """When its first token is due, sooner or later by its priority: a multiplier rather than a wall."""
        assert self.request is not None
        promised_s = UNPROMISED_S if self.slo_ttft_s is None else self.slo_ttft_s
        return self.arrived_at + promised_s * PATIENCE_OF[self.request.priority]

    @property
    def fair_cost(self) -> int:
        """Service in tokens, output weighing 2."""
        return self.tokens + self.output_tokens
