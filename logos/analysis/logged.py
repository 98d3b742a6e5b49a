"""The log and the scheduler's journal of a platform as a story: read from Postgres, or from files that hold the same.

Reads and never writes. What the columns mean is `storage.tables`'; nothing is drawn here.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from logos.analysis.story import Change, Story, request_table, span_table
from logos.domain.errors import DatabaseUnavailable, InvalidDeclaration
from logos.domain.lifecycle import EngineState, Outcome
from logos.storage import extracts
from logos.storage.database import engine_of

ROWS_MAX = 50_000
TABLES = ("requests", "journal", "endpoints")


@dataclass(frozen=True, slots=True, eq=False)
class Extract:
    """Rows as `storage.extracts` has them."""

    requests: pd.DataFrame
    journal: pd.DataFrame
    endpoints: pd.DataFrame


def named_database(environment: Mapping[str, str], data_dir: Path | str | None = None) -> str | None:
    """The URL that LOGOS_DATABASE_URL gives, or DATA_DIR/database_url holds; None where there is neither.

    Raises InvalidDeclaration for a data directory, asked for by name, that says nothing of a database.
    """
    url = environment.get("LOGOS_DATABASE_URL")
    if url or data_dir is None:
        return url or None
    file = Path(data_dir).expanduser() / "database_url"
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise InvalidDeclaration(
            f"{file} cannot be read ({error.strerror}): name the --data-dir of a platform that has been started"
        ) from None


def read_database(
    url: str, *, hours: float = 1.0, until: dt.datetime | None = None, rows_max: int = ROWS_MAX
) -> Extract:
    """The requests of the last hours before `until` (with an offset), or before the newest request, and the engines
    meanwhile. Raises DatabaseUnavailable if it does not answer."""
    engine = engine_of(url, poolclass=NullPool)
    try:
        with engine.connect() as connection:
            until = until or connection.execute(text(extracts.NEWEST_REQUEST)).scalar() or dt.datetime.now(dt.UTC)
            window = {"since": until - dt.timedelta(hours=hours), "until": until, "most": rows_max}
            later = window | {"until": until + dt.timedelta(minutes=1)}  # the journal is written after it happened
            return Extract(
                pd.read_sql(text(extracts.REQUESTS), connection, params=window),
                pd.read_sql(text(extracts.JOURNAL), connection, params=later),
                pd.read_sql(text(extracts.ENDPOINTS), connection),
            )
    except OperationalError as error:
        raise DatabaseUnavailable(f"the database does not answer ({type(error.orig).__name__}): is it up?") from None


def read_files(directory: Path | str) -> Extract:
    """What `write_files` left there."""
    return Extract(*(pd.read_csv(Path(directory) / f"{name}.csv") for name in TABLES))


def write_files(extract: Extract, directory: Path) -> None:
    """One CSV a table: enough to tell the story again, without a word of any prompt or answer."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in TABLES:
        getattr(extract, name).to_csv(directory / f"{name}.csv", index=False, float_format="%.6f")


def story_of(extract: Extract) -> Story:
    """What happened, by the policy that the scheduler ran; it begins with the first request."""
    begins_s = float(extract.requests.at_s.min()) if len(extract.requests) else 0.0
    requests = request_table(_request(row, begins_s) for row in _rows(extract.requests))
    reading = _Journal(dict(zip(extract.endpoints.endpoint_id, extract.endpoints.model, strict=True)), begins_s)
    changes = list(reading.changes(extract.journal))
    story = Story(_policy(extract.journal), requests, span_table(changes, 0.0))
    spans = span_table(changes, story.ends_s)
    spans = spans[spans.ended_s > 0].assign(began_s=spans.began_s.clip(lower=0.0))
    return Story(story.name, requests, spans.reset_index(drop=True))


def _policy(journal: pd.DataFrame) -> str:
    """Of every start there, in their order."""
    names = journal.policy.dropna().astype(str).unique().tolist()
    return ", ".join(names) or "unknown policy"


def _rows(table: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Rows by column; what is missing is None."""
    for row in table.astype(object).where(table.notna(), None).to_dict("records"):
        yield {str(name): value for name, value in row.items()}


def _request(row: Mapping[str, Any], begins_s: float) -> dict[str, Any]:
    first_s = row["first_token_at_s"]
    return {
        "at_s": row["at_s"] - begins_s,
        "model": row["model"],
        "key": row["key"],
        "is_answered": row["result_status"] == Outcome.SUCCESS,
        "wait_s": _seconds(row["queue_wait_ms"]),
        "ttft_s": None if first_s is None else first_s - row["at_s"],
        "predicted_ttft_s": _seconds(row["predicted_ttft_ms"]),
        "slo_ttft_s": _seconds(row["slo_ttft_ms"]),
    }


def _seconds(ms: float | None) -> float | None:
    return None if ms is None else ms / 1000


@dataclass(slots=True)
class _Journal:
    """Reads a journal from its first line to its last: what has been ordered and who is awake on which node."""

    models: Mapping[int, str]  # by endpoint
    begins_s: float
    model_of: dict[str, str] = field(default_factory=dict)  # by engine
    node_of: dict[str, str] = field(default_factory=dict)
    awake: set[str] = field(default_factory=set)
    ordered: dict[str, tuple[float, bool]] = field(default_factory=dict)  # by engine: when, and whether to come

    def changes(self, journal: pd.DataFrame) -> Iterator[Change]:
        for row in _rows(journal):
            at_s = float(row["at_s"]) - self.begins_s
            event = json.loads(row["event"] or "{}")
            match row["kind"]:
                case "EngineChanged":
                    yield from self._changed(at_s, event)
                case "NodeSeen":
                    yield from self._seen(at_s, event)
                case "NodeLost":
                    yield from self._lost(at_s, event["node_id"])
            for name, command in json.loads(row["commands"] or "[]"):
                self._order(at_s, name, command)

    def _order(self, at_s: float, name: str, command: Mapping[str, Any]) -> None:
        engine = command["engine_id"]
        if name == "LoadEngine":
            self._meet(engine, command["endpoint_id"], command["node_id"])
        self.ordered[engine] = at_s, name in {"LoadEngine", "WakeEngine"}

    def _meet(self, engine: str, endpoint_id: int, node_id: str) -> None:
        self.model_of[engine] = self.models.get(endpoint_id, f"endpoint {endpoint_id}")
        self.node_of[engine] = node_id

    def _changed(self, at_s: float, event: Mapping[str, Any]) -> Iterator[Change]:
        """It took as long as the node measured; where it measured nothing, since the order."""
        engine = event["engine_id"]
        if engine in self.model_of:
            since_s, is_coming = self.ordered.pop(engine, (at_s, False))
            seconds = event.get("seconds") or 0.0
            began_s = max(since_s, at_s - seconds) if seconds else since_s
            yield self._change(began_s, at_s, engine, event["state"], is_coming=is_coming)

    def _seen(self, at_s: float, event: Mapping[str, Any]) -> Iterator[Change]:
        """A node introduces itself again after every restart: only what is news is a change."""
        node_id = event["node"]["id"]
        for each in event["engines"]:
            engine = each["engine_id"]
            self._meet(engine, each["endpoint_id"], node_id)
            if (each["state"] == EngineState.AWAKE) != (engine in self.awake) and engine not in self.ordered:
                yield self._change(at_s, at_s, engine, each["state"], is_coming=False)

    def _lost(self, at_s: float, node_id: str) -> Iterator[Change]:
        for engine in [each for each, node in self.node_of.items() if node == node_id]:
            self.ordered.pop(engine, None)
            if engine in self.awake:
                yield self._change(at_s, at_s, engine, EngineState.COLD, is_coming=False)

    def _change(self, began_s: float, at_s: float, engine: str, state: str, *, is_coming: bool) -> Change:
        is_awake = state in {EngineState.AWAKE, EngineState.DRAINING}
        (self.awake.add if is_awake else self.awake.discard)(engine)
        return Change(began_s, at_s, engine, self.model_of[engine], is_coming, is_awake)
