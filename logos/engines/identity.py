"""Which operating-system process an engine is: a pid alone says little, for pids are used again.

A process is known by its pid and the moment it started, counted by the kernel since that very boot of the machine, so
that setting the clock changes nothing. Nothing here is found by name, and no signal goes to a process whose start does
not fit. Engines are Linux only, as vLLM is; an identity alone can be had elsewhere too, by the clock.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
from dataclasses import dataclass
from pathlib import Path

import psutil

from logos.engines.launch import MARK_NAME

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_START_TICKS = 19  # in /proc/PID/stat, counted from behind the name: field 22, `starttime`
# By the clock the start is the machine's boot and what was counted since; setting the clock may shift it a little.
_STARTED_TOLERANCE_S = 2.0


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process by its pid and its start. `since_boot`: the id of the machine's boot and the ticks counted since. Where
    the kernel does not tell, and in records of earlier versions, it is empty, and `started_at_s` the Unix time."""

    pid: int
    started_at_s: float = 0.0
    since_boot: str = ""

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity | None:
        """The process that has this pid now, if any."""
        try:
            if since_boot := _since_boot(pid):
                return cls(pid, since_boot=since_boot)
            return cls(pid, psutil.Process(pid).create_time())
        except psutil.Error:
            return None

    def find(self) -> psutil.Process | None:
        """This very process, if it still runs; a dead one that nobody has waited for yet does not."""
        try:
            process = psutil.Process(self.pid)
            if not self._is(process):
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
        with contextlib.suppress(psutil.Error):
            if not self._is(psutil.Process(self.pid)):
                return []
        return [process for process in self._members() if _mark_of(process) == mark]

    def _is(self, process: psutil.Process) -> bool:
        if self.since_boot:
            return _since_boot(process.pid) == self.since_boot
        return abs(process.create_time() - self.started_at_s) <= _STARTED_TOLERANCE_S

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


@functools.cache
def _boot_id() -> str:
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _since_boot(pid: int) -> str:
    """Which boot of the machine, and the ticks from there to the start of the process; empty if it is gone, or where
    the kernel does not tell."""
    try:
        _, _, behind_name = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")
    except OSError:
        return ""
    return f"{boot} {int(behind_name.split()[_START_TICKS])}" if (boot := _boot_id()) else ""


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
