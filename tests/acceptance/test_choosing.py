"""Choosing by meaning on a whole platform: it follows the catalogue, and its absence is noticed by nobody."""

from __future__ import annotations

import time
from typing import Any

import httpx
import psutil
import pytest

from tests.acceptance.conftest import World
from tests.support.logos_up import Platform, wait_for
from tests.support.upstream import chat

pytestmark = [pytest.mark.ray, pytest.mark.slow]

CHAT = "/v1/chat/completions"
POEM = {"messages": [{"role": "user", "content": "Write a poem about the first snow in the mountains"}]}
FOLLOWED_S_MAX = 1.0
BACK_S_MAX = 30.0


def two_models(world: World) -> tuple[str, str]:
    """Alike in everything but what will be declared about them."""
    return world.model(chat()), world.model(chat())


def describe(world: World, **descriptions: str) -> None:
    """By name, with the hyphens of names as underscores."""
    models = [{"name": name.replace("_", "-"), "description": text} for name, text in descriptions.items()]
    world.platform.apply({"models": models})


def classified(client: httpx.Client) -> tuple[str, str]:
    """The model that was chosen, and the request's id."""
    answer = client.post(CHAT, json=POEM)
    assert answer.status_code == 200, answer.text
    return answer.headers["x-logos-model"], answer.headers["x-request-id"]


def statistics(world: World, request_id: str) -> dict[str, Any]:
    def stored() -> list[tuple[dict[str, Any]]]:
        query = "SELECT classification_statistics FROM log_entry WHERE request_id = %s"
        return world.platform.rows(query, request_id)

    ((found,),) = wait_for(stored, 10, "the record is not stored")
    return found


def by_meaning(world: World, request_id: str) -> bool:
    return bool(statistics(world, request_id)["meaning_available"])


def test_a_change_of_the_catalogue_is_followed_within_a_second(world: World) -> None:
    one, other = two_models(world)
    described = {one.replace("-", "_"): "program code", other.replace("-", "_"): "poems and stories"}
    describe(world, **described)
    key = world.key(models=[one, other])
    with world.client(key) as client:
        wait_for(lambda: classified(client)[0] == other, 10, "the classifier is not there")
        swapped = dict(zip(described, reversed(described.values()), strict=True))
        describe(world, **swapped)
        began = time.monotonic()
        wait_for(lambda: classified(client)[0] == one, 10, "the change is not followed")
        took_s = time.monotonic() - began
    print(f"\nfollowed {took_s * 1000:.0f} ms after `apply` had answered")
    assert took_s <= FOLLOWED_S_MAX


def test_without_the_classifier_requests_are_answered_and_it_comes_back(world: World, platform: Platform) -> None:
    one, other = two_models(world)
    describe(world, **{one.replace("-", "_"): "program code", other.replace("-", "_"): "poems and stories"})
    with world.client(world.key(models=[one, other])) as client:
        wait_for(lambda: by_meaning(world, classified(client)[1]), 10, "the classifier is not there")
        killed = platform.kill("classifier")
        waits, without = [], 0
        began = time.monotonic()
        while True:
            sent = time.monotonic()
            model, request_id = classified(client)  # asserts that it was answered
            waits.append(time.monotonic() - sent)
            if by_meaning(world, request_id):
                assert model == other
                if not psutil.pid_exists(killed):
                    break
            else:
                without += 1
            assert time.monotonic() - began < BACK_S_MAX, "the classifier is not back"
            time.sleep(0.05)
    print(
        f"\nback after {time.monotonic() - began:.1f} s; {len(waits)} requests meanwhile, {without} of them without "
        f"it, the slowest {max(waits) * 1000:.0f} ms"
    )


def test_a_vote_is_taken_by_any_gateway_and_undone_exactly(world: World, platform: Platform) -> None:
    one, other = two_models(world)
    describe(world, **{one.replace("-", "_"): "program code", other.replace("-", "_"): "poems and stories"})
    key = world.key(models=[one, other])
    key_id = platform.value("SELECT id FROM api_keys WHERE name = %s", world.keys[-1])

    def explained() -> Any:
        """Once the gateway that answers asks the classifier again: the test before may have killed it."""
        told = platform.post(f"/admin/classify?key_id={key_id}", POEM)
        return told if told["classification_statistics"]["meaning_available"] else None

    def weight() -> float:
        told = wait_for(explained, 10, "the classifier is not there")
        return next(float(each["weight"]) for each in told["candidates"] if each["model"] == other)

    def chosen(client: httpx.Client) -> str | None:
        """A request that was; a gateway that does without the classifier for a moment may send it elsewhere."""
        model, request_id = classified(client)
        return request_id if by_meaning(world, request_id) and model == other else None

    with world.client(key) as client:
        before = weight()
        request_id = wait_for(lambda: chosen(client), 10, "the classifier is not there")
        assert client.post("/me/feedback", json={"request_id": request_id, "vote": "bad"}).status_code == 200
        assert weight() < before
        assert client.post("/me/feedback", json={"request_id": request_id, "vote": "none"}).status_code == 200
        assert weight() == before
