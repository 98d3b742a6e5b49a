"""What can be set about scheduling: one frozen value, part of each journal's opening.

Defaults only; reading a config file happens in `logos.config`. Constants of the reference's formulas are not settings:
they stand in `policies`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from logos.domain.errors import InvalidDeclaration
from logos.domain.nouns import Mode, Priority

VALUE_MAX = 1e12
# What is waited for or looked at again and again: without a pause time would stand still.
PAUSE_S_MIN = 0.001
PAUSES = frozenset({
    "stop_timeout_s", "load_timeout_s", "sleep_timeout_s", "load_backoff_s", "circuit_backoff_s",
    "request_nodes_interval_s", "swap_review_s",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class SchedulerSettings:
    """Everything the core can be told apart from events. Times in seconds, rates per 60 s."""

    policy: str = "ettft"

    # Queueing. A request is overtaken by at most so many later arrivals at its endpoint.
    queue_length_max: int = 20_000
    overtakes_high: int = 8
    overtakes_mid: int = 32
    overtakes_low: int = 128
    overtakes_batch_factor: int = 4

    # Leases. The time to live exceeds the restart of the scheduler; the grace exceeds a gateway's reporting interval.
    # With a time to live of 0 none are granted.
    lease_ttl_s: float = 15.0
    lease_grace_s: float = 2.0

    # After a restart nothing is placed for so long, until gateways and nodes have introduced themselves again: what
    # they hold must be known before anything is given away. 0 at a first start.
    reconvene_s: float = 0.0

    # How long a request may wait for its endpoints to become known: gateways may hear of a catalogue first.
    catalogue_grace_s: float = 2.0

    # Hedging: at most so many of all requests, as a share of 1, get a second place when their first token is late.
    hedge_share: float = 0.0

    # Health of endpoints.
    circuit_faults: int = 3
    circuit_backoff_s: float = 5.0
    circuit_backoff_max_s: float = 60.0

    # Engines and nodes.
    node_grace_s: float = 10.0  # after the start: how long requests wait for the first node of a pool
    load_timeout_s: float = 600.0
    stop_timeout_s: float = 60.0
    load_tries_max: int = 3
    load_backoff_s: float = 2.0  # doubled after each failed load in a row
    load_cooldown_s: float = 60.0  # after the last try
    sleep_timeout_s: float = 120.0

    # Asking for nodes and giving them back; 0: never. What fits no node that is there asks for one at once, and waits
    # for it only where `node_arrival_s` says that somebody adds nodes.
    request_nodes_after_s: float = 15.0
    request_nodes_interval_s: float = 60.0
    node_arrival_s: float = 0.0  # until a node is there that is asked for; 0: nobody adds any
    release_node_after_s: float = 0.0

    # What the policy `slo` weighs, in seconds of lateness of one request.
    cost_late: float = 1.0
    cost_wait: float = 0.1
    cost_price_s_per_cent: float = 2.0
    cost_quality_s: float = 10.0
    cost_displaced: float = 0.2

    # Swapping (policy `slo`; `marginal_swaps` says what they mean).
    swap_threshold: float = 0.5  # of the number waiting at which a two-sided cycle is best
    swap_linger_max_s: float = 20.0
    swap_wait_max_s: float = 55.0
    swap_review_s: float = 0.5
    idle_in_the_way_s: float = 3.0
    idle_sleep_s: float = 120.0
    protected_s: float = 15.0  # policy `ettft`: an engine that was woken for its queue stays so long

    # Priors, until something has been observed.
    service_prior_s: float = 3.0
    load_prior_s: float = 45.0
    output_prior_tokens: int = 256

    def __post_init__(self) -> None:
        """Raises InvalidDeclaration, which names the setting, for what it cannot be."""
        if not 0.0 <= self.hedge_share <= 1.0:
            raise InvalidDeclaration(f"hedge_share is {self.hedge_share}: choose a share from 0 (off) to 1")
        for name in (each.name for each in fields(self) if each.name != "policy"):
            value, least = getattr(self, name), PAUSE_S_MIN if name in PAUSES else 0
            if not least <= value <= VALUE_MAX:
                raise InvalidDeclaration(f"{name} is {value}: choose a number from {least:g} to {VALUE_MAX:g}")

    def overtakes(self, priority: Priority, mode: Mode) -> int:
        """K(priority, mode): how many later arrivals may be chosen before such a request."""
        if priority >= Priority.HIGH:
            bound = self.overtakes_high
        elif priority >= Priority.MID:
            bound = self.overtakes_mid
        else:
            bound = self.overtakes_low
        return bound if mode is Mode.INTERACTIVE else bound * self.overtakes_batch_factor
