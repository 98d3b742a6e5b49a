"""What hangs on a claim: L, what a second costs the claimants, what it saves to admit a request of a victim now."""

from __future__ import annotations

from dataclasses import replace

import pytest

from logos.scheduling.marginal_swaps import CONVEXITY, Stakes

STAKES = Stakes(
    group=(),
    serving=(),
    pressure=4.0,
    drain_s=10.0,
    away_s=5.0,
    back_s=7.0,
    takes_s=8.0,
    unserved_s=12.0,
    patience_s=48.0,
    waited_s=6.0,
)


def cost(waited_s: float) -> float:
    """c(w), in seconds."""
    return waited_s + CONVEXITY * waited_s**3 / STAKES.lost_s**2


def test_who_is_not_admitted_waits_for_the_drain_the_way_there_their_turn_and_the_way_back() -> None:
    assert STAKES.lost_s == 30.0


@pytest.mark.parametrize("waited_s", [0.0, 3.0, 40.0])
def test_what_is_saved_is_the_cost_of_waiting_so_much_longer(waited_s: float) -> None:
    assert STAKES.saves(waited_s) == pytest.approx(cost(waited_s + 30.0) - cost(waited_s))


def test_a_second_costs_the_claimants_the_slope_of_the_cost_at_what_they_will_have_waited() -> None:
    will_have_waited_s = 6.0 + 10.0 + 5.0
    slope = (cost(will_have_waited_s + 1e-4) - cost(will_have_waited_s - 1e-4)) / 2e-4
    assert STAKES.cost_per_s == pytest.approx(4.0 * slope)


def test_it_costs_more_the_longer_they_have_waited_and_the_more_they_are() -> None:
    assert replace(STAKES, waited_s=20.0).cost_per_s > STAKES.cost_per_s
    assert replace(STAKES, pressure=8.0).cost_per_s == pytest.approx(2.0 * STAKES.cost_per_s)
