"""Over thousands of random catalogues, keys and policies: nothing forbidden is ever a candidate."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterable

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from logos.classification.ranking import candidates, rank
from logos.classification.selection import Allowed, Demand, permitted_endpoints
from logos.domain.catalogue import Catalogue
from logos.domain.errors import LogosError
from logos.domain.nouns import Endpoint, EngineSpec, Key, Model, Policy, Priority, Privacy, Weights

ENGINES = [None, EngineSpec()]

weight = st.integers(-30, 30)
threshold = weight | st.sampled_from([1024, -1024])
model_ids = st.integers(1, 5)
capabilities = st.sampled_from(["chat", "completions", "embeddings"])
models = st.builds(
    Model,
    id=model_ids,
    name=st.just("m"),
    tags=st.lists(st.sampled_from(["code", "maths"]), max_size=2).map(tuple),
    weights=st.builds(Weights, weight, weight, weight, weight),
    context_length_tokens=st.none() | st.integers(1, 100),
    capabilities=st.frozensets(capabilities, max_size=2),
)
endpoints = st.builds(
    Endpoint,
    id=st.integers(1, 20),
    model_id=model_ids,
    provider_id=st.just(1),
    privacy=st.sampled_from(Privacy),
    upstream_model=st.just("m"),
    engine=st.none() | st.just(EngineSpec()),
)
catalogues = st.builds(
    Catalogue,
    models=st.lists(models, unique_by=lambda each: each.id, max_size=5).map(tuple),
    endpoints=st.lists(endpoints, unique_by=lambda each: each.id, max_size=12).map(tuple),
)
policies = st.builds(
    Policy,
    id=st.just(1),
    name=st.just("p"),
    privacy=st.sampled_from(Privacy),
    latency=threshold,
    accuracy=threshold,
    cost=threshold,
    quality=threshold,
)
keys = st.builds(
    Key,
    id=st.just(1),
    name=st.just("k"),
    prefix=st.just(""),
    digest=st.just(b""),
    model_ids=st.none() | st.frozensets(model_ids),
)
demands = st.builds(
    Demand,
    model_id=st.none() | st.integers(1, 6),
    capability=capabilities,
    prompt_tokens=st.integers(0, 60),
    output_tokens=st.none() | st.integers(0, 60),
)
meanings = st.none() | st.dictionaries(model_ids, st.floats(-1, 1))


def check_candidates(
    catalogue: Catalogue, key: Key, policy: Policy, demand: Demand, meaning: dict[int, float] | None
) -> None:
    """What is a candidate is exactly what the rules, said once more endpoint by endpoint, allow."""
    allowed = Allowed((), {}, Weights(), {})
    with contextlib.suppress(LogosError):
        allowed = permitted_endpoints(catalogue, key, policy, demand)
    found = [endpoint_id for endpoint_id, _ in candidates(rank(allowed, "some code", meaning), allowed)]
    assert len(found) == len(set(found))

    def may_serve(endpoint: Endpoint) -> bool:
        model = catalogue.model.get(endpoint.model_id)
        return (
            model is not None
            and (key.model_ids is None or model.id in key.model_ids)
            and endpoint.privacy.value <= policy.privacy.value
            and (not model.capabilities or demand.capability in model.capabilities)
            and demand.prompt_tokens + (demand.output_tokens or 0) <= (model.context_length_tokens or 10**9)
        )

    possible = [each for each in catalogue.endpoints if may_serve(each)]
    costs = [catalogue.model[each.model_id].weights.cost for each in possible]
    bound = {1024: max, -1024: min}.get(policy.cost, lambda _: policy.cost)(costs) if costs else 0
    expected = {
        each.id
        for each in possible
        if catalogue.model[each.model_id].weights.cost >= bound and demand.model_id in (None, each.model_id)
    }
    assert set(found) == expected


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(catalogues, keys, policies, demands, meanings)
def test_no_candidate_is_ever_forbidden_and_everything_else_is_one(
    catalogue: Catalogue, key: Key, policy: Policy, demand: Demand, meaning: dict[int, float] | None
) -> None:
    check_candidates(catalogue, key, policy, demand, meaning)


def test_no_candidate_is_ever_forbidden_in_ten_thousand_larger_catalogues() -> None:
    """As above without hypothesis, which takes longer to make a catalogue than the rules take to judge it."""
    chance = random.Random(20261123)

    def some(values: Iterable[object]) -> frozenset:
        return frozenset(value for value in values if chance.random() < 0.5)

    def number() -> int:
        return chance.choice([chance.randint(-30, 30), chance.randint(-30, 30), 1024, -1024])

    for _ in range(10_000):
        names = range(1, chance.randint(1, 9))
        known = tuple(
            Model(
                model_id,
                "m",
                weights=Weights(*(chance.randint(-30, 30) for _ in range(4))),
                context_length_tokens=chance.choice([None, chance.randint(1, 200)]),
                capabilities=some(["chat", "completions", "embeddings"]) if chance.random() < 0.3 else frozenset(),
            )
            for model_id in names
        )
        placed = tuple(
            Endpoint(number, chance.randint(1, 9), 1, chance.choice(list(Privacy)), "m", engine=chance.choice(ENGINES))
            for number in range(chance.randint(0, 20))
        )
        policy = Policy(1, "p", chance.choice(list(Privacy)), Priority.MID, *(number() for _ in range(4)))
        key = Key(1, "k", "", b"", model_ids=chance.choice([None, some(range(1, 10))]))
        demand = Demand(
            chance.choice([None, chance.randint(1, 9)]), "chat", chance.randint(0, 80), chance.choice([None, 60])
        )
        check_candidates(Catalogue(models=known, endpoints=placed), key, policy, demand, {1: 0.5})


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(catalogues, keys, policies, meanings, st.randoms())
def test_the_ranking_does_not_depend_on_the_order_of_declaration(
    catalogue: Catalogue, key: Key, policy: Policy, meaning: dict[int, float] | None, chance: random.Random
) -> None:
    def ranked(of: Catalogue) -> object:
        try:
            allowed = permitted_endpoints(of, key, policy, Demand(None, "chat"))
        except LogosError as error:
            return type(error)
        return candidates(rank(allowed, "code", meaning), allowed)

    shuffled_models, shuffled_endpoints = list(catalogue.models), list(catalogue.endpoints)
    chance.shuffle(shuffled_models)
    chance.shuffle(shuffled_endpoints)
    other = Catalogue(models=tuple(shuffled_models), endpoints=tuple(shuffled_endpoints))
    assert ranked(catalogue) == ranked(catalogue) == ranked(other)
