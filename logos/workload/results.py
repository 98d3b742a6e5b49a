"""The CSV files of a run, `x_summary.csv` and `x_detailed.csv`: written, and the details read again for comparisons."""

from __future__ import annotations

import contextlib
import csv
import errno
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from logos.domain.errors import InvalidWorkload
from logos.workload.exchanges import Exchange, Run
from logos.workload.statistics import quantile
from logos.workload.summary import Metric

SUMMARY_SUFFIX = "_summary.csv"
DETAILED_SUFFIX = "_detailed.csv"

# Columns of the details, one line per request that was sent. Empty: not known.
DETAILS: dict[str, Callable[[Exchange, float], Any]] = {
    "request_id": lambda each, _: each.row.request_id,
    "server_request_id": lambda each, _: each.server.request_id,
    "status": lambda each, _: each.status.value,
    "http_status": lambda each, _: each.http_status,
    "mode": lambda each, _: each.row.mode.value,
    "priority": lambda each, _: each.row.priority.name.lower(),
    "requested_model": lambda each, _: each.row.model,
    "model": lambda each, _: each.server.model,
    "provider": lambda each, _: each.server.provider,
    "tier": lambda each, _: each.server.tier,
    "classified": lambda each, _: each.server.is_classified,
    "arrival_offset_ms": lambda each, _: each.row.arrival_ms,
    "due_ms": lambda each, _: each.due_ms,
    "sent_ms": lambda each, _: each.sent_ms,
    "lateness_ms": lambda each, _: each.lateness_ms,
    "ttft_ms": lambda each, _: each.ttft_ms,
    "tpot_ms": lambda each, _: each.tpot_ms,
    "inter_token_p50_ms": lambda each, _: quantile(sorted(each.gaps_ms), 0.5),
    "inter_token_p99_ms": lambda each, _: quantile(sorted(each.gaps_ms), 0.99),
    "total_latency_ms": lambda each, _: each.latency_ms,
    "slo_met": lambda each, slo_ms: each.meets(slo_ms),
    "prompt_tokens": lambda each, _: each.prompt_tokens,
    "completion_tokens": lambda each, _: each.completion_tokens,
    "queue_wait_ms": lambda each, _: each.server.queue_wait_ms,
    "predicted_ttft_ms": lambda each, _: each.server.predicted_ttft_ms,
    "server_ttft_ms": lambda each, _: each.server.ttft_ms,
    "server_latency_ms": lambda each, _: each.server.latency_ms,
    "was_cold_start": lambda each, _: each.server.was_cold_start,
    "attempts": lambda each, _: each.server.attempts,
    "result_status": lambda each, _: each.server.result_status,
    "error": lambda each, _: each.error,
    "response_text": lambda each, _: each.text,
}


def base_of(output: Path) -> Path:
    """`dir/x.csv`, `dir/x_detailed.csv` and `dir/x_summary.csv` -> `dir/x`, in front of which suffixes are put."""
    for suffix in (SUMMARY_SUFFIX, DETAILED_SUFFIX, ".csv"):
        if output.name.endswith(suffix) and output.name != suffix:
            return output.with_name(output.name.removesuffix(suffix))
    return output


def beside(base: Path, suffix: str) -> Path:
    return base.with_name(f"{base.name}{suffix}")


def write_summary(base: Path, metrics: Sequence[Metric]) -> Path:
    """Raises OSError."""
    path = beside(base, SUMMARY_SUFFIX)
    _write(path, ("metric", "value", "unit"), [(each.name, _cell(each.value), each.unit) for each in metrics])
    return path


def write_details(base: Path, run: Run) -> Path:
    """Raises OSError. The workload's own further columns come last."""
    extra = list(dict.fromkeys(name for each in run.exchanges for name in each.row.extra if name not in DETAILS))
    rows = [
        [*(_cell(value(each, run.slo_ms)) for value in DETAILS.values()), *(each.row.extra.get(n, "") for n in extra)]
        for each in run.exchanges
    ]
    path = beside(base, DETAILED_SUFFIX)
    _write(path, [*DETAILS, *extra], rows)
    return path


def read_details(output: Path) -> Sequence[Mapping[str, str]]:
    """The rows of the details that belong to `output`. Raises InvalidWorkload, which says what is missing."""
    path = beside(base_of(output), DETAILED_SUFFIX)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise InvalidWorkload(f"{path} cannot be read ({error.strerror}): name an earlier --output") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise InvalidWorkload(f"{path} is not a file of results: {error}") from None
    missing = [name for name in ("request_id", "status", "total_latency_ms") if not rows or name not in rows[0]]
    if missing:
        raise InvalidWorkload(f"{path} has no rows or no column {missing[0]}: it is not a file of results")
    return rows


def check_writable(paths: Sequence[Path]) -> None:
    """Makes their directories. Raises OSError if one of these files could not be written."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "there is a directory of this name", str(path))
    for directory in {path.parent for path in paths}:
        with tempfile.TemporaryFile(dir=directory):
            pass


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Where to write so that `path` is whole or as it was."""
    part = path.with_name(f".{path.name}.part")
    try:
        yield part
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _write(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def _cell(value: object) -> str:
    """Numbers with a microsecond's precision at most."""
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case float():
            return f"{value:.3f}".rstrip("0").rstrip(".") if abs(value) >= 1 else f"{value:.6g}"
        case str():
            return value.replace("\0", "\N{REPLACEMENT CHARACTER}")
    return str(value)
