"""Votes in Postgres, for the classifier: all are read at its start, then one by one. Nothing is decided here.

One connection, opened when first needed and replaced when it broke. Not for concurrent use.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg

from logos.domain.errors import DatabaseUnavailable

CONNECT_TIMEOUT_S = 3
STATEMENT_TIMEOUT_MS = 5_000

ALL = "SELECT request_id, api_key_id, model_id, good, embedding, vector FROM feedback ORDER BY created_at, request_id"
ONE = """
SELECT request_id, api_key_id, model_id, good, embedding, vector FROM feedback
WHERE request_id = %(request_id)s AND api_key_id = %(key_id)s
"""
PUT = """
INSERT INTO feedback (request_id, api_key_id, model_id, good, embedding, vector)
VALUES (%(request_id)s, %(key_id)s, %(model_id)s, %(good)s, %(embedding)s, %(vector)s)
ON CONFLICT (request_id, api_key_id) DO UPDATE
SET good = excluded.good, model_id = excluded.model_id, embedding = excluded.embedding, vector = excluded.vector,
    created_at = now()
"""
REMOVE = "DELETE FROM feedback WHERE request_id = %(request_id)s AND api_key_id = %(key_id)s"


@dataclass(frozen=True, slots=True)
class Vote:
    """What one key said of one request. `vector`: signed bytes in the space named by `embedding`; both may be None."""

    request_id: str
    key_id: int
    model_id: int
    good: bool
    embedding: str | None = None
    vector: bytes | None = None


class FeedbackStore:
    """Each call raises DatabaseUnavailable when the database is away; then nothing was changed."""

    def __init__(self, database_url: str) -> None:
        self._url = database_url
        self._connection: psycopg.AsyncConnection[Any] | None = None

    async def list_votes(self) -> list[Vote]:
        return [Vote(*row) for row in await self._run(ALL, {}, answers=True)]

    async def get(self, request_id: str, key_id: int) -> Vote | None:
        found = await self._run(ONE, {"request_id": request_id, "key_id": key_id}, answers=True)
        return Vote(*found[0]) if found else None

    async def put(self, vote: Vote) -> None:
        """Stores a vote in place of the one that this key gave before."""
        values = {name: getattr(vote, name) for name in Vote.__dataclass_fields__}
        await self._run(PUT, values)

    async def remove(self, request_id: str, key_id: int) -> None:
        await self._run(REMOVE, {"request_id": request_id, "key_id": key_id})

    async def close(self) -> None:
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    async def _run(
        self, statement: LiteralString, values: Mapping[str, Any], *, answers: bool = False
    ) -> list[tuple[Any, ...]]:
        """Once more on a fresh connection if the one that was there broke: every statement may be repeated."""
        for is_last_try in (self._connection is None, True):
            try:
                cursor = await (await self._connected()).execute(statement, values)
                return await cursor.fetchall() if answers else []
            except (psycopg.OperationalError, psycopg.InterfaceError) as error:
                await self.close()
                if is_last_try:
                    raise DatabaseUnavailable from error
        raise DatabaseUnavailable

    async def _connected(self) -> psycopg.AsyncConnection[Any]:
        if self._connection is None:
            self._connection = await psycopg.AsyncConnection.connect(
                self._url,
                autocommit=True,
                connect_timeout=CONNECT_TIMEOUT_S,
                application_name="logos classifier",
                options=f"-c statement_timeout={STATEMENT_TIMEOUT_MS}",
            )
        return self._connection
