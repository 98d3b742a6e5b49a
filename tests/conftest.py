"""Fixtures that tests of several rooms share."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.postgres import Server

# The same examples every time, so that a red run is the doing of the change that it ran on; what nobody has thought
# of yet is looked for by `make fuzz`.
settings.register_profile("steady", derandomize=True)
settings.register_profile("fuzz", max_examples=2_000, deadline=None)
settings.load_profile("steady")


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
