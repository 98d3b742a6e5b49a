"""How much a remote endpoint still admits: its declared rates over any 60 s, and what its provider says itself.

Requests under a lease are not seen here, so an endpoint with declared rates, or with little left, is never leased.
Limits of keys and teams live in the billing room.
"""

from __future__ import annotations

from collections import deque

from logos.domain.nouns import Limits

WINDOW_S = 60.0
SCARCE_REQUESTS = 10  # at or below so many left, the reference's formula counts an endpoint as nearly exhausted


class RateLimit:
    """Sliding window: at most N requests and T tokens admitted in any 60 s. A request larger than T counts as T."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._admitted: deque[tuple[float, int]] = deque()  # (when it leaves the window, tokens)
        self._tokens = 0
        self._held_until = 0.0
        self._observed_requests: int | None = None
        self._observed_until = 0.0

    def admit(self, now: float, tokens: int) -> None:
        if self._is_declared:
            tokens = self._capped(tokens)
            self._admitted.append((now + WINDOW_S, tokens))
            self._tokens += tokens
        if self._observed_requests is not None:
            self._observed_requests = max(self._observed_requests - 1, 0)

    def admits_from(self, now: float, tokens: int) -> float:
        """The earliest time at which a request of so many tokens may go; `now` if at once."""
        self._expire(now)
        earliest = max(now, self._held_until)
        if self._observed_requests == 0:
            earliest = max(earliest, self._observed_until)
        if self._is_declared:
            earliest = max(earliest, self._window_opens(now, self._capped(tokens)))
        return earliest

    def observe(self, now: float, requests: int | None, tokens: int | None, reset_s: float) -> None:
        """The provider's own figures; nothing left means nothing until its window resets."""
        self._observed_until = now + max(reset_s, 0.0)
        self._observed_requests = 0 if tokens is not None and tokens <= 0 else requests

    def hold(self, until: float) -> None:
        self._held_until = max(self._held_until, until)

    def remaining_requests(self, now: float) -> int | None:
        """How many requests are left for now; None: not limited as far as is known."""
        self._expire(now)
        if now < self._held_until:
            return 0
        per_minute = self.limits.requests_per_minute
        declared = None if per_minute is None else max(per_minute - len(self._admitted), 0)
        if self._observed_requests is None:
            return declared
        return self._observed_requests if declared is None else min(declared, self._observed_requests)

    def is_leasable(self, now: float) -> bool:
        remaining = self.remaining_requests(now)
        return not self._is_declared and (remaining is None or remaining > SCARCE_REQUESTS)

    @property
    def _is_declared(self) -> bool:
        return self.limits.requests_per_minute is not None or self.limits.tokens_per_minute is not None

    def _capped(self, tokens: int) -> int:
        per_minute = self.limits.tokens_per_minute
        return tokens if per_minute is None else min(tokens, per_minute)

    def _window_opens(self, now: float, tokens: int) -> float:
        requests_over = self._over(self.limits.requests_per_minute, len(self._admitted) + 1)
        tokens_over = self._over(self.limits.tokens_per_minute, self._tokens + tokens)
        opens = now
        for leaves_at, left in self._admitted:
            if requests_over <= 0 and tokens_over <= 0:
                break
            opens = leaves_at
            requests_over -= 1
            tokens_over -= left
        return opens

    @staticmethod
    def _over(limit: int | None, wanted: int) -> int:
        return 0 if limit is None else wanted - limit

    def _expire(self, now: float) -> None:
        while self._admitted and self._admitted[0][0] <= now:
            self._tokens -= self._admitted.popleft()[1]
        if self._observed_requests is not None and now >= self._observed_until:
            self._observed_requests = None
