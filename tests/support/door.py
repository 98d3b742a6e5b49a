"""A gateway's HTTP edges on a real socket, with the shortest flow there can be between them.

Everything between client and upstream that is not scheduling, accounts or records: root, parsing, relay, transport.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import uvicorn

from logos.domain.catalogue import Catalogue
from logos.domain.errors import ClientLeft, LogosError
from logos.gateway.asgi import Root
from logos.gateway.auth import KeyDirectory
from logos.gateway.faults import Fault
from logos.gateway.http import Receive, Scope, Send, headers_of, send_json
from logos.gateway.models import ModelsPage
from logos.gateway.parsing import parse, read_body, upstream_body
from logos.gateway.relay import RelayResult, StreamAnswer, Terms, WholeAnswer, open_answer
from logos.gateway.responses import ServedBy, response_headers
from logos.gateway.sse import ChargeOf
from logos.gateway.watch import ClientWatch
from logos.providers.transport import AiohttpTransport, Target, Transport, TransportLimits


@dataclass
class ShortFlow:
    """Parse, open, relay: one attempt after the other over `targets`. `results` is what became of each request."""

    targets: list[Target]
    transport: Transport
    charge_of: ChargeOf | None = None
    keep_bytes_max: int = 0
    body_bytes_max: int = 1_000_000
    results: list[RelayResult | Fault | LogosError] = field(default_factory=list)
    relayed: set[str] = field(default_factory=set)

    async def serve(self, scope: Scope, receive: Receive, send: Send, capability: str, request_id: str) -> None:
        try:
            await self._serve(scope, receive, send, capability, request_id)
        except ClientLeft as error:
            if request_id not in self.relayed:
                self.results.append(error)
            raise

    async def _serve(self, scope: Scope, receive: Receive, send: Send, capability: str, request_id: str) -> None:
        headers = headers_of(scope)
        raw = await read_body(receive, headers, self.body_bytes_max)
        parsed = parse(capability, raw, headers)
        terms = Terms(parsed.stream, parsed.usage_is_forced, self.charge_of, self.keep_bytes_max)
        with ClientWatch(receive):
            for target in self.targets:
                body = upstream_body(parsed, "upstream")
                answer = await open_answer(self.transport, target, body, terms, time.time)
                if not isinstance(answer, Fault):
                    break
                self.results.append(answer)
                if not answer.may_retry:
                    break
            if isinstance(answer, Fault):
                raise answer.error
            self.relayed.add(request_id)
            await self._relay(answer, send)

    async def _relay(self, answer: WholeAnswer | StreamAnswer, send: Send) -> None:
        charge = answer.charge if isinstance(answer, WholeAnswer) else None
        served_by = ServedBy("m", "somebody", "remote", 0.5, 0.1, len(self.results) + 1, charge=charge)
        result = await answer.relay(send, response_headers(answer.headers, served_by, None), time.time)
        self.results.append(result)
        if result.cancelled:
            raise asyncio.CancelledError


@dataclass
class DirectoryStandIn:
    """A catalogue and keys that do not change."""

    catalogue: Catalogue = field(default_factory=Catalogue)
    keys: KeyDirectory = field(default_factory=KeyDirectory)
    confirmed_at: float = 0.0


@dataclass
class Door:
    """A running one."""

    flow: ShortFlow
    root: Root
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def result(self, number: int = 1, within_s: float = 2.0) -> RelayResult | Fault | LogosError:
        """The `number`th thing that became of an attempt, once it is there."""
        async with asyncio.timeout(within_s):
            while len(self.flow.results) < number:
                await asyncio.sleep(0.005)
        return self.flow.results[number - 1]


async def app_behind(scope: Scope, receive: Receive, send: Send) -> None:
    """Stands where FastAPI stands."""
    if scope["path"] == "/broken":
        raise ZeroDivisionError("a secret")
    await send_json(send, {"behind": scope["path"]})


@contextlib.asynccontextmanager
async def door(
    *targets: Target,
    limits: TransportLimits | None = None,
    directory: DirectoryStandIn | None = None,
    charge_of: ChargeOf | None = None,
    keep_bytes_max: int = 0,
    transport: Transport | None = None,
) -> AsyncIterator[Door]:
    """Runs one in this process, on a free port."""
    own_transport = AiohttpTransport(limits or TransportLimits(1.0, 2.0, 1.0, 10.0))
    flow = ShortFlow(list(targets), transport or own_transport, charge_of, keep_bytes_max)
    page = ModelsPage(directory or DirectoryStandIn(), stale_after_s=5.0, clock=lambda: 0.0, wall_clock=lambda: 0.0)
    root = Root(flow, page, app_behind)
    server = uvicorn.Server(uvicorn.Config(root, port=0, log_level="warning", lifespan="off", http="httptools"))
    running = asyncio.create_task(server.serve())
    try:
        while not server.started:
            await asyncio.sleep(0.005)
        yield Door(flow, root, server.servers[0].sockets[0].getsockname()[1])
    finally:
        server.should_exit = server.force_exit = True
        await running
        await own_transport.close()
