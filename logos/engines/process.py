"""One engine process: start, probe, sleep, wake, stop. Each transition returns the seconds that it took.

The process lives in a session of its own, so it survives the death of whoever started it; `adoption` finds it
again. It is spoken to over HTTP as any vLLM server is. What does not go as it should raises EngineFailed. When and
why an engine sleeps is decided elsewhere.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from logos.domain.errors import EngineFailed
from logos.engines.figures import EngineFigures, parse_figures
from logos.engines.identity import ProcessIdentity, gone, send
from logos.engines.launch import EngineLaunch, command, environment

_IMPORT_PATH = str(Path(__file__).resolve().parents[2])  # the folder that holds `logos`
_POLL_S = 0.02
_POLL_S_MAX = 0.5
_PROBE_TIMEOUT_S = 30.0
_CALL_TIMEOUT_S = 5.0
_KILL_TIMEOUT_S = 10.0
_LOG_TAIL_BYTES = 16_384
_LOG_TAIL_LINES = 5
_LOG_LINE_CHARS_MAX = 300


class EngineProcess:
    """An engine that is to be started, or (with `identity`) one that runs already.

    `session` belongs to the caller. A failed transition leaves the process as it is: stop it, or look again.
    """

    def __init__(
        self,
        launch: EngineLaunch,
        session: aiohttp.ClientSession,
        identity: ProcessIdentity | None = None,
        *,
        sleep_level: int = 1,
        has_slept: bool = False,
    ) -> None:
        self.launch = launch
        self.identity = identity
        self._session = session
        self._child: subprocess.Popen[bytes] | None = None  # None after an adoption
        self._started_s = time.monotonic()
        self.sleep_level = sleep_level  # of its last sleep
        self.has_slept = has_slept  # from then on its weights take host RAM

    @property
    def engine_id(self) -> str:
        return self.launch.engine_id

    @property
    def pid(self) -> int | None:
        return self.identity.pid if self.identity is not None else None

    # --- the process ----------------------------------------------------------------------------------------

    async def start(self) -> float:
        """Start the process; it is not ready yet. Raises EngineFailed, also if it runs already."""
        if self.alive():
            raise EngineFailed(f"engine {self.engine_id} is running already", code="engine_running")
        self._started_s = time.monotonic()
        try:
            child = await asyncio.to_thread(_spawn, self.launch)
        except OSError as error:
            raise EngineFailed(
                f"engine {self.engine_id} cannot be started: {error.strerror or error}", code="engine_not_started"
            ) from error
        self._child = child
        # A child that has already died keeps its pid until it is waited for.
        self.identity = ProcessIdentity.of(child.pid)
        return time.monotonic() - self._started_s

    def alive(self) -> bool:
        """Whether the process runs. Says nothing of whether it answers."""
        if self._child is not None and self._child.poll() is not None:
            return False
        return self.identity is not None and self.identity.find() is not None

    async def wait_ready(self, timeout_s: float) -> float:
        """Wait until /health answers 200; seconds since `start`. Raises EngineFailed when it died or took too long."""
        deadline_s = time.monotonic() + timeout_s
        while not (await self.healthy() and self._owns_its_port()):
            if not self.alive():
                raise EngineFailed(
                    f"engine {self.engine_id} ended while it was loading{self._how_it_ended()}", code="engine_died"
                )
            if time.monotonic() >= deadline_s:
                raise EngineFailed(
                    f"engine {self.engine_id} was not ready after {timeout_s:g} s{self._last_words()}",
                    code="engine_timeout",
                )
            # Often at first, then at about every tenth of what it has taken so far.
            await asyncio.sleep(min(_POLL_S + (time.monotonic() - self._started_s) / 10, _POLL_S_MAX))
        return time.monotonic() - self._started_s

    def _owns_its_port(self) -> bool:
        """Whether it was this engine that answered, and not a stranger who had taken its port."""
        return self.identity is not None and self.identity.listens_on(self.launch.port)

    async def stop(self, grace_s: float = 10.0) -> float:
        """SIGTERM, after `grace_s` SIGKILL for its whole session; returns when all of it is gone.

        Raises EngineFailed if the kernel does not let go of it.
        """
        began_s = time.monotonic()
        if self.identity is not None:
            await self._end(self.identity, grace_s)
        if self._child is not None:
            await asyncio.to_thread(self._child.wait)
        return time.monotonic() - began_s

    async def _end(self, identity: ProcessIdentity, grace_s: float) -> None:
        members = identity.session()
        if members:
            send(members[0], signal.SIGTERM)
            if await self._all_gone(members, grace_s):
                return
            # Whoever joined the session meanwhile goes too.
            members += [process for process in identity.session() if process not in members]
        members += [process for process in identity.orphans(self.engine_id) if process not in members]
        for process in members:
            send(process, signal.SIGKILL)
        if not await self._all_gone(members, _KILL_TIMEOUT_S):
            raise EngineFailed(f"engine {self.engine_id} cannot be ended", code="engine_stuck")

    async def _all_gone(self, members: list[psutil.Process], timeout_s: float) -> bool:
        deadline_s = time.monotonic() + timeout_s
        while not all(gone(process) for process in members):
            if time.monotonic() >= deadline_s:
                return False
            await asyncio.sleep(_POLL_S)
        return True

    # --- the server -----------------------------------------------------------------------------------------

    async def healthy(self) -> bool:
        """Whether /health answers 200 at this moment."""
        try:
            status, _ = await self._call("GET", "/health", _CALL_TIMEOUT_S)
        except EngineFailed:
            return False
        return status == 200

    async def probe(self, timeout_s: float = _PROBE_TIMEOUT_S) -> float:
        """Have one token made: the proof that it serves, which /health is not. Raises EngineFailed.

        A model that cannot complete text refuses with a 4xx; such an engine is alive too.
        """
        began_s = time.monotonic()
        body = {"model": self.launch.model, "prompt": "a", "max_tokens": 1}
        status, text = await self._call("POST", "/v1/completions", timeout_s, body)
        if status >= 500:
            raise EngineFailed(f"engine {self.engine_id} answered a probe with {status}: {text[:200]}")
        return time.monotonic() - began_s

    async def is_sleeping(self) -> bool:
        """Whether it sleeps; an engine without sleep mode never does. Raises EngineFailed."""
        if not self.launch.can_sleep:
            return False
        status, text = await self._call("GET", "/is_sleeping", _CALL_TIMEOUT_S)
        return status == 200 and '"is_sleeping":true' in text.replace(" ", "")

    async def sleep(self, level: int = 1, *, timeout_s: float = 120.0) -> float:
        """Put it to sleep once what runs there has ended (drain it first). Raises EngineFailed."""
        if not self.launch.can_sleep:
            raise EngineFailed(f"engine {self.engine_id} has no sleep mode", code="engine_cannot_sleep")
        began_s = time.monotonic()
        await self._order(f"/sleep?level={level}&mode=wait", timeout_s)
        self.sleep_level = level
        self.has_slept = True
        return time.monotonic() - began_s

    async def wake(self, *, timeout_s: float = 120.0) -> float:
        """Wake it up and have one token made. Raises EngineFailed."""
        began_s = time.monotonic()
        if self.sleep_level == 2:
            # The weights were discarded: they are read again before there is a KV cache to fill.
            await self._order("/wake_up?tags=weights", timeout_s)
            await self._order("/collective_rpc", timeout_s, {"method": "reload_weights"})
            await self._order("/wake_up?tags=kv_cache", timeout_s)
            await self._order("/reset_prefix_cache", timeout_s)
        else:
            await self._order("/wake_up", timeout_s)
        if await self.is_sleeping():
            raise EngineFailed(f"engine {self.engine_id} still sleeps after waking it", code="engine_not_awake")
        await self.probe()
        return time.monotonic() - began_s

    async def scrape(self) -> EngineFigures:
        """Its figures at this moment. Raises EngineFailed."""
        status, text = await self._call("GET", "/metrics", _CALL_TIMEOUT_S)
        try:
            return parse_figures(text)
        except ValueError as error:
            raise EngineFailed(f"engine {self.engine_id} answered /metrics with {status}: {error}") from error

    async def _order(self, path: str, timeout_s: float, body: dict[str, Any] | None = None) -> None:
        status, text = await self._call("POST", path, timeout_s, body)
        if status != 200:
            raise EngineFailed(f"engine {self.engine_id} answered {path} with {status}: {text[:200]}")

    async def _call(
        self, method: str, path: str, timeout_s: float, body: dict[str, Any] | None = None
    ) -> tuple[int, str]:
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        try:
            async with self._session.request(
                method, self.launch.base_url + path, json=body, timeout=timeout
            ) as response:
                return response.status, await response.text()
        except TimeoutError as error:
            raise EngineFailed(
                f"engine {self.engine_id} did not answer {path} within {timeout_s:g} s", code="engine_timeout"
            ) from error
        except aiohttp.ClientError as error:
            raise EngineFailed(f"engine {self.engine_id} cannot be reached: {error}", code="engine_away") from error

    # --- its log --------------------------------------------------------------------------------------------

    def log_tail(self, lines: int = 20) -> list[str]:
        """The last lines of its log; for operators, as they may hold anything."""
        try:
            with Path(self.launch.log_file).open("rb") as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(0, file.tell() - _LOG_TAIL_BYTES))
                text = file.read().decode(errors="replace")
        except OSError:
            return []
        return [line[:_LOG_LINE_CHARS_MAX] for line in text.splitlines() if line.strip()][-lines:]

    def _how_it_ended(self) -> str:
        code = self._child.returncode if self._child is not None else None
        how = "" if code is None else f" by signal {-code}" if code < 0 else f" with exit code {code}"
        return how + self._last_words()

    def _last_words(self) -> str:
        tail = self.log_tail(_LOG_TAIL_LINES)
        return "; its log ends: " + " | ".join(tail) if tail else f"; its log {self.launch.log_file} is empty"


def _spawn(launch: EngineLaunch) -> subprocess.Popen[bytes]:
    log_file = Path(launch.log_file)
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with log_file.open("ab") as log:
        return subprocess.Popen(
            command(launch),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment(launch, os.environ, _IMPORT_PATH),
            start_new_session=True,  # survives kill -9 of this process
        )


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port that is free at this moment; somebody else may take it before the engine does."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
