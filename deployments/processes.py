"""Which processes belong to this installation: recorded by pid and start while it runs, ended by them later.

`logos up` writes the record every second; after a `kill -9` of it, the next start ends what is left. A process is only
ever ended if both its pid and its start match the record, never by its name.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import itertools
import json
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import psutil

from logos.domain.errors import Conflict
from logos.engines.identity import ProcessIdentity


def descendants_of(pid: int) -> set[ProcessIdentity]:
    """Every living process below `pid`."""
    with contextlib.suppress(psutil.Error):
        children = psutil.Process(pid).children(recursive=True)
        return {found for child in children if (found := ProcessIdentity.of(child.pid)) is not None}
    return set()


def living(identities: Iterable[ProcessIdentity]) -> list[psutil.Process]:
    """The processes among `identities` that still are what they were."""
    return [process for each in identities if (process := each.find()) is not None]


def end(identities: Iterable[ProcessIdentity], grace_s: float) -> int:
    """SIGTERM, then SIGKILL for what is left after `grace_s` seconds. Returns how many were found alive."""
    processes = living(identities)
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.send_signal(signal.SIGTERM)
    _, stubborn = psutil.wait_procs(processes, timeout=grace_s)
    for process in stubborn:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(stubborn, timeout=2.0)
    return len(processes)


class ProcessRecord:
    """The file `run/processes.json` of a data directory, and the lock that one `logos up` at a time holds."""

    def __init__(self, run_dir: Path) -> None:
        run_dir.mkdir(parents=True, exist_ok=True)
        self._path = run_dir / "processes.json"
        self._lock_path = run_dir / "lock"
        self._lock: IO[str] | None = None
        self._known: set[ProcessIdentity] = set()
        self._is_written = True

    def acquire(self) -> None:
        """Raises Conflict if another `logos up` uses this data directory."""
        lock = self._lock_path.open("a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            owner = lock.read().strip() or "?"
            lock.close()
            message = f"another 'logos up' (pid {owner}) uses this data directory: stop it or give --data-dir"
            raise Conflict(message) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        os.set_inheritable(lock.fileno(), False)
        self._lock = lock

    def release(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def end_leftovers(self) -> int:
        """Ends what an earlier run left behind, and what that has started since it was recorded last. Returns how many
        processes that were."""
        try:
            recorded = [_identity_of(*written) for written in json.loads(self._path.read_text())]
        except (OSError, ValueError, TypeError):
            return 0
        younger = (descendants_of(process.pid) for process in living(recorded))
        ended = end({*recorded, *itertools.chain.from_iterable(younger)}, grace_s=3.0)
        self._path.unlink(missing_ok=True)
        return ended

    def update(self) -> None:
        """Adds the present descendants of this process to the record, on a full disk to the one in memory alone."""
        now = descendants_of(os.getpid())
        alive = {identity_ for identity_ in self._known if identity_ in now or living([identity_])}
        if (found := now | alive) != self._known:
            self._known = found
            self._is_written = False
        if not self._is_written:
            with contextlib.suppress(OSError):  # the next time, then
                temporary = self._path.with_suffix(".tmp")
                temporary.write_text(json.dumps(sorted(dataclasses.astuple(each) for each in self._known)))
                temporary.replace(self._path)
                self._is_written = True

    def wait_until_gone(self, grace_s: float) -> list[str]:
        """Waits for everything recorded to end, ends what has not by then, and returns the names of those."""
        deadline = time.monotonic() + grace_s
        while (left := living(self._known)) and time.monotonic() < deadline:
            time.sleep(0.05)
        names = []
        for process in left:
            with contextlib.suppress(psutil.Error):
                names.append(process.name())
        end(self._known, grace_s=1.0)
        self._known = set()
        self._path.unlink(missing_ok=True)
        return names


def _identity_of(pid: Any, started_at_s: Any, since_boot: Any = "") -> ProcessIdentity:
    """As it is in the file; earlier versions wrote the start by the clock alone. Raises ValueError or TypeError."""
    return ProcessIdentity(int(pid), float(started_at_s), str(since_boot))
