"""Machines of a simulated world that were given back: they come again when nodes are asked for.

A world has no others: what its cluster file names is all there ever is. Which node is given back, and when one is asked
for, is the scheduler's affair.
"""

from __future__ import annotations

from collections.abc import Callable

from logos.domain.nouns import Node
from logos.scheduling.commands import RequestNodes
from logos.simulation.agenda import Agenda
from logos.simulation.world import World

COMES_AFTER_S = 120.0  # a machine of a cloud: rented, booted, joined


class Reserve:
    """`lose` takes a node out of the simulated world, `bring` puts it there again, with nothing on it."""

    def __init__(self, world: World, agenda: Agenda, lose: Callable[[str], None], bring: Callable[[str], None]) -> None:
        self._world = world
        self._agenda = agenda
        self._lose = lose
        self._bring = bring
        self._held: set[str] = set()

    def take(self, node_id: str) -> None:
        """A node is given back."""
        self._lose(node_id)
        self._held.add(node_id)

    def asked(self, command: RequestNodes) -> None:
        """The first machine in the world's order that has such GPUs comes; none has, nothing comes."""
        for node in (each.node for each in self._world.nodes):
            if node.id in self._held and _has(node, command):
                self._held.remove(node.id)
                self._agenda.at(self._agenda.now + COMES_AFTER_S, self._bring, node.id)
                return


def _has(node: Node, command: RequestNodes) -> bool:
    return sum(gpu.memory_mib >= command.memory_per_gpu_mib for gpu in node.gpus) >= command.gpus
