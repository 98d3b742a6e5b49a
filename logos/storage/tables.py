"""The tables of Logos, as SQLAlchemy Core values: the one description that migrations and statements agree with.

Names are a contract (docs: "Database"). Three families live here: the catalogue (providers, models, keys ...), whose
rows are never deleted but marked with `deleted_at`, so that old log rows keep their meaning; the log (log_entry,
attempts, usage_tokens, balances), which has no foreign key to the catalogue because a log row must never be refused;
and the scheduler's records. No statement and no connection belongs in this file. Needs Postgres 15 or newer.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Date,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, TIMESTAMP

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _id() -> Column[Any]:
    return Column("id", BigInteger, Identity(), primary_key=True)


def _time(name: str, *, nullable: bool = True) -> Column[Any]:
    return Column(name, TIMESTAMP(timezone=True), nullable=nullable)


def _created_at() -> Column[Any]:
    return Column("created_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.now())


def _deleted_at() -> Column[Any]:
    return Column("deleted_at", TIMESTAMP(timezone=True))


def _reference(name: str, target: str, *, nullable: bool = False) -> Column[Any]:
    return Column(name, BigInteger, ForeignKey(f"{target}.id"), nullable=nullable)


def _integer(name: str, default: int) -> Column[Any]:
    return Column(name, Integer, nullable=False, server_default=str(default))


def _texts(name: str) -> Column[Any]:
    return Column(name, ARRAY(Text), nullable=False, server_default=text("'{}'::text[]"))


def _limits() -> tuple[Column[Any], ...]:
    """Upper bounds of a key or a team; NULL is unlimited."""
    return (
        Column("requests_per_minute", Integer),
        Column("tokens_per_minute", BigInteger),
        Column("concurrent", Integer),
    )


def _one_of_the_living(table: Table, *columns: str) -> None:
    """Unique among rows that are not deleted, so that a name can be used again."""
    Index(
        f"uq_{table.name}_living",
        *(table.c[name] for name in columns),
        unique=True,
        postgresql_where=table.c.deleted_at.is_(None),
    )


# The catalogue. `privacy` columns hold the name of a domain.nouns.Privacy; priorities are 1, 5 or 10.

providers = Table(
    "providers",
    metadata,
    _id(),
    Column("name", Text, nullable=False),
    Column("kind", Text, nullable=False),  # openai, azure, pool
    Column("base_url", Text),
    Column("api_key", Text),  # as declared; never journalled, never shown
    Column("auth_header", Text, nullable=False, server_default="Authorization"),
    Column("auth_format", Text, nullable=False, server_default="Bearer {key}"),
    Column("privacy", Text, nullable=False),
    _created_at(),
    _deleted_at(),
)
_one_of_the_living(providers, "name")

models = Table(
    "models",
    metadata,
    _id(),
    Column("name", Text, nullable=False),
    Column("description", Text, nullable=False, server_default=""),
    _texts("tags"),
    _integer("weight_latency", 0),
    _integer("weight_accuracy", 0),
    _integer("weight_cost", 0),
    _integer("weight_quality", 0),
    Column("context_length", Integer),  # tokens; NULL: not known
    _texts("capabilities"),  # of: chat, completions, embeddings; empty: not known
    _created_at(),
    _deleted_at(),
)
_one_of_the_living(models, "name")

# The endpoints: a model at a provider.
model_provider = Table(
    "model_provider",
    metadata,
    _id(),
    _reference("model_id", "models"),
    _reference("provider_id", "providers"),
    Column("upstream_model", Text, nullable=False),
    Column("privacy", Text),  # NULL: the provider's
    _integer("max_parallel", 64),
    *_limits(),
    Column("engine", JSONB(none_as_null=True)),  # the fields of domain.nouns.EngineSpec; NULL: served by the remote API
    _created_at(),
    _deleted_at(),
)
_one_of_the_living(model_provider, "model_id", "provider_id", "upstream_model")

policies = Table(
    "policies",
    metadata,
    _id(),
    Column("name", Text, nullable=False),
    Column("privacy", Text, nullable=False),
    Column("priority", SmallInteger, nullable=False, server_default="5"),
    _integer("latency", 0),
    _integer("accuracy", 0),
    _integer("cost", -1024),
    _integer("quality", 0),
    _created_at(),
    _deleted_at(),
)
_one_of_the_living(policies, "name")

teams = Table(
    "teams",
    metadata,
    _id(),
    Column("name", Text, nullable=False),
    *_limits(),
    Column("budget", JSONB(none_as_null=True)),  # {"amount", "currency", "per", "hard"}
    _created_at(),
    _deleted_at(),
)
_one_of_the_living(teams, "name")

users = Table(
    "users",
    metadata,
    _id(),
    Column("name", Text, nullable=False),
    Column("email", Text),
    Column("subject", Text),  # who an identity provider says that it is
    Column("role", Text, nullable=False, server_default="user"),
    _created_at(),
    _deleted_at(),
)
_one_of_the_living(users, "name")

team_members = Table(
    "team_members",
    metadata,
    Column("team_id", BigInteger, ForeignKey("teams.id"), nullable=False),
    Column("user_id", BigInteger, ForeignKey("users.id"), nullable=False),
    Column("role", Text, nullable=False, server_default="member"),
    _created_at(),
    PrimaryKeyConstraint("team_id", "user_id"),
)
Index("ix_team_members_user_id", team_members.c.user_id)

api_keys = Table(
    "api_keys",
    metadata,
    _id(),
    Column("name", Text, nullable=False),
    Column("prefix", Text, nullable=False),
    Column("digest", LargeBinary, nullable=False),  # SHA-256 of the whole key
    Column("role", Text, nullable=False, server_default="user"),
    _reference("team_id", "teams", nullable=True),
    _reference("user_id", "users", nullable=True),
    Column("log", Text, nullable=False, server_default="BILLING"),  # or FULL
    # False: the models in `permissions` and no other.
    Column("every_model", Boolean, nullable=False, server_default=text("true")),
    Column("priority_max", SmallInteger, nullable=False, server_default="10"),
    _reference("policy_id", "policies", nullable=True),
    *_limits(),
    Column("budget", JSONB(none_as_null=True)),
    _time("expires_at"),
    _time("revoked_at"),
    _created_at(),
    UniqueConstraint("prefix"),
)
Index("uq_api_keys_living", api_keys.c.name, unique=True, postgresql_where=api_keys.c.revoked_at.is_(None))
Index("ix_api_keys_team_id", api_keys.c.team_id)

permissions = Table(
    "permissions",
    metadata,
    Column("api_key_id", BigInteger, ForeignKey("api_keys.id"), nullable=False),
    Column("model_id", BigInteger, ForeignKey("models.id"), nullable=False),
    PrimaryKeyConstraint("api_key_id", "model_id"),
)

token_types = Table(
    "token_types",
    metadata,
    Column("name", Text, primary_key=True),  # prompt, completion, cached_prompt, reasoning, ...
    Column("description", Text, nullable=False, server_default=""),
)

# Micro-cents of `currency` (1e8 = 1 EUR) per million tokens. NULL model or provider: any.
token_prices = Table(
    "token_prices",
    metadata,
    _id(),
    _reference("model_id", "models", nullable=True),
    _reference("provider_id", "providers", nullable=True),
    Column("token_type", Text, nullable=False),
    Column("micro_cents_per_million", BigInteger, nullable=False),
    Column("currency", Text, nullable=False),
    Column("valid_from", Date, nullable=False),
    _created_at(),
    _deleted_at(),
)
Index(
    "uq_token_prices_living",
    token_prices.c.model_id,
    token_prices.c.provider_id,
    token_prices.c.token_type,
    token_prices.c.valid_from,
    unique=True,
    postgresql_where=token_prices.c.deleted_at.is_(None),
    postgresql_nulls_not_distinct=True,
)

# Facts of the installation: the directory's version, when the root key was made, ...
settings = Table(
    "settings",
    metadata,
    Column("key", Text, primary_key=True),
    Column("value", JSONB, nullable=False),
    Column("updated_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.now()),
)

# The log. One row per accepted request; `result_status` NULL: still running. Payloads are text, as they were sent:
# they need not be JSON, and a cast (input_payload::jsonb) is there for the ones that are. With a status and without
# `timestamp_response` it was closed because nothing was heard of it; its own end replaces that, if it ever comes.

log_entry = Table(
    "log_entry",
    metadata,
    _id(),
    Column("request_id", Text, nullable=False),
    Column("client_request_id", Text),
    Column("gateway_id", Text),
    Column("route", Text),
    Column("mode", Text),
    _time("timestamp_request", nullable=False),
    _time("timestamp_forwarding"),
    _time("time_at_first_token"),
    _time("timestamp_response"),
    Column("api_key_id", BigInteger, nullable=False),
    Column("team_id", BigInteger),
    Column("user_id", BigInteger),
    Column("provider_id", BigInteger),
    Column("model_id", BigInteger),
    Column("endpoint_id", BigInteger),
    Column("engine_id", Text),
    Column("policy_id", BigInteger),
    Column("privacy_level", Text, nullable=False),  # BILLING or FULL
    Column("input_payload", Text),
    Column("headers", JSONB(none_as_null=True)),
    Column("response_payload", Text),
    Column("client_ip", Text),
    Column("classification_statistics", JSONB(none_as_null=True)),  # NULL in direct mode
    Column("prompt_tokens_estimated", Integer),
    Column("initial_priority", SmallInteger),
    Column("priority_when_scheduled", SmallInteger),
    Column("queue_depth_at_enqueue", Integer),
    Column("queue_depth_at_schedule", Integer),
    Column("queue_wait_ms", Double),
    Column("predicted_ttft_ms", Double),
    Column("slo_ttft_ms", Integer),
    Column("slo_total_ms", Integer),
    Column("was_cold_start", Boolean),
    Column("load_duration_ms", Double),
    Column("overhead_ms", Double),
    Column("attempts", Integer),
    Column("hedge_winner", Text),  # first, second, none; NULL: it had one place at a time
    Column("result_status", Text),  # a domain.lifecycle.Outcome; NULL: still running
    Column("http_status", Integer),
    Column("error_message", Text),
    Column("usage_source", Text),
    Column("cost_micro_cents", BigInteger),  # 0 with a NULL currency: no price row applied
    Column("cost_currency", Text),
    UniqueConstraint("request_id"),
)
Index("ix_log_entry_time", log_entry.c.timestamp_request)
Index("ix_log_entry_key_time", log_entry.c.api_key_id, log_entry.c.timestamp_request)
Index("ix_log_entry_team_time", log_entry.c.team_id, log_entry.c.timestamp_request)
Index("ix_log_entry_model_time", log_entry.c.model_id, log_entry.c.timestamp_request)
Index(
    "ix_log_entry_running",
    log_entry.c.timestamp_request,
    postgresql_where=log_entry.c.result_status.is_(None),
)
Index(
    "ix_log_entry_failed",
    log_entry.c.timestamp_request,
    log_entry.c.result_status,
    postgresql_where=log_entry.c.result_status != text("'success'"),
)

# One row per try of a request.
attempts = Table(
    "attempts",
    metadata,
    Column("log_entry_id", BigInteger, nullable=False),
    Column("number", Integer, nullable=False),  # from 1
    Column("model_id", BigInteger, nullable=False),
    Column("provider_id", BigInteger, nullable=False),
    Column("endpoint_id", BigInteger, nullable=False),
    Column("engine_id", Text),
    _time("started_at", nullable=False),
    _time("first_byte_at"),
    _time("ended_at"),
    Column("outcome", Text),
    Column("http_status", Integer),
    Column("error_message", Text),
    Column("is_hedge", Boolean),
    Column("house_cost_micro_cents", BigInteger),  # of an answer that nobody is charged for
    Column("house_cost_currency", Text),
    PrimaryKeyConstraint("log_entry_id", "number"),
)

usage_tokens = Table(
    "usage_tokens",
    metadata,
    Column("log_entry_id", BigInteger, nullable=False),
    Column("token_type", Text, nullable=False),  # a name in token_types
    Column("tokens", BigInteger, nullable=False),
    PrimaryKeyConstraint("log_entry_id", "token_type"),
)

# What has been charged so far, moved in the transaction that writes the terminal log row.
balances = Table(
    "balances",
    metadata,
    Column("scope", Text, nullable=False),  # key or team
    Column("scope_id", BigInteger, nullable=False),
    Column("currency", Text, nullable=False),
    Column("micro_cents", BigInteger, nullable=False),
    Column("requests", BigInteger, nullable=False),
    Column("updated_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.now()),
    PrimaryKeyConstraint("scope", "scope_id", "currency"),
)

# Good and bad, as users said of requests: one vote per request and key. `vector` is the prompt's direction, a signed
# byte per number, in the space of `embedding`; NULL where it was not known.
feedback = Table(
    "feedback",
    metadata,
    Column("request_id", Text, nullable=False),
    Column("api_key_id", BigInteger, nullable=False),
    Column("model_id", BigInteger, nullable=False),  # that served the request
    Column("good", Boolean, nullable=False),
    Column("embedding", Text),
    Column("vector", LargeBinary),
    _created_at(),
    PrimaryKeyConstraint("request_id", "api_key_id"),
)

# Background jobs: the request as it came, and its answer.
jobs = Table(
    "jobs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("api_key_id", BigInteger, nullable=False),
    Column("route", Text, nullable=False),
    Column("status", Text, nullable=False, server_default="waiting"),
    Column("body", Text, nullable=False),
    Column("headers", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column("result", Text),
    Column("http_status", Integer),
    Column("error_message", Text),
    Column("request_id", Text),
    Column("held_by", Text),
    _time("held_until"),
    _integer("attempts", 0),
    _created_at(),
    _time("started_at"),
    _time("ended_at"),
)
Index("ix_jobs_key_time", jobs.c.api_key_id, jobs.c.created_at)
Index("ix_jobs_open", jobs.c.created_at, postgresql_where=jobs.c.ended_at.is_(None))

# The scheduler's records.

engine_snapshots = Table(
    "engine_snapshots",
    metadata,
    _id(),
    _time("at", nullable=False),
    Column("engine_id", Text, nullable=False),
    Column("endpoint_id", BigInteger, nullable=False),
    Column("node_id", Text),
    Column("state", Text, nullable=False),
    Column("running", Integer),
    Column("waiting", Integer),
    Column("kv_usage", Double),  # 0 to 1
    Column("memory_mib", BigInteger),
)
Index("ix_engine_snapshots_engine_time", engine_snapshots.c.engine_id, engine_snapshots.c.at)

# What a transition of a model has been measured to cost on one kind of hardware.
model_profiles = Table(
    "model_profiles",
    metadata,
    Column("model_id", BigInteger, nullable=False),
    Column("hardware", Text, nullable=False),
    Column("transition", Text, nullable=False),  # load, sleep, wake, ...
    Column("seconds", Double, nullable=False),
    Column("memory_mib", BigInteger),
    _integer("samples", 1),
    Column("profile", JSONB(none_as_null=True)),
    Column("updated_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.now()),
    PrimaryKeyConstraint("model_id", "hardware", "transition"),
)

# Events and the commands that followed, in order within an epoch; each epoch opens with a snapshot.
scheduling_journal = Table(
    "scheduling_journal",
    metadata,
    Column("epoch", BigInteger, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("at", Double, nullable=False),  # the driver's clock, seconds
    Column("recorded_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.now()),
    Column("kind", Text, nullable=False),  # snapshot, or the name of the event
    Column("event", JSONB(none_as_null=True)),
    Column("commands", JSONB(none_as_null=True)),
    PrimaryKeyConstraint("epoch", "sequence"),
)
Index("ix_scheduling_journal_recorded_at", scheduling_journal.c.recorded_at)

# What the scheduler has learned, one row (id 1), replaced as a whole.
scheduler_learned = Table(
    "scheduler_learned",
    metadata,
    Column("id", SmallInteger, primary_key=True, autoincrement=False),
    Column("epoch", BigInteger, nullable=False),  # of the start that wrote it
    Column("version", Integer, nullable=False),  # of the snapshot's meaning
    Column("learned", JSONB(none_as_null=True), nullable=False),
    Column("saved_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.now()),
)
