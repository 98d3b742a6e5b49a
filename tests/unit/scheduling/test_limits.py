from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from logos.domain.nouns import Limits
from logos.scheduling.limits import RateLimit

# Quarters of a second, so that sums of times are exact.
ARRIVALS = st.lists(st.tuples(st.integers(0, 120).map(lambda quarters: quarters / 4), st.integers(0, 120)), max_size=60)


@given(ARRIVALS, st.integers(1, 5), st.integers(1, 200))
def test_no_window_of_sixty_seconds_holds_more_than_the_limits(
    arrivals: list[tuple[float, int]], requests: int, tokens: int
) -> None:
    rate = RateLimit(Limits(requests, tokens))
    now, admitted = 0.0, []
    for pause_s, size in arrivals:
        now += pause_s
        opens = rate.admits_from(now, size)
        assert opens >= now
        now = opens  # the earliest time that it names is good
        assert rate.admits_from(now, size) == now
        rate.admit(now, size)
        admitted.append((now, min(size, tokens)))
    for start, _ in admitted:
        inside = [size for at, size in admitted if start <= at < start + 60.0]
        assert len(inside) <= requests
        assert sum(inside) <= tokens


@given(ARRIVALS, st.integers(1, 5))
def test_it_does_not_hold_back_longer_than_it_must(arrivals: list[tuple[float, int]], requests: int) -> None:
    rate = RateLimit(Limits(requests_per_minute=requests))
    now, admitted = 0.0, []
    for pause_s, _ in arrivals:
        now += pause_s
        opens = rate.admits_from(now, 1)
        if opens > now:
            assert len([at for at in admitted if now - 60.0 < at]) == requests
        now = opens
        rate.admit(now, 1)
        admitted.append(now)


def test_without_declared_rates_nothing_is_kept() -> None:
    rate = RateLimit(Limits())
    for each in range(100):
        rate.admit(float(each), 10)
    assert not rate._admitted
    assert rate.remaining_requests(100.0) is None


def test_the_smaller_of_what_is_declared_and_what_is_observed_is_left() -> None:
    rate = RateLimit(Limits(requests_per_minute=5))
    rate.observe(0.0, 3, None, 10.0)
    rate.admit(0.0, 1)
    assert rate.remaining_requests(0.0) == 2
    assert rate.remaining_requests(10.0) == 4


def test_no_tokens_left_means_nothing_left() -> None:
    rate = RateLimit(Limits())
    rate.observe(0.0, 100, 0, 10.0)
    assert rate.admits_from(0.0, 1) == 10.0
    assert rate.admits_from(10.0, 1) == 10.0
