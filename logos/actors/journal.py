"""The journal of scheduling as JSON lines: events in, commands out, opened by a snapshot at each start.

Line 1 is the opening (contract version, epoch, settings, catalogue); each further line is one event with the commands
that it caused. Encoding lives here because the pure rooms know no JSON; what replaying means is `scheduling.replay`.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import msgspec

from logos.domain.errors import InvalidDeclaration
from logos.scheduling import commands, events
from logos.scheduling.commands import Command
from logos.scheduling.events import CONTRACT_VERSION, Event
from logos.scheduling.replay import Difference, JournalOpening, replay

_EVENTS: dict[str, type] = {kind.__name__: kind for kind in get_args(events.Event)}
_COMMANDS: dict[str, type] = {kind.__name__: kind for kind in get_args(commands.Command)}
_encode = msgspec.json.Encoder().encode

# What a line raises that is no journal's: no JSON or UTF-8, other shapes, other names, nested without end.
UNREADABLE = (msgspec.DecodeError, KeyError, TypeError, ValueError, RecursionError)

log = logging.getLogger(__name__)

FILE_BYTES_MAX = 64 * 1024 * 1024
FILES_MAX = 4


@dataclass(frozen=True, slots=True)
class Line:
    """One entry on its way to file and table: the event's name and body and the commands, already JSON."""

    kind: str
    at: float
    event: bytes
    commands: bytes

    @property
    def encoded(self) -> bytes:
        """The journal line without its line end."""
        return b'{"event":["%s",%s],"commands":%s}' % (self.kind.encode(), self.event, self.commands)


def encode_entry(event: Event, caused: Sequence[Command]) -> Line:
    """The event and what it caused, as a line."""
    commands = [(type(command).__name__, command) for command in caused]
    return Line(type(event).__name__, event.at, _encode(event), _encode(commands))


def encode_opening(opening: JournalOpening) -> bytes:
    return _encode({"contract_version": CONTRACT_VERSION, "opening": opening})


def decode_opening(line: bytes) -> JournalOpening:
    """Raises InvalidDeclaration if the line is not an opening of this contract version."""
    try:
        found = msgspec.json.decode(line)
        version = found["contract_version"]
        if version == CONTRACT_VERSION:
            return msgspec.convert(found["opening"], JournalOpening)
    except UNREADABLE as error:
        raise InvalidDeclaration(f"line 1 does not open a journal: {error}") from None
    raise InvalidDeclaration(f"the journal has contract version {version}, this program speaks {CONTRACT_VERSION}")


def decode_entry(line: bytes, number: int) -> tuple[Event, list[Command]]:
    """`number` is the line's, for the error text."""
    try:
        found = msgspec.json.decode(line)
        name, body = found["event"]
        event: Event = msgspec.convert(body, _EVENTS[name])
        caused: list[Command] = [msgspec.convert(body, _COMMANDS[name]) for name, body in found["commands"]]
    except UNREADABLE as error:
        raise InvalidDeclaration(f"line {number} is not a journal entry: {error}") from None
    return event, caused


def read_journal(path: Path) -> tuple[JournalOpening, Iterator[tuple[Event, list[Command]]]]:
    """The opening and the entries, read lazily. A torn last line (the writer was killed) is left out."""
    with path.open("rb") as lines:
        first = lines.readline()
    if not first:
        raise InvalidDeclaration(f"{path} is empty: a journal begins with its opening")
    return decode_opening(first), _entries(path)


def _entries(path: Path) -> Iterator[tuple[Event, list[Command]]]:
    last_at = -math.inf
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if number > 1 and line.endswith(b"\n"):
                event, caused = decode_entry(line, number)
                if not event.at >= last_at:
                    raise InvalidDeclaration(
                        f"line {number}: the clock goes backwards, from {last_at:.6f} to {event.at:.6f} s; "
                        "events of one journal are in the order of their time"
                    )
                last_at = event.at
                yield event, caused


def replay_file(path: Path) -> list[Difference]:
    """Feeds a journal's events to a fresh core and compares the commands. Empty: it replays."""
    opening, entries = read_journal(path)
    return replay(opening, entries)


def last_epoch_in(directory: Path) -> int:
    """The highest of the journals there; 0 if there are none."""
    return max((int(path.stem) for path in directory.glob("*.jsonl") if path.stem.isdecimal()), default=0)


class JournalWriter:
    """Appends to `directory`/EPOCH.jsonl, unbuffered by more than one event-loop turn, bounded in size.

    A full file, or a disk that takes no more, ends the recording of that start (a journal with a hole would not
    replay), which `complete` tells, and so does `end`; only the newest few files are kept.
    """

    def __init__(self, directory: Path, opening: JournalOpening) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        for old in sorted(directory.glob("*.jsonl"))[: -(FILES_MAX - 1)]:
            old.unlink(missing_ok=True)
        self.path = directory / f"{opening.epoch}.jsonl"
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._pending: list[Line] = []
        self._size = 0
        self._has_ended = False  # told so
        self._takes_more = True  # the file and its disk
        self._write([encode_opening(opening)])

    @property
    def complete(self) -> bool:
        """Whether everything of this start is in it, and will be."""
        return self._takes_more and not self._has_ended

    def append(self, event: Event, caused: Sequence[Command]) -> None:
        if self.complete:
            self._pending.append(encode_entry(event, caused))

    def end(self) -> None:
        """What gathered so far is still written, and nothing that comes later."""
        self._has_ended = True

    def take_pending(self) -> list[Line]:
        """Writes what gathered with one call and returns it, so that the caller may ship it too."""
        taken, self._pending = self._pending, []
        if taken and self._takes_more:
            self._write([line.encoded for line in taken])
        return taken

    def _write(self, lines: list[bytes]) -> None:
        data = b"\n".join(lines) + b"\n"
        try:
            written = os.write(self._file, data)
        except OSError as error:
            log.warning("the journal of this start ends here, %s cannot be written: %s", self.path, error.strerror)
            written = 0
        self._size += written
        self._takes_more = written == len(data) and self._size < FILE_BYTES_MAX

    def close(self) -> None:
        self.take_pending()
        os.close(self._file)
