"""Requests that nobody will end any more: those of gateways that are gone, machine and outbox with them.

What a gateway's outbox holds is closed by whoever finds it, with all that is known. Here are only the rows that have
waited for that in vain; they cost nothing, and should their outbox turn up after all, its word replaces ours.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from logos.storage.ledger_writer import LedgerWriter

log = logging.getLogger(__name__)

SWEEP_INTERVAL_S_MAX = 600.0


class Sweeper:
    """Closes what was accepted `after_s` ago, has no end, and belongs to a gateway that does not live."""

    def __init__(self, database_url: str, after_s: float, gateway_lives: Callable[[str], Awaitable[bool]]) -> None:
        self._writer = LedgerWriter(database_url)
        self._after_s = after_s
        self._gateway_lives = gateway_lives

    async def sweep_for_ever(self) -> None:
        """Not at once: outboxes that a restart of the platform has left are found first."""
        while True:
            await asyncio.sleep(min(self._after_s, SWEEP_INTERVAL_S_MAX))
            try:
                await self.sweep()
            except ConnectionError as error:
                log.warning("requests of dead gateways stay open for now: %s", error)

    async def sweep(self) -> int:
        """How many were closed. Raises ConnectionError; then some may have been."""
        closed = 0
        for gateway_id in await self._writer.gateways_unheard_of(self._after_s):
            if not await self._gateway_lives(gateway_id):
                closed += await self._writer.close_unheard_of(gateway_id, self._after_s)
        if closed:
            log.warning("closed %d requests of dead gateways that nothing was heard of", closed)
        return closed

    async def close(self) -> None:
        await self._writer.close()
