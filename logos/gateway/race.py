"""The race for the first byte, where the scheduler gives a request a second place: the first to answer goes on.

Until one answers nothing was sent to the client. What is given up is told at once, in the same step of the event loop
in which the race is decided, so nothing can come between; its connection closes with its task. Whether and where there
is a second place is the scheduler's decision, and what a try means for records and places is the flow's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from logos.domain.errors import LogosError
from logos.domain.nouns import Endpoint
from logos.gateway.faults import Fault, fault_of_error
from logos.gateway.placement import Grant
from logos.gateway.relay import StreamAnswer, WholeAnswer

Answer = WholeAnswer | StreamAnswer


@dataclass(slots=True, eq=False)
class Try:
    """One try of a request at one place. `began`, `sent_at`: on the gateway's clock; `started_at`: Unix seconds."""

    endpoint: Endpoint
    grant: Grant
    number: int
    began: float
    started_at: float
    sent_at: float = 0.0
    is_over: bool = False

    @property
    def is_hedge(self) -> bool:
        return self.grant.hedge_of is not None


@dataclass(frozen=True, slots=True)
class Outrun:
    """The other place was faster; the answer, if one had begun all the same."""

    answer: Answer | None = None


Open = Callable[[Try], Awaitable[Answer | Fault]]
Over = Callable[[Try, Fault | Outrun | None], None]  # None: the client left


async def first_byte(
    first: Try, hedged: asyncio.Future[Grant], second_of: Callable[[Grant], Try], opened: Open, over: Over
) -> tuple[Try, Answer | Fault]:
    """The try that answered, or the last one's fault. Every other try has been told to be over, whatever happens; of
    one that is raised out of here, the first is the caller's to end."""
    racing: dict[asyncio.Task[Answer | Fault], Try] = {_task(opened(first)): first}
    outcome: tuple[Try, Answer | Fault] | None = None
    try:
        either: set[asyncio.Future[Any]] = {*racing, hedged}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not any(task.done() for task in racing):
            second = second_of(hedged.result())
            racing[_task(_without_errors(opened, second))] = second
        outcome = await _decided(racing, over)
        return outcome
    finally:
        for task, loser in racing.items():
            task.cancel()
            answer = _answer_of(task)
            if answer is not None:
                answer.close()
            if outcome is not None:
                over(loser, Outrun(answer))
            elif loser is not first:
                over(loser, None)


async def _decided(racing: dict[asyncio.Task[Answer | Fault], Try], over: Over) -> tuple[Try, Answer | Fault]:
    """Waits for an answer, for a fault that no other place would mend, or for the last fault."""
    while True:
        await asyncio.wait(racing, return_when=asyncio.FIRST_COMPLETED)
        done = [task for task in racing if task.done()]
        for task in sorted(done, key=lambda each: isinstance(each.result(), Fault)):
            result, ended = task.result(), racing.pop(task)
            if not isinstance(result, Fault) or not result.may_retry or not racing:
                return ended, result
            over(ended, result)


async def _without_errors(opened: Open, second: Try) -> Answer | Fault:
    """What goes wrong with a second place before it is asked is no more than its fault."""
    try:
        return await opened(second)
    except LogosError as error:
        return fault_of_error(error)


def _task(work: Awaitable[Answer | Fault]) -> asyncio.Task[Answer | Fault]:
    return asyncio.ensure_future(work)


def _answer_of(task: asyncio.Task[Answer | Fault]) -> Answer | None:
    """An answer that came in the same step in which the race was decided."""
    if not task.done() or task.cancelled() or task.exception() is not None:
        return None
    result = task.result()
    return None if isinstance(result, Fault) else result
