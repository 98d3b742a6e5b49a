"""What the core knows: requests, endpoints, places, leases, gateways, nodes. Values and bookkeeping, no decisions.

In-flight work is a dict by request id, never a counter; whatever counts is derived from the dicts. `State` also
gathers the commands of the event being handled and the endpoints that it touched.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from logos.domain.catalogue import Catalogue
from logos.domain.lifecycle import EngineState, RequestState
from logos.domain.nouns import Endpoint, Place, Privacy
from logos.prediction.predictor import Predictor
from logos.prediction.service import ServiceTimes
from logos.scheduling.commands import Command
from logos.scheduling.health import Circuit
from logos.scheduling.hedge_budget import HedgeBudget
from logos.scheduling.limits import RateLimit
from logos.scheduling.nodes import Engine, NodeState
from logos.scheduling.places import EndpointState, Lease, LeaseState, PlaceState
from logos.scheduling.queue import FairQueue
from logos.scheduling.settings import SchedulerSettings
from logos.scheduling.tickets import Ticket
from logos.scheduling.timers import Timers

if TYPE_CHECKING:
    from logos.scheduling.swapping import Claim

LEASES_OVER_MAX = 4096  # remembered, in case something is told of them yet; the oldest go


@dataclass(slots=True, eq=False)
class GatewayState:
    """A gateway and what it has going."""

    gateway_id: str
    tickets: dict[str, Ticket] = field(default_factory=dict)
    leases: dict[str, Lease] = field(default_factory=dict)
    ran_at: dict[int, float] = field(default_factory=dict)  # by endpoint: when something of it was last known to run


class State:
    """The only mutable state of the scheduler."""

    def __init__(
        self,
        settings: SchedulerSettings,
        epoch: int,
        predictor: Predictor,
        service: ServiceTimes,
        make_queue: Callable[[], FairQueue[Ticket]],
    ) -> None:
        self._make_queue = make_queue
        self.settings = settings
        self.epoch = epoch
        self.predictor = predictor
        self.service = service
        self.catalogue = Catalogue()
        self.now = 0.0
        self.started_at: float | None = None
        self.timers = Timers()
        self.hedges = HedgeBudget(settings.hedge_share)
        self.tickets: dict[str, Ticket] = {}
        self.waiting: dict[str, Ticket] = {}
        self.endpoints: dict[int, EndpointState] = {}
        self.engines: dict[str, Engine] = {}
        self.nodes: dict[str, NodeState] = {}
        self.memory_moves = 0  # how often GPU memory may have become free, for `EndpointState.no_room_since`
        self.gateways: dict[str, GatewayState] = {}
        self.leases: dict[str, Lease] = {}
        self.leases_over: OrderedDict[str, Lease] = OrderedDict()
        self.claims: dict[int, Claim] = {}  # by the endpoint that claims
        self.commands: list[Command] = []
        self.touched: dict[int, None] = {}
        self.upset: dict[int, None] = {}

    # What time it is.

    def begin(self, at: float) -> None:
        """An event has come; a driver's clock that steps back is not followed."""
        if self.started_at is None:
            self.started_at = self.now = at
        elif at > self.now:
            self.now = at

    @property
    def has_catalogue(self) -> bool:
        """Before the first catalogue, an endpoint that is not named may still be."""
        return bool(self.catalogue.version or self.catalogue.endpoints)

    @property
    def is_reconvening(self) -> bool:
        """Gateways and nodes are still introducing themselves after a restart."""
        return self.started_at is not None and self.now < self.started_at + self.settings.reconvene_s

    # Endpoints and places.

    def touch(self, endpoint_id: int) -> None:
        """Something changed there: it is looked at before the event is done."""
        self.touched[endpoint_id] = None

    def upset_endpoint(self, endpoint_id: int) -> None:
        """It is not what its waiting requests chose any more: they choose again before the event is done."""
        self.upset[endpoint_id] = None
        self.touch(endpoint_id)

    def endpoint(self, endpoint_id: int) -> EndpointState:
        """The state of an endpoint. One that no catalogue has named yet counts as removed until one does."""
        known = self.endpoints.get(endpoint_id)
        if known is None:
            unnamed = Endpoint(endpoint_id, 0, 0, Privacy.LOCAL, "")
            circuit, rate = Circuit(self.settings), RateLimit(unnamed.limits)
            known = EndpointState(unnamed, "", circuit, rate, self._make_queue(), is_removed=True)
            self.endpoints[endpoint_id] = known
        return known

    def place(self, place: Place) -> PlaceState:
        """The state of a place; after a restart a gateway may speak of it before the engine or endpoint is known."""
        return self.endpoint(place.endpoint_id).place(place, self.now)

    def asked(self, endpoint: EndpointState, requests: int = 1) -> None:
        """Requests came for it, whether they ask for a place or run under a lease."""
        endpoint.demand.arrived(self.now, requests)
        for _ in range(requests):
            endpoint.score.arrived(self.now)

    def parallel(self, endpoint: EndpointState) -> int:
        """How many requests run at once there when all is well: at its open places, or else at one engine."""
        return sum(place.capacity for place in endpoint.places.values() if place.is_open) or (
            endpoint.capacity_per_place
        )

    def service_s(self, endpoint_id: int) -> float:
        """Seconds per request: the observed median, or the prior."""
        observed = self.service.service_p50_s(endpoint_id)
        return self.settings.service_prior_s if observed is None else observed

    # Gateways and requests.

    def gateway(self, gateway_id: str) -> GatewayState:
        """The state of a gateway, made if it is not known yet."""
        known = self.gateways.get(gateway_id)
        if known is None:
            known = self.gateways[gateway_id] = GatewayState(gateway_id)
        return known

    def admit(self, ticket: Ticket) -> None:
        """A request has become known."""
        self.tickets[ticket.request_id] = ticket
        self.gateway(ticket.gateway_id).tickets[ticket.request_id] = ticket

    def run(self, ticket: Ticket, place: PlaceState, lease: Lease | None = None) -> None:
        """The request runs at a place from now on."""
        ticket.place = place.place
        ticket.endpoint_id = place.place.endpoint_id
        place.occupancy.advance(self.now, len(place.running))
        place.running[ticket.request_id] = ticket
        self.gateways[ticket.gateway_id].ran_at[ticket.endpoint_id] = self.now
        if lease is not None:
            ticket.lease_id = lease.lease_id
            lease.running[ticket.request_id] = ticket
            self.endpoints[ticket.endpoint_id].grown(place)  # it may have run there before, beside the lease

    def end(self, ticket: Ticket) -> None:
        """The request is over, wherever it was; whatever it held is free."""
        del self.tickets[ticket.request_id]
        del self.gateways[ticket.gateway_id].tickets[ticket.request_id]
        self.timers.cancel(ticket.deadline)
        ticket.deadline = None  # what it would do knows the ticket, and neither shall keep the other
        endpoint = self.endpoints[ticket.endpoint_id]
        if ticket.state is RequestState.WAITING:
            del self.waiting[ticket.request_id]
            endpoint.drop(ticket)
        else:
            self.gateways[ticket.gateway_id].ran_at[ticket.endpoint_id] = self.now
            endpoint.circuit.left(ticket.request_id)
            self._vacate(ticket, endpoint)
        ticket.state = RequestState.ENDED
        self.touch(ticket.endpoint_id)

    def _vacate(self, ticket: Ticket, endpoint: EndpointState) -> None:
        assert ticket.place is not None
        place = endpoint.places[ticket.place]
        place.occupancy.advance(self.now, len(place.running))
        del place.running[ticket.request_id]
        endpoint.forget_promise(ticket.request_id, place)
        if ticket.request_id in place.backlog:
            place.backlog.left(ticket.request_id, self.now, *self.predictor.prompt_cost_s(ticket.endpoint_id))
        if not place.running:
            place.idle_since = self.now
        lease = self.leases.get(ticket.lease_id) if ticket.lease_id is not None else None
        if lease is not None:
            del lease.running[ticket.request_id]
            if lease.state is LeaseState.SPENT and not lease.running:
                self.drop_lease(lease)
        place.inherited = min(place.inherited, place.held) if place.inherited else 0
        endpoint.grown(place)

    # Leases.

    def drop_lease(self, lease: Lease) -> None:
        """Nothing is left of it, and nothing runs under it any more."""
        assert not lease.running, lease
        del self.leases[lease.lease_id]
        del self.gateways[lease.gateway_id].leases[lease.lease_id]
        endpoint = self.endpoints[lease.place.endpoint_id]
        place = endpoint.places[lease.place]
        del place.leases[lease.lease_id]
        endpoint.grown(place)
        self.timers.cancel(lease.timer)
        self.leases_over[lease.lease_id] = lease
        if len(self.leases_over) > LEASES_OVER_MAX:
            self.leases_over.popitem(last=False)
        self.touch(lease.place.endpoint_id)

    # Engines.

    def pool(self, endpoint: EndpointState) -> list[NodeState]:
        """The nodes on which its engines may come."""
        provider_id = endpoint.endpoint.provider_id
        return [node for node in self.nodes.values() if node.node.provider_id == provider_id and not node.is_released]

    def enter(self, engine: Engine) -> None:
        """An engine has become known."""
        self.engines[engine.engine_id] = engine
        self.endpoint(engine.endpoint_id).engines[engine.engine_id] = engine
        self.nodes[engine.node_id].enter(engine)
        self.endpoints[engine.endpoint_id].recount()

    def engine_state(self, engine: Engine, state: EngineState) -> None:
        engine.become(state, self.now)
        node = self.nodes.get(engine.node_id)
        if node is not None:
            node.memory_changed()
        self.memory_moves += 1
        self.endpoints[engine.endpoint_id].recount()
        self.timers.cancel(engine.timer)
        engine.timer = None
        self.touch(engine.endpoint_id)
