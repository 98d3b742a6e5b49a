"""Exchanges and runs as a replay leaves them, made without sending anything."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from typing import Any

from logos.domain.nouns import Mode, Priority
from logos.workload.exchanges import Exchange, Run, ServerFigures, Status
from logos.workload.rows import WorkloadRow

BEGAN = dt.datetime(2026, 11, 25, tzinfo=dt.UTC)


def exchange(
    number: int = 1,
    *,
    latency_ms: float = 500.0,
    ttft_ms: float | None = 100.0,
    gaps_ms: tuple[float, ...] = (20.0, 20.0),
    mode: Mode = Mode.INTERACTIVE,
    priority: Priority = Priority.MID,
    model: str = "m",
    server: dict[str, Any] | None = None,
    **changes: Any,
) -> Exchange:
    """Sent 100 ms after the one before and a millisecond late, answered in `latency_ms`."""
    due_ms = 100.0 * number
    sent_ms = due_ms + 1.0
    first_ms = None if ttft_ms is None else sent_ms + ttft_ms
    made = Exchange(
        row=WorkloadRow(f"q{number}", due_ms, {"model": model}, mode, priority),
        due_ms=due_ms,
        sent_ms=sent_ms,
        ended_ms=sent_ms + latency_ms,
        status=Status.SUCCESS,
        first_token_ms=first_ms,
        last_token_ms=None if first_ms is None else first_ms + sum(gaps_ms),
        gaps_ms=gaps_ms,
        completion_tokens=len(gaps_ms) + 1,
        http_status=200,
        text="text",
        server=ServerFigures(request_id=f"id-{number}", model=model, **(server or {})),
    )
    return replace(made, **changes)


def failed(number: int, **changes: Any) -> Exchange:
    """Refused within 2 ms."""
    refused = {"status": Status.FAILED, "http_status": 500, "error": "HTTP 500: it broke", "text": ""}
    return exchange(number, latency_ms=2.0, ttft_ms=None, gaps_ms=(), **{**refused, **changes})


def run_of(*exchanges: Exchange, rows: int | None = None, slo_ms: float = 1000.0, notes: tuple[str, ...] = ()) -> Run:
    return Run(exchanges, len(exchanges) if rows is None else rows, BEGAN, slo_ms, notes)
