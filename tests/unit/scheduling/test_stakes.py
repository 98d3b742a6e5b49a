"""What hangs on a claim: L, what a second costs the claimants, what it saves to admit a request of a victim now."""

from __future__ import annotations

from dataclasses import replace

import pytest

from logos.scheduling.marginal_swaps import CONVEXITY, Line, Stakes
from logos.scheduling.nodes import NodeState
from tests.scenarios.world import node

STAKES = Stakes(
    group=(),
    serving=(),
    node=NodeState(node("n", 24)),
    claimants=Line(4.0, 6.0),
    gone=Line(0.0, 0.0),
    drain_s=10.0,
    gone_s=13.0,
    covered_s=0.0,
    coming_s=2.0,
    back_s=7.0,
    takes_s=8.0,
    unserved_s=12.0,
    patience_s=48.0,
)


def cost(waited_s: float) -> float:
    """c(w), in seconds."""
    return waited_s + CONVEXITY * waited_s**4 / STAKES.lost_s**3


def test_who_is_not_admitted_waits_for_the_drain_the_way_there_their_turn_and_the_way_back() -> None:
    assert STAKES.lost_s == 30.0


@pytest.mark.parametrize("waited_s", [0.0, 3.0, 40.0])
def test_what_is_saved_is_the_cost_of_waiting_so_much_longer(waited_s: float) -> None:
    assert STAKES.saves(waited_s) == pytest.approx(cost(waited_s + 30.0) - cost(waited_s))


def slope(waited_s: float) -> float:
    return (cost(waited_s + 1e-4) - cost(waited_s - 1e-4)) / 2e-4


def test_a_second_costs_claimants_that_have_just_come_the_slope_at_what_they_will_have_waited() -> None:
    assert replace(STAKES, claimants=Line(4.0, 0.0)).cost_per_s == pytest.approx(4.0 * slope(13.0 + 2.0))


def test_of_waits_that_differ_the_long_ones_count_for_more() -> None:
    """1,000 that came at equal distances over 12 s and wait 15 s more, against the mean of their slopes."""
    waits = [15.0 + 12.0 * (number + 0.5) / 1000.0 for number in range(1000)]
    assert STAKES.cost_per_s == pytest.approx(4.0 * sum(map(slope, waits)) / 1000.0, rel=1e-4)
    assert STAKES.cost_per_s > 1.02 * 4.0 * slope(15.0 + 6.0)


def test_it_costs_more_the_longer_they_have_waited_and_the_more_they_are() -> None:
    assert replace(STAKES, claimants=Line(4.0, 20.0)).cost_per_s > STAKES.cost_per_s
    assert replace(STAKES, claimants=Line(8.0, 6.0)).cost_per_s == pytest.approx(2.0 * STAKES.cost_per_s)


def test_who_waits_for_victims_that_have_left_waits_to_the_end_of_the_claimants_turn() -> None:
    behind = replace(STAKES, gone=Line(2.0, 0.0))
    assert behind.cost_per_s == pytest.approx(STAKES.cost_per_s + 2.0 * slope(30.0))
