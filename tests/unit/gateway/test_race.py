"""The race for the first byte: whoever wins, every other try is told to be over, exactly once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from logos.domain.errors import NoCapacity, UpstreamFailed
from logos.domain.nouns import Endpoint, Place, Privacy, Tier
from logos.gateway.faults import Fault, fault_of_error
from logos.gateway.placement import Grant
from logos.gateway.race import Answer, Outrun, Try, first_byte
from logos.gateway.relay import Terms, WholeAnswer

BROKEN = fault_of_error(UpstreamFailed())
REFUSED = Fault(UpstreamFailed(), "no", may_retry=False)


def grant(request_id: str, endpoint_id: int, hedge_of: str | None = None) -> Grant:
    return Grant(request_id, Place(endpoint_id), Tier.REMOTE, hedge_of=hedge_of)


def a_try(of: Grant) -> Try:
    endpoint = Endpoint(of.place.endpoint_id, 1, 1, Privacy.LOCAL, "m")
    return Try(endpoint, of, 1, 0.0, 0.0)


class ClosingAnswer(WholeAnswer):
    """An answer that tells whether it was closed."""

    __slots__ = ("is_closed",)

    def __init__(self) -> None:
        super().__init__(SimpleNamespace(status=200, headers={}), b"{}", b"", 0.0, Terms(False))  # type: ignore[arg-type]
        self.is_closed = False

    def close(self) -> None:
        self.is_closed = True


@dataclass
class Race:
    """Two places, each of which ends when the test says so."""

    first: Try = field(default_factory=lambda: a_try(grant("a", 1)))
    ends: dict[str, asyncio.Future[Answer | Fault]] = field(default_factory=dict)
    hedged: asyncio.Future[Grant] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    over: list[tuple[str, Fault | Outrun | None]] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    task: asyncio.Task[tuple[Try, Answer | Fault]] | None = None

    async def opened(self, tried: Try) -> Answer | Fault:
        name = tried.grant.request_id
        self.ends[name] = asyncio.get_running_loop().create_future()
        try:
            return await self.ends[name]
        except asyncio.CancelledError:
            self.cancelled.append(name)
            raise

    def begin(self) -> None:
        def over(tried: Try, result: Fault | Outrun | None) -> None:
            self.over.append((tried.grant.request_id, result))

        self.task = asyncio.create_task(first_byte(self.first, self.hedged, a_try, self.opened, over))

    async def hedge(self) -> None:
        await turns()
        self.hedged.set_result(grant("a~2", 2, "a"))
        await turns()

    async def result(self) -> tuple[str, Answer | Fault]:
        assert self.task is not None
        async with asyncio.timeout(5.0):
            winner, answer = await self.task
        await turns()
        return winner.grant.request_id, answer


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.fixture
async def race() -> AsyncIterator[Race]:
    made = Race()
    made.begin()
    await turns()
    yield made
    assert not [each for each in asyncio.all_tasks() if each is not asyncio.current_task() and not each.done()]


async def test_without_a_second_place_it_is_only_the_first(race: Race) -> None:
    race.ends["a"].set_result(answer := ClosingAnswer())
    assert await race.result() == ("a", answer)
    assert race.over == []


@pytest.mark.parametrize(("winner", "loser"), [("a", "a~2"), ("a~2", "a")])
async def test_the_loser_is_over_and_its_connection_closed(race: Race, winner: str, loser: str) -> None:
    await race.hedge()
    race.ends[winner].set_result(answer := ClosingAnswer())
    assert await race.result() == (winner, answer)
    assert not answer.is_closed
    assert race.over == [(loser, Outrun())]
    assert race.cancelled == [loser]


async def test_two_answers_in_the_same_moment_are_one_answer_and_one_that_the_house_bears(race: Race) -> None:
    await race.hedge()
    first, second = ClosingAnswer(), ClosingAnswer()
    race.ends["a~2"].set_result(second)
    race.ends["a"].set_result(first)
    assert await race.result() == ("a", first)
    assert race.over == [("a~2", Outrun(second))]
    assert (first.is_closed, second.is_closed) == (False, True)


@pytest.mark.parametrize(("breaks", "other"), [("a", "a~2"), ("a~2", "a")])
async def test_a_fault_leaves_the_race_to_the_other(race: Race, breaks: str, other: str) -> None:
    await race.hedge()
    race.ends[breaks].set_result(BROKEN)
    await turns()
    assert race.over == [(breaks, BROKEN)]
    race.ends[other].set_result(answer := ClosingAnswer())
    assert await race.result() == (other, answer)
    assert race.over == [(breaks, BROKEN)]


async def test_the_last_fault_is_the_result(race: Race) -> None:
    await race.hedge()
    race.ends["a"].set_result(BROKEN)
    race.ends["a~2"].set_result(BROKEN)
    assert await race.result() == ("a~2", BROKEN)
    assert race.over == [("a", BROKEN)]


async def test_an_answer_goes_before_a_fault_of_the_same_moment_whichever_it_is(race: Race) -> None:
    await race.hedge()
    race.ends["a"].set_result(REFUSED)
    race.ends["a~2"].set_result(answer := ClosingAnswer())
    assert await race.result() == ("a~2", answer)
    assert [name for name, _ in race.over] == ["a"]


async def test_a_fault_that_no_place_would_mend_ends_the_race(race: Race) -> None:
    await race.hedge()
    race.ends["a~2"].set_result(REFUSED)
    assert await race.result() == ("a~2", REFUSED)
    assert race.over == [("a", Outrun())]
    assert race.cancelled == ["a"]


async def test_a_second_place_that_cannot_be_asked_is_a_fault_of_it_alone(race: Race) -> None:
    await race.hedge()
    race.ends["a~2"].set_exception(NoCapacity("The engine's address is not known yet."))
    await turns()
    [(name, fault)] = race.over
    assert name == "a~2"
    assert isinstance(fault, Fault)
    assert not fault.endpoint_fault
    race.ends["a"].set_result(answer := ClosingAnswer())
    assert await race.result() == ("a", answer)


async def test_a_first_place_that_cannot_be_asked_is_the_callers_to_end(race: Race) -> None:
    race.ends["a"].set_exception(NoCapacity())
    with pytest.raises(NoCapacity):
        await race.result()
    assert race.over == []


async def leave(race: Race) -> None:
    assert race.task is not None
    race.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await race.task
    await turns()


async def only_first(race: Race) -> None:
    """Nothing else has happened."""


async def both_open(race: Race) -> None:
    await race.hedge()


async def first_broke(race: Race) -> None:
    await race.hedge()
    race.ends["a"].set_result(BROKEN)
    await turns()
    race.over.clear()


@pytest.mark.parametrize(
    ("until", "over", "cancelled"),
    [(only_first, [], ["a"]), (both_open, [("a~2", None)], ["a", "a~2"]), (first_broke, [("a~2", None)], ["a~2"])],
)
async def test_a_client_that_leaves_ends_whatever_is_open(
    race: Race,
    until: Callable[[Race], Awaitable[None]],
    over: list[tuple[str, None]],
    cancelled: list[str],
) -> None:
    await until(race)
    await leave(race)
    assert (race.over, race.cancelled) == (over, cancelled)


async def test_an_answer_that_came_when_the_client_left_is_closed(race: Race) -> None:
    await race.hedge()
    race.ends["a~2"].set_result(answer := ClosingAnswer())
    assert race.task is not None
    race.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await race.task
    await turns()
    assert race.over == [("a~2", None)]
    assert race.cancelled == ["a"]
    assert answer.is_closed
