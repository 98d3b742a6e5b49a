"""Where requests wait and run: endpoints, their places, and the slots of places that gateways hold.

In-flight work is a dict by request id, never a counter; whatever counts is derived from the dicts. Books only: they are
kept by `state`, and what they mean is decided elsewhere.
"""

from __future__ import annotations

import enum
from collections import OrderedDict
from dataclasses import dataclass, field

from logos.domain.lifecycle import EngineState
from logos.domain.nouns import Endpoint, Place
from logos.prediction.backlog import Backlog
from logos.scheduling.demand import Demand, Score
from logos.scheduling.health import Circuit
from logos.scheduling.limits import RateLimit
from logos.scheduling.nodes import LIVE, Engine
from logos.scheduling.queue import FairQueue
from logos.scheduling.roominess import Roominess
from logos.scheduling.tickets import Ticket
from logos.scheduling.timers import Timer


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
    number: int = 0  # in the order in which the places of its endpoint became known
    running: dict[str, Ticket] = field(default_factory=dict)
    leases: dict[str, Lease] = field(default_factory=dict)
    inherited: int = 0
    backlog: Backlog = field(default_factory=Backlog)
    occupancy: Occupancy = field(default_factory=Occupancy)
    prefixes: OrderedDict[int, int] = field(default_factory=OrderedDict)  # fingerprint -> tokens, oldest first
    paces: dict[str, float] = field(default_factory=dict)  # seconds a token that running requests were promised

    @property
    def held(self) -> int:
        """Slots that are not free: what runs, and what gateways may start at any moment."""
        held = len(self.running)
        for lease in self.leases.values():
            if lease.state is not LeaseState.SPENT:
                unused = lease.slots - len(lease.running)
                if unused > 0:
                    held += unused
        return held

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


@dataclass(slots=True)
class Queued:
    """How many requests wait, and the tokens of their prompts."""

    requests: int = 0
    tokens: int = 0

    def add(self, requests: int, tokens: int) -> None:
        self.requests += requests
        self.tokens += tokens


@dataclass(slots=True, eq=False)
class EndpointState:
    """One endpoint of the catalogue, or one that has left it and still has something running."""

    endpoint: Endpoint
    model_name: str
    circuit: Circuit
    rate: RateLimit
    queue: FairQueue[Ticket]
    places: dict[Place, PlaceState] = field(default_factory=dict)
    closed: dict[Place, PlaceState] = field(default_factory=dict)  # those of them that admit nothing
    paced: dict[Place, PlaceState] = field(default_factory=dict)  # those where somebody's pace is promised
    engines: dict[str, Engine] = field(default_factory=dict)
    loading: Loading = field(default_factory=Loading)
    recheck: Timer | None = None  # when its rate limit admits the next request
    demand: Demand = field(default_factory=Demand)
    score: Score = field(default_factory=Score)
    pressure: float = 0.0  # what its waiting requests weigh together
    came: float = 0.0  # when they arrived, each times its weight, added up
    classes: dict[int, Queued] = field(default_factory=dict)  # what they add up to, by rank
    live: int = 0  # engines that serve, or are about to
    is_falling_asleep: bool = False  # one of its engines will soon be able to wake
    is_draining: bool = False  # one of its engines has been asked to make room, or to go
    is_removed: bool = False
    no_room_since: int = -1  # `State.memory_moves` when no node had room for an engine of it
    _roominess: Roominess[PlaceState] = field(default_factory=Roominess)
    _numbered: int = 0

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
        return len(self.places) > len(self.closed)

    @property
    def awake(self) -> int:
        """Engines that serve, whether or not they have been asked to make room."""
        return sum(engine.state in SERVING for engine in self.engines.values())

    @property
    def spare(self) -> int:
        """Engines that serve, have not been asked to make room, and may go: those beyond the minimum."""
        spec = self.endpoint.engine
        if spec is None or spec.pinned or self.live <= spec.min_replicas:
            return 0
        return max(self._staying - spec.min_replicas, 0)

    @property
    def has_surplus(self) -> bool:
        """More engines serve than shall: others came while these were asked to make room, or fewer are declared now."""
        spec = self.endpoint.engine
        return spec is not None and self._staying > max(spec.max_replicas, 1)

    @property
    def _staying(self) -> int:
        """Engines that serve and have not been asked to make room."""
        return sum(each.state is EngineState.AWAKE and each.claimed_by is None for each in self.engines.values())

    @property
    def is_contested(self) -> bool:
        """Another model claims the memory of an engine that still serves."""
        return any(
            engine.claimed_by is not None and engine.state is EngineState.DRAINING for engine in self.engines.values()
        )

    def recount(self) -> None:
        """An engine of it has come, gone or changed its state."""
        states = [engine.state for engine in self.engines.values()]
        self.live = sum(state in LIVE for state in states)
        self.is_falling_asleep = EngineState.FALLING_ASLEEP in states
        self.is_draining = EngineState.DRAINING in states

    @property
    def wants_engines(self) -> bool:
        """Requests wait here, or it shall always have an engine."""
        spec = self.endpoint.engine
        return bool(self.queue) or (spec is not None and spec.min_replicas > 0)

    @property
    def remote_place(self) -> PlaceState:
        """The one place of an endpoint that is not pooled."""
        return self.places[Place(self.endpoint.id)]

    # Its places.

    def place(self, place: Place, now: float) -> PlaceState:
        """The state of a place of it, closed if it is new."""
        known = self.places.get(place)
        if known is None:
            self._numbered += 1
            known = PlaceState(place, self.capacity_per_place, False, now, self._numbered)
            self.places[place] = self.closed[place] = known
        return known

    def open(self, place: PlaceState) -> None:
        """It admits requests from now on."""
        place.is_open = True
        self.closed.pop(place.place, None)
        self.grown(place)

    def close(self, place: PlaceState) -> None:
        """It admits nothing more; what runs there runs on."""
        place.is_open = False
        self.closed[place.place] = place

    def drop_place(self, place: PlaceState) -> None:
        """A closed place is gone."""
        del self.places[place.place], self.closed[place.place]

    def grown(self, place: PlaceState) -> None:
        """A place of it may have more free slots than before. Must be called whenever that is so."""
        if place.is_open:
            self._roominess.grown(place)

    def roomiest(self) -> PlaceState | None:
        """The open place with most free slots, if any has one."""
        return self._roominess.most()

    def promise(self, request_id: str, place: PlaceState, pace_s: float) -> None:
        """So many seconds from token to token were promised to a request that runs there."""
        place.paces[request_id] = pace_s
        self.paced[place.place] = place

    def forget_promise(self, request_id: str, place: PlaceState) -> None:
        """The request runs there no more; often there was no promise."""
        if place.paces and place.paces.pop(request_id, None) is not None and not place.paces:
            del self.paced[place.place]

    # Who waits here.

    def queued_up_to(self, rank: int) -> Queued:
        """What waits in that class and in those before it."""
        requests = tokens = 0
        for each, queued in self.classes.items():
            if each <= rank:
                requests += queued.requests
                tokens += queued.tokens
        return Queued(requests, tokens)

    def join(self, ticket: Ticket, *, overtakes: int) -> None:
        assert ticket.request is not None
        weight, rank = ticket.weight, ticket.rank
        self.pressure += weight
        self.came += weight * ticket.arrived_at
        queued = self.classes.get(rank)
        if queued is None:
            queued = self.classes[rank] = Queued()
        queued.add(1, ticket.uncached_tokens)
        self.queue.push(
            ticket.request_id,
            ticket,
            rank=rank,
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
        self.classes[ticket.rank].add(-1, -ticket.uncached_tokens)
        if not self.queue:
            self.pressure = self.came = 0.0
            return
        weight = ticket.weight
        self.pressure -= weight
        self.came -= weight * ticket.arrived_at
