"""A sliding window of what was admitted: an amount counts until a moment, then no longer. Memory is bounded.

Moments are rounded up to the next of `BUCKET_S`, so an amount may count a little too long and never too short. What
the amounts mean and when they begin to count is the matter of `quota`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

WINDOW_S = 60.0
BUCKET_S = 0.1


class Window:
    """Requests and tokens that still count, in buckets of the moment at which they stop. Time runs forwards."""

    __slots__ = ("_buckets", "_next", "requests", "tokens")

    def __init__(self) -> None:
        self._buckets: dict[int, list[int]] = {}  # bucket -> [requests, tokens]
        self._next = 0  # no bucket is below it
        self.requests = 0
        self.tokens = 0

    def book(self, requests: int, tokens: int, until: float) -> int:
        """Count these amounts until `until`. The bucket that is returned lets `correct` find them again."""
        bucket = math.floor(until / BUCKET_S) + 1
        held = self._buckets.setdefault(bucket, [0, 0])
        held[0] += requests
        held[1] += tokens
        self.requests += requests
        self.tokens += tokens
        self._next = min(self._next, bucket)
        return bucket

    def correct(self, bucket: int, tokens: int) -> None:
        """Take back tokens that were booked there and not used after all. Nothing if they stopped counting."""
        held = self._buckets.get(bucket)
        if held is not None:
            taken = min(tokens, held[1])
            held[1] -= taken
            self.tokens -= taken

    def advance(self, at: float) -> None:
        """Forget what counts no longer at `at`."""
        current = math.floor(at / BUCKET_S)
        if current < self._next:
            return
        if current - self._next < len(self._buckets):
            gone = [bucket for bucket in range(self._next, current + 1) if bucket in self._buckets]
        else:
            gone = [bucket for bucket in self._buckets if bucket <= current]
        for bucket in gone:
            requests, tokens = self._buckets.pop(bucket)
            self.requests -= requests
            self.tokens -= tokens
        self._next = current + 1

    def endings(self) -> Iterator[tuple[float, int, int]]:
        """(moment, requests, tokens) for all that counts, in any order."""
        for bucket, (requests, tokens) in self._buckets.items():
            yield bucket * BUCKET_S, requests, tokens

    def __len__(self) -> int:
        """The number of buckets held."""
        return len(self._buckets)
