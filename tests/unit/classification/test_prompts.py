from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from logos.classification.prompts import (
    ITEMS_MAX,
    MEDIA_TOKENS,
    MESSAGE_OVERHEAD_TOKENS,
    SYSTEM_CHARACTERS_MAX,
    USER_CHARACTERS_MAX,
    Prompt,
    read_prompt,
    text_prompt,
)

# The machine may be busy: how long an example takes says nothing.
calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

TEXT = {"type": "text", "text": "What is this?"}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100_000}}


def chat(*messages: object, **fields: object) -> Prompt:
    return read_prompt("chat", {"messages": list(messages), **fields})


def test_system_and_last_user_prompt_are_found() -> None:
    prompt = chat(
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": [{"type": "text", "text": "Write code."}]},
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "answer"},
        {"role": "user", "content": [TEXT, IMAGE, {"type": "text", "text": "Say."}]},
        {"role": "tool", "content": "42"},
    )
    assert prompt.system == "Be brief.\nWrite code."
    assert prompt.user == "What is this?\nSay."


def test_tokens_are_four_characters_and_an_overhead_per_message() -> None:
    assert chat({"role": "user", "content": "x" * 40}).tokens == 10 + MESSAGE_OVERHEAD_TOKENS
    assert chat({"role": "user", "content": "x" * 41}).tokens == 11 + MESSAGE_OVERHEAD_TOKENS
    assert chat({"role": "assistant", "content": None}).tokens == MESSAGE_OVERHEAD_TOKENS


def test_an_image_counts_the_same_however_large_it_is() -> None:
    assert chat({"role": "user", "content": [IMAGE]}).tokens == MEDIA_TOKENS + MESSAGE_OVERHEAD_TOKENS


def test_other_scripts_count_by_their_bytes() -> None:
    assert text_prompt("漢字" * 100).tokens == 150
    assert text_prompt("\ud800" * 4).tokens == 3


def test_tools_and_tool_calls_are_part_of_the_prompt() -> None:
    bare = chat({"role": "user", "content": "hi"}).tokens
    tool = {"type": "function", "function": {"name": "f", "description": "d" * 400, "parameters": {"type": "object"}}}
    assert 100 < chat({"role": "user", "content": "hi"}, tools=[tool]).tokens - bare < 130
    call = {"role": "assistant", "tool_calls": [{"function": {"arguments": "a" * 400}}]}
    assert 100 < chat(call).tokens < 120


@pytest.mark.parametrize(
    ("value", "user", "tokens"),
    [
        ("abcdefgh", "abcdefgh", 2),
        (["abcd", "efghijkl"], "abcd", 3),
        ([1, 2, 3], "", 3),
        ([[1, 2], [3]], "", 3),
        ([], "", 0),
        ("", "", 0),
        (None, "", 0),
        ({"a": 1}, "", 0),
        ([None, {}, "abcd"], "abcd", 1),
    ],
)
def test_completions_and_embeddings_take_texts_and_token_ids(value: object, user: str, tokens: int) -> None:
    expected = Prompt(user=user, tokens=tokens)
    assert read_prompt("completions", {"prompt": value}) == read_prompt("embeddings", {"input": value}) == expected


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["role", "content", "text", "tool_calls", "type"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@calm
@given(st.sampled_from(["chat", "completions", "embeddings"]), json, json)
def test_no_shape_of_body_fails(capability: str, value: object, tools: object) -> None:
    prompt = read_prompt(capability, {"messages": value, "prompt": value, "input": value, "tools": tools})
    assert prompt.tokens >= 0


def test_deep_nesting_is_no_recursion() -> None:
    deep: object = "x"
    for _ in range(100_000):
        deep = [deep]
    assert chat({"role": "user", "content": "hi"}, tools=deep).tokens > 0


def test_texts_and_work_are_bounded_and_the_estimate_is_not() -> None:
    many = 10 * ITEMS_MAX
    prompt = chat(*[{"role": "system", "content": "x" * 40}] * many, {"role": "user", "content": "y" * 10**6})
    assert len(prompt.system) == SYSTEM_CHARACTERS_MAX
    assert len(prompt.user) == USER_CHARACTERS_MAX
    assert chat({"role": "user", "content": "y" * 10**6 + " Summarise."}).user.endswith(" Summarise.")
    assert prompt.tokens >= many * (10 + MESSAGE_OVERHEAD_TOKENS)
    assert text_prompt(["abcd"] * many).tokens == many
    parts = chat({"role": "user", "content": [{"text": "abcd"}] * many})
    assert parts.tokens == pytest.approx(many, rel=0.01)
