"""The journal on disk: every event and command survives the way there and back, and a bad line is named."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from logos.actors.journal import JournalWriter, decode_entry, encode_entry, read_journal, replay_file
from logos.cli import run
from logos.domain.catalogue import Catalogue
from logos.domain.errors import InvalidDeclaration
from logos.domain.leases import SlotLease
from logos.domain.lifecycle import EngineState
from logos.domain.nouns import Endpoint, Gpu, Model, Node, Place, Privacy, Provider
from logos.scheduling.commands import Dispatch, GrantLease
from logos.scheduling.events import (
    Candidate,
    CatalogueChanged,
    EngineSeen,
    Event,
    GatewaySeen,
    NodeSeen,
    Request,
    RequestsArrived,
    RequestStarted,
)
from logos.scheduling.replay import JournalOpening, begin
from logos.scheduling.settings import SchedulerSettings

CATALOGUE = Catalogue(
    version=1,
    models=(Model(1, "m", capabilities=frozenset({"chat"})),),
    providers=(Provider(1, "far", "openai", Privacy.LOCAL),),
    endpoints=(Endpoint(1, 1, 1, Privacy.LOCAL, "m", max_parallel=8),),
)
OPENING = JournalOpening(Catalogue(), SchedulerSettings(), 7)
EVENTS: tuple[Event, ...] = (
    CatalogueChanged(1.0, CATALOGUE),
    GatewaySeen(1.5, "g", (SlotLease("l", "g", Place(1), 2, 9.0),), (("r0", Place(1)),)),
    NodeSeen(1.6, Node("n", 2, (Gpu(0, 1024),)), (EngineSeen("e", 1, (0,), EngineState.AWAKE, 512),)),
    RequestsArrived(2.0, "h", (Request("r1", "h", 1, (Candidate(1, 0.5),)),)),
    RequestStarted(2.1, "r1"),
)


def test_every_event_comes_back_as_it_was() -> None:
    for event in EVENTS:
        assert decode_entry(encode_entry(event, ()).encoded, 2) == (event, [])


def test_commands_come_back_as_they_were() -> None:
    core = begin(OPENING)
    caused = [command for event in EVENTS for command in core.handle(event)]
    assert {Dispatch, GrantLease} <= {type(command) for command in caused}
    assert decode_entry(encode_entry(EVENTS[-1], caused).encoded, 2) == (EVENTS[-1], caused)


def written(directory: Path) -> Path:
    writer = JournalWriter(directory, OPENING)
    core = begin(OPENING)
    for event in EVENTS:
        writer.append(event, core.handle(event))
    writer.close()
    return writer.path


def test_a_journal_that_was_ended_keeps_what_came_before_and_says_that_it_is_not_all(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, OPENING)
    core = begin(OPENING)
    writer.append(EVENTS[0], core.handle(EVENTS[0]))
    writer.end()
    writer.append(EVENTS[1], core.handle(EVENTS[1]))
    writer.close()
    _, entries = read_journal(writer.path)
    assert [event for event, _ in entries] == [EVENTS[0]]
    assert not writer.complete


def test_a_journal_replays_to_the_same_commands(tmp_path: Path) -> None:
    assert replay_file(written(tmp_path)) == []


def test_a_changed_command_is_a_difference(tmp_path: Path) -> None:
    path = written(tmp_path)
    path.write_bytes(path.read_bytes().replace(b'"tier":"remote"', b'"tier":"warm"'))
    (difference,) = replay_file(path)
    assert difference.event == EVENTS[3]


def test_the_command_tells_a_difference_in_full(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path)
    path.write_bytes(path.read_bytes().replace(b'"tier":"remote"', b'"tier":"warm"'))
    assert run(["journal", "replay", str(path), "--json"]) == 1
    (told,) = json.loads(capsys.readouterr().out)
    assert (told["index"], told["event"]) == (3, repr(EVENTS[3]))
    assert "Tier.WARM" in told["recorded"][0]
    assert "Tier.REMOTE" in told["replayed"][0]


@pytest.mark.parametrize("taken", [0, 9, OSError(28, "No space left on device")])
def test_on_a_disk_that_takes_no_more_a_journal_ends_and_its_start_of_it_replays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: int | OSError
) -> None:
    writer, write = JournalWriter(tmp_path, OPENING), os.write

    def full(descriptor: int, data: bytes) -> int:
        if isinstance(taken, OSError):
            raise taken
        return write(descriptor, data[:taken])

    core = begin(OPENING)
    for event in EVENTS:
        writer.append(event, core.handle(event))
        if event is EVENTS[2]:
            writer.take_pending()
            monkeypatch.setattr("logos.actors.journal.os.write", full)
        elif event is EVENTS[3]:
            assert len(writer.take_pending()) == 1
    assert not writer.complete
    assert writer.take_pending() == []
    monkeypatch.undo()
    writer.close()
    _, entries = read_journal(writer.path)
    assert len(list(entries)) == 3
    assert replay_file(writer.path) == []


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    path = written(tmp_path)
    path.write_bytes(path.read_bytes()[:-9])
    _, entries = read_journal(path)
    assert len(list(entries)) == len(EVENTS) - 1


def test_a_line_that_is_none_is_named_by_its_number(tmp_path: Path) -> None:
    path = written(tmp_path)
    lines = path.read_bytes().split(b"\n")
    lines[2] = b'{"event": ["Nonsense", {}], "commands": []}'
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(InvalidDeclaration, match="line 3"):
        replay_file(path)


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize(
    "line", [b"\xff\xfe", b'{"contract_version": "\xff"}', b"[" * 100_000, b"[]", b"7", b'{"event": 5}', b"{}"]
)
def test_a_line_that_cannot_be_read_is_named_by_its_number(tmp_path: Path, number: int, line: bytes) -> None:
    path = written(tmp_path)
    lines = path.read_bytes().split(b"\n")
    lines[number - 1] = line
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(InvalidDeclaration, match=f"^line {number} ") as caught:
        replay_file(path)
    assert "\n" not in caught.value.message


def test_a_clock_that_goes_backwards_is_named_by_its_line(tmp_path: Path) -> None:
    path = written(tmp_path)
    lines = path.read_bytes().split(b"\n")
    lines[3], lines[4] = lines[4], lines[3]
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(InvalidDeclaration, match=r"line 5: the clock goes backwards, from 2\.000000 to 1\.600000 s"):
        replay_file(path)


def test_an_empty_file_and_another_version_are_refused_in_words(tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    with pytest.raises(InvalidDeclaration, match="empty"):
        replay_file(empty)
    other = tmp_path / "other.jsonl"
    other.write_text('{"contract_version": 999, "opening": {}}\n')
    with pytest.raises(InvalidDeclaration, match="999"):
        replay_file(other)


def test_only_the_newest_journals_are_kept(tmp_path: Path) -> None:
    for epoch in range(100, 110):
        JournalWriter(tmp_path, JournalOpening(Catalogue(), SchedulerSettings(), epoch)).close()
    assert [path.stem for path in sorted(tmp_path.glob("*.jsonl"))] == ["106", "107", "108", "109"]
