"""What a cluster file may say, as pydantic models: shapes and their own rules only.

What refers to what, and how a world is made of it, is in `cluster`.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from logos.declarations import Count, Declared, LimitsDeclared, Name, Positive, PrivacyName
from logos.domain.nouns import EngineSpec, Privacy, SloClass
from logos.simulation.engine import EnginePace
from logos.simulation.traffic import Ladder, Source, Turns
from logos.simulation.world import RemoteProfile
from logos.workload.generate import Arrivals, Traffic

SHARES_MIN = 2
COPIES_MAX = 100_000  # of one model, one node, one node's GPUs; and GPUs altogether
REPORT_INTERVAL_S_MIN = 0.01

Time = Annotated[float, Field(strict=True, ge=0, le=1_000_000, allow_inf_nan=False)]
Step = Annotated[float, Field(strict=True, gt=0, le=10_000_000, allow_inf_nan=False)]
Factor = Annotated[float, Field(strict=True, gt=0, le=1_000, allow_inf_nan=False)]
Share = Annotated[float, Field(strict=True, ge=0, le=1)]
Rate = Annotated[float, Field(strict=True, gt=0, le=100_000, allow_inf_nan=False)]
Normal = Annotated[float, Field(strict=True, ge=0, le=1_000_000, allow_inf_nan=False)]
Copies = Annotated[int, Field(strict=True, ge=1, le=COPIES_MAX)]
Amount = Annotated[float, Field(strict=True, ge=0, le=1_000_000, allow_inf_nan=False)]


class PaceDeclared(Declared):
    """How fast an engine is: seconds of a step, and how much fits into it."""

    step_base_s: Step = 0.027
    step_per_sequence_s: Time = 0.0015
    prefill_per_token_s: Time = 0.0009
    max_sequences: Positive = 48
    kv_cache_tokens: Positive = 65_536
    prefill_chunk_tokens: Positive = 2_048
    slowdown: Annotated[float, Field(strict=True, ge=1, le=100)] = 1.0

    @property
    def pace(self) -> EnginePace:
        return EnginePace(
            self.step_base_s,
            self.step_per_sequence_s,
            self.prefill_per_token_s,
            self.max_sequences,
            self.kv_cache_tokens,
            self.prefill_chunk_tokens,
            self.slowdown,
        )


class TransitionsDeclared(Declared):
    """What the changes of state of an engine take."""

    load_s: Time = 45.0
    wake_s: Time = 1.0
    sleep_s: Time = 3.0
    stop_s: Time = 0.5


class EngineDeclared(Declared):
    """What an engine of a model needs; memory is the sum over its GPUs."""

    gpus: Positive = 1
    memory_mib: Positive
    residue_mib: Count = 0
    host_memory_mib: Count = 0
    sleeps: bool = True
    min_replicas: Count = 0
    max_replicas: Positive = 1
    pinned: bool = False
    max_parallel: Positive = 48
    pace: PaceDeclared = PaceDeclared()
    transitions: TransitionsDeclared = TransitionsDeclared()

    @model_validator(mode="after")
    def _residue_is_a_part(self) -> Self:
        if self.residue_mib > self.memory_mib:
            raise ValueError("residue_mib should be at most memory_mib")
        if self.max_replicas < self.min_replicas:
            raise ValueError("max_replicas should be at least min_replicas")
        return self

    @property
    def spec(self) -> EngineSpec:
        return EngineSpec(
            gpus=self.gpus,
            memory_mib=self.memory_mib,
            min_replicas=self.min_replicas,
            max_replicas=self.max_replicas,
            pinned=self.pinned,
            sleeps=self.sleeps,
            residue_mib=self.residue_mib,
            host_memory_mib=self.host_memory_mib,
        )


class PriceDeclared(Declared):
    """Per million tokens, in units of one currency for the whole file."""

    prompt: Amount = 0.0
    completion: Amount = 0.0


class RemoteDeclared(Declared):
    """A model at a remote provider: what is declared of it, and how it really behaves.

    `limits` are declared and kept by the provider; `parallel_max` is the provider's alone.
    """

    provider: Name
    max_parallel: Positive = 64
    limits: LimitsDeclared = LimitsDeclared()
    price: PriceDeclared = PriceDeclared()
    ttft_s: Time = 0.4
    prefill_per_token_s: Time = 0.00005
    tpot_s: Time = 0.012
    spread: Annotated[float, Field(strict=True, ge=0, le=3)] = 0.3
    stall_share: Annotated[float, Field(strict=True, ge=0, le=1)] = 0.0
    stall_s: Time = 0.0
    parallel_max: Positive | None = None

    @property
    def profile(self) -> RemoteProfile:
        return RemoteProfile(
            self.ttft_s,
            self.prefill_per_token_s,
            self.tpot_s,
            self.spread,
            self.stall_share,
            self.stall_s,
            self.parallel_max,
            self.limits.requests_per_minute,
            self.limits.tokens_per_minute,
        )


class WeightsDeclared(Declared):
    """How a model compares with others, higher is better."""

    latency: int = 0
    accuracy: int = 0
    cost: int = 0
    quality: int = 0


class ModelDeclared(Declared):
    """A model: engines of it, or remote endpoints, or both. `output_shares` are equally spaced quantiles of answer
    length as a share of the tokens that a request allows. `count` makes that many copies, named NAME-1, NAME-2, ..."""

    name: Name
    count: Copies = 1
    tags: tuple[str, ...] = ()
    weights: WeightsDeclared = WeightsDeclared()
    context_length: Positive | None = None
    output_shares: tuple[Share, ...] | None = None
    engine: EngineDeclared | None = None
    price: PriceDeclared = PriceDeclared()
    remotes: tuple[RemoteDeclared, ...] = ()

    @model_validator(mode="after")
    def _is_somewhere(self) -> Self:
        if self.engine is None and not self.remotes:
            raise ValueError("a model needs `engine` or `remotes`, or nothing could serve it")
        if self.output_shares is not None and len(self.output_shares) < SHARES_MIN:
            raise ValueError("output_shares should have the least and the greatest share, and any number between")
        if self.output_shares is not None and sorted(self.output_shares) != list(self.output_shares):
            raise ValueError("output_shares are quantiles: they should not fall")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,) if self.count == 1 else tuple(f"{self.name}-{n}" for n in range(1, self.count + 1))


class InitialDeclared(Declared):
    """An engine that is on the node from the start."""

    model: Name
    gpus: tuple[Count, ...] = (0,)
    state: Literal["asleep", "awake"] = "asleep"


class NodeDeclared(Declared):
    """One GPU machine, or `count` equal ones, named NAME-1, NAME-2, ..."""

    name: Name
    count: Copies = 1
    gpus: Copies = 1
    memory_mib_per_gpu: Positive
    host_memory_mib: Count = 0
    sleeps: bool = True
    transitions_at_once: Positive | None = None
    slowness: Factor = 1.0
    engines: tuple[InitialDeclared, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,) if self.count == 1 else tuple(f"{self.name}-{n}" for n in range(1, self.count + 1))


class RemoteProviderDeclared(Declared):
    """A remote account."""

    name: Name
    privacy: PrivacyName = Privacy.CLOUD_NOT_IN_EU_BY_US_PROVIDER


class ClassDeclared(Declared):
    """What requests of one mode are promised."""

    ttft_ms: Annotated[float, Field(strict=True, gt=0)] | None = None
    total_ms: Annotated[float, Field(strict=True, gt=0)] | None = None

    @property
    def target(self) -> SloClass:
        ttft_s = None if self.ttft_ms is None else self.ttft_ms / 1000
        return SloClass(ttft_s, None if self.total_ms is None else self.total_ms / 1000)


class SloDeclared(Declared):
    """The promise for each mode."""

    interactive: ClassDeclared = ClassDeclared(ttft_ms=10_000.0)
    batch: ClassDeclared = ClassDeclared(total_ms=600_000.0)


OF_TURNS = frozenset({"turns", "prompt_tokens", "output_tokens"})
OF_RATES = frozenset(
    {"rates", "models", "keys", "duration_s", "step_s", "prompt_normal", "output_normal", "prefix_tokens", "tokens_max"}
)
OF_ARRIVALS = frozenset(
    {"arrivals", "models", "keys", "rate", "duration_s", "skew", "burstiness", "batch_share", "prompt_tokens"}
    | {"max_tokens", "conversation_turns", "think_s", "prefixes", "prefix_tokens"}
)


class TrafficDeclared(Declared):
    """The traffic that belongs to a world. With `turns` everything is there at the start, in that order; with `rates`
    it climbs and falls in steps; else it is as the workload generator makes it."""

    models: tuple[Name, ...] = ()  # none: all of the file's
    keys: Positive = 1
    arrivals: Literal["steady", "poisson", "bursty", "diurnal"] = "poisson"
    rate: Rate = 1.0
    duration_s: Step = 600.0
    skew: Time = 0.0
    burstiness: Factor = 4.0
    batch_share: Share = 0.0
    prompt_tokens: Positive = 60
    max_tokens: tuple[Positive, Positive] = (100, 400)
    conversation_turns: Positive = 1
    think_s: Time = 10.0
    prefixes: Count = 0
    prefix_tokens: Count = 200
    turns: tuple[Name, ...] = ()
    output_tokens: Positive = 100
    rates: tuple[Rate, ...] = ()
    step_s: Step = 60.0
    prompt_normal: tuple[Normal, Normal] = (60.0, 30.0)
    output_normal: tuple[Normal, Normal] = (200.0, 100.0)
    tokens_max: Positive = 32_000

    @model_validator(mode="after")
    def _everything_counts(self) -> Self:
        """What is said and would change nothing was meant for something."""
        kind, fields = ("arrivals", OF_ARRIVALS)
        if self.turns:
            kind, fields = ("turns", OF_TURNS)
        elif self.rates:
            kind, fields = ("rates", OF_RATES)
        given = self.model_fields_set - ({"arrivals"} if self.arrivals == "poisson" else set())
        for name in sorted(given - fields - {"turns", "rates"}):
            raise ValueError(f"{name} changes nothing in traffic by {kind}, which has {', '.join(sorted(fields))}")
        if self.turns and self.rates:
            raise ValueError("give turns or rates, not both")
        return self

    def source(self, models: tuple[str, ...]) -> Source:
        """Raises ValueError for traffic that cannot be."""
        if self.turns:
            return Turns(self.turns, self.prompt_tokens, self.output_tokens)
        models = self.models or models
        if self.rates:
            return Ladder(
                models,
                self.rates,
                self.step_s,
                self.duration_s,
                self.prompt_normal,
                self.output_normal,
                self.prefix_tokens,
                self.tokens_max,
            )
        return Traffic(
            Arrivals(self.arrivals),
            self.rate,
            self.duration_s,
            0,
            models,
            self.skew,
            self.burstiness,
            self.batch_share,
            prompt_tokens=self.prompt_tokens,
            output_tokens=self.max_tokens,
            turns=self.conversation_turns,
            think_s=self.think_s,
            prefixes=self.prefixes,
            prefix_tokens=self.prefix_tokens,
        )


class ClusterDeclared(Declared):
    """A whole cluster file."""

    description: str = ""
    nodes: tuple[NodeDeclared, ...] = ()
    models: tuple[ModelDeclared, ...]
    providers: tuple[RemoteProviderDeclared, ...] = ()
    slo: SloDeclared = SloDeclared()
    currency: str = "EUR"
    traffic: TrafficDeclared | None = None
    queue_timeout_s: Annotated[float, Field(strict=True, gt=0, le=1_000_000)] = 600.0
    report_interval_s: Time = 0.0

    @field_validator("models")
    @classmethod
    def _there_is_one(cls, models: tuple[ModelDeclared, ...]) -> tuple[ModelDeclared, ...]:
        if not models:
            raise ValueError("should have at least one")
        return models

    @field_validator("currency")
    @classmethod
    def _is_a_currency(cls, currency: str) -> str:
        if not (len(currency) == 3 and currency.isascii() and currency.isalpha() and currency.isupper()):
            raise ValueError("should be three capital letters, as EUR")
        return currency

    @field_validator("report_interval_s")
    @classmethod
    def _reports_leave_time(cls, interval_s: float) -> float:
        if 0 < interval_s < REPORT_INTERVAL_S_MIN:
            raise ValueError(f"should be 0 (no reports) or at least {REPORT_INTERVAL_S_MIN}")
        return interval_s
