"""What the scheduler has learned, over its restarts: a snapshot written to the ledger now and then, and read back.

Encoding and the store's port live here; what a snapshot means is the prediction room's. A snapshot that cannot be read
is worth one line in the log and nothing else: the scheduler learns again.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Protocol

import msgspec

from logos.scheduling.learned import Learned

log = logging.getLogger(__name__)

LEARNED_VERSION = 2  # raised whenever an older snapshot would be misunderstood
READ_WAIT_S = 5.0

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class StoredLearned:
    """A snapshot as it is kept: `learned` is JSON text."""

    version: int
    learned: str


class LearnedStore(Protocol):
    """Where the snapshot is kept: the ledger. May fail with ConnectionError."""

    async def store_learned(self, epoch: int, stored: StoredLearned) -> None: ...

    async def learned(self) -> StoredLearned | None: ...

    async def last_epoch(self) -> int: ...


def encode_learned(learned: Learned) -> StoredLearned:
    return StoredLearned(LEARNED_VERSION, _encode(learned).decode())


def decode_learned(stored: StoredLearned) -> Learned | None:
    """None, and one line in the log, for what another version wrote or what is not a snapshot."""
    if stored.version != LEARNED_VERSION:
        log.warning("what was learned is forgotten: version %s, not %d", stored.version, LEARNED_VERSION)
        return None
    try:
        return msgspec.json.decode(stored.learned, type=Learned)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        log.warning("what was learned is forgotten: the snapshot cannot be read: %s", error)
        return None


async def read_back(store: LearnedStore) -> Learned | None:
    """What an earlier life has learned; None if there is nothing, or nothing that can be had soon."""
    try:
        async with asyncio.timeout(READ_WAIT_S):
            stored = await store.learned()
    except (ConnectionError, TimeoutError) as error:
        log.warning("what was learned cannot be asked for: %s", error)
        return None
    return None if stored is None else decode_learned(stored)


async def last_epoch(store: LearnedStore) -> int:
    """The highest of an earlier start; 0 if there was none, or none that can be had soon."""
    try:
        async with asyncio.timeout(READ_WAIT_S):
            return await store.last_epoch()
    except (ConnectionError, TimeoutError) as error:
        log.warning("the last epoch cannot be asked for: %s", error)
        return 0


class LearnedKeeper:
    """Writes a snapshot when it differs from the last one written."""

    def __init__(self, store: LearnedStore, epoch: int) -> None:
        self._store = store
        self._epoch = epoch
        self._last: StoredLearned | None = None

    async def keep(self, learned: Learned) -> None:
        """Raises ConnectionError if the store is away."""
        stored = encode_learned(learned)
        if stored != self._last:
            await self._store.store_learned(self._epoch, stored)
            self._last = stored
