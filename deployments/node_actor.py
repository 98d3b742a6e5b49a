"""A GPU node's actor as a Ray actor."""

from __future__ import annotations

from deployments.remotes import SchedulerForNodes
from logos.actors.node import NodeActor, NodeSettings
from logos.telemetry.logs import configure


class NodeOnRay(NodeActor):
    """The actor of one GPU node. It holds the node's GPUs in Ray's accounting, so nobody else is given them."""

    async def __init__(self, settings: NodeSettings) -> None:  # type: ignore[misc]  # Ray awaits it
        configure()
        super().__init__(settings, SchedulerForNodes())
        await self.start()
