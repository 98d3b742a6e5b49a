"""Fixtures that tests of several rooms share."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.postgres import Server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    """One embedded Postgres for the session; it is stopped whatever happens to the tests.

    Not below pytest's own temporary folder: each start of pytest closes that to other users, and as root the server
    runs as another user.
    """
    with tempfile.TemporaryDirectory(prefix="logos-postgres-", ignore_cleanup_errors=True) as directory:
        server = Server(Path(directory))
        try:
            yield server
        finally:
            server.postgres.stop()


@pytest.fixture
def database_url(postgres_server: Server) -> Iterator[str]:
    """A migrated and otherwise empty database."""
    with postgres_server.fresh_database() as url:
        yield url
