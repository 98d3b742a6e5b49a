"""The flags of `python -m logos.simulation.server`, parsed once. Where vLLM has the flag, it has vLLM's name."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from logos.simulation import lengths
from logos.simulation.engine import EnginePace, TransitionTimes
from logos.simulation.server.live import LiveSettings

_KV_CACHE_TOKENS = 65_536


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Everything that one simulated engine needs to know."""

    model: str
    host: str
    port: int
    live: LiveSettings
    context_tokens: int
    embedding_dimensions: int
    seed: int
    output_shares: tuple[float, ...]
    shows_cached_tokens: bool
    neighbourhood: Path | None = None  # the folder that engines on the same GPUs share
    gpus: tuple[int, ...] = ()
    ignored: tuple[str, ...] = ()  # flags of a real vLLM, say, that mean nothing here


def parse(arguments: Sequence[str] | None = None) -> ServerSettings:
    """Settings from the command line; ends the process with code 2 and one line where they do not fit."""
    parser = _parser()
    given, ignored = parser.parse_known_args(arguments)
    kv_cache_tokens = given.kv_cache_tokens or max(_KV_CACHE_TOKENS, given.max_model_len or 0)
    context_tokens = given.max_model_len or min(32_768, kv_cache_tokens)
    if kv_cache_tokens < context_tokens:
        parser.error(
            f"--max-model-len {context_tokens} is larger than the KV cache of {kv_cache_tokens} tokens: "
            "raise --kv-cache-tokens or lower --max-model-len"
        )
    if given.time_scale < 0:
        parser.error("--time-scale must not be negative")
    try:
        pace = EnginePace(
            step_base_s=given.step_base_ms / 1000,
            step_per_sequence_s=given.step_per_sequence_ms / 1000,
            prefill_per_token_s=given.prefill_per_token_ms / 1000,
            max_sequences=given.max_num_seqs,
            kv_cache_tokens=kv_cache_tokens,
            prefill_chunk_tokens=given.max_num_batched_tokens,
            slowdown=given.slowdown,
        )
        times = TransitionTimes(load_s=given.load_s, wake_s=given.wake_s, sleep_s=given.sleep_s)
    except ValueError as error:
        parser.error(str(error))
    return ServerSettings(
        model=given.served_model_name or given.model,
        host=given.host,
        port=given.port,
        live=LiveSettings(pace, times, given.time_scale),
        context_tokens=context_tokens,
        embedding_dimensions=given.embedding_dimensions,
        seed=given.seed,
        output_shares=given.output_shares,
        shows_cached_tokens=given.enable_prompt_tokens_details,
        neighbourhood=given.neighbourhood,
        gpus=given.gpus,
        ignored=tuple(ignored),
    )


def _parser() -> argparse.ArgumentParser:
    pace, times = EnginePace(), TransitionTimes()
    parser = argparse.ArgumentParser(
        prog="python -m logos.simulation.server",
        description="A stand-in for a vLLM server: its routes and shapes, paced by an engine model.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--model", required=True, help="name that requests call it by")
    add("--served-model-name", help="another name for it, as in vLLM")
    add("--host", default="127.0.0.1")
    add("--port", type=int, default=0, help="0 takes a free one; the first line of output names it")
    add("--load-s", type=float, default=times.load_s, help="seconds until /health answers 200")
    add("--wake-s", type=float, default=times.wake_s)
    add("--sleep-s", type=float, default=times.sleep_s)
    add("--step-base-ms", type=float, default=pace.step_base_s * 1000, help="every step costs this")
    add("--step-per-sequence-ms", type=float, default=pace.step_per_sequence_s * 1000, help="and this per sequence")
    add("--prefill-per-token-ms", type=float, default=pace.prefill_per_token_s * 1000, help="and this per prompt token")
    add("--max-num-seqs", type=int, default=pace.max_sequences, help="largest batch")
    add("--max-num-batched-tokens", type=int, default=pace.prefill_chunk_tokens, help="prompt tokens in one step")
    add("--kv-cache-tokens", type=_positive, help=f"default {_KV_CACHE_TOKENS}, at least --max-model-len")
    add("--slowdown", type=float, default=pace.slowdown, help="of a step while a neighbour on the same GPUs is busy")
    add("--neighbourhood", type=Path, metavar="FOLDER", help="where engines of the same machine tell who is busy")
    add("--gpus", type=_indices, default=(), metavar="I,J,...", help="the GPUs that it is taken to run on")
    add("--max-model-len", type=_positive, help="context length in tokens (default 32768)")
    add("--embedding-dimensions", type=_positive, default=256)
    add("--output-shares", type=_shares, default=lengths.DEFAULT_SHARES, metavar="Q0,Q1,...",
        help="equally spaced quantiles of an answer's length, as a share of max_tokens")  # fmt: skip
    add("--enable-prompt-tokens-details", action="store_true", help="report cached_tokens in usage, as in vLLM")
    add("--seed", type=int, default=0)
    add("--time-scale", type=float, default=1.0, help="real seconds per simulated second; 0 takes no time at all")
    return parser


def _positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def _indices(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(",") if part)


def _shares(text: str) -> tuple[float, ...]:
    shares = tuple(float(part) for part in text.split(","))
    if len(shares) < 2 or any(not 0 <= share <= 1 for share in shares) or list(shares) != sorted(shares):
        raise argparse.ArgumentTypeError("give at least two rising numbers from 0 to 1")
    return shares
