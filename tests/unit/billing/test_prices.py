from __future__ import annotations

import datetime as dt
import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from logos.billing.prices import BOOK_ENTRIES_MAX, FREE, PriceBook, check_prices, select, tariff
from logos.domain.catalogue import Catalogue
from logos.domain.errors import InvalidDeclaration
from logos.domain.nouns import Endpoint, Price, Privacy

# The machine may be busy: how long an example takes says nothing.
calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

JANUARY, MARCH, JUNE = dt.date(2026, 1, 1), dt.date(2026, 3, 1), dt.date(2026, 6, 1)
_ids = itertools.count(1)


def price(amount: int, token_type: str = "prompt", valid_from: dt.date = JANUARY, **places: object) -> Price:
    fields = {"currency": "EUR", "model_id": None, "provider_id": None} | places
    return Price(next(_ids), token_type, amount, valid_from=valid_from, **fields)  # type: ignore[arg-type]


MODEL = Endpoint(1, 1, 1, Privacy.LOCAL, "m")

CHOICES = {
    "any": ([price(1)], JUNE, 1),
    "the model's before the provider's": ([price(1, provider_id=1), price(2, model_id=1)], JUNE, 2),
    "the provider's before any": ([price(1), price(2, provider_id=1)], JUNE, 2),
    "model and provider before the model": ([price(1, model_id=1, provider_id=1), price(2, model_id=1)], JUNE, 1),
    "the newest": ([price(1, valid_from=JANUARY), price(2, valid_from=MARCH)], JUNE, 2),
    "on its first day": ([price(1, valid_from=JANUARY), price(2, valid_from=JUNE)], JUNE, 2),
    "not before its first day": ([price(1, valid_from=JANUARY), price(2, valid_from=JUNE)], MARCH, 1),
    "specific before new": ([price(1, valid_from=JANUARY, model_id=1), price(2, valid_from=MARCH)], JUNE, 1),
    "a specific one that has not begun": ([price(1), price(2, valid_from=JUNE, model_id=1)], MARCH, 1),
    "the later row of one day": ([price(1), price(2)], JUNE, 2),
}


@pytest.mark.parametrize(("rows", "on", "expected"), CHOICES.values(), ids=CHOICES)
@pytest.mark.parametrize("turned", [False, True])
def test_the_most_specific_row_wins_then_the_newest(
    rows: list[Price], on: dt.date, expected: int, turned: bool
) -> None:
    rows = rows[::-1] if turned else rows
    assert select(rows, 1, 1, on)["prompt"].micro_cents_per_million == expected


def test_rows_for_others_do_not_apply() -> None:
    rows = [price(1, model_id=2), price(2, provider_id=2), price(3, model_id=1, provider_id=2)]
    assert select(rows, 1, 1, JUNE) == {}
    assert tariff(rows, 1, 1, JUNE) == FREE
    assert not FREE


def test_each_token_type_is_chosen_for_itself() -> None:
    rows = [price(1, model_id=1), price(9), price(5, "completion")]
    assert tariff(rows, 1, 1, JUNE).micro_cents_per_million == {"prompt": 1, "completion": 5}


rows = st.lists(
    st.builds(
        Price,
        id=st.integers(1, 10**6),
        token_type=st.sampled_from(["prompt", "completion", "cached_prompt"]),
        micro_cents_per_million=st.integers(0, 100),
        currency=st.just("EUR"),
        valid_from=st.dates(JANUARY, JUNE),
        model_id=st.sampled_from([None, 1, 2]),
        provider_id=st.sampled_from([None, 1, 2]),
    ),
    unique_by=lambda row: row.id,
    max_size=12,
)


@calm
@given(rows, st.dates(JANUARY, JUNE))
def test_the_choice_is_the_same_in_any_order_and_from_a_book(found: list[Price], on: dt.date) -> None:
    chosen = select(found, 1, 2, on)
    assert select(sorted(found, key=lambda row: row.id), 1, 2, on) == chosen
    book = PriceBook(found)
    assert book.tariff(1, 2, on) == book.tariff(1, 2, on) == tariff(found, 1, 2, on)
    for row in chosen.values():  # nobody that applies is more specific, or as specific and newer
        assert row.valid_from <= on
        for other in found:
            if other.token_type == row.token_type and other.valid_from <= on and select([other], 1, 2, on):
                specific = (other.model_id is not None, other.provider_id is not None)
                assert (specific, other.valid_from) <= (
                    (row.model_id is not None, row.provider_id is not None),
                    row.valid_from,
                )


def test_the_prompts_currency_wins_where_rows_disagree() -> None:
    mixed = [price(1, currency="USD"), price(2, "completion", currency="EUR"), price(3, "reasoning", currency="USD")]
    assert tariff(mixed, 1, 1, JUNE).micro_cents_per_million == {"prompt": 1, "reasoning": 3}
    assert tariff(mixed, 1, 1, JUNE).currency == "USD"


@pytest.mark.parametrize(
    ("prices", "said"),
    [
        ([price(1, currency="USD"), price(2, "completion")], "one currency"),
        ([price(1, currency="USD"), price(2, "completion", valid_from=JUNE)], "2026-06-01"),
        (
            [price(1), price(2, "completion"), price(3, "reasoning", currency="USD", model_id=1)],
            "reasoning tokens in USD",
        ),
        ([price(1, "promt")], "did you mean 'prompt'"),
        ([price(-1)], "below zero"),
    ],
)
def test_a_declaration_that_cannot_be_charged_is_refused(prices: list[Price], said: str) -> None:
    with pytest.raises(InvalidDeclaration, match=said):
        check_prices(Catalogue(endpoints=(MODEL,), prices=tuple(prices)))


def test_currencies_that_never_meet_are_fine() -> None:
    apart = [
        price(1, currency="USD", provider_id=2),
        price(2, currency="EUR", provider_id=1),
        price(3, "completion", currency="EUR", provider_id=1),
        price(4, "completion", currency="USD", model_id=2),
    ]
    check_prices(Catalogue(endpoints=(MODEL, Endpoint(2, 2, 2, Privacy.LOCAL, "n")), prices=tuple(apart)))


def test_a_price_book_answers_the_same_however_much_it_was_asked_and_keeps_so_much() -> None:
    book = PriceBook([price(7)])
    for model_id in range(BOOK_ENTRIES_MAX + 10):
        assert book.tariff(model_id, 1, JUNE).micro_cents_per_million == {"prompt": 7}
    assert len(book._tariffs) <= BOOK_ENTRIES_MAX
