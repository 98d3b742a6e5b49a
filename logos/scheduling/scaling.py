"""When the nodes there are do not suffice, and when one is not needed: notices to whoever adds and takes machines.

Asked for: requests have waited long and no engine of theirs is coming. Given back: nothing has run on a node for long.
Each is off where the settings say 0. Which engine runs where is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from logos.scheduling.commands import ReleaseNode, RequestNodes
from logos.scheduling.nodes import NodeState
from logos.scheduling.places import EndpointState
from logos.scheduling.state import State
from logos.scheduling.timers import Timer
from logos.scheduling.transitions import Transitions, spec_of


class Scaling:
    """Watches how long requests wait and how long nodes idle."""

    def __init__(self, state: State, transitions: Transitions) -> None:
        self._state = state
        self._transitions = transitions
        self._asked_at: dict[int, float] = {}  # by endpoint
        self._timers: dict[int | str, Timer] = {}  # by endpoint, or by node

    def attend(self, endpoint: EndpointState) -> None:
        """Something changed at a pooled endpoint."""
        if self._state.settings.request_nodes_after_s > 0 and not endpoint.live and endpoint.queue:
            self._ask_if_late(endpoint)
        if self._state.settings.release_node_after_s > 0:
            for node in self._state.pool(endpoint):
                self._release_if_idle(node)

    # Inside.

    def _ask_if_late(self, endpoint: EndpointState) -> None:
        state, endpoint_id = self._state, endpoint.endpoint.id
        oldest = endpoint.queue.oldest()
        assert oldest is not None
        due = oldest.arrived_at + state.settings.request_nodes_after_s
        due = max(due, self._asked_at.get(endpoint_id, float("-inf")) + state.settings.request_nodes_interval_s)
        if state.now < due:
            self._look_again(due, endpoint_id, partial(self._endpoint_due, endpoint_id))
            return
        self._asked_at[endpoint_id] = state.now
        spec, waiting = spec_of(endpoint), len(endpoint.queue)
        reason = f"{endpoint.model_name}: {waiting} waiting, the first for {state.now - oldest.arrived_at:.0f} s"
        state.commands.append(RequestNodes(spec.gpus, spec.memory_per_gpu_mib, reason))

    def _release_if_idle(self, node: NodeState) -> None:
        state, node_id = self._state, node.node.id
        if not all(self._is_idle(engine_id) for engine_id in node.engines) or self._is_claimed(node):
            node.idle_since = None
            return
        if node.idle_since is None:
            node.idle_since = state.now
        at = node.idle_since + state.settings.release_node_after_s
        if state.now < at:
            self._look_again(at, node_id, partial(self._node_due, node_id))
        elif self._is_spare(node):
            node.is_released = True
            state.commands.append(ReleaseNode(node_id))

    def _is_claimed(self, node: NodeState) -> bool:
        return any(claim.node is node for claim in self._state.claims.values())

    def _is_idle(self, engine_id: str) -> bool:
        engine = self._state.engines[engine_id]
        spec = self._state.endpoints[engine.endpoint_id].endpoint.engine
        is_kept = spec is not None and (spec.pinned or spec.min_replicas > 0)
        return not is_kept and not engine.is_on_its_way and self._transitions.is_drained(engine)

    def _is_spare(self, node: NodeState) -> bool:
        """Not the last one of its pool."""
        others = [each for each in self._state.nodes.values() if each.node.provider_id == node.node.provider_id]
        return sum(not each.is_released for each in others) > 1

    def _endpoint_due(self, endpoint_id: int) -> None:
        """Looked at without touching it: nothing has changed there."""
        endpoint = self._state.endpoints.get(endpoint_id)
        if endpoint is not None and endpoint.is_pooled:
            self.attend(endpoint)

    def _node_due(self, node_id: str) -> None:
        node = self._state.nodes.get(node_id)
        if node is not None and not node.is_released:
            self._release_if_idle(node)

    def _look_again(self, at: float, who: int | str, action: Callable[[], None]) -> None:
        timer = self._timers.get(who)
        if timer is None or not timer.is_pending or timer.at > at:
            self._state.timers.cancel(timer)
            self._timers[who] = self._state.timers.add(at, action)
