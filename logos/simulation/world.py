"""What a simulated world consists of: nodes, engines and their pace, remote providers, how long answers are.

Frozen values only; they are read from cluster files in `cluster` and brought to life in `kernel`. No rule of behaviour
must live here.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from logos.billing.prices import Tariff, tariff
from logos.domain.catalogue import Catalogue
from logos.domain.lifecycle import EngineState
from logos.domain.nouns import Endpoint, Node, Price
from logos.scheduling.events import Candidate
from logos.simulation.engine import EnginePace, TransitionTimes
from logos.simulation.lengths import DEFAULT_SHARES
from logos.simulation.traffic import Source

CHARACTERS_PER_TOKEN = 4.5  # of prompts, in the published runs
DAY = dt.date(2026, 1, 1)  # of every simulation, as prices belong to days


@dataclass(frozen=True, slots=True)
class EngineProfile:
    """How the engines of one endpoint behave: their pace, and what their changes of state take."""

    pace: EnginePace
    times: TransitionTimes


@dataclass(frozen=True, slots=True)
class RemoteProfile:
    """How a remote endpoint behaves. Its first token comes after `ttft_s` and the prompt, its others `tpot_s` apart;
    times vary by a lognormal factor of `spread`, and a share of the answers begins `stall_s` late. The limits are the
    provider's own, whatever the catalogue says of them; None is unlimited. Above them it answers 429."""

    ttft_s: float = 0.4
    prefill_per_token_s: float = 0.00005
    tpot_s: float = 0.012
    spread: float = 0.3
    stall_share: float = 0.0
    stall_s: float = 0.0
    parallel_max: int | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None


@dataclass(frozen=True, slots=True)
class InitialEngine:
    """An engine that is on its node from the start."""

    endpoint_id: int
    gpu_indices: tuple[int, ...]
    state: EngineState = EngineState.ASLEEP


@dataclass(frozen=True, slots=True)
class WorldNode:
    """A node, what is on it from the start, and its quirks.

    `transitions_at_once` None: no bound; further ones wait their turn on the node. `slowness` multiplies the times of
    steps and transitions of every engine there.
    """

    node: Node
    engines: tuple[InitialEngine, ...] = ()
    transitions_at_once: int | None = None
    slowness: float = 1.0


@dataclass(frozen=True)
class World:
    """Everything that a run needs beside a workload and a scheduler. Mappings are by endpoint id, but `shares` is by
    model id."""

    name: str
    catalogue: Catalogue
    nodes: tuple[WorldNode, ...] = ()
    engines: Mapping[int, EngineProfile] = field(default_factory=dict)
    remotes: Mapping[int, RemoteProfile] = field(default_factory=dict)
    shares: Mapping[int, Sequence[float]] = field(default_factory=dict)
    queue_timeout_s: float = 600.0
    report_interval_s: float = 0.0  # between EngineReported of each awake engine; 0: none
    characters_per_token: float = CHARACTERS_PER_TOKEN
    source: Source | None = None  # the traffic that belongs to it
    keys: int = 1  # that ask in that traffic

    @cached_property
    def gpus(self) -> int:
        return sum(len(each.node.gpus) for each in self.nodes)

    @cached_property
    def model_name_at(self) -> Mapping[int, str]:
        """Model names by endpoint id."""
        model = self.catalogue.model
        return {endpoint.id: model[endpoint.model_id].name for endpoint in self.catalogue.endpoints}

    @cached_property
    def tariffs(self) -> Mapping[int, Tariff]:
        """Prices by endpoint id; endpoints where tokens are free are not there."""
        prices = self.catalogue.prices
        found = {each.id: tariff(prices, each.model_id, each.provider_id, DAY) for each in self.catalogue.endpoints}
        return {endpoint_id: each for endpoint_id, each in found.items() if each}

    def with_swaps(self, factor: float) -> World:
        """The same world with transitions that take `factor` times as long."""
        engines = {
            endpoint_id: EngineProfile(profile.pace, profile.times.times(factor))
            for endpoint_id, profile in self.engines.items()
        }
        return replace(self, engines=engines)

    def with_slowdown(self, slowdown: float) -> World:
        """The same world with engines that slow their busy neighbours by `slowdown`."""
        engines = {
            endpoint_id: EngineProfile(replace(profile.pace, slowdown=slowdown), profile.times)
            for endpoint_id, profile in self.engines.items()
        }
        return replace(self, engines=engines)

    def shares_of(self, model_id: int) -> Sequence[float]:
        """The quantile table of a model's output lengths."""
        return self.shares.get(model_id, DEFAULT_SHARES)

    @cached_property
    def context_tokens(self) -> Mapping[str, int]:
        """What prompt and answer may have together, by model name; models without a limit are not there."""
        limits = ((model.name, model.context_length_tokens) for model in self.catalogue.models)
        return {name: tokens for name, tokens in limits if tokens is not None}

    def long_enough(self, models: tuple[tuple[str, float], ...], tokens: int) -> tuple[tuple[str, float], ...]:
        """Those of the (model name, weight) pairs whose context takes so many tokens: the gateway's rule."""
        limits = self.context_tokens
        if not limits:
            return models
        return tuple(each for each in models if each[0] not in limits or tokens <= limits[each[0]])

    def candidates(self, models: Sequence[tuple[str, float]]) -> tuple[Candidate, ...]:
        """The endpoints of (model name, weight) pairs, in that order. Raises KeyError for a name that is unknown."""
        found: list[Candidate] = []
        for name, weight in models:
            model = self.catalogue.model_named[name]
            found += [self._candidate(endpoint, weight) for endpoint in self.catalogue.endpoints_of[model.id]]
        return tuple(found)

    def _candidate(self, endpoint: Endpoint, weight: float) -> Candidate:
        quality = self.catalogue.model[endpoint.model_id].weights.quality
        return Candidate(
            endpoint.id,
            weight,
            self._price(endpoint, "prompt"),
            self._price(endpoint, "completion"),
            1.0 if self._qualities == (quality, quality) else self._normal(quality),
        )

    @cached_property
    def _qualities(self) -> tuple[int, int]:
        """Lowest and highest quality weight of any model."""
        found = [model.weights.quality for model in self.catalogue.models]
        return min(found), max(found)

    def _normal(self, quality: int) -> float:
        lowest, highest = self._qualities
        return (quality - lowest) / (highest - lowest)

    def _price(self, endpoint: Endpoint, token_type: str) -> int:
        """The most specific price row, 0 where there is none."""
        best: Price | None = None
        for price in self.catalogue.prices:
            if price.token_type == token_type and _concerns(price, endpoint):
                best = price if best is None else max(best, price, key=_specificity)
        return best.micro_cents_per_million if best is not None else 0


def _concerns(price: Price, endpoint: Endpoint) -> bool:
    return price.model_id in {None, endpoint.model_id} and price.provider_id in {None, endpoint.provider_id}


def _specificity(price: Price) -> tuple[int, int]:
    return (price.model_id is not None) + (price.provider_id is not None), price.valid_from.toordinal()
