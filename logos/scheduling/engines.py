"""Takes in what engines and nodes say of themselves, by the table of `domain.lifecycle`.

A report that the table does not allow is ignored; a live engine that nobody knows is stopped. What engines there should
be is decided in `capacity`.
"""

from __future__ import annotations

from logos.domain.lifecycle import EngineState, may_become
from logos.prediction.service import Transition
from logos.scheduling.capacity import Capacity
from logos.scheduling.commands import StopEngine
from logos.scheduling.events import EngineChanged, EngineReported, EngineSeen, NodeLost, NodeSeen
from logos.scheduling.nodes import LIVE, Engine, NodeState
from logos.scheduling.state import State
from logos.scheduling.transitions import Transitions

# States of an engine nobody knows in which its process is there and would stay.
STRAY = LIVE | {EngineState.DRAINING, EngineState.FALLING_ASLEEP, EngineState.ASLEEP}
# States that a node may not have heard of, or in which its answer is still awaited.
UNANSWERED = frozenset({EngineState.LOADING, EngineState.STOPPING})
# The state that an order was given in, by the one it led to: a node that still says so has not answered yet.
BEFORE = {EngineState.FALLING_ASLEEP: EngineState.AWAKE, EngineState.WAKING: EngineState.ASLEEP}


class Engines:
    """The engines and nodes as they report themselves."""

    def __init__(self, state: State, transitions: Transitions, capacity: Capacity) -> None:
        self._state = state
        self._transitions = transitions
        self._capacity = capacity

    def changed(self, event: EngineChanged) -> None:
        engine = self._state.engines.get(event.engine_id)
        if engine is None:
            if event.state in STRAY:
                self._state.commands.append(StopEngine(event.engine_id))
            return
        if engine.state is EngineState.DRAINING and event.state is EngineState.AWAKE:
            return  # draining is our own word for it; to its node it is awake
        if not may_become(engine.state, event.state):
            return
        engine.seconds = event.seconds
        engine.measured_mib = event.memory_mib or engine.measured_mib
        self._become(engine, event.state, event.reason)

    def reported(self, event: EngineReported) -> None:
        engine = self._state.engines.get(event.engine_id)
        if engine is not None:
            engine.running_inside = event.running
            engine.waiting_inside = event.waiting
            engine.kv_usage = event.kv_usage

    def node_seen(self, event: NodeSeen) -> None:
        node = self._state.nodes.get(event.node.id)
        if node is None:
            node = self._state.nodes[event.node.id] = NodeState(event.node)
        node.node = event.node
        node.memory_changed()
        self._state.predictor.introduce_node(event.node)
        listed = {seen.engine_id for seen in event.engines}
        for engine in list(node.engines.values()):
            if engine.engine_id not in listed and engine.state not in UNANSWERED:
                self._gone(engine)
        for seen in event.engines:
            self._seen(node, seen)
        self._capacity.reconsider()

    def node_lost(self, event: NodeLost) -> None:
        node = self._state.nodes.pop(event.node_id, None)
        if node is None:
            return
        for engine in list(node.engines.values()):
            self._gone(engine)
        self._state.predictor.forget_node(event.node_id)
        self._capacity.reconsider()

    # Inside.

    def _become(self, engine: Engine, new: EngineState, reason: str) -> None:
        old = engine.state
        if new is EngineState.COLD:
            self._gone(engine)
            self._capacity.reconsider()
            return
        self._state.engine_state(engine, new)
        if new is EngineState.AWAKE:
            self._awoke(engine, old)
            return
        self._transitions.close(engine)
        if new is EngineState.FAILED:
            self._failed(engine, old, reason)
        elif new is EngineState.ASLEEP:
            self._slept(engine, old)

    def _awoke(self, engine: Engine, old: EngineState) -> None:
        if engine.claimed_by is not None and old is EngineState.FALLING_ASLEEP:
            self._transitions.stop(engine)  # it would not sleep, and its memory is promised
            return
        transition = {EngineState.LOADING: Transition.LOAD, EngineState.WAKING: Transition.WAKE}.get(old)
        if transition is not None and engine.seconds > 0:
            self._state.service.transitioned(engine.endpoint_id, transition, engine.seconds)
            self._learn(engine, transition)
        endpoint = self._state.endpoints[engine.endpoint_id]
        endpoint.loading.failures = 0
        endpoint.loading.retry_at = 0.0
        engine.was_awaited = bool(endpoint.queue)
        self._transitions.open(engine)
        self._capacity.reconsider()

    def _slept(self, engine: Engine, old: EngineState) -> None:
        if old is EngineState.FALLING_ASLEEP and engine.seconds > 0:
            self._learn(engine, Transition.SLEEP)
        self._capacity.reconsider()

    def _learn(self, engine: Engine, transition: Transition) -> None:
        self._state.predictor.observe_transition(engine.endpoint_id, engine.node_id, transition, engine.seconds)

    def _failed(self, engine: Engine, old: EngineState, reason: str) -> None:
        """Whatever is left of it is stopped, which frees its memory."""
        if old is EngineState.STOPPING:
            # Not even that worked: it goes on holding its memory, and is asked again in a while.
            at = self._state.now + self._state.settings.stop_timeout_s
            engine.timer = self._state.timers.add(at, lambda: self._transitions.stop_again(engine))
        elif old in {EngineState.LOADING, EngineState.WAKING}:
            self._transitions.give_up(engine, reason or "it failed to start")
        else:
            self._transitions.stop(engine)

    def _gone(self, engine: Engine) -> None:
        """There is no such engine any more; its place closes, and what ran there is its gateways' to report."""
        self._transitions.close(engine)
        self._state.engine_state(engine, EngineState.COLD)
        del self._state.engines[engine.engine_id]
        owner = self._state.endpoints[engine.endpoint_id]
        del owner.engines[engine.engine_id]
        owner.recount()
        node = self._state.nodes.get(engine.node_id)
        if node is not None:
            node.drop(engine)

    def _seen(self, node: NodeState, seen: EngineSeen) -> None:
        """An engine on a node that introduces itself: one of ours, or one to take over after a restart. An order that
        it has is decided by the answer, or by the time-out."""
        engine = self._state.engines.get(seen.engine_id)
        if engine is not None:
            if seen.state is BEFORE.get(engine.state):
                return
            self.changed(EngineChanged(self._state.now, seen.engine_id, seen.state))
            return
        if seen.state is EngineState.COLD:
            return
        engine = self._taken_over(node, seen)
        self._state.touch(engine.endpoint_id)
        if engine.state is EngineState.AWAKE:
            self._transitions.open(engine)
        elif engine.state in {EngineState.FAILED, EngineState.STOPPING}:
            self._transitions.stop(engine)
        elif engine.state is not EngineState.ASLEEP:
            self._transitions.expect(engine)

    def _taken_over(self, node: NodeState, seen: EngineSeen) -> Engine:
        spec = self._state.endpoint(seen.endpoint_id).endpoint.engine
        gpus = max(len(seen.gpu_indices), 1)
        declared_mib = spec.memory_per_gpu_mib if spec is not None else 0
        memory_mib = -(-seen.memory_mib // gpus) if seen.memory_mib > 0 else declared_mib
        engine = Engine(
            seen.engine_id,
            seen.endpoint_id,
            node.node.id,
            seen.gpu_indices,
            memory_mib,
            seen.state if seen.state is not EngineState.DRAINING else EngineState.AWAKE,
            self._state.now,
            # What it keeps asleep nobody has said yet where its model is not known: all of it, then.
            spec.residue_per_gpu_mib if spec is not None else memory_mib,
            spec.host_mib if spec is not None else seen.memory_mib,
            has_slept=seen.has_slept
            or seen.state in {EngineState.FALLING_ASLEEP, EngineState.ASLEEP, EngineState.WAKING},
            is_off_gpus=seen.state is EngineState.ASLEEP,
        )
        self._state.enter(engine)
        return engine
