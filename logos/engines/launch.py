"""What an engine is started with, and the command line and environment that follow from it.

Pure: nothing is started, read or looked up here.
"""

from __future__ import annotations

import enum
import sys
from collections.abc import Mapping
from dataclasses import dataclass

SIMULATED_MODULE = "logos.simulation.server"
VLLM_MODULE = "vllm.entrypoints.openai.api_server"
MARK_NAME = "LOGOS_ENGINE_ID"  # in the environment of an engine and of all that it starts

# An engine needs none of the platform's settings, and must not see its secrets.
_PRIVATE_PREFIXES = ("LOGOS_", "PROVIDER_", "RAY_")
_PRIVATE_SUFFIXES = ("_API_KEY", "_SECRET", "_PASSWORD", "_TOKEN")
_MIB_PER_GIB = 1024


class EngineKind(enum.StrEnum):
    """What kind of process an engine is."""

    VLLM = "vllm"
    SIMULATED = "simulated"


@dataclass(frozen=True, slots=True)
class EngineLaunch:
    """One engine process to be. Without `gpus`, vLLM is its CPU build. `args` are added as they are, at the end.

    `memory_mib` is the budget over all `gpus` together (host memory for a CPU build); `gpu_memory_mib` is what one
    of these GPUs has in all. vLLM gets its share from the two, and its own default when either is unknown (0).
    """

    engine_id: str
    model: str
    kind: EngineKind
    port: int
    log_file: str
    endpoint_id: int | None = None
    host: str = "127.0.0.1"
    weights: str | None = None  # a path, or a name that vLLM knows
    gpus: tuple[int, ...] = ()
    memory_mib: int = 0
    gpu_memory_mib: int = 0
    args: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    python: str = sys.executable
    sleeps: bool = True  # whether it shall have a sleep mode, where its kind can

    @property
    def base_url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def can_sleep(self) -> bool:
        """vLLM's sleep mode needs a GPU."""
        return self.sleeps and (self.kind is EngineKind.SIMULATED or bool(self.gpus))


def command(launch: EngineLaunch) -> list[str]:
    """The command line of the engine."""
    if launch.kind is EngineKind.SIMULATED:
        own = ["--model", launch.model]
        module = SIMULATED_MODULE
    else:
        own = ["--model", launch.weights or launch.model, "--served-model-name", launch.model]
        own += _vllm_gpu_flags(launch)
        module = VLLM_MODULE
    return [launch.python, "-m", module, *own, "--host", launch.host, "--port", str(launch.port), *launch.args]


def _vllm_gpu_flags(launch: EngineLaunch) -> list[str]:
    if not launch.gpus:
        return []
    flags = ["--enable-sleep-mode"] if launch.can_sleep else []
    if len(launch.gpus) > 1:
        flags += ["--tensor-parallel-size", str(len(launch.gpus))]
    if launch.memory_mib and launch.gpu_memory_mib:
        share = launch.memory_mib / len(launch.gpus) / launch.gpu_memory_mib
        flags += ["--gpu-memory-utilization", f"{min(share, 1.0):.4f}"]
    return flags


def environment(launch: EngineLaunch, inherited: Mapping[str, str], import_path: str | None = None) -> dict[str, str]:
    """The environment of the engine: `inherited` without what is private to the platform, and the engine's own.

    `import_path` is the folder that holds the `logos` package, so that a simulated engine is found from anywhere.
    """
    env = {name: value for name, value in inherited.items() if not _is_private(name)}
    if launch.kind is EngineKind.SIMULATED:
        if import_path:
            env["PYTHONPATH"] = import_path
    else:
        env |= {"HF_HUB_OFFLINE": "1", "VLLM_SERVER_DEV_MODE": "1", "VLLM_NO_USAGE_STATS": "1"}
        if launch.gpus:
            env["CUDA_VISIBLE_DEVICES"] = ",".join(str(gpu) for gpu in launch.gpus)
        else:
            # Half of the budget for the KV cache, half for weights and the rest.
            env["VLLM_CPU_KVCACHE_SPACE"] = str(max(1, launch.memory_mib // (2 * _MIB_PER_GIB)))
    return env | dict(launch.env) | {MARK_NAME: launch.engine_id}


def _is_private(name: str) -> bool:
    return name.startswith(_PRIVATE_PREFIXES) or name.endswith(_PRIVATE_SUFFIXES)
