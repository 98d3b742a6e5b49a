from __future__ import annotations

import sys
from dataclasses import replace

from logos.engines.launch import EngineKind, EngineLaunch, command, environment

VLLM = EngineLaunch(
    engine_id="e1", model="qwen", kind=EngineKind.VLLM, port=8001, log_file="/logs/e1", weights="/w", python="py"
)
SIMULATED = EngineLaunch(engine_id="e2", model="qwen", kind=EngineKind.SIMULATED, port=8002, log_file="/logs/e2")


def test_a_cpu_build_is_started_without_sleep_mode() -> None:
    launch = replace(VLLM, args=("--max-model-len", "1024"), memory_mib=8 * 1024)
    assert " ".join(command(launch)) == (
        "py -m vllm.entrypoints.openai.api_server --model /w --served-model-name qwen "
        "--host 127.0.0.1 --port 8001 --max-model-len 1024"
    )
    assert not launch.can_sleep
    env = environment(launch, {})
    assert env["VLLM_CPU_KVCACHE_SPACE"] == "4"
    assert env["HF_HUB_OFFLINE"] == "1"
    assert "CUDA_VISIBLE_DEVICES" not in env


def test_gpus_bring_sleep_mode_tensor_parallelism_and_a_memory_share() -> None:
    launch = replace(VLLM, gpus=(1, 3), memory_mib=24_000, gpu_memory_mib=16_000)
    line = " ".join(command(launch))
    assert "--enable-sleep-mode --tensor-parallel-size 2 --gpu-memory-utilization 0.7500" in line
    assert launch.can_sleep
    env = environment(launch, {})
    assert env["CUDA_VISIBLE_DEVICES"] == "1,3"
    assert env["VLLM_SERVER_DEV_MODE"] == "1"
    assert "VLLM_CPU_KVCACHE_SPACE" not in env


def test_weights_default_to_the_model_s_name() -> None:
    line = command(replace(VLLM, weights=None))
    assert line[line.index("--model") + 1] == "qwen"


def test_a_simulated_engine_is_known_by_its_module() -> None:
    assert command(SIMULATED) == [
        sys.executable, "-m", "logos.simulation.server", "--model", "qwen", "--host", "127.0.0.1", "--port", "8002",
    ]  # fmt: skip
    assert environment(SIMULATED, {"PYTHONPATH": "/other"}, "/here")["PYTHONPATH"] == "/here"


def test_an_engine_does_not_see_what_is_private_to_the_platform() -> None:
    private = {
        "LOGOS_ROOT_KEY": "k",
        "PROVIDER_API_KEY": "k",
        "RAY_ADDRESS": "a",
        "AZURE_API_KEY": "k",
        "HF_TOKEN": "k",
    }
    env = environment(replace(VLLM, env=(("HF_TOKEN", "its own"),)), {**private, "PATH": "/bin"})
    assert env["PATH"] == "/bin"
    assert {name: value for name, value in env.items() if name in private} == {"HF_TOKEN": "its own"}
    assert env["LOGOS_ENGINE_ID"] == "e1"
