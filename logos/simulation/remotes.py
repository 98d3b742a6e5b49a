"""A simulated remote provider's endpoint: answers after a while, and says 429 where its limits are reached.

It knows nothing of the scheduler's own account of these limits.
"""

from __future__ import annotations

from collections import deque
from statistics import NormalDist

from logos.scheduling.events import LimitObserved
from logos.simulation.world import RemoteProfile

WINDOW_S = 60.0
BUSY_RETRY_S = 1.0
ROUNDING_S = 1e-6
STANDARD_NORMAL = NormalDist()
STALL_DIGITS = 1_000.0  # whether an answer stalls is read from later digits of its luck than how fast it is


class RemoteEndpoint:
    """One remote endpoint: what it serves now, and what it admitted in the last 60 s."""

    def __init__(self, endpoint_id: int, profile: RemoteProfile) -> None:
        self.endpoint_id = endpoint_id
        self.profile = profile
        self.serving: dict[str, None] = {}
        self.is_down = False
        self._window: deque[tuple[float, int]] = deque()  # (admitted at, tokens)
        self._tokens = 0

    def refusal_s(self, now: float, tokens: int) -> float | None:
        """Retry-After in seconds if a request of so many tokens is refused now, else None."""
        profile = self.profile
        self._forget(now)
        if profile.parallel_max is not None and len(self.serving) >= profile.parallel_max:
            return BUSY_RETRY_S
        over_requests = profile.requests_per_minute is not None and len(self._window) >= profile.requests_per_minute
        over_tokens = profile.tokens_per_minute is not None and self._tokens + tokens > profile.tokens_per_minute
        if over_requests or over_tokens:
            return max(self._reset_s(now), 0.001)
        return None

    def admit(self, now: float, request_id: str, tokens: int) -> None:
        self.serving[request_id] = None
        self._window.append((now, tokens))
        self._tokens += tokens

    def recover(self, _: object) -> None:
        """It answers again."""
        self.is_down = False

    def behave(self, profile: RemoteProfile) -> None:
        """From now on it has this pace and these limits."""
        self.profile = profile

    def leave(self, request_id: str) -> bool:
        """Whether it was being served."""
        if request_id not in self.serving:
            return False
        del self.serving[request_id]
        return True

    def times_s(self, prompt_tokens: int, output_tokens: int, luck: float) -> tuple[float, float]:
        """Seconds until the first token and until the end, by a uniform draw."""
        profile = self.profile
        normal = STANDARD_NORMAL.inv_cdf(min(max(luck, 1e-9), 1 - 1e-9))
        factor = 2.718281828459045 ** (profile.spread * normal)
        ttft_s = (profile.ttft_s + profile.prefill_per_token_s * prompt_tokens) * factor
        if (luck * STALL_DIGITS) % 1.0 < profile.stall_share:
            ttft_s += profile.stall_s
        return ttft_s, ttft_s + (output_tokens - 1) * profile.tpot_s * factor

    def limit(self, now: float) -> LimitObserved | None:
        """What its headers say is left; None where it has no limits."""
        profile = self.profile
        if profile.requests_per_minute is None and profile.tokens_per_minute is None:
            return None
        self._forget(now)
        return LimitObserved(
            now,
            self.endpoint_id,
            None if profile.requests_per_minute is None else max(profile.requests_per_minute - len(self._window), 0),
            None if profile.tokens_per_minute is None else max(profile.tokens_per_minute - self._tokens, 0),
            self._reset_s(now),
        )

    def _forget(self, now: float) -> None:
        while self._window and self._window[0][0] <= now - WINDOW_S + ROUNDING_S:
            self._tokens -= self._window.popleft()[1]

    def _reset_s(self, now: float) -> float:
        """Until the oldest request leaves the window."""
        return self._window[0][0] + WINDOW_S - now if self._window else 0.0
