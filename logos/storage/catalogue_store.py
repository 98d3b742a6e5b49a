"""Reads the directory from Postgres: the catalogue, the client keys and how to reach providers, with their version.

The version rises with every change, in the transaction that makes it; whoever holds a version knows what it stands for.
Writing is in `declaring` (the catalogue) and `key_store` (keys). Nothing here is decided, and no secret is ever logged.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, RowMapping, Select, Table, func, select, text
from sqlalchemy.dialects.postgresql import insert

from logos.declarations import SloDeclared
from logos.domain.catalogue import Catalogue
from logos.domain.directory import ProviderAccess
from logos.domain.nouns import (
    Endpoint,
    EngineSpec,
    Key,
    Limits,
    LogLevel,
    Model,
    Policy,
    Price,
    Priority,
    Privacy,
    Provider,
    Role,
    SloTargets,
    Weights,
)
from logos.storage.tables import (
    api_keys,
    model_provider,
    models,
    permissions,
    policies,
    providers,
    settings,
    teams,
    token_prices,
)

WRITE_LOCK = 4_710_050_002  # an advisory lock: one writer of the directory at a time
VERSION_KEY = "directory_version"
CATALOGUE_VERSION_KEY = "catalogue_version"
SLO_KEY = "slo"
SALT_KEY = "fingerprint_salt"  # made by a migration, secret


@dataclass(frozen=True, slots=True)
class Stored:
    """The directory as it stands in the database at one version."""

    version: int
    catalogue: Catalogue
    keys: tuple[Key, ...]
    access: tuple[ProviderAccess, ...] = field(repr=False)
    salt: str = field(default="", repr=False)


def lock_for_writing(connection: Connection) -> None:
    """Held until the transaction ends, so that two writers never see half of each other."""
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": WRITE_LOCK})


def get_version(connection: Connection) -> int:
    """0 in a new installation."""
    return _number(connection, VERSION_KEY)


def raise_version(connection: Connection, *, catalogue_changed: bool) -> int:
    """The next version, to be called once in a transaction that changed something."""
    version = get_version(connection) + 1
    put_setting(connection, VERSION_KEY, version)
    if catalogue_changed:
        put_setting(connection, CATALOGUE_VERSION_KEY, version)
    return version


def get_setting(connection: Connection, key: str) -> Any:
    """None if it was never set."""
    return connection.execute(select(settings.c.value).where(settings.c.key == key)).scalar_one_or_none()


def put_setting(connection: Connection, key: str, value: Any) -> None:
    statement = insert(settings).values(key=key, value=value)
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=["key"], set_={"value": statement.excluded.value, "updated_at": func.now()}
        )
    )


def load(connection: Connection, now: dt.datetime) -> Stored:
    """Everything, in one snapshot if the transaction is repeatable read. Keys that are over at `now` are left out."""
    access = tuple(
        ProviderAccess(row["id"], row["base_url"], row["api_key"], row["auth_header"], row["auth_format"])
        for row in _living(connection, providers)
        if row["base_url"] is not None
    )
    salt = str(get_setting(connection, SALT_KEY) or "")
    return Stored(get_version(connection), load_catalogue(connection), load_keys(connection, now), access, salt)


def load_catalogue(connection: Connection) -> Catalogue:
    return Catalogue(
        version=_number(connection, CATALOGUE_VERSION_KEY),
        models=tuple(_model(row) for row in _living(connection, models)),
        providers=tuple(
            Provider(row["id"], row["name"], row["kind"], Privacy[row["privacy"]])
            for row in _living(connection, providers)
        ),
        endpoints=_endpoints(connection),
        policies=tuple(_policy(row) for row in _living(connection, policies)),
        prices=tuple(_price(row) for row in _living(connection, token_prices)),
        slo=_slo(connection),
    )


def load_keys(connection: Connection, now: dt.datetime, ids: frozenset[int] | None = None) -> tuple[Key, ...]:
    """The keys that are good at `now`, in order of id; all of them, or those of `ids`."""
    team_limits = [teams.c[name].label(f"team_{name}") for name in LIMIT_COLUMNS]
    statement = (
        select(api_keys, *team_limits)
        .outerjoin(teams, (teams.c.id == api_keys.c.team_id) & teams.c.deleted_at.is_(None))
        .where(api_keys.c.revoked_at.is_(None))
        .where(api_keys.c.expires_at.is_(None) | (api_keys.c.expires_at > now))
        .order_by(api_keys.c.id)
    )
    permitted = select(permissions.c.api_key_id, func.array_agg(permissions.c.model_id)).group_by(
        permissions.c.api_key_id
    )
    if ids is not None:
        statement = statement.where(api_keys.c.id.in_(ids))
        permitted = permitted.where(permissions.c.api_key_id.in_(ids))
    models_of = {key_id: frozenset(model_ids) for key_id, model_ids in connection.execute(permitted)}
    return tuple(_key(row, models_of) for row in connection.execute(statement).mappings())


LIMIT_COLUMNS = ("requests_per_minute", "tokens_per_minute", "concurrent")


def limits_of(row: RowMapping, prefix: str = "") -> Limits:
    return Limits(*(row[f"{prefix}{name}"] for name in LIMIT_COLUMNS))


def limit_columns(limits: Limits) -> dict[str, int | None]:
    return {name: getattr(limits, name) for name in LIMIT_COLUMNS}


def select_living(table: Table) -> Select[Any]:
    return select(table).where(table.c.deleted_at.is_(None)).order_by(table.c.id)


def _living(connection: Connection, table: Table) -> list[RowMapping]:
    return list(connection.execute(select_living(table)).mappings())


def _number(connection: Connection, key: str) -> int:
    return int(get_setting(connection, key) or 0)


def _slo(connection: Connection) -> SloTargets:
    """As declared, or the defaults of the nouns where nothing ever was."""
    stored = get_setting(connection, SLO_KEY)
    return SloTargets() if stored is None else SloDeclared.model_validate(stored).targets


def _endpoints(connection: Connection) -> tuple[Endpoint, ...]:
    statement = (
        select(model_provider, providers.c.privacy.label("provider_privacy"))
        .join(providers, providers.c.id == model_provider.c.provider_id)
        .join(models, models.c.id == model_provider.c.model_id)
        .where(model_provider.c.deleted_at.is_(None))
        .where(providers.c.deleted_at.is_(None), models.c.deleted_at.is_(None))
        .order_by(model_provider.c.id)
    )
    return tuple(_endpoint(row) for row in connection.execute(statement).mappings())


def _endpoint(row: RowMapping) -> Endpoint:
    return Endpoint(
        id=row["id"],
        model_id=row["model_id"],
        provider_id=row["provider_id"],
        privacy=Privacy[row["privacy"] or row["provider_privacy"]],
        upstream_model=row["upstream_model"],
        max_parallel=row["max_parallel"],
        limits=limits_of(row),
        engine=None if row["engine"] is None else engine_from_json(row["engine"]),
    )


def engine_from_json(found: Mapping[str, Any]) -> EngineSpec:
    return EngineSpec(**{**found, "args": tuple(found.get("args", ()))})


def _model(row: RowMapping) -> Model:
    return Model(
        id=row["id"],
        name=row["name"],
        description=row["description"],
        tags=tuple(row["tags"]),
        weights=Weights(row["weight_latency"], row["weight_accuracy"], row["weight_cost"], row["weight_quality"]),
        context_length_tokens=row["context_length"],
        capabilities=frozenset(row["capabilities"]),
    )


def _policy(row: RowMapping) -> Policy:
    return Policy(
        id=row["id"],
        name=row["name"],
        privacy=Privacy[row["privacy"]],
        priority=Priority(row["priority"]),
        latency=row["latency"],
        accuracy=row["accuracy"],
        cost=row["cost"],
        quality=row["quality"],
    )


def _price(row: RowMapping) -> Price:
    return Price(
        id=row["id"],
        token_type=row["token_type"],
        micro_cents_per_million=row["micro_cents_per_million"],
        currency=row["currency"],
        valid_from=row["valid_from"],
        model_id=row["model_id"],
        provider_id=row["provider_id"],
    )


def _key(row: RowMapping, models_of: Mapping[int, frozenset[int]]) -> Key:
    return Key(
        id=row["id"],
        name=row["name"],
        prefix=row["prefix"],
        digest=bytes(row["digest"]),
        role=Role(row["role"]),
        team_id=row["team_id"],
        user_id=row["user_id"],
        log_level=LogLevel(row["log"]),
        model_ids=None if row["every_model"] else models_of.get(row["id"], frozenset()),
        priority_max=Priority(row["priority_max"]),
        policy_id=row["policy_id"],
        limits=limits_of(row),
        team_limits=limits_of(row, "team_"),
        expires_at=None if row["expires_at"] is None else row["expires_at"].timestamp(),
    )
