from __future__ import annotations

import pytest

from logos.classification.selection import Demand, permitted_endpoints
from logos.domain.catalogue import Catalogue
from logos.domain.errors import (
    BadRequest,
    ContextTooLong,
    LogosError,
    NoCapacity,
    NotPermitted,
    PrivacyForbids,
    UnknownModel,
)
from logos.domain.nouns import Endpoint, EngineSpec, Key, Model, Policy, Privacy, Weights

EU, US = Privacy.CLOUD_IN_EU_BY_EU_PROVIDER, Privacy.CLOUD_NOT_IN_EU_BY_US_PROVIDER
SMALL, LARGE, EMBED, BARE = (
    Model(1, "small", weights=Weights(cost=10, latency=8), context_length_tokens=100),
    Model(2, "large", weights=Weights(cost=2, latency=1), context_length_tokens=1000),
    Model(3, "embed", weights=Weights(cost=20), capabilities=frozenset({"embeddings"})),
    Model(4, "bare", weights=Weights(cost=30)),
)
CATALOGUE = Catalogue(
    models=(SMALL, LARGE, EMBED, BARE),
    endpoints=(
        Endpoint(10, 1, 1, US, "small"),
        Endpoint(11, 1, 2, EU, "small"),
        Endpoint(12, 1, 3, Privacy.LOCAL, "small", engine=EngineSpec()),
        Endpoint(13, 2, 1, US, "large"),
        Endpoint(14, 2, 2, EU, "large"),
        Endpoint(15, 3, 1, US, "embed"),
    ),
)
LOOSE = Policy(1, "loose")


def key(*model_ids: int) -> Key:
    return Key(1, "key", "", b"", model_ids=frozenset(model_ids) if model_ids else None)


def chat(model_id: int | None = None, prompt: int = 10, output: int | None = None) -> Demand:
    return Demand(model_id, "chat", prompt, output)


def error_of(policy: Policy, demand: Demand, *model_ids: int) -> LogosError:
    with pytest.raises(LogosError) as caught:
        permitted_endpoints(CATALOGUE, key(*model_ids), policy, demand)
    return caught.value


def test_everything_that_fits_is_allowed_pooled_endpoints_first() -> None:
    allowed = permitted_endpoints(CATALOGUE, key(), LOOSE, chat())
    assert {model: [each.id for each in found] for model, found in allowed.endpoints.items()} == {
        1: [12, 10, 11],
        2: [13, 14],
    }
    assert allowed.models == (SMALL, LARGE)
    assert allowed.excluded == {3: "capability", 4: "no_endpoint"}


def test_privacy_is_judged_per_endpoint() -> None:
    local = permitted_endpoints(CATALOGUE, key(), Policy(2, "p", privacy=Privacy.LOCAL), chat())
    assert [each.id for each in local.endpoints[1]] == [12]
    assert local.excluded[2] == "privacy"
    european = permitted_endpoints(CATALOGUE, key(), Policy(2, "p", privacy=EU), chat())
    assert {each.id for found in european.endpoints.values() for each in found} == {11, 12, 14}


def test_models_that_the_key_may_not_use_do_not_exist_for_it() -> None:
    allowed = permitted_endpoints(CATALOGUE, key(2), LOOSE, chat())
    assert (allowed.models, allowed.excluded) == ((LARGE,), {})


def test_unknown_and_not_permitted_are_told_in_the_same_words() -> None:
    not_permitted, unknown = error_of(LOOSE, chat(1), 2), error_of(LOOSE, chat(99), 2)
    assert type(not_permitted) is type(unknown) is UnknownModel
    assert not_permitted.message == unknown.message
    assert (not_permitted.code, not_permitted.param) == (unknown.code, unknown.param) == ("model_not_found", "model")


def test_direct_mode_keeps_to_privacy_and_says_which_policy_forbids() -> None:
    error = error_of(Policy(2, "house-only", privacy=Privacy.LOCAL), chat(2))
    assert type(error) is PrivacyForbids
    assert error.code == "privacy"
    assert "'large'" in error.message
    assert "'house-only'" in error.message
    assert "LOCAL" in error.message


@pytest.mark.parametrize(
    ("prompt", "output", "fits"),
    [(100, None, True), (101, None, False), (60, 40, True), (60, 41, False), (100, 0, True)],
)
def test_prompt_and_wanted_output_must_fit_the_context(prompt: int, output: int | None, fits: bool) -> None:
    if fits:
        assert permitted_endpoints(CATALOGUE, key(), LOOSE, chat(1, prompt, output)).models == (SMALL,)
    else:
        error = error_of(LOOSE, chat(1, prompt, output))
        assert type(error) is ContextTooLong
        assert "the 100 tokens of context that model 'small' has: shorten the prompt" in error.message


def test_a_long_prompt_goes_to_the_model_that_holds_it_or_names_the_longest() -> None:
    assert permitted_endpoints(CATALOGUE, key(), LOOSE, chat(None, 500)).models == (LARGE,)
    assert "1000 tokens of context that the longest model" in error_of(LOOSE, chat(None, 5000)).message


def test_the_cost_threshold_is_hard_in_both_modes() -> None:
    frugal = Policy(2, "frugal", cost=5)
    allowed = permitted_endpoints(CATALOGUE, key(), frugal, chat())
    assert allowed.models == (SMALL,)
    assert 2 not in allowed.endpoints
    assert allowed.excluded[2] == "cost"
    error = error_of(frugal, chat(2))
    assert type(error) is NotPermitted
    assert (error.code, error.param) == ("policy", "policy")
    assert "'frugal'" in error.message


def test_the_cheapest_means_the_cheapest_of_all_that_fit_even_when_one_is_named() -> None:
    cheapest = Policy(2, "cheapest", cost=1024)
    assert permitted_endpoints(CATALOGUE, key(), cheapest, chat()).models == (SMALL,)
    assert permitted_endpoints(CATALOGUE, key(), cheapest, chat(1)).models == (SMALL,)
    assert type(error_of(cheapest, chat(2))) is NotPermitted
    # small does not hold this prompt, and is not there for the other key: large is the cheapest of what is left
    assert permitted_endpoints(CATALOGUE, key(), cheapest, chat(2, 500)).models == (LARGE,)
    assert permitted_endpoints(CATALOGUE, key(2), cheapest, chat(2)).models == (LARGE,)


def test_thresholds_are_resolved_among_what_fits() -> None:
    policy = Policy(2, "p", latency=1024, accuracy=-1024, quality=7, cost=-1024)
    assert permitted_endpoints(CATALOGUE, key(), policy, chat()).thresholds == Weights(8, 0, 2, 7)
    assert permitted_endpoints(CATALOGUE, key(), policy, chat(2)).thresholds.latency == 8
    assert permitted_endpoints(CATALOGUE, key(2), policy, chat()).thresholds.latency == 1


def test_a_model_without_capabilities_serves_every_route() -> None:
    assert permitted_endpoints(CATALOGUE, key(), LOOSE, Demand(None, "embeddings")).models == (SMALL, LARGE, EMBED)
    error = error_of(LOOSE, chat(3))
    assert type(error) is BadRequest
    assert "'embed' can do embeddings, but not chat" in error.message


def test_a_model_without_any_endpoint_is_no_capacity() -> None:
    assert type(error_of(LOOSE, chat(4))) is NoCapacity
    assert type(error_of(LOOSE, chat(), 4)) is NoCapacity


def test_the_error_is_that_of_the_model_that_came_closest() -> None:
    local = Policy(2, "p", privacy=Privacy.LOCAL)
    assert type(error_of(local, chat(None, 200))) is ContextTooLong  # small; large is not private enough
    assert type(error_of(local, chat(), 2, 3, 4)) is PrivacyForbids


def test_a_key_without_models_is_told_so() -> None:
    nobody = Key(1, "key", "", b"", model_ids=frozenset())
    with pytest.raises(UnknownModel, match="no model that this key may use"):
        permitted_endpoints(CATALOGUE, nobody, LOOSE, chat())
