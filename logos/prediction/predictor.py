"""The predictor: what a request would meet at each of its candidates, learned online from what others met there.

One object with everything that is learned, written down as one frozen value. It decides nothing, reads no clock and
forgets what it is told to; its memory is bounded for each endpoint, and the number of keys and nodes is, too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from logos.domain.nouns import EngineSpec, Node
from logos.prediction.lengths import AnswerLengths, AnswersSnapshot
from logos.prediction.pace import Company, Forecast, Pace, PaceSnapshot, Situation
from logos.prediction.priors import Size
from logos.prediction.service import Transition
from logos.prediction.spans import Span
from logos.prediction.transitions import TransitionSnapshot, TransitionTimes

REMOTE = Size()


@dataclass(frozen=True, slots=True)
class PredictorSnapshot:
    """Everything that was learned: part of a journal's opening. Numbers, strings, None and tuples only."""

    paces: tuple[PaceSnapshot, ...] = ()
    answers: tuple[AnswersSnapshot, ...] = ()
    transitions: tuple[TransitionSnapshot, ...] = ()


class Predictor:
    """Forecasts as quantiles, per endpoint, with a prior from its size for what nobody has seen yet.

    What it is told may be nonsense (negative, infinite, not a number): it is ignored. What it is asked about may be,
    too: every forecast is finite, not negative, and its 0.9 quantile not below its median.
    """

    def __init__(self, snapshot: PredictorSnapshot | None = None) -> None:
        known = snapshot or PredictorSnapshot()
        self._paces = {each.endpoint_id: Pace(Size(each.memory_gib, each.weights_gib), each) for each in known.paces}
        self._transitions = TransitionTimes(known.transitions)
        self.answers = AnswerLengths(known.answers)

    def introduce(self, endpoint_id: int, spec: EngineSpec | None) -> None:
        """Says what serves there: engines of this spec, or (None) a remote API. What was learned of another size is
        forgotten; saying the same again changes nothing."""
        size = Size.of(spec)
        known = self._paces.get(endpoint_id)
        if known is None or known.size != size:
            self.forget(endpoint_id)
            self._paces[endpoint_id] = Pace(size)
        self._transitions.declare(endpoint_id, spec)

    def introduce_node(self, node: Node) -> None:
        """Says what a node says of itself."""
        self._transitions.declare(node.id, node)

    def forget_node(self, node_id: str) -> None:
        """The node is gone; what was seen there is kept for its return."""
        self._transitions.declare(node_id, None)

    def forget(self, endpoint_id: int) -> None:
        """The endpoint is gone for good."""
        self._paces.pop(endpoint_id, None)
        self._transitions.forget(endpoint_id)

    def forecast(self, endpoint_id: int, met: Situation) -> Forecast:
        """Of a request that meets this situation there."""
        return self._pace(endpoint_id).forecast(met)

    def score(self, situations: Iterable[tuple[int, Situation]]) -> list[Forecast]:
        """One forecast for each (endpoint id, what the request would meet there), in order."""
        paces = self._paces
        return [(paces.get(endpoint_id) or self._pace(endpoint_id)).forecast(met) for endpoint_id, met in situations]

    def transition(self, endpoint_id: int, node_id: str, transition: Transition) -> Span:
        """Seconds that this transition of one of its engines takes there, from beginning to end."""
        return self._transitions.span(endpoint_id, self._pace(endpoint_id).size, node_id, transition)

    def prompt_token_s(self, endpoint_id: int) -> float:
        """Seconds that its engines take for one more prompt token, at the median."""
        return self._pace(endpoint_id).prompt_cost_s[0]

    def prompt_cost_s(self, endpoint_id: int) -> tuple[float, float]:
        """Seconds for one more prompt token, and for two that attend to each other: what a `Backlog` asks for."""
        return self._pace(endpoint_id).prompt_cost_s

    def tpot(self, endpoint_id: int, running: int, neighbours: int = 0) -> Span:
        """Seconds from token to token with `running` in the batch, and requests in other engines on the same GPUs."""
        return self._pace(endpoint_id).tpot(max(running, 1), neighbours)

    def stay(self, endpoint_id: int, tokens: Span, running: int) -> Span:
        """Seconds that so many more tokens take with `running` in the batch: how long until a request has drained."""
        low, high = self._pace(endpoint_id).tpot(max(running, 1))
        return Span(tokens.p50 * low, max(tokens.p90 * low, tokens.p50 * high))

    def observe_first_token(self, endpoint_id: int, met: Situation, ttft_s: float) -> None:
        """The first token came `ttft_s` seconds after the request met that situation: when it was dispatched, or when
        it joined the queue. Situations with a delay teach nothing about the pace and are ignored."""
        self._pace(endpoint_id).learn_first(met, ttft_s)

    def observe_finished(
        self,
        endpoint_id: int,
        met: Situation,
        tokens: int,
        ttft_s: float,
        total_s: float,
        company: Company | None = None,
    ) -> None:
        """A whole answer of so many tokens. Times are since its dispatch to the engine, when it met that situation.
        `company` is what ran beside it; None: as much as at its dispatch. Its length is told to `answers.observe`."""
        if company is None:
            company = Company(met.running + 1.0, 1.0 if met.neighbours else 0.0)
        self._pace(endpoint_id).learn_rest(tokens, ttft_s, total_s, company)

    def observe_transition(self, endpoint_id: int, node_id: str, transition: Transition, seconds: float) -> None:
        """A transition ended well."""
        size = self._pace(endpoint_id).size
        self._transitions.observe(endpoint_id, size, node_id, transition, seconds)

    def snapshot(self) -> PredictorSnapshot:
        """What `Predictor(snapshot)` goes on from, with identical forecasts."""
        paces = tuple(pace.snapshot(endpoint_id) for endpoint_id, pace in self._paces.items())
        return PredictorSnapshot(paces, self.answers.snapshot(), self._transitions.snapshot())

    def _pace(self, endpoint_id: int) -> Pace:
        known = self._paces.get(endpoint_id)
        if known is None:
            known = self._paces[endpoint_id] = Pace(REMOTE)
        return known
