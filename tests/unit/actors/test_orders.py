"""Orders to nodes whose actors come and go. The node is scripted; the clock is the machine's."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from logos.actors.orders import EngineDone, EngineOrder, Orders
from logos.domain.catalogue import Catalogue
from logos.domain.lifecycle import EngineState
from logos.domain.nouns import Endpoint, EngineSpec, Model, Privacy
from logos.scheduling.commands import LoadEngine, SleepEngine, StopEngine
from logos.scheduling.events import EngineSeen

CATALOGUE = Catalogue(
    version=1,
    models=(Model(1, "m", context_length_tokens=4096),),
    endpoints=(Endpoint(7, 1, 1, Privacy.LOCAL, "m", 5, engine=EngineSpec(memory_mib=100)),),
)
SEEN = EngineSeen("e", 7, (0,), EngineState.AWAKE, 100)
ASLEEP = EngineDone("e", EngineState.ASLEEP, 1.5)


class Node:
    """Answers each order with the next of `script`: an answer, or an error to raise."""

    def __init__(self, *script: EngineDone | Exception) -> None:
        self.script = list(script)
        self.orders: list[str] = []
        self.loaded: list[EngineOrder] = []
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def _next(self, what: str) -> EngineDone:
        self.orders.append(what)
        await self.go_on.wait()
        found = self.script.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    async def load(self, order: EngineOrder) -> EngineDone:
        self.loaded.append(order)
        return await self._next("load")

    async def sleep(self, engine_id: str, level: int) -> EngineDone:
        return await self._next("sleep")

    async def wake(self, engine_id: str) -> EngineDone:
        return await self._next("wake")

    async def stop(self, engine_id: str) -> EngineDone:
        return await self._next("stop")

    async def release(self) -> None:
        raise AssertionError("nobody asked for it")


def orders_to(node: Node, taken: list[EngineDone], is_known: Callable[[str], bool] = lambda _: True) -> Orders:
    made = Orders(lambda _: node, is_known, lambda done, _: taken.append(done), time.monotonic)
    made.seen("n", (SEEN,))
    return made


async def test_an_order_is_given_again_until_the_node_is_back() -> None:
    node, taken = Node(ConnectionError("away"), ConnectionError("away"), ASLEEP), list[EngineDone]()
    await orders_to(node, taken).give(SleepEngine("e"), CATALOGUE)
    assert node.orders == ["sleep"] * 3
    assert taken == [ASLEEP]


async def test_an_order_to_a_node_that_is_lost_has_failed() -> None:
    node, taken = Node(ConnectionError("away")), list[EngineDone]()
    await orders_to(node, taken, lambda _: False).give(SleepEngine("e"), CATALOGUE)
    assert [(each.state, each.reason) for each in taken] == [(EngineState.FAILED, "away")]


async def test_an_order_to_an_engine_that_nobody_knows_has_failed() -> None:
    taken: list[EngineDone] = []
    orders = orders_to(Node(), taken)
    await orders.give(StopEngine("stranger"), CATALOGUE)
    assert [(each.engine_id, each.state) for each in taken] == [("stranger", EngineState.FAILED)]


async def test_a_later_order_voids_the_answer_to_an_earlier_one() -> None:
    node, taken = Node(EngineDone("e", EngineState.COLD), ASLEEP), list[EngineDone]()
    orders = orders_to(node, taken)
    node.go_on.clear()
    earlier = asyncio.ensure_future(orders.give(SleepEngine("e"), CATALOGUE))
    later = asyncio.ensure_future(orders.give(StopEngine("e"), CATALOGUE))
    await asyncio.sleep(0)
    node.go_on.set()
    await asyncio.gather(earlier, later)
    assert len(taken) == 1


async def test_what_is_known_otherwise_is_not_asked_again() -> None:
    node, taken = Node(ConnectionError("away"), ASLEEP), list[EngineDone]()
    orders = orders_to(node, taken)
    giving = asyncio.ensure_future(orders.give(SleepEngine("e"), CATALOGUE))
    await asyncio.sleep(0.05)
    orders.over("e")
    await giving
    await asyncio.sleep(0.3)
    assert node.orders == ["sleep", "sleep"] or node.orders == ["sleep"]
    assert taken == []


async def test_the_engines_of_a_lost_node_are_forgotten_and_so_are_those_it_no_longer_has() -> None:
    orders = orders_to(Node(), [])
    orders.seen("n", (EngineSeen("f", 7, (0,), EngineState.AWAKE, 100),))
    assert set(orders.engines) == {"f"}
    orders.forget_node("n")
    assert orders.engines == {}


async def test_a_load_says_all_that_the_node_needs() -> None:
    node, taken = Node(EngineDone("n/m/1", EngineState.AWAKE)), list[EngineDone]()
    await orders_to(node, taken).give(LoadEngine("n/m/1", 7, "n", (0, 1), 100), CATALOGUE)
    [order] = node.loaded
    assert (order.model_name, order.gpu_indices, order.max_parallel) == ("m", (0, 1), 5)
    assert (order.context_length_tokens, order.spec.memory_mib) == (4096, 100)
