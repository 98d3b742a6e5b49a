"""A whole platform around the core, simulated: clients, gateways, nodes, and a driver whose messages take their time.

Everything that may go wrong does, by a seed: clients leave, gateways and nodes die, engines crash or do not load,
remote providers fail, the scheduler restarts and forgets everything. What really runs is counted here, from outside, so
that the core's own books are not trusted.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace

from logos.domain.catalogue import Catalogue
from logos.domain.leases import SlotLease
from logos.domain.lifecycle import EngineState
from logos.domain.nouns import Endpoint, EngineSpec, Mode, Node, Place, Priority
from logos.scheduling import commands as cmd
from logos.scheduling import events as ev
from logos.scheduling.replay import JournalOpening, begin
from logos.scheduling.settings import SchedulerSettings

DETECTION_S = 1.0  # until a death is noticed
REPORT_INTERVAL_S = 0.25
ATTEMPTS_MAX = 3
ASLEEP = {EngineState.FALLING_ASLEEP, EngineState.ASLEEP, EngineState.WAKING}
TIMEOUTS = {"load_timeout_s": 9.0, "sleep_timeout_s": 6.0, "stop_timeout_s": 4.0}
FASHION_S = 4.0  # until other models are in demand
LATE_S = 12.0  # an answer that comes so late comes after every time-out


@dataclass
class Mishaps:
    """How often what goes wrong: shares of requests, or mean seconds between (0: never)."""

    client_leaves: float = 0.15
    upstream_fails: float = 0.05
    load_fails: float = 0.2
    gateway_dies_s: float = 12.0
    engine_dies_s: float = 15.0
    node_dies_s: float = 40.0
    scheduler_dies_s: float = 15.0
    wake_fails: float = 0.1
    sleep_fails: float = 0.1  # half of them: it stays awake
    never_answered: float = 0.03  # loads, wakes, sleeps, stops
    answered_late: float = 0.05  # after the time-out
    catalogue_changes_s: float = 0.0  # an endpoint leaves it, and is back some time later

    @classmethod
    def none(cls) -> Mishaps:
        return cls(**dict.fromkeys((each.name for each in fields(cls)), 0.0))


@dataclass(eq=False)
class SimRequest:
    """What a client wants, and how its story went."""

    request: ev.Request
    service_s: float
    tried: list[int] = field(default_factory=list)
    place: Place | None = None
    lease_id: str | None = None
    outcome: str | None = None


@dataclass(eq=False)
class HeldLease:
    lease: SlotLease
    deadline: float
    running: dict[str, None] = field(default_factory=dict)
    started: list[str] = field(default_factory=list)
    ended: list[ev.Ended] = field(default_factory=list)
    returned: bool = False


@dataclass(eq=False)
class SimGateway:
    gateway_id: str
    requests: dict[str, SimRequest] = field(default_factory=dict)
    waiting: dict[str, None] = field(default_factory=dict)
    leases: dict[str, HeldLease] = field(default_factory=dict)
    outgoing: list[ev.Event] = field(default_factory=list)
    alive: bool = True
    hears_from: float = 0.0  # messages to and from it keep their order
    heard_until: float = 0.0


@dataclass(eq=False)
class SimNode:
    node: Node
    engines: dict[str, ev.EngineSeen] = field(default_factory=dict)
    slept: dict[str, None] = field(default_factory=dict)  # engines whose weights are in host RAM, as the core knows
    off_gpus: set[str] = field(default_factory=set)  # asleep, or ended while they slept
    alive: bool = True


class Platform:
    """`run(seconds)` lets clients come for so long, then waits until everything is quiet again."""

    def __init__(
        self,
        seed: int,
        catalogue: Catalogue,
        nodes: tuple[Node, ...] = (),
        *,
        policy: str = "ettft",
        gateways: int = 3,
        rate: float = 40.0,
        service_s: float = 0.4,
        mishaps: Mishaps | None = None,
        candidates_max: int = 3,
        **settings: object,
    ) -> None:
        self.chance = random.Random(seed)
        self.catalogue = self.declared = catalogue  # all that there ever is, and what the core has heard of
        self.settings = SchedulerSettings(policy=policy, **(TIMEOUTS | settings))  # type: ignore[arg-type]  # as given
        self.mishaps = mishaps or Mishaps()
        self.rate, self.service_s, self.candidates_max = rate, service_s, candidates_max
        self.now = 0.0
        self.heap: list[tuple[float, int, Callable[[], None]]] = []
        self.sequence = 0
        self.epoch = 0
        self.closing = False
        self.is_up = False
        self.gateways_made = 0
        self.requests_made = 0
        self.gateways: dict[str, SimGateway] = {}
        self.nodes = {node.id: SimNode(node) for node in nodes}
        self.everyone: list[SimRequest] = []
        self.running: dict[Place, dict[str, None]] = {}  # what really runs
        self.asked: dict[str, tuple[ev.Request, float]] = {}  # asked of this core and not answered
        self.order: dict[int, dict[str, tuple[int, int]]] = {}  # endpoint -> id -> (arrival, overtaken so far)
        self.arrivals = 0
        self.worst_overtaking: dict[int, int] = {}  # K -> most overtakings seen
        self.journals: list[tuple[JournalOpening, list[tuple[ev.Event, tuple[cmd.Command, ...]]]]] = []
        self.start_scheduler()
        for _ in range(gateways):
            self.start_gateway()
        for each in self.nodes.values():
            self.introduce_node(each)

    # Time.

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        self.sequence += 1
        heapq.heappush(self.heap, (self.now + seconds, self.sequence, action))

    def run(self, seconds: float) -> None:
        self.schedule_mishaps()
        if self.rate:
            self.after(0.0, self.client_comes)
        self.after(seconds, self.close)
        while self.heap and self.now < seconds + 400.0:
            self.now, _, action = heapq.heappop(self.heap)
            action()

    def close(self) -> None:
        self.closing = True

    def now_and_then(self, mean_s: float, action: Callable[[], None]) -> None:
        def again() -> None:
            if not self.closing:
                action()
                self.after(self.chance.expovariate(1 / mean_s), again)

        if mean_s:
            self.after(self.chance.expovariate(1 / mean_s), again)

    def schedule_mishaps(self) -> None:
        self.now_and_then(self.mishaps.gateway_dies_s, self.gateway_dies)
        self.now_and_then(self.mishaps.engine_dies_s, self.engine_dies)
        self.now_and_then(self.mishaps.node_dies_s, self.node_dies)
        self.now_and_then(self.mishaps.scheduler_dies_s, self.scheduler_dies)
        self.now_and_then(self.mishaps.catalogue_changes_s, self.endpoint_leaves)

    def endpoint_leaves(self) -> None:
        gone = self.chance.choice(self.catalogue.endpoints)
        self.declare(tuple(each for each in self.catalogue.endpoints if each is not gone))
        self.after(self.chance.uniform(0.5, 6.0), lambda: self.declare(self.catalogue.endpoints))

    def declare(self, endpoints: tuple[Endpoint, ...]) -> None:
        self.declared = replace(self.catalogue, version=self.declared.version + 1, endpoints=endpoints)
        self.feed(ev.CatalogueChanged(0.0, self.declared))

    # The scheduler and its driver.

    def start_scheduler(self) -> None:
        self.epoch += 1
        settings = replace(self.settings, reconvene_s=2.0 if self.epoch > 1 else 0.0)
        opening = JournalOpening(Catalogue(), settings, self.epoch)
        self.core = begin(opening)
        self.journals.append((opening, []))
        self.is_up = True
        self.feed(ev.CatalogueChanged(0.0, self.declared))

    def scheduler_dies(self) -> None:
        self.is_up = False
        self.epoch += 1  # whatever is under way to or from it is lost
        self.asked.clear()
        self.order.clear()
        self.after(self.chance.uniform(0.1, 1.0), self.scheduler_returns)

    def scheduler_returns(self) -> None:
        if self.is_up:
            return
        self.start_scheduler()
        for gateway in self.gateways.values():
            gateway.hears_from = gateway.heard_until = 0.0
            self.after(self.chance.uniform(0.0, 1.5), lambda gateway=gateway: self.introduce_gateway(gateway))
        for node in self.nodes.values():
            # A core that has forgotten which engines have slept counts the host RAM of those that still do.
            node.slept = {each.engine_id: None for each in node.engines.values() if each.state in ASLEEP}
            self.after(self.chance.uniform(0.0, 1.5), lambda node=node: self.introduce_node(node))

    def feed(self, event: ev.Event) -> None:
        """An event reaches the core, if it is up, and its commands are performed."""
        if not self.is_up:
            return
        event = replace(event, at=self.now)
        self.note(event)
        caused = self.core.handle(event)
        self.core.check_invariants()
        self.journals[-1][1].append((event, tuple(caused)))
        for command in caused:
            self.perform(command)
        for request, asked_at in self.asked.values():
            assert asked_at + request.queue_timeout_s >= self.now, f"{request.request_id} waits too long"

    def to_core(self, gateway: SimGateway, events: tuple[ev.Event, ...]) -> None:
        """A report of a gateway: it arrives later, in order, and is lost if the scheduler dies first."""
        epoch = self.epoch
        arrives = max(self.now + self.chance.uniform(0.001, 0.02), gateway.heard_until)
        gateway.heard_until = arrives

        def deliver() -> None:
            if epoch == self.epoch and gateway.gateway_id in self.gateways:
                for event in events:
                    self.feed(event)

        self.after(arrives - self.now, deliver)

    def perform(self, command: cmd.Command) -> None:
        match command:
            case cmd.WakeAt():
                epoch = self.epoch
                delay_s = max(command.at - self.now, 0.0)
                self.after(delay_s, lambda: self.feed(ev.Woke(0.0)) if epoch == self.epoch else None)
            case cmd.LoadEngine():
                self.load(command)
            case cmd.SleepEngine():
                self.sleep(command.engine_id)
            case cmd.WakeEngine():
                self.wake(command.engine_id)
            case cmd.StopEngine():
                self.stop(command.engine_id)
            case cmd.GrantLease():
                self.to_gateway(command.lease.gateway_id, command)
            case cmd.Dispatch() | cmd.Reject() | cmd.RevokeLease():
                self.note_answer(command)
                self.to_gateway(command.gateway_id, command)

    def to_gateway(self, gateway_id: str, command: cmd.Command) -> None:
        gateway = self.gateways.get(gateway_id)
        if gateway is None:
            return
        epoch, issued_at = self.epoch, self.now
        arrives = max(self.now + self.chance.uniform(0.001, 0.02), gateway.hears_from)
        gateway.hears_from = arrives

        def deliver() -> None:
            if gateway.alive and epoch == self.epoch:
                self.gateway_obeys(gateway, command, issued_at)

        self.after(arrives - self.now, deliver)

    # What must hold, seen from outside.

    def note(self, event: ev.Event) -> None:
        if isinstance(event, ev.RequestsArrived):
            for request in event.requests:
                self.asked[request.request_id] = (request, self.now)
                line = self.order.setdefault(request.candidates[0].endpoint_id, {})
                if len(request.candidates) == 1 and request.request_id not in line:
                    self.arrivals += 1
                    line[request.request_id] = (self.arrivals, 0)
        elif isinstance(event, ev.RequestCancelled):
            self.forget_asked(event.request_id)
        elif isinstance(event, ev.GatewayLost):
            for request_id in [each for each, (asked, _) in self.asked.items() if asked.gateway_id == event.gateway_id]:
                self.forget_asked(request_id)

    def forget_asked(self, request_id: str) -> None:
        asked = self.asked.pop(request_id, None)
        if asked is not None:
            self.order.get(asked[0].candidates[0].endpoint_id, {}).pop(request_id, None)

    def note_answer(self, command: cmd.Command) -> None:
        """Exactly one answer to each ask, at one of its candidates, overtaking nobody too often."""
        if not isinstance(command, cmd.Dispatch | cmd.Reject):
            return
        assert command.request_id in self.asked, f"nobody asked, or it was answered before: {command}"
        request = self.asked[command.request_id][0]
        if isinstance(command, cmd.Dispatch):
            endpoint_id = command.place.endpoint_id
            assert endpoint_id in {each.endpoint_id for each in request.candidates}, command
            self.count_overtaking(endpoint_id, command.request_id)
        self.forget_asked(command.request_id)

    def count_overtaking(self, endpoint_id: int, chosen: str) -> None:
        line = self.order.get(endpoint_id, {})
        if chosen not in line:
            return
        for request_id, (arrival, overtaken) in line.items():
            if arrival < line[chosen][0]:
                line[request_id] = (arrival, overtaken + 1)
                request = self.asked[request_id][0]
                bound = self.settings.overtakes(request.priority, request.mode)
                self.worst_overtaking[bound] = max(self.worst_overtaking.get(bound, 0), overtaken + 1)
                assert overtaken < bound, f"{request_id} was overtaken more than {bound} times"

    def occupy(self, place: Place, request_id: str) -> None:
        runs = self.running.setdefault(place, {})
        runs[request_id] = None
        capacity = self.catalogue.endpoint[place.endpoint_id].max_parallel
        assert len(runs) <= capacity, f"{len(runs)} requests run at {place}, which takes {capacity}"

    def check_memory(self, node: SimNode) -> None:
        """On its GPUs: all of what is not asleep, and the residue of what is. In host RAM: what sleeps or has slept."""
        for gpu in node.node.gpus:
            here = [each for each in node.engines.values() if gpu.index in each.gpu_indices]
            used = sum(self.held_mib(node, each) for each in here)
            assert used <= gpu.memory_mib, f"{used} MiB on a GPU of {gpu.memory_mib}"
        weights_mib = sum(self.spec(each).host_mib for each in node.engines.values() if each.engine_id in node.slept)
        assert not node.node.host_memory_mib or weights_mib <= node.node.host_memory_mib, f"{weights_mib} MiB asleep"

    def held_mib(self, node: SimNode, engine: ev.EngineSeen) -> int:
        spec = self.spec(engine)
        return spec.residue_per_gpu_mib if engine.engine_id in node.off_gpus else spec.memory_per_gpu_mib

    def spec(self, engine: ev.EngineSeen) -> EngineSpec:
        spec = self.catalogue.endpoint[engine.endpoint_id].engine
        assert spec is not None, engine
        return spec

    # Clients.

    def client_comes(self) -> None:
        if self.closing:
            return
        self.after(self.chance.expovariate(self.rate), self.client_comes)
        alive = [gateway for gateway in self.gateways.values() if gateway.alive]
        if not alive:
            return
        gateway = self.chance.choice(alive)
        self.requests_made += 1
        asked = self.asked_for()
        chosen = self.chance.sample(asked, self.chance.randint(1, min(self.candidates_max, len(asked))))
        request = ev.Request(
            f"r{self.requests_made}",
            gateway.gateway_id,
            self.chance.randrange(4),
            tuple(ev.Candidate(each, float(self.chance.randrange(10))) for each in chosen),
            None,
            self.chance.choice(list(Priority)),
            self.chance.choice(list(Mode)),
            self.chance.randrange(1, 500),
            self.chance.choice([None, 50]),
            self.chance.choice([0.5, 3.0, 10.0]),
        )
        sim = self.client_asks(gateway, request, self.chance.expovariate(1 / self.service_s))
        if self.chance.random() < self.mishaps.client_leaves:
            self.after(self.chance.uniform(0.0, 2.0), lambda: self.client_leaves(gateway, sim))

    def client_asks(self, gateway: SimGateway, request: ev.Request, service_s: float) -> SimRequest:
        sim = SimRequest(request, service_s)
        self.everyone.append(sim)
        gateway.requests[request.request_id] = sim
        self.place(gateway, sim)
        return sim

    def clients_come_evenly(self, endpoint_id: int, every_s: float, service_s: float) -> None:
        """One request after the other for this endpoint, as patient as can be."""
        if self.closing:
            return
        self.requests_made += 1
        gateway = next(iter(self.gateways.values()))
        candidates = (ev.Candidate(endpoint_id),)
        request_id = f"r{self.requests_made}"
        request = ev.Request(
            request_id, gateway.gateway_id, 1, candidates, output_tokens_max=100, queue_timeout_s=900.0
        )
        self.client_asks(gateway, request, service_s)
        self.after(every_s, lambda: self.clients_come_evenly(endpoint_id, every_s, service_s))

    def waits_s(self, endpoint_id: int) -> list[float]:
        """How long those that were dispatched there waited."""
        commands = (command for _, log in self.journals for _, caused in log for command in caused)
        return [
            command.queue_wait_s
            for command in commands
            if isinstance(command, cmd.Dispatch) and command.place.endpoint_id == endpoint_id
        ]

    def asked_for(self) -> list[int]:
        """Endpoints that clients want these days: of many, a part that moves on, so that models come and go."""
        endpoints = [endpoint.id for endpoint in self.catalogue.endpoints]
        if len(endpoints) < 4:
            return endpoints
        first = int(self.now // FASHION_S)
        return [endpoints[(first + each) % len(endpoints)] for each in range(len(endpoints) - 3)]

    def client_leaves(self, gateway: SimGateway, sim: SimRequest) -> None:
        if sim.outcome is not None or not gateway.alive:
            return
        if sim.place is not None:
            self.leave_place(gateway, sim, cancelled=True)
        else:
            gateway.waiting.pop(sim.request.request_id, None)
            self.tell(gateway, ev.RequestCancelled(0.0, sim.request.request_id))
        self.over(gateway, sim, "client_left")

    def over(self, gateway: SimGateway, sim: SimRequest, outcome: str) -> None:
        assert sim.outcome is None, f"{sim.request.request_id} ended twice: {sim.outcome}, {outcome}"
        sim.outcome = outcome
        gateway.requests.pop(sim.request.request_id, None)

    # Gateways.

    def start_gateway(self) -> None:
        self.gateways_made += 1
        gateway = SimGateway(f"g{self.gateways_made}")
        self.gateways[gateway.gateway_id] = gateway
        self.to_core(gateway, (ev.GatewaySeen(0.0, gateway.gateway_id),))
        self.after(REPORT_INTERVAL_S, lambda: self.reports_now_and_then(gateway))

    def reports_now_and_then(self, gateway: SimGateway) -> None:
        if gateway.alive:
            self.flush(gateway)
            if not self.closing or gateway.leases or gateway.requests:
                self.after(REPORT_INTERVAL_S, lambda: self.reports_now_and_then(gateway))

    def introduce_gateway(self, gateway: SimGateway) -> None:
        """To a scheduler that has restarted: everything held, and what runs under which lease."""
        if not gateway.alive:
            return
        gateway.outgoing = []
        leases, reports, running = [], [], []
        for held in list(gateway.leases.values()):
            held.started, held.ended = [], []
            running += [(request_id, held.lease.place) for request_id in held.running]
            if held.returned or held.deadline <= self.now:
                for request_id in held.running:
                    gateway.requests[request_id].lease_id = None
                del gateway.leases[held.lease.lease_id]
                continue
            leases.append(replace(held.lease, ttl_s=held.deadline - self.now))
            reports.append(ev.LeaseReported(0.0, held.lease.lease_id, tuple(held.running)))
        for request_id, sim in gateway.requests.items():
            if sim.place is not None and sim.lease_id is None and (request_id, sim.place) not in running:
                running.append((request_id, sim.place))
        asks = tuple(gateway.requests[each].request for each in gateway.waiting)
        seen = ev.GatewaySeen(0.0, gateway.gateway_id, tuple(leases), tuple(running))
        arrived = (ev.RequestsArrived(0.0, gateway.gateway_id, asks),) if asks else ()
        self.to_core(gateway, (seen, *reports, *arrived))

    def place(self, gateway: SimGateway, sim: SimRequest) -> None:
        """Under a lease for the best candidate, or else by asking."""
        best = sim.request.candidates[0].endpoint_id
        for held in gateway.leases.values():
            has_room = len(held.running) < held.lease.slots and self.now < held.deadline and not held.returned
            if held.lease.place.endpoint_id == best and has_room:
                held.running[sim.request.request_id] = None
                held.started.append(sim.request.request_id)
                sim.lease_id = held.lease.lease_id
                self.forward(gateway, sim, held.lease.place)
                return
        gateway.waiting[sim.request.request_id] = None
        self.tell(gateway, ev.RequestsArrived(0.0, gateway.gateway_id, (sim.request,)))

    def forward(self, gateway: SimGateway, sim: SimRequest, place: Place) -> None:
        """The request runs at its place until it is answered or breaks."""
        sim.place = place
        sim.tried.append(place.endpoint_id)
        self.occupy(place, sim.request.request_id)
        attempt = len(sim.tried)
        broken = self.engine_at(place) is None or self.chance.random() < self.mishaps.upstream_fails
        takes_s = 0.001 if broken else sim.service_s
        self.after(takes_s, lambda: self.upstream_ends(gateway, sim, attempt, ok=not broken))

    def engine_at(self, place: Place) -> object:
        """What answers there, if anything does."""
        if place.engine_id is None:
            return place
        node = self.nodes.get(place.engine_id.partition("/")[0])
        engine = node.engines.get(place.engine_id) if node is not None and node.alive else None
        return engine if engine is not None and engine.state is EngineState.AWAKE else None

    def upstream_ends(self, gateway: SimGateway, sim: SimRequest, attempt: int, *, ok: bool) -> None:
        if not gateway.alive or sim.place is None or sim.outcome is not None or attempt != len(sim.tried):
            return
        self.leave_place(gateway, sim, ok=ok)
        if ok:
            self.over(gateway, sim, "success")
            return
        rest = tuple(each for each in sim.request.candidates if each.endpoint_id not in sim.tried)
        if not rest or len(sim.tried) >= ATTEMPTS_MAX:
            self.over(gateway, sim, "upstream_error")
            return
        sim.request = replace(sim.request, candidates=rest, attempt=sim.request.attempt + 1)
        self.place(gateway, sim)

    def leave_place(self, gateway: SimGateway, sim: SimRequest, *, ok: bool = False, cancelled: bool = False) -> None:
        """It does not run any more, and the scheduler is told in the way that fits."""
        request_id = sim.request.request_id
        assert sim.place is not None
        del self.running[sim.place][request_id]
        sim.place = None
        held = gateway.leases.get(sim.lease_id) if sim.lease_id is not None else None
        sim.lease_id = None
        if held is not None:
            held.running.pop(request_id)
            held.ended.append(ev.Ended(request_id, ok, 0.1, sim.service_s, 10, 10, cancelled))
        elif cancelled:
            self.tell(gateway, ev.RequestCancelled(0.0, request_id))
        elif ok:
            self.tell(gateway, ev.RequestFinished(0.0, request_id, 10, 10, sim.service_s))
        else:
            self.tell(gateway, ev.RequestFailed(0.0, request_id, "broke"))

    def tell(self, gateway: SimGateway, event: ev.Event) -> None:
        gateway.outgoing.append(event)
        if self.chance.random() < 0.8:
            self.flush(gateway)

    def flush(self, gateway: SimGateway) -> None:
        events = gateway.outgoing
        for held in list(gateway.leases.values()):
            if held.started or held.ended:
                events.append(ev.LeaseReported(0.0, held.lease.lease_id, tuple(held.started), tuple(held.ended)))
                held.started, held.ended = [], []
            if held.returned and not held.running:
                del gateway.leases[held.lease.lease_id]
            elif not held.returned and not held.running and held.deadline < self.now:
                self.give_back(held, events)
        gateway.outgoing = []
        if events and self.is_up:
            self.to_core(gateway, tuple(events))

    def give_back(self, held: HeldLease, events: list[ev.Event]) -> None:
        held.returned = True
        if held.started or held.ended:
            events.append(ev.LeaseReported(0.0, held.lease.lease_id, tuple(held.started), tuple(held.ended)))
            held.started, held.ended = [], []
        events.append(ev.LeaseReturned(0.0, held.lease.lease_id, tuple(held.running)))

    def gateway_obeys(self, gateway: SimGateway, command: cmd.Command, issued_at: float) -> None:
        match command:
            case cmd.Dispatch():
                if command.request_id not in gateway.waiting:
                    self.tell(gateway, ev.RequestCancelled(0.0, command.request_id))
                    return
                del gateway.waiting[command.request_id]
                self.tell(gateway, ev.RequestStarted(0.0, command.request_id))
                self.forward(gateway, gateway.requests[command.request_id], command.place)
            case cmd.Reject():
                if command.request_id in gateway.waiting:
                    del gateway.waiting[command.request_id]
                    self.over(gateway, gateway.requests[command.request_id], command.code)
            case cmd.GrantLease(lease):
                held = gateway.leases.get(lease.lease_id)
                deadline = issued_at + lease.ttl_s
                if held is None:
                    gateway.leases[lease.lease_id] = HeldLease(lease, deadline)
                elif not held.returned:
                    held.lease, held.deadline = lease, deadline
            case cmd.RevokeLease(lease_id):
                held = gateway.leases.get(lease_id)
                if held is not None and not held.returned:
                    self.give_back(held, gateway.outgoing)
                    self.flush(gateway)

    def gateway_dies(self) -> None:
        alive = [gateway for gateway in self.gateways.values() if gateway.alive]
        if not alive:
            return
        gateway = self.chance.choice(alive)
        gateway.alive = False
        for sim in list(gateway.requests.values()):
            if sim.place is not None:
                del self.running[sim.place][sim.request.request_id]
                sim.place = None
            self.over(gateway, sim, "interrupted")
        self.after(DETECTION_S, lambda: self.gateway_is_missed(gateway))
        self.after(self.chance.uniform(0.1, 3.0), self.start_gateway)

    def gateway_is_missed(self, gateway: SimGateway) -> None:
        self.gateways.pop(gateway.gateway_id)
        self.feed(ev.GatewayLost(0.0, gateway.gateway_id))

    # Nodes and engines.

    def introduce_node(self, node: SimNode) -> None:
        if node.alive:
            seen = (self.as_seen(node, each) for each in node.engines.values())
            self.feed(ev.NodeSeen(0.0, node.node, tuple(each for each in seen if each.memory_mib)))

    def as_seen(self, node: SimNode, engine: ev.EngineSeen) -> ev.EngineSeen:
        """As it is said to a core that knows nothing: of an engine that was ended while it slept little is left."""
        if engine.state is not EngineState.STOPPING:
            return engine
        return replace(engine, memory_mib=self.held_mib(node, engine) * len(engine.gpu_indices))

    def load(self, command: cmd.LoadEngine) -> None:
        node = self.nodes.get(command.node_id)
        if node is None:  # it died, and nobody has noticed yet
            self.feed_later(ev.EngineChanged(0.0, command.engine_id, EngineState.FAILED, reason="no such node"))
            return
        engine = ev.EngineSeen(
            command.engine_id, command.endpoint_id, command.gpu_indices, EngineState.LOADING, command.memory_mib
        )
        node.engines[command.engine_id] = engine
        self.check_memory(node)
        comes = self.chance.random() >= self.mishaps.load_fails
        self.answer(node, command.engine_id, EngineState.AWAKE if comes else EngineState.FAILED, 0.5, 3.0)

    def answer(self, node: SimNode, engine_id: str, becomes: EngineState, least_s: float, most_s: float) -> None:
        """The transition that the engine is in ends after a while, late, or never."""
        chance, state = self.chance.random(), node.engines[engine_id].state
        never, late = self.mishaps.never_answered, self.mishaps.answered_late
        if chance < never:
            return
        takes_s = LATE_S if chance < never + late else self.chance.uniform(least_s, most_s)
        self.after(takes_s, lambda: self.engine_becomes(node, engine_id, state, becomes, takes_s))

    def sleep(self, engine_id: str) -> None:
        found = self.engine(engine_id)
        if found is None:
            return
        node, engine = found
        assert self.spec(engine).sleeps, f"{engine_id} cannot sleep"
        assert node.node.sleeps, f"engines cannot sleep on {node.node.id}"
        if not self.turns(node, engine, EngineState.AWAKE, EngineState.FALLING_ASLEEP):
            return
        node.slept[engine_id] = None
        self.check_memory(node)
        chance = self.chance.random() / self.mishaps.sleep_fails if self.mishaps.sleep_fails else 1.0
        becomes = EngineState.ASLEEP
        if chance < 1.0:
            becomes = EngineState.AWAKE if chance < 0.5 else EngineState.FAILED
        self.answer(node, engine_id, becomes, 0.2, 1.5)

    def wake(self, engine_id: str) -> None:
        found = self.engine(engine_id)
        if found is None or not self.turns(*found, EngineState.ASLEEP, EngineState.WAKING):
            return
        self.check_memory(found[0])
        comes = self.chance.random() >= self.mishaps.wake_fails
        self.answer(found[0], engine_id, EngineState.AWAKE if comes else EngineState.FAILED, 0.1, 0.6)

    def turns(self, node: SimNode, engine: ev.EngineSeen, old: EngineState, new: EngineState) -> bool:
        """It begins a transition, if it is what the core takes it for; if not, that is the answer."""
        if engine.state is not old:
            self.feed_later(ev.EngineChanged(0.0, engine.engine_id, EngineState.FAILED, reason=f"it is {engine.state}"))
            return False
        runs = self.running.get(Place(engine.endpoint_id, engine.engine_id))
        assert not runs, f"{engine.engine_id} is {new} while it runs {runs}"
        node.engines[engine.engine_id] = replace(engine, state=new)
        node.off_gpus.discard(engine.engine_id)
        return True

    def engine(self, engine_id: str) -> tuple[SimNode, ev.EngineSeen] | None:
        """The engine and its node; if there is no such engine, that is the answer to what was asked of it."""
        node = self.nodes.get(engine_id.partition("/")[0])
        engine = node.engines.get(engine_id) if node is not None else None
        if node is None or engine is None:
            self.feed_later(ev.EngineChanged(0.0, engine_id, EngineState.FAILED, reason="no such engine"))
            return None
        return node, engine

    def engine_becomes(
        self, node: SimNode, engine_id: str, old: EngineState, new: EngineState, seconds: float = 0.0
    ) -> None:
        engine = node.engines.get(engine_id)
        if engine is None or engine.state is not old or not node.alive:
            return
        if new is EngineState.COLD:
            del node.engines[engine_id]
            node.slept.pop(engine_id, None)
            node.off_gpus.discard(engine_id)
        else:
            node.engines[engine_id] = replace(engine, state=new)
        if new is EngineState.ASLEEP:
            node.off_gpus.add(engine_id)
        self.feed(ev.EngineChanged(0.0, engine_id, new, seconds, engine.memory_mib, "" if seconds else "it broke"))

    def stop(self, engine_id: str) -> None:
        node = self.nodes.get(engine_id.partition("/")[0])
        engine = node.engines.get(engine_id) if node is not None else None
        if node is None or engine is None:
            self.feed_later(ev.EngineChanged(0.0, engine_id, EngineState.COLD))
            return
        place = Place(engine.endpoint_id, engine_id)
        if engine.state is EngineState.AWAKE:
            assert not self.running.get(place), f"{engine_id} was stopped while it ran {self.running[place]}"
        node.engines[engine_id] = replace(engine, state=EngineState.STOPPING)
        self.answer(node, engine_id, EngineState.COLD, 0.1, 1.0)

    def feed_later(self, event: ev.Event) -> None:
        epoch = self.epoch
        self.after(0.01, lambda: self.feed(event) if epoch == self.epoch else None)

    def engine_dies(self) -> None:
        awake = [
            (node, engine)
            for node in self.nodes.values()
            for engine in node.engines.values()
            if engine.state is EngineState.AWAKE
        ]
        if not awake:
            return
        node, engine = self.chance.choice(awake)
        self.engine_becomes(node, engine.engine_id, EngineState.AWAKE, EngineState.FAILED)
        self.break_connections(Place(engine.endpoint_id, engine.engine_id))

    def break_connections(self, place: Place) -> None:
        for gateway in list(self.gateways.values()):
            for sim in list(gateway.requests.values()):
                if sim.place == place:
                    self.upstream_ends(gateway, sim, len(sim.tried), ok=False)

    def node_dies(self) -> None:
        if not self.nodes:
            return
        node_id = self.chance.choice(list(self.nodes))
        node = self.nodes.pop(node_id)
        node.alive = False
        for engine in node.engines.values():
            self.break_connections(Place(engine.endpoint_id, engine.engine_id))
        self.after(DETECTION_S, lambda: self.feed(ev.NodeLost(0.0, node_id)))
        self.after(self.chance.uniform(2.0, 6.0), lambda: self.node_comes(node.node))

    def node_comes(self, like: Node) -> None:
        node = SimNode(replace(like, id=f"{like.id}+"))
        self.nodes[node.node.id] = node
        self.introduce_node(node)
