from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from logos.billing.window import BUCKET_S, Window

# The machine may be busy: how long an example takes says nothing.
calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def test_an_amount_counts_until_its_moment_and_at_most_a_bucket_longer() -> None:
    window = Window()
    window.book(2, 30, until=60.04)
    window.advance(60.04)
    assert (window.requests, window.tokens) == (2, 30)
    window.advance(60.04 + BUCKET_S)
    assert (window.requests, window.tokens, len(window)) == (0, 0, 0)


def test_what_was_taken_back_does_not_count() -> None:
    window = Window()
    bucket = window.book(1, 100, until=60.0)
    window.correct(bucket, 70)
    assert (window.requests, window.tokens) == (1, 30)
    window.correct(bucket, 70)  # never below nothing
    assert window.tokens == 0
    window.advance(61.0)
    window.correct(bucket, 5)
    assert (window.requests, window.tokens) == (0, 0)


amounts = st.tuples(st.floats(0, 5), st.floats(-1, 70), st.integers(0, 9), st.integers(0, 99))


@calm
@given(st.lists(amounts))
def test_nothing_is_forgotten_early_or_kept_for_long(script: list[tuple[float, float, int, int]]) -> None:
    window, at, booked = Window(), 0.0, []
    for passes_s, counts_s, requests, tokens in script:
        at += passes_s
        window.advance(at)
        window.book(requests, tokens, at + counts_s)
        booked.append((at + counts_s, requests, tokens))
        still = [each for each in booked if each[0] > at]
        lately = [each for each in booked if each[0] > at - 2 * BUCKET_S - 5.0]
        assert sum(each[1] for each in still) <= window.requests <= sum(each[1] for each in lately)
        assert sum(each[2] for each in still) <= window.tokens <= sum(each[2] for each in lately)
        assert window.tokens == sum(tokens for _, _, tokens in window.endings())
    window.advance(at + 80)
    assert (window.requests, window.tokens, len(window)) == (0, 0, 0)


def test_memory_is_bounded_by_buckets_not_by_admissions() -> None:
    window = Window()
    for number in range(50_000):
        at = number / 100
        window.advance(at)
        window.book(1, 1, at + 60.0)
    assert len(window) <= 60.0 / BUCKET_S + 2
