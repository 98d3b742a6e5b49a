"""The reference's control plane around any core: what it adds to every decision in waiting.

One admission for each engine every 0.9 s; a drained engine, and a finished transition, are noticed by the next poll;
requests that waited for an engine notice up to 2 s late that it is awake. The core itself is untouched and knows
nothing of it: this is a slower driver, for the comparison with published figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from logos.domain.lifecycle import EngineState
from logos.scheduling import commands as cmd
from logos.scheduling import events as ev
from logos.simulation.arrivals import Arrival
from logos.simulation.kernel import Core, Fault, Simulation
from logos.simulation.run import Outcome, Status
from logos.simulation.world import World


@dataclass(frozen=True, slots=True)
class Delays:
    """In seconds. A poll comes after a uniform time up to its interval, which the reference has at 2 to 5 s; with 5 the
    published figures are met best."""

    admission_s: float = 0.9
    drain_poll_s: float = 5.0
    confirmation_poll_s: float = 5.0
    notice_s: float = 2.0


class DelayedSimulation(Simulation):
    """A simulation whose driver is as slow as the reference's."""

    def __init__(
        self,
        world: World,
        workload: Sequence[Arrival],
        core: Core,
        seed: int,
        *,
        policy: str,
        faults: Sequence[Fault] = (),
        delays: Delays | None = None,
    ) -> None:
        super().__init__(world, workload, core, seed, policy=policy, faults=faults)
        self._delays = delays or Delays()
        self._chance = Random(f"control plane {seed}")
        self._free_at: dict[str, float] = {}  # by engine: when the next admission may be
        self._told_awake_at: dict[str, float] = {}
        for node in self.nodes.values():
            node.tell = self._confirm

    def _order(self, command: cmd.SleepEngine | cmd.WakeEngine | cmd.StopEngine) -> None:
        """That an engine has drained is seen by the next poll."""
        if isinstance(command, cmd.SleepEngine):
            after_s = self._chance.uniform(0, self._delays.drain_poll_s)
            self.agenda.at(self.agenda.now + after_s, self._drained, command)
        else:
            super()._order(command)

    def _drained(self, command: cmd.SleepEngine) -> None:
        """The poll has come. The engine may have died since it was told to sleep, which the core has heard."""
        if self._is_there(command.engine_id):
            super()._order(command)

    def _is_there(self, engine_id: str) -> bool:
        node = self._node_of.get(engine_id)
        return node is not None and engine_id in node.engines

    def _confirm(self, event: ev.Event) -> None:
        """That a transition is over is seen by the next poll."""
        after_s = self._chance.uniform(0, self._delays.confirmation_poll_s)
        self.agenda.at(self.agenda.now + after_s, self._confirmed, event)

    def _confirmed(self, event: Any) -> None:
        """The poll has come, and finds nothing of an engine that has died since."""
        if event.state is not EngineState.COLD and not self._is_there(event.engine_id):
            return
        at = self.agenda.now
        seen = ev.EngineChanged(at, event.engine_id, event.state, event.seconds, event.memory_mib, event.reason)
        self._told_awake_at[event.engine_id] = at
        self.tell(seen)

    def _submit(self, outcome: Outcome, engine_id: str) -> None:
        """In its turn; what waited for the engine notices late that it is there."""
        now = self.agenda.now
        at = now
        if self._told_awake_at.get(engine_id) == now:
            at += self._chance.uniform(0, self._delays.notice_s)
        at = max(at, self._free_at.get(engine_id, 0.0))
        self._free_at[engine_id] = at + self._delays.admission_s
        self.agenda.at(at, self._admitted, (outcome, engine_id))

    def _admitted(self, admission: tuple[Outcome, str]) -> None:
        outcome, engine_id = admission
        if outcome.status is Status.OPEN:
            super()._submit(outcome, engine_id)
