"""What reports read: a key's own rows, usage sums, balances."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator
from dataclasses import replace

import psycopg
import pytest

from logos.domain.errors import DatabaseUnavailable
from logos.domain.lifecycle import Outcome, UsageSource
from logos.domain.nouns import LogLevel
from logos.domain.records import Charge, Record
from logos.storage.ledger_writer import LedgerWriter
from logos.storage.queries import Queries
from tests.support.postgres import rows
from tests.support.records import NOW, closing_of, opening_of, record_of, records

DAY = dt.timedelta(days=1)
START = dt.datetime.fromtimestamp(NOW, dt.UTC) - DAY


@pytest.fixture
async def queries(database_url: str) -> AsyncIterator[Queries]:
    some = Queries(database_url)
    yield some
    await some.close()


async def write(url: str, *some: Record) -> None:
    writer = LedgerWriter(url)
    await writer.write(some)
    await writer.close()


async def test_a_request_is_found_with_attempts_usage_and_classification(queries: Queries, database_url: str) -> None:
    opening = opening_of(
        1, classification_statistics={"a": 1}, input_payload="in", log_level=LogLevel.FULL, headers={"h": "v"}
    )
    await write(database_url, Record(opening, closing_of(opening, response_payload="out")))
    row = await queries.request(opening.request_id, key_id=opening.key_id)
    assert row is not None
    assert row["classification_statistics"] == {"a": 1}
    assert row["usage"] == {"prompt": 10, "completion": 20}
    assert [(each["number"], each["outcome"]) for each in row["tries"]] == [(1, "success")]
    assert (row["input_payload"], row["response_payload"], row["headers"]) == ("in", "out", {"h": "v"})
    assert row["cost_micro_cents"] == 1000


async def test_a_hedged_request_shows_who_won_and_what_the_house_bears(queries: Queries, database_url: str) -> None:
    opening = opening_of(1)
    closing = closing_of(opening)
    [first] = closing.attempts
    lost = replace(first, outcome=Outcome.OUTRUN, house_cost=Charge(40, "EUR"))
    won = replace(first, number=2, endpoint_id=9, is_hedge=True)
    hedged = replace(closing, attempts=(won, lost), hedge_winner="second")
    await write(database_url, Record(opening, hedged), record_of(2))
    row = await queries.request(opening.request_id)
    assert row is not None
    assert (row["hedge_winner"], row["attempts"], row["cost_micro_cents"]) == ("second", 2, 1000)
    names = ("number", "outcome", "is_hedge", "house_cost_micro_cents", "house_cost_currency")
    assert [tuple(each[name] for name in names) for each in row["tries"]] == [
        (1, "outrun", False, 40, "EUR"),
        (2, "success", True, 0, None),
    ]
    assert dict(rows(database_url, "SELECT scope_id, micro_cents FROM balances WHERE scope = 'key'")) == {
        opening.key_id: 1000,
        record_of(2).opening.key_id: 1000,
    }
    other = await queries.request(record_of(2).opening.request_id)
    assert other is not None
    assert other["hedge_winner"] is None


async def test_another_keys_request_is_not_found(queries: Queries, database_url: str) -> None:
    await write(database_url, *records(1))
    request_id = opening_of(0).request_id
    assert await queries.request(request_id, key_id=999) is None
    assert await queries.request(request_id) is not None
    assert await queries.request("no such") is None


async def test_requests_of_a_key_come_in_pages_newest_first_without_payloads(
    queries: Queries, database_url: str
) -> None:
    await write(database_url, *records(70))
    seen: list[str] = []
    before: int | None = None
    while page := await queries.list_requests(key_id=1, before_id=before, limit=4):
        assert {row["api_key_id"] for row in page} == {1}
        assert "input_payload" not in page[0]
        seen += [row["request_id"] for row in page]
        before = page[-1]["id"]
    assert seen == [opening_of(number).request_id for number in range(63, -1, -7)]


async def test_the_requests_of_some_ids_are_found_and_only_the_keys_own(queries: Queries, database_url: str) -> None:
    await write(database_url, *records(70))
    own, foreign = opening_of(7), opening_of(8)
    assert own.key_id != foreign.key_id
    wanted = [own.request_id, foreign.request_id, "no such"]
    found = await queries.list_requests(key_id=own.key_id, request_ids=wanted)
    assert [row["request_id"] for row in found] == [own.request_id]
    assert found[0]["predicted_ttft_ms"] == 80.0
    assert await queries.list_requests(key_id=own.key_id, request_ids=[]) == []


async def test_the_log_can_be_filtered(queries: Queries, database_url: str) -> None:
    failed = opening_of(500)
    await write(
        database_url,
        *records(10),
        Record(failed, closing_of(failed, outcome=Outcome.UPSTREAM_ERROR)),
        Record(opening_of(501)),
    )
    assert [row["request_id"] for row in await queries.list_requests(result_status="upstream_error")] == [
        failed.request_id
    ]
    assert len(await queries.list_requests(team_id=1)) == 5
    assert {row["model_id"] for row in await queries.list_requests(model_id=2)} == {2}
    assert len(await queries.list_requests(until=START)) == 0
    assert len(await queries.list_requests(since=START, until=START + 2 * DAY)) == 12


async def test_usage_sums_count_each_request_and_each_token_once(queries: Queries, database_url: str) -> None:
    cut_off = opening_of(700, key_id=50, team_id=None)
    tomorrow = opening_of(701, key_id=50, team_id=None, accepted_at=NOW + 86_400)
    unpriced = opening_of(702, key_id=50, team_id=None, model_id=1 + 700 % 5)
    await write(
        database_url,
        *records(35),
        Record(
            cut_off,
            closing_of(
                cut_off,
                outcome=Outcome.CLIENT_LEFT,
                usage_source=UsageSource.RELAYED,
                usage={"prompt": 3, "completion": 4, "reasoning": 1},
            ),
        ),
        Record(tomorrow, closing_of(tomorrow)),
        Record(unpriced, closing_of(unpriced, charge=Charge(), usage={})),
    )
    own = await queries.usage(START, START + 3 * DAY, key_id=50)
    assert [
        (r["requests"], r["successful"], r["cut_off"], r["cost_micro_cents"], r["cost_currency"], r["usage"])
        for r in sorted(own, key=lambda r: (r["day"], str(r["cost_currency"])))
    ] == [
        (1, 0, 1, 1000, "EUR", {"prompt": 3, "completion": 4, "reasoning": 1}),
        (1, 1, 0, 0, None, {}),
        (1, 1, 0, 1000, "EUR", {"prompt": 10, "completion": 20}),
    ]
    everybody = await queries.usage(START, START + 3 * DAY)
    assert sum(row["requests"] for row in everybody) == 38
    assert sum(row["usage"].get("completion", 0) for row in everybody) == 35 * 20 + 4 + 20
    assert sum(row["cost_micro_cents"] for row in everybody) == 37 * 1000


async def test_balances_and_spending_agree(queries: Queries, database_url: str) -> None:
    await write(database_url, *records(70))
    [balance] = await queries.list_balances("key", 1)
    assert (balance["micro_cents"], balance["requests"], balance["currency"]) == (10_000, 10, "EUR")
    [spent] = await queries.spent_since(START, key_id=1)
    assert (spent["micro_cents"], spent["requests"]) == (10_000, 10)
    assert len(await queries.list_balances("team")) == 3
    assert await queries.spent_since(START + 2 * DAY) == []


async def test_it_survives_connections_that_broke_while_they_were_idle(queries: Queries, database_url: str) -> None:
    await queries.list_balances()
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'logos reports'"
        )
    assert await queries.list_balances() == []


async def test_it_opens_few_connections(queries: Queries, database_url: str) -> None:
    await asyncio.gather(*(queries.list_balances() for _ in range(20)))
    [(connections,)] = rows(
        database_url, "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'logos reports'"
    )
    assert connections <= 3


async def test_a_database_that_is_away_says_so_without_its_password() -> None:
    away = Queries("postgresql://postgres:hunter2@127.0.0.1:1/none")
    with pytest.raises(DatabaseUnavailable) as caught:
        await away.list_balances()
    assert "hunter2" not in str(caught.value)
