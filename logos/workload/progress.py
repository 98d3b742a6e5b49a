"""How far a run is, on stderr: a bar that moves on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import asyncio
import sys

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from logos.workload.client import Counts

BAR_INTERVAL_S = 0.5  # drawing takes a millisecond or two from the streams, so not more often
LINE_INTERVAL_S = 5.0


async def show(counts: Counts, *, is_terminal: bool | None = None) -> None:
    """Until it is cancelled; the last state is shown then, too."""
    if sys.stderr.isatty() if is_terminal is None else is_terminal:
        await _show_bar(counts)
    else:
        await _show_lines(counts)


def line_of(counts: Counts) -> str:
    """`12 of 20 sent, 3 running, 9 answered, 0 failed`."""
    return (
        f"{counts.begun} of {counts.total} sent, {counts.running} running, "
        f"{counts.answered} answered, {counts.failed} failed"
    )


async def _show_bar(counts: Counts) -> None:
    columns = (TextColumn("replay"), BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    # No refreshing thread: it would compete with the streams for the interpreter.
    with Progress(*columns, console=Console(stderr=True), auto_refresh=False) as bar:
        task = bar.add_task(line_of(counts), total=counts.total)
        try:
            while True:
                bar.update(task, completed=counts.answered + counts.failed, description=line_of(counts), refresh=True)
                await asyncio.sleep(BAR_INTERVAL_S)
        finally:
            bar.update(task, completed=counts.answered + counts.failed, description=line_of(counts), refresh=True)


async def _show_lines(counts: Counts) -> None:
    said = ""
    try:
        while True:
            await asyncio.sleep(LINE_INTERVAL_S)
            if said != (said := line_of(counts)):
                print(said, file=sys.stderr, flush=True)  # noqa: T201 - the plain progress of a command
    finally:
        if said != line_of(counts):
            print(line_of(counts), file=sys.stderr, flush=True)  # noqa: T201
