"""The server's own figures of a run: its records, fetched by request id once the run is over.

A server that is no Logos, or is gone by then, costs a note and nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import aiohttp

from logos.workload.client import Target
from logos.workload.exchanges import Exchange, Run, recorded

IDS_PER_CALL = 100
WAIT_S_MAX = 10.0  # records reach the database a moment after the answers reach their clients
QUIET_S_MAX = 2.0  # what was refused at the door has no record, so it is not waited for once nothing more comes
POLL_S = 0.3


async def with_records(run: Run, target: Target, wait_s_max: float = WAIT_S_MAX) -> Run:
    """The run with the server's record put beside every exchange that it has one of."""
    wanted = {each.server.request_id for each in run.exchanges if each.server.request_id is not None}
    found: dict[str, Mapping[str, Any]] = {}
    note: str | None = None
    clock = asyncio.get_running_loop().time
    deadline, quiet_until = clock() + wait_s_max, clock() + QUIET_S_MAX
    async with target.session() as session:
        while missing := sorted(wanted - found.keys()):
            try:
                new = await _fetch(session, target, missing)
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError, KeyError, TypeError) as error:
                note = f"the server's own records could not be read ({str(error)[:100] or type(error).__name__})"
                break
            found |= new
            quiet_until = clock() + QUIET_S_MAX if new else quiet_until
            if clock() > min(deadline, quiet_until):
                break
            await asyncio.sleep(POLL_S if found.keys() < wanted else 0)
    exchanges = tuple(_beside(each, found) for each in run.exchanges)
    return replace(run, exchanges=exchanges, notes=run.notes if note is None else (*run.notes, note))


async def _fetch(session: aiohttp.ClientSession, target: Target, ids: list[str]) -> dict[str, Mapping[str, Any]]:
    """Records that are closed, by request id."""
    found: dict[str, Mapping[str, Any]] = {}
    for begin in range(0, len(ids), IDS_PER_CALL):
        parameters = [("request_id", each) for each in ids[begin : begin + IDS_PER_CALL]] + [
            ("limit", str(IDS_PER_CALL))
        ]
        async with session.get(f"{target.root}/me/requests", params=parameters) as response:
            if response.status != 200:
                raise ValueError(f"HTTP {response.status}")
            rows = (await response.json())["rows"]
        found |= {row["request_id"]: row for row in rows if row["result_status"] is not None}
    return found


def _beside(exchange: Exchange, records: Mapping[str, Mapping[str, Any]]) -> Exchange:
    record = records.get(exchange.server.request_id or "")
    return exchange if record is None else replace(exchange, server=recorded(exchange.server, record))
