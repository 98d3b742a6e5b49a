"""Loops of actors: an error that nobody foresaw ends none of them."""

from __future__ import annotations

import asyncio

from logos.actors.loops import keep_going


async def test_a_loop_that_fails_begins_anew_and_one_that_ends_stays_ended() -> None:
    begun = 0

    async def loop() -> None:
        nonlocal begun
        begun += 1
        if begun < 3:
            raise RuntimeError("nobody foresaw this")

    await keep_going(loop, 0.0)
    assert begun == 3


async def test_a_loop_that_is_cancelled_ends() -> None:
    task = asyncio.create_task(keep_going(asyncio.Event().wait, 0.0))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
