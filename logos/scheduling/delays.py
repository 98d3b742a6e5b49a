"""What must pass before a pooled endpoint can begin with a request at all: loads, wakes, and others making room; and
what that would cost those others.

Estimates for placing and for Retry-After, from the books and the predictor. Nothing is decided here.
"""

from __future__ import annotations

from logos.domain.lifecycle import EngineState
from logos.prediction.service import Transition
from logos.prediction.spans import AT_ONCE, Span
from logos.scheduling.capacity import Outlook
from logos.scheduling.drains import Drains
from logos.scheduling.nodes import Engine
from logos.scheduling.places import EndpointState
from logos.scheduling.state import State
from logos.scheduling.swapping import Claim, Claims

ON_THE_WAY = {EngineState.LOADING: Transition.LOAD, EngineState.WAKING: Transition.WAKE}
UNKNOWN_UPPER = 2.0  # the 0.9 quantile of what depends on others, as a multiple of the median


class Delays:
    """Until an endpoint serves."""

    def __init__(self, state: State, claims: Claims) -> None:
        self._state = state
        self._claims = claims
        self._drains = Drains(state)

    def until_served(self, endpoint: EndpointState, outlook: Outlook | None) -> Span:
        """Seconds. `outlook` is that of an endpoint without a live engine; None for one that has one."""
        if endpoint.is_open:
            return AT_ONCE
        coming = [self._rest(engine) for engine in endpoint.engines.values() if engine.state in ON_THE_WAY]
        if coming:
            return min(coming)
        if outlook is not None and outlook.sleeper is not None:
            return self._transition(outlook.sleeper, Transition.WAKE)
        if outlook is not None and outlook.fit is not None:
            return self._state.predictor.transition(endpoint.endpoint.id, outlook.fit.node_id, Transition.LOAD)
        claim = self._state.claims.get(endpoint.endpoint.id)
        if claim is None and outlook is not None and outlook.claimable:
            claim = next(self._claims.options(endpoint, _engine_id), None)
        return self._over(claim) if claim is not None else self._turn(endpoint)

    def displaced_s(self, endpoint: EndpointState, outlook: Outlook | None) -> float:
        """What other models' requests would wait longer, all together, if others had to make room for it: those that
        come for them while they are out, each the way back."""
        if outlook is None or not outlook.claimable:
            return 0.0
        claim = next(self._claims.options(endpoint, _engine_id), None)
        return sum(self._misses_s(victim, claim) for victim in claim.victims) if claim is not None else 0.0

    # Inside.

    def _misses_s(self, victim: Engine, claim: Claim) -> float:
        """Of one victim."""
        owner, predictor = self._state.endpoints[victim.endpoint_id], self._state.predictor
        coming = Transition.LOAD if claim.sleeper is None else Transition.WAKE
        returning = Transition.LOAD if claim.is_for_good else Transition.WAKE
        there_s = predictor.transition(claim.endpoint_id, claim.node.node.id, coming).p50
        sleep_s = predictor.transition(claim.endpoint_id, claim.node.node.id, Transition.SLEEP).p50
        back_s = sleep_s + self._transition(victim, returning).p50
        arrivals_per_s = owner.demand.per_s(self._state.now) / max(owner.awake, 1)
        return arrivals_per_s * (there_s + self._stay_s(claim.endpoint) + back_s) * back_s

    def _stay_s(self, endpoint: EndpointState) -> float:
        """Of one answer, alone."""
        tokens = self._state.predictor.answers.span(endpoint.endpoint.model_id, -1)
        return self._state.predictor.stay(endpoint.endpoint.id, tokens, 1).p50

    def _rest(self, engine: Engine) -> Span:
        return self._transition(engine, ON_THE_WAY[engine.state]).less(self._state.now - engine.since)

    def _over(self, claim: Claim) -> Span:
        """The victims drain together and fall asleep, and the engine comes."""
        serving = [each for each in claim.victims if each.state in {EngineState.AWAKE, EngineState.DRAINING}]
        drain = self._drains.drain(serving, claim.node)
        total = Span(drain.gone_s, drain.gone_s + (UNKNOWN_UPPER - 1.0) * drain.seconds)
        kind = Transition.LOAD if claim.sleeper is None else Transition.WAKE
        return total.then(self._state.predictor.transition(claim.endpoint_id, claim.node.node.id, kind))

    def _turn(self, endpoint: EndpointState) -> Span:
        """Its engine makes room for another, or memory comes free for it some time: once there and back."""
        engine = next(iter(endpoint.engines.values()), None)
        if engine is None:
            wait_s = self._state.settings.load_prior_s
        else:
            ways_s = self._transition(engine, Transition.SLEEP).p50 + self._transition(engine, Transition.WAKE).p50
            wait_s = 2.0 * ways_s + self._stay_s(endpoint)
        return Span(wait_s, wait_s * UNKNOWN_UPPER)

    def _transition(self, engine: Engine, kind: Transition) -> Span:
        return self._state.predictor.transition(engine.endpoint_id, engine.node_id, kind)


def _engine_id(engine: Engine) -> str:
    return engine.engine_id
