"""`logos up` stops everything it started and nothing else; after a kill -9 the next start cleans up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.logos_up import CHECKOUT, Platform, Seen, wait_for
from tests.support.upstream import ScriptedUpstream, new_marker, streamed

pytestmark = [pytest.mark.ray, pytest.mark.slow]

IDLE_STOP_S_MAX = 15.0


@pytest.fixture
def data_dir() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="lg") as name:
        # As long as people's paths are: sockets in it must not be the limit.
        yield Path(name) / "data-directory-of-a-platform-that-is-stopped"


def names(left: list[Seen]) -> str:
    return ", ".join(f"{seen.pid} {seen.name[:80]}" for seen in left)


@pytest.mark.timeout(300)
def test_stopping_ends_what_was_started_and_nothing_else_also_after_a_kill(
    platform: Platform, data_dir: Path, upstream: ScriptedUpstream
) -> None:
    """One test, because each start takes its time: killed, started again over the leftovers, stopped with SIGTERM."""
    killed = Platform({"nodes": []}, data_dir=data_dir)
    try:
        killed.start()
        assert killed.process is not None
        killed.look()
        killed.process.kill()
        killed.process.wait()
        leftovers = killed.living()

        again = Platform({"nodes": []}, data_dir=data_dir)
        try:
            again.start()
            assert not killed.living(), f"the next start left {names(killed.living())}"
            began = time.monotonic()
            left = again.stop(signal.SIGTERM, IDLE_STOP_S_MAX)
            print(f"\nleft by kill -9: {len(leftovers)}; stopped in {time.monotonic() - began:.1f} s")
            assert not left, names(left)
            assert again.process is not None
            assert again.process.returncode == 0, again.tail()
        finally:
            again.kill_everything()
    finally:
        killed.kill_everything()
    assert platform.get("/health")["status"] == "ok", "the other platform on this machine was harmed"


@pytest.mark.timeout(200)
def test_a_signal_to_the_whole_group_which_ends_ray_first_leaves_nothing_behind(data_dir: Path) -> None:
    """As `timeout`, a terminal or a service manager sends it."""
    platform = Platform({"nodes": []}, data_dir=data_dir)
    try:
        platform.start()
        assert platform.process is not None
        platform.look()
        began = time.monotonic()
        os.killpg(platform.process.pid, signal.SIGTERM)
        platform.process.wait(IDLE_STOP_S_MAX)
        left = platform.stop()
        print(f"\nended {time.monotonic() - began:.1f} s after the signal")
        assert not left, names(left)
        assert platform.process.returncode == 0, platform.tail()
    finally:
        platform.kill_everything()


@pytest.mark.timeout(200)
def test_running_streams_get_their_grace(data_dir: Path, upstream: ScriptedUpstream) -> None:
    model = f"grace-{new_marker()}"
    upstream.answer(model, streamed(["w "] * 40, pace_s=0.05))
    config = {
        "server": {"drain_grace_s": 8.0},
        "nodes": [],
        "providers": [{"name": "scripted", "base_url": upstream.base_url, "privacy": "LOCAL"}],
        "models": [{"name": model, "endpoints": [{"provider": "scripted"}]}],
    }
    platform = Platform(config, data_dir=data_dir)
    lines: list[str] = []
    said: list[int] = []
    try:
        platform.start()

        def read() -> None:
            body = {"model": model, "stream": True, "messages": [{"role": "user", "content": "Go on."}]}
            with platform.client() as client, client.stream("POST", "/v1/chat/completions", json=body) as answer:
                said.append(answer.status_code)
                lines.extend(line for line in answer.iter_lines() if line)

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        wait_for(lambda: said, 20, "no answer began")
        assert said == [200], lines
        time.sleep(0.3)
        left = platform.stop(signal.SIGTERM, 25.0)
        reader.join(5)
        assert not left, names(left)
    finally:
        platform.kill_everything()
    assert lines, "nothing arrived"
    assert lines[-1] == "data: [DONE]", lines[-1]
    assert sum('"w "' in line for line in lines) == 40


def test_a_config_with_an_unknown_key_is_one_line_that_names_the_nearest(tmp_path: Path) -> None:
    said = up(tmp_path, "gateway: {replicas_minimum: 2}\n")
    assert said.returncode == 2
    assert said.stdout == ""
    assert len(said.stderr.splitlines()) == 1
    assert "replicas_minimum" in said.stderr
    assert "gateway.replicas_min" in said.stderr


@pytest.mark.parametrize(
    "text",
    [
        "server: {drain_grace_s: long}\n",
        "server: [1\n",
        "models: [{name: a, name: b}]\n",
        "keys: [{name: x, key: 'env:NOT_THERE'}]\n",
    ],
)
def test_a_config_that_does_not_fit_is_one_line_and_starts_nothing(tmp_path: Path, text: str) -> None:
    said = up(tmp_path, text)
    assert said.returncode == 2
    assert len(said.stderr.splitlines()) == 1
    assert "Traceback" not in said.stderr
    assert not (tmp_path / "data").exists()


def test_an_option_that_does_not_exist_is_bad_usage(tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("logos")), "up", "--prot", "1"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=CHECKOUT)
    assert said.returncode == 2
    assert "--port" in said.stderr


def test_a_second_platform_on_the_same_data_directory_is_refused(platform: Platform) -> None:
    command = [str(Path(sys.executable).with_name("logos")), "up", "--data-dir", str(platform.data_dir), "--port", "0"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=CHECKOUT)
    assert said.returncode == 1
    assert "data directory" in said.stderr
    assert len(said.stderr.splitlines()) == 1
    assert platform.get("/health")["status"] == "ok"


def up(tmp_path: Path, config: str) -> subprocess.CompletedProcess[str]:
    """`logos up` with a config that must not get it anywhere."""
    (tmp_path / "logos.yaml").write_text(config)
    command = [str(Path(sys.executable).with_name("logos")), "up", "--config", str(tmp_path / "logos.yaml")]
    command += ["--data-dir", str(tmp_path / "data"), "--port", "0"]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=CHECKOUT)
