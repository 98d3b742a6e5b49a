"""Second places in a simulated run: the race for the first byte, as the gateways run it.

A second place is an `Outcome` of its own, under the id that the scheduler gave it, so engines and remote endpoints take
it for any request. The story of the request is told by the first one, which takes over what the second one did if that
won. Its luck is its own: an endpoint that was slow the first time need not be slow again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from logos.scheduling.commands import Dispatch
from logos.scheduling.events import Event, Request, RequestCancelled
from logos.simulation.agenda import Agenda
from logos.simulation.arrivals import Luck
from logos.simulation.run import Outcome, Status


@dataclass(frozen=True, slots=True)
class Hedges:
    """Works on the driver's own books of open requests. `take_out` removes a try from where it runs."""

    agenda: Agenda
    open: dict[str, Outcome]
    requests: dict[str, Request]
    luck: dict[str, Luck]
    tell: Callable[[Event], None]
    take_out: Callable[[str, Outcome], None]

    def begin(self, command: Dispatch) -> Outcome | None:
        """The second place's own story; None if its request has its first byte or has ended."""
        assert command.hedge_of is not None
        first, hedge_id = self.open.get(command.hedge_of), command.request_id
        if first is None or first.first_token_at is not None or first.dispatched_at is None or first.attempts > 1:
            self.tell(RequestCancelled(self.agenda.now, hedge_id))
            return None
        second = Outcome(replace(first.arrival, request_id=hedge_id), hedge_of=first)
        first.hedge, first.hedge_winner = second, "none"
        self.open[hedge_id] = second
        self.requests[hedge_id] = self.requests[command.hedge_of]
        luck = self.luck[command.hedge_of]
        self.luck[hedge_id] = replace(luck, latency=luck.second)
        return second

    def decided(self, winner: Outcome) -> None:
        """Its first byte is here: the other place is given up."""
        if winner.hedge is not None:
            winner.hedge_winner = "first"
            self._drop(winner.hedge, outrun=True)
        elif winner.hedge_of is not None:
            first = winner.hedge_of
            first.hedge_winner = "second"
            if first.dispatched_at is not None:
                self.take_out(first.arrival.request_id, first)
                first.attempts += 1  # what is still to come of the first try is void
                self.tell(RequestCancelled(self.agenda.now, first.arrival.request_id, outrun=True))

    def failed(self, outcome: Outcome) -> Outcome | None:
        """Before its first byte a place failed: the request to be tried anew if both did; None while one goes on."""
        first = outcome.hedge_of
        if first is None:
            outcome.attempts += 1
            outcome.engine_id = outcome.dispatched_at = None
            return None
        self._forget(outcome)
        if first.dispatched_at is not None:
            return None
        if outcome.engine_id is None:
            request_id = first.arrival.request_id
            request = self.requests[request_id]
            left = tuple(each for each in request.candidates if each.endpoint_id != outcome.endpoint_id)
            self.requests[request_id] = replace(request, candidates=left)
        return first

    def left(self, first: Outcome) -> None:
        """The client is gone, and with it the second place."""
        if first.hedge is not None:
            self._drop(first.hedge)

    def ended(self, second: Outcome) -> Outcome | None:
        """The second place served the request to its end, good or bad: the request's own story, to be ended, too."""
        first = second.hedge_of
        if first is None or first.status is not Status.OPEN:
            return None
        first.hedge = None
        first.model, first.endpoint_id, first.engine_id = second.model, second.endpoint_id, second.engine_id
        first.tier, first.output_tokens, first.reason = second.tier, second.output_tokens, second.reason
        first.first_token_at = second.first_token_at
        if first.dispatched_at is None:
            first.dispatched_at = second.dispatched_at
        return first

    def _drop(self, second: Outcome, *, outrun: bool = False) -> None:
        request_id = second.arrival.request_id
        self.take_out(request_id, second)
        self._forget(second)
        self.tell(RequestCancelled(self.agenda.now, request_id, outrun))

    def _forget(self, second: Outcome) -> None:
        assert second.hedge_of is not None
        second.hedge_of.hedge = None
        second.status = Status.LEFT
        del self.open[second.arrival.request_id]
        del self.requests[second.arrival.request_id]
