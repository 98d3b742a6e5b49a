"""How long engines take to load, wake, sleep and stop: per endpoint, node and transition, by quantile.

What was never seen is inferred: from the same endpoint on another node, else from what is declared of it or of the
node, else from the prior of its size times how transitions on this node, or on any, have compared with theirs. Which
transition is wanted is decided in the scheduling room.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from logos.domain.nouns import EngineSpec, Node
from logos.prediction import priors
from logos.prediction.priors import Size
from logos.prediction.service import ObservedQuantiles, Transition
from logos.prediction.spans import COVERAGE, Span, is_sensible

KINDS_MAX = 4096  # (endpoint, node, transition) and what sums them up; the least recently used go
SPREAD = 1.3  # the 0.9 quantile over the median while few were seen ...
SPREAD_WEIGHT = 4  # ... and how many observations that is worth
RATIO_MAX = 1e4  # how many times the prior a transition may take

LOAD, WAKE, SLEEP = Transition.LOAD, Transition.WAKE, Transition.SLEEP
NOTHING: Mapping[Transition, float] = {}

Kind = tuple[int | None, str | None, Transition]  # None: any


@dataclass(frozen=True, slots=True)
class TransitionSnapshot:
    """The last times of one kind of transition, oldest first, as multiples of their priors. None: any."""

    endpoint_id: int | None
    node_id: str | None
    transition: Transition
    ratios: tuple[float, ...]


class TransitionTimes:
    """Times observed, as multiples of what the engine's size would have made us expect."""

    def __init__(self, snapshot: tuple[TransitionSnapshot, ...] = ()) -> None:
        self._seen: OrderedDict[Kind, ObservedQuantiles] = OrderedDict(
            ((each.endpoint_id, each.node_id, each.transition), ObservedQuantiles(each.ratios)) for each in snapshot
        )
        self._declared: dict[int | str, dict[Transition, float]] = {}  # by endpoint or node

    def observe(self, endpoint_id: int, size: Size, node_id: str, transition: Transition, seconds: float) -> None:
        """One has ended well. Ignored if it cannot have taken so long."""
        ratio = seconds / priors.transition_s(size, transition).p50
        if not is_sensible(seconds) or not ratio <= RATIO_MAX:
            return
        for kind in _kinds(endpoint_id, node_id, transition):
            known = self._seen.setdefault(kind, ObservedQuantiles())
            known.add(ratio)
            self._seen.move_to_end(kind)
        while len(self._seen) > KINDS_MAX:
            self._seen.popitem(last=False)

    def span(self, endpoint_id: int, size: Size, node_id: str, transition: Transition) -> Span:
        """Seconds from its beginning to its end."""
        prior = priors.transition_s(size, transition)
        *own, on_node, anywhere = _kinds(endpoint_id, node_id, transition)
        ratios = self._first_seen(own)
        if ratios is not None:
            return _scaled(prior, ratios, is_own=True)
        for whose in (endpoint_id, node_id):
            declared_s = self._declared.get(whose, NOTHING).get(transition)
            if declared_s is not None:
                return Span(declared_s, declared_s * priors.TRANSITION_P90)
        ratios = self._first_seen((on_node, anywhere))
        return prior if ratios is None else _scaled(prior, ratios, is_own=False)

    def declare(self, whose: int | str, said: EngineSpec | Node | None) -> None:
        """What is said of the transitions of an endpoint's engines, or of engines on a node; None: nothing is."""
        times = {} if said is None else {LOAD: said.load_s, WAKE: said.wake_s, SLEEP: said.sleep_s}
        known = {each: seconds for each, seconds in times.items() if seconds is not None and is_sensible(seconds)}
        self._declared.pop(whose, None)
        if known:
            self._declared[whose] = known

    def forget(self, endpoint_id: int) -> None:
        self._declared.pop(endpoint_id, None)
        for kind in [kind for kind in self._seen if kind[0] == endpoint_id]:
            del self._seen[kind]

    def snapshot(self) -> tuple[TransitionSnapshot, ...]:
        return tuple(TransitionSnapshot(*kind, ratios.values) for kind, ratios in self._seen.items())

    def _first_seen(self, kinds: Iterable[Kind]) -> ObservedQuantiles | None:
        return next((seen for kind in kinds if (seen := self._seen.get(kind)) is not None), None)


def _kinds(endpoint_id: int, node_id: str, transition: Transition) -> tuple[Kind, ...]:
    """From what says most about a transition to what says least."""
    return (
        (endpoint_id, node_id, transition),
        (endpoint_id, None, transition),
        (None, node_id, transition),
        (None, None, transition),
    )


def _scaled(prior: Span, ratios: ObservedQuantiles, *, is_own: bool) -> Span:
    """The prior times what was seen. While that is little, and for other engines always, not all has been seen."""
    p50, p90 = ratios.quantile(0.5) or 0.0, ratios.quantile(COVERAGE) or 0.0
    seen = len(ratios.values) if is_own else 0
    doubt = SPREAD_WEIGHT / (SPREAD_WEIGHT + seen)
    return Span(prior.p50 * p50, prior.p50 * max(p90, p50 * (1.0 + doubt * (SPREAD - 1.0))))
