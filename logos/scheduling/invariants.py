"""The books must balance: what tests ask of the scheduler's state after every event.

Nothing here changes anything, and nothing in production calls it: it looks at everything.
"""

from __future__ import annotations

from logos.domain.lifecycle import EngineState, RequestState
from logos.scheduling.nodes import LIVE, NodeState
from logos.scheduling.places import EndpointState, PlaceState, Queued
from logos.scheduling.state import State


def check(state: State) -> None:
    """Raises AssertionError with what is wrong."""
    for endpoint in state.endpoints.values():
        for place in endpoint.places.values():
            _check_place(state, place)
        _check_kept(endpoint)
        _check_room(state, endpoint)
        _check_queue(state, endpoint)
    _check_requests(state)
    _check_owners(state)
    _check_claims(state)
    _check_hedges(state)
    for node in state.nodes.values():
        _check_memory(state, node)
    assert not state.touched, state.touched
    assert not state.upset, state.upset
    assert not state.commands, state.commands


def _check_memory(state: State, node: NodeState) -> None:
    """Nothing is given twice. What engines of unknown models keep asleep is only feared, so it may be too much."""
    assert node.unheld_mib() == node.summed_unheld_mib(), node
    unknown = [each for each in node.engines.values() if state.endpoints[each.endpoint_id].endpoint.engine is None]
    for index, free_mib in node.unheld_mib().items():
        asleep = [each for each in unknown if each.is_off_gpus and index in each.gpu_indices]
        feared_mib = sum(each.residue_per_gpu_mib for each in asleep)
        assert free_mib + feared_mib >= 0, f"GPU {index} of {node.node.id} is over-committed: {free_mib} MiB"
    free = node.host_free_mib() + sum(each.host_mib for each in unknown if each.has_slept)
    assert free >= 0, f"host RAM of {node.node.id} is over-committed: {free} MiB"


def _check_place(state: State, place: PlaceState) -> None:
    if place.is_open:
        allowed = max(place.capacity, place.inherited)
        assert place.held <= allowed, f"{place.place}: {place.held} held of {allowed}"
    for ticket in place.running.values():
        assert state.tickets.get(ticket.request_id) is ticket, ticket
        assert ticket.place == place.place, ticket
    for lease in place.leases.values():
        assert state.leases.get(lease.lease_id) is lease, lease
        for request_id, ticket in lease.running.items():
            assert place.running.get(request_id) is ticket, ticket
            assert ticket.lease_id == lease.lease_id, ticket


def _check_kept(endpoint: EndpointState) -> None:
    """What is kept so that it need not be looked for is what one would find."""
    places = endpoint.places.values()
    roomiest = max((place for place in places if place.free > 0), key=lambda each: each.free, default=None)
    assert endpoint.roomiest() is roomiest, (endpoint.roomiest(), roomiest)
    assert endpoint.closed == {each.place: each for each in places if not each.is_open}, endpoint.closed
    assert endpoint.paced == {each.place: each for each in places if each.paces}, endpoint.paced
    states = [engine.state for engine in endpoint.engines.values()]
    assert endpoint.live == sum(each in LIVE for each in states), (endpoint.live, states)
    assert endpoint.is_falling_asleep == (EngineState.FALLING_ASLEEP in states), states
    assert endpoint.is_draining == (EngineState.DRAINING in states), states


def _check_room(state: State, endpoint: EndpointState) -> None:
    """Where it is remembered that there is no room, there is none."""
    spec = endpoint.endpoint.engine
    if spec is None or endpoint.no_room_since != state.memory_moves:
        return
    for node in state.pool(endpoint):
        assert node.fit(spec, endpoint.endpoint.id) is None, f"{endpoint.endpoint.id} would fit on {node.node.id}"
    for engine in endpoint.engines.values():
        if engine.state is EngineState.ASLEEP:
            assert not state.nodes[engine.node_id].has_room_for(engine), f"{engine.engine_id} could wake"


def _check_queue(state: State, endpoint: EndpointState) -> None:
    weight = sum(ticket.weight for ticket in endpoint.queue)
    assert abs(endpoint.pressure - weight) < 1e-6 * max(weight, 1.0), (endpoint.pressure, weight)
    came = sum(ticket.weight * ticket.arrived_at for ticket in endpoint.queue)
    assert abs(endpoint.came - came) < 1e-6 * max(came, 1.0), (endpoint.came, came)
    queued: dict[int, Queued] = {rank: Queued() for rank in endpoint.classes}
    for ticket in endpoint.queue:
        queued[ticket.rank].add(1, ticket.uncached_tokens)
    assert endpoint.classes == queued, (endpoint.classes, queued)
    for ticket in endpoint.queue:
        assert state.waiting.get(ticket.request_id) is ticket, ticket
        assert ticket.endpoint_id == endpoint.endpoint.id, ticket
    if endpoint.is_removed or state.is_reconvening or not endpoint.queue:
        return
    head = endpoint.queue.peek()
    assert head is not None
    held_back = not endpoint.is_pooled and endpoint.rate.admits_from(state.now, head.tokens) > state.now
    held_back = held_back or bool(endpoint.paced)  # promises to who runs there
    assert held_back or endpoint.roomiest() is None, f"a request waits at {endpoint.endpoint.id}, which has room"


def _check_requests(state: State) -> None:
    queued = sum(len(endpoint.queue) for endpoint in state.endpoints.values())
    assert queued == len(state.waiting), (queued, len(state.waiting))
    for request_id, ticket in state.tickets.items():
        endpoint = state.endpoints[ticket.endpoint_id]
        is_waiting = ticket.state is RequestState.WAITING
        assert is_waiting == (request_id in state.waiting) == (request_id in endpoint.queue), ticket
        assert is_waiting == (ticket.place is None), ticket
        if ticket.place is not None:
            assert endpoint.places[ticket.place].running.get(request_id) is ticket, ticket
        else:
            assert ticket.deadline is not None, ticket
            assert ticket.deadline.is_pending, ticket


def _check_owners(state: State) -> None:
    owned = sum(len(gateway.tickets) for gateway in state.gateways.values())
    assert owned == len(state.tickets), (owned, len(state.tickets))
    leased = sum(len(gateway.leases) for gateway in state.gateways.values())
    assert leased == len(state.leases), (leased, len(state.leases))
    for engine in state.engines.values():
        assert state.endpoints[engine.endpoint_id].engines.get(engine.engine_id) is engine, engine
        assert state.nodes[engine.node_id].engines.get(engine.engine_id) is engine, engine


def _check_hedges(state: State) -> None:
    """The bound holds; a second place runs, at another endpoint than the first, and under no lease."""
    hedges = state.hedges
    assert hedges.sent <= state.settings.hedge_share * hedges.requests + 1e-6, (hedges.sent, hedges.requests)
    for ticket in state.tickets.values():
        if ticket.hedge_of is None:
            continue
        assert ticket.place is not None, ticket
        assert ticket.lease_id is None, ticket
        assert ticket.request is not None, ticket
        assert ticket.endpoint_id in {each.endpoint_id for each in ticket.request.candidates}, ticket
        first = state.tickets.get(ticket.hedge_of)
        if first is not None and first.attempt == 1:
            assert first.hedge_id == ticket.request_id, ticket
            assert first.endpoint_id != ticket.endpoint_id, ticket


def _check_claims(state: State) -> None:
    """Who claims has requests waiting, only victims drain, and nothing is reserved but for a settled claim."""
    for endpoint_id, claim in state.claims.items():
        assert claim.endpoint is state.endpoints.get(endpoint_id), claim
        assert claim.endpoint.queue, f"nobody waits for the claim of {endpoint_id}"
        assert not claim.endpoint.is_removed, f"{endpoint_id} has left the catalogue and claims"
        assert claim.node is state.nodes.get(claim.node.node.id), f"{claim.node.node.id} is not there and claimed"
        assert (endpoint_id in claim.node.reserved) == claim.is_settled, claim
    for node in state.nodes.values():
        assert node.reserved.keys() <= state.claims.keys(), node.reserved
    for engine in state.engines.values():
        if engine.claimed_by is not None:
            assert engine in state.claims[engine.claimed_by].victims, engine
        elif engine.state is EngineState.DRAINING:
            owner = state.endpoints[engine.endpoint_id]
            assert owner.is_removed or not owner.is_pooled, f"{engine.engine_id} drains for nobody"
