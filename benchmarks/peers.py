"""The peers that the gateway is measured against, and wrk: nginx as an upstream and as a plain proxy.

Everything is started on a free loopback port in a directory of its own and ended by its pid, whatever happens.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.support.vllm_server import free_port

ANSWER = (
    '{"id":"chatcmpl-bench","object":"chat.completion","created":1700000000,"model":"bench","choices":[{"index":0,'
    '"message":{"role":"assistant","content":"Hello! I am a model that always answers the same words to everybody,'
    ' at once."},"finish_reason":"stop"}],"usage":{"prompt_tokens":12,"completion_tokens":18,'
    '"total_tokens":30},"system_fingerprint":"fp_01"}'
)

REQUEST = '{"model":"%s","messages":[{"role":"user","content":"Say hello to everybody, please."}]}'

_COMMON = """
worker_processes 1;
pid nginx.pid;
error_log stderr crit;
events { worker_connections 4096; }
http {
  access_log off;
  keepalive_requests 100000000;
  keepalive_timeout 300s;
  client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;
"""
_UPSTREAM = """
  server { listen 127.0.0.1:%d backlog=4096; default_type application/json;
    location / { return 200 '%s'; } }
}
"""
_PROXY = """
  upstream whole { server 127.0.0.1:%d; keepalive 128; keepalive_requests 100000000; }
  upstream streams { server 127.0.0.1:%d; keepalive 128; }
  server { listen 127.0.0.1:%d backlog=4096;
    proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; tcp_nodelay on;
    location / { proxy_pass http://whole; }
    location /streams/ { proxy_pass http://streams; } }
}
"""
# wrk prints one line of JSON; percentiles are in microseconds, errors are answers that are not 2xx or 3xx.
_LUA = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer %s"
wrk.body = [[%s]]
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '{"requests":%%d,"us":%%d,"status":%%d,"socket":%%d,"p50":%%d,"p99":%%d}\\n', summary.requests, summary.duration,
    e.status, e.connect + e.read + e.write + e.timeout, latency:percentile(50), latency:percentile(99)))
end
"""


def missing_tools() -> str:
    """What to install first; empty if everything is here."""
    missing = [tool for tool in ("nginx", "wrk") if shutil.which(tool) is None]
    return f"{' and '.join(missing)} not found: apt-get install {' '.join(missing)}" if missing else ""


@dataclass(frozen=True, slots=True)
class Run:
    """What wrk saw in one run."""

    requests: int
    requests_per_s: float
    p50_ms: float
    p99_ms: float
    errors: int
    cpu_s: float


def wrk(url: str, key: str, model: str, connections: int, seconds: float, directory: Path) -> Run:
    """One run of wrk with one thread."""
    script = directory / "post.lua"
    script.write_text(_LUA % (key, REQUEST % model))
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:.0f}s", "--timeout", "10s", "-s", str(script), url]
    before = os.times()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    after = os.times()
    line = next(line for line in done.stdout.splitlines() if line.startswith("{"))
    found = json.loads(line)
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return Run(
        requests=found["requests"],
        requests_per_s=found["requests"] / (found["us"] / 1e6),
        p50_ms=found["p50"] / 1000,
        p99_ms=found["p99"] / 1000,
        errors=found["status"] + found["socket"],
        cpu_s=spent,
    )


@dataclass(frozen=True, slots=True)
class Peers:
    """Where the peers listen, and their processes."""

    upstream_url: str  # nginx that answers by itself
    proxy_url: str  # nginx in front of it, and of the streaming upstream below /streams/
    streaming_url: str
    processes: dict[str, subprocess.Popen[bytes]]

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds so far, by peer, its children included."""
        used = {}
        for name, process in self.processes.items():
            family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            used[name] = sum(times.user + times.system for times in (each.cpu_times() for each in family))
        return used


@contextlib.contextmanager
def running_peers(directory: Path) -> Iterator[Peers]:
    """nginx twice and the streaming upstream."""
    ports = {name: free_port() for name in ("nginx upstream", "nginx proxy", "streaming upstream")}
    upstream, proxy, streaming = ports.values()
    files = {
        "nginx upstream": _COMMON + _UPSTREAM % (upstream, ANSWER),
        "nginx proxy": _COMMON + _PROXY % (upstream, streaming, proxy),
    }
    processes: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name, text in files.items():
            prefix = directory / name.replace(" ", "-")
            prefix.mkdir()
            (prefix / "nginx.conf").write_text(text)
            command = ["nginx", "-p", str(prefix), "-c", "nginx.conf", "-e", "stderr", "-g", "daemon off;"]
            processes[name] = subprocess.Popen(command, start_new_session=True)
        command = [sys.executable, "-m", "benchmarks.streaming", "upstream", "--port", str(streaming)]
        processes["streaming upstream"] = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
        for port in ports.values():
            wait_for_port(port)
        base = "http://127.0.0.1"
        yield Peers(f"{base}:{upstream}", f"{base}:{proxy}", f"{base}:{streaming}", processes)
    finally:
        for process in processes.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        for process in processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)


def wait_for_port(port: int, within_s: float = 10.0) -> None:
    """Returns once somebody listens there."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise TimeoutError(f"nothing listens on port {port}")
