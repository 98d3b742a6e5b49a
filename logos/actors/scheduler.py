"""The live driver of the scheduler core: calls become events stamped on arrival, commands become tasks.

A plain async class; `deployments` makes it a Ray actor. It owns the core and its journal, and nothing else: no
Postgres, no money, no decision. Handles of other actors come in as callables, so it runs in one process for tests, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import itertools
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from logos.actors.journal import JournalWriter, encode_opening
from logos.actors.learning import LearnedKeeper, LearnedStore
from logos.actors.loops import keep_going
from logos.actors.orders import EngineCommand, EngineDone, NodePort, Orders
from logos.domain.catalogue import Catalogue
from logos.domain.directory import DirectoryUpdate
from logos.domain.errors import StaleEpoch
from logos.domain.lifecycle import EngineState
from logos.domain.nouns import Node
from logos.scheduling.commands import (
    Command,
    Dispatch,
    GrantLease,
    LoadEngine,
    Reject,
    ReleaseNode,
    RequestNodes,
    RevokeLease,
    SleepEngine,
    StopEngine,
    WakeAt,
    WakeEngine,
)
from logos.scheduling.events import (
    CatalogueChanged,
    EngineChanged,
    EngineReported,
    EngineSeen,
    Event,
    GatewayLost,
    NodeLost,
    NodeSeen,
    Woke,
)
from logos.scheduling.learned import Learned
from logos.scheduling.messages import GatewayCommand, GatewayReport, SchedulerReply
from logos.scheduling.replay import JournalOpening, begin
from logos.scheduling.settings import SchedulerSettings
from logos.storage.ledger_writer import JournalEntry
from logos.telemetry.engines import EngineInstruments

log = logging.getLogger(__name__)

HOLDER = "scheduler"
WATCH_WAIT_S = 1.0
GATEWAY_SILENCE_S = 5.0  # then Ray is asked whether it lives
GATEWAY_SILENCE_S_MAX = 30.0  # then it is gone, whatever Ray says
NODE_SILENCE_S = 6.0
JOURNAL_INTERVAL_S = 0.2
LEARNED_INTERVAL_S = 30.0
METRICS_INTERVAL_S = 2.0
TRANSITIONS = {LoadEngine: "load", SleepEngine: "sleep", WakeEngine: "wake", StopEngine: "stop"}
COLLECT_AFTER = 20_000  # objects made and kept
JOURNAL_BATCH = 2_000
JOURNAL_BACKLOG_MAX = 50_000  # beyond it the table has a hole, which its sequence shows; the file has none


class JournalPort(Protocol):
    """Where journals are kept for reports: the ledger. May fail with ConnectionError."""

    async def append_journal(self, epoch: int, entries: Sequence[JournalEntry]) -> None: ...


class MetricsPort(Protocol):
    """Where the figures of all processes are summed: the ledger. May fail with ConnectionError."""

    async def push_metrics(self, gateway_id: str, snapshot: bytes) -> None: ...


class CataloguePort(Protocol):
    """Where the catalogue comes from: accounts."""

    async def watch(self, holder: str, epoch: int, version: int, wait_s: float) -> DirectoryUpdate: ...


@dataclass(slots=True)
class _Gateway:
    """What is kept for one gateway: commands not acknowledged yet, numbered from `first`."""

    heard_at: float
    report_number: int = 0
    first: int = 1
    commands: deque[GatewayCommand] = field(default_factory=deque)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def acknowledge(self, number: int) -> None:
        while self.commands and self.first <= number:
            self.commands.popleft()
            self.first += 1


def collect_garbage_rarely() -> None:
    """For the process that the core lives in. What it keeps of requests that wait are a dozen objects for each, and no
    cycles: looking for these every 700 objects takes a tenth of its time, and going through all of a long queue, which
    follows from it, stops it for a third of a second."""
    gc.set_threshold(COLLECT_AFTER, *gc.get_threshold()[1:])


class SchedulerActor:
    """`report` and `poll` for gateways, `node_seen` and friends for nodes, `state` for people."""

    def __init__(
        self,
        settings: SchedulerSettings,
        accounts: CataloguePort,
        nodes: Callable[[str], NodePort],
        *,
        journal_directory: Path | None = None,
        journal_store: JournalPort | None = None,
        gateway_lives: Callable[[str], Awaitable[bool]] | None = None,
        learned_store: LearnedStore | None = None,
        metrics: MetricsPort | None = None,
        learned: Learned | None = None,
        last_epoch: int = 0,
        restarted: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`restarted`: an earlier life of this actor placed things, so `settings.reconvene_s` holds. `learned` is what
        that life knew, `last_epoch` its epoch: the next one is higher even if the machine's clock was set back."""
        self.epoch = max(time.time_ns() // 1_000_000, last_epoch + 1)
        self._clock = clock
        settings = settings if restarted else dataclasses.replace(settings, reconvene_s=0.0)
        self._accounts = accounts
        self._node_port = nodes
        self._gateway_lives = gateway_lives
        opening = JournalOpening(epoch=self.epoch, catalogue=Catalogue(), settings=settings, learned=learned)
        self._core = begin(opening)
        self._journal = JournalWriter(journal_directory, opening) if journal_directory else None
        self._journal_store = journal_store
        self._journal_backlog: deque[JournalEntry] = deque()
        self._journal_sequence = 1
        self._events_failed = 0
        if journal_store is not None:
            snapshot = encode_opening(opening).decode()
            self._journal_backlog.append(JournalEntry(0, clock(), "snapshot", snapshot, None))
        self._metrics = metrics
        self._instruments = EngineInstruments()
        self._keeper = LearnedKeeper(learned_store, self.epoch) if learned_store is not None else None
        self._gateways: dict[str, _Gateway] = {}
        self._node_heard_at: dict[str, float] = {}
        self._orders = Orders(nodes, self._node_heard_at.__contains__, self._answered, clock)
        self._addresses: dict[str, str] = {}
        self._catalogue = opening.catalogue
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Begins to watch the catalogue, the gateways and the journal. Call once, on the actor's event loop."""
        for loop in (
            self._watch_catalogue,
            self._watch_liveness,
            self._write_journal,
            self._keep_learned,
            self._push_metrics,
        ):
            self._spawn(keep_going(loop))

    async def save(self) -> None:
        """What was learned and journalled goes to the ledger now. What cannot be told is lost."""
        with contextlib.suppress(ConnectionError, TimeoutError):
            await self._store_learned()
            self._gather_journal()
            while self._journal_backlog:
                await self._ship_journal()

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._journal is not None:
            self._journal.close()

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ------------------------------------------------------------------ gateways

    async def report(self, report: GatewayReport) -> SchedulerReply:
        """Raises StaleEpoch if the report is for another start of this actor, or from a gateway declared gone."""
        known = self._gateways.get(report.gateway_id)
        if report.epoch and (report.epoch != self.epoch or known is None):
            raise StaleEpoch
        gateway = known or self._gateways.setdefault(report.gateway_id, _Gateway(self._clock()))
        gateway.heard_at = self._clock()
        gateway.acknowledge(report.acknowledged)
        if report.number > gateway.report_number:
            gateway.report_number = report.number
            for event in report.events:
                self._feed(event)
        return self._reply(gateway)

    async def poll(self, gateway_id: str, epoch: int, acknowledged: int, wait_s: float) -> SchedulerReply:
        """Waits for commands to this gateway, `wait_s` at most."""
        gateway = self._gateways.get(gateway_id)
        if epoch != self.epoch or gateway is None:
            raise StaleEpoch
        gateway.heard_at = self._clock()
        gateway.acknowledge(acknowledged)
        if not gateway.commands:
            gateway.news.clear()
            try:
                async with asyncio.timeout(wait_s):
                    await gateway.news.wait()
            except TimeoutError:
                pass
        return self._reply(gateway)

    async def goodbye(self, gateway_id: str) -> None:
        """A gateway that stopped in good order; it has handed everything back."""
        if self._gateways.pop(gateway_id, None) is not None:
            self._feed(GatewayLost(0.0, gateway_id))

    def _reply(self, gateway: _Gateway) -> SchedulerReply:
        commands = tuple(gateway.commands)
        engines = {
            place.engine_id
            for command in commands
            if (place := _place_of(command)) is not None and place.engine_id is not None
        }
        addresses = tuple((engine, self._addresses[engine]) for engine in engines if engine in self._addresses)
        return SchedulerReply(self.epoch, gateway.first, commands, addresses)

    # ------------------------------------------------------------------ nodes

    async def node_seen(
        self, node: Node, engines: tuple[EngineSeen, ...], addresses: tuple[tuple[str, str], ...]
    ) -> int:
        """A node introduces itself (also after its own or this actor's restart). Returns the epoch."""
        self._node_heard_at[node.id] = self._clock()
        self._addresses.update(addresses)
        self._orders.seen(node.id, engines)
        self._feed(NodeSeen(0.0, node, engines))
        return self.epoch

    async def node_reported(self, node_id: str, epoch: int, reports: tuple[EngineReported, ...]) -> bool:
        """A node's heartbeat with its engines' figures. False: introduce yourself again."""
        if epoch != self.epoch or node_id not in self._node_heard_at:
            return False
        self._node_heard_at[node_id] = self._clock()
        for engine_report in reports:
            self._feed(engine_report)
        return True

    async def engine_failed(self, engine_id: str, reason: str) -> None:
        """An engine ended by itself."""
        self._orders.over(engine_id)
        self._addresses.pop(engine_id, None)
        self._feed(EngineChanged(0.0, engine_id, EngineState.FAILED, reason=reason))

    async def engine_done(self, done: EngineDone) -> None:
        """What came of an order whose giver did not wait: an earlier life of this actor, or one that asks again."""
        self._orders.over(done.engine_id)
        self._answered(done)

    async def node_lost(self, node_id: str) -> None:
        if self._node_heard_at.pop(node_id, None) is not None:
            self._orders.forget_node(node_id)
            self._feed(NodeLost(0.0, node_id))

    # ------------------------------------------------------------------ people

    async def state(self) -> dict[str, Any]:
        """Queues, engines, nodes, leases: plain values for /health and the admin page."""
        summary: dict[str, Any] = dict(self._core.summary())
        summary["epoch"] = self.epoch
        summary["catalogue_version"] = self._catalogue.version
        summary["events_failed"] = self._events_failed
        summary["journal"] = str(self._journal.path) if self._journal else None
        summary["journal_complete"] = self._journal.complete if self._journal else None
        return summary

    async def ping(self) -> int:
        return self.epoch

    # ------------------------------------------------------------------ the driver

    def _feed(self, event: Event) -> None:
        """An event that the core cannot take is lost alone: those that follow it in a report are told once. The journal
        ends before it, for it would not replay."""
        stamped = dataclasses.replace(event, at=self._clock())
        try:
            caused = self._core.handle(stamped)
        except Exception:
            self._events_failed += 1
            log.exception("the scheduler goes on without a %s that it could not take", type(event).__name__)
            if self._journal is not None:
                self._journal.end()
            return
        if self._journal is not None:
            self._journal.append(stamped, caused)
        for command in caused:
            self._perform(command)

    def _perform(self, command: Command) -> None:
        match command:
            case Dispatch() | Reject() | RevokeLease():
                self._send(command.gateway_id, command)
            case GrantLease():
                self._send(command.lease.gateway_id, command)
            case LoadEngine() | SleepEngine() | WakeEngine() | StopEngine():
                self._spawn(self._orders.give(command, self._catalogue))
            case WakeAt():
                asyncio.get_running_loop().call_later(max(0.0, command.at - self._clock()), self._feed, Woke(0.0))
            case ReleaseNode():
                self._spawn(self._release(command.node_id))
            case RequestNodes():
                log.info("wanted: %d GPUs of %d MiB (%s)", command.gpus, command.memory_per_gpu_mib, command.reason)

    def _send(self, gateway_id: str, command: GatewayCommand) -> None:
        gateway = self._gateways.get(gateway_id)
        if gateway is not None:
            gateway.commands.append(command)
            gateway.news.set()

    def _answered(self, done: EngineDone, command: EngineCommand | None = None) -> None:
        """An order was carried out, or failed. `command` None: of an earlier life."""
        self._count(done, command)
        if done.address is not None:
            self._addresses[done.engine_id] = done.address
        elif done.state in (EngineState.COLD, EngineState.FAILED):
            self._addresses.pop(done.engine_id, None)
        if done.state is EngineState.COLD:
            self._orders.forget(done.engine_id)
        self._feed(EngineChanged(0.0, done.engine_id, done.state, done.seconds, done.memory_mib, done.reason))

    def _count(self, done: EngineDone, command: EngineCommand | None) -> None:
        where = self._orders.engines.get(done.engine_id)
        if command is None or where is None or done.state is EngineState.FAILED:
            return
        endpoint = self._catalogue.endpoint.get(where.endpoint_id)
        model = self._catalogue.model.get(endpoint.model_id) if endpoint is not None else None
        if model is not None:
            self._instruments.transition(model.name, TRANSITIONS[type(command)], done.seconds)

    async def _push_metrics(self) -> None:
        while self._metrics is not None:
            self._instruments.states((each["model"], each["state"]) for each in self._core.summary()["engines"])
            with contextlib.suppress(ConnectionError, TimeoutError):
                await self._metrics.push_metrics(f"scheduler-{self.epoch}", self._instruments.snapshot())
            await asyncio.sleep(METRICS_INTERVAL_S)

    async def _release(self, node_id: str) -> None:
        try:
            await self._node_port(node_id).release()
        finally:
            await self.node_lost(node_id)

    # ------------------------------------------------------------------ loops

    async def _watch_catalogue(self) -> None:
        epoch, version = 0, -1
        while True:
            try:
                update = await self._accounts.watch(HOLDER, epoch, version, WATCH_WAIT_S)
            except (ConnectionError, TimeoutError) as error:
                log.warning("the accounts actor is away (%s); keeping catalogue %d", error, self._catalogue.version)
                await asyncio.sleep(0.5)
                continue
            epoch, version = update.epoch, update.version
            if update.catalogue is not None:
                self._catalogue = update.catalogue
                self._feed(CatalogueChanged(0.0, update.catalogue))

    async def _watch_liveness(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            now = self._clock()
            for gateway_id, gateway in list(self._gateways.items()):
                silent_s = now - gateway.heard_at
                if silent_s > GATEWAY_SILENCE_S and not await self._still_lives(gateway_id, silent_s):
                    log.warning("gateway %s is gone", gateway_id)
                    self._gateways.pop(gateway_id, None)
                    self._feed(GatewayLost(0.0, gateway_id))
            for node_id, heard_at in list(self._node_heard_at.items()):
                if now - heard_at > NODE_SILENCE_S:
                    log.warning("node %s is gone", node_id)
                    await self.node_lost(node_id)

    async def _still_lives(self, gateway_id: str, silent_s: float) -> bool:
        if silent_s > GATEWAY_SILENCE_S_MAX or self._gateway_lives is None:
            return False
        return await self._gateway_lives(gateway_id)

    async def _write_journal(self) -> None:
        while self._journal is not None:
            await asyncio.sleep(JOURNAL_INTERVAL_S)
            self._gather_journal()
            with contextlib.suppress(ConnectionError, TimeoutError):  # stays in the backlog
                await self._ship_journal()

    def _gather_journal(self) -> None:
        """What happened goes to the file, and into the line for the table."""
        for line in self._journal.take_pending() if self._journal is not None else ():
            if self._journal_store is not None and len(self._journal_backlog) < JOURNAL_BACKLOG_MAX:
                event, commands = line.event.decode(), line.commands.decode()
                entry = JournalEntry(self._journal_sequence, line.at, line.kind, event, commands)
                self._journal_backlog.append(entry)
            self._journal_sequence += 1

    async def _keep_learned(self) -> None:
        while self._keeper is not None:
            await asyncio.sleep(LEARNED_INTERVAL_S)
            with contextlib.suppress(ConnectionError, TimeoutError):  # the next one will do
                await self._store_learned()

    async def _store_learned(self) -> None:
        if self._keeper is not None:
            await self._keeper.keep(self._core.learned())

    async def _ship_journal(self) -> None:
        batch = list(itertools.islice(self._journal_backlog, JOURNAL_BATCH))
        if self._journal_store is not None and batch:
            await self._journal_store.append_journal(self.epoch, batch)
            for _ in batch:
                self._journal_backlog.popleft()


def _place_of(command: GatewayCommand) -> Any:
    if isinstance(command, Dispatch):
        return command.place
    if isinstance(command, GrantLease):
        return command.lease.place
    return None
