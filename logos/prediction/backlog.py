"""How far one engine is with the prompts it has been given: what a scheduler keeps for each place where requests run.

Engines that batch compute prompts in the order they came, in chunks, so a prompt may be half done and nobody says so.
What is done is estimated from the learned time of a token and set right by every first token. No forecast is made here.
"""

from __future__ import annotations


class Backlog:
    """The prompts in one engine that have had no first token yet, in the order of their dispatch.

    `remaining_tokens` of them were not computed at the time `at`, when this was last worked out; `remaining_pairs` are
    the pairs of tokens that still have to attend to each other.
    """

    __slots__ = ("_done", "_pairs", "_prompts", "_tokens", "at")

    def __init__(self) -> None:
        self._prompts: dict[str, tuple[int, float]] = {}  # by request id: tokens to compute, pairs
        self._tokens = 0  # the sum of them
        self._pairs = 0.0
        self._done = 0.0  # tokens of the prompt at the head of the line
        self.at = 0.0

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._prompts

    @property
    def remaining_tokens(self) -> float:
        return self._tokens - self._done

    @property
    def remaining_pairs(self) -> float:
        if not self._done:
            return self._pairs
        tokens, pairs = next(iter(self._prompts.values()))
        return max(self._pairs - pairs * self._done / tokens, 0.0)

    def dispatched(self, request_id: str, uncached_tokens: int, now: float, cached_tokens: int = 0) -> None:
        """A request has been given to the engine."""
        if not self._prompts:
            self.at = now
        pairs = attention_pairs(uncached_tokens, cached_tokens)
        self._prompts[request_id] = uncached_tokens, pairs
        self._tokens += uncached_tokens
        self._pairs += pairs

    def left(self, request_id: str, now: float, token_s: float, pair_s: float = 0.0) -> None:
        """Its first token came, or it was given up; `token_s` is what the engine takes for a prompt token, `pair_s` for
        two that attend to each other.

        Whoever is at the head of the line then is not done, however long it has taken.
        """
        head = next(iter(self._prompts), None)
        if head is None or request_id not in self._prompts:
            return
        head_tokens, head_pairs = self._prompts[head]
        tokens, pairs = self._prompts.pop(request_id)
        head_token_s = token_s + pair_s * head_pairs / max(head_tokens, 1)
        done = self._done + max(now - self.at, 0.0) / head_token_s if head_token_s > 0.0 else self._done
        if request_id == head:
            done -= tokens
        self._tokens -= tokens
        self._pairs = self._pairs - pairs if self._prompts else 0.0
        self._done = min(max(done, 0.0), float(next(iter(self._prompts.values()), (0, 0.0))[0]))
        self.at = now


def attention_pairs(uncached_tokens: float, cached_tokens: float) -> float:
    """How often two tokens attend to each other while so many are computed behind so many that are held already."""
    return uncached_tokens * (cached_tokens + 0.5 * uncached_tokens)
