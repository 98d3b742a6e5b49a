"""What bad input gets: a clear 4xx in OpenAI's shape, nothing sent upstream, no record of a request, no 5xx."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.acceptance.conftest import UPSTREAM_KEY, World
from tests.support.logos_up import Platform
from tests.support.upstream import (
    ScriptedUpstream,
    chat,
    embeddings,
)

pytestmark = [pytest.mark.ray, pytest.mark.slow]

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "Hello"}]
NEVER_SHOWN = ("Traceback", 'File "', UPSTREAM_KEY, "127.0.0.1")


@pytest.fixture(scope="module")
def shared(platform: Platform, upstream: ScriptedUpstream) -> Iterator[tuple[httpx.Client, str]]:
    """One model and one key for all bodies that must get nowhere."""
    world = World(platform, upstream, "bad-input")
    model = world.model(lambda request: embeddings()(request) if "embeddings" in request.path else chat()(request))
    with world.client() as client:
        yield client, model


def is_clear(answer: httpx.Response, status: int | None = None) -> dict[str, Any]:
    """The error of an answer that is one; fails on anything that a client should not see."""
    assert 400 <= answer.status_code < 500, f"{answer.status_code}: {answer.text[:300]}"
    if status is not None:
        assert answer.status_code == status, answer.text[:300]
    told: dict[str, Any] = answer.json()["error"]
    assert set(told) == {"message", "type", "param", "code"}
    assert told["message"]
    assert answer.headers["content-type"] == "application/json"
    assert len(answer.headers.get_list("x-request-id")) == 1
    for text in NEVER_SHOWN:
        assert text not in answer.text
    return told


def body_of(model: str, **changes: Any) -> dict[str, Any]:
    return {"messages": MESSAGES, **changes, "model": model}


# ---------------------------------------------------------------------- bodies

NOT_BODIES = {
    "empty": b"",
    "not json": b"hello",
    "half": b'{"model": "MODEL", "messages": [',
    "two": b'{"model": "MODEL"}{"model": "MODEL"}',
    "a list": b"[]",
    "a string": b'"MODEL"',
    "null": b"null",
    "a number": b"1e5",
    "NaN": b'{"model": "MODEL", "messages": [{"role": "user", "content": "x"}], "temperature": NaN}',
    "not utf-8": b'{"model": "MODEL", "messages": [{"role": "user", "content": "\xff\xfe"}]}',
    "lone surrogate": b'{"model": "MODEL", "messages": [{"role": "user", "content": "\\ud800"}]}',
    "raw NUL": b'{"model": "MODEL", "messages": [{"role": "user", "content": "a\x00b"}]}',
    "deep lists": b'{"model": "MODEL", "messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep objects": b'{"model": "MODEL", "messages": [], "x": ' + b'{"a":' * 5_000 + b"1" + b"}" * 5_000 + b"}",
    "utf-16": '{"model": "MODEL"}'.encode("utf-16"),
}


@pytest.mark.parametrize("name", NOT_BODIES)
def test_a_body_that_is_no_request_is_refused(
    shared: tuple[httpx.Client, str], upstream: ScriptedUpstream, name: str
) -> None:
    client, model = shared
    before = len(upstream.of(model))
    body = NOT_BODIES[name].replace(b"MODEL", model.encode())
    is_clear(client.post(CHAT, content=body, headers={"content-type": "application/json"}), 400)
    assert len(upstream.of(model)) == before


WRONG_TYPES: list[tuple[str, Any]] = [
    (name, value)
    for name, values in {
        "model": [1, [], {}, True, ""],
        "messages": [1, "x", {}, [], [1], [None], [{}], [{"role": 1}], [{"role": "user", "content": 7}]],
        "stream": [1, "true", []],
        "stream_options": [1, "x", {"include_usage": "yes"}],
        "max_tokens": ["many", -1, 1.5, [], 2**40],
        "max_completion_tokens": ["many", -1, True],
        "temperature": ["hot", [], True],
        "top_p": ["x", {}],
        "n": ["two", 0, 10_000, -1],
        "stop": [1, [1], {}],
        "tools": [1, "x", {}, [1]],
        "tool_choice": [1, []],
        "response_format": [1, "json"],
        "logit_bias": [1, []],
        "seed": ["x", 1.5],
        "user": [1, {}],
        "priority": ["urgent", 2, [], 1.5, True],
        "mode": ["slow", 1],
        "timeout_s": ["x", -1, [], 1e12],
    }.items()
    for value in values
]


@pytest.mark.parametrize(("name", "value"), WRONG_TYPES, ids=[f"{n}={json.dumps(v)[:24]}" for n, v in WRONG_TYPES])
def test_a_field_of_the_wrong_type_is_refused_by_its_name(
    shared: tuple[httpx.Client, str], upstream: ScriptedUpstream, name: str, value: Any
) -> None:
    client, model = shared
    before = len(upstream.of(model))
    told = is_clear(client.post(CHAT, json={"model": model, "messages": MESSAGES, name: value}), 400)
    assert (told["param"] or "").startswith(name)
    assert len(upstream.of(model)) == before


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {}),
        ("/v1/completions", {"prompt": {}}),
        ("/v1/completions", {"prompt": [1, "a"]}),
        ("/v1/embeddings", {}),
        ("/v1/embeddings", {"input": 3}),
        ("/v1/embeddings", {"input": []}),
        ("/v1/embeddings", {"input": "x", "dimensions": "many"}),
        ("/openai/chat/completions", {"messages": 1}),
    ],
)
def test_other_routes_check_their_fields_too(shared: tuple[httpx.Client, str], path: str, body: dict[str, Any]) -> None:
    client, model = shared
    is_clear(client.post(path, json={"model": model, **body}), 400)


def test_ten_megabytes_are_taken_and_more_than_the_limit_is_refused(
    shared: tuple[httpx.Client, str], upstream: ScriptedUpstream
) -> None:
    client, model = shared
    before = len(upstream.of(model))
    ten_mb = b"[" + b'"x",' * 2_600_000 + b'"x"]'
    is_clear(client.post(CHAT, content=ten_mb, headers={"content-type": "application/json"}), 400)
    is_clear(client.post(CHAT, json=body_of(model, user="x" * (21 * 1024 * 1024))), 413)
    assert len(upstream.of(model)) == before
    large = client.post(CHAT, json=body_of(model, messages=[{"role": "user", "content": "x" * 10 * 1024 * 1024}]))
    assert large.status_code == 200, large.text[:300]
    assert len(upstream.of(model)[-1].body) > 10 * 1024 * 1024


def test_an_escaped_nul_in_a_prompt_is_served_and_recorded(world: World, platform: Platform) -> None:
    model = world.model(chat("a\0b"))
    with world.client(world.key(log="FULL")) as client:
        answer = client.post(CHAT, json=body_of(model, messages=[{"role": "user", "content": "a\0b"}], user="x\0"))
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"] == "a\0b"
    (received,) = world.upstream.of(model)
    assert received.document["messages"][0]["content"] == "a\0b"
    platform.wait_until_settled()
    ((status, payload, response),) = world.log("result_status, input_payload, response_payload")
    assert status == "success"
    assert payload
    assert response


def test_another_content_type_is_refused(shared: tuple[httpx.Client, str]) -> None:
    client, model = shared
    body = json.dumps(body_of(model)).encode()
    is_clear(client.post(CHAT, content=body, headers={"content-type": "text/plain"}), 415)
    is_clear(client.post(CHAT, content=body, headers={"content-type": "multipart/form-data; boundary=x"}), 415)


# ---------------------------------------------------------------------- names, headers, methods


def test_unknown_models_and_policies_are_named_as_such(shared: tuple[httpx.Client, str]) -> None:
    client, model = shared
    assert is_clear(client.post(CHAT, json=body_of("no-such-model")), 404)["code"] == "model_not_found"
    for headers in ({"policy": "no-such-policy"}, {"x-logos-policy": "4711"}):
        assert is_clear(client.post(CHAT, json=body_of(model), headers=headers), 400)["code"] == "unknown_policy"
    for text in ("logos-v1__policy_privacy=NOWHERE", "logos-v1__policy_speed=1", "logos-v1__"):
        is_clear(client.post(CHAT, json=body_of(text)), 400)


def test_a_model_that_the_key_may_not_use_is_unknown_in_the_same_words(world: World) -> None:
    mine, other = world.model(chat()), world.model(chat())
    with world.client(world.key(models=[mine])) as client:
        hidden = is_clear(client.post(CHAT, json=body_of(other)), 404)
        absent = is_clear(client.post(CHAT, json=body_of("no-such-model")), 404)
    assert hidden == absent
    assert not world.upstream.of(other)


@pytest.mark.parametrize(
    "header",
    [
        {"x-logos-priority": "urgent"},
        {"x-logos-priority": "2"},
        {"x-logos-mode": "slow"},
        {"x-logos-timeout-s": "-1"},
        {"x-logos-timeout-s": "soon"},
        {"x-logos-timeout-s": "nan"},
        {"x-logos-timeout-s": "1e300"},
        {"x-logos-slo-ttft-ms": "0"},
        {"x-logos-slo-ttft-ms": "-5"},
        {"x-logos-slo-ttft-ms": "99999999999999999999"},
        {"x-logos-slo-ms": "fast"},
        {"x-logos-slo-ms": "²"},
    ],
    ids=str,
)
def test_a_header_out_of_range_is_refused_by_its_name(
    shared: tuple[httpx.Client, str], upstream: ScriptedUpstream, header: dict[str, str]
) -> None:
    client, model = shared
    before = len(upstream.of(model))
    encoded = {name: value.encode("latin-1") for name, value in header.items()}
    told = is_clear(client.post(CHAT, json=body_of(model), headers=encoded), 400)
    assert next(iter(header)) in (told["param"] or "") + told["message"]
    assert len(upstream.of(model)) == before


@pytest.mark.parametrize("key", ["x", "lg-000000000000-" + "a" * 43, "Bearer", "ü" * 40, "a" * 9000])
def test_a_key_that_is_none_of_ours_is_refused(shared: tuple[httpx.Client, str], key: str) -> None:
    client, model = shared
    header = {"authorization": f"Bearer {key}".encode()}
    answer = client.post(CHAT, json=body_of(model), headers=header)
    if len(key) > 8000 and answer.status_code in {400, 431}:
        return  # the server in front takes no headers of that size
    assert key not in answer.text
    is_clear(answer, 401)


def test_a_client_sent_request_id_used_twice_changes_nothing(world: World, platform: Platform) -> None:
    model = world.model(chat())
    with world.client() as client:
        answers = [client.post(CHAT, json=body_of(model), headers={"x-request-id": "mine"}) for _ in range(2)]
    ids = [answer.headers.get_list("x-request-id") for answer in answers]
    assert all(len(each) == 1 for each in ids)
    assert ids[0] != ids[1]
    assert "mine" not in (ids[0] + ids[1])
    platform.wait_until_settled()
    rows = world.log("request_id, client_request_id")
    assert [(own, theirs) for own, theirs in rows] == [(ids[0][0], "mine"), (ids[1][0], "mine")]


def test_headers_that_serve_would_obey_do_nothing(world: World) -> None:
    model = world.model(chat(delay_s=1.5))
    headers = {
        "x-request-timeout-seconds": b"0.1",
        "x-request-disconnect-disabled": b"1",
        "serve_multiplexed_model_id": b"another",
        "x-session-id": b"\xff",  # Serve would answer 500 by itself: it reads UTF-8
    }
    with world.client() as client:
        answer = client.post(CHAT, json=body_of(model), headers=headers)
    assert answer.status_code == 200, answer.text
    (received,) = world.upstream.of(model)
    assert not set(headers) & set(received.headers)


def test_a_clients_address_is_that_which_the_named_proxy_tells(world: World, platform: Platform) -> None:
    """The test stands where the proxy would, at 127.0.0.1."""
    model = world.model(chat())
    with world.client() as client:
        for told in ("203.0.113.9", "198.51.100.7, 203.0.113.9"):
            assert client.post(CHAT, json=body_of(model), headers={"x-forwarded-for": told}).status_code == 200
    platform.wait_until_settled()
    assert world.log("client_ip") == [("203.0.113.9",)] * 2


def test_a_wrong_method_says_which_is_right_and_a_wrong_path_is_not_found(shared: tuple[httpx.Client, str]) -> None:
    client, _ = shared
    answer = client.get(CHAT)
    is_clear(answer, 405)
    assert "POST" in answer.headers["allow"]
    is_clear(client.post("/v1/models"), 405)
    is_clear(client.get("/v1/no/such/path"), 404)
    is_clear(client.get("/%2e%2e/etc/passwd"), 404)


def test_an_ordinary_key_is_no_administrator(shared: tuple[httpx.Client, str]) -> None:
    client, _ = shared
    for path in ("/admin/keys", "/admin/providers", "/admin/logs", "/admin/scheduler"):
        is_clear(client.get(path), 403)
    is_clear(client.post("/admin/apply", json={}), 403)


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"nope",
        b'{"modles": []}',
        b'{"models": [{"name": "a", "weight": {}}]}',
        b'{"keys": [{"name": "a\\u0000b"}]}',
        b'{"providers": [{"name": "p", "base_url": "ftp://x", "privacy": "LOCAL"}]}',
        b'{"models": [{"name": "m", "endpoints": [{"provider": "nobody"}]}]}',
    ],
)
def test_a_declaration_that_does_not_fit_changes_nothing(platform: Platform, body: bytes) -> None:
    version = platform.get("/admin/scheduler")["catalogue_version"]
    with platform.client() as client:
        told = is_clear(client.post("/admin/apply", content=body, headers={"content-type": "application/json"}))
    assert "pydantic" not in told["message"]
    assert platform.get("/admin/scheduler")["catalogue_version"] == version


def test_what_was_refused_left_no_row(shared: tuple[httpx.Client, str], platform: Platform) -> None:
    platform.wait_until_settled()
    query = (
        "SELECT http_status, count(*) FROM log_entry JOIN api_keys ON api_keys.id = api_key_id "
        "WHERE api_keys.name LIKE 'bad-input-%' GROUP BY 1"
    )
    found = dict(platform.rows(query))
    assert set(found) <= {200}, found
