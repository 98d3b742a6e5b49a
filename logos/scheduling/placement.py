"""Which request goes where and when: choosing an endpoint by policy, queueing there, dispatching when there is room.

The formulas are in `policies`, the order of the queue in `queue`; engines come and go in `capacity`. A request is in
exactly one queue or at exactly one place until it ends.
"""

from __future__ import annotations

from functools import partial

from logos.domain.lifecycle import RequestState
from logos.scheduling.affinity import place_for
from logos.scheduling.capacity import Capacity, Refusal
from logos.scheduling.commands import Reject
from logos.scheduling.dispatching import dispatch
from logos.scheduling.events import Request
from logos.scheduling.leases import Leases
from logos.scheduling.nodes import count
from logos.scheduling.places import EndpointState
from logos.scheduling.policies import Choice, Policy, Stake, View
from logos.scheduling.scaling import Scaling
from logos.scheduling.state import State
from logos.scheduling.tickets import Ticket, rank_of
from logos.scheduling.views import Views, tier_of

RETRY_AFTER_MIN_S = 1.0
RETRY_AFTER_MAX_S = 600.0


class Placement:
    """Takes requests in and gives them places."""

    def __init__(
        self, state: State, policy: Policy, views: Views, capacity: Capacity, scaling: Scaling, leases: Leases
    ) -> None:
        self._state = state
        self._policy = policy
        self._views = views
        self._capacity = capacity
        self._scaling = scaling
        self._leases = leases

    def arrive(self, request: Request) -> None:
        """A request asks for a place: it gets one, waits for one, or is told why not. Repeats are ignored; a later
        attempt replaces an earlier one whose end has not been heard of yet."""
        state = self._state
        known = state.tickets.get(request.request_id)
        if known is not None:
            if request.attempt <= known.attempt:
                return
            state.end(known)
        ticket = Ticket(request.request_id, request.gateway_id, 0, state.now, request)
        slo = state.catalogue.slo
        ticket.slo_ttft_s = slo.first_token_s(request.mode, request.slo_ttft_s, request.slo_total_s)
        choice = self._choose(ticket)
        if isinstance(choice, Refusal):
            self._turn_away(request, choice, 0.0)
            return
        endpoint = state.endpoint(choice.endpoint_id)
        hopeless = self._held_back(ticket, endpoint) or self._hopeless(request, choice, endpoint)
        if hopeless is not None:
            self._refuse(request, hopeless, 0.0)
            return
        state.admit(ticket)
        self._enqueue(ticket, choice)
        if request.queue_timeout_s > 0:
            state.asked(endpoint)
            self.attend(endpoint)
        else:
            self._take_at_once(ticket, endpoint)
        if ticket.place is not None:
            # What may be hedged never runs under a lease, so a lease would only take a place from it.
            if not (request.may_hedge and state.hedges.is_open):
                self._leases.offer(endpoint.places[ticket.place], request.gateway_id)
        elif ticket.state is RequestState.WAITING:
            self._keep_waiting(ticket, request)

    def attend(self, endpoint: EndpointState) -> None:
        """Does whatever can be done at an endpoint now: dispatch, ask leases back, bring engines, place elsewhere."""
        state, endpoint_id = self._state, endpoint.endpoint.id
        state.touched.pop(endpoint_id, None)
        if endpoint.engines or endpoint_id in state.claims:
            self._capacity.attend(endpoint)
        if endpoint_id in state.upset or (endpoint.is_removed and state.has_catalogue):
            state.upset.pop(endpoint_id, None)
            self._leases.recall(endpoint.places.values())
            self._choose_again(endpoint)
        if endpoint.is_removed or state.is_reconvening:
            return
        if endpoint.queue:
            self._serve(endpoint)
            if endpoint.queue:
                self._leases.recall(endpoint.places.values())
        if self._capacity.provide(endpoint) is not None and not self._scaling.is_awaited(endpoint):
            self._choose_again(endpoint)
        if endpoint.is_pooled:
            self._scaling.attend(endpoint)

    # Inside: choosing.

    def _choose(self, ticket: Ticket) -> Choice | Refusal:
        """The policy's choice among the candidates that can serve at all: if there are any, of the clear ones."""
        state, request = self._state, ticket.request
        assert request is not None
        views: list[View] = []
        clear: list[View] = []
        refusals: list[Refusal] = []
        for candidate in request.candidates:
            endpoint = state.endpoints.get(candidate.endpoint_id)
            if endpoint is None or endpoint.is_removed:
                continue
            view = self._views.of(endpoint, candidate, request)
            if isinstance(view, Refusal):
                refusals.append(view)
                continue
            views.append(view)
            if self._is_clear(ticket, endpoint):
                clear.append(view)
        if views:
            return self._policy(clear or views, Stake(ticket.slo_ttft_s, state.settings))
        if refusals:
            # What may pass is told rather than what will not.
            refusal = next((each for each in refusals if each.code == "no_capacity"), refusals[0])
            return self._where_a_node_comes(ticket, request) or refusal
        is_early = not state.has_catalogue or state.now < ticket.arrived_at + state.settings.catalogue_grace_s
        if request.candidates and is_early:
            return Choice(request.candidates[0].endpoint_id)
        return Refusal("no_capacity", "none of its endpoints is known to the scheduler", RETRY_AFTER_MIN_S)

    def _where_a_node_comes(self, ticket: Ticket, request: Request) -> Choice | None:
        """The first of its endpoints that lacks only a node, if one that is asked for comes before it gives up."""
        patience_s = ticket.gives_up_at - self._state.now
        for candidate in request.candidates:
            endpoint = self._state.endpoints.get(candidate.endpoint_id)
            node_in_s = None if endpoint is None else self._scaling.node_in_s(endpoint)
            if node_in_s is not None and node_in_s < patience_s:
                return Choice(candidate.endpoint_id)
        return None

    def _is_clear(self, ticket: Ticket, endpoint: EndpointState) -> bool:
        """It is healthy, its rate admits the request before it gives up and, if it may not wait, a place is free."""
        if not endpoint.circuit.admits(self._state.now) or self._held_back(ticket, endpoint) is not None:
            return False
        if ticket.gives_up_at > ticket.arrived_at:
            return True
        return not endpoint.queue and place_for(self._state, endpoint, ticket) is not None

    def _choose_again(self, endpoint: EndpointState) -> None:
        """What waits there goes elsewhere if it now would; who stays keeps the place in line."""
        state = self._state
        for ticket in endpoint.queue:
            assert ticket.request is not None
            choice = self._choose(ticket)
            if isinstance(choice, Refusal):
                state.end(ticket)
                self._turn_away(ticket.request, choice, state.now - ticket.arrived_at)
            elif choice.endpoint_id != endpoint.endpoint.id:
                endpoint.drop(ticket)
                self._enqueue(ticket, choice)
                state.touch(choice.endpoint_id)
                if not endpoint.queue:
                    state.touch(endpoint.endpoint.id)  # nobody need make room for it any more
        if endpoint.queue and endpoint.is_removed:
            # They wait for a catalogue that names it, and not for long.
            self._recheck(endpoint, state.now + state.settings.catalogue_grace_s)

    def _held_back(self, ticket: Ticket, endpoint: EndpointState) -> Refusal | None:
        """Said at once, too, and by every policy: until its rate admits the request, which is known and not predicted,
        the request has given up."""
        request = ticket.request
        if endpoint.is_pooled or request is None:
            return None
        tokens = request.prompt_tokens + self._expected_output_tokens(request, endpoint.endpoint.id)
        admitted_from = endpoint.rate.admits_from(self._state.now, tokens)
        if admitted_from <= ticket.gives_up_at:
            return None
        held_s = admitted_from - self._state.now
        message = f"its provider takes no more for {held_s:.0f} s and it may wait {request.queue_timeout_s:.0f} s"
        return Refusal("no_capacity", message, min(max(held_s, RETRY_AFTER_MIN_S), RETRY_AFTER_MAX_S))

    def _hopeless(self, request: Request, choice: Choice, endpoint: EndpointState) -> Refusal | None:
        """Said at once rather than after the wait: even its best place will not begin before its time-out. Believed
        only where others wait that go before it, so that a predictor gone wrong turns nobody away from a free slot."""
        expected_s = choice.predicted_ttft_s
        if not self._views.predicts or expected_s is None or not endpoint.queue:
            return None
        if expected_s <= request.queue_timeout_s:
            return None
        if endpoint.queued_up_to(rank_of(request)).requests < self._state.parallel(endpoint):
            return None
        message = f"it would wait about {expected_s:.0f} s and may wait {request.queue_timeout_s:.0f} s"
        retry_after_s = min(max(expected_s - request.queue_timeout_s, RETRY_AFTER_MIN_S), RETRY_AFTER_MAX_S)
        return Refusal("no_capacity", message, retry_after_s)

    # Inside: waiting.

    def _enqueue(self, ticket: Ticket, choice: Choice) -> None:
        state, request = self._state, ticket.request
        assert request is not None
        endpoint = state.endpoint(choice.endpoint_id)
        ticket.endpoint_id = choice.endpoint_id
        ticket.predicted_ttft_s = choice.predicted_ttft_s
        ticket.tier = tier_of(endpoint)
        ticket.depth_at_enqueue = len(endpoint.queue)
        ticket.output_tokens = self._expected_output_tokens(request, choice.endpoint_id)
        state.waiting[request.request_id] = ticket
        endpoint.join(ticket, overtakes=state.settings.overtakes(request.priority, request.mode))

    def _keep_waiting(self, ticket: Ticket, request: Request) -> None:
        """It waits, unless too many do, until its time-out."""
        state = self._state
        others = len(state.waiting) - 1
        if others < state.settings.queue_length_max:
            ticket.deadline = state.timers.add(ticket.gives_up_at, partial(self._time_out, ticket))
            return
        endpoint = state.endpoints[ticket.endpoint_id]
        state.end(ticket)
        message = f"{count(others, 'request')} are waiting already"
        self._refuse(request, Refusal("no_capacity", message, self._retry_after_s(endpoint)), 0.0)

    def _take_at_once(self, ticket: Ticket, endpoint: EndpointState) -> None:
        """It may not wait at all, so no engine comes for it, and none makes room: who takes it is there, or nobody."""
        if not (endpoint.is_removed or self._state.is_reconvening):
            if endpoint.is_draining:
                self._capacity.attend(endpoint)  # who makes room for others may take it along
            self._serve(endpoint)
        if ticket.place is not None:
            self._state.asked(endpoint)
        else:
            self._leases.recall(endpoint.places.values())
            message = "no place was free at once, and it may not wait"
            self._end_refused(ticket, Refusal("queue_timeout", message, self._retry_after_s(endpoint)))

    def _expected_output_tokens(self, request: Request, endpoint_id: int) -> int:
        observed = self._state.service.output_p50_tokens(endpoint_id)
        expected = self._state.settings.output_prior_tokens if observed is None else int(observed)
        return expected if request.output_tokens_max is None else min(expected, request.output_tokens_max)

    def _time_out(self, ticket: Ticket) -> None:
        endpoint = self._state.endpoints[ticket.endpoint_id]
        waited_s = self._state.now - ticket.arrived_at
        message = f"it waited {waited_s:.0f} s in the queue, as long as it was allowed to"
        self._end_refused(ticket, Refusal("queue_timeout", message, self._retry_after_s(endpoint)))

    def _end_refused(self, ticket: Ticket, refusal: Refusal) -> None:
        assert ticket.request is not None
        self._state.end(ticket)
        self._refuse(ticket.request, refusal, self._state.now - ticket.arrived_at)

    def _turn_away(self, request: Request, refusal: Refusal, waited_s: float) -> None:
        """None of its endpoints can be waited at."""
        node_in_s = self._scaling.turned_away(request)
        if node_in_s is not None:
            refusal = refusal._replace(retry_after_s=min(max(node_in_s, RETRY_AFTER_MIN_S), RETRY_AFTER_MAX_S))
        self._refuse(request, refusal, waited_s)

    def _refuse(self, request: Request, refusal: Refusal, waited_s: float) -> None:
        code, message, retry_after_s = refusal
        self._state.commands.append(
            Reject(request.request_id, request.gateway_id, code, message, retry_after_s, waited_s)
        )

    def _retry_after_s(self, endpoint: EndpointState) -> float:
        """When the line there should be through: what waits, at the observed pace, after an engine has come."""
        state = self._state
        wait_s = (len(endpoint.queue) + 1) / state.parallel(endpoint) * state.service_s(endpoint.endpoint.id)
        if endpoint.is_pooled and not endpoint.is_open:
            wait_s += self._capacity.load_s(endpoint)
        if not endpoint.is_pooled:
            wait_s += endpoint.rate.admits_from(state.now, 0) - state.now
        return min(max(wait_s, RETRY_AFTER_MIN_S), RETRY_AFTER_MAX_S)

    # Inside: dispatching.

    def _serve(self, endpoint: EndpointState) -> None:
        """Dispatches in the queue's order while a place has room and the endpoint's rate admits it."""
        state = self._state
        while (ticket := endpoint.queue.peek()) is not None:
            place = place_for(state, endpoint, ticket)
            if place is None:
                self._recheck_when_late(endpoint, ticket)
                return
            if not endpoint.is_pooled:
                admitted_from = endpoint.rate.admits_from(state.now, ticket.tokens)
                if admitted_from > state.now:
                    self._recheck(endpoint, admitted_from)
                    return
                endpoint.rate.admit(state.now, ticket.tokens)
            dispatch(state, ticket, endpoint, place)

    def _recheck_when_late(self, endpoint: EndpointState, ticket: Ticket) -> None:
        """Promises to others keep it out only until it is late itself."""
        if ticket.slo_ttft_s is not None and endpoint.paced:
            due = ticket.arrived_at + ticket.slo_ttft_s
            if due > self._state.now:
                self._recheck(endpoint, due)

    def _recheck(self, endpoint: EndpointState, at: float) -> None:
        """The endpoint is looked at again at that time, if not before."""
        if endpoint.recheck is not None and endpoint.recheck.is_pending and endpoint.recheck.at <= at:
            return
        self._state.timers.cancel(endpoint.recheck)
        endpoint.recheck = self._state.timers.add(at, partial(self._state.touch, endpoint.endpoint.id))
