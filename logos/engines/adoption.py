"""The engines of a node on disk, and finding them again: a node actor that died left its engines serving.

The file holds one record per engine and is replaced as a whole, so it is never half written. An engine is taken over
only if its pid, its start time and (once it has loaded) the port that it listens on still match; of the others, those
whose pid and start time match are ended, and no other process is touched.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import msgspec

from logos.domain.errors import EngineFailed
from logos.domain.lifecycle import EngineState
from logos.engines.identity import ProcessIdentity
from logos.engines.launch import EngineLaunch
from logos.engines.process import EngineProcess

_VERSION = 1


@dataclass(frozen=True, slots=True)
class EngineRecord:
    """One engine as it is written down: how it was started, which process it is, and its last known state."""

    launch: EngineLaunch
    identity: ProcessIdentity
    state: EngineState
    sleep_level: int = 1  # of its last sleep
    has_slept: bool = False

    @property
    def engine_id(self) -> str:
        return self.launch.engine_id


def record_of(process: EngineProcess, state: EngineState) -> EngineRecord:
    """The record of a started engine. Raises EngineFailed for one that was not."""
    if process.identity is None:
        raise EngineFailed(f"engine {process.engine_id} was never started")
    return EngineRecord(process.launch, process.identity, state, process.sleep_level, process.has_slept)


@dataclass(frozen=True, slots=True)
class Adoption:
    """What became of the recorded engines."""

    adopted: tuple[tuple[EngineProcess, EngineState], ...]  # with the last known state: look again before use
    ended: tuple[str, ...]  # ids of engines that were there but did not match
    lost: tuple[str, ...]  # ids of engines whose process is gone


class _File(msgspec.Struct):
    version: int
    engines: list[EngineRecord]


def write_records(path: Path, records: Iterable[EngineRecord]) -> None:
    """Replace the file, readable by its owner only. Blocks for a moment; raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = msgspec.json.format(msgspec.json.encode(_File(_VERSION, list(records))), indent=1)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name + ".")  # mode 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise


def read_records(path: Path) -> list[EngineRecord]:
    """The records of the file; none if it does not exist. Raises EngineFailed if it cannot be understood."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    try:
        file = msgspec.json.decode(content, type=_File)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise EngineFailed(
            f"the record of running engines, {path}, cannot be read: {error}; end what it names and remove it",
            code="engine_record_broken",
        ) from error
    if file.version != _VERSION:
        raise EngineFailed(
            f"the record of running engines, {path}, has version {file.version}, this program writes {_VERSION}",
            code="engine_record_broken",
        )
    return file.engines


async def adopt(path: Path, session: aiohttp.ClientSession, grace_s: float = 5.0) -> Adoption:
    """Take over the recorded engines that still match, end the rest, and write down what is left.

    Raises EngineFailed if the file cannot be understood (then nothing was touched), or if an engine cannot be ended.
    """
    records = await asyncio.to_thread(read_records, path)
    adopted: list[tuple[EngineProcess, EngineState]] = []
    kept: list[EngineRecord] = []
    ended: list[str] = []
    lost: list[str] = []
    stuck: list[EngineFailed] = []
    for record in records:
        process = EngineProcess(
            record.launch,
            session,
            record.identity,
            sleep_level=record.sleep_level,
            has_slept=record.has_slept,
        )
        alive = process.alive()
        # While it loads it may not listen yet.
        if alive and (record.state is EngineState.LOADING or record.identity.listens_on(record.launch.port)):
            adopted.append((process, record.state))
            kept.append(record)
            continue
        (ended if alive else lost).append(record.engine_id)
        try:
            await process.stop(grace_s)  # of a lost engine, what its own end has left behind
        except EngineFailed as error:
            stuck.append(error)
            kept.append(record)
    await asyncio.to_thread(write_records, path, kept)
    if stuck:
        raise stuck[0]
    return Adoption(tuple(adopted), tuple(ended), tuple(lost))
