"""What settings of the scheduler may be."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from logos.domain.errors import InvalidDeclaration
from logos.scheduling.settings import SchedulerSettings

NUMBERS = [each.name for each in fields(SchedulerSettings) if each.name != "policy"]


@pytest.mark.parametrize("value", [-5, -0.001, float("nan"), float("inf"), float("-inf"), 10**400])
@pytest.mark.parametrize("name", NUMBERS)
def test_a_setting_is_a_finite_number_that_is_not_negative(name: str, value: float) -> None:
    given: dict[str, Any] = {name: value}
    with pytest.raises(InvalidDeclaration, match=rf"^{name} is {value}: choose a (number|share) from ") as caught:
        SchedulerSettings(**given)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("name", ["swap_review_s", "stop_timeout_s", "request_nodes_interval_s"])
def test_what_is_looked_at_again_and_again_leaves_time_in_between(name: str) -> None:
    given: dict[str, Any] = {name: 1e-300}
    with pytest.raises(InvalidDeclaration, match=rf"^{name} is 1e-300: choose a number from 0\.001 to "):
        SchedulerSettings(**given)


@pytest.mark.parametrize(
    "name", ["lease_ttl_s", "release_node_after_s", "request_nodes_after_s", "reconvene_s", "hedge_share", "cost_late"]
)
def test_what_can_be_switched_off_may_be_0(name: str) -> None:
    given: dict[str, Any] = {name: 0.0}
    assert getattr(SchedulerSettings(**given), name) == 0.0
