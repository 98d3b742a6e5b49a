"""Choosing by meaning through the door: a request's row explains the choice, votes teach it, a route shows it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from logos.config import Settings
from tests.support.in_process import InProcessPlatform, in_process_platform
from tests.support.postgres import rows, value
from tests.support.upstream import ScriptedUpstream, chat

KEY = "a-key-of-the-tests-0123456789abcdef0123456789"
OTHER_KEY = "another-key-of-the-tests-0123456789abcdef012345"
FULL_KEY = "a-full-key-of-the-tests-0123456789abcdef0123456"
CHAT = "/v1/chat/completions"
POEM = [{"role": "user", "content": "Write a poem about autumn leaves"}]
CODE = [{"role": "user", "content": "Why does my Python function raise a TypeError?"}]


def declaration(upstream: ScriptedUpstream) -> dict[str, Any]:
    reached = {"kind": "openai", "base_url": upstream.base_url}
    return {
        "providers": [
            {"name": "near", "privacy": "LOCAL", **reached},
            {"name": "far", "privacy": "CLOUD_NOT_IN_EU_BY_US_PROVIDER", **reached},
        ],
        "models": [
            {
                "name": "coder",
                "description": "program code, debugging",
                "endpoints": [{"provider": "near"}, {"provider": "far"}],
            },
            {"name": "poet", "description": "poems and stories", "endpoints": [{"provider": "near"}]},
            {"name": "cloud", "description": "poems and stories", "endpoints": [{"provider": "far"}]},
        ],
        "policies": [{"name": "inside", "privacy": "LOCAL"}],
        "keys": [
            {"name": "k", "key": KEY, "policy": "inside"},
            {"name": "other", "key": OTHER_KEY, "policy": "inside"},
            {"name": "full", "key": FULL_KEY, "policy": "inside", "log": "FULL"},
        ],
    }


@pytest.fixture(scope="module")
def upstream() -> Any:
    with ScriptedUpstream() as running:
        for model in ("coder", "poet", "cloud"):
            running.answer(model, chat())
        yield running


@pytest.fixture
async def platform(database_url: str, tmp_path: Path, upstream: ScriptedUpstream) -> AsyncIterator[InProcessPlatform]:
    settings = Settings.default_world().model_copy(update={"nodes": ()})
    async with in_process_platform(
        database_url, tmp_path, settings=settings, declaration=declaration(upstream), with_classifier=True
    ) as running:
        assert running.classifier is not None
        async with asyncio.timeout(5):
            while (await running.classifier.status())["models"] != 3:
                await asyncio.sleep(0.01)
        yield running


async def ask(platform: InProcessPlatform, path: str, document: Any, key: str = KEY, **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(base_url=platform.base_url, timeout=30, trust_env=False) as client:
        return await client.post(path, json=document, headers={"authorization": f"Bearer {key}", **headers})


async def chosen(platform: InProcessPlatform, messages: list[dict[str, str]], key: str = KEY) -> tuple[str, str]:
    """Model and request id."""
    answer = await ask(platform, CHAT, {"messages": messages}, key)
    assert answer.status_code == 200, answer.text
    return answer.headers["x-logos-model"], answer.headers["x-request-id"]


async def test_meaning_chooses_and_the_row_says_why(platform: InProcessPlatform, database_url: str) -> None:
    assert (await chosen(platform, POEM))[0] == "poet"
    model, request_id = await chosen(platform, CODE)
    assert model == "coder"
    async with asyncio.timeout(5):
        while value(database_url, "SELECT count(*) FROM log_entry WHERE result_status = 'success'") < 2:
            await asyncio.sleep(0.02)
    statistics = value(
        database_url, "SELECT classification_statistics FROM log_entry WHERE request_id = %s", request_id
    )
    assert statistics["meaning_available"] is True
    assert [each["model"] for each in statistics["models"]] == ["coder", "poet"]
    assert all({"weight", "policy", "tags", "meaning"} <= each.keys() for each in statistics["models"])
    assert list(statistics["excluded"].values()) == ["privacy"]
    assert list(statistics["endpoints_excluded"].values()) == ["privacy"]  # the coder's copy in the cloud


async def test_the_debug_route_explains_without_sending_anything(
    platform: InProcessPlatform, upstream: ScriptedUpstream, database_url: str
) -> None:
    before = len(upstream.of("poet"))
    body = {"messages": [{"role": "system", "content": "Be brief"}, *CODE, *POEM], "max_tokens": 5}
    answer = await ask(platform, "/admin/classify", body, platform.root_key, policy="inside")
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert (told["mode"], told["policy"], told["privacy"]) == ("classification", "inside", "LOCAL")
    assert told["user_prompt"] == POEM[0]["content"]
    assert told["system_prompt"] == "Be brief"
    assert [each["model"] for each in told["candidates"]] == ["poet", "coder"]
    assert told["candidates"][0]["weight"] > told["candidates"][1]["weight"]
    assert {(each["model"], each["reason"], each["endpoint_id"] is None) for each in told["excluded"]} == {
        ("cloud", "privacy", True),
        ("coder", "privacy", False),  # its copy in the cloud
    }
    assert told["classification_statistics"]["factors"]["policy"] == 3.4
    direct = (await ask(platform, "/admin/classify", {**body, "model": "poet"}, platform.root_key)).json()
    assert (direct["mode"], direct["classification_statistics"]) == ("direct", None)
    assert len(upstream.of("poet")) == before
    assert value(database_url, "SELECT count(*) FROM log_entry") == 0


async def test_the_debug_route_looks_with_another_key_s_eyes(platform: InProcessPlatform, database_url: str) -> None:
    key_id = value(database_url, "SELECT id FROM api_keys WHERE name = 'k'")
    root = platform.root_key
    told = (await ask(platform, f"/admin/classify?key_id={key_id}", {"messages": POEM}, root)).json()
    assert told["policy"] == "inside"
    assert (await ask(platform, "/admin/classify?key_id=999", {"messages": POEM}, root)).status_code == 404
    assert (await ask(platform, "/admin/classify", {"messages": POEM})).status_code == 403
    wrong = await ask(platform, "/admin/classify", {"messages": POEM, "model": "logos-v1__policy_cost=x"}, root)
    assert wrong.status_code == 400
    assert "character 23" in wrong.json()["error"]["message"]
    assert (await ask(platform, "/admin/classify", {"messages": "hi"}, root)).json()["error"]["param"] == "messages"


async def weight_of(platform: InProcessPlatform, model: str) -> float:
    told = (await ask(platform, "/admin/classify", {"messages": POEM}, platform.root_key, policy="inside")).json()
    return next(float(each["weight"]) for each in told["candidates"] if each["model"] == model)


async def test_a_key_votes_on_its_own_requests_and_takes_it_back(
    platform: InProcessPlatform, database_url: str
) -> None:
    before = await weight_of(platform, "poet")
    _, request_id = await chosen(platform, POEM)
    answer = await ask(platform, "/me/feedback", {"request_id": request_id, "vote": "bad"})
    assert answer.status_code == 200, answer.text
    assert answer.json() == {
        "request_id": request_id,
        "model": "poet",
        "vote": "bad",
        "before": None,
        "learns_meaning": True,
    }
    assert await weight_of(platform, "poet") < before
    again = (await ask(platform, "/me/feedback", {"request_id": request_id, "vote": "good"})).json()
    assert (again["vote"], again["before"]) == ("good", "bad")
    assert await weight_of(platform, "poet") > before
    undone = (await ask(platform, "/me/feedback", {"request_id": request_id, "vote": "none"})).json()
    assert (undone["vote"], undone["before"]) == (None, "good")
    assert await weight_of(platform, "poet") == before
    assert value(database_url, "SELECT count(*) FROM feedback") == 0


async def test_somebody_else_s_request_is_not_found_and_an_administrator_may_vote_on_any(
    platform: InProcessPlatform, database_url: str
) -> None:
    _, request_id = await chosen(platform, POEM)
    given = {"request_id": request_id, "vote": "good"}
    assert (await ask(platform, "/admin/feedback", given, platform.root_key)).status_code == 200
    assert (await ask(platform, "/me/feedback", given, OTHER_KEY)).status_code == 404
    assert (await ask(platform, "/admin/feedback", given)).status_code == 403
    voters = rows(database_url, "SELECT a.name FROM feedback f JOIN api_keys a ON a.id = f.api_key_id")
    assert voters == [("root",)]


async def test_of_a_billing_key_no_prompt_and_no_vector_is_stored_until_it_votes(
    platform: InProcessPlatform, database_url: str
) -> None:
    _, request_id = await chosen(platform, POEM)
    await ask(platform, "/me/feedback", {"request_id": request_id, "vote": "good"})
    ((payload, statistics),) = rows(
        database_url, "SELECT input_payload, classification_statistics::text FROM log_entry WHERE result_status <> ''"
    )
    assert payload is None
    assert "autumn" not in statistics
    ((vector, embedding),) = rows(database_url, "SELECT vector, embedding FROM feedback")
    assert embedding.startswith("wordllama/")
    assert 256 <= len(vector) < 1024


async def test_where_the_prompt_is_on_record_a_vote_needs_no_memory_of_it(platform: InProcessPlatform) -> None:
    assert platform.classifier is not None
    _, mine = await chosen(platform, POEM)
    _, full = await chosen(platform, POEM, FULL_KEY)
    direct = (await ask(platform, CHAT, {"model": "poet", "messages": POEM})).headers["x-request-id"]
    platform.classifier._feedback.prompts._kept.clear()  # as after a restart
    learns = [
        (await ask(platform, "/me/feedback", {"request_id": each, "vote": "good"}, key)).json()["learns_meaning"]
        for each, key in ((mine, KEY), (full, FULL_KEY), (direct, KEY))
    ]
    assert learns == [False, True, False]


@pytest.mark.parametrize(
    ("document", "status", "param"),
    [
        ({"request_id": "x", "vote": "great"}, 422, "vote"),
        ({"vote": "good"}, 422, "request_id"),
        ({"request_id": "x", "vote": "good", "why": "?"}, 422, "why"),
        ({"request_id": "never seen", "vote": "good"}, 404, None),
        ([], 400, None),
    ],
)
async def test_a_wrong_vote_is_refused_with_the_field(
    platform: InProcessPlatform, document: Any, status: int, param: str | None
) -> None:
    answer = await ask(platform, "/me/feedback", document)
    assert answer.status_code == status, answer.text
    if param is not None:
        assert param in answer.json()["error"]["message"]


async def test_health_tells_of_the_classifier(platform: InProcessPlatform) -> None:
    async with httpx.AsyncClient(base_url=platform.base_url, trust_env=False) as client:
        told = (await client.get("/health")).json()
        schema = (await client.get("/openapi.json")).json()
    assert told["classifier"]["models"] == 3
    for path in ("/admin/classify", "/admin/feedback", "/me/feedback"):
        assert schema["paths"][path]["post"]["requestBody"]
