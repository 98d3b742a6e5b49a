"""A tiny language for scenarios: a scheduler core, a clock, and events said in words.

    world = World(remote(1, parallel=1))
    assert world.arrives(request("a")) == [dispatch("a", 1)]

Every method feeds one event at `world.now` and returns the commands it caused, after checking the invariants.
`WakeAt` is kept apart (`world.asked`): `world.passes(seconds)` wakes the core whenever it asked to be.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from typing import Any

from logos.domain.catalogue import Catalogue
from logos.domain.leases import SlotLease
from logos.domain.lifecycle import EngineState
from logos.domain.nouns import Endpoint, EngineSpec, Gpu, Limits, Model, Node, Place, Privacy, Provider
from logos.scheduling import events as ev
from logos.scheduling.commands import (
    Command,
    Dispatch,
    GrantLease,
    LoadEngine,
    Reject,
    RevokeLease,
    SleepEngine,
    StopEngine,
    WakeAt,
    WakeEngine,
)
from logos.scheduling.scheduler import Scheduler
from logos.scheduling.settings import SchedulerSettings

REMOTE, POOL = 1, 2  # provider ids


def remote(
    endpoint_id: int,
    *,
    parallel: int = 4,
    requests_per_minute: int | None = None,
    tokens_per_minute: int | None = None,
) -> Endpoint:
    limits = Limits(requests_per_minute, tokens_per_minute)
    return Endpoint(endpoint_id, endpoint_id, REMOTE, Privacy.LOCAL, "upstream", parallel, limits)


def pooled(
    endpoint_id: int,
    *,
    gib: int = 16,
    gpus: int = 1,
    parallel: int = 4,
    replicas: tuple[int, int] = (0, 1),
    pinned: bool = False,
    sleeps: bool = True,
    residue_gib: int = 0,
    host_gib: int = 0,
) -> Endpoint:
    """`gib` and `residue_gib` are sums over its GPUs; `host_gib` 0: as much as `gib`."""
    spec = EngineSpec(
        gpus,
        gib * 1024,
        None,
        replicas[0],
        replicas[1],
        pinned,
        sleeps=sleeps,
        residue_mib=residue_gib * 1024,
        host_memory_mib=host_gib * 1024,
    )
    return Endpoint(endpoint_id, endpoint_id, POOL, Privacy.LOCAL, "upstream", parallel, engine=spec)


def catalogue(*endpoints: Endpoint, version: int = 1) -> Catalogue:
    """Endpoint n serves the model named mn."""
    models = tuple(Model(endpoint.model_id, f"m{endpoint.model_id}") for endpoint in endpoints)
    providers = (
        Provider(REMOTE, "cloud", "openai", Privacy.LOCAL),
        Provider(POOL, "pool", "pool", Privacy.LOCAL),
    )
    return Catalogue(version, models, providers, endpoints)


def request(
    request_id: str,
    *endpoint_ids: int,
    gateway: str = "g1",
    key: int = 1,
    weights: Mapping[int, float] | None = None,
    **more: Any,
) -> ev.Request:
    """A request for endpoint 1, or for those given, best first."""
    weight = dict.fromkeys(endpoint_ids or (1,), 0.0) if weights is None else dict(weights)
    candidates = tuple(ev.Candidate(endpoint_id, weight[endpoint_id]) for endpoint_id in weight)
    return ev.Request(request_id, gateway, key, candidates, **more)


def node(node_id: str, *gpus_gib: int, host_gib: int = 0, sleeps: bool = True) -> Node:
    """`host_gib` 0: not limited."""
    return Node(
        node_id, POOL, tuple(Gpu(index, gib * 1024) for index, gib in enumerate(gpus_gib)), host_gib * 1024, sleeps
    )


class World:
    """A scheduler core that is told what happens and asked what it did."""

    def __init__(self, *endpoints: Endpoint, epoch: int = 1, **settings: Any) -> None:
        """Without endpoints no catalogue has been heard of yet."""
        known = catalogue(*endpoints) if endpoints else Catalogue()
        self.scheduler = Scheduler(known, SchedulerSettings(**settings), epoch=epoch)
        self.now = 100.0
        self.asked: list[float] = []

    def hears(self, event: ev.Event) -> list[Command]:
        commands = self.scheduler.handle(event)
        self.scheduler.check_invariants()
        for command in commands:
            if isinstance(command, WakeAt):
                heapq.heappush(self.asked, command.at)
        return [command for command in commands if not isinstance(command, WakeAt)]

    def passes(self, seconds: float) -> list[Command]:
        """Time passes; the core is woken whenever it asked to be."""
        until = self.now + seconds
        commands: list[Command] = []
        while self.asked and self.asked[0] <= until:
            self.now = max(heapq.heappop(self.asked), self.now)
            commands += self.hears(ev.Woke(self.now))
        self.now = until
        return commands

    # Requests.

    def arrives(self, *requests: ev.Request) -> list[Command]:
        return self.hears(ev.RequestsArrived(self.now, requests[0].gateway_id, requests))

    def arrive(self, *requests: ev.Request) -> list[Command]:
        """One event each."""
        return [command for each in requests for command in self.arrives(each)]

    def starts(self, request_id: str) -> list[Command]:
        return self.hears(ev.RequestStarted(self.now, request_id))

    def finishes(self, request_id: str, total_s: float = 1.0, tokens: int = 10) -> list[Command]:
        return self.hears(ev.RequestFinished(self.now, request_id, 10, tokens, total_s))

    def fails(self, request_id: str, *, fault: bool = True, retry_after_s: float | None = None) -> list[Command]:
        return self.hears(ev.RequestFailed(self.now, request_id, "broke", fault, retry_after_s))

    def leaves(self, request_id: str) -> list[Command]:
        return self.hears(ev.RequestCancelled(self.now, request_id))

    # Gateways and leases.

    def gateway_seen(
        self, gateway_id: str, *leases: SlotLease, running: tuple[tuple[str, Place], ...] = ()
    ) -> list[Command]:
        return self.hears(ev.GatewaySeen(self.now, gateway_id, leases, running))

    def gateway_lost(self, gateway_id: str) -> list[Command]:
        return self.hears(ev.GatewayLost(self.now, gateway_id))

    def reports(self, lease_id: str, *started: str, ended: tuple[str, ...] = (), ok: bool = True) -> list[Command]:
        ends = tuple(ev.Ended(each, ok, 0.1, 1.0, 10, 10) for each in ended)
        return self.hears(ev.LeaseReported(self.now, lease_id, started, ends))

    def returns(self, lease_id: str, *running: str) -> list[Command]:
        return self.hears(ev.LeaseReturned(self.now, lease_id, running))

    # Engines, nodes, the catalogue.

    def node_seen(self, seen: Node, *engines: ev.EngineSeen) -> list[Command]:
        return self.hears(ev.NodeSeen(self.now, seen, engines))

    def node_lost(self, node_id: str) -> list[Command]:
        return self.hears(ev.NodeLost(self.now, node_id))

    def engine(self, engine_id: str, state: EngineState, seconds: float = 0.0, reason: str = "") -> list[Command]:
        return self.hears(ev.EngineChanged(self.now, engine_id, state, seconds, 0, reason))

    def awake(self, engine_id: str, seconds: float = 20.0) -> list[Command]:
        return self.engine(engine_id, EngineState.AWAKE, seconds)

    def asleep(self, engine_id: str, seconds: float = 5.0) -> list[Command]:
        return self.engine(engine_id, EngineState.ASLEEP, seconds)

    def cold(self, engine_id: str) -> list[Command]:
        return self.engine(engine_id, EngineState.COLD)

    def engine_fails(self, engine_id: str, reason: str = "out of memory") -> list[Command]:
        return self.engine(engine_id, EngineState.FAILED, reason=reason)

    def declares(self, *endpoints: Endpoint, version: int = 2) -> list[Command]:
        return self.hears(ev.CatalogueChanged(self.now, catalogue(*endpoints, version=version)))

    def limit_observed(self, endpoint_id: int, remaining: int | None, reset_s: float) -> list[Command]:
        return self.hears(ev.LimitObserved(self.now, endpoint_id, remaining, None, reset_s))

    # Looking.

    def endpoint(self, endpoint_id: int) -> dict[str, Any]:
        found: list[dict[str, Any]] = self.scheduler.summary()["endpoints"]
        return next(each for each in found if each["endpoint_id"] == endpoint_id)

    def states(self) -> dict[str, str]:
        """The state of each engine by its id."""
        return {each["engine_id"]: each["state"] for each in self.scheduler.summary()["engines"]}

    def is_empty(self) -> bool:
        summary = self.scheduler.summary()
        return not (summary["waiting"] or summary["running"] or summary["leases"])


# What commands say, in short.


def dispatched(commands: list[Command]) -> list[str]:
    """The ids of the requests that were dispatched, in order."""
    return [command.request_id for command in commands if isinstance(command, Dispatch)]


def dispatches(commands: list[Command]) -> list[tuple[str, Place]]:
    return [(command.request_id, command.place) for command in commands if isinstance(command, Dispatch)]


def rejected(commands: list[Command]) -> list[tuple[str, str]]:
    """(id, code) of the requests that were rejected, in order."""
    return [(command.request_id, command.code) for command in commands if isinstance(command, Reject)]


def rejects(commands: list[Command]) -> list[Reject]:
    return [command for command in commands if isinstance(command, Reject)]


def loads(commands: list[Command]) -> list[LoadEngine]:
    return [command for command in commands if isinstance(command, LoadEngine)]


def stops(commands: list[Command]) -> list[str]:
    return [command.engine_id for command in commands if isinstance(command, StopEngine)]


def sleeps(commands: list[Command]) -> list[str]:
    return [command.engine_id for command in commands if isinstance(command, SleepEngine)]


def wakes(commands: list[Command]) -> list[str]:
    return [command.engine_id for command in commands if isinstance(command, WakeEngine)]


def grants(commands: list[Command]) -> list[SlotLease]:
    return [command.lease for command in commands if isinstance(command, GrantLease)]


def revokes(commands: list[Command]) -> list[str]:
    return [command.lease_id for command in commands if isinstance(command, RevokeLease)]
