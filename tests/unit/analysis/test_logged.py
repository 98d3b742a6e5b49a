import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from logos.analysis.logged import Extract, named_database, read_files, story_of, write_files
from logos.analysis.story import Phase
from logos.domain.errors import InvalidDeclaration
from tests.unit.analysis.test_simulated import served_while_away

SAMPLE = Path(__file__).parents[3] / "notebooks" / "sample"
BEGINS_S = 1_700_000_000.0


def journal(*lines: tuple[float, str, dict[str, Any] | None, list[Any]]) -> pd.DataFrame:
    """Rows as the extract has them, each (seconds since the start, kind, event, commands)."""
    opening = {"epoch": 1, "sequence": 0, "at_s": BEGINS_S, "kind": "snapshot", "policy": "slo"}
    rows = [
        {
            "epoch": 1,
            "sequence": number,
            "at_s": BEGINS_S + at_s,
            "kind": kind,
            "event": None if event is None else json.dumps(event),
            "commands": json.dumps(commands) if commands else None,
        }
        for number, (at_s, kind, event, commands) in enumerate(lines, 1)
    ]
    return pd.DataFrame([opening, *rows], columns=["epoch", "sequence", "at_s", "kind", "policy", "event", "commands"])


def extract(*lines: tuple[float, str, dict[str, Any] | None, list[Any]], last_at_s: float = 60.0) -> Extract:
    requests = [
        {
            "request_id": f"r{number}", "result_status": status, "model": "m", "key": "k", "at_s": BEGINS_S + at_s,
            "first_token_at_s": first, "queue_wait_ms": 500.0, "predicted_ttft_ms": 1500.0, "slo_ttft_ms": 2000,
        }
        for number, (at_s, status, first) in enumerate(
            [(0.0, "success", BEGINS_S + 2.0), (last_at_s, "no_capacity", None)]
        )
    ]  # fmt: skip
    endpoints = pd.DataFrame({"endpoint_id": [7], "model": ["m"]})
    return Extract(pd.DataFrame(requests), journal(*lines), endpoints)


def spans(*lines: tuple[float, str, dict[str, Any] | None, list[Any]]) -> list[tuple[Any, ...]]:
    table = story_of(extract(*lines)).spans
    return [(each.phase, round(each.began_s, 6), round(each.ended_s, 6)) for each in table.itertuples()]


def load(engine: str = "e") -> list[Any]:
    return [["LoadEngine", {"engine_id": engine, "endpoint_id": 7, "node_id": "n"}]]


def order(name: str, engine: str = "e") -> list[Any]:
    return [[name, {"engine_id": engine}]]


def changed(state: str, seconds: float = 0.0, engine: str = "e") -> dict[str, Any]:
    return {"engine_id": engine, "state": state, "seconds": seconds}


def seen(*engines: tuple[str, str]) -> dict[str, Any]:
    found = [{"engine_id": engine, "endpoint_id": 7, "state": state} for engine, state in engines]
    return {"node": {"id": "n"}, "engines": found}


def test_requests_are_told_in_seconds_from_the_first_one() -> None:
    story = story_of(extract())
    first, last = story.requests.to_dict("records")
    assert first["at_s"] == 0.0
    assert (first["ttft_s"], first["wait_s"], first["predicted_ttft_s"], first["slo_ttft_s"]) == (2.0, 0.5, 1.5, 2.0)
    assert first["is_answered"]
    assert not last["is_answered"]
    assert pd.isna(last["ttft_s"])
    assert story.name == "slo"


def test_an_engine_comes_by_an_order_and_goes_by_another() -> None:
    assert spans(
        (1.0, "RequestsArrived", None, load()),
        (5.0, "EngineChanged", changed("awake", 4.0), []),
        (20.0, "RequestFinished", None, order("SleepEngine")),
        (23.0, "EngineChanged", changed("asleep", 2.0), order("WakeEngine")),
        (24.0, "EngineChanged", changed("awake"), []),
    ) == [
        (Phase.COMING, 1.0, 5.0),
        (Phase.AWAKE, 5.0, 21.0),  # until its node began
        (Phase.GOING, 21.0, 23.0),
        (Phase.COMING, 23.0, 24.0),  # nothing was measured: since the order
        (Phase.AWAKE, 24.0, 60.5),
    ]


def test_a_crash_and_a_lost_node_end_being_awake() -> None:
    up = [(1.0, "Woke", None, load()), (5.0, "EngineChanged", changed("awake", 4.0), [])]
    crash = (9.0, "EngineChanged", changed("failed"), [])
    lost = (9.0, "NodeLost", {"node_id": "n"}, [])
    elsewhere = (9.0, "NodeLost", {"node_id": "another"}, [])
    assert spans(*up, crash)[-1] == spans(*up, lost)[-1] == (Phase.AWAKE, 5.0, 9.0)
    assert spans(*up, elsewhere)[-1] == (Phase.AWAKE, 5.0, 60.5)


def test_a_node_that_introduces_itself_again_changes_nothing() -> None:
    first = (-30.0, "NodeSeen", seen(("e", "awake"), ("other", "asleep")), [])
    again = (10.0, "NodeSeen", seen(("e", "awake"), ("other", "asleep")), [])
    assert spans(first, again) == [(Phase.AWAKE, 0.0, 60.5)]


def test_an_engine_that_fell_asleep_unseen_is_away_from_when_that_is_known() -> None:
    first = (-30.0, "NodeSeen", seen(("e", "awake")), [])
    assert spans(first, (10.0, "NodeSeen", seen(("e", "asleep")), [])) == [(Phase.AWAKE, 0.0, 10.0)]


def test_a_node_that_introduces_itself_while_an_order_is_carried_out_does_not_end_it() -> None:
    assert spans(
        (-30.0, "NodeSeen", seen(("e", "awake")), []),
        (9.0, "RequestFinished", None, order("SleepEngine")),
        (10.0, "NodeSeen", seen(("e", "falling_asleep")), []),
        (12.0, "EngineChanged", changed("asleep", 3.0), []),
    ) == [(Phase.AWAKE, 0.0, 9.0), (Phase.GOING, 9.0, 12.0)]


def test_endpoints_that_are_not_known_have_numbers() -> None:
    line = (
        1.0,
        "NodeSeen",
        {"node": {"id": "n"}, "engines": [{**seen(("e", "awake"))["engines"][0], "endpoint_id": 9}]},
    )
    assert set(story_of(extract((*line, []))).spans.model) == {"endpoint 9"}


def test_a_log_without_requests_and_journal_is_a_story_in_which_nothing_happened() -> None:
    whole = extract()
    story = story_of(Extract(whole.requests[:0], whole.journal[:0], whole.endpoints[:0]))
    assert len(story.requests) == len(story.spans) == 0
    assert story.name == "unknown policy"


def test_files_tell_the_same_story_again(tmp_path: Path) -> None:
    before = extract((1.0, "Woke", None, load()), (5.0, "EngineChanged", changed("awake", 4.0), []))
    write_files(before, tmp_path)
    one, other = story_of(before), story_of(read_files(tmp_path))
    pd.testing.assert_frame_equal(one.requests, other.requests)
    pd.testing.assert_frame_equal(one.spans, other.spans)
    assert one.name == other.name


def test_first_tokens_of_the_sample_come_from_models_that_are_awake() -> None:
    story = story_of(read_files(SAMPLE))
    assert len(story.requests) > 100
    assert served_while_away(story, tolerance_s=0.25) == []


def test_the_database_is_named_by_the_environment_before_the_data_directory(tmp_path: Path) -> None:
    (tmp_path / "database_url").write_text("postgresql://here\n")
    assert named_database({"LOGOS_DATABASE_URL": "postgresql://there"}, tmp_path) == "postgresql://there"
    assert named_database({}, tmp_path) == "postgresql://here"
    assert named_database({"LOGOS_DATABASE_URL": ""}) is None


def test_a_data_directory_without_a_database_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidDeclaration, match=r"database_url cannot be read .*--data-dir"):
        named_database({}, tmp_path)
