"""How long answers are, by quantile: per model and key, falling back to the model, and before that to a prior.

Answers are followed in tokens and as shares of what their requests allowed, because some clients set the limit close
to what they want and others never meet it; whichever has erred less is used. All figures here are tokens.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from logos.prediction.priors import ANSWER_SHARES, ANSWER_TOKENS_MAX
from logos.prediction.service import ObservedQuantiles
from logos.prediction.spans import COVERAGE, Span

KEYS_MAX = 512  # pairs of model and key; the least recently used go
ONCE_MAX = 512  # such pairs that have been answered once
SEEN_MIN = 16  # answers before a key is believed to differ from its model
SMOOTHING = 0.05  # share of the newest error in the running average
TOKENS_MAX = 100_000_000


@dataclass(frozen=True, slots=True)
class AnswersSnapshot:
    """The answers to one key, or (`key_id` None) to all keys, oldest first, and how far both ways were off lately."""

    model_id: int
    key_id: int | None
    tokens: tuple[float, ...]
    shares: tuple[float, ...]
    seen: int = 0
    error_tokens: float = 0.0
    error_shares: float = 0.0


class Answers:
    """The last answers of a model, to one key or to all."""

    __slots__ = ("_error_shares", "_error_tokens", "_shares", "_tokens", "seen")

    def __init__(self, snapshot: AnswersSnapshot) -> None:
        self._tokens = ObservedQuantiles(snapshot.tokens)
        self._shares = ObservedQuantiles(snapshot.shares)
        self.seen = snapshot.seen
        self._error_tokens, self._error_shares = snapshot.error_tokens, snapshot.error_shares

    def add(self, tokens: int, allowed: int | None) -> None:
        if allowed:
            by_tokens, by_share = self._tokens.median, self._shares.median
            if by_tokens is not None and by_share is not None:
                self._error_tokens += SMOOTHING * (abs(min(by_tokens, float(allowed)) - tokens) - self._error_tokens)
                self._error_shares += SMOOTHING * (abs(by_share * allowed - tokens) - self._error_shares)
            self._shares.add(min(tokens / allowed, 1.0))
        self._tokens.add(float(tokens))
        self.seen = min(self.seen + 1, SEEN_MIN)

    def quantile(self, share: float, produced: int, allowed: int | None) -> float:
        """The length of an answer that has `produced` tokens already and is not complete."""
        if allowed and self._error_shares < self._error_tokens:
            found = self._by_share(share, produced, allowed)
        else:
            found = self._by_tokens(share, produced, allowed)
        # Longer than anything seen: nothing is known but that it goes on.
        return produced + 1.0 if found is None else max(found, produced + 1.0)

    def snapshot(self, model_id: int, key_id: int | None) -> AnswersSnapshot:
        tokens, shares = self._tokens.values, self._shares.values
        return AnswersSnapshot(model_id, key_id, tokens, shares, self.seen, self._error_tokens, self._error_shares)

    def _by_tokens(self, share: float, produced: int, allowed: int | None) -> float | None:
        found = self._tokens.quantile(share, above=produced)
        return found if found is None or not allowed else min(found, float(allowed))

    def _by_share(self, share: float, produced: int, allowed: int) -> float | None:
        found = self._shares.quantile(share, above=produced / allowed)
        return None if found is None else found * allowed


class AnswerLengths:
    """The answers of every model, and of the keys that asked it lately."""

    def __init__(self, snapshot: tuple[AnswersSnapshot, ...] = ()) -> None:
        self._models = {each.model_id: Answers(each) for each in snapshot if each.key_id is None}
        of_keys = [((each.model_id, each.key_id), each) for each in snapshot if each.key_id is not None]
        # Of those with one answer: its tokens, and the share of what was allowed that they are.
        self._once = OrderedDict((pair, (each.tokens, each.shares)) for pair, each in of_keys if each.seen == 1)
        self._keys = OrderedDict((pair, Answers(each)) for pair, each in of_keys if each.seen != 1)

    def observe(self, model_id: int, key_id: int, tokens: int, allowed: int | None = None) -> None:
        """A complete answer. Ignored if it has no tokens or more than there can be."""
        if not 0 < tokens <= TOKENS_MAX:
            return
        allowed = allowed if allowed and 0 < allowed <= TOKENS_MAX else None
        of_model = self._models.get(model_id)
        if of_model is None:
            of_model = self._models[model_id] = Answers(_prior(model_id))
        of_model.add(tokens, allowed)
        self._observe_key((model_id, key_id), tokens, allowed)

    def span(self, model_id: int, key_id: int, allowed: int | None = None, produced: int = 0) -> Span:
        """Tokens of a whole answer that is not complete after `produced` of them."""
        answers = self._keys.get((model_id, key_id))
        if answers is None or answers.seen < SEEN_MIN:
            answers = self._models.get(model_id) or _UNKNOWN
        produced = max(produced, 0)
        return Span(answers.quantile(0.5, produced, allowed), answers.quantile(COVERAGE, produced, allowed))

    def forget_model(self, model_id: int) -> None:
        self._models.pop(model_id, None)
        for known in (self._keys, self._once):
            for pair in [pair for pair in known if pair[0] == model_id]:
                del known[pair]

    def snapshot(self) -> tuple[AnswersSnapshot, ...]:
        models = [answers.snapshot(model_id, None) for model_id, answers in self._models.items()]
        keys = [answers.snapshot(model_id, key_id) for (model_id, key_id), answers in self._keys.items()]
        once = [_after_one(pair, *first) for pair, first in self._once.items()]
        return (*models, *once, *keys)

    def _observe_key(self, pair: tuple[int, int], tokens: int, allowed: int | None) -> None:
        """A first answer only waits for a second one, so pairs that do not come back push out nobody who does."""
        of_key = self._keys.get(pair)
        if of_key is not None:
            self._keys.move_to_end(pair)
            of_key.add(tokens, allowed)
        elif (first := self._once.pop(pair, None)) is not None:
            of_key = self._keys[pair] = Answers(_after_one(pair, *first))
            of_key.add(tokens, allowed)
            if len(self._keys) > KEYS_MAX:
                self._keys.popitem(last=False)
        else:
            self._once[pair] = (float(tokens),), (min(tokens / allowed, 1.0),) if allowed else ()
            if len(self._once) > ONCE_MAX:
                self._once.popitem(last=False)


def _prior(model_id: int) -> AnswersSnapshot:
    """As if eleven answers had been seen; shares are believed first."""
    tokens = tuple(share * ANSWER_TOKENS_MAX for share in ANSWER_SHARES)
    return AnswersSnapshot(model_id, None, tokens, ANSWER_SHARES, error_tokens=1.0)


def _after_one(pair: tuple[int, int], tokens: tuple[float, ...], shares: tuple[float, ...]) -> AnswersSnapshot:
    return AnswersSnapshot(*pair, tokens, shares, seen=1)


_UNKNOWN = Answers(_prior(0))
