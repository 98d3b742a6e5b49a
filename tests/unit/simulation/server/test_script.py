from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logos.simulation.server import tokens, vectors
from logos.simulation.server.script import Author, Limits, Script

AUTHOR = Author(seed=3)


def text(script: Script) -> bytes:
    return b"".join(script.pieces)


@given(st.binary(max_size=50), st.integers(1, 20_000))
def test_an_answer_counts_as_many_tokens_as_it_says(prompt: bytes, size: int) -> None:
    script = AUTHOR.answer(prompt, 0, Limits(size, asked=True, ignore_eos=True))
    assert len(script.pieces) == size == tokens.count(text(script))
    assert tokens.pieces(text(script)) == list(script.pieces)
    assert script.finish_reason == "length"


def test_the_same_seed_and_prompt_give_the_same_answer_and_others_another() -> None:
    limits = Limits(100, asked=True)
    answer = AUTHOR.answer(b"a", 0, limits)
    assert Author(seed=3).answer(b"a", 0, limits) == answer
    assert text(Author(seed=4).answer(b"a", 0, limits)) != text(answer)
    assert text(AUTHOR.answer(b"b", 0, limits)) != text(answer)
    assert text(AUTHOR.answer(b"a", 1, limits)) != text(answer)


def test_lengths_vary_within_the_limit_and_say_why_they_end() -> None:
    scripts = [AUTHOR.answer(str(n).encode(), 0, Limits(100, asked=True)) for n in range(300)]
    sizes = [len(script.pieces) for script in scripts]
    assert min(sizes) >= 1
    assert max(sizes) == 100
    assert len(set(sizes)) > 30
    assert {script.finish_reason for script in scripts if len(script.pieces) < 100} == {"stop"}
    assert {script.finish_reason for script in scripts if len(script.pieces) == 100} == {"length"}


def test_no_limit_means_a_natural_length() -> None:
    sizes = [len(AUTHOR.answer(str(n).encode(), 0, Limits(30_000, asked=False)).pieces) for n in range(200)]
    assert 16 <= min(sizes) < max(sizes) <= 200


def test_at_least_min_tokens_are_made() -> None:
    sizes = [len(AUTHOR.answer(str(n).encode(), 0, Limits(100, asked=True, tokens_min=90)).pieces) for n in range(50)]
    assert min(sizes) >= 90


@pytest.mark.parametrize("include", [False, True])
def test_a_stop_string_ends_the_answer_and_is_hidden(include: bool) -> None:
    whole = text(AUTHOR.answer(b"p", 0, Limits(500, asked=True, ignore_eos=True))).decode()
    limits = Limits(500, asked=True, ignore_eos=True, stop=("zzz", "."), include_stop=include)
    script = AUTHOR.answer(b"p", 0, limits)
    expected = whole.partition(".")[0] + ("." if include else "")
    assert text(script).decode() == expected
    assert (script.finish_reason, script.stop_reason) == ("stop", ".")
    assert len(script.pieces) == tokens.count((whole.partition(".")[0] + ".").encode())


def test_a_stop_string_that_does_not_occur_changes_nothing() -> None:
    limits = Limits(50, asked=True, ignore_eos=True, stop=("\u00fcber",))
    script = AUTHOR.answer(b"p", 0, limits)
    assert (len(script.pieces), script.finish_reason, script.stop_reason) == (50, "length", None)


SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "unit": {"enum": ["°C", "°F"]},
        "exact": {"type": "boolean"},
        "limits": {"type": "array", "items": {"type": "number"}},
        "nested": {"type": ["object", "null"], "properties": {"x": {"anyOf": [{"type": "null"}]}}},
    },
}


def test_a_tool_call_s_arguments_fit_the_schema() -> None:
    script = AUTHOR.tool_arguments(b"p", SCHEMA, 1000)
    value = json.loads(json.loads(b'"' + text(script) + b'"'))
    assert set(value) == set(SCHEMA["properties"])
    assert isinstance(value["city"], str)
    assert type(value["days"]) is int
    assert value["unit"] in ("°C", "°F")
    assert isinstance(value["limits"][0], float)
    assert value["nested"] == {"x": None}


@pytest.mark.parametrize(
    "schema", [None, {}, {"type": 7}, {"type": []}, {"properties": 3}, {"enum": []}, "x", {"type": "string"}]
)
def test_a_strange_schema_gives_an_object_all_the_same(schema: object) -> None:
    value = json.loads(json.loads(b'"' + text(AUTHOR.tool_arguments(b"p", schema, 1000)) + b'"'))
    assert isinstance(value, dict)


def test_a_vector_has_length_one_and_is_the_same_each_time() -> None:
    one, again, other = (vectors.unit_vector(t, 0, 64) for t in (b"a", b"a", b"b"))
    assert one == again != other
    assert sum(value * value for value in one) == pytest.approx(1.0, abs=1e-6)
