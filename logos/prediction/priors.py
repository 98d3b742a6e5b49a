"""What is expected of a model that nobody has measured yet: pace, transitions and answers, from its size alone.

Figures published for other machines (scheduling.md sections 5 and 6). A handful of observations outweighs them.
"""

from __future__ import annotations

from dataclasses import dataclass

from logos.domain.nouns import EngineSpec
from logos.prediction.service import Transition
from logos.prediction.spans import Span

MIB_PER_GIB = 1024

# A 7B model that takes 16.8 GB with its KV cache on two 16 GB GPUs: 27 ms + 1.5 ms a sequence, 0.9 ms a prompt token.
# Others are scaled by the square root of their memory, because most of it may be KV cache.
REFERENCE_GIB = 7.8
REFERENCE_STEP_S = 0.027
REFERENCE_SEQUENCE_S = 0.0015
REFERENCE_PROMPT_TOKEN_S = 0.0009

# How much longer everything takes while another engine on the same GPUs is busy.
SLOWDOWN = 1.25

REMOTE_FIRST_S = 0.3
REMOTE_TOKEN_S = 0.02
REMOTE_PROMPT_TOKEN_S = 0.0001

# coefficient * GiB of weights per GPU ^ exponent: least squares, in logarithms, over the five models measured there
# (0.6B to 235B). Off by a factor of up to 1.6 for wake and load; sleeping was seen to take from half to eight times it.
# What ending a process takes is not in the table: 2 s, whatever its size.
TRANSITIONS: dict[Transition, tuple[float, float]] = {
    Transition.LOAD: (24.5, 0.28),
    Transition.WAKE: (0.12, 0.90),
    Transition.SLEEP: (0.26, 0.77),
    Transition.STOP: (2.0, 0.0),
}
TRANSITION_P90 = 1.6  # of the median, before anything was seen

# Deciles of the share of max_tokens that answers used (three models, averaged), and what it is of if none is named.
ANSWER_SHARES = (0.13, 0.25, 0.37, 0.50, 0.60, 0.68, 0.78, 0.90, 0.99, 1.0, 1.0)
ANSWER_TOKENS_MAX = 400


@dataclass(frozen=True, slots=True)
class Size:
    """How big an engine is, per GPU; 0 for a remote endpoint."""

    memory_gib: float = 0.0  # weights and KV cache
    weights_gib: float = 0.0

    @classmethod
    def of(cls, spec: EngineSpec | None) -> Size:
        """From what is declared. Host RAM stands for the weights, as that is what sleeps there."""
        if spec is None:
            return cls()
        per_gpu = MIB_PER_GIB * max(spec.gpus, 1)
        return cls(max(spec.memory_mib, 0) / per_gpu, max(spec.host_mib, 0) / per_gpu)


def transition_s(size: Size, transition: Transition) -> Span:
    """Seconds that a transition takes an engine of this size."""
    coefficient, exponent = TRANSITIONS[transition]
    p50 = coefficient * max(size.weights_gib, 1.0) ** exponent
    return Span(p50, p50 * TRANSITION_P90)


def pace(size: Size) -> tuple[float, float, float]:
    """Seconds of an engine's step, more for each sequence in it, and more for each prompt token in it."""
    if not size.memory_gib:
        return REMOTE_FIRST_S, 0.0, REMOTE_PROMPT_TOKEN_S
    scale = (size.memory_gib / REFERENCE_GIB) ** 0.5
    return REFERENCE_STEP_S * scale, REFERENCE_SEQUENCE_S * scale, REFERENCE_PROMPT_TOKEN_S * scale
