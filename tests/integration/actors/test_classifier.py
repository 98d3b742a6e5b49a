"""The classifier as a plain object: a real accounts actor, a real Postgres, the packaged embedding."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from logos.actors.accounts import Accounts
from logos.actors.classifier import Classifier, EmbeddingPort
from logos.actors.feedback import Prompts
from logos.classification.meaning import FEEDBACK_STEP, quantised
from logos.domain.errors import DatabaseUnavailable, EmbeddingUnavailable, NotFound
from logos.storage.feedback_store import FeedbackStore, Vote
from tests.support.postgres import Server, rows, value

POEM = "Write a poem about the sea"
MODELS = [
    {"name": "coder", "description": "writing and debugging program code"},
    {"name": "poet", "description": "poems, stories and other creative writing"},
    {"name": "silent"},
]
Start = Callable[..., Awaitable[Classifier]]


class Letters:
    """An embedding small enough to reckon with: how often a, b and c occur."""

    name = "letters"

    def __init__(self) -> None:
        self.away = False
        self.refused = 0

    async def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        if self.away:
            self.refused += 1
            raise EmbeddingUnavailable
        return np.array([[text.count(letter) for letter in "abc"] for text in texts], dtype=np.float32)

    async def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def static() -> EmbeddingPort:
    from logos.embedding.static import StaticEmbedding

    return StaticEmbedding()


@pytest.fixture
async def accounts(database_url: str) -> AsyncIterator[Accounts]:
    made = Accounts(database_url)
    await made.start()
    async with asyncio.timeout(10):
        while not made.is_ready:
            await asyncio.sleep(0.01)
    yield made
    await made.close()


@pytest.fixture
async def start(database_url: str, accounts: Accounts) -> AsyncIterator[Start]:
    running: list[Classifier] = []

    async def start_one(embedding: EmbeddingPort, url: str = database_url) -> Classifier:
        made = Classifier(f"classifier-{len(running)}", accounts, embedding, FeedbackStore(url))
        await made.start()
        running.append(made)
        return made

    yield start_one
    for each in running:
        await each.close()


async def declare(accounts: Accounts, models: list[dict[str, Any]]) -> dict[str, int]:
    """The ids of the new ones by name."""
    done = await accounts.administer("apply", {"models": models})
    return {change["name"]: change["id"] for change in done["changes"]}


async def knows(classifier: Classifier, models: int, within_s: float = 1.0) -> None:
    """Waits until it compares with so many models."""
    async with asyncio.timeout(within_s):
        while (await classifier.status())["models"] != models:
            await asyncio.sleep(0.01)


async def test_the_nearest_description_has_the_highest_similarity(
    accounts: Accounts, start: Start, static: EmbeddingPort
) -> None:
    ids = await declare(accounts, MODELS)
    classifier = await start(static)
    await knows(classifier, 2)
    found = await classifier.meaning(POEM, tuple(ids.values()), "r1")
    assert found.similarity.keys() == {ids["coder"], ids["poet"]}  # nothing is known of the third
    assert found.similarity[ids["poet"]] > found.similarity[ids["coder"]]
    assert found.quality == {}
    assert (await classifier.meaning("  ", tuple(ids.values()))).similarity == {}


async def test_changes_of_the_catalogue_are_followed_within_a_second(accounts: Accounts, start: Start) -> None:
    ids = await declare(accounts, [{"name": "one", "description": "aaa"}])
    classifier = await start(Letters())
    await knows(classifier, 1)
    assert (await classifier.meaning("aaa", (ids["one"],))).similarity == {ids["one"]: pytest.approx(1.0)}
    ids = await declare(accounts, [{"name": "one", "description": "bbb"}, {"name": "two", "description": "ab"}])
    await knows(classifier, 2)
    found = (await classifier.meaning("aaa", tuple(ids.values()))).similarity
    assert found == {ids["one"]: pytest.approx(0.0), ids["two"]: pytest.approx(2**-0.5)}
    await accounts.administer("delete", {"kind": "model", "ref": "one"})
    await knows(classifier, 1)
    assert len(classifier._declared) == 1  # what is declared no more is not kept


async def test_while_the_embedding_is_away_it_says_so_and_afterwards_it_catches_up(
    accounts: Accounts, start: Start
) -> None:
    ids = await declare(accounts, [{"name": "one", "description": "aaa"}])
    letters = Letters()
    letters.away = True
    classifier = await start(letters)
    with pytest.raises(EmbeddingUnavailable):
        await classifier.meaning("a", (ids["one"],))
    async with asyncio.timeout(2):
        while letters.refused < 2:  # the prompt, and the description
            await asyncio.sleep(0.01)
    letters.away = False
    await knows(classifier, 1, within_s=3.0)
    classifier.check_health()


# Votes


async def moved(classifier: Classifier, model_id: int, prompt: str = "b") -> float:
    return (await classifier.meaning(prompt, (model_id,))).similarity[model_id]


async def one_model(accounts: Accounts, start: Start) -> tuple[Classifier, int]:
    ids = await declare(accounts, [{"name": "one", "description": "aaa"}])
    classifier = await start(Letters())
    await knows(classifier, 1)
    return classifier, ids["one"]


async def test_a_vote_moves_the_description_and_taking_it_back_undoes_it_exactly(
    accounts: Accounts, start: Start
) -> None:
    classifier, model = await one_model(accounts, start)
    before = await moved(classifier, model)
    await classifier.meaning("b", (model,), "r1")
    told = await classifier.vote("r1", 7, model, True)
    assert told == {"vote": "good", "before": None, "learns_meaning": True}
    step = FEEDBACK_STEP
    assert await moved(classifier, model) == pytest.approx(step / ((1 - step) ** 2 + step**2) ** 0.5)
    assert (await classifier.vote("r1", 7, model, False))["before"] == "good"
    assert await moved(classifier, model) < before
    assert (await classifier.vote("r1", 7, model, True))["before"] == "bad"
    assert await moved(classifier, model) > before
    assert await classifier.vote("r1", 7, model, None) == {"vote": None, "before": "good", "learns_meaning": False}
    assert await moved(classifier, model) == before
    with pytest.raises(NotFound):
        await classifier.vote("r1", 7, model, None)


async def test_the_same_vote_again_counts_once_and_another_key_s_counts_too(
    accounts: Accounts, start: Start, database_url: str
) -> None:
    classifier, model = await one_model(accounts, start)
    await classifier.meaning("b", (model,), "r1")
    await asyncio.gather(*(classifier.vote("r1", 7, model, True) for _ in range(5)))
    once = await moved(classifier, model)
    assert value(database_url, "SELECT count(*) FROM feedback") == 1
    await classifier.vote("r1", 8, model, True)
    assert await moved(classifier, model) > once
    assert (await classifier.status())["votes"] == 2


async def test_votes_survive_the_classifier(accounts: Accounts, start: Start) -> None:
    classifier, model = await one_model(accounts, start)
    await classifier.meaning("b", (model,), "r1")
    await classifier.meaning("c", (model,), "r2")
    await classifier.vote("r1", 7, model, True)
    await classifier.vote("r2", 7, model, False)
    found = await classifier.meaning("b", (model,))
    successor = await start(Letters())
    await knows(successor, 1)
    async with asyncio.timeout(2):
        while (await successor.status())["votes"] != 2:
            await asyncio.sleep(0.01)
    assert await successor.meaning("b", (model,)) == found
    await successor.vote("r1", 7, model, None)  # it never saw the request, and can undo it all the same
    await successor.vote("r2", 7, model, None)
    assert await moved(successor, model) == 0.0


async def test_a_prompt_that_is_not_known_any_more_teaches_quality_or_is_embedded_from_its_text(
    accounts: Accounts, start: Start
) -> None:
    classifier, model = await one_model(accounts, start)
    assert (await classifier.vote("long ago", 7, model, True))["learns_meaning"] is False
    found = await classifier.meaning("b", (model,))
    assert found.similarity[model] == 0.0
    assert found.quality[model] > 0
    assert (await classifier.vote("long ago", 8, model, True, "b"))["learns_meaning"] is True
    assert await moved(classifier, model) > 0.0


async def test_votes_in_the_space_of_another_embedding_count_for_quality_alone(
    accounts: Accounts, start: Start, database_url: str
) -> None:
    ids = await declare(accounts, [{"name": "one", "description": "aaa"}])
    store = FeedbackStore(database_url)
    await store.put(Vote("r1", 7, ids["one"], True, "another", quantised(np.eye(3, dtype=np.float32)[1]).tobytes()))
    await store.close()
    classifier = await start(Letters())
    await knows(classifier, 1)
    async with asyncio.timeout(2):
        while not (found := await classifier.meaning("b", (ids["one"],))).quality:
            await asyncio.sleep(0.01)
    assert found.similarity[ids["one"]] == 0.0


async def test_a_caller_that_leaves_does_not_leave_a_half_counted_vote(
    accounts: Accounts, start: Start, database_url: str
) -> None:
    classifier, model = await one_model(accounts, start)
    await classifier.meaning("b", (model,), "r1")
    leaving = asyncio.create_task(classifier.vote("r1", 7, model, True))
    await asyncio.sleep(0)
    leaving.cancel()
    async with asyncio.timeout(2):
        while (await classifier.status())["votes"] != 1:
            await asyncio.sleep(0.01)
    assert rows(database_url, "SELECT request_id, api_key_id, good FROM feedback") == [("r1", 7, True)]


async def test_without_the_database_prompts_are_compared_and_votes_refused(
    accounts: Accounts, start: Start, postgres_server: Server
) -> None:
    ids = await declare(accounts, [{"name": "one", "description": "aaa"}])
    classifier = await start(Letters(), postgres_server.url_of("there_is_no_such_database"))
    await knows(classifier, 1)
    assert await moved(classifier, ids["one"], "a") == pytest.approx(1.0)
    with pytest.raises(DatabaseUnavailable):
        await classifier.vote("r1", 7, ids["one"], True)


async def test_a_database_that_went_away_refuses_votes_and_changes_nothing(database_url: str) -> None:
    store = FeedbackStore(database_url.rpartition("/")[0] + "/there_is_no_such_database")
    with pytest.raises(DatabaseUnavailable):
        await store.put(Vote("r1", 7, 1, True))


async def test_a_broken_connection_is_replaced_once(database_url: str) -> None:
    store = FeedbackStore(database_url)
    await store.put(Vote("r1", 7, 1, True))
    rows(
        database_url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'logos classifier' "
        "AND datname = current_database()",
    )
    assert await store.get("r1", 7) == Vote("r1", 7, 1, True)
    await store.close()


def test_only_the_last_prompts_are_remembered() -> None:
    prompts = Prompts(count_max=3, bytes_max=25)
    for number in range(5):
        prompts.put(f"r{number}", np.full(8, number, dtype=np.int8))
    assert [prompts.get(f"r{number}") is not None for number in range(5)] == [False, False, True, True, True]
    prompts.put("r4", np.zeros(2, dtype=np.int8))
    prompts.put("r5", np.zeros(2, dtype=np.int8))
    assert len(prompts) == 3  # by number: their bytes would fit
    prompts.put("big", np.zeros(20, dtype=np.int8))
    assert [name for name in ("r3", "r4", "r5", "big") if prompts.get(name)] == ["r4", "r5", "big"]
