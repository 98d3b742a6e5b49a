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
HAPROXY_PREFIX = "logos-ha-"
AUTH_MODE = "RAY_AUTH_MODE"  # Ray clusters started by hand ask for a token only if told to, or if they find one


def free_port() -> int:
    """A loopback port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def free_ports(count: int) -> range:
    """So many loopback ports in a row that are free now, below the ones that the system hands out by itself.

    Where it begins is left to chance, so that two platforms that start at once do not find the same ones.
    """
    for _ in range(100):
        first = secrets.choice(range(20_000, 32_000, count))
        if all(_is_free(port) for port in range(first, first + count)):
            return range(first, first + count)
    raise Conflict(f"no {count} free ports in a row between 20000 and 32000 for the replicas of the gateway")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


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
    return ray_settings(
        haproxy_dir=haproxy_dir,
        stats_port=free_port(),
        metrics_port=free_port(),
        replica_ports=free_ports(REPLICA_PORTS),
        fallback_ports=(free_port(), free_port()),
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
