"""Endpoint leases: slots of a place that a gateway may fill without asking.

Granted while a place has room and nobody waits for its endpoint, asked back (revoked) the moment somebody does. Slots
of a lease count as held until it is returned, its holder is gone, or its deadline and a grace are over; then only what
runs under it counts, until that is reported to have ended. That may be heard of after the lease is over: what was
started under it runs all the same. What happens to freed slots is decided in `placement`.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from logos.domain.leases import SlotLease
from logos.domain.lifecycle import RequestState
from logos.scheduling.commands import GrantLease, RevokeLease
from logos.scheduling.events import Ended, LeaseReported, LeaseReturned
from logos.scheduling.places import EndpointState, Lease, LeaseState, PlaceState
from logos.scheduling.situations import answered_under_lease, situation
from logos.scheduling.state import State
from logos.scheduling.tickets import Ticket


class Leases:
    """Grants, renews, revokes and ends leases, and keeps what runs under them in the books."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._made = 0

    # Giving.

    def offer(self, place: PlaceState, gateway_id: str) -> None:
        """The gateway's request was placed there at once: with room left, it earns slots of its own, or more."""
        endpoint = self._state.endpoints[place.place.endpoint_id]
        if not self._may_lease(endpoint):
            return
        held = _live(place, gateway_id)
        if held is not None and held.unused:
            return  # it has slots there that it does not need
        slots = _share(place, gateway_id)
        if slots < 1:
            return
        if held is not None:
            held.slots += slots
            self._grant(held)
            return
        self._made += 1
        lease_id = f"{self._state.epoch}-{self._made}"
        self._grant(self._enter(Lease(lease_id, gateway_id, place.place, slots, self._state.now)))

    def adopt(self, lease: SlotLease) -> None:
        """A gateway says that it holds this lease: granted before a restart, for `ttl_s` from now at most."""
        if lease.lease_id in self._state.leases:
            return
        place = self._state.place(lease.place)
        adopted = Lease(lease.lease_id, lease.gateway_id, lease.place, lease.slots, self._state.now)
        self._enter(adopted)
        self._arm(adopted, lease.ttl_s)
        place.inherited = place.held
        self._state.touch(lease.place.endpoint_id)

    # Asking back.

    def recall(self, places: Iterable[PlaceState]) -> None:
        """Asks for every lease on these places, each once."""
        for place in places:
            for lease in place.leases.values():
                if lease.state is LeaseState.LIVE:
                    lease.state = LeaseState.REVOKED
                    self._state.commands.append(RevokeLease(lease.lease_id, lease.gateway_id))

    # Hearing of them.

    def reported(self, event: LeaseReported) -> None:
        lease = self._state.leases.get(event.lease_id)
        if lease is None:
            self._reported_late(event)
            return
        # Counted before the ends are: so many slots would have been wanted at once, or one after the other.
        wanted = len(lease.running) + len(event.started)
        over = {ended.request_id for ended in event.ended}
        for request_id in event.started:
            if request_id not in over:
                self._start(lease, request_id)
        self._state.asked(self._state.endpoint(lease.place.endpoint_id), len(event.started))
        if event.started or event.ended:
            self._state.gateway(lease.gateway_id).ran_at[lease.place.endpoint_id] = self._state.now
        for ended in event.ended:
            self._end(ended, event.lease_id, lease)
        if lease.lease_id in self._state.leases:
            self._renew(lease, wanted)

    def returned(self, event: LeaseReturned) -> None:
        lease = self._state.leases.get(event.lease_id)
        if lease is None:
            self._started_late(event.lease_id, event.running)
            return
        still = dict.fromkeys(event.running)
        for ticket in list(lease.running.values()):
            if ticket.request_id not in still:
                self._state.end(ticket)
        for request_id in still:
            self._start(lease, request_id)
        if lease.lease_id in self._state.leases:
            self._spend(lease)

    # Inside.

    def _reported_late(self, event: LeaseReported) -> None:
        over = {ended.request_id for ended in event.ended}
        self._started_late(event.lease_id, [each for each in event.started if each not in over])
        for ended in event.ended:
            self._end(ended, event.lease_id, None)

    def _started_late(self, lease_id: str, request_ids: Iterable[str]) -> None:
        """The lease is over, but its holder was out of reach: what it had started before counts until it ends."""
        lease = self._state.leases_over.get(lease_id)
        if lease is None or lease.gateway_id not in self._state.gateways:
            return
        for request_id in request_ids:
            self._start(lease, request_id)

    def _may_lease(self, endpoint: EndpointState) -> bool:
        return (
            self._state.settings.lease_ttl_s > 0
            and not endpoint.queue
            and not endpoint.is_removed
            and endpoint.circuit.is_closed
            and not self._state.is_reconvening
            and (endpoint.is_pooled or endpoint.rate.is_leasable(self._state.now))
        )

    def _enter(self, lease: Lease) -> Lease:
        self._state.leases[lease.lease_id] = lease
        self._state.gateway(lease.gateway_id).leases[lease.lease_id] = lease
        self._state.place(lease.place).leases[lease.lease_id] = lease
        return lease

    def _grant(self, lease: Lease) -> None:
        """Grants or renews: the deadline counts from now."""
        ttl_s = self._state.settings.lease_ttl_s
        lease.granted_at = self._state.now
        self._arm(lease, ttl_s)
        ttft_s, prompt_token_s = self._forecast(lease)
        granted = SlotLease(lease.lease_id, lease.gateway_id, lease.place, lease.slots, ttl_s, ttft_s, prompt_token_s)
        self._state.commands.append(GrantLease(granted))

    def _forecast(self, lease: Lease) -> tuple[float, float]:
        """Seconds to the first token of an empty prompt there now, and what each prompt token adds."""
        state, endpoint_id = self._state, lease.place.endpoint_id
        met = situation(state, state.place(lease.place), 0, 0)
        forecast = state.predictor.forecast(endpoint_id, met)
        return forecast.ttft_p50_s, state.predictor.prompt_token_s(endpoint_id)

    def _arm(self, lease: Lease, ttl_s: float) -> None:
        self._state.timers.cancel(lease.timer)
        free_at = self._state.now + ttl_s + self._state.settings.lease_grace_s
        lease.timer = self._state.timers.add(free_at, partial(self._spend, lease))

    def _renew(self, lease: Lease, wanted: int) -> None:
        """A lease that is reported of goes on, and grows if it was full. Its holder hands it back when it has idled."""
        place = self._state.place(lease.place)
        endpoint = self._state.endpoints[lease.place.endpoint_id]
        is_due = self._state.now - lease.granted_at >= self._state.settings.lease_ttl_s / 3
        if lease.state is not LeaseState.LIVE or not is_due:
            return
        if not place.is_open or not self._may_lease(endpoint):
            return
        if wanted >= lease.slots:
            lease.slots += _share(place, lease.gateway_id)
        self._grant(lease)

    def _spend(self, lease: Lease) -> None:
        """Its time is over or it was handed back: only what runs in it counts from now on."""
        lease.state = LeaseState.SPENT
        lease.slots = len(lease.running)
        self._state.timers.cancel(lease.timer)
        endpoint = self._state.endpoints[lease.place.endpoint_id]
        endpoint.grown(endpoint.places[lease.place])
        if not lease.running:
            self._state.drop_lease(lease)
        self._state.touch(lease.place.endpoint_id)

    def _start(self, lease: Lease, request_id: str) -> None:
        """A request runs under the lease: a new one, one that was adopted at the same place after a restart, or one
        that broke under another lease, which is told with the other news of that one."""
        state, place = self._state, self._state.place(lease.place)
        known = state.tickets.get(request_id)
        if known is not None and _has_moved(known, lease):
            state.end(known)
            known = None
        if known is None:
            known = Ticket(request_id, lease.gateway_id, lease.place.endpoint_id, state.now)
            known.state = RequestState.STARTED
            state.admit(known)
        elif not _is_adopted(known, lease):
            return
        state.run(known, place, lease if lease.lease_id in state.leases else None)
        if place.held > place.capacity:
            place.inherited = max(place.inherited, place.held)  # it is a fact, however it came about

    def _end(self, ended: Ended, lease_id: str, lease: Lease | None) -> None:
        """What ran under the lease is over, or came and went since the last report: that is history to learn from."""
        state = self._state
        ticket = state.tickets.get(ended.request_id)
        is_ours = ticket is not None and ticket.request is None and ticket.lease_id in {None, lease_id}
        endpoint_id = lease.place.endpoint_id if lease is not None else None
        if ticket is not None and is_ours:
            endpoint_id = ticket.endpoint_id
            state.end(ticket)
        if endpoint_id is not None:
            self._learn(state.endpoints[endpoint_id], ended, lease)

    def _learn(self, endpoint: EndpointState, ended: Ended, lease: Lease | None) -> None:
        if ended.ok:
            endpoint.circuit.succeeded()
            self._state.service.answered(endpoint.endpoint.id, ended.total_s or 0.0, ended.completion_tokens)
            answered_under_lease(self._state, endpoint, ended, lease)
        elif not ended.cancelled and endpoint.circuit.failed(self._state.now):
            self._state.upset_endpoint(endpoint.endpoint.id)


def _is_adopted(ticket: Ticket, lease: Lease) -> bool:
    """Whether it was told to run at the lease's place, and not yet that it runs under the lease."""
    is_unclaimed = ticket.request is None and ticket.lease_id is None
    return is_unclaimed and ticket.gateway_id == lease.gateway_id and ticket.place == lease.place


def _has_moved(ticket: Ticket, lease: Lease) -> bool:
    """Whether its gateway had started it under another lease: it runs in one place at a time."""
    is_ours = ticket.request is None and ticket.gateway_id == lease.gateway_id
    return is_ours and ticket.lease_id != lease.lease_id and not _is_adopted(ticket, lease)


def _live(place: PlaceState, gateway_id: str) -> Lease | None:
    for lease in place.leases.values():
        if lease.gateway_id == gateway_id and lease.state is LeaseState.LIVE:
            return lease
    return None


def _share(place: PlaceState, gateway_id: str) -> int:
    """A part of the free slots that leaves as much to every other gateway, and always a slot for those without."""
    gateways = {lease.gateway_id for lease in place.leases.values()} | {gateway_id}
    return max(min(max(place.free // (2 * len(gateways)), 1), place.free - 1), 0)
