"""The migrations make the tables that tables.py describes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text

from logos.domain.errors import DatabaseUnavailable
from logos.storage.database import engine_of
from logos.storage.migrate import configuration, migrate
from logos.storage.tables import metadata
from tests.support.postgres import Server, rows, value


def differences(url: str) -> list[object]:
    engine = engine_of(url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True, "compare_type": True})
        found = compare_metadata(context, metadata)
    engine.dispose()
    return list(found)


def test_migrations_and_metadata_agree(database_url: str) -> None:
    assert differences(database_url) == []


def test_a_difference_between_migrations_and_metadata_is_noticed(database_url: str) -> None:
    engine = engine_of(database_url)
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE log_entry DROP COLUMN overhead_ms"))
        connection.execute(text("DROP INDEX ix_log_entry_failed"))
    engine.dispose()
    assert len(differences(database_url)) == 2


def test_migrating_again_changes_nothing(database_url: str) -> None:
    migrate(database_url)
    head = ScriptDirectory.from_config(configuration()).get_current_head()
    assert value(database_url, "SELECT version_num FROM alembic_version") == head
    assert differences(database_url) == []


def test_two_processes_may_migrate_at_once(postgres_server: Server) -> None:
    with postgres_server.fresh_database(template="template0") as url:
        with ThreadPoolExecutor(3) as pool:
            for running in [pool.submit(migrate, url) for _ in range(3)]:
                running.result()
        assert differences(url) == []


def test_a_url_of_several_hosts_is_for_the_one_that_answers(postgres_server: Server) -> None:
    with postgres_server.fresh_database(template="template0") as url:
        migrate(url.replace("@127.0.0.1", "@127.0.0.1:1,127.0.0.1", 1))
        assert differences(url) == []


@pytest.mark.parametrize(
    ("password", "told"),
    [("its-password", "permission denied for schema public"), ("another", "password authentication failed")],
)
def test_a_user_who_may_not_create_tables_or_log_in_is_told_in_one_line(
    postgres_server: Server, password: str, told: str
) -> None:
    with postgres_server.fresh_database(template="template0") as url:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE ROLE reader LOGIN PASSWORD 'its-password'")
        parts = urlsplit(url)
        try:
            with pytest.raises(DatabaseUnavailable) as raised:
                migrate(f"postgresql://reader:{password}@{parts.hostname}:{parts.port}{parts.path}")
        finally:
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute("DROP ROLE reader")
        said = raised.value.message
        assert told in said
        assert said.endswith("check LOGOS_DATABASE_URL, whose user must be able to log in and to create tables")
        assert "\n" not in said
        assert password not in said.replace(told, "")


def test_a_database_of_a_newer_version_is_told_in_one_line_and_left_alone(database_url: str) -> None:
    engine = engine_of(database_url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(DatabaseUnavailable, match="made by a newer version of Logos \\(9999\\)") as raised:
        migrate(database_url)
    assert "\n" not in raised.value.message
    assert value(database_url, "SELECT version_num FROM alembic_version") == "9999"


def test_every_table_of_the_interface_is_there(database_url: str) -> None:
    found = {
        name
        for (name,) in rows(
            database_url, "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
        )
    }
    assert found >= {
        *("log_entry", "providers", "models", "model_provider", "policies", "teams", "users", "team_members"),
        *("api_keys", "permissions", "attempts", "balances", "token_types", "usage_tokens", "token_prices"),
        *("jobs", "engine_snapshots", "model_profiles", "scheduling_journal", "feedback"),
    }


def test_every_column_of_the_interface_is_in_the_log(database_url: str) -> None:
    found = {
        name
        for (name,) in rows(
            database_url, "SELECT column_name FROM information_schema.columns WHERE table_name = 'log_entry'"
        )
    }
    promised = """id request_id timestamp_request timestamp_forwarding time_at_first_token timestamp_response
        api_key_id team_id user_id provider_id model_id policy_id input_payload headers response_payload client_ip
        privacy_level classification_statistics initial_priority priority_when_scheduled queue_depth_at_enqueue
        queue_depth_at_schedule queue_wait_ms predicted_ttft_ms slo_ttft_ms was_cold_start load_duration_ms attempts
        result_status error_message usage_source cost_micro_cents cost_currency endpoint_id client_request_id"""
    assert set(promised.split()) - found == set()


def test_the_log_refers_to_no_table_of_the_catalogue(database_url: str) -> None:
    assert (
        value(
            database_url,
            """SELECT count(*) FROM information_schema.table_constraints
               WHERE constraint_type = 'FOREIGN KEY' AND table_name IN ('log_entry', 'attempts', 'usage_tokens')""",
        )
        == 0
    )
