"""What a record costs on its way to Postgres: the outbox write, and the ledger's batches of 500.

Taken in turn in one run with their peers: a bare write of the same bytes to a file, and a plain COPY of the same
rows into a table without indexes, which is as fast as rows can get in. The limits: 20 us for an outbox write at the
median, 60 us of Python a record in the ledger.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg

from logos.gateway.outbox import Outbox
from logos.gateway.outbox_files import frame
from logos.storage.embedded import EmbeddedPostgres
from logos.storage.ledger_sql import MAKE_STAGING
from logos.storage.ledger_writer import LedgerWriter, row_of
from logos.storage.migrate import migrate
from tests.support.records import records

BATCH = 500
BATCHES = 8
ROUNDS = 5
OUTBOX_LIMIT_US = 20.0
LEDGER_LIMIT_US = 60.0


@dataclass(frozen=True, slots=True)
class Cost:
    """Microseconds a record: on the clock, of Python's CPU, of the Postgres backend's CPU."""

    wall_us: float
    python_us: float
    postgres_us: float


class Meter:
    """Measures what happens between `start` and `stop`, per record."""

    def __init__(self, backend_pid: int) -> None:
        self._backend = psutil.Process(backend_pid)

    def _now(self) -> tuple[float, float, float]:
        times = self._backend.cpu_times()
        return time.perf_counter(), time.process_time(), times.user + times.system

    def start(self) -> None:
        self._before = self._now()

    def stop(self, count: int) -> Cost:
        spent = [(after - before) / count * 1e6 for before, after in zip(self._before, self._now(), strict=True)]
        return Cost(*spent)


async def measure_ledger(url: str) -> tuple[list[Cost], list[Cost]]:
    """The writer's rounds and the plain COPY's, in turn."""
    writer = LedgerWriter(url)
    await writer.write(records(1))
    connection = await writer._connected()
    plain = await psycopg.AsyncConnection.connect(url, autocommit=True)
    await plain.execute(
        MAKE_STAGING.replace("TEMPORARY TABLE staging", "TABLE plain_copy").replace("ON COMMIT DELETE ROWS", "")
    )
    ours, theirs = [], []
    first = 1
    for _ in range(ROUNDS):
        batches = [records(BATCH, first + BATCH * index) for index in range(BATCHES)]
        first += BATCH * BATCHES
        meter = Meter(connection.info.backend_pid)
        meter.start()
        for batch in batches:
            await writer.write(batch)
        ours.append(meter.stop(BATCH * BATCHES))
        meter = Meter(plain.info.backend_pid)
        meter.start()
        for batch in batches:
            async with plain.cursor().copy("COPY plain_copy FROM STDIN") as copy:
                for record in batch:
                    await copy.write_row(row_of(record))
        theirs.append(meter.stop(BATCH * BATCHES))
    await writer.close()
    await plain.close()
    return ours, theirs


def measure_outbox(directory: Path) -> tuple[float, float]:
    """Median microseconds of one outbox entry, and of a bare write of the same bytes."""
    outbox = Outbox(directory / "outbox", "bench", size_bytes_max=1 << 40)
    bare = os.open(directory / "bare", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    ours, theirs = [], []
    for record in records(5000):
        assert record.closing is not None
        framed = frame(record.opening)
        started = time.perf_counter()
        outbox.open(record.opening)
        outbox.close(record.closing)
        middle = time.perf_counter()
        os.write(bare, framed)
        os.write(bare, framed)
        ours.append((middle - started) / 2 * 1e6)
        theirs.append((time.perf_counter() - middle) / 2 * 1e6)
    os.close(bare)
    return statistics.median(ours), statistics.median(theirs)


def main() -> int:
    """1 when a limit is missed."""
    with tempfile.TemporaryDirectory(prefix="logos-bench-") as name:
        postgres = EmbeddedPostgres(Path(name) / "data")
        try:
            postgres.start()
            migrate(postgres.url)
            ours, theirs = asyncio.run(measure_ledger(postgres.url))
            outbox_us, write_us = measure_outbox(Path(name))
        finally:
            postgres.stop()
    writer = Cost(*(statistics.median(getattr(each, field) for each in ours) for field in Cost.__slots__))
    copy = Cost(*(statistics.median(getattr(each, field) for each in theirs) for field in Cost.__slots__))
    print(f"outbox entry       {outbox_us:6.1f} us; a bare write {write_us:.1f} us: x {outbox_us / write_us:.1f}")
    for title, cost in (("ledger, 500 a batch", writer), ("plain COPY", copy)):
        print(
            f"{title:19}{1e6 / cost.wall_us:8,.0f} records/s, {cost.wall_us:.1f} us each: "
            f"Python {cost.python_us:.1f}, Postgres {cost.postgres_us:.1f}"
        )
    print(f"ledger / plain COPY x {writer.wall_us / copy.wall_us:.1f} on the clock")
    missed = outbox_us > OUTBOX_LIMIT_US or writer.python_us > LEDGER_LIMIT_US
    if missed:
        print(f"limits: outbox {OUTBOX_LIMIT_US} us, ledger {LEDGER_LIMIT_US} us of Python", file=sys.stderr)
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
