"""Replaying a journal: the recorded events give the recorded commands, or the differences are told.

A journal opens with what the core began with. Reading and writing journals is the driver's; only values live here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from logos.domain.catalogue import Catalogue
from logos.scheduling.commands import Command
from logos.scheduling.events import Event
from logos.scheduling.learned import Learned
from logos.scheduling.scheduler import Scheduler
from logos.scheduling.settings import SchedulerSettings


@dataclass(frozen=True, slots=True)
class JournalOpening:
    """All that the core's behaviour depends on apart from events."""

    catalogue: Catalogue
    settings: SchedulerSettings
    epoch: int
    learned: Learned | None = None


@dataclass(frozen=True, slots=True)
class Difference:
    """At this entry (from 0) the core of today does something else."""

    index: int
    event: Event
    expected: tuple[Command, ...]
    got: tuple[Command, ...]


def begin(opening: JournalOpening) -> Scheduler:
    """The core as it was when the journal was opened."""
    return Scheduler(opening.catalogue, opening.settings, epoch=opening.epoch, learned=opening.learned)


def replay(opening: JournalOpening, entries: Iterable[tuple[Event, Sequence[Command]]]) -> list[Difference]:
    """Feeds the events to a fresh core and compares. Empty: the journal replays."""
    scheduler = begin(opening)
    differences: list[Difference] = []
    for index, (event, recorded) in enumerate(entries):
        expected, got = tuple(recorded), tuple(scheduler.handle(event))
        if expected != got:
            differences.append(Difference(index, event, expected, got))
    return differences
