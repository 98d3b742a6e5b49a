"""When the nodes there are do not suffice, and when one is not needed: notices to whoever adds and takes machines.

Asked for: requests have waited long and no engine that could take them is coming, or no node that is there could ever
hold one. Once for each endpoint until a node comes, and again when that is long overdue. Given back: nothing has run on
a node for long, nobody waits who could use it, and what is declared can do without it. Each is off where the settings
say 0. Which engine runs where is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from logos.domain.lifecycle import EngineState
from logos.domain.nouns import Node
from logos.scheduling.capacity import replicas_wanted
from logos.scheduling.commands import ReleaseNode, RequestNodes
from logos.scheduling.events import Request
from logos.scheduling.nodes import Engine, NodeState
from logos.scheduling.places import EndpointState
from logos.scheduling.state import State
from logos.scheduling.timers import Timer
from logos.scheduling.transitions import Transitions, spec_of

OVERDUE_FACTOR = 2.0  # a node will not come any more after so many times what one takes


@dataclass(slots=True)
class Asked:
    """A node was asked for at `at`; what waits for it has chosen with that in view when memory had moved so often."""

    at: float
    memory_moves: int


class Scaling:
    """Watches how long requests wait and how long nodes idle."""

    def __init__(self, state: State, transitions: Transitions) -> None:
        self._state = state
        self._transitions = transitions
        self._asked_at: dict[int, float] = {}  # by endpoint: the last time
        self._awaited: dict[int, Asked] = {}  # of those for which none has come since
        self._timers: dict[int | str, Timer] = {}  # by endpoint, or by node

    def attend(self, endpoint: EndpointState) -> None:
        """Something changed at a pooled endpoint."""
        asked = self._awaited.get(endpoint.endpoint.id)
        if asked is not None:
            asked.memory_moves = self._state.memory_moves
        if endpoint.queue and self._state.settings.request_nodes_after_s > 0 and self._wants_more(endpoint):
            self._ask_if_late(endpoint)
        if self._state.settings.release_node_after_s > 0:
            for node in self._state.pool(endpoint):
                self._release_if_idle(node)

    def came(self, node: Node) -> None:
        """One that was not there: who first asked for one like it awaits none any more."""
        arrived = NodeState(node)
        for endpoint_id in self._awaited:  # in the order of asking
            endpoint = self._state.endpoints.get(endpoint_id)
            if endpoint is None or not endpoint.is_pooled or endpoint.endpoint.provider_id != node.provider_id:
                continue
            if arrived.could_fit(spec_of(endpoint)):
                del self._awaited[endpoint_id]
                return

    def reconsider(self) -> None:
        """A node has come, or other models are declared: perhaps one is not needed."""
        if self._state.settings.release_node_after_s > 0 and not self._state.is_reconvening:
            for node_id in self._state.nodes:
                self._node_due(node_id)

    def node_in_s(self, endpoint: EndpointState) -> float | None:
        """When the node should be there that is asked for because none that is there could hold an engine of it.
        None: one could, or nobody adds nodes."""
        arrival_s, now = self._state.settings.node_arrival_s, self._state.now
        if not self._adds_nodes or not self._lacks_node(endpoint):
            return None
        asked = self._awaited.get(endpoint.endpoint.id)
        comes_at = now if asked is None else asked.at + arrival_s
        return comes_at - now if comes_at > now else arrival_s

    def is_awaited(self, endpoint: EndpointState) -> bool:
        """Such a node has been asked for, and what waits there has chosen to wait for it."""
        asked = self._awaited.get(endpoint.endpoint.id)
        if asked is None or asked.memory_moves != self._state.memory_moves:
            return False
        return self.node_in_s(endpoint) is not None

    def turned_away(self, request: Request) -> float | None:
        """It has no place to wait at. Where a node is what it would have needed, that is asked for all the same, for
        those who come next. Returns when it should be there."""
        endpoints = (self._state.endpoints.get(each.endpoint_id) for each in request.candidates)
        endpoint = next((each for each in endpoints if each is not None and self._lacks_node(each)), None)
        if endpoint is None:
            return None
        may_ask_from = max(self._grace_ends, self._may_ask_from(endpoint))
        if self._state.settings.request_nodes_after_s > 0 and self._state.now >= may_ask_from:
            self._ask(endpoint, "no node that is there could hold it")
        return self.node_in_s(endpoint)

    # Inside: asking.

    @property
    def _adds_nodes(self) -> bool:
        return self._state.settings.request_nodes_after_s > 0 and self._state.settings.node_arrival_s > 0

    @property
    def _grace_ends(self) -> float:
        """Until then nodes that are there may introduce themselves."""
        return (self._state.started_at or 0.0) + self._state.settings.node_grace_s

    def _lacks_node(self, endpoint: EndpointState) -> bool:
        """No node that is there could ever hold an engine of it."""
        if not endpoint.is_pooled or endpoint.is_removed:
            return False
        return not any(node.could_fit(spec_of(endpoint)) for node in self._state.pool(endpoint))

    def _may_ask_from(self, endpoint: EndpointState) -> float:
        """Not while what was asked for may still come, and not too often."""
        settings, endpoint_id = self._state.settings, endpoint.endpoint.id
        again_at = self._asked_at.get(endpoint_id, float("-inf")) + settings.request_nodes_interval_s
        asked = self._awaited.get(endpoint_id)
        return again_at if asked is None else max(again_at, asked.at + OVERDUE_FACTOR * settings.node_arrival_s)

    def _wants_more(self, endpoint: EndpointState) -> bool:
        """It would have more engines if there were room, and none is coming that what waits could wait for."""
        if endpoint.live >= replicas_wanted(endpoint):
            return False
        return not any(engine.is_on_its_way for engine in endpoint.engines.values())

    def _ask_if_late(self, endpoint: EndpointState) -> None:
        state, endpoint_id = self._state, endpoint.endpoint.id
        oldest = endpoint.queue.oldest()
        assert oldest is not None
        late_at = oldest.arrived_at + state.settings.request_nodes_after_s
        due = max(self._grace_ends if self._lacks_node(endpoint) else late_at, self._may_ask_from(endpoint))
        if state.now >= due:
            self._ask(endpoint, f"{len(endpoint.queue)} waiting, the first for {state.now - oldest.arrived_at:.0f} s")
            due = self._may_ask_from(endpoint)
        self._look_again(due, endpoint_id, partial(self._endpoint_due, endpoint_id))

    def _ask(self, endpoint: EndpointState, why: str) -> None:
        state, spec, endpoint_id = self._state, spec_of(endpoint), endpoint.endpoint.id
        self._asked_at[endpoint_id] = state.now
        self._awaited.pop(endpoint_id, None)
        self._awaited[endpoint_id] = Asked(state.now, state.memory_moves)
        state.commands.append(RequestNodes(spec.gpus, spec.memory_per_gpu_mib, f"{endpoint.model_name}: {why}"))

    # Inside: giving back.

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
            self._release(node)

    def _release(self, node: NodeState) -> None:
        """Engines that idle there take nothing more."""
        node.is_released = True
        for engine in list(node.engines.values()):
            if engine.state is EngineState.AWAKE:
                self._transitions.stop(engine)
        self._state.commands.append(ReleaseNode(node.node.id))

    def _is_claimed(self, node: NodeState) -> bool:
        return any(claim.node is node for claim in self._state.claims.values())

    def _is_idle(self, engine_id: str) -> bool:
        engine = self._state.engines[engine_id]
        return self._transitions.is_drained(engine) and not (engine.is_on_its_way or self._is_kept(engine))

    def _is_kept(self, engine: Engine) -> bool:
        """It is pinned, or without its node fewer would serve than shall."""
        owner = self._state.endpoints[engine.endpoint_id]
        spec = owner.endpoint.engine
        if spec is None or not (spec.pinned or spec.min_replicas > 0):
            return False
        elsewhere = sum(each.is_live and each.node_id != engine.node_id for each in owner.engines.values())
        return spec.pinned or elsewhere < spec.min_replicas

    def _is_spare(self, node: NodeState) -> bool:
        """Not the last one of its pool, nor the last one for a model that could not have it back when it is asked for,
        or that waits for room."""
        provider_id = node.node.provider_id
        pool = [each for each in self._state.nodes.values() if each.node.provider_id == provider_id]
        others = [each for each in pool if each is not node and not each.is_released]
        return bool(others) and not any(
            self._needs(endpoint, node, others)
            for endpoint in self._state.endpoints.values()
            if endpoint.is_pooled and not endpoint.is_removed and endpoint.endpoint.provider_id == provider_id
        )

    def _needs(self, endpoint: EndpointState, node: NodeState, others: list[NodeState]) -> bool:
        spec = spec_of(endpoint)
        if not node.could_fit(spec):
            return False
        if endpoint.queue and not endpoint.live:
            return True
        may_return = self._adds_nodes and not (spec.pinned or spec.min_replicas > 0)
        return not may_return and not any(other.could_fit(spec) for other in others)

    # Inside: looking again.

    def _endpoint_due(self, endpoint_id: int) -> None:
        """Looked at without touching it: nothing has changed there."""
        endpoint = self._state.endpoints.get(endpoint_id)
        if endpoint is not None and endpoint.is_pooled:
            self.attend(endpoint)

    def _node_due(self, node_id: str) -> None:
        node = self._state.nodes.get(node_id)
        if node is None:
            self._timers.pop(node_id, None)
        elif not node.is_released:
            self._release_if_idle(node)

    def _look_again(self, at: float, who: int | str, action: Callable[[], None]) -> None:
        timer = self._timers.get(who)
        if timer is None or not timer.is_pending or timer.at > at:
            self._state.timers.cancel(timer)
            self._timers[who] = self._state.timers.add(at, action)
