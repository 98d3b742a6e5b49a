"""An engine's own figures, read from the Prometheus text of its /metrics. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineFigures:
    """What vLLM says of itself; names without a value in the text are 0. Counters are since its start."""

    running: int = 0
    waiting: int = 0
    kv_usage: float = 0.0  # 0 to 1
    prompt_tokens: int = 0
    generation_tokens: int = 0
    preemptions: int = 0
    prefix_queried_tokens: int = 0
    prefix_hit_tokens: int = 0


_FIELDS = {
    "vllm:num_requests_running": "running",
    "vllm:num_requests_waiting": "waiting",
    "vllm:kv_cache_usage_perc": "kv_usage",
    "vllm:prompt_tokens_total": "prompt_tokens",
    "vllm:generation_tokens_total": "generation_tokens",
    "vllm:num_preemptions_total": "preemptions",
    "vllm:prefix_cache_queries_total": "prefix_queried_tokens",
    "vllm:prefix_cache_hits_total": "prefix_hit_tokens",
}


def parse_figures(text: str) -> EngineFigures:
    """Figures from Prometheus text. Several ranks of one engine are added up, their KV use is averaged.

    Raises ValueError if the text holds none of the expected names: then this is not a vLLM's /metrics.
    """
    values: dict[str, list[float]] = {}
    for line in text.splitlines():
        if not line.startswith("vllm:"):
            continue
        name = line[: line.index("{")] if "{" in line else line.partition(" ")[0]
        if (field := _FIELDS.get(name)) is not None:
            # Label values may hold spaces; what follows the labels is the value.
            values.setdefault(field, []).append(float(line.rpartition("}")[2].split()[-1]))
    if not values:
        raise ValueError("no figures of a vLLM engine in this text")
    kv_usage = values.pop("kv_usage", [0.0])
    return EngineFigures(
        kv_usage=sum(kv_usage) / len(kv_usage), **{field: int(sum(each)) for field, each in values.items()}
    )
