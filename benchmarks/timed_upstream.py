"""The upstream of the replay benchmark, a process of its own: each token at a time that is known.

A request's first token comes FIRST_MS after its last byte arrived, one more each TOKEN_MS, by a schedule that does not
drift. Each token's text is the monotonic clock in nanoseconds at which it was written (one clock for all processes of a
machine); before the first one stands the time of arrival. `max_tokens` is how many tokens there are.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from dataclasses import dataclass

from logos.workload.clock import ArrivalLoop, run

FIRST_MS = 200.0
TOKEN_MS = 20.0

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
ROLE = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}\n\n'
TOKEN = b'data: {"choices":[{"index":0,"delta":{"content":"%b"},"finish_reason":null}]}\n\n'
LAST = (
    b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"length"}]}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":%d,"total_tokens":%d}}\n\ndata: [DONE]\n\n'
)


def framed(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@dataclass(slots=True, eq=False)
class Upstream(asyncio.Protocol):
    """One connection."""

    transport: asyncio.Transport | None = None
    buffer: bytes = b""
    tokens: int = 0
    said: int = 0
    arrived_ns: int = 0
    due_s: float = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, _: Exception | None) -> None:
        self.transport = None

    def data_received(self, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, ArrivalLoop)
        arrived_s = loop.woken_at()
        self.buffer += data
        head, found, rest = self.buffer.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
        if not found or len(rest) < length:
            return
        self.tokens, self.said, self.buffer = int(json.loads(rest[:length])["max_tokens"]), 0, rest[length:]
        self.arrived_ns = round(arrived_s * 1e9)
        self.due_s = arrived_s + FIRST_MS / 1000
        assert self.transport is not None
        self.transport.write(HEAD + framed(ROLE))
        loop.call_at(self.due_s, self._say)

    def _say(self) -> None:
        if self.transport is None:
            return
        now = b"%d " % time.monotonic_ns()
        self.transport.write(framed(TOKEN % (now if self.said else b"%d %b" % (self.arrived_ns, now))))
        self.said += 1
        if self.said == self.tokens:
            self.transport.write(framed(LAST % (self.said, self.said + 1)) + b"0\r\n\r\n")
            return
        self.due_s += TOKEN_MS / 1000
        asyncio.get_running_loop().call_at(self.due_s, self._say)


async def serve() -> None:
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    gc.freeze()
    await server.serve_forever()


if __name__ == "__main__":
    sys.exit(run(serve()))
