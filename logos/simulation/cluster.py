"""Reads cluster files: YAML that describes a simulated world, and the worlds that are shipped with the package.

Shapes and what refers to what are checked here, with errors of one line that name the place; the values that come out
are those of `world`. What the figures mean in motion must not be known here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path

from logos.documents import parse, parse_yaml, read_yaml
from logos.domain.catalogue import Catalogue
from logos.domain.errors import InvalidDeclaration
from logos.domain.lifecycle import EngineState
from logos.domain.nouns import (
    MICRO_CENTS_PER_UNIT,
    Endpoint,
    Gpu,
    Model,
    Node,
    Price,
    Privacy,
    Provider,
    SloTargets,
    Weights,
)
from logos.simulation.cluster_shapes import (
    COPIES_MAX,
    ClusterDeclared,
    EngineDeclared,
    InitialDeclared,
    ModelDeclared,
    NodeDeclared,
    PriceDeclared,
    RemoteDeclared,
)
from logos.simulation.engine import TransitionTimes
from logos.simulation.traffic import Source
from logos.simulation.world import DAY, EngineProfile, InitialEngine, RemoteProfile, World, WorldNode

POOL_ID = 1
POOL_NAME = "local"
WORLDS = resources.files("logos.simulation") / "worlds"


def read_world(name_or_path: str) -> World:
    """The shipped world of that name, or the one that a file describes. Raises InvalidDeclaration, one line."""
    if name_or_path in shipped_worlds():
        text = (WORLDS / f"{name_or_path}.yaml").read_text(encoding="utf-8")
        return parse_world(parse_yaml(text, name_or_path), name_or_path)
    path = Path(name_or_path)
    if not path.suffix and not path.exists():
        known = ", ".join(shipped_worlds())
        raise InvalidDeclaration(f"there is no world {name_or_path!r} and no such file: shipped are {known}")
    return parse_world(read_yaml(path), path.stem, str(path))


def shipped_worlds() -> tuple[str, ...]:
    """Names of the worlds that come with the package."""
    found = (each.name for each in WORLDS.iterdir())
    return tuple(sorted(name.removesuffix(".yaml") for name in found if name.endswith(".yaml")))


def parse_world(document: object, name: str, source: str = "") -> World:
    """Raises InvalidDeclaration, one line that names the place, for whatever does not fit."""
    source = source or name
    declared = parse(ClusterDeclared, document, source)
    flaw = next(_flaws(declared), None)
    if flaw is not None:
        raise InvalidDeclaration(f"{source}: {flaw}")
    return _Builder(declared, name).world()


def _flaws(declared: ClusterDeclared) -> Iterator[str]:
    """What is wrong between the parts of a file that are right by themselves."""
    gpus = sum(node.count * node.gpus for node in declared.nodes)
    if gpus > COPIES_MAX:
        yield f"nodes: {gpus:,} GPUs are more than can be simulated; at most {COPIES_MAX:,} can"
    copies = sum(model.count for model in declared.models)
    if copies > COPIES_MAX:
        yield f"models: {copies:,} models are more than can be simulated; at most {COPIES_MAX:,} can"
    yield from _repeated("models", [name for model in declared.models for name in model.names])
    yield from _repeated("nodes", [name for node in declared.nodes for name in node.names])
    yield from _repeated("providers", [each.name for each in declared.providers])
    providers = {each.name for each in declared.providers}
    if POOL_NAME in providers:
        yield f"providers: {POOL_NAME!r} is what the cluster's own nodes are called; give it another name"
    for index, model in enumerate(declared.models):
        yield from _repeated(f"models[{index}].remotes", [each.provider for each in model.remotes])
        for number, remote in enumerate(model.remotes):
            if remote.provider not in providers:
                yield f"models[{index}].remotes[{number}].provider: there is no provider {remote.provider!r}"
        yield from _homeless(index, model, declared.nodes)
    engines = {name: model.engine for model in declared.models for name in model.names}
    for index, node in enumerate(declared.nodes):
        for number, initial in enumerate(node.engines):
            problem = _misplaced(initial, node, engines)
            if problem:
                yield f"nodes[{index}].engines[{number}].{problem}"
        yield from _overfull(index, node, engines)
    yield from _traffic_flaws(declared, set(engines))


def _traffic_flaws(declared: ClusterDeclared, models: set[str]) -> Iterator[str]:
    traffic = declared.traffic
    if traffic is None:
        return
    for name in (*traffic.models, *traffic.turns):
        if name not in models:
            yield f"traffic: there is no model {name!r}"
            return
    try:
        traffic.source(tuple(models))
    except ValueError as error:
        yield f"traffic: {error}"


def _repeated(kind: str, names: list[str]) -> Iterator[str]:
    for name, count in Counter(names).items():
        if count > 1:
            yield f"{kind}: {name!r} is there twice"


def _homeless(index: int, model: ModelDeclared, nodes: Sequence[NodeDeclared]) -> Iterator[str]:
    """A model whose engine could be loaded nowhere."""
    engine = model.engine
    if engine is None:
        return
    fitting = [node for node in nodes if _fits(engine, node)]
    if not fitting:
        need = -(-engine.memory_mib // engine.gpus)
        yield (
            f"models[{index}].engine: {model.name} needs {need} MiB on each of {engine.gpus} GPUs, "
            "which no node has; give it less memory or add a node"
        )
    elif not any(_keeps(engine, node) for node in fitting):
        yield (
            f"models[{index}].engine: {model.name} keeps {engine.spec.host_mib} MiB in host RAM, which no node "
            "that has its GPUs has; say `sleeps: false`, or give a node more host_memory_mib (0: no limit)"
        )


def _fits(engine: EngineDeclared, node: NodeDeclared) -> bool:
    return node.gpus >= engine.gpus and node.memory_mib_per_gpu >= -(-engine.memory_mib // engine.gpus)


def _keeps(engine: EngineDeclared, node: NodeDeclared) -> bool:
    """Whether its weights have room in host RAM, where an engine that can sleep has them from its start on."""
    is_limited = node.host_memory_mib > 0 and node.sleeps and engine.sleeps
    return not is_limited or engine.spec.host_mib <= node.host_memory_mib


def _misplaced(initial: InitialDeclared, node: NodeDeclared, engines: dict[str, EngineDeclared | None]) -> str:
    """What is wrong with an engine that is there from the start; empty if nothing is."""
    engine = engines.get(initial.model)
    if engine is None:
        return f"model: no model {initial.model!r} with an engine is declared"
    unknown = [gpu for gpu in initial.gpus if gpu >= node.gpus]
    if unknown:
        return f"gpus: there is no GPU {unknown[0]} on {node.name}, which has {node.gpus} (counted from 0)"
    if len(set(initial.gpus)) < len(initial.gpus):
        return "gpus: a GPU is there twice"
    if len(initial.gpus) != engine.gpus:
        return f"gpus: {initial.model} runs on {engine.gpus} GPUs, {len(initial.gpus)} are given"
    if initial.state == "asleep" and not (node.sleeps and engine.sleeps):
        return f"state: {initial.model} cannot sleep on {node.name}"
    return ""


def _overfull(index: int, node: NodeDeclared, engines: dict[str, EngineDeclared | None]) -> Iterator[str]:
    """Engines that are there from the start and do not fit together."""
    used = [0] * node.gpus
    host = 0
    for initial in node.engines:
        engine = engines.get(initial.model)
        if engine is None:
            continue
        host += engine.spec.host_mib if engine.sleeps and node.sleeps else 0
        for gpu in initial.gpus:
            if gpu < node.gpus:
                spec = engine.spec
                used[gpu] += spec.memory_per_gpu_mib if initial.state == "awake" else spec.residue_per_gpu_mib
    for gpu, mib in enumerate(used):
        if mib > node.memory_mib_per_gpu:
            yield f"nodes[{index}].engines: they take {mib} MiB on GPU {gpu}, which has {node.memory_mib_per_gpu}"
    if node.host_memory_mib and host > node.host_memory_mib:
        yield f"nodes[{index}].engines: they keep {host} MiB in host RAM, which has {node.host_memory_mib}"


class _Builder:
    """Gives everything an id and puts it together."""

    def __init__(self, declared: ClusterDeclared, name: str) -> None:
        self._declared = declared
        self._name = name
        self._provider_ids = {each.name: number for number, each in enumerate(declared.providers, POOL_ID + 1)}
        self._models: list[Model] = []
        self._endpoints: list[Endpoint] = []
        self._prices: list[Price] = []
        self._engines: dict[int, EngineProfile] = {}
        self._remotes: dict[int, RemoteProfile] = {}
        self._shares: dict[int, tuple[float, ...]] = {}
        self._pooled: dict[str, int] = {}  # endpoint id by model name

    def world(self) -> World:
        for declared in self._declared.models:
            for name in declared.names:
                self._add_model(declared, name)
        return World(
            self._name,
            Catalogue(
                version=1,
                models=tuple(self._models),
                providers=self._providers(),
                endpoints=tuple(self._endpoints),
                prices=tuple(self._prices),
                slo=SloTargets(self._declared.slo.interactive.target, self._declared.slo.batch.target),
            ),
            tuple(self._nodes()),
            self._engines,
            self._remotes,
            self._shares,
            self._declared.queue_timeout_s,
            self._declared.report_interval_s,
            source=self._source(),
            keys=self._declared.traffic.keys if self._declared.traffic is not None else 1,
        )

    def _source(self) -> Source | None:
        """What comes if no workload is given."""
        traffic = self._declared.traffic
        return None if traffic is None else traffic.source(tuple(each.name for each in self._models))

    def _providers(self) -> tuple[Provider, ...]:
        remote = (
            Provider(self._provider_ids[each.name], each.name, "openai", each.privacy)
            for each in self._declared.providers
        )
        return (Provider(POOL_ID, POOL_NAME, "pool", Privacy.LOCAL), *remote)

    def _add_model(self, declared: ModelDeclared, name: str) -> None:
        model_id = len(self._models) + 1
        weights = Weights(
            declared.weights.latency, declared.weights.accuracy, declared.weights.cost, declared.weights.quality
        )
        self._models.append(Model(model_id, name, "", declared.tags, weights, declared.context_length, frozenset()))
        if declared.output_shares is not None:
            self._shares[model_id] = declared.output_shares
        if declared.engine is not None:
            self._add_engine(declared.engine, declared.price, model_id, name)
        for remote in declared.remotes:
            self._add_remote(remote, model_id, name)

    def _add_engine(self, engine: EngineDeclared, price: PriceDeclared, model_id: int, name: str) -> None:
        endpoint = Endpoint(
            len(self._endpoints) + 1,
            model_id,
            POOL_ID,
            Privacy.LOCAL,
            name,
            engine.max_parallel,
            engine=engine.spec,
        )
        times = engine.transitions
        self._endpoints.append(endpoint)
        self._pooled[name] = endpoint.id
        self._engines[endpoint.id] = EngineProfile(
            engine.pace.pace, TransitionTimes(times.load_s, times.wake_s, times.sleep_s, times.stop_s)
        )
        self._add_price(price, model_id, POOL_ID)

    def _add_remote(self, remote: RemoteDeclared, model_id: int, name: str) -> None:
        provider = next(each for each in self._declared.providers if each.name == remote.provider)
        provider_id = self._provider_ids[provider.name]
        endpoint = Endpoint(
            len(self._endpoints) + 1,
            model_id,
            provider_id,
            provider.privacy,
            name,
            remote.max_parallel,
            remote.limits.limits,
        )
        self._endpoints.append(endpoint)
        self._remotes[endpoint.id] = remote.profile
        self._add_price(remote.price, model_id, provider_id)

    def _add_price(self, price: PriceDeclared, model_id: int, provider_id: int) -> None:
        for token_type, amount in (("prompt", price.prompt), ("completion", price.completion)):
            if amount:
                micro_cents = round(amount * MICRO_CENTS_PER_UNIT)
                row = Price(
                    len(self._prices) + 1,
                    token_type,
                    micro_cents,
                    self._declared.currency,
                    DAY,
                    model_id,
                    provider_id,
                )
                self._prices.append(row)

    def _nodes(self) -> Iterator[WorldNode]:
        for declared in self._declared.nodes:
            gpus = tuple(Gpu(index, declared.memory_mib_per_gpu) for index in range(declared.gpus))
            engines = tuple(
                InitialEngine(self._pooled[each.model], tuple(sorted(each.gpus)), EngineState(each.state))
                for each in declared.engines
            )
            for name in declared.names:
                yield WorldNode(
                    Node(
                        name,
                        POOL_ID,
                        gpus,
                        declared.host_memory_mib,
                        declared.sleeps,
                        transitions_at_once=declared.transitions_at_once,
                    ),
                    engines,
                    declared.transitions_at_once,
                    declared.slowness,
                )
