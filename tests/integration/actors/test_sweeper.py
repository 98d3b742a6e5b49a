"""Requests of gateways that are gone for good are closed, and their real end still counts, once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import psycopg
import pytest

from logos.actors.ledger import Ledger
from logos.actors.sweeper import Sweeper
from logos.domain.records import Record
from logos.storage.ledger_sql import TAKE_OVER
from logos.storage.ledger_writer import LedgerWriter
from tests.support.postgres import rows, value
from tests.support.records import closing_of, opening_of

DAY_S = 86_400.0
ENDS = "SELECT result_status, attempts, cost_micro_cents, cost_currency FROM log_entry"
BALANCES = "SELECT scope, micro_cents, requests FROM balances ORDER BY scope"
CHARGED_ONCE = [("key", 1000, 1), ("team", 1000, 1)]


@pytest.fixture
async def writer(database_url: str) -> AsyncIterator[LedgerWriter]:
    ledger_writer = LedgerWriter(database_url)
    yield ledger_writer
    await ledger_writer.close()


@pytest.fixture
async def sweeper(database_url: str) -> AsyncIterator[Sweeper]:
    """For which `gateway-1` is dead, and every other one lives."""

    async def lives(gateway_id: str) -> bool:
        return gateway_id != "gateway-1"

    made = Sweeper(database_url, DAY_S, lives)
    yield made
    await made.close()


def record(age_s: float, number: int = 1, gateway_id: str = "gateway-1") -> Record:
    """Of a request that ended a second after it was accepted."""
    opening = opening_of(number, accepted_at=time.time() - age_s, gateway_id=gateway_id)
    return Record(opening, closing_of(opening))


def running(ended: Record) -> Record:
    return Record(ended.opening)


async def test_a_request_of_a_gateway_that_is_long_dead_is_closed_as_interrupted_and_free(
    writer: LedgerWriter, sweeper: Sweeper, database_url: str
) -> None:
    await writer.write([running(record(DAY_S + 60))])
    assert [await sweeper.sweep(), await sweeper.sweep()] == [1, 0]
    assert rows(database_url, ENDS) == [("interrupted", None, 0, None)]
    assert rows(database_url, BALANCES) == []


async def test_what_is_young_or_of_a_living_gateway_or_has_ended_stays_as_it_is(
    writer: LedgerWriter, sweeper: Sweeper, database_url: str
) -> None:
    young, living = record(DAY_S - 60, 1), record(DAY_S + 60, 2, "gateway-2")
    await writer.write([running(young), running(living), record(DAY_S + 60, 3)])
    assert await sweeper.sweep() == 0
    assert value(database_url, "SELECT count(*) FROM log_entry WHERE result_status IS NULL") == 2
    assert rows(database_url, BALANCES) == CHARGED_ONCE


async def test_its_real_end_replaces_that_and_is_charged_once_however_often_it_comes(
    writer: LedgerWriter, sweeper: Sweeper, database_url: str
) -> None:
    ended = record(DAY_S + 60)
    await writer.write([running(ended)])
    await sweeper.sweep()
    await writer.write([running(ended)])  # the opening once more: it says nothing of an end
    assert rows(database_url, ENDS) == [("interrupted", None, 0, None)]
    for _ in range(2):
        await writer.write([ended])
        assert await sweeper.sweep() == 0
    assert rows(database_url, ENDS) == [("success", 1, 1000, "EUR")]
    assert value(database_url, "SELECT error_message FROM log_entry") is None
    assert rows(database_url, BALANCES) == CHARGED_ONCE
    assert value(database_url, "SELECT count(*) FROM attempts") == 1
    assert value(database_url, "SELECT sum(tokens)::bigint FROM usage_tokens") == 30


async def test_a_sweep_after_the_real_end_changes_nothing(
    writer: LedgerWriter, sweeper: Sweeper, database_url: str
) -> None:
    ended = record(DAY_S + 60)
    await writer.write([running(ended)])
    await writer.write([ended])
    assert await sweeper.sweep() == 0
    assert rows(database_url, ENDS) == [("success", 1, 1000, "EUR")]
    assert rows(database_url, BALANCES) == CHARGED_ONCE


async def test_a_ledger_that_dies_while_the_real_end_is_written_leaves_the_swept_row_and_the_next_one_charges_once(
    writer: LedgerWriter, sweeper: Sweeper, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = record(DAY_S + 60)
    await writer.write([running(ended)])
    await sweeper.sweep()
    monkeypatch.setattr("logos.storage.ledger_writer.TAKE_OVER", dying_statement())
    with pytest.raises(ConnectionError):
        await writer.write([ended])
    monkeypatch.undo()
    assert rows(database_url, ENDS) == [("interrupted", None, 0, None)]
    assert rows(database_url, BALANCES) == []
    await writer.write([ended])
    assert rows(database_url, ENDS) == [("success", 1, 1000, "EUR")]
    assert rows(database_url, BALANCES) == CHARGED_ONCE


def dying_statement() -> str:
    """Takes a batch over, and loses its connection before it is committed."""
    return f"{TAKE_OVER}; SELECT pg_terminate_backend(pg_backend_pid())"


async def test_real_ends_and_sweeps_at_once_charge_each_request_once(
    writer: LedgerWriter, sweeper: Sweeper, database_url: str
) -> None:
    ended = [record(DAY_S + 60, number) for number in range(300)]
    await writer.write([running(each) for each in ended])

    async def write() -> None:
        for first in range(0, 300, 20):
            await writer.write(ended[first : first + 20])

    async def sweep() -> None:
        for _ in range(15):
            await sweeper.sweep()

    await asyncio.gather(write(), sweep())
    assert rows(database_url, "SELECT result_status, count(*) FROM log_entry GROUP BY 1") == [("success", 300)]
    assert value(database_url, "SELECT sum(requests)::bigint FROM balances WHERE scope = 'key'") == 300
    assert value(database_url, "SELECT sum(micro_cents)::bigint FROM balances WHERE scope = 'key'") == 300 * 1000
    assert value(database_url, "SELECT count(*) FROM attempts") == 300


async def test_a_row_that_is_just_being_closed_is_passed_over(
    writer: LedgerWriter, sweeper: Sweeper, database_url: str
) -> None:
    await writer.write([running(record(DAY_S + 60))])
    async with await psycopg.AsyncConnection.connect(database_url) as other:
        await other.execute("UPDATE log_entry SET result_status = 'success', timestamp_response = now()")
        async with asyncio.timeout(10):
            assert await sweeper.sweep() == 0
    assert value(database_url, "SELECT result_status FROM log_entry") == "success"


async def test_the_ledger_sweeps_by_itself(writer: LedgerWriter, database_url: str) -> None:
    async def nobody_lives(gateway_id: str) -> bool:
        return False

    await writer.write([running(record(1.0))])
    ledger = Ledger(database_url, interrupted_after_s=0.05, gateway_lives=nobody_lives)
    ledger.begin_sweeping()
    try:
        async with asyncio.timeout(20):
            while value(database_url, "SELECT count(*) FROM log_entry WHERE result_status IS NULL"):
                await asyncio.sleep(0.02)
    finally:
        await ledger.close()
