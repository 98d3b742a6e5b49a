"""What a simulated run leaves behind: the story of each request, and the changes of state of each engine.

Values only; figures of merit are worked out in `figures`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from logos.billing.prices import Tariff
from logos.domain.lifecycle import EngineState
from logos.simulation.arrivals import Arrival


class SimulationFault(AssertionError):
    """The scheduler told the world to do what cannot be done, or lost a request: a defect, not an outcome."""


class Status(enum.StrEnum):
    """How a request ended; OPEN while it has not."""

    OPEN = "open"
    OK = "ok"
    REJECTED = "rejected"
    FAILED = "failed"
    LEFT = "left"


@dataclass(slots=True, eq=False)
class Outcome:
    """The story of one request. Times in seconds since the start of the run; None: it never got there.

    `dispatched_at`, `endpoint_id` and `engine_id` are those of the last attempt.
    """

    arrival: Arrival
    status: Status = Status.OPEN
    model: str = ""
    endpoint_id: int | None = None
    engine_id: str | None = None
    tier: str = ""
    dispatched_at: float | None = None
    first_token_at: float | None = None
    ended_at: float | None = None
    output_tokens: int = 0
    attempts: int = 1
    predicted_ttft_s: float | None = None  # from arrival
    load_s: float | None = None
    slo_ttft_s: float | None = None  # its deadline for the first token, ...
    slo_total_s: float | None = None  # ... and for the end, from arrival; None: nothing was promised
    reason: str = ""
    hedge: Outcome | None = field(default=None, repr=False)  # its second place, ...
    hedge_of: Outcome | None = field(default=None, repr=False)  # ... which has a story of its own
    hedge_winner: str | None = None  # first, second, none; None: it had one place at a time

    @property
    def ttft_s(self) -> float | None:
        """From arrival to the first token."""
        return None if self.first_token_at is None else self.first_token_at - self.arrival.at

    @property
    def latency_s(self) -> float | None:
        """From arrival to the end, of what was answered."""
        return self.ended_at - self.arrival.at if self.status is Status.OK and self.ended_at is not None else None

    @property
    def queue_wait_s(self) -> float | None:
        """From arrival until it was sent to where it ran, or until it was turned away."""
        until = self.dispatched_at if self.dispatched_at is not None else self.ended_at
        return None if until is None else until - self.arrival.at

    @property
    def tpot_s(self) -> float | None:
        """Seconds per token after the first, of answers with at least two."""
        if self.status is not Status.OK or self.output_tokens < 2:
            return None
        assert self.ended_at is not None
        assert self.first_token_at is not None
        return (self.ended_at - self.first_token_at) / (self.output_tokens - 1)


@dataclass(frozen=True, slots=True)
class Transition:
    """One change of state of one engine, from when the node began it until it was over."""

    began_at: float
    ended_at: float
    node_id: str
    engine_id: str
    model: str
    gpus: int
    before: EngineState
    after: EngineState
    reason: str = ""

    @property
    def seconds(self) -> float:
        return self.ended_at - self.began_at


@dataclass(slots=True)
class Run:
    """One workload under one policy, with one seed."""

    world: str
    policy: str
    seed: int
    outcomes: list[Outcome]
    transitions: list[Transition] = field(default_factory=list)
    ended_at: float = 0.0
    gpus: int = 0
    gpu_busy_s: float = 0.0  # GPU seconds in which an engine was computing
    events: int = 0  # that the scheduler was told
    commands: int = 0  # that it gave
    tariffs: Mapping[int, Tariff] = field(default_factory=dict)  # by endpoint id; what is not there is free
    remote_ids: frozenset[int] = frozenset()  # of endpoints
