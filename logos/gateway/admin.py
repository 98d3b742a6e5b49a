"""/admin: REST for whoever runs the platform. Thin: reads come from memory or `storage.queries`, writes go to accounts.

Bodies are the items of `logos apply`; a POST creates or replaces by name and may be repeated. Every route here needs an
administrator's key.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, Literal

from fastapi import APIRouter, Depends, Request

from logos.declarations import (
    Declaration,
    Declared,
    EndpointDeclared,
    KeyDeclared,
    ModelDeclared,
    PolicyDeclared,
    PriceDeclared,
    ProviderDeclared,
    TeamDeclared,
    UserDeclared,
)
from logos.domain.errors import BadRequest, NotFound
from logos.domain.text import storable_text
from logos.gateway import admin_shapes as shapes
from logos.gateway import choosing, me
from logos.gateway.rest import (
    AdminContext,
    Context,
    Limit,
    Offset,
    Route,
    RowId,
    aware,
    read_document,
    read_item,
    require_admin,
    span,
)

router = APIRouter(prefix="/admin", tags=["admin"], route_class=Route, dependencies=[Depends(require_admin)])

# What is declared under which name; a path's first part after /admin is the plural.
DECLARED: dict[str, type[Declared]] = {
    "providers": ProviderDeclared,
    "models": ModelDeclared,
    "endpoints": EndpointDeclared,
    "prices": PriceDeclared,
    "policies": PolicyDeclared,
    "teams": TeamDeclared,
    "users": UserDeclared,
}
SINGULAR = {**{plural: plural[:-1] for plural in DECLARED}, "policies": "policy"}


def admin_routers(context: AdminContext) -> list[APIRouter]:
    """/admin and /me, bound to what they need."""

    def bind(request: Request) -> None:
        request.state.logos = context

    bound = APIRouter(dependencies=[Depends(bind)])
    bound.include_router(me.router)
    bound.include_router(choosing.me_router)
    bound.include_router(choosing.admin_router)
    bound.include_router(router)
    return [bound]


@router.post("/apply", response_model=shapes.Applied)
async def apply(request: Request, context: Context) -> Any:
    """What `logos apply` sends: everything in one transaction; applying the same again changes nothing."""
    document = await read_item(request, Declaration, context.body_bytes_max)
    return await context.accounts.administer("apply", document)


@router.get("/providers", response_model=shapes.Page[shapes.ProviderShown])
async def list_providers(context: Context, limit: Limit = 100, offset: Offset = 0) -> Any:
    directory = context.directory
    return shapes.page(shapes.providers_shown(directory.catalogue, directory.access), limit, offset)


@router.get("/models", response_model=shapes.Page[shapes.ModelShown])
async def list_models(context: Context, limit: Limit = 100, offset: Offset = 0) -> Any:
    catalogue = context.directory.catalogue
    return shapes.page([shapes.model_shown(catalogue, model) for model in catalogue.models], limit, offset)


@router.get("/endpoints", response_model=shapes.Page[shapes.EndpointShown])
async def list_endpoints(context: Context, limit: Limit = 100, offset: Offset = 0) -> Any:
    catalogue = context.directory.catalogue
    return shapes.page([shapes.endpoint_shown(catalogue, each) for each in catalogue.endpoints], limit, offset)


@router.get("/policies", response_model=shapes.Page[shapes.PolicyShown])
async def list_policies(context: Context, limit: Limit = 100, offset: Offset = 0) -> Any:
    return shapes.page(shapes.policies_shown(context.directory.catalogue), limit, offset)


@router.get("/prices", response_model=shapes.Page[shapes.PriceShown])
async def list_prices(context: Context, limit: Limit = 100, offset: Offset = 0) -> Any:
    catalogue = context.directory.catalogue
    return shapes.page([shapes.price_shown(catalogue, price) for price in catalogue.prices], limit, offset)


@router.get("/teams", response_model=shapes.Page[shapes.TeamShown])
async def list_teams(context: Context, limit: Limit = 100, offset: Offset = 0) -> Any:
    return await _listed(context, "team", limit, offset)


@router.get("/users", response_model=shapes.Page[shapes.UserShown])
async def list_users(context: Context, limit: Limit = 100, offset: Offset = 0) -> Any:
    return await _listed(context, "user", limit, offset)


@router.get("/keys", response_model=shapes.Page[shapes.KeyShown])
async def list_keys(context: Context, limit: Limit = 100, offset: Offset = 0, revoked: bool = False) -> Any:
    found = await _listed(context, "key", limit, offset, revoked=revoked)
    return {**found, "rows": [shapes.key_row_shown(row) for row in found["rows"]]}


@router.post("/keys", response_model=shapes.Applied, status_code=201)
async def create_key(request: Request, context: Context) -> Any:
    """A new key. Its secret is in `keys` of the answer, this once; without a `key` in the body one is made."""
    document = await read_item(request, KeyDeclared, context.body_bytes_max)
    return await context.accounts.administer("key.create", document)


@router.put("/keys", response_model=shapes.Applied)
async def declare_key(request: Request, context: Context) -> Any:
    """Creates a key or replaces what is declared about it, by name; its secret stays unless one is given."""
    document = await read_item(request, KeyDeclared, context.body_bytes_max)
    return await context.accounts.administer("apply", {"keys": [document]})


@router.post("/keys/{ref:path}/rotate", response_model=shapes.Applied)
async def rotate_key(ref: str, request: Request, context: Context) -> Any:
    """A new secret for a key, by name, prefix or id. The old one is good for `grace_s` more seconds (default 0)."""
    has_body = request.headers.get("content-length", "0") != "0"
    document = await read_document(request, context.body_bytes_max) if has_body else {}
    unknown = sorted(document.keys() - {"grace_s"})
    if unknown:
        raise BadRequest(f"unknown key {unknown[0]}: the only one here is grace_s", param=unknown[0])
    return await context.accounts.administer("key.rotate", {**document, "key": ref})


@router.get("/keys/{ref:path}", response_model=shapes.KeyShown)
async def get_key(ref: str, context: Context) -> Any:
    return shapes.key_row_shown(await context.accounts.administer("key.get", {"key": ref}))


@router.delete("/keys/{ref:path}", response_model=shapes.Applied)
async def revoke_key(ref: str, context: Context) -> Any:
    """Ends a key for good; answers when every gateway knows, at the latest after a second."""
    return await context.accounts.administer("key.revoke", {"key": ref})


@router.get("/permissions", response_model=shapes.Page[shapes.PermissionShown])
async def list_permissions(context: Context, limit: Limit = 100, offset: Offset = 0) -> Any:
    """Which key may use which models; set with the key itself."""
    found = await _listed(context, "key", limit, offset)
    rows = [{"key": row["name"], "models": row["models"]} for row in found["rows"]]
    return {**found, "rows": rows}


@router.get("/logs", response_model=shapes.Rows)
async def list_logs(
    context: Context,
    limit: Limit = 100,
    before_id: RowId = None,
    key_id: RowId = None,
    team_id: RowId = None,
    model_id: RowId = None,
    result_status: str | None = None,
    since: dt.datetime | None = None,
    until: dt.datetime | None = None,
) -> Any:
    """Log rows without payloads, newest first."""
    rows = await context.queries.list_requests(
        key_id=key_id,
        team_id=team_id,
        model_id=model_id,
        result_status=None if result_status is None else storable_text(result_status),
        before_id=before_id,
        since=aware(since),
        until=aware(until),
        limit=limit,
    )
    return {"rows": rows, "next_before_id": rows[-1]["id"] if len(rows) == limit else None}


@router.get("/logs/{request_id}")
async def get_log(request_id: str, context: Context) -> dict[str, Any]:
    """One request with its attempts, and its payloads where its key logs FULL."""
    row = await context.queries.request(storable_text(request_id))
    if row is None:
        raise NotFound("there is no request of this id in the log")
    return row


@router.get("/usage", response_model=shapes.Rows)
async def get_usage(
    context: Context,
    since: dt.datetime | None = None,
    until: dt.datetime | None = None,
    key_id: RowId = None,
    team_id: RowId = None,
    limit: Limit = 1000,
) -> Any:
    """Requests, tokens and cost per day, key, model and currency; the last 30 days where nothing is said."""
    begin, end = span(since, until)
    return {"rows": await context.queries.usage(begin, end, key_id=key_id, team_id=team_id, limit=limit)}


@router.get("/budgets", response_model=list[shapes.BalanceShown])
async def list_balances(context: Context, scope: Literal["key", "team"] | None = None, scope_id: RowId = None) -> Any:
    """What has been charged so far, per key and team. Budgets are stored with these; they are not enforced yet."""
    rows = await context.queries.list_balances(scope, scope_id)
    return [{**row, "amount": shapes.decimal_of(row["micro_cents"])} for row in rows]


@router.get("/scheduler")
async def get_scheduler_state(context: Context) -> Mapping[str, Any]:
    """Engines, queues, nodes and leases as the scheduler sees them at this moment."""
    return await context.scheduler.state()


@router.get("/ledger")
async def get_ledger_state(context: Context) -> Mapping[str, Any]:
    """How far the ledger is behind."""
    return await context.ledger.status()


def _add_declaring(plural: str) -> None:
    """POST and DELETE of one kind: the same for all of them."""
    kind, singular = DECLARED[plural], SINGULAR[plural]

    async def declare(request: Request, context: Context) -> Any:
        document = await read_item(request, kind, context.body_bytes_max)
        return await context.accounts.administer("apply", {plural: [document]})

    async def delete(ref: str, context: Context) -> Any:
        return await context.accounts.administer("delete", {"kind": singular, "ref": ref})

    declare.__doc__ = f"Creates or replaces a {singular}; the same twice changes nothing."
    delete.__doc__ = f"Deletes a {singular}, by name or id, with what belongs to it."
    add = router.add_api_route
    model = shapes.Applied
    add(f"/{plural}", declare, methods=["POST"], response_model=model, operation_id=f"declare_{singular}")
    add(f"/{plural}/{{ref:path}}", delete, methods=["DELETE"], response_model=model, operation_id=f"delete_{singular}")


for _plural in DECLARED:
    _add_declaring(_plural)


async def _listed(context: Context, kind: str, limit: int, offset: int, **more: Any) -> dict[str, Any]:
    asked = {"kind": kind, "limit": limit, "offset": offset, **more}
    return {**await context.accounts.administer("list", asked), "limit": limit, "offset": offset}
