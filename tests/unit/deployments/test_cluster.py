"""Joining a Ray cluster, as far as it goes without one; the rest is in tests/acceptance/test_ray_address.py."""

from __future__ import annotations

import pytest

from deployments import cluster, ray_environment
from deployments.ray_settings import RaySetting
from logos.domain.errors import Conflict


def test_an_address_where_nothing_listens_is_refused_at_once() -> None:
    with pytest.raises(Conflict, match=r"no Ray cluster answers at 127\.0\.0\.1:1:"):
        cluster.join("127.0.0.1:1", (), {})


def test_what_an_operator_has_set_is_not_exported_and_values_survive_a_shell() -> None:
    table = (RaySetting("A", "1", "why"), RaySetting("B", "a path/with spaces", "why"))
    lines = ["export RAY_AUTH_MODE=token", "export A=1", "export B='a path/with spaces'"]
    assert ray_environment.exports(table, {}) == lines
    assert ray_environment.exports(table, {"A": "2", "RAY_AUTH_MODE": "disabled"}) == lines[2:]


def test_the_token_is_shown_only_where_there_is_one_and_nobody_decided(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    import os

    ray_environment.show_token()
    assert "RAY_AUTH_MODE" not in os.environ
    monkeypatch.setenv("RAY_AUTH_TOKEN", "t")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    ray_environment.show_token()
    assert os.environ["RAY_AUTH_MODE"] == "disabled"
    monkeypatch.delenv("RAY_AUTH_MODE")
    ray_environment.show_token()
    assert os.environ["RAY_AUTH_MODE"] == "token"
    monkeypatch.delenv("RAY_AUTH_MODE")
