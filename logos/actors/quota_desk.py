"""The live driver of `billing.quota`: takes needs and reports in, recalls slices through the watches, waits, answers.

Reports are taken in before anything is awaited, so a recalled slice comes back even while its holder waits here for a
slice of its own. Whether a holder can be asked, and who it is, is told from outside; the arithmetic is the book's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from logos.billing.quota import QuotaBook, RecallNeeded
from logos.domain.leases import QuotaNeed, QuotaRefusal, QuotaSlice, QuotaUse
from logos.domain.nouns import Key

RECALL_WAIT_S = 0.3  # for slices that were recalled, before a need is decided without them
SLICE_FORGOTTEN_S = 180.0  # longer than a slice counts after its deadline

Answer = QuotaSlice | QuotaRefusal


@dataclass(slots=True)
class _Out:
    """A slice that somebody holds."""

    gateway_id: str
    heard_at: float
    recalled: bool = False


class QuotaDesk:
    """One QuotaBook and those who wait at it."""

    def __init__(
        self, book: QuotaBook, clock: Callable[[], float], recall: Callable[[str, frozenset[str]], bool]
    ) -> None:
        """`recall(gateway_id, slice_ids)` asks for slices back; False: this gateway is not there to be asked."""
        self._book = book
        self._clock = clock
        self._recall = recall
        self._out: dict[str, _Out] = {}
        self._reported = asyncio.Event()  # replaced each time reports come in

    async def quota(
        self, gateway_id: str, needs: tuple[QuotaNeed, ...], uses: tuple[QuotaUse, ...]
    ) -> tuple[Answer, ...]:
        """An answer to each need, in order."""
        now = self._clock()
        for use in uses:
            self._book.use(use, gateway_id, now)
            self._note(use, gateway_id, now)
        if uses:
            self._reported.set()
            self._reported = asyncio.Event()
        first = [self._book.request(need, gateway_id, now) for need in needs]
        answers = []
        for need, answer in zip(needs, first, strict=True):
            decided = await self._wait(need, gateway_id, answer) if isinstance(answer, RecallNeeded) else answer
            if isinstance(decided, QuotaSlice):
                self._out[decided.slice_id] = _Out(gateway_id, self._clock())
            answers.append(decided)
        return tuple(answers)

    def apply_limits(self, keys: Iterable[Key]) -> None:
        """Keys or limits have changed; what was granted beyond them is recalled."""
        self._ask_back(self._book.apply_limits(keys, self._clock()))

    def gateway_lost(self, gateway_id: str) -> None:
        self._book.gateway_lost(gateway_id, self._clock())
        for slice_id in [slice_id for slice_id, out in self._out.items() if out.gateway_id == gateway_id]:
            del self._out[slice_id]
        self._reported.set()
        self._reported = asyncio.Event()

    def holders(self) -> Mapping[str, float]:
        """Gateways that hold slices, and when each was last heard here."""
        heard: dict[str, float] = {}
        for out in self._out.values():
            heard[out.gateway_id] = max(heard.get(out.gateway_id, out.heard_at), out.heard_at)
        return heard

    def expire(self) -> None:
        """To be called every so often: memory of what counts no longer goes, silent slices are asked for."""
        now = self._clock()
        self._ask_back(self._book.expire(now))
        for slice_id in [slice_id for slice_id, out in self._out.items() if now - out.heard_at > SLICE_FORGOTTEN_S]:
            del self._out[slice_id]

    def is_idle(self) -> bool:
        return self._book.is_idle(self._clock())

    def _note(self, use: QuotaUse, gateway_id: str, now: float) -> None:
        if use.final and not use.running:
            self._out.pop(use.slice_id, None)
            return
        out = self._out.setdefault(use.slice_id, _Out(gateway_id, now))
        out.heard_at = now
        if use.final:
            out.recalled = True  # closed: there is nothing more to ask back

    def _ask_back(self, slice_ids: Iterable[str]) -> bool:
        """Recalls what was not recalled before. Whether anybody can be waited for."""
        wanted: dict[str, set[str]] = {}
        for slice_id in slice_ids:
            out = self._out.get(slice_id)
            if out is not None:
                wanted.setdefault(out.gateway_id, set()).add(slice_id)
        awaited = False
        for gateway_id, found in wanted.items():
            new = frozenset(slice_id for slice_id in found if not self._out[slice_id].recalled)
            if new and self._recall(gateway_id, new):
                for slice_id in new:
                    self._out[slice_id].recalled = True
            awaited = awaited or any(self._out[slice_id].recalled for slice_id in found)
        return awaited

    async def _wait(self, need: QuotaNeed, gateway_id: str, answer: Answer | RecallNeeded) -> Answer:
        """Recalls and waits for reports until there is enough, or until waiting longer would not be worth it."""
        deadline = self._clock() + RECALL_WAIT_S
        while isinstance(answer, RecallNeeded):
            # Without slices nothing is granted yet to anybody, for a moment after a restart: that is waited for.
            until = min(answer.until, deadline) if answer.slice_ids else answer.until
            patient = self._ask_back(answer.slice_ids) or not answer.slice_ids
            left_s = until - self._clock()
            if patient and left_s > 0:
                await _wait_for(self._reported, left_s)
            now = self._clock()
            late = bool(answer.slice_ids) and (not patient or now >= deadline)
            answer = self._book.request(need, gateway_id, now, recall=not late)
            if not isinstance(answer, RecallNeeded):
                break
            if not answer.slice_ids:
                deadline = answer.until + RECALL_WAIT_S
        return answer


async def _wait_for(event: asyncio.Event, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return
