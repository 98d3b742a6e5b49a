"""Orders to nodes: each engine command becomes one call of its node, and each call one answer, whatever happens.

A node's actor may die and come back while its engines go on: an order is then given again until it is answered, its
node is gone, or a later order to the same engine has taken its place. Orders are idempotent on the node's side.
Nothing is decided here.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from logos.domain.catalogue import Catalogue
from logos.domain.lifecycle import EngineState
from logos.domain.nouns import EngineSpec
from logos.scheduling.commands import LoadEngine, SleepEngine, StopEngine, WakeEngine
from logos.scheduling.events import EngineSeen

log = logging.getLogger(__name__)

RETRY_S = 0.2

EngineCommand = LoadEngine | SleepEngine | WakeEngine | StopEngine


@dataclass(frozen=True, slots=True)
class EngineOrder:
    """All that a node needs to start an engine."""

    engine_id: str
    endpoint_id: int
    model_name: str
    upstream_model: str
    spec: EngineSpec
    gpu_indices: tuple[int, ...]
    memory_mib: int
    max_parallel: int
    context_length_tokens: int | None


@dataclass(frozen=True, slots=True)
class EngineDone:
    """What came of an order: the state the engine is in, the measured time and memory, its address if it has one."""

    engine_id: str
    state: EngineState
    seconds: float = 0.0
    memory_mib: int = 0
    reason: str = ""
    address: str | None = None


class NodePort(Protocol):
    """A node obeys. Every call answers with what became of the engine, failures included; the same order again joins
    the one under way, or is answered at once. ConnectionError: its actor is away."""

    async def load(self, order: EngineOrder) -> EngineDone: ...

    async def sleep(self, engine_id: str, level: int) -> EngineDone: ...

    async def wake(self, engine_id: str) -> EngineDone: ...

    async def stop(self, engine_id: str) -> EngineDone: ...

    async def release(self) -> None: ...


class Whereabouts(NamedTuple):
    """Where an engine is, and whose it is."""

    node_id: str
    endpoint_id: int


class Orders:
    """The orders under way. `taken` is called once for each that nothing has overtaken, with its answer."""

    def __init__(
        self,
        nodes: Callable[[str], NodePort],
        is_known: Callable[[str], bool],
        taken: Callable[[EngineDone, EngineCommand], None],
        clock: Callable[[], float],
    ) -> None:
        """`is_known`: whether a node (by id) has introduced itself and not been lost since."""
        self._nodes = nodes
        self._is_known = is_known
        self._taken = taken
        self._clock = clock
        self._numbers = itertools.count(1)
        self._newest: dict[str, int] = {}  # by engine id
        self.engines: dict[str, Whereabouts] = {}

    def give(self, command: EngineCommand, catalogue: Catalogue) -> Awaitable[None]:
        """The work of one command, to be run as a task; an earlier order to the same engine is void from now on."""
        if isinstance(command, LoadEngine):
            self.engines[command.engine_id] = Whereabouts(command.node_id, command.endpoint_id)
        number = self._newest[command.engine_id] = next(self._numbers)
        return self._carry_out(command, catalogue, number)

    def seen(self, node_id: str, engines: Iterable[EngineSeen]) -> None:
        """These are the engines of a node that introduces itself, beside those that it has not heard of yet."""
        listed = {engine.engine_id: Whereabouts(node_id, engine.endpoint_id) for engine in engines}
        for engine_id, where in list(self.engines.items()):
            if where.node_id == node_id and engine_id not in listed and engine_id not in self._newest:
                self.forget(engine_id)
        self.engines.update(listed)

    def over(self, engine_id: str) -> None:
        """What became of the engine is known without an answer."""
        self._newest.pop(engine_id, None)

    def forget(self, engine_id: str) -> None:
        """There is no such engine any more."""
        self.over(engine_id)
        self.engines.pop(engine_id, None)

    def forget_node(self, node_id: str) -> None:
        """It is gone with all its engines."""
        for engine_id in [each for each, where in self.engines.items() if where.node_id == node_id]:
            self.forget(engine_id)

    # Inside.

    async def _carry_out(self, command: EngineCommand, catalogue: Catalogue, number: int) -> None:
        engine_id, began = command.engine_id, self._clock()
        try:
            done = await self._ask_until_answered(command, catalogue, number)
        except Exception as error:  # noqa: BLE001 - a task boundary: the failure becomes an answer
            log.warning("engine %s: %s", engine_id, error)
            done = EngineDone(engine_id, EngineState.FAILED, self._clock() - began, reason=str(error))
        if self._newest.get(engine_id) == number:
            self.over(engine_id)
            self._taken(done, command)

    async def _ask_until_answered(self, command: EngineCommand, catalogue: Catalogue, number: int) -> EngineDone:
        """Raises ConnectionError once there is nobody left to ask, or no reason to."""
        while True:
            where = self.engines.get(command.engine_id)
            if where is None:
                raise ConnectionError("nobody knows on which node it is")
            try:
                return await self._ask(self._nodes(where.node_id), command, catalogue)
            except ConnectionError:
                if self._newest.get(command.engine_id) != number or not self._is_known(where.node_id):
                    raise
            await asyncio.sleep(RETRY_S)

    async def _ask(self, node: NodePort, command: EngineCommand, catalogue: Catalogue) -> EngineDone:
        match command:
            case LoadEngine():
                return await node.load(order_of(command, catalogue))
            case SleepEngine(engine_id, level):
                return await node.sleep(engine_id, level)
            case WakeEngine(engine_id):
                return await node.wake(engine_id)
            case StopEngine(engine_id):
                return await node.stop(engine_id)


def order_of(command: LoadEngine, catalogue: Catalogue) -> EngineOrder:
    """What the catalogue says of the engine that shall be loaded. Raises KeyError if it names no such endpoint."""
    endpoint = catalogue.endpoint[command.endpoint_id]
    model = catalogue.model[endpoint.model_id]
    return EngineOrder(
        engine_id=command.engine_id,
        endpoint_id=endpoint.id,
        model_name=model.name,
        upstream_model=endpoint.upstream_model,
        spec=endpoint.engine or EngineSpec(),
        gpu_indices=command.gpu_indices,
        memory_mib=command.memory_mib,
        max_parallel=endpoint.max_parallel,
        context_length_tokens=model.context_length_tokens,
    )
