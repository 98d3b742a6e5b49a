"""The granter's side of quota: cuts slices for gateways so that no limit is exceeded and none is wasted.

Rates mean "at most N admitted in any 60 s", for a key and for its team, both of which must allow. The rules:

- A slice counts in full from the moment it is granted until its holder's final report; then only what was used, until
  60 s after the last admission under it. So at each grant everything that can lie within 60 s of it is counted.
- The holder counts a slice's time from the request it sent; the granter's deadline is later by the trip and by
  `grace_s`. A slice whose deadline passes in silence counts in full for another 60 s, or until its report comes.
- Running requests count until they are reported as ended or their gateway is lost, whatever becomes of the slice. What
  may be running under a silent slice counts likewise; `expire` says which slices to ask after.
- Tokens are admitted as estimates and reconciled when a request ends: from then on the actual number counts, as of
  the request's admission. What was used beyond the estimate is not refused, for it has happened; it counts from its
  report on. So at every moment the sum over the last 60 s of what is known of each admission is at most N, save for
  such excess. A limit thus bounds tokens served, not the sum of all max_tokens ever wished for.
- A grant is at most a share of what is left, so slices shrink to one as the limit nears; and before anything is
  refused the unused parts of other slices are recalled.
- A standby slice, which a gateway keeps at hand for the next request of a key in use, is granted only while half of
  every limit is left, and is a small share of that; for its sake nothing is recalled.

Time is the driver's monotonic clock in seconds and never runs backwards. Who waits, and who sends the recalls, is the
accounts actor's business. A key without any limit need not come here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from logos.billing.holdings import LIMIT_NAMES, Amounts, Bounds, Held, Scope, bounds
from logos.billing.window import WINDOW_S
from logos.domain.leases import QuotaNeed, QuotaRefusal, QuotaSlice, QuotaUse
from logos.domain.nouns import Key

SHARE = (4, 4, 2)  # one grant takes at most one part in so many of the requests, tokens, running requests that are left
STANDBY_SHARE = (8, 8, 8)
STANDBY_LEFT_MIN = 0.5  # of each limit
FORGET_INTERVAL_S = 1.0
RETRY_RUNNING_S = 1.0  # nobody knows when a running request ends
RETRY_S_MIN = 0.1
_RUNNING = 2  # place in Amounts

ScopeId = tuple[str, int]
Shortage = tuple[Scope, int, int]  # in which scope, of what (place in Amounts), how much is missing


@dataclass(frozen=True, slots=True)
class RecallNeeded:
    """There may be enough once these slices are back: recall them, then ask again when their reports are in, at the
    latest at `until`, when they have expired. Without slices: ask again at `until`, for what gateways held before
    a restart is not known yet."""

    slice_ids: tuple[str, ...]
    until: float


class QuotaBook:
    """All quota of all keys and teams. `epoch` is the accounts actor's; it keeps slice ids apart from older ones."""

    def __init__(self, epoch: int, *, ttl_s: float = 10.0, grace_s: float = 1.0, ready_at: float = 0.0) -> None:
        """`ready_at`: nothing is granted before, so that after a restart gateways can first tell what they hold."""
        self._prefix = f"q{epoch}-"
        self._ttl_s = ttl_s
        self._grace_s = grace_s
        self._ready_at = ready_at
        self._granted = 0
        self._keys: dict[int, Key] = {}
        self._scopes: dict[ScopeId, Scope] = {}
        self._held: dict[str, Held] = {}
        self._forget_next = 0.0

    def apply_limits(self, keys: Iterable[Key], at: float) -> tuple[str, ...]:
        """All keys there are now. Returns the slices to recall at once: of keys that are gone, and of scopes whose
        new limits are below what was granted."""
        self._keys = {key.id: key for key in keys}
        for key in self._keys.values():
            for (kind, owner), limits in _limits_of(key):
                if (kind, owner) in self._scopes:
                    self._scopes[kind, owner].limits = limits
        return tuple(held.slice_id for held in self._held.values() if held.is_live(at) and self._is_too_much(held, at))

    def _is_too_much(self, held: Held, at: float) -> bool:
        if held.key_id not in self._keys:
            return True
        for scope in held.scopes:
            for limit, granted, counted in zip(scope.limits, held.granted, scope.counted(at), strict=True):
                if limit is not None and (granted is None or counted > limit):
                    return True
        return False

    def request(
        self, need: QuotaNeed, gateway_id: str, at: float, *, recall: bool = True
    ) -> QuotaSlice | QuotaRefusal | RecallNeeded:
        """A slice that is enough for one request of `need.tokens` tokens, or why there is none. Reports (`use`) that
        came with the need must be taken in first. `recall` False: those who could be asked were, do not wait on.

        A key that is not known (removed a moment ago) is refused with a limit of 0. A request whose estimate is above
        the whole limit is refused with `limit_value` below `need.tokens`: it will never fit.
        """
        if at < self._ready_at and not need.standby:
            return RecallNeeded((), self._ready_at)
        key = self._keys.get(need.key_id)
        if key is None or at < self._ready_at:
            return QuotaRefusal(need.key_id, LIMIT_NAMES[0], "key", 0, WINDOW_S)
        if at >= self._forget_next:
            self._forget(at)
        scopes = self._scopes_of(key, at)
        asked = Amounts(1, max(need.tokens, 0), 1)
        left = [_left(scope, at) for scope in scopes]
        if need.standby:
            if scope := _too_near(scopes, left, asked):
                return QuotaRefusal(need.key_id, LIMIT_NAMES[0], scope.kind, 0, WINDOW_S)
            return self._grant(need, asked, gateway_id, scopes, left, at)
        shortages = _shortages(scopes, left, asked)
        if not shortages:
            return self._grant(need, asked, gateway_id, scopes, left, at)
        out_of_reach = [each for each in shortages if not recall or each[2] > each[0].unused(at)[each[1]]]
        if out_of_reach:
            return _refusal(need, out_of_reach, at)
        return _recall(shortages, at)

    def _grant(
        self,
        need: QuotaNeed,
        asked: Amounts,
        gateway_id: str,
        scopes: tuple[Scope, ...],
        left: Sequence[Bounds],
        at: float,
    ) -> QuotaSlice:
        wanted = Amounts(need.wanted_requests, need.wanted_tokens, need.wanted_requests)
        tightest = [_tightest(scopes, left, place) for place in range(len(asked))]
        share = STANDBY_SHARE if need.standby else SHARE
        granted = Bounds(*map(_size, asked, wanted, [rest for rest, _ in tightest], share))
        self._granted += 1
        slice_id = f"{self._prefix}{self._granted}"
        self._hold(Held(slice_id, need.key_id, gateway_id, scopes, granted, at + self._ttl_s + self._grace_s))
        (requests_left, requests_limit), (tokens_left, tokens_limit), _ = tightest
        return QuotaSlice(
            slice_id=slice_id,
            key_id=need.key_id,
            gateway_id=gateway_id,
            ttl_s=self._ttl_s,
            requests=granted.requests,
            tokens=granted.tokens,
            concurrent=granted.running,
            limit_requests=requests_limit,
            remaining_requests=_less(requests_left, granted.requests),
            reset_requests_s=WINDOW_S,
            limit_tokens=tokens_limit,
            remaining_tokens=_less(tokens_left, granted.tokens),
            reset_tokens_s=WINDOW_S,
        )

    def use(self, use: QuotaUse, gateway_id: str, at: float) -> None:
        """A holder's report. One of a slice that this book closed before is a repeat and changes nothing; one from
        before a restart is adopted."""
        held = self._held.get(use.slice_id)
        if held is None and not use.slice_id.startswith(self._prefix):
            held = self._adopt(use, gateway_id, at)
        if held is not None:
            held.report(use, at)

    def _adopt(self, use: QuotaUse, gateway_id: str, at: float) -> Held | None:
        """A slice of an earlier epoch. Its holder closes it when it meets the new epoch (`wallet.reintroduce`), so
        what it reports is all; one that is still live counts as far as it has been used."""
        key = self._keys.get(use.key_id)
        if key is None:
            return None
        deadline = at + self._ttl_s + self._grace_s
        held = Held(use.slice_id, key.id, gateway_id, self._scopes_of(key, at), Bounds(0, 0, 0), deadline)
        held.remembered_until = at + WINDOW_S
        self._hold(held)
        return held

    def expire(self, at: float) -> tuple[str, ...]:
        """Forget what counts no longer, and return the slices to recall: those whose deadline passed in silence, as a
        grant that was lost on its way has no holder that would end it. To be called every second or so."""
        self._forget(at)
        return tuple(held.slice_id for held in self._held.values() if not held.closed and at > held.deadline)

    def _forget(self, at: float) -> None:
        self._forget_next = at + FORGET_INTERVAL_S
        for scope in self._scopes.values():
            scope.prune(at)
        self._held = {slice_id: held for slice_id, held in self._held.items() if not held.is_over(at)}
        self._scopes = {owner: scope for owner, scope in self._scopes.items() if not scope.is_idle}

    def gateway_lost(self, gateway_id: str, at: float) -> None:
        """What a dead gateway ran is over; what it was granted it may have admitted, until now."""
        for held in [held for held in self._held.values() if held.gateway_id == gateway_id]:
            held.lose(at)

    def counted(self, kind: str, owner: int, at: float) -> Amounts:
        """What counts against the limits of a `key` or `team` at this moment."""
        scope = self._scopes.get((kind, owner))
        if scope is None:
            return Amounts()
        scope.window.advance(at)
        return scope.counted(at)

    def is_idle(self, at: float) -> bool:
        """Whether nothing at all counts."""
        self._forget(at)
        return not self._held and not self._scopes

    def _hold(self, held: Held) -> None:
        self._held[held.slice_id] = held
        for scope in held.scopes:
            scope.held[held.slice_id] = held

    def _scopes_of(self, key: Key, at: float) -> tuple[Scope, ...]:
        found = []
        for owner, limits in _limits_of(key):
            scope = self._scopes.get(owner)
            if scope is None:
                scope = self._scopes[owner] = Scope(owner[0], limits)
            scope.window.advance(at)
            found.append(scope)
        return tuple(found)


def _limits_of(key: Key) -> list[tuple[ScopeId, Bounds]]:
    own: tuple[ScopeId, Bounds] = (("key", key.id), bounds(key.limits))
    return [own] if key.team_id is None else [own, (("team", key.team_id), bounds(key.team_limits))]


def _left(scope: Scope, at: float) -> Bounds:
    """What the limits leave, below 0 where a limit was lowered or exceeded by what could not be foreseen."""
    counted = scope.counted(at)
    return Bounds(*(None if limit is None else limit - n for limit, n in zip(scope.limits, counted, strict=True)))


def _shortages(scopes: tuple[Scope, ...], left: Sequence[Bounds], asked: Amounts) -> list[Shortage]:
    return [
        (scope, place, asked[place] - rest)
        for scope, rests in zip(scopes, left, strict=True)
        for place, rest in enumerate(rests)
        if rest is not None and rest < asked[place]
    ]


def _too_near(scopes: tuple[Scope, ...], left: Sequence[Bounds], asked: Amounts) -> Scope | None:
    """The first scope with a limit that is too near for a standby slice."""
    for scope, rests in zip(scopes, left, strict=True):
        for limit, rest, need, share in zip(scope.limits, rests, asked, STANDBY_SHARE, strict=True):
            if limit is not None and rest is not None and rest < max(need * share, limit * STANDBY_LEFT_MIN):
                return scope
    return None


def _size(asked: int, wanted: int, left: int | None, share: int) -> int | None:
    """At least what is asked, at most what is wanted, and between them no more than a share of what is left."""
    return None if left is None else max(asked, min(wanted, left // share))


def _tightest(scopes: tuple[Scope, ...], left: Sequence[Bounds], place: int) -> tuple[int, int] | tuple[None, None]:
    """What is left of the limit that leaves the least, and that limit."""
    known = []
    for scope, rests in zip(scopes, left, strict=True):
        rest, limit = rests[place], scope.limits[place]
        if rest is not None and limit is not None:
            known.append((rest, limit))
    return min(known) if known else (None, None)


def _less(left: int | None, granted: int | None) -> int | None:
    return None if left is None else left - (granted or 0)


def _refusal(need: QuotaNeed, out_of_reach: list[Shortage], at: float) -> QuotaRefusal:
    """Names the limit that will hold the longest."""
    waits = [(_retry_after_s(shortage, at), shortage) for shortage in out_of_reach]
    retry_after_s, (scope, place, _) = max(waits, key=lambda each: each[0])
    return QuotaRefusal(need.key_id, LIMIT_NAMES[place], scope.kind, scope.limits[place] or 0, retry_after_s)


def _retry_after_s(shortage: Shortage, at: float) -> float:
    scope, place, missing = shortage
    if place == _RUNNING:
        return RETRY_RUNNING_S
    freed = 0
    for moment, *amounts in sorted(scope.endings(at)):
        freed += amounts[place]
        if freed >= missing:
            return max(moment - at, RETRY_S_MIN)
    return WINDOW_S


def _recall(shortages: list[Shortage], at: float) -> RecallNeeded:
    """The fewest slices whose unused parts may cover each shortage."""
    chosen: dict[str, Held] = {}
    for scope, place, missing in shortages:
        found = sum(held.unused(at)[place] for held in chosen.values() if scope in held.scopes)
        for held in sorted(scope.held.values(), key=lambda each: -each.unused(at)[place]):
            if found >= missing:
                break
            if held.slice_id not in chosen:
                found += held.unused(at)[place]
                chosen[held.slice_id] = held
    return RecallNeeded(tuple(chosen), max(held.deadline for held in chosen.values()))
