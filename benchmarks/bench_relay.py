"""What the HTTP edges of the gateway cost: CPU a request, CPU a streamed chunk, against a bare aiohttp relay.

Three processes: an upstream that says fixed bytes, a load generator, and in between this one, which serves in turn a
bare relay (uvicorn and aiohttp, nothing parsed) and the edges (root, key check, parsing, faults, relay, headers). Both
run in one process one after the other, so the ratio holds on a noisy machine. The limit: a chunk is read in 15 us.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import uvicorn
import uvloop

from logos.domain.catalogue import Catalogue
from logos.domain.directory import ProviderAccess
from logos.domain.keys import key_digest, key_prefix
from logos.domain.nouns import Key
from logos.domain.records import Charge
from logos.gateway.asgi import Root
from logos.gateway.auth import KeyDirectory
from logos.gateway.faults import Fault
from logos.gateway.http import ASGIApp, Receive, Scope, Send, headers_of
from logos.gateway.models import ModelsPage
from logos.gateway.parsing import parse, read_body, upstream_body
from logos.gateway.relay import Terms, open_answer
from logos.gateway.responses import ServedBy, response_headers
from logos.gateway.sse import EventStream
from logos.gateway.watch import ClientWatch
from logos.providers.fake import chat_completion, chat_events
from logos.providers.openai import OpenAITargets
from logos.providers.transport import AiohttpTransport

REQUESTS = 3000
CONNECTIONS = 16
STREAMS = 64
CHUNKS = 75
CHUNK_INTERVAL_S = 0.02
ROUNDS = 3
FEED_US_MAX = 15.0

KEY = "lg-0123456789ab-" + "a" * 43
USAGE = {"prompt_tokens": 10, "completion_tokens": 8, "total_tokens": 18}
ANSWER = json.dumps(chat_completion("hello there, how are you today?", USAGE)).encode()
BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hello there"}], "max_tokens": 8}).encode()
STREAM_BODY = BODY[:-1] + b', "stream": true}'
EVENTS = chat_events(["token "] * CHUNKS, usage=USAGE)


# ------------------------------------------------------------------ upstream and load, in processes of their own


class Upstream(asyncio.Protocol):
    """Answers every request with the same bytes, paced if it asks for a stream."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._received = b""
        self._tasks: set[asyncio.Task[None]] = set()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head_end = self._received.find(b"\r\n\r\n")
        if head_end < 0:
            return
        head = self._received[:head_end].lower()
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(self._received) < head_end + 4 + length:
            return
        streamed = b'"stream"' in self._received
        self._received = b""
        if streamed:
            task = asyncio.ensure_future(self._stream())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(ANSWER)
            self._transport.write(head + ANSWER)

    async def _stream(self) -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        self._transport.write(head)
        for event in EVENTS:
            await asyncio.sleep(CHUNK_INTERVAL_S)
            self._transport.write(b"%x\r\n%s\r\n" % (len(event), event))
        self._transport.write(b"0\r\n\r\n")


def serve_upstream(port: Any) -> None:
    async def run() -> None:
        server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", 0)
        port.put(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    uvloop.run(run())


def load(port: int, body: bytes, connections: int, each: int, seen: Any) -> None:
    """`each` requests on each connection, one after the other."""

    async def one() -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n"
            f"content-type: application/json\r\nuser-agent: bench\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        good = 0
        for _ in range(each):
            writer.write(head.encode() + body)
            answer_head = await reader.readuntil(b"\r\n\r\n")
            if b"content-length: " in answer_head:
                await reader.readexactly(int(answer_head.partition(b"content-length: ")[2].partition(b"\r\n")[0]))
            else:
                await reader.readuntil(b"0\r\n\r\n")
            good += answer_head.startswith(b"HTTP/1.1 200")
        writer.close()
        return good

    async def run() -> None:
        seen.put(sum(await asyncio.gather(*(one() for _ in range(connections)))))

    uvloop.run(run())


# ------------------------------------------------------------------ what is compared


@dataclass
class Edges:
    """The gateway's edges with the shortest flow between them."""

    base_url: str
    transport: AiohttpTransport = field(default_factory=AiohttpTransport)
    targets: OpenAITargets = field(default_factory=OpenAITargets)
    catalogue: Catalogue = field(default_factory=Catalogue)
    keys: KeyDirectory = field(
        default_factory=lambda: KeyDirectory([Key(1, "k", key_prefix(KEY), key_digest(KEY))]),
    )
    confirmed_at: float = 0.0

    def app(self) -> ASGIApp:
        page = ModelsPage(self, stale_after_s=5.0, clock=time.monotonic, wall_clock=time.time)
        return Root(self, page, page.serve)  # type: ignore[arg-type]  # nothing goes to the app behind

    async def serve(self, scope: Scope, receive: Receive, send: Send, capability: str, request_id: str) -> None:
        headers = headers_of(scope)
        self.keys.authenticate(headers, unix_now=time.time())
        parsed = parse(capability, await read_body(receive, headers, 1_000_000), headers)
        target = self.targets.remote(ProviderAccess(1, self.base_url, "k"), "/chat/completions")
        terms = Terms(parsed.stream, parsed.usage_is_forced, lambda usage: Charge(12345, "EUR"))
        with ClientWatch(receive):
            answer = await open_answer(self.transport, target, upstream_body(parsed, "m"), terms, time.time)
            assert not isinstance(answer, Fault), answer
            told = response_headers(answer.headers, ServedBy("m", "p", "remote", 0.1, 0.1, 1), None)
            await answer.relay(send, told, time.time)


class Bare:
    """The least that relays: no key, no parsing, no error handling."""

    def __init__(self, base_url: str) -> None:
        self._url = f"{base_url}/chat/completions"
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = (await receive())["body"]
        headers = {"content-type": "application/json", "authorization": "Bearer k"}
        async with self._session.post(self._url, data=body, headers=headers) as response:
            told = [(b"content-type", response.headers["content-type"].encode())]
            if response.content_length is not None:
                told.append((b"content-length", b"%d" % response.content_length))
            await send({"type": "http.response.start", "status": response.status, "headers": told})
            async for chunk in response.content.iter_any():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

    async def close(self) -> None:
        await self._session.close()


async def measured(app: ASGIApp, body: bytes, connections: int, each: int) -> tuple[float, float]:
    """CPU seconds of this process and wall seconds while it serves the load."""
    config = uvicorn.Config(app, port=0, log_level="warning", lifespan="off", access_log=False, http="httptools")
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    context = multiprocessing.get_context("spawn")
    port = server.servers[0].sockets[0].getsockname()[1]
    seen = context.Queue()
    generator = context.Process(target=load, args=(port, body, connections, each, seen))
    cpu, wall = time.process_time(), time.perf_counter()
    generator.start()
    await asyncio.to_thread(generator.join)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    good = seen.get(timeout=5)
    server.should_exit = True
    await running
    if good != connections * each:
        sys.exit(f"{connections * each - good} of {connections * each} requests failed")
    return cpu, wall


async def compare(base_url: str, body: bytes, connections: int, each: int, units: int) -> tuple[float, float]:
    """CPU microseconds a unit, bare and edges: the best of each over all rounds."""
    best = {"bare": float("inf"), "edges": float("inf")}
    for _ in range(ROUNDS):
        bare, edges = Bare(base_url), Edges(base_url)
        turns: list[tuple[str, ASGIApp, Callable[[], Awaitable[None]]]] = [
            ("bare", bare, bare.close),
            ("edges", edges.app(), edges.transport.close),
        ]
        for name, app, close in turns:
            cpu, _ = await measured(app, body, connections, each)
            await close()
            best[name] = min(best[name], cpu / units * 1e6)
    return best["bare"], best["edges"]


def feed_us() -> float:
    """Reading one ordinary chunk, the best of some rounds."""
    chunk, best = EVENTS[1], float("inf")
    for _ in range(10):
        events = EventStream(drop_usage=True, charge_of=lambda usage: Charge(1, "EUR"))
        began = time.perf_counter()
        for _ in range(5000):
            events.feed(chunk)
        best = min(best, (time.perf_counter() - began) / 5000 * 1e6)
    return best


async def run() -> int:
    context = multiprocessing.get_context("spawn")
    ports = context.Queue()
    upstream = context.Process(target=serve_upstream, args=(ports,), daemon=True)
    upstream.start()
    base_url = f"http://127.0.0.1:{await asyncio.to_thread(ports.get)}/v1"
    try:
        bare, edges = await compare(base_url, BODY, CONNECTIONS, REQUESTS // CONNECTIONS, REQUESTS)
        print(f"a whole answer: bare {bare:6.1f} us CPU, edges {edges:6.1f} us, ratio {edges / bare:.2f}")
        bare, edges = await compare(base_url, STREAM_BODY, STREAMS, 1, STREAMS * len(EVENTS))
        print(f"a chunk of {STREAMS} streams: bare {bare:6.1f} us CPU, edges {edges:6.1f} us, ratio {edges / bare:.2f}")
    finally:
        upstream.kill()
        upstream.join()
    feed = feed_us()
    print(f"reading one ordinary chunk: {feed:.2f} us, limit {FEED_US_MAX:.0f}")
    return 1 if feed > FEED_US_MAX else 0


def main() -> int:
    return uvloop.run(run())


if __name__ == "__main__":
    sys.exit(main())
