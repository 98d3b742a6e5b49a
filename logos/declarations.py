"""What `logos apply`, /admin and the config file declare, as pydantic models: the YAML of the interface page.

Shapes and their own rules only: what refers to what (does this model exist?) is checked where it is stored, in one
transaction. Parsing files, error texts and secrets by reference are in `logos.documents`; no I/O lives here.
"""

from __future__ import annotations

import datetime as dt
import re
from decimal import Decimal
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SecretStr,
    SerializationInfo,
    ValidationInfo,
    field_validator,
    model_validator,
)

from logos.domain.keys import flaw_of_chosen
from logos.domain.nouns import (
    MICRO_CENTS_PER_UNIT,
    Limits,
    LogLevel,
    Priority,
    Privacy,
    Role,
    SloClass,
    SloTargets,
)

POOL_PROVIDER = "local"  # where models with `engine:` are served unless they say otherwise
WEIGHT_EXTREME = 1024  # thresholds of this size mean the best or the worst weight among the allowed models
PRICE_MAX = Decimal(10_000_000)  # per million tokens; beyond it something is wrong, and 64 bits end at 9 times that

NAME_LENGTH_MAX = 200
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]*")
_TOKEN_TYPE = re.compile(r"[a-z][a-z0-9_]{0,62}")


class Declared(BaseModel):
    """Base of everything declared: unknown keys are errors, and error texts never quote what was given."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


def _privacy(value: Any) -> Any:
    if isinstance(value, str) and value in Privacy.__members__:
        return Privacy[value]
    if isinstance(value, Privacy):
        return value
    raise ValueError(f"should be one of {', '.join(Privacy.__members__)}")


def _priority(value: Any) -> Any:
    if isinstance(value, str) and value.upper() in Priority.__members__:
        return Priority[value.upper()]
    if isinstance(value, int) and not isinstance(value, bool) and value in set(Priority):
        return Priority(value)
    raise ValueError("should be low, mid or high (or 1, 5, 10)")


def _name(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError("should be a name in text; put it in quotes")
    if _NAME.fullmatch(value) is None or len(value) > NAME_LENGTH_MAX:
        raise ValueError("should begin with a letter or digit, then have letters, digits and ._:/@+- only, 200 at most")
    return value


def _secret(value: Any, info: ValidationInfo) -> Any:
    """`env:NAME` and `file:PATH` are resolved by what the context brings; a server resolves nothing."""
    if isinstance(value, str) and value.partition(":")[0] in {"env", "file"}:
        resolve = (info.context or {}).get("resolve")
        if resolve is None:
            raise ValueError("env: and file: are resolved by `logos apply` and the config file; send the secret itself")
        return resolve(value)
    return value


def _shown(value: SecretStr, info: SerializationInfo) -> str:
    reveal = bool((info.context or {}).get("reveal"))
    return value.get_secret_value() if reveal else str(value)


Name = Annotated[str, BeforeValidator(_name)]
PrivacyName = Annotated[Privacy, BeforeValidator(_privacy), PlainSerializer(lambda level: level.name)]
PriorityName = Annotated[Priority, BeforeValidator(_priority), PlainSerializer(lambda each: each.name.lower())]
Secret = Annotated[SecretStr, BeforeValidator(_secret), PlainSerializer(_shown)]
Count = Annotated[int, Field(strict=True, ge=0, le=2_000_000_000)]
Positive = Annotated[int, Field(strict=True, ge=1, le=2_000_000_000)]
Weight = Annotated[int, Field(strict=True, ge=-WEIGHT_EXTREME, le=WEIGHT_EXTREME)]
Gib = Annotated[float, Field(strict=True, gt=0, le=1_000_000, allow_inf_nan=False)]
GibOrZero = Annotated[float, Field(strict=True, ge=0, le=1_000_000, allow_inf_nan=False)]
Seconds = Annotated[float, Field(strict=True, gt=0, le=86_400, allow_inf_nan=False)]
Line = Annotated[str, Field(max_length=10_000)]


class LimitsDeclared(Declared):
    """Upper bounds; what is left out is unlimited. Rates hold for any 60 s."""

    requests_per_minute: Positive | None = None
    tokens_per_minute: Positive | None = None
    concurrent: Positive | None = None

    @property
    def limits(self) -> Limits:
        return Limits(self.requests_per_minute, self.tokens_per_minute, self.concurrent)


class BudgetDeclared(Declared):
    """Money that may be spent per period. Stored; not enforced yet."""

    amount: Annotated[Decimal, Field(ge=0, le=1_000_000_000, decimal_places=8)]
    currency: Annotated[str, Field(pattern="^[A-Z]{3}$")] = "EUR"
    per: Literal["day", "week", "month", "year", "total"] = "month"
    hard: bool = True


BASE_URL = r"^https?://[^\s/?#]+[^\s?#]*(\?api-version=[\w.-]+)?$"


class ProviderDeclared(Declared):
    """A remote account, or a pool of GPU nodes. Leaving `api_key` out keeps the one that is stored; null removes it."""

    name: Name
    kind: Literal["openai", "azure", "pool"] = "openai"
    base_url: Annotated[str, Field(pattern=BASE_URL, max_length=2000)] | None = None
    api_key: Secret | None = None
    auth_header: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]+$", max_length=100)] | None = None
    auth_format: Annotated[str, Field(max_length=200)] | None = None
    privacy: PrivacyName

    @model_validator(mode="after")
    def _has_what_its_kind_needs(self) -> Self:
        if self.kind == "pool" and (self.base_url or self.api_key):
            raise ValueError("a pool has no base_url and no api_key: its engines run on our own nodes")
        if self.kind != "pool" and not self.base_url:
            raise ValueError("a remote provider needs its base_url, as in https://host/v1")
        if self.kind != "azure" and "?" in (self.base_url or ""):
            raise ValueError("only the base_url of a provider of kind azure may end in ?api-version=...")
        if self.auth_format is not None and re.fullmatch(r"[^{}]*\{key\}[^{}]*", self.auth_format) is None:
            raise ValueError('auth_format needs {key} once, where the key goes, as in "Bearer {key}"')
        return self

    @property
    def auth(self) -> tuple[str, str]:
        """Header and format: Azure's own where nothing is said."""
        header, form = ("api-key", "{key}") if self.kind == "azure" else ("Authorization", "Bearer {key}")
        return self.auth_header or header, self.auth_format or form


class WeightsDeclared(Declared):
    """How a model compares with others, higher is better; for cost, higher is cheaper."""

    latency: Weight = 0
    accuracy: Weight = 0
    cost: Weight = 0
    quality: Weight = 0


class RemoteDeclared(Declared):
    """A model at a remote provider; `upstream_model` is its name there, the model's own where left out."""

    provider: Name
    upstream_model: Annotated[str, Field(min_length=1, max_length=300)] | None = None
    privacy: PrivacyName | None = None
    max_parallel: Positive = 64
    requests_per_minute: Positive | None = None
    tokens_per_minute: Positive | None = None


class EndpointDeclared(RemoteDeclared):
    """The same, declared apart from its model."""

    model: Name


class EngineDeclared(Declared):
    """What an engine of this model needs on a node. `memory_gib` is the sum over its GPUs.

    Asleep it keeps `residue_gib` of that, and `host_memory_gib` of host RAM for its weights (0: as much as
    `memory_gib`); with `sleep: false` it is stopped where others would sleep. `load_s`, `wake_s` and `sleep_s` are what
    these are known to take: expected until they were seen.
    """

    provider: Name = POOL_PROVIDER
    weights: Annotated[str, Field(min_length=1, max_length=2000)] | None = None
    gpus: Annotated[int, Field(strict=True, ge=1, le=1024)] = 1
    memory_gib: Gib
    min_replicas: Count = 0
    max_replicas: Positive = 1
    max_parallel: Positive = 64
    pinned: bool = False
    args: tuple[Line, ...] = ()
    sleep: bool = True
    residue_gib: GibOrZero = 0.0
    host_memory_gib: GibOrZero = 0.0
    load_s: Seconds | None = None
    wake_s: Seconds | None = None
    sleep_s: Seconds | None = None

    @model_validator(mode="after")
    def _figures_go_together(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas {self.min_replicas} is above max_replicas {self.max_replicas}")
        if self.residue_gib > self.memory_gib:
            raise ValueError(f"residue_gib {self.residue_gib:g} is above memory_gib {self.memory_gib:g}")
        return self


class ModelDeclared(Declared):
    """What a client may name. `endpoints` and `engine`, where given, replace what is stored; left out, they keep it."""

    name: Name
    description: Line = ""
    tags: tuple[Annotated[str, Field(min_length=1, max_length=100)], ...] = ()
    weights: WeightsDeclared = WeightsDeclared()
    context_length: Positive | None = None
    capabilities: tuple[Literal["chat", "completions", "embeddings"], ...] = ()
    endpoints: tuple[RemoteDeclared, ...] = ()
    engine: EngineDeclared | None = None

    @field_validator("name")
    @classmethod
    def _is_not_reserved(cls, name: str) -> str:
        if not is_model_name(name):
            raise ValueError("this name asks for a model to be chosen; call the model something else")
        return name


def is_model_name(name: str) -> bool:
    """Whether a client could ask for a model of this name."""
    asks_for_a_choice = name == "auto" or name.startswith("logos-v1__")
    return not asks_for_a_choice and _NAME.fullmatch(name) is not None and len(name) <= NAME_LENGTH_MAX


class PriceDeclared(Declared):
    """Prices per million tokens, by token type. Without `model` or `provider` they hold for any."""

    model: Name | None = None
    provider: Name | None = None
    currency: Annotated[str, Field(pattern="^[A-Z]{3}$")]
    valid_from: dt.date = dt.date(1970, 1, 1)
    per_million: Annotated[dict[str, Annotated[Decimal, Field(ge=0, le=PRICE_MAX)]], Field(min_length=1)]

    @field_validator("per_million")
    @classmethod
    def _are_exact(cls, prices: dict[str, Decimal]) -> dict[str, Decimal]:
        for token_type, price in prices.items():
            if _TOKEN_TYPE.fullmatch(token_type) is None:
                raise ValueError("token types are lower-case words, as in prompt, completion, cached_prompt")
            if price * MICRO_CENTS_PER_UNIT % 1:
                raise ValueError(f"the price of {token_type} has more than 8 decimal places")
        return prices

    @property
    def micro_cents_per_million(self) -> dict[str, int]:
        return {token_type: int(price * MICRO_CENTS_PER_UNIT) for token_type, price in self.per_million.items()}


class PolicyDeclared(Declared):
    """Thresholds by which models are selected; 1024 is the best weight among the allowed models, -1024 the worst."""

    name: Name
    privacy: PrivacyName = Privacy.CLOUD_NOT_IN_EU_BY_US_PROVIDER
    priority: PriorityName = Priority.MID
    latency: Weight = 0
    accuracy: Weight = 0
    cost: Weight = -WEIGHT_EXTREME
    quality: Weight = 0


class TeamDeclared(Declared):
    """Who shares limits and a budget. The budget is stored; it is not enforced yet."""

    name: Name
    limits: LimitsDeclared = LimitsDeclared()
    budget: BudgetDeclared | None = None


class UserDeclared(Declared):
    """A person. `subject` is the identity provider's name for them; signing in by it comes later."""

    name: Name
    email: Annotated[str, Field(max_length=320)] | None = None
    subject: Annotated[str, Field(max_length=500)] | None = None
    role: Literal["user", "admin"] = "user"
    teams: tuple[Name, ...] = ()


class KeyDeclared(Declared):
    """A client key. Without `key` one is made the first time and shown once; later the stored one stays."""

    name: Name
    team: Name | None = None
    user: Name | None = None
    key: Secret | None = None
    role: Role = Role.USER
    log: LogLevel = LogLevel.BILLING
    models: tuple[Name, ...] | None = None  # None: every model
    limits: LimitsDeclared = LimitsDeclared()
    budget: BudgetDeclared | None = None
    priority_max: PriorityName = Priority.HIGH
    policy: Name | None = None
    expires_at: AwareDatetime | None = None

    @field_validator("key")
    @classmethod
    def _can_be_sent(cls, key: SecretStr | None) -> SecretStr | None:
        flaw = None if key is None else flaw_of_chosen(key.get_secret_value())
        if flaw:
            raise ValueError(flaw)
        return key


class InteractiveSlo(Declared):
    """What interactive requests are promised where they say nothing themselves."""

    ttft_ms: Positive = 10_000
    total_ms: Positive | None = None


class BatchSlo(Declared):
    """The same for batch requests."""

    ttft_ms: Positive | None = None
    total_ms: Positive = 600_000


class SloDeclared(Declared):
    """Deadlines by class of request, for those that name none themselves. The defaults are those of SloTargets."""

    interactive: InteractiveSlo = InteractiveSlo()
    batch: BatchSlo = BatchSlo()

    @property
    def targets(self) -> SloTargets:
        """In seconds."""
        return SloTargets(_slo_class(self.interactive), _slo_class(self.batch))


def _slo_class(declared: InteractiveSlo | BatchSlo) -> SloClass:
    ttft_ms, total_ms = declared.ttft_ms, declared.total_ms
    return SloClass(None if ttft_ms is None else ttft_ms / 1000, None if total_ms is None else total_ms / 1000)


class Declaration(Declared):
    """Everything that may be declared at once; each part may be left out, and what is not named stays as it is."""

    providers: tuple[ProviderDeclared, ...] = ()
    models: tuple[ModelDeclared, ...] = ()
    endpoints: tuple[EndpointDeclared, ...] = ()
    prices: tuple[PriceDeclared, ...] = ()
    policies: tuple[PolicyDeclared, ...] = ()
    teams: tuple[TeamDeclared, ...] = ()
    users: tuple[UserDeclared, ...] = ()
    keys: tuple[KeyDeclared, ...] = ()
    slo: SloDeclared | None = None

    @model_validator(mode="after")
    def _names_are_said_once(self) -> Self:
        for kind in ("providers", "models", "policies", "teams", "users", "keys"):
            seen: set[str] = set()
            for index, each in enumerate(getattr(self, kind)):
                if each.name in seen:
                    raise ValueError(f"{kind}[{index}]: {each.name} is declared twice")
                seen.add(each.name)
        return self

    @property
    def is_empty(self) -> bool:
        return not any(getattr(self, name) for name in Declaration.model_fields)

    def revealed(self) -> dict[str, Any]:
        """See `revealed` below; of a config file only what may be declared."""
        return {name: value for name, value in revealed(self).items() if name in Declaration.model_fields}


def revealed(declared: Declared) -> dict[str, Any]:
    """As plain JSON values with the secrets in them, without what was left out: for the one message to accounts."""
    return declared.model_dump(mode="json", exclude_unset=True, context={"reveal": True})
