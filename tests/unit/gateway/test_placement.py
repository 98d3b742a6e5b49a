"""A gateway's side of placing: leases, grants, lost messages, restarts. The scheduler behind is the real one."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from logos.actors.orders import NodePort
from logos.actors.scheduler import SchedulerActor
from logos.domain.catalogue import Catalogue
from logos.domain.directory import DirectoryUpdate
from logos.domain.errors import NoCapacity, QueueTimeout
from logos.domain.nouns import Endpoint, Model, Place, Privacy, Provider, Tier
from logos.gateway.placement import LEASE_IDLE_S, REPORT_INTERVAL_S, Placement
from logos.scheduling.commands import Dispatch
from logos.scheduling.events import Candidate, Ended, Event, GatewaySeen, LeaseReported, Request, RequestsArrived
from logos.scheduling.messages import GatewayReport, SchedulerReply
from logos.scheduling.settings import SchedulerSettings

PLACES = 3
CATALOGUE = Catalogue(
    version=1,
    models=(Model(1, "m"),),
    providers=(Provider(1, "far", "openai", Privacy.LOCAL),),
    endpoints=(Endpoint(1, 1, 1, Privacy.LOCAL, "m", max_parallel=PLACES),),
)
BEST = Candidate(1)


class OneCatalogue:
    async def watch(self, holder: str, epoch: int, version: int, wait_s: float) -> DirectoryUpdate:
        if version == 1:
            await asyncio.sleep(wait_s)
        return DirectoryUpdate(1, 1, catalogue=CATALOGUE if version != 1 else None)


class Clock:
    """The time of gateway and scheduler; it can be put forward."""

    ahead_s = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead_s


class Line:
    """The way to the scheduler, on which messages can be lost and behind which another life may begin."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.lose_reports = self.lose_replies = 0
        self.told: list[Event] = []
        self.scheduler = self.new_life()

    def new_life(self, *, restarted: bool = False) -> SchedulerActor:
        def no_nodes(node_id: str) -> NodePort:
            raise AssertionError(node_id)

        settings = SchedulerSettings(reconvene_s=0.3)
        return SchedulerActor(settings, OneCatalogue(), no_nodes, restarted=restarted, clock=self.clock)

    async def report(self, report: GatewayReport) -> SchedulerReply:
        if self.lose_reports:
            self.lose_reports -= 1
            raise ConnectionError("lost on the way there")
        reply = await self.scheduler.report(report)
        self.told += report.events
        if self.lose_replies:
            self.lose_replies -= 1
            raise ConnectionError("lost on the way back")
        return reply

    async def poll(self, gateway_id: str, epoch: int, acknowledged: int, wait_s: float) -> SchedulerReply:
        return await self.scheduler.poll(gateway_id, epoch, acknowledged, wait_s)

    async def state(self) -> dict[str, object]:
        return await self.scheduler.state()

    async def restart(self) -> None:
        await self.scheduler.close()
        self.scheduler = self.new_life(restarted=True)
        await self.scheduler.start()


@pytest.fixture
async def line() -> AsyncIterator[Line]:
    made = Line()
    await made.scheduler.start()
    await asyncio.sleep(0)
    yield made
    await made.scheduler.close()


@pytest.fixture
async def placement(line: Line) -> AsyncIterator[Placement]:
    made = Placement("g", line, line.clock)
    await made.start()
    yield made
    await made.close()


def request(name: str, timeout_s: float = 10.0) -> Request:
    return Request(name, "g", 1, (BEST,), queue_timeout_s=timeout_s)


async def running(line: Line) -> int:
    found = (await line.state())["running"]
    assert isinstance(found, int)
    return found


async def until_running(line: Line, wanted: int) -> None:
    async with asyncio.timeout(3):
        while await running(line) != wanted:
            await asyncio.sleep(0.02)


async def test_the_first_request_asks_and_earns_a_lease_for_the_next(placement: Placement) -> None:
    assert placement.lease_for("early", BEST) is None
    first = await placement.ask(request("r1"))
    assert first.lease_id is None
    second = placement.lease_for("r2", BEST)
    assert second is not None
    assert second.place == first.place


@dataclasses.dataclass(frozen=True)
class Unheard:
    """An event that no core knows."""

    at: float = 0.0


async def test_an_event_that_the_core_cannot_take_is_lost_alone(line: Line) -> None:
    arrived = RequestsArrived(0.0, "g", (request("r1"),))
    events: tuple[Any, ...] = (GatewaySeen(0.0, "g", (), ()), Unheard(), arrived)
    reply = await line.report(GatewayReport("g", 0, 1, 0, events))
    assert isinstance(reply.commands[0], Dispatch)
    assert (await line.state())["events_failed"] == 1


async def test_a_lease_is_never_overfilled_and_what_ends_makes_room(placement: Placement) -> None:
    first = await placement.ask(request("r1"))
    grants = [grant for number in range(10) if (grant := placement.lease_for(f"l{number}", BEST)) is not None]
    assert 1 <= len(grants) < PLACES
    placement.ended(grants[0], Ended(grants[0].request_id, ok=True, total_s=0.1))
    assert placement.lease_for("again", BEST) is not None
    placement.ended(first, Ended("r1", ok=True, total_s=0.1))


async def test_what_a_request_met_is_told_when_it_has_ended_under_its_lease(placement: Placement, line: Line) -> None:
    first = await placement.ask(dataclasses.replace(request("r1"), prompt_tokens=500))
    placement.first_token(first, 0.1)
    second = placement.lease_for("r2", BEST, 100)
    assert second is not None
    placement.first_token(second, 0.1)
    placement.ended(second, Ended("r2", ok=True, ttft_s=0.1, total_s=0.2))
    third = placement.lease_for("r3", BEST, 100)
    assert third is not None
    placement.ended(third, Ended("r3", ok=True, ttft_s=0.1, total_s=0.2), is_typical=False)
    placement.ended(first, Ended("r1", ok=True, ttft_s=0.1, total_s=0.2))
    await asyncio.sleep(2 * REPORT_INTERVAL_S)
    ends = {end.request_id: end for event in line.told if isinstance(event, LeaseReported) for end in event.ended}
    assert ends["r2"].met is not None
    assert (ends["r2"].met.prompt_tokens, ends["r2"].met.running, ends["r2"].met.prefill_tokens) == (100, 1, 0.0)
    assert ends["r2"].batch == pytest.approx(2.0)
    assert ends["r3"].met is None
    assert ends["r3"].batch == pytest.approx(2.0)


async def test_a_lease_is_kept_for_a_while_after_its_last_request_and_then_handed_back(
    placement: Placement, line: Line
) -> None:
    placement.ended(await placement.ask(request("r1")), Ended("r1", ok=True, total_s=0.1))
    await until_running(line, 0)
    for _ in range(3):
        line.clock.ahead_s += 6.0
        await asyncio.sleep(2 * REPORT_INTERVAL_S)
    used_again = placement.lease_for("r2", BEST)  # after more than one life of the lease
    assert used_again is not None
    placement.ended(used_again, Ended("r2", ok=True, total_s=0.1))
    line.clock.ahead_s += LEASE_IDLE_S / 2
    await asyncio.sleep(2 * REPORT_INTERVAL_S)
    assert (await line.state())["leases"] == 1
    line.clock.ahead_s += LEASE_IDLE_S / 2
    async with asyncio.timeout(3):
        while (await line.state())["leases"]:
            await asyncio.sleep(0.02)
    assert placement.lease_for("r3", BEST) is None


async def test_when_somebody_waits_leases_go_back_and_every_place_is_used(placement: Placement, line: Line) -> None:
    grants = [await placement.ask(request("r1"))]
    while (leased := placement.lease_for(f"l{len(grants)}", BEST)) is not None:
        grants.append(leased)
    others = [asyncio.create_task(placement.ask(request(f"w{number}"))) for number in range(PLACES + 1)]
    await until_running(line, PLACES)
    assert sum(task.done() for task in others) == PLACES - len(grants)
    for number, grant in enumerate(grants):
        placement.ended(grant, Ended(grant.request_id, ok=True, total_s=0.1 + number))
    for task in others:  # served in the order in which they came
        async with asyncio.timeout(3):
            grant = await task
        placement.ended(grant, Ended(grant.request_id, ok=True, total_s=0.1))
    await until_running(line, 0)


class GrantsTooLate:
    """A scheduler whose grant arrives in the very step in which the gateway stops to wait for it."""

    def __init__(self) -> None:
        self.is_time = asyncio.Event()
        self.granted = False

    async def report(self, report: GatewayReport) -> SchedulerReply:
        return SchedulerReply(1, 1)

    async def poll(self, gateway_id: str, epoch: int, acknowledged: int, wait_s: float) -> SchedulerReply:
        await self.is_time.wait()
        self.is_time.clear()
        self.granted = True
        return SchedulerReply(1, 1, (Dispatch("r", "g", Place(1, None), Tier.REMOTE),))

    async def state(self) -> dict[str, object]:
        return {}


async def test_a_grant_that_arrives_as_the_wait_ends_is_given_back() -> None:
    scheduler = GrantsTooLate()
    placement = Placement("g", scheduler, time.monotonic)
    await placement.start()

    def grant_and_be_late() -> None:
        scheduler.is_time.set()
        time.sleep(0.2)

    await asyncio.sleep(0.1)
    asyncio.get_running_loop().call_later(0.05, grant_and_be_late)
    with pytest.raises(QueueTimeout):
        await placement.ask(request("r", timeout_s=-4.85))
    assert scheduler.granted
    assert placement.idle
    await placement.close()


async def test_a_request_that_waits_too_long_is_refused_with_a_hint(placement: Placement) -> None:
    for number in range(PLACES):
        await placement.ask(request(f"r{number}"))
    with pytest.raises(QueueTimeout) as refused:
        await placement.ask(request("late", timeout_s=0.2))
    assert refused.value.retry_after_s is not None


async def test_no_endpoint_at_all_is_no_capacity(placement: Placement) -> None:
    with pytest.raises(NoCapacity):
        await placement.ask(Request("r", "g", 1, (Candidate(99),), queue_timeout_s=3.0))


async def test_lost_messages_lose_nothing_and_double_nothing(placement: Placement, line: Line) -> None:
    line.lose_reports, line.lose_replies = 1, 1
    grant = await placement.ask(request("r1"))
    line.lose_replies = 2
    placement.ended(grant, Ended("r1", ok=True, total_s=0.1))
    await until_running(line, 0)
    assert await placement.ask(request("r2"))
    await until_running(line, 1)


async def test_a_client_that_leaves_the_queue_leaves_nothing_there(placement: Placement, line: Line) -> None:
    grants = [await placement.ask(request(f"r{number}")) for number in range(PLACES)]
    waiting = asyncio.create_task(placement.ask(request("leaves")))
    await asyncio.sleep(0.1)
    assert (await line.state())["waiting"] == 1
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await asyncio.sleep(0.1)
    assert (await line.state())["waiting"] == 0
    for grant in grants:
        placement.ended(grant, Ended(grant.request_id, ok=True, total_s=0.1))
    await until_running(line, 0)
    assert placement.idle


async def test_a_restarted_scheduler_learns_what_runs_and_what_waits(placement: Placement, line: Line) -> None:
    grants = [await placement.ask(request(f"r{number}")) for number in range(PLACES)]
    waiting = asyncio.create_task(placement.ask(request("waits")))
    await asyncio.sleep(0.05)
    await line.restart()
    await until_running(line, PLACES)
    assert not waiting.done()
    placement.ended(grants[0], Ended("r0", ok=True, total_s=0.1))
    async with asyncio.timeout(5):
        last = await waiting
    for grant in [*grants[1:], last]:
        placement.ended(grant, Ended(grant.request_id, ok=True, total_s=0.1))
    await until_running(line, 0)


async def test_a_gateway_declared_gone_introduces_itself_again(placement: Placement, line: Line) -> None:
    await placement.ask(request("r1"))
    await until_running(line, 1)
    await line.scheduler.goodbye("g")
    assert await running(line) == 0
    await until_running(line, 1)
