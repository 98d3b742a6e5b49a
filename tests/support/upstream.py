"""A scripted OpenAI-compatible upstream on a loopback port, run in a thread so that tests may be plain functions.

What it answers is chosen by the model that a request names, so tests that share it do not meet. An answer is a function
from a request to steps in the words of `raw_upstream` (bytes to write, seconds to wait, HANG, CLOSE, RESET). Every
request is kept, with its marker (`new_marker`, put into a prompt) and with when the client closed the connection on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import re
import secrets
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from tests.support.raw_upstream import CLOSE, END, HANG, RESET, Step, chunk, stream_head, whole

MARKER = re.compile(rb"mark-[0-9a-f]{16}")
STOP_S_MAX = 5.0


@dataclass(slots=True)
class Received:
    """One request as it arrived, in monotonic seconds. `closed_at` is set if the client closed before the end."""

    at: float
    connection: int
    path: str
    headers: dict[str, str]
    body: bytes
    document: Any = None
    marker: str | None = None
    answered_at: float | None = None
    closed_at: float | None = None

    @property
    def model(self) -> str:
        return str(self.document.get("model", "")) if isinstance(self.document, dict) else ""

    @property
    def streams(self) -> bool:
        return isinstance(self.document, dict) and self.document.get("stream") is True


Answer = Callable[[Received], Iterable[Step]]


def new_marker() -> str:
    """To be put into a prompt, so that what came of it can be found at the upstream and in the log."""
    return f"mark-{secrets.token_hex(8)}"


# ---------------------------------------------------------------------- answers


def completion(text: str, *, prompt_tokens: int = 10, completion_tokens: int = 5, **more: Any) -> bytes:
    """The JSON of a chat completion."""
    usage = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
    message = {"role": "assistant", "content": text}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    document = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m", "choices": choices}
    return json.dumps({**document, "usage": usage, **more}).encode()


def embedding(inputs: int, dimensions: int = 4, prompt_tokens: int = 7) -> bytes:
    data = [{"object": "embedding", "index": index, "embedding": [0.5] * dimensions} for index in range(inputs)]
    usage = {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens}
    return json.dumps({"object": "list", "data": data, "model": "m", "usage": usage}).encode()


def event(delta: dict[str, Any] | None, finish: str | None = None, usage: dict[str, int] | None = None) -> bytes:
    """One event of a streamed chat; without a delta the one that carries usage."""
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    document = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices}
    if usage is not None:
        document["usage"] = usage
    return b"data: " + json.dumps(document, ensure_ascii=False).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


def stream_body(words: Sequence[str], *, usage: bool = True, prompt_tokens: int = 10) -> list[bytes]:
    """The events of a streamed chat."""
    events = [event({"role": "assistant", "content": ""})]
    events += [event({"content": word}) for word in words]
    events.append(event({}, "stop"))
    if usage:
        counted = {"prompt_tokens": prompt_tokens, "completion_tokens": len(words)}
        events.append(event(None, usage={**counted, "total_tokens": sum(counted.values())}))
    return [*events, DONE]


def chat(text: str = "Hello there.", *, delay_s: float = 0.0, **more: Any) -> Answer:
    """A whole answer."""
    made = whole(completion(text, **more))
    return lambda _: [delay_s, made] if delay_s else [made]


def streamed(words: Sequence[str] = ("one", " two", " three"), *, pace_s: float = 0.0, delay_s: float = 0.0) -> Answer:
    """A stream, a word every `pace_s`; usage if it was asked for."""

    def answer(request: Received) -> Iterable[Step]:
        options = request.document.get("stream_options") or {}
        if delay_s:
            yield delay_s
        yield stream_head()
        for part in stream_body(words, usage=bool(options.get("include_usage"))):
            yield chunk(part)
            if pace_s:
                yield pace_s
        yield END

    return answer


def chat_or_streamed(words: Sequence[str] = ("one", " two", " three"), *, pace_s: float = 0.0) -> Answer:
    """Whichever is asked for; both take as long."""
    stream = streamed(words, pace_s=pace_s)
    plain = chat("".join(words), delay_s=pace_s * len(words), completion_tokens=len(words))
    return lambda request: stream(request) if request.streams else plain(request)


def embeddings() -> Answer:
    def answer(request: Received) -> Iterable[Step]:
        given = request.document.get("input")
        return [whole(embedding(len(given) if isinstance(given, list) else 1))]

    return answer


def error(status: str = "500 Internal Server Error", message: str = "it broke", headers: str = "") -> Answer:
    """`status` with its words, as in "429 Too Many Requests"; `headers` as "retry-after: 3\\r\\n"."""
    body = json.dumps({"error": {"message": message, "type": "some_error", "param": None, "code": "some_code"}})
    return lambda _: [whole(body.encode(), status, extra=headers)]


def steps(*said: Step) -> Answer:
    """Exactly these."""
    return lambda _: said


def pieces(data: bytes, *cuts: int, pause_s: float = 0.02) -> list[Step]:
    """A chunked stream of `data`, cut at these places, so that each part arrives by itself."""
    edges = [0, *cuts, len(data)]
    parts: list[Step] = [stream_head()]
    for begin, end in itertools.pairwise(edges):
        parts += [chunk(data[begin:end]), pause_s]
    return [*parts, END]


# ---------------------------------------------------------------------- the server


class ScriptedUpstream:
    """`with ScriptedUpstream() as upstream:`; `upstream.base_url` is what a provider is declared with."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.connections = 0
        self.open_connections = 0
        self.port = 0
        self._answers: dict[str, Answer] = {}
        self._default: Answer = chat_or_streamed()
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._living: set[_Connection] = set()
        self._thread = threading.Thread(target=self._run, name="scripted-upstream", daemon=True)
        self._started = threading.Event()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def answer(self, model: str, answer: Answer) -> None:
        """What requests that name `model` are answered with from now on."""
        self._answers[model] = answer

    def of(self, model: str) -> list[Received]:
        return [request for request in self.received if request.model == model]

    def marked(self, marker: str) -> list[Received]:
        return [request for request in self.received if request.marker == marker]

    def counts(self, model: str | None = None) -> Counter[str]:
        """How often each marker arrived."""
        requests = self.received if model is None else self.of(model)
        return Counter(request.marker for request in requests if request.marker is not None)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(10), "the upstream's thread did not start"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(STOP_S_MAX)

    def answer_to(self, request: Received) -> Iterable[Step]:
        return self._answers.get(request.model, self._default)(request)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._listen())
        try:
            self._loop.run_forever()
        finally:
            self._loop.run_until_complete(self._close())
            self._loop.close()

    async def _listen(self) -> None:
        self._server = await self._loop.create_server(lambda: _Connection(self), "127.0.0.1", 0, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]
        self._started.set()

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
        for connection in list(self._living):
            connection.abort()
        await asyncio.sleep(0.05)

    def opened(self, connection: _Connection) -> int:
        self._living.add(connection)
        self.connections += 1
        self.open_connections += 1
        return self.connections

    def closed(self, connection: _Connection) -> None:
        self._living.discard(connection)
        self.open_connections -= 1


@dataclass(slots=True, eq=False)
class _Connection(asyncio.Protocol):
    """One keep-alive connection: a request after the other, each played to its end."""

    upstream: ScriptedUpstream
    number: int = 0
    transport: Any = None
    buffer: bytes = b""
    request: Received | None = None
    task: asyncio.Task[None] | None = None
    writable: asyncio.Event = field(default_factory=asyncio.Event)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.writable.set()
        self.number = self.upstream.opened(self)

    def connection_lost(self, _: Exception | None) -> None:
        self.upstream.closed(self)
        self.writable.set()
        if self.request is not None and self.request.answered_at is None:
            self.request.closed_at = time.monotonic()
        if self.task is not None:
            self.task.cancel()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def abort(self) -> None:
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        self._next()

    def _next(self) -> None:
        if self.task is not None and not self.task.done():
            return
        head, found, rest = self.buffer.partition(b"\r\n\r\n")
        if not found:
            return
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", "0"))
        if len(rest) < length:
            return
        body, self.buffer = rest[:length], rest[length:]
        path = first.split(" ")[1]
        request = self.request = Received(time.monotonic(), self.number, path, headers, body)
        with contextlib.suppress(ValueError):
            request.document = json.loads(body)
        found_marker = MARKER.search(body)
        request.marker = found_marker.group().decode() if found_marker else None
        self.upstream.received.append(request)
        self.task = asyncio.get_running_loop().create_task(self._play(request))

    async def _play(self, request: Received) -> None:
        for step in self.upstream.answer_to(request):
            if isinstance(step, bytes):
                await self.writable.wait()
                self.transport.write(step)
                await asyncio.sleep(0)
            elif isinstance(step, float | int):
                await asyncio.sleep(step)
            elif step == HANG:
                await asyncio.Event().wait()
            elif step == CLOSE:
                request.answered_at = time.monotonic()
                self.transport.close()
                return
            elif step == RESET:
                request.answered_at = time.monotonic()
                linger = struct.pack("ii", 1, 0)
                self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                self.transport.abort()
                return
        request.answered_at = time.monotonic()
        self.task = None
        self._next()
