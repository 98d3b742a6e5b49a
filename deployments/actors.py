"""The Ray actors: the plain classes of `logos.actors` given a name, a restart policy and handles of each other.

Also the ports: a Ray handle behind the protocol that its caller declared. A Ray error becomes ConnectionError (the
actor is away or restarting), an error of our own tree arrives as itself. No logic beyond that may live here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import ray
from ray.exceptions import RayError, RayTaskError

from logos.actors.accounts import Accounts
from logos.actors.node import NodeActor, NodeSettings
from logos.actors.scheduler import EngineDone, EngineOrder, SchedulerActor
from logos.domain.directory import DirectoryUpdate
from logos.domain.leases import QuotaNeed, QuotaRefusal, QuotaSlice, QuotaUse
from logos.domain.records import Record
from logos.scheduling.messages import GatewayReport, SchedulerReply
from logos.scheduling.settings import SchedulerSettings
from logos.storage.ledger_writer import JournalEntry

NAMESPACE = "logos"
SCHEDULER = "scheduler"
LEDGER = "ledger"
ACCOUNTS = "accounts"


def node_actor_name(node_id: str) -> str:
    return f"node:{node_id}"


class RemoteActor:
    """A named actor, looked up when first needed and again after it was gone for good."""

    def __init__(self, name: str, namespace: str = NAMESPACE) -> None:
        self._name = name
        self._namespace = namespace
        self._handle: Any = None

    async def call(self, method: str, *arguments: Any) -> Any:
        """Raises ConnectionError if the actor is away, or the LogosError that its method raised."""
        try:
            if self._handle is None:
                self._handle = ray.get_actor(self._name, namespace=self._namespace)
            return await getattr(self._handle, method).remote(*arguments)
        except RayTaskError as error:
            raise (error.cause if isinstance(error.cause, Exception) else error) from None
        except (RayError, ValueError) as error:
            self._handle = None
            raise ConnectionError(f"actor {self._name} is away: {type(error).__name__}") from None


class SchedulerRemote(RemoteActor):
    """gateway.ports.SchedulerPort over Ray."""

    def __init__(self) -> None:
        super().__init__(SCHEDULER)

    async def report(self, report: GatewayReport) -> SchedulerReply:
        return cast(SchedulerReply, await self.call("report", report))

    async def poll(self, gateway_id: str, epoch: int, acknowledged: int, wait_s: float) -> SchedulerReply:
        return cast(SchedulerReply, await self.call("poll", gateway_id, epoch, acknowledged, wait_s))

    async def state(self) -> Mapping[str, Any]:
        return cast(Mapping[str, Any], await self.call("state"))

    async def goodbye(self, gateway_id: str) -> None:
        await self.call("goodbye", gateway_id)


class AccountsRemote(RemoteActor):
    """gateway.ports.AccountsPort over Ray."""

    def __init__(self) -> None:
        super().__init__(ACCOUNTS)

    async def watch(self, holder: str, epoch: int, version: int, wait_s: float) -> DirectoryUpdate:
        return cast(DirectoryUpdate, await self.call("watch", holder, epoch, version, wait_s))

    async def quota(
        self, gateway_id: str, needs: tuple[QuotaNeed, ...], uses: tuple[QuotaUse, ...]
    ) -> tuple[QuotaSlice | QuotaRefusal, ...]:
        return cast("tuple[QuotaSlice | QuotaRefusal, ...]", await self.call("quota", gateway_id, needs, uses))

    async def administer(self, operation: str, arguments: Mapping[str, Any]) -> Any:
        return await self.call("administer", operation, arguments)


class LedgerRemote(RemoteActor):
    """gateway.ports.LedgerPort over Ray."""

    def __init__(self) -> None:
        super().__init__(LEDGER)

    async def append(self, gateway_id: str, records: tuple[Record, ...]) -> frozenset[str]:
        return cast("frozenset[str]", await self.call("append", gateway_id, records))

    async def append_journal(self, epoch: int, entries: Sequence[JournalEntry]) -> None:
        await self.call("append_journal", epoch, entries)

    async def push_metrics(self, gateway_id: str, snapshot: bytes) -> None:
        await self.call("push_metrics", gateway_id, snapshot)

    async def metrics(self) -> bytes:
        return cast(bytes, await self.call("metrics"))

    async def status(self) -> Mapping[str, Any]:
        return cast(Mapping[str, Any], await self.call("status"))


class NodeRemote(RemoteActor):
    """actors.scheduler.NodePort over Ray."""

    def __init__(self, node_id: str) -> None:
        super().__init__(node_actor_name(node_id))

    async def load(self, order: EngineOrder) -> EngineDone:
        return cast(EngineDone, await self.call("load", order))

    async def sleep(self, engine_id: str, level: int) -> EngineDone:
        return cast(EngineDone, await self.call("sleep", engine_id, level))

    async def wake(self, engine_id: str) -> EngineDone:
        return cast(EngineDone, await self.call("wake", engine_id))

    async def stop(self, engine_id: str) -> EngineDone:
        return cast(EngineDone, await self.call("stop", engine_id))

    async def release(self) -> None:
        await self.call("release")


class SchedulerForNodes(RemoteActor):
    """actors.node.SchedulerPort over Ray."""

    def __init__(self) -> None:
        super().__init__(SCHEDULER)

    def __getattr__(self, method: str) -> Any:
        def bound(*arguments: Any) -> Awaitable[Any]:
            return self.call(method, *arguments)

        return bound


async def _replica_lives(gateway_id: str) -> bool:
    """A gateway's id is the name of its replica's actor; Ray forgets the names of dead actors."""
    try:
        ray.get_actor(gateway_id, namespace="serve")
    except ValueError:
        return False
    return True


def _restarted() -> bool:
    return bool(ray.get_runtime_context().was_current_actor_reconstructed)


class SchedulerOnRay(SchedulerActor):
    """The scheduler actor; a restarted one waits for gateways and nodes to re-report before it places anything."""

    async def __init__(self, settings: SchedulerSettings, journal_directory: Path) -> None:  # type: ignore[misc]
        super().__init__(
            settings,
            AccountsRemote(),
            NodeRemote,
            journal_directory=journal_directory,
            journal_store=LedgerRemote(),
            gateway_lives=_replica_lives,
            restarted=_restarted(),
        )
        await self.start()


class AccountsOnRay(Accounts):
    """The accounts actor."""

    async def __init__(self, database_url: str, quota_ttl_s: float, settle_s: float) -> None:  # type: ignore[misc]
        super().__init__(
            database_url,
            quota_ttl_s=quota_ttl_s,
            settle_s=settle_s if _restarted() else 0.0,
            gateway_lives=_replica_lives,
        )
        await self.start()

    async def ping(self) -> int:
        return self.epoch


class NodeOnRay(NodeActor):
    """The actor of one GPU node. It holds the node's GPUs in Ray's accounting, so nobody else is given them."""

    async def __init__(self, settings: NodeSettings) -> None:  # type: ignore[misc]
        super().__init__(settings, SchedulerForNodes())
        await self.start()


def create(cls: type, name: str, *arguments: Any, num_gpus: float = 0, **options: Any) -> Any:
    """Creates a named, detached, restartable actor, or finds the one that is already there."""
    remote = ray.remote(cls)
    return remote.options(
        name=name,
        namespace=NAMESPACE,
        lifetime="detached",
        max_restarts=-1,
        get_if_exists=True,
        max_concurrency=10_000,
        num_cpus=0,
        num_gpus=num_gpus,
    ).remote(*arguments, **options)
