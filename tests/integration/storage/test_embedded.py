"""The embedded Postgres: its life, its death, and what survives it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from logos.domain.errors import DatabaseUnavailable
from logos.storage.database import EmbeddedDatabase, open_database
from logos.storage.embedded import EmbeddedPostgres
from tests.support.postgres import rows, value


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """Not below pytest's own folder: each start of pytest closes that to other users, and as root the server runs as
    another user."""
    with tempfile.TemporaryDirectory(prefix="logos-embedded-", ignore_cleanup_errors=True) as directory:
        yield Path(directory)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    postgres = EmbeddedPostgres(tmp_path)
    try:
        postgres.start()
        yield postgres
    finally:
        postgres.stop()


def keep_a_number(url: str, number: int) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept (number integer)")
        connection.execute("INSERT INTO kept VALUES (%s)", (number,))


def kill(postgres: EmbeddedPostgres) -> None:
    pid = postgres.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while postgres.alive():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_it_answers_over_tcp_and_over_its_socket(server: EmbeddedPostgres, tmp_path: Path) -> None:
    assert value(server.url, "SELECT current_database()") == "logosdb"
    access = json.loads((tmp_path / "postgres.json").read_text())
    with psycopg.connect(
        host=access["socket_directory"],
        port=access["port"],
        user="postgres",
        password=access["password"],
        dbname="logosdb",
    ) as connection:
        assert connection.execute("SELECT current_user").fetchone() == ("postgres",)


def test_without_the_password_nobody_gets_in(server: EmbeddedPostgres, tmp_path: Path) -> None:
    access = json.loads((tmp_path / "postgres.json").read_text())
    for host in ("127.0.0.1", access["socket_directory"]):
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(host=host, port=access["port"], user="postgres", password="guess", dbname="logosdb")


def test_passwords_lie_in_files_for_the_owner_only(tmp_path: Path) -> None:
    database = open_database(tmp_path)
    database.stop()
    for name in ("postgres.json", "database_url", "postgres.log"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    assert (tmp_path / "database_url").read_text().strip() == database.url
    password = json.loads((tmp_path / "postgres.json").read_text())["password"]
    assert password not in (tmp_path / "postgres.log").read_text()


def test_commits_survive_a_kill_and_the_url_stays_the_same(server: EmbeddedPostgres) -> None:
    url = server.url
    keep_a_number(url, 42)
    kill(server)
    assert server.restart_if_dead()
    assert server.url == url
    assert rows(url, "SELECT number FROM kept") == [(42,)]
    assert not server.restart_if_dead()


async def test_the_watch_restarts_it(server: EmbeddedPostgres) -> None:
    keep_a_number(server.url, 7)
    watch = asyncio.create_task(EmbeddedDatabase(server).watch())
    kill(server)
    async with asyncio.timeout(10):
        while not server.alive():
            await asyncio.sleep(0.05)
        while True:
            try:
                assert value(server.url, "SELECT number FROM kept") == 7
                break
            except psycopg.OperationalError:
                await asyncio.sleep(0.05)
    watch.cancel()


async def test_the_watch_does_not_restart_what_was_stopped(server: EmbeddedPostgres) -> None:
    watch = asyncio.create_task(EmbeddedDatabase(server).watch())
    server.stop()
    await asyncio.wait_for(watch, 3)
    assert not server.alive()


def test_a_server_left_by_a_killed_parent_is_adopted(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys, pathlib\n"
        "from logos.storage.embedded import EmbeddedPostgres\n"
        "EmbeddedPostgres(pathlib.Path(sys.argv[1])).start()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run([sys.executable, "-c", script, str(tmp_path)], timeout=60)
    assert ended.returncode == -signal.SIGKILL
    left = int((tmp_path / "postgres" / "postmaster.pid").read_text().splitlines()[0])
    heir = EmbeddedPostgres(tmp_path)
    try:
        heir.start()
        assert heir.pid == left
        assert value(heir.url, "SELECT 1") == 1
    finally:
        heir.stop()
    assert not heir.alive()


def test_a_pid_file_that_names_somebody_else_does_not_keep_it_from_starting(tmp_path: Path) -> None:
    postgres = EmbeddedPostgres(tmp_path)
    try:
        postgres.start()
        keep_a_number(postgres.url, 3)
        kill(postgres)
        pid_file = tmp_path / "postgres" / "postmaster.pid"
        lines = pid_file.read_text().splitlines()
        stranger = subprocess.Popen(
            ["sleep", "60"], user="nobody" if os.geteuid() == 0 else None, start_new_session=True
        )
        try:
            pid_file.write_text("\n".join([str(stranger.pid), *lines[1:]]) + "\n")
            assert not postgres.alive()
            heir = EmbeddedPostgres(tmp_path)
            heir.start()
            assert rows(heir.url, "SELECT number FROM kept") == [(3,)]
            assert stranger.poll() is None
            heir.stop()
        finally:
            stranger.kill()
            stranger.wait()
    finally:
        postgres.stop()


def test_a_half_made_cluster_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "postgres.new").mkdir()
    (tmp_path / "postgres.new" / "PG_VERSION").write_text("18\n")
    postgres = EmbeddedPostgres(tmp_path)
    try:
        postgres.start()
        assert value(postgres.url, "SELECT 1") == 1
    finally:
        postgres.stop()


def test_a_lost_password_is_named_as_such(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir()
    with pytest.raises(DatabaseUnavailable, match=r"postgres\.json is missing"):
        EmbeddedPostgres(tmp_path).start()


def test_a_long_data_directory_still_has_a_socket(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 120)
    postgres = EmbeddedPostgres(deep)
    try:
        postgres.start()
        directory = json.loads((deep / "postgres.json").read_text())["socket_directory"]
        assert len(directory) <= 90
        assert value(postgres.url, "SELECT 1") == 1
        postgres.stop()
        assert not Path(directory).exists()
        postgres.start()
        assert Path(directory).exists()
    finally:
        postgres.stop()


def test_a_database_elsewhere_that_does_not_answer_is_an_error_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnavailable) as caught:
        open_database(tmp_path, "postgresql://somebody:hunter2@127.0.0.1:1/none")
    assert "hunter2" not in str(caught.value)
