from __future__ import annotations

import json
from typing import Any

import pytest

from logos.simulation.server import requests
from logos.simulation.server.requests import Refused, Served

SERVED = Served(model="m", context_tokens=100, embedding_dimensions=8)
HELLO = [{"role": "user", "content": "hello"}]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]


def chat(**fields: Any) -> requests.Generation:
    return requests.chat(json.dumps({"model": "m", "messages": HELLO, **fields}).encode(), SERVED)


def completion(**fields: Any) -> requests.Generation:
    return requests.completion(json.dumps({"model": "m", "prompt": "hello", **fields}).encode(), SERVED)


def test_a_chat_needs_no_more_than_a_message() -> None:
    asked = chat()
    assert asked.chat
    assert not asked.stream
    assert asked.limits[0].tokens_max == 100 - asked.prompts[0].tokens
    assert not asked.limits[0].asked


def test_parts_of_a_message_and_earlier_calls_count() -> None:
    plain = chat().prompts[0].tokens
    parts = chat(messages=[{"role": "user", "content": [{"type": "text", "text": "hello"}]}])
    assert parts.prompts[0].tokens == plain
    called = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": {"name": "f"}}]}
    assert chat(messages=[*HELLO, called]).prompts[0].tokens > plain + 5


def test_max_completion_tokens_goes_before_max_tokens() -> None:
    assert chat(max_tokens=5, max_completion_tokens=7).limits[0].tokens_max == 7


def test_the_context_limits_the_answer() -> None:
    assert completion(max_tokens=100).limits[0].tokens_max == 99
    assert completion().limits[0].tokens_max == 16


def test_usage_is_streamed_only_when_asked_for() -> None:
    asked = chat(stream=True, stream_options={"include_usage": True, "continuous_usage_stats": True})
    assert (asked.include_usage, asked.continuous_usage) == (True, True)
    asked = chat(stream=True, stream_options={"continuous_usage_stats": True})
    assert (asked.include_usage, asked.continuous_usage) == (False, False)


@pytest.mark.parametrize(
    ("prompt", "tokens"),
    [("hello world", [3]), (["a", "b b b"], [1, 1]), ([1, 2, 3], [3]), ([[1], [2, 3]], [1, 2]), ("", [1])],
)
def test_prompts_come_as_text_or_as_token_ids(prompt: object, tokens: list[int]) -> None:
    assert [each.tokens for each in completion(prompt=prompt).prompts] == tokens


def test_each_prompt_has_n_choices() -> None:
    asked = completion(prompt=["a", "b"], n=2)
    assert [prompt.text for prompt in asked.prompt_of_choices()] == [b"a", b"a", b"b", b"b"]


@pytest.mark.parametrize(
    ("choice", "reason"),
    [
        ({"type": "function", "function": {"name": "f"}}, "stop"),
        ("required", "tool_calls"),
        ("auto", None),
        (None, None),
    ],
)
def test_a_tool_choice_may_force_a_call(choice: object, reason: str | None) -> None:
    call = chat(tools=TOOLS, tool_choice=choice).call
    assert (call.finish_reason if call else None) == reason


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 101}, "max_tokens"),
        ({"max_completion_tokens": 101}, "max_completion_tokens"),
        ({"max_tokens": "5"}, "body.max_tokens"),
        ({"max_tokens": 5, "min_tokens": 6}, "min_tokens"),
        ({"temperature": 2.1}, "temperature"),
        ({"top_p": -1}, "top_p"),
        ({"n": 0}, "n"),
        ({"stream": "yes"}, "body.stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"messages": []}, ""),
        ({"messages": "hello"}, "body.messages"),
        ({"messages": [{"role": "user", "content": 5}]}, "body.messages.0.content"),
        ({"messages": [{"role": "user", "content": "x" * 500}]}, "input_tokens"),
        ({"tools": []}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": "f"}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"function": {"name": "g"}}}, "tool_choice"),
        ({"tools": [{"type": "function"}]}, "body.tools.0"),
    ],
)
def test_a_chat_that_does_not_fit_names_the_field(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(Refused) as refused:
        chat(**fields)
    assert refused.value.status == 400
    assert (refused.value.param or "").startswith(param)


@pytest.mark.parametrize("prompt", [[], None, 5, [1, "a"], [[]], [[1], 2], [-1], [2**63], [1.5], ["a"] * 1025])
def test_a_prompt_that_is_none_is_refused(prompt: object) -> None:
    with pytest.raises(Refused):
        completion(prompt=prompt)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"5",
        b'"x"',
        b"\xff",
        b"[" * 100_000,
        b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
    ],
)
def test_a_body_that_is_no_request_is_refused(body: bytes) -> None:
    with pytest.raises(Refused) as refused:
        requests.chat(body, SERVED)
    assert refused.value.status == 400


def test_another_model_is_not_found() -> None:
    for ask in (chat, completion):
        with pytest.raises(Refused) as refused:
            ask(model="x")
        assert (refused.value.status, refused.value.kind, refused.value.param) == (404, "NotFoundError", "model")


def test_embeddings_come_from_texts_ids_or_messages() -> None:
    def ask(**fields: Any) -> requests.Embedding:
        return requests.embedding(json.dumps({"model": "m", **fields}).encode(), SERVED)

    assert len(ask(input="a").prompts) == 1
    assert len(ask(input=["a", "b"]).prompts) == 2
    assert ask(input=[1, 2, 3]).prompts[0].tokens == 3
    assert len(ask(messages=HELLO).prompts) == 1
    assert ask(input="a", encoding_format="base64", dimensions=4) == requests.Embedding(
        ask(input="a").prompts, base64=True, dimensions=4
    )
    for wrong in ({}, {"input": "a", "dimensions": 9}, {"input": "a", "encoding_format": "int"}, {"input": "x" * 999}):
        with pytest.raises(Refused):
            ask(**wrong)
