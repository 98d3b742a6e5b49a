"""The ports that a platform finds for Ray, Serve and HAProxy before any of them listens there."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from deployments import ray_environment
from deployments.ray_environment import free_port, free_ports, settings_here
from logos.config import Settings
from logos.domain.errors import Conflict

HANDED_OUT_BY_THE_SYSTEM = range(32_768, 65_536)


def test_no_port_of_a_platform_is_one_that_the_system_hands_out_to_connections(tmp_path: Path) -> None:
    table = settings_here(Settings(), tmp_path)
    ports = [int(setting.value) for setting in table if setting.name.endswith("_PORT")]
    assert len(ports) == 6
    assert len(set(ports)) == len(ports)
    assert not set(ports) & set(HANDED_OUT_BY_THE_SYSTEM)
    assert free_port() not in HANDED_OUT_BY_THE_SYSTEM


def test_what_haproxy_and_the_fallback_take_is_no_replicas(tmp_path: Path) -> None:
    found = {setting.name: setting.value for setting in settings_here(Settings(), tmp_path)}
    first, last = (int(found[f"RAY_SERVE_DIRECT_INGRESS_{each}_HTTP_PORT"]) for each in ("MIN", "MAX"))
    others = [int(value) for name, value in found.items() if name.endswith("_PORT") and "DIRECT_INGRESS" not in name]
    assert last - first == 99
    assert not set(others) & set(range(first, last + 1))


def test_a_port_at_which_somebody_listens_is_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(ray_environment, "SINGLE_PORTS", range(port, port + 1))
        monkeypatch.setattr(ray_environment, "PORTS_IN_A_ROW", range(port, port + 2))
        with pytest.raises(Conflict):
            free_port()
        with pytest.raises(Conflict):
            free_ports(1)


def test_a_port_is_given_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = free_port()
    monkeypatch.setattr(ray_environment, "SINGLE_PORTS", range(first, first + 1))
    with pytest.raises(Conflict):
        free_port()
