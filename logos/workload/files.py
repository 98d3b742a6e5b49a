"""Workload files on disk: read whole, so that every flaw is known before the first request, and written."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

from logos.domain.errors import InvalidWorkload
from logos.workload.rows import WorkloadRow, format_rows, invalid, parse_rows


def read_workload(path: Path) -> tuple[WorkloadRow, ...]:
    """The rows in order of arrival. Raises InvalidWorkload, which names file, line and column."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidWorkload(f"{path} cannot be read: {error.strerror}") from None
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise invalid(str(path), line, None, "is not UTF-8; save the file in that encoding") from None
    return parse_rows(io.StringIO(text, newline=""), str(path))


def write_workload(path: Path, rows: Iterable[WorkloadRow]) -> None:
    """Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(format_rows(rows), encoding="utf-8", newline="")
