"""How simulated engines on the same GPUs know of each other: who is busy makes the others slower.

Each engine keeps one small file in a folder that the engines of a node share: its name says which GPUs it is on, its
content until when it is busy (on the machine's monotonic clock). A file that its engine left behind says nothing, for
its time has passed. Files are mapped into memory, so telling and asking cost no system call.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import time
from collections.abc import Sequence
from pathlib import Path

LOOK_EVERY_S = 0.5  # for engines that have come or gone
STALE_AFTER_S = 3600.0  # then a file that nobody writes to is removed by whoever comes

_until = struct.Struct("d")


class Neighbourhood:
    """One engine's view: `tell` while it computes, `is_contended` to know whether somebody else does."""

    def __init__(self, folder: Path, gpus: Sequence[int]) -> None:
        """Raises OSError if the folder cannot be used."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._gpus = frozenset(gpus)
        self._path = folder / f"{','.join(map(str, sorted(gpus)))}.{os.getpid()}"
        self._own = _mapped(self._path, create=True)
        self._others: dict[Path, mmap.mmap] = {}
        self._looked_at_s = float("-inf")

    def tell(self, until_s: float) -> None:
        """This engine is busy until then, on `time.monotonic`; 0: it is idle."""
        _until.pack_into(self._own, 0, until_s)

    def is_contended(self) -> bool:
        """Whether another engine on one of its GPUs is busy at this moment."""
        now_s = time.monotonic()
        if now_s - self._looked_at_s > LOOK_EVERY_S:
            self._looked_at_s = now_s
            self._look()
        return any(_until.unpack_from(other)[0] > now_s for other in self._others.values())

    def leave(self) -> None:
        """The engine ends."""
        self.tell(0.0)
        self._path.unlink(missing_ok=True)

    def _look(self) -> None:
        found = {path for path in self._folder.iterdir() if path != self._path and _gpus_of(path) & self._gpus}
        for gone in self._others.keys() - found:
            self._others.pop(gone).close()
        for path in found - self._others.keys():
            with contextlib.suppress(OSError, ValueError):  # it went, or its engine has not filled it yet
                if time.time() - path.stat().st_mtime > STALE_AFTER_S and not _lives(path):
                    path.unlink()
                else:
                    self._others[path] = _mapped(path)


def _mapped(path: Path, *, create: bool = False) -> mmap.mmap:
    with path.open("w+b" if create else "r+b") as file:
        if create:
            file.write(_until.pack(0.0))
            file.flush()
        return mmap.mmap(file.fileno(), _until.size)


def _gpus_of(path: Path) -> frozenset[int]:
    return frozenset(int(part) for part in path.stem.split(",") if part.isdigit())


def _lives(path: Path) -> bool:
    return Path(f"/proc/{path.suffix[1:]}").exists()
