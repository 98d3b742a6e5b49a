"""Which candidates a request gets: with the classifier, without it, and while it does not answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from logos.classification.meaning import Meaning
from logos.domain.catalogue import Catalogue
from logos.domain.errors import BadRequest, EmbeddingUnavailable, PrivacyForbids
from logos.domain.nouns import Endpoint, Key, Model, Policy, Privacy, Provider, Weights
from logos.gateway.parsing import parse
from logos.gateway.resolution import CLASSIFIER_REST_S, Resolution, Resolved

KEY = Key(1, "k", "p", b"d")
CATALOGUE = Catalogue(
    version=1,
    models=(Model(1, "a", tags=("code",)), Model(2, "b"), Model(3, "c", weights=Weights(quality=4))),
    providers=(Provider(1, "far", "openai", Privacy.LOCAL),),
    endpoints=tuple(Endpoint(10 * model, model, 1, Privacy.LOCAL, "m") for model in (1, 2, 3)),
)


class ClassifierOnce:
    """Answers with `meaning`, or fails with `error`, after `takes_s`."""

    def __init__(self, meaning: Meaning | None = None, error: Exception | None = None, takes_s: float = 0.0) -> None:
        self.answer = meaning or Meaning()
        self.error = error
        self.takes_s = takes_s
        self.asked: list[tuple[str, tuple[int, ...], str]] = []

    async def meaning(self, prompt: str, model_ids: tuple[int, ...], request_id: str = "") -> Meaning:
        self.asked.append((prompt, model_ids, request_id))
        await asyncio.sleep(self.takes_s)
        if self.error is not None:
            raise self.error
        return self.answer

    async def vote(self, *_: Any) -> Mapping[str, Any]:
        return {}

    async def status(self) -> Mapping[str, Any]:
        return {}


class Hands:
    """A clock that is set by hand."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


async def resolved(resolution: Resolution, model: str | None = None, content: object = "Hello") -> Resolved:
    messages = [{"role": "system", "content": "Be brief"}, {"role": "user", "content": content}]
    body = {"messages": messages, **({} if model is None else {"model": model})}
    return await resolution.resolve(CATALOGUE, KEY, parse("chat", json.dumps(body).encode(), {}), "request-1")


def order(found: Resolved) -> list[int]:
    return [candidate.endpoint_id for candidate in found.candidates]


async def test_meaning_decides_among_equals_and_is_on_record() -> None:
    classifier = ClassifierOnce(Meaning({1: 0.1, 2: 0.9, 3: -0.5}))
    found = await resolved(Resolution(classifier))
    assert order(found)[0] == 20
    assert classifier.asked == [("Hello", (1, 2, 3), "request-1")]
    assert found.statistics is not None
    assert found.statistics["meaning_available"] is True
    assert found.statistics["factors"] == {"policy": 3.4, "tags": 1.9, "meaning": 1.0}
    by_model = {each["model"]: each for each in found.statistics["models"]}
    assert by_model["b"]["meaning"] == 0.9


async def test_learned_quality_is_part_of_the_policy_score_and_on_record() -> None:
    found = await resolved(Resolution(ClassifierOnce(Meaning({}, {2: 8.0}))))
    assert order(found)[0] == 20  # 0 + 8 points are above the 4 of c
    assert found.statistics is not None
    by_model = {each["model"]: each for each in found.statistics["models"]}
    assert by_model["b"]["quality_learned"] == 8.0
    assert "quality_learned" not in by_model["a"]
    assert found.statistics["meaning_available"] is False


async def test_content_parts_and_the_last_user_turn_are_what_is_embedded() -> None:
    classifier = ClassifierOnce()
    await resolved(Resolution(classifier), content=[{"type": "text", "text": "one"}, {"type": "text", "text": "two"}])
    assert classifier.asked[0][0] == "one\ntwo"


async def test_nobody_is_asked_in_direct_mode_or_when_there_is_no_text() -> None:
    classifier = ClassifierOnce()
    resolution = Resolution(classifier)
    assert (await resolved(resolution, model="a")).statistics is None
    await resolved(resolution, content=[{"type": "image_url", "image_url": {"url": "data:,x"}}])
    assert classifier.asked == []


@pytest.mark.parametrize(
    "classifier",
    [
        ClassifierOnce(error=ConnectionError("away")),
        ClassifierOnce(error=EmbeddingUnavailable()),
        ClassifierOnce(takes_s=30.0),
    ],
    ids=["away", "embedding-away", "too-slow"],
)
async def test_without_the_classifier_policy_and_tags_decide(classifier: ClassifierOnce) -> None:
    clock = Hands()
    resolution = Resolution(classifier, wait_s=0.05, clock=clock)
    first = await resolved(resolution)
    assert order(first)[0] == 30  # the quality of c
    assert first.statistics is not None
    assert first.statistics["meaning_available"] is False
    await resolved(resolution)
    assert len(classifier.asked) == 1  # nobody waits again so soon
    clock.now += CLASSIFIER_REST_S
    await resolved(resolution)
    assert len(classifier.asked) == 2


async def test_while_it_is_found_out_whether_it_is_back_one_request_waits() -> None:
    clock = Hands()
    classifier = ClassifierOnce(Meaning({2: 1.0}), ConnectionError("away"))
    resolution = Resolution(classifier, wait_s=1.0, clock=clock)
    await resolved(resolution)
    clock.now += CLASSIFIER_REST_S
    classifier.error, classifier.takes_s = None, 0.05
    found = await asyncio.gather(*(resolved(resolution) for _ in range(5)))
    assert len(classifier.asked) == 2
    assert [order(each)[0] for each in found].count(20) == 1
    assert order(await resolved(resolution))[0] == 20  # from now on everybody asks


async def test_a_policy_string_that_is_wrong_shows_the_place() -> None:
    name = "logos-v1__policy_privacy=LOCAL__qualty=20"
    with pytest.raises(BadRequest) as caught:
        await resolved(Resolution(None), model=name)
    message, shown, caret = caught.value.message.split("\n")
    assert shown == name
    assert name[caret.index("^") :] == "qualty=20"
    assert "did you mean quality?" in message
    assert caught.value.param == "model"


def catalogue_of(privacy: Privacy, version: int) -> Catalogue:
    """One model at one place, and a policy for each level."""
    policies = (Policy(1, "at-home", Privacy.LOCAL), Policy(2, "anywhere", Privacy.CLOUD_NOT_IN_EU_BY_US_PROVIDER))
    return replace(CATALOGUE, version=version, endpoints=(Endpoint(10, 1, 1, privacy, "m"),), policies=policies)


async def test_what_one_policy_permits_is_not_remembered_for_another_or_for_another_catalogue() -> None:
    resolution = Resolution(None)
    far, near = (
        catalogue_of(each, at) for at, each in enumerate((Privacy.CLOUD_NOT_IN_EU_BY_US_PROVIDER, Privacy.LOCAL))
    )
    body = json.dumps({"model": "a", "messages": [{"role": "user", "content": "Hello"}]}).encode()

    async def endpoints(catalogue: Catalogue, policy: bytes) -> list[int]:
        return order(await resolution.resolve(catalogue, KEY, parse("chat", body, {b"x-logos-policy": policy})))

    assert await endpoints(far, b"anywhere") == [10]
    with pytest.raises(PrivacyForbids):
        await endpoints(far, b"at-home")
    assert await endpoints(near, b"at-home") == [10]
    with pytest.raises(PrivacyForbids):
        await endpoints(far, b"at-home")


async def test_a_policy_string_is_as_strict_as_it_says() -> None:
    far = catalogue_of(Privacy.CLOUD_NOT_IN_EU_BY_US_PROVIDER, 1)
    for name, found in (("logos-v1__policy_privacy=CLOUD_NOT_IN_EU_BY_US_PROVIDER", [10]), ("auto", [10])):
        body = json.dumps({"model": name, "messages": [{"role": "user", "content": "Hello"}]}).encode()
        assert order(await Resolution(None).resolve(far, KEY, parse("chat", body, {}))) == found
    body = json.dumps({"model": "logos-v1__policy_privacy=LOCAL", "messages": [{"role": "user", "content": "Hello"}]})
    with pytest.raises(PrivacyForbids):
        await Resolution(None).resolve(far, KEY, parse("chat", body.encode(), {}))
