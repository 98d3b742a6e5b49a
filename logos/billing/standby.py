"""Which keys a gateway keeps quota at hand for, so that their next request need not ask, and how much of it.

A key stands by from a request until it has had none for `KEPT_S`. How slices are held and spent is `wallet`'s
business; whether one is granted is `quota`'s.
"""

from __future__ import annotations

from dataclasses import dataclass

from logos.domain.leases import QuotaNeed

KEPT_S = 20.0
KEYS_MAX = 512  # of one gateway; others ask when they need something
RENEWED_BEFORE_S = 4.0  # the deadline of a slice that nobody used
DENIED_S = 2.0  # how long a key that was too near a limit is not asked for again
REQUESTS_MIN = 4
REQUESTS_MAX = 4096


@dataclass(slots=True)
class InUse:
    """What a key in use asked for lately. Requests are counted from one standby need to the next."""

    used_at: float
    tokens: int  # of a large request; goes down slowly
    requests: int = 0
    burst: int = 0
    denied_until: float = 0.0


class KeysInUse:
    """The keys that stand by, by id."""

    def __init__(self) -> None:
        self._keys: dict[int, InUse] = {}

    def used(self, key_id: int, tokens: int, now: float) -> None:
        """A request of `tokens` tokens was admitted."""
        key = self._keys.get(key_id)
        if key is None:
            if len(self._keys) >= KEYS_MAX:
                return
            key = self._keys[key_id] = InUse(now, tokens)
        key.used_at = now
        key.requests += 1
        key.tokens = tokens if tokens > key.tokens else key.tokens - (key.tokens - tokens) // 8

    def over(self, now: float) -> tuple[int, ...]:
        """Forgets the keys that had no request for long, and returns them."""
        over = tuple(key_id for key_id, key in self._keys.items() if now - key.used_at > KEPT_S)
        for key_id in over:
            del self._keys[key_id]
        return over

    def wanting(self, now: float) -> tuple[int, ...]:
        """The keys for which it may be asked."""
        return tuple(key_id for key_id, key in self._keys.items() if now >= key.denied_until)

    def need(self, key_id: int) -> QuotaNeed:
        """Twice the largest recent burst between two needs."""
        key = self._keys[key_id]
        key.burst = max(key.requests, key.burst * 3 // 4)
        key.requests = 0
        wanted = min(max(2 * key.burst, REQUESTS_MIN), REQUESTS_MAX)
        return QuotaNeed(key_id, key.tokens, wanted, wanted * key.tokens, standby=True)

    def denied(self, key_id: int, now: float) -> None:
        """It is too near a limit."""
        if key_id in self._keys:
            self._keys[key_id].denied_until = now + DENIED_S

    def forget(self, key_id: int) -> None:
        self._keys.pop(key_id, None)
