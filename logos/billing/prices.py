"""Which price rows apply to a request: per token type the most specific row, then the newest that has begun.

One charge has one currency: `check_prices` refuses declarations under which it could have two. No arithmetic on
tokens happens here.
"""

from __future__ import annotations

import datetime as dt
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from logos.billing.usage import COMPLETION, PROMPT, TOKEN_TYPES
from logos.domain.catalogue import Catalogue
from logos.domain.errors import InvalidDeclaration
from logos.domain.nouns import Price

BOOK_ENTRIES_MAX = 4096  # remembered choices; a day has one per endpoint in use


@dataclass(frozen=True, slots=True)
class Tariff:
    """The prices of one model at one provider on one day, in micro-cents per million tokens by token type. Currency
    None: nothing has a price there."""

    currency: str | None = None
    micro_cents_per_million: Mapping[str, int] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return self.currency is not None


FREE = Tariff()


def select(prices: Iterable[Price], model_id: int, provider_id: int, on: dt.date) -> dict[str, Price]:
    """Token type -> the row that applies. Rows for model and provider come before rows for the model, for the
    provider, for anything; then the newest `valid_from` not after `on`; then the highest id."""
    chosen: dict[str, Price] = {}
    for price in prices:
        if price.valid_from > on or not _covers(price, model_id, provider_id):
            continue
        held = chosen.get(price.token_type)
        if held is None or _precedence(price) > _precedence(held):
            chosen[price.token_type] = price
    return chosen


def _covers(price: Price, model_id: int, provider_id: int) -> bool:
    return price.model_id in (None, model_id) and price.provider_id in (None, provider_id)


def _precedence(price: Price) -> tuple[bool, bool, dt.date, int]:
    return price.model_id is not None, price.provider_id is not None, price.valid_from, price.id


def tariff(prices: Iterable[Price], model_id: int, provider_id: int, on: dt.date) -> Tariff:
    """The prices to charge by. Should rows of several currencies apply, which `check_prices` rules out, the prompt's
    currency wins, then the completion's, and rows in another one are left out: sums of two currencies mean nothing."""
    rows = select(prices, model_id, provider_id, on)
    if not rows:
        return FREE
    leading = rows.get(PROMPT) or rows.get(COMPLETION) or rows[min(rows)]
    currency = leading.currency
    return Tariff(
        currency,
        {name: row.micro_cents_per_million for name, row in rows.items() if row.currency == currency},
    )


class PriceBook:
    """Price rows with the choices made from them remembered. Make a new one for each version of the catalogue."""

    __slots__ = ("_prices", "_tariffs")

    def __init__(self, prices: Iterable[Price]) -> None:
        self._prices = tuple(prices)
        self._tariffs: dict[tuple[int, int, dt.date], Tariff] = {}

    def tariff(self, model_id: int, provider_id: int, on: dt.date) -> Tariff:
        """As the function of this name. `on` is the request's date, in UTC."""
        asked = (model_id, provider_id, on)
        found = self._tariffs.get(asked)
        if found is None:
            if len(self._tariffs) >= BOOK_ENTRIES_MAX:
                self._tariffs.clear()
            found = self._tariffs[asked] = tariff(self._prices, model_id, provider_id, on)
        return found


def check_prices(catalogue: Catalogue) -> None:
    """Raises InvalidDeclaration if a row is malformed or if, for any endpoint on any day, rows of two currencies
    would apply together. To be asked whenever prices or endpoints change."""
    for price in catalogue.prices:
        _check_row(price)
    for model_id, provider_id in sorted({(each.model_id, each.provider_id) for each in catalogue.endpoints}):
        rows = [price for price in catalogue.prices if _covers(price, model_id, provider_id)]
        for day in sorted({price.valid_from for price in rows}):
            _check_currency(catalogue, select(rows, model_id, provider_id, day), model_id, provider_id, day)


def _check_row(price: Price) -> None:
    if price.token_type not in TOKEN_TYPES:
        close = difflib.get_close_matches(price.token_type, TOKEN_TYPES, n=1)
        cure = f"did you mean '{close[0]}'?" if close else f"known are {', '.join(TOKEN_TYPES)}."
        raise InvalidDeclaration(f"There is no token type '{price.token_type}' to price: {cure}", param="prices")
    if price.micro_cents_per_million < 0:
        raise InvalidDeclaration(f"The price of {price.token_type} tokens is below zero.", param="prices")


def _check_currency(
    catalogue: Catalogue, rows: Mapping[str, Price], model_id: int, provider_id: int, day: dt.date
) -> None:
    currencies = {price.currency: name for name, price in sorted(rows.items())}
    if len(currencies) < 2:
        return
    model = catalogue.model.get(model_id)
    provider = catalogue.provider.get(provider_id)
    place = f"model '{model.name if model else model_id}' at provider '{provider.name if provider else provider_id}'"
    listed = " and ".join(f"{name} tokens in {currency}" for currency, name in sorted(currencies.items()))
    raise InvalidDeclaration(
        f"From {day.isoformat()} on, {place} would be charged for {listed}: one request is charged in one currency, "
        "so give all its prices in the same one.",
        param="prices",
    )
