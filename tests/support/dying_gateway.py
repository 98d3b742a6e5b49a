"""A gateway that dies by SIGKILL with requests in every state in its outbox.

Twenty requests: odd ones have ended, every fourth has relayed nothing yet, the others 5 + their number tokens.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from logos.domain.records import Progress
from logos.gateway.outbox import Outbox
from tests.support.records import NOW, closing_of, opening_of

REQUESTS = 20


def die_in(root: Path) -> None:
    """Let a process of its own do it."""
    checkout = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-m", "tests.support.dying_gateway", str(root)]
    ended = subprocess.run(command, timeout=60, cwd=checkout)
    assert ended.returncode == -signal.SIGKILL


def main(root: Path) -> None:
    outbox = Outbox(root, "gateway-that-dies", segment_bytes_max=2000)
    for number in range(REQUESTS):
        opening = opening_of(number)
        outbox.open(opening)
        if number % 2:
            outbox.close(closing_of(opening))
        elif number % 4:
            outbox.progress(Progress(opening.request_id, 1, NOW + 1))
            outbox.progress(Progress(opening.request_id, 5 + number, NOW + 1))
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
