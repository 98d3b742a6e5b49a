"""The node-local outbox: every accepted request is on file before its first upstream byte, and until it is in Postgres.

One unbuffered write an entry, no fsync, some 10 microseconds. An index of what is not yet acknowledged says what to
ship; a segment file goes when everything in it is acknowledged. What a dead gateway left behind is in `orphans`, the
way to the ledger in `shipper`. Nothing here awaits, and nothing knows Postgres.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from logos.domain.records import Closing, Opening, Progress, Record
from logos.gateway.outbox_files import (
    Spot,
    frame_storable,
    make_own_directory,
    remove_directory,
    segment_path,
    unframe,
)

log = logging.getLogger(__name__)

OUTBOX_BYTES_MAX = 1024**3
SEGMENT_BYTES_MAX = 4 * 1024**2
MEMORY_BYTES_MAX = 64 * 1024**2  # beyond it, closed records are read back from their files when they are shipped
OPENING_SHIPPED_AFTER_S = 1.0
BATCH_BYTES_MAX = 8 * 1024**2  # on file; a single larger record is a batch of its own


@dataclass(slots=True)
class _Pending:
    """A request that is not yet acknowledged. Its values are dropped from memory when there are too many."""

    opening: Opening | None
    opened: Spot
    accepted_at: float
    closing: Closing | None = None
    closed: Spot | None = None
    ended_at: float = 0.0
    segments: set[int] = field(default_factory=set)

    @property
    def length(self) -> int:
        return self.opened.length + (0 if self.closed is None else self.closed.length)


class Outbox:
    """One gateway's. `root` is the node's outbox directory, shared with the other gateways of the node."""

    def __init__(
        self,
        root: Path,
        gateway_id: str,
        *,
        size_bytes_max: int = OUTBOX_BYTES_MAX,
        segment_bytes_max: int = SEGMENT_BYTES_MAX,
        memory_bytes_max: int = MEMORY_BYTES_MAX,
    ) -> None:
        self._directory, self._lock = make_own_directory(root, gateway_id)
        self._size_bytes_max = size_bytes_max
        self._segment_bytes_max = segment_bytes_max
        self._memory_bytes_max = memory_bytes_max
        self._running: dict[str, _Pending] = {}
        self._closed: dict[str, _Pending] = {}
        self._unseen: dict[str, None] = {}  # running, and not yet in the database as running
        self._handed_out: dict[str, bool] = {}  # the last batch: request id -> whether it was closed
        self._needed: dict[int, int] = {}  # segment -> requests that still need it
        self._sizes: dict[int, int] = {}
        self._total_bytes = 0
        self._memory_bytes = 0
        self._segment = 0
        self._descriptor = -1
        self._next_segment()

    # The request's path

    def open(self, opening: Opening) -> None:
        """Before it waits for a place or is sent to one. Raises OSError when the disk takes no more: refuse it then."""
        opening, framed = frame_storable(opening)
        spot = self._write(framed)
        pending = _Pending(opening, spot, opening.accepted_at)
        self._need(pending, spot.segment)
        self._running[opening.request_id] = pending
        self._unseen[opening.request_id] = None
        self._memory_bytes += len(framed)

    def progress(self, progress: Progress) -> None:
        """What a cut-off request would be charged by. A full disk is no reason to stop a stream."""
        pending = self._running.get(progress.request_id)
        if pending is None:
            return
        try:
            spot = self._write(frame_storable(progress)[1])
        except OSError as error:
            log.warning("the outbox cannot note progress: %s", error.strerror)
            return
        self._need(pending, spot.segment)

    def close(self, closing: Closing) -> None:
        """The end of a request; a second closing of the same request changes nothing. If the disk takes no more, the
        record waits in memory alone."""
        pending = self._running.pop(closing.request_id, None)
        if pending is None:
            return
        self._unseen.pop(closing.request_id, None)
        closing, framed = frame_storable(closing)
        pending.closing, pending.ended_at = closing, closing.ended_at
        self._closed[closing.request_id] = pending
        try:
            pending.closed = self._write(framed)
        except OSError as error:
            log.warning("the outbox cannot note an end, it waits in memory: %s", error.strerror)
            return
        self._need(pending, pending.closed.segment)
        self._memory_bytes += len(framed)
        if self._memory_bytes > self._memory_bytes_max:
            self._forget_values(pending)

    @property
    def is_full(self) -> bool:
        """Then no further request should be accepted."""
        return self._total_bytes >= self._size_bytes_max

    # The shipper's path

    @property
    def records(self) -> int:
        """Requests that are running or not yet acknowledged."""
        return len(self._running) + len(self._closed)

    @property
    def size_bytes(self) -> int:
        return self._total_bytes

    @property
    def waiting(self) -> int:
        """Ended requests that are not yet acknowledged."""
        return len(self._closed)

    def lag_s(self, now: float) -> float:
        """Age of the oldest closed record that is not acknowledged; `now` in Unix seconds."""
        oldest = next(iter(self._closed.values()), None)
        return 0.0 if oldest is None else max(0.0, now - oldest.ended_at)

    def take_batch(self, records_max: int, now: float) -> tuple[Record, ...]:
        """What to send next: closed records, oldest first, then openings older than a second that the database has
        not seen; no more than can be written to the database in one go. The same again until acknowledged; one batch
        at a time. `now` in Unix seconds."""
        self._handed_out = {}
        batch: list[Record] = []
        size_bytes = 0
        for request_id, pending in list(islice(self._closed.items(), records_max)):
            size_bytes += pending.length
            if batch and size_bytes > BATCH_BYTES_MAX:
                return tuple(batch)
            try:
                batch.append(Record(self._opening_of(pending), self._closing_of(pending)))
            except OSError as error:
                log.error("the record of %s is lost: %s", request_id, error)
                self._release(self._closed.pop(request_id))
                continue
            self._handed_out[request_id] = True
        for request_id in islice(self._unseen, records_max - len(batch)):
            pending = self._running[request_id]
            size_bytes += pending.length
            if pending.accepted_at > now - OPENING_SHIPPED_AFTER_S or (batch and size_bytes > BATCH_BYTES_MAX):
                break
            batch.append(Record(self._opening_of(pending)))
            self._handed_out[request_id] = False
        return tuple(batch)

    def acknowledge(self, request_ids: Iterable[str]) -> None:
        """These of the last batch are in the database. A request that was handed out open, and has ended since,
        stays until it is acknowledged closed."""
        for request_id in request_ids:
            was_closed = self._handed_out.pop(request_id, None)
            if was_closed:
                self._release(self._closed.pop(request_id))
            elif was_closed is False:
                self._unseen.pop(request_id, None)

    def dispose(self) -> None:
        """End of life: delete everything if all is acknowledged; otherwise leave it to be found. A request that ends
        after this is not noted any more: somebody else's file may have the old number by then."""
        os.close(self._descriptor)
        self._descriptor = -1
        if self.records == 0:
            remove_directory(self._directory, self._lock)
        else:
            os.close(self._lock)

    # Segments

    def _write(self, framed: bytes) -> Spot:
        """One write. After a failed or short one the segment ends at the last whole frame and a new one begins."""
        if self._sizes[self._segment] + len(framed) > self._segment_bytes_max and self._sizes[self._segment]:
            self._next_segment()
        spot = Spot(self._segment, self._sizes[self._segment], len(framed))
        try:
            written = os.write(self._descriptor, framed)
            if written != len(framed):
                raise OSError(28, "short write: the disk is full")
        except OSError:
            os.ftruncate(self._descriptor, spot.offset)
            raise
        self._sizes[self._segment] += len(framed)
        self._total_bytes += len(framed)
        return spot

    def _next_segment(self) -> None:
        old = self._segment
        path = segment_path(self._directory, old + 1)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = descriptor
        self._segment = old + 1
        self._sizes[self._segment] = 0
        self._delete_if_unneeded(old)

    def _need(self, pending: _Pending, segment: int) -> None:
        if segment not in pending.segments:
            pending.segments.add(segment)
            self._needed[segment] = self._needed.get(segment, 0) + 1

    def _release(self, pending: _Pending) -> None:
        for spot, value in ((pending.opened, pending.opening), (pending.closed, pending.closing)):
            if value is not None and spot is not None:
                self._memory_bytes -= spot.length
        for segment in pending.segments:
            self._needed[segment] -= 1
            self._delete_if_unneeded(segment)

    def _delete_if_unneeded(self, segment: int) -> None:
        """The current segment is written to; it goes when the next one begins."""
        if segment == self._segment or segment not in self._sizes or self._needed.get(segment, 0) > 0:
            return
        segment_path(self._directory, segment).unlink(missing_ok=True)
        self._total_bytes -= self._sizes.pop(segment)
        self._needed.pop(segment, None)

    # Values that were dropped from memory

    def _forget_values(self, pending: _Pending) -> None:
        assert pending.closed is not None
        self._memory_bytes -= pending.opened.length + pending.closed.length
        pending.opening = pending.closing = None

    def _opening_of(self, pending: _Pending) -> Opening:
        if pending.opening is not None:
            return pending.opening
        found = self._read(pending.opened)
        assert isinstance(found, Opening)
        return found

    def _closing_of(self, pending: _Pending) -> Closing:
        if pending.closing is not None:
            return pending.closing
        assert pending.closed is not None
        found = self._read(pending.closed)
        assert isinstance(found, Closing)
        return found

    def _read(self, spot: Spot) -> Opening | Progress | Closing:
        with segment_path(self._directory, spot.segment).open("rb") as file:
            data = os.pread(file.fileno(), spot.length, spot.offset)
        found = unframe(data, 0)
        if found is None:
            raise OSError(5, "the outbox cannot be read back")
        return found[0]

    def __iter__(self) -> Iterator[str]:
        """Ids of everything that is not acknowledged, running or ended."""
        yield from self._running
        yield from self._closed
