"""What a gateway needs of the actors, as protocols: bound to Ray handles in production, to plain objects in tests.

The classes of `logos.actors` satisfy them as they are. Every call may fail with `ConnectionError` (the actor is away;
it is restarting), which callers must expect, or with an error of the `LogosError` tree.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from logos.classification.meaning import Meaning
from logos.domain.directory import DirectoryUpdate
from logos.domain.leases import QuotaNeed, QuotaRefusal, QuotaSlice, QuotaUse
from logos.domain.records import Record
from logos.scheduling.messages import GatewayReport, SchedulerReply


class SchedulerPort(Protocol):
    """The one brain. `report` answers at once; `poll` waits up to `wait_s` for commands to this gateway."""

    async def report(self, report: GatewayReport) -> SchedulerReply: ...

    async def poll(self, gateway_id: str, epoch: int, acknowledged: int, wait_s: float) -> SchedulerReply: ...

    async def state(self) -> Mapping[str, Any]: ...


class AccountsPort(Protocol):
    """Catalogue, keys and quota. `watch` waits up to `wait_s` for a version newer than `version`."""

    async def watch(self, holder: str, epoch: int, version: int, wait_s: float) -> DirectoryUpdate: ...

    async def quota(
        self, gateway_id: str, needs: tuple[QuotaNeed, ...], uses: tuple[QuotaUse, ...]
    ) -> tuple[QuotaSlice | QuotaRefusal, ...]: ...

    async def administer(self, operation: str, arguments: Mapping[str, Any]) -> Any: ...


class LedgerPort(Protocol):
    """Records on their way to Postgres. `append` returns the ids that are safely stored; the rest is sent again."""

    async def append(self, gateway_id: str, records: tuple[Record, ...]) -> frozenset[str]: ...

    async def push_metrics(self, gateway_id: str, snapshot: bytes) -> None: ...

    async def metrics(self) -> bytes: ...

    async def status(self) -> Mapping[str, Any]: ...


class ClassifierPort(Protocol):
    """What a prompt means for each model, and what votes on answers teach (`actors.classifier`)."""

    async def meaning(self, prompt: str, model_ids: tuple[int, ...], request_id: str = "") -> Meaning: ...

    async def vote(
        self, request_id: str, key_id: int, model_id: int, good: bool | None, prompt: str | None = None
    ) -> Mapping[str, Any]: ...

    async def status(self) -> Mapping[str, Any]: ...
