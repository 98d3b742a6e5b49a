import asyncio
import socket
import time

from logos.workload import clock
from logos.workload.clock import ArrivalLoop, received_at

BUSY_S = 0.05


async def readers(count: int) -> list[tuple[float, float]]:
    """(received_at, the time it is) for each of so many streams whose bytes come at once and whose readers are slow;
    last, as both, when something else took its time in the turn in which they came."""
    others: list[float] = []

    def busy() -> None:
        others.append(time.monotonic())
        outer.recv(10)
        time.sleep(BUSY_S)

    seen: list[tuple[float, float]] = []

    async def read(reader: asyncio.StreamReader) -> None:
        assert await reader.read(10) == b"now"
        seen.append((received_at(), time.monotonic()))
        time.sleep(BUSY_S)  # the busy process that this is about

    pairs = [socket.socketpair() for _ in range(count)]
    streams = [await asyncio.open_connection(sock=inner) for inner, _ in pairs]
    tasks = [asyncio.create_task(read(reader)) for reader, _ in streams]
    await asyncio.sleep(0)
    for _, outer in pairs:
        outer.send(b"now")
    pairs[-1][0].send(b"you too")
    asyncio.get_running_loop().add_reader(outer, busy)
    await asyncio.gather(*tasks)
    asyncio.get_running_loop().remove_reader(outer)
    for (_, writer), (_, outer) in zip(streams, pairs, strict=True):
        writer.close()
        await writer.wait_closed()
        outer.close()
    return [*seen, (others[0], others[0])]


def test_bytes_that_came_together_are_received_together_however_late_they_are_looked_at() -> None:
    *seen, (began_else, _) = clock.run(readers(3))
    assert len({received for received, _ in seen}) == 1
    received, looked_at = seen[-1]
    assert looked_at - received >= 2 * BUSY_S
    assert received <= began_else


def test_an_ordinary_loop_has_the_time_at_which_they_are_looked_at() -> None:
    *seen, _ = asyncio.run(readers(3))
    assert len({received for received, _ in seen}) == 3


def test_the_time_is_the_loops_own() -> None:
    async def look() -> tuple[float, float, float]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, ArrivalLoop)
        await asyncio.sleep(0.01)
        return loop.received_at(), loop.woken_at(), loop.time()

    before, woken, now = clock.run(look())
    assert before <= woken <= now < before + 60
