"""Errors of the routes that FastAPI serves look like all the others."""

from __future__ import annotations

import httpx
import pytest
from fastapi import FastAPI
from pydantic import BaseModel

from logos.domain.errors import Conflict, DatabaseUnavailable
from logos.gateway.rest_errors import add_error_responses


class Thing(BaseModel):
    name: str
    secret: int


def app() -> FastAPI:
    made = FastAPI()
    add_error_responses(made)

    @made.get("/conflict")
    async def conflict() -> None:
        raise Conflict("There is one of that name.", param="name")

    @made.get("/away")
    async def away() -> None:
        raise DatabaseUnavailable

    @made.get("/broken")
    async def broken() -> None:
        raise ZeroDivisionError("a secret")

    @made.post("/things")
    async def things(thing: Thing) -> None: ...

    return made


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/conflict", 409, "conflict"),
        ("GET", "/away", 503, "database_unavailable"),
        ("GET", "/broken", 500, "internal_error"),
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/things", 405, "method_not_allowed"),
        ("POST", "/things", 422, "invalid_request"),
    ],
)
async def test_every_error_has_the_one_shape(method: str, path: str, status: int, code: str) -> None:
    transport = httpx.ASGITransport(app(), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        response = await client.request(method, path, json={"name": 1, "secret": "hidden-value"})
    assert response.status_code == status
    assert response.json()["error"].keys() == {"message", "type", "param", "code"}
    assert response.json()["error"]["code"] == code
    assert "hidden-value" not in response.text
    assert response.headers.get("allow") == ("POST" if status == 405 else None)
    assert response.headers.get("retry-after") == ("5" if status == 503 else None)
