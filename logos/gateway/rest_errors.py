"""The same error shape for the routes that FastAPI serves: admin, me, docs, and paths that are nowhere.

Installed once on the app. What an error looks like is decided in `gateway.errors`.
"""

from __future__ import annotations

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from logos.domain.errors import BadRequest, LogosError, MethodNotAllowed, NotFound
from logos.gateway.asgi import REQUEST_ID
from logos.gateway.errors import error_body, error_headers, status_of, unexpected


def add_error_responses(app: FastAPI) -> None:
    """Every error that leaves a route becomes an answer in OpenAI's shape."""
    app.add_exception_handler(LogosError, _on_logos_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(Exception, _on_unexpected)


def error_response(error: LogosError, *, status: int | None = None) -> Response:
    status = status or status_of(error)
    headers = {name.decode(): value.decode() for name, value in error_headers(error, status)}
    return Response(error_body(error), status, headers)


async def _on_logos_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, LogosError)
    return error_response(error)


async def _on_validation_error(request: Request, error: Exception) -> Response:
    """Names the first field at fault and why; never its value, which may be a secret."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part != "body") or "body"
    return error_response(BadRequest(f"'{where}': {first['msg']}.", param=where), status=422)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    kinds: dict[int, type[LogosError]] = {404: NotFound, 405: MethodNotAllowed}
    kind = kinds.get(error.status_code)
    told = kind() if kind is not None else BadRequest(str(error.detail))
    response = error_response(told, status=error.status_code)
    response.headers.update(error.headers or {})
    return response


async def _on_unexpected(request: Request, error: Exception) -> Response:
    return error_response(unexpected(error, str(request.scope.get(REQUEST_ID, "unknown"))))
