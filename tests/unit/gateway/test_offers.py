from __future__ import annotations

import datetime as dt

from logos.domain.catalogue import Catalogue
from logos.domain.nouns import Endpoint, Model, Price, Privacy, Provider, Weights
from logos.gateway.offers import CurrentOffers, Offers

DAY = dt.date(2026, 11, 25)


def price(number: int, token_type: str, amount: int, since: str = "2026-01-01", model_id: int | None = None) -> Price:
    return Price(number, token_type, amount, "EUR", dt.date.fromisoformat(since), model_id)


def catalogue(*qualities: int, prices: tuple[Price, ...] = (), version: int = 1) -> Catalogue:
    models = tuple(Model(n, f"m{n}", weights=Weights(quality=each)) for n, each in enumerate(qualities, 1))
    return Catalogue(
        version=version,
        models=models,
        providers=(Provider(1, "p", "openai", Privacy.LOCAL),),
        endpoints=tuple(Endpoint(10 * each.id, each.id, 1, Privacy.LOCAL, each.name) for each in models),
        prices=prices,
    )


def test_a_candidate_has_the_prices_of_the_day_and_none_costs_nothing() -> None:
    prices = (
        price(1, "prompt", 100, model_id=1),
        price(2, "prompt", 200, "2026-11-26", model_id=1),
        price(3, "completion", 300, model_id=1),
    )
    [priced, free] = Offers(catalogue(1, 1, prices=prices), DAY).candidates([(10, 0.5), (20, 0.4)])
    assert (priced.endpoint_id, priced.weight, priced.prompt_price, priced.completion_price) == (10, 0.5, 100, 300)
    assert (free.prompt_price, free.completion_price) == (0, 0)
    [later] = Offers(catalogue(1, prices=prices), DAY + dt.timedelta(days=1)).candidates([(10, 0.5)])
    assert later.prompt_price == 200


def test_quality_runs_from_the_lowest_weight_in_the_catalogue_to_the_highest() -> None:
    offers = Offers(catalogue(-10, 30, 10), DAY)
    assert [offers.quality(model_id) for model_id in (1, 2, 3)] == [0.0, 1.0, 0.5]


def test_models_of_equal_weight_are_all_as_good_as_can_be() -> None:
    assert Offers(catalogue(7, 7), DAY).quality(2) == 1.0


def test_offers_are_made_anew_for_another_catalogue_and_another_day() -> None:
    now = [dt.datetime(2026, 11, 25, 23, 59, tzinfo=dt.UTC).timestamp()]
    current = CurrentOffers(lambda: now[0])
    one, other = catalogue(1), catalogue(1, 2, version=2)
    first = current.of(one)
    assert current.of(one) is first
    assert current.of(other).catalogue is other
    now[0] += 120
    assert current.of(other).day == DAY + dt.timedelta(days=1)
