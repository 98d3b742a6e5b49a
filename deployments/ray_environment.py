"""The settings of `ray_settings` with this machine's own ports and files in them, before a Ray starts here.

`logos up` sets them for itself. For a cluster that is started by hand or by a launcher, on each of its machines:

    eval "$(python -m deployments.ray_environment)"
    ray get-auth-token --generate > /dev/null    # where the cluster has no token yet; every machine needs the same
    ray start --head
"""

from __future__ import annotations

import argparse
import os
import secrets
import shlex
import socket
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from deployments.haproxy import haproxy_available, write_haproxy_wrapper
from deployments.ray_settings import RaySetting, ray_settings
from logos.config import Settings, load
from logos.domain.errors import Conflict, InvalidDeclaration, LogosError

REPLICA_PORTS = 100
PROXY_PORTS = 4  # HAProxy's statistics and metrics, Serve's fallback proxy with HTTP and gRPC
# Below those that the system hands out by itself (from 32768 on): somebody listens there seconds after they were found,
# and by then any connection of anybody could have got one of these as its own end.
PORTS_IN_A_ROW = range(20_000, 32_000)
SINGLE_PORTS = range(32_000, 32_768)
HAPROXY_PREFIX = "logos-ha-"
AUTH_MODE = "RAY_AUTH_MODE"  # Ray clusters started by hand ask for a token only if told to, or if they find one

_given: set[int] = set()


def free_port() -> int:
    """A loopback port that is free now, and that was not given out before."""
    for _ in range(100):
        port = secrets.choice(SINGLE_PORTS)
        if port not in _given and _is_free(port):
            _given.add(port)
            return port
    raise Conflict(f"no free port between {SINGLE_PORTS.start} and {SINGLE_PORTS.stop}")


def free_ports(count: int) -> range:
    """So many loopback ports in a row that are free now.

    Where it begins is left to chance, so that two platforms that start at once do not find the same ones.
    """
    for _ in range(100):
        first = secrets.choice(range(PORTS_IN_A_ROW.start, PORTS_IN_A_ROW.stop - count, count))
        if all(_is_free(port) for port in range(first, first + count)):
            return range(first, first + count)
    message = f"no {count} free ports in a row between {PORTS_IN_A_ROW.start} and {PORTS_IN_A_ROW.stop} for the gateway"
    raise Conflict(message)


def _is_free(port: int) -> bool:
    """At every address: HAProxy takes its statistics and metrics at all of them."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that have ended do no harm
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def require_free(host: str, port: int) -> None:
    """Raises Conflict where nothing can listen at this address, be it that something does already."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        family, kind, number, _, address = min(found, key=lambda each: each[0] != socket.AF_INET)
        with socket.socket(family, kind, number) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that have ended do no harm
            probe.bind(address)
            probe.listen()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise Conflict(f"cannot listen at {host}:{port} ({reason}): give another --host or --port") from None


def claim(host: str, port: int) -> socket.socket:
    """Says to every other `logos up` of this machine that this address is taken, long before anything listens there and
    for as long as the socket is open. Raises Conflict. Only Linux has names that vanish with whoever holds them."""
    sign = socket.socket(socket.AF_UNIX)
    if sys.platform == "linux":
        try:
            sign.bind(f"\0logos up at {host}:{port}")
        except OSError:
            sign.close()
            message = f"another 'logos up' has taken {host}:{port}: stop it or give another --host or --port"
            raise Conflict(message) from None
    return sign


def uses_haproxy(settings: Settings) -> bool:
    return haproxy_available() if settings.ray.haproxy is None else settings.ray.haproxy


def new_haproxy_directory() -> Path:
    """For HAProxy's files, with a short name: Serve puts 70 characters behind it, and a socket's path may have 107."""
    made = Path(tempfile.mkdtemp(prefix=HAPROXY_PREFIX))
    if haproxy_available():
        write_haproxy_wrapper(made)
    return made


def settings_here(settings: Settings, haproxy_dir: Path) -> tuple[RaySetting, ...]:
    """The table for a Ray that starts on this machine."""
    ports = free_ports(REPLICA_PORTS + PROXY_PORTS)
    stats_port, metrics_port, *fallback_ports = ports[REPLICA_PORTS:]
    return ray_settings(
        haproxy_dir=haproxy_dir,
        stats_port=stats_port,
        metrics_port=metrics_port,
        replica_ports=ports[:REPLICA_PORTS],
        fallback_ports=(fallback_ports[0], fallback_ports[1]),
        longest_request_s=int(settings.upstream.total_s),
        reload_grace_s=int(settings.ray.haproxy_reload_grace_s),
        haproxy=uses_haproxy(settings),
    )


def show_token() -> None:
    """Before ray is imported: `ray start` asks for its token wherever there is one, but `ray.init` with an address
    does not show it unless it is told to."""
    given = {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ)
    if given or (Path.home() / ".ray" / "auth_token").exists():
        os.environ.setdefault(AUTH_MODE, "token")


def exports(table: Sequence[RaySetting], environment: Mapping[str, str]) -> list[str]:
    """Lines for a shell. What the operator has set stays."""
    wanted = {AUTH_MODE: "token"} | {setting.name: setting.value for setting in table}
    return [f"export {name}={shlex.quote(value)}" for name, value in wanted.items() if name not in environment]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m deployments.ray_environment", description=__doc__)
    parser.add_argument("--config", type=Path, help="YAML settings, as for `logos up`")
    given = parser.parse_args(arguments)
    try:
        settings = load(given.config).settings
        click.echo("\n".join(exports(settings_here(settings, new_haproxy_directory()), os.environ)))
    except LogosError as error:
        click.echo(f"logos: {error.message}", err=True)
        return 2 if isinstance(error, InvalidDeclaration) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
