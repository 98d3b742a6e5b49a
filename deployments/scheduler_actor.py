"""The scheduler as a Ray actor."""

from __future__ import annotations

import asyncio
from pathlib import Path

from deployments.remotes import AccountsRemote, LedgerRemote, NodeRemote, is_restarted, replica_lives
from logos.actors.journal import last_epoch_in
from logos.actors.learning import last_epoch, read_back
from logos.actors.scheduler import SchedulerActor, collect_garbage_rarely
from logos.scheduling.settings import SchedulerSettings
from logos.telemetry.logs import configure


class SchedulerOnRay(SchedulerActor):
    """The scheduler actor; a restarted one waits for gateways and nodes to re-report before it places anything."""

    async def __init__(self, settings: SchedulerSettings, journal_directory: Path | None) -> None:  # type: ignore[misc]  # Ray awaits it
        configure()
        collect_garbage_rarely()
        ledger = LedgerRemote()
        learned, epoch = await asyncio.gather(read_back(ledger), last_epoch(ledger))
        super().__init__(
            settings,
            AccountsRemote(),
            NodeRemote,
            journal_directory=journal_directory,
            journal_store=ledger,
            learned_store=ledger,
            metrics=ledger,
            learned=learned,
            last_epoch=max(epoch, last_epoch_in(journal_directory) if journal_directory is not None else 0),
            gateway_lives=replica_lives,
            restarted=is_restarted(),
        )
        await self.start()
