"""Records as gateways make them, for tests of everything between the outbox and Postgres."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from logos.domain.lifecycle import Outcome, UsageSource
from logos.domain.nouns import LogLevel, Priority
from logos.domain.records import Attempt, Charge, Closing, Opening, Record

NOW = 1_790_000_000.0  # Unix seconds


def opening_of(number: int, **changes: Any) -> Opening:
    opening = Opening(
        request_id=f"req_{number:08d}",
        accepted_at=NOW + number / 1000,
        key_id=1 + number % 7,
        team_id=1 + number % 3,
        route="/v1/chat/completions",
        log_level=LogLevel.BILLING,
        model_id=1 + number % 5,
        provider_id=1,
        endpoint_id=1 + number % 5,
        prompt_tokens=12,
        gateway_id="gateway-1",
    )
    return replace(opening, **changes)


def closing_of(opening: Opening, **changes: Any) -> Closing:
    assert opening.model_id is not None
    assert opening.provider_id is not None
    assert opening.endpoint_id is not None
    at = opening.accepted_at
    attempt = Attempt(
        number=1,
        model_id=opening.model_id,
        provider_id=opening.provider_id,
        endpoint_id=opening.endpoint_id,
        engine_id=None,
        started_at=at + 0.001,
        first_byte_at=at + 0.1,
        ended_at=at + 1.0,
        outcome=Outcome.SUCCESS,
        http_status=200,
    )
    closing = Closing(
        request_id=opening.request_id,
        ended_at=at + 1.0,
        outcome=Outcome.SUCCESS,
        http_status=200,
        model_id=opening.model_id,
        provider_id=opening.provider_id,
        endpoint_id=opening.endpoint_id,
        forwarded_at=at + 0.001,
        first_token_at=at + 0.1,
        usage={"prompt": 10, "completion": 20},
        usage_source=UsageSource.UPSTREAM,
        charge=Charge(micro_cents=1000, currency="EUR"),
        attempts=(attempt,),
        queue_wait_ms=0.5,
        queue_depth_at_enqueue=0,
        queue_depth_at_schedule=0,
        priority_when_scheduled=Priority.MID,
        predicted_ttft_ms=80.0,
        overhead_ms=0.7,
    )
    return replace(closing, **changes)


def record_of(number: int, **changes: Any) -> Record:
    """A closed record; changes go to the opening."""
    opening = opening_of(number, **changes)
    return Record(opening, closing_of(opening))


def records(count: int, first: int = 0) -> tuple[Record, ...]:
    return tuple(record_of(number) for number in range(first, first + count))


def ids_of(some: tuple[Record, ...]) -> frozenset[str]:
    return frozenset(record.opening.request_id for record in some)
