"""The notebooks run as they are, and show what they promise; the one about logs on a database, too."""

from __future__ import annotations

import base64
import io
import itertools
from pathlib import Path
from typing import Any

import nbformat
import psycopg
import pytest
from matplotlib.image import imread
from nbclient import NotebookClient
from psycopg.types.json import Jsonb

from logos.analysis.logged import read_database, story_of
from logos.analysis.story import Phase
from logos.domain.errors import DatabaseUnavailable
from tests.support.contended_platform import KEYS, MODELS, contend, crowd
from tests.support.postgres import value
from tests.unit.analysis.test_simulated import served_while_away

NOTEBOOKS = Path(__file__).parents[3] / "notebooks"
NAMES = sorted(path.name for path in NOTEBOOKS.glob("*.ipynb"))
PICTURES = 4
MEASURES = ("in_time", "ttft_p95_s", "swaps", "key_ratio")


def executed(name: str) -> list[Any]:
    """The outputs of all cells, after a run from the first to the last. Fails with the cell that failed."""
    notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(NOTEBOOKS)}}).execute()
    return [output for cell in notebook.cells for output in cell.get("outputs", ())]


def check_what_is_shown(outputs: list[Any]) -> str:
    """Pictures that are not blank, a table, and no warning. Returns what is written."""
    assert [each for each in outputs if each.get("name") == "stderr"] == []
    shown = [each["data"] for each in outputs if "data" in each]
    pictures = [base64.b64decode(data["image/png"]) for data in shown if "image/png" in data]
    assert len(pictures) == PICTURES
    for picture in pictures:
        pixels = imread(io.BytesIO(picture))
        assert pixels.std() > 0.05
        assert 400 < pixels.shape[1] < 2000
    written = "".join(data.get("text/html", "") for data in shown) + "".join(each.get("text", "") for each in outputs)
    assert all(measure in written for measure in MEASURES)
    return written


@pytest.fixture(autouse=True)
def _nothing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOGOS_DATABASE_URL", "LOGOS_NOTEBOOK_DATA_DIR", "LOGOS_NOTEBOOK_WORKLOAD"):
        monkeypatch.delenv(name, raising=False)


def test_the_policies_are_compared_in_a_simulation() -> None:
    written = check_what_is_shown(executed("scheduling_policies.ipynb"))
    assert all(policy in written for policy in ("slo", "ettft", "fcfs", "ollama"))


def test_without_a_database_the_sample_is_shown() -> None:
    rows = (NOTEBOOKS / "sample" / "requests.csv").read_text().count("\n") - 1
    assert f"{rows} requests" in check_what_is_shown(executed("scheduling_logs.ipynb"))


async def test_the_log_of_a_platform_is_shown_and_tells_what_happened(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrivals = crowd(duration_s=3.0, rate_per_s=12.0)
    await contend(database_url, tmp_path, arrivals)

    story = story_of(read_database(database_url))
    assert len(story.requests) == len(arrivals)
    assert set(story.requests.model) == set(story.spans.model) == set(MODELS)
    assert set(story.requests.key) == set(KEYS)
    assert story.name == "slo"
    orders = "SELECT count(*) FROM scheduling_journal, jsonb_array_elements(commands) c WHERE c->>0 IN ({})"
    brought_in = value(database_url, orders.format("'LoadEngine', 'WakeEngine'"))
    assert (story.spans.phase == Phase.COMING).sum() == brought_in >= len(MODELS)
    assert (story.spans.phase == Phase.GOING).sum() > 0
    assert served_while_away(story, tolerance_s=0.25) == []

    (tmp_path / "database_url").write_text(f"{database_url}\n")
    monkeypatch.setenv("LOGOS_NOTEBOOK_DATA_DIR", str(tmp_path))
    assert f"{len(arrivals)} requests" in check_what_is_shown(executed("scheduling_logs.ipynb"))


def test_of_a_long_journal_the_newest_changes_are_told_and_what_introduced_the_engines(database_url: str) -> None:
    """A day of one engine that wakes and sleeps every minute, of which 20 lines may be read."""
    write_journal(database_url, turns=600)
    read = read_database(database_url, hours=24.0, rows_max=20)
    assert len(read.journal) == 20
    assert read.journal.kind.tolist()[:2] == ["snapshot", "RequestsArrived"]
    assert read.journal.sequence.is_monotonic_increasing
    assert read.journal.sequence.max() == 1201
    story = story_of(read)
    assert story.name == "slo"
    assert (story.spans.phase == Phase.AWAKE).sum() == 9
    assert story.spans.model.unique().tolist() == ["endpoint 7"]


def write_journal(url: str, turns: int) -> None:
    """A start, a load of engine `e`, and its turns: awake, then asleep."""
    lines = [(0, "snapshot", {"opening": {"settings": {"policy": "slo"}}}, [])]
    load = ["LoadEngine", {"engine_id": "e", "endpoint_id": 7, "node_id": "n"}]
    lines += [(1, "RequestsArrived", {}, [load])]
    states = itertools.islice(itertools.cycle(("awake", "asleep")), 2 * turns)
    lines += [
        (2 + number, "EngineChanged", {"engine_id": "e", "state": state, "seconds": 0.0}, [])
        for number, state in enumerate(states)
    ]
    insert = (
        "INSERT INTO scheduling_journal (epoch, sequence, at, kind, event, commands) VALUES (1, %s, %s, %s, %s, %s)"
    )
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        cursor.executemany(
            insert,
            [(number, 30.0 * number, kind, Jsonb(event), Jsonb(orders)) for number, kind, event, orders in lines],
        )


def test_an_empty_database_is_a_story_in_which_nothing_happened(database_url: str) -> None:
    assert len(story_of(read_database(database_url)).requests) == 0


def test_a_database_that_is_away_is_one_line() -> None:
    with pytest.raises(DatabaseUnavailable, match="does not answer"):
        read_database("postgresql://127.0.0.1:1/nothing")


@pytest.mark.parametrize("name", NAMES)
def test_notebooks_are_committed_without_outputs(name: str) -> None:
    cells = [cell for cell in nbformat.read(NOTEBOOKS / name, as_version=4).cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in cells)
