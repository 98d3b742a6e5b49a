from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from logos.billing.usage import PARTS_OF, TOKEN_TYPES, TOKENS_MAX, billable, normalise

# The machine may be busy: how long an example takes says nothing.
calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

REPORTED = {
    "chat": (
        {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
        {"prompt": 10, "completion": 5},
    ),
    "chat with details": (
        {
            "prompt_tokens": 100,
            "completion_tokens": 50,
            "prompt_tokens_details": {"cached_tokens": 60, "audio_tokens": 7},
            "completion_tokens_details": {
                "reasoning_tokens": 20,
                "audio_tokens": 3,
                "accepted_prediction_tokens": 2,
                "rejected_prediction_tokens": 1,
            },
        },
        {
            "prompt": 100,
            "completion": 50,
            "cached_prompt": 60,
            "audio_prompt": 7,
            "reasoning": 20,
            "audio_completion": 3,
            "accepted_prediction": 2,
            "rejected_prediction": 1,
        },
    ),
    "details of zero": (
        {"prompt_tokens": 1, "completion_tokens": 0, "prompt_tokens_details": {"cached_tokens": 0}},
        {"prompt": 1, "completion": 0},
    ),
    "embeddings": ({"prompt_tokens": 8, "total_tokens": 8}, {"prompt": 8, "completion": 0}),
    "responses": (
        {
            "input_tokens": 36,
            "input_tokens_details": {"cached_tokens": 6},
            "output_tokens": 87,
            "output_tokens_details": {"reasoning_tokens": 80},
            "total_tokens": 123,
        },
        {"prompt": 36, "completion": 87, "cached_prompt": 6, "reasoning": 80},
    ),
    "anthropic leaves the cache out of input_tokens": (
        {"input_tokens": 5, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 20, "output_tokens": 9},
        {"prompt": 125, "completion": 9, "cached_prompt": 100, "cache_write_prompt": 20},
    ),
    "prompt_tokens never leaves it out": (
        {"prompt_tokens": 125, "cache_read_input_tokens": 100, "completion_tokens": 9},
        {"prompt": 125, "completion": 9, "cached_prompt": 100},
    ),
    "both ways of saying cached at once": (
        {"input_tokens": 50, "input_tokens_details": {"cached_tokens": 40}, "cache_read_input_tokens": 40},
        {"prompt": 50, "cached_prompt": 40},
    ),
    "deepseek": (
        {"prompt_tokens": 50, "prompt_cache_hit_tokens": 30, "completion_tokens": 1},
        {"prompt": 50, "cached_prompt": 30, "completion": 1},
    ),
    "vllm without details": (
        {"prompt_tokens": 3, "total_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": None},
        {"prompt": 3, "completion": 2},
    ),
    "a part without its total": (
        {"completion_tokens_details": {"reasoning_tokens": 4}},
        {"completion": 4, "reasoning": 4},
    ),
    "negative": ({"prompt_tokens": -3, "completion_tokens": 2}, {"prompt": 0, "completion": 2}),
    "wrong types": (
        {"prompt_tokens": "12", "completion_tokens": [1], "total_tokens": True, "prompt_tokens_details": 3},
        {},
    ),
    "whole floats": ({"prompt_tokens": 12.0, "completion_tokens": 2.5}, {"prompt": 12}),
    "not finite": ({"prompt_tokens": float("inf"), "completion_tokens": float("nan")}, {}),
    "huge": ({"prompt_tokens": 10**30, "completion_tokens": 1}, {"prompt": TOKENS_MAX, "completion": 1}),
    "null": (None, {}),
    "a list": ([1], {}),
    "empty": ({}, {}),
}


@pytest.mark.parametrize(("reported", "expected"), REPORTED.values(), ids=REPORTED)
def test_usage_of_every_known_shape_is_read(reported: object, expected: dict[str, int]) -> None:
    assert normalise(reported) == expected


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.just("12"),
    lambda inner: st.lists(inner, max_size=2),
    max_leaves=3,
)
fields = st.sampled_from(
    [
        "prompt_tokens",
        "completion_tokens",
        "input_tokens",
        "output_tokens",
        "total_tokens",
        "prompt_tokens_details",
        "output_tokens_details",
        "cache_read_input_tokens",
    ]
)
details = st.dictionaries(st.sampled_from(["cached_tokens", "audio_tokens", "reasoning_tokens"]), json)


@calm
@given(st.dictionaries(fields, json | details))
def test_whatever_is_reported_becomes_counts_that_the_database_holds(reported: dict[str, object]) -> None:
    for name, count in normalise(reported).items():
        assert name in TOKEN_TYPES
        assert type(count) is int
        assert 0 <= count <= TOKENS_MAX


def test_parts_take_the_place_of_their_total() -> None:
    usage = {"prompt": 100, "cached_prompt": 60, "audio_prompt": 7, "completion": 50, "reasoning": 20}
    assert billable(usage) == {
        "prompt": 33,
        "cached_prompt": 60,
        "audio_prompt": 7,
        "completion": 30,
        "reasoning": 20,
    }


def test_a_part_without_a_price_is_billed_as_its_total() -> None:
    usage = {"prompt": 100, "cached_prompt": 60, "completion": 50, "reasoning": 20}
    assert billable(usage, {"prompt", "completion", "cached_prompt"}) == {
        "prompt": 40,
        "cached_prompt": 60,
        "completion": 50,
    }


def test_parts_that_overlap_are_billed_once() -> None:
    assert billable({"prompt": 100, "cached_prompt": 80, "audio_prompt": 90}) == {
        "cached_prompt": 80,
        "audio_prompt": 20,
    }


def test_another_unit_that_has_a_price_is_billed_as_it_is() -> None:
    usage = {"prompt": 10, "seconds": 7, "pages": 3, "refunds": -1}
    assert billable(usage, {"prompt", "seconds", "refunds"}) == {"prompt": 10, "seconds": 7}


counts = st.dictionaries(st.sampled_from(TOKEN_TYPES), st.integers(-5, 1000))


@calm
@given(counts, st.sets(st.sampled_from(TOKEN_TYPES)))
def test_what_is_billed_sums_up_to_the_reported_totals(usage: dict[str, int], priced: set[str]) -> None:
    bill = billable(usage, priced)
    for total, parts in PARTS_OF.items():
        assert sum(bill.get(name, 0) for name in (total, *parts)) == max(usage.get(total, 0), 0)
    assert all(count > 0 for count in bill.values())
