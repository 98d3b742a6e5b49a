"""What hangs because Ray has gone is left behind."""

from __future__ import annotations

import socket
import threading

from deployments.giving_up import done, listens


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
