"""Steps that need Ray, while it is there: what hangs because Ray has gone is left behind.

Ray's own calls wait a minute for a cluster that has died, and then end this process on the spot, so nothing would be
stopped that comes after them. What the steps are and in which order they are taken is decided in `up`.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)

LOOK_S = 0.2
CONNECT_S_MAX = 1.0


def listens(address: str) -> bool:
    """Whether anybody accepts connections at HOST:PORT. What is no such address is taken to."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return True
    with contextlib.suppress(OSError), socket.create_connection((host.strip("[]"), int(port)), CONNECT_S_MAX):
        return True
    return False


def done(name: str, step: Callable[[], None], is_there: Callable[[], bool]) -> bool:
    """Runs a step to its end; False if what it needs was not there, or went before the step had ended. What goes wrong
    in it otherwise is one line in the log."""

    def run() -> None:
        try:
            step()
        except Exception as error:  # noqa: BLE001 - the next step must be taken whatever happened to this one
            log.warning("stopping %s: %s", name, error)

    if not is_there():
        return False
    thread = threading.Thread(target=run, daemon=True, name=f"stopping {name}")
    thread.start()
    while True:
        thread.join(LOOK_S)
        if not thread.is_alive():
            return True
        if not is_there():
            return False
