"""The sample workloads replayed against a real platform, as the README says."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.conftest import World

TESTS = Path(__file__).resolve().parents[1]
FIXTURES = TESTS / "fixtures" / "scheduling"
OLD_NAME = TESTS / "support" / "scheduling" / "run_api_workload.py"
# The query that earlier users know.
MODES = """
    SELECT id, model_id, CASE WHEN classification_statistics IS NOT NULL THEN 'classification' ELSE 'direct' END
      AS mode FROM log_entry WHERE id > %s AND api_key_id = (SELECT id FROM api_keys WHERE name = %s) ORDER BY id DESC
"""


@pytest.mark.parametrize(("kind", "direct", "classified"), [("direct", 20, 0), ("classify", 0, 20), ("mixed", 10, 10)])
def test_a_sample_is_answered_recorded_and_reported(
    world: World, tmp_path: Path, kind: str, direct: int, classified: int
) -> None:
    before = world.platform.value("SELECT coalesce(max(id), 0) FROM log_entry")
    command = [sys.executable, str(OLD_NAME), "--logos-key", world.key(), "--api-base", world.platform.base_url]
    command += ["--workload", str(FIXTURES / f"sample_workload_{kind}.csv"), "--latency-slo-ms", "10000"]
    # Faster than it is meant, because only what is counted is looked at here.
    done = subprocess.run(
        [*command, "--speed", "5", "--output", str(tmp_path / "x.csv")], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    summary = {row["metric"]: row["value"] for row in read(tmp_path / "x_summary.csv")}
    counts = [summary[name] for name in ("total_requests", "successful_requests", "failed_requests")]
    assert counts == ["20", "20", "0"], done.stderr
    modes = [mode for _, _, mode in world.platform.rows(MODES, before, world.keys[-1])]
    assert (modes.count("direct"), modes.count("classification")) == (direct, classified)
    details = read(tmp_path / "x_detailed.csv")
    assert sum(row["classified"] == "true" for row in details) == classified
    assert all(row["server_latency_ms"] and row["result_status"] == "success" for row in details)
    assert len(list(tmp_path.glob("x_*.png"))) == 5
    sent = {row["request_id"]: (row["mode"], row["priority"]) for row in details}
    recorded = world.log("client_request_id, mode, initial_priority")
    names = {1: "low", 5: "mid", 10: "high"}
    assert {each: (mode, names[priority]) for each, mode, priority in recorded} == sent


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
