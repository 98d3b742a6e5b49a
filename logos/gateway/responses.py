"""The headers of an answer: the upstream's that a client may see, and what Logos says of its own work.

Of the upstream's headers only a few are passed on; hop-by-hop ones, its rate limits, cookies and names of its servers
are not a client's business, and its request id goes under another name. `x-request-id` is added once, at the root.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from logos.billing.cost import format_cost
from logos.domain.records import Charge
from logos.gateway.http import HeaderList, header_value

UPSTREAM_REQUEST_ID = b"x-logos-upstream-request-id"

_STREAM_HEADERS: HeaderList = [
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx in front would otherwise wait for a full buffer
]


@dataclass(frozen=True, slots=True)
class ServedBy:
    """What Logos says of an answer. `charge` is known on whole answers only."""

    model: str
    provider: str
    tier: str
    queue_ms: float
    overhead_ms: float
    attempts: int
    predicted_ttft_ms: float | None = None
    hedge_winner: str | None = None
    charge: Charge | None = None


class QuotaFigures(Protocol):
    """What is left of a key's limits; None: not limited. A `domain.leases.QuotaSlice` is one."""

    @property
    def limit_requests(self) -> int | None: ...
    @property
    def remaining_requests(self) -> int | None: ...
    @property
    def reset_requests_s(self) -> float: ...
    @property
    def limit_tokens(self) -> int | None: ...
    @property
    def remaining_tokens(self) -> int | None: ...
    @property
    def reset_tokens_s(self) -> float: ...


def response_headers(upstream: Mapping[str, str], served_by: ServedBy, quota: QuotaFigures | None) -> HeaderList:
    """Everything but content-length and x-request-id."""
    content_type = upstream.get("content-type") or "application/json"
    headers: HeaderList = [
        (b"content-type", _value(content_type)),
        (b"x-logos-model", _value(served_by.model)),
        (b"x-logos-provider", _value(served_by.provider)),
        (b"x-logos-tier", _value(served_by.tier)),
        (b"x-logos-queue-ms", b"%.2f" % served_by.queue_ms),
        (b"x-logos-overhead-ms", b"%.2f" % served_by.overhead_ms),
        (b"x-logos-attempts", b"%d" % served_by.attempts),
    ]
    if content_type.startswith("text/event-stream"):
        headers += _STREAM_HEADERS
    if served_by.predicted_ttft_ms is not None:
        headers.append((b"x-logos-predicted-ttft-ms", b"%.2f" % served_by.predicted_ttft_ms))
    if served_by.hedge_winner is not None:
        headers.append((b"x-logos-hedge-winner", _value(served_by.hedge_winner)))
    charge = served_by.charge
    if charge is not None and charge.currency is not None:
        headers.append((b"x-logos-cost", format_cost(charge).encode()))
        headers.append((b"x-logos-cost-currency", _value(charge.currency)))
    if quota is not None:
        headers += rate_limit_headers(quota)
    request_id = upstream.get("x-request-id")
    if request_id:
        headers.append((UPSTREAM_REQUEST_ID, header_value(request_id[:200])))
    return headers


def rate_limit_headers(quota: QuotaFigures) -> HeaderList:
    """x-ratelimit-{limit,remaining,reset}-{requests,tokens}, as OpenAI names them; only for limits that exist."""
    headers: HeaderList = []
    if quota.limit_requests is not None:
        headers += (
            (b"x-ratelimit-limit-requests", b"%d" % quota.limit_requests),
            (b"x-ratelimit-remaining-requests", b"%d" % max(0, quota.remaining_requests or 0)),
            (b"x-ratelimit-reset-requests", _seconds(quota.reset_requests_s)),
        )
    if quota.limit_tokens is not None:
        headers += (
            (b"x-ratelimit-limit-tokens", b"%d" % quota.limit_tokens),
            (b"x-ratelimit-remaining-tokens", b"%d" % max(0, quota.remaining_tokens or 0)),
            (b"x-ratelimit-reset-tokens", _seconds(quota.reset_tokens_s)),
        )
    return headers


# Names repeat with every request, so their encoded form is remembered.
_value = functools.lru_cache(maxsize=4096)(header_value)


def _seconds(seconds: float) -> bytes:
    return b"%.2fs" % max(0.0, seconds)
