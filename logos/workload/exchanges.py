"""What came of each request of a run, as the client saw it and as the server recorded it.

Values only. All times are milliseconds since the run began unless they say otherwise; a time that never came is None.
"""

from __future__ import annotations

import datetime as dt
import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from logos.workload.rows import WorkloadRow


class Status(enum.StrEnum):
    """How a request that was sent ended, for the client."""

    SUCCESS = "success"
    FAILED = "failed"
    INTERRUPTED = "interrupted"  # it still ran when the run was broken off


@dataclass(frozen=True, slots=True)
class ServerFigures:
    """What the server says of a request: its headers as the answer came, its record afterwards."""

    request_id: str | None = None
    model: str | None = None
    provider: str | None = None
    tier: str | None = None
    queue_wait_ms: float | None = None
    predicted_ttft_ms: float | None = None
    ttft_ms: float | None = None
    latency_ms: float | None = None
    is_classified: bool | None = None
    was_cold_start: bool | None = None
    attempts: int | None = None
    result_status: str | None = None


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request that was sent, or tried to be. `sent_ms` is when its last byte went to the socket.

    `gaps_ms` are the times between one piece of text and the next. A reply that was not streamed has no first token.
    """

    row: WorkloadRow
    due_ms: float
    sent_ms: float
    ended_ms: float
    status: Status
    first_token_ms: float | None = None
    last_token_ms: float | None = None
    gaps_ms: Sequence[float] = field(default=(), repr=False)
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    http_status: int | None = None
    error: str | None = None
    text: str = field(default="", repr=False)
    server: ServerFigures = ServerFigures()

    @property
    def is_success(self) -> bool:
        return self.status is Status.SUCCESS

    @property
    def lateness_ms(self) -> float:
        """How long after its time it was sent: by this client's fault, not the server's."""
        return self.sent_ms - self.due_ms

    @property
    def latency_ms(self) -> float:
        return self.ended_ms - self.sent_ms

    @property
    def ttft_ms(self) -> float | None:
        return None if self.first_token_ms is None else self.first_token_ms - self.sent_ms

    @property
    def tpot_ms(self) -> float | None:
        """Mean time per output token after the first one; None for fewer than two."""
        if self.first_token_ms is None or self.last_token_ms is None:
            return None
        tokens = self.completion_tokens or len(self.gaps_ms) + 1
        return (self.last_token_ms - self.first_token_ms) / (tokens - 1) if tokens > 1 else None

    @property
    def model(self) -> str:
        """The model that answered, else the one that was asked for."""
        return self.server.model or self.row.model or "(not chosen)"

    def meets(self, slo_ms: float) -> bool:
        """Whether it was answered in full within `slo_ms`; what failed never does, however fast."""
        return self.is_success and self.latency_ms <= slo_ms


@dataclass(frozen=True, slots=True)
class Run:
    """A replayed workload. Requests that were never sent, because the run was broken off, are only counted."""

    exchanges: tuple[Exchange, ...]
    rows: int
    began_at: dt.datetime
    slo_ms: float
    notes: tuple[str, ...] = ()

    @property
    def not_sent(self) -> int:
        return self.rows - len(self.exchanges)

    @property
    def is_complete(self) -> bool:
        return not self.not_sent and all(each.status is not Status.INTERRUPTED for each in self.exchanges)


def recorded(seen: ServerFigures, record: Mapping[str, Any]) -> ServerFigures:
    """A row of GET /me/requests over what the headers had said."""
    begin = _moment(record.get("timestamp_request"))
    return ServerFigures(
        request_id=seen.request_id,
        model=record.get("model") or seen.model,
        provider=record.get("provider") or seen.provider,
        tier=seen.tier,
        queue_wait_ms=_first(record.get("queue_wait_ms"), seen.queue_wait_ms),
        predicted_ttft_ms=_first(record.get("predicted_ttft_ms"), seen.predicted_ttft_ms),
        ttft_ms=_since(begin, record.get("time_at_first_token")),
        latency_ms=_since(begin, record.get("timestamp_response")),
        is_classified=record.get("classification_statistics") is not None,
        was_cold_start=record.get("was_cold_start"),
        attempts=record.get("attempts"),
        result_status=record.get("result_status"),
    )


def _first(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)


def _moment(text: str | None) -> dt.datetime | None:
    return dt.datetime.fromisoformat(text) if text else None


def _since(begin: dt.datetime | None, text: str | None) -> float | None:
    end = _moment(text)
    return None if begin is None or end is None else (end - begin).total_seconds() * 1000
