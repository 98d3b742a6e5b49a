"""Fixtures that tests of several rooms share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.postgres import Server


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One embedded Postgres for the session; it is stopped whatever happens to the tests."""
    server = Server(tmp_path_factory.mktemp("postgres"))
    try:
        yield server
    finally:
        server.postgres.stop()


@pytest.fixture
def database_url(postgres_server: Server) -> Iterator[str]:
    """A migrated and otherwise empty database."""
    with postgres_server.fresh_database() as url:
        yield url
