"""How `logos status` shows the state of a platform to people: a few lines, then tables of what there are several of.

What the figures mean is said where they come from (`scheduling.summary`); asking for them is the command's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

# List of the scheduler's state -> the columns that people look for; the rest is in --json.
TABLES: dict[str, tuple[str, ...]] = {
    "endpoints": ("endpoint_id", "model", "waiting", "oldest_waits_s", "running", "capacity", "circuit"),
    "engines": ("engine_id", "model", "node_id", "state", "since_s", "memory_mib", "running", "claimed_by"),
    "claims": ("model", "node_id", "wakes", "victims", "settled", "for_s"),
    "nodes": ("node_id", "engines", "gpus", "host_memory_mib", "host_taken_mib", "sleeps"),
    "gateways": ("gateway_id", "waiting", "running", "leases"),
}


def status_lines(health: Mapping[str, Any]) -> Iterator[str]:
    """The answer of /health, line by line."""
    scheduler = health.get("scheduler") or {}
    figures = {name: value for name, value in scheduler.items() if name not in TABLES}
    yield from _pairs({**health, "scheduler": figures} if figures else health, "")
    for name, columns in TABLES.items():
        rows = scheduler.get(name)
        if rows:
            yield ""
            yield f"{name}:"
            yield from table(columns, [[_cell(name, column, row.get(column)) for column in columns] for row in rows])


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Columns as wide as they have to be."""
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    for row in (columns, *rows):
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _pairs(found: Mapping[str, Any], path: str) -> Iterator[str]:
    for name, value in found.items():
        place = f"{path}.{name}" if path else name
        if isinstance(value, Mapping) and value:
            yield from _pairs(value, place)
        else:
            yield f"{place:<40}  {_text(value)}"


def _cell(name: str, column: str, value: Any) -> str:
    if name == "nodes" and column == "gpus":
        return " ".join(f"{gpu['memory_mib'] - gpu['free_mib']}/{gpu['memory_mib']}" for gpu in value)
    return _text(value)


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.1f}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
