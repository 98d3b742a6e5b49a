"""Workload rows become arrivals of a simulated world.

What a row leaves open is filled in here: prompt tokens are estimated by length, and a row that names no model may be
served by any that the world has. Reading files must not happen here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from logos.domain.errors import InvalidWorkload
from logos.domain.nouns import Mode, Priority
from logos.simulation.arrivals import Arrival
from logos.simulation.world import World
from logos.workload.rows import WorkloadRow

CONVERSATION_COLUMN = "conversation"
KEY_COLUMN = "key"
TEAM_COLUMN = "team"
SLO_COLUMN = "slo_ttft_ms"
NAMED_MAX = 8  # models that an error names


def arrivals(
    rows: Iterable[WorkloadRow], world: World, source: str = "workload", *, plain: bool = False
) -> list[Arrival]:
    """The rows as arrivals; `plain` leaves out their priorities and modes, as the published runs did.

    Raises InvalidWorkload, naming the line, for a model that the world does not have.
    """
    reading = _Reading(world, source, plain)
    return [reading.arrival(row) for row in rows]


class _Reading:
    """One workload on its way into one world: names become numbers in the order of their appearance."""

    def __init__(self, world: World, source: str, plain: bool) -> None:
        self._world = world
        self._source = source
        self._plain = plain
        self._everything = tuple((model.name, 0.0) for model in world.catalogue.models)
        self._keys: dict[str, int] = {}
        self._teams: dict[str, int] = {}
        self._segments: dict[str, int] = {}

    def arrival(self, row: WorkloadRow) -> Arrival:
        shared = self._shared(row)
        return Arrival(
            row.request_id,
            row.arrival_ms / 1000,
            self._models(row),
            self._tokens(row.prompt),
            row.max_tokens,
            key_id=_number(self._keys, row.extra.get(KEY_COLUMN, "")),
            team_id=_number(self._teams, row.extra[TEAM_COLUMN]) if TEAM_COLUMN in row.extra else None,
            priority=Priority.MID if self._plain else row.priority,
            mode=Mode.INTERACTIVE if self._plain else row.mode,
            slo_ttft_s=self._slo_s(row),
            prefix=shared[-1][0] if shared else None,
            prefix_tokens=sum(tokens for _, tokens in shared),
            shared=shared,
        )

    def _models(self, row: WorkloadRow) -> tuple[tuple[str, float], ...]:
        name = row.model
        if name is None:
            return self._everything
        if name not in self._world.catalogue.model_named:
            known = ", ".join(sorted(self._world.catalogue.model_named)[:NAMED_MAX])
            raise self._wrong(row, f"the world {self._world.name} has no model {name!r}; it has {known}")
        return ((name, 0.0),)

    def _tokens(self, text: str) -> int:
        return max(1, round(len(text) / self._world.characters_per_token))

    def _shared(self, row: WorkloadRow) -> tuple[tuple[int, int], ...]:
        """The system prompt, and of a conversation everything after it, for its next turn will repeat that."""
        system = _system_prompt(row.body)
        found = [(_number(self._segments, f"system {system}"), self._tokens(system))] if system else []
        conversation = row.extra.get(CONVERSATION_COLUMN, "")
        if conversation:
            rest = self._tokens(row.prompt) - (found[0][1] if found else 0)
            found.append((_number(self._segments, f"conversation {conversation}"), max(rest, 1)))
        return tuple(found)

    def _slo_s(self, row: WorkloadRow) -> float | None:
        text = row.extra.get(SLO_COLUMN, "")
        if not text:
            return None
        try:
            slo_ms = float(text)
        except ValueError:
            slo_ms = 0.0
        if not 0 < slo_ms < float("inf"):
            raise self._wrong(row, "should be more than 0 milliseconds", f", column {SLO_COLUMN}")
        return slo_ms / 1000

    def _wrong(self, row: WorkloadRow, what: str, column: str = "") -> InvalidWorkload:
        line = f", line {row.line}" if row.line else ""
        return InvalidWorkload(f"{self._source}{line}{column}: {what}")


def _number(known: dict[str, int], name: str) -> int:
    return known.setdefault(name, len(known) + 1)


def _system_prompt(body: Mapping[str, Any]) -> str:
    """The first message, if it is the system's."""
    messages = body.get("messages")
    first = messages[0] if isinstance(messages, list) and messages else None
    if not isinstance(first, dict) or first.get("role") != "system":
        return ""
    content = first.get("content")
    return content if isinstance(content, str) else ""
