"""Load on a platform: so many connections, each sending one request after the other and counting what came of it.

A part of the requests can be abandoned at a random moment: the connection is closed on it. Every request carries a
marker of its own.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from dataclasses import dataclass, field

from tests.support.http_client import Broken, Connection, chat_body
from tests.support.upstream import new_marker

ANSWER_S_MAX = 60.0


@dataclass(slots=True)
class Load:
    """What to send and what came of it. `statuses` counts answers, `broken` what ended without a whole one."""

    base_url: str
    key: str
    model: str
    connections: int = 64
    abandoned_share: float = 0.0
    abandon_after_s_max: float = 0.1
    streamed_share: float = 0.5
    seed: int = 0
    prompt: str = "Say something."

    sent: int = 0
    abandoned: int = 0
    whole: int = 0
    broken: int = 0
    refused: int = 0  # no connection
    stuck: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)  # what answers that are not 200 said
    markers: list[str] = field(default_factory=list)
    answered_at: list[float] = field(default_factory=list)  # monotonic seconds of whole answers
    stopping: bool = False

    async def send(self, requests: int) -> None:
        """So many requests over all connections."""
        left = iter(range(requests))
        await asyncio.gather(*(self._work(number, left) for number in range(self.connections)))

    async def send_until_stopped(self) -> None:
        """Until `stopping` is set."""
        left = iter(range(10**9))
        await asyncio.gather(*(self._work(number, left) for number in range(self.connections)))

    async def _work(self, number: int, left: object) -> None:
        chance = random.Random(self.seed * 1000 + number)
        connection = Connection(self.base_url, {"authorization": f"Bearer {self.key}"})
        try:
            while not self.stopping and next(left, None) is not None:  # type: ignore[call-overload]  # an iterator
                await self._one(connection, chance)
        finally:
            await connection.abort()

    async def _one(self, connection: Connection, chance: random.Random) -> None:
        marker = new_marker()
        stream = chance.random() < self.streamed_share
        leaves = chance.random() < self.abandoned_share
        body = chat_body(self.model, f"{self.prompt} {marker}", stream=stream, max_tokens=16)
        try:
            await connection.begin("/v1/chat/completions", body)
        except OSError:
            self.refused += 1
            await asyncio.sleep(0.05)
            return
        self.sent += 1
        self.markers.append(marker)
        if leaves:
            self.abandoned += 1
            await self._abandon(connection, chance.random() * self.abandon_after_s_max)
            return
        try:
            async with asyncio.timeout(ANSWER_S_MAX):
                status, headers = await connection.head()
                self.statuses[status] += 1
                parts = [part async for part in connection.chunks(headers)]
            if status != 200:
                self.errors[f"{status} {_code_of(b''.join(parts))}"] += 1
            self.whole += 1
            self.answered_at.append(time.monotonic())
        except Broken:
            self.broken += 1
        except TimeoutError:
            self.stuck += 1
            await connection.abort()

    async def _abandon(self, connection: Connection, after_s: float) -> None:
        """Reads until it leaves, as a client would."""
        try:
            async with asyncio.timeout(after_s):
                _, headers = await connection.head()
                async for _ in connection.chunks(headers):
                    pass
        except (TimeoutError, Broken):
            pass
        await connection.abort()


def _code_of(body: bytes) -> str:
    """The code of an error in OpenAI's shape; else the beginning of what was said."""
    try:
        return str(json.loads(body)["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return body[:40].decode("utf-8", "replace")
