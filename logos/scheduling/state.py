"""What the core knows: requests, endpoints, places, leases, gateways, nodes. Values and bookkeeping, no decisions.

In-flight work is a dict by request id, never a counter; whatever counts is derived from the dicts. `State` also
gathers the commands of the event being handled and the endpoints that it touched.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from logos.domain.catalogue import Catalogue
from logos.domain.lifecycle import EngineState, RequestState
from logos.domain.nouns import Endpoint, Mode, Place, Priority, Privacy, Tier
from logos.prediction.backlog import Backlog
from logos.prediction.pace import Situation
from logos.prediction.predictor import Predictor
from logos.prediction.service import ServiceTimes
from logos.scheduling.commands import Command
from logos.scheduling.demand import Demand, Score
from logos.scheduling.events import Request
from logos.scheduling.health import Circuit
from logos.scheduling.limits import RateLimit
from logos.scheduling.nodes import Engine, NodeState
from logos.scheduling.queue import FairQueue
from logos.scheduling.settings import SchedulerSettings
from logos.scheduling.timers import Timer, Timers

if TYPE_CHECKING:
    from logos.scheduling.swapping import Claim


# What waiting counts, by priority and in batch mode.
WEIGHT_OF = {Priority.LOW: 0.7, Priority.MID: 1.0, Priority.HIGH: 1.5}
BATCH_WEIGHT = 0.5
# What a promise is multiplied by, by priority; and what counts as promised where nothing is.
PATIENCE_OF = {Priority.LOW: 2.0, Priority.MID: 1.0, Priority.HIGH: 0.5}
UNPROMISED_S = 60.0


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
    company_from: tuple[float, float, float] | None = None  # at its first token: when, and what `Occupancy` counted
    ends_at: float = 0.0  # about when it should be through, once that was asked
    deadline: Timer | None = None

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
    def weight(self) -> float:
        """What its waiting counts beside that of others."""
        assert self.request is not None
        weight = WEIGHT_OF[self.request.priority]
        return weight if self.request.mode is Mode.INTERACTIVE else weight * BATCH_WEIGHT

    @property
    def rank(self) -> int:
        """Its class in the queue: interactive before batch, urgent before not."""
        assert self.request is not None
        urgency = Priority.HIGH - self.request.priority
        return urgency if self.request.mode is Mode.INTERACTIVE else urgency + 100

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


class LeaseState(enum.Enum):
    """LIVE: the holder may start requests. REVOKED: asked back, still counted. SPENT: only what runs is left."""

    LIVE = "live"
    REVOKED = "revoked"
    SPENT = "spent"


@dataclass(slots=True, eq=False)
class Lease:
    """Slots of one place in the hands of one gateway, and what is known to run in them."""

    lease_id: str
    gateway_id: str
    place: Place
    slots: int
    granted_at: float
    state: LeaseState = LeaseState.LIVE
    was_used: bool = False  # since it was granted or renewed
    running: dict[str, Ticket] = field(default_factory=dict)
    timer: Timer | None = None

    @property
    def unused(self) -> int:
        return 0 if self.state is LeaseState.SPENT else max(self.slots - len(self.running), 0)


@dataclass(slots=True)
class Occupancy:
    """How full a place has been: sequence-seconds and busy seconds since the beginning, as of `at`."""

    at: float = 0.0
    batch_s: float = 0.0
    busy_s: float = 0.0

    def advance(self, now: float, running: int) -> Occupancy:
        """So many have run there since it was last asked."""
        passed = now - self.at
        self.at = now
        if running:
            self.batch_s += running * passed
            self.busy_s += passed
        return self


@dataclass(slots=True, eq=False)
class PlaceState:
    """Where requests run: a remote endpoint, or one awake engine.

    `inherited` is how much it held when that was found to be more than its capacity (a smaller capacity declared, work
    adopted after a restart): nothing is added to it, it only has to run off.
    """

    place: Place
    capacity: int
    is_open: bool
    idle_since: float
    running: dict[str, Ticket] = field(default_factory=dict)
    leases: dict[str, Lease] = field(default_factory=dict)
    inherited: int = 0
    backlog: Backlog = field(default_factory=Backlog)
    occupancy: Occupancy = field(default_factory=Occupancy)

    @property
    def held(self) -> int:
        """Slots that are not free: what runs, and what gateways may start at any moment."""
        if not self.leases:
            return len(self.running)
        return len(self.running) + sum(lease.unused for lease in self.leases.values())

    @property
    def free(self) -> int:
        """Slots that a request may take of its own accord."""
        return self.capacity - self.held if self.is_open else 0

    @property
    def room(self) -> int:
        """Slots that nothing holds, whether or not the place is open."""
        return self.capacity - self.held

    @property
    def is_idle(self) -> bool:
        return not self.running and not self.leases


SERVING = frozenset({EngineState.AWAKE, EngineState.DRAINING})


@dataclass(slots=True, eq=False)
class Loading:
    """How loading an endpoint's engines went lately."""

    failures: int = 0
    retry_at: float = 0.0
    reason: str = ""
    node_id: str | None = None  # where it failed last
    timer: Timer | None = None


@dataclass(slots=True, eq=False)
class EndpointState:
    """One endpoint of the catalogue, or one that has left it and still has something running."""

    endpoint: Endpoint
    model_name: str
    circuit: Circuit
    rate: RateLimit
    queue: FairQueue[Ticket]
    places: dict[Place, PlaceState] = field(default_factory=dict)
    engines: dict[str, Engine] = field(default_factory=dict)
    loading: Loading = field(default_factory=Loading)
    recheck: Timer | None = None  # when its rate limit admits the next request
    demand: Demand = field(default_factory=Demand)
    score: Score = field(default_factory=Score)
    pressure: float = 0.0  # what its waiting requests weigh together
    is_removed: bool = False

    @property
    def is_pooled(self) -> bool:
        return self.endpoint.engine is not None

    @property
    def capacity_per_place(self) -> int:
        concurrent = self.endpoint.limits.concurrent
        parallel = self.endpoint.max_parallel
        return max(parallel if concurrent is None else min(parallel, concurrent), 1)

    @property
    def is_open(self) -> bool:
        """Whether any place of it admits requests, room or not."""
        return any(place.is_open for place in self.places.values())

    @property
    def live(self) -> int:
        """Engines that serve, or are about to."""
        return sum(engine.is_live for engine in self.engines.values())

    @property
    def awake(self) -> int:
        """Engines that serve, whether or not they have been asked to make room."""
        return sum(engine.state in SERVING for engine in self.engines.values())

    @property
    def spare(self) -> int:
        """Engines that serve, have not been asked to make room, and may go: those beyond the minimum."""
        spec = self.endpoint.engine
        if spec is None or spec.pinned:
            return 0
        staying = sum(each.state is EngineState.AWAKE and each.claimed_by is None for each in self.engines.values())
        return max(staying - spec.min_replicas, 0)

    @property
    def is_contested(self) -> bool:
        """Another model claims the memory of an engine that still serves."""
        return any(
            engine.claimed_by is not None and engine.state is EngineState.DRAINING for engine in self.engines.values()
        )

    @property
    def is_falling_asleep(self) -> bool:
        """One of its engines will soon be able to wake."""
        return any(engine.state is EngineState.FALLING_ASLEEP for engine in self.engines.values())

    @property
    def wants_engines(self) -> bool:
        """Requests wait here, or it shall always have an engine."""
        spec = self.endpoint.engine
        return bool(self.queue) or (spec is not None and spec.min_replicas > 0)

    @property
    def remote_place(self) -> PlaceState:
        """The one place of an endpoint that is not pooled."""
        return self.places[Place(self.endpoint.id)]

    # Who waits here.

    def join(self, ticket: Ticket, *, overtakes: int) -> None:
        assert ticket.request is not None
        self.pressure += ticket.weight
        self.queue.push(
            ticket.request_id,
            ticket,
            rank=ticket.rank,
            flow=ticket.request.key_id,
            cost=ticket.fair_cost,
            overtakes=overtakes,
            team=-ticket.request.key_id if ticket.request.team_id is None else ticket.request.team_id,
            deadline=ticket.effective_deadline,
        )

    def serve(self, ticket: Ticket) -> None:
        """It has a place now."""
        self.queue.pop(ticket.request_id)
        self._relieve(ticket)

    def drop(self, ticket: Ticket) -> None:
        """It waits elsewhere, or not any more."""
        self.queue.remove(ticket.request_id)
        self._relieve(ticket)

    def _relieve(self, ticket: Ticket) -> None:
        self.pressure = self.pressure - ticket.weight if self.queue else 0.0

    def roomiest(self) -> PlaceState | None:
        """The open place with most free slots, if any has one."""
        best: PlaceState | None = None
        most = 0
        for place in self.places.values():
            free = place.free
            if free > most:
                best, most = place, free
        return best


@dataclass(slots=True, eq=False)
class GatewayState:
    """A gateway and what it has going."""

    gateway_id: str
    tickets: dict[str, Ticket] = field(default_factory=dict)
    leases: dict[str, Lease] = field(default_factory=dict)


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
        self.tickets: dict[str, Ticket] = {}
        self.waiting: dict[str, Ticket] = {}
        self.endpoints: dict[int, EndpointState] = {}
        self.engines: dict[str, Engine] = {}
        self.nodes: dict[str, NodeState] = {}
        self.gateways: dict[str, GatewayState] = {}
        self.leases: dict[str, Lease] = {}
        self.claims: dict[int, Claim] = {}  # by the endpoint that claims
        self.commands: list[Command] = []
        self.touched: dict[int, None] = {}
        self.upset: dict[int, None] = {}

    # What time it is.

    def begin(self, at: float) -> None:
        """An event has come; a driver's clock that steps back is not followed."""
        self.now = max(self.now, at) if self.started_at is not None else at
        if self.started_at is None:
            self.started_at = at

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
        endpoint = self.endpoint(place.endpoint_id)
        known = endpoint.places.get(place)
        if known is None:
            known = PlaceState(place, endpoint.capacity_per_place, False, self.now)
            endpoint.places[place] = known
        return known

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
        if lease is not None:
            ticket.lease_id = lease.lease_id
            lease.running[ticket.request_id] = ticket

    def end(self, ticket: Ticket) -> None:
        """The request is over, wherever it was; whatever it held is free."""
        del self.tickets[ticket.request_id]
        del self.gateways[ticket.gateway_id].tickets[ticket.request_id]
        self.timers.cancel(ticket.deadline)
        endpoint = self.endpoints[ticket.endpoint_id]
        if ticket.state is RequestState.WAITING:
            del self.waiting[ticket.request_id]
            endpoint.drop(ticket)
        else:
            endpoint.circuit.left(ticket.request_id)
            self._vacate(ticket, endpoint)
        ticket.state = RequestState.ENDED
        self.touch(ticket.endpoint_id)

    def _vacate(self, ticket: Ticket, endpoint: EndpointState) -> None:
        assert ticket.place is not None
        place = endpoint.places[ticket.place]
        place.occupancy.advance(self.now, len(place.running))
        del place.running[ticket.request_id]
        if ticket.met is not None:
            place.backlog.left(ticket.request_id, self.now, self.predictor.prompt_token_s(ticket.endpoint_id))
        if not place.running:
            place.idle_since = self.now
        place.inherited = min(place.inherited, place.held) if place.inherited else 0
        lease = self.leases.get(ticket.lease_id) if ticket.lease_id is not None else None
        if lease is not None:
            del lease.running[ticket.request_id]
            if lease.state is LeaseState.SPENT and not lease.running:
                self.drop_lease(lease)

    # Leases.

    def drop_lease(self, lease: Lease) -> None:
        """Nothing is left of it. What ran in it and has not ended keeps its place."""
        del self.leases[lease.lease_id]
        del self.gateways[lease.gateway_id].leases[lease.lease_id]
        place = self.endpoints[lease.place.endpoint_id].places[lease.place]
        del place.leases[lease.lease_id]
        self.timers.cancel(lease.timer)
        for ticket in lease.running.values():
            ticket.lease_id = None
        self.touch(lease.place.endpoint_id)

    # Engines.

    def pool(self, endpoint: EndpointState) -> list[NodeState]:
        """The nodes on which its engines may run."""
        provider_id = endpoint.endpoint.provider_id
        return [node for node in self.nodes.values() if node.node.provider_id == provider_id]

    def enter(self, engine: Engine) -> None:
        """An engine has become known."""
        self.engines[engine.engine_id] = engine
        self.endpoint(engine.endpoint_id).engines[engine.engine_id] = engine
        self.nodes[engine.node_id].engines[engine.engine_id] = engine

    def engine_state(self, engine: Engine, state: EngineState) -> None:
        engine.become(state, self.now)
        self.timers.cancel(engine.timer)
        engine.timer = None
        self.touch(engine.endpoint_id)
