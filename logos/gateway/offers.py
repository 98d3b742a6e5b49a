"""What a candidate costs and how good it is, for the scheduler's one cost: from the catalogue's prices and weights.

Prices are those of the day, in micro-cents per million tokens, 0 where there is none (the currency is not converted:
`billing.prices` keeps one per endpoint). Quality is a model's quality weight, put between 0 (the lowest in the
catalogue) and 1 (the highest); where all models have the same, all are 1. Which endpoints are candidates is decided in
`classification`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable

from logos.billing.prices import PriceBook
from logos.billing.usage import COMPLETION, PROMPT
from logos.domain.catalogue import Catalogue
from logos.scheduling.events import Candidate


class Offers:
    """Candidates of one version of the catalogue on one day; made anew when either changes."""

    def __init__(self, catalogue: Catalogue, day: dt.date) -> None:
        self.catalogue = catalogue
        self.day = day
        self._book = PriceBook(catalogue.prices)
        qualities = [model.weights.quality for model in catalogue.models]
        self._lowest, self._highest = min(qualities, default=0), max(qualities, default=0)

    def candidates(self, weighed: Iterable[tuple[int, float]]) -> tuple[Candidate, ...]:
        """Of (endpoint id, weight) pairs, in their order."""
        return tuple(self._candidate(endpoint_id, weight) for endpoint_id, weight in weighed)

    def quality(self, model_id: int) -> float:
        """From 0 to 1."""
        if self._lowest == self._highest:
            return 1.0
        return (self.catalogue.model[model_id].weights.quality - self._lowest) / (self._highest - self._lowest)

    def _candidate(self, endpoint_id: int, weight: float) -> Candidate:
        endpoint = self.catalogue.endpoint[endpoint_id]
        prices = self._book.tariff(endpoint.model_id, endpoint.provider_id, self.day).micro_cents_per_million
        quality = self.quality(endpoint.model_id)
        return Candidate(endpoint_id, weight, prices.get(PROMPT, 0), prices.get(COMPLETION, 0), quality)


class CurrentOffers:
    """The offers of the catalogue and the day (UTC) of the moment."""

    def __init__(self, wall_clock: Callable[[], float]) -> None:
        self._now = wall_clock
        self._offers = Offers(Catalogue(), dt.date.min)

    def of(self, catalogue: Catalogue) -> Offers:
        today = dt.datetime.fromtimestamp(self._now(), dt.UTC).date()
        if self._offers.catalogue is not catalogue or self._offers.day != today:
            self._offers = Offers(catalogue, today)
        return self._offers
