"""Which engines shall be there: the one place where models come to GPUs and leave them.

An engine is loaded when requests wait for its endpoint and a node has room, more of them when more waits than they take
at once, and `min_replicas` always. An idle engine is stopped only if its memory is wanted; nothing that runs is cut.
What became of engines and nodes is taken in by `engines`; which request goes where is decided in `placement`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from logos.domain.lifecycle import EngineState
from logos.domain.nouns import EngineSpec, Place
from logos.prediction.service import Transition
from logos.scheduling.commands import LoadEngine, StopEngine, WakeEngine
from logos.scheduling.leases import Leases
from logos.scheduling.nodes import Engine, Fit, NodeState, does_not_fit_message, need_message
from logos.scheduling.state import EndpointState, PlaceState, State
from logos.scheduling.timers import Timer

HOLDERS_NAMED_MAX = 5


class Refusal(NamedTuple):
    """Why nothing will come of it: the fields of a Reject."""

    code: str
    message: str
    retry_after_s: float | None = None


class Outlook(NamedTuple):
    """What an endpoint without a live engine can hope for: room now, room after the victims have gone, room or news
    that is already on its way (all empty), or nothing (a refusal)."""

    fit: Fit | None = None
    victims: tuple[Engine, ...] = ()
    refusal: Refusal | None = None
    memory_is_short: bool = False  # room has to be made first
    neighbour_is_idle: bool = False  # and somebody is there to make it


class Capacity:
    """Loads, wakes, drains and stops engines."""

    def __init__(self, state: State, leases: Leases) -> None:
        self._state = state
        self._leases = leases
        self._engines_made = 0
        self._grace: Timer | None = None

    # What could be.

    def outlook(self, endpoint: EndpointState) -> Outlook:
        """What a pooled endpoint without a live engine can hope for. O(nodes and engines of its pool)."""
        spec = _spec(endpoint)
        if self._state.is_reconvening:
            return Outlook()
        nodes = self._pool(endpoint)
        if not nodes:
            return self._outlook_without_nodes()
        if not any(node.could_fit(spec) for node in nodes):
            return Outlook(refusal=Refusal("does_not_fit", does_not_fit_message(spec, nodes)))
        loading = endpoint.loading
        if self._state.now < loading.retry_at:
            if loading.failures < self._state.settings.load_tries_max:
                return Outlook()
            wait_s = max(loading.retry_at - self._state.now, 1.0)
            return Outlook(refusal=Refusal("no_capacity", f"its engine could not be loaded: {loading.reason}", wait_s))
        fit = self._best_fit(endpoint, nodes)
        return Outlook(fit=fit) if fit is not None else self._outlook_without_room(endpoint, nodes)

    # What shall be.

    def provide(self, endpoint: EndpointState) -> Refusal | None:
        """Brings the engines that are wanted there now; a refusal if requests wait and none can come."""
        if not endpoint.is_pooled:
            return None
        while True:
            live = [engine for engine in endpoint.engines.values() if engine.is_live]
            if len(live) >= self._wanted(endpoint, len(live)):
                return None
            if live or not endpoint.queue:
                if not self._bring_if_room(endpoint):
                    return None
                continue
            outlook = self.outlook(endpoint)
            for victim in outlook.victims:
                self.drain(victim)
            if not self._bring(endpoint, outlook.fit):
                return outlook.refusal

    def drain(self, engine: Engine) -> None:
        """Ends an engine as soon as nothing runs on it and no gateway may start anything there."""
        place = self.place_of(engine)
        if place is None or place.is_idle:
            self.stop(engine)
            return
        if engine.state is not EngineState.DRAINING:
            self._state.engine_state(engine, EngineState.DRAINING)
        self.close(engine)

    def stop(self, engine: Engine) -> None:
        """Ends the process, and asks again if nothing is heard of it."""
        self.close(engine)
        self._state.engine_state(engine, EngineState.STOPPING)
        self._state.commands.append(StopEngine(engine.engine_id))
        at = self._state.now + self._state.settings.stop_timeout_s
        engine.timer = self._state.timers.add(at, lambda: self.stop(engine))

    def attend(self, endpoint: EndpointState) -> None:
        """Stops what has drained; of a removed endpoint everything drains."""
        leaving = {EngineState.DRAINING}
        if endpoint.is_removed and self._state.has_catalogue:
            leaving |= {EngineState.AWAKE, EngineState.LOADING, EngineState.ASLEEP}
        for engine in list(endpoint.engines.values()):
            if engine.state in leaving:
                self.drain(engine)

    def open(self, engine: Engine) -> None:
        """The engine serves from now on."""
        endpoint = self._state.endpoints[engine.endpoint_id]
        place = self._state.place(Place(engine.endpoint_id, engine.engine_id))
        place.capacity = endpoint.capacity_per_place
        place.is_open = True
        place.idle_since = self._state.now
        self._state.touch(engine.endpoint_id)

    def close(self, engine: Engine) -> None:
        """The engine admits nothing more; what runs there ends by itself or is reported by its gateway."""
        place = self.place_of(engine)
        if place is not None:
            place.is_open = False
            self._leases.recall([place])

    def reconsider(self) -> None:
        """Memory or a node has come or gone: pooled endpoints are looked at again, who waits longest first."""
        pooled = [endpoint for endpoint in self._state.endpoints.values() if endpoint.is_pooled]
        for endpoint in sorted(pooled, key=_waits_since):
            self._state.touch(endpoint.endpoint.id)

    def place_of(self, engine: Engine) -> PlaceState | None:
        endpoint = self._state.endpoints[engine.endpoint_id]
        return endpoint.places.get(Place(engine.endpoint_id, engine.engine_id))

    # Inside: how many, and where.

    def _wanted(self, endpoint: EndpointState, live: int) -> int:
        """Replicas: the minimum, one for who waits, one more if more waits than the live ones take at once."""
        spec, waiting = _spec(endpoint), len(endpoint.queue)
        wanted = spec.min_replicas
        if waiting > live * endpoint.capacity_per_place:
            wanted = max(wanted, min(live + 1, max(spec.max_replicas, 1)))
        return wanted

    def _bring_if_room(self, endpoint: EndpointState) -> bool:
        if self._state.now < endpoint.loading.retry_at:
            return False
        return self._bring(endpoint, self._best_fit(endpoint, self._pool(endpoint)))

    def _bring(self, endpoint: EndpointState, fit: Fit | None) -> bool:
        """Wakes an engine whose GPUs have room for it again, or else loads one where it fits."""
        return self._wake(endpoint) or (fit is not None and self._load(endpoint, fit))

    def _wake(self, endpoint: EndpointState) -> bool:
        for engine in endpoint.engines.values():
            if engine.state is not EngineState.ASLEEP:
                continue
            free = self._state.nodes[engine.node_id].free_mib()
            if all(free.get(index, 0) >= engine.memory_per_gpu_mib for index in engine.gpu_indices):
                self._transition(engine, EngineState.WAKING)
                self._state.commands.append(WakeEngine(engine.engine_id))
                return True
        return False

    def _load(self, endpoint: EndpointState, fit: Fit) -> bool:
        state, spec = self._state, _spec(endpoint)
        engine = Engine(
            self._new_id(fit.node_id, endpoint.model_name),
            endpoint.endpoint.id,
            fit.node_id,
            fit.gpu_indices,
            spec.memory_per_gpu_mib,
            EngineState.COLD,
            state.now,
        )
        endpoint.engines[engine.engine_id] = engine
        state.engines[engine.engine_id] = engine
        state.nodes[fit.node_id].engines[engine.engine_id] = engine
        self._transition(engine, EngineState.LOADING)
        memory_mib = spec.memory_per_gpu_mib * spec.gpus
        state.commands.append(
            LoadEngine(engine.engine_id, engine.endpoint_id, fit.node_id, fit.gpu_indices, memory_mib)
        )
        return True

    def _transition(self, engine: Engine, to: EngineState) -> None:
        """It is on its way up. The driver answers every command; this time-out is the net below it."""
        self._state.engine_state(engine, to)
        self.expect(engine)

    def expect(self, engine: Engine) -> None:
        """An engine that is still on its way after `load_timeout_s` is ended."""
        at = self._state.now + self._state.settings.load_timeout_s
        engine.timer = self._state.timers.add(at, lambda: self.give_up(engine, "it took too long"))

    def give_up(self, engine: Engine, reason: str) -> None:
        """It did not come: its endpoint tries again after a back-off that doubles, and in the end gives up."""
        settings = self._state.settings
        loading = self._state.endpoints[engine.endpoint_id].loading
        loading.failures += 1
        loading.reason = reason
        loading.node_id = engine.node_id
        if loading.failures < settings.load_tries_max:
            backoff_s = settings.load_backoff_s * 2 ** (loading.failures - 1)
        else:
            backoff_s = settings.load_cooldown_s
        loading.retry_at = self._state.now + backoff_s
        self._state.timers.cancel(loading.timer)
        endpoint_id = engine.endpoint_id
        loading.timer = self._state.timers.add(loading.retry_at, lambda: self._state.touch(endpoint_id))
        self.stop(engine)

    def _new_id(self, node_id: str, model_name: str) -> str:
        while True:
            self._engines_made += 1
            engine_id = f"{node_id}/{model_name}/{self._engines_made}"
            if engine_id not in self._state.engines:
                return engine_id

    # Inside: room.

    def _pool(self, endpoint: EndpointState) -> list[NodeState]:
        provider_id = endpoint.endpoint.provider_id
        return [node for node in self._state.nodes.values() if node.node.provider_id == provider_id]

    def _best_fit(self, endpoint: EndpointState, nodes: list[NodeState]) -> Fit | None:
        """Where least memory would be left over; not where it failed last, if it can be helped."""
        fits = [fit for node in nodes if (fit := node.fit(_spec(endpoint))) is not None]
        failed_at = endpoint.loading.node_id if endpoint.loading.failures else None
        return min(fits, key=lambda fit: (fit.node_id == failed_at, fit.left_mib), default=None)

    def _outlook_without_nodes(self) -> Outlook:
        state = self._state
        grace_ends = (state.started_at or 0.0) + state.settings.node_grace_s
        if state.now >= grace_ends:
            return Outlook(refusal=Refusal("no_capacity", "no GPU node is there to run it", 30.0))
        if self._grace is None:
            self._grace = state.timers.add(grace_ends, self.reconsider)
        return Outlook()

    def _outlook_without_room(self, endpoint: EndpointState, nodes: list[NodeState]) -> Outlook:
        spec = _spec(endpoint)
        leaving = {node.node.id: [each for each in node.engines.values() if each.is_leaving] for node in nodes}
        if any(node.fit(spec, without=leaving[node.node.id]) is not None for node in nodes):
            return Outlook(memory_is_short=True, neighbour_is_idle=True)
        idle = sorted(self._idle_engines(nodes), key=self._least_recently_used)
        plans = [node.victims(spec, [*leaving[node.node.id], *idle]) for node in nodes]
        possible = [[engine for engine in plan if not engine.is_leaving] for plan in plans if plan is not None]
        if possible:
            fewest = min(possible, key=len)
            return Outlook(victims=tuple(fewest), memory_is_short=True, neighbour_is_idle=True)
        return Outlook(refusal=self._memory_is_held(endpoint, nodes), memory_is_short=True)

    def _idle_engines(self, nodes: list[NodeState]) -> Iterator[Engine]:
        """Awake, nothing runs, nothing waits, and nobody wants it to stay."""
        for node in nodes:
            for engine in node.engines.values():
                endpoint = self._state.endpoints[engine.endpoint_id]
                spec, place = endpoint.endpoint.engine, self.place_of(engine)
                if engine.state is not EngineState.AWAKE or endpoint.queue:
                    continue
                is_kept = spec is not None and (spec.pinned or spec.min_replicas > 0)
                if not is_kept and (place is None or not place.running):
                    yield engine

    def _least_recently_used(self, engine: Engine) -> tuple[bool, float]:
        """First those that no gateway holds a lease of, then by how long nothing has run."""
        place = self.place_of(engine)
        return (False, engine.since) if place is None else (bool(place.leases), place.idle_since)

    def _memory_is_held(self, endpoint: EndpointState, nodes: list[NodeState]) -> Refusal:
        """Names the models whose engines are in the way. Retry when one request of theirs is through, and a load."""
        holders: dict[int, int] = {}
        for node in nodes:
            for engine in node.engines.values():
                place = self.place_of(engine)
                running = len(place.running) if place is not None else 0
                holders[engine.endpoint_id] = holders.get(engine.endpoint_id, 0) + running
        named = [self._holder(endpoint_id, running) for endpoint_id, running in holders.items()]
        shown = named[:HOLDERS_NAMED_MAX]
        if len(named) > len(shown):
            shown.append(f"{len(named) - len(shown)} more")
        wait_s = min((self._state.service_s(holder) for holder in holders), default=0.0)
        message = f"{need_message(_spec(endpoint))}; the memory is held by {', '.join(shown)}"
        return Refusal("no_capacity", message, wait_s + self.load_s(endpoint))

    def _holder(self, endpoint_id: int, running: int) -> str:
        return f"{self._state.endpoints[endpoint_id].model_name} ({running} running)"

    def load_s(self, endpoint: EndpointState) -> float:
        """How long an engine of it takes to come: as measured, or the prior."""
        measured = self._state.service.transition_s(endpoint.endpoint.id, Transition.LOAD)
        return self._state.settings.load_prior_s if measured is None else measured


def _spec(endpoint: EndpointState) -> EngineSpec:
    assert endpoint.endpoint.engine is not None, endpoint.endpoint
    return endpoint.endpoint.engine


def _waits_since(endpoint: EndpointState) -> float:
    oldest = endpoint.queue.oldest()
    return float("inf") if oldest is None else oldest.arrived_at
