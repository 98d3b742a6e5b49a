from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from logos.gateway.fingerprint import LARGEST, NOTHING, Beginning, beginning

SALT = b"a secret of the platform"
SYSTEM = {"role": "system", "content": "You answer in verse. " * 40}
FIRST = {"role": "user", "content": "Who are you?"}
ANSWER = {"role": "assistant", "content": "A poet."}
SECOND = {"role": "user", "content": "And what for?"}


def of(*messages: dict[str, Any], salt: bytes = SALT, **more: Any) -> Beginning:
    return beginning("chat", {"messages": list(messages), **more}, salt)


def test_first_turns_with_the_same_system_prompt_share_it() -> None:
    one, other = of(SYSTEM, FIRST), of(SYSTEM, SECOND)
    assert one == other
    assert one.prefix is not None
    assert 200 < one.tokens < 230


def test_later_turns_of_a_conversation_belong_together_and_share_more_each_time() -> None:
    second = of(SYSTEM, FIRST, ANSWER, SECOND)
    third = of(SYSTEM, FIRST, ANSWER, SECOND, ANSWER, FIRST)
    assert second.prefix == third.prefix
    assert third.tokens > second.tokens > of(SYSTEM, FIRST).tokens


def test_another_conversation_other_tools_and_another_salt_are_something_else() -> None:
    ours = of(SYSTEM, FIRST, ANSWER, SECOND).prefix
    others = [
        of(SYSTEM, SECOND, ANSWER, FIRST),
        of(SYSTEM, FIRST, ANSWER, SECOND, tools=[{"type": "function"}]),
        of(SYSTEM, FIRST, ANSWER, SECOND, salt=b"of another platform"),
    ]
    assert ours not in {each.prefix for each in others}


def test_nothing_is_shared_without_a_beginning_or_a_salt() -> None:
    assert of(FIRST) == NOTHING
    assert of(SYSTEM, FIRST, salt=b"") == NOTHING
    assert beginning("completions", {"prompt": "Once upon a time"}, SALT) == NOTHING
    assert beginning("embeddings", {"input": "x"}, SALT) == NOTHING


@given(st.lists(st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "tool"]), "content": st.text()})))
def test_a_fingerprint_fits_into_a_signed_number_whatever_was_said(messages: list[dict[str, Any]]) -> None:
    found = of(*messages)
    assert found.prefix is None or 0 <= found.prefix <= LARGEST
    assert found.tokens >= 0
