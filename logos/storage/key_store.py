"""Writes client keys: declared, made, rotated, revoked; and the root key of a new installation.

Of a key only its public prefix and its SHA-256 digest are stored; the key itself is returned once by whatever made it.
A key that was revoked never opens anything again, not even under another name.
"""

from __future__ import annotations

import datetime as dt
import secrets
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, RowMapping, Select, delete, func, select
from sqlalchemy.dialects.postgresql import insert

from logos.declarations import KeyDeclared
from logos.domain.errors import Conflict, InvalidDeclaration, NotFound
from logos.domain.keys import PREFIX_HEX_DIGITS, key_digest, key_prefix
from logos.domain.nouns import Role
from logos.storage.catalogue_store import limit_columns
from logos.storage.declaring import Changes, Names, budget_json
from logos.storage.tables import api_keys, models, permissions, policies, teams, users

ROOT_NAME = "root"


def make_key_text() -> str:
    """A new key: a public prefix of 48 bits and a secret of 256."""
    return f"lg-{secrets.token_hex(PREFIX_HEX_DIGITS // 2)}-{secrets.token_urlsafe(32)}"


def declare_keys(connection: Connection, names: Names, keys: tuple[KeyDeclared, ...], changes: Changes) -> None:
    """Upserts by name. A key without text that is not there yet is made; its text goes to `changes.secrets`."""
    for index, key in enumerate(keys):
        place = f"keys[{index}]"
        if key.name == ROOT_NAME:
            raise InvalidDeclaration(f"{place}.name: {ROOT_NAME} is made by `logos up`; choose another name")
        columns = _columns(names, key, place)
        row = _find_living(connection, key.name)
        text = None if key.key is None else key.key.get_secret_value()
        if row is None and text is None:
            text = changes.secrets[key.name] = make_key_text()
        if text is not None:
            columns |= _secret_columns(text)
            _refuse_known_text(connection, row, columns, f"{place}.key")
        action: str | None = "created"
        if row is None:
            key_id = connection.execute(
                insert(api_keys).values(name=key.name, **columns).returning(api_keys.c.id)
            ).scalar_one()
        else:
            key_id, changed = row["id"], {name: value for name, value in columns.items() if row[name] != value}
            action = "updated" if changed else None
            if changed:
                connection.execute(api_keys.update().where(api_keys.c.id == key_id).values(changed))
            if "digest" in changed:
                _keep_old_secret(connection, row, None, changes)
        permitted = _put_permissions(connection, names, key, key_id, place)
        changes.add("key", key.name, action or ("updated" if permitted else None), key_id)


def rotate_key(connection: Connection, ref: str, grace_s: float, now: dt.datetime, changes: Changes) -> None:
    """Gives a key a new secret. Its id, and with it limits and history, stay; for `grace_s` seconds the old secret is
    good as a key of its own, of the same rights."""
    row = _get_living(connection, ref)
    text = make_key_text()
    connection.execute(api_keys.update().where(api_keys.c.id == row["id"]).values(_secret_columns(text)))
    changes.add("key", row["name"], "rotated", row["id"])
    changes.secrets[row["name"]] = text
    until = None if grace_s <= 0 else now + dt.timedelta(seconds=grace_s)
    if until is not None and row["expires_at"] is not None:
        until = min(until, row["expires_at"])
    _keep_old_secret(connection, row, until, changes)


def revoke_key(connection: Connection, ref: str, changes: Changes) -> None:
    """Ends a key at once and for good. The last administrator's key stays: nobody could make another."""
    row = _get_living(connection, ref)
    if row["role"] == Role.ADMIN and _count_admins(connection) == 1:
        raise Conflict(f"{row['name']} is the last administrator's key; create or rotate one before revoking it")
    connection.execute(api_keys.update().where(api_keys.c.id == row["id"]).values(revoked_at=func.now()))
    changes.add("key", row["name"], "revoked", row["id"])


def ensure_root_key(connection: Connection, preset: str | None, changes: Changes) -> bool:
    """Makes the root key where no administrator's key is left. Whether `preset` is good, if there is one."""
    if _count_admins(connection):
        return preset is None or _find_admin_by_text(connection, preset)
    text = preset or make_key_text()
    columns = {**_secret_columns(text), "role": Role.ADMIN.value}
    _refuse_known_text(connection, None, columns, "LOGOS_ROOT_KEY")
    statement = insert(api_keys).values(name=ROOT_NAME, **columns).returning(api_keys.c.id)
    changes.secrets[ROOT_NAME] = text
    changes.add("key", ROOT_NAME, "created", connection.execute(statement).scalar_one())
    return True


def list_keys(
    connection: Connection, limit: int, offset: int, *, revoked: bool = False
) -> tuple[int, list[dict[str, Any]]]:
    """How many there are, and one page of them, without anything that opens a door."""
    wanted = api_keys.c.revoked_at.is_not(None) if revoked else api_keys.c.revoked_at.is_(None)
    total = connection.execute(select(func.count()).select_from(api_keys).where(wanted)).scalar_one()
    return total, _some_shown(connection, _with_names().where(wanted).limit(limit).offset(offset))


def get_key(connection: Connection, ref: str) -> dict[str, Any]:
    """One of them, by name, prefix or id. Raises NotFound."""
    return get_key_by_id(connection, _get_living(connection, ref)["id"])


def get_key_by_id(connection: Connection, key_id: int) -> dict[str, Any]:
    """The one of this id, whatever others are named. Raises NotFound."""
    living = _with_names().where(api_keys.c.id == key_id, api_keys.c.revoked_at.is_(None))
    for shown in _some_shown(connection, living):
        return shown
    raise _no_such_key()


def _some_shown(connection: Connection, chosen: Select[Any]) -> list[dict[str, Any]]:
    rows = [dict(row) for row in connection.execute(chosen.order_by(api_keys.c.id)).mappings()]
    permitted = (
        select(permissions.c.api_key_id, models.c.name)
        .join(models, models.c.id == permissions.c.model_id)
        .where(permissions.c.api_key_id.in_([row["id"] for row in rows]), models.c.deleted_at.is_(None))
        .order_by(models.c.name)
    )
    names_of: dict[int, list[str]] = {}
    for key_id, name in connection.execute(permitted):
        names_of.setdefault(key_id, []).append(name)
    return [_shown(row, names_of.get(row["id"], [])) for row in rows]


def _secret_columns(text: str) -> dict[str, Any]:
    return {"prefix": key_prefix(text), "digest": key_digest(text)}


def _keep_old_secret(connection: Connection, row: RowMapping, until: dt.datetime | None, changes: Changes) -> None:
    """A row of its own for a secret that was replaced: good `until` then, or revoked, so that it never comes back."""
    copied = {column: row[column] for column in row if column not in {"id", "created_at"}}
    if until is None:
        connection.execute(insert(api_keys).values({**copied, "revoked_at": func.now()}))
        return
    name = f"{row['name']}/until-{until:%Y%m%dT%H%M%S}-{row['prefix']}"
    statement = insert(api_keys).values({**copied, "name": name, "expires_at": until})
    old_id = int(connection.execute(statement.returning(api_keys.c.id)).scalar_one())
    permitted = select(permissions.c.model_id).where(permissions.c.api_key_id == row["id"])
    for model_id in list(connection.execute(permitted).scalars()):
        connection.execute(insert(permissions).values(api_key_id=old_id, model_id=model_id))
    changes.add("key", name, "created", old_id)


def _columns(names: Names, key: KeyDeclared, place: str) -> dict[str, Any]:
    return {
        "role": key.role.value,
        "team_id": None if key.team is None else names.id_of(teams, key.team, f"{place}.team"),
        "user_id": None if key.user is None else names.id_of(users, key.user, f"{place}.user"),
        "log": key.log.value,
        "every_model": key.models is None,
        "priority_max": int(key.priority_max),
        "policy_id": None if key.policy is None else names.id_of(policies, key.policy, f"{place}.policy"),
        "budget": budget_json(key.budget),
        "expires_at": key.expires_at,
        **limit_columns(key.limits.limits),
    }


def _refuse_known_text(connection: Connection, row: RowMapping | None, columns: Mapping[str, Any], place: str) -> None:
    """A prefix is there once, for revoked keys too: it is what a key is found by."""
    same = select(api_keys).where(api_keys.c.prefix == columns["prefix"])
    other = connection.execute(same).mappings().one_or_none()
    if other is None or (row is not None and other["id"] == row["id"]):
        return
    if bytes(other["digest"]) != columns["digest"]:
        raise InvalidDeclaration(f"{place}: another key begins the same way; choose another")
    if other["revoked_at"] is not None:
        raise InvalidDeclaration(f"{place}: this key was revoked; choose another")
    raise InvalidDeclaration(f"{place}: this is already the key named {other['name']}; choose another")


def _put_permissions(connection: Connection, names: Names, key: KeyDeclared, key_id: int, place: str) -> bool:
    """Whether they changed."""
    wanted = {names.id_of(models, name, f"{place}.models[{index}]") for index, name in enumerate(key.models or ())}
    mine = permissions.c.api_key_id == key_id
    current = set(connection.execute(select(permissions.c.model_id).where(mine)).scalars())
    if gone := current - wanted:
        connection.execute(delete(permissions).where(mine, permissions.c.model_id.in_(gone)))
    if new := wanted - current:
        rows = [{"api_key_id": key_id, "model_id": model_id} for model_id in sorted(new)]
        connection.execute(insert(permissions), rows)
    return wanted != current


def is_taken(connection: Connection, name: str) -> bool:
    return _find_living(connection, name) is not None


def _find_living(connection: Connection, name: str) -> RowMapping | None:
    living = select(api_keys).where(api_keys.c.name == name, api_keys.c.revoked_at.is_(None))
    return connection.execute(living).mappings().one_or_none()


def _get_living(connection: Connection, ref: str) -> RowMapping:
    """By name, else by prefix, else by id."""
    row = _find_living(connection, ref)
    if row is None:
        by = api_keys.c.prefix == ref
        if ref.isascii() and ref.isdecimal() and len(ref) < 19:
            by = api_keys.c.id == int(ref)
        row = connection.execute(select(api_keys).where(by, api_keys.c.revoked_at.is_(None))).mappings().one_or_none()
    if row is None:
        raise _no_such_key()
    return row


def _no_such_key() -> NotFound:
    return NotFound("there is no such key; `logos key list` shows the ones there are")


def _count_admins(connection: Connection) -> int:
    good = api_keys.c.expires_at.is_(None)
    admins = (api_keys.c.role == Role.ADMIN.value) & api_keys.c.revoked_at.is_(None) & good
    return int(connection.execute(select(func.count()).select_from(api_keys).where(admins)).scalar_one())


def _find_admin_by_text(connection: Connection, text: str) -> bool:
    admins = (api_keys.c.role == Role.ADMIN.value) & api_keys.c.revoked_at.is_(None)
    found = select(api_keys.c.digest).where(admins, api_keys.c.prefix == key_prefix(text))
    return any(bytes(digest) == key_digest(text) for digest in connection.execute(found).scalars())


def _with_names() -> Select[Any]:
    return (
        select(
            api_keys,
            teams.c.name.label("team"),
            users.c.name.label("user"),
            policies.c.name.label("policy"),
        )
        .outerjoin(teams, teams.c.id == api_keys.c.team_id)
        .outerjoin(users, users.c.id == api_keys.c.user_id)
        .outerjoin(policies, policies.c.id == api_keys.c.policy_id)
    )


def _shown(row: dict[str, Any], model_names: list[str]) -> dict[str, Any]:
    hidden = {"digest", "every_model", "team_id", "user_id", "policy_id"}
    shown = {name: value for name, value in row.items() if name not in hidden}
    return {**shown, "models": None if row["every_model"] else model_names}
