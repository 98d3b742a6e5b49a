"""Writes batches of records to the log, once each: log row, attempts, usage and balance in one transaction.

A batch is copied into a temporary table and taken over from there by one statement, which was the fastest of three
ways measured at 500 records (benchmarks/bench_ledger.py): about 35 us a record, 8 of them in Python. A row that is
has its end is left alone, and only rows that were given one in this very statement move a balance, so a resend changes
nothing. No record can block the others: what Postgres refuses is written reduced. Nothing is priced here.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import psycopg

from logos.domain.records import Closing, Opening, Record
from logos.domain.text import storable, storable_text
from logos.storage.ledger_sql import (
    ADD_USAGE_TYPES,
    CLOSE_UNHEARD_OF,
    COPY_TO_STAGING,
    GATEWAYS_UNHEARD_OF,
    LAST_EPOCH,
    MAKE_STAGING,
    READ_LEARNED,
    STAGING_COLUMNS,
    TAKE_OVER,
    WRITE_JOURNAL,
    WRITE_LEARNED,
)

log = logging.getLogger(__name__)

PAYLOAD_CHARACTERS_MAX = 16_000_000
TEXT_CHARACTERS_MAX = 10_000
DEAD_PEER_TIMEOUT_MS = 20_000  # a host that vanished without a word is noticed
INT_BITS = {"smallint": 15, "integer": 31, "bigint": 63}
COST_MICRO_CENTS_MAX = 10**15  # ten million EUR for one request; a balance has room for thousands of them
TIME_MAX_S = 32_503_680_000.0  # the year 3000
# No payload and nothing else that a client wrote: what is left when Postgres refuses a record.
DROPPED_WHEN_REDUCED = frozenset({"input_payload", "response_payload", "headers", "classification_statistics"})

_json = msgspec.json.Encoder()
Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One line of the scheduler's journal. `event` and `commands` are JSON text."""

    sequence: int
    at: float
    kind: str
    event: str | None
    commands: str | None


KEEP = """
INSERT INTO settings (key, value) VALUES (%s, to_jsonb(%s::text))
ON CONFLICT (key) DO UPDATE SET value = excluded.value, updated_at = now()
"""


class LedgerWriter:
    """One connection to the log's tables. Not for concurrent use: its owner writes one batch after the other."""

    def __init__(self, database_url: str) -> None:
        self._url = database_url
        self._connection: psycopg.AsyncConnection[Row] | None = None
        self._token_types: set[str] = set()
        self.refused = 0  # records that not even their reduced form could be stored of; each is in the log

    async def write(self, records: Sequence[Record]) -> frozenset[str]:
        """Store these; the ids that are now safe, which is all of them. Raises ConnectionError when the database
        is away; then nothing of this batch is certain and it must be sent again."""
        rows = [row_of(record) for record in latest_of_each(records)]
        await self._in_transaction(self._write_or_bisect, rows)
        return frozenset(record.opening.request_id for record in records)

    async def write_journal(self, epoch: int, entries: Sequence[JournalEntry]) -> None:
        """Append to the journal of an epoch; entries already there stay as they are."""
        columns = (
            [entry.sequence for entry in entries],
            [entry.at for entry in entries],
            [entry.kind for entry in entries],
            [entry.event for entry in entries],
            [entry.commands for entry in entries],
        )
        await self._in_transaction(self._execute, WRITE_JOURNAL, (epoch, *columns))

    async def write_learned(self, epoch: int, version: int, learned: str) -> None:
        """Keep what the scheduler has learned, unless a later start of it has written already. `learned` is JSON."""
        await self._in_transaction(self._execute, WRITE_LEARNED, (epoch, version, learned))

    async def read_learned(self) -> tuple[int, str] | None:
        """Version and JSON text of what was kept last; None if nothing ever was."""
        found: list[Row] = []
        await self._in_transaction(self._fetch, READ_LEARNED, (), found)
        return (int(found[0][0]), str(found[0][1])) if found else None

    async def last_epoch(self) -> int:
        """The highest of any start of the scheduler that wrote something; 0 if none ever did."""
        found: list[Row] = []
        await self._in_transaction(self._fetch, LAST_EPOCH, (), found)
        return int(found[0][0] or 0)

    async def gateways_unheard_of(self, after_s: float) -> list[str]:
        """Gateways with requests that were accepted so long ago and have no end. Raises ConnectionError."""
        found: list[Row] = []
        await self._in_transaction(self._fetch, GATEWAYS_UNHEARD_OF, (after_s,), found)
        return [str(gateway_id) for (gateway_id,) in found]

    async def close_unheard_of(self, gateway_id: str, after_s: float) -> int:
        """Close such requests of a dead gateway as interrupted, and free; how many. The real end of one, if it ever
        comes, replaces this one and is charged. Raises ConnectionError."""
        closed: list[Row] = []
        await self._in_transaction(self._fetch, CLOSE_UNHEARD_OF, (after_s, gateway_id), closed)
        return len(closed)

    async def keep(self, key: str, value: str) -> None:
        """One fact of the installation, in the place of what was kept under this key. Raises ConnectionError."""
        await self._in_transaction(self._execute, KEEP, (key, value))

    async def kept(self, key: str) -> str | None:
        """What was kept last. Raises ConnectionError."""
        found: list[str] = []

        async def look(connection: psycopg.AsyncConnection[Row]) -> None:
            cursor = await connection.execute("SELECT value #>> '{}' AS value FROM settings WHERE key = %s", (key,))
            found.extend(row[0] for row in await cursor.fetchall())

        await self._in_transaction(look)
        return found[0] if found else None

    async def ping(self) -> None:
        """Raises ConnectionError when the database is away."""
        await self._in_transaction(self._execute, "SELECT 1", ())

    async def close(self) -> None:
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    async def _in_transaction(self, work: Any, *arguments: Any) -> None:
        """Do `work(connection, ...)`; whatever psycopg then says means that the database cannot be relied upon."""
        try:
            connection = await self._connected()
            await work(connection, *arguments)
        except (psycopg.Error, OSError) as error:
            self._abandon()
            raise ConnectionError(f"the database is away: {type(error).__name__}") from error
        except BaseException:
            self._abandon()  # cancelled in the middle of a transaction: its state is unknown
            raise

    async def _connected(self) -> psycopg.AsyncConnection[Row]:
        if self._connection is None or self._connection.closed:
            self._connection = await psycopg.AsyncConnection.connect(
                self._url,
                autocommit=True,
                connect_timeout=5,
                tcp_user_timeout=DEAD_PEER_TIMEOUT_MS,
                application_name="logos ledger",
            )
            await self._connection.execute(MAKE_STAGING)
            self._token_types.clear()
        return self._connection

    def _abandon(self) -> None:
        """Close without a word to the server: it may be gone."""
        if self._connection is not None:
            self._connection.pgconn.finish()
            self._connection = None

    async def _execute(
        self, connection: psycopg.AsyncConnection[Row], statement: Any, parameters: Sequence[Any]
    ) -> None:
        await connection.execute(statement, parameters)

    async def _fetch(
        self, connection: psycopg.AsyncConnection[Row], statement: Any, parameters: Sequence[Any], into: list[Row]
    ) -> None:
        into += await (await connection.execute(statement, parameters)).fetchall()

    async def _write_or_bisect(self, connection: psycopg.AsyncConnection[Row], rows: list[Row]) -> None:
        """One transaction; if Postgres refuses the data, halves, down to the row that is to blame."""
        if not rows:
            return
        try:
            await self._write_once(connection, rows)
        except (psycopg.DataError, psycopg.IntegrityError, UnicodeError) as error:
            if len(rows) > 1:
                middle = len(rows) // 2
                await self._write_or_bisect(connection, rows[:middle])
                await self._write_or_bisect(connection, rows[middle:])
            else:
                await self._write_reduced(connection, rows[0], error)

    async def _write_reduced(self, connection: psycopg.AsyncConnection[Row], row: Row, reason: Exception) -> None:
        log.warning("record %s is stored without its payload: %s", row[0], type(reason).__name__)
        try:
            await self._write_once(connection, [reduced(row)])
        except (psycopg.DataError, psycopg.IntegrityError, UnicodeError) as error:
            self.refused += 1
            log.error("record %s cannot be stored at all: %s", row[0], type(error).__name__)

    async def _write_once(self, connection: psycopg.AsyncConnection[Row], rows: list[Row]) -> None:
        async with connection.transaction():
            cursor = connection.cursor()
            async with cursor.copy(COPY_TO_STAGING) as copy:
                for row in rows:
                    await copy.write_row(row)
            unseen = _token_types_in(rows) - self._token_types
            if unseen:
                await cursor.execute(ADD_USAGE_TYPES, (sorted(unseen),))
            await cursor.execute(TAKE_OVER)
        self._token_types |= unseen


def latest_of_each(records: Sequence[Record]) -> list[Record]:
    """One record per request id: its closed form where there is one. A statement may touch a row only once."""
    found: dict[str, Record] = {}
    for record in records:
        known = found.get(record.opening.request_id)
        if known is None or known.closing is None:
            found[record.opening.request_id] = record
    return list(found.values())


def row_of(record: Record) -> Row:
    """A record as a row of the staging table, in the order of STAGING_COLUMNS."""
    opening, closing = record.opening, record.closing
    place = opening if closing is None or closing.endpoint_id is None else closing
    return (
        *_opened(opening),
        place.provider_id,
        place.model_id,
        place.endpoint_id,
        _short(place.engine_id),
        *(_NOT_CLOSED if closing is None else _closed(closing)),
    )


def _opened(opening: Opening) -> Row:
    return (
        storable_text(opening.request_id),
        _short(opening.client_request_id),
        _short(opening.gateway_id),
        _short(opening.route),
        _short(opening.mode),
        opening.accepted_at,
        opening.key_id,
        opening.team_id,
        opening.user_id,
        opening.policy_id,
        str(opening.log_level),
        _payload(opening.input_payload),
        _jsonb(opening.headers),
        _short(opening.client_ip),
        _jsonb(opening.classification_statistics),
        opening.prompt_tokens,
        int(opening.priority),
        opening.slo_ttft_ms,
        opening.slo_total_ms,
    )


def _closed(closing: Closing) -> Row:
    scheduled = closing.priority_when_scheduled
    return (
        closing.forwarded_at,
        closing.first_token_at,
        closing.ended_at,
        _payload(closing.response_payload),
        None if scheduled is None else int(scheduled),
        closing.queue_depth_at_enqueue,
        closing.queue_depth_at_schedule,
        closing.queue_wait_ms,
        closing.predicted_ttft_ms,
        closing.was_cold_start,
        closing.load_duration_ms,
        closing.overhead_ms,
        len(closing.attempts),
        closing.hedge_winner,
        str(closing.outcome),
        closing.http_status,
        _short(closing.error_message),
        str(closing.usage_source),
        closing.charge.micro_cents,
        closing.charge.currency,
        _jsonb(closing.attempts),
        _jsonb(closing.usage),
    )


_NOT_CLOSED: Row = (None,) * 22
_USAGE = [name for name, _ in STAGING_COLUMNS].index("usage")


def _short(text: str | None) -> str | None:
    return None if text is None else storable_text(text)[:TEXT_CHARACTERS_MAX]


def _payload(text: str | None) -> str | None:
    return None if text is None else storable_text(text)[:PAYLOAD_CHARACTERS_MAX]


def _jsonb(value: Any) -> str | None:
    """JSON that jsonb takes: no NUL, no lone surrogate. What is not JSON at all is left out."""
    if value is None:
        return None
    try:
        try:
            encoded = _json.encode(value)
        except UnicodeEncodeError:
            encoded = _json.encode(storable(value))
        if b"\\u0000" in encoded:
            encoded = _json.encode(storable(msgspec.json.decode(encoded)))
    except (TypeError, ValueError, RecursionError):
        return None
    return encoded.decode()


def _token_types_in(rows: list[Row]) -> set[str]:
    """Names of token types, without decoding the same usage shape twice."""
    shapes = {row[_USAGE] for row in rows if row[_USAGE] is not None}
    return {name for shape in shapes for name in msgspec.json.decode(shape)}


def reduced(row: Row) -> Row:
    """A row that Postgres cannot refuse: no payload, and every number within its column's range."""
    values: list[Any] = []
    for (name, kind), value in zip(STAGING_COLUMNS, row, strict=True):
        if name in DROPPED_WHEN_REDUCED or value is None:
            values.append(None)
        elif name == "usage":
            usage = msgspec.json.decode(value)
            values.append(_jsonb({key: _within(tokens, "bigint") for key, tokens in usage.items()}))
        elif name == "tries":
            values.append("[]")
        elif name == "cost_micro_cents":
            values.append(max(-COST_MICRO_CENTS_MAX, min(COST_MICRO_CENTS_MAX, _within(value, kind))))
        else:
            values.append(_within(value, kind))
    return tuple(values)


def _within(value: Any, kind: str) -> Any:
    """Brought into the range of the column; text is stripped of everything unusual."""
    if kind in INT_BITS:
        bound = 1 << INT_BITS[kind]
        return max(-bound, min(bound - 1, int(value))) if _is_finite(value) else 0
    if kind == "time":
        return max(0.0, min(float(value), TIME_MAX_S)) if _is_finite(value) else 0.0
    if kind == "text":
        return str(value).encode("ascii", "replace").decode().replace("\0", "?")
    return value


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and (isinstance(value, int) or math.isfinite(value))
