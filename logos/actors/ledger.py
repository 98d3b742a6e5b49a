"""The ledger actor: takes records of all gateways and commits them to Postgres, many appends in one transaction.

It acknowledges only what is committed; while the database is away it acknowledges nothing, holds a bounded amount and
leaves the rest in the outboxes. It also sums the metrics of all gateways. It decides nothing: what a record says, and
what it costs, was settled before it came here.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from logos.actors.learning import StoredLearned
from logos.actors.loops import keep_going
from logos.actors.sweeper import Sweeper
from logos.domain.records import Record
from logos.storage.ledger_writer import JournalEntry, LedgerWriter
from logos.telemetry.metrics import Aggregate, LedgerFigures

log = logging.getLogger(__name__)

BATCH_RECORDS_MAX = 2000
PENDING_RECORDS_MAX = 20_000
WRITE_TIMEOUT_S = 30.0
T = TypeVar("T")
BACK_OFF_S_MIN = 0.05
BACK_OFF_S_MAX = 1.0
METRICS_KEY = "metrics of gateways"
METRICS_KEPT_INTERVAL_S = 5.0
INTERRUPTED_AFTER_S = 86_400.0


@dataclass(slots=True)
class _Append:
    """One call of a gateway that waits for its records to be committed."""

    records: tuple[Record, ...]
    arrived_at: float
    stored: asyncio.Future[None] = field(repr=False)


class Ledger:
    """Satisfies gateway.ports.LedgerPort. `clock` counts monotonic seconds. With `batch_wait_ms` a transaction waits
    that long for company; without, whoever comes during one joins the next."""

    def __init__(
        self,
        database_url: str,
        *,
        batch_records_max: int = BATCH_RECORDS_MAX,
        batch_wait_ms: float = 0.0,
        interrupted_after_s: float = INTERRUPTED_AFTER_S,
        gateway_lives: Callable[[str], Awaitable[bool]] | None = None,
        clock: Callable[[], float] = time.monotonic,
        restarted: bool = False,
    ) -> None:
        """`restarted`: an earlier life of this actor kept metrics, which go on. `interrupted_after_s`: a request that
        was accepted so long ago and has no end is closed if its gateway does not live; without `gateway_lives` none."""
        self._clock = clock
        self._restores_metrics = restarted
        self._metrics_kept_at = clock()
        self._metrics_kept = b""
        self._keeping: asyncio.Task[None] | None = None
        self._batch_records_max = batch_records_max
        self._batch_wait_s = batch_wait_ms / 1000
        self._writer = LedgerWriter(database_url)
        self._journal_writer = LedgerWriter(database_url)
        self._journal_turn = asyncio.Lock()
        self._sweeper = Sweeper(database_url, interrupted_after_s, gateway_lives) if gateway_lives is not None else None
        self._sweeping: asyncio.Task[None] | None = None
        self._waiting: deque[_Append] = deque()
        self._pending_records = 0
        self._writing: asyncio.Task[None] | None = None
        self._closed = False
        self._retry_at = 0.0
        self._back_off_s = BACK_OFF_S_MIN
        self._last_error = ""
        self._records_stored = 0
        self._last_write_s = 0.0
        self._aggregate = Aggregate()

    async def start(self) -> None:
        """Connect ahead of the first record. A database that is away is no error: it is tried again."""
        await self.ping()

    def begin_sweeping(self) -> None:
        """Close what dead gateways have left open, now and then. Call once, on the actor's event loop."""
        if self._sweeper is not None:
            self._sweeping = asyncio.create_task(keep_going(self._sweeper.sweep_for_ever), name="ledger sweeper")

    async def append(self, gateway_id: str, records: tuple[Record, ...]) -> frozenset[str]:
        """Commit these records; the ids that are safe now. Raises ConnectionError when they are not: the database
        is away, or too much waits already; send them again later."""
        if not records:
            return frozenset()
        self._refuse_if_away(f"records of {gateway_id}")
        if self._pending_records + len(records) > PENDING_RECORDS_MAX and self._pending_records:
            raise ConnectionError("the ledger is behind: too many records wait for the database")
        append = _Append(records, self._clock(), asyncio.get_running_loop().create_future())
        self._waiting.append(append)
        self._pending_records += len(records)
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_what_waits(), name="ledger writer")
        await append.stored
        return frozenset(record.opening.request_id for record in records)

    async def append_journal(self, epoch: int, entries: Sequence[JournalEntry]) -> None:
        """Append to the scheduler's journal of this epoch; repeats are harmless. Raises ConnectionError."""
        if entries:
            await self._for_the_scheduler(lambda writer: writer.write_journal(epoch, entries))

    async def store_learned(self, epoch: int, stored: StoredLearned) -> None:
        """Keep what the scheduler has learned. Raises ConnectionError."""
        await self._for_the_scheduler(lambda writer: writer.write_learned(epoch, stored.version, stored.learned))

    async def learned(self) -> StoredLearned | None:
        """What was kept last; None if nothing ever was. Raises ConnectionError."""
        found = await self._for_the_scheduler(lambda writer: writer.read_learned())
        return None if found is None else StoredLearned(*found)

    async def last_epoch(self) -> int:
        """The highest epoch that anything is kept of; 0 if nothing is. Raises ConnectionError."""
        return await self._for_the_scheduler(lambda writer: writer.last_epoch())

    async def _for_the_scheduler(self, work: Callable[[LedgerWriter], Awaitable[T]]) -> T:
        self._refuse_if_away("the scheduler's records")
        try:
            async with self._journal_turn, asyncio.timeout(WRITE_TIMEOUT_S):
                return await work(self._journal_writer)
        except TimeoutError as error:
            raise ConnectionError("the database does not answer in time") from error

    async def push_metrics(self, gateway_id: str, snapshot: bytes) -> None:
        """The newest snapshot of a process's counters, as telemetry.metrics makes it."""
        now = self._clock()
        self._aggregate.push(gateway_id, snapshot, now)
        if self._restores_metrics or now - self._metrics_kept_at >= METRICS_KEPT_INTERVAL_S:
            self._metrics_kept_at = now
            if self._keeping is None or self._keeping.done():
                self._keeping = asyncio.create_task(self._keep_metrics(), name="ledger metrics")

    async def _keep_metrics(self) -> None:
        """Counters of gateways that have died are nowhere else. What an earlier life kept is taken in first."""
        try:
            async with self._journal_turn, asyncio.timeout(WRITE_TIMEOUT_S):
                if self._restores_metrics:
                    self._restore(await self._journal_writer.kept(METRICS_KEY))
                if (dumped := self._aggregate.dump()) != self._metrics_kept:
                    await self._journal_writer.keep(METRICS_KEY, base64.b64encode(dumped).decode("ascii"))
                    self._metrics_kept = dumped
        except (ConnectionError, TimeoutError) as error:
            log.warning("metrics are not kept: %s", error)

    def _restore(self, kept: str | None) -> None:
        self._restores_metrics = False
        if kept is not None:
            try:
                self._aggregate.restore(base64.b64decode(kept), self._clock())
            except (ValueError, msgspec.DecodeError) as error:
                log.warning("kept metrics cannot be read: %s", error)

    async def metrics(self) -> bytes:
        """Prometheus text: the sum over all processes, dead ones' counters included, and the ledger's own."""
        return self._aggregate.render(
            self._clock(),
            LedgerFigures(
                lag_s=self.lag_s,
                pending_records=self._pending_records,
                stored_records=self._records_stored,
                refused_records=self._writer.refused,
                database_up=not self._last_error,
            ),
        )

    async def status(self) -> Mapping[str, Any]:
        """For /health and `logos status`."""
        return {
            "database_up": not self._last_error,
            "last_error": self._last_error,
            "lag_s": round(self.lag_s, 3),
            "pending_records": self._pending_records,
            "stored_records": self._records_stored,
            "refused_records": self._writer.refused,
            "last_write_ms": round(self._last_write_s * 1000, 1),
        }

    async def ping(self) -> bool:
        """Whether the database answers."""
        try:
            async with self._journal_turn, asyncio.timeout(WRITE_TIMEOUT_S):
                await self._journal_writer.ping()
        except (ConnectionError, TimeoutError) as error:
            self._note_failure(str(error))
            return False
        self._note_success()
        return True

    async def close(self) -> None:
        """Let the current transaction end, refuse the rest, and leave the database."""
        self._closed = True
        if self._writing is not None:
            await asyncio.wait({self._writing}, timeout=5.0)
            self._writing.cancel()
        self._fail_waiting(ConnectionError("the ledger is closing"))
        if self._keeping is not None:
            await asyncio.wait({self._keeping}, timeout=1.0)
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.wait({self._sweeping})
        if self._sweeper is not None:
            await self._sweeper.close()
        await self._writer.close()
        await self._journal_writer.close()

    @property
    def lag_s(self) -> float:
        """How long the oldest record has been waiting here."""
        return self._clock() - self._waiting[0].arrived_at if self._waiting else 0.0

    def _refuse_if_away(self, what: str) -> None:
        if self._closed:
            raise ConnectionError("the ledger is closing")
        if self._clock() < self._retry_at:
            raise ConnectionError(f"the database is away, {what} must wait: {self._last_error}")

    async def _write_what_waits(self) -> None:
        """One transaction after the other for as long as something waits; whoever comes meanwhile joins the next."""
        try:
            if self._batch_wait_s > 0:
                await asyncio.sleep(self._batch_wait_s)
            while self._waiting and not self._closed:
                batch = self._next_batch()
                records = [record for append in batch for record in append.records]
                started = self._clock()
                async with asyncio.timeout(WRITE_TIMEOUT_S):
                    await self._writer.write(records)
                self._last_write_s = self._clock() - started
                self._records_stored += len(records)
                self._note_success()
                self._settle(batch, None)
        except (ConnectionError, TimeoutError) as error:
            self._note_failure(str(error) or "the database does not answer in time")
            self._fail_waiting(ConnectionError(f"not stored: {self._last_error}"))
        except Exception as error:  # a task boundary: whoever waits must hear of it
            log.exception("the ledger's writer failed")
            self._note_failure(type(error).__name__)
            self._fail_waiting(ConnectionError(f"not stored: {type(error).__name__}"))
        finally:
            self._writing = None

    def _next_batch(self) -> list[_Append]:
        """The oldest appends up to the size of a batch. They stay in the queue until they are settled."""
        batch: list[_Append] = []
        size = 0
        for append in self._waiting:
            if batch and size + len(append.records) > self._batch_records_max:
                break
            batch.append(append)
            size += len(append.records)
        return batch

    def _settle(self, batch: Sequence[_Append], failure: ConnectionError | None) -> None:
        for append in batch:
            self._waiting.popleft()
            self._pending_records -= len(append.records)
            if append.stored.done():  # its caller has left
                continue
            if failure is None:
                append.stored.set_result(None)
            else:
                append.stored.set_exception(failure)

    def _fail_waiting(self, failure: ConnectionError) -> None:
        self._settle(tuple(self._waiting), failure)

    def _note_success(self) -> None:
        if self._last_error:
            log.warning("the database is back")
        self._last_error = ""
        self._back_off_s = BACK_OFF_S_MIN
        self._retry_at = 0.0

    def _note_failure(self, reason: str) -> None:
        if not self._last_error:
            log.warning("the database is away: %s", reason)
        self._last_error = reason
        self._retry_at = self._clock() + self._back_off_s
        self._back_off_s = min(self._back_off_s * 2, BACK_OFF_S_MAX)
