"""Whether this client kept up: a core that is used up delays what it measures, and nobody else would know."""

from __future__ import annotations

import asyncio
import time

INTERVAL_S = 1.0
BUSY_SHARE = 0.9  # of a core; one event loop cannot use more than one


class Strain:
    """Adds up the intervals in which the process used nearly a whole core."""

    def __init__(self, used_s: float, now_s: float) -> None:
        """`used_s` is CPU time of the process, `now_s` the clock, both as of the beginning."""
        self.busy_s = 0.0
        self._used_s, self._now_s = used_s, now_s

    def look(self, used_s: float, now_s: float) -> None:
        """Ends an interval and begins the next one."""
        lasted_s = now_s - self._now_s
        if used_s - self._used_s > BUSY_SHARE * lasted_s:
            self.busy_s += lasted_s
        self._used_s, self._now_s = used_s, now_s

    @property
    def note(self) -> str | None:
        """One line for the report; None if there was nothing."""
        if not self.busy_s:
            return None
        return (
            f"this client used a whole core for {self.busy_s:.0f} s, so its times of then are too long: "
            "replay fewer streams at once or split the workload"
        )


def begin() -> Strain:
    """As of now."""
    return Strain(time.process_time(), time.monotonic())


async def watch(strain: Strain) -> None:
    """Looks every second until it is cancelled."""
    while True:
        await asyncio.sleep(INTERVAL_S)
        strain.look(time.process_time(), time.monotonic())
