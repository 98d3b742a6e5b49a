"""Where the published traces are, if they are on this machine: they are read, never copied.

The folder is named by LOGOS_WORKLOADS, or is `shared/workloads` beside the checkout.
"""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONTENTION_LOADS = (150, 300, 600)


def folder() -> Path | None:
    """The folder of the traces; None where there is none."""
    named = os.environ.get("LOGOS_WORKLOADS")
    found = Path(named) if named else ROOT.parent / "shared" / "workloads"
    return found if found.is_dir() else None


def contention(load: int) -> Path | None:
    """The trace of the contention table with so many requests."""
    where = folder()
    path = where / f"workload_explicit_hw3_even_random_{load}_10m.csv" if where is not None else None
    return path if path is not None and path.is_file() else None
