"""An event loop that knows when the bytes at hand had arrived, not only when their turn has come.

When many streams speak at the same moment, the last one is looked at milliseconds after its bytes came. All of them had
arrived when the selector returned, so that moment, not the later one, is when they are counted as received. Only
asyncio's public doors are used: a selector of one's own.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Selector(selectors.DefaultSelector):
    """Remembers when it last returned, and the time before that."""

    def __init__(self) -> None:
        super().__init__()
        self.returned_at = self.returned_before = time.monotonic()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(timeout)
        self.returned_before, self.returned_at = self.returned_at, time.monotonic()
        return ready


class ArrivalLoop(asyncio.SelectorEventLoop):
    """An ordinary loop with one more clock."""

    def __init__(self) -> None:
        self._arrivals = _Selector()
        super().__init__(self._arrivals)

    def woken_at(self) -> float:
        """For a protocol's `data_received`: when the selector said that there was something to read."""
        return self._arrivals.returned_at

    def received_at(self) -> float:
        """For a coroutine that received bytes have just woken: they are read in one turn of the loop, and their reader
        runs in the next one."""
        return self._arrivals.returned_before


def received_at() -> float:
    """The running loop's, or what time it is where the loop is an ordinary one."""
    loop = asyncio.get_running_loop()
    return loop.received_at() if isinstance(loop, ArrivalLoop) else loop.time()


def run(main: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` in such a loop."""
    with asyncio.Runner(loop_factory=ArrivalLoop) as runner:
        return runner.run(main)
