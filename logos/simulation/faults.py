"""What may go wrong in a simulated world, and when: values that strike a simulation at their time.

How the scheduler copes is its own affair; nothing here knows of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from logos.scheduling import commands as cmd
from logos.scheduling import events as ev
from logos.simulation.kernel import Core, Simulation


@dataclass(frozen=True, slots=True)
class NodeDies:
    """The machine is gone with all that ran on it; with `back_after_s` it comes back, its engines cold. One that is not
    there, given back or lost already, cannot be lost."""

    at: float
    node_id: str
    back_after_s: float | None = None

    def strike(self, simulation: Simulation) -> None:
        is_there = self.node_id in simulation.nodes
        simulation.lose_node(self.node_id)
        if is_there and self.back_after_s is not None:
            simulation.agenda.at(self.at + self.back_after_s, simulation.return_node, self.node_id)


@dataclass(frozen=True, slots=True)
class EngineDies:
    """One awake engine of this endpoint ends by itself, the one with the smallest name; none awake, nothing happens."""

    at: float
    endpoint_id: int

    def strike(self, simulation: Simulation) -> None:
        awake = [
            engine
            for node in simulation.nodes.values()
            for engine in node.engines.values()
            if engine.endpoint_id == self.endpoint_id and engine.serves
        ]
        if awake:
            simulation.crash_engine(min(awake, key=lambda each: each.engine_id))


@dataclass(frozen=True, slots=True)
class LoadsFail:
    """The next `times` loads or wakings of this endpoint's engines fail, on every node."""

    at: float
    endpoint_id: int
    times: int

    def strike(self, simulation: Simulation) -> None:
        simulation.failing_starts[self.endpoint_id] = self.times


@dataclass(frozen=True, slots=True)
class RemoteDown:
    """A remote endpoint answers 503 to everything, for so long."""

    at: float
    endpoint_id: int
    seconds: float

    def strike(self, simulation: Simulation) -> None:
        remote = simulation.remotes[self.endpoint_id]
        remote.is_down = True
        simulation.agenda.at(self.at + self.seconds, remote.recover)


@dataclass(frozen=True, slots=True)
class RemoteLimited:
    """A remote endpoint's provider takes less than it is known to, for so long; None leaves a limit as it is."""

    at: float
    endpoint_id: int
    seconds: float
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    parallel_max: int | None = None

    def strike(self, simulation: Simulation) -> None:
        remote = simulation.remotes[self.endpoint_id]
        before = remote.profile
        named = {name: getattr(self, name) for name in ("requests_per_minute", "tokens_per_minute", "parallel_max")}
        remote.behave(replace(before, **{name: limit for name, limit in named.items() if limit is not None}))
        simulation.agenda.at(self.at + self.seconds, remote.behave, before)


@dataclass(frozen=True, slots=True)
class MeasurementsSpoilt:
    """The core is told nonsense by its measurements, for so long."""

    at: float
    seconds: float = math.inf

    def strike(self, simulation: Simulation) -> None:
        honest = simulation.core
        simulation.listen(Nonsense(honest))
        if math.isfinite(self.seconds):
            simulation.agenda.at(self.at + self.seconds, simulation.listen, honest)


class Nonsense:
    """A core that is told nonsense by its measurements: times and tokens that no clock and no counter would give.

    What happened is told as it is; only figures to learn from are spoilt, each kind in turn.
    """

    FIGURES = (0.0, -5.0, 1e12, math.inf, math.nan, 1e-12)

    def __init__(self, core: Core) -> None:
        self._core = core
        self._told = 0

    def handle(self, event: ev.Event) -> list[cmd.Command]:
        return self._core.handle(self._spoilt(event))

    def _spoilt(self, event: ev.Event) -> ev.Event:
        self._told += 1
        figure = self.FIGURES[self._told % len(self.FIGURES)]
        match event:
            case ev.FirstToken():
                return replace(event, ttft_s=figure)
            case ev.RequestFinished():
                return replace(event, total_s=figure, completion_tokens=0 if self._told % 2 else 10**9)
            case ev.EngineChanged():
                return replace(event, seconds=figure)
            case ev.EngineReported():
                return replace(event, kv_usage=figure, waiting=10**9 if self._told % 2 else 0)
        return event
