from __future__ import annotations

import json
import math

import pytest

from logos.classification.ranking import candidates, policy_score, rank, statistics, tag_score
from logos.classification.selection import Allowed
from logos.classification.thresholds import resolved, soft
from logos.domain.nouns import Endpoint, Model, Policy, Privacy, Weights


def allowed(*models: Model, thresholds: Weights | None = None) -> Allowed:
    endpoints = {each.id: (Endpoint(each.id * 10, each.id, 1, Privacy.LOCAL, each.name),) for each in models}
    return Allowed(models, endpoints, thresholds or Weights(), {})


@pytest.mark.parametrize(
    ("weight", "threshold", "expected"),
    [(0, 0, 0.5), (16, 0, 0.7310586), (0, 16, 0.2689414), (40, 8, 0.8807971), (10**9, 0, 1.0), (-(10**9), 0, 0.0)],
)
def test_the_soft_score_by_hand(weight: int, threshold: int, expected: float) -> None:
    assert soft(weight, threshold) == pytest.approx(expected, abs=1e-6)


def test_1024_is_the_best_weight_at_hand_and_minus_1024_the_worst() -> None:
    models = [Model(1, "a", weights=Weights(1, 5, -3, 7)), Model(2, "b", weights=Weights(9, 2, 4, 7))]
    best = Policy(1, "p", latency=1024, accuracy=1024, cost=1024, quality=1024)
    worst = Policy(1, "p", latency=-1024, accuracy=-1024, cost=-1024, quality=-1024)
    assert resolved(best, models) == Weights(9, 5, 4, 7)
    assert resolved(worst, models) == Weights(1, 2, -3, 7)
    assert resolved(Policy(1, "p", latency=1023, cost=-1023), models) == Weights(1023, 0, -1023, 0)


def test_the_policy_score_is_the_sum_of_three_and_leaves_cost_out() -> None:
    thresholds = Weights(latency=16, accuracy=0, cost=99, quality=-16)
    expected = 0.2689414 + 0.5 + 0.7310586
    assert policy_score(Weights(), thresholds) == pytest.approx(expected, abs=1e-6)
    assert policy_score(Weights(cost=500), thresholds) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("tags", "prompt", "share"),
    [
        (("code", "maths"), "You write CODE.", 0.5),
        (("code",), "You decode ciphers.", 0.0),
        (("c++", "c#", "c"), "An expert in C++.", 1 / 3),
        (("text-to-image",), "Text to image, please", 1.0),
        (("text to image",), "a text-to-image model", 1.0),
        (("Übersetzung",), "ÜBERSETZUNG ins Deutsche", 1.0),
        (("",), "anything", 0.0),
        (("!!",), "anything !!", 0.0),
        ((), "anything", 0.0),
        (("code",), "", 0.0),
    ],
)
def test_tags_count_by_their_share_as_whole_words_in_any_case(tags: tuple[str, ...], prompt: str, share: float) -> None:
    assert tag_score(tags, prompt) == pytest.approx(share)


def test_the_weight_is_3_4_policy_plus_1_9_tags_plus_meaning() -> None:
    model = Model(1, "a", tags=("code", "x"), weights=Weights(latency=16))
    (ranked,) = rank(allowed(model), "code", {1: 0.25})
    assert (ranked.tag_score, ranked.meaning_score) == (0.5, 0.25)
    assert ranked.weight == pytest.approx(3.4 * (0.7310586 + 1.0) + 1.9 * 0.5 + 0.25, abs=1e-6)


def test_without_the_classifier_policy_and_tags_decide() -> None:
    models = (Model(1, "a"), Model(2, "b", tags=("code",)))
    assert [each.model_id for each in rank(allowed(*models), "code", {1: 1.0, 2: -1.0})] == [1, 2]
    alone = rank(allowed(*models), "code", None)
    assert [each.model_id for each in alone] == [2, 1]
    assert [each.meaning_score for each in alone] == [None, None]


def test_a_model_unknown_to_the_classifier_or_with_a_broken_score_has_no_meaning() -> None:
    ranked = rank(allowed(Model(1, "a"), Model(2, "b"), Model(3, "c")), "", {1: 0.5, 2: math.nan})
    assert [(each.model_id, each.meaning_score) for each in ranked] == [(1, 0.5), (2, None), (3, None)]


def test_equal_weights_are_in_order_of_id() -> None:
    models = [Model(number, str(number)) for number in (3, 1, 2)]
    assert [each.model_id for each in rank(allowed(*models))] == [1, 2, 3]


def test_the_endpoints_of_a_model_share_its_weight_in_the_order_allowed() -> None:
    models = (Model(1, "a"), Model(2, "b", weights=Weights(quality=50)))
    endpoints = {
        1: (Endpoint(7, 1, 1, Privacy.LOCAL, "a"), Endpoint(3, 1, 1, Privacy.LOCAL, "a")),
        2: (Endpoint(9, 2, 1, Privacy.LOCAL, "b"),),
    }
    found = Allowed(models, endpoints, Weights(), {})
    ranked = rank(found)
    assert candidates(ranked, found) == ((9, ranked[0].weight), (7, ranked[1].weight), (3, ranked[1].weight))


def test_statistics_are_json_of_bounded_size_that_says_why() -> None:
    models = tuple(Model(number, f"model {number}") for number in range(1, 201))
    found = Allowed(models, {}, Weights(), dict.fromkeys(range(300, 500), "privacy"))
    told = statistics(found, rank(found, "", {1: 0.5}), meaning_available=True, policy_name="p")
    assert len(json.dumps(told, allow_nan=False)) < 12_000
    assert (told["models_ranked"], told["models_excluded"]) == (200, 200)
    assert told["models"][0] == {
        "model_id": 1,
        "model": "model 1",
        "weight": 5.6,
        "policy": 1.5,
        "tags": 0.0,
        "meaning": 0.5,
    }
    assert told["excluded"]["300"] == "privacy"
    assert told["meaning_available"] is True
