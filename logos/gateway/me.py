"""/me: a key's own limits, spend and records; no administrator needed. Every read is bound to the calling key."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any

from fastapi import APIRouter, Query

from logos.domain.errors import NotFound
from logos.domain.text import storable_text
from logos.gateway import admin_shapes as shapes
from logos.gateway.rest import Caller, Context, Limit, Route, RowId, span

router = APIRouter(prefix="/me", tags=["me"], route_class=Route)

RequestIds = Annotated[list[str] | None, Query(max_length=100)]


@router.get("", response_model=shapes.Me)
async def get_me(caller: Caller, context: Context) -> Any:
    """What this key is, what it may, and what it has spent."""
    stored = await context.accounts.administer("key.get", {"id": caller.id})
    spent = shapes.spent_shown(await context.queries.list_balances("key", caller.id))
    return shapes.me_shown(caller, context.directory.catalogue, stored["budget"], spent)


@router.get("/usage", response_model=shapes.Rows)
async def get_usage(
    caller: Caller,
    context: Context,
    since: dt.datetime | None = None,
    until: dt.datetime | None = None,
    limit: Limit = 1000,
) -> Any:
    """Requests, tokens and cost per day, model and currency; the last 30 days where nothing is said."""
    begin, end = span(since, until)
    return {"rows": await context.queries.usage(begin, end, key_id=caller.id, limit=limit)}


@router.get("/requests", response_model=shapes.Rows)
async def list_requests(
    caller: Caller, context: Context, request_id: RequestIds = None, limit: Limit = 100, before_id: RowId = None
) -> Any:
    """This key's requests, newest first, without payloads; `request_id`, up to 100 times, asks for these only."""
    wanted = None if request_id is None else [storable_text(each) for each in request_id]
    rows = await context.queries.list_requests(key_id=caller.id, request_ids=wanted, before_id=before_id, limit=limit)
    return {"rows": rows, "next_before_id": rows[-1]["id"] if len(rows) == limit else None}


@router.get("/requests/{request_id}")
async def get_request(request_id: str, caller: Caller, context: Context) -> dict[str, Any]:
    """One of this key's requests with its attempts; somebody else's is not found."""
    row = await context.queries.request(storable_text(request_id), key_id=caller.id)
    if row is None:
        raise NotFound("this key has made no request of this id")
    return row
