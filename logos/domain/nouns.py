"""What the platform is made of: models, providers, endpoints, policies, prices, limits, nodes, keys.

Frozen values with integer identities from the database. Addresses, actor handles and secrets must not live here:
an identity is not an address, and the catalogue made of these nouns is written to journals.
"""

from __future__ import annotations

import datetime as dt
import enum
from dataclasses import dataclass, field
from typing import NamedTuple

MICRO_CENTS_PER_UNIT = 100_000_000  # one EUR or USD


class Privacy(enum.IntEnum):
    """Privacy levels from strict to loose: an endpoint passes if its level is at or before the threshold."""

    LOCAL = 0
    CLOUD_IN_EU_BY_EU_PROVIDER = 1
    CLOUD_IN_EU_BY_US_PROVIDER = 2
    CLOUD_NOT_IN_EU_BY_US_PROVIDER = 3


class Priority(enum.IntEnum):
    """How urgent a request is; the numbers are the ones that clients may send."""

    LOW = 1
    MID = 5
    HIGH = 10


class Mode(enum.StrEnum):
    """Batch work yields to interactive work, and still ages."""

    INTERACTIVE = "interactive"
    BATCH = "batch"


class LogLevel(enum.StrEnum):
    """What a key's requests leave behind: figures only, or payloads and headers too."""

    BILLING = "BILLING"
    FULL = "FULL"


class Role(enum.StrEnum):
    """What a key may do beside calling models."""

    USER = "user"
    ADMIN = "admin"


class Tier(enum.StrEnum):
    """What a request meets at an endpoint."""

    WARM = "warm"
    QUEUED = "queued"
    ASLEEP = "asleep"
    COLD = "cold"
    REMOTE = "remote"


@dataclass(frozen=True, slots=True)
class Weights:
    """How a model compares with others, higher is better; for cost, higher is cheaper."""

    latency: int = 0
    accuracy: int = 0
    cost: int = 0
    quality: int = 0


@dataclass(frozen=True, slots=True)
class Model:
    """What a client may name. Empty `capabilities` means that nothing is known, so every route is open to it."""

    id: int
    name: str
    description: str = ""
    tags: tuple[str, ...] = ()
    weights: Weights = Weights()
    context_length_tokens: int | None = None
    capabilities: frozenset[str] = frozenset()  # of: chat, completions, embeddings


@dataclass(frozen=True, slots=True)
class Provider:
    """Who serves: a remote API account, or (`kind == "pool"`) the pool of GPU nodes."""

    id: int
    name: str
    kind: str  # "openai" (any OpenAI-compatible API), "azure", "pool"
    privacy: Privacy

    @property
    def is_pool(self) -> bool:
        return self.kind == "pool"


@dataclass(frozen=True, slots=True)
class Limits:
    """Upper bounds; None is unlimited. Rates hold for any 60 s: at most N admitted in any such window."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent: int | None = None

    @property
    def is_unlimited(self) -> bool:
        return self.requests_per_minute is None and self.tokens_per_minute is None and self.concurrent is None


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """What an engine of a model needs. `memory_mib` is the sum over its `gpus` GPUs, which share it evenly.

    Asleep it keeps `residue_mib` of GPU memory (a sum, too) and `host_memory_mib` of host RAM for its weights. vLLM
    does not return that RAM on waking, so an engine that can sleep counts in the host budget as long as it lives.
    `load_s`, `wake_s` and `sleep_s` are what these transitions are said to take: believed until one was seen.
    """

    gpus: int = 1
    memory_mib: int = 0
    weights: str | None = None  # a path or hub name; None on simulated nodes
    min_replicas: int = 0
    max_replicas: int = 1
    pinned: bool = False
    args: tuple[str, ...] = ()
    sleeps: bool = True
    residue_mib: int = 0
    host_memory_mib: int = 0  # 0: as much as `memory_mib`
    load_s: float | None = None
    wake_s: float | None = None
    sleep_s: float | None = None

    @property
    def host_mib(self) -> int:
        """Host RAM that its weights take while it sleeps, and keep."""
        return self.host_memory_mib or self.memory_mib

    @property
    def residue_per_gpu_mib(self) -> int:
        """GPU memory that stays taken while it sleeps, rounded up."""
        return -(-self.residue_mib // max(self.gpus, 1))

    @property
    def memory_per_gpu_mib(self) -> int:
        """Rounded up, so that the sum over GPUs is never below `memory_mib`."""
        return -(-self.memory_mib // max(self.gpus, 1))


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A model at a provider. With `engine` it is served by the engines of a pool, else by the remote API itself.

    `privacy` is the provider's unless declared stricter or looser for this endpoint. `max_parallel` bounds the
    requests that run at once at the remote endpoint, or at each engine of it.
    """

    id: int
    model_id: int
    provider_id: int
    privacy: Privacy
    upstream_model: str
    max_parallel: int = 64
    limits: Limits = Limits()
    engine: EngineSpec | None = None


@dataclass(frozen=True, slots=True)
class SloClass:
    """What requests of one mode are promised if they say nothing themselves, in seconds. None: no promise."""

    ttft_s: float | None = None
    total_s: float | None = None


@dataclass(frozen=True, slots=True)
class SloTargets:
    """The promise for each mode: everything has a deadline."""

    interactive: SloClass = SloClass(ttft_s=10.0)
    batch: SloClass = SloClass(total_s=600.0)

    def of(self, mode: Mode) -> SloClass:
        return self.interactive if mode is Mode.INTERACTIVE else self.batch

    def first_token_s(self, mode: Mode, ttft_s: float | None, total_s: float | None) -> float | None:
        """The deadline for a request's first token, in seconds from its arrival: its own (`ttft_s`, else `total_s`),
        else that of its mode. None: there is none."""
        own = ttft_s if ttft_s is not None else total_s
        if own is not None:
            return own
        promise = self.of(mode)
        return promise.ttft_s if promise.ttft_s is not None else promise.total_s


class Place(NamedTuple):
    """Where a request can run: a remote endpoint (`engine_id` None), or one engine of a pooled endpoint."""

    endpoint_id: int
    engine_id: str | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """Thresholds by which models are selected (scheduling.md section 1): 1024 means the best weight among the
    allowed models, -1024 the worst. `privacy` is the loosest level allowed."""

    id: int
    name: str
    privacy: Privacy = Privacy.CLOUD_NOT_IN_EU_BY_US_PROVIDER
    priority: Priority = Priority.MID
    latency: int = 0
    accuracy: int = 0
    cost: int = -1024
    quality: int = 0


@dataclass(frozen=True, slots=True)
class Price:
    """One price row, in micro-cents of `currency` per million tokens of `token_type`.

    `model_id` or `provider_id` None means any: the most specific row wins, then the newest `valid_from`.
    """

    id: int
    token_type: str  # prompt, completion, cached_prompt, reasoning, ...
    micro_cents_per_million: int
    currency: str
    valid_from: dt.date
    model_id: int | None = None
    provider_id: int | None = None


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU of a node."""

    index: int
    memory_mib: int


@dataclass(frozen=True, slots=True)
class Node:
    """One GPU machine of the Ray cluster, as its node actor describes it. `host_memory_mib` 0: not limited.

    `sleeps`: whether engines can sleep there (CUDA, ROCm, simulated nodes; not vLLM's CPU build). `load_s`, `wake_s`
    and `sleep_s` are what it says that engines take there of which nothing better is known. `transitions_at_once`:
    so many of them; further ones wait for their turn. None: no bound.
    """

    id: str
    provider_id: int  # the pool it belongs to
    gpus: tuple[Gpu, ...]
    host_memory_mib: int = 0
    sleeps: bool = True
    load_s: float | None = None
    wake_s: float | None = None
    sleep_s: float | None = None
    transitions_at_once: int | None = None


@dataclass(frozen=True, slots=True)
class Key:
    """What a gateway knows of a client key. The key itself is never kept: it is found by its public `prefix` and
    compared by the SHA-256 `digest` of the whole (keys have 256 random bits, so a slow hash would add nothing)."""

    id: int
    name: str
    prefix: str
    digest: bytes = field(repr=False)
    role: Role = Role.USER
    team_id: int | None = None
    user_id: int | None = None
    log_level: LogLevel = LogLevel.BILLING
    model_ids: frozenset[int] | None = None  # None: every model
    priority_max: Priority = Priority.HIGH
    policy_id: int | None = None  # the key's default policy
    limits: Limits = Limits()
    team_limits: Limits = Limits()
    expires_at: float | None = None  # Unix seconds

    def may_use(self, model_id: int) -> bool:
        return self.model_ids is None or model_id in self.model_ids
