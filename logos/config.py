"""The settings of a platform: typed, parsed once from a YAML file and the environment.

The environment is read here and nowhere else. Every setting has a default, so `logos up` runs without any file;
without a provider it gets a small simulated world. Unknown keys are errors that name the nearest valid one. What a
setting means to its room is documented there; no setting may change while the platform runs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, SecretStr, model_validator

from logos.declarations import Count, Declaration, Declared, Gib, Name, Positive, ProviderDeclared, Secret
from logos.documents import parse, read_yaml, secret_resolver
from logos.domain.errors import InvalidDeclaration
from logos.domain.keys import flaw_of_chosen
from logos.domain.nouns import Privacy

DeclaredKind = TypeVar("DeclaredKind", bound=Declared)

Seconds = Annotated[float, Field(strict=True, gt=0, le=10_000_000, allow_inf_nan=False)]
SecondsOrZero = Annotated[float, Field(strict=True, ge=0, le=10_000_000, allow_inf_nan=False)]
Milliseconds = Annotated[float, Field(strict=True, gt=0, le=10_000_000, allow_inf_nan=False)]
MillisecondsOrZero = Annotated[float, Field(strict=True, ge=0, le=10_000_000, allow_inf_nan=False)]
Port = Annotated[int, Field(strict=True, ge=0, le=65_535)]


class ServerSettings(Declared):
    """The door. Port 0 takes a free one."""

    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    port: Port = 8080
    data_dir: Path = Path("~/.logos")
    cors_origins: tuple[str, ...] = ()
    trusted_proxies: tuple[str, ...] = ()  # networks whose X-Forwarded-For is believed; none: no address
    body_bytes_max: Positive = 20 * 1024 * 1024
    drain_grace_s: SecondsOrZero = 10.0  # how long running answers may go on when the platform stops


class GatewaySettings(Declared):
    """Ingress replicas: how many, and how often they speak."""

    replicas_min: Positive = 2
    replicas_max: Positive = 4
    requests_per_replica: Positive = 200  # running at once, beyond which a further replica is started
    ship_interval_ms: Milliseconds = 100.0  # from the outbox to the ledger
    progress_interval_ms: Milliseconds = 250.0  # tokens relayed so far, into the outbox
    metrics_interval_s: Seconds = 2.0
    directory_stale_s: Seconds = 10.0  # cut off from accounts for longer: keys are refused; a restart takes 4 to 7 s
    quota_ttl_s: Seconds = 10.0
    outbox_bytes_max: Positive = 1024 * 1024 * 1024
    attempts_max: Positive = 3  # places tried for one request before its first byte

    @model_validator(mode="after")
    def _replicas_are_ordered(self) -> GatewaySettings:
        if self.replicas_min > self.replicas_max:
            raise ValueError(f"replicas_min {self.replicas_min} is above replicas_max {self.replicas_max}")
        return self


class UpstreamSettings(Declared):
    """Time-outs towards endpoints, and the longest that a whole answer may take. Beyond `connections_per_host_max`
    connections of one gateway replica to one host, a request waits for a free one as it would for a new one."""

    connect_s: Seconds = 5.0
    first_byte_s: Seconds = 300.0
    between_bytes_s: Seconds = 120.0
    total_s: Seconds = 3600.0
    connections_per_host_max: Positive | None = None


class SchedulerSection(Declared):
    """What can be set about scheduling; the meaning is that of `scheduling.settings`."""

    policy: Literal["fcfs", "utilization", "ettft", "slo"] = "slo"
    queue_timeout_s: Seconds = 60.0
    queue_length_max: Positive = 20_000
    overtakes_high: Count = 8
    overtakes_mid: Count = 32
    overtakes_low: Count = 128
    overtakes_batch_factor: Positive = 4
    hedge_share: Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)] = 0.0  # 0.05: up to 5 %
    lease_ttl_s: SecondsOrZero = 15.0
    lease_grace_s: SecondsOrZero = 2.0
    reconvene_s: SecondsOrZero = 2.0
    node_grace_s: SecondsOrZero = 10.0
    load_timeout_s: Seconds = 600.0
    stop_timeout_s: Seconds = 60.0
    sleep_timeout_s: Seconds = 120.0
    request_nodes_after_s: SecondsOrZero = 15.0
    request_nodes_interval_s: Seconds = 60.0
    node_arrival_s: SecondsOrZero = 0.0
    release_node_after_s: SecondsOrZero = 0.0
    load_tries_max: Positive = 3
    load_backoff_s: Seconds = 2.0
    load_cooldown_s: Seconds = 60.0
    cost_late: SecondsOrZero = 1.0
    cost_wait: SecondsOrZero = 0.1
    cost_price_s_per_cent: SecondsOrZero = 2.0
    cost_quality_s: SecondsOrZero = 10.0
    cost_displaced: SecondsOrZero = 0.2
    swap_threshold: Annotated[float, Field(strict=True, gt=0, le=100, allow_inf_nan=False)] = 0.5
    swap_linger_max_s: SecondsOrZero = 20.0
    swap_wait_max_s: Seconds = 55.0
    swap_review_s: Annotated[float, Field(strict=True, ge=0.01, le=3600, allow_inf_nan=False)] = 0.5
    idle_in_the_way_s: SecondsOrZero = 3.0
    idle_sleep_s: Seconds = 120.0
    protected_s: SecondsOrZero = 15.0
    journal: bool = True


class PaceSettings(Declared):
    """How fast the simulated engines of a node are; what is left out is the simulated engine's own default."""

    load_s: SecondsOrZero | None = None
    wake_s: SecondsOrZero | None = None
    sleep_s: SecondsOrZero | None = None
    step_base_ms: SecondsOrZero | None = None
    step_per_sequence_ms: SecondsOrZero | None = None
    prefill_per_token_ms: SecondsOrZero | None = None
    max_num_seqs: Positive | None = None
    max_num_batched_tokens: Positive | None = None
    kv_cache_tokens: Positive | None = None
    slowdown: Annotated[float, Field(strict=True, ge=1, le=100)] | None = None  # by a busy neighbour on the same GPUs
    time_scale: SecondsOrZero | None = None

    def flags(self) -> tuple[str, ...]:
        """As flags of `python -m logos.simulation.server`."""
        given = self.model_dump(exclude_none=True).items()
        return tuple(part for name, value in given for part in (f"--{name.replace('_', '-')}", str(value)))


class NodeSettings(Declared):
    """One GPU node. `memory_gib` is that of each of its GPUs.

    `sleeps` left out: simulated engines and those on GPUs can sleep, vLLM's CPU build cannot. With
    `transitions_at_once` further loads, sleeps and wakes wait their turn. `pace` is for simulated nodes; a model's
    `engine.args` go before it.
    """

    name: Name
    provider: Name = "local"  # the pool it belongs to
    gpus: Annotated[int, Field(strict=True, ge=1, le=1024)] = 1
    memory_gib: Gib = 24.0
    host_memory_gib: Gib = 64.0
    simulated: bool = True
    sleeps: bool | None = None
    transitions_at_once: Positive | None = None
    pace: PaceSettings = PaceSettings()


class ClassifierSettings(Declared):
    """Choosing by meaning: which embedding, and how long a request waits for it before policy and tags decide."""

    embedding: Literal["static", "sentence-transformers", "openai"] = "static"
    model: Annotated[str, Field(min_length=1, max_length=500)] | None = None  # of the last two
    base_url: Annotated[str, Field(pattern="^https?://.")] | None = None  # `/embeddings` is added to it
    api_key: Secret | None = None
    timeout_s: Seconds = 2.0  # of one call to `base_url`
    wait_ms: Milliseconds = 500.0

    @model_validator(mode="after")
    def _embedding_is_complete(self) -> ClassifierSettings:
        if self.embedding != "static" and self.model is None:
            raise ValueError(f"embedding {self.embedding} needs a model")
        if self.embedding == "openai" and self.base_url is None:
            raise ValueError("embedding openai needs a base_url, as in https://host/v1")
        if self.embedding == "static" and (self.model or self.base_url):
            raise ValueError("embedding static has its own model: leave model and base_url out, or name another")
        return self


class LedgerSettings(Declared):
    """Writing records to Postgres, many in one transaction. With `batch_wait_ms` the first of a batch waits that long
    for company; without, whoever comes during a transaction joins the next."""

    batch_records_max: Positive = 2_000
    batch_wait_ms: MillisecondsOrZero = 0.0
    interrupted_after_s: Seconds = 86_400.0  # a request of a dead gateway that nothing was heard of for so long


class RaySettings(Declared):
    """The cluster: an existing one by its address, else one that `logos up` starts."""

    address: str | None = None
    dashboard_port: Port = 0
    object_store_mib: Annotated[int, Field(strict=True, ge=80, le=1_000_000)] = 200
    haproxy: bool | None = None  # None: where its wheel is installed
    haproxy_reload_grace_s: Seconds = 600.0  # how long answers go on in an HAProxy that was replaced
    gateway_cpus: Annotated[float, Field(strict=True, ge=0, le=64)] = 0.0


class Settings(Declaration):
    """Everything that may be set, and everything that `logos apply` may also declare, in one document."""

    server: ServerSettings = ServerSettings()
    gateway: GatewaySettings = GatewaySettings()
    upstream: UpstreamSettings = UpstreamSettings()
    scheduler: SchedulerSection = SchedulerSection()
    nodes: tuple[NodeSettings, ...] = ()
    classifier: ClassifierSettings = ClassifierSettings()
    ledger: LedgerSettings = LedgerSettings()
    ray: RaySettings = RaySettings()

    @model_validator(mode="after")
    def _nodes_are_named_once(self) -> Settings:
        names = [node.name for node in self.nodes]
        for index, name in enumerate(names):
            if name in names[:index]:
                raise ValueError(f"nodes[{index}]: {name} is there twice")
        return self

    @property
    def declaration(self) -> Declaration:
        """The part that is declared, as `logos apply` would send it."""
        names = set(Declaration.model_fields) & self.model_fields_set
        return Declaration.model_construct(names, **{name: getattr(self, name) for name in names})

    @property
    def says_what_to_serve(self) -> bool:
        """Whether anybody has configured providers, models or nodes."""
        return bool(self.model_fields_set & {"providers", "models", "endpoints", "nodes"})

    @staticmethod
    def default_world() -> Settings:
        """Two simulated GPU nodes and three models: what serves where nothing is configured."""
        return parse(Settings, DEFAULT_WORLD, "the built-in world")


class Environment(Declared):
    """What the environment says, once read. Nothing of it appears in a repr."""

    root_key: SecretStr | None = None
    database_url: SecretStr | None = None
    provider: ProviderDeclared | None = None  # of PROVIDER_NAME and BASE_URL, for the first start


class Configuration(Declared):
    """File and environment together: what `logos up` runs on."""

    settings: Settings
    environment: Environment = Environment()
    simulated_world: bool = False  # nothing was configured: `settings.nodes` are those of the built-in world


def load(
    path: Path | None = None,
    *,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Configuration:
    """Reads everything once. `overrides` are command-line options by section, as in {"server": {"port": 9000}}.

    Raises InvalidDeclaration, one line, naming the file and the key.
    """
    variables = os.environ if environment is None else environment
    document = {} if path is None else read_yaml(path)
    source = "the command line" if path is None else str(path)
    for section, values in (overrides or {}).items():
        given = {name: value for name, value in values.items() if value is not None}
        if given and isinstance(document.get(section) or {}, dict):
            document = {**document, section: {**(document.get(section) or {}), **given}}
    directory = Path() if path is None else path.parent
    settings = parse(Settings, document, source, secret_resolver(variables, directory))
    read = read_environment(variables)
    if settings.says_what_to_serve or read.provider is not None:
        return Configuration(settings=settings, environment=read)
    with_nodes = settings.model_copy(update={"nodes": Settings.default_world().nodes})
    return Configuration(settings=with_nodes, environment=read, simulated_world=True)


def load_declaration(path: Path, environment: Mapping[str, str] | None = None) -> Declaration:
    """The file of `logos apply`, its secrets resolved here, on the caller's machine."""
    variables = os.environ if environment is None else environment
    return parse(Declaration, read_yaml(path), str(path), secret_resolver(variables, path.parent))


def load_item(
    kind: type[DeclaredKind], document: Mapping[str, Any], environment: Mapping[str, str] | None = None
) -> DeclaredKind:
    """One thing declared on a command line, its secrets resolved like a file's."""
    variables = os.environ if environment is None else environment
    return parse(kind, dict(document), resolve=secret_resolver(variables, Path()))


def read_environment(variables: Mapping[str, str]) -> Environment:
    """Checks the variables that Logos knows; an empty one counts as not set."""
    root_key = variables.get("LOGOS_ROOT_KEY") or None
    flaw = flaw_of_chosen(root_key) if root_key else None
    if flaw:
        raise InvalidDeclaration(f"LOGOS_ROOT_KEY: {flaw}")
    database_url = variables.get("LOGOS_DATABASE_URL") or None
    if database_url and re.match(r"postgres(ql)?://", database_url) is None:
        raise InvalidDeclaration("LOGOS_DATABASE_URL: should look like postgresql://USER:PASSWORD@HOST:PORT/DATABASE")
    return Environment(
        root_key=None if root_key is None else SecretStr(root_key),
        database_url=None if database_url is None else SecretStr(database_url),
        provider=_initial_provider(variables),
    )


def _initial_provider(variables: Mapping[str, str]) -> ProviderDeclared | None:
    name, base_url = variables.get("PROVIDER_NAME") or "", variables.get("BASE_URL") or ""
    if not name and not base_url:
        return None
    if not name or not base_url:
        missing = "BASE_URL" if name else "PROVIDER_NAME"
        raise InvalidDeclaration(f"{missing} is not set: an initial provider needs PROVIDER_NAME and BASE_URL")
    document = {"name": name, "base_url": base_url, "privacy": Privacy.CLOUD_NOT_IN_EU_BY_US_PROVIDER}
    if api_key := variables.get("PROVIDER_API_KEY"):
        # Taken as it is: a value that begins with env: is no reference here.
        document["api_key"] = SecretStr(api_key)
    return parse(ProviderDeclared, document, "PROVIDER_NAME, BASE_URL")


DEFAULT_WORLD: dict[str, Any] = {
    "providers": [{"name": "local", "kind": "pool", "privacy": "LOCAL"}],
    "nodes": [
        {"name": "simulated-1", "gpus": 1, "memory_gib": 24, "host_memory_gib": 64, "pace": {"load_s": 2}},
        {"name": "simulated-2", "gpus": 1, "memory_gib": 24, "host_memory_gib": 64, "pace": {"load_s": 2}},
    ],
    "models": [
        {
            "name": "llama-3.1-8b",
            "description": "everyday conversation, explanations, summaries, translation and writing in many languages",
            "tags": ["chat", "writing", "translation"],
            "weights": {"latency": 6, "accuracy": 4, "cost": 8, "quality": 6},
            "context_length": 32768,
            "capabilities": ["chat", "completions"],
            "engine": {"gpus": 1, "memory_gib": 18, "max_replicas": 1, "max_parallel": 48},
        },
        {
            "name": "qwen2.5-coder-7b",
            "description": "writing, completing, explaining and debugging program code, shell commands and SQL",
            "tags": ["code", "chat"],
            "weights": {"latency": 8, "accuracy": 6, "cost": 10, "quality": 3},
            "context_length": 32768,
            "capabilities": ["chat", "completions"],
            "engine": {"gpus": 1, "memory_gib": 16, "max_replicas": 1, "max_parallel": 48},
        },
        {
            "name": "bge-m3",
            "description": "embeddings of text for search and retrieval",
            "tags": ["embedding"],
            "weights": {"latency": 10, "accuracy": 0, "cost": 12, "quality": 0},
            "context_length": 8192,
            "capabilities": ["embeddings"],
            "engine": {"gpus": 1, "memory_gib": 4, "max_replicas": 1, "max_parallel": 64},
        },
    ],
}
