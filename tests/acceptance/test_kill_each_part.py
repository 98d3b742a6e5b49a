"""kill -9 of each part, one after the other, under load: nothing is lost, charged twice or stuck."""

from __future__ import annotations

import asyncio
import itertools
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.acceptance.conftest import UPSTREAM_KEY, World
from tests.support.load import Load
from tests.support.logos_up import Platform, wait_for
from tests.support.upstream import chat_or_streamed

pytestmark = [pytest.mark.ray, pytest.mark.slow]

CONNECTIONS = 16
LULL_S = 1.0  # load before a kill, and after what died is back
RECOVERY_S_MAX = 40.0


@contextmanager
def under(load: Load) -> Iterator[None]:
    """The load runs in a thread meanwhile, and is over afterwards."""
    thread = threading.Thread(target=lambda: asyncio.run(load.send_until_stopped()), daemon=True)
    thread.start()
    try:
        yield
    finally:
        load.stopping = True
        thread.join(90)
    assert not thread.is_alive(), "a request never ended"


def longest_silence_s(load: Load, since: float) -> float:
    """The longest time without any whole answer."""
    times = [since, *(at for at in load.answered_at if at > since)]
    return max((later - earlier for earlier, later in itertools.pairwise(times)), default=float("inf"))


def kill_and_recover(platform: Platform, part: str) -> float:
    """Seconds until the part has as many processes as before, and answers."""
    before = len(platform.processes(part))
    began = time.monotonic()
    platform.kill(part)

    def is_back() -> bool:
        return len(platform.processes(part)) >= before and platform.is_well()

    wait_for(is_back, RECOVERY_S_MAX, lambda: f"{part} is not back after {RECOVERY_S_MAX:.0f} s")
    return time.monotonic() - began


@pytest.mark.timeout(280)
def test_whatever_dies_every_request_the_upstream_saw_is_one_row_and_one_charge(
    world: World, platform: Platform
) -> None:
    model = world.model(chat_or_streamed(["w "] * 4, pace_s=0.02), priced=True)
    load = Load(platform.base_url, world.key(log="FULL"), model, connections=CONNECTIONS)
    report = []
    with under(load):
        time.sleep(LULL_S)
        for part in ("replica", "scheduler", "ledger", "accounts"):
            since, broken, refused, errors = time.monotonic(), load.broken, load.refused, load.errors.copy()
            recovered_s = kill_and_recover(platform, part)
            time.sleep(LULL_S)
            report.append(
                f"{part}: back after {recovered_s:.1f} s, longest time without an answer "
                f"{longest_silence_s(load, since):.1f} s, {load.broken - broken} answers broken, "
                f"{load.refused - refused} connections refused, errors {dict(load.errors - errors) or 'none'}"
            )
    print("\n" + "\n".join(report))
    print(f"{load.sent} sent, {load.whole} whole, statuses {dict(load.statuses)}, broken {load.broken}")
    platform.wait_until_settled(40)
    check_the_books(world, platform, load, model)
    check_the_logs(platform)


def check_the_logs(platform: Platform) -> None:
    """What the living said of the dead is in each process's own log, and no secret is in any."""
    logs = platform.logs()
    lines = [line for text in logs.values() for line in text.splitlines() if " is away: " in line or " is gone" in line]
    told_by = {logger[1] for line in lines if (logger := re.search(r" level=warning logger=(logos\.\S+) ", line))}
    assert {"logos.gateway.directory", "logos.actors.scheduler", "logos.actors.classifier"} <= told_by, lines
    password = (platform.data_dir / "database_url").read_text().split(":")[2].partition("@")[0]
    for secret in (platform.root_key, UPSTREAM_KEY, password):
        assert not [name for name, text in logs.items() if secret in text]


def check_the_books(world: World, platform: Platform, load: Load, model: str) -> None:
    rows = world.log("input_payload, request_id, result_status, cost_micro_cents, cost_currency")
    by_marker: dict[str, int] = dict.fromkeys(load.markers, 0)
    for payload, *_ in rows:
        marker = payload[payload.index("mark-") :][:21]
        by_marker[marker] += 1
    seen = world.upstream.counts(model)
    lost = [marker for marker in seen if by_marker[marker] == 0]
    double = [marker for marker, count in by_marker.items() if count > 1]
    assert not lost, f"{len(lost)} of {len(seen)} requests that the upstream saw have no row"
    assert not double, f"{len(double)} requests have several rows"
    assert load.stuck == 0
    assert len({request_id for _, request_id, *_ in rows}) == len(rows)
    assert all(status is not None for _, _, status, *_ in rows)
    uncharged = [row for row in rows if row[2] in {"success", "interrupted"} and not row[3]]
    assert not uncharged, f"{len(uncharged)} of {len(rows)} rows have no charge"
    ((balance, counted),) = platform.rows(
        "SELECT micro_cents, requests FROM balances JOIN api_keys ON scope_id = api_keys.id "
        "WHERE scope = 'key' AND api_keys.name = %s",
        world.keys[-1],
    )
    assert (balance, counted) == (sum(row[3] or 0 for row in rows), sum(row[4] is not None for row in rows))
    # What a client got whole, it pays for as a success.
    assert sum(row[2] == "success" for row in rows) >= load.statuses[200] - load.broken


def test_a_database_outage_is_not_noticed_by_requests(world: World, platform: Platform) -> None:
    model = world.model(chat_or_streamed(["w "] * 2), priced=True)
    load = Load(platform.base_url, world.key(), model, connections=4)
    with under(load):
        time.sleep(0.5)
        server = next(each for each in platform.processes("postgres") if "/postgres" in each.cmdline()[0])
        server.kill()
        time.sleep(3.0)
    assert load.whole > 50
    assert load.broken == load.stuck == load.refused == 0
    assert set(load.statuses) == {200}
    wait_for(lambda: _settled(platform), 40, "the records are not stored")
    assert len(world.log("log_entry.id")) == load.sent


def _settled(platform: Platform) -> bool:
    """False while the database is away, too."""
    import psycopg

    try:
        return not platform.unsettled()
    except psycopg.Error:
        return False
