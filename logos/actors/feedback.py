"""What users said of answers, as sums per model: the classifier's memory of votes, kept in step with Postgres.

A vote is about the model that served a request. It moves that model's description towards or away from the prompt and
counts for its quality; how is in `classification.meaning`. Only sums are held in memory, however many votes there are.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from logos.classification.meaning import Quantised, Votes
from logos.domain.errors import DatabaseUnavailable, NotFound
from logos.storage.feedback_store import Vote

PROMPTS_MAX = 50_000  # directions kept for votes to come: with 256 numbers each 13 MB, and as much around them
PROMPT_BYTES_MAX = 32 * 1024 * 1024
KNOWN_WAIT_S = 1.0  # for the votes of before, right after the start
CLOSE_WAIT_S = 2.0

NONE = Votes()


class FeedbackPort(Protocol):
    """Where votes are kept (`storage.feedback_store`). Raises DatabaseUnavailable."""

    async def list_votes(self) -> list[Vote]: ...

    async def get(self, request_id: str, key_id: int) -> Vote | None: ...

    async def put(self, vote: Vote) -> None: ...

    async def remove(self, request_id: str, key_id: int) -> None: ...

    async def close(self) -> None: ...


class Prompts:
    """The directions of the last prompts, by request id: bounded in number and in bytes, the oldest go first."""

    def __init__(self, count_max: int = PROMPTS_MAX, bytes_max: int = PROMPT_BYTES_MAX) -> None:
        self._count_max = count_max
        self._bytes_max = bytes_max
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0

    def put(self, request_id: str, prompt: Quantised) -> None:
        kept = prompt.tobytes()
        self._bytes += len(kept) - len(self._kept.pop(request_id, b""))
        self._kept[request_id] = kept
        while len(self._kept) > self._count_max or self._bytes > self._bytes_max:
            self._bytes -= len(self._kept.popitem(last=False)[1])

    def get(self, request_id: str) -> bytes | None:
        return self._kept.get(request_id)

    def __len__(self) -> int:
        return len(self._kept)


@dataclass(frozen=True, slots=True)
class Cast:
    """What became of a vote; None is no vote."""

    before: Vote | None
    after: Vote | None

    def told(self) -> dict[str, Any]:
        """`learns_meaning`: the prompt's direction was known, so the description moved; else only quality counts."""
        learns = self.after is not None and self.after.vector is not None
        return {"vote": _word(self.after), "before": _word(self.before), "learns_meaning": learns}


class Feedback:
    """The votes. `space` is the embedding's name: votes of another one count for quality alone."""

    def __init__(self, store: FeedbackPort, space: str) -> None:
        self._store = store
        self._space = space
        self._known = asyncio.Event()
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[Cast]] = set()
        self.by_model: dict[int, Votes] = {}
        self.prompts = Prompts()

    @property
    def count(self) -> int:
        return sum(votes.good + votes.bad for votes in self.by_model.values())

    async def load(self) -> None:
        """Raises DatabaseUnavailable; then nobody can vote until it was called again."""
        self.by_model = {}
        for vote in await self._store.list_votes():
            self._add(vote)
        self._known.set()

    async def vote(self, wanted: Vote, embed: Callable[[], Awaitable[Quantised | None]]) -> Cast:
        """Stores a vote in place of the one before, and counts it. `embed` is asked when nothing else knows the
        prompt's direction. A caller that leaves does not leave sums behind that differ from what is stored."""
        return await self._to_the_end(self._vote(wanted, embed))

    async def withdraw(self, request_id: str, key_id: int) -> Cast:
        """Raises NotFound if there is nothing to take back."""
        return await self._to_the_end(self._withdraw(request_id, key_id))

    async def _to_the_end(self, work: Coroutine[Any, Any, Cast]) -> Cast:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def _vote(self, wanted: Vote, embed: Callable[[], Awaitable[Quantised | None]]) -> Cast:
        async with self._turn:
            await self._until_known()
            before = await self._store.get(wanted.request_id, wanted.key_id)
            after = await self._with_direction(wanted, before, embed)
            if before is None or after != before:
                await self._store.put(after)
                if before is not None:
                    self._take_back(before)
                self._add(after)
            return Cast(before, after)

    async def _withdraw(self, request_id: str, key_id: int) -> Cast:
        async with self._turn:
            await self._until_known()
            before = await self._store.get(request_id, key_id)
            if before is None:
                raise NotFound("there is no vote of this key on this request")
            await self._store.remove(request_id, key_id)
            self._take_back(before)
            return Cast(before, None)

    async def _until_known(self) -> None:
        try:
            async with asyncio.timeout(KNOWN_WAIT_S):
                await self._known.wait()
        except TimeoutError:
            raise DatabaseUnavailable("The votes so far could not be read yet; vote again in a moment.") from None

    async def _with_direction(
        self, vote: Vote, before: Vote | None, embed: Callable[[], Awaitable[Quantised | None]]
    ) -> Vote:
        """The prompt's direction from the vote before, from memory, or from its text."""
        if before is not None and before.embedding == self._space:
            return replace(vote, embedding=self._space, vector=before.vector)
        vector = self.prompts.get(vote.request_id)
        if vector is None:
            made = await embed()
            vector = None if made is None else made.tobytes()
        return vote if vector is None else replace(vote, embedding=self._space, vector=vector)

    def _add(self, vote: Vote) -> None:
        votes = self.by_model.get(vote.model_id, NONE)
        self.by_model[vote.model_id] = votes.plus(vote.good, self._direction_of(vote))

    def _take_back(self, vote: Vote) -> None:
        votes = self.by_model.get(vote.model_id, NONE)
        self.by_model[vote.model_id] = votes.minus(vote.good, self._direction_of(vote))

    def _direction_of(self, vote: Vote) -> Quantised | None:
        if vote.vector is None or vote.embedding != self._space:
            return None
        return np.frombuffer(vote.vector, dtype=np.int8)

    async def close(self) -> None:
        """Votes under way are counted before, for a moment."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CLOSE_WAIT_S)
        await self._store.close()


def _word(vote: Vote | None) -> str | None:
    if vote is None:
        return None
    return "good" if vote.good else "bad"
