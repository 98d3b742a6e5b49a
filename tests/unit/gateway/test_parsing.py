"""What a client sent: understood, refused with the field's name, or passed on as it is."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logos.domain.errors import BadRequest, BodyTooLarge, ClientLeft, LogosError, UnsupportedMediaType
from logos.domain.nouns import Mode, Priority
from logos.gateway.fields import CHECKS
from logos.gateway.http import Message, Receive
from logos.gateway.parsing import DEPTH_MAX, ParsedRequest, parse, read_body, upstream_body

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
MINIMAL: dict[str, dict[str, Any]] = {
    "chat": CHAT,
    "completions": {"model": "m", "prompt": "hello"},
    "embeddings": {"model": "m", "input": "hello"},
}


def parsed(body: dict[str, Any], capability: str = "chat", headers: dict[bytes, bytes] | None = None) -> ParsedRequest:
    return parse(capability, json.dumps(body).encode(), headers or {})


def refused(
    raw: bytes | dict[str, Any], capability: str = "chat", headers: dict[bytes, bytes] | None = None
) -> BadRequest:
    raw = raw if isinstance(raw, bytes) else json.dumps(raw).encode()
    with pytest.raises(BadRequest) as caught:
        parse(capability, raw, headers or {})
    return caught.value


def receiving(messages: Iterable[Message]) -> Receive:
    remaining = iter(messages)

    async def receive() -> Message:
        return next(remaining)

    return receive


def part(body: bytes, *, more: bool = False) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


async def test_a_body_in_parts_is_joined() -> None:
    receive = receiving([part(b"ab", more=True), part(b"", more=True), part(b"cd")])
    assert await read_body(receive, {}, 4) == b"abcd"


async def test_a_body_over_the_limit_is_refused_before_it_is_read() -> None:
    with pytest.raises(BodyTooLarge):
        await read_body(receiving([]), {b"content-length": b"11"}, 10)


async def test_a_body_over_the_limit_is_refused_as_soon_as_it_is_over_it() -> None:
    with pytest.raises(BodyTooLarge):
        await read_body(receiving([part(b"x" * 6, more=True), part(b"x" * 6, more=True)]), {}, 10)
    with pytest.raises(BodyTooLarge):
        await read_body(receiving([part(b"x" * 11)]), {}, 10)


async def test_a_client_that_leaves_while_it_sends_is_noticed() -> None:
    with pytest.raises(ClientLeft):
        await read_body(receiving([part(b"x", more=True), {"type": "http.disconnect"}]), {}, 10)


@pytest.mark.parametrize("content_type", [b"text/plain", b"multipart/form-data; boundary=x", b""])
async def test_another_content_type_is_refused(content_type: bytes) -> None:
    with pytest.raises(UnsupportedMediaType):
        await read_body(receiving([part(b"{}")]), {b"content-type": content_type}, 10)


@pytest.mark.parametrize("content_type", [b"application/json", b"Application/JSON ; charset=utf-8", None])
async def test_json_and_no_content_type_at_all_are_accepted(content_type: bytes | None) -> None:
    headers = {} if content_type is None else {b"content-type": content_type}
    assert await read_body(receiving([part(b"{}")]), headers, 10) == b"{}"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"hello",
        b"{",
        b'{"a":1}x',
        b"[]",
        b'"text"',
        b"1",
        b"null",
        b'{"a":NaN}',
        b'{"a":1e999}',
        b'{"model":"m\x00"}',
        b"\xff\xfe{}",
        b'{"model":"\xed\xa0\x80"}',
        b'{"model":"\\ud800"}',
        b'{"model":"\\ud800 and more text after it"}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    ],
)
def test_a_body_that_is_no_json_object_is_a_clear_refusal(raw: bytes) -> None:
    error = refused(raw)
    assert error.message
    assert len(error.message) < 200


def test_nesting_is_bounded_exactly() -> None:
    def nested(levels: int) -> dict[str, Any]:
        value: object = 1
        for _ in range(levels - 1):
            value = [value]
        return {**CHAT, "deep": value}

    parsed(nested(DEPTH_MAX))
    assert "nested" in refused(nested(DEPTH_MAX + 1)).message


def test_many_brackets_that_are_not_deep_are_fine() -> None:
    parsed({**CHAT, "messages": [{"role": "user", "content": "[{" * 200}] * 200})


@given(st.binary(max_size=60))
def test_no_bytes_are_ever_more_than_a_refusal(raw: bytes) -> None:
    for capability in CHECKS:
        try:
            parse(capability, raw, {})
        except LogosError as error:
            assert isinstance(error, BadRequest)  # noqa: PT017 - both ways out are right


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
known_fields = sorted({name for known in CHECKS.values() for name in known.checks} | {"priority", "mode", "timeout_s"})


@given(st.sampled_from(sorted(CHECKS)), st.dictionaries(st.sampled_from(known_fields), json_values, max_size=4))
def test_wrong_types_in_known_fields_are_refused_by_name_and_right_ones_can_be_forwarded(
    capability: str, fields: dict[str, Any]
) -> None:
    body = {**MINIMAL[capability], **fields}
    try:
        request = parsed(body, capability)
    except BadRequest as error:
        assert error.param is not None  # noqa: PT017 - both ways out are right
        assert error.param.partition("[")[0].partition(".")[0] in body  # noqa: PT017 - as above
    else:
        sent = json.loads(upstream_body(request, "upstream"))
        assert sent["model"] == "upstream"


@pytest.mark.parametrize(
    ("field", "value", "param"),
    [
        ("model", 1, "model"),
        ("model", "", "model"),
        ("model", "x" * 10_000, "model"),
        ("messages", "hello", "messages"),
        ("messages", [], "messages"),
        ("messages", ["hello"], "messages[0]"),
        ("messages", [CHAT["messages"][0], {"content": "x"}], "messages[1].role"),
        ("messages", [{"role": 1, "content": "x"}], "messages[0].role"),
        ("messages", [{"role": "user", "content": 1}], "messages[0].content"),
        ("messages", [{"role": "user", "content": [1]}], "messages[0].content[0]"),
        ("messages", [{"role": "user", "content": [{"type": "text", "text": 1}]}], "messages[0].content[0].text"),
        ("stream", "yes", "stream"),
        ("stream", 1, "stream"),
        ("stream_options", [], "stream_options"),
        ("stream_options", {"include_usage": 1}, "stream_options.include_usage"),
        ("max_tokens", -1, "max_tokens"),
        ("max_tokens", 1.5, "max_tokens"),
        ("max_tokens", True, "max_tokens"),
        ("max_tokens", 2**40, "max_tokens"),
        ("max_completion_tokens", "9", "max_completion_tokens"),
        ("temperature", "hot", "temperature"),
        ("temperature", False, "temperature"),
        ("n", 0, "n"),
        ("n", 129, "n"),
        ("stop", [1], "stop[0]"),
        ("tools", {}, "tools"),
        ("tools", ["x"], "tools[0]"),
        ("logit_bias", [], "logit_bias"),
        ("priority", "urgent", "priority"),
        ("priority", 2, "priority"),
        ("priority", True, "priority"),
        ("priority", 1.0, "priority"),
        ("priority", [], "priority"),
        ("mode", "fast", "mode"),
        ("timeout_s", -1, "timeout_s"),
        ("timeout_s", "5", "timeout_s"),
        ("timeout_s", 1e9, "timeout_s"),
    ],
)
def test_a_wrong_field_is_named(field: str, value: object, param: str) -> None:
    assert refused({**CHAT, field: value}).param == param


@pytest.mark.parametrize(
    ("capability", "field"), [("chat", "messages"), ("completions", "prompt"), ("embeddings", "input")]
)
def test_a_missing_field_is_named(capability: str, field: str) -> None:
    assert refused({"model": "m"}, capability).param == field
    assert refused({"model": "m", field: None}, capability).param == field


@pytest.mark.parametrize("prompt", ["text", ["a", "b"], [1, 2], [[1], [2, 3]]])
def test_prompts_of_every_documented_form_are_accepted(prompt: object) -> None:
    parsed({"prompt": prompt}, "completions")
    parsed({"input": prompt}, "embeddings")


@pytest.mark.parametrize("prompt", [1, {}, [], [True], ["a", 1], [[]], [["a"]], [[1], "a"], [None], [1.5]])
def test_prompts_of_no_documented_form_are_refused(prompt: object) -> None:
    assert (refused({"prompt": prompt}, "completions").param or "").startswith("prompt")


@pytest.mark.parametrize(
    ("header", "value"),
    [
        (b"x-logos-priority", b"urgent"),
        (b"x-logos-mode", b""),
        (b"x-logos-timeout-s", b"nan"),
        (b"x-logos-timeout-s", b"inf"),
        (b"x-logos-timeout-s", b"-1"),
        (b"x-logos-timeout-s", b"soon"),
        (b"x-logos-slo-ttft-ms", b"0"),
        (b"x-logos-slo-ttft-ms", b"1.5"),
        (b"x-logos-slo-ms", b"99999999999999999999"),
        (b"x-logos-slo-ms", b"\xb2"),
    ],
)
def test_a_header_out_of_range_is_named(header: bytes, value: bytes) -> None:
    assert refused(CHAT, headers={header: value}).param == header.decode()


def test_controls_are_read_from_the_body_and_taken_out_of_it() -> None:
    request = parsed({**CHAT, "priority": "high", "mode": "batch", "timeout_s": 2})
    assert (request.controls.priority, request.controls.mode) == (Priority.HIGH, Mode.BATCH)
    assert request.controls.timeout_s == 2.0
    assert json.loads(upstream_body(request, "m")) == CHAT


def test_a_header_wins_over_the_body() -> None:
    headers = {
        b"x-logos-priority": b"1",
        b"x-logos-mode": b"interactive",
        b"x-logos-timeout-s": b"0",
        b"x-logos-slo-ttft-ms": b"2000",
        b"x-logos-slo-ms": b"60000",
        b"x-logos-policy": b"local-only",
        b"policy": b"7",
    }
    controls = parsed({**CHAT, "priority": 10, "mode": "batch", "timeout_s": 2}, headers=headers).controls
    assert (controls.priority, controls.mode, controls.timeout_s) == (Priority.LOW, Mode.INTERACTIVE, 0.0)
    assert (controls.slo_ttft_ms, controls.slo_total_ms, controls.policy) == (2000, 60000, "local-only")
    assert parsed(CHAT, headers={b"policy": b" 7 "}).controls.policy == "7"


def test_a_wrong_control_in_the_body_is_refused_even_if_a_header_says_better() -> None:
    assert refused({**CHAT, "priority": 3}, headers={b"x-logos-priority": b"5"}).param == "priority"


@pytest.mark.parametrize("said", ["low", "mid", "high", 1, 5, 10, "1", "5", "10"])
def test_every_way_to_say_a_priority_is_understood(said: object) -> None:
    assert parsed({**CHAT, "priority": said}).controls.priority in set(Priority)


def test_what_needs_no_change_is_forwarded_byte_for_byte() -> None:
    raw = b'{ "model": "m",\n "messages": [{"role":"user","content":"\\u00e4 \\u0000 \xc3\xa4"}], "x": 1.10, "y": 1e3 }'
    request = parse("chat", raw, {})
    assert upstream_body(request, "m") is raw


def test_the_upstream_model_replaces_the_name_and_unknown_fields_stay() -> None:
    request = parsed({**CHAT, "vendor": {"a": [1, None, "ü"]}, "big": 2**70})
    assert json.loads(upstream_body(request, "other")) == {**request.body, "model": "other"}


def test_without_a_model_the_chosen_one_is_filled_in() -> None:
    request = parsed({"messages": CHAT["messages"]})
    assert request.model is None
    assert json.loads(upstream_body(request, "chosen"))["model"] == "chosen"


def test_usage_is_forced_only_on_streams_whose_client_did_not_ask() -> None:
    asked = parsed({**CHAT, "stream": True, "stream_options": {"include_usage": True}})
    assert (asked.include_usage, asked.usage_is_forced) == (True, False)
    assert upstream_body(asked, "m") is asked.raw
    not_asked = parsed({**CHAT, "stream": True, "stream_options": {"include_usage": False, "other": 1}})
    assert not_asked.usage_is_forced
    assert json.loads(upstream_body(not_asked, "m"))["stream_options"] == {"include_usage": True, "other": 1}
    bare = parsed({**CHAT, "stream": True})
    assert json.loads(upstream_body(bare, "m"))["stream_options"] == {"include_usage": True}
    assert not parsed(CHAT).usage_is_forced
    assert not parsed({"input": "x", "stream": True}, "embeddings").usage_is_forced


@pytest.mark.parametrize(
    "raw",
    [
        b'{"model":"secret","model":"m","messages":[{"role":"user","content":"x"}]}',
        b'{"\\u006dodel":"secret","model":"m","messages":[{"role":"user","content":"x"}]}',
    ],
)
def test_a_model_named_twice_reaches_the_upstream_once(raw: bytes) -> None:
    request = parse("chat", raw, {})
    assert request.model == "m"
    assert b"secret" not in upstream_body(request, "m")


def test_what_bounds_the_output_is_read() -> None:
    assert parsed({**CHAT, "max_tokens": 9}).max_output_tokens == 9
    assert parsed({**CHAT, "max_tokens": 9, "max_completion_tokens": 4}).max_output_tokens == 4
    assert parsed(CHAT).max_output_tokens is None
    assert parsed({**CHAT, "n": 3}).choices == 3
    assert parsed({**CHAT, "n": None}).choices == 1


@pytest.mark.parametrize(
    ("prompt", "choices"),
    [("one", 1), (["one"], 1), (["one", "two"], 2), ([1, 2, 3], 1), ([[1, 2], [3], [4]], 3)],
)
def test_each_of_several_prompts_has_its_choices(prompt: object, choices: int) -> None:
    assert parse("completions", json.dumps({"model": "m", "prompt": prompt}).encode(), {}).choices == choices
    assert parse("completions", json.dumps({"prompt": prompt, "n": 2}).encode(), {}).choices == 2 * choices
    assert parse("embeddings", json.dumps({"input": prompt}).encode(), {}).choices == 1
    assert parsed({**CHAT, "prompt": prompt}).choices == parsed({**CHAT, "prompt": []}).choices == 1


def test_a_parsed_request_shows_no_prompt_when_it_is_printed() -> None:
    assert "hello" not in repr(parsed(CHAT))


@pytest.mark.parametrize("name", ["Model", "MODEL", "moDel"])
def test_a_model_named_in_other_letters_is_refused_because_some_servers_would_take_it_for_the_model(name: str) -> None:
    body = json.dumps({"model": "allowed", "messages": [{"role": "user", "content": "hi"}], name: "another"})
    with pytest.raises(BadRequest, match=f"'{name}' must be written 'model'") as refused:
        parse("chat", body.encode(), {})
    assert refused.value.param == name
