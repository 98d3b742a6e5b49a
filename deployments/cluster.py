"""A Ray cluster that somebody else started: joining it, what must hold there, and leaving it as it was.

Everything that only `logos up --ray-address` needs. Which settings a cluster must have stands in `ray_settings`.
Serve is not imported before they are known.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import ray

from deployments.ray_settings import RaySetting, describe_missing, missing
from deployments.remotes import ACCOUNTS, LEDGER, NAMESPACE, SCHEDULER
from logos.domain.errors import Conflict

CONNECT_S_MAX = 3.0
NODE_PREFIX = "node:"
NO_CLUSTER = "no Ray cluster answers at {address}: is it running, and is this its user (~/.ray/auth_token)?"


def join(address: str, table: Iterable[RaySetting], options: dict[str, Any]) -> None:
    """Connects this process. Raises Conflict if nothing is there, or if the cluster lacks a setting."""
    if not _listens(address):
        raise Conflict(NO_CLUSTER.format(address=address))
    try:
        ray.init(address=address, **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise Conflict(f"{NO_CLUSTER.format(address=address)} ({str(error).splitlines()[0]})") from None
    environment = _environment_of_workers()
    if lacking := missing(tuple(table), environment):
        ray.shutdown()
        raise Conflict(describe_missing(lacking))
    # Serve reads its settings in every process that imports it, so in this one they must be the cluster's.
    os.environ.update({name: value for name, value in environment.items() if name.startswith("RAY_SERVE_")})


def _listens(address: str) -> bool:
    """Ray itself tries for more than a minute. What is not HOST:PORT is for Ray to understand."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return True
    try:
        with socket.create_connection((host.strip("[]"), int(port)), CONNECT_S_MAX):
            return True
    except OSError:
        return False


def _environment_of_workers() -> dict[str, str]:
    @ray.remote(num_cpus=0)
    def environment() -> dict[str, str]:
        return dict(os.environ)

    found: dict[str, str] = ray.get(environment.remote())
    return found


def clear(note: Path) -> int:
    """Before a platform starts in the cluster: ends what an earlier `logos up` of this data directory left there, if
    `note` says that there was one. Returns how many actors that were. Raises Conflict if they are somebody else's."""
    left = _actors_of_a_platform()
    if not left:
        return 0
    if not note.exists():
        names = ", ".join(sorted(left))
        raise Conflict(f"a platform runs in this Ray cluster already (actors {names}): stop it first")
    delete_application()
    for name in left:
        with contextlib.suppress(ValueError):
            ray.kill(ray.get_actor(name, namespace=NAMESPACE))
    return len(left)


def _actors_of_a_platform() -> list[str]:
    named = ray.util.list_named_actors(all_namespaces=True)
    ours = [each["name"] for each in named if each["namespace"] == NAMESPACE]
    return [name for name in ours if name in {ACCOUNTS, LEDGER, SCHEDULER} or name.startswith(NODE_PREFIX)]


def port_of_serve() -> int | None:
    """Where Serve listens if it is running already; whoever started it also stops it."""
    from ray.serve.context import _get_global_client

    client = _get_global_client(raise_if_no_controller_running=False)
    if client is None:
        return None
    port: int = client.http_config.port
    return port


def delete_application() -> None:
    """Our application only; others that Serve runs go on."""
    from ray import serve

    from deployments.classifier import APP_NAME

    if port_of_serve() is not None:
        serve.delete(APP_NAME)
