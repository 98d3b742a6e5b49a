"""The ledger's writer against a real Postgres: each record once, whatever is sent how often."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from logos.domain.lifecycle import Outcome
from logos.domain.nouns import LogLevel
from logos.domain.records import Charge, Record
from logos.storage.ledger_writer import JournalEntry, LedgerWriter
from tests.support.postgres import rows, value
from tests.support.records import NOW, closing_of, ids_of, opening_of, record_of, records

BALANCES_DIFFER = """
SELECT count(*) FROM (
    SELECT 'key', api_key_id, cost_currency, sum(cost_micro_cents)::bigint, count(*) FROM log_entry
    WHERE cost_currency IS NOT NULL GROUP BY 2, 3
    UNION ALL
    SELECT 'team', team_id, cost_currency, sum(cost_micro_cents)::bigint, count(*) FROM log_entry
    WHERE cost_currency IS NOT NULL AND team_id IS NOT NULL GROUP BY 2, 3
) AS summed(scope, scope_id, currency, micro_cents, requests)
FULL JOIN balances USING (scope, scope_id, currency, micro_cents, requests)
WHERE summed IS NULL OR balances IS NULL
"""


@pytest.fixture
async def writer(database_url: str) -> AsyncIterator[LedgerWriter]:
    ledger_writer = LedgerWriter(database_url)
    yield ledger_writer
    await ledger_writer.close()


async def test_a_batch_becomes_rows_attempts_usage_and_balances(writer: LedgerWriter, database_url: str) -> None:
    batch = records(20)
    assert await writer.write(batch) == ids_of(batch)
    assert value(database_url, "SELECT count(*) FROM log_entry WHERE result_status = 'success'") == 20
    assert value(database_url, "SELECT count(*) FROM attempts") == 20
    assert value(database_url, "SELECT sum(tokens)::bigint FROM usage_tokens WHERE token_type = 'completion'") == (
        20 * 20
    )
    assert value(database_url, "SELECT sum(micro_cents)::bigint FROM balances WHERE scope = 'key'") == 20 * 1000
    assert value(database_url, BALANCES_DIFFER) == 0


async def test_every_field_of_a_record_arrives(writer: LedgerWriter, database_url: str) -> None:
    opening = opening_of(
        1,
        log_level=LogLevel.FULL,
        user_id=9,
        policy_id=4,
        client_request_id="mine",
        client_ip="10.0.0.1",
        slo_ttft_ms=2000,
        slo_total_ms=9000,
        classification_statistics={"candidates": 3},
        input_payload='{"model": "m"}',
        headers={"accept": "*/*"},
    )
    closing = closing_of(
        opening, response_payload="hello", was_cold_start=True, load_duration_ms=12.5, error_message="none"
    )
    await writer.write([Record(opening, closing)])
    [row] = rows(
        database_url,
        """SELECT request_id, extract(epoch FROM timestamp_request)::float8,
                  extract(epoch FROM timestamp_response)::float8, api_key_id, team_id, user_id, provider_id,
                  model_id, policy_id, endpoint_id, input_payload, headers, response_payload, client_ip,
                  privacy_level, classification_statistics, initial_priority, priority_when_scheduled,
                  queue_depth_at_enqueue, queue_wait_ms, predicted_ttft_ms, slo_ttft_ms, slo_total_ms, was_cold_start,
                  load_duration_ms, attempts, result_status, error_message, usage_source, cost_micro_cents,
                  cost_currency, client_request_id
           FROM log_entry""",
    )
    assert row == (
        *(opening.request_id, opening.accepted_at, closing.ended_at, opening.key_id, opening.team_id, 9, 1),
        *(opening.model_id, 4, opening.endpoint_id, '{"model": "m"}', {"accept": "*/*"}, "hello", "10.0.0.1"),
        *("FULL", {"candidates": 3}, 5, 5, 0, 0.5, 80.0, 2000, 9000, True, 12.5, 1, "success", "none"),
        *("upstream", 1000, "EUR", "mine"),
    )


async def test_a_resend_changes_nothing(writer: LedgerWriter, database_url: str) -> None:
    batch = records(50)
    await writer.write(batch)
    dearer = [
        replace(r, closing=closing_of(r.opening, charge=Charge(999_999, "EUR"), outcome=Outcome.INTERRUPTED))
        for r in batch
    ]
    assert await writer.write(dearer) == ids_of(batch)
    assert value(database_url, "SELECT count(*) FROM log_entry WHERE result_status = 'success'") == 50
    assert value(database_url, "SELECT sum(cost_micro_cents)::bigint FROM log_entry") == 50_000
    assert value(database_url, "SELECT count(*) FROM attempts") == 50
    assert value(database_url, BALANCES_DIFFER) == 0


async def test_an_open_row_is_closed_once(writer: LedgerWriter, database_url: str) -> None:
    opening = opening_of(1)
    await writer.write([Record(opening)])
    assert rows(database_url, "SELECT result_status, cost_micro_cents FROM log_entry") == [(None, None)]
    assert value(database_url, "SELECT count(*) FROM balances") == 0
    await writer.write([Record(opening)])
    await writer.write([Record(opening, closing_of(opening))])
    await writer.write([Record(opening)])  # an opening that was late
    assert rows(database_url, "SELECT result_status, cost_micro_cents FROM log_entry") == [("success", 1000)]
    assert value(database_url, BALANCES_DIFFER) == 0


async def test_an_opening_and_its_closing_may_come_in_one_batch(writer: LedgerWriter, database_url: str) -> None:
    opening = opening_of(1)
    closed = Record(opening, closing_of(opening))
    await writer.write([Record(opening), closed, closed, Record(opening)])
    assert rows(database_url, "SELECT result_status FROM log_entry") == [("success",)]
    assert value(database_url, BALANCES_DIFFER) == 0


async def test_two_writers_that_race_charge_once(database_url: str) -> None:
    everything = [record_of(number) for number in range(300)]
    writers = [LedgerWriter(database_url) for _ in range(3)]

    async def send(writer: LedgerWriter, seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(6):
            await writer.write(chance.sample(everything, 200))

    await asyncio.gather(*(send(writer, seed) for seed, writer in enumerate(writers)))
    await asyncio.gather(*(writer.write(everything) for writer in writers))
    for writer in writers:
        await writer.close()
    assert value(database_url, "SELECT count(*) FROM log_entry") == 300
    assert value(database_url, "SELECT count(*) FROM attempts") == 300
    assert value(database_url, "SELECT sum(micro_cents)::bigint FROM balances WHERE scope = 'key'") == 300_000
    assert value(database_url, BALANCES_DIFFER) == 0


async def test_without_a_price_the_cost_is_zero_of_no_currency(writer: LedgerWriter, database_url: str) -> None:
    opening = opening_of(1)
    await writer.write([Record(opening, closing_of(opening, charge=Charge()))])
    assert rows(database_url, "SELECT cost_micro_cents, cost_currency FROM log_entry") == [(0, None)]
    assert value(database_url, "SELECT count(*) FROM balances") == 0


async def test_direct_mode_has_no_classification_and_the_earlier_query_says_so(
    writer: LedgerWriter, database_url: str
) -> None:
    direct = [record_of(number) for number in range(90)]
    await writer.write(direct)
    await writer.write([record_of(90, classification_statistics={"policy": "default"})])
    found = rows(
        database_url,
        """
        SELECT id, model_id, CASE WHEN classification_statistics IS NOT NULL THEN 'classification' ELSE 'direct' END
          AS mode FROM log_entry WHERE id > 85 ORDER BY id DESC LIMIT 10;
        """,
    )
    assert [mode for _, _, mode in found] == ["classification"] + ["direct"] * 5


async def test_unusual_text_is_stored_as_far_as_it_can_be(writer: LedgerWriter, database_url: str) -> None:
    opening = opening_of(
        1,
        input_payload="nul \0 and \ud800 and äöü and \t\n\\N",
        headers={"x": "nul \0", "y": "\ud83d", "back\\u0000slash": "\\u0000"},
        classification_statistics={"text": "\0", "not a number": float("nan")},
        client_request_id="\0",
        client_ip="\udfff",
    )
    closing = closing_of(opening, error_message="a\0b", response_payload="\ud800")
    batch = [record_of(0), Record(opening, closing), record_of(2)]
    await writer.write(batch)
    assert value(database_url, "SELECT count(*) FROM log_entry") == 3
    [(payload, headers, statistics)] = rows(
        database_url,
        "SELECT input_payload, headers, classification_statistics FROM log_entry WHERE request_id = %s",
        opening.request_id,
    )
    assert payload == "nul \ufffd and \ufffd and äöü and \t\n\\N"
    assert headers == {"x": "nul \ufffd", "y": "\ufffd", "back\\u0000slash": "\\u0000"}
    assert statistics == {"text": "\ufffd", "not a number": None}


@pytest.mark.parametrize(
    "changes",
    [
        {"usage": {"prompt": 2**63 - 1, "completion": 2**64 - 1}},
        {"usage": {"prompt": 2**80}},
        {"ended_at": float("nan")},
        {"ended_at": 1e300},
        {"queue_depth_at_enqueue": 2**40},
        {"charge": Charge(2**63 - 1, "EUR"), "queue_depth_at_schedule": 2**31},
    ],
)
async def test_a_record_that_postgres_refuses_is_stored_reduced_and_blocks_nobody(
    writer: LedgerWriter, database_url: str, changes: dict[str, object]
) -> None:
    opening = opening_of(7, input_payload="long", log_level=LogLevel.FULL)
    poison = Record(opening, closing_of(opening, **changes))
    batch = [*records(7), poison, *records(9, first=8)]
    assert await writer.write(batch) == ids_of(tuple(batch))
    assert value(database_url, "SELECT count(*) FROM log_entry WHERE result_status = 'success'") == 17
    assert value(database_url, "SELECT count(*) FROM log_entry WHERE error_message IS NOT NULL") == 0
    assert writer.refused == 0
    assert value(database_url, BALANCES_DIFFER) == 0


async def test_an_oversized_payload_is_cut(writer: LedgerWriter, database_url: str) -> None:
    await writer.write([record_of(1, input_payload="x" * 17_000_000)])
    assert value(database_url, "SELECT length(input_payload) FROM log_entry") == 16_000_000


async def test_a_new_token_type_is_listed(writer: LedgerWriter, database_url: str) -> None:
    opening = opening_of(1)
    await writer.write([Record(opening, closing_of(opening, usage={"prompt": 1, "audio_seconds": 4}))])
    assert value(database_url, "SELECT count(*) FROM token_types WHERE name = 'audio_seconds'") == 1
    assert (
        value(database_url, "SELECT tokens FROM usage_tokens JOIN token_types ON name = token_type "
                            "WHERE name = 'audio_seconds'")
        == 4
    )  # fmt: skip


async def test_a_database_that_is_away_is_a_connection_error_without_its_password() -> None:
    writer = LedgerWriter("postgresql://postgres:hunter2@127.0.0.1:1/logosdb")
    with pytest.raises(ConnectionError) as caught:
        await writer.write(records(1))
    assert "hunter2" not in str(caught.value)


async def test_a_cancelled_write_leaves_nothing_and_can_be_sent_again(writer: LedgerWriter, database_url: str) -> None:
    await writer.ping()
    batch = records(2000)
    task = asyncio.create_task(writer.write(batch))
    await asyncio.sleep(0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await writer.write(batch)
    assert value(database_url, "SELECT count(*) FROM log_entry") == 2000
    assert value(database_url, BALANCES_DIFFER) == 0


async def test_the_journal_keeps_its_order_and_takes_repeats(writer: LedgerWriter, database_url: str) -> None:
    entries = [JournalEntry(number, NOW + number, "Woke", '{"at": 1.5}', "[]") for number in range(5)]
    await writer.write_journal(1, entries)
    await writer.write_journal(1, [*entries[3:], JournalEntry(5, NOW + 5, "snapshot", "{}", None)])
    assert rows(database_url, "SELECT sequence, kind, commands FROM scheduling_journal ORDER BY sequence") == [
        *((number, "Woke", []) for number in range(5)),
        (5, "snapshot", None),
    ]
