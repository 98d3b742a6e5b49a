"""The schema of a request's record on its way to Postgres: opened before it waits or is sent on, closed once.

A record is keyed by Logos's own request id. `Opening`, `Progress` and `Closing` are what a gateway appends to its
outbox; the ledger writes them idempotently. Payloads and headers are present only for keys that log FULL, headers
without credentials, payloads without the bytes of images and audio. Nothing here knows how records are stored or sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from logos.domain.lifecycle import Outcome, UsageSource
from logos.domain.nouns import LogLevel, Priority

RECORD_SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Charge:
    """What a request costs: integer micro-cents, rounded once. Currency None: no price row applied."""

    micro_cents: int = 0
    currency: str | None = None


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try of a request at one place. Times are Unix seconds. `is_hedge`: it was sent while the first one was still
    to answer; `house_cost`: of an answer that was given up for a faster one, so nobody is charged for it."""

    number: int  # from 1
    model_id: int
    provider_id: int
    endpoint_id: int
    engine_id: str | None
    started_at: float
    first_byte_at: float | None = None
    ended_at: float | None = None
    outcome: Outcome | None = None
    http_status: int | None = None
    error_message: str | None = None
    is_hedge: bool = False
    house_cost: Charge = Charge()


@dataclass(frozen=True, slots=True)
class Opening:
    """What is known when a request is accepted: its place, too, where it did not have to wait for one. `prompt_tokens`
    is the gateway's estimate."""

    request_id: str
    accepted_at: float
    key_id: int
    route: str
    log_level: LogLevel
    team_id: int | None = None
    user_id: int | None = None
    model_id: int | None = None
    provider_id: int | None = None
    endpoint_id: int | None = None
    engine_id: str | None = None
    policy_id: int | None = None
    priority: Priority = Priority.MID
    mode: str = "interactive"
    client_request_id: str | None = None
    client_ip: str | None = None
    prompt_tokens: int = 0
    slo_ttft_ms: int | None = None
    slo_total_ms: int | None = None
    classification_statistics: Mapping[str, Any] | None = None
    input_payload: str | None = None
    headers: Mapping[str, str] | None = None
    gateway_id: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a running request has come, which is what a cut-off one is charged by: the tokens of a streamed answer
    that have been relayed, and where it is served if that is not where it was when it was opened, or last. `waits`: its
    place failed, and it waits for another one."""

    request_id: str
    completion_tokens: int = 0
    first_token_at: float | None = None
    model_id: int | None = None
    provider_id: int | None = None
    endpoint_id: int | None = None
    engine_id: str | None = None
    waits: bool = False


@dataclass(frozen=True, slots=True)
class Closing:
    """The end of a request: exactly one per accepted request, whatever happened. Times are Unix seconds."""

    request_id: str
    ended_at: float
    outcome: Outcome
    http_status: int
    error_message: str | None = None
    model_id: int | None = None
    provider_id: int | None = None
    endpoint_id: int | None = None
    engine_id: str | None = None
    forwarded_at: float | None = None
    first_token_at: float | None = None
    usage: Mapping[str, int] = field(default_factory=dict)  # token type -> tokens, as the endpoint reported them
    usage_source: UsageSource = UsageSource.NONE
    charge: Charge = Charge()
    attempts: tuple[Attempt, ...] = ()
    hedge_winner: str | None = None  # of a hedged request, the place that served it: first, second, none
    queue_wait_ms: float | None = None
    queue_depth_at_enqueue: int | None = None
    queue_depth_at_schedule: int | None = None
    priority_when_scheduled: Priority | None = None
    predicted_ttft_ms: float | None = None
    was_cold_start: bool = False
    load_duration_ms: float | None = None
    overhead_ms: float | None = None
    response_payload: str | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """An opening and, once it ended, its closing: the unit that travels from an outbox to the ledger."""

    opening: Opening
    closing: Closing | None = None
