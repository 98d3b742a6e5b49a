from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logos.prediction.lengths import KEYS_MAX, ONCE_MAX, SEEN_MIN, AnswerLengths
from logos.prediction.spans import Span

MODEL, KEY, OTHER_KEY = 1, 10, 11


def told(answers: list[tuple[int, int | None]], key_id: int = KEY) -> AnswerLengths:
    lengths = AnswerLengths()
    for tokens, allowed in answers:
        lengths.observe(MODEL, key_id, tokens, allowed)
    return lengths


def test_before_any_answer_a_share_of_what_is_allowed_is_expected() -> None:
    unknown = AnswerLengths()
    short, long = (unknown.span(MODEL, KEY, allowed) for allowed in (100, 1_000))
    assert 0 < short.p50 < short.p90 <= 100
    assert long.p50 == pytest.approx(10 * short.p50)
    assert unknown.span(MODEL, KEY).p50 > 0


def test_a_key_that_has_asked_often_has_answers_of_its_own() -> None:
    lengths = told([(50, None)] * SEEN_MIN)
    for _ in range(200):
        lengths.observe(MODEL, OTHER_KEY, 400)
    assert lengths.span(MODEL, KEY) == Span(50, 50)
    assert lengths.span(MODEL, 99) == Span(400, 400)


def test_a_key_that_has_asked_little_is_taken_for_its_model() -> None:
    lengths = told([(50, None)] * (SEEN_MIN - 1))
    for _ in range(200):
        lengths.observe(MODEL, OTHER_KEY, 400)
    assert lengths.span(MODEL, KEY) == Span(400, 400)


def test_answers_that_follow_their_limit_are_expected_to_do_so_again() -> None:
    chance = random.Random(1)
    lengths = told([(allowed // 2, allowed) for allowed in (chance.randrange(50, 4_000) for _ in range(200))])
    assert lengths.span(MODEL, KEY, 3_000).p50 == pytest.approx(1_500, rel=0.02)


def test_answers_that_never_meet_their_limit_are_expected_at_their_usual_length() -> None:
    chance = random.Random(1)
    lengths = told([(100, allowed) for allowed in (chance.randrange(200, 4_000) for _ in range(200))])
    assert lengths.span(MODEL, KEY, 3_000) == Span(100, 100)
    assert lengths.span(MODEL, KEY, 60) == Span(60, 60)


def test_an_answer_under_way_is_expected_to_be_longer_than_it_is() -> None:
    lengths = told([(tokens, None) for tokens in range(1, 101)])
    assert lengths.span(MODEL, KEY, produced=50).p50 == 75
    assert lengths.span(MODEL, KEY, produced=99) == Span(100, 100)
    assert lengths.span(MODEL, KEY, produced=500) == Span(501, 501)


def test_keys_that_ask_once_push_out_nobody_who_comes_back() -> None:
    lengths = told([(50, None)] * SEEN_MIN)
    for each in range(KEYS_MAX + ONCE_MAX):
        lengths.observe(MODEL, 1_000 + each, 400)
    assert lengths.span(MODEL, KEY) == Span(50, 50)
    assert len(lengths.snapshot()) == 1 + 1 + ONCE_MAX


def test_a_first_answer_counts_once_there_is_a_second() -> None:
    lengths = told([(50, 100), (60, 100), (70, None)])
    [of_key] = [each for each in lengths.snapshot() if each.key_id == KEY]
    assert (of_key.tokens, of_key.shares, of_key.seen) == ((50, 60, 70), (0.5, 0.6), 3)


@pytest.mark.parametrize("answers", [1, 40])
def test_a_model_that_is_forgotten_starts_again(answers: int) -> None:
    lengths = told([(50, None)] * answers)
    lengths.forget_model(MODEL)
    assert lengths.snapshot() == ()


@given(
    st.lists(st.tuples(st.integers(1, 5_000), st.none() | st.integers(1, 5_000)), max_size=50), st.integers(1, 5_000)
)
def test_no_answer_is_expected_to_exceed_its_limit(answers: list[tuple[int, int | None]], allowed: int) -> None:
    p50, p90 = told(answers).span(MODEL, KEY, allowed)
    assert 1 <= p50 <= p90 <= allowed
