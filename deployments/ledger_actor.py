"""The ledger as a Ray actor."""

from __future__ import annotations

import msgspec

from deployments.remotes import is_restarted, replica_lives
from logos.actors.ledger import Ledger
from logos.config import LedgerSettings
from logos.domain.records import Record
from logos.telemetry.logs import configure

_decode_records = msgspec.msgpack.Decoder(tuple[Record, ...]).decode


class LedgerOnRay(Ledger):
    """The ledger actor; records arrive encoded, and a restarted one goes on with the metrics of the one before."""

    async def __init__(self, database_url: str, settings: LedgerSettings) -> None:  # type: ignore[misc]  # Ray awaits it
        configure()
        super().__init__(database_url, gateway_lives=replica_lives, restarted=is_restarted(), **settings.model_dump())
        self.begin_sweeping()

    async def append_encoded(self, gateway_id: str, records: bytes) -> frozenset[str]:
        return await self.append(gateway_id, _decode_records(records))
