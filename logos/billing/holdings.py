"""What the granter of quota remembers of each slice, and of each scope (a key, a team) that slices are cut from.

Sums are made from the slices held, by id, whenever they are wanted; nothing is counted up and down. What may be
granted is decided in `quota`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from logos.billing.window import WINDOW_S, Window
from logos.domain.leases import QuotaUse
from logos.domain.nouns import Limits


class Amounts(NamedTuple):
    """Requests admitted, tokens admitted, requests running; or what of each is granted, used, missing."""

    requests: int = 0
    tokens: int = 0
    running: int = 0


class Bounds(NamedTuple):
    """As Amounts, where None is not limited."""

    requests: int | None = None
    tokens: int | None = None
    running: int | None = None


NOTHING = Amounts()
LIMIT_NAMES = ("requests_per_minute", "tokens_per_minute", "concurrent")


def bounds(limits: Limits) -> Bounds:
    return Bounds(limits.requests_per_minute, limits.tokens_per_minute, limits.concurrent)


@dataclass(slots=True, eq=False)
class Held:
    """One slice. Live until its deadline or its final report; then silent (it may all have been used, so all of it
    counts) until the report comes or the window is over; then closed (what was used is booked in the windows)."""

    slice_id: str
    key_id: int
    gateway_id: str
    scopes: tuple[Scope, ...]
    granted: Bounds
    deadline: float
    used: Amounts = NOTHING
    closed: bool = False
    buckets: tuple[int, ...] = ()  # where `used` is booked in each scope's window, once closed
    remembered_until: float = 0.0  # so that a repeated report of it is known as one

    def is_live(self, at: float) -> bool:
        return not self.closed and at <= self.deadline

    def counted(self, at: float) -> Amounts:
        """What of this slice counts beside what is booked. A deadline frees nothing that may be in use."""
        if self.closed:
            return Amounts(running=self.used.running)
        most = Amounts(*(max(granted or 0, used) for granted, used in zip(self.granted, self.used, strict=True)))
        return most if at <= self.deadline + WINDOW_S else Amounts(running=most.running)

    def unused(self, at: float) -> Amounts:
        """The most that may come back if the holder is asked. What it told is old: more may have been admitted since,
        and what ran may have ended, which frees its slot and may give tokens back."""
        if not self.is_live(at):
            return NOTHING
        granted = Amounts(*(amount or 0 for amount in self.granted))
        spent_tokens = 0 if self.used.running else self.used.tokens
        return Amounts(
            max(granted.requests - self.used.requests, 0), max(granted.tokens - spent_tokens, 0), granted.running
        )

    def is_over(self, at: float) -> bool:
        return at > self.remembered_until and self.counted(at) == NOTHING

    def report(self, use: QuotaUse, at: float) -> None:
        """Take in what the holder tells. Its reports come in order; repeats and late ones do no harm."""
        told = Amounts(max(use.requests, 0), max(use.tokens, 0), max(use.running, 0))
        if self.closed:
            if use.final:
                self._settle(told, at)
            return
        self.used = told._replace(requests=max(told.requests, self.used.requests))
        if use.final:
            self.close(min(at - max(use.age_s, 0.0), self.deadline) + WINDOW_S)

    def close(self, until: float) -> None:
        """Book what was used until `until`; the rest is free."""
        self.closed = True
        self.buckets = tuple(scope.window.book(self.used.requests, self.used.tokens, until) for scope in self.scopes)

    def lose(self, at: float) -> None:
        """The holder is gone, and all that it ran: it may have admitted everything until now."""
        if not self.closed:
            self.used = self.counted(at)
            self.close(min(at, self.deadline) + WINDOW_S)
        self.used = self.used._replace(running=0)

    def _settle(self, told: Amounts, at: float) -> None:
        """Requests that were running ended: less tokens than estimated are taken back, more are booked from now."""
        less = self.used.tokens - told.tokens
        for scope, bucket in zip(self.scopes, self.buckets, strict=True):
            if less > 0:
                scope.window.correct(bucket, less)
            elif less < 0:
                scope.window.book(0, -less, at + WINDOW_S)
        self.used = Amounts(self.used.requests, told.tokens, min(told.running, self.used.running))


@dataclass(slots=True, eq=False)
class Scope:
    """A key or a team: its limits, the slices cut from them, and what was used in the last minute."""

    kind: str  # "key" or "team"
    limits: Bounds
    held: dict[str, Held] = field(default_factory=dict)
    window: Window = field(default_factory=Window)

    def counted(self, at: float) -> Amounts:
        """All that counts against the limits at `at`. Window.advance must have been called."""
        totals = [each.counted(at) for each in self.held.values()]
        return Amounts(
            self.window.requests + sum(each.requests for each in totals),
            self.window.tokens + sum(each.tokens for each in totals),
            sum(each.running for each in totals),
        )

    def unused(self, at: float) -> Amounts:
        """What recalling every slice might bring back."""
        parts = [each.unused(at) for each in self.held.values()]
        return Amounts(*(sum(amounts) for amounts in zip(*parts, strict=True))) if parts else NOTHING

    def endings(self, at: float) -> Iterator[tuple[float, int, int]]:
        """(moment, requests, tokens): when what counts now stops counting, at the latest."""
        yield from self.window.endings()
        for each in self.held.values():
            counted = each.counted(at)
            if counted.requests or counted.tokens:
                yield each.deadline + WINDOW_S, counted.requests, counted.tokens

    def prune(self, at: float) -> None:
        """Drop what counts no longer."""
        self.window.advance(at)
        for each in [each for each in self.held.values() if each.is_over(at)]:
            del self.held[each.slice_id]

    @property
    def is_idle(self) -> bool:
        return not self.held and not len(self.window)
