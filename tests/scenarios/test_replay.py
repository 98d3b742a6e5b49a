"""A recorded journal replays to the same commands, and a perturbed one is found out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from logos.prediction.service import EndpointSnapshot, ServiceSnapshot
from logos.scheduling.commands import Dispatch
from logos.scheduling.events import RequestFinished
from logos.scheduling.learned import Learned
from logos.scheduling.replay import Difference, replay
from tests.scenarios.platform import Platform
from tests.scenarios.test_conservation import MIXED, NODES


@pytest.fixture(scope="module")
def recorded() -> Platform:
    platform = Platform(3, MIXED, NODES)
    platform.run(20.0)
    return platform


def test_every_journal_of_a_run_replays(recorded: Platform) -> None:
    assert sum(len(entries) for _, entries in recorded.journals) > 500
    for opening, entries in recorded.journals:
        assert replay(opening, entries) == []


def test_a_command_that_was_not_given_is_found(recorded: Platform) -> None:
    opening, entries = recorded.journals[0]
    index, (event, caused) = next(
        (index, entry) for index, entry in enumerate(entries) if any(isinstance(each, Dispatch) for each in entry[1])
    )
    perturbed = [*entries[:index], (event, caused[1:]), *entries[index + 1 :]]
    assert replay(opening, perturbed) == [Difference(index, event, caused[1:], caused)]


def test_an_event_that_was_left_out_is_found(recorded: Platform) -> None:
    opening, entries = recorded.journals[0]
    index = next(
        index for index, (event, caused) in enumerate(entries) if isinstance(event, RequestFinished) and caused
    )
    assert replay(opening, [*entries[:index], *entries[index + 1 :]])


def test_other_settings_are_found(recorded: Platform) -> None:
    opening, entries = recorded.journals[0]
    assert replay(replace(opening, settings=replace(opening.settings, policy="fcfs")), entries)


def test_what_had_been_learned_is_part_of_the_opening(recorded: Platform) -> None:
    opening, entries = recorded.journals[0]
    slow = ServiceSnapshot(tuple(EndpointSnapshot(each.id, (60.0,) * 100) for each in MIXED.endpoints))
    assert replay(replace(opening, learned=Learned(slow)), entries)
