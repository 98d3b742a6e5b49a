"""The way from the outbox to the ledger: batches, acknowledgements, back-off, and the outboxes of dead neighbours.

One loop a gateway, off the path of any request. It writes nothing to a database and prices nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from logos.domain.records import Record
from logos.gateway.orphans import ChargeOf, Orphan, abandoned
from logos.gateway.outbox import BATCH_BYTES_MAX, Outbox
from logos.gateway.ports import LedgerPort

log = logging.getLogger(__name__)

SHIP_INTERVAL_S = 0.1
BATCH_RECORDS_MAX = 500
BACK_OFF_S_MAX = 1.0
ORPHANS_INTERVAL_S = 1.0
APPEND_TIMEOUT_S = 40.0  # longer than the ledger waits for its database


class Shipper:
    """Ships `outbox` and what it finds abandoned below `root`. `clock` gives Unix seconds."""

    def __init__(
        self,
        outbox: Outbox,
        root: Path,
        gateway_id: str,
        ledger: LedgerPort,
        charge_of: ChargeOf,
        *,
        interval_s: float = SHIP_INTERVAL_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._outbox = outbox
        self._root = root
        self._gateway_id = gateway_id
        self._ledger = ledger
        self._charge_of = charge_of
        self._interval_s = interval_s
        self._clock = clock
        self._turn = asyncio.Lock()
        self._last_error = ""
        self.orphans_shipped = 0

    @property
    def lag_s(self) -> float:
        """Age of the oldest ended request that is not in the database."""
        return self._outbox.lag_s(self._clock())

    @property
    def last_error(self) -> str:
        """Why the last batch was not taken; empty when all is well."""
        return self._last_error

    async def run(self) -> None:
        """Ship until cancelled."""
        await asyncio.gather(self._ship_for_ever(), self._look_for_orphans_for_ever())

    async def flush(self, timeout_s: float = 5.0) -> bool:
        """Ship everything that has ended, at shutdown; whether all of it was taken in time."""
        try:
            async with asyncio.timeout(timeout_s):
                while self._outbox.waiting:
                    if not await self._ship_once():
                        await asyncio.sleep(self._interval_s)
        except TimeoutError:
            log.warning("%d records are left in the outbox for the next gateway", self._outbox.waiting)
        return self._outbox.waiting == 0

    async def adopt_orphans(self) -> None:
        """Ship and delete the outboxes whose owners are gone."""
        for orphan in abandoned(self._root):
            await self._adopt(orphan)

    async def _ship_for_ever(self) -> None:
        pause_s = self._interval_s
        while True:
            await asyncio.sleep(pause_s)
            taken = await self._ship_once()
            if not taken:
                pause_s = min(pause_s * 2, BACK_OFF_S_MAX)
            else:
                # A backlog drains batch after batch.
                pause_s = 0.0 if self._outbox.waiting >= BATCH_RECORDS_MAX else self._interval_s

    async def _look_for_orphans_for_ever(self) -> None:
        while True:
            try:
                await self.adopt_orphans()
            except OSError as error:
                log.warning("cannot look for abandoned outboxes: %s", error)
            await asyncio.sleep(ORPHANS_INTERVAL_S)

    async def _ship_once(self) -> bool:
        """One batch; False if it was not taken."""
        async with self._turn:
            try:
                batch = self._outbox.take_batch(BATCH_RECORDS_MAX, self._clock())
                if batch:
                    self._outbox.acknowledge(await self._append(batch))
            except Exception as error:  # noqa: BLE001 (a task boundary: whatever goes wrong, the records stay)
                self._note(error)
                return False
            self._last_error = ""
            return True

    async def _append(self, batch: tuple[Record, ...]) -> frozenset[str]:
        async with asyncio.timeout(APPEND_TIMEOUT_S):
            return await self._ledger.append(self._gateway_id, batch)

    async def _adopt(self, orphan: Orphan) -> None:
        shipped = 0
        try:
            for batch in _batches(orphan.records(self._charge_of)):
                stored = await self._append(batch)
                missing = {record.opening.request_id for record in batch} - stored
                if missing:
                    raise ConnectionError(f"{len(missing)} records were not taken")
                shipped += len(batch)
        except BaseException as error:
            orphan.release()
            if not isinstance(error, Exception):
                raise
            self._note(error)
            return
        orphan.delete()
        self.orphans_shipped += 1
        log.info("shipped %d records of an abandoned outbox, %s", shipped, orphan.directory.name)

    def _note(self, error: Exception) -> None:
        reason = f"{type(error).__name__}: {error}"
        if not self._last_error:
            log.warning("the ledger takes no records, trying again: %s", reason)
        self._last_error = reason


def _batches(records: Iterator[Record]) -> Iterator[tuple[Record, ...]]:
    """In order, each as large as one of an outbox may be."""
    batch: list[Record] = []
    payload_bytes = 0
    for record in records:
        payload_bytes += _payload_bytes(record)
        if batch and (len(batch) >= BATCH_RECORDS_MAX or payload_bytes > BATCH_BYTES_MAX):
            yield tuple(batch)
            batch, payload_bytes = [], _payload_bytes(record)
        batch.append(record)
    if batch:
        yield tuple(batch)


def _payload_bytes(record: Record) -> int:
    """Nearly; the rest of a record is small."""
    answer = None if record.closing is None else record.closing.response_payload
    return len(record.opening.input_payload or "") + len(answer or "")
