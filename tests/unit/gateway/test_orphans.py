"""What a gateway that died left behind is shipped once, by one."""

from __future__ import annotations

import fcntl
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from logos.domain.lifecycle import Outcome, UsageSource
from logos.domain.records import Charge, Opening, Progress, Record
from logos.gateway.orphans import Orphan, abandoned
from logos.gateway.outbox import Outbox
from tests.support.dying_gateway import die_in
from tests.support.records import NOW, closing_of, opening_of


def charge_of(opening: Opening, usage: Mapping[str, int]) -> Charge:
    return Charge(usage["prompt"] + 2 * usage["completion"], "EUR")


def test_a_killed_gateway_leaves_every_request_and_running_ones_are_closed_as_interrupted(tmp_path: Path) -> None:
    die_in(tmp_path)
    [orphan] = abandoned(tmp_path)
    found = {record.opening.request_id: record for record in orphan.records(charge_of)}
    assert set(found) == {opening_of(number).request_id for number in range(20)}
    for number in range(20):
        opening = opening_of(number)
        closing = found[opening.request_id].closing
        assert closing is not None
        if number % 2:
            assert closing == closing_of(opening)
            continue
        relayed = 5 + number if number % 4 else 0
        assert closing.outcome is Outcome.INTERRUPTED
        assert closing.usage_source is UsageSource.RELAYED
        assert closing.usage == {"prompt": 12, "completion": relayed}
        assert closing.charge == Charge(12 + 2 * relayed, "EUR")
        assert closing.ended_at >= opening.accepted_at
        assert closing.endpoint_id == opening.endpoint_id
        assert [attempt.outcome for attempt in closing.attempts] == [Outcome.INTERRUPTED]
    orphan.delete()
    assert list(tmp_path.iterdir()) == []


NO_PLACE: dict[str, Any] = {"model_id": None, "provider_id": None, "endpoint_id": None}


def left_by(box: Outbox, root: Path) -> Record:
    """The one record of an outbox whose owner is gone."""
    box.dispose()
    [orphan] = abandoned(root)
    [record] = orphan.records(charge_of)
    orphan.delete()
    return record


def test_a_request_that_waited_for_a_place_when_its_gateway_died_is_on_record_and_free(tmp_path: Path) -> None:
    box = Outbox(tmp_path, "gateway-1")
    box.open(opening_of(1, **NO_PLACE))
    closing = left_by(box, tmp_path).closing
    assert closing is not None
    assert closing.outcome is Outcome.INTERRUPTED
    assert (closing.usage, closing.usage_source, closing.charge) == ({}, UsageSource.NONE, Charge())
    assert closing.attempts == ()


def test_one_that_had_waited_is_charged_where_it_was_served_last(tmp_path: Path) -> None:
    box = Outbox(tmp_path, "gateway-1")
    opening = opening_of(1, **NO_PLACE)
    box.open(opening)
    box.progress(Progress(opening.request_id, model_id=1, provider_id=2, endpoint_id=3))
    box.progress(Progress(opening.request_id, 9, NOW + 1))
    box.progress(Progress(opening.request_id, model_id=4, provider_id=5, endpoint_id=6, engine_id="e"))
    box.progress(Progress(opening.request_id, 7, NOW + 2))
    charged: list[Opening] = []

    def noted(opening: Opening, usage: Mapping[str, int]) -> Charge:
        charged.append(opening)
        return charge_of(opening, usage)

    box.dispose()
    [orphan] = abandoned(tmp_path)
    [record] = orphan.records(noted)
    orphan.delete()
    assert record.closing is not None
    assert record.closing.usage == {"prompt": 12, "completion": 7}
    assert (charged[0].model_id, charged[0].provider_id) == (4, 5)
    places = [(each.endpoint_id, each.engine_id) for each in (record.opening, record.closing, *record.closing.attempts)]
    assert places == [(6, "e")] * 3


def test_a_living_gateway_is_left_alone(tmp_path: Path) -> None:
    box = Outbox(tmp_path, "gateway-1")
    box.open(opening_of(1))
    assert list(abandoned(tmp_path)) == []
    box.close(closing_of(opening_of(1)))
    box.dispose()  # with a record that nobody took: from now on it is anybody's
    [orphan] = abandoned(tmp_path)
    assert len(list(orphan.records(charge_of))) == 1
    orphan.delete()


def test_of_many_that_look_at_once_exactly_one_gets_it(tmp_path: Path) -> None:
    die_in(tmp_path)
    barrier = threading.Barrier(8)
    winners: list[Orphan] = []

    def look() -> None:
        barrier.wait()
        winners.extend(abandoned(tmp_path))

    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    [winner] = winners
    assert list(abandoned(tmp_path)) == []
    winner.delete()
    assert list(abandoned(tmp_path)) == []


def test_somebody_who_was_about_to_lock_an_outbox_that_is_then_deleted_gets_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    die_in(tmp_path)
    [winner] = abandoned(tmp_path)
    lock = fcntl.flock

    def lock_too_late(descriptor: int, how: int) -> None:
        winner.delete()
        lock(descriptor, how)

    monkeypatch.setattr("logos.gateway.outbox_files.fcntl.flock", lock_too_late)
    assert list(abandoned(tmp_path)) == []


def test_released_after_a_failure_it_is_found_whole_again(tmp_path: Path) -> None:
    die_in(tmp_path)
    [first] = abandoned(tmp_path)
    before = list(first.records(charge_of))
    first.release()
    [second] = abandoned(tmp_path)
    assert list(second.records(charge_of)) == before
    second.delete()


def test_a_file_that_is_no_outbox_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "made-and-died.1").mkdir()
    assert list(abandoned(tmp_path)) == []
    assert list(abandoned(tmp_path / "nowhere")) == []
