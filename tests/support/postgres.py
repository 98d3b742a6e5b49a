"""A Postgres for tests: one embedded server, and for each test a database copied from a migrated template."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from logos.storage.embedded import EmbeddedPostgres
from logos.storage.migrate import migrate

TEMPLATE = "logos_template"


class Server:
    """A started embedded Postgres with a migrated template database."""

    def __init__(self, directory: Path) -> None:
        self.postgres = EmbeddedPostgres(directory)
        self.postgres.start()
        self._numbers = itertools.count(1)
        self._create(TEMPLATE, "template0")
        migrate(self.url_of(TEMPLATE))

    @contextmanager
    def fresh_database(self, template: str = TEMPLATE) -> Iterator[str]:
        """The URL of a database made from `template`, dropped at the end (a stopped server keeps it)."""
        name = f"logos_test_{next(self._numbers)}"
        self._create(name, template)
        try:
            yield self.url_of(name)
        finally:
            if self.postgres.alive():
                self._run(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def url_of(self, database: str) -> str:
        return f"{self.postgres.url.rpartition('/')[0]}/{database}"

    def _create(self, name: str, template: str) -> None:
        self._run(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template)))

    def _run(self, statement: sql.Composed) -> None:
        with psycopg.connect(self.postgres.url, autocommit=True) as connection:
            connection.execute(statement)


def rows(url: str, query: str, *arguments: Any) -> list[tuple[Any, ...]]:
    """What a query of a test answers."""
    with psycopg.connect(url) as connection:
        return connection.execute(query, arguments or None).fetchall()  # type: ignore[arg-type]  # tests write literals


def value(url: str, query: str, *arguments: Any) -> Any:
    """The one value of the one row."""
    ((found,),) = rows(url, query, *arguments)
    return found
