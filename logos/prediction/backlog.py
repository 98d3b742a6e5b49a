"""How far one engine is with the prompts it has been given: what a scheduler keeps for each place where requests run.

Engines that batch compute prompts in the order they came, in chunks, so a prompt may be half done and nobody says so.
What is done is estimated from the learned time of a token and set right by every first token. No forecast is made here.
"""

from __future__ import annotations


class Backlog:
    """The prompts in one engine that have had no first token yet, in the order of their dispatch.

    `remaining_tokens` of them were not computed at the time `at`, when this was last worked out.
    """

    __slots__ = ("_done", "_ends", "_sent", "at")

    def __init__(self) -> None:
        self._ends: dict[str, int] = {}  # request id -> where its prompt ends in the sequence of all that was sent
        self._sent = 0
        self._done = 0.0
        self.at = 0.0

    @property
    def remaining_tokens(self) -> float:
        return self._sent - self._done

    def dispatched(self, request_id: str, uncached_tokens: int, now: float) -> None:
        """A request has been given to the engine."""
        if not self._ends:
            self._done, self.at = float(self._sent), now
        self._sent += uncached_tokens
        self._ends[request_id] = self._sent

    def left(self, request_id: str, now: float, token_s: float) -> None:
        """Its first token came (or it was given up); `token_s` is what the engine takes for a prompt token.

        All before its end has been computed, and of the next one in line not all.
        """
        end = self._ends.pop(request_id, None)
        if end is None:
            return
        following = next(iter(self._ends.values()), self._sent)
        done = self._done + (now - self.at) / token_s if token_s > 0.0 else 0.0
        self._done = min(max(done, end), following)
        self.at = now
