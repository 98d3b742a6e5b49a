"""Deleting things of the directory, and listing those that the catalogue does not hold (teams, users).

Deleting marks rows, so that old log rows keep their meaning. What others rely on for their protection (a key's default
policy, its team's limits) cannot be deleted under them.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, RowMapping, Table, func, select

from logos.domain.errors import BadRequest, Conflict, NotFound
from logos.storage.catalogue_store import limits_of, select_living
from logos.storage.declaring import Changes, mark_deleted
from logos.storage.tables import (
    api_keys,
    model_provider,
    models,
    policies,
    providers,
    team_members,
    teams,
    token_prices,
    users,
)

TABLES: dict[str, Table] = {
    "provider": providers,
    "model": models,
    "endpoint": model_provider,
    "policy": policies,
    "price": token_prices,
    "team": teams,
    "user": users,
}

# What goes with a row: (table, its column that points here).
_BELONGS = {
    "provider": ((model_provider, "provider_id"), (token_prices, "provider_id")),
    "model": ((model_provider, "model_id"), (token_prices, "model_id")),
}
_HELD_BY_KEYS = {"policy": "policy_id", "team": "team_id", "user": "user_id"}
_KIND_OF = {model_provider.name: "endpoint", token_prices.name: "price"}


def delete_one(connection: Connection, kind: str, ref: str, changes: Changes) -> None:
    """By name, or by id (endpoints and prices have nothing else). Raises NotFound, or Conflict if keys rely on it."""
    table = TABLES.get(kind)
    if table is None:
        raise BadRequest(f"nothing is called {kind}; there are {', '.join(TABLES)}")
    row = _get_living(connection, kind, table, ref)
    name = str(row["name"]) if "name" in row else f"{kind} {row['id']}"
    if kind in _HELD_BY_KEYS:
        _refuse_if_held(connection, kind, name, row["id"])
    mark_deleted(connection, table, row["id"])
    changes.add(kind, name, "deleted", row["id"])
    for belonging, column in _BELONGS.get(kind, ()):
        mine = select_living(belonging).where(belonging.c[column] == row["id"])
        for inner in list(connection.execute(mine).mappings()):
            mark_deleted(connection, belonging, inner["id"])
            inner_kind = _KIND_OF[belonging.name]
            changes.add(inner_kind, f"{inner_kind} {inner['id']} of {name}", "deleted", inner["id"])
    if kind in {"team", "user"}:
        member = team_members.c[f"{kind}_id"] == row["id"]
        connection.execute(team_members.delete().where(member))


def ever_existed(connection: Connection, kind: str, name: str) -> bool:
    """Deleted ones count."""
    table = TABLES[kind]
    return connection.execute(select(table.c.id).where(table.c.name == name).limit(1)).first() is not None


def living_names(connection: Connection, kind: str) -> frozenset[str]:
    table = TABLES[kind]
    return frozenset(connection.execute(select(table.c.name).where(table.c.deleted_at.is_(None))).scalars())


def list_teams(connection: Connection, limit: int, offset: int) -> tuple[int, list[dict[str, Any]]]:
    total, rows = _page(connection, teams, limit, offset)
    return total, [
        {
            "id": row["id"],
            "name": row["name"],
            "limits": {name: getattr(limits_of(row), name) for name in limits_of(row).__slots__},
            "budget": row["budget"],
            "created_at": row["created_at"],
        }
        for row in rows
    ]


def list_users(connection: Connection, limit: int, offset: int) -> tuple[int, list[dict[str, Any]]]:
    total, rows = _page(connection, users, limit, offset)
    memberships = (
        select(team_members.c.user_id, teams.c.name)
        .join(teams, teams.c.id == team_members.c.team_id)
        .where(team_members.c.user_id.in_([row["id"] for row in rows]))
        .order_by(teams.c.name)
    )
    teams_of: dict[int, list[str]] = {}
    for user_id, name in connection.execute(memberships):
        teams_of.setdefault(user_id, []).append(name)
    shown = ("id", "name", "email", "subject", "role", "created_at")
    return total, [{**{name: row[name] for name in shown}, "teams": teams_of.get(row["id"], [])} for row in rows]


def _page(connection: Connection, table: Table, limit: int, offset: int) -> tuple[int, list[RowMapping]]:
    living = table.c.deleted_at.is_(None)
    total = connection.execute(select(func.count()).select_from(table).where(living)).scalar_one()
    return total, list(connection.execute(select_living(table).limit(limit).offset(offset)).mappings())


def _get_living(connection: Connection, kind: str, table: Table, ref: str) -> RowMapping:
    living = select_living(table)
    row = None
    if "name" in table.c:
        row = connection.execute(living.where(table.c.name == ref)).mappings().one_or_none()
    if row is None and ref.isascii() and ref.isdecimal() and len(ref) < 19:
        row = connection.execute(living.where(table.c.id == int(ref))).mappings().one_or_none()
    if row is None:
        raise NotFound(f"there is no such {kind}; `logos {kind} list` shows the ones there are")
    return row


def _refuse_if_held(connection: Connection, kind: str, name: str, row_id: int) -> None:
    held = select(api_keys.c.name).where(api_keys.c[_HELD_BY_KEYS[kind]] == row_id, api_keys.c.revoked_at.is_(None))
    keys = list(connection.execute(held.order_by(api_keys.c.id).limit(3)).scalars())
    if keys:
        raise Conflict(f"{kind} {name} is in use by the keys {', '.join(keys)}; change or revoke them first")
