"""The record on disk, and who is touched: with ordinary processes in the place of engines."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import aiohttp
import psutil
import pytest

from logos.domain.errors import EngineFailed
from logos.domain.lifecycle import EngineState
from logos.engines.adoption import EngineRecord, adopt, read_records, record_of, write_records
from logos.engines.identity import MARK_NAME, ProcessIdentity
from logos.engines.launch import EngineKind, EngineLaunch
from logos.engines.process import EngineProcess

LAUNCH = EngineLaunch(
    engine_id="e1", model="m", kind=EngineKind.SIMULATED, port=1, log_file="log", endpoint_id=7, gpus=(0, 1),
    env=(("A", "b"),),
)  # fmt: skip

LISTENING = """
import socket, sys, time
with socket.create_server(("127.0.0.1", 0)) as server:
    print(server.getsockname()[1], flush=True)
    time.sleep(60)
"""


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
def listening() -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process in a session of its own that listens on a port."""
    command = [sys.executable, "-c", LISTENING]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as child:
        try:
            assert child.stdout is not None
            yield child, int(child.stdout.readline())
        finally:
            child.kill()


def record_for(child: subprocess.Popen[str], port: int) -> EngineRecord:
    identity = ProcessIdentity.of(child.pid)
    assert identity is not None
    return EngineRecord(replace(LAUNCH, port=port), identity, EngineState.ASLEEP, sleep_level=2)


def test_records_come_back_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "engines.json"
    assert read_records(path) == []
    record = EngineRecord(LAUNCH, ProcessIdentity(123, 456.75), EngineState.AWAKE)
    write_records(path, [record])
    assert read_records(path) == [record]
    assert path.stat().st_mode & 0o777 == 0o600
    write_records(path, [])
    assert read_records(path) == []
    assert [file.name for file in path.parent.iterdir()] == ["engines.json"]


def test_a_write_that_fails_leaves_the_old_record_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "engines.json"
    write_records(path, [])
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_records(path, [EngineRecord(LAUNCH, ProcessIdentity(1, 2.0), EngineState.AWAKE)])
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["engines.json"]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"version": 2, "engines": []}', b'{"version": 1, "engines": [{}]}', b"\xff"]
)
async def test_a_record_that_cannot_be_understood_is_named_and_nothing_is_touched(
    tmp_path: Path, content: bytes, session: aiohttp.ClientSession
) -> None:
    path = tmp_path / "engines.json"
    path.write_bytes(content)
    with pytest.raises(EngineFailed, match=r"engines\.json"):
        await adopt(path, session)
    assert path.read_bytes() == content


async def test_an_engine_that_matches_is_taken_over(
    tmp_path: Path, listening: tuple[subprocess.Popen[str], int], session: aiohttp.ClientSession
) -> None:
    path = tmp_path / "engines.json"
    record = record_for(*listening)
    write_records(path, [record])
    adoption = await adopt(path, session)
    ((process, state),) = adoption.adopted
    assert process.alive()
    assert record_of(process, state) == record
    assert read_records(path) == [record]


async def test_an_engine_on_another_port_is_ended(
    tmp_path: Path, listening: tuple[subprocess.Popen[str], int], session: aiohttp.ClientSession
) -> None:
    path = tmp_path / "engines.json"
    child, port = listening
    write_records(path, [record_for(child, port + 1)])
    adoption = await adopt(path, session)
    assert adoption.ended == ("e1",)
    assert await asyncio.to_thread(child.wait, 5) == -15
    assert read_records(path) == []


async def test_a_process_that_has_the_pid_of_a_lost_engine_is_not_touched(
    tmp_path: Path, listening: tuple[subprocess.Popen[str], int], session: aiohttp.ClientSession
) -> None:
    path = tmp_path / "engines.json"
    child, port = listening
    record = record_for(child, port)
    boot, ticks = record.identity.since_boot.split()
    by_the_clock = psutil.Process(child.pid).create_time()
    for stranger in (
        ProcessIdentity(child.pid, since_boot=f"{boot} {int(ticks) - 1}"),
        ProcessIdentity(child.pid, by_the_clock - 100),
    ):
        write_records(path, [replace(record, identity=stranger)])
        adoption = await adopt(path, session, grace_s=0.1)
        assert adoption.lost == ("e1",)
        assert child.poll() is None
        assert read_records(path) == []


async def test_an_engine_is_adopted_though_the_clock_was_set_since(
    tmp_path: Path,
    listening: tuple[subprocess.Popen[str], int],
    session: aiohttp.ClientSession,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "engines.json"
    write_records(path, [record_for(*listening)])
    booted_at = psutil.boot_time()  # the kernel counts it back from the clock
    monkeypatch.setattr("psutil._pslinux.boot_time", lambda: booted_at + 3600)
    assert len((await adopt(path, session)).adopted) == 1


async def test_an_engine_that_an_earlier_version_recorded_is_known_by_the_clock(
    tmp_path: Path, listening: tuple[subprocess.Popen[str], int], session: aiohttp.ClientSession
) -> None:
    path = tmp_path / "engines.json"
    child, port = listening
    by_the_clock = ProcessIdentity(child.pid, psutil.Process(child.pid).create_time())
    write_records(path, [replace(record_for(child, port), identity=by_the_clock)])
    assert len((await adopt(path, session)).adopted) == 1


async def test_what_a_dead_engine_left_behind_is_ended_if_it_carries_its_mark(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    script = "sleep 60 & echo $! ; sleep 0.05"
    left: list[int] = []
    identity = None
    for mark in ("e1", "another"):
        with subprocess.Popen(
            ["sh", "-c", script], stdout=subprocess.PIPE, start_new_session=True, env={**os.environ, MARK_NAME: mark}
        ) as leader:
            identity = ProcessIdentity.of(leader.pid)
            assert identity is not None
            assert leader.stdout is not None
            left.append(int(leader.stdout.readline()))
            leader.wait()
        process = EngineProcess(LAUNCH, session, identity)
        assert not process.alive()
        await process.stop(0.1)
    still = [ProcessIdentity.of(pid) for pid in left]
    try:
        assert still[0] is None or still[0].find() is None
        assert still[1] is not None
        assert still[1].find() is not None
    finally:
        os.kill(left[1], 9)


def test_a_dead_child_that_nobody_waited_for_is_not_alive() -> None:
    with subprocess.Popen(["true"]) as child:
        identity = ProcessIdentity.of(child.pid)
        assert identity is not None
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert identity.find() is None
    assert ProcessIdentity.of(2**22 - 1) is None


def test_only_its_own_ports_are_an_engine_s(listening: tuple[subprocess.Popen[str], int]) -> None:
    child, port = listening
    identity = ProcessIdentity.of(child.pid)
    own = ProcessIdentity.of(os.getpid())
    assert identity is not None
    assert own is not None
    assert identity.listens_on(port)
    assert not identity.listens_on(port + 1)
    assert not own.listens_on(port)
