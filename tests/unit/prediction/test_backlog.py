from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from logos.prediction.backlog import Backlog

TOKEN_S = 0.001


def test_an_engine_without_prompts_has_nothing_left() -> None:
    backlog = Backlog()
    assert backlog.remaining_tokens == 0
    backlog.dispatched("a", 500, 10.0)
    assert (backlog.remaining_tokens, backlog.at) == (500, 10.0)
    assert "a" in backlog
    backlog.left("a", 10.5, TOKEN_S)
    assert backlog.remaining_tokens == 0
    assert "a" not in backlog


def test_time_that_nothing_was_computed_in_does_not_count() -> None:
    backlog = Backlog()
    backlog.dispatched("a", 500, 10.0)
    backlog.left("a", 10.5, TOKEN_S)
    backlog.dispatched("b", 300, 99.0)
    assert (backlog.remaining_tokens, backlog.at) == (300, 99.0)


def test_a_first_token_says_that_all_before_it_was_computed() -> None:
    backlog = Backlog()
    backlog.dispatched("a", 500, 10.0)
    backlog.dispatched("b", 800, 10.1)
    backlog.left("a", 10.2, TOKEN_S)  # sooner than 500 tokens at that pace
    assert (backlog.remaining_tokens, backlog.at) == (800, 10.2)


def test_the_next_prompt_may_be_half_done() -> None:
    backlog = Backlog()
    backlog.dispatched("a", 500, 10.0)
    backlog.dispatched("b", 800, 10.0)
    backlog.left("a", 10.9, TOKEN_S)
    assert round(backlog.remaining_tokens) == 400


def test_pairs_that_attend_to_each_other_are_counted_beside_the_tokens() -> None:
    backlog = Backlog()
    backlog.dispatched("a", 500, 10.0)
    backlog.dispatched("b", 800, 10.0, 200)
    assert backlog.remaining_pairs == 500 * 250 + 800 * (200 + 400)
    backlog.left("a", 10.9, TOKEN_S)
    assert round(backlog.remaining_pairs) == 800 * (200 + 400) / 2  # half of it is done
    backlog.left("b", 11.3, TOKEN_S)
    assert backlog.remaining_pairs == 0.0


def test_where_attention_is_dear_less_of_a_long_prompt_is_done() -> None:
    backlog = Backlog()
    backlog.dispatched("a", 500, 10.0)
    backlog.dispatched("b", 4_000, 10.0)
    backlog.left("a", 10.0 + 1.0, TOKEN_S, TOKEN_S / 250)  # 500 tokens of 2 ms each
    assert round(backlog.remaining_tokens) == 4_000


def test_the_next_prompt_is_not_done_before_its_first_token() -> None:
    backlog = Backlog()
    for name in "abc":
        backlog.dispatched(name, 100, 10.0)
    backlog.left("a", 90.0, TOKEN_S)
    assert backlog.remaining_tokens == 100


def test_who_was_not_dispatched_or_left_twice_changes_nothing() -> None:
    backlog = Backlog()
    backlog.dispatched("a", 100, 10.0)
    backlog.left("b", 11.0, TOKEN_S)
    assert (backlog.remaining_tokens, backlog.at) == (100, 10.0)


def test_a_prompt_that_is_given_up_further_back_is_not_waited_for() -> None:
    backlog = Backlog()
    backlog.dispatched("a", 500, 10.0)
    backlog.dispatched("b", 800, 10.0)
    backlog.left("b", 10.1, TOKEN_S)
    assert round(backlog.remaining_tokens) == 400


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 8_000), st.floats(0.0, 9.0)), max_size=60), st.floats(0.0, 1.0)
)
def test_what_remains_is_never_negative_nor_more_than_what_is_in_flight(
    happened: list[tuple[int, int, float]], token_s: float
) -> None:
    """Whoever is named comes if it is not there, and leaves if it is, in any order."""
    backlog, inside, now = Backlog(), {}, 0.0
    for who, tokens, later in happened:
        now += later
        if who in inside:
            del inside[who]
            backlog.left(str(who), now, token_s)
        else:
            inside[who] = tokens
            backlog.dispatched(str(who), tokens, now)
        assert 0.0 <= backlog.remaining_tokens <= sum(inside.values())
        assert 0.0 <= backlog.remaining_pairs <= sum(tokens**2 / 2 for tokens in inside.values())
