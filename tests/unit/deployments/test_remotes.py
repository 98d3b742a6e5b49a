"""What a caller learns of an actor when Ray itself fails."""

from __future__ import annotations

import pytest
import ray
from ray.exceptions import GetTimeoutError, RayError, RaySystemError, RpcError

from deployments.remotes import replica_lives


def failing(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def get_actor(name: str, namespace: str) -> None:
        raise error

    monkeypatch.setattr(ray, "get_actor", get_actor)


async def test_a_gateway_whose_name_is_forgotten_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    failing(ValueError("no such actor"), monkeypatch)
    assert not await replica_lives("g1")


@pytest.mark.parametrize("error", [RpcError("unavailable"), RaySystemError("lost"), GetTimeoutError("late")])
async def test_a_gateway_that_ray_cannot_be_asked_about_lives_and_a_line_says_why(
    error: RayError, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failing(error, monkeypatch)
    assert await replica_lives("g1")
    assert type(error).__name__ in caplog.text
