"""One gateway: its parts put together, started and stopped in order, and its ASGI app.

The composition of a replica, with every port given from outside; it runs on Ray Serve and in a plain process alike. The
parts' rules are their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from logos.config import Settings
from logos.domain.errors import LogosError
from logos.domain.records import Charge, Opening
from logos.gateway.admission import Admission
from logos.gateway.asgi import Root, with_cors
from logos.gateway.auth import KeyDirectory, is_stale
from logos.gateway.client_address import TrustedProxies
from logos.gateway.directory import Directory
from logos.gateway.flow import Flow, FlowSettings
from logos.gateway.http import ASGIApp
from logos.gateway.models import ModelsPage
from logos.gateway.outbox import Outbox
from logos.gateway.placement import Placement
from logos.gateway.ports import AccountsPort, ClassifierPort, LedgerPort, SchedulerPort
from logos.gateway.resolution import Resolution
from logos.gateway.settlement import Settlement
from logos.gateway.shipper import Shipper
from logos.providers.transport import AiohttpTransport, TransportLimits
from logos.storage.queries import Queries
from logos.telemetry.metrics import Instruments

log = logging.getLogger(__name__)

READY_WAIT_S = 30.0
HEALTH_WAIT_S = 2.0
CLASSIFIER_GREETINGS_MAX = 30  # until the first answer of the classifier, while the platform starts


class Gateway:
    """One door. `asgi` is what a server serves; its lifespan starts and stops everything."""

    def __init__(
        self,
        *,
        gateway_id: str,
        settings: Settings,
        outbox_dir: Path,
        database_url: str,
        scheduler: SchedulerPort,
        accounts: AccountsPort,
        ledger: LedgerPort,
        classifier: ClassifierPort | None = None,
        request_id_from_outside: bool = False,
        front: Sequence[str] = (),
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.gateway_id = gateway_id
        self.settings = settings
        self.scheduler, self.accounts, self.ledger, self.classifier = scheduler, accounts, ledger, classifier
        self.resolution = Resolution(classifier, settings.classifier.wait_ms / 1000, clock, wall_clock)
        self.queries = Queries(database_url)
        self._clock, self._wall_clock = clock, wall_clock
        self._tasks: list[asyncio.Task[Any]] = []  # end never; `_passing` do
        self._passing: list[asyncio.Task[None]] = []
        self.instruments = Instruments()
        self.keys = KeyDirectory()
        self.admission = Admission(gateway_id, accounts, clock)
        self.directory = Directory(
            gateway_id, accounts, self.keys, clock, self.admission.recall, self.admission.reintroduce
        )
        self.placement = Placement(gateway_id, scheduler, clock)
        self.outbox = Outbox(outbox_dir, gateway_id, size_bytes_max=settings.gateway.outbox_bytes_max)
        self.settlement = Settlement(gateway_id, self.outbox, self.instruments, clock)
        self.shipper = Shipper(
            self.outbox,
            outbox_dir,
            gateway_id,
            ledger,
            self._charge_interrupted,
            interval_s=settings.gateway.ship_interval_ms / 1000,
            clock=wall_clock,
        )
        # Every setting is a limit of the same name.
        self._transport = AiohttpTransport(TransportLimits(**settings.upstream.model_dump()))
        self.flow = Flow(
            settings=_flow_settings(settings),
            directory=self.directory,
            resolution=self.resolution,
            admission=self.admission,
            placement=self.placement,
            outbox=self.outbox,
            settlement=self.settlement,
            instruments=self.instruments,
            transport=self._transport,
            proxies=TrustedProxies(settings.server.trusted_proxies, front),
            clock=clock,
            wall_clock=wall_clock,
        )
        self.asgi: ASGIApp = self._build_asgi(id_is_given=request_id_from_outside)

    def _build_asgi(self, *, id_is_given: bool) -> ASGIApp:
        from logos.gateway.pages import build_pages

        models = ModelsPage(
            self.directory,
            stale_after_s=self.settings.gateway.directory_stale_s,
            clock=self._clock,
            wall_clock=self._wall_clock,
        )
        pages = build_pages(self)
        root = Root(self.flow, models, pages, id_is_given=id_is_given)
        app: ASGIApp = with_cors(root, self.settings.server.cors_origins)
        return app

    # ------------------------------------------------------------------ life

    @contextlib.asynccontextmanager
    async def lifespan(self, _: object = None) -> AsyncIterator[None]:
        """Starts the loops, waits for the directory, and at the end hands everything back."""
        await self.start()
        try:
            yield
        finally:
            await self.close()

    async def start(self) -> None:
        """Raises TimeoutError if the accounts actor does not answer."""
        for name, loop in (
            ("directory", self.directory.run()),
            ("admission", self.admission.run()),
            ("shipper", self.shipper.run()),
            ("progress", self._note_progress_for_ever()),
            ("metrics", self._push_metrics_for_ever()),
        ):
            self._tasks.append(asyncio.create_task(loop, name=name))
        self._passing.append(asyncio.create_task(self._meet_classifier()))
        await self.placement.start()
        async with asyncio.timeout(READY_WAIT_S):
            await self.directory.ready.wait()

    async def close(self) -> None:
        """Hands back leases and quota and ships what is left. What still runs has had its grace before this."""
        tasks = [*self._tasks, *self._passing]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.placement.close()
        await self.admission.close()
        await self.shipper.flush()
        with contextlib.suppress(ConnectionError, TimeoutError, LogosError):
            async with asyncio.timeout(HEALTH_WAIT_S):
                await self._push_metrics()
        self.outbox.dispose()
        await self._transport.close()
        await self.queries.close()

    # ------------------------------------------------------------------ health

    @property
    def is_ready(self) -> bool:
        """Able to accept requests: keys are known and confirmed."""
        confirmed_at = self.directory.confirmed_at
        stale = is_stale(self._clock(), confirmed_at, self.settings.gateway.directory_stale_s)
        return not stale and not self.outbox.is_full

    def check_health(self) -> None:
        """Raises if a loop ended that must never end."""
        for task in self._tasks:
            if task.done() and not task.cancelled():
                raise RuntimeError(f"the gateway's {task.get_name()} loop ended: {task.exception()!r}")

    def figures(self) -> dict[str, Any]:
        """This replica's own state, for /health."""
        return {
            "gateway": self.gateway_id,
            "in_flight": self.flow.in_flight,
            "placement": self.placement.figures(),
            "quota_idle": self.admission.idle,
            "outbox_records": self.outbox.records,
            "ledger_lag_s": round(self.shipper.lag_s, 3),
            "ledger_error": self.shipper.last_error,
            "catalogue_version": self.directory.catalogue.version,
        }

    async def health(self) -> dict[str, Any]:
        """Every part and whether it answers. Never raises."""
        scheduler = await self._part(self.scheduler.state())
        ledger = await self._part(self.ledger.status())
        # Away without harm, so it does not make the platform degraded.
        classifier = {} if self.classifier is None else await self._part(self.classifier.status())
        well = self.is_ready and "error" not in scheduler and "error" not in ledger
        return {
            "status": "ok" if well else "degraded",
            "gateway": self.figures(),
            "scheduler": scheduler,
            "ledger": ledger,
            "classifier": classifier,
            "accounts": {"confirmed_s_ago": round(self._clock() - self.directory.confirmed_at, 2)},
        }

    async def _part(self, call: Any) -> Mapping[str, Any]:
        try:
            async with asyncio.timeout(HEALTH_WAIT_S):
                found: Mapping[str, Any] = await call
                return found
        except (ConnectionError, TimeoutError, LogosError) as error:
            return {"error": f"does not answer ({type(error).__name__})"}

    async def metrics(self) -> bytes:
        """Prometheus text for the whole platform; this replica's figures are pushed first, so that they are fresh."""
        await self._push_metrics()
        return await self.ledger.metrics()

    # ------------------------------------------------------------------ loops

    async def _meet_classifier(self) -> None:
        """The first call through a handle of Serve takes seconds, so it is not left to a request."""
        if self.classifier is None:
            return
        for _ in range(CLASSIFIER_GREETINGS_MAX):
            if "error" not in await self._part(self.classifier.status()):
                return
            await asyncio.sleep(HEALTH_WAIT_S)

    async def _note_progress_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self.settings.gateway.progress_interval_ms / 1000)
            self.flow.note_progress()

    async def _push_metrics_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self.settings.gateway.metrics_interval_s)
            with contextlib.suppress(ConnectionError, TimeoutError, LogosError):
                await self._push_metrics()

    async def _push_metrics(self) -> None:
        instruments = self.instruments
        instruments.in_flight(self.flow.in_flight)
        instruments.outbox(self.outbox.records, self.outbox.size_bytes, self.shipper.lag_s)
        instruments.steps(self.flow.steps.take())
        await self.ledger.push_metrics(self.gateway_id, instruments.snapshot())

    def _charge_interrupted(self, opening: Opening, usage: Mapping[str, int]) -> Charge:
        return self.settlement.charge_interrupted(self.directory.catalogue, opening, usage)


def _flow_settings(settings: Settings) -> FlowSettings:
    return FlowSettings(
        body_bytes_max=settings.server.body_bytes_max,
        queue_timeout_s=settings.scheduler.queue_timeout_s,
        attempts_max=settings.gateway.attempts_max,
        directory_stale_s=settings.gateway.directory_stale_s,
        hedges=settings.scheduler.hedge_share > 0,
    )
