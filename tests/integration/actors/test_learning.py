"""What the scheduler has learned survives its restarts, in Postgres; what cannot be read is forgotten with one line."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, cast

import pytest

from logos.actors.journal import decode_opening, encode_opening, last_epoch_in
from logos.actors.learning import (
    LEARNED_VERSION,
    LearnedKeeper,
    StoredLearned,
    decode_learned,
    encode_learned,
    last_epoch,
    read_back,
)
from logos.actors.ledger import Ledger
from logos.actors.scheduler import SchedulerActor
from logos.domain.catalogue import Catalogue
from logos.prediction.service import Transition
from logos.scheduling.events import FirstToken
from logos.scheduling.learned import Learned
from logos.scheduling.replay import JournalOpening
from logos.scheduling.scheduler import Scheduler
from logos.scheduling.settings import SchedulerSettings
from logos.storage.ledger_writer import JournalEntry
from tests.scenarios.world import World, pooled, remote, request


def learned() -> Learned:
    """Of a scheduler that has seen first tokens, answers and transitions."""
    world = World(remote(1, parallel=4), pooled(2, gib=8))
    for number in range(30):
        name = f"r{number}"
        world.arrives(request(name))
        world.starts(name)
        world.now += 0.4
        world.hears(FirstToken(world.now, name, 0.4))
        world.now += 0.6
        world.finishes(name, total_s=1.0, tokens=20 + number)
    world.scheduler._state.predictor.observe_transition(2, "n", Transition.WAKE, 1.5)
    return world.scheduler.learned()


def test_what_was_learned_comes_back_as_it_was_and_predicts_the_same() -> None:
    before = learned()
    after = decode_learned(encode_learned(before))
    assert after == before
    again = Scheduler(Catalogue(), SchedulerSettings(), learned=after)
    assert again.learned() == before


def test_a_journal_opens_with_what_was_learned() -> None:
    opening = JournalOpening(Catalogue(), SchedulerSettings(policy="slo"), 5, learned())
    assert decode_opening(encode_opening(opening)) == opening


@pytest.mark.parametrize(
    "stored",
    [
        StoredLearned(LEARNED_VERSION - 1, encode_learned(Learned()).learned),
        StoredLearned(LEARNED_VERSION, "{"),
        StoredLearned(LEARNED_VERSION, '{"service": {"endpoints": [{"endpoint_id": "one"}]}}'),
        StoredLearned(LEARNED_VERSION, "[]"),
    ],
)
def test_a_snapshot_that_cannot_be_read_is_forgotten_with_one_line(
    stored: StoredLearned, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert decode_learned(stored) is None
    [record] = caplog.records
    assert "\n" not in record.getMessage()


async def test_it_is_kept_in_postgres_and_a_start_that_is_over_does_not_overwrite_it(database_url: str) -> None:
    ledger = Ledger(database_url)
    try:
        assert await read_back(ledger) is None
        new = learned()
        await LearnedKeeper(ledger, epoch=2).keep(new)
        await LearnedKeeper(ledger, epoch=1).keep(Learned())
        assert await read_back(ledger) == new
        await LearnedKeeper(ledger, epoch=3).keep(Learned())
        assert await read_back(ledger) == Learned()
    finally:
        await ledger.close()


def starting(last_epoch: int, directory: Path | None = None) -> SchedulerActor:
    """A scheduler that is made, and not begun: it asks nobody for anything."""
    return SchedulerActor(
        SchedulerSettings(), cast(Any, None), cast(Any, None), journal_directory=directory, last_epoch=last_epoch
    )


async def test_a_scheduler_that_starts_after_the_clock_was_set_back_keeps_what_it_learns(database_url: str) -> None:
    ledger, ahead = Ledger(database_url), starting(0).epoch + 3_600_000
    try:
        assert await last_epoch(ledger) == 0
        await LearnedKeeper(ledger, ahead).keep(Learned())
        await ledger.append_journal(ahead - 1, [JournalEntry(0, 0.0, "snapshot", "{}", None)])
        assert await last_epoch(ledger) == ahead
        await ledger.append_journal(ahead + 1, [JournalEntry(0, 0.0, "snapshot", "{}", None)])
        again = starting(await last_epoch(ledger))
        assert again.epoch == ahead + 2
        new = learned()
        await LearnedKeeper(ledger, again.epoch).keep(new)
        assert await read_back(ledger) == new
    finally:
        await ledger.close()


async def test_without_a_database_the_journals_say_which_epoch_was_the_last(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = Ledger("postgresql://nobody@127.0.0.1:1/nothing")
    try:
        assert await last_epoch(ledger) == 0
    finally:
        await ledger.close()
    assert "cannot be asked for" in caplog.text
    assert last_epoch_in(tmp_path / "none") == 0
    ahead = starting(10**15, tmp_path)
    await ahead.close()
    (tmp_path / "notes.jsonl").touch()
    assert last_epoch_in(tmp_path) == ahead.epoch == 10**15 + 1


async def test_a_scheduler_starts_without_it_while_the_database_is_away(caplog: pytest.LogCaptureFixture) -> None:
    ledger = Ledger("postgresql://nobody@127.0.0.1:1/nothing")
    try:
        assert await read_back(ledger) is None
    finally:
        await ledger.close()
    assert "cannot be asked for" in caplog.text


async def test_what_did_not_change_is_not_written_again() -> None:
    class Store:
        writes = 0

        async def store_learned(self, epoch: int, stored: StoredLearned) -> None:
            self.writes += 1

        async def learned(self) -> StoredLearned | None:
            return None

        async def last_epoch(self) -> int:
            return 0

    store, keeper = Store(), None
    keeper = LearnedKeeper(store, 1)
    for each in (learned(), learned(), Learned()):
        await keeper.keep(each)
    assert store.writes == 2
