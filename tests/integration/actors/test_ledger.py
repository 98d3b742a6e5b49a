"""The ledger actor as a plain object: group commit, and a database that dies and comes back."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from logos.actors.ledger import METRICS_KEPT_INTERVAL_S, Ledger
from logos.config import LedgerSettings
from logos.domain.records import Charge
from logos.gateway.outbox import Outbox
from logos.gateway.ports import LedgerPort
from logos.gateway.shipper import Shipper
from logos.storage.embedded import EmbeddedPostgres
from logos.storage.ledger_writer import LedgerWriter
from logos.storage.migrate import migrate
from logos.telemetry.metrics import Instruments
from tests.support.postgres import value
from tests.support.records import closing_of, ids_of, opening_of, records


@pytest.fixture
async def ledger(database_url: str) -> AsyncIterator[Ledger]:
    actor = Ledger(database_url)
    await actor.start()
    yield actor
    await actor.close()


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    """A server of its own, to be killed."""
    postgres = EmbeddedPostgres(tmp_path / "data")
    try:
        postgres.start()
        migrate(postgres.url)
        yield postgres
    finally:
        postgres.stop()


def kill(postgres: EmbeddedPostgres) -> None:
    pid = postgres.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


async def test_it_is_what_gateways_expect(ledger: Ledger) -> None:
    port: LedgerPort = ledger
    batch = records(3)
    assert await port.append("gateway-1", batch) == ids_of(batch)
    assert await port.append("gateway-1", ()) == frozenset()
    status = await port.status()
    assert status["database_up"] is True
    assert status["stored_records"] == 3
    assert status["pending_records"] == 0


async def test_appends_that_come_together_are_committed_together(ledger: Ledger, database_url: str) -> None:
    calls = [ledger.append(f"gateway-{number}", records(5, first=5 * number)) for number in range(40)]
    stored = await asyncio.gather(*calls)
    assert len(frozenset().union(*stored)) == 200
    assert value(database_url, "SELECT count(*) FROM log_entry") == 200
    transactions = value(database_url, "SELECT count(DISTINCT xmin::text) FROM log_entry")
    assert isinstance(transactions, int)
    assert transactions <= 3


@pytest.mark.parametrize(("batch_records_max", "transactions"), [(5, 4), (10, 2)])
async def test_a_transaction_takes_as_many_records_as_the_settings_say(
    database_url: str, batch_records_max: int, transactions: int
) -> None:
    settings = LedgerSettings(batch_records_max=batch_records_max)
    ledger = Ledger(database_url, **settings.model_dump())
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(ledger.close)
        await asyncio.gather(*(ledger.append(f"gateway-{number}", records(5, first=5 * number)) for number in range(4)))
    assert value(database_url, "SELECT count(DISTINCT xmin::text) FROM log_entry") == transactions


@pytest.mark.parametrize(("batch_wait_ms", "transactions"), [(0.0, 2), (200.0, 1)])
async def test_a_transaction_waits_for_company_as_long_as_the_settings_say(
    database_url: str, batch_wait_ms: float, transactions: int
) -> None:
    settings = LedgerSettings(batch_wait_ms=batch_wait_ms)
    ledger = Ledger(database_url, **settings.model_dump())
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(ledger.close)
        await ledger.start()
        first = asyncio.create_task(ledger.append("gateway-1", records(5)))
        for _ in range(5):  # the writer has its turn
            await asyncio.sleep(0)
        await asyncio.gather(first, ledger.append("gateway-2", records(5, first=5)))
    assert value(database_url, "SELECT count(DISTINCT xmin::text) FROM log_entry") == transactions


def test_every_setting_of_the_ledger_is_a_parameter_of_it_with_the_same_default() -> None:
    parameters = inspect.signature(Ledger).parameters
    settings = LedgerSettings().model_dump()
    assert {name: parameters[name].default for name in settings} == settings


async def test_too_much_at_once_is_refused_and_can_be_sent_again(ledger: Ledger, database_url: str) -> None:
    batch = records(500)
    answers = await asyncio.gather(*(ledger.append("gateway-1", batch) for _ in range(50)), return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, ConnectionError)]
    assert refused
    assert len(refused) < 50
    assert await ledger.append("gateway-1", batch) == ids_of(batch)
    assert value(database_url, "SELECT count(*) FROM log_entry") == 500


async def test_a_caller_that_leaves_takes_nobody_with_it(ledger: Ledger, database_url: str) -> None:
    leaving = asyncio.create_task(ledger.append("gateway-1", records(100)))
    staying = asyncio.create_task(ledger.append("gateway-2", records(100, first=100)))
    await asyncio.sleep(0)
    leaving.cancel()
    assert len(await staying) == 100
    assert (await ledger.status())["pending_records"] == 0


async def test_while_the_database_is_away_nothing_is_acknowledged_and_then_all_of_it(
    mortal: EmbeddedPostgres, tmp_path: Path
) -> None:
    ledger = Ledger(mortal.url)
    root = tmp_path / "outbox"
    outbox = Outbox(root, "gateway-1")
    shipper = Shipper(outbox, root, "gateway-1", ledger, lambda *_: Charge(), interval_s=0.005)
    shipping = asyncio.create_task(shipper.run())
    for number in range(1500):
        opening = opening_of(number)
        outbox.open(opening)
        outbox.close(closing_of(opening))
        if number == 700:
            await asyncio.sleep(0.02)
            kill(mortal)
        if number % 50 == 0:
            await asyncio.sleep(0.002)
    await asyncio.sleep(0.1)
    while mortal.alive():
        await asyncio.sleep(0.01)
    assert outbox.records >= 700
    assert (await ledger.status())["database_up"] is False
    assert b"logos_database_up 0.0" in await ledger.metrics()
    with pytest.raises(ConnectionError):
        await ledger.append("gateway-2", records(1, first=5000))
    mortal.start()
    assert await shipper.flush(timeout_s=20)
    shipping.cancel()
    assert outbox.records == 0
    assert value(mortal.url, "SELECT count(*) FROM log_entry WHERE result_status = 'success'") == 1500
    assert value(mortal.url, "SELECT sum(micro_cents)::bigint FROM balances WHERE scope = 'key'") == 1_500_000
    assert (await ledger.status())["database_up"] is True
    await ledger.close()


async def test_a_closed_ledger_refuses(database_url: str) -> None:
    ledger = Ledger(database_url)
    await ledger.close()
    with pytest.raises(ConnectionError):
        await ledger.append("gateway-1", records(1))


async def test_metrics_are_the_sum_over_gateways(ledger: Ledger) -> None:
    for number in (1, 2):
        instruments = Instruments()
        instruments.request_ended("m", "p", "success", 0.5)
        await ledger.push_metrics(f"gateway-{number}", instruments.snapshot())
    text = (await ledger.metrics()).decode()
    assert 'logos_requests_total{model="m",outcome="success",provider="p"} 2.0' in text
    assert "logos_database_up 1.0" in text


def counted(requests: int) -> bytes:
    instruments = Instruments()
    for _ in range(requests):
        instruments.request_ended("m", "p", "success", 0.5)
    instruments.in_flight(1)
    return instruments.snapshot()


async def test_a_restarted_ledger_goes_on_with_the_counters_of_gateways_that_have_died(database_url: str) -> None:
    now = [100.0]
    first = Ledger(database_url, clock=lambda: now[0])
    for gateway, requests in (("dead", 3), ("living", 5)):
        now[0] += METRICS_KEPT_INTERVAL_S
        await first.push_metrics(gateway, counted(requests))
    await first.close()
    again = Ledger(database_url, clock=lambda: now[0], restarted=True)
    await again.push_metrics("living", counted(6))
    await asyncio.sleep(0.5)
    text = (await again.metrics()).decode()
    assert 'logos_requests_total{model="m",outcome="success",provider="p"} 9.0' in text
    assert "logos_in_flight 1.0" in text, "the gauges of the dead do not count"
    await again.close()


async def test_a_ledger_that_starts_for_the_first_time_counts_from_zero(ledger: Ledger, database_url: str) -> None:
    kept = LedgerWriter(database_url)
    await kept.keep("metrics of gateways", "not a dump")
    assert await kept.kept("metrics of gateways") == "not a dump"
    assert await kept.kept("nothing") is None
    await ledger.push_metrics("g", counted(1))
    again = Ledger(database_url, restarted=True)
    await again.push_metrics("g", counted(2))  # what cannot be read is told in the log, and that is all
    await asyncio.sleep(0.3)
    assert b'provider="p"} 2.0' in await again.metrics()
    await again.close()
    await kept.close()
