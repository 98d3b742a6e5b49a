"""The accounts actor as a Ray actor."""

from __future__ import annotations

from deployments.remotes import is_restarted, replica_lives
from logos.actors.accounts import Accounts
from logos.telemetry.logs import configure


class AccountsOnRay(Accounts):
    """The accounts actor."""

    async def __init__(self, database_url: str, quota_ttl_s: float, settle_s: float) -> None:  # type: ignore[misc]  # Ray awaits it
        configure()
        super().__init__(
            database_url,
            quota_ttl_s=quota_ttl_s,
            settle_s=settle_s if is_restarted() else 0.0,
            gateway_lives=replica_lives,
        )
        await self.start()

    async def ping(self) -> int:
        return self.epoch
