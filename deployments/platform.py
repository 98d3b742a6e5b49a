"""The composition root: which actors a platform has, what each is given, and the Serve application in front.

`ensure_actors` finds or makes them, so it is the same for `logos up`, `serve run` and `serve deploy`. Nothing here
decides or serves; nothing imports this package but the command.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click
import ray
from ray import serve

from deployments import bootstrap
from deployments.accounts_actor import AccountsOnRay
from deployments.blueprint import Blueprint
from deployments.classifier import APP_NAME, Classifier
from deployments.ingress import Ingress
from deployments.ledger_actor import LedgerOnRay
from deployments.node_actor import NodeOnRay
from deployments.remotes import ACCOUNTS, LEDGER, NAMESPACE, SCHEDULER, node_actor_name
from deployments.scheduler_actor import SchedulerOnRay
from logos.actors.node import NodeSettings
from logos.config import Configuration, PaceSettings, Settings, load
from logos.declarations import Declaration
from logos.domain.errors import InvalidDeclaration
from logos.domain.nouns import Gpu
from logos.scheduling.settings import SchedulerSettings
from logos.simulation.engine import TransitionTimes

MIB_PER_GIB = 1024
SIMULATED_START_S = 0.5  # of a simulated engine's process, beside what it is to take


def scheduler_settings(settings: Settings) -> SchedulerSettings:
    """The config section as the core's settings; names that both have mean the same."""
    known = set(SchedulerSettings.__dataclass_fields__)
    section = settings.scheduler.model_dump()
    return SchedulerSettings(**{name: value for name, value in section.items() if name in known})


def create(cls: type, name: str, *arguments: Any, num_gpus: float = 0, **options: Any) -> Any:
    """Creates a named, detached, restartable actor, or finds the one that is already there."""
    remote = ray.remote(cls)
    return remote.options(
        name=name,
        namespace=NAMESPACE,
        lifetime="detached",
        max_restarts=-1,
        get_if_exists=True,
        max_concurrency=10_000,
        num_cpus=0,
        num_gpus=num_gpus,
    ).remote(*arguments, **options)


def ensure_actors(blueprint: Blueprint) -> list[Any]:
    """Finds or makes accounts, ledger and scheduler. Returns the handles, in the order to end them last."""
    settings = blueprint.settings
    quota_ttl_s, settle_s = settings.gateway.quota_ttl_s, settings.scheduler.reconvene_s
    accounts = create(AccountsOnRay, ACCOUNTS, blueprint.database_url, quota_ttl_s, settle_s)
    ledger = create(LedgerOnRay, LEDGER, blueprint.database_url, settings.ledger)
    journal = blueprint.journal_dir if settings.scheduler.journal else None
    scheduler = create(SchedulerOnRay, SCHEDULER, scheduler_settings(settings), journal)
    ray.get([actor.ping.remote() for actor in (accounts, ledger, scheduler)])
    return [scheduler, ledger, accounts]


def ensure_nodes(blueprint: Blueprint, provider_ids: dict[str, int]) -> list[Any]:
    """Finds or makes one actor per configured node. `provider_ids` maps pool names to catalogue ids."""
    nodes = []
    for node in blueprint.settings.nodes:
        settings = NodeSettings(
            node_id=node.name,
            provider_id=provider_ids[node.provider],
            gpus=tuple(Gpu(index, int(node.memory_gib * MIB_PER_GIB)) for index in range(node.gpus)),
            host_memory_mib=int(node.host_memory_gib * MIB_PER_GIB),
            simulated=node.simulated,
            simulated_flags=node.pace.flags(),
            directory=blueprint.data_dir / "nodes" / node.name,
            load_timeout_s=blueprint.settings.scheduler.load_timeout_s,
            sleep_timeout_s=blueprint.settings.scheduler.sleep_timeout_s,
            sleeps=node.sleeps,
            transitions_at_once=node.transitions_at_once,
            **(simulated_times(node.pace) if node.simulated else {}),
        )
        gpus = 0 if node.simulated else node.gpus
        nodes.append(create(NodeOnRay, node_actor_name(node.name), settings, num_gpus=gpus))
    ray.get([node.ping.remote() for node in nodes])
    return nodes


def simulated_times(pace: PaceSettings) -> dict[str, float]:
    """What a simulated node says of its engines' transitions, in seconds; a model's own flags may say otherwise."""
    given = pace.model_dump(include={"load_s", "wake_s", "sleep_s"}, exclude_none=True)
    times = TransitionTimes(**given).times(1.0 if pace.time_scale is None else pace.time_scale)
    return {"load_s": times.load_s + SIMULATED_START_S, "wake_s": times.wake_s, "sleep_s": times.sleep_s}


def application(blueprint: Blueprint) -> serve.Application:
    """The Serve application: ingress replicas behind the proxy, and the classifier beside them."""
    gateway = blueprint.settings.gateway
    ingress = Ingress.options(
        autoscaling_config={
            "min_replicas": gateway.replicas_min,
            "max_replicas": gateway.replicas_max,
            "target_ongoing_requests": gateway.requests_per_replica,
        },
        graceful_shutdown_timeout_s=blueprint.settings.server.drain_grace_s,
        ray_actor_options={"num_cpus": blueprint.settings.ray.gateway_cpus},
    )
    # What is declared is in the database by now, and holds providers' keys: replicas have no use for it.
    undeclared = blueprint.settings.model_copy(
        update={name: field.get_default() for name, field in Declaration.model_fields.items()}
    )
    classifier = Classifier.bind(blueprint.settings.classifier, blueprint.database_url)
    return ingress.bind(dataclasses.replace(blueprint, settings=undeclared), classifier)


def build(arguments: dict[str, str]) -> serve.Application:
    """For `serve run deployments.platform:build config=FILE` and for deployments/serve.yaml.

    Makes the actors that are not there yet, and prints the keys that are made on the way, this once: `serve run` shows
    them at the terminal, `serve deploy` in the log of the worker that builds. The database must be one that every node
    reaches: LOGOS_DATABASE_URL.
    """
    from logos.storage.migrate import migrate

    path = arguments.get("config")
    configuration: Configuration = load(Path(path) if path else None)
    if configuration.environment.database_url is None:
        raise InvalidDeclaration("LOGOS_DATABASE_URL is not set: a deployment on a cluster needs a database of its own")
    url = configuration.environment.database_url.get_secret_value()
    migrate(url)
    settings = configuration.settings
    blueprint = Blueprint(settings, settings.server.data_dir.expanduser().absolute(), url)
    accounts = ensure_actors(blueprint)[-1]
    ensure_nodes(blueprint, bootstrap.begin(accounts, configuration, click.echo).provider_ids)
    return application(blueprint)


__all__ = ["APP_NAME", "Blueprint", "application", "build", "ensure_actors", "ensure_nodes"]
