"""A gateway's side of limits: what is at hand costs no call. The book behind is the real one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from logos.actors.quota_desk import QuotaDesk
from logos.billing.quota import QuotaBook
from logos.billing.standby import KEPT_S
from logos.domain.errors import LimitReached
from logos.domain.leases import QuotaNeed, QuotaRefusal, QuotaSlice, QuotaUse
from logos.domain.nouns import Key, Limits
from logos.gateway.admission import REPORT_INTERVAL_S, Admission, Admitted

FAR = Limits(requests_per_minute=600, tokens_per_minute=1_000_000, concurrent=64)


class Desk:
    """The accounts actor as far as quota goes, behind a line that may be cut; its time can be put forward."""

    def __init__(self, limits: Limits) -> None:
        self.ahead_s = 0.0
        self.asked: list[QuotaNeed] = []
        self.is_cut = False
        self.key = Key(1, "k", "", b"", limits=limits)
        self._book = QuotaBook(1)
        self._desk = QuotaDesk(self._book, self.clock, lambda gateway_id, slice_ids: False)
        self._desk.apply_limits([self.key])

    def clock(self) -> float:
        return time.monotonic() + self.ahead_s

    async def quota(
        self, gateway_id: str, needs: tuple[QuotaNeed, ...], uses: tuple[QuotaUse, ...]
    ) -> tuple[QuotaSlice | QuotaRefusal, ...]:
        if self.is_cut:
            raise ConnectionError("cut")
        self.asked += needs
        return await self._desk.quota(gateway_id, needs, uses)

    async def watch(self, holder: str, epoch: int, version: int, wait_s: float) -> None:
        raise AssertionError("not asked here")

    def take(self, requests: int) -> None:
        """Another gateway has admitted so many."""
        for _ in range(requests):
            self._book.request(QuotaNeed(1, 0), "other", self.clock())

    def is_idle(self) -> bool:
        return self._desk.is_idle()


@pytest.fixture
async def started() -> AsyncIterator[tuple[Desk, Admission]]:
    desk = Desk(FAR)
    admission = Admission("g", desk, desk.clock)  # type: ignore[arg-type]  # quota is all that is asked for
    task = asyncio.create_task(admission.run())
    yield desk, admission
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def until(condition: object) -> None:
    async with asyncio.timeout(5):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.02)


async def test_after_the_first_request_of_a_key_its_next_ones_are_admitted_without_a_call(
    started: tuple[Desk, Admission],
) -> None:
    desk, admission = started
    assert admission.admit_at_once(desk.key, 10) is None
    admission.settle(await admission.admit(desk.key, 10), {"prompt": 5})
    for _ in range(4):
        asked = len(desk.asked)
        await until(lambda asked=asked: len(desk.asked) > asked)
        await asyncio.sleep(0.05)
        desk.ahead_s += 7.0  # more than what a slice has left when it is renewed
        found = admission.admit_at_once(desk.key, 10)
        assert isinstance(found, Admitted)
        admission.settle(found, {"prompt": 5})
    assert all(need.standby for need in desk.asked[1:])


async def test_what_stood_by_for_a_key_that_rests_is_given_back(started: tuple[Desk, Admission]) -> None:
    desk, admission = started
    admission.settle(await admission.admit(desk.key, 10), {})
    await until(lambda: len(desk.asked) == 2)
    desk.ahead_s += KEPT_S + 1.0
    await until(lambda: admission.idle)
    desk.ahead_s += 61.0
    assert desk.is_idle()


async def test_a_line_that_breaks_costs_a_key_nothing_but_a_call(started: tuple[Desk, Admission]) -> None:
    desk, admission = started
    admission.settle(await admission.admit(desk.key, 10), {})
    desk.is_cut = True
    await asyncio.sleep(2 * REPORT_INTERVAL_S)
    assert len(desk.asked) == 1
    desk.is_cut = False
    await until(lambda: len(desk.asked) == 2)


async def test_a_key_near_its_limit_is_not_asked_for_with_every_report(started: tuple[Desk, Admission]) -> None:
    desk, admission = started
    desk.take(40)  # of 64 at once
    admission.settle(await admission.admit(desk.key, 10), {})
    await until(lambda: len(desk.asked) == 2)
    await asyncio.sleep(2.5 * REPORT_INTERVAL_S)
    assert len(desk.asked) == 2


async def test_what_is_refused_is_never_admitted_from_what_stands_by() -> None:
    desk = Desk(Limits(requests_per_minute=3))
    admission = Admission("g", desk, desk.clock)  # type: ignore[arg-type]
    task = asyncio.create_task(admission.run())
    admitted = [await admission.admit(desk.key, 0) for _ in range(3)]
    with pytest.raises(LimitReached):
        await admission.admit(desk.key, 0)
    await asyncio.sleep(2 * REPORT_INTERVAL_S)
    with pytest.raises(LimitReached):
        admission.admit_at_once(desk.key, 0) or await admission.admit(desk.key, 0)
    assert len(admitted) == 3
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
