"""A Ray cluster of one machine for tests, started as an operator does, in the foreground of a process of its own.

`ray stop` ends every Ray of the machine, so this one is ended by its pids.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import psutil

from tests.support.vllm_server import free_port

READY_S_MAX = 60.0
END_S_MAX = 20.0
BESIDES_ACTORS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent", "ray::IDLE")


def environment_for_logos() -> dict[str, str]:
    """What `python -m deployments.ray_environment` tells an operator to set."""
    command = [sys.executable, "-m", "deployments.ray_environment"]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return dict(word.split("=", 1) for word in shlex.split(told) if word != "export")


class RayCluster:
    """`with RayCluster(environment) as cluster:`; `cluster.address` is where it listens."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", **environment}
        self._directory = tempfile.TemporaryDirectory(prefix="rt", ignore_cleanup_errors=True)
        self.address = f"127.0.0.1:{free_port()}"
        self._process: subprocess.Popen[bytes] | None = None
        self._seen: list[psutil.Process] = []

    def __enter__(self) -> Self:
        output = Path(self._directory.name) / "output"
        command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--num-cpus=4"]
        command += [f"--port={self.address.rpartition(':')[2]}", f"--dashboard-port={free_port()}"]
        command += [f"--ray-client-server-port={free_port()}", f"--dashboard-agent-listen-port={free_port()}"]
        command += ["--object-store-memory=100000000", f"--temp-dir={self._directory.name}"]
        with output.open("wb") as sink:
            self._process = subprocess.Popen(
                command, env=self._environment, stdout=sink, stderr=subprocess.STDOUT, start_new_session=True
            )
        deadline = time.monotonic() + READY_S_MAX
        while b"runtime started" not in output.read_bytes():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                raise AssertionError(output.read_text())
            time.sleep(0.1)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self.actors()
        self._process.terminate()
        _, stubborn = psutil.wait_procs(self._seen, timeout=END_S_MAX)
        for process in stubborn:
            process.kill()
        self._process.wait(END_S_MAX)
        self._directory.cleanup()

    @property
    def lives(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def actors(self) -> list[str]:
        """What runs in it besides Ray's own processes."""
        assert self._process is not None
        self._seen = psutil.Process(self._process.pid).children(recursive=True) if self.lives else []
        names = [" ".join(process.cmdline()) for process in self._seen if process.is_running()]
        return [name for name in names if name.startswith("ray::") and not name.startswith(BESIDES_ACTORS)]
