"""What /admin and /me answer, as pydantic models, and how domain values become them.

Only what may be shown is named here: no digest, no provider key, no password in an address. No route and no query
belongs in this file.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from logos.domain.catalogue import Catalogue
from logos.domain.directory import ProviderAccess
from logos.domain.nouns import MICRO_CENTS_PER_UNIT, Endpoint, Key, Limits, Model, Price
from logos.telemetry.logs import redact

T = TypeVar("T")


class Shown(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Page(Shown, Generic[T]):
    """One page of a list; `total` counts all pages."""

    total: int
    limit: int
    offset: int
    rows: list[T]


class ChangeShown(Shown):
    kind: str
    name: str
    action: str = Field(description="created, updated, deleted, rotated or revoked")
    id: int


class Applied(Shown):
    """What a write did. `keys` are secrets made by it, by name, shown this once."""

    version: int
    changes: list[ChangeShown]
    keys: dict[str, str] = {}
    notes: list[str] = []
    acknowledged: int = Field(description="how many gateways and other holders have confirmed the new version")
    holders: int = Field(description="how many are alive")


class LimitsShown(Shown):
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent: int | None = None


class ProviderShown(Shown):
    id: int
    name: str
    kind: str
    privacy: str
    base_url: str | None = None
    has_api_key: bool = False


class EngineShown(Shown):
    gpus: int
    memory_gib: float
    weights: str | None
    min_replicas: int
    max_replicas: int
    pinned: bool
    args: list[str]
    sleep: bool = Field(description="whether it sleeps where the node can; otherwise it is stopped")
    residue_gib: float = Field(description="GPU memory that stays taken while it sleeps, of all its GPUs")
    host_memory_gib: float = Field(description="host RAM for its weights from its first sleep on")
    load_s: float | None = Field(None, description="what loading is expected to take until it was seen")
    wake_s: float | None = None
    sleep_s: float | None = None


class EndpointShown(Shown):
    id: int
    model: str
    provider: str
    privacy: str
    upstream_model: str
    max_parallel: int
    limits: LimitsShown
    engine: EngineShown | None = None


class ModelShown(Shown):
    id: int
    name: str
    description: str
    tags: list[str]
    weights: dict[str, int]
    context_length: int | None
    capabilities: list[str]
    endpoints: list[int]


class PolicyShown(Shown):
    id: int
    name: str
    privacy: str
    priority: str
    latency: int
    accuracy: int
    cost: int
    quality: int


class PriceShown(Shown):
    id: int
    token_type: str
    model: str | None
    provider: str | None
    currency: str
    per_million: str = Field(description="exact decimal, in the currency")
    micro_cents_per_million: int
    valid_from: dt.date


class TeamShown(Shown):
    id: int
    name: str
    limits: LimitsShown
    budget: dict[str, Any] | None
    created_at: dt.datetime


class UserShown(Shown):
    id: int
    name: str
    email: str | None
    subject: str | None
    role: str
    teams: list[str]
    created_at: dt.datetime


class KeyShown(Shown):
    id: int
    name: str
    prefix: str
    role: str
    team: str | None
    user: str | None
    log: str
    models: list[str] | None = Field(description="null: every model")
    limits: LimitsShown
    budget: dict[str, Any] | None
    priority_max: int
    policy: str | None
    expires_at: dt.datetime | None
    revoked_at: dt.datetime | None
    created_at: dt.datetime


class PermissionShown(Shown):
    key: str
    models: list[str] | None = Field(description="null: every model")


class Spent(Shown):
    currency: str
    amount: str = Field(description="exact decimal, in the currency")
    micro_cents: int
    requests: int


class BalanceShown(Shown):
    scope: str = Field(description="key or team")
    scope_id: int
    currency: str
    amount: str
    micro_cents: int
    requests: int
    updated_at: dt.datetime


class Me(Shown):
    """A key as its owner sees it."""

    id: int
    name: str
    prefix: str
    role: str
    team_id: int | None
    log: str
    models: list[str]
    limits: LimitsShown
    team_limits: LimitsShown
    priority_max: str
    policy: str | None
    expires_at: dt.datetime | None
    budget: dict[str, Any] | None = Field(description="stored; not enforced yet")
    spent: list[Spent] = Field(description="since the key was made")


class Rows(Shown):
    """Rows of the log or of the usage report, newest first; the names are those of the tables."""

    rows: list[dict[str, Any]]
    next_before_id: int | None = Field(default=None, description="pass as before_id for the next page")


def page(rows: Sequence[T], limit: int, offset: int) -> dict[str, Any]:
    return {"total": len(rows), "limit": limit, "offset": offset, "rows": list(rows[offset : offset + limit])}


def limits_shown(limits: Limits) -> LimitsShown:
    return LimitsShown(
        requests_per_minute=limits.requests_per_minute,
        tokens_per_minute=limits.tokens_per_minute,
        concurrent=limits.concurrent,
    )


def decimal_of(micro_cents: int) -> str:
    """An exact amount of money: 15000000 -> "0.15"."""
    sign = "-" if micro_cents < 0 else ""
    whole, rest = divmod(abs(micro_cents), MICRO_CENTS_PER_UNIT)
    fraction = f"{rest:08d}".rstrip("0")
    return f"{sign}{whole}.{fraction}" if fraction else f"{sign}{whole}"


def providers_shown(catalogue: Catalogue, access: Mapping[int, ProviderAccess]) -> list[ProviderShown]:
    shown = []
    for provider in catalogue.providers:
        reached = access.get(provider.id)
        shown.append(
            ProviderShown(
                id=provider.id,
                name=provider.name,
                kind=provider.kind,
                privacy=provider.privacy.name,
                base_url=None if reached is None else redact(reached.base_url),
                has_api_key=reached is not None and reached.api_key is not None,
            )
        )
    return shown


def model_shown(catalogue: Catalogue, model: Model) -> ModelShown:
    weights = model.weights
    return ModelShown(
        id=model.id,
        name=model.name,
        description=model.description,
        tags=list(model.tags),
        weights={name: getattr(weights, name) for name in ("latency", "accuracy", "cost", "quality")},
        context_length=model.context_length_tokens,
        capabilities=sorted(model.capabilities),
        endpoints=[endpoint.id for endpoint in catalogue.endpoints_of.get(model.id, ())],
    )


def endpoint_shown(catalogue: Catalogue, endpoint: Endpoint) -> EndpointShown:
    engine = endpoint.engine
    return EndpointShown(
        id=endpoint.id,
        model=catalogue.model[endpoint.model_id].name,
        provider=catalogue.provider[endpoint.provider_id].name,
        privacy=endpoint.privacy.name,
        upstream_model=endpoint.upstream_model,
        max_parallel=endpoint.max_parallel,
        limits=limits_shown(endpoint.limits),
        engine=None
        if engine is None
        else EngineShown(
            gpus=engine.gpus,
            memory_gib=engine.memory_mib / 1024,
            weights=engine.weights,
            min_replicas=engine.min_replicas,
            max_replicas=engine.max_replicas,
            pinned=engine.pinned,
            args=list(engine.args),
            sleep=engine.sleeps,
            residue_gib=engine.residue_mib / 1024,
            host_memory_gib=engine.host_mib / 1024,
            load_s=engine.load_s,
            wake_s=engine.wake_s,
            sleep_s=engine.sleep_s,
        ),
    )


def policies_shown(catalogue: Catalogue) -> list[PolicyShown]:
    return [
        PolicyShown(
            id=policy.id,
            name=policy.name,
            privacy=policy.privacy.name,
            priority=policy.priority.name.lower(),
            latency=policy.latency,
            accuracy=policy.accuracy,
            cost=policy.cost,
            quality=policy.quality,
        )
        for policy in catalogue.policies
    ]


def price_shown(catalogue: Catalogue, price: Price) -> PriceShown:
    return PriceShown(
        id=price.id,
        token_type=price.token_type,
        model=None if price.model_id is None else catalogue.model[price.model_id].name,
        provider=None if price.provider_id is None else catalogue.provider[price.provider_id].name,
        currency=price.currency,
        per_million=decimal_of(price.micro_cents_per_million),
        micro_cents_per_million=price.micro_cents_per_million,
        valid_from=price.valid_from,
    )


def key_row_shown(row: Mapping[str, Any]) -> KeyShown:
    limits = LimitsShown(**{name: row[name] for name in LimitsShown.model_fields})
    rest = {name: row[name] for name in KeyShown.model_fields if name != "limits"}
    return KeyShown(**rest, limits=limits)


def spent_shown(rows: Sequence[Mapping[str, Any]]) -> list[Spent]:
    return [
        Spent(
            currency=row["currency"],
            amount=decimal_of(row["micro_cents"]),
            micro_cents=row["micro_cents"],
            requests=row["requests"],
        )
        for row in rows
    ]


def me_shown(key: Key, catalogue: Catalogue, budget: dict[str, Any] | None, spent: list[Spent]) -> Me:
    policy = None if key.policy_id is None else catalogue.policy.get(key.policy_id)
    return Me(
        id=key.id,
        name=key.name,
        prefix=key.prefix,
        role=key.role.value,
        team_id=key.team_id,
        log=key.log_level.value,
        models=[model.name for model in catalogue.models if key.may_use(model.id)],
        limits=limits_shown(key.limits),
        team_limits=limits_shown(key.team_limits),
        priority_max=key.priority_max.name.lower(),
        policy=None if policy is None else policy.name,
        expires_at=None if key.expires_at is None else dt.datetime.fromtimestamp(key.expires_at, dt.UTC),
        budget=budget,
        spent=spent,
    )
