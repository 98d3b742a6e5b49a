"""The table of what must be set before Ray starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from deployments.ray_settings import apply, describe_missing, missing, ray_settings


def table(*, haproxy: bool = True) -> tuple[object, ...]:
    return ray_settings(
        haproxy_dir=Path("run"),
        stats_port=1,
        metrics_port=2,
        replica_ports=range(20_000, 20_100),
        fallback_ports=(3, 4),
        longest_request_s=3600,
        reload_grace_s=600,
        haproxy=haproxy,
    )


def test_every_setting_is_there_once_and_has_its_reason() -> None:
    names = [setting.name for setting in table()]
    assert len(names) == len(set(names))
    assert all(setting.reason for setting in table())


def test_what_the_operator_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    for setting in table():
        monkeypatch.setenv(setting.name, "the operator's")
    apply(table())
    import os

    assert all(os.environ[setting.name] == "the operator's" for setting in table())


def test_a_cluster_without_a_setting_is_told_in_one_line_what_to_set() -> None:
    settings = table()
    complete = {setting.name: setting.value for setting in settings}
    assert missing(settings, complete) == ()
    assert describe_missing(()) == ""
    lacking = {name: value for name, value in complete.items() if name != "RAY_SERVE_ENABLE_HA_PROXY"}
    line = describe_missing(missing(settings, lacking))
    assert "RAY_SERVE_ENABLE_HA_PROXY=1" in line
    assert "\n" not in line


def test_without_haproxy_nothing_of_it_is_set() -> None:
    assert not any("HAPROXY" in setting.name or "HA_PROXY" in setting.name for setting in table(haproxy=False))
