"""Engines that do nothing go to sleep after a while, so that whoever wants their memory finds it free.

How long that while is, the rules of swapping say. Engines that shall stay, or cannot sleep, are left alone.
"""

from __future__ import annotations

from logos.domain.lifecycle import EngineState
from logos.scheduling.nodes import Engine
from logos.scheduling.places import EndpointState
from logos.scheduling.state import State
from logos.scheduling.transitions import Transitions


class Idling:
    """Looks at engines again when their time has come."""

    def __init__(self, state: State, transitions: Transitions) -> None:
        self._state = state
        self._transitions = transitions

    def idlers(self, endpoint: EndpointState) -> list[Engine]:
        """Its engines that idle; none where none of them may sleep anyway, which is known without a look at each."""
        if endpoint.queue or not endpoint.spare:
            return []
        return [engine for engine in endpoint.engines.values() if self.is_idle(engine, endpoint)]

    def sleep_after(self, engine: Engine, endpoint: EndpointState, idle_s: float) -> None:
        """Puts it to sleep if it has idled for `idle_s`, or is one too many; otherwise its endpoint is touched when it
        will have."""
        if not self.is_idle(engine, endpoint) or not self._may_sleep(engine, endpoint):
            return
        now, idle_until = self._state.now, self.idle_since(engine) + (0.0 if endpoint.has_surplus else idle_s)
        if now >= idle_until:
            self._transitions.ask_back(engine)
            if self._transitions.is_drained(engine):
                self._transitions.sleep(engine)
        elif engine.timer is None or not engine.timer.is_pending or engine.timer.at > idle_until:
            self._state.timers.cancel(engine.timer)
            endpoint_id = engine.endpoint_id
            engine.timer = self._state.timers.add(idle_until, lambda: self._state.touch(endpoint_id))

    def is_idle(self, engine: Engine, endpoint: EndpointState) -> bool:
        """It serves, nothing runs there and nothing waits."""
        if engine.state is not EngineState.AWAKE or engine.claimed_by is not None or endpoint.queue:
            return False
        place = self._transitions.place_of(engine)
        return place is None or not place.running

    def idle_since(self, engine: Engine) -> float:
        place = self._transitions.place_of(engine)
        return engine.since if place is None else max(place.idle_since, engine.since)

    def _may_sleep(self, engine: Engine, endpoint: EndpointState) -> bool:
        return endpoint.spare > 0 and self._transitions.can_sleep(engine)
