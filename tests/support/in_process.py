"""A whole platform inside one process, without Ray: the same classes, a real Postgres, real engines, real sockets.

For tests that want everything but the cluster. Actors are plain objects here, so a call is a call; what Ray adds
(restarts, lost calls) is tested in tests/acceptance.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import uvicorn

from logos.actors.accounts import Accounts
from logos.actors.classifier import Classifier
from logos.actors.learning import LearnedStore, read_back
from logos.actors.ledger import Ledger
from logos.actors.node import NodeActor, NodeSettings
from logos.actors.orders import NodePort
from logos.actors.scheduler import SchedulerActor
from logos.config import Settings
from logos.domain.nouns import Gpu
from logos.embedding.static import StaticEmbedding
from logos.gateway.app import Gateway
from logos.scheduling.learned import Learned
from logos.scheduling.settings import SchedulerSettings
from logos.storage.feedback_store import FeedbackStore

ROOT_KEY = "lg-root-key-of-a-platform-that-lives-in-one-process"


class SchedulerSwitch:
    """The scheduler as its callers know it: a name behind which another life of the actor may begin."""

    def __init__(self, make: Callable[[Learned | None, bool], SchedulerActor], store: LearnedStore) -> None:
        self._make = make
        self._store = store
        self.current = make(None, False)

    async def replace(self, away_s: float = 0.2) -> None:
        """As after a kill -9: calls fail for a moment, then a new life knows nothing."""
        old, self.current = self.current, None  # type: ignore[assignment]  # away
        await old.close()
        await asyncio.sleep(away_s)
        self.current = self._make(await read_back(self._store), True)
        await self.current.start()

    async def close_current(self) -> None:
        assert (await self.current.state())["events_failed"] == 0, "its core could not take an event: see the log"
        await self.current.close()

    def __getattr__(self, method: str) -> Any:
        current = self.current
        if current is None:
            raise ConnectionError("the scheduler is away")

        async def call(*arguments: Any) -> Any:
            answer = await getattr(current, method)(*arguments)
            if self.current is not current:
                raise ConnectionError("the scheduler died meanwhile")
            return answer

        return call


@dataclasses.dataclass(slots=True)
class InProcessPlatform:
    """Everything by name, for tests that look inside."""

    urls: list[str]  # one a gateway
    root_key: str
    accounts: Accounts
    ledger: Ledger
    scheduler: SchedulerSwitch
    nodes: dict[str, NodeActor]
    gateways: list[Gateway]
    classifier: Classifier | None = None

    @property
    def base_url(self) -> str:
        return self.urls[0]

    async def apply(self, declaration: dict[str, Any]) -> dict[str, Any]:
        result: dict[str, Any] = await self.accounts.administer("apply", declaration)
        return result


@contextlib.asynccontextmanager
async def serve_on_loopback(app: Any) -> AsyncIterator[str]:
    """A real HTTP server around an ASGI app; yields its base URL."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", lifespan="on"))
    task = asyncio.create_task(server.serve())
    while not server.started:
        if task.done():
            await task
            raise RuntimeError("the server did not start")
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await task


@contextlib.asynccontextmanager
async def in_process_platform(
    database_url: str,
    directory: Path,
    *,
    settings: Settings | None = None,
    declaration: dict[str, Any] | None = None,
    gateways: int = 1,
    scheduler_settings: SchedulerSettings | None = None,
    with_classifier: bool = False,
) -> AsyncIterator[InProcessPlatform]:
    """Starts actors, nodes and gateways; stops all of it, engines included, however the block ends."""
    settings = settings or Settings.default_world()
    async with contextlib.AsyncExitStack() as stack:
        accounts = Accounts(database_url)
        await accounts.start()
        stack.push_async_callback(accounts.close)
        ledger = Ledger(database_url)
        stack.push_async_callback(ledger.close)
        bootstrap = {"root_key": ROOT_KEY, "declaration": declaration or settings.declaration.revealed()}
        await _when_ready(lambda: accounts.administer("bootstrap", bootstrap))
        catalogue = (await accounts.watch("test", 0, -1, 0.0)).catalogue
        assert catalogue is not None
        nodes: dict[str, NodeActor] = {}

        def node_port(node_id: str) -> NodePort:
            return nodes[node_id]

        def make_scheduler(learned: Learned | None, restarted: bool) -> SchedulerActor:
            return SchedulerActor(
                scheduler_settings or SchedulerSettings(reconvene_s=1.0),
                accounts,
                node_port,
                journal_directory=directory / "journal",
                journal_store=ledger,
                learned_store=ledger,
                metrics=ledger,
                learned=learned,
                restarted=restarted,
            )

        scheduler = SchedulerSwitch(make_scheduler, ledger)
        await scheduler.current.start()
        stack.push_async_callback(scheduler.close_current)
        pools = {provider.name: provider.id for provider in catalogue.providers}
        for node in settings.nodes:
            actor = NodeActor(
                NodeSettings(
                    node_id=node.name,
                    provider_id=pools[node.provider],
                    gpus=tuple(Gpu(index, int(node.memory_gib * 1024)) for index in range(node.gpus)),
                    host_memory_mib=int(node.host_memory_gib * 1024),
                    simulated=True,
                    simulated_flags=node.pace.flags(),
                    transitions_at_once=node.transitions_at_once,
                    directory=directory / "nodes" / node.name,
                ),
                scheduler,
            )
            nodes[node.name] = actor
            await actor.start()
            stack.push_async_callback(actor.shut_down)
        classifier: Classifier | None = None
        if with_classifier:
            classifier = Classifier("classifier", accounts, StaticEmbedding(), FeedbackStore(database_url))
            await classifier.start()
            stack.push_async_callback(classifier.close)
        made = [
            Gateway(
                gateway_id=f"gateway-{number}",
                settings=settings,
                outbox_dir=directory / "outbox",
                database_url=database_url,
                scheduler=scheduler,
                accounts=accounts,
                ledger=ledger,
                classifier=classifier,
            )
            for number in range(gateways)
        ]
        urls = [await stack.enter_async_context(serve_on_loopback(gateway.asgi)) for gateway in made]
        yield InProcessPlatform(urls, ROOT_KEY, accounts, ledger, scheduler, nodes, made, classifier)


async def _when_ready(call: Any) -> Any:
    while True:
        try:
            return await call()
        except ConnectionError:
            await asyncio.sleep(0.05)
