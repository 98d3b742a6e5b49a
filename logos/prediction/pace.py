"""How fast one endpoint's engines are: from what a request meets there to its first token, and on to the next ones.

An engine that batches works in steps. What a request waits for is, roughly, the rest of the running step, the prompts
ahead of it, its own prompt, and, where the batch is full, a place in it. Each is one feature of a line that is learned
online (`fit`), so an engine that works otherwise (a remote API, a busy neighbour) only gets other coefficients. This
is no model of an engine: nothing may be shared with `logos.simulation`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from logos.prediction import priors
from logos.prediction.backlog import attention_pairs
from logos.prediction.fit import Features, FitSnapshot, QuantileFit
from logos.prediction.priors import Size
from logos.prediction.slowdown import Slowdown, SlowdownSnapshot
from logos.prediction.spans import AT_ONCE, LONGEST_S, Span, is_sensible

KV_FULL = 0.9  # from here on somebody may have to leave before the next is admitted
SMOOTHING = 0.05  # share of the newest stay in the running average
TOKENS_TYPICAL = 500.0
COUNT_MAX = 1e9  # beyond it, a number of tokens or requests is nonsense
PAIRS_MAX = 1e15
# The features of the line to the first token, in order: a step; the rest of the running one; sequences in the batch;
# prompt tokens to compute, its own and those before it; pairs of these that attend to each other; tokens
# that the prefix cache should hold, and sometimes does not; seconds until the batch has a place; seconds until
# somebody leaves, where the KV cache is nearly full. All of them times the slowdown while a neighbour is busy.
STEP, BATCH, WORK, PAIRS = 0, 2, 3, 4
FIRST_SLOWDOWN_STEP, NEXT_SLOWDOWN_STEP = 0.3, 1.0  # first tokens scatter more
TREND_SMOOTHING = 0.1
DRIFT_STEP = 0.03  # what one observation moves the logarithm at most
DRIFT_KEPT = 0.99  # the line learns the rest
DRIFT_MAX = 2.0
LEARN_ALL = 1_000  # answers of an endpoint
LEARN_ONE_IN = 8  # of those after them ...
TREND_MAX = 0.5  # ... unless, of late, three in four were above the median, or below it
# The regimes: a place in the batch is free; it is, behind prompts in flight; it must become so first.
FREE, BEHIND, QUEUED = 0, 1, 2


class Situation(NamedTuple):
    """What a request meets at an endpoint at one moment. Tokens are prompt tokens; counts are of one engine: where an
    endpoint has several, of the one it would go to.

    `waiting` and `queued_tokens` are of those that go before it and have no place in the batch yet, wherever they
    wait; `prefill_tokens` of those that have one and no first token, which the engine has been at since its
    last first token (or since the first of them came), `prefill_elapsed_s` ago; `prefill_pairs` are the pairs of them
    that attend to each other, which is most of the work where prompts are long. `delay` is what must pass before the
    engine can begin at all: a transition, and the drain and the sleep of whom it replaces.
    """

    prompt_tokens: int
    uncached_tokens: int  # of them, those that no prefix cache is expected to hold
    running: int = 0  # in the batch
    slots: int = 64  # how many the batch takes
    waiting: int = 0
    queued_tokens: int = 0  # uncached
    prefill_tokens: float = 0.0  # uncached
    prefill_elapsed_s: float = 0.0
    kv_usage: float = 0.0  # 0 to 1
    neighbours: int = 0  # running in other engines on the same GPUs
    prefill_pairs: float = 0.0
    delay: Span = AT_ONCE


class Company(NamedTuple):
    """What ran beside a request on average, while it was answered: sequences in its batch, itself included, and the
    busy seconds of all other engines on the same GPUs as a share of the time, 1 at most."""

    batch: float
    beside: float = 0.0


class Forecast(NamedTuple):
    """From the moment of the situation to the first token, in seconds. From there on it is `Pace.tpot`."""

    ttft_p50_s: float
    ttft_p90_s: float


@dataclass(frozen=True, slots=True)
class PaceSnapshot:
    """What is known of one endpoint's pace, written down."""

    endpoint_id: int
    memory_gib: float
    weights_gib: float
    first: FitSnapshot
    next: FitSnapshot
    stay_s: float
    stays: int
    first_slowdown: SlowdownSnapshot
    next_slowdown: SlowdownSnapshot
    drift: float
    trend: float


class Pace:
    """What one endpoint has shown of its pace."""

    __slots__ = (
        "_drift",
        "_factor",
        "_first",
        "_first_slowdown",
        "_next",
        "_next_slowdown",
        "_stay_s",
        "_stays",
        "_trend",
        "size",
    )

    def __init__(self, size: Size, snapshot: PaceSnapshot | None = None) -> None:
        self.size = size
        step, sequence, token = priors.pace(size)
        half = 0.0 if not size.memory_gib else 0.5
        first = (step + sequence, half * step, (1 + half) * sequence, token, 0.0, 0.0, 1.0, 0.0)
        typical = (1.0, 1.0, 8.0, TOKENS_TYPICAL, TOKENS_TYPICAL**2, TOKENS_TYPICAL, step, 10 * step)
        follows = (step if size.memory_gib else priors.REMOTE_TOKEN_S, sequence)
        known = snapshot
        self._first = QuantileFit(first, typical, 3, known.first if known else None)
        self._next = QuantileFit(follows, (1.0, 8.0), 1, known.next if known else None)
        self._stay_s = known.stay_s if known else follows[0] * priors.ANSWER_TOKENS_MAX / 2
        self._stays = known.stays if known else 0
        # Prompts are bound by computing and tokens by memory: a neighbour need not slow them alike.
        self._first_slowdown = Slowdown(FIRST_SLOWDOWN_STEP, known.first_slowdown if known else None)
        self._next_slowdown = Slowdown(NEXT_SLOWDOWN_STEP, known.next_slowdown if known else None)
        # How much slower everything is than the line says, as a logarithm, and whether it has been, lately (-1 to 1).
        self._drift = known.drift if known else 0.0
        self._trend = known.trend if known else 0.0
        self._factor = math.exp(self._drift)

    def forecast(self, situation: Situation) -> Forecast:
        """Nonsense in the situation never raises: what cannot be believed counts as nothing, or as very much."""
        x, regime = self._features(situation)
        p50, p90 = self._first_token(situation, x, regime)
        if not (0.0 <= p50 <= p90 <= LONGEST_S and x[BATCH] >= 0.0):
            situation = _believable(situation)
            x, regime = self._features(situation)
            p50, p90 = self._first_token(situation, x, regime)
            # What is done already is taken off what there was to do, and rounding can leave less than nothing of it.
            p50 = min(max(0.0, p50), LONGEST_S)
            p90 = min(max(p50, p90), LONGEST_S)
        return Forecast(p50, p90)

    @property
    def prompt_cost_s(self) -> tuple[float, float]:
        """Of one more prompt token, and of two that attend to each other."""
        p50 = self._first.quantiles(FREE).p50
        return self._factor * p50[WORK], self._factor * p50[PAIRS]

    def tpot(self, running: int, neighbours: int = 0) -> Span:
        """Seconds from token to token of one of `running` in the batch, beside busy engines or not."""
        p50, p90 = self._next.at((1.0, running))
        slow = self._next_slowdown.factor if neighbours else 1.0
        return Span(slow * p50, slow * p90)

    def learn_first(self, situation: Situation, ttft_s: float) -> None:
        """A first token came `ttft_s` after that situation. Ignored if it cannot be, or if the request met a delay."""
        if not (is_sensible(ttft_s) and situation.delay == AT_ONCE and _is_believable(situation)):
            return
        x, regime = self._features(situation)
        if situation.prefill_elapsed_s:
            ttft_s += self._done_s(situation, x, regime)[0]
        y = ttft_s / self._factor
        expected = self._first.median(x, regime)
        if self._is_worth_learning:
            self._first.learn(x, y, regime)
        self._first_slowdown.learn(1.0 if situation.neighbours else 0.0, y, expected)
        side = 1.0 if y > expected else -1.0
        self._trend += TREND_SMOOTHING * (side - self._trend)
        # Cubed, what is as often early as late moves nothing.
        drift = DRIFT_KEPT * self._drift + DRIFT_STEP * self._trend**3
        self._drift = min(max(drift, -DRIFT_MAX), DRIFT_MAX)
        self._factor = math.exp(self._drift)

    def learn_rest(self, tokens: int, first_s: float, total_s: float, company: Company) -> None:
        """A whole answer: `first_s` to its first token, `total_s` in all, both since its dispatch."""
        if not (is_sensible(total_s) and is_sensible(first_s, total_s)):
            return
        self._stays += 1
        self._stay_s += (total_s - self._stay_s) * max(SMOOTHING, 1.0 / (self._stays + 1))
        if 1 < tokens <= COUNT_MAX and 0.0 <= company.batch <= COUNT_MAX and 0.0 <= company.beside <= 1.0:
            if not self._is_worth_learning:
                return
            slow = self._next_slowdown.beside(company.beside)
            x, y = (slow, slow * max(company.batch, 1.0)), (total_s - first_s) / (tokens - 1)
            expected = self._next.median(x)
            self._next.learn(x, y)
            self._next_slowdown.learn(company.beside, y, expected)

    def snapshot(self, endpoint_id: int) -> PaceSnapshot:
        size = self.size
        first, rest = self._first.snapshot(), self._next.snapshot()
        return PaceSnapshot(
            endpoint_id,
            size.memory_gib,
            size.weights_gib,
            first,
            rest,
            self._stay_s,
            self._stays,
            self._first_slowdown.snapshot(),
            self._next_slowdown.snapshot(),
            self._drift,
            self._trend,
        )

    # Inside.

    @property
    def _is_worth_learning(self) -> bool:
        """After so many answers a sample of what comes will do, as long as it is about as often early as late. The
        drift, and how much neighbours slow first tokens, follow every one."""
        return self._stays < LEARN_ALL or self._stays % LEARN_ONE_IN == 0 or abs(self._trend) > TREND_MAX

    def _features(self, situation: Situation) -> tuple[Features, int]:
        """What the line to the first token is over, and the regime."""
        prompt, uncached, running, slots, waiting, queued, prefill, _, kv_usage, neighbours, pairs, _ = situation
        free = slots - running
        cached = prompt - uncached
        pairs += attention_pairs(uncached, cached)
        is_busy = 1.0 if running or prefill else 0.0
        full_s = self._stay_s / max(running, 1) if kv_usage > KV_FULL and running > 0 else 0.0
        leaving_s, regime = 0.0, BEHIND if prefill else FREE
        if waiting < free:
            prefill += queued
            running += waiting
        else:
            regime = QUEUED
            if free > 0:  # some of those ahead join the batch at once, and their prompts go before its own
                prefill += queued * free / waiting
                running += free
                waiting -= free
            leaving_s = (waiting + 1) * self._stay_s / max(running, 1)
        x: Features = (1.0, is_busy, running, uncached + prefill, pairs, cached, leaving_s, full_s)
        if neighbours:
            slow = self._first_slowdown.factor
            x = tuple([slow * each for each in x])
        return x, regime

    def _first_token(self, situation: Situation, x: Features, regime: int) -> tuple[float, float]:
        p50, p90 = self._first.at(x, regime)
        p50, p90 = self._factor * p50, self._factor * p90
        if situation.prefill_elapsed_s:
            done_low, done_high = self._done_s(situation, x, regime)
            p50, p90 = p50 - done_low, p90 - done_high
        if situation.delay is AT_ONCE:
            return p50, p90
        return situation.delay.then(Span(p50, p90))

    def _done_s(self, situation: Situation, x: Features, regime: int) -> tuple[float, float]:
        """Of the prompts in flight, what has been computed already, in seconds: by the median's and the 0.9 quantile's
        coefficients."""
        low, high = self._first.coefficient(WORK, regime)
        tokens, pairs, elapsed_s = situation.prefill_tokens, situation.prefill_pairs, situation.prefill_elapsed_s
        low, high = low * tokens, high * tokens
        if pairs:
            pair_low, pair_high = self._first.coefficient(PAIRS, regime)
            low, high = low + pair_low * pairs, high + pair_high * pairs
        slow = self._factor * x[STEP]
        return min(elapsed_s, slow * low), min(elapsed_s, slow * high)


def _is_believable(situation: Situation) -> bool:
    *figures, pairs, _ = situation
    # A sum with NaN in it is not below anything.
    is_counted = min(figures) >= 0 and sum(figures) <= COUNT_MAX and 0.0 <= pairs <= PAIRS_MAX
    return is_counted and situation.uncached_tokens <= situation.prompt_tokens


def _believable(situation: Situation) -> Situation:
    """The same with every figure a number within bounds."""
    *given, given_pairs, _ = situation
    figures: list[Any] = [min(max(0, each), COUNT_MAX) if each == each else 0 for each in given]
    pairs = min(max(0.0, given_pairs), PAIRS_MAX) if given_pairs == given_pairs else 0.0
    p50, p90 = (min(max(0.0, each), LONGEST_S) if each == each else 0.0 for each in situation.delay)
    sane = Situation._make([*figures, pairs, Span(p50, max(p50, p90))])
    return sane._replace(uncached_tokens=min(sane.uncached_tokens, sane.prompt_tokens))
