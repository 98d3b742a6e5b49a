"""Upstreams that misbehave: the client sees what the interface page says, the row says what happened."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from tests.acceptance.conftest import UPSTREAM_KEY, World
from tests.acceptance.test_bad_input import CHAT, NEVER_SHOWN, body_of
from tests.support.http_client import Connection, chat_body, data_of
from tests.support.logos_up import Platform, wait_for
from tests.support.raw_upstream import CLOSE, END, HANG, RESET, Step, chunk, stream_head, whole
from tests.support.upstream import (
    DONE,
    Answer,
    Received,
    chat,
    completion,
    error,
    event,
    pieces,
    steps,
    stream_body,
    streamed,
)

pytestmark = [pytest.mark.ray, pytest.mark.slow]

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
    nowhere = {"name": f"{model}-provider-0", "base_url": "http://127.0.0.1:1/v1", "privacy": "LOCAL"}
    platform.apply({"providers": [nowhere]})
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
    deltas = [{"role": "assistant", "content": ""}, {"content": "a"}, {"content": "b"}]
    assert answer.content == b"".join([*map(event, deltas), event({}, "stop"), DONE])
    platform.wait_until_settled()
    ((source,),) = world.log("usage_source")
    assert source == "upstream"
