"""The holder's side of quota: what one gateway may admit without asking, and what it has to report.

Keeps the slices that `quota` granted, spends them, asks for as much as keeps a busy key going for about a second, and
reports until the granter has everything. Pure: sending, receiving and waiting are the gateway's business. A round is

    spent = wallet.spend(key_id, tokens, now)                 # None: ask
    need = wallet.need(key_id, tokens, now)                   # then send it together with wallet.due(now)
    answers = await accounts.quota(gateway_id, (need,), uses)
    wallet.reported(uses, now); wallet.add(slice_, sent_at)   # or wallet.refused(refusal, tokens, now); spend again
    ...
    wallet.settle(spent, tokens, now)                         # once, when the request is over, whatever happened

`due` goes out every so often as well, with `standby_needs`: slices that keys in use will find here (`standby`). A used
one is then replaced, so that what was admitted under it counts no longer than it must. Reports of one gateway must
reach the granter in the order in which they were made: send one call at a time. Time is the gateway's monotonic clock
in seconds.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field

from logos.billing.standby import RENEWED_BEFORE_S, KeysInUse
from logos.billing.window import WINDOW_S
from logos.domain.leases import QuotaNeed, QuotaRefusal, QuotaSlice, QuotaUse

SLICES_PER_KEY_MAX = 16
WANTED_MAX = 4096
PACE_S = 1.0  # a slice that lasts less long was too small
PACE_IDLE_S = 4.0  # one that lasts longer was too large
REFUSAL_KEPT_S = 0.25


@dataclass(frozen=True, slots=True)
class Spent:
    """One admission: to be settled when the request ends. The figures feed the x-ratelimit headers; None: no limit."""

    slice_id: str
    key_id: int
    number: int
    tokens: int
    limit_requests: int | None = None
    remaining_requests: int | None = None
    reset_requests_s: float = 0.0
    limit_tokens: int | None = None
    remaining_tokens: int | None = None
    reset_tokens_s: float = 0.0


@dataclass(slots=True, eq=False)
class _Holding:
    """A slice and what became of it. Running requests are a dict by number, with their estimates."""

    slice: QuotaSlice
    deadline: float
    requests: int = 0
    tokens: int = 0
    last_at: float = 0.0
    running: dict[int, int] = field(default_factory=dict)
    closed: bool = False
    is_standby: bool = False

    @property
    def requests_left(self) -> int | None:
        return None if self.slice.requests is None else self.slice.requests - self.requests

    @property
    def tokens_left(self) -> int | None:
        return None if self.slice.tokens is None else self.slice.tokens - self.tokens

    @property
    def state(self) -> tuple[int, int, int, bool]:
        return self.requests, self.tokens, len(self.running), self.closed

    def is_spendable(self, now: float) -> bool:
        return not self.closed and now < self.deadline

    def covers(self, tokens: int) -> bool:
        """Whether requests and tokens are left for one more."""
        requests_left, tokens_left = self.requests_left, self.tokens_left
        return (requests_left is None or requests_left > 0) and (tokens_left is None or tokens_left >= tokens)

    def has_room(self) -> bool:
        return self.slice.concurrent is None or len(self.running) < self.slice.concurrent

    def use(self, now: float) -> QuotaUse:
        return QuotaUse(
            slice_id=self.slice.slice_id,
            requests=self.requests,
            tokens=self.tokens,
            running=len(self.running),
            final=self.closed,
            key_id=self.slice.key_id,
            age_s=max(now - self.last_at, 0.0),
        )


@dataclass(slots=True)
class _Pace:
    """How much to ask for: twice as much after a slice that was used up within PACE_S, half after a long one."""

    wanted: int = 1
    tokens_mean: int = 0
    asked_at: float | None = None
    was_cut: bool = False  # the granter gave less than wanted: asking for more would not help

    def ask(self, tokens: int, now: float) -> None:
        if self.asked_at is None:
            self.tokens_mean = tokens
        elif now - self.asked_at < PACE_S and not self.was_cut:
            self.wanted = min(self.wanted * 2, WANTED_MAX)
        elif now - self.asked_at > PACE_IDLE_S:
            self.wanted = max(self.wanted // 2, 1)
        self.tokens_mean += (tokens - self.tokens_mean) // 4
        self.asked_at = now


class QuotaWallet:
    """All slices of one gateway."""

    def __init__(self, gateway_id: str) -> None:
        self._gateway_id = gateway_id
        self._holdings: dict[str, _Holding] = {}
        self._of_key: dict[int, list[_Holding]] = {}  # not closed, oldest first
        self._changed: dict[str, None] = {}  # holdings with something to report, in order
        self._deadlines: list[tuple[float, str]] = []
        self._paces: dict[int, _Pace] = {}
        self._refusals: dict[int, tuple[QuotaRefusal, int, float]] = {}  # with tokens asked and until when
        self._disowned: dict[str, float] = {}
        self._history: dict[tuple[int, int], tuple[int, int, float]] = {}  # (key, second) -> requests, tokens, last
        self._admitted = 0
        self._in_use = KeysInUse()

    def spend(self, key_id: int, tokens: int, now: float) -> Spent | None:
        """Admit a request of an estimated `tokens` tokens (prompt and the most output), or None: ask."""
        tokens = max(tokens, 0)
        for holding in self._of_key.get(key_id, ()):
            if holding.is_spendable(now) and holding.has_room() and holding.covers(tokens):
                break
        else:
            return None
        self._admitted += 1
        holding.requests += 1
        holding.tokens += tokens
        holding.last_at = now
        holding.running[self._admitted] = tokens
        self._changed[holding.slice.slice_id] = None
        self._in_use.used(key_id, tokens, now)
        return self._spent(holding, tokens, now)

    def _spent(self, holding: _Holding, tokens: int, now: float) -> Spent:
        """The newest slice knows best what the granter has left; to it comes what is left in the wallet."""
        live = [each for each in self._of_key[holding.slice.key_id] if each.is_spendable(now)]
        newest = live[-1].slice
        requests, asked_tokens = newest.remaining_requests, newest.remaining_tokens
        if requests is not None:
            requests += sum(max(each.requests_left or 0, 0) for each in live)
        if asked_tokens is not None:
            asked_tokens += sum(max(each.tokens_left or 0, 0) for each in live)
        return Spent(
            slice_id=holding.slice.slice_id,
            key_id=holding.slice.key_id,
            number=self._admitted,
            tokens=tokens,
            limit_requests=newest.limit_requests,
            remaining_requests=requests,
            reset_requests_s=newest.reset_requests_s,
            limit_tokens=newest.limit_tokens,
            remaining_tokens=asked_tokens,
            reset_tokens_s=newest.reset_tokens_s,
        )

    def settle(self, spent: Spent, tokens: int, now: float) -> None:
        """The request is over: its slot is free, and it used `tokens` tokens in all (0 if it was never sent). Only
        the first settlement of an admission counts."""
        holding = self._holdings.get(spent.slice_id)
        estimate = holding.running.pop(spent.number, None) if holding is not None else None
        if holding is None or estimate is None:
            return
        holding.tokens += max(tokens, 0) - estimate
        self._changed[spent.slice_id] = None
        self._refusals.pop(spent.key_id, None)

    def refusal(self, key_id: int, tokens: int, now: float) -> QuotaRefusal | None:
        """The refusal that a request as large would get again, for a moment after one: a client that hammers at its
        limit must not become a toll on the accounts actor."""
        refusal, asked, until = self._refusals.get(key_id, (None, 0, 0.0))
        return refusal if refusal is not None and now < until and tokens >= asked else None

    def refused(self, refusal: QuotaRefusal, tokens: int, now: float) -> None:
        """Remember a refusal of a request of `tokens` tokens, until something of the key ends but not for long."""
        kept_s = min(refusal.retry_after_s, REFUSAL_KEPT_S)
        self._refusals[refusal.key_id] = (refusal, tokens, now + kept_s)

    def need(self, key_id: int, tokens: int, now: float, waiting: int = 1) -> QuotaNeed:
        """What to ask for when `spend` gave None; `waiting` requests of this key wait for the answer. Slices that can
        not serve such a request are closed, so that what is left in them goes back with this call."""
        tokens = max(tokens, 0)
        pace = self._paces.setdefault(key_id, _Pace())
        pace.ask(tokens, now)
        live = list(self._of_key.get(key_id, ()))
        for place, holding in enumerate(live):
            if not holding.covers(tokens) or place <= len(live) - SLICES_PER_KEY_MAX:
                self._close(holding)
        wanted = max(pace.wanted, waiting)
        return QuotaNeed(key_id, tokens, wanted, max(wanted * pace.tokens_mean, tokens))

    def standby_needs(self, now: float) -> tuple[QuotaNeed, ...]:
        """What to ask for so that keys in use find a slice that nothing was spent of. Those of keys that are not in
        use any more are closed."""
        for key_id in self._in_use.over(now):
            self._close_standbys(key_id)
        return tuple(
            self._in_use.need(key_id) for key_id in self._in_use.wanting(now) if not self._stands_by(key_id, now)
        )

    def _stands_by(self, key_id: int, now: float) -> bool:
        for holding in self._of_key.get(key_id, ()):
            if holding.is_standby and not holding.requests and now < holding.deadline - RENEWED_BEFORE_S:
                return True
        return False

    def add_standby(self, slice_: QuotaSlice, requested_at: float) -> None:
        """Take in a standby slice: it replaces the one before, and what the key has used a part of."""
        old = [each for each in self._of_key.get(slice_.key_id, ()) if each.requests or each.is_standby]
        standby = self._hold(slice_, requested_at)
        if standby is not None:
            standby.is_standby = True
            for holding in old:
                self._close(holding)

    def standby_denied(self, key_id: int, now: float) -> None:
        """The key is too near a limit: what was used of its standby slices is told at once, the rest goes back."""
        self._in_use.denied(key_id, now)
        self._close_standbys(key_id)

    def _close_standbys(self, key_id: int) -> None:
        for holding in [each for each in self._of_key.get(key_id, ()) if each.is_standby]:
            self._close(holding)

    def add(self, slice_: QuotaSlice, requested_at: float) -> bool:
        """Take in a slice; its time runs from when it was asked for. False: it has been recalled already, ask again."""
        holding = self._hold(slice_, requested_at)
        if holding is not None:
            pace = self._paces.setdefault(slice_.key_id, _Pace())
            pace.was_cut = slice_.requests is not None and slice_.requests < pace.wanted
        return holding is not None

    def _hold(self, slice_: QuotaSlice, requested_at: float) -> _Holding | None:
        if slice_.slice_id in self._disowned or slice_.slice_id in self._holdings:
            return None
        holding = _Holding(slice_, requested_at + slice_.ttl_s, last_at=requested_at)
        self._holdings[slice_.slice_id] = holding
        self._of_key.setdefault(slice_.key_id, []).append(holding)
        heapq.heappush(self._deadlines, (holding.deadline, slice_.slice_id))
        self._refusals.pop(slice_.key_id, None)
        return holding

    def recall(self, slice_ids: Iterable[str], now: float) -> tuple[QuotaUse, ...]:
        """Hand these slices back: final reports, to be sent at once. One that is not held is disowned, as its grant
        was lost or is still on its way."""
        uses = []
        for slice_id in slice_ids:
            holding = self._holdings.get(slice_id)
            if holding is not None:
                self._close(holding)
                uses.append(holding.use(now))
            else:
                self._disowned[slice_id] = now
                uses.append(QuotaUse(slice_id, 0, 0, 0, final=True))
        return tuple(uses)

    def due(self, now: float) -> tuple[QuotaUse, ...]:
        """What the granter does not know yet, closing slices that are over. Repeats until `reported`."""
        while self._deadlines and self._deadlines[0][0] <= now:
            holding = self._holdings.get(heapq.heappop(self._deadlines)[1])
            if holding is not None:
                self._close(holding)
        for slice_id in list(self._changed):
            if self._holdings[slice_id].requests_left == 0:
                self._close(self._holdings[slice_id])
        return tuple(self._holdings[slice_id].use(now) for slice_id in self._changed)

    def reported(self, uses: Iterable[QuotaUse], now: float) -> None:
        """The granter has these reports. Slices that are over are forgotten, save for what `reintroduce` needs."""
        for use in uses:
            holding = self._holdings.get(use.slice_id)
            if holding is None or holding.state != (use.requests, use.tokens, use.running, use.final):
                continue
            self._changed.pop(use.slice_id, None)
            if holding.closed and not holding.running:
                del self._holdings[use.slice_id]
                self._remember(holding, now)
        self._forget_old(now)

    def reintroduce(self, now: float) -> tuple[QuotaUse, ...]:
        """All that counts, for a granter that has restarted: every slice is closed and what was admitted in the last
        60 s is told. To be repeated until it has arrived, before anything is asked for."""
        for holding in list(self._holdings.values()):
            self._close(holding)
            self._changed[holding.slice.slice_id] = None
        self._forget_old(now)
        past = (
            QuotaUse(
                slice_id=f"past-{self._gateway_id}-{key_id}-{second}",
                requests=requests,
                tokens=tokens,
                running=0,
                final=True,
                key_id=key_id,
                age_s=max(now - last_at, 0.0),
            )
            for (key_id, second), (requests, tokens, last_at) in self._history.items()
        )
        return (*past, *self.due(now))

    def forget(self, key_id: int) -> None:
        """The key is gone: nothing more is admitted for it; what it used is still reported."""
        for holding in list(self._of_key.get(key_id, ())):
            self._close(holding)
        self._paces.pop(key_id, None)
        self._in_use.forget(key_id)
        self._refusals.pop(key_id, None)

    def is_idle(self) -> bool:
        """Whether nothing is held, running or to be reported."""
        return not self._holdings and not self._changed

    def _close(self, holding: _Holding) -> None:
        if holding.closed:
            return
        holding.closed = True
        of_key = self._of_key[holding.slice.key_id]
        of_key.remove(holding)
        if not of_key:
            del self._of_key[holding.slice.key_id]
        self._changed[holding.slice.slice_id] = None

    def _remember(self, holding: _Holding, now: float) -> None:
        if not holding.requests or now - holding.last_at > WINDOW_S:
            return
        at = holding.slice.key_id, int(holding.last_at)
        requests, tokens, last_at = self._history.get(at, (0, 0, 0.0))
        self._history[at] = requests + holding.requests, tokens + holding.tokens, max(last_at, holding.last_at)

    def _forget_old(self, now: float) -> None:
        """Both dicts are in order of time, near enough: the first young one ends the search."""
        while self._disowned and now - next(iter(self._disowned.values())) > WINDOW_S:
            del self._disowned[next(iter(self._disowned))]
        while self._history and now - next(iter(self._history.values()))[2] > WINDOW_S:
            del self._history[next(iter(self._history))]
