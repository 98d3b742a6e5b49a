"""/admin and /me over HTTP."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from logos.config import Settings
from logos.gateway.parsing import CONTROL_FIELDS
from tests.integration.directory.test_applying import WHOLE
from tests.support.admin_platform import ROOT_KEY, AdminPlatform, running_platform


@pytest.fixture
async def platform(database_url: str) -> AsyncIterator[AdminPlatform]:
    async with running_platform(database_url) as running:
        yield running


async def listed(platform: AdminPlatform, path: str) -> list[dict[str, Any]]:
    answer = await platform.ask("GET", path)
    assert answer.status_code == 200, answer.text
    rows: list[dict[str, Any]] = answer.json()["rows"]
    return rows


async def test_what_is_applied_is_listed_without_secrets(platform: AdminPlatform) -> None:
    first = await platform.ask("POST", "/admin/apply", WHOLE)
    assert first.status_code == 200, first.text
    assert first.json()["acknowledged"] == first.json()["holders"] == 1
    texts = [first.text]
    for kind in ("providers", "models", "endpoints", "prices", "policies", "teams", "users", "keys", "permissions"):
        answer = await platform.ask("GET", f"/admin/{kind}")
        assert answer.status_code == 200, answer.text
        assert answer.json()["total"] == len(answer.json()["rows"]) > 0
        texts.append(answer.text)
    shown = " ".join(texts)
    assert "azure-secret-1" not in shown
    assert "ci-secret-12" not in shown
    assert "digest" not in shown
    assert {row["token_type"]: row["per_million"] for row in await listed(platform, "/admin/prices")} == {
        "prompt": "0.15",
        "completion": "0.6",
        "cached_prompt": "0.075",
    }
    provider = next(row for row in await listed(platform, "/admin/providers") if row["name"] == "azure-eu")
    assert provider["has_api_key"] is True
    again = await platform.ask("POST", "/admin/apply", WHOLE)
    assert again.json()["changes"] == []
    assert again.json()["version"] == first.json()["version"]


async def test_only_administrators_come_in(platform: AdminPlatform) -> None:
    created = await platform.ask("POST", "/admin/keys", {"name": "ci"})
    assert created.status_code == 201
    user_key = created.json()["keys"]["ci"]
    for method, path in (("GET", "/admin/models"), ("POST", "/admin/apply"), ("DELETE", "/admin/keys/root")):
        refused = await platform.ask(method, path, key=user_key)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "not_permitted")
    nobody = await platform.client.get("/admin/models")
    assert nobody.status_code == 401
    assert nobody.json()["error"]["type"] == "authentication_error"


async def test_a_key_is_rotated_and_revoked_at_once_for_the_door(platform: AdminPlatform) -> None:
    old = (await platform.ask("POST", "/admin/keys", {"name": "team/ci"})).json()["keys"]["team/ci"]
    assert (await platform.ask("GET", "/me", key=old)).status_code == 200
    rotated = await platform.ask("POST", "/admin/keys/team%2Fci/rotate", {"grace_s": 30})
    assert rotated.status_code == 200, rotated.text
    new = rotated.json()["keys"]["team/ci"]
    assert [(await platform.ask("GET", "/me", key=each)).status_code for each in (old, new)] == [200, 200]
    again = await platform.client.post("/admin/keys/team%2Fci/rotate", headers={"x-api-key": ROOT_KEY})
    newest = again.json()["keys"]["team/ci"]
    assert [(await platform.ask("GET", "/me", key=each)).status_code for each in (new, newest)] == [401, 200]
    revoked = await platform.ask("DELETE", "/admin/keys/team%2Fci")
    assert revoked.json()["acknowledged"] == 1
    assert (await platform.ask("GET", "/me", key=newest)).status_code == 401


async def test_me_is_the_calling_key_even_if_another_ones_name_is_its_id(platform: AdminPlatform) -> None:
    budget = {"amount": 5, "currency": "EUR", "per": "day"}
    mine = (await platform.ask("POST", "/admin/keys", {"name": "mine", "budget": budget})).json()["keys"]["mine"]
    before = (await platform.ask("GET", "/me", key=mine)).json()
    namesake = await platform.ask("POST", "/admin/keys", {"name": str(before["id"])})
    assert namesake.status_code == 201
    assert before["budget"] is not None
    assert (await platform.ask("GET", "/me", key=mine)).json() == before


async def test_me_shows_what_the_key_may(platform: AdminPlatform) -> None:
    await platform.ask("POST", "/admin/apply", Settings.default_world().declaration.revealed())
    await platform.ask("POST", "/admin/apply", WHOLE)
    me = (await platform.ask("GET", "/me", key="ci-secret-12")).json()
    assert (me["name"], me["models"], me["policy"], me["log"]) == ("ci", ["qwen2.5-7b"], "local-only", "FULL")
    assert me["limits"]["concurrent"] == 8
    assert me["team_limits"]["requests_per_minute"] == 600
    assert me["budget"] == {"amount": "5", "currency": "EUR", "per": "day", "hard": True}
    assert me["spent"] == []
    root = (await platform.ask("GET", "/me")).json()
    assert len(root["models"]) == 4


async def test_each_kind_is_created_and_deleted_alone(platform: AdminPlatform) -> None:
    items: dict[str, dict[str, Any]] = {
        "providers": {"name": "p", "base_url": "https://h/v1", "privacy": "LOCAL"},
        "models": {"name": "org/m", "engine": {"memory_gib": 1}},
        "endpoints": {"model": "org/m", "provider": "p"},
        "prices": {"model": "org/m", "currency": "EUR", "per_million": {"prompt": 1}},
        "policies": {"name": "local-only", "privacy": "LOCAL"},
        "teams": {"name": "t"},
        "users": {"name": "u", "teams": ["t"]},
    }
    for plural, item in items.items():
        created = await platform.ask("POST", f"/admin/{plural}", item)
        assert created.status_code == 200, created.text
        assert created.json()["changes"][-1]["action"] == "created"
        assert (await platform.ask("POST", f"/admin/{plural}", item)).json()["changes"] == []
    for plural, item in reversed(items.items()):
        ref = item.get("name") or (await listed(platform, f"/admin/{plural}"))[-1]["id"]
        deleted = await platform.ask("DELETE", f"/admin/{plural}/{ref}")
        assert deleted.status_code == 200, deleted.text
        assert deleted.json()["changes"][0]["action"] == "deleted"
    assert (await platform.ask("DELETE", "/admin/models/org/m")).status_code == 404


async def test_lists_come_in_pages(platform: AdminPlatform) -> None:
    await platform.ask("POST", "/admin/apply", {"teams": [{"name": f"t{n}"} for n in range(5)]})
    page = (await platform.ask("GET", "/admin/teams?limit=2&offset=4")).json()
    assert (page["total"], [row["name"] for row in page["rows"]]) == (5, ["t4"])
    await platform.ask("POST", "/admin/apply", {"models": [{"name": f"m{n}"} for n in range(5)]})
    page = (await platform.ask("GET", "/admin/models?limit=2&offset=2")).json()
    assert (page["total"], [row["name"] for row in page["rows"]]) == (5, ["m2", "m3"])


BAD: list[tuple[str, str, bytes | None, int, str]] = [
    ("POST", "/admin/apply", b"{", 400, "The body should be a JSON object."),
    ("POST", "/admin/apply", b"[]", 400, "The body should be a JSON object."),
    ("POST", "/admin/apply", b"[" * 100_000, 400, "The body should be a JSON object."),
    ("POST", "/admin/apply", b'{"a":' * 900 + b"1" + b"}" * 900, 422, "a: is nested too deeply"),
    ("POST", "/admin/apply", b'"' + b"x" * (1024 * 1024) + b'"', 413, "larger than this server accepts"),
    ("POST", "/admin/models", b'{"name": "m", "wieghts": {}}', 422, "the nearest valid key is weights"),
    ("POST", "/admin/models", b'{"name": "m\\u0000"}', 422, "name: has a character that cannot be stored"),
    ("POST", "/admin/keys", b'{"name": "k", "key": "s3cret with blank"}', 422, "key: a key is printable ASCII"),
    ("POST", "/admin/keys", b'{"name": "k", "key": "env:HOME"}', 422, "env: and file: are resolved by"),
    ("POST", "/admin/keys/root/rotate", b'{"grace": 1}', 400, "unknown key grace"),
    ("DELETE", "/admin/models/gone", None, 404, "there is no such model; `logos model list`"),
    ("DELETE", "/admin/keys/root", None, 409, "root is the last administrator's key"),
    ("GET", "/admin/models?limit=0", None, 422, "limit"),
    ("GET", "/admin/models/x", None, 405, "not allowed"),
    ("GET", "/admin/nothing", None, 404, "nothing here"),
    ("GET", "/admin/logs?since=yesterday", None, 422, "since"),
    ("GET", "/admin/logs?before_id=99999999999999999999", None, 422, "before_id"),
    ("GET", "/admin/logs/no-such-id", None, 404, "no request of this id"),
    ("GET", "/admin/logs/a%00b", None, 404, "no request of this id"),
    ("GET", "/admin/usage?since=2030-01-01T00:00:00&until=2020-01-01T00:00:00", None, 400, "since is after until"),
    ("GET", "/me/requests?" + "&".join(["request_id=a"] * 101), None, 422, "request_id"),
    ("GET", "/me/requests/no-such-id", None, 404, "this key has made no request of this id"),
]  # fmt: skip


async def test_bad_input_is_a_clear_error_in_openais_shape(platform: AdminPlatform) -> None:
    headers = {"authorization": f"Bearer {ROOT_KEY}", "content-type": "application/json"}
    for method, path, body, status, message in BAD:
        answer = await platform.client.request(method, path, content=body, headers=headers)
        error = answer.json()["error"]
        assert answer.status_code == status, (path, answer.text)
        assert set(error) == {"message", "type", "param", "code"}
        assert message in error["message"]
        assert "s3cret" not in answer.text
    assert await listed(platform, "/admin/models") == []


async def test_reports_of_an_empty_log_are_empty(platform: AdminPlatform) -> None:
    for path in ("/admin/logs", "/admin/usage", "/me/requests", "/me/usage", "/me/requests?request_id=a&request_id=b"):
        assert await listed(platform, path) == []
    assert (await platform.ask("GET", "/admin/budgets")).json() == []


async def test_a_part_that_restarts_is_a_503_with_retry_after(platform: AdminPlatform) -> None:
    assert (await platform.ask("GET", "/admin/scheduler")).json()["engines"][0]["id"] == "e1"
    platform.scheduler.away = True
    answer = await platform.ask("GET", "/admin/scheduler")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")


async def test_the_schema_describes_bodies_and_the_public_api(platform: AdminPlatform) -> None:
    schema = (await platform.client.get("/openapi.json")).json()
    body = schema["paths"]["/admin/models"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body == {"$ref": "#/components/schemas/ModelDeclared"}
    assert "/v1/chat/completions" in schema["paths"]
    chat = schema["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert chat["properties"].keys() == {"model", *CONTROL_FIELDS}
    references = {text.split('"')[0] for text in str(schema).replace("'", '"').split("#/components/schemas/")[1:]}
    assert references <= set(schema["components"]["schemas"])
    assert (await platform.client.get("/docs")).status_code == 200
