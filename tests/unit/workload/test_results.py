import csv
from pathlib import Path

import pytest

from logos.domain.errors import InvalidWorkload
from logos.workload.exchanges import ServerFigures, recorded
from logos.workload.results import base_of, read_details, whole, write_details, write_summary
from logos.workload.rows import WorkloadRow
from logos.workload.summary import summarise
from tests.support.exchanges import exchange, failed, run_of


@pytest.mark.parametrize("name", ["x.csv", "x_detailed.csv", "x_summary.csv", "x"])
def test_any_name_of_a_run_leads_to_its_files(name: str) -> None:
    assert base_of(Path("dir") / name) == Path("dir/x")


def test_a_dot_inside_a_name_stays() -> None:
    assert base_of(Path("v1.2")) == Path("v1.2")


def test_the_summary_is_metric_value_unit(tmp_path: Path) -> None:
    path = write_summary(tmp_path / "deep" / "x", summarise(run_of(exchange(), failed(2))))
    assert path == tmp_path / "deep" / "x_summary.csv"
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["metric", "value", "unit"]
    assert ["total_requests", "2", "requests"] in rows
    assert ["error_rate", "0.5", "ratio"] in rows
    assert ["p50_ttft", "100", "ms"] in rows
    assert ["avg_queue_wait", "", "ms"] in rows


def test_the_details_have_a_row_per_request_sent_and_are_read_back(tmp_path: Path) -> None:
    row = WorkloadRow('odd, "id"', 0.0, {}, extra={"team": "red", "status": "mine"})
    run = run_of(exchange(1), failed(2), exchange(3, row=row, latency_ms=1001.0, text='say "a",\nb\0'))
    write_details(tmp_path / "x", run)
    first, second, third = read_details(tmp_path / "x.csv")
    assert first["ttft_ms"] == "100"
    assert [row["slo_met"] for row in (first, second, third)] == ["true", "false", "false"]
    assert (second["status"], second["http_status"], second["error"]) == ("failed", "500", "HTTP 500: it broke")
    assert (second["ttft_ms"], second["team"]) == ("", "")
    assert (third["request_id"], third["team"], third["status"]) == ('odd, "id"', "red", "success")
    assert third["response_text"] == 'say "a",\nb\N{REPLACEMENT CHARACTER}'


def test_a_file_that_could_not_be_finished_is_as_it_was(tmp_path: Path) -> None:
    before = tmp_path / "x"
    before.write_text("whole")

    def breaks_off() -> None:
        with whole(before) as part:
            part.write_text("ha")
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        breaks_off()
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert before.read_text() == "whole"


@pytest.mark.parametrize("content", [None, "", "a,b\n1,2\n"])
def test_what_is_no_result_is_an_error_that_names_the_file(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "x_detailed.csv").write_text(content)
    with pytest.raises(InvalidWorkload, match=r"x_detailed\.csv"):
        read_details(tmp_path / "x.csv")


def test_the_servers_record_wins_over_its_headers_and_times_count_from_its_arrival() -> None:
    seen = ServerFigures("id-1", "m", "p", "warm", 1.0, 2.0)
    record = {
        "model": "other", "provider": None, "queue_wait_ms": 0.0, "predicted_ttft_ms": None,
        "timestamp_request": "2026-11-25T10:00:00Z", "time_at_first_token": "2026-11-25T10:00:00.250Z",
        "timestamp_response": None, "classification_statistics": {"stage": 1}, "attempts": 2,
    }  # fmt: skip
    found = recorded(seen, record)
    assert (found.model, found.provider, found.tier) == ("other", "p", "warm")
    assert (found.queue_wait_ms, found.predicted_ttft_ms, found.ttft_ms, found.latency_ms) == (0.0, 2.0, 250.0, None)
    assert (found.is_classified, found.attempts) == (True, 2)
