"""What a gateway that died left in its outbox: read back, its running requests closed as interrupted, then deleted.

Whoever gets the lock ships the records; a crash in the middle leaves everything where it was, and since the ledger
takes each record once, shipping it again charges nothing twice. Prices come in as a function.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from logos.domain.lifecycle import Outcome, UsageSource
from logos.domain.records import Attempt, Charge, Closing, Opening, Progress, Record
from logos.gateway.outbox_files import entries_of, remove_directory, segments_of, take_lock

ChargeOf = Callable[[Opening, Mapping[str, int]], Charge]


@dataclass(frozen=True, slots=True)
class Orphan:
    """An outbox whose owner is gone. Ours while the lock is held: `delete` or `release` it."""

    directory: Path
    lock: int

    def records(self, charge_of: ChargeOf) -> Iterator[Record]:
        """Every request in it, closed: the ones that ended as they ended, the others as interrupted when the file
        was last written to. Holds only the requests that are open at a time."""
        opened: dict[str, Opening] = {}
        progressed: dict[str, Progress] = {}
        last_sign_at = 0.0
        for path in segments_of(self.directory):
            last_sign_at = path.stat().st_mtime
            for entry in entries_of(path):
                match entry:
                    case Opening():
                        opened[entry.request_id] = entry
                    case Progress():
                        progressed[entry.request_id] = _further(progressed.get(entry.request_id), entry)
                    case Closing():
                        progressed.pop(entry.request_id, None)
                        opening = opened.pop(entry.request_id, None)
                        if opening is not None:  # else its opening's segment was acknowledged and is gone
                            yield Record(opening, entry)
        for opening in opened.values():
            yield interrupted(opening, progressed.get(opening.request_id), last_sign_at, charge_of)

    def delete(self) -> None:
        """Once every record is acknowledged."""
        remove_directory(self.directory, self.lock)

    def release(self) -> None:
        """For somebody to try again later."""
        os.close(self.lock)


def abandoned(root: Path) -> Iterator[Orphan]:
    """Outboxes below `root` whose owners are gone, each locked for us. Of two that look at once, one gets it."""
    if not root.is_dir():
        return
    for directory in sorted(root.iterdir()):
        lock = take_lock(directory) if directory.is_dir() else None
        if lock is not None:
            yield Orphan(directory, lock)


def _further(before: Progress | None, now: Progress) -> Progress:
    """A place is told once, when it is new; from there on tokens alone, or that it waits for another."""
    if before is None or now.endpoint_id is not None:
        return now
    return replace(before, completion_tokens=now.completion_tokens, first_token_at=now.first_token_at, waits=now.waits)


def interrupted(opening: Opening, progress: Progress | None, last_sign_at: float, charge_of: ChargeOf) -> Record:
    """The end of a request whose gateway died: charged prompt + tokens relayed, marked as such; nothing if it waited
    for a place, the first one or another after one that failed."""
    relayed = 0 if progress is None else progress.completion_tokens
    first_token_at = None if progress is None else progress.first_token_at
    ended_at = max(opening.accepted_at, first_token_at or 0.0, last_sign_at)
    if progress is not None and progress.endpoint_id is not None:
        opening = _moved(opening, progress)
    if opening.endpoint_id is None or (progress is not None and progress.waits):
        return Record(opening, _cut_off_in_line(opening, ended_at))
    usage = {"prompt": opening.prompt_tokens, "completion": relayed}
    attempts: tuple[Attempt, ...] = ()
    if opening.endpoint_id is not None and opening.model_id is not None and opening.provider_id is not None:
        attempt = Attempt(
            number=1,
            model_id=opening.model_id,
            provider_id=opening.provider_id,
            endpoint_id=opening.endpoint_id,
            engine_id=opening.engine_id,
            started_at=opening.accepted_at,
            first_byte_at=first_token_at,
            ended_at=ended_at,
            outcome=Outcome.INTERRUPTED,
        )
        attempts = (attempt,)
    closing = Closing(
        request_id=opening.request_id,
        ended_at=ended_at,
        outcome=Outcome.INTERRUPTED,
        http_status=0,
        error_message="the gateway that served this request died",
        model_id=opening.model_id,
        provider_id=opening.provider_id,
        endpoint_id=opening.endpoint_id,
        engine_id=opening.engine_id,
        first_token_at=first_token_at,
        usage=usage,
        usage_source=UsageSource.RELAYED,
        charge=charge_of(opening, usage),
        attempts=attempts,
    )
    return Record(opening, closing)


def _moved(opening: Opening, progress: Progress) -> Opening:
    return replace(
        opening,
        model_id=progress.model_id,
        provider_id=progress.provider_id,
        endpoint_id=progress.endpoint_id,
        engine_id=progress.engine_id,
    )


def _cut_off_in_line(opening: Opening, ended_at: float) -> Closing:
    return Closing(
        request_id=opening.request_id,
        ended_at=ended_at,
        outcome=Outcome.INTERRUPTED,
        http_status=0,
        error_message="the gateway that this request waited in died",
    )
