"""The plainest rules of swapping, part of the policy `fcfs`: the model of the request that waits longest comes next.

Whoever is in its way drains and leaves, idle ones first, then those that have been awake longest. Nothing is weighed.
"""

from __future__ import annotations

from logos.scheduling.nodes import Engine
from logos.scheduling.places import EndpointState
from logos.scheduling.state import State
from logos.scheduling.swapping import Claims
from logos.scheduling.transitions import Transitions


class FirstCome:
    """One model after the other, in the order in which they were asked for."""

    def __init__(self, state: State, transitions: Transitions, claims: Claims) -> None:
        self._state = state
        self._transitions = transitions
        self._claims = claims

    def wanted(self, endpoint: EndpointState) -> None:
        if endpoint is not self._next(endpoint):
            return
        for claim in self._claims.options(endpoint, self._least_needed):
            if not self._claims.is_busy(claim.node):
                self._claims.make(claim, settle=True)
                return

    def attend(self, endpoint: EndpointState) -> None:
        """Nothing is done before somebody waits."""

    def moved(self) -> None:
        """Whoever waits is looked at again anyway."""

    def _next(self, endpoint: EndpointState) -> EndpointState:
        """Of those who wait for an engine in this pool, the one whose request has waited longest."""
        provider_id = endpoint.endpoint.provider_id
        waiting = [
            each
            for each in self._state.endpoints.values()
            if each.is_pooled and each.queue and not each.live and each.endpoint.provider_id == provider_id
        ]
        return min(waiting, key=_oldest_arrival, default=endpoint)

    def _least_needed(self, engine: Engine) -> tuple[bool, float]:
        place = self._transitions.place_of(engine)
        return (place is not None and bool(place.running), engine.since)


def _oldest_arrival(endpoint: EndpointState) -> float:
    oldest = endpoint.queue.oldest()
    return float("inf") if oldest is None else oldest.arrived_at
