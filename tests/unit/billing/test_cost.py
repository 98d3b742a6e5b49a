from __future__ import annotations

import json
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from logos.billing.cost import MICRO_CENTS_MAX, charge, format_cost, upper_bound
from logos.billing.prices import FREE, Tariff
from logos.billing.usage import PARTS_OF, TOKEN_TYPES
from logos.domain.records import Charge

# The machine may be busy: how long an example takes says nothing.
calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

# 0.15 and 0.60 EUR per million tokens, cached 0.075
EXAMPLE = Tariff("EUR", {"prompt": 15_000_000, "completion": 60_000_000, "cached_prompt": 7_500_000})


def test_a_charge_by_hand() -> None:
    usage = {"prompt": 1000, "cached_prompt": 400, "completion": 200, "reasoning": 50}
    # 600 * 15 + 400 * 7.5 + 200 * 60 micro-cents
    assert charge(usage, EXAMPLE) == Charge(24_000, "EUR")
    assert format_cost(charge(usage, EXAMPLE)) == "0.00024"


def test_cached_tokens_are_substituted_not_added() -> None:
    without = charge({"prompt": 1000}, EXAMPLE).micro_cents
    with_cache = charge({"prompt": 1000, "cached_prompt": 1000}, EXAMPLE).micro_cents
    assert (without, with_cache) == (15_000, 7_500)


def test_the_whole_sum_is_rounded_once_half_up() -> None:
    tenths = Tariff("EUR", {"prompt": 100_000, "completion": 100_000, "reasoning": 100_000})
    assert charge({"prompt": 4}, tenths).micro_cents == 0
    assert charge({"prompt": 5}, tenths).micro_cents == 1
    # 0.4 + 0.3 + 0.3: each alone would round to nothing
    assert charge({"prompt": 4, "completion": 6, "reasoning": 3}, tenths).micro_cents == 1


def test_without_a_price_nothing_is_charged_in_no_currency() -> None:
    assert charge({"prompt": 10**9}, FREE) == Charge(0, None)
    assert upper_bound(10**9, 10**9, FREE) == Charge(0, None)


def test_a_price_of_zero_is_a_price() -> None:
    assert charge({"prompt": 10}, Tariff("USD", {"prompt": 0})) == Charge(0, "USD")


usages = st.dictionaries(st.sampled_from(TOKEN_TYPES), st.integers(0, 10**7))
tariffs = st.builds(
    Tariff,
    st.just("EUR"),
    st.dictionaries(st.sampled_from(TOKEN_TYPES), st.integers(0, 10**10), min_size=1),
)


@calm
@given(usages, tariffs)
def test_substituting_never_costs_more_than_adding(usage: dict[str, int], tariff: Tariff) -> None:
    added = sum(count * tariff.micro_cents_per_million.get(name, 0) for name, count in usage.items())
    assert charge(usage, tariff).micro_cents <= Fraction(added, 10**6) + Fraction(1, 2)


@calm
@given(usages, tariffs)
def test_a_charge_is_within_half_a_micro_cent_of_the_exact_sum(usage: dict[str, int], tariff: Tariff) -> None:
    """The exact sum by another way: each special token moves its price from the total's to its own."""
    prices = tariff.micro_cents_per_million
    exact = Fraction(0)
    for total, parts in PARTS_OF.items():
        left = usage.get(total, 0)
        for part in parts:
            if part in prices:
                moved = min(usage.get(part, 0), left)
                left -= moved
                exact += Fraction(moved * prices[part], 10**6)
        exact += Fraction(left * prices.get(total, 0), 10**6)
    assert abs(charge(usage, tariff).micro_cents - exact) <= Fraction(1, 2)


@calm
@given(usages, tariffs)
def test_the_upper_bound_holds_whatever_the_tokens_turn_out_to_be(usage: dict[str, int], tariff: Tariff) -> None:
    bound = upper_bound(usage.get("prompt", 0), usage.get("completion", 0), tariff)
    assert charge(usage, tariff).micro_cents <= bound.micro_cents
    assert bound.currency == "EUR"


@calm
@given(st.integers(0, MICRO_CENTS_MAX))
def test_a_cost_is_shown_exactly_and_as_a_json_number(micro_cents: int) -> None:
    shown = format_cost(Charge(micro_cents, "EUR"))
    assert Decimal(shown) * 100_000_000 == micro_cents
    assert json.loads(shown, parse_float=Decimal) == Decimal(shown)
    assert "e" not in shown.lower()


@pytest.mark.parametrize(
    ("micro_cents", "shown"),
    [(0, "0"), (1, "0.00000001"), (12345, "0.00012345"), (100_000_000, "1"), (1_050_000_000, "10.5")],
)
def test_costs_as_people_read_them(micro_cents: int, shown: str) -> None:
    assert format_cost(Charge(micro_cents, "EUR")) == shown


def test_a_charge_is_never_more_than_the_database_holds_nor_below_zero() -> None:
    assert charge({"prompt": 2**63 - 1}, Tariff("EUR", {"prompt": 10**12})).micro_cents == MICRO_CENTS_MAX
    assert charge({"prompt": -5}, EXAMPLE).micro_cents == 0
