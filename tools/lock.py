"""Writes constraints.txt: one pinned version of every package for every supported Python.

`make lock` runs it, with the newest releases that pyproject.toml admits. The file names no index host, so
that it holds on any machine, whatever index pip is configured with there.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from install import CONSTRAINTS, ROOT, uv_settings

HEADER = """\
# Pinned versions of everything that Logos and its tests install, for Python 3.11, 3.12 and 3.13.
# Written by `make lock`; change pyproject.toml, then run it again.
"""


def main() -> int:
    """Resolves, then replaces the file in one step."""
    venv = Path(sys.prefix)
    command = [
        str(venv / "bin" / "uv"), "pip", "compile", "--quiet", "--universal", "--upgrade",
        "--python-version", "3.11", "--extra", "test", "--extra", "install", "--no-annotate",
        "--no-header", "--no-emit-index-url", "--no-emit-find-links", "pyproject.toml",
    ]  # fmt: skip
    settings = {**uv_settings(venv), **os.environ}
    done = subprocess.run(command, cwd=ROOT, env=settings, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        return done.returncode
    written = CONSTRAINTS.with_suffix(".new")
    written.write_text(HEADER + done.stdout)
    written.replace(CONSTRAINTS)
    print(f"{CONSTRAINTS.name}: {done.stdout.count('==')} pins")
    return 0


if __name__ == "__main__":
    sys.exit(main())
