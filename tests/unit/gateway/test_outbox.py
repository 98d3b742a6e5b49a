"""The outbox: nothing is lost, nothing is kept longer than needed."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from logos.domain.lifecycle import Outcome
from logos.domain.records import Charge, Opening, Progress, Record
from logos.gateway.orphans import Orphan
from logos.gateway.outbox import Outbox
from logos.gateway.outbox_files import frame_storable, segments_of, unframe
from tests.support.records import NOW, closing_of, ids_of, opening_of

LATER = NOW + 3600


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    box = Outbox(tmp_path, "gateway-1")
    yield box
    box.dispose()


def serve(box: Outbox, number: int, **changes: Any) -> Record:
    """A whole request: opened and closed."""
    opening = opening_of(number, **changes)
    closing = closing_of(opening)
    box.open(opening)
    box.close(closing)
    return Record(opening, closing)


def left_in(directory: Path) -> list[Record]:
    """What somebody would find who adopted the outbox now."""
    return list(Orphan(directory, -1).records(lambda opening, usage: Charge()))


def own_directory(root: Path) -> Path:
    [found] = root.iterdir()
    return found


def test_a_record_comes_out_as_it_went_in(outbox: Outbox) -> None:
    record = serve(
        outbox,
        1,
        headers={"a": "b"},
        classification_statistics={"scores": [1.5, None]},
        input_payload='{"x": "ä"}',
    )
    assert outbox.take_batch(10, LATER) == (record,)


def test_what_is_written_can_be_read_by_others_at_once(outbox: Outbox, tmp_path: Path) -> None:
    record = serve(outbox, 1, headers={"a": "b"}, input_payload="ä" * 1000)
    assert left_in(own_directory(tmp_path)) == [record]


def test_a_batch_is_the_same_until_it_is_acknowledged(outbox: Outbox) -> None:
    for number in range(5):
        serve(outbox, number)
    first = outbox.take_batch(3, LATER)
    assert outbox.take_batch(3, LATER) == first
    outbox.acknowledge(ids_of(first))
    assert [record.opening.request_id for record in outbox.take_batch(3, LATER)] == [
        "req_00000003",
        "req_00000004",
    ]


def test_a_running_request_is_shipped_as_open_after_a_second_and_only_once(outbox: Outbox) -> None:
    opening = opening_of(1)
    outbox.open(opening)
    assert outbox.take_batch(10, opening.accepted_at + 0.5) == ()
    assert outbox.take_batch(10, opening.accepted_at + 1.5) == (Record(opening),)
    outbox.acknowledge([opening.request_id])
    assert outbox.take_batch(10, opening.accepted_at + 60) == ()
    outbox.close(closing_of(opening))
    assert outbox.take_batch(10, LATER) == (Record(opening, closing_of(opening)),)


def test_a_request_that_ends_while_its_opening_is_on_the_way_is_not_forgotten(outbox: Outbox) -> None:
    opening = opening_of(1)
    outbox.open(opening)
    outbox.take_batch(10, LATER)
    outbox.close(closing_of(opening))
    outbox.acknowledge([opening.request_id])
    [record] = outbox.take_batch(10, LATER)
    assert record.closing is not None
    outbox.acknowledge([opening.request_id])
    assert outbox.records == 0


def test_acknowledging_what_was_not_sent_frees_nothing(outbox: Outbox) -> None:
    serve(outbox, 1)
    outbox.acknowledge(["req_00000001", "unknown"])
    assert outbox.records == 1


def test_a_second_closing_changes_nothing(outbox: Outbox) -> None:
    record = serve(outbox, 1)
    outbox.close(closing_of(record.opening, outcome=Outcome.INTERNAL_ERROR))
    assert outbox.take_batch(10, LATER) == (record,)


def test_segments_go_when_everything_in_them_is_acknowledged(tmp_path: Path) -> None:
    box = Outbox(tmp_path, "gateway-1", segment_bytes_max=4000)
    held = opening_of(999)
    box.open(held)
    for number in range(100):
        serve(box, number)
        box.acknowledge(ids_of(box.take_batch(10, NOW)))
    # The first is held by the running request, the last is being written to.
    assert len(segments_of(own_directory(tmp_path))) == 2
    box.close(closing_of(held))
    box.acknowledge(ids_of(box.take_batch(10, NOW)))
    assert len(segments_of(own_directory(tmp_path))) == 1
    assert box.size_bytes == sum(path.stat().st_size for path in segments_of(own_directory(tmp_path)))
    box.dispose()
    assert list(tmp_path.iterdir()) == []


def test_it_says_when_it_is_full_and_when_it_no_longer_is(tmp_path: Path) -> None:
    box = Outbox(tmp_path, "gateway-1", size_bytes_max=20_000, segment_bytes_max=2000)
    number = 0
    while not box.is_full:
        serve(box, number)
        number += 1
        assert number < 1000
    while batch := box.take_batch(100, NOW):
        box.acknowledge(ids_of(batch))
    assert not box.is_full
    box.dispose()


def test_records_beyond_the_memory_bound_are_read_back_from_their_files(tmp_path: Path) -> None:
    box = Outbox(tmp_path, "gateway-1", memory_bytes_max=2000)
    served = tuple(serve(box, number, input_payload=f"payload {number}") for number in range(50))
    assert box._memory_bytes < 3000
    assert box.take_batch(100, NOW) == served
    box.acknowledge(ids_of(served))
    assert box.records == 0
    assert box._memory_bytes == 0
    box.dispose()


def test_a_torn_last_entry_is_left_out_and_the_rest_is_read(outbox: Outbox, tmp_path: Path) -> None:
    whole = serve(outbox, 1)
    outbox.open(opening_of(2))
    [segment] = segments_of(own_directory(tmp_path))
    data = segment.read_bytes()
    for cut in (1, 5, 40):
        segment.write_bytes(data[:-cut])
        assert left_in(own_directory(tmp_path)) == [whole]
    segment.write_bytes(data[:-3] + b"xyz")
    assert left_in(own_directory(tmp_path)) == [whole]


def test_an_entry_whose_bytes_have_changed_is_lost_and_not_those_behind_it(outbox: Outbox, tmp_path: Path) -> None:
    first, _, third = (serve(outbox, number) for number in (1, 2, 3))
    [segment] = segments_of(own_directory(tmp_path))
    data = segment.read_bytes()
    at = data.index(b"req_00000002")
    segment.write_bytes(data[:at] + b"Req" + data[at + 3 :])
    assert left_in(own_directory(tmp_path)) == [first, third]


@given(st.binary(max_size=200))
def test_garbage_is_no_entry(garbage: bytes) -> None:
    assert unframe(garbage, 0) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"input_payload": "lone \ud800"},
        {"headers": {"x": "\udfff"}},
        {"classification_statistics": {"x": object()}},
        {"classification_statistics": {"x": 2**80}},
        {"client_request_id": "\ud800", "headers": {"y": "fine"}},
    ],
)
def test_what_cannot_be_written_does_not_keep_a_request_from_being_written(
    outbox: Outbox, tmp_path: Path, changes: dict[str, object]
) -> None:
    outbox.open(opening_of(1, **changes))
    outbox.close(closing_of(opening_of(1), usage={"prompt": 2**80}, error_message="\ud800"))
    [record] = outbox.take_batch(10, NOW)
    assert left_in(own_directory(tmp_path)) == [record]
    assert record.closing is not None
    assert record.closing.error_message == "\ufffd"
    assert record.closing.charge == Charge(1000, "EUR")


def test_a_full_disk_refuses_new_requests_and_keeps_the_ends_of_old_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = Outbox(tmp_path, "gateway-1")
    served = opening_of(1)
    box.open(served)
    with monkeypatch.context() as broken:

        def torn_write(descriptor: int, data: bytes) -> int:
            return write(descriptor, data[: len(data) // 2])

        write = os.write
        broken.setattr("logos.gateway.outbox.os.write", torn_write)
        with pytest.raises(OSError, match="full"):
            box.open(opening_of(2))
        box.progress(Progress(served.request_id, 3))
        box.close(closing_of(served))
    assert [record.opening.request_id for record in box.take_batch(10, NOW)] == [served.request_id]
    after = serve(box, 3)
    assert after in left_in(own_directory(tmp_path))  # nothing torn lies in between
    box.acknowledge(ids_of(box.take_batch(10, NOW)))
    assert box.records == 0
    box.dispose()


def test_a_request_that_ends_after_its_outbox_writes_into_nobody_elses_file(tmp_path: Path) -> None:
    box = Outbox(tmp_path / "outboxes", "gateway-1")
    running = opening_of(1)
    box.open(running)
    box.dispose()
    others = tmp_path / "of-somebody-else"
    with contextlib.ExitStack() as files:
        for _ in range(4):  # they get the numbers that have become free
            files.enter_context(others.open("ab", buffering=0))
        box.progress(Progress(running.request_id, 3))
        box.close(closing_of(running))
    assert others.read_bytes() == b""


def test_lag_is_the_age_of_the_oldest_end(outbox: Outbox) -> None:
    assert outbox.lag_s(LATER) == 0.0
    record = serve(outbox, 1)
    assert record.closing is not None
    assert outbox.lag_s(record.closing.ended_at + 7) == pytest.approx(7)


def test_two_gateways_of_the_same_name_do_not_share_a_file(tmp_path: Path) -> None:
    first, second = Outbox(tmp_path, "gateway-1"), Outbox(tmp_path, "gateway-1")
    serve(first, 1)
    assert second.records == 0
    assert len(list(tmp_path.iterdir())) == 2
    second.dispose()
    first.dispose()
    assert len(list(tmp_path.iterdir())) == 1  # the first has something that nobody took


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["open", "progress", "close", "ship", "lose"]), st.integers(0, 30))))
def test_what_is_not_acknowledged_is_always_found_on_file(tmp_path: Path, steps: list[tuple[str, int]]) -> None:
    root = tmp_path / "outbox"
    shutil.rmtree(root, ignore_errors=True)
    box = Outbox(root, "gateway-1", segment_bytes_max=1500, memory_bytes_max=3000)
    opened: dict[str, Opening] = {}
    closed: set[str] = set()
    stored: set[str] = set()
    for step, number in steps:
        opening = opening_of(number)
        if step == "open" and opening.request_id not in opened:
            box.open(opening)
            opened[opening.request_id] = opening
        elif step == "progress":
            box.progress(Progress(opening.request_id, number))
        elif step == "close" and opening.request_id in opened:
            box.close(closing_of(opening))
            closed.add(opening.request_id)
        elif step in {"ship", "lose"}:
            batch = box.take_batch(1 + number, LATER)
            if step == "ship":
                stored |= {record.opening.request_id for record in batch if record.closing}
                box.acknowledge(ids_of(batch))
    found = {record.opening.request_id: record for record in left_in(own_directory(root))}
    assert set(opened) - stored <= set(found)
    for request_id in closed - stored:
        assert found[request_id].closing == closing_of(opened[request_id])
    for request_id in set(opened) - closed:
        closing = found[request_id].closing
        assert closing is not None
        assert closing.outcome is Outcome.INTERRUPTED
    assert box.records == len(set(opened) - stored)
    box.dispose()


def test_frames_are_as_long_as_they_say() -> None:
    opening, framed = frame_storable(opening_of(1))
    assert unframe(framed + b"more", 0) == (opening, len(framed))
