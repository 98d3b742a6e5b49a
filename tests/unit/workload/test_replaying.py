"""A whole replay, as far as it goes without a platform."""

from __future__ import annotations

from pathlib import Path

import pytest

from logos.workload.client import Target
from logos.workload.replaying import replay


@pytest.mark.parametrize("name", ["x_summary.csv", "x_detailed.csv", "x_ttft.png"])
def test_what_cannot_be_written_is_said_before_anything_is_sent(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(IsADirectoryError, match=name):
        replay([], Target("http://127.0.0.1:1", "lg-none"), tmp_path / "x.csv")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_run_leaves_its_files_and_nothing_beside_them(tmp_path: Path) -> None:
    report = replay([], Target("http://127.0.0.1:1", "lg-none"), tmp_path / "deep" / "x.csv")
    assert set(report.files) == set((tmp_path / "deep").iterdir())
    assert {"x_summary.csv", "x_detailed.csv", "x_latency.png"} < {path.name for path in report.files}
