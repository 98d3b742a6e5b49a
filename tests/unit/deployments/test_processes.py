"""Which processes belong to an installation: only those whose pid and start time match the record are ended."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from deployments.processes import ProcessRecord, end, living
from logos.domain.errors import Conflict
from logos.engines.identity import ProcessIdentity

SLEEPER = [sys.executable, "-c", "import time; time.sleep(60)"]
IGNORING = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
STUBBORN = [sys.executable, "-c", IGNORING]


def identity(pid: int) -> ProcessIdentity:
    found = ProcessIdentity.of(pid)
    assert found is not None
    return found


def write(directory: Path, pid: int) -> None:
    """By hand: `update` would record everything that this test run has started, to be ended below."""
    (directory / "processes.json").write_text(json.dumps([dataclasses.astuple(identity(pid))]))


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(SLEEPER)
    yield process
    process.kill()
    process.wait()


def test_a_second_platform_in_the_same_directory_is_refused_by_name_of_the_first(tmp_path: Path) -> None:
    first = ProcessRecord(tmp_path)
    first.acquire()
    with pytest.raises(Conflict, match=str(psutil.Process().pid)):
        ProcessRecord(tmp_path).acquire()
    first.release()
    second = ProcessRecord(tmp_path)
    second.acquire()
    second.release()


def test_what_a_killed_run_left_is_ended_by_the_next(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    write(tmp_path, sleeper.pid)
    assert ProcessRecord(tmp_path).end_leftovers() == 1
    assert not psutil.pid_exists(sleeper.pid)
    assert ProcessRecord(tmp_path).end_leftovers() == 0


def test_what_it_has_started_since_it_was_recorded_is_ended_too(tmp_path: Path) -> None:
    """A proxy that starts its successor in the last second of its platform, say."""
    command = [sys.executable, "-c", f"import subprocess, time; subprocess.Popen({SLEEPER!r}); time.sleep(60)"]
    parent = subprocess.Popen(command)
    try:
        known = psutil.Process(parent.pid)
        while not known.children():
            time.sleep(0.02)
        [child] = known.children()
        write(tmp_path, known.pid)
        assert ProcessRecord(tmp_path).end_leftovers() == 2
        assert not child.is_running()
    finally:
        parent.kill()
        parent.wait()


def test_a_process_that_only_has_the_same_pid_is_left_alone(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    pid, _, since_boot = dataclasses.astuple(identity(sleeper.pid))
    boot, ticks = since_boot.split()
    started = psutil.Process(pid).create_time()
    others = ([pid, 0.0, f"{boot} {int(ticks) - 1}"], [pid, 0.0, f"another-boot {ticks}"], [pid, started - 5.0])
    for other in others:
        (tmp_path / "processes.json").write_text(json.dumps([other]))
        assert ProcessRecord(tmp_path).end_leftovers() == 0
    assert sleeper.poll() is None


def test_what_an_earlier_version_left_is_known_by_the_clock(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    started = psutil.Process(sleeper.pid).create_time()
    (tmp_path / "processes.json").write_text(json.dumps([[sleeper.pid, started]]))
    assert ProcessRecord(tmp_path).end_leftovers() == 1


@pytest.mark.parametrize("set_by_s", [3600.0, -3600.0])
def test_what_a_killed_run_left_is_ended_though_the_clock_was_set_since(
    tmp_path: Path, sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch, set_by_s: float
) -> None:
    write(tmp_path, sleeper.pid)
    booted_at = psutil.boot_time()  # the kernel counts it back from the clock
    monkeypatch.setattr("psutil._pslinux.boot_time", lambda: booted_at + set_by_s)
    assert ProcessRecord(tmp_path).end_leftovers() == 1
    assert not psutil.pid_exists(sleeper.pid)


def test_on_a_full_disk_what_was_started_is_still_known_and_written_down_later(
    tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    record = ProcessRecord(tmp_path)
    in_the_way = tmp_path / "processes.tmp"
    in_the_way.mkdir()
    record.update()
    in_the_way.rmdir()
    assert not (tmp_path / "processes.json").exists()
    record.update()
    assert str(sleeper.pid) in (tmp_path / "processes.json").read_text()


def test_a_broken_record_ends_nobody(tmp_path: Path) -> None:
    (tmp_path / "processes.json").write_text("{not json")
    assert ProcessRecord(tmp_path).end_leftovers() == 0


def test_a_process_that_ignores_sigterm_is_killed_after_the_grace() -> None:
    with subprocess.Popen(STUBBORN, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        known = identity(process.pid)
        assert living([known])
        assert end([known], grace_s=0.2) == 1
        assert not living([known])
