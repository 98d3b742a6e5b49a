"""Brings a database to this version's tables. Nothing else may create or alter a table."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from logos.domain.errors import DatabaseUnavailable
from logos.storage.database import engine_of

MIGRATIONS = Path(__file__).parent / "migrations"
LOCK = 4_710_050_001  # an advisory lock: any number that nobody else uses in this database


def configuration() -> Config:
    """Alembic's, made here instead of read from a file."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    return config


def migrate(database_url: str) -> None:
    """Upgrade to the newest version, in one transaction. A second process that races waits for the first, then finds
    nothing to do. Raises DatabaseUnavailable, with the first line of what the database says, when it is away or refuses
    it."""
    try:
        _upgrade(engine_of(database_url, poolclass=NullPool))
    except DBAPIError as error:
        said = str(error.orig).partition("\n")[0]
        raise DatabaseUnavailable(
            f"the database cannot be prepared ({said}): check LOGOS_DATABASE_URL, whose user must be able to log in "
            "and to create tables"
        ) from error


def _upgrade(engine: Engine) -> None:
    config = configuration()
    with engine.begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
        _refuse_newer(connection, ScriptDirectory.from_config(config))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    engine.dispose()


def _refuse_newer(connection: Connection, known: ScriptDirectory) -> None:
    version = MigrationContext.configure(connection).get_current_revision()
    if version is not None and version not in {each.revision for each in known.walk_revisions()}:
        raise DatabaseUnavailable(
            f"the database was made by a newer version of Logos ({version}): use that one, or another database"
        )
