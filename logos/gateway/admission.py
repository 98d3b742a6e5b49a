"""Admitting requests within their key's limits: from the wallet without any call, else by one call at a time.

The arithmetic is `billing.wallet`'s, the decision `billing.quota`'s in the accounts actor; here is only the asking,
waiting and reporting. A key without limits costs nothing, and one in use finds a slice that the last report fetched.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from logos.billing.wallet import QuotaWallet, Spent
from logos.domain.errors import DirectoryStale, LimitReached
from logos.domain.leases import QuotaNeed, QuotaRefusal, QuotaSlice, QuotaUse
from logos.domain.nouns import Key
from logos.gateway.ports import AccountsPort

log = logging.getLogger(__name__)

REPORT_INTERVAL_S = 0.5
RETRY_WAIT_S = 0.1
AWAY_WAIT_S_MAX = 5.0  # how long a request waits for an accounts actor that restarts
TRIES_MAX = 8


@dataclass(frozen=True, slots=True)
class Admitted:
    """The right to go on. `spent` is None for a key without limits."""

    spent: Spent | None = None


UNLIMITED = Admitted()


@dataclass(slots=True, eq=False)
class _Asking:
    key_id: int
    tokens: int
    answer: asyncio.Future[Spent]
    since: float
    tries: int = 0


class Admission:
    """`admit_at_once` where the wallet allows it, else `admit`; `settle` once at the end of every request."""

    def __init__(self, gateway_id: str, accounts: AccountsPort, clock: Callable[[], float]) -> None:
        self._gateway_id = gateway_id
        self._accounts = accounts
        self._clock = clock
        self._wallet = QuotaWallet(gateway_id)
        self._asking: list[_Asking] = []
        self._wake = asyncio.Event()
        self._introduce = False
        self._recalls: set[asyncio.Task[None]] = set()

    def admit_at_once(self, key: Key, tokens: int) -> Admitted | None:
        """None: ask. Raises LimitReached where the same was refused a moment ago."""
        if key.limits.is_unlimited and key.team_limits.is_unlimited:
            return UNLIMITED
        now = self._clock()
        spent = self._wallet.spend(key.id, tokens, now)
        if spent is not None:
            return Admitted(spent)
        refusal = self._wallet.refusal(key.id, tokens, now)
        if refusal is not None:
            raise _refused(refusal)
        return None

    async def admit(self, key: Key, tokens: int) -> Admitted:
        """Asks the accounts actor. Raises LimitReached, or DirectoryStale if it stays away."""
        asking = _Asking(key.id, tokens, asyncio.get_running_loop().create_future(), self._clock())
        self._asking.append(asking)
        self._wake.set()
        try:
            return Admitted(await asking.answer)
        except asyncio.CancelledError:
            # Admitted in the very moment the client left: nobody will settle it but us.
            if asking.answer.done() and not asking.answer.cancelled() and asking.answer.exception() is None:
                self._wallet.settle(asking.answer.result(), 0, self._clock())
            raise
        finally:
            if asking in self._asking:
                self._asking.remove(asking)

    def settle(self, admitted: Admitted, usage: Mapping[str, int]) -> None:
        """The request is over; its estimate is replaced by what it used."""
        if admitted.spent is not None:
            tokens = usage.get("prompt", 0) + usage.get("completion", 0)
            self._wallet.settle(admitted.spent, tokens, self._clock())

    def recall(self, slice_ids: tuple[str, ...]) -> None:
        """Somebody else needs what lies idle here: hand it back now, whatever else is under way."""
        uses = self._wallet.recall(slice_ids, self._clock())
        task = asyncio.get_running_loop().create_task(self._return(uses))
        self._recalls.add(task)
        task.add_done_callback(self._recalls.discard)

    def reintroduce(self) -> None:
        """The accounts actor has restarted: tell it everything before asking for anything."""
        self._introduce = True
        self._wake.set()

    @property
    def idle(self) -> bool:
        return self._wallet.is_idle() and not self._asking

    async def run(self) -> None:
        """Asks and reports until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REPORT_INTERVAL_S):
                    await self._wake.wait()
            self._wake.clear()
            try:
                await self.round()
            except (ConnectionError, TimeoutError) as error:
                log.warning("the accounts actor is away: %s", error)
                self._give_up_waiting()
                await asyncio.sleep(RETRY_WAIT_S)
                self._wake.set()

    async def round(self) -> None:
        """One exchange: what is due and what is needed, one call."""
        now = self._clock()
        introducing, self._introduce = self._introduce, False
        asked = [] if introducing else self._still_asking(now)
        # Both close slices, so they come before what is due.
        needs = self._needs(asked, now)
        standbys = () if introducing else self._wallet.standby_needs(now)
        uses = self._wallet.reintroduce(now) if introducing else self._wallet.due(now)
        if not needs and not standbys and not uses:
            return
        try:
            answers = await self._accounts.quota(self._gateway_id, (*needs, *standbys), uses)
        except BaseException:
            self._introduce = self._introduce or introducing
            raise
        self._wallet.reported(uses, self._clock())
        self._take_in(answers[: len(needs)], needs, asked, now)
        self._take_in_standbys(answers[len(needs) :], now)
        if self._asking:
            self._wake.set()

    def _still_asking(self, now: float) -> list[_Asking]:
        """Those that the wallet cannot serve by now."""
        for asking in list(self._asking):
            spent = self._wallet.spend(asking.key_id, asking.tokens, now)
            if spent is not None:
                self._answer(asking, spent)
        return list(self._asking)

    def _needs(self, asked: list[_Asking], now: float) -> tuple[QuotaNeed, ...]:
        """One need per key, large enough for the largest request that waits."""
        of_key: dict[int, list[_Asking]] = {}
        for asking in asked:
            of_key.setdefault(asking.key_id, []).append(asking)
        return tuple(
            self._wallet.need(key_id, max(each.tokens for each in waiting), now, len(waiting))
            for key_id, waiting in of_key.items()
        )

    def _take_in(
        self,
        answers: tuple[QuotaSlice | QuotaRefusal, ...],
        needs: tuple[QuotaNeed, ...],
        asked: list[_Asking],
        sent_at: float,
    ) -> None:
        refusals: dict[int, tuple[QuotaRefusal, int]] = {}
        for answer, need in zip(answers, needs, strict=True):
            if isinstance(answer, QuotaSlice):
                self._wallet.add(answer, sent_at)
            else:
                refusals[need.key_id] = answer, need.tokens
        now = self._clock()
        for asking in asked:
            if asking.answer.done():
                continue
            spent = self._wallet.spend(asking.key_id, asking.tokens, now)
            asking.tries += 1
            if spent is not None:
                self._answer(asking, spent)
            elif asking.key_id in refusals:
                refusal, tokens = refusals[asking.key_id]
                if asking.tokens >= tokens or asking.tries >= TRIES_MAX:
                    self._wallet.refused(refusal, asking.tokens, now)
                    self._fail(asking, _refused(refusal))
            elif asking.tries >= TRIES_MAX:
                self._fail(asking, LimitReached(retry_after_s=1.0))

    def _take_in_standbys(self, answers: tuple[QuotaSlice | QuotaRefusal, ...], sent_at: float) -> None:
        for answer in answers:
            if isinstance(answer, QuotaSlice):
                self._wallet.add_standby(answer, sent_at)
            else:
                self._wallet.standby_denied(answer.key_id, sent_at)

    def _answer(self, asking: _Asking, spent: Spent) -> None:
        self._asking.remove(asking)
        if asking.answer.done():
            self._wallet.settle(spent, 0, self._clock())
        else:
            asking.answer.set_result(spent)

    def _fail(self, asking: _Asking, error: LimitReached | DirectoryStale) -> None:
        if asking in self._asking:
            self._asking.remove(asking)
        if not asking.answer.done():
            asking.answer.set_exception(error)

    def _give_up_waiting(self) -> None:
        now = self._clock()
        for asking in list(self._asking):
            if now - asking.since > AWAY_WAIT_S_MAX:
                self._fail(
                    asking, DirectoryStale("Limits cannot be checked at the moment; try again in a few seconds.")
                )

    async def _return(self, uses: tuple[QuotaUse, ...]) -> None:
        with contextlib.suppress(ConnectionError, TimeoutError):  # what failed here is due again in the next round
            await self._accounts.quota(self._gateway_id, (), uses)
            self._wallet.reported(uses, self._clock())

    async def close(self) -> None:
        """Reports what is left, so that nothing stays counted as running."""
        with contextlib.suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(1.0):
                await self.round()


def _refused(refusal: QuotaRefusal) -> LimitReached:
    what = {
        "requests_per_minute": f"{refusal.limit_value} requests per minute",
        "tokens_per_minute": f"{refusal.limit_value} tokens per minute",
        "concurrent": f"{refusal.limit_value} requests at once",
    }.get(refusal.limit, refusal.limit)
    message = f"This {refusal.scope}'s limit of {what} is reached; try again in {refusal.retry_after_s:.0f} s or later."
    return LimitReached(message, param=refusal.limit, retry_after_s=refusal.retry_after_s)
