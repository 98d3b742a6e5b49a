"""Who asks for what, when: the workload of a simulated run, and the lengths that its answers would have.

Lengths are drawn once for a workload and a seed, so that every policy meets the same ones. Where workloads come from
(CSV files, generators) must not be known here.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from logos.domain.nouns import Mode, Priority


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request of a simulated client, `at` seconds after the start.

    `models` are the names that may serve it with their weights, best first. `output_tokens` None: drawn from the
    model's table as a share of `output_tokens_max`. `patience_s`: the client leaves so long after it came.
    `shared` names the segments at the prompt's beginning that other prompts may have too, each (name, tokens): a system
    prompt, then a conversation. `prefix` and `prefix_tokens` are what the gateway would tell the scheduler of them.
    """

    request_id: str
    at: float
    models: tuple[tuple[str, float], ...]
    prompt_tokens: int
    output_tokens_max: int | None = None
    output_tokens: int | None = None
    key_id: int = 1
    team_id: int | None = None
    priority: Priority = Priority.MID
    mode: Mode = Mode.INTERACTIVE
    slo_ttft_s: float | None = None
    slo_total_s: float | None = None
    patience_s: float | None = None
    prefix: int | None = None
    prefix_tokens: int = 0
    shared: tuple[tuple[int, int], ...] = ()

    @property
    def context_tokens(self) -> int:
        """What its prompt and the longest answer that it allows need of a model's context."""
        return self.prompt_tokens + (self.output_tokens_max or 0)


@dataclass(frozen=True, slots=True)
class Luck:
    """The uniform draws (0 to 1) that belong to one request, whatever is done with it."""

    length: float
    latency: float
    second: float  # the latency of its second place, if it is given one


def draw(workload: Sequence[Arrival], seed: int) -> list[Luck]:
    """The luck of each request, in the order of the workload."""
    chance, of_seconds = random.Random(seed), random.Random(f"second places {seed}")
    return [Luck(chance.random(), chance.random(), of_seconds.random()) for _ in workload]
