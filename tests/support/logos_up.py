"""A whole platform for tests and benchmarks: `logos up` in a process of its own, started, asked, broken and stopped.

Only what an operator could do is done here: the command, the HTTP interface, SQL, and signals to processes. Every
process that the platform was seen to have is remembered by pid and start time, so that stopping can be checked.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx
import psutil
import psycopg

from tests.support.vllm_server import free_port

CHECKOUT = Path(__file__).resolve().parents[2]
ROOT_KEY = "root-key-of-the-tests"
READY_S_MAX = 120.0
STOP_S_MAX = 15.0
LOOK_INTERVAL_S = 0.5

# Parts by what their processes are called. A Ray actor's process is called ray::CLASS, and ray::CLASS.METHOD meanwhile.
PARTS = {
    "replica": ("ray::ServeReplica:logos:Ingress",),
    "classifier": ("ray::ServeReplica:logos:Classifier",),
    "scheduler": ("ray::Scheduler",),
    "ledger": ("ray::Ledger",),
    "accounts": ("ray::Accounts",),
    "node": ("ray::NodeOnRay", "ray::NodeActor"),
    "haproxy manager": ("ray::HAProxyManager", "ray::ProxyActor"),
    "serve controller": ("ray::ServeController",),
    "haproxy": ("haproxy",),
    "postgres": ("postgres",),
    "gcs": ("gcs_server",),
    "raylet": ("raylet",),
    "engine": ("logos.simulation.server",),
}


@dataclass(frozen=True, slots=True)
class Seen:
    """A process as it was when it was seen."""

    pid: int
    started: float
    name: str

    def process(self) -> psutil.Process | None:
        """It, if it still is what it was."""
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(self.pid)
            if abs(process.create_time() - self.started) < 0.02 and process.status() != psutil.STATUS_ZOMBIE:
                return process
        return None


class PlatformFailed(AssertionError):
    """The platform did not do what it was told; the message has the end of its output."""


class Platform:
    """`with Platform() as platform:`. `config` is the config file's content; without providers: the default world."""

    def __init__(
        self,
        config: Mapping[str, Any] | None = None,
        *,
        data_dir: Path | None = None,
        environment: Mapping[str, str] | None = None,
        root_key: str = ROOT_KEY,
    ) -> None:
        self.root_key = root_key
        self._own_dir = tempfile.TemporaryDirectory(prefix="lg") if data_dir is None else None
        self.data_dir = data_dir or Path(self._own_dir.name)  # type: ignore[union-attr]  # one of them is there
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self.output = self.data_dir / "up.output"
        self.config_file = self.data_dir / "up.yaml"
        self.config_file.write_text(json.dumps(config or {}))  # JSON is YAML
        self.port = free_port()
        self.base_url = f"http://127.0.0.1:{self.port}"
        self.ready_after_s = 0.0
        self.process: subprocess.Popen[bytes] | None = None
        self._environment = environment or {}
        self._seen: dict[tuple[int, float], Seen] = {}
        self._looking = threading.Event()
        self._http = httpx.Client(
            base_url=self.base_url, timeout=30, trust_env=False, headers={"authorization": f"Bearer {root_key}"}
        )

    # ------------------------------------------------------------------ life

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.kill_everything()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            left = self.stop()
        finally:
            self.kill_everything()
            if self._own_dir is not None:
                self._own_dir.cleanup()
        if kind is None and left:
            raise PlatformFailed(f"left behind after stopping: {', '.join(each.name for each in left)}\n{self.tail()}")

    def start(self, ready_s_max: float = READY_S_MAX) -> None:
        """Returns when /health/ready says 200 and the command has said that it is ready, which may be a bit later."""
        command = [str(Path(sys.executable).with_name("logos")), "up", "--config", str(self.config_file)]
        command += ["--port", str(self.port), "--data-dir", str(self.data_dir)]
        began = time.monotonic()
        said_before = self.output.stat().st_size if self.output.exists() else 0
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                command,
                cwd=CHECKOUT,
                env={**os.environ, "LOGOS_ROOT_KEY": self.root_key, **self._environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._looking.clear()
        threading.Thread(target=self._look_for_ever, args=(self.process.pid,), daemon=True).start()
        self._wait_until_ready(began + ready_s_max, said_before)
        self.ready_after_s = time.monotonic() - began
        self.look()

    def _wait_until_ready(self, deadline: float, said_before: int) -> None:
        assert self.process is not None
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise PlatformFailed(f"logos up ended with {self.process.returncode}:\n{self.tail()}")
            with contextlib.suppress(httpx.TransportError):
                ready = self._http.get("/health/ready", timeout=5).status_code == 200
                if ready and b"Logos is ready" in self.output.read_bytes()[said_before:]:
                    return
            time.sleep(0.1)
        raise PlatformFailed(f"not ready in time:\n{self.tail()}")

    def stop(self, number: int = signal.SIGINT, within_s: float = STOP_S_MAX) -> list[Seen]:
        """Sends the signal, waits for the end and returns the processes that outlived it."""
        if self.process is None or self.process.poll() is not None:
            return self.living()
        self.look()
        self.process.send_signal(number)
        try:
            self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            raise PlatformFailed(f"still running {within_s:.0f} s after signal {number}:\n{self.tail()}") from None
        finally:
            self._looking.set()
        deadline = time.monotonic() + 1.0  # what has been waited for by nobody is reaped by init in its own time
        while (left := self.living()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return left

    def kill_everything(self) -> None:
        """Whatever is left of it, by pid and start time: so that nothing outlives a failed test."""
        self._looking.set()
        self._http.close()
        if self.process is not None and self.process.poll() is None:
            self.look()
            self.process.kill()
            self.process.wait()
        for seen in self.living():
            process = seen.process()
            if process is not None:
                with contextlib.suppress(psutil.Error):
                    process.kill()

    def tail(self, lines: int = 40) -> str:
        """The end of what it printed."""
        return "\n".join(self.output.read_text(errors="replace").splitlines()[-lines:])

    def logs(self) -> dict[str, str]:
        """What every process of its Ray has written so far, by name of file."""
        (raylet,) = self.processes("raylet")
        (option,) = (each for each in raylet.cmdline() if each.startswith("--log_dir="))
        files = [path for path in Path(option.partition("=")[2]).rglob("*") if path.is_file()]
        return {path.name: path.read_text(errors="replace") for path in files}

    # ------------------------------------------------------------------ its processes

    def _look_for_ever(self, pid: int) -> None:
        looking = self._looking
        while not looking.wait(LOOK_INTERVAL_S):
            self.look()

    def look(self) -> None:
        """Remembers every process below `logos up`, and below those seen before that have left it."""
        if self.process is None:
            return
        roots = [self.process.pid, *(seen.pid for seen in list(self._seen.values()) if seen.process() is not None)]
        for root in roots:
            with contextlib.suppress(psutil.Error):
                for child in (psutil.Process(root), *psutil.Process(root).children(recursive=True)):
                    with contextlib.suppress(psutil.Error):
                        self._remember(child)

    def _remember(self, process: psutil.Process) -> None:
        command = " ".join(process.cmdline()) or process.name()
        key = process.pid, process.create_time()
        if key not in self._seen or command.startswith("ray::"):
            self._seen[key] = Seen(*key, command[:200])

    def living(self) -> list[Seen]:
        """The processes seen so far that are still there."""
        return [seen for seen in list(self._seen.values()) if seen.process() is not None]

    def processes(self, part: str) -> list[psutil.Process]:
        """The living processes of a part (a key of PARTS), now."""
        self.look()
        found = [seen.process() for seen in self.living() if is_part(part, seen.name)]
        return [process for process in found if process is not None]

    def kill(self, part: str) -> int:
        """SIGKILL to one process of a part. Returns its pid."""
        found = self.processes(part)
        assert found, f"no process of {part} among {sorted({seen.name[:60] for seen in self.living()})}"
        found[0].kill()
        return found[0].pid

    def resident_mib(self, part: str) -> float:
        """Memory held by the processes of a part."""
        return sum(process.memory_info().rss for process in self.processes(part)) / 2**20

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds used so far, by part; what is none of the parts is `other`."""
        self.look()
        used: dict[str, float] = {}
        for seen in self.living():
            process = seen.process()
            if process is None:
                continue
            part = next((name for name in PARTS if is_part(name, seen.name)), "other")
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                used[part] = used.get(part, 0.0) + times.user + times.system
        return used

    # ------------------------------------------------------------------ its doors

    def get(self, path: str, **options: Any) -> Any:
        """JSON from an administrator's GET."""
        return _json(self._http.get(path, **options))

    def post(self, path: str, document: Any) -> Any:
        return _json(self._http.post(path, json=document))

    def delete(self, path: str) -> Any:
        return _json(self._http.delete(path))

    def apply(self, declaration: Mapping[str, Any]) -> Any:
        """What `logos apply` does with a file."""
        return self.post("/admin/apply", declaration)

    def create_key(self, name: str, **declared: Any) -> str:
        """The secret of a new key."""
        secret: str = self.post("/admin/keys", {"name": name, **declared})["keys"][name]
        return secret

    def client(self, key: str | None = None, **options: Any) -> httpx.Client:
        return httpx.Client(
            base_url=self.base_url,
            headers={"authorization": f"Bearer {key or self.root_key}"},
            **{"timeout": 60, "trust_env": False, **options},
        )

    def is_well(self) -> bool:
        """Whether /health answers and says that every part does."""
        try:
            health = self._http.get("/health", timeout=5)
            return health.status_code == 200 and health.json()["status"] == "ok"
        except (httpx.TransportError, ValueError):
            return False

    @property
    def database_url(self) -> str:
        return (self.data_dir / "database_url").read_text().strip()

    @contextlib.contextmanager
    def database(self) -> Iterator[psycopg.Connection[Any]]:
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            yield connection

    def rows(self, query: str, *arguments: Any) -> list[tuple[Any, ...]]:
        with self.database() as connection:
            return connection.execute(query, arguments or None).fetchall()  # type: ignore[arg-type]  # tests write literals

    def value(self, query: str, *arguments: Any) -> Any:
        ((found,),) = self.rows(query, *arguments)
        return found

    def metric(self, name: str) -> float:
        """The sum of a metric's samples over its labels."""
        text = self._http.get("/metrics").text
        lines = (line for line in text.splitlines() if line.startswith((f"{name}{{", f"{name} ")))
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    def metric_by(self, name: str, label: str) -> dict[str, float]:
        """A metric's samples by the value of one label."""
        found: dict[str, float] = {}
        for line in self._http.get("/metrics").text.splitlines():
            if line.startswith(f"{name}{{") and f'{label}="' in line:
                value = line.split(f'{label}="')[1].split('"')[0]
                found[value] = found.get(value, 0.0) + float(line.rpartition(" ")[2])
        return found

    # ------------------------------------------------------------------ its rest

    def wait_until_settled(self, within_s: float = 20.0) -> None:
        """Returns once nothing runs or waits anywhere and every record is in Postgres; fails with what is left."""
        wait_for(lambda: not self.unsettled(), within_s, lambda: f"left after {within_s:.0f} s: {self.unsettled()}")

    def unsettled(self) -> dict[str, float]:
        """What is not at rest, by name; empty when idle."""
        state = self.get("/admin/scheduler")
        figures: dict[str, float] = {
            "waiting": state["waiting"],
            "running": state["running"],
            "places in use": sum(endpoint["running"] for endpoint in state["endpoints"]),
            "in flight in gateways": self.metric("logos_in_flight"),
            "outbox records": self.metric("logos_outbox_records"),
            "records in the ledger": self.metric("logos_ledger_pending_records"),
            "rows without an end": self.value("SELECT count(*) FROM log_entry WHERE result_status IS NULL"),
        }
        return {name: value for name, value in figures.items() if value}


def is_part(part: str, command: str) -> bool:
    """Whether a process of this command line belongs to a part."""
    first = command.split(" ", 1)[0]
    if part == "engine":
        return PARTS[part][0] in command
    if part == "postgres":
        return first == "postgres:" or first.endswith("/postgres")
    return first.startswith(PARTS[part]) if first.startswith("ray::") else first.rpartition("/")[2] in PARTS[part]


def wait_for(condition: Callable[[], Any], within_s: float, explain: Callable[[], str] | str = "not in time") -> Any:
    """What `condition` answered once it is true."""
    deadline = time.monotonic() + within_s
    while True:
        if found := condition():
            return found
        if time.monotonic() > deadline:
            raise PlatformFailed(explain if isinstance(explain, str) else explain())
        time.sleep(0.05)


def _json(response: httpx.Response) -> Any:
    assert response.status_code < 300, (
        f"{response.request.method} {response.url}: {response.status_code} {response.text}"
    )
    return response.json()
