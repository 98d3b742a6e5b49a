"""What the scheduler's process counts of engines: how many are in which state, who changed places and for how long.

Pushed to the ledger like a gateway's figures (`metrics`). Label values are names from the catalogue and states; nothing
is measured here.
"""

from __future__ import annotations

from collections import Counter as Count
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge

from logos.telemetry.metrics import snapshot_of

SWAPPED_IN = frozenset({"load", "wake"})


class EngineInstruments:
    """Counters since this start of the scheduler."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry(auto_describe=False)
        self._engines = Gauge("logos_engines", "Engines, by state.", ["model", "state"], registry=registry)
        self._swaps = Counter(
            "logos_swaps", "Engines that were brought in, by how.", ["model", "transition"], registry=registry
        )
        self._seconds = Counter(
            "logos_swap_seconds", "What transitions of engines took.", ["model", "transition"], registry=registry
        )

    def transition(self, model: str, transition: str, seconds: float) -> None:
        """One has ended well: load, wake, sleep or stop."""
        if transition in SWAPPED_IN:
            self._swaps.labels(model, transition).inc()
        self._seconds.labels(model, transition).inc(max(seconds, 0.0))

    def states(self, engines: Iterable[tuple[str, str]]) -> None:
        """The (model, state) of every engine there is now."""
        self._engines.clear()
        for (model, state), number in Count(engines).items():
            self._engines.labels(model, state).set(number)

    def snapshot(self) -> bytes:
        """Everything counted so far, for Aggregate.push."""
        return snapshot_of(self._registry)
