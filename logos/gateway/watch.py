"""Noticing that a client has left, at whatever step its request is.

Two things say so: the server cancels the request's task (Ray Serve does), or the ASGI `receive` says http.disconnect
(uvicorn does, and only to somebody who listens). Listening costs a task, so it begins when a request has been under way
for a moment: most are answered before. What a step does when it is cancelled is the step's business.
"""

from __future__ import annotations

import asyncio
from types import TracebackType

from logos.domain.errors import ClientLeft
from logos.gateway.http import Receive

LISTEN_AFTER_S = 0.05


class ClientWatch:
    """`with ClientWatch(receive):` around everything after the body was read.

    When the client leaves, the block is cancelled, as by `asyncio.timeout`, and the cancellation leaves the block as
    ClientLeft. A cancellation from outside stays one. Steps inside see CancelledError in both cases.
    """

    __slots__ = ("_listener", "_receive", "_start", "_task", "left")

    def __init__(self, receive: Receive) -> None:
        self.left = False
        self._receive = receive
        self._task: asyncio.Task[object] | None = None
        self._listener: asyncio.Task[None] | None = None
        self._start: asyncio.TimerHandle | None = None

    def __enter__(self) -> ClientWatch:
        self._task = asyncio.current_task()
        self._start = asyncio.get_running_loop().call_later(LISTEN_AFTER_S, self._listen)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._start is not None:
            self._start.cancel()
        if self._listener is not None:
            self._listener.cancel()
        if not self.left or self._task is None:
            return
        # Our own cancellation is taken back; if it was the only one, it was the client.
        remaining = self._task.uncancel()
        if kind is asyncio.CancelledError and remaining == 0:
            raise ClientLeft from None

    def _listen(self) -> None:
        self._listener = asyncio.create_task(self._until_left(), name="client-watch")

    async def _until_left(self) -> None:
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                break
        if self._task is not None and not self._task.done():
            self.left = True
            self._task.cancel()
