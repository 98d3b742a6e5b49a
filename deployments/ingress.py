"""The ingress deployment: one gateway per replica, served by Serve's own HTTP server.

Binds the gateway to Ray: its ports are actor handles, its id is the name of its replica. No route, no rule.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import ray
from ray import serve
from ray.serve.handle import DeploymentHandle

from deployments.classifier import ClassifierRemote
from deployments.haproxy import front_addresses
from deployments.remotes import AccountsRemote, LedgerRemote, SchedulerRemote
from logos.gateway.app import Gateway
from logos.telemetry.logs import configure

if TYPE_CHECKING:
    from deployments.blueprint import Blueprint


@serve.deployment(name="Ingress", max_ongoing_requests=100_000)
@serve.ingress()
class Ingress:
    """A replica. Serve runs the ASGI lifespan, which starts and stops the gateway."""

    def __init__(self, blueprint: Blueprint, classifier: DeploymentHandle[Any]) -> None:
        configure()
        replica = serve.get_replica_context().replica_id
        self._gateway = Gateway(
            gateway_id=replica.to_full_id_str(),
            settings=blueprint.settings,
            outbox_dir=blueprint.outbox_dir,
            database_url=blueprint.database_url,
            scheduler=SchedulerRemote(),
            accounts=AccountsRemote(),
            ledger=LedgerRemote(),
            classifier=ClassifierRemote(classifier),
            request_id_from_outside=True,
            front=front_addresses(os.environ, ray.util.get_node_ip_address()),
        )

    def __serve_build_asgi_app__(self) -> Any:
        return self._gateway.asgi

    async def check_health(self) -> None:
        """Serve replaces a replica whose gateway cannot work any more."""
        self._gateway.check_health()
