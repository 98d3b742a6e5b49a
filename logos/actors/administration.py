"""What administrators can do to the directory, as named operations on Postgres: each is one transaction.

Blocking: `accounts` calls it from a thread. Operations check what they are given, write, and say what changed; waking
the gateways is the caller's. Errors are those of the domain's tree, DatabaseUnavailable when Postgres is away.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, SQLAlchemyError

from logos.billing.prices import check_prices
from logos.declarations import Declaration, KeyDeclared, ProviderDeclared
from logos.documents import parse
from logos.domain.errors import BadRequest, Conflict, DatabaseUnavailable, InvalidDeclaration
from logos.domain.nouns import Key
from logos.storage import catalogue_store, declaring, directory_admin, key_store
from logos.storage.catalogue_store import Stored
from logos.storage.database import engine_of
from logos.storage.declaring import Changes

log = logging.getLogger(__name__)

PAGE_MAX = 1_000
GRACE_S_MAX = 90 * 86_400.0
CONNECT_TIMEOUT_S = 3
STATEMENT_TIMEOUT_MS = 15_000


@dataclass(frozen=True, slots=True)
class Performed:
    """What an operation answers, and the version that the directory has after it; None: nothing changed."""

    result: dict[str, Any] = field(repr=False)
    version: int | None = None
    key_ids: frozenset[int] | None = None  # only these keys changed; None: anything may have


class Administration:
    """The operations. Safe to call from several threads; writers take turns by an advisory lock."""

    def __init__(self, database_url: str, unix_clock: Callable[[], float] = time.time) -> None:
        self._engine = _open_engine(database_url)
        self._unix_clock = unix_clock
        self._reads: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
            "list": self._list,
            "key.get": self._get_key,
        }
        self._writes: dict[str, Callable[[Connection, Mapping[str, Any], Changes], None]] = {
            "apply": self._apply,
            "delete": self._delete,
            "key.create": self._create_key,
            "key.rotate": self._rotate_key,
            "key.revoke": self._revoke_key,
        }

    def close(self) -> None:
        self._engine.dispose()

    def load(self) -> Stored:
        """The whole directory, in one snapshot."""
        with self._transaction() as connection:
            connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
            return catalogue_store.load(connection, self._now())

    def load_keys(self, ids: frozenset[int]) -> tuple[Key, ...]:
        with self._transaction() as connection:
            return catalogue_store.load_keys(connection, self._now(), ids)

    def get_version(self) -> int:
        with self._transaction() as connection:
            return catalogue_store.get_version(connection)

    def perform(self, operation: str, arguments: Mapping[str, Any]) -> Performed:
        """One operation by name. Raises BadRequest for an unknown one."""
        read = self._reads.get(operation)
        if read is not None:
            return Performed(read(arguments))
        write = self._writes.get(operation)
        if write is None:
            raise BadRequest(f"there is no operation {operation}")
        changes = Changes()
        with self._transaction() as connection:
            catalogue_store.lock_for_writing(connection)
            write(connection, arguments, changes)
            return _performed(connection, changes)

    def knows_provider(self, name: str) -> bool:
        """Whether there is or ever was one of this name, so that a deleted one does not come back by itself."""
        with self._transaction() as connection:
            return directory_admin.ever_existed(connection, "provider", name)

    def bootstrap(
        self,
        *,
        root_key: str | None,
        declaration: Declaration,
        world: Declaration | None,
        provider: ProviderDeclared | None,
        provider_models: tuple[str, ...],
    ) -> Performed:
        """Brings an installation to life: the root key where none is left, the built-in `world` at the first start
        only, the initial provider with its models, and the config file's declarations."""
        changes = Changes()
        with self._transaction() as connection:
            catalogue_store.lock_for_writing(connection)
            is_new = catalogue_store.get_version(connection) == 0
            if not key_store.ensure_root_key(connection, root_key, changes):
                changes.notes.append(
                    "LOGOS_ROOT_KEY is not the root key of this installation, which keeps its own; "
                    "`logos key rotate root` makes a new one"
                )
            if is_new and world is not None:
                declaring.declare(connection, world, changes)
            if provider is not None:
                _register(connection, provider, provider_models, changes)
            declared = Changes()
            try:
                with connection.begin_nested():
                    _declare(connection, declaration, declared)
                changes.add_all(declared)
            except InvalidDeclaration as error:
                if is_new:
                    raise
                # What a running installation was told since may contradict its config file; that must not stop it.
                changes.notes.append(f"the config file's declarations were not applied: {error.message}")
            return _performed(connection, changes)

    def _apply(self, connection: Connection, arguments: Mapping[str, Any], changes: Changes) -> None:
        _declare(connection, parse(Declaration, dict(arguments)), changes)

    def _create_key(self, connection: Connection, arguments: Mapping[str, Any], changes: Changes) -> None:
        key = parse(KeyDeclared, dict(arguments))
        if key_store.is_taken(connection, key.name):
            raise Conflict(f"there is a key named {key.name}; rotate it, or choose another name")
        names = declaring.Names(connection)
        key_store.declare_keys(connection, names, (key,), changes)

    def _rotate_key(self, connection: Connection, arguments: Mapping[str, Any], changes: Changes) -> None:
        grace_s = arguments.get("grace_s", 0.0)
        if isinstance(grace_s, bool) or not isinstance(grace_s, int | float) or not 0 <= grace_s <= GRACE_S_MAX:
            raise BadRequest(f"grace_s should be a number of seconds from 0 to {GRACE_S_MAX:.0f}", param="grace_s")
        key_store.rotate_key(connection, _text(arguments, "key"), float(grace_s), self._now(), changes)

    def _revoke_key(self, connection: Connection, arguments: Mapping[str, Any], changes: Changes) -> None:
        key_store.revoke_key(connection, _text(arguments, "key"), changes)

    def _delete(self, connection: Connection, arguments: Mapping[str, Any], changes: Changes) -> None:
        directory_admin.delete_one(connection, _text(arguments, "kind"), _text(arguments, "ref"), changes)

    def _list(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        kind, limit, offset = arguments.get("kind"), arguments.get("limit", 100), arguments.get("offset", 0)
        if not isinstance(limit, int) or not isinstance(offset, int) or not 0 < limit <= PAGE_MAX or offset < 0:
            raise BadRequest(f"limit should be from 1 to {PAGE_MAX} and offset from 0")
        with self._transaction() as connection:
            if kind == "key":
                revoked = bool(arguments.get("revoked", False))
                total, rows = key_store.list_keys(connection, limit, offset, revoked=revoked)
            elif kind == "team":
                total, rows = directory_admin.list_teams(connection, limit, offset)
            elif kind == "user":
                total, rows = directory_admin.list_users(connection, limit, offset)
            else:
                raise BadRequest("kind should be key, team or user", param="kind")
        return {"total": total, "rows": rows}

    def _get_key(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        key_id = arguments.get("id")
        with self._transaction() as connection:
            if isinstance(key_id, int):
                return key_store.get_key_by_id(connection, key_id)
            return key_store.get_key(connection, _text(arguments, "key"))

    def _now(self) -> dt.datetime:
        return dt.datetime.fromtimestamp(self._unix_clock(), dt.UTC)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Connection]:
        """Foreign errors become ours, without the statement and its values, which may hold secrets."""
        try:
            with self._engine.begin() as connection:
                connection.execute(text(f"SET LOCAL statement_timeout = {STATEMENT_TIMEOUT_MS}"))
                yield connection
        except DataError:
            raise BadRequest("a value does not fit into the database; nothing was changed") from None
        except IntegrityError:
            raise Conflict("somebody else changed the same thing at the same time; try again") from None
        except DBAPIError as error:
            log.warning("Postgres did not answer an administrator's operation: %s", type(error.orig).__name__)
            raise DatabaseUnavailable from None
        except SQLAlchemyError as error:
            log.warning("Postgres could not be asked: %s", type(error).__name__)
            raise DatabaseUnavailable from None


def _open_engine(database_url: str) -> Engine:
    return engine_of(
        database_url, connect_timeout_s=CONNECT_TIMEOUT_S, pool_pre_ping=True, pool_size=2, hide_parameters=True
    )


def _declare(connection: Connection, declaration: Declaration, changes: Changes) -> None:
    names = declaring.declare(connection, declaration, changes)
    key_store.declare_keys(connection, names, declaration.keys, changes)
    budgets = [*(team.budget for team in declaration.teams), *(key.budget for key in declaration.keys)]
    if any(budget is not None for budget in budgets):
        changes.notes.append("budgets are stored; they are not enforced yet")


def _register(
    connection: Connection, provider: ProviderDeclared, model_names: tuple[str, ...], changes: Changes
) -> None:
    """A provider and an endpoint for each of its models; models of a name that is there get one more endpoint."""
    known = directory_admin.living_names(connection, "model")
    document: dict[str, Any] = {
        "models": [{"name": name} for name in model_names if name not in known],
        "endpoints": [{"model": name, "provider": provider.name} for name in model_names],
    }
    declaring.declare(connection, Declaration(providers=(provider,)), changes)
    declaring.declare(connection, parse(Declaration, document), changes)


def _performed(connection: Connection, changes: Changes) -> Performed:
    made = [asdict(change) for change in changes.made]
    if changes.touches_catalogue:
        check_prices(catalogue_store.load_catalogue(connection))
    if made:
        version = catalogue_store.raise_version(connection, catalogue_changed=changes.touches_catalogue)
    else:
        version = catalogue_store.get_version(connection)
    result = {"version": version, "changes": made, "keys": dict(changes.secrets), "notes": list(changes.notes)}
    only_keys = all(change.kind == "key" for change in changes.made)
    key_ids = frozenset(change.id for change in changes.made) if only_keys else None
    return Performed(result, version if made else None, key_ids)


def _text(arguments: Mapping[str, Any], name: str) -> str:
    value = arguments.get(name)
    if not isinstance(value, str) or not value:
        raise BadRequest(f"{name} is missing", param=name)
    return value
