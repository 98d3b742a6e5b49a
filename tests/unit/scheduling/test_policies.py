from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from logos.domain.nouns import Tier
from logos.scheduling.policies import POLICIES, Stake, View, ettft, expected_wait_s, fcfs, slo, spread, utilization
from logos.scheduling.settings import SchedulerSettings


def view(endpoint_id: int = 1, weight: float = 0.0, tier: Tier = Tier.WARM, waiting: int = 0, **more: Any) -> View:
    more.setdefault("parallel", 4)
    more.setdefault("service_p50_s", 3.0)
    return View(endpoint_id, weight, tier, 0, waiting, **more)


@pytest.mark.parametrize(
    ("seen", "expected_s"),
    [
        (view(tier=Tier.WARM), 0.0),
        (view(tier=Tier.QUEUED, waiting=8), 8 / 4 * 3.0),
        (view(tier=Tier.ASLEEP), 2.5),
        (view(tier=Tier.COLD), 45.0),
        (view(tier=Tier.REMOTE), 0.3),
        (view(tier=Tier.REMOTE, remaining_requests=11), 0.3),
        (view(tier=Tier.REMOTE, remaining_requests=10), 5.0),
        (view(tier=Tier.COLD, memory_is_short=True, neighbour_is_idle=True), 48.0),
        (view(tier=Tier.ASLEEP, memory_is_short=True), 32.5),
        (view(tier=Tier.COLD, waiting=2, parallel=1, service_p50_s=10.0), 65.0),
    ],
)
def test_the_expected_wait_is_state_and_reclaim_and_queue(seen: View, expected_s: float) -> None:
    assert expected_wait_s(seen) == pytest.approx(expected_s)


@pytest.mark.parametrize(
    ("weights", "expected"),
    [([5.0, 5.0], 1.0), ([10.0, 2.0], 8.0), ([10.0, 10.0], 2.0), ([-10.0, -10.0], 2.0), ([0.0], 1.0)],
)
def test_the_spread_is_never_too_small_to_matter(weights: list[float], expected: float) -> None:
    assert spread(weights) == pytest.approx(expected)


def test_ettft_corrects_the_weight_by_the_expected_wait() -> None:
    # S = 4, so a cold start costs 45/60 * 4 * 1.5 = 4.5 and the better model is not worth it.
    cold, warm = view(1, 10.0, Tier.COLD), view(2, 6.0)
    assert ettft([cold, warm]) == (2, 0.0)
    # Asleep costs 2.5/60 * 4 * 1.5 = 0.25: the request waits for the better model.
    assert ettft([view(1, 10.0, Tier.ASLEEP), warm]) == (1, 2.5)


def test_ettft_caps_the_wait_at_a_minute() -> None:
    hopeless = view(1, 10.0, Tier.QUEUED, waiting=100_000)
    # S = 6.5, penalty at most 9.75: less than what the other one lacks.
    assert ettft([hopeless, view(2, 3.5)]).endpoint_id == 2
    assert ettft([hopeless, view(2, 10.0, Tier.QUEUED, waiting=80)]) == (1, 75_000.0)


def test_utilization_prefers_what_is_loaded_and_not_crowded() -> None:
    cold, warm, cloud = view(1, 0.0, Tier.COLD), view(2), view(3, 0.0, Tier.REMOTE)
    assert utilization([cold, warm, cloud]).endpoint_id == 2
    assert utilization([cold, view(2, 0.0, Tier.QUEUED, waiting=11), cloud]).endpoint_id == 3
    assert utilization([view(1, 26.0, Tier.COLD), cloud]).endpoint_id == 1


def test_fcfs_takes_the_first() -> None:
    assert fcfs([view(3, 0.0, Tier.COLD), view(1, 10.0)]) == (3, None)


@pytest.mark.parametrize("name", POLICIES)
def test_equals_are_chosen_in_the_order_of_the_candidates(name: str) -> None:
    assert POLICIES[name]([view(2), view(1), view(3)]).endpoint_id == 2


# slo: the least cost.


def forecast(endpoint_id: int, p50_s: float, p90_s: float | None = None, **more: Any) -> View:
    return view(endpoint_id, ttft_p50_s=p50_s, ttft_p90_s=p50_s if p90_s is None else p90_s, **more)


def test_slo_says_what_it_expects_at_the_median() -> None:
    assert slo([forecast(7, 1.25, 9.0)]) == (7, 1.25)
    assert slo([forecast(7, 5.0), forecast(8, 1.25, 2.0)]) == (8, 1.25)


def test_slo_keeps_the_deadline_by_the_upper_quantile() -> None:
    sure, gamble = forecast(1, 4.0, 5.0), forecast(2, 3.0, 30.0)
    assert slo([sure, gamble], Stake(10.0)).endpoint_id == 1
    assert slo([sure, gamble], Stake(40.0)).endpoint_id == 2
    assert slo([sure, gamble], Stake(None)).endpoint_id == 2


def test_slo_pays_for_speed_only_if_the_deadline_needs_it() -> None:
    cent = 1_000_000.0
    slow, dear = forecast(1, 8.0), forecast(2, 0.5, price=2 * cent)
    assert slo([slow, dear], Stake(10.0)).endpoint_id == 1
    assert slo([slow, dear], Stake(2.0)).endpoint_id == 2


def test_slo_takes_the_better_model_if_it_is_not_much_later() -> None:
    good, poor = forecast(1, 12.0, quality=0.9), forecast(2, 1.0, quality=0.4)
    assert slo([poor, good], Stake(12.0)).endpoint_id == 1
    assert slo([poor, good], Stake(2.0)).endpoint_id == 2


def test_slo_counts_a_lower_weight_as_lost_quality() -> None:
    first, second = forecast(1, 5.0, weight=10.0), forecast(2, 0.5, weight=2.0)
    assert slo([second, first], Stake(10.0)).endpoint_id == 1
    assert slo([second, first._replace(weight=2.0)], Stake(10.0)).endpoint_id == 2


def test_slo_thinks_of_those_who_would_be_displaced() -> None:
    quick, considerate = forecast(1, 1.0, displaced_s=100.0), forecast(2, 5.0)
    assert slo([quick, considerate], Stake(10.0)).endpoint_id == 2
    careless = replace(SchedulerSettings(), cost_displaced=0.0)
    assert slo([quick, considerate], Stake(10.0, careless)).endpoint_id == 1
