"""Bringing an installation to life through its accounts actor: root key, declarations, initial provider, pools.

The same for `logos up` and for a deployment with Serve's own tools. What a declaration means is accounts' to know.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayTaskError

from logos.config import Configuration, Settings
from logos.domain.catalogue import Catalogue
from logos.domain.errors import LogosError
from logos.storage.key_store import ROOT_NAME

READY_WAIT_S = 20.0


@dataclass(frozen=True, slots=True)
class Begun:
    """What is there now. `root_key` is None unless it was made just now."""

    root_key: str | None = field(repr=False)
    provider_ids: dict[str, int]
    model_names: tuple[str, ...]


def begin(accounts: Any, configuration: Configuration, say: Callable[[str], None]) -> Begun:
    """Says, a line at a time and before anything else can fail, what nobody can be told later: the keys that were
    made, and notes for the operator. Raises LogosError, as the accounts actor does."""
    environment = configuration.environment
    provider = environment.provider
    arguments = {
        "root_key": environment.root_key.get_secret_value() if environment.root_key else None,
        "declaration": configuration.settings.declaration.revealed(),
        "world": Settings.default_world().declaration.revealed() if configuration.simulated_world else None,
        "provider": provider.model_dump(mode="json", exclude_unset=True, context={"reveal": True})
        if provider is not None
        else None,
    }
    told = _when_ready(lambda: ray.get(accounts.administer.remote("bootstrap", arguments)))
    keys = made_keys(told["keys"], arguments["root_key"])
    for line in [*shown_once(keys), *told["notes"]]:
        say(line)
    catalogue = _with_pools(accounts, {node.provider for node in configuration.settings.nodes})
    return Begun(
        root_key=keys.get(ROOT_NAME),
        provider_ids={provider.name: provider.id for provider in catalogue.providers},
        model_names=tuple(model.name for model in catalogue.models),
    )


def made_keys(told: Mapping[str, str], preset: str | None) -> dict[str, str]:
    """By name, the secrets of `told` but for a root key that the operator has chosen, and knows."""
    return {name: secret for name, secret in told.items() if (name, secret) != (ROOT_NAME, preset)}


def shown_once(keys: Mapping[str, str]) -> list[str]:
    """A line for each key that was made just now; only its hash is kept."""
    names = {name: "Root key" if name == ROOT_NAME else f"Key {name}" for name in keys}
    return [f"{names[name]}, shown this once: {secret}" for name, secret in keys.items()]


def _with_pools(accounts: Any, wanted: set[str]) -> Catalogue:
    """The catalogue, after the pools that configured nodes belong to were declared where they were not."""
    catalogue = _catalogue_of(accounts)
    absent = sorted(wanted - {provider.name for provider in catalogue.providers})
    if not absent:
        return catalogue
    pools = [{"name": name, "kind": "pool", "privacy": "LOCAL"} for name in absent]
    _when_ready(lambda: ray.get(accounts.administer.remote("apply", {"providers": pools})))
    return _catalogue_of(accounts)


def _catalogue_of(accounts: Any) -> Catalogue:
    update = _when_ready(lambda: ray.get(accounts.watch.remote("bootstrap", 0, -1, 0.0)))
    catalogue: Catalogue = update.catalogue
    return catalogue


def _when_ready(call: Callable[[], Any]) -> Any:
    """The accounts actor reads the database first; a Ray error arrives as the error that it carries."""
    deadline = time.monotonic() + READY_WAIT_S
    while True:
        try:
            return call()
        except RayTaskError as error:
            if not isinstance(error.cause, ConnectionError) or time.monotonic() > deadline:
                raise (error.cause if isinstance(error.cause, LogosError) else error) from None
            time.sleep(0.05)
