import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logos.domain.errors import InvalidWorkload
from logos.domain.nouns import Mode, Priority
from logos.workload.rows import COLUMNS, WorkloadRow, format_rows, parse_rows

HEADER = ",".join(COLUMNS)


def lines(text: str) -> io.StringIO:
    return io.StringIO(text, newline="")


def line(number: int, **cells: str) -> str:
    """A good row, with the cells given instead of its own."""
    own = {
        "request_id": f"q{number}",
        "arrival_offset": str(number * 10),
        "mode": "interactive",
        "priority": "mid",
        "body_json": '{"model":"m","messages":[]}',
    }
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow({**own, **cells}.values())
    return out.getvalue()


def workload(**cells: str) -> str:
    """A file whose line 7 has these cells; the rows around it are good."""
    return f"{HEADER}\n" + "".join(line(number, **(cells if number == 6 else {})) for number in range(1, 10))


def complaint(text: str) -> str:
    with pytest.raises(InvalidWorkload) as caught:
        parse_rows(lines(text), "w.csv")
    return caught.value.message


def test_rows_come_in_order_of_arrival_with_the_line_that_they_began_on() -> None:
    text = f"{HEADER}\n{line(1, arrival_offset='900')}\n{line(2, arrival_offset='0.5')}"
    assert [(row.request_id, row.arrival_ms, row.line) for row in parse_rows(lines(text))] == [
        ("q2", 0.5, 4),
        ("q1", 900.0, 2),
    ]


def test_windows_line_ends_and_a_bom_are_fine() -> None:
    plain = workload()
    windows = "\N{ZERO WIDTH NO-BREAK SPACE}" + plain.replace("\n", "\r\n")
    assert parse_rows(lines(windows)) == parse_rows(lines(plain))
    assert len(parse_rows(lines(windows))) == 9


def test_mode_and_priority_may_be_empty_absent_or_in_the_body() -> None:
    (row,) = parse_rows(lines(f"{HEADER}\n{line(1, mode='', priority='')}"))
    assert (row.mode, row.priority) == (Mode.INTERACTIVE, Priority.MID)
    (row,) = parse_rows(lines('request_id,arrival_offset,body_json\na,0,"{""priority"":10,""mode"":""batch""}"\n'))
    assert (row.mode, row.priority) == (Mode.BATCH, Priority.HIGH)
    (row,) = parse_rows(lines(f"{HEADER}\n{line(1, mode='Batch', priority='1', body_json='{}')}"))
    assert (row.mode, row.priority) == (Mode.BATCH, Priority.LOW)


def test_other_columns_are_kept() -> None:
    (row,) = parse_rows(lines("Team,request_id,arrival_offset,body_json\nred,a,0,{}\n"))
    assert row.extra == {"team": "red"}


def test_a_body_may_span_lines_and_errors_behind_it_name_the_right_one() -> None:
    text = f'{HEADER}\na,0,,,"{{\n""model"":\n""m""}}"\nb,soon,,,{{}}\n'
    assert complaint(text).startswith("w.csv, line 5, column arrival_offset: 'soon' is not a number")


@pytest.mark.parametrize(
    ("cells", "column", "told"),
    [
        ({"arrival_offset": "-1"}, "arrival_offset", "'-1' should be 0 or more"),
        ({"arrival_offset": "nan"}, "arrival_offset", "'nan' should be 0 or more"),
        ({"arrival_offset": "1e999"}, "arrival_offset", "should be 0 or more"),
        ({"arrival_offset": "later"}, "arrival_offset", "'later' is not a number"),
        ({"arrival_offset": ""}, "arrival_offset", "'' is not a number"),
        ({"mode": "fast"}, "mode", "'fast' should be one of interactive, batch"),
        ({"priority": "7"}, "priority", "'7' should be one of low, mid, high, 1, 5, 10"),
        ({"body_json": ""}, "body_json", "is not valid JSON"),
        ({"body_json": '{"a":'}, "body_json", "is not valid JSON"),
        ({"body_json": '{"a":NaN}'}, "body_json", "NaN is not JSON"),
        ({"body_json": "[1]"}, "body_json", "should be a JSON object"),
        ({"body_json": "[" * 100_000}, "body_json", "is nested too deeply"),
        ({"body_json": '{"model":5}'}, "body_json", "model should be text"),
        ({"body_json": '{"model":["m"]}'}, "body_json", "model should be text"),
        ({"body_json": '{"model":0}'}, "body_json", "model should be text"),
        ({"body_json": '{"max_tokens":0}'}, "body_json", "max_tokens should be a whole number from 1 to 2,000,000,000"),
        ({"body_json": '{"max_tokens":-5}'}, "body_json", "max_tokens should be a whole number"),
        ({"body_json": '{"max_tokens":true}'}, "body_json", "max_tokens should be a whole number"),
        ({"body_json": '{"max_tokens":2.5}'}, "body_json", "max_tokens should be a whole number"),
        ({"body_json": '{"max_tokens":"5"}'}, "body_json", "max_tokens should be a whole number"),
        ({"body_json": f'{{"max_tokens":{"9" * 400}}}'}, "body_json", "max_tokens should be a whole number"),
        ({"body_json": '{"max_completion_tokens":0}'}, "body_json", "max_completion_tokens should be a whole"),
        ({"request_id": ""}, "request_id", "is empty"),
        ({"request_id": "q3"}, "request_id", "'q3' is already used in line 4"),
        ({"request_id": "a\tb\x7f"}, "request_id", "printable"),
    ],
)
def test_a_broken_cell_is_named_by_line_and_column(cells: dict[str, str], column: str, told: str) -> None:
    message = complaint(workload(**cells))
    assert message.startswith(f"w.csv, line 7, column {column}: ")
    assert told in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("broken", "column"),
    [
        ("q6,60,interactive\n", "priority"),
        ("q6,60,interactive,mid,{},more\n", "6"),
        ('q6,60,interactive,mid,{"model":"m", "messages":[]}\n', "6"),
        ('q6,60,interactive,mid,"{""model"":""m""}\n', "body_json"),
        ('q6,60,interactive,mid,"{"model":"m"}"\n', "body_json"),
        ('q6,60,"inter"active,mid,{}\n', "mode"),
    ],
)
def test_a_row_that_is_no_csv_of_the_header_is_named_by_line_and_column(broken: str, column: str) -> None:
    good = [line(number) for number in range(1, 10)]
    message = complaint("".join([f"{HEADER}\n", *good[:5], broken, *good[6:]]))
    assert message.startswith(f"w.csv, line 7, column {column}: ")


@pytest.mark.parametrize("column", ["request_id", "arrival_offset", "body_json"])
def test_a_file_without_a_column_is_named(column: str) -> None:
    header = ",".join(name for name in COLUMNS if name != column)
    assert complaint(f"{header}\n").startswith(f"w.csv, line 1, column {column}: there is no such column")


def test_a_column_that_is_there_twice_is_an_error() -> None:
    assert "column mode: the column is there twice" in complaint(f"{HEADER},mode\n")


@pytest.mark.parametrize("text", ["", "\n\n", "\N{ZERO WIDTH NO-BREAK SPACE}"])
def test_an_empty_file_is_an_error_that_shows_the_header(text: str) -> None:
    assert complaint(text) == f"w.csv, line 1: the file is empty; it begins with the header {HEADER}"


def test_a_header_without_requests_is_an_error() -> None:
    assert complaint(f"{HEADER}\n\n,,,,\n") == "w.csv, line 1: there are no requests below the header"


def test_a_long_prompt_is_no_error() -> None:
    body = f'{{"prompt":"{"word " * 100_000}"}}'
    (row,) = parse_rows(lines(f"{HEADER}\n{line(1, body_json=body)}"))
    assert row.prompt.count("word") == 100_000


@pytest.mark.parametrize("body", ['{"model":null,"max_tokens":null}', '{"model":"","max_tokens":1}', "{}"])
def test_what_is_left_empty_is_left_to_the_platform(body: str) -> None:
    (row,) = parse_rows(lines(f"{HEADER}\n{line(1, body_json=body)}"))
    assert row.model is None


@pytest.mark.parametrize(
    ("body", "model"),
    [
        ({"model": "m"}, "m"),
        ({}, None),
        ({"model": ""}, None),
        ({"model": "auto"}, None),
        ({"model": "logos-v1__policy_privacy=LOCAL"}, None),
    ],
)
def test_a_model_is_named_or_left_to_the_platform(body: dict[str, str], model: str | None) -> None:
    assert WorkloadRow("a", 0.0, body).model == model


def test_the_prompt_is_all_text_of_all_turns() -> None:
    body = {
        "messages": [
            {"content": "one"},
            {"content": [{"type": "text", "text": "two"}, {"type": "image"}]},
            {"role": "x"},
        ]
    }
    assert WorkloadRow("a", 0.0, body).prompt.split() == ["one", "two"]


# Keys too short for the names whose values are checked.
bodies = st.dictionaries(
    st.text(max_size=4), st.recursive(st.text() | st.integers() | st.none(), st.lists, max_leaves=4)
)


@given(
    st.lists(
        st.builds(
            WorkloadRow,
            st.text("abc,\"'- é", min_size=1, max_size=9).map(str.strip).filter(bool),
            st.integers(0, 10**9).map(float),
            bodies,
            st.sampled_from(Mode),
            st.sampled_from(Priority),
            extra=st.fixed_dictionaries({"note": st.text('xyz ,"', max_size=4).map(str.strip)}),
        ),
        min_size=1,
        unique_by=lambda row: row.request_id,
    )
)
def test_what_is_written_is_read_back(rows: list[WorkloadRow]) -> None:
    found = parse_rows(lines(format_rows(rows)))
    key = [(row.request_id, row.arrival_ms, row.body, row.mode, row.priority, row.extra) for row in found]
    ordered = sorted(rows, key=lambda row: row.arrival_ms)
    assert key == [(row.request_id, row.arrival_ms, row.body, row.mode, row.priority, row.extra) for row in ordered]
