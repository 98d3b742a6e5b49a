"""The classifier: how near a prompt is to each model's description, and what votes on past answers have taught it.

A plain async class; `deployments` makes it a Serve deployment. It follows the catalogue by the same long-poll as the
gateways. Of a prompt only its direction is kept, in memory and for the last ones only, until somebody votes on it: a
vector gives away much of a short prompt's words, so keys that log BILLING leave none in the database unless they vote.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from logos.actors.feedback import NONE, Feedback, FeedbackPort
from logos.classification.meaning import Descriptions, Meaning, Quantised, Vector, mean, quantised, shifted
from logos.classification.passages import Passage, description_passages, prompt_passages
from logos.domain.catalogue import Catalogue
from logos.domain.directory import DirectoryUpdate
from logos.domain.errors import LogosError
from logos.storage.feedback_store import Vote

log = logging.getLogger(__name__)

WATCH_WAIT_S = 1.0
RETRY_WAIT_S = 0.2
AGAIN_S = 1.0  # after the embedding or the database was away


class EmbeddingPort(Protocol):
    """Turns texts into vectors of one length, a row per text in their order. May raise LogosError when it is away.
    `name` changes whenever vectors would not be comparable any more."""

    name: str

    async def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]: ...

    async def close(self) -> None: ...


class DirectoryPort(Protocol):
    """Where the catalogue comes from: the accounts actor."""

    async def watch(self, holder: str, epoch: int, version: int, wait_s: float) -> DirectoryUpdate: ...


class Classifier:
    """gateway.ports.ClassifierPort. `start()` once on the event loop that it lives on, `close()` at the end."""

    def __init__(self, name: str, directory: DirectoryPort, embedding: EmbeddingPort, store: FeedbackPort) -> None:
        self._name = name
        self._directory = directory
        self._embedding = embedding
        self._feedback = Feedback(store, embedding.name)
        self._catalogue = Catalogue()
        self._declared: dict[tuple[Passage, ...], Vector] = {}  # directions of descriptions as declared, by their text
        self._descriptions = Descriptions.of({})
        self._wants_embedding = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._asked = 0

    async def start(self) -> None:
        """Returns at once; until catalogue and votes are there, less is known."""
        for loop in (self._follow(), self._embed_descriptions(), self._load_votes()):
            self._tasks.append(asyncio.create_task(loop))

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._embedding.close()
        await self._feedback.close()

    def check_health(self) -> None:
        """Raises if a loop ended by itself with an error."""
        for task in self._tasks:
            if task.done() and not task.cancelled() and task.exception() is not None:
                raise RuntimeError(f"a loop of the classifier ended: {task.exception()!r}")

    async def meaning(self, prompt: str, model_ids: tuple[int, ...], request_id: str = "") -> Meaning:
        """What is known of this prompt; its direction is remembered under `request_id`. Raises LogosError when the
        embedding is away."""
        self._asked += 1
        votes = self._feedback.by_model
        quality = {each: votes[each].quality_points for each in model_ids if each in votes}
        direction = await self._direction(prompt_passages(prompt))
        if direction is None:
            return Meaning(quality=quality)
        if request_id:
            self._feedback.prompts.put(request_id, quantised(direction))
        return Meaning(self._descriptions.similarities(direction, model_ids), quality)

    async def vote(
        self, request_id: str, key_id: int, model_id: int, good: bool | None, prompt: str | None = None
    ) -> dict[str, Any]:
        """One key's vote on a request that `model_id` served; it replaces the one before, and None takes it back.

        `prompt` is its text where that is on record; without it the direction must still be remembered, else the vote
        counts for the model's quality alone. Raises NotFound (nothing to take back) or DatabaseUnavailable.
        """

        async def embed() -> Quantised | None:
            direction = await self._direction(prompt_passages(prompt or ""))
            return None if direction is None else quantised(direction)

        if good is None:
            cast = await self._feedback.withdraw(request_id, key_id)
        else:
            cast = await self._feedback.vote(Vote(request_id, key_id, model_id, good), embed)
        self._arrange()
        return cast.told()

    async def status(self) -> dict[str, Any]:
        """For /health."""
        return {
            "embedding": self._embedding.name,
            "catalogue_version": self._catalogue.version,
            "models": len(self._descriptions.model_ids),
            "votes": self._feedback.count,
            "prompts_remembered": len(self._feedback.prompts),
            "asked": self._asked,
        }

    # ------------------------------------------------------------------ loops

    async def _follow(self) -> None:
        """Long-polls the accounts actor until cancelled; the next poll, which acknowledges, never waits for vectors."""
        epoch, version = 0, -1
        while True:
            try:
                update = await self._directory.watch(self._name, epoch, version, WATCH_WAIT_S)
            except (ConnectionError, TimeoutError, LogosError) as error:
                log.warning("the accounts actor is away: %s", error)
                await asyncio.sleep(RETRY_WAIT_S)
                continue
            epoch, version = update.epoch, update.version
            if update.catalogue is not None:
                self._catalogue = update.catalogue
                self._wants_embedding.set()

    async def _embed_descriptions(self) -> None:
        """Embeds what is new in the catalogue. While the embedding is away, models of known texts are compared."""
        while True:
            await self._wants_embedding.wait()
            self._wants_embedding.clear()
            texts = {passages for model in self._catalogue.models if (passages := description_passages(model))}
            try:
                for passages in texts - self._declared.keys():
                    direction = await self._direction(passages)
                    if direction is not None:
                        self._declared[passages] = direction
            except LogosError as error:
                log.warning("descriptions cannot be embedded: %s", error)
                asyncio.get_running_loop().call_later(AGAIN_S, self._wants_embedding.set)
            for passages in self._declared.keys() - texts:
                del self._declared[passages]
            self._arrange()

    async def _load_votes(self) -> None:
        while True:
            try:
                await self._feedback.load()
                break
            except LogosError as error:
                log.warning("votes cannot be read: %s", error)
                await asyncio.sleep(AGAIN_S)
        self._arrange()

    # ------------------------------------------------------------------ directions

    def _arrange(self) -> None:
        """Every model's direction anew: what was declared, moved by the votes."""
        directions = {}
        for model in self._catalogue.models:
            declared = self._declared.get(description_passages(model))
            if declared is not None:
                directions[model.id] = shifted(declared, self._feedback.by_model.get(model.id, NONE))
        self._descriptions = Descriptions.of(directions)

    async def _direction(self, passages: Sequence[Passage]) -> Vector | None:
        if not passages:
            return None
        vectors = await self._embedding.embed([each.text for each in passages])
        return mean(vectors, [each.weight for each in passages])
