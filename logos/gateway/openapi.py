"""/openapi.json: what FastAPI cannot know. Bodies that are parsed by hand, the public API's hot routes, how to log in.

The hot routes are plain ASGI ahead of FastAPI, so they are described here and served elsewhere.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from logos.declarations import Declaration, Declared, KeyDeclared
from logos.gateway.admin import DECLARED
from logos.gateway.choosing import FeedbackGiven

_HOT = {
    "/v1/chat/completions": ("OpenAI chat completions", ["messages"]),
    "/v1/completions": ("OpenAI completions", ["prompt"]),
    "/v1/embeddings": ("OpenAI embeddings", ["input"]),
}
_ERROR = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                name: {"type": ["string", "null"]} if name in {"param", "code"} else {"type": "string"}
                for name in ("message", "type", "param", "code")
            },
        }
    },
}


def describe(app: FastAPI) -> None:
    """Gives the app its schema, made when somebody first asks for it."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = schema_of(app)
        return app.openapi_schema

    # FastAPI's documented way to extend a schema is to replace this method.
    app.openapi = openapi  # type: ignore[method-assign]


def schema_of(app: FastAPI) -> dict[str, Any]:
    schema = get_openapi(title=app.title, version=app.version, routes=app.routes)
    components = schema.setdefault("components", {})
    bodies: dict[str, type[Declared]] = {f"/admin/{plural}": kind for plural, kind in DECLARED.items()}
    bodies |= {"/admin/keys": KeyDeclared, "/admin/apply": Declaration}
    bodies |= {"/admin/feedback": FeedbackGiven, "/me/feedback": FeedbackGiven}
    _, shapes = models_json_schema(
        [(kind, "validation") for kind in bodies.values()], ref_template="#/components/schemas/{model}"
    )
    components.setdefault("schemas", {}).update(shapes.get("$defs", {}))
    components["schemas"]["Error"] = _ERROR
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    schema["security"] = [{"key": []}]
    for path, kind in bodies.items():
        for method in ("post", "put"):
            if method in schema["paths"][path]:
                reference = {"$ref": f"#/components/schemas/{kind.__name__}"}
                schema["paths"][path][method]["requestBody"] = _json_body(reference)
    schema["paths"]["/admin/classify"]["post"]["requestBody"] = _json_body(_hot_body(["messages"]))
    for path, (summary, required) in _HOT.items():
        schema["paths"][path] = {"post": _hot(summary, required)}
    schema["paths"]["/v1/models"] = {
        "get": {"tags": ["openai"], "summary": "The models that this key may use", "responses": {"200": _ok()}}
    }
    return schema


def _hot_body(required: list[str]) -> dict[str, Any]:
    properties = {
        "model": {"type": "string", "description": 'left out or "auto": the platform chooses'},
        "priority": {"enum": ["low", "mid", "high", 1, 5, 10]},
        "mode": {"enum": ["interactive", "batch"]},
        "timeout_s": {"type": "number", "description": "how long to wait in the queue"},
    }
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": True}


def _hot(summary: str, required: list[str]) -> dict[str, Any]:
    wrong = {"description": "An error", "content": {"application/json": {"schema": _reference("Error")}}}
    return {
        "tags": ["openai"],
        "summary": summary,
        "requestBody": _json_body(_hot_body(required)),
        "responses": {"200": _ok(), "4XX": wrong, "5XX": wrong},
    }


def _json_body(schema: dict[str, Any]) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _ok() -> dict[str, Any]:
    return {"description": "As the OpenAI API answers", "content": {"application/json": {"schema": {}}}}


def _reference(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}
