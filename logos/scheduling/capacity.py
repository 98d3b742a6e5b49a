"""Which engines shall be there: the one place where models come to GPUs of their own accord.

An engine comes when requests wait for its endpoint and a node has room, more of them when more waits than they take at
once, and `min_replicas` always. Where there is no room the rules of swapping decide whether somebody makes it. Nothing
that runs is cut. What became of engines is taken in by `engines`; which request goes where is decided in `placement`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from logos.domain.lifecycle import EngineState
from logos.prediction.service import Transition
from logos.scheduling.nodes import Engine, Fit, NodeState, does_not_fit_message, need_message
from logos.scheduling.places import EndpointState
from logos.scheduling.state import State
from logos.scheduling.swapping import Claims, SwapRules
from logos.scheduling.timers import Timer
from logos.scheduling.transitions import Transitions, spec_of

HOLDERS_NAMED_MAX = 5


class Refusal(NamedTuple):
    """Why nothing will come of it: the fields of a Reject."""

    code: str
    message: str
    retry_after_s: float | None = None


class Outlook(NamedTuple):
    """What an endpoint without a live engine can hope for: room now (an engine to wake, or a place for a new one), room
    that must be made or is on its way (`memory_is_short`), news that is awaited (all empty), or nothing (a refusal)."""

    sleeper: Engine | None = None
    fit: Fit | None = None
    refusal: Refusal | None = None
    memory_is_short: bool = False  # room has to be made first
    neighbour_is_idle: bool = False  # and somebody is there who does nothing
    claimable: bool = False  # and it may be asked for


class Capacity:
    """Brings engines, and says what can be hoped for."""

    def __init__(self, state: State, transitions: Transitions, claims: Claims, rules: SwapRules) -> None:
        self._state = state
        self._transitions = transitions
        self._claims = claims
        self._rules = rules
        self._grace: Timer | None = None

    # What could be.

    def outlook(self, endpoint: EndpointState) -> Outlook:
        """What a pooled endpoint without a live engine can hope for. O(nodes and engines of its pool)."""
        spec = spec_of(endpoint)
        if self._state.is_reconvening:
            return Outlook()
        nodes = self._state.pool(endpoint)
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
        sleeper, fit = self._room(endpoint)
        if sleeper is not None or fit is not None:
            return Outlook(sleeper, fit)
        if endpoint.is_falling_asleep:
            return Outlook(memory_is_short=True, neighbour_is_idle=True)
        return self._outlook_without_room(endpoint, nodes)

    # What shall be.

    def provide(self, endpoint: EndpointState) -> Refusal | None:
        """Brings the engines that are wanted there now; a refusal if requests wait and none can come."""
        if not endpoint.is_pooled:
            return None
        while True:
            live = endpoint.live
            if live >= replicas_wanted(endpoint):
                return None
            if live or not endpoint.queue:
                if not self._bring_if_room(endpoint):
                    return None
                continue
            if endpoint.is_contested or endpoint.endpoint.id in self._state.claims:
                if not self._bring_in_spite_of_claims(endpoint):
                    return None
                continue
            outlook = self.outlook(endpoint)
            if self._bring(endpoint, outlook):
                continue
            if outlook.claimable:
                self._rules.wanted(endpoint)
            return outlook.refusal

    def attend(self, endpoint: EndpointState) -> None:
        """What its engines do about it: claims go on, what has drained leaves, of an endpoint that is removed or not
        pooled any more everything. Nothing while gateways may still say what runs there."""
        if self._state.is_reconvening:
            return
        if self._state.has_catalogue and (endpoint.is_removed or not endpoint.is_pooled):
            self._dismiss(endpoint)
            return
        for claim in self._claims.concerning(endpoint):
            self._claims.advance(claim)
        if endpoint.is_draining:
            for engine in endpoint.engines.values():
                if engine.claimed_by is None:
                    self._transitions.reopen(engine)  # its endpoint had left the catalogue, and is back
        self._rules.attend(endpoint)

    def withdraw_claims(self, endpoint: EndpointState) -> None:
        """It claims nothing more, and nobody claims its engines."""
        for claim in self._claims.concerning(endpoint):
            self._claims.withdraw(claim)

    def reconsider(self) -> None:
        """Memory or a node has come or gone: who waits is looked at again, who waits longest first. Nobody makes room
        while gateways may still say what runs there."""
        self._state.memory_moves += 1
        wanting = [each for each in self._state.endpoints.values() if each.is_pooled and each.wants_engines]
        for claim in list(self._state.claims.values()):
            self._claims.advance(claim)
        for endpoint in sorted(wanting, key=_waits_since):
            self._state.touch(endpoint.endpoint.id)
        if not self._state.is_reconvening:
            self._rules.moved()

    def load_s(self, endpoint: EndpointState) -> float:
        """How long an engine of it takes to come: as measured, or the prior."""
        measured = self._state.service.transition_s(endpoint.endpoint.id, Transition.LOAD)
        return self._state.settings.load_prior_s if measured is None else measured

    # Inside: how many, and where.

    def _bring_if_room(self, endpoint: EndpointState) -> bool:
        if self._state.now < endpoint.loading.retry_at:
            return False
        return self._bring(endpoint, Outlook(*self._room(endpoint)))

    def _bring_in_spite_of_claims(self, endpoint: EndpointState) -> bool:
        """Room has come up where nobody need make any: its own claim is over, unless all that it waits for is leaving
        already, and what waits for a victim is served elsewhere."""
        claim = self._state.claims.get(endpoint.endpoint.id)
        if self._state.now < endpoint.loading.retry_at or (claim is not None and claim.is_nearly_over):
            return False
        outlook = Outlook(*self._room_beside_claims(endpoint))
        if claim is not None and (outlook.sleeper is not None or outlook.fit is not None):
            self._claims.withdraw(claim)
        return self._bring(endpoint, outlook)

    def _bring(self, endpoint: EndpointState, outlook: Outlook) -> bool:
        """Wakes an engine whose GPUs have room for it again, or else loads one where it fits."""
        if outlook.sleeper is not None:
            self._transitions.wake(outlook.sleeper)
        elif outlook.fit is not None:
            self._transitions.load(endpoint, outlook.fit)
        else:
            return False
        return True

    def _room(self, endpoint: EndpointState) -> tuple[Engine | None, Fit | None]:
        """An engine that can wake, or else where a new one fits. One that is only just falling asleep is waited for:
        it will be back before another is loaded. Where there was no room there is none until memory has moved."""
        if endpoint.no_room_since == self._state.memory_moves:
            return None, None
        sleeper = self._sleeper(endpoint)
        if sleeper is not None or endpoint.is_falling_asleep:
            return sleeper, None
        fit = self._best_fit(endpoint, self._state.pool(endpoint))
        if fit is None:
            endpoint.no_room_since = self._state.memory_moves
        return None, fit

    def _room_beside_claims(self, endpoint: EndpointState) -> tuple[Engine | None, Fit | None]:
        """The same, but not on nodes where engines of it are asked to make room: it would only be asked again."""
        sleeper, fit = self._room(endpoint)
        if not endpoint.is_contested or (sleeper is None and fit is None):
            return sleeper, fit
        contested = {engine.node_id for engine in endpoint.engines.values() if engine.claimed_by is not None}
        nodes = [node for node in self._state.pool(endpoint) if node.node.id not in contested]
        sleeper = self._sleeper(endpoint, without=contested)
        return sleeper, None if sleeper is not None else self._best_fit(endpoint, nodes)

    def _sleeper(self, endpoint: EndpointState, without: Collection[str] = ()) -> Engine | None:
        """One that can wake; not on the nodes `without`."""
        asleep = (each for each in endpoint.engines.values() if each.state is EngineState.ASLEEP)
        found = (each for each in asleep if each.node_id not in without)
        return next((each for each in found if self._state.nodes[each.node_id].has_room_for(each)), None)

    def _best_fit(self, endpoint: EndpointState, nodes: Sequence[NodeState]) -> Fit | None:
        """Where least memory would be left over; not where it failed last, if it can be helped."""
        spec, endpoint_id = spec_of(endpoint), endpoint.endpoint.id
        fits = [fit for node in nodes if node.may_fit(spec) and (fit := node.fit(spec, endpoint_id)) is not None]
        failed_at = endpoint.loading.node_id if endpoint.loading.failures else None
        return min(fits, key=lambda fit: (fit.node_id == failed_at, fit.left_mib), default=None)

    def _dismiss(self, endpoint: EndpointState) -> None:
        """No engines are wanted there any more: what still runs ends, then they do."""
        self.withdraw_claims(endpoint)
        for engine in list(endpoint.engines.values()):
            if engine.state in {EngineState.ASLEEP, EngineState.LOADING}:
                self._transitions.stop(engine)
            elif engine.state in {EngineState.AWAKE, EngineState.DRAINING}:
                self._transitions.drain(engine)
                if self._transitions.is_drained(engine):
                    self._transitions.stop(engine)

    # Inside: what to hope for.

    def _outlook_without_nodes(self) -> Outlook:
        state = self._state
        grace_ends = (state.started_at or 0.0) + state.settings.node_grace_s
        if state.now >= grace_ends:
            return Outlook(refusal=Refusal("no_capacity", "no GPU node is there to run it", 30.0))
        if self._grace is None:
            self._grace = state.timers.add(grace_ends, self.reconsider)
        return Outlook()

    def _outlook_without_room(self, endpoint: EndpointState, nodes: Sequence[NodeState]) -> Outlook:
        joining = Outlook(memory_is_short=True, neighbour_is_idle=True)
        if any(self._will_have_room(endpoint, node, dismissed=False) for node in nodes):
            return joining
        options = list(self._claims.options(endpoint, _engine_id))
        if options:
            idle = any(self._is_idle(victim) for option in options for victim in option.victims)
            return Outlook(memory_is_short=True, neighbour_is_idle=idle, claimable=True)
        if any(self._will_have_room(endpoint, node, dismissed=True) for node in nodes):
            return joining
        if any(self._claims.is_busy(node) or node.has_stuck for node in nodes):
            return Outlook(memory_is_short=True)  # who comes now may be asked to go again, who is stuck may yet go
        return Outlook(refusal=self._memory_is_held(endpoint, nodes), memory_is_short=True)

    def _will_have_room(self, endpoint: EndpointState, node: NodeState, *, dismissed: bool) -> bool:
        """Once those have left that leave, and whom they make room for has come; the `dismissed` among them or not:
        these may take as long as they like."""
        endpoint_id, engines = endpoint.endpoint.id, node.engines.values()
        leaving = [each for each in engines if each.is_leaving and (dismissed or not each.is_dismissed)]
        claimed = self._claims.unsettled(node, endpoint)
        asleep = (each for each in endpoint.engines.values() if each.state is EngineState.ASLEEP)
        sleeper = next((each for each in asleep if each.node_id == node.node.id), None)
        if sleeper is None:
            return node.fit(spec_of(endpoint), endpoint_id, without=leaving, besides=claimed) is not None
        free = node.free_mib(endpoint_id, without=[*leaving, sleeper], besides=claimed)
        return all(free.get(index, -1) >= sleeper.memory_per_gpu_mib for index in sleeper.gpu_indices)

    def _is_idle(self, engine: Engine) -> bool:
        place = self._transitions.place_of(engine)
        return place is None or not place.running

    def _memory_is_held(self, endpoint: EndpointState, nodes: Sequence[NodeState]) -> Refusal:
        """Names the models whose engines are in the way. Retry when one request of theirs is through, and a load."""
        holders: dict[int, int] = {}
        for node in nodes:
            for engine in node.engines.values():
                place = self._transitions.place_of(engine)
                running = len(place.running) if place is not None else 0
                holders[engine.endpoint_id] = holders.get(engine.endpoint_id, 0) + running
        named = [self._holder(endpoint_id, running) for endpoint_id, running in holders.items()]
        shown = named[:HOLDERS_NAMED_MAX]
        if len(named) > len(shown):
            shown.append(f"{len(named) - len(shown)} more")
        wait_s = min((self._state.service_s(holder) for holder in holders), default=0.0)
        message = f"{need_message(spec_of(endpoint))}; the memory is held by {', '.join(shown)}"
        return Refusal("no_capacity", message, wait_s + self.load_s(endpoint))

    def _holder(self, endpoint_id: int, running: int) -> str:
        return f"{self._state.endpoints[endpoint_id].model_name} ({running} running)"


def replicas_wanted(endpoint: EndpointState) -> int:
    """The minimum, one for who waits, one more if more waits than the live ones take at once."""
    spec, waiting = spec_of(endpoint), len(endpoint.queue)
    wanted = spec.min_replicas
    if waiting and waiting > endpoint.live * endpoint.capacity_per_place:
        wanted = max(wanted, min(endpoint.live + 1, max(spec.max_replicas, 1)))
    return wanted


def _engine_id(engine: Engine) -> str:
    return engine.engine_id


def _waits_since(endpoint: EndpointState) -> float:
    oldest = endpoint.queue.oldest()
    return float("inf") if oldest is None else oldest.arrived_at
