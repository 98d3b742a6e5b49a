"""The HTTP edges on real sockets, against upstreams that behave and upstreams that do not."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import Mapping
from typing import Any

import aiohttp
import pytest

from logos.domain.directory import ProviderAccess
from logos.domain.errors import ClientLeft
from logos.domain.lifecycle import Outcome
from logos.domain.records import Charge
from logos.gateway.faults import Fault
from logos.gateway.relay import RelayResult
from logos.providers.fake import chat_completion, chat_events
from logos.providers.openai import remote_target
from logos.providers.transport import Target, TransportLimits
from tests.support.door import Door, door
from tests.support.raw_upstream import (
    CLOSE,
    END,
    HANG,
    RESET,
    RawUpstream,
    chunk,
    raw_upstream,
    stream_head,
    whole,
)

SECRET = "upstream-key-1234567890"
USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
BODY: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
ASKED = {"stream": True, "stream_options": {"include_usage": True}}
ANSWER = json.dumps(chat_completion("hello", USAGE)).encode()


def target_of(upstream: RawUpstream) -> Target:
    return remote_target(ProviderAccess(1, upstream.base_url, SECRET), "/chat/completions")


def price_of(_: object) -> Charge:
    return Charge(12345, "EUR")


async def post(at: Door, body: object = BODY, **fields: Any) -> tuple[int, Mapping[str, str], bytes]:
    """Status, headers, body as the client got them."""
    sent = {**body, **fields} if isinstance(body, dict) else body
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{at.url}/v1/chat/completions", json=sent) as response,
    ):
        return response.status, response.headers, await response.read()


def error_of(body: bytes) -> dict[str, Any]:
    told = json.loads(body)
    assert told.keys() == {"error"}
    return told["error"]  # type: ignore[no-any-return]


def script(events: list[bytes], *, end: bool = True) -> list[bytes | float | str]:
    return [stream_head(), *map(chunk, events), *([END] if end else [])]


async def relayed(at: Door, number: int = 1) -> RelayResult:
    result = await at.result(number)
    assert isinstance(result, RelayResult), result
    return result


# ------------------------------------------------------------------ what goes well


async def test_a_whole_answer_passes_unchanged() -> None:
    odd = b'{ "choices" : [ ],\n "usage": {"prompt_tokens":1 }, "x": "\xc3\xa4\\u0000" }'
    async with raw_upstream([whole(odd)]) as upstream, door(target_of(upstream)) as at:
        status, headers, body = await post(at)
        assert (status, body) == (200, odd)
        assert headers["x-logos-provider"] == "somebody"
        assert len(headers.getall("x-request-id")) == 1  # type: ignore[attr-defined]
        assert "x-logos-cost" not in headers
        result = await relayed(at)
        assert (result.outcome, result.usage) == (Outcome.SUCCESS, {"prompt_tokens": 1})
        assert b"Bearer " + SECRET.encode() in upstream.heads[0]
        assert json.loads(upstream.requests[0])["model"] == "upstream"


async def test_a_priced_whole_answer_says_its_cost_in_body_and_header() -> None:
    async with raw_upstream([whole(ANSWER)]) as upstream, door(target_of(upstream), charge_of=price_of) as at:
        _, headers, body = await post(at)
        assert body == ANSWER.replace(
            b'"total_tokens": 7}', b'"total_tokens": 7,"cost":0.00012345,"cost_currency":"EUR"}'
        )
        assert headers["x-logos-cost"] == "0.00012345"


async def test_a_stream_that_asked_for_usage_passes_byte_for_byte() -> None:
    events = [event.replace(b"\n", b"\r\n") for event in chat_events(["a", "ü", "c"], usage=USAGE)]
    async with raw_upstream(script([b": ping\r\n\r\n", *events])) as upstream, door(target_of(upstream)) as at:
        status, headers, body = await post(at, **ASKED)
        assert status == 200
        assert headers["content-type"] == "text/event-stream"
        assert body == b": ping\r\n\r\n" + b"".join(events)
        result = await relayed(at)
        assert (result.outcome, result.usage, result.tokens) == (Outcome.SUCCESS, USAGE, 3)
        assert result.bytes_sent == len(body)


async def test_usage_that_the_client_did_not_ask_for_is_counted_and_left_out() -> None:
    async with (
        raw_upstream(script(chat_events(["a", "b"], usage=USAGE))) as upstream,
        door(target_of(upstream), charge_of=price_of) as at,
    ):
        _, _, body = await post(at, stream=True)
        assert body == b"".join(chat_events(["a", "b"]))
        assert (await relayed(at)).usage == USAGE
        assert json.loads(upstream.requests[0])["stream_options"] == {"include_usage": True}


async def test_usage_split_over_network_chunks_is_found_and_priced() -> None:
    stream = b"".join(chat_events(["a"], usage=USAGE))
    middle = stream.index(b'"usage"') + 3
    pieces = [stream[:middle], stream[middle : middle + 9], stream[middle + 9 :]]
    steps: list[bytes | float | str] = [stream_head()]
    for piece in pieces:
        steps += [chunk(piece), 0.02]
    async with raw_upstream([*steps, END]) as upstream, door(target_of(upstream), charge_of=price_of) as at:
        _, _, body = await post(at, **ASKED)
        assert (await relayed(at)).usage == USAGE
        assert body.replace(b',"cost":0.00012345,"cost_currency":"EUR"', b"") == stream
        assert body != stream


async def test_a_character_split_over_network_chunks_arrives_whole() -> None:
    stream = b"".join(chat_events(["grüße 👋"], usage=USAGE))
    places = [at for at, byte in enumerate(stream) if byte >= 0x80]
    assert places
    steps: list[bytes | float | str] = [stream_head()]
    for start, end in zip([0, *places], [*places, len(stream)], strict=True):
        steps += [chunk(stream[start:end]), 0.005]
    async with raw_upstream([*steps, END]) as upstream, door(target_of(upstream)) as at:
        _, _, body = await post(at, **ASKED)
        assert body == stream


async def test_events_arrive_as_they_are_sent_and_not_at_the_end() -> None:
    first, *rest = chat_events(["a"], usage=USAGE)
    async with (
        raw_upstream([stream_head(), chunk(first), 0.3, *map(chunk, rest), END]) as upstream,
        door(target_of(upstream)) as at,
        aiohttp.ClientSession() as session,
        session.post(f"{at.url}/v1/chat/completions", json={**BODY, **ASKED}) as response,
    ):
        began = time.perf_counter()
        assert await response.content.readany() == first
        assert time.perf_counter() - began < 0.2
        assert await response.content.read() == b"".join(rest)


async def test_a_stream_without_done_but_with_a_finish_reason_is_a_success_and_unchanged() -> None:
    events = chat_events(["a"], done=False)
    async with raw_upstream(script(events)) as upstream, door(target_of(upstream)) as at:
        _, _, body = await post(at, **ASKED)
        assert body == b"".join(events)
        assert (await relayed(at)).outcome is Outcome.SUCCESS


async def test_a_whole_answer_to_a_stream_request_passes_as_it_is() -> None:
    async with raw_upstream([whole(ANSWER)]) as upstream, door(target_of(upstream)) as at:
        status, headers, body = await post(at, stream=True)
        assert (status, headers["content-type"], body) == (200, "application/json", ANSWER)


async def test_an_upstream_that_does_not_end_after_done_does_not_hold_the_client() -> None:
    async with (
        raw_upstream([*script(chat_events(["a"]), end=False), HANG]) as upstream,
        door(target_of(upstream), limits=TransportLimits(1.0, 60.0, 60.0)) as at,
    ):
        _, _, body = await post(at, stream=True)
        assert body.endswith(b"data: [DONE]\n\n")
        assert (await relayed(at)).outcome is Outcome.SUCCESS
        await asyncio.wait_for(upstream.closed_by_client.wait(), 1.0)


async def test_connections_are_used_again() -> None:
    async with (
        raw_upstream([whole(ANSWER)], script(chat_events(["a"])), [whole(ANSWER)]) as upstream,
        door(target_of(upstream)) as at,
    ):
        await post(at)
        await post(at, stream=True)
        await post(at)
        assert (upstream.connections, len(upstream.requests)) == (1, 3)


async def test_what_is_kept_for_the_record_is_bounded() -> None:
    async with (
        raw_upstream([whole(ANSWER)], script(chat_events(["a"]))) as upstream,
        door(target_of(upstream), keep_bytes_max=10) as at,
    ):
        _, _, body = await post(at)
        assert (await relayed(at)).kept == body[:10]
        _, _, body = await post(at, stream=True)
        assert (await relayed(at, 2)).kept == body[:10]


async def test_the_upstreams_own_headers_stay_behind() -> None:
    extra = "x-request-id: up-1\r\nset-cookie: a=b\r\nx-ratelimit-remaining-requests: 1\r\nserver: secret\r\nvia: x\r\n"
    async with raw_upstream([whole(ANSWER, extra=extra)]) as upstream, door(target_of(upstream)) as at:
        _, headers, _ = await post(at)
        assert headers["x-logos-upstream-request-id"] == "up-1"
        assert headers["x-request-id"] != "up-1"
        assert not {"set-cookie", "x-ratelimit-remaining-requests", "via"} & {name.lower() for name in headers}


# ------------------------------------------------------------------ what breaks before the first byte


@pytest.mark.parametrize(
    "steps",
    [
        [CLOSE],
        [RESET],
        [b"garbage that is no HTTP\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc", CLOSE],
        [whole(b"<html>hello</html>", content_type="text/html")],
        [whole(b"{not json")],
        [whole(b"")],
        [whole(b'{"error": {"message": "broken inside"}}')],
        [whole(b'{"object":"error","message":"broken inside","code":500}')],
        [stream_head(), CLOSE],
        [stream_head(), END],
        [stream_head(), chunk(b": ping\n\n"), END],
        [stream_head(), chunk(b"data: [DONE]\n\n"), END],
        [stream_head(), chunk(b"hello, this is no event stream\n"), HANG],
        [stream_head(), chunk(b"hello"), END],
        [stream_head(), chunk(b'data: {"error": {"message": "broken inside"}}\n\n'), END],
        [stream_head(), chunk(b'data: {"object":"error","message":"broken inside","code":500}\n\n'), END],
        [stream_head(), chunk(b"event: error\n"), chunk(b'data: {"message":"broken inside"}\n\n'), END],
        [stream_head(), b"no chunk size\r\n", HANG],
        [whole(ANSWER, "500 Internal Server Error")],
        [whole(b"", "503 Service Unavailable")],
        [whole(b'{"error":{"message":"Incorrect API key provided: ' + SECRET.encode() + b'"}}', "401 Unauthorized")],
        [whole(b"", "302 Found", extra="location: http://elsewhere.example/\r\n")],
        [whole(ANSWER, extra="content-encoding: gzip\r\n")],
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_whatever_breaks_before_the_first_byte_is_a_real_http_error(steps: Any, stream: bool) -> None:
    async with raw_upstream(steps) as upstream, door(target_of(upstream)) as at:
        status, headers, body = await post(at, stream=stream)
        assert status == 502
        assert headers["content-type"] == "application/json"
        text = body.decode()
        assert error_of(body)["message"]
        assert SECRET not in text
        assert "127.0.0.1" not in text
        fault = await at.result()
        assert isinstance(fault, Fault)
        assert fault.may_retry
        assert fault.endpoint_fault
        assert SECRET not in fault.message


async def test_a_failure_before_the_first_byte_can_be_retried_elsewhere_unseen() -> None:
    async with (
        raw_upstream([stream_head(), chunk(b": wait\n\n"), CLOSE]) as broken,
        raw_upstream(script(chat_events(["a"]))) as good,
        door(target_of(broken), target_of(good)) as at,
    ):
        status, headers, body = await post(at, stream=True)
        assert (status, body) == (200, b"".join(chat_events(["a"])))
        assert headers["x-logos-attempts"] == "2"


async def test_nothing_listens() -> None:
    nowhere = remote_target(ProviderAccess(1, "http://127.0.0.1:1/v1", SECRET), "/chat/completions")
    async with door(nowhere) as at:
        status, _, body = await post(at)
        assert status == 502
        assert "ECONNREFUSED" in error_of(body)["message"]


@pytest.mark.parametrize("steps", [[HANG], [stream_head(), HANG], [stream_head(), chunk(b": ping\n\n"), HANG]])
async def test_no_first_byte_in_time_is_a_504(steps: Any) -> None:
    async with (
        raw_upstream(steps) as upstream,
        door(target_of(upstream), limits=TransportLimits(1.0, 0.15, 0.15)) as at,
    ):
        status, _, body = await post(at, stream=True)
        assert status == 504
        assert error_of(body)["code"] == "upstream_timeout"
        await asyncio.wait_for(upstream.closed_by_client.wait(), 1.0)


@pytest.mark.parametrize("status", [400, 404, 413, 422, 429])
async def test_a_refusal_that_is_the_clients_keeps_its_status_and_words(status: int) -> None:
    said = b'{"error":{"message":"too long","type":"invalid_request_error","param":"messages","code":"context"}}'
    answer = whole(said, f"{status} No", extra="retry-after: 7\r\n")
    async with raw_upstream([answer]) as upstream, door(target_of(upstream)) as at:
        got, headers, body = await post(at)
        assert got == status
        assert error_of(body) == json.loads(said)["error"]
        assert headers.get("retry-after") == ("7" if status == 429 else None)
        fault = await at.result()
        assert isinstance(fault, Fault)
        assert fault.may_retry is (status in {404, 429})


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (b'{"object":"error","message":"vllm says no","code":400}', "vllm says no"),
        (b'{"detail":[{"loc":["body"],"msg":"bad"}]}', '[{"loc":["body"],"msg":"bad"}]'),
        (b'{"error":"plain"}', "plain"),
        (b'{"error":{"message":{"a":1}}}', '{"a":1}'),
        (b"\xff\xfe not json", "The model's endpoint answered 400."),
        (b"[]", "The model's endpoint answered 400."),
        (b'{"error":{"message":"NUL \\u0000 here"}}', "NUL \ufffd here"),
    ],
)
async def test_refusals_of_any_shape_become_openais(said: bytes, message: str) -> None:
    async with raw_upstream([whole(said, "400 Bad Request")]) as upstream, door(target_of(upstream)) as at:
        status, _, body = await post(at)
        assert (status, error_of(body)["message"]) == (400, message)


@pytest.mark.parametrize("rest", [[HANG], [b'{"error":', HANG], [b'{"error":', CLOSE], [RESET]])
@pytest.mark.parametrize("status", ["400 Bad Request", "429 Too Many Requests"])
async def test_a_refusal_whose_body_never_ends_is_still_that_refusal(status: str, rest: list[Any]) -> None:
    head = f"HTTP/1.1 {status}\r\nretry-after: 7\r\ncontent-length: 100\r\n\r\n".encode()
    async with raw_upstream([head, *rest]) as upstream, door(target_of(upstream)) as at:
        told, headers, body = await post(at)
        assert (str(told), error_of(body)["message"]) == (status[:3], f"The model's endpoint answered {told}.")
        assert headers.get("retry-after") == ("7" if told == 429 else None)
        if HANG in rest:
            await asyncio.wait_for(upstream.closed_by_client.wait(), 1.0)


async def test_a_refusal_inside_the_first_event_has_its_own_status() -> None:
    event = b'data: {"error":{"message":"too long","type":"BadRequestError","code":400}}\n\ndata: [DONE]\n\n'
    async with raw_upstream(script([event])) as upstream, door(target_of(upstream)) as at:
        status, _, body = await post(at, stream=True)
        assert (status, error_of(body)["message"]) == (400, "too long")


# ------------------------------------------------------------------ what breaks after it


@pytest.mark.parametrize("ending", [[CLOSE], [RESET], [END], [b"zz\r\n"], [chunk(b'data: {"cut'), CLOSE], [HANG]])
async def test_a_stream_that_breaks_ends_with_one_error_event_and_never_like_a_success(ending: Any) -> None:
    begun = chat_events(["a", "b"], finish=None, done=False)
    async with (
        raw_upstream([*script(begun, end=False), *ending]) as upstream,
        door(target_of(upstream), limits=TransportLimits(1.0, 5.0, 0.2)) as at,
    ):
        status, _, body = await post(at, stream=True)
        assert status == 200
        assert body.startswith(b"".join(begun))
        event, done, end = body.removeprefix(b"".join(begun)).strip(b"\n").partition(b"\n\n")
        assert error_of(event.removeprefix(b"data: "))["type"] == "upstream_error"
        assert (done, end) == (b"\n\n", b"data: [DONE]")
        result = await relayed(at)
        wanted = Outcome.UPSTREAM_TIMEOUT if ending == [HANG] else Outcome.UPSTREAM_ERROR
        assert (result.outcome, result.tokens) == (wanted, 2)
        assert result.error_message


async def test_a_stream_that_takes_longer_than_the_total_ends_as_a_timeout() -> None:
    steps: list[bytes | float | str] = [stream_head()]
    for event in chat_events(["a"] * 100):
        steps += [chunk(event), 0.02]
    async with (
        raw_upstream([*steps, END]) as upstream,
        door(target_of(upstream), limits=TransportLimits(1.0, 1.0, 1.0, total_s=0.1)) as at,
    ):
        _, _, body = await post(at, stream=True)
        assert body.endswith(b"data: [DONE]\n\n")
        assert (await relayed(at)).outcome is Outcome.UPSTREAM_TIMEOUT
        await asyncio.wait_for(upstream.closed_by_client.wait(), 1.0)


@pytest.mark.parametrize("after", [[], chat_events(["b"]), [b"data: [DONE]\n\n"], [HANG]])
async def test_an_error_event_of_the_upstream_ends_the_stream_as_one_of_ours(after: list[Any]) -> None:
    begun = chat_events(["a"], finish=None, done=False)
    failed = b'data: {"error":{"message":"out of memory"}}\n\n'
    steps = [stream_head(), *map(chunk, [*begun, failed]), *(each if each is HANG else chunk(each) for each in after)]
    async with raw_upstream([*steps, END]) as upstream, door(target_of(upstream)) as at:
        _, _, body = await post(at, stream=True)
        event, done, end = body.removeprefix(b"".join(begun)).strip(b"\n").partition(b"\n\n")
        assert error_of(event.removeprefix(b"data: "))["type"] == "upstream_error"
        assert (done, end) == (b"\n\n", b"data: [DONE]")
        result = await relayed(at)
        assert (result.outcome, result.error_message) == (Outcome.UPSTREAM_ERROR, "out of memory")


@pytest.mark.parametrize("code", [400, 401, 500, "server_error"])
@pytest.mark.parametrize("together", [False, True])
async def test_an_error_event_tells_neither_the_upstreams_key_nor_its_address(code: object, together: bool) -> None:
    begun = chat_events(["a"], finish=None, done=False)
    async with raw_upstream() as upstream, door(target_of(upstream)) as at:
        said = f"Incorrect API key {SECRET} (or sk-0123456789abcdef) at http://127.0.0.1:{upstream.port}/v1"
        event = b"data: " + json.dumps({"error": {"message": said, "code": code}}).encode() + b"\n\n"
        events = [*begun, event]
        upstream.scripts.append(script([b"".join(events)] if together else events))
        _, _, body = await post(at, stream=True)
        result = await relayed(at)
        assert body.startswith(b"".join(begun))
        assert body.count(b'"error"') == 1
        for text in (body.decode(), str(result.error_message)):
            assert SECRET not in text
            assert "sk-0123" not in text
            assert str(upstream.port) not in text


OTHER_SHAPES: dict[str, bytes] = {
    "vllm": b'data: {"object":"error","message":"%s","type":"InternalServerError","param":null,"code":500}',
    "spaced": b'data: {"object": "error", "message": "%s", "type": "BadRequestError", "code": 400}',
    "typed": b'event: error\ndata: {"type":"error","code":"server_error","message":"%s","param":null}',
    "no json": b"event: error\ndata: %s",
    "by its event alone": b'event: error\ndata: {"message":"%s"}',
    "no event": b'{"error": {"message": "%s"}}',
}


@pytest.mark.parametrize("shape", OTHER_SHAPES)
async def test_an_error_in_mid_stream_of_any_shape_tells_neither_the_upstreams_key_nor_its_address(shape: str) -> None:
    begun = chat_events(["a"], finish=None, done=False)
    async with raw_upstream() as upstream, door(target_of(upstream)) as at:
        words = f"{SECRET} at http://127.0.0.1:{upstream.port}/v1 is out of memory"
        upstream.scripts.append(script([*begun, OTHER_SHAPES[shape] % words.encode() + b"\n\n", *chat_events(["b"])]))
        _, _, body = await post(at, stream=True)
        result = await relayed(at)
        head, *tail = body.removeprefix(b"".join(begun)).strip().split(b"\n\n")
        assert set(error_of(head.removeprefix(b"data: "))) == {"message", "type", "param", "code"}
        assert tail == [b"data: [DONE]"]
        assert result.outcome is Outcome.UPSTREAM_ERROR
        assert str(result.error_message).endswith("is out of memory")
        for text in (body.decode(), str(result.error_message)):
            assert SECRET not in text
            assert str(upstream.port) not in text


async def test_garbage_in_the_middle_passes_and_the_stream_goes_on() -> None:
    first, *rest = chat_events(["a"])
    events = [first, b"data: \xff\xfe{not json\n\n", *rest]
    async with raw_upstream(script(events)) as upstream, door(target_of(upstream)) as at:
        _, _, body = await post(at, stream=True)
        assert body == b"".join(events)
        assert (await relayed(at)).outcome is Outcome.SUCCESS


# ------------------------------------------------------------------ stale connections


async def test_a_kept_connection_that_went_away_is_replaced_without_anybody_noticing() -> None:
    async with raw_upstream([whole(ANSWER)], [CLOSE], [whole(ANSWER)]) as upstream, door(target_of(upstream)) as at:
        await post(at)
        status, _, _ = await post(at)
        assert status == 200
        assert (upstream.connections, len(upstream.requests)) == (2, 3)


async def test_a_fresh_connection_that_breaks_is_not_tried_again() -> None:
    async with raw_upstream([CLOSE], [whole(ANSWER)]) as upstream, door(target_of(upstream)) as at:
        status, _, _ = await post(at)
        assert status == 502
        assert len(upstream.requests) == 1


async def test_a_kept_connection_is_not_tried_again_once_bytes_of_an_answer_came() -> None:
    async with (
        raw_upstream([whole(ANSWER)], [stream_head(), CLOSE], [whole(ANSWER)]) as upstream,
        door(target_of(upstream)) as at,
    ):
        await post(at)
        status, _, _ = await post(at)
        assert status == 502
        assert len(upstream.requests) == 2


# ------------------------------------------------------------------ clients that leave


async def leave(at: Door, body: Mapping[str, Any], after: bytes) -> None:
    """Sends a request, reads until `after` was seen, and is gone."""
    reader, writer = await asyncio.open_connection("127.0.0.1", at.port)
    raw = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(raw)}\r\n\r\n"
    writer.write(head.encode() + raw)
    await writer.drain()
    seen = b""
    while after not in seen:
        seen += await asyncio.wait_for(reader.read(4096), 2.0)
    if not after:
        await asyncio.sleep(0.1)
    writer.close()


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_while_it_waits_closes_the_upstream_at_once(stream: bool) -> None:
    async with (
        raw_upstream([HANG]) as upstream,
        door(target_of(upstream), limits=TransportLimits(1.0, 60.0, 60.0)) as at,
    ):
        await leave(at, {**BODY, "stream": stream}, b"")
        await asyncio.wait_for(upstream.closed_by_client.wait(), 1.0)
        assert isinstance(await at.result(), ClientLeft)


async def test_a_client_that_leaves_in_the_middle_of_a_stream_closes_the_upstream_at_once() -> None:
    events = chat_events(["a", "b"], finish=None, done=False)
    async with (
        raw_upstream([*script(events, end=False), HANG]) as upstream,
        door(target_of(upstream), limits=TransportLimits(1.0, 60.0, 60.0)) as at,
    ):
        await leave(at, {**BODY, "stream": True}, b'"b"')
        await asyncio.wait_for(upstream.closed_by_client.wait(), 1.0)
        result = await relayed(at)
        assert (result.outcome, result.tokens, result.usage) == (Outcome.CLIENT_LEFT, 2, None)


async def test_a_client_that_leaves_while_the_upstream_pours_closes_the_upstream() -> None:
    poured: list[bytes | float | str] = [stream_head()]
    for event in chat_events(["x" * 1000] * 300, finish=None, done=False):
        poured += [chunk(event), 0.002]
    async with raw_upstream([*poured, HANG]) as upstream, door(target_of(upstream)) as at:
        await leave(at, {**BODY, "stream": True}, b'"x')
        await asyncio.wait_for(upstream.closed_by_client.wait(), 1.0)
        assert (await relayed(at)).outcome is Outcome.CLIENT_LEFT


async def test_requests_abandoned_at_random_moments_leave_nothing_behind() -> None:
    events: list[bytes | float | str] = [stream_head()]
    for event in chat_events(["a"] * 8):
        events += [0.004, chunk(event)]
    chance = random.Random(7)
    patient = TransportLimits(10.0, 30.0, 30.0)  # the machine may be busy; that is not what is tested
    async with raw_upstream([*events, END]) as upstream, door(target_of(upstream), limits=patient) as at:

        async def one() -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", at.port)
            raw = json.dumps({**BODY, "stream": True}).encode()
            head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(raw)}\r\n\r\n"
            writer.write(head.encode() + raw)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(chance.uniform(0.001, 0.08)):
                    await reader.readuntil(b"0\r\n\r\n")
            writer.close()

        for _ in range(5):
            await asyncio.gather(*(one() for _ in range(20)))
        await at.result(100, within_s=5.0)
        outcomes = {type(each) if not isinstance(each, RelayResult) else each.outcome for each in at.flow.results}
        assert {Outcome.SUCCESS, Outcome.CLIENT_LEFT} & outcomes
        assert outcomes <= {Outcome.SUCCESS, Outcome.CLIENT_LEFT, ClientLeft}, at.flow.results
        assert len(at.flow.results) == 100
        await asyncio.sleep(0.05)
        names = {task.get_name() for task in asyncio.all_tasks()}
        assert "client-watch" not in names
