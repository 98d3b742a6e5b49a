"""The rows of a workload file: what is sent when, and how that is written as CSV.

Text in, rows out, and back: no file is opened here and nothing is sent. Whatever does not fit is an error that names
line and column, found before the first request leaves.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from logos.domain.errors import InvalidWorkload
from logos.domain.nouns import Mode, Priority

COLUMNS = ("request_id", "arrival_offset", "mode", "priority", "body_json")
REQUIRED = ("request_id", "arrival_offset", "body_json")
ARRIVAL_MS_MAX = 366 * 86_400_000.0
REQUEST_ID_CHARACTERS_MAX = 200
TOKENS_MAX = 2_000_000_000
TOKEN_LIMITS = ("max_completion_tokens", "max_tokens")  # the newer name goes first
FIELD_CHARACTERS_MAX = 64 * 1024 * 1024  # the csv module's own limit would refuse a long prompt

AUTO = "auto"
POLICY_PREFIX = "logos-"
PRIORITIES: Mapping[str, Priority] = {
    **{priority.name.lower(): priority for priority in Priority},
    **{str(priority.value): priority for priority in Priority},
}
MODES: Mapping[str, Mode] = {mode.value: mode for mode in Mode}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class WorkloadRow:
    """One request of a workload. `arrival_ms` counts from the start of the run; `line` is where it began in its file.

    `body` is the request as OpenAI's API has it and must not be changed; `extra` holds the file's other columns.
    """

    request_id: str
    arrival_ms: float
    body: Mapping[str, Any] = field(repr=False)
    mode: Mode = Mode.INTERACTIVE
    priority: Priority = Priority.MID
    line: int = 0
    extra: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def model(self) -> str | None:
        """The model that the body names; None where the choice is left to the platform."""
        model = self.body.get("model")
        is_named = isinstance(model, str) and model and model != AUTO and not model.startswith(POLICY_PREFIX)
        return model if is_named else None

    @property
    def max_tokens(self) -> int | None:
        """The most tokens that the answer may have; None where nothing is said."""
        for name in TOKEN_LIMITS:
            value = self.body.get(name)
            if isinstance(value, int) and not isinstance(value, bool):
                return value
        return None

    @property
    def prompt(self) -> str:
        """All text of the prompt, in order, turns separated by line ends."""
        return "\n".join(_texts(self.body.get("messages") or self.body.get("prompt") or self.body.get("input") or ""))


def _texts(value: object) -> Iterator[str]:
    """The strings of a prompt, whichever of the API's shapes it has."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _texts(value.get("content") or value.get("text") or "")
    elif isinstance(value, Sequence):
        for item in value:
            yield from _texts(item)


def parse_rows(lines: Iterable[str], source: str = "workload") -> tuple[WorkloadRow, ...]:
    """The rows of CSV text, in order of arrival; `lines` keep their ends, Windows ones and a BOM are fine.

    Raises InvalidWorkload with `SOURCE, line N, column NAME: what is wrong`.
    """
    records = _records(lines, source)
    header_line, header = next(records, (1, []))
    columns = _columns(header, source, header_line)
    rows: list[WorkloadRow] = []
    lines_by_id: dict[str, int] = {}
    for line, values in records:
        row = _Cells(source, line, columns, values).row()
        first = lines_by_id.setdefault(row.request_id, line)
        if first != line:
            raise invalid(source, line, "request_id", f"{row.request_id!r} is already used in line {first}")
        rows.append(row)
    if not rows:
        raise invalid(source, header_line, None, "there are no requests below the header")
    return tuple(sorted(rows, key=lambda row: row.arrival_ms))


def format_rows(rows: Iterable[WorkloadRow]) -> str:
    """The rows as CSV text that `parse_rows` reads back."""
    rows = list(rows)
    extra = list(dict.fromkeys(name for row in rows for name in row.extra))
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*COLUMNS, *extra])
    for row in rows:
        body = json.dumps(row.body, ensure_ascii=False, separators=(",", ":"))
        cells = [row.request_id, f"{row.arrival_ms:.10g}", row.mode.value, row.priority.name.lower(), body]
        writer.writerow([*cells, *(row.extra.get(name, "") for name in extra)])
    return out.getvalue()


def invalid(source: str, line: int | None, column: str | None, what: str) -> InvalidWorkload:
    """The error for one place of a workload file."""
    place = "".join((f", line {line}" if line else "", f", column {column}" if column else ""))
    return InvalidWorkload(f"{source}{place}: {what}")


def _records(lines: Iterable[str], source: str) -> Iterator[tuple[int, list[str]]]:
    """Each record that is not blank, with the line on which it begins. A BOM before the first one is dropped."""
    csv.field_size_limit(max(csv.field_size_limit(), FIELD_CHARACTERS_MAX))
    seen: list[str] = []
    reader = csv.reader(_noted(lines, seen), strict=True)
    header: list[str] = []
    while True:
        begins = reader.line_num + 1
        seen.clear()
        try:
            values = next(reader, None)
        except csv.Error as error:
            index = _broken_field("".join(seen))
            column = header[index] if index < len(header) else str(index + 1)
            raise invalid(source, begins, column, f"the quotes do not fit ({error})") from None
        if values is None:
            return
        if any(value.strip() for value in values):
            header = header or [_name(value) for value in values]
            yield begins, values


def _noted(lines: Iterable[str], seen: list[str]) -> Iterator[str]:
    """The same lines, each also put into `seen`: what the record at hand consists of."""
    for number, line in enumerate(lines):
        if number == 0:
            line = line.removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}")
        seen.append(line)
        yield line


def _broken_field(text: str) -> int:
    """The index of the first field of a record whose quotes do not open and close as they should."""
    index, position = 0, 0
    while position < len(text):
        if text[position] == '"':
            position += 1
            while position < len(text) and (text[position] != '"' or text[position : position + 2] == '""'):
                position += 2 if text[position] == '"' else 1
            position += 1
            if position > len(text) or text[position : position + 1] not in {",", "\r", "\n", ""}:
                return index
        while position < len(text) and text[position] != ",":
            position += 1
        index, position = index + 1, position + 1
    return max(0, index - 1)


def _name(text: str) -> str:
    return text.strip().lower()


def _columns(header: Sequence[str], source: str, line: int) -> list[str]:
    names = [_name(value) for value in header]
    if not names:
        raise invalid(source, 1, None, f"the file is empty; it begins with the header {','.join(COLUMNS)}")
    for name in REQUIRED:
        if name not in names:
            raise invalid(source, line, name, f"there is no such column; the header is {','.join(COLUMNS)}")
    for name in names:
        if name and names.count(name) > 1:
            raise invalid(source, line, name, "the column is there twice")
    return names


class _Cells:
    """The cells of one record, on their way to a row."""

    def __init__(self, source: str, line: int, columns: Sequence[str], values: Sequence[str]) -> None:
        self._source, self._line = source, line
        if len(values) < len(columns):
            missing = columns[len(values)]
            raise self._wrong(missing, f"is missing: {len(values)} fields where the header has {len(columns)}")
        if len(values) > len(columns):
            what = f"{len(values)} fields where the header has {len(columns)}; a field with commas in it needs quotes"
            raise self._wrong(str(len(columns) + 1), what)
        self._cells = {name: value.strip() for name, value in zip(columns, values, strict=True) if name}

    def row(self) -> WorkloadRow:
        body = self._body()
        return WorkloadRow(
            request_id=self._request_id(),
            arrival_ms=self._arrival_ms(),
            body=body,
            mode=self._choice("mode", MODES, body, Mode.INTERACTIVE),
            priority=self._choice("priority", PRIORITIES, body, Priority.MID),
            line=self._line,
            extra={name: value for name, value in self._cells.items() if name not in COLUMNS},
        )

    def _wrong(self, column: str, what: str) -> InvalidWorkload:
        return invalid(self._source, self._line, column, what)

    def _request_id(self) -> str:
        text = self._cells["request_id"]
        if not text:
            raise self._wrong("request_id", "is empty")
        if len(text) > REQUEST_ID_CHARACTERS_MAX or not text.isprintable():
            raise self._wrong("request_id", f"should be at most {REQUEST_ID_CHARACTERS_MAX} printable characters")
        return text

    def _arrival_ms(self) -> float:
        text = self._cells["arrival_offset"]
        try:
            value = float(text)
        except ValueError:
            raise self._wrong("arrival_offset", f"{_shown(text)} is not a number of milliseconds") from None
        if not 0 <= value <= ARRIVAL_MS_MAX:
            raise self._wrong("arrival_offset", f"{_shown(text)} should be 0 or more milliseconds, at most a year")
        return value

    def _choice(self, column: str, choices: Mapping[str, T], body: Mapping[str, Any], default: T) -> T:
        """The cell's, else what the body says by itself, else the default."""
        text = self._cells.get(column, "")
        if not text:
            return choices.get(str(body.get(column)).lower(), default)
        found = choices.get(text.lower())
        if found is None:
            raise self._wrong(column, f"{_shown(text)} should be one of {', '.join(choices)}")
        return found

    def _body(self) -> dict[str, Any]:
        text = self._cells["body_json"]
        try:
            found = json.loads(text, parse_constant=_refuse_constant)
        except RecursionError:
            raise self._wrong("body_json", "is nested too deeply") from None
        except ValueError as error:
            raise self._wrong("body_json", f"is not valid JSON: {error}") from None
        if not isinstance(found, dict):
            raise self._wrong("body_json", f"should be a JSON object, not {_shown(text)}")
        if not isinstance(found.get("model"), str | None):
            raise self._wrong("body_json", "model should be text: the name of a model, or nothing for any")
        for name in TOKEN_LIMITS:
            value = found.get(name)
            if value is not None and not (type(value) is int and 1 <= value <= TOKENS_MAX):
                raise self._wrong("body_json", f"{name} should be a whole number from 1 to {TOKENS_MAX:,}")
        return found


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _shown(text: str) -> str:
    """A cell inside an error: short, in quotes."""
    return repr(text if len(text) <= 40 else f"{text[:39]}…")
