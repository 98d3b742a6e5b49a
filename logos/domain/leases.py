"""Leases: the right to act without asking, until a deadline.

The holder counts a lease's time from the request that it sent, the granter from the grant, so the holder stops
first. A deadline frees unused slots only; used ones return by report, or when the holder is declared gone.
Values only: the accounting is in `scheduling.leases` (slots at endpoints) and `billing.quota` (a key's quota).
"""

from __future__ import annotations

from dataclasses import dataclass

from logos.domain.nouns import Place


@dataclass(frozen=True, slots=True)
class SlotLease:
    """So many requests at once at one place, for one gateway.

    `ttft_s` is what was expected of an empty prompt there when it was granted or renewed, `prompt_token_s` what each
    token of a prompt adds: the forecast for what runs under it.
    """

    lease_id: str
    gateway_id: str
    place: Place
    slots: int
    ttl_s: float
    ttft_s: float | None = None
    prompt_token_s: float = 0.0

    def predicted_ttft_s(self, prompt_tokens: int) -> float | None:
        """The median expected for a prompt of so many tokens; None if nothing was."""
        return None if self.ttft_s is None else self.ttft_s + self.prompt_token_s * prompt_tokens


@dataclass(frozen=True, slots=True)
class QuotaNeed:
    """What a gateway asks for on behalf of one key: at least enough for one request of `tokens` tokens.

    `wanted_requests` and `wanted_tokens` say how much would keep it going without asking again. `standby`: nobody waits
    for it, it is to be at hand for the key's next requests; it is granted only while the key is far from its limits.
    """

    key_id: int
    tokens: int
    wanted_requests: int = 1
    wanted_tokens: int = 0
    standby: bool = False


@dataclass(frozen=True, slots=True)
class QuotaSlice:
    """A part of a key's quota that one gateway may spend until the deadline: so many admissions, so many tokens,
    and so many of them running at once. None: not limited. The remaining figures feed the x-ratelimit headers."""

    slice_id: str
    key_id: int
    gateway_id: str
    ttl_s: float
    requests: int | None
    tokens: int | None
    concurrent: int | None
    limit_requests: int | None = None
    remaining_requests: int | None = None
    reset_requests_s: float = 0.0
    limit_tokens: int | None = None
    remaining_tokens: int | None = None
    reset_tokens_s: float = 0.0


@dataclass(frozen=True, slots=True)
class QuotaUse:
    """What was used of a slice so far, told by its holder: totals, so a repeat changes nothing. With `final` the
    unused rest returns and only `running` requests go on counting against concurrency, until later reports of the
    same slice say that they ended. `age_s` is how long ago the last request was admitted under it, so that a late
    report does not make it count for longer; `key_id` says whose it is to a granter that does not know the slice."""

    slice_id: str
    requests: int
    tokens: int
    running: int
    final: bool = False
    key_id: int = 0
    age_s: float = 0.0


@dataclass(frozen=True, slots=True)
class QuotaRefusal:
    """Why a key may not go on now. `limit` is requests_per_minute, tokens_per_minute or concurrent."""

    key_id: int
    limit: str
    scope: str  # "key" or "team"
    limit_value: int
    retry_after_s: float
