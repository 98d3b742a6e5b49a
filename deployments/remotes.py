"""Actors as their callers see them: a Ray handle behind the protocol that the caller declared.

A Ray error becomes ConnectionError (the actor is away or restarting), an error of our own tree arrives as itself. Light
to import, because every process of the platform does; the actors' own classes are in modules of their own.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import msgspec
import ray
from ray.exceptions import RayError, RayTaskError

from logos.domain.directory import DirectoryUpdate
from logos.domain.leases import QuotaNeed, QuotaRefusal, QuotaSlice, QuotaUse
from logos.domain.records import Record
from logos.scheduling.messages import GatewayReport, SchedulerReply

if TYPE_CHECKING:
    from logos.actors.learning import StoredLearned
    from logos.actors.orders import EngineDone, EngineOrder
    from logos.storage.ledger_writer import JournalEntry

NAMESPACE = "logos"
SCHEDULER = "scheduler"
LEDGER = "ledger"
ACCOUNTS = "accounts"

log = logging.getLogger(__name__)

_encode_records = msgspec.msgpack.Encoder().encode


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
        # Encoded here: pickling thousands of small dataclasses a second costs ten times as much.
        return cast("frozenset[str]", await self.call("append_encoded", gateway_id, _encode_records(records)))

    async def append_journal(self, epoch: int, entries: Sequence[JournalEntry]) -> None:
        await self.call("append_journal", epoch, entries)

    async def store_learned(self, epoch: int, stored: StoredLearned) -> None:
        await self.call("store_learned", epoch, stored)

    async def learned(self) -> StoredLearned | None:
        return cast("StoredLearned | None", await self.call("learned"))

    async def last_epoch(self) -> int:
        return cast(int, await self.call("last_epoch"))

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
        return cast("EngineDone", await self.call("load", order))

    async def sleep(self, engine_id: str, level: int) -> EngineDone:
        return cast("EngineDone", await self.call("sleep", engine_id, level))

    async def wake(self, engine_id: str) -> EngineDone:
        return cast("EngineDone", await self.call("wake", engine_id))

    async def stop(self, engine_id: str) -> EngineDone:
        return cast("EngineDone", await self.call("stop", engine_id))

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


async def replica_lives(gateway_id: str) -> bool:
    """A gateway's id is the name of its replica's actor; Ray forgets the names of dead actors. While Ray cannot say, it
    lives."""
    try:
        ray.get_actor(gateway_id, namespace="serve")
    except ValueError:
        return False
    except RayError as error:
        log.warning("whether gateway %s lives is not known: %s", gateway_id, type(error).__name__)
    return True


def is_restarted() -> bool:
    return bool(ray.get_runtime_context().was_current_actor_reconstructed)
