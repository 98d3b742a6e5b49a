"""Writes a declaration into the catalogue's tables: upserts by name, in the caller's one transaction.

Declaring the same twice changes nothing. What a declaration refers to must exist, else InvalidDeclaration names the
place and nothing at all was changed. Rows are never removed, only marked deleted, so old log rows keep their meaning.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import BaseModel
from sqlalchemy import Connection, Table, and_, delete, func, select
from sqlalchemy.dialects.postgresql import insert

from logos.declarations import (
    POOL_PROVIDER,
    Declaration,
    EngineDeclared,
    ModelDeclared,
    ProviderDeclared,
    RemoteDeclared,
    UserDeclared,
)
from logos.domain.errors import InvalidDeclaration
from logos.domain.nouns import EngineSpec, Privacy
from logos.storage.catalogue_store import SLO_KEY, get_setting, limit_columns, put_setting
from logos.storage.tables import (
    model_provider,
    models,
    policies,
    providers,
    team_members,
    teams,
    token_prices,
    token_types,
    users,
)

# What is declared of an engine in the same words and units as the catalogue has it.
SPEC_FIELDS = {
    *("gpus", "weights", "min_replicas", "max_replicas", "pinned", "args"),
    *("load_s", "wake_s", "sleep_s"),
}
CATALOGUE_KINDS = frozenset({"provider", "model", "endpoint", "policy", "price", "slo"})


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that is now different."""

    kind: str
    name: str
    action: str  # created, updated, deleted, rotated, revoked
    id: int


@dataclass(slots=True)
class Changes:
    """What a transaction changed, in order; `secrets` are keys made on the way, to be shown once."""

    made: list[Change] = field(default_factory=list)
    secrets: dict[str, str] = field(default_factory=dict, repr=False)
    notes: list[str] = field(default_factory=list)

    def add(self, kind: str, name: str, action: str | None, row_id: int) -> None:
        if action is not None:
            self.made.append(Change(kind, name, action, row_id))

    def add_all(self, part: Changes) -> None:
        """What a part of the transaction has changed, once it is sure that it stays."""
        self.made += part.made
        self.secrets |= part.secrets
        self.notes += part.notes

    @property
    def touches_catalogue(self) -> bool:
        return any(change.kind in CATALOGUE_KINDS for change in self.made)


class Names:
    """Ids of living rows by name, looked up once a transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._known: dict[str, dict[str, int]] = {}

    def id_of(self, table: Table, name: str, place: str) -> int:
        """Raises InvalidDeclaration that names `place`."""
        found = self.find(table, name)
        if found is None:
            raise InvalidDeclaration(f"{place}: there is no {SINGULAR[table.name]} {name}; declare it first")
        return found

    def find(self, table: Table, name: str) -> int | None:
        known = self._known.get(table.name)
        if known is None:
            living = select(table.c.name, table.c.id).where(table.c.deleted_at.is_(None))
            known = {row.name: row.id for row in self._connection.execute(living)}
            self._known[table.name] = known
        return known.get(name)

    def learn(self, table: Table, name: str, row_id: int) -> None:
        self.find(table, name)
        self._known[table.name][name] = row_id


SINGULAR = {"providers": "provider", "models": "model", "policies": "policy", "teams": "team", "users": "user"}


def put(
    connection: Connection, table: Table, identity: Mapping[str, Any], values: Mapping[str, Any]
) -> tuple[int, str | None]:
    """Insert, update or leave the living row of this identity: its id, and "created", "updated" or None."""
    same = and_(*(table.c[name].is_not_distinct_from(value) for name, value in identity.items()))
    row = connection.execute(select(table).where(same, table.c.deleted_at.is_(None))).mappings().one_or_none()
    if row is None:
        statement = insert(table).values({**identity, **values}).returning(table.c.id)
        return int(connection.execute(statement).scalar_one()), "created"
    changed = {name: value for name, value in values.items() if row[name] != value}
    if changed:
        connection.execute(table.update().where(table.c.id == row["id"]).values(changed))
    return int(row["id"]), "updated" if changed else None


def mark_deleted(connection: Connection, table: Table, row_id: int) -> None:
    connection.execute(table.update().where(table.c.id == row_id).values(deleted_at=func.now()))


def declare(connection: Connection, declaration: Declaration, changes: Changes) -> Names:
    """Everything but the keys (see `key_store`), in an order in which references resolve."""
    names = Names(connection)
    for provider in declaration.providers:
        _put_named(connection, names, changes, providers, provider.name, _provider_columns(provider))
    for index, model in enumerate(declaration.models):
        _put_model(connection, names, changes, model, f"models[{index}]")
    for index, endpoint in enumerate(declaration.endpoints):
        place = f"endpoints[{index}]"
        model_id = names.id_of(models, endpoint.model, f"{place}.model")
        _put_remote(connection, names, changes, endpoint, model_id, endpoint.model, place)
    _put_prices(connection, names, changes, declaration)
    for policy in declaration.policies:
        columns = policy.model_dump(exclude={"name", "privacy", "priority"})
        columns |= {"privacy": policy.privacy.name, "priority": int(policy.priority)}
        _put_named(connection, names, changes, policies, policy.name, columns)
    for team in declaration.teams:
        team_columns = {**limit_columns(team.limits.limits), "budget": budget_json(team.budget)}
        _put_named(connection, names, changes, teams, team.name, team_columns)
    for index, user in enumerate(declaration.users):
        _put_user(connection, names, changes, user, f"users[{index}]")
    if declaration.slo is not None:
        slo = declaration.slo.model_dump(mode="json")
        if get_setting(connection, SLO_KEY) != slo:
            put_setting(connection, SLO_KEY, slo)
            changes.add("slo", "slo", "updated", 0)
    _check_places(connection)
    return names


def budget_json(budget: BaseModel | None) -> dict[str, Any] | None:
    return None if budget is None else budget.model_dump(mode="json")


def _put_named(
    connection: Connection, names: Names, changes: Changes, table: Table, name: str, columns: Mapping[str, Any]
) -> int:
    row_id, action = put(connection, table, {"name": name}, columns)
    names.learn(table, name, row_id)
    changes.add(SINGULAR[table.name], name, action, row_id)
    return row_id


def _provider_columns(provider: ProviderDeclared) -> dict[str, Any]:
    header, form = provider.auth
    columns: dict[str, Any] = {
        "kind": provider.kind,
        "base_url": provider.base_url,
        "auth_header": header,
        "auth_format": form,
        "privacy": provider.privacy.name,
    }
    if "api_key" in provider.model_fields_set or provider.kind == "pool":
        columns["api_key"] = None if provider.api_key is None else provider.api_key.get_secret_value()
    return columns


def _put_model(connection: Connection, names: Names, changes: Changes, model: ModelDeclared, place: str) -> None:
    columns = {
        "description": model.description,
        "tags": list(model.tags),
        "context_length": model.context_length,
        "capabilities": sorted(model.capabilities),
        **{f"weight_{name}": value for name, value in model.weights.model_dump().items()},
    }
    model_id = _put_named(connection, names, changes, models, model.name, columns)
    if "endpoints" in model.model_fields_set:
        kept = {
            _put_remote(connection, names, changes, each, model_id, model.name, f"{place}.endpoints[{index}]")
            for index, each in enumerate(model.endpoints)
        }
        if len(kept) < len(model.endpoints):
            raise InvalidDeclaration(f"{place}.endpoints: the same provider and upstream_model is there twice")
        _delete_endpoints(connection, changes, model, kept, engines=False)
    if "engine" in model.model_fields_set:
        kept = set()
        if model.engine is not None:
            kept = {_put_engine(connection, names, changes, model.engine, model_id, model.name, f"{place}.engine")}
        _delete_endpoints(connection, changes, model, kept, engines=True)


def _put_remote(
    connection: Connection,
    names: Names,
    changes: Changes,
    endpoint: RemoteDeclared,
    model_id: int,
    model_name: str,
    place: str,
) -> int:
    provider_id = names.id_of(providers, endpoint.provider, f"{place}.provider")
    columns = {
        "privacy": None if endpoint.privacy is None else endpoint.privacy.name,
        "max_parallel": endpoint.max_parallel,
        "requests_per_minute": endpoint.requests_per_minute,
        "tokens_per_minute": endpoint.tokens_per_minute,
        "engine": None,
    }
    identity = {"model_id": model_id, "provider_id": provider_id}
    identity_and_name = {**identity, "upstream_model": endpoint.upstream_model or model_name}
    endpoint_id, action = put(connection, model_provider, identity_and_name, columns)
    changes.add("endpoint", f"{model_name} at {endpoint.provider}", action, endpoint_id)
    return endpoint_id


def _put_engine(
    connection: Connection,
    names: Names,
    changes: Changes,
    engine: EngineDeclared,
    model_id: int,
    model_name: str,
    place: str,
) -> int:
    if engine.provider == POOL_PROVIDER and names.find(providers, POOL_PROVIDER) is None:
        pool = ProviderDeclared(name=POOL_PROVIDER, kind="pool", privacy=Privacy.LOCAL)
        _put_named(connection, names, changes, providers, pool.name, _provider_columns(pool))
    provider_id = names.id_of(providers, engine.provider, f"{place}.provider")
    spec = asdict(_engine_spec(engine))
    identity = {"model_id": model_id, "provider_id": provider_id, "upstream_model": model_name}
    columns = {"max_parallel": engine.max_parallel, "engine": {**spec, "args": list(engine.args)}}
    endpoint_id, action = put(connection, model_provider, identity, columns)
    changes.add("endpoint", f"{model_name} at {engine.provider}", action, endpoint_id)
    return endpoint_id


def _engine_spec(engine: EngineDeclared) -> EngineSpec:
    fields = engine.model_dump(include=SPEC_FIELDS)
    return EngineSpec(
        **fields,
        memory_mib=_mib(engine.memory_gib),
        sleeps=engine.sleep,
        residue_mib=_mib(engine.residue_gib),
        host_memory_mib=_mib(engine.host_memory_gib),
    )


def _mib(gib: float) -> int:
    return math.ceil(gib * 1024)


def _delete_endpoints(
    connection: Connection, changes: Changes, model: ModelDeclared, kept: set[int], *, engines: bool
) -> None:
    """Those of the model that its declaration no longer names."""
    is_engine = model_provider.c.engine.is_not(None) if engines else model_provider.c.engine.is_(None)
    living = (
        select(model_provider.c.id, providers.c.name)
        .join(models, models.c.id == model_provider.c.model_id)
        .join(providers, providers.c.id == model_provider.c.provider_id)
        .where(models.c.name == model.name, models.c.deleted_at.is_(None))
        .where(model_provider.c.deleted_at.is_(None), is_engine)
    )
    for endpoint_id, provider_name in list(connection.execute(living)):
        if endpoint_id not in kept:
            mark_deleted(connection, model_provider, endpoint_id)
            changes.add("endpoint", f"{model.name} at {provider_name}", "deleted", endpoint_id)


def _put_prices(connection: Connection, names: Names, changes: Changes, declaration: Declaration) -> None:
    for index, price in enumerate(declaration.prices):
        place = f"prices[{index}]"
        model_id = None if price.model is None else names.id_of(models, price.model, f"{place}.model")
        provider_id = None if price.provider is None else names.id_of(providers, price.provider, f"{place}.provider")
        for token_type, micro_cents in price.micro_cents_per_million.items():
            connection.execute(insert(token_types).values(name=token_type).on_conflict_do_nothing())
            identity = {"model_id": model_id, "provider_id": provider_id, "token_type": token_type}
            row_id, action = put(
                connection,
                token_prices,
                {**identity, "valid_from": price.valid_from},
                {"micro_cents_per_million": micro_cents, "currency": price.currency},
            )
            name = f"{token_type} of {price.model or 'any model'} at {price.provider or 'any provider'}"
            changes.add("price", name, action, row_id)


def _put_user(connection: Connection, names: Names, changes: Changes, user: UserDeclared, place: str) -> None:
    columns = user.model_dump(include={"email", "subject", "role"})
    row_id, action = put(connection, users, {"name": user.name}, columns)
    names.learn(users, user.name, row_id)
    wanted = {names.id_of(teams, team, f"{place}.teams[{index}]") for index, team in enumerate(user.teams)}
    member = team_members.c.user_id == row_id
    current = set(connection.execute(select(team_members.c.team_id).where(member)).scalars())
    if "teams" in user.model_fields_set and wanted != current:
        connection.execute(delete(team_members).where(member, team_members.c.team_id.in_(current - wanted)))
        for team_id in sorted(wanted - current):
            connection.execute(insert(team_members).values(team_id=team_id, user_id=row_id))
        action = action or "updated"
    changes.add("user", user.name, action, row_id)


def _check_places(connection: Connection) -> None:
    """Engines run in pools, and pools have nothing but engines."""
    has_engine, is_pool = model_provider.c.engine.is_not(None), providers.c.kind == "pool"
    misplaced = (
        select(models.c.name, providers.c.name, is_pool)
        .join(model_provider, model_provider.c.model_id == models.c.id)
        .join(providers, providers.c.id == model_provider.c.provider_id)
        .where(model_provider.c.deleted_at.is_(None), models.c.deleted_at.is_(None), has_engine != is_pool)
        .limit(1)
    )
    for model_name, provider_name, pooled in connection.execute(misplaced):
        if pooled:
            raise InvalidDeclaration(f"provider {provider_name} is a pool: give model {model_name} an `engine:` there")
        raise InvalidDeclaration(f"the engine of {model_name} needs a provider of kind pool; {provider_name} is none")
