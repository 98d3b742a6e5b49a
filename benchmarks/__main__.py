"""Runs the benchmarks one after the other, each in a process of its own: `python -m benchmarks [NAME ...]`.

A benchmark is a module `bench_NAME.py` here with a `main()`; it exits with another code than 0 when a limit that it
states is missed. Without names, all of them run.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PREFIX = "bench_"


def main(chosen: list[str]) -> int:
    """1 when any benchmark missed its limit, 2 for a name that is none."""
    names = sorted(path.stem.removeprefix(PREFIX) for path in Path(__file__).parent.glob(f"{PREFIX}*.py"))
    unknown = [name for name in chosen if name not in names]
    if unknown:
        print(f"no benchmark is called {', '.join(unknown)}; there are {', '.join(names)}", file=sys.stderr)
        return 2
    missed = []
    for name in chosen or names:
        print(f"== {name}", flush=True)
        done = subprocess.run([sys.executable, "-m", f"benchmarks.{PREFIX}{name}"], check=False)
        if done.returncode:
            missed.append(name)
    if missed:
        print(f"missed their limit or failed: {', '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
