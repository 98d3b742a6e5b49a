"""What this gateway knows of catalogue, keys and providers: kept fresh by one long-poll to the accounts actor.

Asking for the next version acknowledges the one held, which is how a revocation is known to have arrived. Recalled
quota slices come the same way. Nothing is decided here, and nothing is read from the database.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from logos.domain.catalogue import Catalogue
from logos.domain.directory import DirectoryUpdate, ProviderAccess
from logos.domain.errors import LogosError
from logos.gateway.auth import KeyDirectory
from logos.gateway.ports import AccountsPort

log = logging.getLogger(__name__)

WATCH_WAIT_S = 1.0
RETRY_WAIT_S = 0.2


class Directory:
    """`catalogue`, `keys` and `access` are replaced whole, so a request that holds one keeps a consistent view."""

    def __init__(
        self,
        gateway_id: str,
        accounts: AccountsPort,
        keys: KeyDirectory,
        clock: Callable[[], float],
        on_recall: Callable[[tuple[str, ...]], None],
        on_restart: Callable[[], None],
    ) -> None:
        self.catalogue = Catalogue()
        self.access: dict[int, ProviderAccess] = {}
        self.salt = b""
        self.keys = keys
        self.confirmed_at = float("-inf")
        self._gateway_id = gateway_id
        self._accounts = accounts
        self._clock = clock
        self._on_recall = on_recall
        self._on_restart = on_restart
        self._epoch = 0
        self._version = -1
        self.ready = asyncio.Event()

    async def run(self) -> None:
        """Watches until cancelled."""
        while True:
            sent_at = self._clock()
            try:
                update = await self._accounts.watch(self._gateway_id, self._epoch, self._version, WATCH_WAIT_S)
            except (ConnectionError, TimeoutError, LogosError) as error:
                log.warning("the accounts actor is away: %s", error)
                await asyncio.sleep(RETRY_WAIT_S)
                continue
            self.take_in(update)
            # Counted from when the question was sent: what was true then is what is confirmed.
            self.confirmed_at = max(self.confirmed_at, sent_at)
            self.ready.set()

    def take_in(self, update: DirectoryUpdate) -> None:
        """Applies one update; a full one replaces everything."""
        if update.catalogue is not None:
            self.catalogue = update.catalogue
        if update.access is not None:
            self.access = {access.provider_id: access for access in update.access}
        if update.full:
            self.keys.replace(update.keys)
            self.salt = update.salt.encode()
        elif update.keys or update.removed_key_ids:
            self.keys.update(update.keys, update.removed_key_ids)
        restarted = self._epoch not in (0, update.epoch)
        self._epoch, self._version = update.epoch, update.version
        if restarted:
            self._on_restart()
        if update.recalls:
            self._on_recall(update.recalls)

    @property
    def version(self) -> int:
        return self._version
