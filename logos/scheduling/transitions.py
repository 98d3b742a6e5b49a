"""How an engine is moved: load, wake, drain, sleep, stop; what its place admits meanwhile; what a failure means.

Each transition is one command and ends with one report. The net below that: one that takes ten times as long as nine in
ten should is presumed to have failed, and the engine is ended; an end that is overdue is asked for again and again, and
what such an engine holds is counted until its node says otherwise, but nobody waits for it. Which engines should come
and go is decided in `capacity` and the rules of swapping.
"""

from __future__ import annotations

from logos.domain.lifecycle import EngineState
from logos.domain.nouns import EngineSpec, Place
from logos.prediction.service import Transition
from logos.scheduling.commands import LoadEngine, SleepEngine, StopEngine, WakeEngine
from logos.scheduling.leases import Leases
from logos.scheduling.nodes import Engine, Fit
from logos.scheduling.places import EndpointState, PlaceState
from logos.scheduling.state import State

LATE_FACTOR = 10.0  # a transition has failed after so many times its 0.9 quantile, ...
LATE_MIN_S = 30.0  # ... not before this, and by the time-out of the settings at the latest


class Transitions:
    """Moves engines and keeps the books of what they hold."""

    def __init__(self, state: State, leases: Leases) -> None:
        self._state = state
        self._leases = leases
        self._engines_made = 0

    def load(self, endpoint: EndpointState, fit: Fit) -> None:
        """Starts a new engine on these GPUs."""
        state, spec = self._state, spec_of(endpoint)
        engine = Engine(
            self._new_id(fit.node_id, endpoint.model_name),
            endpoint.endpoint.id,
            fit.node_id,
            fit.gpu_indices,
            spec.memory_per_gpu_mib,
            EngineState.COLD,
            state.now,
            spec.residue_per_gpu_mib,
            spec.host_mib,
        )
        state.enter(engine)
        self._begin(engine, EngineState.LOADING)
        memory_mib = spec.memory_per_gpu_mib * spec.gpus
        state.commands.append(
            LoadEngine(engine.engine_id, engine.endpoint_id, fit.node_id, fit.gpu_indices, memory_mib)
        )

    def wake(self, engine: Engine) -> None:
        """Wakes a sleeping engine, whose memory must be free."""
        self._begin(engine, EngineState.WAKING)
        self._state.commands.append(WakeEngine(engine.engine_id))

    def drain(self, engine: Engine) -> None:
        """It admits nothing more of its own accord; what runs there goes on."""
        if engine.state is EngineState.AWAKE:
            self._state.engine_state(engine, EngineState.DRAINING)
        self.close(engine)

    def reopen(self, engine: Engine) -> None:
        """It need not make room after all."""
        if engine.state is EngineState.DRAINING:
            self._state.engine_state(engine, EngineState.AWAKE)
            self.open(engine)

    def is_drained(self, engine: Engine) -> bool:
        """Nothing runs on it and no gateway may start anything there."""
        place = self.place_of(engine)
        return place is None or place.is_idle

    def leave(self, engine: Engine) -> None:
        """A drained engine gives its GPU memory up: to sleep where that is possible, else for good."""
        if engine.state is EngineState.ASLEEP or not self.can_sleep(engine):
            self.stop(engine)
        else:
            self.sleep(engine)

    def sleep(self, engine: Engine) -> None:
        """Puts a drained engine to sleep; one of which nothing is heard is ended."""
        self.close(engine)
        place = self.place_of(engine)
        if place is not None:
            place.prefixes.clear()  # asleep it keeps its weights, not what it had computed
        engine.has_slept = True
        self._state.engine_state(engine, EngineState.FALLING_ASLEEP)
        self._state.commands.append(SleepEngine(engine.engine_id))
        self.expect(engine)

    def can_sleep(self, engine: Engine) -> bool:
        """Whether its model, its node and the host RAM there allow it to sleep now."""
        if not self.is_able_to_sleep(engine):
            return False
        return engine.has_slept or engine.host_mib <= self._state.nodes[engine.node_id].host_free_mib()

    def is_able_to_sleep(self, engine: Engine) -> bool:
        """Whether it could sleep if host RAM were free there."""
        node = self._state.nodes.get(engine.node_id)
        spec = self._state.endpoints[engine.endpoint_id].endpoint.engine
        return node is not None and spec is not None and spec.sleeps and node.node.sleeps

    def stop(self, engine: Engine) -> None:
        """Ends the process, and asks again if nothing is heard of it."""
        self.close(engine)
        self._state.engine_state(engine, EngineState.STOPPING)
        self._state.commands.append(StopEngine(engine.engine_id))
        at = self._state.now + self._state.settings.stop_timeout_s
        engine.timer = self._state.timers.add(at, lambda: self.stop_again(engine))

    def stop_again(self, engine: Engine) -> None:
        """It should have ended by now. Its memory is not credited; who counted on it looks elsewhere."""
        engine.is_stuck = True
        self.stop(engine)
        for endpoint in self._state.endpoints.values():
            if endpoint.is_pooled and endpoint.queue:
                self._state.touch(endpoint.endpoint.id)

    def open(self, engine: Engine) -> None:
        """The engine serves from now on."""
        endpoint = self._state.endpoints[engine.endpoint_id]
        place = self._state.place(Place(engine.endpoint_id, engine.engine_id))
        endpoint.open(place)
        place.idle_since = self._state.now
        self._state.touch(engine.endpoint_id)

    def close(self, engine: Engine) -> None:
        """The engine admits nothing more; what runs there ends by itself or is reported by its gateway."""
        place = self.place_of(engine)
        if place is not None:
            self._state.endpoints[engine.endpoint_id].close(place)
        self.ask_back(engine)

    def ask_back(self, engine: Engine) -> None:
        """Slots of it that gateways hold are asked back; it goes on serving."""
        place = self.place_of(engine)
        if place is not None:
            self._leases.recall([place])

    def place_of(self, engine: Engine) -> PlaceState | None:
        endpoint = self._state.endpoints[engine.endpoint_id]
        return endpoint.places.get(Place(engine.endpoint_id, engine.engine_id))

    def expect(self, engine: Engine) -> None:
        """An engine that is on its way for too long is ended; one that will not sleep says nothing of loading."""
        if engine.state is EngineState.FALLING_ASLEEP:
            at = self._overdue_at(engine, Transition.SLEEP, self._state.settings.sleep_timeout_s)
            engine.timer = self._state.timers.add(at, lambda: self.stop(engine))
            return
        kind = Transition.WAKE if engine.state is EngineState.WAKING else Transition.LOAD
        at = self._overdue_at(engine, kind, self._state.settings.load_timeout_s)
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

    # Inside.

    def _begin(self, engine: Engine, to: EngineState) -> None:
        """It is on its way up. The driver answers every command; this time-out is the net below it."""
        self._state.engine_state(engine, to)
        self.expect(engine)

    def _overdue_at(self, engine: Engine, kind: Transition, timeout_s: float) -> float:
        expected = self._state.predictor.transition(engine.endpoint_id, engine.node_id, kind)
        return self._state.now + min(timeout_s, max(LATE_FACTOR * expected.p90, LATE_MIN_S))

    def _new_id(self, node_id: str, model_name: str) -> str:
        while True:
            self._engines_made += 1
            engine_id = f"{node_id}/{model_name}/{self._engines_made}"
            if engine_id not in self._state.engines:
                return engine_id


def spec_of(endpoint: EndpointState) -> EngineSpec:
    """What an engine of a pooled endpoint needs."""
    assert endpoint.endpoint.engine is not None, endpoint.endpoint
    return endpoint.endpoint.engine
