"""The outbox on disk: framed entries in segment files, a lock that its living owner holds, and reading it all back.

A frame is length, checksum and kind, then MessagePack; a torn last frame ends its segment and is no error. Nothing is
fsynced: the files outlive the process, not the machine. Which records are still needed is `outbox`'s business.
"""

from __future__ import annotations

import fcntl
import logging
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import MISSING, Field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from logos.domain.records import Closing, Opening, Progress
from logos.domain.text import storable

Entry = Opening | Progress | Closing
SomeEntry = TypeVar("SomeEntry", Opening, Progress, Closing)

log = logging.getLogger(__name__)

SEGMENT_SUFFIX = ".segment"
LOCK_NAME = "lock"
FRAME = struct.Struct("<IIB")  # length of the body, CRC-32 of the body, kind
ENTRY_BYTES_MAX = 256 * 1024 * 1024  # a longer length is garbage

OPENING, PROGRESS, CLOSING = 1, 2, 3
_KINDS: dict[type, int] = {Opening: OPENING, Progress: PROGRESS, Closing: CLOSING}
_DECODERS: dict[int, msgspec.msgpack.Decoder[Any]] = {
    OPENING: msgspec.msgpack.Decoder(Opening),
    PROGRESS: msgspec.msgpack.Decoder(Progress),
    CLOSING: msgspec.msgpack.Decoder(Closing),
}
_UNWRITABLE = (UnicodeError, OverflowError, TypeError, ValueError, RecursionError)
_encoder = msgspec.msgpack.Encoder()


class Spot(NamedTuple):
    """Where an entry lies: segment number, offset of its frame, length of frame and body."""

    segment: int
    offset: int
    length: int


def frame(entry: Entry) -> bytes:
    """An entry as it is written."""
    body = _encoder.encode(entry)
    return FRAME.pack(len(body), zlib.crc32(body), _KINDS[type(entry)]) + body


def frame_storable(entry: SomeEntry) -> tuple[SomeEntry, bytes]:
    """The same, whatever is in the entry: text that no file takes is replaced, and a field that cannot be written
    even so takes its default. The entry as it can be read back comes with its frame."""
    try:
        return entry, frame(entry)
    except _UNWRITABLE:
        changed = {each.name: _writable(getattr(entry, each.name), each) for each in fields(entry)}
        entry = replace(entry, **changed)
        return entry, frame(entry)


def _writable(value: Any, of: Field[Any]) -> Any:
    for candidate in (value, storable(value)):
        try:
            _encoder.encode(candidate)
        except _UNWRITABLE:
            continue
        return candidate
    return of.default if of.default_factory is MISSING else of.default_factory()


def unframe(data: bytes, offset: int) -> tuple[Entry, int] | None:
    """The entry at `offset` and the offset after it; None at the end, or where the file is torn."""
    end = _end_of(data, offset)
    if end is None:
        return None
    _, checksum, kind = FRAME.unpack_from(data, offset)
    body = memoryview(data)[offset + FRAME.size : end]
    if zlib.crc32(body) != checksum:
        return None
    try:
        entry: Entry = _DECODERS[kind].decode(body)
    except msgspec.MsgspecError:
        return None
    return entry, end


def _end_of(data: bytes, offset: int) -> int | None:
    """Where the frame at `offset` ends, as it says itself, if that can be."""
    start = offset + FRAME.size
    if start > len(data):
        return None
    length, _, kind = FRAME.unpack_from(data, offset)
    end: int = start + length
    return None if length > ENTRY_BYTES_MAX or end > len(data) or kind not in _DECODERS else end


def entries_of(path: Path) -> Iterator[Entry]:
    """Every whole entry of a segment, in order. One whose bytes have changed is lost, not those behind it."""
    data = path.read_bytes()
    offset: int | None = 0
    while offset is not None:
        found = unframe(data, offset)
        if found is not None:
            entry, offset = found
            yield entry
        elif (offset := _end_of(data, offset)) is not None:
            log.error("an entry of the outbox %s is damaged and lost, it ends at byte %d", path, offset)


def segment_path(directory: Path, number: int) -> Path:
    return directory / f"{number:08d}{SEGMENT_SUFFIX}"


def segments_of(directory: Path) -> list[Path]:
    """Oldest first."""
    return sorted(directory.glob(f"*{SEGMENT_SUFFIX}"))


def make_own_directory(root: Path, gateway_id: str) -> tuple[Path, int]:
    """A new directory below `root`, already locked when others can see its lock: the path and the lock's descriptor.
    The lock ends with this process, however it ends."""
    root.mkdir(parents=True, exist_ok=True)
    for number in range(1, 1_000_000):
        directory = root / f"{gateway_id}.{number}"
        try:
            directory.mkdir(mode=0o700)
        except FileExistsError:
            continue
        hidden = directory / "lock.new"
        descriptor = os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        hidden.rename(directory / LOCK_NAME)
        return directory, descriptor
    raise FileExistsError(f"too many outboxes of {gateway_id} in {root}")


def take_lock(directory: Path) -> int | None:
    """The lock's descriptor if its owner is gone and nobody else was faster, else None."""
    try:
        descriptor = os.open(directory / LOCK_NAME, os.O_RDWR)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # A winner before us may have finished and unlinked the very file that we opened.
        if os.fstat(descriptor).st_nlink > 0:
            return descriptor
    except BlockingIOError:
        pass
    os.close(descriptor)
    return None


def remove_directory(directory: Path, lock: int) -> None:
    """Delete an outbox that nothing needs any more, the lock last, and let the lock go."""
    for path in segments_of(directory):
        path.unlink(missing_ok=True)
    (directory / LOCK_NAME).unlink(missing_ok=True)
    os.close(lock)
    with suppress(OSError):  # something that is not ours may lie in it
        directory.rmdir()
