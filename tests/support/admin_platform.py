"""A platform of accounts and one admin app on a loopback port: everything real but the scheduler and the ledger."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import httpx
import uvicorn
from fastapi import FastAPI

from logos.actors.accounts import Accounts
from logos.gateway import openapi
from logos.gateway.admin import AdminContext, admin_routers
from logos.gateway.auth import KeyDirectory
from logos.gateway.directory import Directory
from logos.gateway.ports import LedgerPort, SchedulerPort
from logos.gateway.rest_errors import add_error_responses
from logos.storage.queries import Queries

ROOT_KEY = "root-key-of-tests"


class StateOnly:
    """Scheduler and ledger, as far as the admin routes ask them."""

    away = False

    async def state(self) -> Mapping[str, Any]:
        if self.away:
            raise ConnectionError("restarting")
        return {"engines": [{"id": "e1", "state": "awake"}]}

    async def status(self) -> Mapping[str, Any]:
        return {"lag_s": 0.0}


@dataclass(slots=True)
class AdminPlatform:
    url: str
    accounts: Accounts
    scheduler: StateOnly
    client: httpx.AsyncClient

    async def ask(self, method: str, path: str, document: object = None, key: str = ROOT_KEY) -> httpx.Response:
        return await self.client.request(method, path, json=document, headers={"authorization": f"Bearer {key}"})


@contextlib.asynccontextmanager
async def running_platform(database_url: str) -> AsyncIterator[AdminPlatform]:
    """With the root key ROOT_KEY and nothing else."""
    accounts, parts, queries = Accounts(database_url), StateOnly(), Queries(database_url)
    await accounts.start()
    await accounts.administer("bootstrap", {"root_key": ROOT_KEY})
    directory = Directory("g1", accounts, KeyDirectory(), time.monotonic, lambda _: None, lambda: None)
    watching = asyncio.create_task(directory.run())
    app = FastAPI(title="Logos")
    add_error_responses(app)
    context = AdminContext(
        accounts=accounts,
        scheduler=cast(SchedulerPort, parts),
        ledger=cast(LedgerPort, parts),
        queries=queries,
        directory=directory,
        body_bytes_max=1024 * 1024,
    )
    for router in admin_routers(context):
        app.include_router(router)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "ledger": {"lag_s": 0.0}}

    openapi.describe(app)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="off"))
    serving = asyncio.create_task(server.serve())
    async with asyncio.timeout(20):
        await directory.ready.wait()
        while not server.started:
            await asyncio.sleep(0.005)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=20) as client:
        yield AdminPlatform(url, accounts, parts, client)
    server.should_exit = True
    await serving
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching
    await accounts.close()
    await queries.close()


@contextlib.contextmanager
def platform_in_a_thread(database_url: str) -> Iterator[str]:
    """The URL of one, for a client that blocks."""
    import threading

    started: list[str] = []
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def live() -> None:
        async with running_platform(database_url) as platform:
            started.append(platform.url)
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(live(),))
    thread.start()
    while not started and thread.is_alive():
        time.sleep(0.01)
    yield started[0]
    loop.call_soon_threadsafe(stop.set)
    thread.join()
    loop.close()
