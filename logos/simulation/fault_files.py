"""Reads fault files: YAML that says what goes wrong in a simulated world, and when.

    node_lost: [{at_s: 100.0, node: gpu-1, back_after_s: 60.0}]
    loads_fail: [{at_s: 100.0, model: chat-14b, times: 3}]

Names are looked up in the world, with errors of one line that name the place. What a fault does is in `faults`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydantic import model_validator

from logos.declarations import Declared, Name, Positive
from logos.documents import parse, read_yaml
from logos.domain.errors import InvalidDeclaration
from logos.simulation.cluster_shapes import Step, Time
from logos.simulation.faults import EngineDies, LoadsFail, MeasurementsSpoilt, NodeDies, RemoteDown, RemoteLimited
from logos.simulation.kernel import Fault
from logos.simulation.world import World

NAMED_MAX = 8  # names that an error lists


@dataclass(frozen=True, slots=True)
class Trouble:
    """One entry of a fault file: what it is called, when it strikes and for how long (infinity: for good; 0: it is over
    at once), the faults it consists of, and whom it befalls: the same thing must not befall anyone twice at a time."""

    kind: str
    on: str
    at: float
    lasts_s: float
    faults: tuple[Fault, ...]
    befalls: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.kind} {self.on}".strip()

    @property
    def over_after_s(self) -> float:
        """How long a recovery has to be waited for at least; what is for good is not."""
        return self.lasts_s if math.isfinite(self.lasts_s) else 0.0


class NodeLostDeclared(Declared):
    """The machine is gone with all that ran on it; with `back_after_s` it comes back with nothing on it."""

    at_s: Time
    node: Name
    back_after_s: Step | None = None


class EngineDiesDeclared(Declared):
    """The process of one awake engine of the model ends by itself; none awake, nothing happens."""

    at_s: Time
    model: Name


class LoadsFailDeclared(Declared):
    """The next loads and wakings of engines of the model fail, on every node."""

    at_s: Time
    model: Name
    times: Positive = 1


class RemoteDownDeclared(Declared):
    """The provider answers 503 to everything, or to everything for one model."""

    at_s: Time
    for_s: Step
    provider: Name
    model: Name | None = None

    def fault(self, endpoint_id: int) -> Fault:
        return RemoteDown(self.at_s, endpoint_id, self.for_s)


class RemoteLimitedDeclared(Declared):
    """The provider takes less than it is known to, per model; above that it answers 429."""

    at_s: Time
    for_s: Step
    provider: Name
    model: Name | None = None
    requests_per_minute: Positive | None = None
    tokens_per_minute: Positive | None = None
    parallel_max: Positive | None = None

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if self.requests_per_minute is self.tokens_per_minute is self.parallel_max is None:
            raise ValueError("needs a limit: requests_per_minute, tokens_per_minute or parallel_max")
        return self

    def fault(self, endpoint_id: int) -> Fault:
        limits = (self.requests_per_minute, self.tokens_per_minute, self.parallel_max)
        return RemoteLimited(self.at_s, endpoint_id, self.for_s, *limits)


class NonsenseDeclared(Declared):
    """The scheduler's measurements are nonsense: times below zero, without end and not numbers at all."""

    at_s: Time
    for_s: Step


class FaultsDeclared(Declared):
    """A whole fault file."""

    node_lost: tuple[NodeLostDeclared, ...] = ()
    engine_dies: tuple[EngineDiesDeclared, ...] = ()
    loads_fail: tuple[LoadsFailDeclared, ...] = ()
    remote_down: tuple[RemoteDownDeclared, ...] = ()
    remote_limited: tuple[RemoteLimitedDeclared, ...] = ()
    nonsense: tuple[NonsenseDeclared, ...] = ()


def read_faults(path: Path, world: World) -> tuple[Trouble, ...]:
    """What the file says goes wrong, in order of time. Raises InvalidDeclaration, one line."""
    return parse_faults(read_yaml(path), world, str(path))


def parse_faults(document: object, world: World, source: str) -> tuple[Trouble, ...]:
    """Raises InvalidDeclaration, one line that names the place, for whatever does not fit the world."""
    found = tuple(_Reading(world, source).troubles(parse(FaultsDeclared, document, source)))
    if not found:
        known = ", ".join(FaultsDeclared.model_fields)
        raise InvalidDeclaration(f"{source}: nothing goes wrong here; say what does: {known}")
    clash = next(_clashes(found), None)
    if clash is not None:
        raise InvalidDeclaration(f"{source}: {clash}")
    return tuple(sorted(found, key=lambda each: each.at))


def _clashes(troubles: Sequence[Trouble]) -> Iterator[str]:
    """What would begin before the same thing is over."""
    over_at: dict[tuple[str, str], float] = {}
    for trouble in sorted(troubles, key=lambda each: each.at):
        for one in trouble.befalls:
            if trouble.at < over_at.get((trouble.kind, one), 0.0):
                yield f"{trouble.name} at {trouble.at:g} s begins before an earlier one is over"
            over_at[trouble.kind, one] = trouble.at + trouble.lasts_s


class _Reading:
    """One fault file on its way into one world."""

    def __init__(self, world: World, source: str) -> None:
        self._world = world
        self._source = source
        self._providers = {each.name: each.id for each in world.catalogue.providers if each.kind != "pool"}

    def troubles(self, declared: FaultsDeclared) -> Iterator[Trouble]:
        """One for each entry of the file."""
        for number, lost in enumerate(declared.node_lost):
            yield self._node_lost(f"node_lost[{number}]", lost)
        for number, dies in enumerate(declared.engine_dies):
            died = EngineDies(dies.at_s, self._pooled(f"engine_dies[{number}]", dies.model))
            yield Trouble("engine_dies", dies.model, dies.at_s, 0.0, (died,))
        for number, fails in enumerate(declared.loads_fail):
            failing = LoadsFail(fails.at_s, self._pooled(f"loads_fail[{number}]", fails.model), fails.times)
            yield Trouble("loads_fail", f"{fails.model} x {fails.times}", fails.at_s, 0.0, (failing,))
        for number, down in enumerate(declared.remote_down):
            yield self._remote(f"remote_down[{number}]", down)
        for number, limited in enumerate(declared.remote_limited):
            yield self._remote(f"remote_limited[{number}]", limited)
        for nonsense in declared.nonsense:
            spoilt = MeasurementsSpoilt(nonsense.at_s, nonsense.for_s)
            yield Trouble("nonsense", "", nonsense.at_s, nonsense.for_s, (spoilt,), ("measurements",))

    def _node_lost(self, place: str, lost: NodeLostDeclared) -> Trouble:
        self._check(f"{place}.node", "node", lost.node, [each.node.id for each in self._world.nodes])
        dies = NodeDies(lost.at_s, lost.node, lost.back_after_s)
        return Trouble("node_lost", lost.node, lost.at_s, lost.back_after_s or math.inf, (dies,), (lost.node,))

    def _pooled(self, place: str, model: str) -> int:
        """The endpoint of the model's own engines."""
        endpoints = {self._world.model_name_at[each]: each for each in self._world.engines}
        self._check(f"{place}.model", "model with an engine", model, list(endpoints))
        return endpoints[model]

    def _remote(self, place: str, declared: RemoteDownDeclared | RemoteLimitedDeclared) -> Trouble:
        """What befalls the provider's endpoints, or that of one model where one is named."""
        provider, model = declared.provider, declared.model
        self._check(f"{place}.provider", "provider", provider, list(self._providers))
        endpoints = {
            self._world.model_name_at[each.id]: each.id
            for each in self._world.catalogue.endpoints
            if each.provider_id == self._providers[provider]
        }
        if model is not None:
            self._check(f"{place}.model", f"model at {provider}", model, list(endpoints))
        hit = [each for name, each in endpoints.items() if model in {None, name}]
        faults = tuple(declared.fault(each) for each in hit)
        on = provider if model is None else f"{provider} {model}"
        return Trouble(place.partition("[")[0], on, declared.at_s, declared.for_s, faults, tuple(map(str, hit)))

    def _check(self, place: str, what: str, name: str, known: list[str]) -> None:
        if name not in known:
            have = f"it has {', '.join(known[:NAMED_MAX])}" if known else "it has none"
            text = f"{place}: the world {self._world.name} has no {what} {name!r}; {have}"
            raise InvalidDeclaration(f"{self._source}: {text}")
