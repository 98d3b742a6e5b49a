"""What hangs because Ray has gone is left behind."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from deployments.giving_up import done, listens
from deployments.processes import ProcessRecord
from deployments.up import Up
from logos.config import Configuration, Settings


def test_a_step_is_taken_to_its_end() -> None:
    taken: list[str] = []
    assert done("it", lambda: taken.append("it"), lambda: True)
    assert taken == ["it"]


def test_a_step_whose_need_is_not_there_is_not_taken() -> None:
    taken: list[str] = []
    assert not done("it", lambda: taken.append("it"), lambda: False)
    assert taken == []


def test_a_step_that_hangs_is_left_behind_when_its_need_goes() -> None:
    is_there = threading.Event()
    is_there.set()
    ended = threading.Event()

    def hangs() -> None:
        is_there.clear()
        ended.wait(30)

    try:
        assert not done("it", hangs, is_there.is_set)
        assert not ended.is_set()
    finally:
        ended.set()


def test_a_step_that_goes_wrong_is_over_all_the_same() -> None:
    def breaks() -> None:
        raise OSError("no")

    assert done("it", breaks, lambda: True)


def test_whether_anybody_listens_is_seen_by_connecting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert listens(address)
    assert not listens(address)
    assert listens("not an address")


class NothingStarted(ProcessRecord):
    """The processes of whoever runs this test are not the platform's to end."""

    def update(self) -> None: ...


@pytest.mark.parametrize("goes", ["before", "during", "never"])
def test_a_platform_whose_ray_goes_stops_the_rest_and_does_not_wait(tmp_path: Path, goes: str) -> None:
    settings = Settings()
    server = settings.server.model_copy(update={"data_dir": tmp_path})
    up = Up(Configuration(settings=settings.model_copy(update={"server": server})))
    up._record = NothingStarted(tmp_path)
    taken: list[str] = []
    ended = threading.Event()
    ray = socket.create_server(("127.0.0.1", 0))
    up._ray_at = f"127.0.0.1:{ray.getsockname()[1]}"

    def ask_ray() -> None:
        taken.append("serve")
        if goes == "during":
            ray.close()
            ended.wait(30)

    def end_ray() -> None:
        taken.append("ray")
        ray.close()

    up._undo = [("database", lambda: taken.append("database")), ("ray", end_ray), ("serve", ask_ray)]
    if goes == "before":
        ray.close()
    try:
        up.stop()
    finally:
        ended.set()
    steps = {"before": ["database"], "during": ["serve", "database"], "never": ["serve", "ray", "database"]}
    assert taken == steps[goes]
    assert up._ray_has_gone == (goes != "never")
