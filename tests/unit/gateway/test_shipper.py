"""The shipper: what ended is handed to the ledger until the ledger has it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from logos.domain.records import Charge, Record
from logos.gateway.outbox import Outbox
from logos.gateway.shipper import Shipper
from tests.support.dying_gateway import REQUESTS, die_in
from tests.support.records import NOW, closing_of, ids_of, opening_of


class MemoryLedger:
    """A ledger that keeps what it is given, when it is not away."""

    def __init__(self) -> None:
        self.stored: dict[str, list[Record]] = {}
        self.away = False
        self.calls = 0
        self.batches: list[tuple[Record, ...]] = []

    async def append(self, gateway_id: str, records: tuple[Record, ...]) -> frozenset[str]:
        self.calls += 1
        await asyncio.sleep(0)
        if self.away:
            raise ConnectionError("away")
        self.batches.append(records)
        for record in records:
            self.stored.setdefault(record.opening.request_id, []).append(record)
        return ids_of(records)

    async def push_metrics(self, gateway_id: str, snapshot: bytes) -> None:
        raise AssertionError("a shipper pushes no metrics")

    async def metrics(self) -> bytes:
        raise AssertionError("a shipper reads no metrics")

    async def status(self) -> Mapping[str, Any]:
        return {}


@pytest.fixture
def ledger() -> MemoryLedger:
    return MemoryLedger()


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    box = Outbox(tmp_path, "gateway-1")
    yield box
    box.dispose()


@pytest.fixture
def shipper(outbox: Outbox, tmp_path: Path, ledger: MemoryLedger) -> Shipper:
    return Shipper(
        outbox,
        tmp_path,
        "gateway-1",
        ledger,
        lambda opening, usage: Charge(7, "EUR"),
        interval_s=0.002,
        clock=lambda: NOW + 60,
    )


def serve(box: Outbox, count: int) -> None:
    for number in range(count):
        box.open(opening_of(number))
        box.close(closing_of(opening_of(number)))


async def test_everything_that_ended_arrives_once(shipper: Shipper, outbox: Outbox, ledger: MemoryLedger) -> None:
    serve(outbox, 1200)
    running = asyncio.create_task(shipper.run())
    async with asyncio.timeout(5):
        while outbox.records:
            await asyncio.sleep(0.002)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    assert len(ledger.stored) == 1200
    assert all(len(each) == 1 for each in ledger.stored.values())
    assert shipper.lag_s == 0.0


async def test_large_records_are_handed_over_a_few_at_a_time_and_one_that_is_too_large_by_itself(
    shipper: Shipper, outbox: Outbox, tmp_path: Path, ledger: MemoryLedger
) -> None:
    """Hundreds of them would not be written in the time that one batch has, however often it is tried."""
    neighbour = Outbox(tmp_path, "gateway-0")
    mib = {1: 3, 2: 3, 3: 3, 4: 9, 5: 3}
    for box, first in ((outbox, 0), (neighbour, 10)):
        for number, size in mib.items():
            opening = opening_of(first + number, input_payload="x" * size * 2**20)
            box.open(opening)
            box.close(closing_of(opening))
    neighbour.dispose()
    assert await shipper.flush()
    await shipper.adopt_orphans()
    assert [len(each) for each in ledger.batches] == [2, 1, 1, 1] * 2
    assert set(ledger.stored) == {opening_of(first + number).request_id for first in (0, 10) for number in mib}


async def test_while_the_ledger_is_away_nothing_is_dropped_and_it_is_not_hammered(
    shipper: Shipper, outbox: Outbox, ledger: MemoryLedger
) -> None:
    ledger.away = True
    serve(outbox, 10)
    running = asyncio.create_task(shipper.run())
    await asyncio.sleep(0.2)
    assert outbox.records == 10
    assert shipper.lag_s > 50
    assert "away" in shipper.last_error
    assert ledger.calls < 12
    ledger.away = False
    async with asyncio.timeout(5):
        while outbox.records:
            await asyncio.sleep(0.002)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    assert len(ledger.stored) == 10
    assert shipper.last_error == ""


async def test_a_flush_ships_the_rest_and_says_whether_it_could(
    shipper: Shipper, outbox: Outbox, ledger: MemoryLedger
) -> None:
    serve(outbox, 700)
    assert await shipper.flush()
    assert len(ledger.stored) == 700
    ledger.away = True
    outbox.open(opening_of(1000))
    outbox.close(closing_of(opening_of(1000)))
    assert not await shipper.flush(timeout_s=0.05)


async def test_what_the_ledger_did_not_take_is_sent_again(
    shipper: Shipper, outbox: Outbox, ledger: MemoryLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = ledger.append

    async def every_other(gateway_id: str, records: tuple[Record, ...]) -> frozenset[str]:
        return await whole(gateway_id, records[::2])

    monkeypatch.setattr(ledger, "append", every_other)
    serve(outbox, 20)
    assert await shipper.flush()
    assert len(ledger.stored) == 20


async def test_the_outbox_of_a_dead_neighbour_is_shipped_and_deleted(
    shipper: Shipper, ledger: MemoryLedger, tmp_path: Path
) -> None:
    die_in(tmp_path)
    ledger.away = True
    await shipper.adopt_orphans()
    assert len(list(tmp_path.iterdir())) == 2  # a failure leaves it where it is
    ledger.away = False
    await shipper.adopt_orphans()
    assert len(ledger.stored) == REQUESTS
    assert shipper.orphans_shipped == 1
    assert len(list(tmp_path.iterdir())) == 1
