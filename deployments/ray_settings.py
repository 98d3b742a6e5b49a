"""The one table of what must be set before Ray starts, with the reason for each line.

Used in two ways: `logos up` sets it before it starts a Ray of its own; with `--ray-address` the same table is checked
against the running cluster and what is missing is named in one line. No other module sets an environment variable
for Ray.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class RaySetting:
    """An environment variable of Ray or Ray Serve, and what goes wrong without it."""

    name: str
    value: str
    reason: str


def ray_settings(
    *,
    haproxy_dir: Path,
    stats_port: int,
    metrics_port: int,
    replica_ports: range,
    fallback_ports: tuple[int, int],
    longest_request_s: int,
    reload_grace_s: int,
    haproxy: bool,
) -> tuple[RaySetting, ...]:
    """`longest_request_s` bounds a whole answer, streams included; `reload_grace_s` an answer that is under way when
    replicas come or go, which replaces HAProxy's process; `haproxy_dir` takes HAProxy's files and must be short, for
    Serve puts 70 characters behind it and a socket's path may have 107.

    Figures and sources: docs/design.md, "Ray and Serve settings".
    """
    ha = haproxy_dir
    common = (
        RaySetting("RAY_worker_niceness", "0", "workers at nice 15 lose against everything else on the machine"),
        RaySetting("RAY_SERVE_THROUGHPUT_OPTIMIZED", "1", "one event loop per replica; no extra thread hop"),
        RaySetting(
            "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH",
            "deployments.serve_headers:middlewares",
            "clients could set Serve's own x-request-* headers",
        ),
        RaySetting("FORWARDED_ALLOW_IPS", "none", "uvicorn would believe clients on where they are"),
        RaySetting(
            "RAY_SERVE_REQUEST_PROCESSING_TIMEOUT_S", str(longest_request_s), "long answers would end with a 408"
        ),
        RaySetting("RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S", "1", "a dead proxy would be noticed after 10 s"),
        RaySetting("RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S", "1", "shutdown would take 30 s"),
        RaySetting("RAY_SERVE_LOG_TO_STDERR", "0", "logs would be written twice"),
        RaySetting("RAY_DEDUP_LOGS", "0", "different requests' lines would be folded into one"),
        RaySetting("RAY_USAGE_STATS_ENABLED", "0", "nothing is reported to anybody"),
    )
    if not haproxy:
        return common
    first, last = replica_ports.start, replica_ports.stop - 1
    shared = "replicas of two clusters on one machine would share ports from 30000 on, and answer for each other"
    return (
        *common,
        RaySetting("RAY_SERVE_ENABLE_HA_PROXY", "1", "HAProxy in front of the replicas: 2,200 against 380 requests/s"),
        RaySetting("RAY_SERVE_HAPROXY_BINARY_PATH", str(ha / "haproxy"), "clients that leave would go unnoticed"),
        RaySetting("RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT", str(first), shared),
        RaySetting("RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT", str(last), shared),
        RaySetting("RAY_SERVE_FALLBACK_PROXY_HTTP_PORT", str(fallback_ports[0]), shared),
        RaySetting("RAY_SERVE_FALLBACK_PROXY_GRPC_PORT", str(fallback_ports[1]), shared),
        RaySetting(
            "RAY_SERVE_HAPROXY_STATS_PORT", str(stats_port), "two clusters on one machine would collide on 8404"
        ),
        RaySetting("RAY_SERVE_HAPROXY_METRICS_PORT", str(metrics_port), "two clusters would collide on 9101"),
        RaySetting("RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S", str(reload_grace_s), "a reload cuts streams after 120 s"),
        RaySetting("RAY_SERVE_HAPROXY_CONFIG_FILE_LOC", str(ha / "haproxy.cfg"), "clusters would share /tmp"),
        RaySetting("RAY_SERVE_HAPROXY_SOCKET_PATH", str(ha / "admin.sock"), "clusters would share /tmp"),
        RaySetting("RAY_SERVE_HAPROXY_SERVER_STATE_BASE", str(ha), "clusters would share /tmp"),
        RaySetting("RAY_SERVE_HAPROXY_SERVER_STATE_FILE", str(ha / "server-state"), "clusters would share /tmp"),
        RaySetting("RAY_SERVE_HAPROXY_METRICS_ENABLED", "0", "Serve would parse a log line per request, 66 us each"),
        RaySetting("RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER", "1s", "a dead replica would be sent requests for 10 s"),
        RaySetting("RAY_SERVE_HAPROXY_NBTHREAD", "1", "more threads only take turns on small machines"),
    )


def apply(settings: tuple[RaySetting, ...]) -> None:
    """Sets every line that the operator has not set, in this process, from which Ray's inherit."""
    for setting in settings:
        os.environ.setdefault(setting.name, setting.value)


# Paths and ports differ from cluster to cluster; only these must hold for a cluster that is already there.
CHECKED_IN_A_RUNNING_CLUSTER = frozenset(
    {
        "RAY_worker_niceness",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED",
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH",
        "FORWARDED_ALLOW_IPS",
        "RAY_SERVE_ENABLE_HA_PROXY",
        "RAY_SERVE_HAPROXY_BINARY_PATH",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S",
        "RAY_SERVE_REQUEST_PROCESSING_TIMEOUT_S",
    }
)


def missing(settings: tuple[RaySetting, ...], environment: Mapping[str, str]) -> tuple[RaySetting, ...]:
    """The lines that a running cluster's environment lacks."""
    return tuple(
        setting
        for setting in settings
        if setting.name in CHECKED_IN_A_RUNNING_CLUSTER and not environment.get(setting.name)
    )


def describe_missing(settings: tuple[RaySetting, ...]) -> str:
    """One line for the operator; empty if nothing is missing."""
    if not settings:
        return ""
    wanted = " ".join(f"{setting.name}={setting.value}" for setting in settings)
    return (
        f"the Ray cluster lacks {wanted} (without: {settings[0].reason}); start it anew, on every machine after "
        '`eval "$(python -m deployments.ray_environment)"`'
    )
