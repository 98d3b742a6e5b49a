"""The database in use, whether embedded or somebody else's: one handle with a URL, a life and a watch; and how its URL
is read.

No table, no statement. The URL holds a password: it goes to DATA_DIR/database_url, readable by the owner only, and
never to a log.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any, Protocol

import psycopg
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import Engine, create_engine

from logos.domain.errors import DatabaseUnavailable, InvalidDeclaration
from logos.storage.embedded import EmbeddedPostgres

log = logging.getLogger(__name__)

WATCH_INTERVAL_S = 1.0
URL_SHAPE = "postgresql://USER:PASSWORD@HOST:PORT/DATABASE"


def parts_of(url: str) -> dict[str, Any]:
    """A postgresql:// URL as libpq reads it, by its names; it may name several hosts. Raises InvalidDeclaration."""
    try:
        return conninfo_to_dict(url)
    except psycopg.ProgrammingError:  # it would repeat the whole URL
        raise InvalidDeclaration(f"LOGOS_DATABASE_URL cannot be read: it should look like {URL_SHAPE}") from None


def engine_of(url: str, *, connect_timeout_s: int | None = None, **options: Any) -> Engine:
    """A SQLAlchemy engine, through psycopg. The URL is left to libpq, because SQLAlchemy knows of one host only."""
    parts = parts_of(url)
    if connect_timeout_s is not None:
        parts["connect_timeout"] = connect_timeout_s
    return create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(**parts), **options)


class Database(Protocol):
    """What `logos up` needs of a database."""

    @property
    def url(self) -> str: ...

    def alive(self) -> bool: ...

    async def watch(self) -> None: ...

    def stop(self) -> None: ...


class EmbeddedDatabase:
    """The embedded Postgres of a data directory: restarted when it dies, stopped when we stop."""

    def __init__(self, server: EmbeddedPostgres) -> None:
        self._server = server

    @property
    def url(self) -> str:
        return self._server.url

    @property
    def pid(self) -> int | None:
        return self._server.pid

    def alive(self) -> bool:
        return self._server.alive()

    async def watch(self) -> None:
        """Look every second and start it again when it is gone, until cancelled or told to stop."""
        while not self._server.stopped:
            await asyncio.sleep(WATCH_INTERVAL_S)
            try:
                await asyncio.to_thread(self._server.restart_if_dead)
            except (DatabaseUnavailable, OSError) as error:
                log.error("the embedded Postgres could not be restarted, trying again: %s", error)

    def stop(self) -> None:
        self._server.stop()


class ExternalDatabase:
    """Somebody else's Postgres: never started, watched or stopped by us."""

    def __init__(self, url: str) -> None:
        self._url = url

    @property
    def url(self) -> str:
        return self._url

    def alive(self) -> bool:
        try:
            self.require_alive()
        except DatabaseUnavailable:
            return False
        return True

    def require_alive(self) -> None:
        """Raises DatabaseUnavailable with the first line of why not, or InvalidDeclaration. No password is named."""
        parts = parts_of(self._url)
        try:
            psycopg.connect(**{**parts, "connect_timeout": 3}).close()
        except psycopg.OperationalError as error:
            said = str(error).partition("\n")[0]
            raise DatabaseUnavailable(f"the database of LOGOS_DATABASE_URL cannot be used: {said}") from None

    async def watch(self) -> None:
        """Its owner watches it; this waits until cancelled."""
        await asyncio.Event().wait()

    def stop(self) -> None:
        """It is not ours to stop."""


def open_database(data_dir: Path, url: str | None = None) -> EmbeddedDatabase | ExternalDatabase:
    """The database at `url`, or without one the embedded Postgres of `data_dir`, started. Blocks until it answers;
    raises DatabaseUnavailable if it does not."""
    data_dir.mkdir(parents=True, exist_ok=True)
    database: EmbeddedDatabase | ExternalDatabase
    if url is None:
        server = EmbeddedPostgres(data_dir)
        server.start()
        database = EmbeddedDatabase(server)
    else:
        database = ExternalDatabase(url)
        database.require_alive()
    partial = data_dir / "database_url.partial"
    partial.unlink(missing_ok=True)
    partial.touch(mode=0o600)
    partial.write_text(database.url + "\n", encoding="utf-8")
    partial.rename(data_dir / "database_url")
    return database
