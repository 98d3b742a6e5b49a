"""A client that leaves cancels what is done for it, and nothing else does look like that."""

from __future__ import annotations

import asyncio

import pytest

from logos.domain.errors import ClientLeft
from logos.gateway.http import Message
from logos.gateway.watch import LISTEN_AFTER_S, ClientWatch


async def never() -> Message:
    await asyncio.Event().wait()
    raise AssertionError


async def leaves() -> Message:
    return {"type": "http.disconnect"}


async def test_a_client_that_leaves_is_a_client_left() -> None:
    with pytest.raises(ClientLeft), ClientWatch(leaves):
        await asyncio.Event().wait()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await asyncio.sleep(0)


async def test_steps_inside_see_a_cancellation_and_may_finish_their_work() -> None:
    settled = []

    async def step() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            settled.append("yes")
            raise asyncio.CancelledError from None

    with pytest.raises(ClientLeft), ClientWatch(leaves):
        await step()
    assert settled == ["yes"]


async def test_a_cancellation_from_outside_stays_one() -> None:
    async def work() -> None:
        with ClientWatch(never):
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await asyncio.sleep(LISTEN_AFTER_S * 2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_quick_request_never_listens_and_a_slow_one_leaves_no_task() -> None:
    asked = []

    async def receive() -> Message:
        asked.append(1)
        return await never()

    before = asyncio.all_tasks()
    with ClientWatch(receive):
        await asyncio.sleep(0)
    assert not asked
    with ClientWatch(receive):
        await asyncio.sleep(LISTEN_AFTER_S * 2)
    assert asked
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


async def test_an_error_inside_passes_through() -> None:
    with pytest.raises(ZeroDivisionError), ClientWatch(never):
        _ = 1 / 0
