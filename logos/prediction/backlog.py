"""How far one engine is with the prompts it has been given: what a scheduler keeps for each place where requests run.

Engines that batch compute prompts in the order they came, in chunks, so a prompt may be half done and nobody says so.
What is done is estimated from the learned time of a token and set right by every first token. No forecast is made here.
"""

from __future__ import annotations


class Backlog:
    """The prompts in one engine that have had no first token yet, in the order of their dispatch.

    `remaining_tokens` of them were not computed at the time `at`, when this was last worked out.
    """

    __slots__ = ("_done", "_sent", "_tokens", "at")

    def __init__(self) -> None:
        self._tokens: dict[str, int] = {}  # by request id
        self._sent = 0  # the sum of them
        self._done = 0.0  # of those at the head of the line
        self.at = 0.0

    @property
    def remaining_tokens(self) -> float:
        return self._sent - self._done

    def dispatched(self, request_id: str, uncached_tokens: int, now: float) -> None:
        """A request has been given to the engine."""
        if not self._tokens:
            self.at = now
        self._tokens[request_id] = uncached_tokens
        self._sent += uncached_tokens

    def left(self, request_id: str, now: float, token_s: float) -> None:
        """Its first token came, or it was given up; `token_s` is what the engine takes for a prompt token.

        Whoever is at the head of the line then is not done, however long it has taken.
        """
        head = next(iter(self._tokens), None)
        tokens = self._tokens.pop(request_id, None)
        if tokens is None:
            return
        done = self._done + max(now - self.at, 0.0) / token_s if token_s > 0.0 else self._done
        if request_id == head:
            done -= tokens
        self._sent -= tokens
        self._done = min(max(done, 0.0), float(next(iter(self._tokens.values()), 0)))
        self.at = now
