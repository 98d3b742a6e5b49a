"""A remote provider's own limits, whatever the scheduler believes of them."""

from __future__ import annotations

import random

import pytest

from logos.simulation.remotes import RemoteEndpoint
from logos.simulation.world import RemoteProfile


def test_above_its_requests_per_minute_it_refuses_until_the_oldest_is_a_minute_old() -> None:
    remote = RemoteEndpoint(1, RemoteProfile(requests_per_minute=2))
    remote.admit(0.0, "a", 10)
    remote.admit(20.0, "b", 10)
    assert remote.refusal_s(30.0, 10) == pytest.approx(30.0)
    limit = remote.limit(30.0)
    assert limit is not None
    assert (limit.remaining_requests, limit.remaining_tokens, limit.reset_s) == (0, None, 30.0)
    assert remote.refusal_s(60.0, 10) is None


def test_above_its_tokens_per_minute_it_refuses() -> None:
    remote = RemoteEndpoint(1, RemoteProfile(tokens_per_minute=100))
    remote.admit(0.0, "a", 90)
    assert remote.refusal_s(1.0, 10) is None
    assert remote.refusal_s(1.0, 11) == pytest.approx(59.0)


def test_above_its_parallelism_it_refuses_until_somebody_leaves() -> None:
    remote = RemoteEndpoint(1, RemoteProfile(parallel_max=1))
    remote.admit(0.0, "a", 10)
    assert remote.refusal_s(1.0, 10) is not None
    assert remote.leave("a")
    assert not remote.leave("a")
    assert remote.refusal_s(1.0, 10) is None


def test_its_latency_varies_by_luck_around_the_median() -> None:
    remote = RemoteEndpoint(1, RemoteProfile(ttft_s=1.0, prefill_per_token_s=0.0, tpot_s=0.1, spread=0.5))
    assert remote.times_s(10, 11, 0.5) == pytest.approx((1.0, 2.0))
    assert remote.times_s(10, 11, 0.1)[0] < 1.0 < remote.times_s(10, 11, 0.9)[0]


def test_a_share_of_its_answers_begins_late() -> None:
    remote = RemoteEndpoint(1, RemoteProfile(ttft_s=1.0, prefill_per_token_s=0.0, stall_share=0.25, stall_s=50.0))
    chance = random.Random(1)
    stalled = sum(remote.times_s(10, 11, chance.random())[0] > 50.0 for _ in range(4000))
    assert stalled == pytest.approx(1000, rel=0.1)
