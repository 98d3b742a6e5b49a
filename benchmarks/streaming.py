"""The two ends of the streaming benchmark, each a process of its own: `upstream` and `client`.

The upstream answers every request with a stream of chunks, one every `1 / RATE` seconds by a schedule that does not
drift, each carrying the monotonic clock at the moment it is written (one clock for all processes of a machine). The
client opens so many streams at once, notes when each chunk arrives, and prints what it saw as one line of JSON. Bare
asyncio protocols, so that the ends cost as little as can be: what they cost is in the direct measurement, too.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit

RATE = 50.0  # chunks a second and stream
SENT = b'"sent":'

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
DONE = b"data: [DONE]\n\n"


def framed(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def event(finish: bytes = b"null") -> bytes:
    return (
        b'data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1700000000,"model":"bench","choices":'
        b'[{"index":0,"delta":{"content":" word"},"finish_reason":%s}],"sent":%d}\n\n' % (finish, time.monotonic_ns())
    )


def usage(chunks: int) -> bytes:
    return (
        b'data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1700000000,"model":"bench","choices":'
        b'[],"usage":{"prompt_tokens":10,"completion_tokens":%d,"total_tokens":%d}}\n\n' % (chunks, chunks + 10)
    )


@dataclass(slots=True, eq=False)
class Upstream(asyncio.Protocol):
    """One connection of the upstream; `max_tokens` of a request is how many chunks it wants."""

    transport: asyncio.Transport | None = None
    buffer: bytes = b""
    left: int = 0
    said: int = 0
    due: float = 0.0
    timer: asyncio.TimerHandle | None = None
    wants_usage: bool = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, _: Exception | None) -> None:
        self.transport = None
        if self.timer is not None:
            self.timer.cancel()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, found, rest = self.buffer.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
        if not found or len(rest) < length:
            return
        document, self.buffer = json.loads(rest[:length]), rest[length:]
        self.wants_usage = bool((document.get("stream_options") or {}).get("include_usage"))
        self.left, self.said = int(document["max_tokens"]), 0
        self.due = asyncio.get_running_loop().time()
        assert self.transport is not None
        self.transport.write(HEAD)
        self._say()

    def _say(self) -> None:
        if self.transport is None:
            return
        self.left -= 1
        self.said += 1
        self.transport.write(framed(event(b"null" if self.left else b'"stop"')))
        if not self.left:
            end = usage(self.said) if self.wants_usage else b""
            self.transport.write(framed(end + DONE) + b"0\r\n\r\n")
            return
        self.due += 1 / RATE
        self.timer = asyncio.get_running_loop().call_at(self.due, self._say)


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", port, backlog=1024)
    print("listening", flush=True)
    await server.serve_forever()


@dataclass(slots=True, eq=False)
class Stream(asyncio.Protocol):
    """One stream of the client, from the request to [DONE]."""

    request: bytes
    ended: asyncio.Event
    asked_at: int = 0
    first_s: float | None = None
    lags_s: list[float] = field(default_factory=list)
    done: bool = False
    begun: bytes = b""
    transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def ask(self) -> None:
        assert self.transport is not None
        self.asked_at = time.monotonic_ns()
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        text = self.begun + data
        *events, self.begun = text.split(b"\n\n")
        for each in events:
            _, found, after = each.partition(SENT)
            if not found:
                continue
            if self.first_s is None:
                self.first_s = (now - self.asked_at) / 1e9
            else:
                self.lags_s.append((now - int(after[: after.index(b"}")])) / 1e9)
        if DONE.strip() in text:
            self.done = True
            self.ended.set()

    def connection_lost(self, _: Exception | None) -> None:
        self.ended.set()


async def measure(
    url: str, headers: list[str], model: str, streams: int, chunks: int, spread: bool
) -> dict[str, object]:
    """Opens the connections first, then asks on all of them: at once, or so that no two have the same phase."""
    parts = urlsplit(url)
    messages = [{"role": "user", "content": "Go on."}]
    document = {"model": model, "stream": True, "max_tokens": chunks, "messages": messages}
    body = json.dumps(document).encode()
    lines = [f"POST {parts.path} HTTP/1.1", f"host: {parts.netloc}", "content-type: application/json", *headers]
    request = "\r\n".join([*lines, f"content-length: {len(body)}", "", ""]).encode() + body
    loop = asyncio.get_running_loop()
    opened: list[Stream] = []
    for _ in range(streams):
        _, stream = await loop.create_connection(
            lambda: Stream(request, asyncio.Event()), parts.hostname or "127.0.0.1", parts.port or 80
        )
        opened.append(stream)
    await asyncio.sleep(0.1)
    began = loop.time()
    for index, stream in enumerate(opened):
        if spread:
            await asyncio.sleep(max(0.0, began + index / RATE * (1 + 1 / streams) - loop.time()))
        stream.ask()
    try:
        async with asyncio.timeout(chunks / RATE * 3 + 20):
            await asyncio.gather(*(stream.ended.wait() for stream in opened))
    except TimeoutError:
        pass
    for stream in opened:
        if stream.transport is not None:
            stream.transport.abort()
    complete = [stream for stream in opened if stream.done and len(stream.lags_s) == chunks - 1]
    return {
        "first_s": [stream.first_s for stream in complete],
        "lags_s": [lag for stream in complete for lag in stream.lags_s],
        "broken": streams - len(complete),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    upstream = commands.add_parser("upstream")
    upstream.add_argument("--port", type=int, required=True)
    client = commands.add_parser("client")
    client.add_argument("--url", required=True)
    client.add_argument("--header", action="append", default=[])
    client.add_argument("--model", default="bench")
    client.add_argument("--streams", type=int, default=1)
    client.add_argument("--chunks", type=int, default=100)
    client.add_argument("--spread", action="store_true")
    given = parser.parse_args()
    if given.command == "upstream":
        asyncio.run(serve(given.port))
        return 0
    work = measure(given.url, given.header, given.model, given.streams, given.chunks, given.spread)
    print(json.dumps(asyncio.run(work)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
