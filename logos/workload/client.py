"""Sends a workload: each request at its time, whatever became of the earlier ones, thousands at once in one process.

Times are taken where bytes enter and leave the socket's buffers, so neither connecting nor this client's own work is
counted as the server's. Nothing is retried, and every request that was begun leaves an `Exchange`.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import gc
import json
import resource
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from multidict import CIMultiDictProxy

from logos.workload import strain
from logos.workload.answers import AnswerReader, error_text
from logos.workload.clock import received_at
from logos.workload.exchanges import Exchange, Run, ServerFigures, Status
from logos.workload.rows import WorkloadRow

CONNECT_TIMEOUT_S = 30.0
KEEP_ALIVE_S = 2.0  # shorter than servers keep a connection, or a request meets one that is just being closed
READ_BYTES = 256 * 1024
OPEN_FILES_SPARE = 64


@dataclass(frozen=True, slots=True)
class Target:
    """Where a workload goes. `api_base` is with or without /v1; `timeout_s` is how long no byte may come, and
    `total_timeout_s` how long a request may take that says something now and then."""

    api_base: str
    key: str = field(repr=False)
    slo_ms: float = 10_000.0
    timeout_s: float = 120.0
    total_timeout_s: float = 3600.0
    speed: float = 1.0
    declare_slo: bool = False

    @property
    def root(self) -> str:
        return self.api_base.rstrip("/").removesuffix("/v1")

    @property
    def is_here(self) -> bool:
        """Whether it is this machine, to which no proxy of the environment is the way."""
        host = urlsplit(self.root).hostname or ""
        with contextlib.suppress(ValueError):
            return ip_address(host).is_loopback
        return host == "localhost"

    def session(self) -> aiohttp.ClientSession:
        """A client without any bound on connections."""
        trace = aiohttp.TraceConfig()
        trace.on_request_chunk_sent.append(_note_sent)
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S),
            headers={"authorization": f"Bearer {self.key}"},
            timeout=aiohttp.ClientTimeout(
                total=self.total_timeout_s, sock_connect=CONNECT_TIMEOUT_S, sock_read=self.timeout_s
            ),
            read_bufsize=READ_BYTES,
            trust_env=not self.is_here,
            trace_configs=[trace],
        )


@dataclass(slots=True)
class Counts:
    """How far a run is, for whoever shows it."""

    total: int
    begun: int = 0
    answered: int = 0
    failed: int = 0

    @property
    def running(self) -> int:
        return self.begun - self.answered - self.failed


@dataclass(slots=True)
class _Probe:
    """When the last byte of a request was handed to the socket, on the loop's clock."""

    clock: asyncio.AbstractEventLoop
    sent_at: float | None = None


async def _note_sent(_: aiohttp.ClientSession, context: SimpleNamespace, __: Any) -> None:
    probe: _Probe | None = context.trace_request_ctx
    if probe is not None:
        probe.sent_at = probe.clock.time()


class Replay:
    """One run of a workload."""

    def __init__(self, rows: Sequence[WorkloadRow], target: Target) -> None:
        self.counts = Counts(len(rows))
        self._rows = sorted(rows, key=lambda row: row.arrival_ms)
        self._target = target
        self._prepared = [_Prepared.of(row, target) for row in self._rows]
        self.began_s = 0.0

    async def run(self, stop: asyncio.Event) -> Run:
        """Until every request has ended, or `stop` is set: then what still runs is broken off."""
        began_at = dt.datetime.now(dt.UTC)
        async with self._target.session() as session:
            strained = strain.begin()
            with _undisturbed(len(self._rows)):
                watch = asyncio.create_task(strain.watch(strained))
                self.began_s = asyncio.get_running_loop().time()
                tasks = await self._send_all(session, stop)
                await _finish(tasks, stop)
                watch.cancel()
        exchanges = tuple(task.result() for task in tasks)
        notes = () if strained.note is None else (strained.note,)
        return Run(exchanges, len(self._rows), began_at, self._target.slo_ms, notes)

    async def _send_all(self, session: aiohttp.ClientSession, stop: asyncio.Event) -> list[asyncio.Task[Exchange]]:
        """A task for each request, begun at its time."""
        loop = asyncio.get_running_loop()
        tasks: list[asyncio.Task[Exchange]] = []
        for prepared in self._prepared:
            due_ms = prepared.row.arrival_ms / self._target.speed
            wait_s = self.began_s + due_ms / 1000 - loop.time()
            if wait_s > 0:
                await _sleep_unless(stop, wait_s)
            if stop.is_set():
                break
            self.counts.begun += 1
            tasks.append(asyncio.create_task(self._exchange(session, prepared, due_ms)))
        return tasks

    async def _exchange(self, session: aiohttp.ClientSession, prepared: _Prepared, due_ms: float) -> Exchange:
        """Never raises: what goes wrong is in the exchange."""
        loop = asyncio.get_running_loop()
        probe, reader, heard = _Probe(loop), AnswerReader(), _Heard()
        begun_at = loop.time()
        try:
            await self._ask(session, prepared, probe, reader, heard)
        except TimeoutError as error:
            heard.error = f"timed out: {_limit_of(error, self._target)}"
        except (aiohttp.ClientError, OSError) as error:
            heard.error = _told(error)
        except asyncio.CancelledError:
            heard.error, heard.status = "interrupted: the run was broken off", Status.INTERRUPTED
        ended_at = loop.time()
        found = self._concluded(prepared, due_ms, probe.sent_at or begun_at, ended_at, reader, heard)
        if found.is_success:
            self.counts.answered += 1
        else:
            self.counts.failed += 1
        return found

    async def _ask(
        self,
        session: aiohttp.ClientSession,
        prepared: _Prepared,
        probe: _Probe,
        reader: AnswerReader,
        heard: _Heard,
    ) -> None:
        async with session.post(
            prepared.url, data=prepared.body, headers=prepared.headers, trace_request_ctx=probe, allow_redirects=False
        ) as response:
            heard.http_status = response.status
            heard.server = server_figures(response.headers)
            if response.status != 200:
                heard.error = f"HTTP {response.status}: {error_text(await response.read())}"
            elif response.content_type == "text/event-stream":
                while data := await response.content.readany():
                    reader.feed(data, received_at())
            else:
                reader.whole(await response.read())

    def _concluded(
        self,
        prepared: _Prepared,
        due_ms: float,
        sent_at: float,
        ended_at: float,
        reader: AnswerReader,
        heard: _Heard,
    ) -> Exchange:
        error = heard.error or reader.error
        if error is None and not reader.is_whole:
            error = "the answer ended before it was finished"
        status = heard.status or (Status.SUCCESS if error is None else Status.FAILED)
        return Exchange(
            row=prepared.row,
            due_ms=due_ms,
            sent_ms=self._ms(sent_at),
            ended_ms=self._ms(ended_at),
            status=status,
            first_token_ms=None if reader.first_at is None else self._ms(reader.first_at),
            last_token_ms=None if reader.last_at is None else self._ms(reader.last_at),
            gaps_ms=[gap * 1000 for gap in reader.gaps()],
            prompt_tokens=reader.usage.prompt_tokens,
            completion_tokens=reader.usage.completion_tokens,
            http_status=heard.http_status,
            error=error,
            text=reader.text,
            server=heard.server,
        )

    def _ms(self, at: float) -> float:
        return (at - self.began_s) * 1000


@dataclass(slots=True)
class _Heard:
    """What is known of an answer beside its body."""

    http_status: int | None = None
    server: ServerFigures = field(default_factory=ServerFigures)
    error: str | None = None
    status: Status | None = None


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A request as it will be sent, made before the run so that its time is not spent then."""

    row: WorkloadRow
    url: str
    headers: Mapping[str, str]
    body: bytes = field(repr=False)

    @classmethod
    def of(cls, row: WorkloadRow, target: Target) -> _Prepared:
        path, body = wire_of(row)
        headers = {
            "content-type": "application/json",
            "x-request-id": row.request_id.encode("ascii", "replace").decode(),
            "x-logos-priority": row.priority.name.lower(),
            "x-logos-mode": row.mode.value,
        }
        if target.declare_slo:
            headers["x-logos-slo-ms"] = f"{target.slo_ms:.0f}"
        return cls(row, target.root + path, headers, json.dumps(body).encode())


def wire_of(row: WorkloadRow) -> tuple[str, dict[str, Any]]:
    """Path and body of a request. Text is streamed, with usage, unless the row says otherwise: else there would be no
    first token to measure."""
    body = dict(row.body)
    if "messages" not in body and "input" in body:
        return "/v1/embeddings", body
    if body.setdefault("stream", True) is True:
        body["stream_options"] = {"include_usage": True, **(body.get("stream_options") or {})}
    return "/v1/completions" if "messages" not in body and "prompt" in body else "/v1/chat/completions", body


def server_figures(headers: CIMultiDictProxy[str]) -> ServerFigures:
    """What the headers of an answer say."""
    return ServerFigures(
        request_id=headers.get("x-request-id"),
        model=headers.get("x-logos-model"),
        provider=headers.get("x-logos-provider"),
        tier=headers.get("x-logos-tier"),
        queue_wait_ms=_number(headers.get("x-logos-queue-ms")),
        predicted_ttft_ms=_number(headers.get("x-logos-predicted-ttft-ms")),
    )


def _number(text: str | None) -> float | None:
    with contextlib.suppress(TypeError, ValueError):
        return float(text)  # type: ignore[arg-type]  # None is one of the two errors
    return None


def _limit_of(error: TimeoutError, target: Target) -> str:
    """Which of the limits it was."""
    if isinstance(error, aiohttp.SocketTimeoutError):
        return f"no byte came for {target.timeout_s:g} s"
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return f"no connection within {CONNECT_TIMEOUT_S:g} s"
    return f"not finished after {target.total_timeout_s:g} s"


def _told(error: aiohttp.ClientError | OSError) -> str:
    """One line for what broke."""
    kind = type(error).__name__
    text = " ".join(str(error).split())[:200]
    return f"{kind}: {text}" if text else kind


async def _sleep_unless(stop: asyncio.Event, seconds: float) -> None:
    """Sleeps, but no longer than until `stop`."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()


async def _finish(tasks: Sequence[asyncio.Task[Exchange]], stop: asyncio.Event) -> None:
    """Waits for all tasks; once `stop` is set, cancels the ones that still run (all have begun by then)."""
    if not tasks:
        return
    stopped = asyncio.create_task(stop.wait())
    everything = asyncio.ensure_future(asyncio.wait(tasks))
    await asyncio.wait([stopped, everything], return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    for task in tasks:
        task.cancel()
    await everything


@contextlib.contextmanager
def _undisturbed(requests: int) -> Iterator[None]:
    """Room for a file per request, and a garbage collector that does not look at what was there before."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = requests + OPEN_FILES_SPARE
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
