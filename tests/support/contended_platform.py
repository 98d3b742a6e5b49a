"""A small platform in which two of three models fit, and a crowd that asks for all of them.

    python -m tests.support.contended_platform DIR     writes the log and the journal that it left, as CSV

What the notebook about logs shows where no database is named was made by that command.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx

from logos.config import Settings
from logos.scheduling.settings import SchedulerSettings
from logos.simulation.arrivals import Arrival
from logos.simulation.traffic import drawn
from logos.workload.generate import Arrivals, Traffic
from tests.support.in_process import InProcessPlatform, in_process_platform

MODELS = ("coder-14b", "coder-7b", "mistral-7b")
KEYS = ("search", "tutor", "nightly")
SLO_TTFT_MS = 3000
PACE = {"load_s": 1.0, "wake_s": 0.15, "sleep_s": 0.5, "step_base_ms": 4.0, "step_per_sequence_ms": 0.2}


def secret(name: str) -> str:
    return f"a-key-of-the-tests-{name}-0123456789abcdef0123456789"


def settings() -> Settings:
    """The 14B fills the GPU; the two others fit beside each other."""
    return Settings.model_validate(
        {
            "providers": [{"name": "local", "kind": "pool", "privacy": "LOCAL"}],
            "nodes": [{"name": "node", "gpus": 1, "memory_gib": 24, "host_memory_gib": 64, "pace": PACE}],
            "models": [
                {"name": name, "engine": {"gpus": 1, "memory_gib": 20 if "14b" in name else 11, "max_parallel": 48}}
                for name in MODELS
            ],
            "keys": [{"name": name, "key": secret(name)} for name in KEYS],
        }
    )


def crowd(duration_s: float, rate_per_s: float, seed: int = 1) -> list[Arrival]:
    """All three models are asked for evenly, in bursts, by all three keys."""
    traffic = Traffic(Arrivals.BURSTY, rate_per_s, duration_s, seed, MODELS, burstiness=8.0, output_tokens=(20, 120))
    return drawn(traffic, keys=len(KEYS))


async def ask_everything(platform: InProcessPlatform, arrivals: list[Arrival]) -> None:
    """Sends each at its time and waits for all answers, then until all of it is on record."""
    async with httpx.AsyncClient(base_url=platform.base_url, timeout=60, trust_env=False) as client:
        began = asyncio.get_running_loop().time()
        await asyncio.gather(*(_ask(client, each, began) for each in arrivals))
    while any(not gateway.placement.idle or gateway.outbox.records for gateway in platform.gateways):
        await asyncio.sleep(0.02)


async def _ask(client: httpx.AsyncClient, arrival: Arrival, began: float) -> None:
    await asyncio.sleep(began + arrival.at - asyncio.get_running_loop().time())
    body: dict[str, Any] = {
        "model": arrival.models[0][0],
        "messages": [{"role": "user", "content": "word " * arrival.prompt_tokens}],
        "max_tokens": arrival.output_tokens_max,
        "stream": True,
    }
    headers = {"authorization": f"Bearer {secret(KEYS[arrival.key_id - 1])}", "x-logos-slo-ttft-ms": str(SLO_TTFT_MS)}
    async with client.stream("POST", "/v1/chat/completions", json=body, headers=headers) as answer:
        await answer.aread()


async def contend(database_url: str, directory: Path, arrivals: list[Arrival]) -> None:
    """A platform's life from its start until the last record is safe."""
    scheduling = SchedulerSettings(policy="slo")
    async with in_process_platform(
        database_url, directory, settings=settings(), scheduler_settings=scheduling
    ) as platform:
        await ask_everything(platform, arrivals)


def main(directory: Path) -> None:
    """Half a minute of such a life, as files."""
    from logos.analysis.logged import read_database, write_files
    from tests.support.postgres import Server

    with tempfile.TemporaryDirectory(prefix="logos-contended-", ignore_cleanup_errors=True) as scratch:
        server = Server(Path(scratch) / "postgres")
        try:
            with server.fresh_database() as url:
                asyncio.run(contend(url, Path(scratch) / "platform", crowd(30.0, 6.0)))
                write_files(read_database(url), directory)
        finally:
            server.postgres.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
