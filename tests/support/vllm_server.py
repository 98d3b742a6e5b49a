"""Starts a real vLLM on the CPU with the tiny model, and stops exactly what it started.

`make test-vllm` names the Python that has vLLM in LOGOS_VLLM_PYTHON. A test module that wants the server
imports the fixture:

    from tests.support.vllm_server import VllmServer, vllm_server
"""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

SERVED_NAME = "tiny"
CONTEXT_TOKENS = 8192
START_S_MAX = 300.0
STOP_S_MAX = 20.0

WRITER = Path(__file__).with_name("tiny_model.py")
SETTINGS = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    # vLLM's default, a worker process beside the engine process, has both spin on sched_yield: on two cores
    # they starve vLLM's own HTTP server, which then answers nothing until the stream is over. One process
    # computes here instead, on one thread; it is ready sooner, too.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
}
FLAGS = [
    "--distributed-executor-backend",
    "uni",
    "--enforce-eager",
    "--max-model-len",
    str(CONTEXT_TOKENS),
]
CHAT_FLAGS = ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
EMBEDDING_FLAGS = ["--runner", "pooling", "--convert", "embed"]


@dataclass(frozen=True, slots=True)
class VllmServer:
    """A running vLLM: where it listens, what it serves, what it has written."""

    base_url: str
    model: str
    process: subprocess.Popen[bytes]
    log: Path

    def metric(self, name: str) -> float:
        """The sum of a metric's samples, as `vllm:num_requests_running`."""
        lines = httpx.get(f"{self.base_url}/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name}{{", f"{name} ")))


@pytest.fixture(scope="session")
def vllm_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    """One vLLM for all tests that want one; skipped where LOGOS_VLLM_PYTHON names no Python."""
    python = os.environ.get("LOGOS_VLLM_PYTHON")
    if not python:
        pytest.skip("LOGOS_VLLM_PYTHON names no Python with vLLM (make test-vllm sets it)")
    with running_vllm(Path(python), tmp_path_factory.mktemp("vllm") / "vllm.log") as server:
        yield server


@contextmanager
def running_vllm(
    python: Path, log: Path, *, served_name: str = SERVED_NAME, flags: Sequence[str] = CHAT_FLAGS
) -> Iterator[VllmServer]:
    """A vLLM that answers /health on a free loopback port; ended, children included, on leaving."""
    port = free_port()
    command = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(tiny_model(python))]
    command += ["--served-model-name", served_name, "--host", "127.0.0.1", "--port", str(port), *FLAGS, *flags]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env={**os.environ, **SETTINGS},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server = VllmServer(f"http://127.0.0.1:{port}", served_name, process, log)
    try:
        wait_until_healthy(server)
        yield server
    finally:
        stop_group(process)


def tiny_model(python: Path) -> Path:
    """The model's folder, written at first use beside the environment that reads it."""
    version = hashlib.sha256(WRITER.read_bytes()).hexdigest()[:12]
    directory = python.parent.parent / "share" / f"tiny-model-{version}"
    if not directory.exists():
        directory.parent.mkdir(parents=True, exist_ok=True)
        command = [str(python), str(WRITER), str(directory)]
        done = subprocess.run(command, env={**os.environ, **SETTINGS}, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return directory


def wait_until_healthy(server: VllmServer) -> None:
    """Returns when /health answers 200; fails with the log's end when the process ends or takes too long."""
    deadline = time.monotonic() + START_S_MAX
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            pytest.fail(f"vLLM ended with {server.process.returncode}:\n{tail(server.log)}")
        with suppress(httpx.TransportError):
            if httpx.get(f"{server.base_url}/health", timeout=2).status_code == 200:
                return
        time.sleep(0.5)
    pytest.fail(f"vLLM was not ready after {START_S_MAX:.0f} s:\n{tail(server.log)}")


def stop_group(process: subprocess.Popen[bytes]) -> None:
    """Ends the process and every child in its group; the group is its own session, so nothing else."""
    for sent in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, sent)
        deadline = time.monotonic() + STOP_S_MAX
        while time.monotonic() < deadline:
            process.poll()  # a zombie still counts as a member of its group
            if not group_exists(process.pid):
                return
            time.sleep(0.1)
    pytest.fail(f"process group {process.pid} outlived SIGKILL")


def group_exists(group: int) -> bool:
    """Whether any process of the group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def free_port() -> int:
    """A loopback port that nobody listens on at this moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def tail(log: Path, lines: int = 30) -> str:
    """The end of a log, for a failure's message."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
