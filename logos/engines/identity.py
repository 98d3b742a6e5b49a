"""Which operating-system process an engine is: a pid alone says little, for pids are used again.

A process is known by its pid and the time it started. Nothing here is found by name, and no signal goes to a
process whose start time does not fit. Linux only, as vLLM is.
"""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import dataclass

import psutil

from logos.engines.launch import MARK_NAME

# The start time is counted from the machine's boot and converted; setting the clock may shift it a little.
_STARTED_TOLERANCE_S = 2.0


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process by its pid and the Unix time of its start."""

    pid: int
    started_at_s: float

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity | None:
        """The process that has this pid now, if any."""
        try:
            return cls(pid, psutil.Process(pid).create_time())
        except psutil.Error:
            return None

    def is_same(self, other: ProcessIdentity) -> bool:
        """Whether both name one process."""
        return self.pid == other.pid and abs(self.started_at_s - other.started_at_s) <= _STARTED_TOLERANCE_S

    def find(self) -> psutil.Process | None:
        """This very process, if it still runs; a dead one that nobody has waited for yet does not."""
        try:
            process = psutil.Process(self.pid)
            if not self.is_same(ProcessIdentity(self.pid, process.create_time())):
                return None
            return None if process.status() == psutil.STATUS_ZOMBIE else process
        except psutil.Error:
            return None

    def session(self) -> list[psutil.Process]:
        """This process, then every other of the session that it leads; nothing if it has ended."""
        leader = self.find()
        if leader is None:
            return []
        return [leader, *self._members()]

    def orphans(self, mark: str) -> list[psutil.Process]:
        """What is left of its session after its own end: processes that carry `mark` in MARK_NAME.

        The mark tells them from the session of a later process that was given the same pid.
        """
        now = ProcessIdentity.of(self.pid)
        if now is not None and not self.is_same(now):
            return []
        return [process for process in self._members() if _mark_of(process) == mark]

    def _members(self) -> list[psutil.Process]:
        found: list[psutil.Process] = []
        for pid in psutil.pids():
            if pid != self.pid and _session_of(pid) == self.pid:
                with contextlib.suppress(psutil.Error):
                    found.append(psutil.Process(pid))
        return found

    def listens_on(self, port: int) -> bool:
        """Whether this process, or another of its session, listens on a TCP port."""
        for process in self.session():
            with contextlib.suppress(psutil.Error):
                connections = process.net_connections(kind="tcp")
                if any(each.status == psutil.CONN_LISTEN and each.laddr.port == port for each in connections):
                    return True
        return False


def send(process: psutil.Process, number: signal.Signals) -> None:
    """Signal a process; psutil refuses if its pid now belongs to another one. Nothing happens if it is gone."""
    with contextlib.suppress(psutil.Error):
        process.send_signal(number)


def gone(process: psutil.Process) -> bool:
    """Whether a process has ended (waited for or not)."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return True


def _mark_of(process: psutil.Process) -> str | None:
    try:
        return process.environ().get(MARK_NAME)
    except psutil.Error:
        return None


def _session_of(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return -1
