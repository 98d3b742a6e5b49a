"""One platform, one scripted upstream for all acceptance tests; each test has keys and models of its own."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from logos.config import DEFAULT_WORLD
from tests.support.logos_up import Platform
from tests.support.upstream import Answer, ScriptedUpstream

# The default world, and a small node in a pool of its own; few replicas, because there may be few cores.
SMALL_POOL = "small"
SMALL_NODE = {
    "name": "small-1",
    "provider": SMALL_POOL,
    "gpus": 1,
    "memory_gib": 20,
    "pace": {"load_s": 1.0, "wake_s": 0.4, "sleep_s": 0.8},
}
CONFIG = {
    "server": {"drain_grace_s": 3.0, "trusted_proxies": ["127.0.0.1"]},
    "gateway": {"replicas_min": 2, "replicas_max": 2},
    "scheduler": {"protected_s": 1.0},
    **DEFAULT_WORLD,
    "nodes": [*DEFAULT_WORLD["nodes"], SMALL_NODE],
}
UPSTREAM_KEY = "sk-upstream-secret-0123456789"
PRICES = {"prompt": 1.0, "completion": 2.0}


@pytest.fixture(scope="session")
def platform() -> Iterator[Platform]:
    """Started by the first test that wants it, stopped after the last, checked to leave nothing behind."""
    with Platform(CONFIG) as running:
        print(f"\nplatform ready after {running.ready_after_s:.1f} s")
        yield running


@pytest.fixture(scope="session")
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as running:
        yield running


_numbers = itertools.count(1)


@dataclass
class World:
    """What one test declares. Names are its own, so nothing here meets what another test does."""

    platform: Platform
    upstream: ScriptedUpstream
    name: str
    keys: list[str] = field(default_factory=list)

    def unique(self, what: str) -> str:
        return f"{self.name}-{what}-{next(_numbers)}"

    def key(self, **declared: Any) -> str:
        """A new key's secret."""
        name = self.unique("key")
        self.keys.append(name)
        return self.platform.create_key(name, **declared)

    def model(self, answer: Answer | None = None, *, priced: bool = False, copies: int = 1, **endpoint: Any) -> str:
        """A model at the scripted upstream, which names it the same. `copies`: at so many providers."""
        name = self.unique("model")
        providers = [f"{name}-provider-{number}" for number in range(copies)]
        reached = {"base_url": self.upstream.base_url, "api_key": UPSTREAM_KEY, "privacy": "LOCAL"}
        endpoints = [{"provider": each, "max_parallel": 256, **endpoint} for each in providers]
        self.platform.apply(
            {
                "providers": [{"name": each, **reached} for each in providers],
                "models": [{"name": name, "endpoints": endpoints}],
                "prices": [{"model": name, "currency": "EUR", "per_million": PRICES}] if priced else [],
            }
        )
        if answer is not None:
            self.upstream.answer(name, answer)
        return name

    def client(self, key: str | None = None, **options: Any) -> httpx.Client:
        return self.platform.client(key or self.key(), **options)

    def log(self, columns: str, key_name: str | None = None) -> list[tuple[Any, ...]]:
        """The rows of a key of this test (the last one made), in the order of the requests: two gateways may have
        served them, and each ships its records in its own time."""
        query = f"""
            SELECT {columns} FROM log_entry JOIN api_keys ON api_keys.id = log_entry.api_key_id
            WHERE api_keys.name = %s ORDER BY log_entry.timestamp_request, log_entry.id
        """
        return self.platform.rows(query, key_name or self.keys[-1])


@pytest.fixture
def world(platform: Platform, upstream: ScriptedUpstream, request: pytest.FixtureRequest) -> World:
    short = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[:40].strip("-")
    return World(platform, upstream, short)
