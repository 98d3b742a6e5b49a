"""A whole replay: sends, asks for the server's records, writes what there is; Ctrl-C ends it early and still writes.

The parts are elsewhere (`client`, `records`, `results`, `charts`); this is the order they go in.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from logos.workload import clock, progress
from logos.workload.client import Replay, Target
from logos.workload.exchanges import Run
from logos.workload.records import with_records
from logos.workload.results import (
    DETAILED_SUFFIX,
    SUMMARY_SUFFIX,
    base_of,
    beside,
    check_writable,
    write_details,
    write_summary,
)
from logos.workload.rows import WorkloadRow
from logos.workload.summary import Metric, summarise


@dataclass(frozen=True, slots=True)
class Report:
    """What a replay left behind."""

    run: Run
    metrics: Sequence[Metric]
    files: tuple[Path, ...]


def replay(rows: Sequence[WorkloadRow], target: Target, output: Path, *, with_charts: bool = True) -> Report:
    """Blocks until the run has ended and its files are written. Raises OSError where they cannot be.

    That they can be is looked at before anything is sent, so that a run is not lost for want of a directory.
    """
    base = base_of(output)
    check_writable([beside(base, each) for each in (SUMMARY_SUFFIX, DETAILED_SUFFIX)])
    if with_charts:
        from logos.workload.charts import draw, targets

        check_writable(targets(base))
    run = clock.run(replayed(rows, target))
    metrics = summarise(run)
    files: tuple[Path, ...] = (write_summary(base, metrics), write_details(base, run))
    if with_charts:
        files += draw(base, run)
    return Report(run, metrics, files)


async def replayed(rows: Sequence[WorkloadRow], target: Target) -> Run:
    """The run with the server's own records, progress shown meanwhile."""
    replay = Replay(rows, target)
    stop = asyncio.Event()
    shown = asyncio.create_task(progress.show(replay.counts))
    await asyncio.sleep(0)  # the first drawing takes its time before the run begins, not from the first request
    try:
        with _stopping(stop):
            run = await replay.run(stop)
    finally:
        shown.cancel()
        await asyncio.gather(shown, return_exceptions=True)
    return await with_records(run, target)


@contextlib.contextmanager
def _stopping(stop: asyncio.Event) -> Iterator[None]:
    """Ctrl-C and SIGTERM set `stop`; a second one is as rude as ever."""
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM)

    def stopped() -> None:
        stop.set()
        for number in numbers:
            loop.remove_signal_handler(number)

    for number in numbers:
        loop.add_signal_handler(number, stopped)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
