"""What all routes of /admin and /me share: the context they are given, who is calling, bodies in, errors out.

The routes are in `admin` and `me`, the shape of errors in `rest_errors`; nothing here is on the way of a request to a
model.
"""

from __future__ import annotations

import datetime as dt
import json
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Annotated, Any, Protocol

from fastapi import Depends, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from logos.declarations import Declared
from logos.documents import parse
from logos.domain.catalogue import Catalogue
from logos.domain.directory import ProviderAccess
from logos.domain.errors import BadRequest, BodyTooLarge, DirectoryStale, LogosError, NotPermitted
from logos.domain.nouns import Key, Role
from logos.gateway.asgi import REQUEST_ID
from logos.gateway.auth import KeyDirectory, is_stale
from logos.gateway.errors import unexpected
from logos.gateway.http import headers_of
from logos.gateway.ports import AccountsPort, ClassifierPort, LedgerPort, SchedulerPort
from logos.gateway.resolution import Resolution
from logos.gateway.rest_errors import error_response
from logos.storage.queries import Queries

REPORT_DAYS = 30


class DirectoryView(Protocol):
    """What this gateway holds in memory (`gateway.directory.Directory`)."""

    @property
    def catalogue(self) -> Catalogue: ...

    @property
    def access(self) -> dict[int, ProviderAccess]: ...

    @property
    def keys(self) -> KeyDirectory: ...

    @property
    def confirmed_at(self) -> float: ...


@dataclass(frozen=True, slots=True)
class AdminContext:
    """What the routes need. `clock` is the directory's monotonic one."""

    accounts: AccountsPort
    scheduler: SchedulerPort
    ledger: LedgerPort
    queries: Queries
    directory: DirectoryView
    classifier: ClassifierPort | None = None
    resolution: Resolution = field(default_factory=lambda: Resolution(None))
    body_bytes_max: int = 20 * 1024 * 1024
    directory_stale_s: float = 5.0
    clock: Callable[[], float] = time.monotonic
    wall_clock: Callable[[], float] = time.time


class Route(APIRoute):
    """Failures of the parts behind a route become errors of ours; what nobody expected is answered, too."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handle(request)
            except (LogosError, HTTPException, RequestValidationError):
                raise
            except (ConnectionError, TimeoutError):
                return error_response(DirectoryStale("A part of the platform is restarting; try again in a moment."))
            except Exception as error:  # noqa: BLE001 - the boundary of a request: whatever it was, it is answered
                return error_response(unexpected(error, str(request.scope.get(REQUEST_ID, "unknown"))))

        return answer


def context_of(request: Request) -> AdminContext:
    context: AdminContext = request.state.logos
    return context


Context = Annotated[AdminContext, Depends(context_of)]


def caller_of(request: Request, context: Context) -> Key:
    """Raises NotAuthenticated or DirectoryStale."""
    directory = context.directory
    stale = is_stale(context.clock(), directory.confirmed_at, context.directory_stale_s)
    return directory.keys.authenticate(headers_of(request.scope), unix_now=context.wall_clock(), stale=stale)


Caller = Annotated[Key, Depends(caller_of)]
Limit = Annotated[int, Query(ge=1, le=1000)]
Offset = Annotated[int, Query(ge=0, le=2**31)]
RowId = Annotated[int | None, Query(ge=0, lt=2**63)]


def require_admin(caller: Caller) -> Key:
    """Raises NotPermitted for any other key."""
    if caller.role is not Role.ADMIN:
        raise NotPermitted
    return caller


async def read_document(request: Request, limit_bytes: int) -> dict[str, Any]:
    """A JSON object from the body; whether it fits is for `read_item` to say."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit_bytes:
            raise BodyTooLarge
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        raise BadRequest("The body should be a JSON object.") from None
    if not isinstance(found, dict):
        raise BadRequest("The body should be a JSON object.")
    return found


async def read_item(request: Request, kind: type[Declared], limit_bytes: int) -> dict[str, Any]:
    """A document that has been checked to be a `kind`, as it came: what is left out stays left out."""
    document = await read_document(request, limit_bytes)
    try:
        parse(kind, document)
    except RecursionError:
        raise BadRequest("The body is nested too deeply.") from None
    return document


def span(since: dt.datetime | None, until: dt.datetime | None) -> tuple[dt.datetime, dt.datetime]:
    """Where a report begins and ends: the last 30 days where nothing is said."""
    end = aware(until) or dt.datetime.now(dt.UTC)
    try:
        begin = aware(since) or end - dt.timedelta(days=REPORT_DAYS)
    except OverflowError:
        raise BadRequest("until is too long ago", param="until") from None
    if begin > end:
        raise BadRequest("since is after until", param="since")
    return begin, end


def aware(time: dt.datetime | None) -> dt.datetime | None:
    """Times without a zone are UTC."""
    return time if time is None or time.tzinfo is not None else time.replace(tzinfo=dt.UTC)
