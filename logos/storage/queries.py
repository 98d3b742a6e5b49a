"""Reads for reports: /me, /admin and the console. Every statement stands here, as literal SQL.

A few connections, opened when first needed, separate from whatever writes. Nothing here writes, and who may see a row
is the caller's decision, except that everything "of a key" is bound to that key in the statement itself.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any, LiteralString

import psycopg
from psycopg.rows import DictRow, dict_row

from logos.domain.errors import DatabaseUnavailable

CONNECTIONS_MAX = 3
STATEMENT_TIMEOUT_MS = 15_000
PAGE_ROWS_MAX = 1000

_SUMMARY = """
    e.id, e.request_id, e.client_request_id, e.route, e.mode, e.timestamp_request, e.timestamp_forwarding,
    e.time_at_first_token, e.timestamp_response, e.api_key_id, e.team_id, e.user_id, e.provider_id, e.model_id,
    e.endpoint_id, e.engine_id, e.policy_id, m.name AS model, p.name AS provider, e.privacy_level,
    e.classification_statistics, e.initial_priority, e.priority_when_scheduled, e.queue_depth_at_enqueue,
    e.queue_depth_at_schedule, e.queue_wait_ms, e.predicted_ttft_ms, e.slo_ttft_ms, e.slo_total_ms,
    e.was_cold_start, e.load_duration_ms, e.overhead_ms, e.attempts, e.hedge_winner, e.result_status,
    e.http_status, e.error_message, e.usage_source, e.cost_micro_cents, e.cost_currency,
    coalesce((SELECT jsonb_object_agg(u.token_type, u.tokens) FROM usage_tokens u WHERE u.log_entry_id = e.id),
             '{}') AS usage
"""
_FROM = " FROM log_entry e LEFT JOIN models m ON m.id = e.model_id LEFT JOIN providers p ON p.id = e.provider_id "

_DETAIL = """, e.gateway_id, e.client_ip, e.input_payload, e.headers, e.response_payload, e.prompt_tokens_estimated,
    coalesce((SELECT jsonb_agg(jsonb_build_object(
        'number', a.number, 'model_id', a.model_id, 'provider_id', a.provider_id, 'endpoint_id', a.endpoint_id,
        'engine_id', a.engine_id, 'started_at', a.started_at, 'first_byte_at', a.first_byte_at,
        'ended_at', a.ended_at, 'outcome', a.outcome, 'http_status', a.http_status,
        'error_message', a.error_message, 'is_hedge', coalesce(a.is_hedge, false),
        'house_cost_micro_cents', coalesce(a.house_cost_micro_cents, 0),
        'house_cost_currency', a.house_cost_currency) ORDER BY a.number)
        FROM attempts a WHERE a.log_entry_id = e.id), '[]') AS tries
"""

ONE_REQUEST = (
    "SELECT"
    + _SUMMARY
    + _DETAIL
    + _FROM
    + "WHERE e.request_id = %(request_id)s AND (%(key_id)s::bigint IS NULL OR e.api_key_id = %(key_id)s)"
)

SOME_REQUESTS = (
    "SELECT"
    + _SUMMARY
    + _FROM
    + """
WHERE (%(key_id)s::bigint IS NULL OR e.api_key_id = %(key_id)s)
  AND (%(team_id)s::bigint IS NULL OR e.team_id = %(team_id)s)
  AND (%(model_id)s::bigint IS NULL OR e.model_id = %(model_id)s)
  AND (%(result_status)s::text IS NULL OR e.result_status = %(result_status)s)
  AND (%(request_ids)s::text[] IS NULL OR e.request_id = ANY(%(request_ids)s))
  AND (%(before_id)s::bigint IS NULL OR e.id < %(before_id)s)
  AND (%(since)s::timestamptz IS NULL OR e.timestamp_request >= %(since)s)
  AND (%(until)s::timestamptz IS NULL OR e.timestamp_request < %(until)s)
ORDER BY e.id DESC LIMIT %(limit)s
"""
)

# Days are UTC. Cost and usage of one request count once, so they are summed apart and joined by the group.
USAGE = """
WITH chosen AS (
    SELECT id, api_key_id, team_id, model_id, (timestamp_request AT TIME ZONE 'UTC')::date AS day,
           result_status, usage_source, cost_micro_cents, cost_currency
    FROM log_entry
    WHERE timestamp_request >= %(since)s AND timestamp_request < %(until)s
      AND (%(key_id)s::bigint IS NULL OR api_key_id = %(key_id)s)
      AND (%(team_id)s::bigint IS NULL OR team_id = %(team_id)s)
), counted AS (
    SELECT day, api_key_id, team_id, model_id, cost_currency, count(*) AS requests,
           count(*) FILTER (WHERE result_status = 'success') AS successful,
           count(*) FILTER (WHERE usage_source = 'relayed') AS cut_off,
           coalesce(sum(cost_micro_cents), 0)::bigint AS cost_micro_cents
    FROM chosen GROUP BY day, api_key_id, team_id, model_id, cost_currency
), used AS (
    SELECT day, api_key_id, team_id, model_id, cost_currency, jsonb_object_agg(token_type, tokens) AS usage
    FROM (SELECT c.day, c.api_key_id, c.team_id, c.model_id, c.cost_currency, u.token_type,
                 sum(u.tokens)::bigint AS tokens
          FROM chosen c JOIN usage_tokens u ON u.log_entry_id = c.id
          GROUP BY c.day, c.api_key_id, c.team_id, c.model_id, c.cost_currency, u.token_type) AS summed
    GROUP BY day, api_key_id, team_id, model_id, cost_currency
)
SELECT n.day, n.api_key_id, n.team_id, n.model_id, m.name AS model, n.requests, n.successful, n.cut_off,
       n.cost_micro_cents, n.cost_currency, coalesce(u.usage, '{}') AS usage
FROM counted n
LEFT JOIN used u ON u.day = n.day AND u.api_key_id = n.api_key_id AND u.team_id IS NOT DISTINCT FROM n.team_id
    AND u.model_id IS NOT DISTINCT FROM n.model_id AND u.cost_currency IS NOT DISTINCT FROM n.cost_currency
LEFT JOIN models m ON m.id = n.model_id
ORDER BY n.day DESC, n.api_key_id, m.name LIMIT %(limit)s
"""

BALANCES = """
SELECT scope, scope_id, currency, micro_cents, requests, updated_at FROM balances
WHERE (%(scope)s::text IS NULL OR scope = %(scope)s) AND (%(scope_id)s::bigint IS NULL OR scope_id = %(scope_id)s)
ORDER BY scope, scope_id, currency
"""

SPENT_SINCE = """
SELECT cost_currency AS currency, sum(cost_micro_cents)::bigint AS micro_cents, count(*) AS requests
FROM log_entry
WHERE timestamp_request >= %(since)s AND cost_currency IS NOT NULL
  AND (%(key_id)s::bigint IS NULL OR api_key_id = %(key_id)s)
  AND (%(team_id)s::bigint IS NULL OR team_id = %(team_id)s)
GROUP BY cost_currency ORDER BY cost_currency
"""


class Queries:
    """Each call raises DatabaseUnavailable when the database is away."""

    def __init__(self, database_url: str, connections_max: int = CONNECTIONS_MAX) -> None:
        self._url = database_url
        self._idle: list[psycopg.AsyncConnection[DictRow]] = []
        self._turn = asyncio.Semaphore(connections_max)

    async def request(self, request_id: str, *, key_id: int | None = None) -> DictRow | None:
        """One log row with its attempts (`tries`) and usage; only if it is of this key, where one is given."""
        rows = await self._rows(ONE_REQUEST, {"request_id": request_id, "key_id": key_id})
        return rows[0] if rows else None

    async def list_requests(
        self,
        *,
        key_id: int | None = None,
        team_id: int | None = None,
        model_id: int | None = None,
        result_status: str | None = None,
        request_ids: Sequence[str] | None = None,
        before_id: int | None = None,
        since: dt.datetime | None = None,
        until: dt.datetime | None = None,
        limit: int = 100,
    ) -> list[DictRow]:
        """Newest first, without payloads; the next page begins `before_id` the last row's id."""
        parameters = {
            "key_id": key_id,
            "team_id": team_id,
            "model_id": model_id,
            "result_status": result_status,
            "request_ids": None if request_ids is None else list(request_ids),
            "before_id": before_id,
            "since": since,
            "until": until,
            "limit": min(limit, PAGE_ROWS_MAX),
        }
        return await self._rows(SOME_REQUESTS, parameters)

    async def usage(
        self,
        since: dt.datetime,
        until: dt.datetime,
        *,
        key_id: int | None = None,
        team_id: int | None = None,
        limit: int = PAGE_ROWS_MAX,
    ) -> list[DictRow]:
        """Requests, tokens by type and cost per UTC day, key, model and currency."""
        return await self._rows(
            USAGE, {"since": since, "until": until, "key_id": key_id, "team_id": team_id, "limit": limit}
        )

    async def list_balances(self, scope: str | None = None, scope_id: int | None = None) -> list[DictRow]:
        """What has been charged so far; `scope` is key or team."""
        return await self._rows(BALANCES, {"scope": scope, "scope_id": scope_id})

    async def spent_since(
        self, since: dt.datetime, *, key_id: int | None = None, team_id: int | None = None
    ) -> list[DictRow]:
        """Micro-cents per currency charged for requests accepted since then."""
        return await self._rows(SPENT_SINCE, {"since": since, "key_id": key_id, "team_id": team_id})

    async def close(self) -> None:
        while self._idle:
            await self._idle.pop().close()

    async def _rows(self, statement: LiteralString, parameters: Mapping[str, Any]) -> list[DictRow]:
        """A connection that broke while it was idle (a restarted database) is replaced once."""
        async with self._turn:
            for is_last_try in (False, True):
                connection = self._idle.pop() if self._idle else None
                is_fresh = connection is None
                try:
                    if connection is None:
                        connection = await self._connect()
                    cursor = await connection.execute(statement, parameters)
                    rows = await cursor.fetchall()
                except (psycopg.OperationalError, psycopg.InterfaceError) as error:
                    if connection is not None:
                        await connection.close()
                    if is_fresh or is_last_try:
                        raise DatabaseUnavailable from error
                    await self.close()  # the others broke at the same time
                    continue
                except BaseException:
                    if connection is not None:
                        await connection.close()
                    raise
                self._idle.append(connection)
                return rows
        raise DatabaseUnavailable

    async def _connect(self) -> psycopg.AsyncConnection[DictRow]:
        return await psycopg.AsyncConnection.connect(
            self._url,
            autocommit=True,
            connect_timeout=3,
            row_factory=dict_row,
            prepare_threshold=None,  # a plan for the filters at hand, not one for all
            application_name="logos reports",
            options=f"-c statement_timeout={STATEMENT_TIMEOUT_MS}",
        )
