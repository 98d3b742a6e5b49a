import json
from pathlib import Path

import pytest

from logos.cli import run
from logos.workload.files import read_workload
from logos.workload.results import write_details
from tests.support.exchanges import exchange, failed, run_of

NOWHERE = "http://127.0.0.1:1"
HEADER = "request_id,arrival_offset,mode,priority,body_json\n"
FIXTURES = Path(__file__).resolve().parents[2] / "fixtures" / "scheduling"


@pytest.fixture(autouse=True)
def nothing_around(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LOGOS_API_BASE", NOWHERE)
    monkeypatch.setenv("LOGOS_KEY", "some-key")
    monkeypatch.chdir(tmp_path)


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line on stderr of a command that ends with code 2 and leaves no file behind."""
    before = set(Path.cwd().rglob("*"))
    code = run(arguments)
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert err.startswith("logos: ")
    assert err.count("\n") == 1
    assert set(Path.cwd().rglob("*")) == before
    return err


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (HEADER + "a,0,,,{}\n" * 1 + "\n" * 4 + 'b,10,,,"{""model"": "\n', "w.csv, line 7, column body_json: "),
        (HEADER + "a,-5,,,{}\n", "w.csv, line 2, column arrival_offset: '-5' should be 0 or more"),
        ("request_id,arrival_offset\na,0\n", "w.csv, line 1, column body_json: there is no such column"),
        ("", "w.csv, line 1: the file is empty"),
        ("\udcff", "w.csv, line 1: is not UTF-8"),
    ],
)
def test_a_broken_file_is_an_error_that_names_the_place(
    capsys: pytest.CaptureFixture[str], content: str, told: str
) -> None:
    Path("w.csv").write_text(content, errors="surrogateescape")
    assert told in complaint(capsys, "replay", "w.csv")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "Missing argument 'WORKLOAD.csv'"),
        (["gone.csv"], "gone.csv cannot be read: No such file"),
        (["gone.csv", "--speed", "0"], "--speed"),
        (["gone.csv", "--latency-slo-ms", "-1"], "--latency-slo-ms"),
        (["gone.csv", "--latency-slo-ms", "nan"], "nan is not a finite number"),
        (["gone.csv", "--speed", "nan"], "nan is not a finite number"),
        (["gone.csv", "--timeout-s", "inf"], "inf is not a finite number"),
        (["gone.csv", "--api-base", "nonsense"], "give --api-base like http://HOST:PORT"),
        (["gone.csv", "--api-base", "http://h:99999999"], "give --api-base like http://HOST:PORT"),
        (["gone.csv", "--logos-key", "ungültig"], "that is no key"),
        (["--compare", "a.csv", "b.csv"], "a_detailed.csv cannot be read"),
        (["--compare", "a.csv"], "--compare"),
    ],
)
def test_bad_usage_says_what_to_do(capsys: pytest.CaptureFixture[str], arguments: list[str], told: str) -> None:
    assert told in complaint(capsys, "replay", *arguments)


def test_a_key_is_needed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOGOS_KEY")
    assert "give --logos-key or set LOGOS_KEY" in complaint(capsys, "replay", "w.csv")


def test_two_runs_are_compared(capsys: pytest.CaptureFixture[str]) -> None:
    write_details(Path("a"), run_of(*(exchange(n) for n in range(9)), failed(9)))
    write_details(Path("b"), run_of(*(exchange(n, latency_ms=900.0) for n in range(10))))
    assert run(["replay", "--compare", "a.csv", "b_detailed.csv"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (latency,) = (line for line in lines if line.startswith("avg_total_latency"))
    assert latency.split()[:4] == ["avg_total_latency", "500.0", "900.0", "400.0"]
    (errors,) = (line for line in lines if line.startswith("error_rate"))
    assert "within chance" in errors
    assert run(["replay", "--compare", "a", "b", "--json"]) == 0
    assert {each["metric"] for each in json.loads(capsys.readouterr().out)} >= {"error_rate", "p99_ttft"}


def test_a_workload_is_generated_and_the_same_seed_gives_the_same_file(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--rate", "5", "--duration-s", "20", "--model", "a", "--model", "b", "--skew", "1", "--turns", "3"]
    for name, seed in (("one.csv", "1"), ("again.csv", "1"), ("other.csv", "2")):
        assert run(["workload", "generate", name, "--arrivals", "bursty", "--seed", seed, *options]) == 0
    assert "requests over" in capsys.readouterr().out
    assert Path("one.csv").read_bytes() == Path("again.csv").read_bytes() != Path("other.csv").read_bytes()
    assert {row.model for row in read_workload(Path("one.csv"))} == {"a", "b"}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--rate", "0"], "the rate should be more than 0"),
        (["--priorities", "1,2"], "should look like 1,2,1"),
        (["--max-tokens", "9"], "should look like 100-400"),
        (["--max-tokens", f"1-{'9' * 5000}"], f"'1-{'9' * 38}…' should look like 100-400"),
        (["--max-tokens", "1-2000000001"], "the output tokens should be at most 2,000,000,000"),
        (["--priorities", f"0,{'9' * 400},0"], "the priorities' weights should be at most 1e+12"),
        (["--arrivals", "sometimes"], "--arrivals"),
        (["--rate", "0.001", "--duration-s", "1"], "nothing arrives in so short a time"),
    ],
)
def test_traffic_that_cannot_be_is_refused(capsys: pytest.CaptureFixture[str], options: list[str], told: str) -> None:
    assert told in complaint(capsys, "workload", "generate", "w.csv", *options)


@pytest.mark.parametrize(("kind", "named"), [("direct", 20), ("classify", 0), ("mixed", 10)])
def test_the_sample_workloads_are_what_their_readme_says(kind: str, named: int) -> None:
    rows = read_workload(FIXTURES / f"sample_workload_{kind}.csv")
    assert len(rows) == 20
    assert sum(row.model is not None for row in rows) == named
    assert {row.mode.value for row in rows} == {"interactive", "batch"}
    assert {row.priority.name for row in rows} == {"LOW", "MID", "HIGH"}
