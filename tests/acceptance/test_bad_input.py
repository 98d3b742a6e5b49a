"""What bad input gets: a clear 4xx in OpenAI's shape, nothing sent upstream, no record of a request, no 5xx.

And what an upstream that misbehaves does: the client sees what the interface says, the row says what happened.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.acceptance.conftest import UPSTREAM_KEY, World
from tests.support.http_client import Connection, chat_body, data_of
from tests.support.platform import Platform, wait_for
from tests.support.raw_upstream import CLOSE, END, HANG, RESET, Step, chunk, stream_head, whole
from tests.support.upstream import (
    DONE,
    Answer,
    Received,
    ScriptedUpstream,
    chat,
    completion,
    embeddings,
    error,
    event,
    pieces,
    steps,
    stream_body,
    streamed,
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
def test_a_body_that_is_no_request_is_refused(shared: tuple[httpx.Client, str], upstream: ScriptedUpstream, name: str) -> None:  # fmt: skip  # noqa: E501
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
    is_clear(client.post(CHAT, content=b"[" + b'"x",' * 2_600_000 + b'"x"]', headers={"content-type": "application/json"}), 400)  # fmt: skip  # noqa: E501
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
    headers = {"x-request-timeout-seconds": "0.1", "x-request-disconnect-disabled": "1"}
    with world.client() as client:
        answer = client.post(CHAT, json=body_of(model), headers=headers)
    assert answer.status_code == 200, answer.text
    (received,) = world.upstream.of(model)
    assert not set(headers) & set(received.headers)


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
    query = "SELECT http_status, count(*) FROM log_entry JOIN api_keys ON api_keys.id = api_key_id WHERE api_keys.name LIKE 'bad-input-%%' GROUP BY 1"  # noqa: E501
    found = dict(platform.rows(query.replace("%%", "%")))
    assert set(found) <= {200}, found


# ---------------------------------------------------------------------- upstreams that misbehave

STREAM = b"".join(stream_body(["Grüße ", "aus ", "Köln: ", "日本語 ", "🙂"]))
WORDS = stream_body(["one", " two", " three"])


def ask(world: World, answer: Answer, *, stream: bool, **declared: Any) -> tuple[int, dict[str, str], list[bytes]]:
    """Status, headers and the body's parts as they came."""
    model = world.model(answer, **declared)

    async def go() -> tuple[int, dict[str, str], list[bytes]]:
        connection = Connection(world.platform.base_url, {"authorization": f"Bearer {world.key(log='FULL')}"})
        options = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
        try:
            status, headers = await connection.send(CHAT, chat_body(model, "Hello", **options))
            return status, dict(headers), [part async for part in connection.chunks(headers)]
        finally:
            await connection.abort()

    return asyncio.run(go())


def test_a_stream_arrives_byte_by_byte_as_it_was_sent(world: World) -> None:
    cuts = range(1, len(STREAM) - 1, 7)
    _, headers, parts = ask(world, steps(*pieces(STREAM, *cuts, pause_s=0.001)), stream=True)
    assert b"".join(parts) == STREAM
    assert headers["content-type"].startswith("text/event-stream")


def test_utf_8_split_in_the_middle_of_a_character_arrives_whole(world: World, platform: Platform) -> None:
    inside = [STREAM.index(word.encode()) + at for word, at in (("ü", 1), ("ö", 1), ("日", 2), ("🙂", 3))]
    status, _, parts = ask(world, steps(*pieces(STREAM, *inside, pause_s=0.05)), stream=True)
    assert (status, b"".join(parts)) == (200, STREAM)
    platform.wait_until_settled()
    ((outcome, source, kept),) = world.log("result_status, usage_source, response_payload")
    assert (outcome, source) == ("success", "upstream")
    assert "日本語" in kept
    assert "\N{REPLACEMENT CHARACTER}" not in kept


def test_usage_split_over_two_chunks_is_counted(world: World, platform: Platform) -> None:
    inside = STREAM.index(b'"completion_tokens"') + 8
    status, _, parts = ask(world, steps(*pieces(STREAM, inside, pause_s=0.1)), stream=True, priced=True)
    assert status == 200
    usage = [json.loads(said)["usage"] for said in data_of(b"".join(parts)) if '"usage"' in said]
    assert usage[-1]["completion_tokens"] == 5
    assert usage[-1]["cost_currency"] == "EUR"
    platform.wait_until_settled()
    ((source, cost),) = world.log("usage_source, cost_micro_cents")
    # 10 tokens at 1 EUR a million, 5 at 2 EUR a million
    assert (source, cost) == ("upstream", 2000)


GARBAGE: dict[str, tuple[list[Step], int]] = {
    "html": ([whole(b"<html>busy</html>", content_type="text/html")], 502),
    "not json": ([whole(b"hello")], 502),
    "half json": ([whole(completion("x")[:40])], 502),
    "not http": ([b"SMTP ready\r\n\r\n", CLOSE], 502),
    "nothing": ([CLOSE], 502),
    "reset": ([RESET], 502),
    "half a head": ([b"HTTP/1.1 200 OK\r\ncontent-le", CLOSE], 502),
    "half a body": ([whole(completion("x"))[:-20], CLOSE], 502),
    "error in 200": ([whole(b'{"error": {"message": "no", "code": 400}}')], 400),
    "empty stream": ([stream_head(), END], 502),
    "binary": ([whole(bytes(range(256)))], 502),
}


@pytest.mark.parametrize("name", GARBAGE)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_an_upstream_that_answers_garbage_is_a_real_http_error(
    world: World, platform: Platform, name: str, stream: bool
) -> None:
    said, expected = GARBAGE[name]
    status, headers, parts = ask(world, steps(*said), stream=stream)
    text = b"".join(parts).decode()
    assert status == expected, text
    assert headers["content-type"] == "application/json"
    assert set(json.loads(text)["error"]) == {"message", "type", "param", "code"}
    for secret in NEVER_SHOWN:
        assert secret not in text
    platform.wait_until_settled()
    ((outcome, http_status, message, source),) = world.log("result_status, http_status, error_message, usage_source")
    assert (outcome, http_status, source) == ("upstream_error", expected, "none")
    assert message


BROKEN_STREAMS: dict[str, list[Step]] = {
    "closes early": [stream_head(), *(chunk(part) for part in WORDS[:3]), 0.05, CLOSE],
    "resets": [stream_head(), *(chunk(part) for part in WORDS[:3]), 0.05, RESET],
    "ends without done": [stream_head(), *(chunk(part) for part in WORDS[:3]), END],
    "in the middle of an event": [stream_head(), chunk(WORDS[0] + WORDS[1] + WORDS[2][:30]), 0.05, CLOSE],
    "says an error": [
        stream_head(),
        chunk(WORDS[0] + WORDS[1] + b'data: {"error": {"message": "engine died"}}\n\n'),
        END,
    ],
}


@pytest.mark.parametrize("name", BROKEN_STREAMS)
def test_a_stream_that_breaks_ends_with_an_error_event_and_done(world: World, platform: Platform, name: str) -> None:
    status, _, parts = ask(world, steps(*BROKEN_STREAMS[name]), stream=True, priced=True)
    said = data_of(b"".join(parts))
    assert status == 200
    assert said[-1] == "[DONE]"
    assert said.count("[DONE]") == 1
    assert "error" in json.loads(said[-2])
    assert sum('"error"' in each for each in said) == 1
    assert '"content": "one"' in said[1]
    platform.wait_until_settled()
    ((outcome, http_status, source, cost, message),) = world.log(
        "result_status, http_status, usage_source, cost_micro_cents, error_message"
    )
    assert (outcome, http_status, source) == ("upstream_error", 200, "relayed")
    assert cost > 0
    assert message


def test_a_refusal_of_the_upstream_is_passed_on_with_its_retry_after(world: World, platform: Platform) -> None:
    status, headers, parts = ask(world, error("429 Too Many Requests", "slow down", "retry-after: 7\r\n"), stream=False)
    assert (status, headers["retry-after"]) == (429, "7")
    assert json.loads(b"".join(parts))["error"]["message"] == "slow down"
    platform.wait_until_settled()
    ((outcome, http_status),) = world.log("result_status, http_status")
    assert (outcome, http_status) == ("upstream_error", 429)


@pytest.mark.parametrize("status", ["500 Internal Server Error", "503 Service Unavailable", "429 Too Many Requests"])
def test_a_failure_before_the_first_byte_is_tried_elsewhere(world: World, platform: Platform, status: str) -> None:
    """Two endpoints of one model: the first that is asked fails, whichever it is."""
    asked: list[Received] = []

    def answer(request: Received) -> Any:
        asked.append(request)
        return error(status)(request) if len(asked) == 1 else chat("from the other")(request)

    code, headers, parts = ask(world, answer, stream=False, copies=2)
    assert code == 200, b"".join(parts)
    assert headers["x-logos-attempts"] == "2"
    platform.wait_until_settled()
    ((attempts, outcome, row),) = world.log("attempts, result_status, log_entry.id")
    assert (attempts, outcome) == (2, "success")
    tries = platform.rows("SELECT number, outcome, http_status FROM attempts WHERE log_entry_id = %s ORDER BY 1", row)
    assert tries == [(1, "upstream_error", int(status[:3])), (2, "success", 200)]


def test_an_upstreams_key_that_it_echoes_is_not_shown(world: World, platform: Platform) -> None:
    refused = error("401 Unauthorized", f"Incorrect API key provided: {UPSTREAM_KEY}")
    status, _, parts = ask(world, refused, stream=False)
    assert status == 502
    assert UPSTREAM_KEY not in b"".join(parts).decode()
    platform.wait_until_settled()
    ((message, payload),) = world.log("error_message, coalesce(response_payload, '')")
    assert UPSTREAM_KEY not in message + payload


def test_an_upstream_that_hangs_is_let_go_when_clients_leave(world: World, platform: Platform) -> None:
    """Clients send head and body apart, as most libraries do, and leave before there is any answer."""
    model = world.model(steps(HANG))
    key = world.key()
    for _ in range(5):
        with world.client(key, timeout=0.3) as client, pytest.raises(httpx.ReadTimeout):
            client.post(CHAT, json=body_of(model))
        received = world.upstream.of(model)[-1]
        wait_for(lambda received=received: received.closed_at is not None, 1.0, "still asked a second later")
    platform.wait_until_settled()
    assert world.log("result_status, http_status") == [("client_left", 499)] * 5
    busy = max((process.cpu_percent(0.5) for process in platform.processes("haproxy")), default=0.0)
    assert busy < 50, f"HAProxy uses {busy:.0f} % of a core with nothing to do"


def test_an_upstream_that_nobody_listens_at_is_502(world: World, platform: Platform) -> None:
    model = world.model(chat())
    platform.apply({"providers": [{"name": f"{model}-provider-0", "base_url": "http://127.0.0.1:1/v1", "privacy": "LOCAL"}]})  # fmt: skip  # noqa: E501
    with world.client() as client:
        answer = client.post(CHAT, json=body_of(model))
    assert answer.status_code == 502
    assert "127.0.0.1" not in answer.text
    assert not world.upstream.of(model)


def test_usage_that_the_client_did_not_ask_for_is_taken_out_and_counted(world: World, platform: Platform) -> None:
    model = world.model(streamed(["a", "b"]))
    with world.client() as client:
        answer = client.post(CHAT, json=body_of(model, stream=True))
    assert '"usage"' not in answer.text
    assert answer.content.endswith(DONE)
    assert answer.content == b"".join([event({"role": "assistant", "content": ""}), event({"content": "a"}), event({"content": "b"}), event({}, "stop"), DONE])  # fmt: skip  # noqa: E501
    platform.wait_until_settled()
    ((source,),) = world.log("usage_source")
    assert source == "upstream"
